"""Compare `convert --stream` with the conversion of the same folder: bytes, speed, peak memory and peak disk.

    python scripts/stream_speed.py [--rates 0 10] [--repeat 3]

A hub on this machine serves a checkpoint of 3.6 GB (sparse files). `--rates` are the limits of each of the eight
connections in MB/s; 0 is no limit. The server takes its time from the same CPUs, so the CPU seconds of both are
printed. The disk is all that was written on the file system meanwhile, by other programs as well. The folder and
the hub take turns, and the best of `--repeat` runs counts. The bar is 80 % of the smaller of the link and the local
conversion: of its time on the clock, and where the CPU is the bound, of its CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from large_plan import COMMON, MEASURE, SHAPES, write
from local_hub import Faults, Hub, serving

CONNECTIONS = 8
CONFIG = {
    **COMMON,
    **SHAPES["Kimi K2"],
    "num_hidden_layers": 2,
    "n_routed_experts": 24,
    "vocab_size": 8192,
    "num_experts_per_tok": 2,
}


class Disk:
    """The most bytes that files below a folder take, looked at 20 times a second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.most, self._done = folder, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        before = shutil.disk_usage(self.folder).used
        while not self._done.wait(0.05):
            self.most = max(self.most, shutil.disk_usage(self.folder).used - before)

    def __enter__(self) -> Disk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@dataclass(frozen=True, order=True)
class Cost:
    """What a conversion took: seconds on the clock and of CPU, those of the server, and bytes of memory and disk."""

    seconds: float
    cpu: float
    server: float = 0.0
    memory: int = 0
    disk: int = 0


def run(folder: Path, output: Path, *args: str, env: dict[str, str]) -> Cost:
    """Convert."""
    result = folder / "result.json"
    command = [sys.executable, "-m", "srd_rs", "convert", *args, "--fast", "--json", "-o", str(output)]
    command += ["--pre-tokenizer", "gpt-2", "--no-met", "--overwrite", "--name", "M"]
    output.unlink(missing_ok=True)
    os.sync()
    time.sleep(1)
    measured = [sys.executable, str(MEASURE), str(result), "900", *command]
    before = time.process_time()
    with Disk(folder) as disk:
        done = subprocess.run(
            measured, capture_output=True, text=True, check=False, env={**os.environ, **env}
        )
    server = time.process_time() - before
    cost = json.loads(result.read_text())
    if cost["code"]:
        sys.exit(done.stderr or done.stdout)
    report = json.loads(done.stdout)
    return Cost(report["seconds"], report["cpu_seconds"], server, cost["peak_rss"], disk.most)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[0, 10])
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch) / "hf", network=True) as env:
        folder = Path(scratch)
        model = folder / "model"
        model.mkdir()
        write(model, CONFIG)
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        near = folder / "near.gguf"
        run(folder, near, str(model), env=env)
        Hub.folders["org/m"] = model
        found: dict[float | None, list[Cost]] = {}
        for _ in range(args.repeat):
            for rate in (None, *args.rates):
                Hub.faults = Faults(rate=(rate or 0) * 1e6)
                source = (str(model),) if rate is None else ("org/m", "--stream")
                output = near if rate is None else folder / "far.gguf"
                found.setdefault(rate, []).append(run(folder, output, *source, env=env))
                if output.read_bytes() != near.read_bytes():
                    sys.exit("OTHER BYTES")
        local, local_cpu = min(found[None]).seconds, min(cost.cpu for cost in found[None])
        for rate, costs in found.items():
            best, cpu = min(costs), min(cost.cpu for cost in costs)
            name = (
                "folder" if rate is None else f"link of {rate * CONNECTIONS:.0f} MB/s" if rate else "no limit"
            )
            line = (
                f"{name:20} {size / best.seconds / 1e6:5.0f} MB/s {best.seconds:6.1f} s {cpu:6.1f} s of CPU"
            )
            line += f" {best.memory / 1e6:4.0f} MB of memory {best.disk / 1e6:5.0f} MB of disk"
            if rate is not None:
                link = size / (rate * CONNECTIONS * 1e6) if rate else 0.0
                line += f", {max(link, local) / best.seconds:.0%} of the bound"
                line += f", {local_cpu / cpu:.0%} of the CPU speed, {best.server:.1f} s of CPU for the server"
            print(line)


if __name__ == "__main__":
    main()
