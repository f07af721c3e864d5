"""Kill a calibrated conversion with a container at random moments, repeat the command, and compare the bytes.

    python scripts/kill_and_resume.py MODEL --kills 50

Each time a conversion with SRD, a container and a sidecar is begun and killed (SIGKILL) at a random moment of its
quantisation, and the command is repeated. All outputs must have the bytes of an undisturbed conversion. The calibration
is made once and found in the cache, as it is for a user whose conversion is killed after the calibration; with
``--calibration`` the cache is emptied before each begin, and the moment may be one of the calibration as well.

The repeated work is the CPU time of both runs less that of an undisturbed run, as a share of that: everything that a
user pays for the kill, starting Python and making the plan included. Without ``--calibration`` the undisturbed run has
no calibration in it either, so the share is one of a short run. Beside it stands the share without the cost of starting
Python and making the plan, which a second run always has and which does not grow with the model (measured by
``--dry-run``).

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
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

NAMES = ("out.gguf", "out.axm", "out.met.json")


@dataclass(frozen=True)
class Ended:
    code: int
    cpu: float
    seconds: float
    output: str
    #: Seconds until the journal was there.
    begun: float | None


def run(
    command: list[str], folder: Path, kill_after: float | None = None, from_journal: bool = False
) -> Ended:
    """Run the command; kill it some seconds after its begin, or after its journal is there."""
    journal = folder / ".out.gguf.journal"
    had_journal = journal.exists()
    begin = time.monotonic()
    begun = None
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        status = 0
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            now = time.monotonic() - begin
            if begun is None and not had_journal and journal.exists():
                begun = now
            since = now if not from_journal else now - begun if begun is not None else 0.0
            if kill_after is not None and since >= kill_after:
                child.kill()
                kill_after = None
            time.sleep(0.002)
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--undisturbed", type=int, default=3, help="undisturbed conversions (default: 3)")
    parser.add_argument("--calibration", action="store_true", help="kill calibrations as well")
    parser.add_argument("options", nargs="*", help="more options of srd-rs convert, behind --")
    chosen = parser.parse_args()
    moments = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(dir=".") as top:
        folder, cache = Path(top) / "out", Path(top) / "cache"
        folder.mkdir()
        os.environ |= {"SRD_MASTER_KEY": "5d" * 32, "SRD_CACHE": str(cache)}
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
            if chosen.calibration:
                shutil.rmtree(cache, ignore_errors=True)

        run(command, folder)  # the calibration is kept
        clear()
        whole = run(command, folder)
        if whole.code or whole.begun is None:
            sys.exit(f"the undisturbed conversion failed: {whole.output}")
        expected = digests(folder)
        fixed = run([*command, "--dry-run"], folder).cpu
        clear()
        total = json.loads(whole.output)["tensor_bytes"]
        span = whole.seconds if chosen.calibration else whole.seconds - whole.begun
        identical, killed, by_cpu, undisturbed = 0, 0, [], [whole.cpu]
        every = max(chosen.kills // max(chosen.undisturbed - 1, 1), 1)
        for number in range(chosen.kills):
            clear()
            if number % every == every - 1 and len(undisturbed) < chosen.undisturbed:
                undisturbed.append(run(command, folder).cpu)
                clear()
            first = run(command, folder, moments.uniform(0, span), from_journal=not chosen.calibration)
            if output.exists() and not (folder / ".out.gguf.journal").exists():
                identical += digests(folder) == expected  # it was done sooner than it was killed
                continue
            killed += 1
            second = run(command, folder)
            same = second.code == 0 and digests(folder) == expected
            identical += same
            if not same:
                print(f"differs or failed: {second.output}", file=sys.stderr)
                continue
            by_cpu.append(first.cpu + second.cpu)
            print(f"killed after {first.cpu:.1f} s, went on for {second.cpu:.1f} s of CPU time", flush=True)
    print(f"{chosen.kills} runs, {killed} killed before they were done, {identical} with identical outputs")
    cpu = statistics.mean(undisturbed)
    spread = f"{min(undisturbed):.1f} to {max(undisturbed):.1f} s in {len(undisturbed)} runs"
    print(f"undisturbed: {whole.seconds:.1f} s, {cpu:.1f} s of CPU time ({spread}), {total} bytes of tensors")
    if killed:
        for name, more in (("all", 0.0), ("without the start and the plan", fixed)):
            shares = sorted((both - more) / cpu - 1 for both in by_cpu)
            mean, median = statistics.mean(shares), statistics.median(shares)
            print(
                f"repeated CPU time, {name}: mean {mean:.1%}, median {median:.1%}, largest {shares[-1]:.1%}"
            )
    sys.exit(0 if identical == chosen.kills else 1)


if __name__ == "__main__":
    main()
