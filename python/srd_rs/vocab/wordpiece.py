"""WordPiece vocabularies of BERT and its kin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from srd_rs.vocab.bpe import from_tokenizer_json as plain_vocabulary
from srd_rs.vocab.files import MAX_LARGE_BYTES, TokenizerJson, read_text, refuse, shown
from srd_rs.vocab.vocabulary import PIECE_SPACE, TokenType, Vocabulary, check_ids

PRE: Final = "jina-v2-en"
"""What llama.cpp's converter calls the pre-tokenizer of BERT's vocabulary. llama.cpp reads it for BPE
only."""


def from_tokenizer_json(
    file: TokenizerJson, size: int, config: dict[str, Any], special: set[str]
) -> Vocabulary:
    """The vocabulary of a tokenizer.json of WordPiece kind, with the spaces that llama.cpp matches by."""
    prefix = file.model().get("continuing_subword_prefix", "##")
    if prefix != "##":
        refuse(file.path, f"word pieces continued with {shown(prefix)}", "Only '##' is supported")
    vocabulary = plain_vocabulary(file, size, config, special)
    return _with_spaces(vocabulary)


def from_vocab_txt(path: Path, size: int, special: set[str]) -> Vocabulary:
    """The vocabulary of a ``vocab.txt``, a piece a line: folders without tokenizer.json."""
    lines = read_text(path, MAX_LARGE_BYTES).split("\n")
    pieces = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    vocab = check_ids({piece: token_id for token_id, piece in enumerate(pieces)}, size, path)
    control = special or {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    vocabulary = Vocabulary(path, size)
    for text, token_id in vocab.items():
        vocabulary.put(token_id, text, TokenType.CONTROL if text in control else TokenType.NORMAL)
    return _with_spaces(vocabulary)


def _with_spaces(vocabulary: Vocabulary) -> Vocabulary:
    """Pieces that begin a word get a visible space, those that go on lose their ``##``; control tokens
    stay."""
    vocabulary.tokens = [
        text if kind == TokenType.CONTROL else text[2:] if text.startswith("##") else PIECE_SPACE + text
        for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    return vocabulary
