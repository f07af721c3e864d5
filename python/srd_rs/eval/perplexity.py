"""Computes the perplexity of one GGUF as llama-perplexity does, so that the numbers of both can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srd_rs.eval.evaluation import evaluate


@dataclass(frozen=True)
class Perplexity:
    """`value` = exp(mean nll) over `n_tokens` scored tokens; `error` is its standard error."""

    value: float
    error: float
    n_chunks: int
    n_tokens: int


def perplexity(
    gguf: str | Path,
    text: str | Path,
    *,
    n_chunks: int = 0,
    n_ctx: int = 512,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """The perplexity of a GGUF on the first `n_chunks` (0: all) chunks of `n_ctx` tokens of a text file.

    Only the second half of each chunk is scored (its tokens `n_ctx/2 + 1`..), so that every scored token has
    at least half a context before it. `progress` gets (chunks done, chunks).
    """
    found = evaluate([gguf], text, n_ctx=n_ctx, n_chunks=n_chunks, threads=threads, progress=progress)
    value = found.files[0].perplexity
    return Perplexity(value.value, value.error, found.n_chunks, found.n_tokens)
