"""DeepSeek V4 beyond its golden: FP4 blocks of experts, and the table of integers that gives each token its experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from patterns import encoded, pattern
from srd_rs import convert
from srd_rs.errors import ModelError
from srd_rs.families import describe
from srd_rs.families.quantized import E2M1
from test_family_goldens import GOLDENS, converted, digest, opened

IDS = "blk.0.ffn_gate_tid2eid.weight"
SOURCE = "layers.0.ffn.gate.tid2eid"
PARTS = {"ffn_gate_exps": "w1", "ffn_down_exps": "w2", "ffn_up_exps": "w3"}


@pytest.fixture
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS[0].parent / "deepseek-v4.json").read_text(encoding="utf-8"))
    return found


def fp4(sources: dict[str, Any], name: str) -> np.ndarray:
    """The values of the codes and scales of a matrix."""
    kind, shape = sources[f"{name}.weight"]
    codes = np.frombuffer(encoded(f"{name}.weight", kind, tuple(shape)), np.uint8).reshape(shape)
    kind, shape = sources[f"{name}.scale"]
    scales = np.frombuffer(encoded(f"{name}.scale", kind, tuple(shape)), np.uint8).astype(np.float32)
    values = np.array(E2M1, np.float32)[np.stack([codes & 15, codes >> 4], -1)].reshape(*shape, 32)
    return (values * np.exp2(scales - 127).reshape(*shape, 1)).reshape(codes.shape[0], -1)


def test_experts_keep_their_values(golden: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = opened(golden, tmp_path)
    tensors = {
        t.name: t for t in converted(checkpoint, describe(checkpoint), "MXFP4_MOE", tmp_path / "out.gguf")
    }
    for layer in range(3):
        for part, source in PARTS.items():
            tensor = tensors[f"blk.{layer}.{part}.weight"]
            names = [f"layers.{layer}.ffn.experts.{expert}.{source}" for expert in range(4)]
            wanted = np.stack([fp4(golden["sources"], name) for name in names])
            assert tensor.tensor_type.name == "MXFP4"
            assert (gguf.quants.dequantize(tensor.data, tensor.tensor_type) == wanted).all(), tensor.name
            assert digest(tensor.data) == golden["text"]["tensors"][tensor.name][2], tensor.name


@pytest.mark.parametrize("quant", ["F32", "F16", "BF16", "Q8_0", "Q4_K_M", "Q2_K"])
def test_ids_of_experts_are_copied_in_every_mix(golden: dict[str, Any], tmp_path: Path, quant: str) -> None:
    checkpoint = opened(golden, tmp_path)
    tensors = converted(checkpoint, describe(checkpoint), quant, tmp_path / "out.gguf")
    found = next(t for t in tensors if t.name == IDS)
    assert found.tensor_type.name == "I32"
    assert (found.data == pattern(SOURCE, (96, 2))).all()


def test_a_gguf_with_integers_is_quantized(golden: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = opened(golden, tmp_path)
    converted(checkpoint, describe(checkpoint), "BF16", tmp_path / "whole.gguf")
    convert(tmp_path / "whole.gguf", tmp_path / "small.gguf", quant="Q4_K_M", effort="fast", threads=1)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "small.gguf").tensors}
    assert tensors[IDS].tensor_type.name == "I32"
    assert (tensors[IDS].data == pattern(SOURCE, (96, 2))).all()
    assert tensors["blk.0.ffn_down_exps.weight"].tensor_type.name not in ("BF16", "F32")


@pytest.mark.parametrize("kind", ["I64", "F32"])
def test_ids_of_another_type_are_refused(golden: dict[str, Any], tmp_path: Path, kind: str) -> None:
    golden["sources"][SOURCE] = [kind, [96, 2]]
    with pytest.raises(ModelError, match=f"has type {kind}, where integers of type I32 are expected"):
        describe(opened(golden, tmp_path))


def test_a_bias_that_no_router_uses_is_left_out(golden: dict[str, Any], tmp_path: Path) -> None:
    golden["sources"]["layers.0.ffn.gate.bias"] = ["F32", [4]]
    names = {tensor.name for tensor in describe(opened(golden, tmp_path)).tensors}
    assert names == golden["text"]["tensors"].keys()
