"""This module reads byte-level BPE vocabularies (GPT-2, Llama 3, Qwen, ...) from tokenizer.json, or from
vocab.json with merges.txt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from srd_rs.reading import read_text, shown
from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.files import (
    MAX_TOKENIZER_BYTES,
    AddedToken,
    TokenizerJson,
    fail,
    read_token_ids,
    refuse,
)
from srd_rs.vocab.vocabulary import (
    PIECE_SPACE,
    TokenType,
    Vocabulary,
    check_ids,
    check_merges,
    read_merges,
    type_of,
)


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet: the byte that each character stands for. Printable Latin-1 characters stand for
    themselves; the other bytes have characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return alphabet


_ALPHABET: Final = byte_alphabet()


def from_tokenizer_json(file: TokenizerJson, size: int, added: AddedTokens) -> Vocabulary:
    """Read the vocabulary of a tokenizer.json, and its merges if the tokenizer is BPE."""
    model = file.model()
    vocab = check_ids(model.get("vocab"), size, file.path, added.tokens)
    vocabulary = Vocabulary(file.path, size)
    vocabulary.put_all(vocab)
    byte_level = is_byte_level(file.section("decoder"))
    vocabulary.put_added(_checked(vocabulary, added, vocab, byte_level=byte_level), by_look=True)
    if model.get("type", "BPE") == "BPE":
        vocabulary.merges = read_merges(file, vocab)
    return vocabulary


def _checked(
    vocabulary: Vocabulary, added: AddedTokens, vocab: dict[str, int], *, byte_level: bool
) -> Iterable[AddedToken]:
    """Yield the added tokens, spelled as llama.cpp matches them. Raises FormatError if a token has the id of an
    entry of `vocab`."""
    all_listed = added.with_ids_of(vocab)
    tokens = [_spelled(token, byte_level) for token in all_listed]
    texts = {token.content for token in tokens}
    for listed, token in zip(all_listed, tokens, strict=True):
        if token.id >= vocabulary.size:
            yield token
            continue
        if vocabulary.filled[token.id] and listed.content not in vocab:
            what = f"added token {shown(token.content)} has the id {token.id} of another token"
            fail(vocabulary.place, what, "Correct the added tokens")
        # Byte-level BPE has its own letter for a space. A visible space is one more character there.
        spaced = token.content if byte_level else token.content.replace(PIECE_SPACE, " ")
        if type_of(token, by_look=True) == TokenType.USER_DEFINED and spaced not in texts:
            yield replace(token, content=spaced)
        else:
            yield token


def _spelled(token: AddedToken, byte_level: bool) -> AddedToken:
    """Return a token as the byte-level decoder prints the token, if the token is matched before the text becomes
    bytes."""
    if token.normalized or not byte_level:
        return token
    text = decoded(token.content)
    return token if text == token.content else replace(token, content=text)


def decoded(text: str) -> str:
    """Return an added token as the byte-level decoder prints the token: as bytes, if all of its characters stand
    for bytes.

    llama.cpp expects control and user-defined tokens in this form. A text whose bytes are not UTF-8 only looks
    like bytes and stays.
    """
    # Printable ASCII stands for itself. The space stands for no byte, so that a text with one stays as well.
    if text.isascii() and text.isprintable():
        return text
    if not all(character in _ALPHABET for character in text):
        return text
    try:
        return bytes(_ALPHABET[character] for character in text).decode("utf-8")
    except UnicodeDecodeError:
        return text


def is_byte_level(section: dict[str, Any] | None) -> bool:
    """Say whether a decoder or pre-tokenizer works on GPT-2's byte alphabet."""
    if section is None:
        return False
    if section.get("type") == "ByteLevel":
        return True
    parts = section.get("decoders") or section.get("pretokenizers") or []
    return isinstance(parts, list) and any(isinstance(part, dict) and is_byte_level(part) for part in parts)


def from_slow_files(folder: Path, size: int, added: AddedTokens) -> Vocabulary:
    """Read the vocabulary of ``vocab.json`` and ``merges.txt``, the files of GPT-2."""
    path = folder / "vocab.json"
    vocab = check_ids(read_token_ids(path), size, path, added.tokens)
    vocabulary = Vocabulary(path, size)
    vocabulary.put_all(vocab)
    vocabulary.put_added(_checked(vocabulary, added, vocab, byte_level=True), by_look=True)
    vocabulary.merges = read_merges_txt(folder / "merges.txt", vocab)
    return vocabulary


def read_merges_txt(path: Path, vocab: dict[str, int]) -> list[str]:
    """Read the merges of a ``merges.txt``: two tokens a line, after an optional ``#version`` line."""
    if not path.is_file():
        refuse(path.parent, "vocab.json without merges.txt or tokenizer.json", "Add the file of merges")
    lines = read_text(path, MAX_TOKENIZER_BYTES).split("\n")
    first = 1 if lines[0].startswith("#version") else 0
    pairs = [line.rstrip("\r").split(" ") for line in lines[first:] if line.strip("\r")]
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            fail(path, f"merge {number} is not a pair of tokens: {shown(' '.join(pair))}", "Correct the file")
    check_merges(pairs, vocab, 0, path)
    return [f"{left} {right}" for left, right in pairs]
