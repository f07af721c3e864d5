"""FP4 blocks of a checkpoint stay what they are in the mix MXFP4_MOE: not one value of the experts changes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np

from patterns import encoded, write_config
from srd_rs.checkpoint import Checkpoint
from srd_rs.families import describe
from srd_rs.families.quantized import E2M1
from test_family_goldens import GOLDENS, converted


def test_the_experts_of_gpt_oss_keep_their_values(tmp_path: Path) -> None:
    golden = json.loads((GOLDENS[0].parent / "gpt-oss.json").read_text(encoding="utf-8"))
    folder, random = tmp_path / "model", np.random.default_rng(0)
    folder.mkdir()
    write_config({**golden["config"], "quantization_config": {"quant_method": "mxfp4"}}, folder)
    tensors, expected = {}, {}
    for name, (kind, shape) in golden["sources"].items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = (kind, shape, encoded(name, kind, tuple(shape), 1 / 256))
            continue
        experts, inputs, outputs = shape
        blocks = random.integers(0, 256, (experts, outputs, inputs // 32, 16), dtype=np.uint8)
        # Blocks whose largest code is small, which could have another scale as well, and blocks of zeros.
        blocks[random.random(blocks.shape[:3]) < 0.2] &= 0x99
        blocks[random.random(blocks.shape[:3]) < 0.1] &= 0x88
        scales = random.integers(100, 130, blocks.shape[:3], dtype=np.uint8)
        tensors[f"{name}_blocks"] = ("U8", list(blocks.shape), blocks.tobytes())
        tensors[f"{name}_scales"] = ("U8", list(scales.shape), scales.tobytes())
        codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*scales.shape, 32)
        values = np.array(E2M1, np.float32)[codes] * np.exp2(scales.astype(np.float32) - 127)[..., None]
        expected[name.rpartition(".")[2], name.split(".")[2]] = values.reshape(experts, outputs, inputs)
    header, data = {}, b""
    for name, (kind, shape, raw) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    checkpoint = Checkpoint.open(folder)
    found = 0
    for tensor in converted(checkpoint, describe(checkpoint), "MXFP4_MOE", tmp_path / "out.gguf"):
        _, layer, part, *_ = f"{tensor.name}....".split(".")
        if not part.endswith("_exps") or not tensor.name.endswith(".weight"):
            continue
        assert tensor.tensor_type.name == "MXFP4"
        both = expected["down_proj" if "down" in part else "gate_up_proj", layer]
        rows = {"ffn_gate_exps": both[:, 0::2], "ffn_up_exps": both[:, 1::2]}.get(part, both)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert (values.reshape(rows.shape) == rows).all(), tensor.name
        found += 1
    assert found == 3 * golden["config"]["num_hidden_layers"]
