"""This module reads the tokenizer files of a checkpoint, with limits and with errors that name the file.

The large file is ``tokenizer.json``: Gemma's holds half a million merges. Parsed at once, each merge is a list
and two strings, several times the bytes of its text. So the merges are parsed some thousand at a time and joined
at once.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from srd_rs import reading
from srd_rs.errors import FormatError, ModelError, message
from srd_rs.reading import load_json, parse_json, parse_object, read_limited, shown

log = logging.getLogger("srd_rs.vocab")

MAX_TOKENIZER_BYTES: Final = reading.MAX_TOKENIZER_BYTES
"""A tokenizer.json, vocab.json, merges.txt or tokenizer.model has at most this many bytes. Published files stay
below 40 MB."""
MAX_TOKENIZER_VALUES: Final = 1 << 21
"""Such a file has at most this many JSON values. Merges that are read apart from the rest do not count."""
MAX_TOKENS: Final = 1 << 21
"""A vocabulary has at most this many tokens. The largest published one has about a million."""
MAX_ADDED: Final = 150_000
"""A file lists at most this many added tokens. Models that write sounds or pictures have up to 131 072."""
_LISTED: Final = 4

_MERGES_CHUNK: Final = 1 << 18
_MERGES_START: Final = re.compile(rb'"merges"\s*:\s*\[')
_MERGES_END: Final = re.compile(rb"\]\s*\}\s*\}\s*\Z")
_PAIR_BOUNDARY: Final = re.compile(rb"\]\s*,\s*(?=\[)")
_STRING_BOUNDARY: Final = re.compile(rb'"\s*,\s*(?=")')


def fail(place: object, what: str, fix: str) -> NoReturn:
    """Raise FormatError, which says that the file at `place` breaks its format."""
    raise FormatError(message(place, what, fix))


def refuse(place: object, what: str, fix: str) -> NoReturn:
    """Raise ModelError, which says that the files are well-formed but no tokenizer that can be converted."""
    raise ModelError(message(place, what, fix))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a small file, or None if there is no such file."""
    return load_json(path) if path.is_file() else None


@dataclass
class AddedToken:
    """An added token is matched in the text before anything else. The fields are those of the tokenizers
    library."""

    id: int
    content: str
    special: bool = False
    normalized: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass
class TokenizerJson:
    """This is an open tokenizer.json. `sections` holds everything but the merges."""

    path: Path
    sections: dict[str, Any]
    added: list[AddedToken]
    data: bytes = field(default=b"", repr=False)
    merges_span: tuple[int, int] | None = None

    @classmethod
    def open(cls, path: Path) -> TokenizerJson | None:
        """Read `path`, or return None if there is no such file."""
        if not path.is_file():
            return None
        data = read_limited(path, MAX_TOKENIZER_BYTES)
        parsed = _without_merges(data, path)
        if parsed is None:
            parsed = (parse_object(data, path, values=MAX_TOKENIZER_VALUES), None)
        sections, span = parsed
        return cls(path, sections, added_tokens(sections, path), data if span else b"", span)

    def model(self) -> dict[str, Any]:
        """Return the model section."""
        model = self.sections.get("model")
        if not isinstance(model, dict):
            fail(
                self.path, "it has no 'model' object", "Save the tokenizer again with the tokenizers library"
            )
        return model

    def vocab_ids(self) -> dict[str, int] | None:
        """Return the ids of the vocabulary by text, unchecked; None if the file has no vocabulary of a known form."""
        model = self.sections.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocab, list):
            pairs = enumerate(vocab)
            return {e[0]: i for i, e in pairs if isinstance(e, list) and e and isinstance(e[0], str)}
        if isinstance(vocab, dict) and set(map(type, vocab.values())) <= {int}:
            return vocab
        return None

    def section(self, name: str) -> dict[str, Any] | None:
        """Return ``normalizer``, ``pre_tokenizer``, ``post_processor`` or ``decoder``, which is an object or
        None."""
        value = self.sections.get(name)
        if value is not None and not isinstance(value, dict):
            fail(
                self.path,
                f"'{name}' is not an object",
                "Save the tokenizer again with the tokenizers library",
            )
        return value

    def merge_chunks(self) -> Iterator[list[Any]]:
        """Yield the merges as they stand in the file, some thousand at a time."""
        if self.merges_span is None:
            merges = self.model().get("merges", [])
            if not isinstance(merges, list):
                fail(
                    self.path,
                    "'merges' is not a list",
                    "Save the tokenizer again with the tokenizers library",
                )
            yield merges
            return
        yield from _chunks(self.data, *self.merges_span, self.path)

    def release(self) -> None:
        """Forget the text of the file, after the merges have been read."""
        self.data = b""


