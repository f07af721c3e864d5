"""This module goes the other way: from the ``tokenizer.*`` metadata of a GGUF to a tokenizer that reads text as
llama.cpp does.

It serves models that come without tokenizer.json: GGUFs, and checkpoints with tokenizer.model or vocab.txt
alone. Control tokens are never read from text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, NoReturn

from srd_rs.errors import ModelError, message
from srd_rs.reading import shown
from srd_rs.vocab import pretokenizer
from srd_rs.vocab.files import MAX_TOKENS
from srd_rs.vocab.vocabulary import PIECE_SPACE, TokenType

_NEVER: Final = (TokenType.CONTROL, TokenType.UNUSED)
_MAX_WORD: Final = 100
"""WordPiece takes apart words of at most this many characters. Longer words are unknown, as in BERT."""
_MAX_PIECE: Final = 4096
"""Merges make pieces of at most this many characters. Pieces of published vocabularies have up to 256."""
_PREFIX: Final = "tokenizer.ggml."


def from_metadata(metadata: dict[str, Any], place: object, hint: str) -> Any:
    """Return a `tokenizers.Tokenizer` for the metadata of a model, without the tokens around a text.

    `place` names the model and `hint` says what to do instead; both are for errors. Raises ModelError for a kind
    of vocabulary that cannot be expressed. The package tokenizers is needed.
    """
    vocabulary = _TokenLists(metadata, place, hint)
    kind = metadata.get(f"{_PREFIX}model")
    makers = {
        "gpt2": _byte_level,
        "gemma4": _byte_level,
        "llama": _sentencepiece,
        "bert": _word_pieces,
        "t5": _unigram,
    }
    if not isinstance(kind, str) or kind not in makers:
        vocabulary.refuse(f"no reader for a vocabulary of kind {shown(kind)}")
    try:
        return makers[kind](vocabulary)
    except ModelError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions
        vocabulary.refuse(f"the vocabulary makes no tokenizer: {error}")


@dataclass
class _TokenLists:
    """The token lists of the metadata, checked."""

    metadata: dict[str, Any]
    place: object
    hint: str

    def __post_init__(self) -> None:
        self.tokens = self._strings("tokens")
        types = self.metadata.get(f"{_PREFIX}token_type")
        self.types: Sequence[int] = [1] * len(self.tokens) if types is None else types
        if not 0 < len(self.tokens) <= MAX_TOKENS or len(self.types) != len(self.tokens):
            self.refuse(f"{len(self.tokens)} tokens with {len(self.types)} types")

    def refuse(self, what: str) -> NoReturn:
        raise ModelError(message(self.place, what, self.hint))

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(_PREFIX + key, default)

    def _strings(self, key: str) -> list[str]:
        values = self.get(key)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            self.refuse(f"{_PREFIX}{key} is not a list of texts")
        return list(values)

    def readable(self) -> dict[str, int]:
        """Return the ids of all tokens that a text may become, by text. If two tokens have one text, the first
        counts."""
        ids: dict[str, int] = {}
        for i, (text, kind) in enumerate(zip(self.tokens, self.types, strict=True)):
            if kind not in _NEVER:
                ids.setdefault(text, i)
        return ids

    def unknown(self) -> str | None:
        """Return the text of the token that stands for everything no other token stands for."""
        token_id = self.get("unknown_token_id")
        if token_id is None and TokenType.UNKNOWN in self.types:
            token_id = self.types.index(TokenType.UNKNOWN)
        return self.tokens[token_id] if token_id is not None and 0 <= token_id < len(self.tokens) else None

    def merges(self, ids: dict[str, int]) -> list[tuple[str, str]]:
        """Return the merges whose parts and results are tokens, in order."""
        pairs = (_halves(merge) for merge in self._strings("merges"))
        return [(a, b) for a, b in pairs if a in ids and b in ids and a + b in ids]

    def scores(self) -> list[float]:
        scores = self.get("scores")
        if scores is None or len(scores) != len(self.tokens):
            self.refuse("the vocabulary has no scores")
        return list(scores)


def _halves(merge: str) -> tuple[str, str]:
    space = merge.find(" ", 1)
    return merge[:space], merge[space + 1 :]


def _byte_level(vocabulary: _TokenLists) -> Any:
    """Make BPE with merges: on GPT-2's alphabet behind regular expressions, or (Gemma 4) on lines of raw text."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    name = "gemma4" if vocabulary.get("model") == "gemma4" else vocabulary.get("pre", "default")
    steps = pretokenizer.steps_named(name)
    if steps is None:
        vocabulary.refuse(f"how the pre-tokenizer {shown(name)} splits text is not known here")
    raw = name in pretokenizer.UNCUT
    ids = vocabulary.readable()
    unknown = vocabulary.unknown() if raw else None
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=vocabulary.merges(ids),
            unk_token=unknown if unknown in ids else None,
            byte_fallback=raw,
            ignore_merges=name in pretokenizer.WHOLE_WORDS,
        )
    )
    parts: list[Any] = [pre_tokenizers.Split(Regex(step), "isolated") for step in steps]
    if raw:
        tokenizer.normalizer = normalizers.Replace(" ", PIECE_SPACE)
    else:
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return _with_user_defined(tokenizer, vocabulary)


