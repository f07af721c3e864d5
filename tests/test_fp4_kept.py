"""FP4 that stays as it is: the same metadata, tensors and bytes as llama.cpp's own converter, and what is refused.

`scripts/make_fp4_goldens.py` made the goldens.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import ggml
import srd_rs
from fp4_cases import Case, cases, write_checkpoint
from generation import SCALE as SMALL
from generation import generated, with_vocabulary
from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import ModelError, NonFiniteError, UsageError
from srd_rs.families import describe
from srd_rs.families.nvfp4 import kept
from support import EXAMPLE
from test_family_generation import alike
from test_family_goldens import converted, digest, metadata_of
from test_read_only_types import gguf_of

GOLDENS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "fp4.json").read_text(encoding="utf-8")
)
CASES = {case.name: case for case in cases()}
SCALE = "model.layers.1.mlp.up_proj.weight_scale"


def opened(case: Case, folder: Path, scale: float = 1.0) -> Checkpoint:
    folder = folder / case.name
    write_checkpoint(case, folder, scale)
    return Checkpoint.open(folder)


def changed(checkpoint: Checkpoint, name: str, change: Callable[[bytearray], None]) -> Checkpoint:
    """The checkpoint with other bytes in one tensor."""
    path = checkpoint.folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    part = data[8 + length + begin : 8 + length + end]
    change(part)
    data[8 + length + begin : 8 + length + end] = part
    path.write_bytes(data)
    return Checkpoint.open(checkpoint.folder)


NVFP4 = [name for name in GOLDENS if name != "gpt-oss-mxfp4"]


@pytest.mark.parametrize("name", NVFP4)
def test_the_file_is_that_of_the_reference(name: str, tmp_path: Path) -> None:
    golden = GOLDENS[name]
    checkpoint = opened(CASES[name], tmp_path)
    spec = kept(describe(checkpoint), checkpoint)
    assert metadata_of(spec.metadata.entries()) == golden["metadata"]
    output = tmp_path / "out.gguf"
    tensors = converted(checkpoint, spec, "NVFP4", output)
    found = {t.name: [t.shape.tolist()[::-1], t.tensor_type.name, digest(t.data)] for t in tensors}
    assert found == golden["tensors"]
    assert gguf.GGUFReader(output).fields["general.file_type"].contents() == golden["file_type"] == 39


def test_llama_cpp_generates_what_it_generates_with_the_file_of_the_reference(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    jobs = []
    for name in NVFP4:
        checkpoint = opened(CASES[name], tmp_path, SMALL)
        bare = tmp_path / f"{name}.bare.gguf"
        converted(checkpoint, kept(describe(checkpoint), checkpoint), "NVFP4", bare)
        with_vocabulary(bare, tmp_path / f"{name}.gguf")
        jobs.append((tmp_path / f"{name}.gguf", GOLDENS[name]["generated"]))
    assert sum("tokens" in expected for _, expected in jobs) >= 4
    for (path, expected), found in zip(jobs, generated(jobs), strict=True):
        assert alike(found, expected), path.name


@pytest.mark.parametrize("name", ["llama-modelopt", "qwen3-compressed", "qwen3moe-modelopt"])
def test_blocks_and_scales_have_the_decoded_values(name: str, tmp_path: Path) -> None:
    checkpoint = opened(CASES[name], tmp_path)
    spec = describe(checkpoint)
    decoded = {t.name: t.data for t in converted(checkpoint, spec, "F32", tmp_path / "f32.gguf")}
    with_scales = kept(spec, checkpoint)
    tensors = {t.name: t for t in converted(checkpoint, with_scales, "NVFP4", tmp_path / "fp4.gguf")}
    found = 0
    for key, tensor in tensors.items():
        if tensor.tensor_type.name == "NVFP4":
            scale = tensors[key.replace(".weight", ".scale")].data
            raw = np.ascontiguousarray(tensor.data).reshape(-1, tensor.data.shape[-1])
            values = srd_rs.dequantize(raw, "NVFP4").reshape(decoded[key].shape)
            scale = scale.reshape(-1, *[1] * (values.ndim - 1))
            assert np.allclose(values * scale, decoded[key], rtol=1e-6, atol=0), key
            found += 1
    assert found >= 14


def is_block_of_experts(name: str) -> bool:
    return "_exps." in name and name.endswith(".weight")


@pytest.mark.parametrize("quant", ["MXFP4_MOE", "Q4_K_M", "IQ4_XS", "Q8_0"])
def test_mxfp4_stays_in_mixes_of_as_many_bits(quant: str, tmp_path: Path) -> None:
    """llama-quantize refuses such a file, or rounds MXFP4 once more if it is allowed to."""
    checkpoint = opened(CASES["gpt-oss-mxfp4"], tmp_path)
    wanted = GOLDENS["gpt-oss-mxfp4"]["tensors"]
    tensors = converted(checkpoint, describe(checkpoint), quant, tmp_path / "out.gguf")
    kinds = {t.name: t.tensor_type.name for t in tensors}
    for tensor in tensors:
        if is_block_of_experts(tensor.name):
            found = [tensor.shape.tolist()[::-1], tensor.tensor_type.name, digest(tensor.data)]
            assert found == wanted[tensor.name] and found[1] == "MXFP4", tensor.name
        elif tensor.name.endswith("attn_q.weight"):
            assert kinds[tensor.name] not in ("MXFP4", "BF16")
    assert sum(map(is_block_of_experts, kinds)) == 6


def test_mxfp4_is_decoded_in_bf16_without_loss(tmp_path: Path) -> None:
    checkpoint = opened(CASES["gpt-oss-mxfp4"], tmp_path)
    tensors = converted(checkpoint, describe(checkpoint), "BF16", tmp_path / "out.gguf")
    experts = [t for t in tensors if is_block_of_experts(t.name)]
    assert len(experts) == 6
    whole = {
        t.name: t.data for t in converted(checkpoint, describe(checkpoint), "F32", tmp_path / "f32.gguf")
    }
    for tensor in experts:
        assert tensor.tensor_type.name == "BF16"
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(values.reshape(whole[tensor.name].shape), whole[tensor.name]), tensor.name


def test_a_gguf_of_mxfp4_keeps_it_where_nobody_asks_for_another_type(tmp_path: Path) -> None:
    checkpoint = opened(CASES["gpt-oss-mxfp4"], tmp_path)
    path = tmp_path / "moe.gguf"
    before = {t.name: t for t in converted(checkpoint, describe(checkpoint), "MXFP4_MOE", path)}
    key = next(name for name in before if is_block_of_experts(name))
    # The other matrices are Q8_0, which has to be allowed.
    common: dict[str, Any] = {"effort": "fast", "met": False, "allow_requantize": True, "quant": "Q4_K_M"}
    srd_rs.convert(path, tmp_path / "kept.gguf", **common)
    tensor = srd_rs.open(tmp_path / "kept.gguf")[key]
    assert tensor.type == "MXFP4" and tensor.raw.tobytes() == before[key].data.tobytes()
    srd_rs.convert(path, tmp_path / "named.gguf", tensor_types=["_exps=Q5_1"], **common)
    assert srd_rs.open(tmp_path / "named.gguf")[key].type == "Q5_1"


@pytest.mark.parametrize("kind", ["MXFP4", "NVFP4"])
def test_mixes_of_fewer_bits_decode(kind: str, tmp_path: Path) -> None:
    _, length, size = ggml.TYPES[kind]
    blocks = np.random.default_rng(1).integers(100, 120, (4, 512 // length * size), np.uint8)
    path = gguf_of(tmp_path / "m.gguf", kind, 512, blocks.tobytes())
    output, name = tmp_path / "o.gguf", "blk.0.ffn_up.weight"
    for quant in ("Q4_K_M", "Q6_K", "Q8_0"):
        srd_rs.convert(path, output, quant=quant, effort="fast", met=False, overwrite=True)
        assert srd_rs.open(output)[name].raw.tobytes() == blocks.tobytes(), quant
    with pytest.raises(ModelError, match="allow-requantize"):
        srd_rs.convert(path, output, quant="Q3_K_S", effort="fast", met=False, overwrite=True)
    srd_rs.convert(
        path, output, quant="Q3_K_S", effort="fast", met=False, overwrite=True, allow_requantize=True
    )
    assert srd_rs.open(output)[name].type == "Q3_K"
    for asked in ({"tensor_types": ["ffn=Q5_0"]}, {"pure": True, "quant": "Q5_0"}):
        more: dict[str, Any] = {"quant": "Q4_K_M", **asked}
        srd_rs.convert(path, output, effort="fast", met=False, overwrite=True, allow_requantize=True, **more)
        assert srd_rs.open(output)[name].type == "Q5_0"


def test_other_architectures_are_decoded(tmp_path: Path) -> None:
    """llama.cpp applies no scale of an FFN in Qwen2: such a file would be wrong."""
    case = CASES["llama-modelopt"]
    qwen2 = {**case.config, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    biases = {
        f"model.layers.{i}.self_attn.{part}_proj.bias": ("BF16", (rows,))
        for i in (0, 1)
        for part, rows in (("q", 128), ("k", 64), ("v", 64))
    }
    checkpoint = opened(Case("qwen2", qwen2, case.sources | biases), tmp_path)
    spec = kept(describe(checkpoint), checkpoint)
    assert not any(t.store == "nvfp4" or t.name.endswith(".scale") for t in spec.tensors)
    with pytest.raises(UsageError, match="no weights of NVFP4"):
        converted(checkpoint, spec, "NVFP4", tmp_path / "out.gguf")
    with pytest.raises(UsageError, match="no weights of NVFP4"):
        srd_rs.plan(EXAMPLE, quant="NVFP4")


def _negative(part: bytearray) -> None:
    part[5] |= 0x80


def _no_number(part: bytearray) -> None:
    part[5] = 0x7F


def _infinite(part: bytearray) -> None:
    part[:] = struct.pack("<f", np.inf)


@pytest.mark.parametrize(
    ("name", "change", "error", "what"),
    [
        (SCALE, _negative, ModelError, "negative scale"),
        (SCALE, _no_number, NonFiniteError, "blk.1.ffn_up"),
        (f"{SCALE}_2", _infinite, ModelError, "scale"),
    ],
)
def test_scales_that_a_file_cannot_hold_are_refused(
    name: str, change: Callable[[bytearray], None], error: type[Exception], what: str, tmp_path: Path
) -> None:
    checkpoint = changed(opened(CASES["llama-modelopt"], tmp_path), name, change)
    with pytest.raises(error, match=what):
        converted(checkpoint, kept(describe(checkpoint), checkpoint), "NVFP4", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_gguf_with_kept_weights_is_an_input(tmp_path: Path) -> None:
    """The mix NVFP4 and mixes of as many bits copy the blocks; what has fewer bits needs to be allowed."""
    checkpoint = opened(CASES["llama-modelopt"], tmp_path)
    path = tmp_path / "fp4.gguf"
    before = {t.name: t for t in converted(checkpoint, kept(describe(checkpoint), checkpoint), "NVFP4", path)}
    for quant in ("NVFP4", "Q8_0"):
        srd_rs.convert(path, tmp_path / f"{quant}.gguf", quant=quant, effort="fast", met=False)
        after = srd_rs.open(tmp_path / f"{quant}.gguf")
        for name, tensor in before.items():
            if tensor.tensor_type.name == "NVFP4":
                assert after[name].type == "NVFP4" and after[name].raw.tobytes() == tensor.data.tobytes()
    with pytest.raises(ModelError, match="allow-requantize"):
        srd_rs.convert(path, tmp_path / "o.gguf", quant="BF16", met=False)
