"""Turns logits into numbers for each token: how well the token was predicted, and how far two predictions differ."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from srd_rs.eval.llama import Logits, Tokens

Floats = npt.NDArray[np.float64]

#: Logits that are widened to f64 at a time.
_BLOCK = 1 << 21


def log_softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """The logarithm of the softmax of each row [n, n_vocab], in f64: x - max - ln sum exp(x - max)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def divergence(log_p: Floats, log_q: Floats) -> Floats:
    """Kullback-Leibler divergence of each row, sum p (ln p - ln q), in nats. [n, n_vocab] twice gives [n]."""
    # A token of no probability adds nothing, also where ln p is -inf.
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = p * (log_p - log_q)
    return np.asarray(np.where(p > 0, terms, 0.0).sum(axis=1))


@dataclass
class TokenScores:
    """One value per scored token. `kld`, `p_diff` (q - p of the token that follows) and `same_top` (both put the
    same token first) only where there is a base."""

    nll: list[Floats] = field(default_factory=list)
    kld: list[Floats] = field(default_factory=list)
    p_diff: list[Floats] = field(default_factory=list)
    same_top: list[npt.NDArray[np.bool_]] = field(default_factory=list)


def add_scores(blocks: list[Logits], targets: Tokens, scores: list[TokenScores], *, with_base: bool) -> None:
    """Score the same positions in several models; with a base it is the first of `blocks` and `scores`.

    blocks: for each model [n, n_vocab]; targets: [n], the tokens that follow.
    """
    step = max(1, _BLOCK // blocks[0].shape[1])
    for start in range(0, len(targets), step):
        rows = slice(start, start + step)
        _add_rows([block[rows] for block in blocks], targets[rows], scores, with_base=with_base)


def _add_rows(blocks: list[Logits], targets: Tokens, scores: list[TokenScores], *, with_base: bool) -> None:
    at = (np.arange(len(targets)), targets)
    base: Floats | None = None
    for block, found in zip(blocks, scores, strict=True):
        logs = log_softmax(block)
        found.nll.append(-logs[at])
        if base is not None:
            found.kld.append(divergence(base, logs))
            found.p_diff.append(np.exp(logs[at]) - np.exp(base[at]))
            found.same_top.append(logs.argmax(axis=1) == base.argmax(axis=1))
        elif with_base:
            base = logs
