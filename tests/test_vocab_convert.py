"""From a checkpoint to a GGUF that llama.cpp loads with its weights, for kinds of tokenizers with keys of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patterns import write_shards
from srd_rs import convert
from test_vocab_ends import trained_unigram, trained_word_pieces
from test_vocab_ranks import tiktoken_file
from test_vocab_unigram import unigram_json
from test_vocab_words import plamo_entries, plamo_file
from vocab_tools import QWEN2, LlamaVocab, byte_ranks, many_texts, write_folder

DATA = Path(__file__).parent / "data" / "families"
ROWS = 2048
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
MATRICES = ("word_embeddings", "wte", "embed_tokens", "lm_head")
BERT_ROLES = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}


def unigram(folder: Path) -> None:
    file = unigram_json(trained_unigram(), folder / "model")
    write_folder(folder, tokenizer_json=file, tokenizer_config_json=ROLES)


def word_pieces(folder: Path) -> None:
    write_folder(folder, tokenizer_json=trained_word_pieces(), tokenizer_config_json=BERT_ROLES)


def qwen(folder: Path) -> None:
    (folder / "qwen.tiktoken").write_bytes(tiktoken_file(byte_ranks(QWEN2)))


def plamo(folder: Path) -> None:
    names = {"bos_token": "<|plamo:bos|>", "eos_token": "<|plamo:eos|>"}
    write_folder(folder, tokenizer_jsonl=plamo_file(plamo_entries()), tokenizer_config_json=names)


@pytest.mark.parametrize(
    ("golden", "kind", "write"),
    [
        ("xlm-roberta", "t5", unigram),
        ("nomic-bert", "bert", word_pieces),
        ("qwen1-as-published", "gpt2", qwen),
        ("plamo3-as-published", "plamo2", plamo),
    ],
)
def test_converted_and_loaded(tmp_path: Path, golden: str, kind: str, write: Callable[[Path], None]) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    case = json.loads((DATA / f"{golden}.json").read_text(encoding="utf-8"))
    old = case["config"]["vocab_size"]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**case["config"], "vocab_size": ROWS}))
    sources: dict[str, Any] = {}
    for name, (dtype, shape) in case["sources"].items():
        if any(part in name for part in MATRICES):
            assert shape[0] == old
            shape = [ROWS, shape[1]]
        sources[name] = [dtype, shape, "model.safetensors"]
    write_shards(sources, folder)
    write(folder)
    output = tmp_path / "model.gguf"
    convert(folder, output, quant="BF16", effort="fast", met=False)
    loaded = LlamaVocab(None, output)
    texts = many_texts(100)
    found = [loaded.encode(text, ends=True) for text in texts]
    loaded.close()
    assert all(found) and len({tuple(ids) for ids in found}) > 80
    from gguf import GGUFReader

    fields = GGUFReader(output).fields
    assert fields["tokenizer.ggml.model"].contents() == kind
    assert len(fields["tokenizer.ggml.tokens"].contents()) == ROWS
