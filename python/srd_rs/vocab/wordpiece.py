"""This module reads the WordPiece vocabularies of BERT and its relatives."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from srd_rs.reading import read_text, shown
from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.bpe import from_tokenizer_json as plain_vocabulary
from srd_rs.vocab.files import MAX_TOKENIZER_BYTES, TokenizerJson, refuse
from srd_rs.vocab.vocabulary import PIECE_SPACE, TokenType, Vocabulary, check_ids

PRE: Final = "jina-v2-en"
"""llama.cpp's converter gives this name to the pre-tokenizer of BERT's vocabulary. llama.cpp reads the name for
BPE only."""


_SPECIAL: Final = frozenset(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
"""These are the special tokens of BERT, for folders whose files name none."""


def from_tokenizer_json(file: TokenizerJson, size: int, added: AddedTokens) -> Vocabulary:
    """Read the vocabulary of a tokenizer.json of WordPiece kind, with the spaces that llama.cpp matches by."""
    prefix = file.model().get("continuing_subword_prefix", "##")
    if prefix != "##":
        refuse(file.path, f"word pieces continued with {shown(prefix)}", "Only '##' is supported")
    return _with_spaces(plain_vocabulary(file, size, added))


def from_vocab_txt(path: Path, size: int, added: AddedTokens) -> Vocabulary:
    """Read the vocabulary of a ``vocab.txt``, one piece a line, of folders without tokenizer.json."""
    lines = read_text(path, MAX_TOKENIZER_BYTES).split("\n")
    pieces = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    vocab = check_ids({piece: token_id for token_id, piece in enumerate(pieces)}, size, path, added.tokens)
    vocabulary = Vocabulary(path, size)
    vocabulary.put_all(vocab)
    if not added.named:
        for text in _SPECIAL & vocab.keys():
            vocabulary.types[vocab[text]] = int(TokenType.CONTROL)
    vocabulary.put_added(added.with_ids_of(vocab))
    return _with_spaces(vocabulary)


def _with_spaces(vocabulary: Vocabulary) -> Vocabulary:
    """Give pieces that begin a word a visible space, and take ``##`` from those that continue one. Tokens that
    are found in the text before the text is split stay as they are."""
    whole = (TokenType.CONTROL, TokenType.USER_DEFINED)
    vocabulary.tokens = [
        text if kind in whole else text[2:] if text.startswith("##") else PIECE_SPACE + text
        for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    return vocabulary
