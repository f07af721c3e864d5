"""The tokenizer metadata of the fixture checkpoints is what llama.cpp's own converter writes."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import FormatError, ModelError
from srd_rs.metadata import Metadata
from srd_rs.vocab import load
from srd_rs.vocab.sentencepiece import read_model
from vocab_tools import LlamaVocab, many_texts, rules_of

FIXTURES = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3moe", "phi3", "gemma2", "gemma3"),
    *("gemma4_e2b", "gemma4_moe", "gemma4_moe_google"),
)
KNOWN_DIFFERENCES = {
    # The reference gives every token -1000, with which llama.cpp does not tokenize as the tokenizer does.
    ("mistral", "tokenizer.ggml.scores"),
    # Tokens that tokenizer.json alone marks special: normal ones for the reference, which cuts them into pieces.
    *((name, "tokenizer.ggml.token_type") for name in ("gemma4_e2b", "gemma4_moe", "gemma4_moe_google")),
}


def model_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    return {**config, **config.get("text_config", {})}


def load_fixture(folder: Path) -> tuple[Metadata, dict[str, Any]]:
    expected = json.loads((folder / "expected.json").read_text())
    rows = expected["kv"]["tokenizer.ggml.tokens"]["len"]
    arch = expected["kv"]["general.architecture"]
    return load(folder, config=model_config(folder), rules=rules_of(arch), n_vocab=rows), expected


def raw_sha256(kind: str, values: list[Any]) -> str:
    """SHA-256 of the bytes of an array's elements in a GGUF."""
    digest = hashlib.sha256()
    for value in values:
        if kind == "ARRAY[STRING]":
            raw = value.encode()
            digest.update(struct.pack("<Q", len(raw)) + raw)
        else:
            digest.update(struct.pack({"ARRAY[INT32]": "<i", "ARRAY[FLOAT32]": "<f"}[kind], value))
    return digest.hexdigest()


@pytest.mark.parametrize("name", FIXTURES)
def test_every_key_is_the_reference_converters(fixtures: Path, name: str) -> None:
    metadata, expected = load_fixture(fixtures / name)
    assert list(metadata) == [key for key in expected["kv_order"] if key.startswith("tokenizer.")]
    for key, kind, value in metadata.entries():
        assert kind == expected["kv_types"][key], key
        wanted = expected["kv"][key]
        if (name, key) in KNOWN_DIFFERENCES:
            continue
        if isinstance(wanted, dict):
            assert isinstance(value, list)
            assert len(value) == wanted["len"], key
            assert raw_sha256(kind, value) == wanted["sha256_raw"], key
        else:
            assert value == wanted, key


def test_scores_from_merges_are_those_of_the_model_they_came_from(fixtures: Path) -> None:
    """The mistral fixture has the llama fixture's vocabulary, but only as merges."""
    metadata, _ = load_fixture(fixtures / "mistral")
    scores = metadata.get("tokenizer.ggml.scores")
    pieces = read_model(fixtures / "llama" / "tokenizer.model").pieces
    normal = [(piece.text, piece.score) for piece in pieces if piece.kind == 1]
    tokens = metadata.get("tokenizer.ggml.tokens")
    derived = [(tokens[i], scores[i]) for i, piece in enumerate(pieces) if piece.kind == 1]
    assert len(normal) > 3000
    assert derived == normal


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma4_e2b", "qwen2"])
def test_llama_cpp_tokenizes_as_the_tokenizer_does(fixtures: Path, tmp_path: Path, name: str) -> None:
    tokenizers = pytest.importorskip(
        "tokenizers", reason="tokenizers is not installed: nothing was compared with it"
    )
    pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: nothing was compared with llama.cpp"
    )
    metadata, _ = load_fixture(fixtures / name)
    theirs = tokenizers.Tokenizer.from_file(str(fixtures / name / "tokenizer.json"))
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    texts = many_texts(240)
    different = [t for t in texts if ours.encode(t) != theirs.encode(t, add_special_tokens=False).ids]
    ours.close()
    assert different == []


def test_hostile_tokenizers_are_refused_with_their_name(bad_models: Path) -> None:
    folders = sorted(bad_models.glob("tokenizer_*"))
    assert len(folders) >= 10
    for folder in folders:
        with pytest.raises((FormatError, ModelError), match=folder.name):
            load(folder, config=model_config(folder), n_vocab=288)


def test_the_control_of_the_hostile_ones_is_accepted(bad_models: Path) -> None:
    folder = bad_models / "ok"
    metadata = load(folder, config=model_config(folder), n_vocab=288)
    assert len(metadata.get("tokenizer.ggml.tokens")) == 288
