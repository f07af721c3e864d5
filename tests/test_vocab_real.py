"""Real vocabularies with the tokenizations that llama.cpp keeps for its own tests.

They lie in the folder `models` of llama.cpp's sources, which the source distribution of llama-cpp-python has under
`vendor/llama.cpp`. Name that folder as LLAMA_CPP_SOURCE. The vocabularies are GGUFs: each is written as the
tokenizer.json that it came from, converted again, and must give the kept ids.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from srd_rs._core import read_gguf
from srd_rs.vocab import load
from srd_rs.vocab.rules import ENCODER, GEMMA4, VocabularyRules
from srd_rs.vocab.tokenizer import from_metadata
from vocab_tools import (
    LLAMA3,
    QWEN2,
    LlamaVocab,
    added,
    byte_level,
    digits,
    many_texts,
    sequence,
    split,
    write_folder,
)

SOURCE = os.environ.get("LLAMA_CPP_SOURCE")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCE, reason="LLAMA_CPP_SOURCE is not set: no real vocabulary was read"),
]
KEY = "tokenizer.ggml."
CONTROL, USER_DEFINED = 3, 4
RAW = byte_level(False)
PUNCTUATION = {"type": "Punctuation", "behavior": "Contiguous"}
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
CODER = sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(HANGUL), digits(True), RAW)
SPLITTINGS: dict[str, tuple[dict[str, Any], bool]] = {
    "gpt-2": (byte_level(), False),
    "mpt": (byte_level(), False),
    "starcoder": (sequence(digits(True), byte_level()), False),
    "refact": (sequence(digits(True), byte_level()), False),
    "command-r": (sequence(digits(True), byte_level()), False),
    "llama-bpe": (sequence(split(LLAMA3), RAW), True),
    "qwen2": (sequence(split(QWEN2), RAW), False),
    "qwen35": (sequence(split(QWEN35), RAW), False),
    "falcon": (sequence(PUNCTUATION, byte_level(), digits(False), split("[0-9][0-9][0-9]")), False),
    "deepseek-coder": (CODER, False),
}


def contents(name: str) -> dict[str, Any]:
    path = Path(SOURCE or "") / "models" / f"ggml-vocab-{name}.gguf"
    return {key: value for key, _, value in read_gguf(path)["metadata"]}


def golden(name: str) -> list[tuple[str, list[int]]]:
    """Texts with their ids."""
    path = Path(SOURCE or "") / "models" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=False)]


def byte_bpe(values: dict[str, Any]) -> dict[str, Any]:
    tokens, types = values[f"{KEY}tokens"], values[f"{KEY}token_type"]
    pre, ignore_merges = SPLITTINGS[values[f"{KEY}pre"]]
    special = [
        added(i, text, special=kind == CONTROL)
        for i, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    listed = {token["id"] for token in special}
    vocab = {text: i for i, text in enumerate(tokens) if i not in listed}
    merges = [merge for merge in values[f"{KEY}merges"] if usable(merge, vocab)]
    model = {"type": "BPE", "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges}
    return {"added_tokens": special, "pre_tokenizer": pre, "decoder": byte_level(), "model": model}


def usable(merge: str, vocab: dict[str, int]) -> bool:
    left, _, right = merge.partition(" ")
    return left in vocab and right in vocab and left + right in vocab


def found(metadata: Any, folder: Path, texts: list[str]) -> list[list[int]]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    ours = LlamaVocab(metadata, folder / "vocab.gguf")
    ids = [ours.encode(text) for text in texts]
    ours.close()
    return ids


@pytest.mark.parametrize(
    "name",
    [
        *("gpt-2", "mpt", "starcoder", "refact", "command-r", "llama-bpe", "qwen2", "qwen35", "falcon"),
        "deepseek-coder",
    ],
)
def test_byte_level_bpe(tmp_path: Path, name: str) -> None:
    values = contents(name)
    texts = golden(name)
    assert len(texts) > 40
    write_folder(tmp_path, tokenizer_json=byte_bpe(values))
    metadata = load(tmp_path, config={}, n_vocab=len(values[f"{KEY}tokens"]))
    ids = found(metadata, tmp_path, [text for text, _ in texts])
    assert [text for (text, wanted), got in zip(texts, ids, strict=True) if got != wanted] == []
    theirs = from_metadata({key: metadata.get(key) for key in metadata}, name, "")
    assert [text for text, wanted in texts if theirs.encode(text).ids != wanted] == []


@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "gemma-4"])
def test_vocabularies_with_visible_spaces(name: str) -> None:
    """The tokenizer that reads calibration texts gives the kept ids from the metadata of the GGUF itself."""
    theirs = from_metadata(contents(name), name, "")
    assert [text for text, wanted in golden(name) if theirs.encode(text).ids != wanted] == []


def test_gemma4(tmp_path: Path) -> None:
    values = contents("gemma-4")
    tokens, types = values[f"{KEY}tokens"], values[f"{KEY}token_type"]
    vocab = {text: i for i, text in enumerate(tokens)}
    special = [added(i, tokens[i], special=kind == CONTROL) for i, kind in enumerate(types) if kind in (3, 4)]
    merges = [merge.partition(" ")[::2] for merge in values[f"{KEY}merges"]]
    merges = [list(pair) for pair in merges if set(pair) <= vocab.keys() and "".join(pair) in vocab]
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": merges}
    write_folder(tmp_path, tokenizer_json={"added_tokens": special, "model": model})
    metadata = load(tmp_path, config={}, n_vocab=len(tokens), rules=GEMMA4)
    texts = golden("gemma-4")
    ids = found(metadata, tmp_path, [text for text, _ in texts])
    assert [text for (text, wanted), got in zip(texts, ids, strict=True) if got != wanted] == []


def test_word_pieces(tmp_path: Path) -> None:
    values = contents("bert-bge")
    kinds = zip(values[f"{KEY}tokens"], values[f"{KEY}token_type"], strict=True)
    space = "\u2581"
    pieces = [
        text if kind == CONTROL else text[1:] if text.startswith(space) else f"##{text}"
        for text, kind in kinds
    ]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    metadata = load(tmp_path, config={}, n_vocab=len(pieces), rules=ENCODER)
    texts = golden("bert-bge")
    ids = found(metadata, tmp_path, [text for text, _ in texts])
    assert [text for (text, wanted), got in zip(texts, ids, strict=True) if got != wanted] == []


def test_unigram_of_xlm_roberta(tmp_path: Path) -> None:
    """The vocabulary of Nomic Embed v2, with its compiled normalization of characters."""
    tokenizers = pytest.importorskip("tokenizers")
    values = contents("nomic-bert-moe")
    tokens, scores = values[f"{KEY}tokens"], values[f"{KEY}scores"]
    charsmap = base64.b64encode(bytes(values[f"{KEY}precompiled_charsmap"])).decode()
    metaspace = {
        "type": "Metaspace",
        "replacement": "\u2581",
        "add_prefix_space": True,
        "prepend_scheme": "always",
    }
    mask = tokens.index("<mask>")
    vocab = [[text, float(score)] for text, score in zip(tokens, scores, strict=True)]
    special = [added(i, tokens[i], special=True) for i in (0, 1, 2, 3, mask)]
    file = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": sequence({"type": "WhitespaceSplit"}, metaspace),
        "post_processor": None,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }
    write_folder(tmp_path, tokenizer_json=file)
    metadata = load(tmp_path, config={}, n_vocab=len(tokens), rules=VocabularyRules(token_types=True))
    for key in ("tokens", "scores", "precompiled_charsmap"):
        assert metadata.get(KEY + key) == list(values[KEY + key]), key
    types = metadata.get(f"{KEY}token_type")
    assert types[:mask] == list(values[f"{KEY}token_type"])[:mask] and types[mask] == CONTROL
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    texts = many_texts(1000)
    ids = found(metadata, tmp_path, texts)
    wanted = [theirs.encode(text, add_special_tokens=False).ids for text in texts]
    assert [text for text, a, b in zip(texts, ids, wanted, strict=True) if a != b] == []
