"""Recognition of llama.cpp's pre-tokenizers from a tokenizer.json's own description of how text is split."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import ModelError, UsageError
from srd_rs.metadata import Metadata
from srd_rs.vocab import load
from vocab_tools import (
    KIMI,
    LLAMA3,
    QWEN2,
    LlamaVocab,
    added,
    byte_bpe,
    byte_level,
    byte_vocabulary,
    corpus,
    digits,
    many_texts,
    sequence,
    split,
    write_folder,
)

CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
TEKKEN = CASED % ("", "", r"\p{N}")
GPT4O = CASED % (ENDINGS, ENDINGS, r"\p{N}{1,3}")
DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
BAILING = CL100K.replace("{1,3}", "")
RAW = byte_level(False)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED = QWEN2.replace(r"\p{N}|", r"\p{N}{1}|").replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+")
EXAONE_MOE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
JAIS2 = LLAMA3.removesuffix(r"|\s+(?!\S)|\s+") + "".join(
    [*(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)), r"|\s{1,2}(?!\S)|\s{1}"]
)
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
SPARK = DEEPSEEK3.replace("\\p{S}]+[\r\n]*|\\s*[\r\n]+", "\\p{S}]+|[\r\n]")
AFMOE = (
    r"\p{Nd}{1,510}(?=(?>\p{Nd}{510})*(?:\P{Nd}|$))|\G\p{Nd}{510}",
    r"\A\p{Nd}{1,2}(?=\p{Nd}{3}+\z)",
    r"\A\p{Nd}{3}|\G\p{Nd}{3}",
    r"(?:[\u4E00-\u9FFF\u3040-\u309F\u30A0-\u30FF\u3400-\u4DBF\uf900-\uFAFF\uFF65-\uFF9F\u2F00-\u2FDF]+"
    r"|[\u0E00-\u0E7F]+|[\u0E80-\u0EFF]+|[\u1780-\u17FF]+|[\u1000-\u109F\uAA60-\uAA7F\uA9E0-\uA9FF]+"
    r"|[\uAC00-\uD7AF\u1100-\u11FF]+)",
)
YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+",
    "[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+",
    "[\u3105-\u312f]+",
    KANA,
)
CHAMELEON = ("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\t\n]|    |  )")
PUNCTUATION = {"type": "Punctuation", "behavior": "Isolated"}


def merged_with_next(regex: str) -> dict[str, Any]:
    return split(regex) | {"behavior": "MergedWithNext"}


NAMES = [
    (byte_level(), False, "gpt-2"),
    (sequence(digits(True), byte_level()), False, "starcoder"),
    (sequence(split(LLAMA3), RAW), True, "llama-bpe"),
    (sequence(split(LLAMA3), RAW), False, "dbrx"),
    (sequence(split(CL100K), RAW), True, "llama-bpe"),
    (sequence(split(QWEN2), RAW), False, "qwen2"),
    (sequence(split(TEKKEN), RAW), True, "tekken"),
    (sequence(split(GPT4O), RAW), False, "gpt-4o"),
    (sequence(split(r"\p{N}{1,3}"), split(KANA), split(DEEPSEEK3), RAW), False, "deepseek-v3"),
    (
        sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(HANGUL), digits(True), RAW),
        False,
        "deepseek-coder",
    ),
    (
        sequence(
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(),
            digits(False),
            split("[0-9][0-9][0-9]"),
        ),
        False,
        "falcon",
    ),
    (sequence(split(BAILING), RAW), False, "bailingmoe"),
    (sequence(split(QWEN35), RAW), False, "qwen35"),
    (sequence(split(GPT4O), RAW), True, "granite-embed-multi-97m"),
    (sequence(split(r"\p{N}{1,3}"), split(QWEN2.replace(r"|\p{N}|", r"|\p{N}+|")), RAW), True, "minicpm5"),
    (sequence(split(SEED), RAW), False, "seed-coder"),
    (sequence(split(QWEN2.split("|", 7)[-1]), RAW), False, "ufakzeka"),
    (sequence(split(EXAONE_MOE), RAW), False, "exaone-moe"),
    (sequence(split(JAIS2), RAW), False, "jais-2"),
    (sequence(split(r"\d{1,3}(?=(?:\d{3})*\b)"), split(GPT4O), RAW), False, "tiny_aya"),
    (sequence(split(BLOOM), RAW), False, "bloom"),
    (sequence(split(BLOOM), digits(True), RAW), False, "viking"),
    (sequence(merged_with_next(r"(?:\r?\n)+(?!\r?\n)"), split(QWEN2), RAW), False, "laguna"),
    (sequence(*map(split, AFMOE), split(DEEPSEEK3), RAW), False, "afmoe"),
    (sequence(*map(split, YOUTU), split(GPT4O.replace("{1,3}", "")), RAW), True, "youtu"),
    (sequence(split("|".join(YOUTU)), split(GPT4O.replace("{1,3}", "")), RAW), True, "youtu"),
    (sequence(split(r"\p{N}{1,3}"), split(KANA), split(SPARK), digits(True), RAW), False, "spark2_5"),
    (sequence(digits(False), split(r"(?=(\d{3})+(?!\d))"), RAW), False, "superbpe"),
    (sequence(*map(split, CHAMELEON), digits(True), PUNCTUATION, byte_level()), False, "chameleon"),
]


IN_ANOTHER_WAY = {"tiny_aya": r"\s\s\d", "afmoe": r"\s\s\d", "laguna": r"\r\n"}
"""Where llama.cpp itself splits in another way: it leaves the spaces before a number with the number, and cuts
a carriage return from a newline."""


def trained(pre_tokenizer: dict[str, Any], ignore_merges: bool) -> dict[str, Any]:
    """A tokenizer.json that the tokenizers library trained, splitting as `pre_tokenizer` says."""
    tokenizers = pytest.importorskip(
        "tokenizers", reason="tokenizers is not installed: nothing was compared with it"
    )
    base = byte_bpe(*byte_vocabulary(("a", "b")), pre_tokenizer=pre_tokenizer)
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(base))
    alphabet = list(byte_vocabulary()[0])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=alphabet, special_tokens=["<|end|>"]
    )
    tokenizer.train_from_iterator(many_texts(120), trainer)
    file: dict[str, Any] = json.loads(tokenizer.to_str())
    file["model"]["ignore_merges"] = ignore_merges
    return file


def load_json(
    folder: Path, file: dict[str, Any], config: dict[str, Any] | None = None, **more: Any
) -> Metadata:
    write_folder(folder, tokenizer_json=file, tokenizer_config_json=config or {})
    rows = 1 + max(*file["model"]["vocab"].values(), *(t["id"] for t in file["added_tokens"]), 0)
    return load(folder, config={"vocab_size": rows}, n_vocab=rows, **more)


@pytest.mark.parametrize(("pre_tokenizer", "ignore_merges", "name"), NAMES)
def test_name_and_llama_cpp_splits_the_same(
    tmp_path: Path, pre_tokenizer: dict[str, Any], ignore_merges: bool, name: str
) -> None:
    file = trained(pre_tokenizer, ignore_merges)
    metadata = load_json(tmp_path, file)
    assert metadata.get("tokenizer.ggml.pre") == name
    pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: nothing was compared with llama.cpp"
    )
    import tokenizers

    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    passed_over = re.compile(IN_ANOTHER_WAY.get(name, r"(?!)"))
    texts = [t for t in many_texts(1000) if not passed_over.search(t)]
    assert len(texts) > 800
    different = [t for t in texts if ours.encode(t) != theirs.encode(t, add_special_tokens=False).ids]
    ours.close()
    assert different == []


@pytest.mark.parametrize(
    ("regex", "ignore_merges", "name"),
    [(KIMI, False, "kimi-k2"), (GPT4O.replace("{1,3}", ""), True, "falcon-h1")],
)
def test_names_of_which_llama_cpp_knows_another_splitting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, regex: str, ignore_merges: bool, name: str
) -> None:
    file = byte_bpe(
        *byte_vocabulary(("t", "h")),
        pre_tokenizer=sequence(split(regex), RAW),
        model={"ignore_merges": ignore_merges},
    )
    assert load_json(tmp_path, file).get("tokenizer.ggml.pre") == name
    assert f"llama.cpp knows this splitting as {name}, but" in caplog.text


def test_clean_up_decides_between_bloom_and_poro(tmp_path: Path) -> None:
    file = byte_bpe(*byte_vocabulary(("t", "h")), pre_tokenizer=sequence(split(BLOOM), RAW))
    metadata = load_json(tmp_path, file, {"clean_up_tokenization_spaces": False})
    assert metadata.get("tokenizer.ggml.pre") == "poro-chat"


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("kind", ["Whitespace", "WhitespaceSplit"])
def test_words_between_white_space(tmp_path: Path, kind: str, lowercase: bool) -> None:
    """BPE on characters behind white space: llama.cpp's kind of vocabulary is `whitespace`."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = getattr(tokenizers.pre_tokenizers, kind)()
    if lowercase:
        tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=900, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    metadata = load_json(tmp_path, json.loads(tokenizer.to_str()))
    assert metadata.get("tokenizer.ggml.model") == metadata.get("tokenizer.ggml.pre") == "whitespace"
    assert metadata.get("tokenizer.ggml.normalizer.lowercase") is (True if lowercase else None)
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    texts = many_texts(1000)
    different = [t for t in texts if ours.encode(t) != tokenizer.encode(t, add_special_tokens=False).ids]
    ours.close()
    assert different == []


