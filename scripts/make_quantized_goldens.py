"""Small matrices, quantized by the libraries that publish such checkpoints, and what these libraries decode them to.

    python scripts/make_quantized_goldens.py

The script needs torch, compressed-tensors, bitsandbytes, mlx and transformers; the tests that read the goldens need
none of them. For each format it writes ``tests/data/quantized/NAME.safetensors`` (the tensors of a checkpoint) and adds
to ``goldens.json``: the quantization_config, and for each weight its shape and the SHA-256 of its values as F32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from bitsandbytes import functional as bnb
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8, unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "data" / "quantized"
ROWS, COLUMNS = 64, 256
Golden = tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]
GOLDENS: dict[str, Callable[[], Golden]] = {}


def golden(make: Callable[[], Golden]) -> Callable[[], Golden]:
    GOLDENS[make.__name__.replace("_", "-")] = make
    return make


def integers(low: int, high: int, *shape: int) -> torch.Tensor:
    return torch.randint(low, high, shape, dtype=torch.int32)


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.02


@golden
def fp8_blocks() -> Golden:
    """DeepSeek V3: blocks of 128 x 128; the last block of rows is not whole."""
    codes, scale = floats(200, COLUMNS).mul(2000).to(torch.float8_e4m3fn), floats(2, 2).abs()
    whole = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:200]
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    tensors = {"a.weight": codes, "a.weight_scale_inv": scale}
    return config, tensors, {"a.weight": codes.float() * whole}


@golden
def fp8_channels() -> Golden:
    """A scale for each row, for the tensor, and for each expert of a stack; scales of activations are left out."""
    codes = floats(ROWS, COLUMNS).mul(2000).to(torch.float8_e4m3fn)
    rows, one = floats(ROWS, 1).abs().bfloat16(), floats(1).abs().reshape(())
    stack, each = floats(3, ROWS, COLUMNS).mul(2000).to(torch.float8_e4m3fn), floats(3).abs()
    tensors = {
        "a.weight": codes,
        "a.weight_scale": rows,
        "a.input_scale": one.clone(),
        "b.weight": codes.clone(),
        "b.weight_scale": one,
        "c.gate_up_proj": stack,
        "c.gate_up_proj_scale_inv": each,
    }
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}
    values = {
        "a.weight": codes.float() * rows.float(),
        "b.weight": codes.float() * one,
        "c.gate_up_proj": stack.float() * each[:, None, None],
    }
    return config, tensors, values


@golden
def int8_channels() -> Golden:
    codes = integers(-128, 128, ROWS, COLUMNS).to(torch.int8)
    scale = floats(ROWS, 1).abs().bfloat16()
    config = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    return config, {"a.weight": codes, "a.weight_scale": scale}, {"a.weight": codes.float() * scale.float()}


def packed(bits: int, symmetric: bool) -> Golden:
    group = 64
    low, high = -(1 << (bits - 1)), (1 << (bits - 1))
    codes = integers(low, high, ROWS, COLUMNS).to(torch.int8)
    scale = floats(ROWS, COLUMNS // group).abs().bfloat16()
    weights = QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy="group", group_size=group)
    tensors = {
        "a.weight_packed": pack_to_int32(codes, bits),
        "a.weight_scale": scale,
        "a.weight_shape": torch.tensor([ROWS, COLUMNS]),
    }
    zero = torch.zeros(ROWS, COLUMNS // group, dtype=torch.int8)
    if not symmetric:
        zero = integers(low, high, ROWS, COLUMNS // group).to(torch.int8)
        tensors["a.weight_zero_point"] = pack_to_int32(zero, bits, packed_dim=0).contiguous()
    unpacked = unpack_from_int32(tensors["a.weight_packed"], bits, torch.Size([ROWS, COLUMNS]))
    values = dequantize(unpacked, scale.float(), zero, weights, dtype=torch.float32)
    stated = {
        "num_bits": bits,
        "group_size": group,
        "strategy": "group",
        "type": "int",
        "symmetric": symmetric,
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": stated}}
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    return config, tensors, {"a.weight": values}


@golden
def packed_int4() -> Golden:
    return packed(4, True)


@golden
def packed_int4_zero_points() -> Golden:
    return packed(4, False)


@golden
def packed_int8() -> Golden:
    return packed(8, True)


def nvfp4(modelopt: bool) -> Golden:
    table = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    signs = torch.where(integers(0, 2, ROWS, COLUMNS) > 0, -1.0, 1.0)
    values = table[integers(0, 8, ROWS, COLUMNS).long()] * signs
    codes = pack_fp4_to_uint8(values.bfloat16())
    scale = floats(ROWS, COLUMNS // 16).abs().mul(500).to(torch.float8_e4m3fn)
    factor = torch.tensor([0.00390625]) if modelopt else torch.tensor([256.0])
    step = (scale.float() * factor if modelopt else scale.float() / factor).repeat_interleave(16, 1)
    decoded = unpack_fp4_from_uint8(codes, ROWS, COLUMNS, dtype=torch.float32) * step
    if modelopt:
        tensors = {"a.weight": codes, "a.weight_scale": scale, "a.weight_scale_2": factor.reshape(())}
        return {"quant_method": "modelopt", "quant_algo": "NVFP4"}, tensors, {"a.weight": decoded}
    tensors = {"a.weight_packed": codes, "a.weight_scale": scale, "a.weight_global_scale": factor}
    config = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    return config, tensors, {"a.weight": decoded}


@golden
def nvfp4_compressed_tensors() -> Golden:
    return nvfp4(False)


@golden
def nvfp4_modelopt() -> Golden:
    return nvfp4(True)


@golden
def mxfp4_gpt_oss() -> Golden:
    blocks = integers(0, 256, 2, ROWS, COLUMNS // 32, 16).to(torch.uint8)
    scales = integers(110, 130, 2, ROWS, COLUMNS // 32).to(torch.uint8)
    values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    name = "experts.gate_up_proj"
    return {"quant_method": "mxfp4"}, {f"{name}_blocks": blocks, f"{name}_scales": scales}, {name: values}


def gptq(bits: int, first_version: bool, act_order: bool) -> Golden:
    """As the kernels of AutoGPTQ decode: a row of `qweight` has the codes of 32 / bits inputs."""
    group, per_word = 64, 32 // bits
    groups = COLUMNS // group
    codes, zeros = integers(0, 1 << bits, COLUMNS, ROWS), integers(1, 1 << bits, groups, ROWS)
    scales = floats(groups, ROWS).abs().half()
    order = torch.arange(COLUMNS, dtype=torch.int32) // group
    if act_order:
        order = order[torch.randperm(COLUMNS)]

    def words(values: torch.Tensor) -> torch.Tensor:
        parts = values.to(torch.int64).reshape(-1, per_word, values.shape[1])
        shifts = torch.arange(per_word) * bits
        word = (parts << shifts[None, :, None]).sum(1)
        return torch.where(word >= 1 << 31, word - (1 << 32), word).to(torch.int32)

    stored = zeros - 1 if first_version else zeros
    tensors = {
        "a.qweight": words(codes),
        "a.qzeros": words(stored.T.contiguous()).T.contiguous(),
        "a.scales": scales,
        "a.g_idx": order,
    }
    values = (scales.float()[order] * (codes - zeros[order]).float()).T
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": act_order}
    config["checkpoint_format"] = "gptq" if first_version else "gptq_v2"
    return config, tensors, {"a.weight": values}


@golden
def gptq_4_bits() -> Golden:
    return gptq(4, True, False)


@golden
def gptq_4_bits_by_activation() -> Golden:
    return gptq(4, False, True)


@golden
def gptq_8_bits() -> Golden:
    return gptq(8, True, False)


@golden
def gptq_2_bits() -> Golden:
    return gptq(2, True, True)


@golden
def awq() -> Golden:
    """As the gemm kernels of AutoAWQ decode: nibble i of a word is output 0, 2, 4, 6, 1, 3, 5, 7."""
    group = 128
    codes, zeros = integers(0, 16, COLUMNS, ROWS), integers(0, 16, COLUMNS // group, ROWS)
    scales = floats(COLUMNS // group, ROWS).abs().half()

    def words(values: torch.Tensor) -> torch.Tensor:
        parts = values.to(torch.int64).reshape(values.shape[0], -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        word = (parts << (torch.arange(8) * 4)).sum(2)
        return torch.where(word >= 1 << 31, word - (1 << 32), word).to(torch.int32)

    tensors = {"a.qweight": words(codes), "a.qzeros": words(zeros), "a.scales": scales}
    step, zero = (t.repeat_interleave(group, 0) for t in (scales.float(), zeros))
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    return config, tensors, {"a.weight": ((codes - zero).float() * step).T}


def bitsandbytes(kind: str, nested: bool) -> Golden:
    weight = floats(ROWS, COLUMNS)
    codes, state = bnb.quantize_4bit(weight, quant_type=kind, compress_statistics=nested)
    tensors = {"a.weight": codes}
    tensors.update({f"a.weight.{key}": value for key, value in state.as_dict(packed=True).items()})
    values = bnb.dequantize_4bit(codes, state)
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return config, tensors, {"a.weight": values.float()}


@golden
def bitsandbytes_nf4() -> Golden:
    return bitsandbytes("nf4", False)


@golden
def bitsandbytes_nf4_nested() -> Golden:
    return bitsandbytes("nf4", True)


@golden
def bitsandbytes_fp4() -> Golden:
    return bitsandbytes("fp4", False)


@golden
def bitsandbytes_int8() -> Golden:
    codes, scale, _ = bnb.int8_vectorwise_quant(floats(ROWS, COLUMNS).half())
    tensors = {"a.weight": codes, "a.SCB": scale, "a.weight_format": torch.zeros((), dtype=torch.uint8)}
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return config, tensors, {"a.weight": bnb.int8_vectorwise_dequant(codes, scale)}


def mlx(bits: int, group: int) -> Golden:
    weight = mx.array(floats(ROWS, COLUMNS).numpy())
    codes, scales, biases = mx.quantize(weight, group_size=group, bits=bits)
    values = mx.dequantize(codes, scales, biases, group_size=group, bits=bits)
    parts = {"a.weight": codes, "a.scales": scales, "a.biases": biases}
    tensors = {name: torch.from_numpy(np.array(part)) for name, part in parts.items()}
    return {"group_size": group, "bits": bits}, tensors, {"a.weight": torch.from_numpy(np.array(values))}


@golden
def mlx_4_bits() -> Golden:
    return mlx(4, 64)


@golden
def mlx_8_bits() -> Golden:
    return mlx(8, 32)


@golden
def mlx_6_bits() -> Golden:
    return mlx(6, 64)


@golden
def mlx_3_bits() -> Golden:
    return mlx(3, 64)


@golden
def bitnet() -> Golden:
    codes = integers(0, 3, ROWS, COLUMNS)
    quarters = codes.reshape(4, ROWS // 4, COLUMNS) << (torch.arange(4) * 2)[:, None, None]
    scale = torch.tensor([1.75])
    tensors = {"a.weight": quarters.sum(0).to(torch.uint8), "a.weight_scale": scale}
    return {"quant_method": "bitnet"}, tensors, {"a.weight": (codes - 1).float() / scale}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    found = {}
    for name, make in GOLDENS.items():
        torch.manual_seed(1)
        config, tensors, values = make()
        save_file({key: value.contiguous() for key, value in tensors.items()}, FOLDER / f"{name}.safetensors")
        weights = {}
        for key, value in values.items():
            data = value.contiguous().float().numpy().tobytes()
            weights[key] = [list(value.shape), hashlib.sha256(data).hexdigest()]
        found[name] = {"config": config, "weights": weights}
        print(name, flush=True)
    (FOLDER / "goldens.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
