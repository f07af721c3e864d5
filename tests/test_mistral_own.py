"""A folder in Mistral's own format, from the command line to the GGUF. `tests/test_family_goldens.py` has its bytes."""

from __future__ import annotations

import json
from pathlib import Path

import gguf

import srd_rs
from patterns import write_config, write_shards
from splittings import TEKKEN
from srd_rs.checkpoint import Checkpoint
from test_family_goldens import GOLDENS
from test_vocab_ranks import byte_ranks, tekken


def test_converts_with_its_tekken_json(tmp_path: Path) -> None:
    golden = json.loads((GOLDENS[0].parent / "mistral-own-small.json").read_text(encoding="utf-8"))
    folder, ranks = tmp_path / "own", byte_ranks(TEKKEN)
    folder.mkdir()
    rows = len(ranks) + 30
    write_config({**golden["config"], "vocab_size": rows}, folder)
    sources = {
        name: [kind, shape, "consolidated.safetensors"] for name, (kind, shape) in golden["sources"].items()
    }
    for name in ("tok_embeddings.weight", "output.weight"):
        sources[name][1] = [rows, 64]
    write_shards(sources, folder)
    (folder / "tekken.json").write_text(json.dumps(tekken(ranks, ["<unk>", "<s>", "</s>"], 30)))
    report = srd_rs.convert(folder, tmp_path / "out.gguf", quant="Q4_0", effort="fast")
    reader = gguf.GGUFReader(report.output)
    assert reader.fields["general.architecture"].contents() == "llama"
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == rows
    assert len(reader.tensors) == len(golden["text"]["tensors"])


def test_the_configuration_of_both_formats_is_that_of_transformers(tmp_path: Path) -> None:
    write_config({"dim": 64}, tmp_path)
    write_config({"architectures": ["LlamaForCausalLM"]}, tmp_path)
    write_shards({"a": ["BF16", [2, 2], "model.safetensors"]}, tmp_path)

    assert Checkpoint.open(tmp_path).config == {"architectures": ["LlamaForCausalLM"]}
