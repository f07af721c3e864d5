#!/usr/bin/env python3
"""What each step of SRD earns: KLD against BF16 of written Q4_K_M files, step by step, over seeds and models.

    python scripts/ablation.py TEXT MODEL... --calibration CALIBRATION_TEXT [--seeds 5] [--chunks 40] [--steps NAME,...]

Steps build on each other: ggml, ggml with imatrix, our search, with imatrix, feedback, + rounds of polish, + dither
with K = 2, 4, 8 survivors, in all layers or in the reasoning range; then polish without feedback, and noise of which
nothing is selected. A step without noise is made once. Prints a Markdown table: mean
over seeds, its spread (standard deviation), and the error of one file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import srd_rs
from srd_rs.eval.evaluation import evaluate
from srd_rs.eval.imatrix import compute_imatrix
from srd_rs.eval.quantizer import quantize

Maker = Callable[["Case", Path, int], None]


class Case:
    """A model and what its files are made from."""

    def __init__(self, model: Path, calibration: Path, folder: Path, quant: str, tokens: int) -> None:
        self.model, self.calibration, self.quant, self.tokens = model, calibration, quant, tokens
        self.bf16, self.imatrix = folder / "bf16.gguf", folder / "imatrix.gguf"
        self.moments = folder / "moments.safetensors"

    def prepare(self, n_chunks: int) -> None:
        srd_rs.convert(self.model, self.bf16, quant="BF16", met=False, overwrite=True)
        compute_imatrix(self.bf16, self.calibration, self.imatrix, n_chunks=n_chunks)
        srd_rs.calibrate(self.model, self.moments, text=self.calibration, tokens=self.tokens, overwrite=True)

    def convert(self, output: Path, seed: int, **options: Any) -> None:
        srd_rs.convert(self.model, output, quant=self.quant, seed=seed, met=False, overwrite=True, **options)


REASONING = (0.40, 0.77)


def srd(**steps: Any) -> Maker:
    """A file that SRD made with some of its steps; `steps` are arguments of `srd_rs.SrdOptions`."""

    def make(case: Case, output: Path, seed: int) -> None:
        case.convert(output, seed, effort="srd", srd=srd_rs.SrdOptions(**steps), calibrate=case.moments)

    return make


#: name -> (maker, whether the seed matters)
STEPS: dict[str, tuple[Maker, bool]] = {
    "ggml": (lambda case, out, _: quantize(case.bf16, out, case.quant), False),
    "ggml+imatrix": (lambda case, out, _: quantize(case.bf16, out, case.quant, imatrix=case.imatrix), False),
    "search": (lambda case, out, seed: case.convert(out, seed, effort="fast"), False),
    "search+imatrix": (
        lambda case, out, seed: case.convert(out, seed, effort="fast", imatrix=case.imatrix),
        False,
    ),
    "feedback": (srd(descent_rounds=0, beam_width=1), False),
    **{f"+polish {n}": (srd(descent_rounds=n, beam_width=1), False) for n in (1, 2, 3)},
    **{f"+dither K={k}": (srd(beam_width=k), True) for k in (2, 4, 8)},
    "+dither K=4 in 40-77 %": (srd(beam_width=4, dither_layers=REASONING), True),
    "polish 2 without feedback": (srd(feedback=False, beam_width=1), False),
}


def klds(case: Case, step: str, args: argparse.Namespace, folder: Path) -> tuple[list[float], float]:
    """Mean KLD of the file of each seed, and the largest standard error of one of them."""
    make, seeded = STEPS[step]
    paths = []
    for seed in range(args.seeds if seeded else 1):
        path = folder / f"{seed}.gguf"
        make(case, path, seed)
        paths.append(path)
    found = evaluate(paths, args.text, base=case.bf16, n_chunks=args.chunks, threads=args.threads)
    means = [file.divergence.kld for file in found.files if file.divergence]
    return [m.value for m in means], max(m.error for m in means)


def ablate(case: Case, args: argparse.Namespace, folder: Path) -> None:
    reference = None
    for step in args.steps.split(","):
        values, error = klds(case, step, args, folder)
        mean = statistics.fmean(values)
        spread = f"{statistics.stdev(values):.6f}" if len(values) > 1 else "-"
        reference = reference or mean
        figures = f"{mean:.6f} | {spread} | {error:.6f} | {mean / reference:.3f}"
        print(f"| {case.model.name} | {step} | {len(values)} | {figures} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--imatrix-chunks", type=int, default=64)
    parser.add_argument("--calibrate-tokens", type=int, default=32768)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", default=",".join(STEPS))
    args = parser.parse_args()
    unknown = [step for step in args.steps.split(",") if step not in STEPS]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(STEPS)}")
    print("| model | step | files | KLD | spread over seeds | error of one file | of the first row |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in args.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            case = Case(model, args.calibration, folder, args.quant, args.calibrate_tokens)
            case.prepare(args.imatrix_chunks)
            ablate(case, args, folder)


if __name__ == "__main__":
    main()
