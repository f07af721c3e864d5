"""This module reads the vocabulary of RWKV, whose tokenizer takes the longest token that fits.

Each line of the file has an id, a token as a Python literal (text, or bytes that are no UTF-8), and its number of
bytes::

    257 b'\\x80' 1
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

from srd_rs.reading import read_text, shown
from srd_rs.vocab.files import MAX_TOKENIZER_BYTES, fail, refuse
from srd_rs.vocab.vocabulary import TokenType, Vocabulary

FILE: Final = "rwkv_vocab_v20230424.txt"
CHAT_TEMPLATE: Final = "rwkv-world"
"""llama.cpp has a chat template of this name."""
ROLES: Final = {"bos": 0, "eos": 0, "eot": 261}
"""Id 0 begins and ends a text. A turn of a chat ends with two newlines, which are the token 261."""
_LINE: Final = re.compile(r"(\d{1,9}) (b?(?:'[^\n]*'|\"[^\n]*\")) (\d{1,5})")
_START: Final = "<s>"
_REFETCH: Final = "Fetch the file again"


def read(path: Path, size: int) -> Vocabulary:
    """Return the vocabulary of a file of RWKV's World tokenizer. Bytes are escaped, as llama.cpp reads them."""
    vocabulary = Vocabulary(path, size)
    vocabulary.put(0, _START, TokenType.CONTROL)
    lines = read_text(path, MAX_TOKENIZER_BYTES).split("\n")
    for token_id, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        token = _token(line, token_id, path)
        if token_id >= size:
            refuse(path, f"more than {size - 1} tokens", "Use the file that belongs to the weights")
        vocabulary.put(token_id, repr(token)[2:-1], TokenType.NORMAL)
    return vocabulary


def _token(line: str, token_id: int, path: Path) -> bytes:
    found = _LINE.fullmatch(line.rstrip("\r"))
    if found is None or int(found[1]) != token_id:
        fail(
            path,
            f"line {token_id} is {shown(line)}, not the id {token_id} with a token and its length",
            _REFETCH,
        )
    try:
        value = ast.literal_eval(found[2])
        token = value.encode() if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        fail(path, f"the token of line {token_id} is no literal: {shown(found[2])}", _REFETCH)
    if not isinstance(token, bytes) or len(token) != int(found[3]) or not token:
        fail(path, f"the token of line {token_id} has not {found[3]} bytes", _REFETCH)
    return token
