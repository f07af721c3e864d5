"""Kill a calibrated conversion with a container at random moments, repeat the command, and compare the bytes.

    python scripts/kill_and_resume.py --kills 50 MODEL
    python scripts/kill_and_resume.py --kills 50 MODEL -- --calibrate-tokens 4096    options of srd-rs convert

Each time a conversion with SRD, a container and a sidecar is begun with an empty cache and killed (SIGKILL) at a random
moment between its begin and the CPU time that an undisturbed one takes: while the model is read, in the calibration or
in the quantization. The command is repeated. All outputs must have the bytes of an undisturbed conversion. With
``--found`` the calibration is there before each begin, as for a second mix, and the moments are those behind the plan;
such a conversion is short, so that the same seconds are a larger share. Ctrl-C ends the script with the figures of the
kills until then. Needs Linux, whose /proc says how much CPU time another process has had.

The repeated work is the CPU time of both runs less that of an undisturbed run, as a share of that: everything that a
user pays for the kill, starting Python included. The CPU time of ``srd-rs --version`` (a start of Python alone) and of
``--dry-run`` (a start and a plan) stand beside it; they are in the share.

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
        runs, identical, killed, by_cpu, undisturbed = 0, 0, 0, [], [whole.cpu]
        every = max(chosen.kills // max(chosen.undisturbed - 1, 1), 1)
        try:
            for number in range(chosen.kills):
                clear()
                if number % every == every - 1 and len(undisturbed) < chosen.undisturbed:
                    undisturbed.append(run(command, folder).cpu)
                    clear()
                first = run(command, folder, moments.uniform(0, span), from_journal=chosen.found)
                if output.exists() and not (folder / ".out.gguf.journal").exists():
                    identical += digests(folder) == expected  # it was done sooner than it was killed
                    runs += 1
                    continue
                second = run(command, folder)
                killed += 1
                same = second.code == 0 and digests(folder) == expected
                identical += same
                runs += 1
                if not same:
                    print(f"differs or failed: {second.output}", file=sys.stderr)
                    continue
                by_cpu.append(first.cpu + second.cpu)
                phase = "quantization" if first.begun else "calibration"
                print(
                    f"killed in the {phase} after {first.cpu:.2f} s, went on for {second.cpu:.2f} s of CPU time",
                    flush=True,
                )
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
    print(f"{runs} runs, {killed} killed before they were done, {identical} with identical outputs")
    cpu = statistics.mean(undisturbed)
    spread = f"{min(undisturbed):.1f} to {max(undisturbed):.1f} s in {len(undisturbed)} runs"
    print(f"undisturbed: {whole.seconds:.1f} s, {cpu:.1f} s of CPU time ({spread}), {total} bytes of tensors")
    if killed:
        shares = sorted(both / cpu - 1 for both in by_cpu)
        mean, median = statistics.mean(shares), statistics.median(shares)
        print(f"repeated CPU time: mean {mean:.1%}, median {median:.1%}, largest {shares[-1]:.1%}")
        print(f"in it: a start of Python {bare / cpu:.1%}, with the plan {fixed / cpu:.1%}")
    sys.exit(0 if identical == runs else 1)


if __name__ == "__main__":
    main()