def _sentencepiece(vocabulary: _TokenLists) -> Any:
    """Make SentencePiece's BPE, which joins the neighbours that make the token of the highest score."""
    from tokenizers import Tokenizer, models, normalizers

    ids = vocabulary.readable()
    unknown = vocabulary.unknown()
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=_merges_by_score(vocabulary, ids),
            unk_token=unknown if unknown in ids else None,
            fuse_unk=False,
            byte_fallback=True,
        )
    )
    spaces: list[Any] = [normalizers.Replace(" ", PIECE_SPACE)]
    if vocabulary.get("add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend(PIECE_SPACE))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    return _with_user_defined(tokenizer, vocabulary)


def _merges_by_score(vocabulary: _TokenLists, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Return every cut of a normal token into two normal tokens, best scores first. Of equal scores the lower id
    comes first."""
    scores, types = vocabulary.scores(), vocabulary.types
    parts = {text for text, i in ids.items() if types[i] == TokenType.NORMAL}
    lengths = sorted({len(text) for text in parts})
    if lengths and lengths[-1] > _MAX_PIECE:
        longest = max(parts, key=len)
        vocabulary.refuse(f"token {ids[longest]} has {len(longest)} characters, more than {_MAX_PIECE}")
    made = sorted((-scores[ids[text]], ids[text], text) for text in parts if len(text) > 1)
    return [
        (text[:cut], text[cut:])
        for _, _, text in made
        for cut in takewhile(len(text).__gt__, lengths)
        if text[:cut] in parts and text[cut:] in parts
    ]


def _unigram(vocabulary: _TokenLists) -> Any:
    """Make Unigram. Tokens that no text becomes keep their ids, under texts that no text has."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    scores, types = vocabulary.scores(), vocabulary.types
    never = (*_NEVER, TokenType.UNKNOWN, TokenType.BYTE)
    worst = min((score for score, kind in zip(scores, types, strict=True) if kind not in never), default=0.0)
    pieces = [
        (f"\U0010ffff{i}", worst) if kind in never else (text, score)
        for i, (text, score, kind) in enumerate(zip(vocabulary.tokens, scores, types, strict=True))
    ]
    unknown = vocabulary.unknown()
    if unknown is None:
        vocabulary.refuse("the vocabulary has no token for unknown words")
    tokenizer = Tokenizer(
        models.Unigram(pieces, unk_id=vocabulary.tokens.index(unknown), byte_fallback=False)
    )
    steps: list[Any] = []
    charsmap = vocabulary.get("precompiled_charsmap")
    if charsmap is not None:
        steps.append(normalizers.Precompiled(bytes(charsmap)))
    if vocabulary.get("remove_extra_whitespaces", False):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if vocabulary.get("add_space_prefix", False) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(PIECE_SPACE, scheme, split=False)
    return _with_user_defined(tokenizer, vocabulary)


def _word_pieces(vocabulary: _TokenLists) -> Any:
    """Make BERT's WordPiece: pieces that begin a word have a visible space, the others continue a word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    ids = {
        text[1:] if text.startswith(PIECE_SPACE) else text if kind == TokenType.UNKNOWN else f"##{text}": i
        for i, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind not in _NEVER
    }
    unknown = vocabulary.unknown() or "[UNK]"
    if unknown not in ids:
        if unknown not in vocabulary.tokens:
            vocabulary.refuse("the vocabulary has no token for unknown words")
        ids[unknown] = vocabulary.tokens.index(unknown)
    model = models.WordPiece(vocab=ids, unk_token=unknown, max_input_chars_per_word=_MAX_WORD)
    tokenizer = Tokenizer(model)
    lowercase = vocabulary.get("normalizer.lowercase", True)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=vocabulary.get("normalizer.strip_accents", lowercase),
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _with_user_defined(tokenizer: Any, vocabulary: _TokenLists) -> Any:
    """Let user-defined tokens be found in the text before anything else."""
    from tokenizers import AddedToken

    kinds = zip(vocabulary.tokens, vocabulary.types, strict=True)
    texts = [text for text, kind in kinds if kind == TokenType.USER_DEFINED and text]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    return tokenizer
