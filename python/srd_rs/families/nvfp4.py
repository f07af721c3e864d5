"""NVFP4 that stays as it is: codes and block scales become blocks, and the scale of a tensor a tensor beside it.

llama.cpp multiplies the product with such a matrix by ``NAME.scale``, and knows the range of its inputs from
``NAME.input_scale``. Both are left out where they are 1. Where llama.cpp would not apply the scale of a tensor, the
weights are decoded as in any other mix.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from srd_rs.checkpoint import Checkpoint, number_of
from srd_rs.errors import ModelError, message
from srd_rs.families.base import ModelSpec
from srd_rs.families.quantized import settings_of
from srd_rs.families.table import TensorSpec
from srd_rs.metadata import Metadata
from srd_rs.reading import load_json, shown

MIX: Final = "NVFP4"
"""The mix that keeps these weights."""
BLOCK: Final = 64
"""Weights in a block of ggml."""

_MOVES: Final = ("permute_heads", "rows", "transpose", "reshape", "view")
_QKV: Final = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "output")
_FFN: Final = ("ffn_gate", "ffn_up", "ffn_down")
_EXPERTS: Final = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_SHARED: Final = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
_LINEAR: Final = ("attn_gate", "ssm_out", "ssm_alpha", "ssm_beta")
_STATE: Final = ("ssm_in", "ssm_out")
_SCALED: Final[Mapping[str, tuple[str, ...]]] = {
    "llama": (*_QKV, *_FFN, *_EXPERTS),
    "mistral3": (*_QKV, *_FFN, *_EXPERTS),
    "qwen3": (*_QKV, *_FFN),
    "qwen3moe": (*_QKV, *_EXPERTS),
    "qwen3next": ("attn_q", "attn_k", "attn_v", "attn_output", "output", *_EXPERTS, *_SHARED),
    "qwen35": (*_QKV, *_FFN, *_LINEAR),
    "qwen35moe": (*_QKV, *_EXPERTS, *_SHARED, *_LINEAR),
    "gemma4": (*_QKV, *_FFN, *_EXPERTS),
    "nemotron_h": (*_QKV, *_FFN, *_EXPERTS, *_SHARED, *_STATE),
    "nemotron_h_moe": (*_QKV, *_EXPERTS, *_SHARED, *_STATE),
    "hy_v3": (*_QKV, *_FFN, *_EXPERTS, *_SHARED),
    "mellum": (*_QKV, *_EXPERTS),
    "nanbeige": (*_QKV, *_FFN),
}
"""The matrices whose scales the graphs of llama.cpp apply, by architecture."""

_SIDE_LIMIT: Final = 64
_NEAR_ONE: Final = 1e-6

Json = Mapping[str, Any]

log = logging.getLogger("srd_rs.families")


def kept(spec: ModelSpec, checkpoint: Checkpoint) -> ModelSpec:
    """Return the model with its NVFP4 weights as blocks, and with the scales of these tensors.

    `checkpoint` is the checkpoint as its files have it. Raises ModelError if a scale is no number.
    """
    stems = _SCALED.get(spec.arch, ())
    found = {t.name: leaves for t in spec.tensors if (leaves := _leaves_to_keep(t, stems))}
    numbers = _numbers(checkpoint, [leaf for leaves in found.values() for leaf in leaves])
    existing = {t.name: t for t in spec.tensors}
    added: dict[str, TensorSpec] = {}
    tensors = []
    for tensor in spec.tensors:
        leaves = found.get(tensor.name)
        if leaves is None:
            tensors.append(tensor)
            continue
        tensors.append(replace(tensor, store="nvfp4", transform=_without_factor(tensor.transform)))
        stem = tensor.name.removesuffix(".weight")
        for suffix, values in (
            (".scale", [numbers[_factor(leaf)] for leaf in leaves]),
            (".input_scale", [numbers.get(_input(checkpoint, leaf), 1.0) for leaf in leaves]),
        ):
            name, transform = f"{stem}{suffix}", {"op": "generated", "values": values}
            if all(abs(value - 1.0) <= _NEAR_ONE for value in values):
                continue
            if name in existing:  # a factor of each expert that the model has itself
                transform = {"op": "product", "of": [transform, dict(existing[name].transform)]}
            added[name] = TensorSpec(name, (len(values),), "f32", transform)
    metadata = Metadata()
    metadata.update(spec.metadata)
    _write_precision(metadata, checkpoint, found)
    merged = [added.pop(t.name, t) for t in tensors]
    log.info("%s: %d NVFP4 matrices stay as they are", checkpoint.folder, len(found))
    return replace(spec, metadata=metadata, tensors=[*merged, *added.values()])


def _leaves_to_keep(tensor: TensorSpec, stems: tuple[str, ...]) -> list[Json] | None:
    """Return what decodes the weights of a tensor that can stay: one part, or one for each expert."""
    stem = (
        tensor.name.removeprefix("blk.").partition(".")[2] if tensor.name.startswith("blk.") else tensor.name
    )
    if stem not in {f"{name}.weight" for name in stems} or tensor.shape[-1] % BLOCK:
        return None
    leaves = list(_leaves(tensor.transform))
    if not leaves or not all(leaf is not None and _is_nvfp4(leaf) for leaf in leaves):
        return None
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    known = [leaf for leaf in leaves if leaf is not None]
    return known if len(known) == experts and (experts == 1 or _is_stack(tensor)) else None


def _leaves(transform: Json) -> Iterator[Json | None]:
    """Yield the parts that decode weights; None where weights are computed or plain."""
    if transform["op"] == "dequantize":
        yield transform
    elif transform["op"] == "concat":
        for part in transform["of"]:
            yield from _leaves(part)
    elif transform["op"] in _MOVES:
        yield from _leaves(transform["of"])
    else:
        yield None


def _is_stack(tensor: TensorSpec) -> bool:
    """Say whether the parts of a tensor are its experts, one after another."""
    transform = tensor.transform
    while transform["op"] == "reshape":
        transform = transform["of"]
    return transform["op"] == "concat" and len(transform["of"]) == tensor.shape[0]


def _is_nvfp4(leaf: Json) -> bool:
    scale = leaf.get("scale") or {}
    return leaf.get("table") is not None and scale.get("block") == [1, 16] and not scale.get("exponents")


def _without_factor(transform: Any) -> Any:
    """Return the transform whose weights lack the scale of the tensor."""
    if isinstance(transform, list):
        return [_without_factor(part) for part in transform]
    if transform["op"] == "dequantize":
        scale = {k: v for k, v in transform["scale"].items() if k not in ("factor", "divide_by_factor")}
        return {**transform, "scale": scale}
    return {**transform, "of": _without_factor(transform["of"])}


def _factor(leaf: Json) -> tuple[str, bool] | None:
    """Return the tensor with the scale of the weights, and whether they are divided by it."""
    name = leaf["scale"].get("factor")
    return None if name is None else (name, bool(leaf["scale"].get("divide_by_factor")))


def _input(checkpoint: Checkpoint, leaf: Json) -> tuple[str, bool] | None:
    """Return the tensor with the scale of the inputs, and whether it is a divisor."""
    codes = leaf["codes"].removesuffix("_packed").removesuffix(".weight")
    for suffix, divides in ((".input_scale", False), (".input_global_scale", True)):
        if f"{codes}{suffix}" in checkpoint.tensors:
            return f"{codes}{suffix}", divides
    return None


def _numbers(checkpoint: Checkpoint, leaves: list[Json]) -> dict[tuple[str, bool] | None, float]:
    """Return the value of each scale as float32 has it. No scale is 1."""
    import numpy as np

    places = {place for leaf in leaves for place in (_factor(leaf), _input(checkpoint, leaf)) if place}
    read = checkpoint.small(sorted({name for name, _ in places}), _SIDE_LIMIT) if places else {}
    numbers: dict[tuple[str, bool] | None, float] = {None: 1.0}
    for name, divides in places:
        tensor = checkpoint.tensors[name]
        value = number_of(tensor.dtype, read[name])
        if value is None or not np.isfinite(value) or (divides and value == 0):
            what = f"tensor '{name}' ({shown(tensor.dtype)}) does not hold one number that is a scale"
            raise ModelError(message(checkpoint.folder / tensor.shard, what, "Download the checkpoint again"))
        numbers[name, divides] = float(np.float32(1) / np.float32(value) if divides else np.float32(value))
    return numbers


def _write_precision(metadata: Metadata, checkpoint: Checkpoint, found: Mapping[str, list[Json]]) -> None:
    """Say which matrices were made for inputs of 16 bits, so that llama.cpp does not round the inputs to FP4."""
    names = sorted(
        name
        for name, leaves in found.items()
        if _algorithm(checkpoint, leaves[0]["codes"].removesuffix("_packed")) == "W4A16_NVFP4"
    )
    if names:
        metadata.strings("general.tensor_extra.name", names)
        metadata.booleans("general.tensor_extra.prec_a4", [False] * len(names))


def _algorithm(checkpoint: Checkpoint, name: str) -> str | None:
    """Return the algorithm that made a weight, as the configuration of modelopt states it for the model or its part."""
    settings = dict(settings_of(checkpoint.config))
    file = checkpoint.folder / "hf_quant_config.json"
    if not (settings.get("quant_algo") and settings.get("quantized_layers")) and file.is_file():
        settings.update(load_json(file).get("quantization") or {})
    layers = settings.get("quantized_layers")
    layers = layers if isinstance(layers, dict) else {}
    while name := name.rpartition(".")[0]:
        if isinstance(layers.get(name), dict):
            return str(layers[name].get("quant_algo"))
    return settings.get("quant_algo") if isinstance(settings.get("quant_algo"), str) else None
