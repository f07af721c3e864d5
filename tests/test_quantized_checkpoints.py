"""Quantized checkpoints are decoded to the very values that the libraries of their formats decode them to.

`scripts/make_quantized_goldens.py` made the goldens with torch, compressed-tensors, bitsandbytes, mlx and transformers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from srd_rs import ConvertOptions, _core
from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import FormatError, ModelError
from srd_rs.families.config import normalize
from srd_rs.families.quantized import plain

FOLDER = Path(__file__).parent / "data" / "quantized"
GOLDENS: dict[str, Any] = json.loads((FOLDER / "goldens.json").read_text(encoding="utf-8"))
METADATA = [
    ("general.architecture", "STRING", "llama"),
    ("llama.block_count", "UINT32", 1),
]


def opened(name: str, folder: Path, **config: Any) -> Checkpoint:
    """The checkpoint of a golden, with another configuration if one is given."""
    folder = folder / name
    folder.mkdir()
    stated = config or {"quantization_config": GOLDENS[name]["config"]}
    (folder / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    shutil.copy(FOLDER / f"{name}.safetensors", folder / "model.safetensors")
    return Checkpoint.open(folder)


def decoded(checkpoint: Checkpoint) -> Checkpoint:
    return plain(checkpoint, normalize(checkpoint.config, {}, checkpoint.folder / "config.json", {}))


def values(checkpoint: Checkpoint, output: Path, max_memory: int) -> dict[str, np.ndarray]:
    """What the core writes for the weights of a checkpoint."""
    tensors = [
        {"name": t.name, "shape": list(t.shape), "store": "f32", "transform": t.to_json()}
        for t in checkpoint.tensors.values()
    ]
    options = ConvertOptions(quant="F32", effort="fast", threads=2, max_memory=max_memory, provenance=False)
    facts = _facts()
    plan = _core.plan_checkpoint(checkpoint.folder, METADATA, json.dumps(tensors), facts, output, options, [])
    plan.run(options)
    return {t.name: t.data for t in gguf.GGUFReader(output).tensors}


def _facts() -> Any:
    from srd_rs.families import ModelFacts

    return ModelFacts("llama", 1, 0, 1, 1, True)


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("max_memory", [1 << 14, 1 << 28])
def test_the_values_are_those_of_the_library(name: str, max_memory: int, tmp_path: Path) -> None:
    checkpoint = decoded(opened(name, tmp_path))
    wanted = GOLDENS[name]["weights"]
    assert {t.name: list(t.shape) for t in checkpoint.tensors.values()} == {
        k: v[0] for k, v in wanted.items()
    }
    found = values(checkpoint, tmp_path / "out.gguf", max_memory)
    assert found.keys() == wanted.keys()
    for key, (shape, digest) in wanted.items():
        assert list(found[key].shape) == shape
        assert hashlib.sha256(found[key].tobytes()).hexdigest() == digest, key


CUT = {
    "fp8-blocks": "a.weight_scale_inv",
    "fp8-channels": "a.weight_scale",
    "packed-int4": "a.weight_scale",
    "packed-int4-zero-points": "a.weight_zero_point",
    "mxfp4-gpt-oss": "experts.gate_up_proj_scales",
    "gptq-4-bits": "a.qzeros",
    "gptq-4-bits-by-activation": "a.g_idx",
    "awq": "a.scales",
    "bitsandbytes-nf4": "a.weight.absmax",
    "bitsandbytes-nf4-nested": "a.weight.nested_absmax",
    "bitsandbytes-int8": "a.SCB",
    "mlx-4-bits": "a.biases",
}


def edit(
    checkpoint: Checkpoint, name: str, change: Callable[[list[int], bytes], tuple[list[int], bytes] | None]
) -> None:
    """Change the shape and the bytes of one tensor of a checkpoint, or take the tensor out."""
    path = checkpoint.folder / "model.safetensors"
    file = path.read_bytes()
    length = int.from_bytes(file[:8], "little")
    header, data = json.loads(file[8 : 8 + length]), file[8 + length :]
    header.pop("__metadata__", None)
    assert name in header
    entries, parts, at = {}, [], 0
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        part: tuple[list[int], bytes] | None = entry["shape"], data[begin:end]
        part = change(*part) if key == name else part
        if part is not None:
            entries[key] = {**entry, "shape": part[0], "data_offsets": [at, at + len(part[1])]}
            parts.append(part[1])
            at += len(part[1])
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def half(shape: list[int], data: bytes) -> tuple[list[int], bytes]:
    return [shape[0] // 2, *shape[1:]], data[: len(data) // 2]


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("change", [half, lambda shape, data: None], ids=["half", "absent"])
def test_parts_that_do_not_fit_are_refused(name: str, change: Any, tmp_path: Path) -> None:
    checkpoint = opened(name, tmp_path)
    edit(checkpoint, CUT[name], change)
    if CUT[name] == "a.g_idx" and change is not half:
        decoded(Checkpoint.open(checkpoint.folder))  # without g_idx the groups are in order
        return
    with pytest.raises((ModelError, FormatError)):
        values(decoded(Checkpoint.open(checkpoint.folder)), tmp_path / "out.gguf", 1 << 20)
    assert not (tmp_path / "out.gguf").exists()


def test_groups_beyond_the_scales_are_refused(tmp_path: Path) -> None:
    checkpoint = opened("gptq-4-bits-by-activation", tmp_path)
    edit(checkpoint, "a.g_idx", lambda shape, data: (shape, (1000).to_bytes(4, "little") + data[4:]))
    with pytest.raises(ModelError, match="groups beyond"):
        values(decoded(Checkpoint.open(checkpoint.folder)), tmp_path / "out.gguf", 1 << 20)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gptq-4-bits", {"quant_method": "gptq", "bits": 3}),
        ("gptq-4-bits", {"quant_method": "hqq"}),
        ("awq", {"quant_method": "awq", "version": "gemv"}),
        (
            "packed-int4",
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 5}}}},
        ),
        ("mlx-4-bits", {"group_size": 48, "bits": 4}),
        ("mlx-4-bits", {"group_size": "64"}),
        ("fp8-blocks", {"quant_method": "fp8", "weight_block_size": [64, 0]}),
    ],
)
def test_kinds_that_are_not_known_are_refused(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        decoded(opened(name, tmp_path, quantization_config=config))


def test_a_checkpoint_that_is_decoded_gives_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decoded(opened("gptq-4-bits", tmp_path))
    assert "1 in GPTQ of 4 bits" in caplog.text
