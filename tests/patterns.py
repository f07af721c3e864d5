"""Weights that follow from the name of their tensor, so that goldens of whole files need to keep headers only."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interpreter import to_bf16

_FACTORS = (".weight_scale_2", ".input_scale", ".weight_global_scale", ".input_global_scale")
"""Scales of whole tensors."""
_POSITIVE = (*_FACTORS, ".conv.norm.running_var")
"""Scales, and variances that llama.cpp divides by as they are."""


def pattern(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers from -127 to 127, which every source type holds exactly. Logarithms are a 32nd of them, so that
    e to their power is a finite number. Variances and filters are not negative, scales of tensors are positive
    fractions."""
    index = np.arange(int(np.prod(shape)), dtype=np.int64)
    values = (index * 7 + (index >> 3) + zlib.crc32(name.encode())) % 255 - 127
    if name.endswith(("batch_norm.running_var", "bn.running_var", "featurizer.fb")):
        values = abs(values)
    elif name.endswith(_POSITIVE):
        values = abs(values) + 1
    scale = np.float32(1 / 32 if name.endswith("A_log") else 1 / 256 if name.endswith(_FACTORS) else 1)
    return (values.astype(np.float32) * scale).reshape(shape)


def encoded(name: str, dtype: str, shape: tuple[int, ...], scale: float = 1.0) -> bytes:
    """The bytes of the pattern of a tensor in BF16, F16, F32 or a type of whole numbers. `scale` is a power of two that
    values with a fraction are multiplied by, but scales in one byte are not."""
    values = pattern(name, shape)
    if "F" in dtype and not dtype.startswith("F8"):
        values = values * np.float32(scale)
    if dtype == "BF16":
        return to_bf16(values)
    if dtype == "F8_E8M0":  # scales: powers of two near 1
        return (values.astype("<i4") % 8 + 120).astype("u1").tobytes()
    if dtype == "U8" and name.endswith("_scales"):  # exponents of MXFP4 near 127
        return (values.astype("<i4") % 40 + 100).astype("u1").tobytes()
    if dtype == "F8_E4M3":  # positive scales of blocks
        return (values.astype("<i4") % 100 + 20).astype("u1").tobytes()
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "I8": "i1"}
    if dtype == "BOOL":
        return (values.astype("<i4") % 2).astype("u1").tobytes()
    if name.endswith("d2t"):  # each second token of the target
        values = np.arange(values.size)
    elif dtype == "I64":  # constants of hashes, which are positive
        values = abs(values)
    return values.astype("<i4" if dtype == "U8" else kinds[dtype]).astype(kinds[dtype]).tobytes()


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write config.json; params.json for a configuration in Mistral's own format, which names no class."""
    name = "config.json" if "architectures" in config else "params.json"
    (folder / name).write_text(json.dumps(config))


def write_shards(sources: Mapping[str, Any], folder: Path, scale: float = 1.0) -> None:
    """Write the weights of a case, ``name: [dtype, shape, shard]``, with an index where there are several shards."""
    for shard in {shard for _, _, shard in sources.values()}:
        header: dict[str, Any] = {}
        data = bytearray()
        for name, (dtype, shape, place) in sources.items():
            if place == shard:
                start = len(data)
                data += encoded(name, dtype, tuple(shape), scale)
                header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, len(data)]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / shard).write_bytes(struct.pack("<Q", len(text)) + text + data)
    index = {"weight_map": {name: shard for name, (_, _, shard) in sources.items()}}
    if "model.safetensors" not in index["weight_map"].values():
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
