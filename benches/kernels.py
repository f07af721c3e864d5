"""Prints speed and error of the block quantisers beside ggml's, one thread each, in turn.

    python benches/kernels.py [--types Q4_K,Q6_K] [--repeats 7] [--isas avx512,avx2,scalar]

Speed is weights a second on Gaussian rows, the median over the repeats of the best of a few runs; error is
our squared error over ggml's, plain (or by the imatrix) and as the search weighs it, by row kind.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import ggml
import quant_cli
import test_oracle_k
from row_kinds import importances

ROWS, COLUMNS = 256, 2048


def speeds(
    quant: str, importance: str | None, isas: list[str], repeats: int
) -> tuple[dict[str, float], float]:
    """Weights a second of ours by instruction set, and of ggml's."""
    # Neither side may count other processes' time: ours is the best of a few runs of a millisecond, ggml's
    # the time of its thread.
    rows = (np.random.default_rng(0).standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)
    h = None if importance is None else importances(importance, COLUMNS)
    part = rows[: ROWS // 4]
    ours: dict[str, list[float]] = {isa: [] for isa in isas}
    theirs = []
    for _ in range(repeats):
        for isa in isas:
            seconds = quant_cli.quantize(quant, rows, h, isa=isa, repeats=5 if isa != "scalar" else 1)[1]
            ours[isa].append(rows.size / min(seconds))
        start = time.thread_time()
        ggml.quantize(quant, part, h)
        theirs.append(part.size / (time.thread_time() - start))
    return {isa: statistics.median(v) for isa, v in ours.items()}, statistics.median(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--types", default="Q4_K,Q5_K,Q6_K")
    parser.add_argument("--isas", default="avx512,avx2,scalar")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    print("| type | imatrix | ISA | M weights/s | ggml | ratio | error, by metric (mean / worst kind) |")
    print("| --- | --- | --- | ---: | ---: | ---: | --- |")
    for quant in arguments.types.split(","):
        for importance in (None, "lognormal"):
            ratios = test_oracle_k.error_ratios(quant, importance)
            errors = []
            for metric in next(iter(ratios.values())):
                values = [r[metric] for r in ratios.values()]
                errors.append(f"{metric}: {np.mean(values):.3f} / {max(values):.3f}")
            ours, theirs = speeds(quant, importance, arguments.isas.split(","), arguments.repeats)
            for isa, speed in ours.items():
                figures = f"{speed / 1e6:.0f} | {theirs / 1e6:.1f} | {speed / theirs:.1f}"
                print(
                    f"| {quant} | {importance or 'no'} | {isa} | {figures} | {', '.join(errors)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
