"""Ends of text and vocabularies of another size than the embedding, family by family: llama.cpp on our vocabulary stops
where transformers stops, and gives the ids of the tokenizer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import SrdError
from srd_rs.metadata import Metadata
from srd_rs.vocab import load
from vocab_tools import LlamaVocab, added, byte_bpe, byte_vocabulary, rules_of, write_folder

BYTE_LEVEL = ("qwen2", "qwen3", "granite", "lfm2")
PIECES = ("llama", "phi3")  # llama: Mistral
TEXTS = ("<s>", "<end>", "<turn_end>", "<tool_end>", "<|im_end|>", "<new_word>")
KNOWN = "<|im_end|>"  # llama.cpp stops there without being told
VARIANTS: list[tuple[str, dict[str, Any], dict[str, Any] | None, set[str]]] = [
    ("one", {"eos_token_id": "<end>"}, None, {"<end>"}),
    ("list", {"eos_token_id": ["<end>", "<turn_end>"]}, None, {"<end>", "<turn_end>"}),
    (
        "three",
        {"eos_token_id": ["<turn_end>", "<end>", "<tool_end>"]},
        None,
        {"<end>", "<turn_end>", "<tool_end>"},
    ),
    ("generation", {}, {"eos_token_id": ["<end>", "<turn_end>"]}, {"<end>", "<turn_end>"}),
    ("generation-adds", {"eos_token_id": "<end>"}, {"eos_token_id": ["<tool_end>", "<end>"]}, {"<end>", "<tool_end>"}),
    ("generation-says-otherwise", {"eos_token_id": "<end>"}, {"eos_token_id": "<turn_end>"}, {"<turn_end>"}),
    ("generation-of-one-in-a-list", {"eos_token_id": "<end>"}, {"eos_token_id": ["<turn_end>"]}, {"<turn_end>"}),
    ("null", {"eos_token_id": None}, {"eos_token_id": "<end>"}, {"<end>"}),
    ("inside", {"text_config": {"eos_token_id": ["<end>", "<tool_end>"]}}, None, {"<end>", "<tool_end>"}),
    ("known", {"eos_token_id": ["<end>", KNOWN, "<turn_end>", "<tool_end>"]}, None, set(TEXTS[1:5])),
]  # fmt: skip


def tokenizer_of(arch: str) -> tuple[dict[str, Any], dict[str, int]]:
    """A tokenizer.json of the kind that the family has, and the ids of its special tokens."""
    if arch in BYTE_LEVEL:
        vocab, merges = byte_vocabulary(("t", "h"), ("th", "e"))
        first = len(vocab)
        listed = [added(first + i, text, special=i < 5) for i, text in enumerate(TEXTS)]
        return byte_bpe(vocab, merges, added_tokens=listed), {text: first + i for i, text in enumerate(TEXTS)}
    pieces = ["<unk>", "<s>", "<end>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581"]
    pieces += [*"abcdehlnortw", "\u2581t", "he", "\u2581the"]
    vocab = {text: i for i, text in enumerate(pieces)}
    ids = {text: vocab.get(text, len(vocab) + i - 2) for i, text in enumerate(TEXTS)}
    special = [added(0, "<unk>", special=True)]
    special += [added(token_id, text, special=text != TEXTS[5]) for text, token_id in ids.items()]
    merges = [["\u2581", "t"], ["h", "e"], ["\u2581t", "he"]]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    space = [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]
    return {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": space},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {**model, "vocab": vocab, "merges": merges},
    }, ids


def with_ids(value: Any, ids: dict[str, int]) -> Any:
    """The value with the ids of tokens in place of their texts."""
    if isinstance(value, dict):
        return {key: with_ids(part, ids) for key, part in value.items()}
    if isinstance(value, list):
        return [with_ids(part, ids) for part in value]
    return ids[value] if isinstance(value, str) else value


def read(
    arch: str, folder: Path, model: dict[str, Any], generation: dict[str, Any] | None, more_rows: int
) -> tuple[Metadata, dict[str, int]]:
    file, ids = tokenizer_of(arch)
    files = {"config_json": with_ids(model, ids)}
    if generation is not None:
        files["generation_config_json"] = with_ids(generation, ids)
    write_folder(folder, tokenizer_json=file, **files)
    rows = max(*ids.values(), *file["model"]["vocab"].values()) + 1 + more_rows
    return load(folder, config={}, n_vocab=rows, rules=rules_of(arch)), ids


@pytest.mark.parametrize("arch", [*BYTE_LEVEL, *PIECES])
@pytest.mark.parametrize(
    ("model", "generation", "stops"), [v[1:] for v in VARIANTS], ids=[v[0] for v in VARIANTS]
)
def test_ends(
    arch: str, model: dict[str, Any], generation: dict[str, Any] | None, stops: set[str], tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    metadata, ids = read(arch, tmp_path, model, generation, 3)
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    found = ours.ends()
    ours.close()
    assert found - {ids[KNOWN]} == {ids[text] for text in stops - {KNOWN}}


@pytest.mark.parametrize("arch", [*BYTE_LEVEL, *PIECES])
@pytest.mark.parametrize("more_rows", [0, 1, 50], ids=["as-many-rows", "one-more", "padded"])
def test_the_embedding_has_at_least_as_many_rows(arch: str, more_rows: int, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    metadata, _ = read(arch, tmp_path, {"eos_token_id": "<end>"}, None, more_rows)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokens = metadata.get("tokenizer.ggml.tokens")
    assert len(tokens) == theirs.get_vocab_size() + more_rows
    assert all(text.startswith("[PAD") for text in tokens[theirs.get_vocab_size() :])
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    words = ["the world", "ab the<turn_end>the", "the <new_word> the", "<|im_end|>", "ah<end>the"]
    got = [ours.encode(text, special=True) for text in words]
    ours.close()
    assert got == [theirs.encode(text, add_special_tokens=False).ids for text in words]


@pytest.mark.parametrize("arch", [*BYTE_LEVEL, *PIECES])
def test_the_embedding_lacks_rows_of_added_tokens(
    arch: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="srd_rs.vocab"):
        metadata, ids = read(arch, tmp_path, {"eos_token_id": "<end>"}, None, -1)
    assert len(metadata.get("tokenizer.ggml.tokens")) == ids["<new_word>"]
    assert "none for 1 added token: left out" in caplog.text
    assert "<new_word>" in caplog.text


@pytest.mark.parametrize("arch", [*BYTE_LEVEL, *PIECES])
def test_the_embedding_lacks_rows_of_the_vocabulary(arch: str, tmp_path: Path) -> None:
    with pytest.raises(SrdError, match=r"but the model has \d+ tokens"):
        read(arch, tmp_path, {"eos_token_id": "<end>"}, None, -len(TEXTS) - 1)
