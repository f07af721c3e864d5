"""This module reads Unigram vocabularies: T5, XLM-RoBERTa, Nomic Embed v2, multilingual E5 and MiniLM.

Such a vocabulary is a tokenizer.json of the type Unigram, or a SentencePiece model. llama.cpp calls the kind ``t5``: it
finds the segmentation of the highest score, as SentencePiece does. The kind needs the scores, the compiled
normalization of characters (``precompiled_charsmap``), and what happens to spaces.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from typing import Any, Final

from srd_rs.metadata import Metadata
from srd_rs.reading import shown
from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.files import AddedToken, TokenizerJson, fail, log, refuse
from srd_rs.vocab.sentencepiece import Piece, SentencePieceModel
from srd_rs.vocab.spm import BYTE_TOKENS
from srd_rs.vocab.vocabulary import PIECE_SPACE, UNUSED_SCORE, TokenType, Vocabulary, check_ids

_SAVE_AGAIN: Final = "Save the tokenizer again with the tokenizers library"
_FAIRSEQ: Final = ("<s>", "<pad>", "</s>", "<unk>")
"""The tokens that XLM-RoBERTa has before the pieces of its SentencePiece model, in place of the first three pieces."""
_MASK: Final = "<mask>"


@dataclass
class Unigram:
    """A Unigram vocabulary with what llama.cpp has to know of the text before it is segmented."""

    vocabulary: Vocabulary
    space_prefix: bool
    remove_extra_spaces: bool
    charsmap: bytes

    def write_normalizer(self, metadata: Metadata) -> None:
        """Add the keys. llama.cpp puts a space before every text whose spaces it merges. So for a tokenizer that puts
        none there, spaces are not merged: runs of spaces then give more tokens, and every other text the right ones."""
        merged = self.remove_extra_spaces and self.space_prefix
        metadata.boolean("tokenizer.ggml.add_space_prefix", self.space_prefix)
        metadata.boolean("tokenizer.ggml.remove_extra_whitespaces", merged)
        if self.charsmap:
            metadata.add("tokenizer.ggml.precompiled_charsmap", "ARRAY[UINT8]", list(self.charsmap))


def is_unigram(file: TokenizerJson) -> bool:
    return file.model().get("type") == "Unigram"


# From a SentencePiece model


def from_model(model: SentencePieceModel, size: int, added: AddedTokens, *, fairseq: bool) -> Unigram:
    """Return the vocabulary of a SentencePiece model. With `fairseq`, the ids are those of XLM-RoBERTa, one more than
    in the file, and the last token is the mask."""
    if model.space_as_suffix:
        refuse(
            model.path, "spaces stand behind the words", "llama.cpp has no key for it: use another tokenizer"
        )
    pieces = _fairseq(model.pieces) if fairseq else model.pieces
    vocabulary = Vocabulary(model.path, size)
    vocabulary.scores = [UNUSED_SCORE] * size
    if len(pieces) > size:
        what = "%s: the embedding has %d rows, so %d pieces from id %d (%s) on are left out"
        log.warning(what, model.path, size, len(pieces) - size, size, shown(pieces[size].text))
    ids: dict[str, int] = {}
    for token_id, piece in enumerate(pieces[:size]):
        vocabulary.put(token_id, piece.text, piece.kind, piece.score)
        ids.setdefault(piece.text, token_id)
    if fairseq and _MASK not in ids and not vocabulary.filled[size - 1]:
        vocabulary.put(size - 1, _MASK, TokenType.CONTROL, 0.0)
        ids[_MASK] = size - 1
    _put_added(vocabulary, added.with_ids_of(ids))
    return Unigram(
        vocabulary, model.space_prefix, model.remove_extra_spaces, _checked_map(model.charsmap, model.path)
    )


def _fairseq(pieces: list[Piece]) -> list[Piece]:
    kinds = (TokenType.CONTROL, TokenType.CONTROL, TokenType.CONTROL, TokenType.UNKNOWN)
    return [Piece(text, 0.0, kind) for text, kind in zip(_FAIRSEQ, kinds, strict=True)] + pieces[3:]


# From a tokenizer.json


def from_tokenizer_json(file: TokenizerJson, size: int, added: AddedTokens) -> Unigram:
    """Return the vocabulary of a tokenizer.json of the type Unigram. Raises ModelError where its normalizer has a step
    that llama.cpp does not do."""
    entries = _entries(file)
    vocab = check_ids(_by_text(entries, file), size, file.path, added.tokens)
    vocabulary = Vocabulary(file.path, size)
    vocabulary.scores = [UNUSED_SCORE] * size
    vocabulary.put_all(vocab)
    for token_id in vocab.values():
        vocabulary.scores[token_id] = entries[token_id][1]
    for text in vocab.keys() & BYTE_TOKENS:
        vocabulary.types[vocab[text]] = int(TokenType.BYTE)
    tokens = added.with_ids_of(vocab)
    _put_added(vocabulary, tokens)
    unknown = file.model().get("unk_id")
    if unknown is not None:
        if not isinstance(unknown, int) or isinstance(unknown, bool) or not 0 <= unknown < len(entries):
            fail(file.path, f"'unk_id' is {shown(unknown)}", _SAVE_AGAIN)
        if unknown < size:
            vocabulary.types[unknown] = int(TokenType.UNKNOWN)
    if file.model().get("byte_fallback") is True:
        what = "%s: characters without a token become bytes here, but the unknown token in llama.cpp, whose Unigram "
        log.warning(what + "tokenizer has no bytes", file.path)
    steps = _Steps(file)
    steps.read(file.section("normalizer"))
    steps.read(file.section("pre_tokenizer"))
    return Unigram(
        vocabulary, steps.space_prefix, steps.remove_extra_spaces, _checked_map(steps.charsmap, file.path)
    )


def _entries(file: TokenizerJson) -> list[tuple[str, float]]:
    """Return the pairs of text and score of the model, in the order of their ids."""
    entries = file.model().get("vocab")
    if not isinstance(entries, list) or not entries:
        fail(file.path, "the model's 'vocab' is not a list of texts with scores", _SAVE_AGAIN)
    checked = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            fail(file.path, f"token {number} is {shown(entry)}, not a text with a score", _SAVE_AGAIN)
        score = entry[1]
        if not isinstance(score, (int, float)) or isinstance(score, bool) or not abs(score) < 1e30:
            fail(file.path, f"token {number} has the score {shown(score)}", _SAVE_AGAIN)
        checked.append((entry[0], float(score)))
    return checked


def _by_text(entries: list[tuple[str, float]], file: TokenizerJson) -> dict[str, int]:
    vocab: dict[str, int] = {}
    for token_id, (text, _) in enumerate(entries):
        other = vocab.setdefault(text, token_id)
        if other != token_id:
            what = f"the tokens {other} and {token_id} have the same text {shown(text)}"
            fail(file.path, what, "Rename one of the two tokens")
    return vocab


def _put_added(vocabulary: Vocabulary, tokens: list[AddedToken]) -> None:
    """Put added tokens over the pieces. A piece keeps its score, and an unknown token stays one."""
    assert vocabulary.scores is not None
    unknown = [i for i, kind in enumerate(vocabulary.types) if kind == TokenType.UNKNOWN]
    scores = list(vocabulary.scores)
    filled = bytes(vocabulary.filled)
    vocabulary.put_added(tokens)
    for token in tokens:
        if token.id < vocabulary.size and filled[token.id]:
            vocabulary.scores[token.id] = scores[token.id]
    for token_id in unknown:
        vocabulary.types[token_id] = int(TokenType.UNKNOWN)


class _Steps:
    """The steps of a normalizer and of a pre-tokenizer, as far as llama.cpp does them."""

    def __init__(self, file: TokenizerJson) -> None:
        self.file = file
        self.charsmap = b""
        self.space_prefix = False
        self.remove_extra_spaces = False

    def read(self, section: dict[str, Any] | None) -> None:
        kind = None if section is None else section.get("type")
        if section is None or kind == "Strip":
            return
        if kind == "Sequence":
            parts = section.get("normalizers") or section.get("pretokenizers")
            for part in parts if isinstance(parts, list) else []:
                self.read(part if isinstance(part, dict) else {})
        elif kind == "Precompiled":
            self.charsmap = self._decoded(section.get("precompiled_charsmap"))
        elif kind == "WhitespaceSplit" or (kind == "Replace" and _merges_spaces(section)):
            self.remove_extra_spaces = True
        elif kind == "Metaspace":
            if section.get("replacement", PIECE_SPACE) != PIECE_SPACE:
                self._refuse(f"spaces shown as {shown(section.get('replacement'))}")
            scheme = section.get("prepend_scheme", "always")
            self.space_prefix = scheme != "never" and section.get("add_prefix_space", True) is not False
        elif kind == "Prepend" and section.get("prepend") == PIECE_SPACE:
            self.space_prefix = True
        elif kind != "Replace" or not _shows_spaces(section):
            self._refuse(f"the step {shown(kind)} before the text is cut into tokens")

    def _decoded(self, text: object) -> bytes:
        if not isinstance(text, str):
            fail(self.file.path, "'precompiled_charsmap' is not text", _SAVE_AGAIN)
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            fail(self.file.path, "'precompiled_charsmap' is not base64", _SAVE_AGAIN)

    def _refuse(self, what: str) -> None:
        refuse(self.file.path, what, "llama.cpp's Unigram tokenizer does not do this: use another tokenizer")


def _pattern(section: dict[str, Any], kind: str) -> str | None:
    pattern = section.get("pattern")
    text = pattern.get(kind) if isinstance(pattern, dict) else None
    return text if isinstance(text, str) else None


def _merges_spaces(section: dict[str, Any]) -> bool:
    """Say whether a Replace makes one space of several."""
    return _pattern(section, "Regex") == " {2,}" and section.get("content") in (" ", PIECE_SPACE)


def _shows_spaces(section: dict[str, Any]) -> bool:
    return _pattern(section, "String") == " " and section.get("content") == PIECE_SPACE


def _checked_map(charsmap: bytes, place: object) -> bytes:
    """Return a compiled normalization whose parts have the sizes that it states: llama.cpp refuses any other."""
    if not charsmap:
        return charsmap
    size = struct.unpack_from("<I", charsmap)[0] if len(charsmap) >= 4 else math.inf
    if size % 4 or size + 4 >= len(charsmap) or charsmap[-1]:
        fail(place, "the compiled normalization of characters is cut off", "Fetch the file again")
    return charsmap
