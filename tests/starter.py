"""A process that has loaded the package and forks for each command: what Python and the package need to start, which is
more than most commands need, is spent once.

    python starter.py DESCRIPTOR

The descriptor is a socket. Each message is the path of a folder with the file request.json, and brings the end of a
pipe along. A process runs the command, and its stdout, stderr and figures (see scripts/measure.py) become files of the
folder. The pipe is closed when they are there.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, NoReturn

#: Modules that no command shares with another, and those that load numpy, whose threads a fork would leave behind.
NOT_LOADED = ("srd_rs.__main__", "srd_rs.cluster", "srd_rs.estimating", "srd_rs.eval", "srd_rs.met_plot")


def load() -> None:
    """Import the package. No command runs here: a thread or a variable that was read would go into all commands."""
    import srd_rs
    from srd_rs.families import projectors

    for module in walk_packages(srd_rs.__path__, "srd_rs."):
        if not module.name.startswith(NOT_LOADED):
            import_module(module.name)
    projectors.supported()
    gc.collect()
    gc.freeze()  # what is loaded is no garbage, and looking for some would copy the memory that the processes share


def next_command(requests: socket.socket) -> dict[str, Any]:
    """Wait for requests. It returns in the processes that are to run a command, in each once."""
    while True:
        with suppress(ChildProcessError):  # those that watched the commands before
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            message, (done, *_), _, _ = socket.recv_fds(requests, 4096, 1)
        except (ValueError, KeyboardInterrupt):  # the tests have ended
            os._exit(0)
        if os.fork() == 0:
            break
        os.close(done)
    requests.close()
    folder = Path(os.fsdecode(message))
    request: dict[str, Any] = json.loads((folder / "request.json").read_text())
    begin = time.monotonic()
    command = os.fork()
    if command == 0:
        os.close(done)
        become(folder, request)
        return request
    signal.signal(signal.SIGALRM, lambda *_: os.kill(command, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, request["timeout"])
    _, status, usage = os.wait4(command, 0)
    figures = {
        "code": os.waitstatus_to_exitcode(status),
        "wall_s": time.monotonic() - begin,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss": usage.ru_maxrss * 1024,
    }
    (folder / "result.json").write_text(json.dumps(figures))
    os._exit(0)


def become(folder: Path, request: dict[str, Any]) -> None:
    """Take over the folder, the variables and the streams of a request."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["srd-rs", *request["args"]]
    sys.path[0] = request["cwd"]  # as `python -m srd_rs` has it
    if request["tokens"] is not None:
        sys.modules["srd_rs.calibration"].TOKENS = (request["tokens"],) * 2  # type: ignore[attr-defined]


def run() -> NoReturn:
    """Run the command line and end as Python does, except that the memory is not cleared up, which takes longer than
    most commands."""
    from srd_rs.__main__ import main

    try:
        main()
    except SystemExit as ended:
        code = ended.code
    assert isinstance(code, int)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    load()
    with socket.socket(fileno=int(sys.argv[1])) as given:
        next_command(given)
    run()
