"""Prints speed and error of the block quantizers beside ggml's, one thread each, in turn.

    python benches/kernels.py [--types Q4_K,Q8_0] [--repeats 5] [--isas avx512,avx2,portable]

Speed is weights a second on Gaussian rows, the median over the repeats of the best of many short runs; error is
our squared error over ggml's, plain (or by the imatrix) and as the search weighs it, by row kind; kinds with weights
that the type cannot hold are left out, and so are types without imatrix that ggml does not quantize. Without imatrix
ggml does not search the types Q4_0 to Q5_1: fast, and worse.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import quant_cli

import ggml
import test_oracle_k
from row_kinds import importances

ROWS, COLUMNS = 64, 2048


def ggml_seconds(quant: str, rows: ggml.Floats, h: ggml.Floats | None) -> float:
    start = time.thread_time()
    ggml.quantize(quant, rows, h)
    return time.thread_time() - start


def speeds(
    quant: str, importance: str | None, isas: list[str], repeats: int
) -> tuple[dict[str, float], float]:
    """Weights a second of ours by instruction set, and of ggml's."""
    # Neither side may count other processes' time: ours is the best of many runs of less than a millisecond,
    # which are seldom interrupted, ggml's the best of a few by its thread's time.
    rows = (np.random.default_rng(0).standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)
    h = None if importance is None else importances(importance, COLUMNS)
    ours: dict[str, list[float]] = {isa: [] for isa in isas}
    theirs = []
    for _ in range(repeats):
        for isa in isas:
            seconds = quant_cli.quantize(quant, rows, h, isa=isa, repeats=30 if isa != "portable" else 3)[1]
            ours[isa].append(rows.size / min(seconds))
        theirs.append(rows.size / min(ggml_seconds(quant, rows, h) for _ in range(5)))
    return {isa: statistics.median(v) for isa, v in ours.items()}, statistics.median(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--types", default=",".join(quant_cli.lists()["types"]))
    parser.add_argument("--isas", default=",".join(quant_cli.lists()["isas"]))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print("| type | imatrix | ISA | M weights/s | ggml | ratio | error, by metric (mean / worst kind) |")
    print("| --- | --- | --- | ---: | ---: | ---: | --- |")
    for quant in arguments.types.split(","):
        # Q8_0 takes no importance: rounding to its fine steps is all there is to it.
        with_importance = () if quant == "Q8_0" else ("lognormal",)
        without = () if ggml.requires_imatrix(quant) else (None,)
        for importance in (*without, *with_importance):
            ratios = test_oracle_k.error_ratios(quant, importance)
            errors = []
            for metric in next(iter(ratios.values())):
                values = [r[metric] for r in ratios.values() if np.isfinite(r[metric])]
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
