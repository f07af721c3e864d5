"""Recognition of llama.cpp's pre-tokenizers from a tokenizer.json's own description of how text is split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splittings import BLOOM, GPT4O, NAMES, RAW
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


def load_json(
    folder: Path, file: dict[str, Any], config: dict[str, Any] | None = None, **more: Any
) -> Metadata:
    write_folder(folder, tokenizer_json=file, tokenizer_config_json=config or {})
    rows = 1 + max(*file["model"]["vocab"].values(), *(t["id"] for t in file["added_tokens"]), 0)
    return load(folder, config={"vocab_size": rows}, n_vocab=rows, **more)


@pytest.mark.parametrize(("pre_tokenizer", "ignore_merges", "name"), NAMES)
def test_the_name_of_a_splitting(
    tmp_path: Path, pre_tokenizer: dict[str, Any], ignore_merges: bool, name: str
) -> None:
    """`tests/test_vocab_tokens.py` compares what llama.cpp does under this name."""
    file = byte_bpe(
        *byte_vocabulary(("t", "h")), pre_tokenizer=pre_tokenizer, model={"ignore_merges": ignore_merges}
    )
    assert load_json(tmp_path, file).get("tokenizer.ggml.pre") == name


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
