"""This module reads the vocabularies of models that use tiktoken: Kimi, QWen, Hunyuan, ChatGLM4, StableLM 2.

The file has the ranks of the tokens. How text is split, and often the special tokens too, stand only in Python code of
the repository, which is never run. What the code of published models says stands here as data, by the class that
tokenizer_config.json names and by the name of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srd_rs.reading import shown
from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.files import AddedToken, refuse
from srd_rs.vocab.ranks import last_merges, read_tiktoken, spelled
from srd_rs.vocab.sentencepiece import is_tiktoken
from srd_rs.vocab.vocabulary import TokenType, Vocabulary

_EXTRAS: Final = tuple(f"<|extra_{i}|>" for i in range(205))


@dataclass(frozen=True)
class Published:
    """What the code of a published tokenizer says."""

    pre: str
    """llama.cpp's name of the pre-tokenizer."""
    special: tuple[str, ...] = ()
    """The special tokens, in the order of their ids, which follow the ranks."""
    reserved: str | None = None
    """The name of each special token that no file lists, with ``{}`` for its id."""
    tokens: Mapping[str, str | int] = field(default_factory=dict)
    """Tokens of roles that the files leave open."""
    corrected: Mapping[str, str | int] = field(default_factory=dict)
    """Tokens of roles for which the published config.json has wrong ids."""


_QWEN: Final = Published(
    "qwen2",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_EXTRAS),
    tokens={"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
)
_HUNYUAN: Final = Published(
    "hunyuan",
    ("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", *_EXTRAS),
    corrected={"bos": "<|startoftext|>"},
)
_KIMI: Final = Published("kimi-k2", reserved="<|reserved_token_{}|>")
_CHATGLM: Final = Published(
    "chatglm-bpe", tokens={"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"}
)
_ARCADE: Final = Published("stablelm2")
_BY_CLASS: Final = {
    "QWenTokenizer": _QWEN,
    "HYTokenizer": _HUNYUAN,
    "TikTokenTokenizer": _KIMI,
    "TikTokenV3": _KIMI,
    "ChatGLM4Tokenizer": _CHATGLM,
    "Arcade100kTokenizer": _ARCADE,
}
_BY_FILE: Final = {
    "qwen.tiktoken": _QWEN,
    "hy.tiktoken": _HUNYUAN,
    "tiktoken.model": _KIMI,
    "arcade100k.tiktoken": _ARCADE,
}


def find_file(folder: Path) -> Path | None:
    """Return the file of ranks of a folder, or None."""
    named = (folder / name for name in _BY_FILE)
    model = folder / "tokenizer.model"
    return next((path for path in named if path.is_file()), model if is_tiktoken(model) else None)


def published(path: Path, config: Mapping[str, Any]) -> Published | None:
    """Return what is known of the tokenizer whose ranks stand in `path`. `config` is tokenizer_config.json."""
    name = config.get("tokenizer_class")
    return _BY_CLASS.get(name) if isinstance(name, str) and name in _BY_CLASS else _BY_FILE.get(path.name)


def from_file(path: Path, size: int, added: AddedTokens, known: Published | None) -> Vocabulary:
    """Return the vocabulary of a file of ranks with its special tokens. Raises ModelError if nothing says which tokens
    are special."""
    ranks = read_tiktoken(path)
    if len(ranks) > size:
        refuse(
            path,
            f"it has {len(ranks)} tokens, but the model has {size}",
            "Use the file that belongs to the weights",
        )
    vocabulary = Vocabulary(path, size)
    vocab = {spelled(token): rank for token, rank in ranks.items()}
    vocabulary.put_all(vocab)
    if known is not None:
        listed = {token.id for token in added.tokens.values()}
        names = dict(enumerate(known.special, len(ranks)))
        if known.reserved is not None:
            names = {token_id: known.reserved.format(token_id) for token_id in range(len(ranks), size)}
        for token_id, text in names.items():
            if token_id < size and token_id not in listed and text not in added.tokens:
                vocabulary.put(token_id, text, TokenType.CONTROL)
    vocabulary.put_added(_behind(added, len(ranks), path))
    if not any(vocabulary.filled[len(ranks) :]):
        what = "no file lists the special tokens, which stand in Python code that is not run"
        refuse(
            path, what, "List them as added_tokens_decoder in tokenizer_config.json, or add tokenizer.json"
        )
    vocabulary.merges = list(last_merges(ranks, path))
    return vocabulary


def _behind(added: AddedTokens, first: int, path: Path) -> list[AddedToken]:
    """Return the added tokens, whose ids must lie behind the ranks."""
    for token in added.tokens.values():
        if token.id < first:
            what = f"the added token {shown(token.content)} has the id {token.id} of another token"
            refuse(path, what, "Correct the added tokens")
    return list(added.tokens.values())