def _without_merges(data: bytes, path: Path) -> tuple[dict[str, Any], tuple[int, int] | None] | None:
    """Parse everything but the merges and say where the merges stand, if the merges end the file, as the
    tokenizers library writes them."""
    end = _MERGES_END.search(data, max(0, len(data) - 256))
    starts = [found.end() for found in _MERGES_START.finditer(data)]
    if end is None or len(starts) != 1 or starts[0] > end.start():
        return None
    parsed = _parse_quietly(data[: starts[0]] + b"]}}", path)
    if parsed is None:
        return None
    model = parsed[0].get("model")
    if not isinstance(model, dict) or model.get("merges") != []:
        return None
    return parsed[0], (starts[0], end.start())


def _parse_quietly(data: bytes, path: Path) -> tuple[dict[str, Any], tuple[int, int] | None] | None:
    try:
        return parse_object(data, path, values=MAX_TOKENIZER_VALUES, unique=False), None
    except FormatError:
        return None


def _chunks(data: bytes, start: int, end: int, path: Path) -> Iterator[list[Any]]:
    boundary = _PAIR_BOUNDARY if data[start : start + 64].lstrip()[:1] == b"[" else _STRING_BOUNDARY
    while start < end:
        start, chunk = _chunk(data, start, end, boundary, path)
        yield chunk


def _chunk(
    data: bytes, start: int, end: int, boundary: re.Pattern[bytes], path: Path
) -> tuple[int, list[Any]]:
    """Parse one piece of the list. A boundary may lie inside the text of a token: then the piece does not parse,
    and the next boundary is taken."""
    search_from = start + _MERGES_CHUNK
    for _ in range(64):
        found = boundary.search(data, search_from, end) if search_from < end else None
        if found is None:
            break
        try:
            return found.end(), json.loads(b"[" + data[start : found.start() + 1] + b"]")
        except (ValueError, RecursionError):
            search_from = found.start() + 1
    chunk = parse_json(b"[" + data[start:end] + b"]", path, values=MAX_TOKENIZER_VALUES)
    assert isinstance(chunk, list)
    return end, chunk


def added_tokens(sections: dict[str, Any], path: Path) -> list[AddedToken]:
    """Return the added tokens of a tokenizer.json, checked."""
    entries = sections.get("added_tokens")
    if entries is None:
        return []
    if not isinstance(entries, list):
        fail(path, "'added_tokens' is not a list", "Save the tokenizer again with the tokenizers library")
    check_number(len(entries), path)
    tokens = [
        added_token(entry, entry.get("id") if isinstance(entry, dict) else None, path) for entry in entries
    ]
    return tokens


def check_number(added: int, path: Path) -> None:
    """Refuse a file that lists more added tokens than any model has."""
    if added > MAX_ADDED:
        what = f"it lists {added} added tokens, and at most {MAX_ADDED} are read"
        refuse(path, what, "Replace the file by the file of the model")


def added_token(entry: Any, token_id: Any, path: Path) -> AddedToken:
    """Return an added token from its JSON object. The id stands in the object or, in tokenizer_config.json, is
    its key."""
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        fail(path, "an added token has no text", "Correct the added tokens")
    content: str = entry["content"]
    special = entry.get("special") is True
    normalized = entry.get("normalized", not special) is not False
    flags = {name: entry.get(name) is True for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(checked_id(token_id, content, path), content, special, normalized, **flags)


def checked_id(token_id: Any, content: str, path: Path) -> int:
    """Return a token id if the id is an integer in range."""
    if not isinstance(token_id, int) or isinstance(token_id, bool):
        fail(path, f"token {shown(content)} has the id {shown(token_id)}, not an integer", "Correct the file")
    if not 0 <= token_id < MAX_TOKENS:
        fail(path, f"token {shown(content)} has the id {shown(token_id)}, out of range", "Correct the file")
    return token_id


def read_token_ids(path: Path) -> dict[str, int] | None:
    """Return the ids of added_tokens.json or vocab.json by text, or None if there is no such file."""
    if not path.is_file():
        return None
    data = read_limited(path, MAX_TOKENIZER_BYTES)
    entries = parse_object(data, path, values=MAX_TOKENIZER_VALUES)
    return {content: checked_id(token_id, content, path) for content, token_id in entries.items()}


def listed(tokens: Sequence[AddedToken]) -> str:
    """Return the first tokens of a list with their ids, for a message."""
    return first_of([f"{shown(token.content)} (id {token.id})" for token in tokens[: _LISTED + 1]])


def first_of(texts: Sequence[str]) -> str:
    """Return the first texts of a list, for a message."""
    return ", ".join(texts[:_LISTED]) + (", ..." if len(texts) > _LISTED else "")
