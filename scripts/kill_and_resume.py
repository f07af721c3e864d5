"""Kill a calibrated conversion with a container at random moments, repeat the command, and compare the bytes.

    python scripts/kill_and_resume.py --kills 50 MODEL
    python scripts/kill_and_resume.py --kills 50 --each 5 MODEL                      10 conversions, 5 kills in each
    python scripts/kill_and_resume.py --kills 50 MODEL -- --calibrate-tokens 4096    options of srd-rs convert

Each time a conversion with SRD, a container and a sidecar is begun with an empty cache and killed (SIGKILL) at a random
moment between its begin and the CPU time that an undisturbed one takes: while the model is read, in the calibration or
in the quantization. The command is repeated. All outputs must have the bytes of an undisturbed conversion. With
``--found`` the calibration is there before each begin, as for a second mix, and the moments are those behind the plan;
such a conversion is short, so that the same seconds are a larger share. Ctrl-C ends the script with the figures of the
kills until then. Needs Linux, whose /proc says how much CPU time another process has had.

The repeated work is the CPU time of all runs of a conversion less that of an undisturbed run, as a share of that and
for each kill: everything that a user pays for the kill, starting Python included. The CPU time of ``srd-rs --version``
(a start of Python alone) and of ``--dry-run`` (a start and a plan) stand beside it; they are in the share.

CPU time depends on what else runs on the machine. The undisturbed conversion is therefore repeated between the kills
(``--undisturbed``); its mean counts, and the spread of its runs is printed: no share is known better than that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

NAMES = ("out.gguf", "out.axm", "out.met.json")


@dataclass(frozen=True)
class Ended:
    code: int
    cpu: float
    seconds: float
    output: str
    #: CPU time until the journal was there.
    begun: float | None


def cpu_of(pid: int) -> float:
    """The CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(
    command: list[str], folder: Path, kill_after: float | None = None, from_journal: bool = False
) -> Ended:
    """Run the command; kill it after some CPU time since its begin, or since its journal is there."""
    journal = folder / ".out.gguf.journal"
    had_journal = journal.exists()
    begin = time.monotonic()
    begun = None
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        status = 0
        try:
            while True:
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                if pid:
                    break
                now = cpu_of(child.pid)
                if begun is None and not had_journal and journal.exists():
                    begun = now
                since = now if not from_journal else now - begun if begun is not None else 0.0
                if kill_after is not None and since >= kill_after:
                    child.kill()
                    kill_after = None
                time.sleep(0.005)
        except BaseException:
            child.kill()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        return Ended(
            child.returncode, usage.ru_utime + usage.ru_stime, time.monotonic() - begin, out.read(), begun
        )


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=1, help="kills of each conversion (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--undisturbed", type=int, default=3, help="undisturbed conversions (default: 3)")
    parser.add_argument("--found", action="store_true", help="the calibration is in the cache already")
    parser.add_argument("options", nargs="*", help="more options of srd-rs convert, behind --")
    chosen = parser.parse_args()
    moments = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(dir=".") as top:
        folder, cache = Path(top) / "out", Path(top) / "cache"
        folder.mkdir()
        os.environ |= {"SRD_MASTER_KEY": "5d" * 32, "SRD_CACHE": str(cache)}
        # Python keeps what it compiles, as for a user, so that only the first start compiles.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        output = folder / "out.gguf"
        command = [
            sys.executable,
            "-m",
            "srd_rs",
            "convert",
            str(chosen.model),
            "-o",
            str(output),
            "--axm",
            "--json",
        ]
        command += chosen.options

        def clear() -> None:
            for path in folder.iterdir():
                path.unlink()
            if not chosen.found:
                shutil.rmtree(cache, ignore_errors=True)

        run([*command, *(() if chosen.found else ("--dry-run",))], folder)
        clear()
        whole = run(command, folder)
        if whole.code or whole.begun is None:
            sys.exit(f"the undisturbed conversion failed: {whole.output}")
        expected = digests(folder)
        bare = run([*command[:3], "--version"], folder).cpu
        clear()
        fixed = run([*command, "--dry-run"], folder).cpu
        clear()
        total = json.loads(whole.output)["tensor_bytes"]
        span = whole.cpu - whole.begun if chosen.found else whole.cpu
        conversions, identical, kills, shares, undisturbed = 0, 0, 0, [], [whole.cpu]
        count = max(chosen.kills // chosen.each, 1)
        every = max(count // max(chosen.undisturbed - 1, 1), 1)
        try:
            for number in range(count):
                clear()
                if number % every == every - 1 and len(undisturbed) < chosen.undisturbed:
                    undisturbed.append(run(command, folder).cpu)
                    clear()
                at = sorted(moments.uniform(0, span) for _ in range(chosen.each))
                ended: list[Ended] = []
                for after in (*(there - here for here, there in pairwise([0.0, *at])), None):
                    ended.append(run(command, folder, after, from_journal=chosen.found and not ended))
                    if ended[-1].code != -signal.SIGKILL:
                        break  # it was done sooner than it was killed
                conversions += 1
                same = ended[-1].code == 0 and digests(folder) == expected
                identical += same
                if not same:
                    print(f"differs or failed: {ended[-1].output}", file=sys.stderr)
                    continue
                killed = [one.cpu for one in ended[:-1]]
                if killed:
                    kills += len(killed)
                    shares.append((sum(killed) + ended[-1].cpu, len(killed)))
                    times = ", ".join(f"{cpu:.2f}" for cpu in killed)
                    print(
                        f"killed after {times} s, went on for {ended[-1].cpu:.2f} s of CPU time", flush=True
                    )
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
    print(
        f"{conversions} conversions, {kills} kills before they were done, {identical} with identical outputs"
    )
    cpu = statistics.mean(undisturbed)
    spread = f"{min(undisturbed):.1f} to {max(undisturbed):.1f} s in {len(undisturbed)} runs"
    print(f"undisturbed: {whole.seconds:.1f} s, {cpu:.1f} s of CPU time ({spread}), {total} bytes of tensors")
    if kills:
        by_kill = sorted((both / cpu - 1) / n for both, n in shares)
        mean, median = statistics.mean(by_kill), statistics.median(by_kill)
        print(
            f"repeated CPU time for each kill: mean {mean:.1%}, median {median:.1%}, largest {by_kill[-1]:.1%}"
        )
        print(f"in it: a start of Python {bare / cpu:.1%}, with the plan {fixed / cpu:.1%}")
    sys.exit(0 if identical == conversions else 1)


if __name__ == "__main__":
    main()
