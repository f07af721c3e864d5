"""A tokenizer of every kind and of every pre-tokenizer, in a folder, with the ids that its own library gives.

The vocabularies are trained with a seed.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from splittings import GPT4O, NAMES, RAW
from srd_rs.errors import ModelError
from srd_rs.metadata import Metadata
from srd_rs.vocab import FILES_DECIDE, load, pretokenizer
from srd_rs.vocab.rules import ENCODER, GEMMA4, LLAMA, T5, VocabularyRules
from test_vocab_ends import trained_word_pieces
from test_vocab_ranks import TIKTOKEN, tekken, tiktoken_file
from test_vocab_unigram import ROLES, unigram_json
from test_vocab_words import (
    PLAMO_ROLES,
    plamo_encoder,
    plamo_entries,
    plamo_file,
    rwkv_encoder,
    rwkv_file,
    rwkv_tokens,
)
from token_texts import composed, token_texts, with_chats
from vocab_tools import (
    KIMI,
    TEKKEN,
    LlamaVocab,
    added,
    byte_bpe,
    byte_ranks,
    byte_vocabulary,
    corpus,
    sequence,
    split,
    write_folder,
)

CHAT: Final = ["<|turn|>", "<|turn_end|>", "<tool>"]
Encoder = Callable[[str], list[int]]


@dataclass(frozen=True)
class Made:
    """A folder with a tokenizer."""

    encode: Encoder
    """The ids that the tokenizer's own library gives."""
    rows: int
    rules: VocabularyRules = FILES_DECIDE
    chat: tuple[str, ...] = ()
    """Special tokens that the library finds in a text."""
    pre: str | None = None
    """The name for `--pre-tokenizer`, where no file says it."""


@dataclass(frozen=True)
class Difference:
    """Texts that llama.cpp itself reads in another way than the library."""

    where: Callable[[str], bool]
    why: str


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    make: Callable[[Path], Made]
    differs: tuple[Difference, ...] = ()
    make_crossing: Callable[[Path], Made] | None = None
    """The same with merges that cross every cut."""


@dataclass(frozen=True)
class Compared:
    pre: str
    given: bool
    """The user must name the pre-tokenizer."""
    different: tuple[str, ...]
    unexplained: tuple[str, ...]


def compare(case: Case, folder: Path, count: int, *, crossing: bool = False) -> Compared:
    """Convert the tokenizer of a case, load it in llama.cpp, and compare the ids of `count` texts."""
    make = case.make_crossing if crossing and case.make_crossing else case.make
    made = make(folder)
    metadata, given = _loaded(folder, made)
    ours = LlamaVocab(metadata, folder / "vocab.gguf")
    texts = with_chats(count, list(made.chat))
    different = [text for text in texts if ours.encode(text, special=bool(made.chat)) != made.encode(text)]
    ours.close()
    pre = metadata.get("tokenizer.ggml.pre") if "tokenizer.ggml.pre" in metadata else "-"
    unexplained = [text for text in different if not any(known.where(text) for known in case.differs)]
    return Compared(pre, given, tuple(different), tuple(unexplained))


def _loaded(folder: Path, made: Made) -> tuple[Metadata, bool]:
    """Return the metadata, and whether the user has to name the pre-tokenizer."""
    config = {"vocab_size": made.rows}
    if made.pre is not None:
        try:
            found = load(folder, config=config, rules=made.rules, n_vocab=made.rows)
        except ModelError:
            found = None
        if found is None or found.get("tokenizer.ggml.pre") != made.pre:
            return load(folder, config=config, rules=made.rules, n_vocab=made.rows, pre=made.pre), True
        return found, False
    return load(folder, config=config, rules=made.rules, n_vocab=made.rows), False


# Byte-level BPE: every name of a pre-tokenizer


