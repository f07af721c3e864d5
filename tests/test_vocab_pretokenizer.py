"""Recognition of llama.cpp's pre-tokenizers from a tokenizer.json's own description of how text is split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import ModelError, UsageError
from srd_rs.metadata import Metadata
from srd_rs.vocab import load
from vocab_tools import (
    LLAMA3,
    QWEN2,
    LlamaVocab,
    added,
    byte_bpe,
    byte_level,
    byte_vocabulary,
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
]


def trained(pre_tokenizer: dict[str, Any], ignore_merges: bool) -> dict[str, Any]:
    """A tokenizer.json that the tokenizers library trained, splitting as `pre_tokenizer` says."""
    import json

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
    different = [
        t for t in many_texts(200) if ours.encode(t) != theirs.encode(t, add_special_tokens=False).ids
    ]
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
