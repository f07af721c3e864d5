"""This module collects added tokens: tokens that are found in a text before the text is split.

Four files can list them: tokenizer.json (``added_tokens``), tokenizer_config.json (``added_tokens_decoder`` and
the tokens of roles), special_tokens_map.json and added_tokens.json. A token that any of these files marks
special is special. All kinds of vocabularies get the same list from here.

With a tokenizer.json, the ids are those that the tokenizers library gives. The library does not read the ids of the
file: it counts the tokens that are not in the vocabulary. transformers adds the special tokens that only
tokenizer_config.json or special_tokens_map.json names, and counts on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srd_rs.reading import shown
from srd_rs.vocab.config import named_tokens
from srd_rs.vocab.files import (
    MAX_TOKENS,
    AddedToken,
    TokenizerJson,
    added_token,
    check_number,
    fail,
    first_of,
    listed,
    log,
    read_token_ids,
    refuse,
)


@dataclass
class AddedTokens:
    """The added tokens that the files of a folder list, by text."""

    folder: Path
    tokens: dict[str, AddedToken]
    named: set[str]
    """tokenizer_config.json or special_tokens_map.json names these texts as special tokens."""

    @classmethod
    def read(
        cls, folder: Path, file: TokenizerJson | None, config: dict[str, Any], rows: int = MAX_TOKENS
    ) -> AddedTokens:
        """Read the lists of `folder`. `file` is its tokenizer.json, `config` its tokenizer_config.json, `rows` the
        number of rows of the embedding."""
        named = named_tokens(config)
        tokens: dict[str, AddedToken] = {}
        for token in file.added if file else ():
            tokens.setdefault(token.content, replace(token))
        vocab = file.vocab_ids() if file else None
        if vocab is not None and file is not None:
            _count_as_the_library(tokens, vocab, rows, file.path)
        for token in decoder_tokens(config, folder / "tokenizer_config.json"):
            known = tokens.get(token.content)
            if known is not None:
                token = replace(token, id=known.id, special=known.special or token.special)
            tokens[token.content] = token
        _add_old_file(tokens, folder / "added_tokens.json")
        if vocab is not None:
            _add_named(tokens, named, vocab, folder)
        for text in named:
            if text in tokens:
                tokens[text].special = True
        return cls(folder, tokens, set(named))

    def with_ids_of(self, vocab: Mapping[str, int]) -> list[AddedToken]:
        """Return the tokens as they stand beside a vocabulary. A text of the vocabulary keeps its id there. A
        text of the vocabulary that is named as a special token is an added token too."""
        tokens = dict(self.tokens)
        for text in self.tokens.keys() & vocab.keys():
            if vocab[text] != tokens[text].id:
                tokens[text] = replace(tokens[text], id=vocab[text])
        for text in sorted(self.named & vocab.keys()):
            tokens.setdefault(text, AddedToken(vocab[text], text, special=True, normalized=False))
        return list(tokens.values())

    def id_of(self, text: str) -> int | None:
        token = self.tokens.get(text)
        return None if token is None else token.id


def _next_id(top: int, vocab: Mapping[str, int]) -> int:
    """Return the id that the tokenizers library gives to the next added token, after added tokens up to id `top`."""
    return max(top + 1, len(vocab))


def _count_as_the_library(
    tokens: dict[str, AddedToken], vocab: Mapping[str, int], rows: int, place: Path
) -> None:
    """Give the added tokens of a tokenizer.json the ids that the tokenizers library gives them. One warning names those
    for which the file states other ids. A token that the file puts beyond the embedding stays there, and is left out.

    Raises FormatError if the file states one id for two texts, ModelError if an id of the library belongs to a token of
    the vocabulary.
    """
    more = [token for token in tokens.values() if token.content not in vocab]
    stated = [token.id for token in more]
    top = max((vocab[text] for text in tokens.keys() & vocab.keys()), default=-1)
    counted = []
    for token in more:
        top = _next_id(top, vocab) if token.content else top
        counted.append(top if token.content and token.id < rows else token.id)
    if counted == stated:
        return
    texts = {token_id: text for text, token_id in vocab.items()}
    for token in more:
        if texts.setdefault(token.id, token.content) != token.content:
            what = f"added token {shown(token.content)} has the id {token.id} of {shown(texts[token.id])}"
            fail(place, what, "Correct the added tokens")
    taken = set(vocab.values())
    moved = []
    for token, new in zip(more, counted, strict=True):
        if token.id == new:
            continue
        if new in taken:
            what = (
                f"the added token {shown(token.content)} has the id {token.id}, and the tokenizers library gives it"
                f" the id {new}, which {shown(texts[new])} has"
            )
            refuse(place, what, "Save the tokenizer again with the tokenizers library")
        moved.append(f"{shown(token.content)} (id {new}, not {token.id})")
        token.id = new
    what = (
        "%s: the tokenizers library and transformers do not take the ids that the file states for %d added token%s. The"
        " ids that they take are written: %s"
    )
    _warn(what, place, moved)


def _warn(what: str, place: Path, names: Sequence[str]) -> None:
    log.warning(what, place, len(names), "" if len(names) == 1 else "s", first_of(names))


def _add_named(
    tokens: dict[str, AddedToken], named: Iterable[str], vocab: Mapping[str, int], folder: Path
) -> None:
    """Add the special tokens that a configuration names and no file lists."""
    top = max((token.id for token in tokens.values()), default=-1)
    more: list[AddedToken] = []
    for text in named:
        if text not in tokens and text not in vocab:
            top = _next_id(top, vocab)
            more.append(AddedToken(top, text, special=True, normalized=False))
    tokens.update({token.content: token for token in more})
    if more:
        what = (
            "%s: tokenizer_config.json or special_tokens_map.json names %d special token%s that no file lists. The ids"
            " are those that transformers gives: %s"
        )
        _warn(what, folder, [f"{shown(token.content)} (id {token.id})" for token in more])


def _add_old_file(tokens: dict[str, AddedToken], path: Path) -> None:
    """Add what added_tokens.json lists. transformers reads that file only for lack of the newer ones, so a token
    whose id a newer file gives to another text is left out."""
    taken = {token.id for token in tokens.values()}
    stale = []
    ids = read_token_ids(path) or {}
    check_number(len(ids), path)
    for text, token_id in ids.items():
        if text in tokens:
            continue
        token = AddedToken(token_id, text, special=False, normalized=False)
        if token_id in taken:
            stale.append(token)
        else:
            tokens[text] = token
    if stale:
        log.warning(
            "%s: %d tokens are left out, because tokenizer.json or tokenizer_config.json gives their ids to other"
            " tokens: %s",
            path,
            len(stale),
            listed(stale),
        )


def decoder_tokens(config: dict[str, Any], place: Path) -> list[AddedToken]:
    """Return the tokens of ``added_tokens_decoder`` in a tokenizer_config.json, an object from id, as text, to
    token."""
    entries = config.get("added_tokens_decoder", {})
    if not isinstance(entries, dict):
        fail(place, "'added_tokens_decoder' is not an object", "Correct the file")
    check_number(len(entries), place)
    tokens = []
    for key, entry in entries.items():
        if not key.isascii() or not key.isdigit() or len(key) > 9:
            fail(place, f"'added_tokens_decoder' has the id {shown(key)}", "Correct the file")
        tokens.append(added_token(entry, int(key), place))
    return tokens


def within(tokens: Iterable[AddedToken], size: int, place: Path) -> list[AddedToken]:
    """Return the tokens that have a row in the embedding of `size` rows. One warning names the tokens that have
    none: the model can neither read nor write such tokens."""
    inside: list[AddedToken] = []
    beyond: list[AddedToken] = []
    for token in tokens:
        (inside if token.id < size else beyond).append(token)
    if beyond:
        log.warning(
            "%s: the embedding has %d rows, and none for %d added token%s: left out %s",
            place,
            size,
            len(beyond),
            "" if len(beyond) == 1 else "s",
            listed(beyond),
        )
    return inside
