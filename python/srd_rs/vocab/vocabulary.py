"""What every kind of tokenizer is turned into: a list of tokens with a type each, and how to split text
into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn

from srd_rs.metadata import Metadata
from srd_rs.vocab.files import MAX_TOKENS, TokenizerJson, fail, log, refuse, shown

PIECE_SPACE: Final = "\u2581"
"""The visible space (LOWER ONE EIGHTH BLOCK) of SentencePiece vocabularies."""
ADDED_SCORE: Final = -1000.0
"""Score of tokens that no score is known of: added tokens, and all of Gemma 4's."""
UNUSED_SCORE: Final = -10000.0
"""Score of the slots that no token fills."""


class TokenType(IntEnum):
    """Values of ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Vocabulary:
    """`size` slots; those that nobody fills are unused padding, which keeps ids equal to embedding rows."""

    place: Path
    size: int
    tokens: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] | None = None
    merges: list[str] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.size <= MAX_TOKENS:
            refuse(
                self.place, f"a vocabulary of {shown(self.size)} tokens", "Check vocab_size and the embedding"
            )
        self.tokens = [f"[PAD{i}]" for i in range(self.size)]
        self.types = [int(TokenType.UNUSED)] * self.size

    def put_all(self, vocab: dict[str, int]) -> None:
        """Fill the slots of a whole vocabulary with normal tokens."""
        tokens, types, normal = self.tokens, self.types, int(TokenType.NORMAL)
        for text, token_id in vocab.items():
            tokens[token_id] = text
            types[token_id] = normal

    def put(self, token_id: int, text: str, kind: TokenType, score: float | None = None) -> None:
        """Fill a slot, over what was there."""
        self.tokens[token_id] = text
        self.types[token_id] = int(kind)
        if self.scores is not None and score is not None:
            self.scores[token_id] = score

    def write(self, metadata: Metadata, model: str, pre: str | None) -> None:
        """Add model, pre-tokenizer, tokens, scores and types, in llama.cpp's order. Merges are written
        later."""
        metadata.string("tokenizer.ggml.model", model)
        if pre is not None:
            metadata.string("tokenizer.ggml.pre", pre)
        metadata.strings("tokenizer.ggml.tokens", self.tokens)
        if self.scores is not None:
            metadata.float32s("tokenizer.ggml.scores", self.scores)
        metadata.int32s("tokenizer.ggml.token_type", self.types)


def looks_special(text: str) -> bool:
    """Whether a token that is not marked special is one by its form.

    Some tokenizers leave the mark out (Command R, DeepSeek Coder, Gemma); llama.cpp goes by the same forms.
    """
    if text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]"):
        return True
    pairs = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
    return any(text.startswith(first) and text.endswith(last) for first, last in pairs)


def check_ids(vocab: object, size: int, place: Path) -> dict[str, int]:
    """The ``vocab`` object of a model, if it maps texts to distinct ids below `size`."""
    if not isinstance(vocab, dict) or not vocab:
        fail(place, "the model's 'vocab' is not an object of token ids", "Fetch the file again")
    if not all(type(token_id) is int for token_id in vocab.values()):
        text, token_id = next((t, i) for t, i in vocab.items() if type(i) is not int)
        fail(place, f"token {shown(text)} has the id {shown(token_id)}, not an integer", "Correct the file")
    if min(vocab.values()) < 0 or max(vocab.values()) >= size:
        text, token_id = next((t, i) for t, i in vocab.items() if not 0 <= i < size)
        refuse_beyond(place, text, token_id, size)
    if len(set(vocab.values())) != len(vocab):
        _refuse_duplicate(vocab, place)
    return vocab


def _refuse_duplicate(vocab: dict[str, int], place: Path) -> None:
    seen: dict[int, str] = {}
    for text, token_id in vocab.items():
        if token_id in seen:
            what = f"tokens {shown(seen[token_id])} and {shown(text)} have the same id {token_id}"
            fail(place, what, "Correct the file")
        seen[token_id] = text


def merge_pairs(file: TokenizerJson, vocab: dict[str, int]) -> Iterator[list[list[str]]]:
    """The merges as pairs, some thousand at a time.

    Every part, and what a pair makes, must be a token: the tokenizers library demands it too.
    """
    prefix = file.model().get("continuing_subword_prefix") or ""
    if not isinstance(prefix, str):
        fail(file.path, "'continuing_subword_prefix' is not text", "Fetch the file again")
    for chunk in file.merge_chunks():
        pairs = _pairs(chunk, file.path)
        check_merges(pairs, vocab, len(prefix), file.path)
        yield pairs
    file.release()


def read_merges(file: TokenizerJson, vocab: dict[str, int]) -> list[str]:
    """The merges as ``left right``, a space inside a token written as U+0120 (its byte-level form)."""
    merges: list[str] = []
    for pairs in merge_pairs(file, vocab):
        if any(map(_has_space, pairs)):
            pairs = [[part.replace(" ", "\u0120") for part in pair] for pair in pairs]
        merges.extend(map(" ".join, pairs))
    return merges


def _has_space(pair: list[str]) -> bool:
    return " " in pair[0] or " " in pair[1]


def _pairs(chunk: list[Any], place: Path) -> list[list[str]]:
    """Merges in either spelling, ``["a", "b"]`` or ``"a b"``, as pairs."""
    pairs = [entry.split(" ") if type(entry) is str else entry for entry in chunk]
    if set(map(type, pairs)) <= {list} and set(map(len, pairs)) <= {2}:
        bad = [pair for pair in pairs if type(pair[0]) is not str or type(pair[1]) is not str]
    else:
        bad = [pair for pair in pairs if type(pair) is not list or len(pair) != 2]
    if bad:
        fail(place, f"merge {shown(bad[0])} is not a pair of tokens", "Correct the file")
    return pairs


def check_merges(pairs: list[list[str]], vocab: dict[str, int], prefix: int, place: Path) -> None:
    """Refuse merges that make, or are made of, something that is not a token.

    The right part loses `prefix` characters when it is joined. Sets, because half a million merges are
    checked.
    """
    made = map("".join, pairs) if prefix == 0 else (left + right[prefix:] for left, right in pairs)
    if vocab.keys() >= {*made, *chain.from_iterable(pairs)}:
        return
    for left, right in pairs:
        if left not in vocab or right not in vocab or (left + right[prefix:]) not in vocab:
            what = (
                f"merge {shown(left)} + {shown(right)} has a part or a result that is not in the vocabulary"
            )
            fail(place, what, "Correct the file")


def refuse_beyond(place: Path, text: str, token_id: int, size: int) -> NoReturn:
    """Refuse a token whose id has no row in the embedding."""
    what = f"token {shown(text)} has the id {shown(token_id)}, but the model has {size} tokens"
    refuse(place, what, "Use the tokenizer that belongs to the weights")


def warn_beyond(place: Path, text: str, token_id: int, size: int) -> None:
    log.warning(
        "%s: token %s with id %d has no row in the embedding of %d rows; left out",
        place,
        shown(text),
        token_id,
        size,
    )
