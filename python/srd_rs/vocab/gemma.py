"""Gemma 4 merges raw text, without pre-tokenizer, scores or byte-level alphabet."""

from __future__ import annotations

from typing import Final

from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.files import TokenizerJson
from srd_rs.vocab.spm import base_vocabulary
from srd_rs.vocab.vocabulary import TokenType, Vocabulary, check_ids, read_merges

VISIBLE_TOKENS: Final = frozenset(
    (
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        "<|tool_response>",
        "<tool_response|>",
        '<|"|>',
    )
)
"""A chat parser has to see these tokens in the output. They are user-defined, so that llama.cpp prints them."""


def from_tokenizer_json(file: TokenizerJson, size: int, added: AddedTokens) -> Vocabulary:
    """Read the vocabulary and the merges of Gemma 4's tokenizer.json."""
    vocab = check_ids(file.model().get("vocab"), size, file.path, added.tokens)
    vocabulary = base_vocabulary(file, vocab, size, added)
    for text in VISIBLE_TOKENS:
        token_id = vocab.get(text, added.id_of(text))
        if token_id is not None and token_id < size:
            vocabulary.types[token_id] = int(TokenType.USER_DEFINED)
    vocabulary.merges = read_merges(file, vocab)
    return vocabulary
