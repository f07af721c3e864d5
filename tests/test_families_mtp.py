"""Blocks that predict further tokens: written, left out, or alone, as llama.cpp's converter does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import ModelError
from srd_rs.families import describe
from test_family_goldens import opened

GOLDENS = Path(__file__).parent / "data" / "families"


def golden(name: str, folder: Path) -> tuple[dict[str, Any], Checkpoint]:
    found = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    return found, opened(found, folder)


@pytest.mark.parametrize("name", ["qwen35-as-published", "qwen3next-as-published", "nemotron-3-mtp"])
def test_blocks_are_left_out_or_alone(name: str, tmp_path: Path) -> None:
    whole, checkpoint = golden(name, tmp_path)
    names = set(whole["text"]["tensors"])
    arch = whole["text"]["metadata"]["general.architecture"][1]
    blocks = whole["text"]["metadata"][f"{arch}.block_count"][1]
    last = {tensor for tensor in names if tensor.startswith(f"blk.{blocks - 1}.")}
    assert last and any("nextn" in tensor for tensor in last)

    without = describe(checkpoint, mtp=False)
    assert {t.name for t in without.tensors} == names - last
    assert without.metadata.get(f"{arch}.block_count") == blocks - 1 == without.hparams.n_layer
    assert f"{arch}.nextn_predict_layers" not in without.metadata

    alone = describe(checkpoint, mtp=True)
    assert {t.name for t in alone.tensors} == last | {n for n in names if not n.startswith("blk.")}
    assert alone.metadata.get(f"{arch}.block_count") == blocks
    assert alone.metadata.get(f"{arch}.nextn_predict_layers") == 1


def test_a_model_without_blocks_has_none_to_write_alone(tmp_path: Path) -> None:
    _, checkpoint = golden("qwen3-as-published", tmp_path)
    with pytest.raises(ModelError, match="no blocks that predict"):
        describe(checkpoint, mtp=True)
    assert len(describe(checkpoint, mtp=False).tensors) == len(describe(checkpoint).tensors)


def test_a_checkpoint_that_lost_its_blocks_is_written_without(tmp_path: Path) -> None:
    """config.json still counts the blocks, but a fine-tune was saved without them."""
    _, checkpoint = golden("qwen35-text", tmp_path)
    checkpoint.tensors = {n: t for n, t in checkpoint.tensors.items() if not n.startswith("mtp.")}
    spec = describe(checkpoint)
    assert spec.metadata.get("qwen35.block_count") == 2 and "qwen35.nextn_predict_layers" not in spec.metadata
