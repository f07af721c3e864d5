#!/usr/bin/env python3
"""Print the KLD of each mix by llama-quantize and by srd-rs against BF16, on one text and at equal size.

    python scripts/compare_mixes.py MODEL TEXT --calibration CALIBRATION_TEXT [--quants Q4_K_M,Q4_K_S,Q5_K_M,Q6_K]
        [--chunks 40] [--rows peer,peer-imatrix,fast,imatrix,srd-random,srd-builtin,srd-text]

MODEL is a checkpoint folder; TEXT is a text file, for example wiki.test.raw. The rows of one mix must agree in the
type and bytes of every tensor; otherwise the script ends with an error. Calibrations have the defaults of `srd-rs
convert`, and --calibrate-tokens sets another number of tokens. The output is a Markdown table. Needs srd-rs[eval].
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import srd_rs
from srd_rs.eval.evaluation import Evaluation, FileScore, evaluate
from srd_rs.eval.imatrix import compute_imatrix
from srd_rs.eval.quantizer import quantize
from srd_rs.inspection import inspect

PEERS = ("peer", "peer-imatrix")
LABELS = {
    "peer": "llama-quantize",
    "peer-imatrix": "llama-quantize, imatrix",
    "fast": "srd-rs, fast",
    "imatrix": "srd-rs, same imatrix",
    "srd-random": "srd-rs, SRD, random ids",
    "srd-builtin": "srd-rs, SRD, built-in text",
    "srd-text": "srd-rs, SRD, same text",
    "max-builtin": "srd-rs, effort max, built-in text",
    "max-text": "srd-rs, effort max, same text",
}


@dataclass(frozen=True)
class Inputs:
    """What the rows are made of. `imatrix` and `calibration` belong to one text."""

    model: Path
    bf16: Path
    imatrix: Path
    calibration: Path
    tokens: int | None


def ours(inputs: Inputs, output: Path, quant: str, **options: Any) -> None:
    srd_rs.convert(inputs.model, output, quant=quant, met=False, **options)


def srd(inputs: Inputs, output: Path, quant: str, source: str) -> None:
    """The calibration serves every mix, so it is made once and kept beside the other inputs."""
    moments = inputs.bf16.with_name(f"{Path(source).name}.safetensors")
    if not moments.exists():
        srd_rs.calibrate(inputs.model, moments, text=source, tokens=inputs.tokens)
    ours(inputs, output, quant, effort="srd", calibrate=moments)


def effort_max(inputs: Inputs, output: Path, quant: str, source: str) -> None:
    ours(inputs, output, quant, effort="max", calibrate=source, calibrate_tokens=inputs.tokens, cache=False)


ROWS: dict[str, Callable[[Inputs, Path, str], None]] = {
    "peer": lambda i, out, quant: quantize(i.bf16, out, quant),
    "peer-imatrix": lambda i, out, quant: quantize(i.bf16, out, quant, imatrix=i.imatrix),
    "fast": lambda i, out, quant: ours(i, out, quant, effort="fast"),
    "imatrix": lambda i, out, quant: ours(i, out, quant, effort="fast", imatrix=i.imatrix),
    "srd-random": lambda i, out, quant: srd(i, out, quant, "random"),
    "srd-builtin": lambda i, out, quant: srd(i, out, quant, "builtin"),
    "srd-text": lambda i, out, quant: srd(i, out, quant, str(i.calibration)),
    "max-builtin": lambda i, out, quant: effort_max(i, out, quant, "builtin"),
    "max-text": lambda i, out, quant: effort_max(i, out, quant, str(i.calibration)),
}


def layout(gguf: Path) -> list[tuple[str, str, int]]:
    """Name, type and bytes of every tensor."""
    return sorted((t.name, t.type, t.bytes) for t in inspect(gguf).tensors)


def require_one_layout(paths: dict[str, Path]) -> None:
    """End the program where two files differ in a tensor's type or size."""
    names = list(paths)
    first = layout(paths[names[0]])
    for name in names[1:]:
        different = set(layout(paths[name])) ^ set(first)
        if different:
            sys.exit(f"error: {name} and {names[0]} differ: {sorted(different)[:4]}")


def make(
    inputs: Inputs, quant: str, rows: list[str], folder: Path
) -> tuple[dict[str, Path], dict[str, float]]:
    """A GGUF for each row, and the seconds it took."""
    paths, seconds = {}, {}
    for row in rows:
        path = folder / f"{quant}-{row}.gguf"
        start = time.monotonic()
        ROWS[row](inputs, path, quant)
        seconds[row] = time.monotonic() - start
        paths[row] = path
    return paths, seconds


def over(file: FileScore, other: FileScore | None) -> str:
    if other is None or not (file.divergence and other.divergence):
        return "-"
    return f"{file.divergence.kld.value / other.divergence.kld.value:.3f}"


def table_rows(quant: str, found: Evaluation, seconds: dict[str, float]) -> list[str]:
    scores = dict(zip(seconds, found.files, strict=True))
    lines = []
    for row, file in scores.items():
        d = file.divergence
        assert d is not None
        cells = [quant, LABELS[row], f"{file.bpw:.3f}", f"{d.kld.value:.6f} ± {d.kld.error:.6f}"]
        cells += [over(file, scores.get(peer)) for peer in PEERS]
        cells += [f"{d.quantile(0.99).value:.5f}", f"{file.perplexity.value:.3f}"]
        cells += [f"{100 * d.same_top.value:.2f} %", f"{seconds[row]:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def parse_rows(text: str) -> list[str]:
    rows = text.split(",")
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(ROWS)}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--quants", default="Q4_K_M,Q4_K_S,Q5_K_M,Q6_K")
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--imatrix-chunks", type=int, default=100, help="chunks of 512 for the imatrix")
    parser.add_argument("--calibrate-tokens", type=int, help="tokens for the SRD rows")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=parse_rows, default=list(ROWS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bf16, imatrix = folder / "bf16.gguf", folder / "imatrix.gguf"
        srd_rs.convert(args.model, bf16, quant="BF16", met=False)
        inputs = Inputs(args.model, bf16, imatrix, args.calibration, args.calibrate_tokens)
        if {"peer-imatrix", "imatrix"} & set(args.rows):
            n = args.imatrix_chunks
            compute_imatrix(bf16, args.calibration, imatrix, n_chunks=n, threads=args.threads)
        print("| mix | quantizer | bpw | KLD | of plain | of imatrix | 99 % KLD | PPL | same top | seconds |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for quant in args.quants.split(","):
            paths, seconds = make(inputs, quant, args.rows, folder)
            require_one_layout(paths)
            found = evaluate(
                list(paths.values()), args.text, base=bf16, n_chunks=args.chunks, threads=args.threads
            )
            print("\n".join(table_rows(quant, found, seconds)), flush=True)
            for path in paths.values():
                path.unlink()


if __name__ == "__main__":
    main()