@cache
def _trained(pre_tokenizer: str) -> tuple[dict[str, int], list[Any]]:
    """Return a vocabulary and its merges, for texts that are split as the JSON in `pre_tokenizer` says."""
    import tokenizers

    base = byte_bpe(*byte_vocabulary(("a", "b")), pre_tokenizer=json.loads(pre_tokenizer))
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(base))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000, show_progress=False, initial_alphabet=list(byte_vocabulary()[0])
    )
    texts = token_texts(700) + corpus()
    words = [word for text in texts for word in re.findall(r"\s?\S+", text)]
    tokenizer.train_from_iterator([*texts, *words], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def byte_level_file(
    pre_tokenizer: dict[str, Any], *, ignore_merges: bool, normalizer: Any = None, crossing: bool = False
) -> dict[str, Any]:
    """A tokenizer.json with three added tokens. The merges are those of the splitting, as in a published model, or
    they cross every place where a text could be cut: then each cut that llama.cpp leaves out shows as well."""
    vocab, merges = _trained(json.dumps(RAW if crossing else pre_tokenizer))
    tokens = [added(len(vocab) + i, text, special=text != CHAT[2]) for i, text in enumerate(CHAT)]
    return byte_bpe(
        vocab,
        merges,
        pre_tokenizer=pre_tokenizer,
        normalizer=normalizer,
        added_tokens=tokens,
        model={"ignore_merges": ignore_merges},
    )


def tokenizer_json(folder: Path, file: dict[str, Any], **more: Any) -> Made:
    """Write a tokenizer.json; the tokenizers library gives its ids."""
    import tokenizers

    write_folder(folder, tokenizer_json=file, tokenizer_config_json=more.pop("config", {}))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    chat = tuple(token["content"] for token in file["added_tokens"] if token["content"] in CHAT)
    rows = 1 + max(theirs.get_vocab().values())
    return Made(lambda text: theirs.encode(text, add_special_tokens=False).ids, rows, chat=chat, **more)


_DIGITS_ALONE: Final = GPT4O.replace("{1,3}", "")
_OWN: Final = {
    "kimi-k2": sequence(split(KIMI), RAW),
    "falcon-h1": sequence(split(_DIGITS_ALONE), RAW),
    "default": sequence(*map(split, pretokenizer.steps_named("default") or ()), RAW),
}
"""Published splittings of names that `NAMES` has not."""
_NFC: Final = ("command-r", "qwen2", "qwen35", "f2llmv2", "olmo", "modern-bert")
"""Published tokenizers of these names bring a text into the normal form C."""


def splitting_of(name: str) -> dict[str, Any]:
    """Return the ``pre_tokenizer`` of the published models that llama.cpp calls `name`."""
    by_name = {known: pre for pre, _, known in reversed(NAMES)}
    if name in _OWN:
        return _OWN[name]
    groups = [
        {splitting.plain, splitting.ignoring, splitting.clean, *(text for _, text in splitting.marked)}
        for _, splitting in pretokenizer.SPLITTINGS
    ]
    groups.append(
        {other for other in by_name if pretokenizer.steps_named(other) == pretokenizer.steps_named(name)}
    )
    for group in ({name}, groups.pop(), *(group for group in groups if name in group)):
        found = [by_name[other] for other in sorted(filter(None, group)) if other in by_name]
        if found:
            return found[0]
    raise LookupError(name)


def _byte_level(name: str, *, crossing: bool = False) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        normalizer = {"type": "NFC"} if name in _NFC else None
        whole = name in pretokenizer.WHOLE_WORDS
        file = byte_level_file(
            splitting_of(name), ignore_merges=whole, normalizer=normalizer, crossing=crossing
        )
        return tokenizer_json(folder, file, pre=name)

    return make


# The other kinds


def _sentencepiece(**options: Any) -> bytes:
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(token_texts(700) + corpus()),
        model_writer=out,
        vocab_size=2500,
        character_coverage=0.98,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return out.getvalue()


def _sentencepiece_model(
    name: str, rules: VocabularyRules = FILES_DECIDE, **options: Any
) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        import sentencepiece

        model = _sentencepiece(**options)
        (folder / name).write_bytes(model)
        return Made(sentencepiece.SentencePieceProcessor(model_proto=model).encode, 2500, rules)

    return make


def _unigram(*, newer: bool) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        file = unigram_json(_sentencepiece(model_type="unigram"), folder / "model", newer=newer)
        tokens = [
            added(len(file["model"]["vocab"]) + i, text, special=text != CHAT[2])
            for i, text in enumerate(CHAT)
        ]
        file["added_tokens"] += tokens
        config = {**ROLES, "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
        return tokenizer_json(folder, file, config=config, rules=ENCODER)

    return make


def raw_bpe(*, spaces: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json of BPE on raw text with visible spaces, whose unknown characters become bytes."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("\u2581", "never", split=True)
    first = ["<unk>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2500,
        show_progress=False,
        limit_alphabet=600,
        special_tokens=[*first, *(f"<0x{byte:02X}>" for byte in range(256))],
    )
    lines = [line for text in token_texts(700) + corpus() for line in text.split("\n")]
    tokenizer.train_from_iterator(lines, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    size = len(model["vocab"])
    special = [added(i, text, special=True) for i, text in enumerate(first)]
    special += [added(size + i, text, special=text != CHAT[2]) for i, text in enumerate(CHAT)]
    return {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {**model, "ignore_merges": False},
        **spaces,
    }


_REPLACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_PREPEND: Final = {"type": "Prepend", "prepend": "\u2581"}
_BEFORE: Final = {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}
_FIRST_ONLY: Final = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
_T5_IDS: Final = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
_LLAMA_ROLES: Final = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _raw(rules: VocabularyRules, **spaces: Any) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        return tokenizer_json(folder, raw_bpe(spaces=spaces), rules=rules, config=_LLAMA_ROLES)

    return make


def _word_pieces(folder: Path) -> Made:
    config = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    return tokenizer_json(folder, trained_word_pieces(), config=config, rules=ENCODER)


def _white_space(kind: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        import tokenizers

        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = getattr(tokenizers.pre_tokenizers, kind)()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=3000, show_progress=False)
        tokenizer.train_from_iterator(token_texts(700) + corpus(), trainer)
        return tokenizer_json(folder, json.loads(tokenizer.to_str()))

    return make


def _tiktoken(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        import tiktoken

        kind, pattern, _, special = TIKTOKEN[name]
        ranks = byte_ranks(pattern)
        ids = {text: len(ranks) + i for i, text in enumerate(special)}
        decoder = {str(i): {"content": text, "special": True} for text, i in ids.items()}
        (folder / name).write_bytes(tiktoken_file(ranks))
        write_folder(folder, tokenizer_config_json={"tokenizer_class": kind, "added_tokens_decoder": decoder})
        theirs = tiktoken.Encoding("made", pat_str=pattern, mergeable_ranks=ranks, special_tokens=ids)
        encode = lambda text: theirs.encode(text, allowed_special="all")  # noqa: E731
        return Made(encode, len(ranks) + len(special), chat=special[:3])

    return make


def _tekken(published: str | None) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        import mistral_common
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        path = folder / "tekken.json"
        if published is None:
            ranks = byte_ranks(TEKKEN)
            path.write_text(json.dumps(tekken(ranks, ["<unk>", "<s>", "</s>"], 30)))
            rows = len(ranks) + 30
        else:
            path.write_bytes((Path(mistral_common.__file__).parent / "data" / published).read_bytes())
            rows = json.loads(path.read_bytes())["config"]["default_vocab_size"]
        theirs = Tekkenizer.from_file(path)
        return Made(lambda text: theirs.encode(text, bos=False, eos=False), rows, LLAMA)

    return make


def _rwkv(folder: Path) -> Made:
    tokens = rwkv_tokens()
    (folder / "rwkv_vocab_v20230424.txt").write_text(rwkv_file(tokens), encoding="utf-8")
    return Made(rwkv_encoder(tokens), len(tokens) + 5)


def _plamo(folder: Path) -> Made:
    entries = plamo_entries()
    write_folder(folder, tokenizer_jsonl=plamo_file(entries), tokenizer_config_json=PLAMO_ROLES)
    return Made(plamo_encoder(entries), len(entries))


# Where llama.cpp itself reads a text in another way. docs/differences.md has these reasons.


def _holding(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.search(text) is not None


def _categories(*names: str, beyond: int = 0) -> Callable[[str], bool]:
    """Say whether a text has a character of these categories of Unicode, beyond a code."""
    return lambda text: any(ord(c) > beyond and unicodedata.category(c).startswith(names) for c in text)


def _capital_behind_small(text: str) -> bool:
    kinds = [unicodedata.category(c) for c in text]
    return any(a == "Ll" and b == "Lu" for a, b in pairwise(kinds))


def _untrained(text: str) -> bool:
    known = set("".join([*token_texts(700), *corpus()]))
    return not set(text) <= known


_NOT_COMPOSED: Final = Difference(lambda text: not composed(text), "no normal form C")
_MARKS: Final = Difference(_categories("M"), "marks")
_LETTERS: Final = Difference(_categories("Lu", "Ll", "Lt", beyond=127), "letters with a case beyond ASCII")
_CAPITALS: Final = Difference(_capital_behind_small, "a capital behind a small letter")
_NUMBER: Final = Difference(_holding(r"\s\s\d"), "two spaces before a number")
_LONG_NUMBER: Final = Difference(_holding(r"\d{2}[^\W\d]"), "a letter behind a number")
_LINE_END: Final = Difference(_holding(r"\r\n"), "CR LF")
_SPACES: Final = Difference(_holding(r"[^\S\x00-\x7f]"), "white space beyond ASCII")
_DIGITS: Final = Difference(_categories("Nd", beyond=127), "digits beyond ASCII")
_THAI: Final = Difference(_holding("[\u0e01-\u0e3f]"), "Thai")
_END_MARK: Final = Difference(_holding("\u061d"), "the mark U+061D")
_NEXT_LINE: Final = Difference(_holding("\x85"), "U+0085")
_CONTROL: Final = Difference(_holding("[\x0b\x85]"), "control characters that are white space")
_HANGUL: Final = Difference(_holding("[\u1100-\u11ff\uac00-\ud7a3]"), "Hangul")
_STRANGE: Final = Difference(_untrained, "characters that the vocabulary lacks")
_FIRST: Final = Difference(
    lambda text: text.startswith(" ") or any(token in text for token in CHAT), "a space before the text"
)
_NORMALIZED: Final = Difference(lambda text: " ".join(text.split()) != text or not _plain(text), "NFKC")
_OTHER: Final = Difference(lambda text: True, "another splitting")


def _plain(text: str) -> bool:
    return unicodedata.is_normalized("NFKC", text) and not _categories("Cf", "Cc")(text)


_CASED: Final = (_MARKS, _LETTERS)
_DIFFERS: Final[dict[str, tuple[Difference, ...]]] = {
    **dict.fromkeys(_NFC, (_NOT_COMPOSED,)),
    **dict.fromkeys(("tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _CASED),
    "gpt2 (tekken.json)": _CASED,
    "granite-embed-multi-97m": (_LETTERS,),
    "youtu": (_CAPITALS,),
    "kimi-k2": (_MARKS, _CAPITALS),
    "falcon-h1": (_OTHER,),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), (_CAPITALS, _NUMBER, _LONG_NUMBER, _DIGITS)),
    "afmoe": (_THAI, _NUMBER, _DIGITS),
    "laguna": (_LINE_END,),
    "deepseek-llm": (_SPACES,),
    "superbpe": (_DIGITS,),
    **dict.fromkeys(("chameleon", "falcon"), (_END_MARK,)),
    "whitespace": (_STRANGE,),
    "llama": (_NORMALIZED,),
    "Metaspace first": (_FIRST,),
    "tokenizer.json before 4.40": (_NEXT_LINE, _MARKS),
    "tokenizer.json": (_NEXT_LINE, _MARKS),
    "WordPiece": (_HANGUL, _MARKS, _CONTROL),
}


def cases() -> list[Case]:
    """Return a case for every kind of tokenizer and every pre-tokenizer."""
    names = sorted(pretokenizer.KNOWN - pretokenizer.UNCUT - {"whitespace"})
    found = [
        Case(name, "gpt2 (tokenizer.json)", _byte_level(name), make_crossing=_byte_level(name, crossing=True))
        for name in names
    ]
    found += [Case(name, "gpt2 (tiktoken)", _tiktoken(name)) for name in TIKTOKEN]
    found += [Case("trained", "gpt2 (tekken.json)", _tekken(None))]
    found += [
        Case(name.removesuffix(".json"), "gpt2 (tekken.json)", _tekken(name))
        for name in ("tekken_240718.json", "tekken_240911.json")
    ]
    found += [Case(kind, "whitespace", _white_space(kind)) for kind in ("Whitespace", "WhitespaceSplit")]
    bpe: dict[str, Any] = {"model_type": "bpe", "byte_fallback": True}
    spm = {
        "llama": {},
        "identity": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    }
    for name, options in spm.items():
        found.append(
            Case(name, "llama (tokenizer.model)", _sentencepiece_model("tokenizer.model", **bpe, **options))
        )
    found += [
        Case("Prepend", "llama (tokenizer.json)", _raw(LLAMA, normalizer=_BEFORE)),
        Case("Metaspace first", "llama (tokenizer.json)", _raw(LLAMA, pre_tokenizer=_FIRST_ONLY)),
        Case("no space", "llama (tokenizer.json)", _raw(LLAMA, normalizer=_REPLACE)),
        Case("gemma4", "gemma4", _raw(GEMMA4, normalizer=_REPLACE)),
        Case(
            "spiece.model",
            "t5",
            _sentencepiece_model("spiece.model", T5, model_type="unigram", **_T5_IDS),
        ),
        Case("tokenizer.json before 4.40", "t5", _unigram(newer=False)),
        Case("tokenizer.json", "t5", _unigram(newer=True)),
        Case("WordPiece", "bert", _word_pieces),
        Case("RWKV", "rwkv", _rwkv),
        Case("PLaMo", "plamo2", _plamo),
    ]
    known = ((case, _DIFFERS.get(case.name, _DIFFERS.get(case.kind, ()))) for case in found)
    return [replace(case, differs=differs) for case, differs in known]
