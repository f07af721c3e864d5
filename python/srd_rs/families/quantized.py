"""Quantized checkpoints: which tensors are codes, scales and zero points, and which weights they stand for.

`plain` replaces the codes of a checkpoint by the weights that they stand for, under the names and shapes that an
unquantized checkpoint has. A family then reads such a checkpoint as any other. The core decodes the weights while it
streams them (``src/model/dequantize.rs``); here only names, types and shapes are looked at.

    weight = (value(code) - zero) * scale + bias

The names of the tensors decide, and config.json gives the sizes of blocks and groups. A code that no rule knows is
refused.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from srd_rs.checkpoint import Checkpoint, SourceTensor, text_part
from srd_rs.errors import ModelError, message
from srd_rs.families.config import Config
from srd_rs.families.names import left_out
from srd_rs.families.table import PLAIN
from srd_rs.reading import shown

log = logging.getLogger("srd_rs.families")

_CODE_NAMES: Final = (
    ".weight_scale_inv", ".weight_scale", ".weight_scale_2", ".qweight", ".qzeros", ".scales", ".g_idx",
    ".absmax", ".quant_map", ".SCB", ".weight_packed", ".weight_shape", ".weight_zero_point", ".input_scale",
    "_scale_inv", "_blocks", ".nested_absmax", ".weight_global_scale", ".qscale_weight",
)  # fmt: skip
_ACTIVATIONS: Final = (
    ".input_scale", ".input_global_scale", ".activation_scale", "_activation_scale", ".k_scale", ".v_scale",
    ".q_scale", ".kv_scale", ".output_scale", ".qscale_act", ".weight_format",
)  # fmt: skip
"""Tensors of these names belong to the rounding of activations, which a GGUF does not have."""

_WHILE_LOADING: Final = ("bitsandbytes", "fp8", "fbgemm_fp8", "hqq", "torchao", "eetq", "quanto")
"""Methods that quantize plain weights while a training loads them, so that a merge can leave their settings behind."""

INPUTS: Final = (
    "fp8-block", "fp8-tensor", "int8", "mxfp4", "nvfp4", "compressed-tensors", "gptq", "awq", "bnb", "mlx", "bitnet",
)  # fmt: skip
"""The formats of quantized weights that are decoded, by the names that `srd-rs models` gives them."""

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The values of the codes of FP4 (E2M1), as the OCP specification of microscaling formats has them."""
_FLOAT8: Final = ("F8_E4M3", "F8_E5M2")
_SIDE_LIMIT: Final = 1 << 16
_INT8_FACTOR: Final = 7.874015718698502e-3
"""1 / 127 as bitsandbytes has it: the codes of LLM.int8() reach from -127 to 127."""

Json = dict[str, Any]


@dataclass
class _Tensors:
    """The tensors of a checkpoint while rules take codes out and put weights in."""

    checkpoint: Checkpoint
    settings: Mapping[str, Any]
    left: dict[str, SourceTensor]
    weights: dict[str, SourceTensor] = field(default_factory=dict)
    methods: dict[str, int] = field(default_factory=dict)

    def error(
        self, name: str, what: str, fix: str = "Convert the original checkpoint in BF16 or F16"
    ) -> ModelError:
        tensor = self.checkpoint.tensors[name]
        return ModelError(message(f"{self.checkpoint.folder / tensor.shard}: tensor '{name}'", what, fix))

    def put(self, name: str, shape: tuple[int, ...], leaf: Json, used: list[str], method: str) -> None:
        """Replace the tensors `used` by the weight `name`."""
        first = self.left[used[0]]
        for key in used:
            del self.left[key]
        if name in self.weights:
            raise self.error(first.name, f"and another tensor both stand for '{name}'", "Remove one of them")
        self.weights[name] = SourceTensor(name, "F32", shape, first.shard, leaf)
        self.methods[method] = self.methods.get(method, 0) + 1

    def ending(self, suffix: str) -> Iterator[tuple[str, SourceTensor]]:
        """The tensors whose names end in `suffix`, by the name without the suffix."""
        found = [name for name in self.left if name.endswith(suffix)]
        for name in found:
            yield name.removesuffix(suffix), self.left[name]