def test_added_tokens_change_nothing(tmp_path: Path) -> None:
    """The reference, which hashes token ids, does not know a tokenizer with other words in it."""
    vocab, merges = byte_vocabulary(("t", "h"), ("th", "e"))
    file = byte_bpe(vocab, merges, added_tokens=[added(len(vocab), "<my token>", special=True)])
    assert load_json(tmp_path, file).get("tokenizer.ggml.pre") == "llama-bpe"


@pytest.mark.parametrize(
    ("token", "pre_tokenizer", "ignore_merges", "name"),
    [
        ("[gMASK]", sequence(split(LLAMA3), RAW), True, "glm4"),
        ("[gMASK]", sequence(split(LLAMA3), RAW), False, "chatglm-bpe"),
        ("<|begin_of_text|>", sequence(split(LLAMA3), RAW), False, "smaug-bpe"),
        ("<|begin_of_text|>", sequence(split(GPT4O), RAW), False, "llama4"),
        ("<|START_OF_TURN_TOKEN|>", sequence(digits(True), byte_level()), False, "command-r"),
        ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", sequence(split(QWEN2), RAW), False, "deepseek-r1-qwen"),
    ],
)
def test_names_of_the_same_splitting_by_a_token(
    tmp_path: Path, token: str, pre_tokenizer: dict[str, Any], ignore_merges: bool, name: str
) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    file = byte_bpe(
        vocab,
        merges,
        pre_tokenizer=pre_tokenizer,
        model={"ignore_merges": ignore_merges},
        added_tokens=[added(len(vocab), token)],
    )
    assert load_json(tmp_path, file).get("tokenizer.ggml.pre") == name


