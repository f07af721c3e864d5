"""This module reads ``tekken.json``, the vocabulary of Mistral's own format, as mistral-common does.

The special tokens come first. The ranks of the other tokens count from 0 behind them; ``default_vocab_size`` says how
many are used. The file has the regular expression by which text is split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from srd_rs.reading import parse_object, read_limited, shown
from srd_rs.vocab.files import MAX_TOKENIZER_BYTES, MAX_TOKENIZER_VALUES, MAX_TOKENS, fail, refuse
from srd_rs.vocab.ranks import all_merges, checked, from_base64, spelled
from srd_rs.vocab.vocabulary import TokenType, Vocabulary

_OLD_SPECIAL: Final = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
"""The special tokens of files that list none, which are those up to version 7."""
_OLD_VERSIONS: Final = ("v1", "v2", "v3", "v7")
_TEMPLATES: Final = {
    ("v1", False): "mistral-v1",
    ("v3", False): "mistral-v3",
    ("v3", True): "mistral-v3-tekken",
    ("v7", False): "mistral-v7",
    ("v7", True): "mistral-v7-tekken",
}
"""llama.cpp has these chat templates by name."""
_REFETCH: Final = "Fetch the file again"


@dataclass
class Tekken:
    """A vocabulary of tekken.json."""

    vocabulary: Vocabulary
    pattern: str
    version: str
    roles: dict[str, str | int]


def template_name(version: str, *, tekken: bool) -> str | None:
    """Return the name of llama.cpp's own chat template for a version of Mistral's tokenizers, if it has one."""
    return _TEMPLATES.get((version, tekken))


def special_ids(path: Path) -> dict[str, int]:
    """Return the ids of the special tokens of a tekken.json by text."""
    file = parse_object(read_limited(path, MAX_TOKENIZER_BYTES), path, values=MAX_TOKENIZER_VALUES)
    config = file.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("version"), str):
        fail(path, "it has no 'config' with a 'version'", _REFETCH)
    count = _number(config, "default_num_special_tokens", path)
    special = _special(file.get("special_tokens"), config["version"], count, path)
    return {text: token_id for token_id, text in enumerate(special)}


def read(path: Path, size: int) -> Tekken:
    """Read a tekken.json for an embedding of `size` rows."""
    file = parse_object(read_limited(path, MAX_TOKENIZER_BYTES), path, values=MAX_TOKENIZER_VALUES)
    config = file.get("config")
    if not isinstance(config, dict):
        fail(path, "it has no 'config'", _REFETCH)
    pattern, version = config.get("pattern"), config.get("version")
    if not isinstance(pattern, str) or not isinstance(version, str):
        fail(path, "'config' has no 'pattern' or no 'version'", _REFETCH)
    count = _number(config, "default_vocab_size", path)
    special = _special(
        file.get("special_tokens"), version, _number(config, "default_num_special_tokens", path), path
    )
    if not len(special) < count <= size:
        what = f"it has {count} tokens, {len(special)} of them special, but the model has {size}"
        refuse(path, what, "Use the tekken.json that belongs to the weights")
    ranks = _ranks(file.get("vocab"), count - len(special), path)
    vocabulary = Vocabulary(path, size)
    vocabulary.scores = [0.0] * size
    for token_id, text in enumerate(special):
        vocabulary.put(token_id, text, TokenType.CONTROL)
    for token_id, token in enumerate(ranks, len(special)):
        vocabulary.put(token_id, spelled(token), TokenType.NORMAL)
    vocabulary.merges = list(all_merges(ranks, path))
    pad = "<pad>" if "<pad>" in special else "</s>"
    return Tekken(vocabulary, pattern, version, {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": pad})


def _number(config: dict[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS:
        fail(path, f"'{key}' is {shown(value)}", _REFETCH)
    return value


def _special(entries: object, version: str, count: int, path: Path) -> list[str]:
    """Return the texts of the `count` special tokens in the order of their ids. Ids without a text have a name."""
    texts = {}
    if entries is None:
        if version not in _OLD_VERSIONS:
            fail(path, f"no 'special_tokens', which version {shown(version)} has", _REFETCH)
        texts = dict(enumerate(_OLD_SPECIAL))
    elif not isinstance(entries, list):
        fail(path, "'special_tokens' is not a list", _REFETCH)
    else:
        for entry in entries:
            rank, text = (
                (entry.get("rank"), entry.get("token_str")) if isinstance(entry, dict) else (None, None)
            )
            if type(rank) is not int or not isinstance(text, str) or not 0 <= rank < count or rank in texts:
                fail(path, f"the special token {shown(entry)} has no text or no id of its own", _REFETCH)
            texts[rank] = text
    return [texts.get(i, f"<SPECIAL_{i}>") for i in range(count)]


def _ranks(entries: object, count: int, path: Path) -> dict[bytes, int]:
    """Return the first `count` tokens with their ranks."""
    if not isinstance(entries, list) or len(entries) < count:
        fail(path, f"'vocab' is not a list of at least {count} tokens", _REFETCH)
    ranks: dict[bytes, int] = {}
    for entry in entries:
        rank, token = (
            (entry.get("rank"), entry.get("token_bytes")) if isinstance(entry, dict) else (None, None)
        )
        if type(rank) is not int or not isinstance(token, str):
            fail(path, f"{shown(entry)} is not a token with its rank", _REFETCH)
        if rank < count:
            ranks[from_base64(token, path, f"the token of rank {rank}")] = rank
    return checked(ranks, path)
