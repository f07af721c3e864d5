"""The fixtures: metadata, tensor names, order, shapes, types, sources and bytes equal what llama.cpp's
converter writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interpreter import Weights, run, to_bf16
from srd_rs.checkpoint import Checkpoint
from srd_rs.families import ModelSpec, describe

NAMES = (
    "gemma2", "gemma3", "gemma4_e2b", "gemma4_moe", "gemma4_moe_google", "llama", "mistral",
    "mixtral", "phi3", "qwen2", "qwen3", "qwen3moe",
)  # fmt: skip
LATER = ("general.file_type", "general.quantization_version")
"""Written by the conversion, once the recipe is known."""


@pytest.fixture(scope="module", params=NAMES)
def case(
    request: pytest.FixtureRequest, fixtures: Path
) -> tuple[Path, Checkpoint, ModelSpec, dict[str, Any]]:
    folder = fixtures / request.param
    if not folder.is_dir():
        pytest.skip(f"the archive has no fixture {request.param}")
    checkpoint = Checkpoint.open(folder)
    return folder, checkpoint, describe(checkpoint), json.loads((folder / "expected.json").read_text())


def test_metadata(case: Any) -> None:
    _, _, spec, expected = case
    keys = [key for key in expected["kv_order"] if not key.startswith("tokenizer.") and key not in LATER]
    # The order of keys is not that of llama.cpp's converter; see docs/differences.md.
    assert sorted(entry[0] for entry in spec.metadata.entries()) == sorted(keys)
    for key, kind, value in spec.metadata.entries():
        assert kind == expected["kv_types"][key], key
        wanted = expected["kv"][key]
        if kind == "FLOAT32":
            assert np.float32(value) == np.float32(wanted), key
        else:
            assert value == wanted, key


def test_tensor_names_order_shapes_types(case: Any) -> None:
    _, _, spec, expected = case
    assert [tensor.name for tensor in spec.tensors] == [tensor["name"] for tensor in expected["tensors"]]
    for tensor, wanted in zip(spec.tensors, expected["tensors"], strict=True):
        assert list(reversed(tensor.shape)) == wanted["shape"], tensor.name
        assert {"f32": "F32", "auto": "BF16"}[tensor.store] == wanted["type_bf16"], tensor.name


def sources(transform: dict[str, Any]) -> list[str]:
    if transform["op"] == "source":
        return [transform["tensor"]]
    inner = transform.get("of", [])
    return [name for part in (inner if isinstance(inner, list) else [inner]) for name in sources(part)]


def test_sources(case: Any) -> None:
    folder, checkpoint, spec, _ = case
    mapping = json.loads((folder / "mapping.json").read_text())
    for tensor in spec.tensors:
        named = sources(dict(tensor.transform))
        assert sorted(named) == sorted(mapping[tensor.name]["from"]), tensor.name
        assert all(name in checkpoint.tensors for name in named)


def test_bytes(case: Any) -> None:
    folder, checkpoint, spec, expected = case
    weights = Weights(folder, {tensor.name: tensor.shard for tensor in checkpoint.tensors.values()})
    for tensor, wanted in zip(spec.tensors, expected["tensors"], strict=True):
        values = run(dict(tensor.transform), weights)
        assert values.size == np.prod(tensor.shape)
        data = to_bf16(values) if tensor.store == "auto" else values.astype("<f4").tobytes()
        assert hashlib.sha256(data).hexdigest() == wanted["sha256"], tensor.name


def test_facts(case: Any) -> None:
    _, _, spec, expected = case
    facts, arch = spec.hparams, expected["kv"]["general.architecture"]
    assert facts.arch == spec.arch == arch
    assert facts.n_layer == expected["kv"][f"{arch}.block_count"]
    assert facts.n_expert == expected["kv"].get(f"{arch}.expert_count", 0)
    assert facts.n_head == expected["kv"][f"{arch}.attention.head_count"]
    assert facts.n_head_kv == expected["kv"][f"{arch}.attention.head_count_kv"]
    assert facts.tied == all(tensor["name"] != "output.weight" for tensor in expected["tensors"])


def test_a_name_replaces_only_the_name(case: Any) -> None:
    _, checkpoint, spec, _ = case
    other = describe(checkpoint, name="Another name").metadata
    assert other.get("general.name") == "Another name"
    changed = [key for key in other if other.get(key) != spec.metadata.get(key)]
    assert changed == ["general.name"]