def plain(checkpoint: Checkpoint, config: Config) -> Checkpoint:
    """Return the checkpoint with weights in the place of codes.

    Raises ModelError if there are codes that are not known, or if their sizes do not fit.
    """
    settings = settings_of(checkpoint.config)
    tensors = _Tensors(checkpoint, settings, dict(checkpoint.tensors))
    for rule in _RULES:
        rule(tensors)
    bare = next((t.name for t in tensors.left.values() if t.dtype in _FLOAT8), None)
    if bare is not None and (tensors.weights or "weight_block_size" in settings):
        raise tensors.error(bare, "has FP8 codes without scales", "Download the checkpoint again")
    if not tensors.weights:
        _refuse(checkpoint, config)
        return checkpoint
    for name in [name for name in tensors.left if name.endswith(_ACTIVATIONS)]:
        del tensors.left[name]
    code = next((name for name in tensors.left if is_code(name)), None)
    if code is not None:
        raise tensors.error(code, "belongs to a quantized weight of a kind that is not known")
    kinds = ", ".join(f"{count} in {method}" for method, count in tensors.methods.items())
    log.warning(
        "%s: the checkpoint is quantized (%s): what that rounding lost stays lost",
        checkpoint.folder,
        kinds,
    )
    merged = {**tensors.left, **tensors.weights}
    return replace(checkpoint, tensors=merged)


def is_code(name: str) -> bool:
    """Say whether a tensor holds codes, scales or tables of a quantized checkpoint. The name of the tensor decides."""
    return name.endswith(_CODE_NAMES) or ".quant_state." in name


def settings_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for part in (config, text_part(config)):
        for key in ("quantization_config", "compression_config", "quantization"):
            if isinstance(part.get(key), dict):
                return part[key]  # type: ignore[no-any-return]
    return {}


