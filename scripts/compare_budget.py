#!/usr/bin/env python3
"""Print the KLD of mixes beside that of types chosen within the bytes of each mix (`--like`), both by effort srd.

    python scripts/compare_budget.py MODEL TEXT --calibrate TEXT [--mixes Q4_K_M,IQ4_XS,Q3_K_M,Q5_K_M] [--chunks 10]

MODEL is a GGUF or a checkpoint folder; TEXT is a text file, for example wiki.test.raw; `--calibrate` is as in
`srd-rs convert`: another text, whose calibration is kept for all files, or a calibration file. With `--forward` the
forward pass of srd-rs computes the KLD and rounds no activations; without, llama.cpp does (srd-rs[eval]). The output is
a Markdown table. `the run` is the ratio that the product found before it wrote the file: below it, in brackets, stands
what was written. The error of the ratio is that over the same tokens, which only the forward pass gives.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import forward_kld
import srd_rs
from srd_rs.eval.evaluation import evaluate

COLUMNS = (
    "size of", "bytes of the mix", "bytes of the choice", "KLD of the mix", "KLD of the choice", "ratio", "the run",
    "CPU seconds",
)  # fmt: skip


def judged_by_llama(base: Path, text: Path, files: list[Path], chunks: int, threads: int) -> list[str]:
    """The KLDs of two files, and the ratio."""
    found = evaluate(files, text, base=base, n_chunks=chunks, threads=threads).files
    mix, choice = (file.divergence.kld for file in found if file.divergence is not None)
    cells = [f"{kld.value:.6f} ± {kld.error:.6f}" for kld in (mix, choice)]
    return [*cells, f"{choice.value / mix.value:.3f}"]


def judged_by_forward(base: Path, text: Path, files: list[Path], chunks: int, threads: int) -> list[str]:
    """The same, and the error of the ratio over the same tokens."""
    mix, choice = forward_kld.divergences(base, text, files, chunks, 512, threads)[1]
    root = np.sqrt(len(mix))
    cells = [f"{kld.mean():.6f} ± {kld.std() / root:.6f}" for kld in (mix, choice)]
    ratio = choice.mean() / mix.mean()
    error = (choice - ratio * mix).std() / root / mix.mean()
    return [*cells, f"{ratio:.3f} ± {error:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--mixes", default="Q4_K_M,IQ4_XS,Q3_K_M,Q5_K_M")
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--forward", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    options: dict[str, Any] = {"effort": "srd", "calibrate": args.calibrate, "threads": args.threads}
    judged = judged_by_forward if args.forward else judged_by_llama
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * (len(COLUMNS) - 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "bf16.gguf"
        srd_rs.convert(args.model, base, quant="BF16", met=False)
        for mix in args.mixes.split(","):
            seconds, files = [], [folder / "mix.gguf", folder / "choice.gguf"]
            for output, types in zip(files, ({"quant": mix}, {"like": mix}), strict=True):
                start = time.process_time()
                report = srd_rs.convert(args.model, output, met=False, overwrite=True, **options, **types)
                seconds.append(time.process_time() - start)
            check = report.plan.check
            run = "none" if check is None else f"{check.choice_kld / check.mix_kld:.3f} ({check.written})"
            cells = [mix, *(str(file.stat().st_size) for file in files)]
            cells += judged(base, args.text, files, args.chunks, args.threads)
            cells += [run, f"{seconds[0]:.0f}, {seconds[1]:.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
