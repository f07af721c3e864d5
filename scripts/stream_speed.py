"""Compare `convert --stream` with the conversion of the same folder: bytes, speed, peak memory and peak disk.

    PYTHONPATH=python:tests python scripts/stream_speed.py [--rates 0 10]

A hub on this machine serves a checkpoint of 2 GB (sparse files). `--rates` are the limits of each of the eight
connections in MB/s; 0 is no limit. The server takes its time from the same CPUs. The disk is all that was written
on the file system meanwhile, by other programs as well. The bar is 80 % of the smaller of the link and the
local conversion.
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
from pathlib import Path

from large_plan import COMMON, MEASURE, SHAPES, write
from local_hub import Faults, Hub, serving

CONNECTIONS = 8
CONFIG = {
    **COMMON,
    **SHAPES["Kimi K2"],
    "num_hidden_layers": 2,
    "n_routed_experts": 8,
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


def run(folder: Path, output: Path, *args: str, env: dict[str, str]) -> tuple[float, int]:
    """Convert. Returns the seconds of the conversion and the peak memory of the process."""
    result = folder / "result.json"
    command = [sys.executable, "-m", "srd_rs", "convert", *args, "--fast", "--json", "-o", str(output)]
    command += ["--pre-tokenizer", "gpt-2", "--no-met", "--overwrite", "--name", "M"]
    measured = [sys.executable, str(MEASURE), str(result), "900", *command]
    done = subprocess.run(measured, capture_output=True, text=True, check=False, env={**os.environ, **env})
    cost = json.loads(result.read_text())
    if cost["code"]:
        sys.exit(done.stderr or done.stdout)
    return json.loads(done.stdout)["seconds"], cost["peak_rss"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[0, 10])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch) / "hf", network=True) as env:
        folder = Path(scratch)
        model = folder / "model"
        model.mkdir()
        write(model, CONFIG)
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        near = folder / "near.gguf"
        run(folder, near, str(model), env=env)
        local, rss = run(folder, near, str(model), env=env)
        print(f"{'folder':24} {size / local / 1e6:7.0f} MB/s {local:6.1f} s  {rss / 1e6:4.0f} MB of memory")
        Hub.folders["org/m"] = model
        for rate in args.rates:
            Hub.faults = Faults(rate=rate * 1e6)
            far = folder / "far.gguf"
            far.unlink(missing_ok=True)
            os.sync()
            time.sleep(1)
            with Disk(folder) as disk:
                seconds, rss = run(folder, far, "org/m", "--stream", env=env)
            same = "same bytes" if far.read_bytes() == near.read_bytes() else "OTHER BYTES"
            link = size / (rate * CONNECTIONS * 1e6) if rate else 0.0
            name = f"link of {rate * CONNECTIONS:.0f} MB/s" if rate else "no limit"
            bound = f"{max(link, local) / seconds:.0%} of the bound"
            disk_use = f"{disk.most / 1e6:.0f} MB of disk for {far.stat().st_size / 1e6:.0f} MB of output"
            print(
                f"{name:24} {size / seconds / 1e6:7.0f} MB/s {seconds:6.1f} s  {rss / 1e6:4.0f} MB of memory, {bound},"
                f" {disk_use}, {same}"
            )


if __name__ == "__main__":
    main()
