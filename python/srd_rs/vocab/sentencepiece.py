"""This module reads a SentencePiece model file: its pieces, its algorithm and its normalizer.

The file is a protobuf message (sentencepiece_model.proto of the SentencePiece project). ``ModelProto.pieces`` is field
1, ``trainer_spec`` field 2 and ``normalizer_spec`` field 3. A piece has ``piece`` as field 1 (string), ``score`` as 2
(float) and ``type`` as 3 (enum). Lengths are checked before anything is read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from srd_rs.reading import read_limited, shown
from srd_rs.vocab.files import MAX_TOKENIZER_BYTES, MAX_TOKENS, fail
from srd_rs.vocab.vocabulary import TokenType

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_UNIGRAM: Final = 1
_TIKTOKEN_LINE: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_REFETCH: Final = "Fetch the file again"
_NOT_A_MODEL: Final = "Check that it is a SentencePiece model"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a SentencePiece model. `kind` has the numbers of the proto, which are those of GGUF."""

    text: str
    score: float
    kind: TokenType


@dataclass
class SentencePieceModel:
    """A SentencePiece model. A value that the file leaves out has the default of the proto."""

    path: Path
    pieces: list[Piece] = field(default_factory=list)
    unigram: bool = False
    """The model segments by Unigram; else by BPE. A file without trainer_spec does not say so and counts as BPE."""
    byte_fallback: bool = False
    space_as_suffix: bool = False
    space_prefix: bool = True
    remove_extra_spaces: bool = True
    charsmap: bytes = b""
    """Normalization of characters, as SentencePiece compiles it."""


def is_sentencepiece(path: Path) -> bool:
    """Say whether `path` is a file and not one of tiktoken's, which can have the same name (Llama 3, ChatGLM4)."""
    return path.is_file() and not is_tiktoken(path)


def is_tiktoken(path: Path) -> bool:
    """Say whether `path` is a file of tiktoken."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _TIKTOKEN_LINE.match(file.read(4096)) is not None


def read_model(path: Path) -> SentencePieceModel:
    """Return the model in a file. Raises FormatError if the file is not a SentencePiece model."""
    data = memoryview(read_limited(path, MAX_TOKENIZER_BYTES))
    model = SentencePieceModel(path)
    for number, wire, value in _fields(data, path):
        if number not in (1, 2, 3):
            continue
        if wire != _BYTES or not isinstance(value, memoryview):
            fail(path, f"field {number} is not a message", _NOT_A_MODEL)
        if number == 1:
            model.pieces.append(_piece(value, path))
            if len(model.pieces) > MAX_TOKENS:
                fail(path, f"more than {MAX_TOKENS} pieces", _REFETCH)
        elif number == 2:
            _read_trainer(model, value)
        else:
            _read_normalizer(model, value)
    if not model.pieces:
        fail(path, "no pieces", _NOT_A_MODEL)
    return model


def _read_trainer(model: SentencePieceModel, data: memoryview) -> None:
    model.unigram = True  # the default of the proto
    for number, wire, value in _fields(data, model.path):
        if wire == _VARINT and isinstance(value, int):
            if number == 3:
                model.unigram = value == _UNIGRAM
            elif number == 24:
                model.space_as_suffix = bool(value)
            elif number == 35:
                model.byte_fallback = bool(value)


def _read_normalizer(model: SentencePieceModel, data: memoryview) -> None:
    for number, wire, value in _fields(data, model.path):
        if number == 2 and wire == _BYTES and isinstance(value, memoryview):
            model.charsmap = bytes(value)
        elif wire == _VARINT and isinstance(value, int):
            if number == 3:
                model.space_prefix = bool(value)
            elif number == 4:
                model.remove_extra_spaces = bool(value)


def _piece(data: memoryview, path: Path) -> Piece:
    text, score, kind = "", 0.0, TokenType.NORMAL
    for number, wire, value in _fields(data, path):
        if number == 1 and wire == _BYTES and isinstance(value, memoryview):
            try:
                text = str(value, "utf-8")
            except UnicodeDecodeError:
                fail(path, f"a piece is not UTF-8: {shown(bytes(value))}", _REFETCH)
        elif number == 2 and wire == _FIXED32 and isinstance(value, memoryview):
            score = struct.unpack("<f", value)[0]
        elif number == 3 and wire == _VARINT and isinstance(value, int):
            if not 1 <= value <= 6:
                fail(path, f"a piece has the unknown type {shown(value)}", _REFETCH)
            kind = TokenType(value)
    return Piece(text, score, kind)


def _fields(data: memoryview, path: Path) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield the fields of a protobuf message as (number, wire type, value). Lengths are checked before anything
    is read."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at, path)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            number_value, at = _varint(data, at, path)
            yield number, wire, number_value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at, path)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            fail(
                path,
                f"protobuf wire type {wire} at byte {at} of a message",
                "Check that it is a SentencePiece model",
            )
        if length > end - at:
            fail(path, f"a field of {shown(length)} bytes where {end - at} remain", _REFETCH)
        yield number, wire, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int, path: Path) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            fail(path, "the file ends inside a number", _REFETCH)
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    fail(path, "a number of more than ten bytes", "Check that it is a SentencePiece model")
