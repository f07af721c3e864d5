#!/usr/bin/env python3
"""Print the KLD of GGUFs against their base, computed by srd-rs' own forward pass.

    python scripts/forward_kld.py BASE.gguf TEXT FILE.gguf... [--chunks 16] [--ctx 512] [--threads N]

Unlike `srd-rs eval`, which runs llama.cpp, this rounds no activations: the figures are those of the weights alone. On a
CPU with AVX-512 it is also several times faster. The second half of each chunk is scored. Each file is compared with
the first one, token by token: the mean ratio, and the ratio of the medians, which a few tokens cannot decide.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srd_rs import ConvertOptions, _core, calibration, planning

Floats = npt.NDArray[Any]
AT_A_TIME = 2
"""Chunks that are computed together: each pass reads the weights once."""


def native(path: Path) -> planning.NativeModel:
    options = ConvertOptions(quant="F32", allow_requantize=True)
    return planning.NativeModel(path, planning.native_plan(planning.Source(path), Path("unwritten"), options))


def chunks_of(model: planning.NativeModel, text: str, ctx: int, count: int) -> list[list[int]]:
    """The first chunks of a text, framed as calibration frames them."""
    metadata = {key: value for key, _, value in model.metadata()}
    ids = calibration.encode(model.model, metadata, text)
    first, last = calibration._ends(metadata)
    ids = ids if first is None else [first, *ids]
    count = min(count, len(ids) // ctx)
    return calibration._framed([ids[i * ctx :][:ctx] for i in range(count)], (first, last))


def log_probabilities(model: planning.NativeModel, chunks: list[list[int]], threads: int) -> Floats:
    """[chunks, scored positions, vocabulary]"""
    ctx = len(chunks[0])
    logits = _core.forward_logits(model.plan, chunks, threads)[0]
    scored = logits.reshape(len(chunks), ctx, -1)[:, ctx // 2 : ctx - 1]
    scored = scored - scored.max(-1, keepdims=True)
    return scored - np.log(np.exp(scored).sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32)


def divergences(
    base: Path, text: Path, files: Sequence[Path], count: int, ctx: int, threads: int
) -> tuple[int, list[Floats]]:
    """The number of chunks, and for each file the KLDs of all scored tokens."""
    model, models = native(base), [native(path) for path in files]
    chunks = chunks_of(model, text.read_text(encoding="utf-8"), ctx, count)
    found: list[list[Floats]] = [[] for _ in models]
    for start in range(0, len(chunks), AT_A_TIME):
        some = chunks[start : start + AT_A_TIME]
        true = log_probabilities(model, some, threads)
        for file, klds in zip(models, found, strict=True):
            other = log_probabilities(file, some, threads)
            klds += [
                (np.exp(p) * (p - q)).sum(-1, dtype=np.float64) for p, q in zip(true, other, strict=True)
            ]
    return len(chunks), [np.concatenate(klds) for klds in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    count, columns = divergences(args.base, args.text, args.files, args.chunks, args.ctx, args.threads)
    print(f"{count} chunks of {args.ctx} tokens of {args.text.name}")
    print_table("file", [(path.name, kld) for path, kld in zip(args.files, columns, strict=True)])


def print_table(what: str, klds: Sequence[tuple[str, Floats]]) -> None:
    """Print the means of KLDs of the same tokens, and compare them with those of the first row."""
    first = klds[0][1]
    root = np.sqrt(len(first))
    print(f"| {what} | KLD | of the first | of its median |\n| --- | ---: | ---: | ---: |")
    for name, kld in klds:
        ratio = kld.mean() / first.mean()
        error = (kld - ratio * first).std() / root / first.mean()
        medians = np.median(kld) / np.median(first)
        own = f"{kld.mean():.5f} ± {kld.std() / root:.5f}"
        print(f"| {name} | {own} | {ratio:.3f} ± {error:.3f} | {medians:.3f} |")


if __name__ == "__main__":
    main()
