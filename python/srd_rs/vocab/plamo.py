"""This module reads ``tokenizer.jsonl``, the vocabulary of PLaMo 2 and 3: on each line a list with a text, a score and
a type. llama.cpp's kind ``plamo2`` finds the segmentation of the highest score; other characters become bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from srd_rs.reading import read_text, shown
from srd_rs.vocab.files import MAX_TOKENIZER_BYTES, MAX_TOKENS, fail, refuse
from srd_rs.vocab.vocabulary import ADDED_SCORE, TokenType, Vocabulary

FILE: Final = "tokenizer.jsonl"
ROLES: Final = {"eot": 4}
"""The token ``<|plamo:op|>`` ends a turn of a chat."""
_TYPES: Final = {"UNKNOWN": TokenType.UNKNOWN, "CONTROL": TokenType.CONTROL, "BYTE": TokenType.BYTE}
_REFETCH: Final = "Fetch the file again"
_MAX_LINE: Final = 1 << 16


def read(path: Path, size: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer.jsonl. Raises ModelError if a byte has no token, which llama.cpp needs."""
    vocabulary = Vocabulary(path, size)
    vocabulary.scores = [ADDED_SCORE] * size
    lines = [line for line in read_text(path, MAX_TOKENIZER_BYTES).split("\n") if line.strip()]
    if not 0 < len(lines) <= min(size, MAX_TOKENS):
        what = f"it has {len(lines)} tokens, but the model has {size}"
        refuse(path, what, "Use the tokenizer.jsonl that belongs to the weights")
    for token_id, line in enumerate(lines):
        text, score, kind = _entry(line, token_id, path)
        if kind == TokenType.NORMAL and text.startswith("<|plamo:") and text.endswith("|>"):
            kind = TokenType.CONTROL
        vocabulary.put(token_id, text, kind, score)
    texts = zip(vocabulary.tokens[1:], vocabulary.types[1:], strict=True)
    present = {text for text, kind in texts if kind == TokenType.BYTE}
    lacking = [byte for byte in range(256) if f"<0x{byte:02X}>" not in present]
    if lacking:
        refuse(
            path,
            f"no token for the byte {lacking[0]}",
            "llama.cpp needs one for each byte: fetch the file again",
        )
    return vocabulary


def _entry(line: str, token_id: int, path: Path) -> tuple[str, float, TokenType]:
    entry: Any = None
    if len(line) <= _MAX_LINE:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
    if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[0], str):
        fail(path, f"line {token_id + 1} is {shown(line)}, not a text with a score", _REFETCH)
    score = entry[1]
    if not isinstance(score, (int, float)) or isinstance(score, bool) or not abs(score) < 1e30:
        fail(path, f"line {token_id + 1} has the score {shown(score)}", _REFETCH)
    kind = entry[2] if len(entry) > 2 and isinstance(entry[2], str) else "NORMAL"
    return entry[0], float(score), _TYPES.get(kind, TokenType.NORMAL)
