"""Perplexity, computed as llama-perplexity does it, so that the numbers can stand beside its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from srd_rs.eval.llama import LlamaModel, Logits, Tokens, chunks_of


@dataclass(frozen=True)
class Perplexity:
    """`value` = exp(mean nll) over `n_tokens` scored tokens; `error` is its standard error."""

    value: float
    error: float
    n_chunks: int
    n_tokens: int


def negative_log_likelihood(logits: Logits, targets: Tokens) -> npt.NDArray[np.float64]:
    """-ln softmax(logits)[target] in nats, row by row: [n, n_vocab] and [n] give [n]."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    log_sum = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    picked = wide[np.arange(len(targets)), targets]
    return np.asarray(log_sum - picked)


def perplexity(
    gguf: str | Path,
    text: str | Path,
    *,
    n_chunks: int = 0,
    n_ctx: int = 512,
    threads: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Perplexity:
    """Perplexity of a GGUF on the first `n_chunks` (0: all) chunks of `n_ctx` tokens of a text file.

    Only the second half of each chunk is scored (its tokens `n_ctx/2 + 1`..), so that every scored token has
    at least half a context before it. `progress` gets (chunks done, chunks, perplexity so far).
    """
    first = n_ctx // 2
    parts: list[npt.NDArray[np.float64]] = []
    with LlamaModel(gguf, n_ctx=n_ctx, threads=threads) as model:
        chunks = chunks_of(Path(text), model, n_chunks)
        for chunk in chunks:
            # The logits after token i predict token i + 1; the last position has no target.
            rows = model.logits(chunk, first)[:-1]
            parts.append(negative_log_likelihood(rows, chunk[first + 1 :]))
            if progress:
                progress(len(parts), len(chunks), float(np.exp(np.concatenate(parts).mean())))
    nll = np.concatenate(parts)
    value = float(np.exp(nll.mean()))
    error = value * float(nll.std(ddof=1)) / len(nll) ** 0.5
    return Perplexity(value, error, len(parts), len(nll))