def _refuse(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse a checkpoint that says that it is quantized, or has tensors that are not plain floats.

    Plain FP8 without scales is accepted. A configuration that a merge left behind is accepted with a warning, if its
    method quantizes while loading, every tensor of the model is a plain float and no tensor is a code or a scale.
    """
    stated = config.get("quantization_config")
    method = stated.get("quant_method") if isinstance(stated, dict) else stated
    if isinstance(stated, dict) and method is None and stated:
        loads = any(key in stated for key in ("load_in_4bit", "load_in_8bit"))
        method = "bitsandbytes" if loads else "unknown"
    code = next((name for name in checkpoint.tensors if is_code(name)), None)
    odd = next(
        (t for t in checkpoint.tensors.values() if t.dtype not in PLAIN and left_out(t.name) is None), None
    )
    name = method.lower() if isinstance(method, str) else None
    if code is None and method == "fp8" and odd is not None:
        return
    if code is None and odd is None and isinstance(stated, dict) and name in _WHILE_LOADING:
        what = "%s: quantization_config names %s, but every tensor is a plain float: the entry is left over"
        log.warning(what + " from training and is ignored", config.file, name)
        return
    signs = [] if method is None else [f"quantization_config: {shown(method)}"]
    signs += [] if code is None else [f"it has '{code}'"]
    if signs:
        what = f"the checkpoint is quantized already ({', '.join(signs)}) in a way that is not known"
        fix = "Convert the original checkpoint in BF16, F16 or F32"
        if code is None and odd is None:
            fix += ", or delete quantization_config if these are merged weights"
        raise config.error(what, fix)


def _dequantize(codes: str, shape: tuple[int, ...], code: Json, **parts: Any) -> Json:
    given = {key: value for key, value in parts.items() if value is not None}
    return {"op": "dequantize", "codes": codes, "shape": list(shape), "code": code, **given}


def _packed(bits: int, order: str) -> Json:
    return {"kind": "packed", "bits": bits, "order": order}


# FP8 and INT8 with scales


def _scaled(tensors: _Tensors) -> None:
    """Weights of eight bits with scales: FP8 of DeepSeek and Mistral, float- and int-quantized compressed-tensors,
    modelopt FP8. A scale belongs to the tensor, to a row, or to a block."""
    for suffix in ("_scale_inv", "_scale", ".qscale_weight", ".scale"):
        for base, scale in tensors.ending(suffix):
            name = f"{base}.weight" if suffix in (".qscale_weight", ".scale") else base
            codes = tensors.left.get(name)
            if codes is None or codes.dtype not in (*_FLOAT8, "I8"):
                continue
            if tensors.left.get(f"{name}_zero_point") is not None:
                raise tensors.error(
                    f"{name}_zero_point", "makes the codes unsymmetric, which is not known for INT8"
                )
            if codes.dtype == "I8" and scale.dtype == "F8_E8M0":
                continue  # FP4 in signed bytes
            kind = {"kind": "int8" if codes.dtype == "I8" else "float"}
            grid = {
                "tensor": scale.name,
                "block": _block(tensors, codes, scale),
                "exponents": scale.dtype in ("F8_E8M0", "U8"),
            }
            method = "INT8 with scales" if codes.dtype == "I8" else "FP8 with scales"
            leaf = _dequantize(codes.name, _matrix(codes.shape), kind, scale=grid)
            tensors.put(name, codes.shape, _shaped(leaf, codes.shape), [name, scale.name], method)


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == 1 else shape


def _shaped(leaf: Json, shape: tuple[int, ...]) -> Json:
    return leaf if len(shape) > 1 else {"op": "reshape", "of": leaf, "shape": list(shape)}


def _block(tensors: _Tensors, codes: SourceTensor, scale: SourceTensor) -> list[int]:
    """Return the rows and columns that share a scale, from the shape of the scales and from config.json."""
    *lead, rows, columns = _matrix(codes.shape)
    count, stack = math.prod(scale.shape), math.prod(lead)
    if count == stack:
        return [rows, columns]
    if count == stack * rows:
        return [1, columns]
    stated = tensors.settings.get("weight_block_size")
    if stated is None:
        stated = next((w.get("block_structure") for w in _weight_groups(tensors.settings)), None)
    sizes = stated if isinstance(stated, list) and len(stated) == 2 else [128, 128]
    if all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        height, width = sizes
        if count == stack * -(-rows // height) * -(-columns // width):
            return [height, width]
    what = f"has {count} scales for {stack * rows} x {columns} codes, which are no blocks of {shown(sizes)}"
    raise tensors.error(scale.name, what, "Correct weight_block_size in config.json")


def _weight_groups(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return how the weights of each group of compressed-tensors are quantized."""
    groups = settings.get("config_groups")
    parts = groups.values() if isinstance(groups, dict) else ()
    found = [part.get("weights") for part in parts if isinstance(part, dict)]
    return [weights for weights in found if isinstance(weights, dict)]


# FP4: MXFP4 and NVFP4


def _mxfp4_stacks(tensors: _Tensors) -> None:
    """``X_blocks`` [..., rows, groups, 16] and ``X_scales`` [..., rows, groups], as gpt-oss has them. The weight of
    the unquantized checkpoint is the transpose."""
    for base, blocks in tensors.ending("_blocks"):
        scales = tensors.left.get(f"{base}_scales")
        if scales is None or blocks.dtype != "U8" or blocks.shape[-1:] != (16,):
            continue
        *lead, rows, groups, _ = blocks.shape
        if scales.shape != (*lead, rows, groups):
            raise tensors.error(
                scales.name, f"has shape {shown(scales.shape)}, which does not fit '{blocks.name}'"
            )
        shape = (*lead, rows, 32 * groups)
        grid = {"tensor": scales.name, "block": [1, 32], "exponents": True}
        leaf = _dequantize(blocks.name, shape, _packed(4, "row"), table=list(E2M1), scale=grid)
        turned = {"op": "transpose", "of": leaf, "slices": math.prod(lead)}
        used = [blocks.name, scales.name]
        tensors.put(base, (*lead, 32 * groups, rows), turned, used, "MXFP4")


def _fp4(tensors: _Tensors) -> None:
    """Two codes a byte and a scale for 16 (NVFP4) or 32 (MXFP4) columns: compressed-tensors, modelopt, DeepSeek V4
    and Kimi K3."""
    for packed, scale_suffix in (
        (".weight_packed", ".weight_scale"),
        (".weight", ".weight_scale"),
        (".weight", ".scale"),
    ):
        for base, codes in tensors.ending(packed):
            scale = tensors.left.get(f"{base}{scale_suffix}")
            if scale is None or codes.dtype not in ("U8", "I8", "F4") or len(codes.shape) < 2:
                continue
            shape = codes.shape if codes.dtype == "F4" else (*codes.shape[:-1], 2 * codes.shape[-1])
            width = {"F8_E4M3": 16, "F8_E8M0": 32, "U8": 32}.get(scale.dtype)
            if width is None or math.prod(scale.shape) * width != math.prod(shape):
                continue
            grid: Json = {"tensor": scale.name, "block": [1, width], "exponents": width == 32}
            used = [codes.name, scale.name]
            for suffix in (".weight_scale_2", ".weight_global_scale"):
                if f"{base}{suffix}" in tensors.left:
                    grid["factor"] = f"{base}{suffix}"
                    grid["divide_by_factor"] = suffix == ".weight_global_scale"
                    used.append(f"{base}{suffix}")
                    break
            leaf = _dequantize(codes.name, shape, _packed(4, "row"), table=list(E2M1), scale=grid)
            tensors.put(f"{base}.weight", shape, leaf, used, "NVFP4" if width == 16 else "MXFP4")


# Integers of a few bits


def _pack_quantized(tensors: _Tensors) -> None:
    """compressed-tensors, pack-quantized: ``weight_packed`` I32 [rows, columns / per word], ``weight_scale`` [rows,
    groups], and ``weight_zero_point`` packed along the rows."""
    for base, codes in tensors.ending(".weight_packed"):
        scale = tensors.left.get(f"{base}.weight_scale")
        if scale is None or codes.dtype != "I32" or len(codes.shape) != 2 or len(scale.shape) != 2:
            continue
        if f"{base}.weight_g_idx" in tensors.left:
            raise tensors.error(
                f"{base}.weight_g_idx", "orders the columns by activation, which is not known here"
            )
        rows, groups = scale.shape
        bits, columns = _bits_and_columns(tensors, codes, groups)
        width = columns if groups == 1 else columns // groups
        zero_name = f"{base}.weight_zero_point"
        zero: Any = float(1 << (bits - 1))
        used = [codes.name, scale.name]
        if zero_name in tensors.left:
            zero = {"tensor": zero_name, "bits": bits, "order": "column", "plus": 0.0}
            used.append(zero_name)
        elif any(weights.get("symmetric") is False for weights in _weight_groups(tensors.settings)):
            raise tensors.error(codes.name, "has no zero points, which config.json asks for")
        if f"{base}.weight_shape" in tensors.left:
            used.append(f"{base}.weight_shape")
        grid = {"tensor": scale.name, "block": [1, width]}
        leaf = _dequantize(codes.name, (rows, columns), _packed(bits, "row"), scale=grid, zero=zero)
        tensors.put(f"{base}.weight", (rows, columns), leaf, used, f"compressed-tensors INT{bits}")


def _bits_and_columns(tensors: _Tensors, codes: SourceTensor, groups: int) -> tuple[int, int]:
    """Return the bits and the columns of packed codes, from the one group of config.json that fits the shapes."""
    words = codes.shape[1]
    found = set()
    for weights in _weight_groups(tensors.settings):
        bits, size = weights.get("num_bits"), weights.get("group_size")
        if not isinstance(bits, int) or isinstance(bits, bool) or bits not in (2, 4, 8):
            continue
        columns = groups * size if isinstance(size, int) and size > 0 else words * 32 // bits
        if -(-columns * bits // 32) == words:
            found.add((bits, columns))
    if len(found) != 1:
        what = f"has {words} words a row and {groups} groups, which fit {len(found)} of the config_groups"
        raise tensors.error(codes.name, what, "Correct num_bits and group_size in config.json")
    return found.pop()


def _gptq(tensors: _Tensors) -> None:
    """GPTQ: ``qweight`` I32 [in / per word, out], ``qzeros`` [groups, out / per word], ``scales`` [groups, out] and
    ``g_idx`` [in]. The first version of the format stores zero points minus one."""
    method = tensors.settings.get("quant_method")
    if method not in ("gptq", "gptqmodel"):
        return
    bits = tensors.settings.get("bits")
    first_version = tensors.settings.get("checkpoint_format", "gptq") == "gptq"
    for base, codes in tensors.ending(".qweight"):
        scales, zeros = tensors.left.get(f"{base}.scales"), tensors.left.get(f"{base}.qzeros")
        if scales is None or zeros is None or len(codes.shape) != 2 or len(scales.shape) != 2:
            raise tensors.error(codes.name, "has no scales or no qzeros", "Download the checkpoint again")
        if not isinstance(bits, int) or bits not in (2, 4, 8):
            raise tensors.error(codes.name, f"has GPTQ codes of {shown(bits)} bits, 2, 4 and 8 are known")
        inputs, (groups, outputs) = codes.shape[0] * 32 // bits, scales.shape
        used = [codes.name, scales.name, zeros.name]
        order = f"{base}.g_idx" if f"{base}.g_idx" in tensors.left else None
        used += [order] if order is not None else []
        grid = {"tensor": scales.name, "block": [max(1, inputs // groups), 1]}
        zero = {"tensor": zeros.name, "bits": bits, "order": "row", "plus": 1.0 if first_version else 0.0}
        code = _packed(bits, "column")
        leaf = _dequantize(codes.name, (inputs, outputs), code, scale=grid, zero=zero, groups=order)
        turned = {"op": "transpose", "of": leaf}
        tensors.put(f"{base}.weight", (outputs, inputs), turned, used, f"GPTQ of {bits} bits")


def _awq(tensors: _Tensors) -> None:
    """AWQ (gemm): ``qweight`` I32 [in, out / 8], ``qzeros`` [groups, out / 8] and ``scales`` [groups, out]."""
    if tensors.settings.get("quant_method") != "awq":
        return
    version = tensors.settings.get("version", "gemm")
    for base, codes in tensors.ending(".qweight"):
        scales, zeros = tensors.left.get(f"{base}.scales"), tensors.left.get(f"{base}.qzeros")
        if version != "gemm" or tensors.settings.get("bits", 4) != 4:
            raise tensors.error(
                codes.name, f"has AWQ codes of version {shown(version)}, gemm with 4 bits is known"
            )
        if scales is None or zeros is None or len(codes.shape) != 2 or len(scales.shape) != 2:
            raise tensors.error(codes.name, "has no scales or no qzeros", "Download the checkpoint again")
        inputs, (groups, outputs) = codes.shape[0], scales.shape
        grid = {"tensor": scales.name, "block": [max(1, inputs // groups), 1]}
        zero = {"tensor": zeros.name, "bits": 4, "order": "awq", "plus": 0.0}
        leaf = _dequantize(codes.name, (inputs, outputs), _packed(4, "awq"), scale=grid, zero=zero)
        used = [codes.name, scales.name, zeros.name]
        tensors.put(f"{base}.weight", (outputs, inputs), {"op": "transpose", "of": leaf}, used, "AWQ")


def _mlx(tensors: _Tensors) -> None:
    """MLX: ``weight`` U32 [..., rows, columns * bits / 32], ``scales`` and ``biases`` [..., rows, groups]."""
    size = tensors.settings.get("group_size", 64)
    for base, codes in tensors.ending(".weight"):
        scales, biases = tensors.left.get(f"{base}.scales"), tensors.left.get(f"{base}.biases")
        if codes.dtype != "U32" or scales is None or len(scales.shape) < 2:
            continue
        own = tensors.settings.get(base)
        width = own.get("group_size", size) if isinstance(own, dict) else size
        columns = scales.shape[-1] * width if isinstance(width, int) and width > 0 else 0
        bits, rest = divmod(32 * codes.shape[-1], max(1, columns))
        if rest or not 2 <= bits <= 8:
            what = f"has {codes.shape[-1]} words a row for {columns} columns in groups of {shown(width)}"
            raise tensors.error(codes.name, what, "Correct group_size under quantization in config.json")
        shape = (*codes.shape[:-1], columns)
        grid: Json = {"tensor": scales.name, "block": [1, width]}
        used, table, bias = [codes.name, scales.name], None, None
        if biases is not None:
            used.append(biases.name)
            bias = {"tensor": biases.name, "block": [1, width]}
        elif scales.dtype == "U8" and bits == 4 and width == 32:
            grid["exponents"], table = True, list(E2M1)
        else:
            raise tensors.error(codes.name, "has no biases, which its kind of codes needs")
        leaf = _dequantize(codes.name, shape, _packed(bits, "row"), table=table, scale=grid, bias=bias)
        tensors.put(f"{base}.weight", shape, leaf, used, f"MLX of {bits} bits")


def _bitnet(tensors: _Tensors) -> None:
    """BitNet: four ternary codes a byte, from four quarters of the rows; the scale divides."""
    if tensors.settings.get("quant_method") != "bitnet":
        return
    for base, scale in tensors.ending(".weight_scale"):
        codes = tensors.left.get(f"{base}.weight")
        if codes is None or codes.dtype != "U8" or len(codes.shape) != 2:
            continue
        shape = (4 * codes.shape[0], codes.shape[1])
        grid = {"tensor": scale.name, "block": list(shape), "inverse": True}
        leaf = _dequantize(codes.name, shape, _packed(2, "quarters"), scale=grid, zero=1.0)
        tensors.put(f"{base}.weight", shape, leaf, [codes.name, scale.name], "ternary codes of BitNet")


# bitsandbytes


def _bitsandbytes_4bit(tensors: _Tensors) -> None:
    """bitsandbytes NF4 and FP4: flat codes in ``weight`` U8 [n / 2, 1], a scale (``absmax``) for each run of codes,
    which may be quantized once more, and the table ``quant_map``. The shape stands in a small tensor of JSON."""
    states = {}
    for kind in ("nf4", "fp4"):
        suffix = f".quant_state.bitsandbytes__{kind}"
        states.update({base: tensor.name for base, tensor in tensors.ending(suffix)})
    if not states:
        return
    read = tensors.checkpoint.small(list(states.values()), _SIDE_LIMIT)
    for base, state_name in states.items():
        state = _state(tensors, state_name, read[state_name])
        shape, block = state["shape"], state["blocksize"]
        count = math.prod(shape)
        used = [base, state_name, f"{base}.absmax", f"{base}.quant_map"]
        grid: Json = {"tensor": f"{base}.absmax", "block": [1, block]}
        if f"{base}.nested_absmax" in tensors.left:
            grid["nested"] = {
                "table": f"{base}.nested_quant_map",
                "scale": f"{base}.nested_absmax",
                "block": state["nested_blocksize"],
                "offset": state["nested_offset"],
            }
            used += [f"{base}.nested_absmax", f"{base}.nested_quant_map"]
        absent = next((name for name in used if name not in tensors.left), None)
        if absent is not None:
            raise tensors.error(
                state_name, f"needs '{absent}', which is missing", "Download the checkpoint again"
            )
        table = {"tensor": f"{base}.quant_map"}
        code = _packed(4, "high_first")
        leaf = _dequantize(base, (1, count), code, table=table, scale=grid)
        reshaped = {"op": "reshape", "of": leaf, "shape": list(shape)}
        tensors.put(base, shape, reshaped, used, "4 bits of bitsandbytes")


def _state(tensors: _Tensors, name: str, data: bytes) -> Json:
    """Return the checked quant_state of a weight."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**48

    try:
        state = json.loads(data)
        shape = tuple(state["shape"])
        fits = all(map(whole, shape)) and 0 < len(shape) <= 4 and whole(state["blocksize"])
        if "nested_blocksize" in state:
            fits = fits and whole(state["nested_blocksize"]) and math.isfinite(float(state["nested_offset"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise tensors.error(name, "is no quant_state of bitsandbytes", "Download the checkpoint again")
    return {**state, "shape": shape}


def _bitsandbytes_int8(tensors: _Tensors) -> None:
    """bitsandbytes LLM.int8(): ``weight`` I8 and ``SCB``, the largest magnitude of each row."""
    for base, scale in tensors.ending(".SCB"):
        name = f"{base}.weight"
        codes = tensors.left.get(name)
        if codes is None or codes.dtype != "I8" or len(codes.shape) != 2:
            continue
        grid = {"tensor": scale.name, "block": [1, codes.shape[1]]}
        leaf = _dequantize(name, codes.shape, {"kind": "int8"}, scale=grid, times=_INT8_FACTOR)
        used = [name, scale.name]
        tensors.put(name, codes.shape, leaf, used, "8 bits of bitsandbytes")


_RULES: Final[tuple[Callable[[_Tensors], None], ...]] = (
    _bitnet,
    _bitsandbytes_4bit,
    _bitsandbytes_int8,
    _gptq,
    _awq,
    _pack_quantized,
    _mxfp4_stacks,
    _fp4,
    _mlx,
    _scaled,
)
