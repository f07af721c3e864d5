"""Every kind of tokenizer becomes a `Vocabulary`: a list of tokens with a type each, scores or merges, and
checks on both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from pathlib import Path
from typing import Any, Final

from srd_rs.metadata import Metadata
from srd_rs.reading import shown
from srd_rs.vocab.added import within
from srd_rs.vocab.files import MAX_TOKENS, AddedToken, TokenizerJson, fail, refuse

PIECE_SPACE: Final = "\u2581"
"""This is the visible space (LOWER ONE EIGHTH BLOCK) of SentencePiece vocabularies."""
ADDED_SCORE: Final = -1000.0
"""Tokens without a known score have this score: added tokens, and all tokens of Gemma 4."""
UNUSED_SCORE: Final = -10000.0
"""Slots that no token fills have this score."""


class TokenType(IntEnum):
    """The values of ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Vocabulary:
    """A vocabulary has `size` slots, one for each row of the embedding. A slot that no token fills is padding of
    type UNUSED, so that ids stay equal to rows."""

    place: Path
    size: int
    tokens: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] | None = None
    merges: list[str] | None = None
    filled: bytearray = field(default_factory=bytearray)
    """An entry is 1 for a slot that a token fills, else 0."""

    def __post_init__(self) -> None:
        if not 0 < self.size <= MAX_TOKENS:
            refuse(
                self.place, f"a vocabulary of {shown(self.size)} tokens", "Check vocab_size and the embedding"
            )
        self.tokens = [f"[PAD{i}]" for i in range(self.size)]
        self.types = [int(TokenType.UNUSED)] * self.size
        self.filled = bytearray(self.size)

    def put_all(self, vocab: dict[str, int]) -> None:
        """Fill the slots of a whole vocabulary with normal tokens."""
        tokens, types, normal = self.tokens, self.types, int(TokenType.NORMAL)
        for text, token_id in vocab.items():
            tokens[token_id] = text
            types[token_id] = normal
            self.filled[token_id] = 1

    def put(self, token_id: int, text: str, kind: TokenType, score: float | None = None) -> None:
        """Fill a slot and replace what stood there."""
        self.tokens[token_id] = text
        self.types[token_id] = int(kind)
        self.filled[token_id] = 1
        if self.scores is not None and score is not None:
            self.scores[token_id] = score

    def id_of(self, text: str) -> int | None:
        """Return the id of a text, or None if no token has the text."""
        return self.tokens.index(text) if text in self.tokens else None

    def make_control(self, text: str) -> None:
        """Make the token of a text a control token, if there is one."""
        token_id = self.id_of(text)
        if token_id is not None and self.filled[token_id]:
            self.types[token_id] = int(TokenType.CONTROL)

    def put_added(self, added: Iterable[AddedToken], *, by_look: bool = False) -> None:
        """Fill the slots of added tokens: a special token becomes CONTROL, any other USER_DEFINED. With
        `by_look`, a token that `looks_special` is special. Tokens without a row of the embedding are left out."""
        owner: dict[int, str] = {}
        for token in within(added, self.size, self.place):
            if owner.setdefault(token.id, token.content) != token.content:
                what = (
                    f"the added tokens {shown(owner[token.id])} and {shown(token.content)} have the same id"
                )
                fail(self.place, f"{what} {token.id}", "Correct the added tokens")
            self.put(token.id, token.content, type_of(token, by_look=by_look), ADDED_SCORE)

    def unfilled(self) -> list[int]:
        """Return the slots that no token fills."""
        return [i for i, filled in enumerate(self.filled) if not filled]

    def keep_texts_apart(self) -> None:
        """Refuse two tokens of one text, because llama.cpp aborts when it loads such a vocabulary. The text of
        padding gives way."""
        if len(set(self.tokens)) == len(self.tokens):
            return
        seen = {text for text, filled in zip(self.tokens, self.filled, strict=True) if filled}
        for i in self.unfilled():
            while self.tokens[i] in seen:
                self.tokens[i] += "_"
            seen.add(self.tokens[i])
        first: dict[str, int] = {}
        for i, text in enumerate(self.tokens):
            other = first.setdefault(text, i)
            if other != i and text:  # llama.cpp gives tokens without text names of their own
                what = f"the tokens {other} and {i} have the same text {shown(text)}, which no reader can tell apart"
                refuse(self.place, what, "Rename one of the two tokens, or remove the added one")

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


