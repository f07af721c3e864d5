"""The two protocols of llama-perplexity: which tokens of a text are scored after which context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from srd_rs.errors import UsageError, message
from srd_rs.eval.llama import Tokens, cut, most_tokens


@dataclass(frozen=True)
class Window:
    """`tokens` go through the model; the logits after position `first`.. predict `targets`, the tokens behind."""

    tokens: Tokens
    first: int

    @property
    def targets(self) -> Tokens:
        return self.tokens[self.first + 1 :]


@dataclass(frozen=True)
class Protocol:
    """Without a stride: chunks of `n_ctx` tokens, not overlapping, each beginning with BOS where the vocabulary
    wants one; the second half of each is scored, its first token excepted.

    With one: windows of `n_ctx + stride / 2` tokens, `stride` apart, the last `stride` tokens of each scored,
    so that every token has at least `n_ctx - stride / 2` before it. llama-perplexity widens the context so,
    and leaves the first tokens of its windows as they are in the text.
    """

    n_ctx: int = 512
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.n_ctx < 4:
            raise UsageError(message("ctx", f"{self.n_ctx} tokens are too few", "Use 512 or more"))
        if self.stride is not None and not 0 < self.stride <= self.n_ctx:
            what = f"{self.stride} is not between 1 and the context of {self.n_ctx}"
            raise UsageError(message("stride", what, "Use a quarter of the context"))

    @property
    def n_tokens(self) -> int:
        """Number of tokens in a window."""
        return self.n_ctx + (self.stride or 0) // 2

    @property
    def n_scored(self) -> int:
        """Number of tokens scored in a window."""
        return self.stride or self.n_ctx - self.n_ctx // 2 - 1

    def most_tokens(self, n_windows: int) -> int:
        """Number of tokens that the first `n_windows` windows need; 0 where all tokens of a text are needed."""
        if self.stride is None or not n_windows:
            return most_tokens(self.n_ctx, n_windows)
        return self.n_tokens + max(self.n_tokens, self.stride * n_windows)

    def windows(self, tokens: Tokens, bos: int | None, n_windows: int, place: object) -> list[Window]:
        """The first `n_windows` (0: all) windows of a text. `UsageError` naming `place` if it is too short."""
        if self.stride is None:
            chunks = cut(tokens, self.n_ctx, bos, n_windows, place)
            return [Window(chunk, self.n_ctx // 2) for chunk in chunks]
        n = self.n_tokens
        if len(tokens) < 2 * n:
            what = f"{len(tokens)} tokens are fewer than two windows of {n}"
            raise UsageError(message(place, what, "Take a longer text or a smaller context"))
        available = -(-(len(tokens) - n) // self.stride)
        starts = np.arange(min(n_windows or available, available)) * self.stride
        return [Window(tokens[start : start + n], n - self.stride - 1) for start in starts.tolist()]

    def __str__(self) -> str:
        if self.stride is None:
            return f"chunks of {self.n_ctx}, second half scored"
        return f"windows of {self.n_tokens}, last {self.stride} scored"
