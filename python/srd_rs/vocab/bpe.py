"""Byte-level BPE vocabularies (GPT-2, Llama 3, Qwen, ...): tokenizer.json, or vocab.json with merges.txt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from srd_rs.vocab.files import (
    MAX_LARGE_BYTES,
    AddedToken,
    TokenizerJson,
    fail,
    read_text,
    read_token_ids,
    refuse,
    shown,
)
from srd_rs.vocab.special import role_tokens
from srd_rs.vocab.spm import decoder_tokens
from srd_rs.vocab.vocabulary import (
    PIECE_SPACE,
    TokenType,
    Vocabulary,
    check_ids,
    check_merges,
    looks_special,
    read_merges,
    refuse_beyond,
)


def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: the character that stands for each byte. Printable Latin-1 stands for itself, the
    rest follow 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return alphabet


_ALPHABET: Final = byte_alphabet()


def from_tokenizer_json(
    file: TokenizerJson, size: int, config: dict[str, Any], special: set[str]
) -> Vocabulary:
    """The vocabulary of a tokenizer.json; its merges too, if it is of BPE kind.

    `config` is tokenizer_config.json, whose added tokens count if tokenizer.json has no token of that text;
    `special` holds the texts it names as special tokens.
    """
    model = file.model()
    vocab = check_ids(model.get("vocab"), size, file.path)
    vocabulary = Vocabulary(file.path, size)
    vocabulary.put_all(vocab)
    added = all_added(
        file.added,
        decoder_tokens(config, file.path.with_name("tokenizer_config.json")),
        vocab,
        special,
        config,
    )
    _put_added(vocabulary, added, vocab, byte_level=is_byte_level(file.section("decoder")))
    if model.get("type", "BPE") == "BPE":
        vocabulary.merges = read_merges(file, vocab)
    return vocabulary


def all_added(
    listed: Iterable[AddedToken],
    configured: Iterable[AddedToken],
    vocab: dict[str, int],
    special: set[str],
    config: dict[str, Any],
) -> list[AddedToken]:
    """The added tokens as the transformers library ends up with.

    tokenizer.json's (`listed`), with the flags of the configuration's (`configured`) where it has the same
    ones; those that only the configuration has; then the named special tokens (`special`) that are plain
    entries of `vocab`.
    """
    roles = role_tokens(config)
    tokens = {token.content: token for token in reversed(list(listed))}
    for token in configured:
        token.special = token.special or token.content in roles
        token.id = tokens.get(token.content, token).id
        tokens[token.content] = token
    for text in sorted(special & vocab.keys()):
        tokens.setdefault(text, AddedToken(vocab[text], text, True, False))
    for text in tokens.keys() & vocab.keys():
        tokens[text].id = vocab[text]
    return list(tokens.values())


def _put_added(
    vocabulary: Vocabulary, added: Iterable[AddedToken], vocab: dict[str, int], *, byte_level: bool
) -> None:
    owner: dict[int, str] = {}
    for token in added:
        if token.id >= vocabulary.size:
            refuse_beyond(vocabulary.place, token.content, token.id, vocabulary.size)
        taken = vocabulary.types[token.id] != TokenType.UNUSED and token.content not in vocab
        if taken or owner.setdefault(token.id, token.content) != token.content:
            what = f"added token {shown(token.content)} has the id {token.id} of another token"
            fail(vocabulary.place, what, "Correct the added tokens")
        text = token.content if token.normalized or not byte_level else decoded(token.content)
        if token.special or looks_special(text):
            vocabulary.put(token.id, text, TokenType.CONTROL)
        else:
            vocabulary.put(token.id, text.replace(PIECE_SPACE, " "), TokenType.USER_DEFINED)


def decoded(text: str) -> str:
    """An added token as the byte-level decoder prints it: bytes, if all of its characters stand for one.

    llama.cpp expects control and user-defined tokens in this form. A text that only looks like bytes (they
    are not UTF-8) stays.
    """
    if not all(character in _ALPHABET for character in text):
        return text
    try:
        return bytes(_ALPHABET[character] for character in text).decode("utf-8")
    except UnicodeDecodeError:
        return text


def is_byte_level(section: dict[str, Any] | None) -> bool:
    """Whether a decoder or pre-tokenizer works on GPT-2's byte alphabet."""
    if section is None:
        return False
    if section.get("type") == "ByteLevel":
        return True
    parts = section.get("decoders") or section.get("pretokenizers") or []
    return isinstance(parts, list) and any(isinstance(part, dict) and is_byte_level(part) for part in parts)


def from_slow_files(folder: Path, size: int, config: dict[str, Any], special: set[str]) -> Vocabulary:
    """The vocabulary of ``vocab.json`` and ``merges.txt``, with added_tokens.json: GPT-2's files."""
    path = folder / "vocab.json"
    vocab = check_ids(read_token_ids(path), size, path)
    vocabulary = Vocabulary(path, size)
    vocabulary.put_all(vocab)
    extra = read_token_ids(folder / "added_tokens.json") or {}
    listed = decoder_tokens(config, folder / "tokenizer_config.json")
    simple = [AddedToken(token_id, text, False, False) for text, token_id in extra.items()]
    _put_added(vocabulary, all_added(simple, listed, vocab, special, config), vocab, byte_level=True)
    vocabulary.merges = read_merges_txt(folder / "merges.txt", vocab)
    return vocabulary


def read_merges_txt(path: Path, vocab: dict[str, int]) -> list[str]:
    """The merges of a ``merges.txt``: two tokens a line, after an optional ``#version`` line."""
    if not path.is_file():
        refuse(path.parent, "vocab.json without merges.txt or tokenizer.json", "Add the file of merges")
    lines = read_text(path, MAX_LARGE_BYTES).split("\n")
    first = 1 if lines[0].startswith("#version") else 0
    pairs = [line.rstrip("\r").split(" ") for line in lines[first:] if line.strip("\r")]
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            fail(path, f"merge {number} is not a pair of tokens: {shown(' '.join(pair))}", "Correct the file")
    check_merges(pairs, vocab, 0, path)
    return [f"{left} {right}" for left, right in pairs]
