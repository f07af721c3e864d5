#!/usr/bin/env python3
"""Print what hydration brings into memory of a GGUF that is not in the page cache, and its time beside plain reads.

    python scripts/met_cold_cache.py model.gguf [--runs 3]

The file is evicted before each measurement. For each intent the script prints the resident share of each part
afterwards (by mincore), the time of the hydration, and the time of reading the same byte ranges with pread in pieces
of 1 MiB. The two ways take turns, and the medians are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

from srd_rs import Hydrator
from srd_rs.hydration import PARTS

PIECE = 1 << 20


def wanted_ranges(hydrator: Hydrator, intent: str) -> list[tuple[int, int]]:
    """(offset, bytes) of the embedding part and the intent's slots."""
    sidecar = hydrator.sidecar
    owners = [sidecar["embedding_slot"]]
    owners += [sidecar["slots"][p] for p in PARTS if p in sidecar["hydration_policy"][intent]]
    return [(r["offset"], r["bytes"]) for owner in owners for r in owner["byte_ranges"]]


def read_plainly(path: Path, ranges: list[tuple[int, int]]) -> float:
    start = time.perf_counter()
    file = os.open(path, os.O_RDONLY)
    for offset, size in ranges:
        end = offset + size
        while offset < end:
            offset += len(os.pread(file, min(PIECE, end - offset), offset))
    os.close(file)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print("intent    wanted GB  hydrate s  read s  ratio  resident per part after, %")
    with Hydrator(args.gguf) as hydrator:
        for intent in ("INFORM", "CLARIFY", "HARM"):
            ranges = wanted_ranges(hydrator, intent)
            times, reads = [], []
            for _ in range(args.runs):
                hydrator.evict()
                reads.append(read_plainly(args.gguf, ranges))
                hydrator.evict()
                left = sum(p.resident_bytes or 0 for p in hydrator.residency())
                if left:
                    print(f"{left} bytes stay resident after eviction: another process has the file mapped")
                times.append(hydrator.hydrate(intent).seconds)
            shares = [
                f"{p.slot} {100 * (p.resident_bytes or 0) / max(p.bytes, 1):.2f}"
                for p in hydrator.residency()
            ]
            own, plain = statistics.median(times), statistics.median(reads)
            size = sum(n for _, n in ranges) / 1e9
            print(
                f"{intent:8}  {size:9.3f}  {own:9.3f}  {plain:6.3f}  {own / plain:5.2f}  {', '.join(shares)}"
            )


if __name__ == "__main__":
    main()
