#!/usr/bin/env python3
"""What each step of SRD earns: KLD against BF16 of written Q4_K_M files, step by step, over seeds and models.

    python scripts/ablation.py TEXT MODEL... --calibration CALIBRATION_TEXT [--seeds 5] [--chunks 40] [--steps NAME,...]

Steps build on each other: ggml, ggml with imatrix, our search, with imatrix, feedback under the moments of tokens that
count alike, + rounds of polish, + dither with K = 2, 4, 8 survivors, in all layers or in the reasoning range, + weights
of the tokens (K = 4: what effort srd does), and effort max. Then there is polish without feedback. A step that depends
on no seed is made once; with another seed the weights come from other drawn tokens. The forward pass of srd-rs computes
the KLDs, as in `forward_kld.py`. Prints a Markdown table: the mean over seeds, its spread (standard deviation), the
error of one file, and the mean over those of the first row and of the row above, with the error over the same tokens.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import srd_rs
from forward_kld import Floats, divergences
from srd_rs.eval.imatrix import compute_imatrix
from srd_rs.eval.quantizer import quantize

Maker = Callable[["Case", Path, int], None]


class Case:
    """A model and what its files are made from."""

    def __init__(self, model: Path, calibration: Path, folder: Path, quant: str, tokens: int) -> None:
        self.model, self.calibration, self.quant, self.tokens = model, calibration, quant, tokens
        self.bf16, self.imatrix = folder / "bf16.gguf", folder / "imatrix.gguf"
        self.alike = folder / "alike.safetensors"

    def prepare(self, n_chunks: int) -> None:
        srd_rs.convert(self.model, self.bf16, quant="BF16", met=False, overwrite=True)
        compute_imatrix(self.bf16, self.calibration, self.imatrix, n_chunks=n_chunks)
        self._calibrate(self.alike, weigh_tokens=False)

    def weighed(self, seed: int) -> Path:
        """The moments of weighed tokens. `seed` draws the tokens whose gradients are the weights."""
        path = self.alike.with_name(f"weighed-{seed}.safetensors")
        if not path.exists():
            self._calibrate(path, weigh_tokens=True, seed=seed)
        return path

    def _calibrate(self, path: Path, **options: Any) -> None:
        srd_rs.calibrate(self.model, path, text=self.calibration, tokens=self.tokens, **options)

    def convert(self, output: Path, seed: int, **options: Any) -> None:
        srd_rs.convert(self.model, output, quant=self.quant, seed=seed, met=False, overwrite=True, **options)


REASONING = (0.40, 0.77)


def srd(weighed: bool = False, **steps: Any) -> Maker:
    """A file that SRD made with some of its steps; `steps` are arguments of `srd_rs.SrdOptions`."""

    def make(case: Case, output: Path, seed: int) -> None:
        moments = case.weighed(seed) if weighed else case.alike
        case.convert(output, seed, effort="srd", srd=srd_rs.SrdOptions(**steps), calibrate=moments)

    return make


def effort_max(case: Case, output: Path, seed: int) -> None:
    case.convert(output, seed, effort="max", calibrate=case.calibration, calibrate_tokens=case.tokens)


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
    "+token weights": (srd(weighed=True), True),
    "effort max": (effort_max, True),
    "polish 2 without feedback": (srd(feedback=False, beam_width=1), False),
}


def klds(case: Case, step: str, args: argparse.Namespace, folder: Path) -> list[Floats]:
    """The KLDs of all scored tokens in the file of each seed."""
    make, seeded = STEPS[step]
    paths = []
    for seed in range(args.seeds if seeded else 1):
        path = folder / f"{seed}.gguf"
        make(case, path, seed)
        paths.append(path)
    return divergences(case.bf16, args.text, paths, args.chunks, args.ctx, args.threads)[1]


def ratio(klds: Floats, to: Floats) -> str:
    """The ratio of two means over the same tokens, and its error."""
    mean = klds.mean() / to.mean()
    error = (klds - mean * to).std() / np.sqrt(len(to)) / to.mean()
    return f"{mean:.3f} ± {error:.3f}"


def ablate(case: Case, args: argparse.Namespace, folder: Path) -> None:
    rows: list[Floats] = []
    for step in args.steps.split(","):
        files = klds(case, step, args, folder)
        rows.append(np.mean(files, axis=0))
        spread = f"{statistics.stdev(file.mean() for file in files):.6f}" if len(files) > 1 else "-"
        error = max(file.std() / np.sqrt(len(file)) for file in files)
        figures = f"{rows[-1].mean():.6f} | {spread} | {error:.6f}"
        ratios = f"{ratio(rows[-1], rows[0])} | {ratio(rows[-1], rows[-2:][0])}"
        print(f"| {case.model.name} | {step} | {len(files)} | {figures} | {ratios} |", flush=True)


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
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--imatrix-chunks", type=int, default=64)
    parser.add_argument("--calibrate-tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", default=",".join(STEPS))
    args = parser.parse_args()
    unknown = [step for step in args.steps.split(",") if step not in STEPS]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(STEPS)}")
    columns = (
        "model",
        "step",
        "files",
        "KLD",
        "spread over seeds",
        "error of one file",
        "of the first row",
        "of the row above",
    )
    print(f"| {' | '.join(columns)} |")
    print(f"| {' | '.join('---' for _ in columns)} |", flush=True)
    for model in args.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            case = Case(model, args.calibration, folder, args.quant, args.calibrate_tokens)
            case.prepare(args.imatrix_chunks)
            ablate(case, args, folder)


if __name__ == "__main__":
    main()
