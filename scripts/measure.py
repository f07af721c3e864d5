"""Run a command and write its exit code, wall and CPU seconds and peak RSS to a JSON file.

    python measure.py RESULT.json TIMEOUT_S COMMAND...

This small process stands between the test runner and the command, because Linux hands the peak RSS of a process down to
its children, and that of a test runner is far above what is measured here.
"""

import json
import os
import resource
import signal
import sys
import time


def main() -> None:
    result, timeout, command = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        limit = os.environ.pop("MEASURE_RLIMIT_DATA", "")
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
        os.execvp(command[0], command)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _frame: os.kill(pid, n))
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, timeout)
    _, status, usage = os.wait4(pid, 0)
    figures = {
        "code": os.waitstatus_to_exitcode(status),
        "wall_s": time.monotonic() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss": usage.ru_maxrss * 1024,
    }
    with open(result, "w") as file:  # noqa: PTH123 (pathlib costs more start-up than the rest)
        json.dump(figures, file)


main()