def type_of(token: AddedToken, *, by_look: bool = False) -> TokenType:
    """Return CONTROL for a special token (with `by_look`, for a token that `looks_special` too), else
    USER_DEFINED."""
    special = token.special or (by_look and looks_special(token.content))
    return TokenType.CONTROL if special else TokenType.USER_DEFINED


_FORMS: Final = ("<|", "<\uff5c", "<unused")


def looks_special(text: str) -> bool:
    """Say whether a token that is not marked special is special by its form.

    Some tokenizers leave the mark out (Command R, DeepSeek Coder, Gemma). llama.cpp's converter goes by the same
    forms.
    """
    if text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]"):
        return True
    if not text.startswith(_FORMS):
        return False
    return text.endswith({"<|": "|>", "<\uff5c": "\uff5c>"}.get(text[:2], ">"))


def check_ids(vocab: object, size: int, place: Path, added: Collection[str] = ()) -> dict[str, int]:
    """Return the ``vocab`` object of a model if the object maps texts to distinct ids below `size`. Texts of
    `added` tokens may have larger ids: these entries are dropped here, and `within` names them."""
    if not isinstance(vocab, dict) or not vocab:
        fail(place, "the model's 'vocab' is not an object of token ids", "Fetch the file again")
    if not all(type(token_id) is int for token_id in vocab.values()):
        text, token_id = next((t, i) for t, i in vocab.items() if type(i) is not int)
        fail(place, f"token {shown(text)} has the id {shown(token_id)}, not an integer", "Correct the file")
    if min(vocab.values()) < 0 or max(vocab.values()) >= size:
        beyond = {text: i for text, i in vocab.items() if not 0 <= i < size}
        for text, token_id in beyond.items():
            if text not in added or token_id < 0:
                what = f"token {shown(text)} has the id {shown(token_id)}, but the model has {size} tokens"
                refuse(place, what, "Use the tokenizer that belongs to the weights")
        vocab = {text: i for text, i in vocab.items() if text not in beyond}
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
    """Yield the merges as pairs, some thousand at a time.

    Both parts of a pair and what the pair makes must be tokens, as the tokenizers library demands too.
    """
    prefix = len(subword_prefix(file))
    for chunk in file.merge_chunks():
        pairs = _pairs(chunk, file.path)
        check_merges(pairs, vocab, prefix, file.path)
        yield pairs
    file.release()


def subword_prefix(file: TokenizerJson) -> str:
    """Return the prefix of pieces that continue a word. The right part of a merge loses the prefix when the
    parts are joined."""
    prefix = file.model().get("continuing_subword_prefix") or ""
    if not isinstance(prefix, str):
        fail(file.path, "'continuing_subword_prefix' is not text", "Fetch the file again")
    return prefix


def read_merges(file: TokenizerJson, vocab: dict[str, int]) -> list[str]:
    """Return the merges as ``left right``. A space inside a token is written as U+0120, its byte-level form."""
    merges: list[str] = []
    for pairs in merge_pairs(file, vocab):
        if any(map(_has_space, pairs)):
            pairs = [[part.replace(" ", "\u0120") for part in pair] for pair in pairs]
        merges.extend(map(" ".join, pairs))
    return merges


def _has_space(pair: list[str]) -> bool:
    return " " in pair[0] or " " in pair[1]


def _pairs(chunk: list[Any], place: Path) -> list[list[str]]:
    """Return merges of either spelling, ``["a", "b"]`` or ``"a b"``, as pairs."""
    pairs = [entry.split(" ") if type(entry) is str else entry for entry in chunk]
    if set(map(type, pairs)) <= {list} and set(map(len, pairs)) <= {2}:
        bad = [pair for pair in pairs if type(pair[0]) is not str or type(pair[1]) is not str]
    else:
        bad = [pair for pair in pairs if type(pair) is not list or len(pair) != 2]
    if bad:
        fail(place, f"merge {shown(bad[0])} is not a pair of tokens", "Correct the file")
    return pairs


def check_merges(pairs: list[list[str]], vocab: dict[str, int], prefix: int, place: Path) -> None:
    """Refuse merges that make something that is not a token, or are made of such a thing.

    The right part loses `prefix` characters when the parts are joined. Sets are used, because half a million
    merges are checked.
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
