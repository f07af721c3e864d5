"""Compare the ways of reading local weights: `convert --read pread` and `--read map`, for docs/decisions/0017-map.md.

    python scripts/read_ways.py [FOLDER ...] [--mixes BF16 Q8_0] [--rounds 3]

In each FOLDER (one for each file system that is of interest; the default is the folder of temporary files) a model of
random BF16 weights is written. It is converted to BF16, which copies, and to Q8_0, with effort fast and one thread,
each way in turn. `cached` has the model in the page cache; for `cold` the system is asked to forget it before. The
table has the best of the rounds: CPU time (user and system), wall time and peak memory of the process. The bytes of all
outputs of a mix must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from large_plan import COMMON, SHAPES, write
from support import srd

CONFIG = {
    **COMMON,
    **SHAPES["Kimi K2"],
    "num_hidden_layers": 2,
    "n_routed_experts": 2,
    "vocab_size": 8192,
    "num_experts_per_tok": 2,
    "intermediate_size": 2048,
    "moe_intermediate_size": 512,
}
WAYS = ("pread", "map")


def fill(folder: Path) -> int:
    """Write a model, its bytes filled with small random weights. Returns the bytes of its weights."""
    write(folder, CONFIG)
    generator, size = np.random.default_rng(1), 0
    for shard in folder.glob("*.safetensors"):
        with shard.open("r+b") as file:
            (header,) = struct.unpack("<Q", file.read(8))
            left = shard.stat().st_size - 8 - header
            file.seek(8 + header)
            size += left
            while left:
                n = min(left, 1 << 24)
                values = generator.standard_normal(n // 2, dtype=np.float32) * 0.02
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                left -= n
            file.flush()
            os.fsync(file.fileno())
    return size


def forget(folder: Path) -> None:
    """Ask the system to take the weights out of its cache."""
    for shard in folder.glob("*.safetensors"):
        with shard.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[Path(tempfile.gettempdir())])
    parser.add_argument("--mixes", nargs="+", default=["BF16", "Q8_0"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for place in args.folders:
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            model = Path(scratch) / "model"
            model.mkdir()
            size = fill(model)
            print(f"{place}: {size / 1e6:.0f} MB of weights")
            for mix in args.mixes:
                compare(model, Path(scratch) / "out.gguf", mix, args.rounds)


def compare(model: Path, output: Path, mix: str, rounds: int) -> None:
    options = ("-q", mix, "--no-met", "--no-axm", "--pre-tokenizer", "gpt-2", "--name", "M", "--json")
    fast = () if mix == "BF16" else ("--fast",)
    digests = set()
    for state in ("cached", "cold"):
        best: dict[str, tuple[float, float, int]] = {}
        for number in range(rounds):
            for way in WAYS if number % 2 else WAYS[::-1]:
                if state == "cold":
                    forget(model)
                run = srd(
                    *("convert", model, "-o", output, *options, *fast, "--threads", 1, "--read", way, "-f"),
                    timeout=600,
                )
                if run.code:
                    sys.exit(run.stderr)
                with output.open("rb") as file:
                    digests.add(hashlib.file_digest(file, "sha256").hexdigest())
                output.unlink()
                cost = json.loads(run.stdout)
                found = (cost["cpu_seconds"], cost["seconds"], run.peak_rss)
                best[way] = tuple(map(min, best.get(way, found), found))  # type: ignore[assignment]
        for way, (cpu, wall, rss) in best.items():
            print(
                f"  {mix:4} {state:6} {way:5} {cpu:6.2f} s CPU {wall:6.2f} s wall {rss / 1e6:5.0f} MB of memory"
            )
    if len(digests) != 1:
        sys.exit("the outputs have other bytes")


if __name__ == "__main__":
    main()