def test_clean_up_decides_between_starcoder_and_smollm(tmp_path: Path) -> None:
    file = byte_bpe(*byte_vocabulary(("t", "h")), pre_tokenizer=sequence(digits(True), byte_level()))
    metadata = load_json(tmp_path, file, {"clean_up_tokenization_spaces": False})
    assert metadata.get("tokenizer.ggml.pre") == "smollm"


def test_an_unknown_splitting_is_an_error_that_shows_it(tmp_path: Path) -> None:
    file = byte_bpe(*byte_vocabulary(("t", "h")), pre_tokenizer=sequence(split("[abc]+|x"), RAW))
    with pytest.raises(ModelError, match=r"\[abc\]\+\|x.*--pre-tokenizer"):
        load_json(tmp_path, file)
    assert load_json(tmp_path, file, pre="qwen2").get("tokenizer.ggml.pre") == "qwen2"
    with pytest.raises(UsageError, match="qwen-two"):
        load_json(tmp_path, file, pre="qwen-two")


def test_a_split_that_keeps_the_separator_elsewhere_is_not_taken_for_another(tmp_path: Path) -> None:
    merged = split(LLAMA3) | {"behavior": "MergedWithNext"}
    file = byte_bpe(*byte_vocabulary(("t", "h")), pre_tokenizer=sequence(merged, RAW))
    with pytest.raises(ModelError, match="MergedWithNext"):
        load_json(tmp_path, file)
