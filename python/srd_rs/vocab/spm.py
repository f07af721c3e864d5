"""This module reads SentencePiece vocabularies: a ``tokenizer.model``, or a tokenizer.json that holds such a
vocabulary as merges with byte fallback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from srd_rs.reading import shown
from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.files import AddedToken, TokenizerJson, first_of, log
from srd_rs.vocab.sentencepiece import SentencePieceModel
from srd_rs.vocab.vocabulary import (
    ADDED_SCORE,
    PIECE_SPACE,
    UNUSED_SCORE,
    TokenType,
    Vocabulary,
    check_ids,
    merge_pairs,
    subword_prefix,
    type_of,
)

BYTE_TOKENS: Final = frozenset(f"<0x{byte:{form}}>" for byte in range(256) for form in ("02X", "02x"))
_MAX_MERGED: Final = 32
"""A user-defined piece of more characters counts as one that is not merged from others."""
_MAX_STEPS: Final = 1 << 20
"""User-defined pieces are examined as long as the squares of their lengths stay below this sum: Gemma's take 0.9
million. The others count as normal tokens."""
_MAX_EXAMINED: Final = 1 << 15
"""So many tokens that no merge makes are examined."""


def from_model(
    model: SentencePieceModel, size: int, added: AddedTokens, *, respell: bool = True, alone: bool = True
) -> Vocabulary:
    """Return the vocabulary of a SentencePiece model with the added tokens over the pieces.

    SentencePiece finds user-defined pieces first. If the model stands `alone`, without a tokenizer.json, such a piece
    becomes an added token where llama.cpp cannot merge it from other pieces; all others are normal tokens, as in
    llama.cpp's converter. With `respell`, the visible spaces of a user-defined token become spaces, because llama.cpp
    finds such tokens in the text as the user writes the text; and a token that looks special is special.
    """
    if model.charsmap:
        what = "%s: the tokenizer normalizes text, which llama.cpp does not do with this kind of vocabulary"
        log.warning(what, model.path)
    vocabulary, ids = _from_pieces(model, size)
    tokens = added.with_ids_of(ids)
    if alone:
        listed = {token.content for token in tokens}
        steps = 0
        for text in sorted((user_defined(model) & ids.keys()) - listed, key=len):
            steps += len(text) ** 2
            if steps < _MAX_STEPS and not _can_be_merged(text, ids):
                tokens.append(AddedToken(ids[text], text, normalized=False))
    vocabulary.put_added(_respelled(tokens, ids) if respell else tokens, by_look=respell)
    return vocabulary


def user_defined(model: SentencePieceModel) -> set[str]:
    """Return the texts of the user-defined pieces of a model."""
    return {piece.text for piece in model.pieces if piece.kind == TokenType.USER_DEFINED}


def _can_be_merged(text: str, pieces: Mapping[str, int]) -> bool:
    """Say whether llama.cpp can merge characters to `text`: it makes only pieces, and need not begin with pieces."""
    found = set(text)
    if len(text) > _MAX_MERGED:
        return False
    for length in range(2, len(text) + 1):
        for start in range(len(text) - length + 1):
            part = text[start : start + length]
            if part in pieces and any(part[:i] in found and part[i:] in found for i in range(1, length)):
                found.add(part)
    return text in found


def differences(
    model: SentencePieceModel, vocab: Mapping[str, int], added: AddedTokens, size: int
) -> list[str]:
    """Return what a tokenizer.json has at ids where a SentencePiece model has something else, for a message. Added
    tokens do not count, which are put over both, unless the model has their text at another id."""
    ids = {token.content: vocab.get(token.content, token.id) for token in added.tokens.values()}
    over = set(ids.values())
    texts = {token_id: text for text, token_id in vocab.items() if token_id < size and token_id not in over}
    pieces = {}
    for i, piece in enumerate(model.pieces[:size]):
        if ids.get(piece.text, i) != i or i not in over:
            pieces[i] = piece.text
    return [
        f"{shown(texts.get(i))} in place of {shown(pieces.get(i))} (id {i})"
        for i in sorted(texts.keys() | pieces.keys())
        if texts.get(i) != pieces.get(i)
    ]


def _respelled(tokens: list[AddedToken], pieces: dict[str, int]) -> Iterator[AddedToken]:
    """Yield user-defined tokens with spaces for visible spaces.

    If an added token is a run of real spaces, a run of visible spaces stays a piece: as a text of spaces, the
    run would have the same text as that token or would be found in its place.
    """
    texts = {token.content for token in tokens}
    runs = any(text and not text.strip(" ") for text in texts)
    for token in tokens:
        spaced = token.content.replace(PIECE_SPACE, " ")
        if spaced == token.content or type_of(token, by_look=True) == TokenType.CONTROL:
            yield token
        elif runs and not spaced.strip(" ") and token.content in pieces:
            continue
        else:
            yield token if spaced in texts else replace(token, content=spaced)


def _from_pieces(model: SentencePieceModel, size: int) -> tuple[Vocabulary, dict[str, int]]:
    """Return the pieces of a SentencePiece model as a vocabulary, and their ids by text."""
    vocabulary = Vocabulary(model.path, size)
    vocabulary.scores = [UNUSED_SCORE] * size
    kinds = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.UNUSED, TokenType.BYTE)
    pieces = model.pieces
    if len(pieces) > size:
        what = "%s: the embedding has %d rows, so %d pieces from id %d (%s) on are left out"
        log.warning(what, model.path, size, len(pieces) - size, size, shown(pieces[size].text))
    ids: dict[str, int] = {}
    for token_id, piece in enumerate(pieces[:size]):
        kind = piece.kind if piece.kind in kinds else TokenType.NORMAL
        vocabulary.put(token_id, piece.text, kind, piece.score)
        ids.setdefault(piece.text, token_id)
    return vocabulary, ids


def is_byte_fallback_bpe(file: TokenizerJson) -> bool:
    """Say whether a tokenizer.json is a SentencePiece BPE model in the form of the tokenizers library."""
    model = file.model()
    return model.get("type", "BPE") == "BPE" and model.get("byte_fallback") is True


def space_scheme(file: TokenizerJson) -> str:
    """Say where a tokenizer.json puts a space: "always" is before each part of a text between special tokens,
    "first" is before the whole text only, "never" is nowhere."""
    schemes = [
        _scheme(section) for name in ("normalizer", "pre_tokenizer") if (section := file.section(name))
    ]
    return next((scheme for scheme in schemes if scheme != "never"), "never")


def _scheme(section: dict[str, Any]) -> str:
    kind = section.get("type")
    if kind == "Metaspace":
        scheme = section.get("prepend_scheme", "always")
        known = scheme in ("always", "first") and section.get("add_prefix_space", True) is True
        return str(scheme) if known else "never"
    if kind == "Prepend":
        return "always" if section.get("prepend") == PIECE_SPACE else "never"
    parts = section.get("normalizers") or section.get("pretokenizers")
    inner = [_scheme(part) for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return next((scheme for scheme in inner if scheme != "never"), "never")


def from_merges(file: TokenizerJson, size: int, added: AddedTokens) -> Vocabulary:
    """Return the vocabulary of a SentencePiece BPE model in a tokenizer.json, with scores derived from its
    merges.

    llama.cpp merges the pair whose result has the highest score; the tokenizers library merges the pair of the
    earliest merge. So the score of a token is minus the place, among the tokens that are made, of the first
    merge that makes the token. SentencePiece numbers its BPE pieces in the same way, single characters last.
    llama.cpp's own converter gives every token -1000, and llama.cpp then merges from left to right.
    """
    vocab = check_ids(file.model().get("vocab"), size, file.path, added.tokens)
    vocabulary = base_vocabulary(file, vocab, size, added)
    made = _made_tokens(file, vocab)
    rest = [i for i in sorted(vocab.values()) if vocabulary.types[i] == TokenType.NORMAL and i not in made]
    _warn_of_unmade(vocabulary, rest, vocab)
    assert vocabulary.scores is not None
    for rank, token_id in enumerate((*made, *rest)):
        vocabulary.scores[token_id] = float(-rank)
    for text in vocab.keys() & BYTE_TOKENS:
        vocabulary.scores[vocab[text]] = 0.0
    return vocabulary


def _warn_of_unmade(vocabulary: Vocabulary, token_ids: Sequence[int], vocab: Mapping[str, int]) -> None:
    """Name the tokens that no merge makes and llama.cpp makes all the same, because two of their parts are tokens."""
    unmade = []
    for token_id in token_ids[:_MAX_EXAMINED]:
        text = vocabulary.tokens[token_id]
        parts = ((text[:i], text[i:]) for i in range(1, min(len(text), _MAX_MERGED)))
        if any((len(a) == 1 or a in vocab) and (len(b) == 1 or b in vocab) for a, b in parts):
            unmade.append(f"{shown(text)} (id {token_id})")
    if unmade:
        what = "%s: no merge makes %d token%s, and llama.cpp makes %s where it can, which can give other tokens: %s"
        plural = len(unmade) > 1
        made = "them" if plural else "it"
        log.warning(what, vocabulary.place, len(unmade), "s" * plural, made, first_of(unmade))


def _made_tokens(file: TokenizerJson, vocab: dict[str, int]) -> dict[int, None]:
    """Return the ids of the tokens that merges make, in the order in which they are first made."""
    prefix = len(subword_prefix(file))
    made: dict[int, None] = {}
    for pairs in merge_pairs(file, vocab):
        for left, right in pairs:
            made.setdefault(vocab[left + right[prefix:]])
    return made


def base_vocabulary(file: TokenizerJson, vocab: dict[str, int], size: int, added: AddedTokens) -> Vocabulary:
    """Return the tokens and types of a tokenizer.json with byte fallback. Every score is ADDED_SCORE."""
    vocabulary = Vocabulary(file.path, size)
    vocabulary.scores = [ADDED_SCORE] * size
    vocabulary.put_all(vocab)
    for text in vocab.keys() & BYTE_TOKENS:
        vocabulary.types[vocab[text]] = int(TokenType.BYTE)
    vocabulary.put_added(added.with_ids_of(vocab))
    return vocabulary
