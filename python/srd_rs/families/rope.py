"""This module brings the parameters of rotary position embedding into one form and computes the tables that GGUF
stores.

Old files have `rope_theta` beside `rope_scaling = {"type" or "rope_type": ..., "factor": ...}`. New files
(transformers 5) have `rope_parameters`, which are flat or have one object per layer type.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final

from srd_rs.families.config import Config
from srd_rs.metadata import Metadata
from srd_rs.reading import shown

_PER_TYPE: Final = ("full_attention", "sliding_attention")
_KNOWN: Final = (
    "default",
    "linear",
    "dynamic",
    "yarn",
    "su",
    "longrope",
    "llama3",
    "proportional",
    "mrope",
    "xdrope",
)
_THETA: Final = (
    "global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base",
)  # fmt: skip
_LOCAL_THETA: Final = (
    "local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq",
)  # fmt: skip
_LONGROPE: Final = ("longrope", "su")
_LONG_CONTEXT: Final = ("llama3", "yarn", *_LONGROPE)
LONG_FACTORS: Final = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
"""The tensors of GGUF that hold the factors of LongRoPE, and the names of the factors in config.json."""


@dataclass
class Rope:
    """The parameters of full-attention layers are in `full`, those of sliding layers in `sliding`. Without
    `sliding`, `full` holds for all layers.

    Both have `rope_type` and `rope_theta`. Types that extend the context have `original_max_position_embeddings`
    too.
    """

    full: dict[str, Any]
    sliding: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        return str(self.full["rope_type"])

    @property
    def is_longrope(self) -> bool:
        return self.kind in _LONGROPE


def read(
    config: Config,
    *,
    theta: float | None = 10_000.0,
    theta_sliding: float | None = None,
) -> Rope:
    """Read the parameters of a configuration. `theta` and `theta_sliding` are the defaults of its class.

    `theta_sliding` marks a class whose sliding layers have a base of their own (`rope_local_base_freq` in old
    files). Such a class passes over `rope_parameters` that are not those of a type of layers.
    """
    raw = config.mapping("rope_scaling") or config.mapping("rope_parameters")
    if any(raw.get(kind) is not None for kind in _PER_TYPE):
        full, sliding = (_of_type(config, raw, kind) for kind in _PER_TYPE)
    else:
        # Such classes read flat parameters by the old name only.
        own_bases = theta_sliding is not None
        if own_bases and raw.get("rope_type") is None and raw.get("type") not in (None, "default"):
            raise config.error(
                "rope_scaling has type without rope_type, which transformers 5 passes over in this class, and which"
                " earlier versions read",
                "Write rope_type if the model was trained with the scaling, else remove rope_scaling",
            )
        is_old = not own_bases or bool(config.mapping("rope_scaling"))
        full, sliding = dict(raw) if is_old else {}, {}
    local = next((config.get(key) for key in _LOCAL_THETA if config.get(key) is not None), theta_sliding)
    bases = config.get("rope_theta")
    if isinstance(bases, list):  # one base for each layer, of which the first has full attention
        bases = config.numbers("rope_theta", bases, len(bases))
        if len(bases) < 2:
            raise config.error("rope_theta is a list of fewer than two numbers")
        full.setdefault("rope_theta", bases[0])
        local = bases[1] if local is None else local
    if local is not None and sliding.get("rope_theta") is None:
        sliding["rope_theta"] = local
    _complete(config, full, theta)
    if sliding:
        _complete(config, sliding, theta)
    return Rope(full, sliding or None)


def _of_type(config: Config, raw: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the parameters of one type of layers, empty if there are none."""
    params = raw.get(kind)
    if params is not None and not isinstance(params, dict):
        raise config.error(f"the RoPE parameters of {kind} are {shown(params)}, an object is expected")
    return dict(params or {})


def _complete(config: Config, params: dict[str, Any], theta: float | None) -> None:
    """Fill in and check the values that every reader needs."""
    kind = params.get("rope_type") or params.get("type") or "default"
    if not isinstance(kind, str) or kind.lower() not in _KNOWN:
        raise config.error(
            f"the RoPE type {shown(kind)} is unknown", "Convert it with a newer version, if there is one"
        )
    kind = kind.lower()
    # Multimodal RoPE turns the dimensions by three positions, and a text has one position for all: no other scaling.
    params["rope_type"] = "default" if kind in ("mrope", "xdrope") else kind
    if params.get("rope_theta") is None:
        params["rope_theta"] = next((config.get(key) for key in _THETA if config.get(key) is not None), theta)
    if params["rope_theta"] is not None:
        config.check_number("rope_theta", params["rope_theta"])
    if params.get("partial_rotary_factor") is None:
        fraction = next(
            (
                config.get(key)
                for key in ("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent")
                if config.get(key)
            ),
            None,
        )
        if fraction is not None:
            params["partial_rotary_factor"] = fraction
    if (
        params.get("partial_rotary_factor") is not None
        and config.check_number("partial_rotary_factor", params["partial_rotary_factor"]) > 1
    ):
        raise config.error(
            f"partial_rotary_factor is {shown(params['partial_rotary_factor'])}, it must be at most 1"
        )
    if kind in _LONG_CONTEXT and params.get("original_max_position_embeddings") is None:
        context = config.get("max_position_embeddings")
        if kind != "yarn":  # a value beside the parameters of YaRN is not read, as in transformers
            context = config.get("original_max_position_embeddings", context)
        params["original_max_position_embeddings"] = context
    if params.get("original_max_position_embeddings") is not None:
        config.check_count("original_max_position_embeddings", params["original_max_position_embeddings"])
    for key in (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "attention_factor",
        "attn_factor",
        "beta_fast",
        "beta_slow",
    ):
        if params.get(key) is not None:
            config.check_number(f"RoPE {key}", params[key])
    if kind in ("linear", "yarn", "dynamic", "llama3") and params.get("factor") is None:
        raise config.error(f"RoPE scaling of type '{kind}' has no factor", "Add it to config.json")


def sections(config: Config, rope: Rope) -> list[int] | None:
    """Return how many rotary pairs turn by time, height and width, padded to four numbers; None if all turn by one
    position."""
    stated = rope.full.get("mrope_section")
    if stated is None:
        return None
    if not isinstance(stated, list) or not 1 <= len(stated) <= 4:
        raise config.error(f"mrope_section is {shown(stated)}, a list of up to four numbers is expected")
    counts = [config.check_count("mrope_section", part, least=0) for part in stated]
    return counts + [0] * (4 - len(counts))


def write_scaling(rope: Rope, arch: str, metadata: Metadata) -> None:
    """Write the `rope.scaling.*` keys. llama3 scaling goes into a tensor. Dynamic NTK has no counterpart in GGUF
    and changes nothing below the trained context, so nothing is written for dynamic NTK."""
    params, kind = rope.full, rope.kind
    if kind in ("linear", "yarn"):
        metadata.string(f"{arch}.rope.scaling.type", kind)
        metadata.float32(f"{arch}.rope.scaling.factor", params["factor"])
    if kind == "yarn":
        metadata.uint32(
            f"{arch}.rope.scaling.original_context_length", params["original_max_position_embeddings"]
        )
        attention = params.get("attention_factor")
        optional = {
            "yarn_ext_factor": params.get("extrapolation_factor"),
            "yarn_attn_factor": attention if attention is not None else params.get("attn_factor"),
            "yarn_beta_fast": params.get("beta_fast"),
            "yarn_beta_slow": params.get("beta_slow"),
        }
        for key, value in optional.items():
            if value is not None:
                metadata.float32(f"{arch}.rope.scaling.{key}", value)
    if rope.is_longrope:
        metadata.string(f"{arch}.rope.scaling.type", "longrope")


def longrope_factors(config: Config, rope: Rope, head_dim: int) -> dict[str, tuple[float, ...]]:
    """Return the tensors that hold the factors of LongRoPE, one for each rotated pair."""
    found = {}
    for name, key in LONG_FACTORS.items():
        value = rope.full.get(key)
        if not isinstance(value, list) or len(value) != head_dim // 2:
            what = f"{' and '.join(LONG_FACTORS.values())} do not have one number for each rotated pair"
            raise config.error(what, "Correct config.json")
        found[name] = tuple(config.numbers(key, value, head_dim // 2))
    return found


def write_longrope(config: Config, rope: Rope, arch: str, metadata: Metadata) -> None:
    """Write the context that a model with LongRoPE was first trained with, and the temperature of its attention."""
    params = rope.full
    trained, temperature = params["original_max_position_embeddings"], params.get("attention_factor")
    if trained is None:
        raise config.error("original_max_position_embeddings is missing", "Add it to config.json")
    if temperature is None:
        stretch = params.get("factor") or config.count("max_position_embeddings") / trained
        if stretch > 1 and trained == 1:
            raise config.error("original_max_position_embeddings is 1, it must be greater")
        temperature = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(trained))
    metadata.uint32(f"{arch}.rope.scaling.original_context_length", trained)
    metadata.float32(f"{arch}.rope.scaling.attn_factor", temperature)


def write_magnitude(config: Config, rope: Rope, arch: str, metadata: Metadata) -> None:
    """Write the factor of rotated queries and keys under YaRN, where it is not what llama.cpp computes from the factor
    of the scaling. llama.cpp does not read `yarn_attn_factor`, but multiplies by `attn_factor`. Architectures with
    `yarn_log_multiplier` compute it from that number."""
    params, key = rope.full, f"{arch}.rope.scaling"
    if (
        metadata.get(f"{key}.type") != "yarn"
        or rope.kind != "yarn"
        or f"{key}.yarn_log_multiplier" in metadata
        or f"{key}.attn_factor" in metadata
    ):
        return
    usual = _magnitude(params["factor"], 1.0)
    found = params.get("attention_factor")
    if found is None:
        scales = [
            config.check_number(f"RoPE {name}", params[name])
            for name in ("mscale", "mscale_all_dim")
            if params.get(name)
        ]
        if len(scales) == 2:
            found = _magnitude(params["factor"], scales[0]) / _magnitude(params["factor"], scales[1])
    if found is not None and abs(found / usual - 1.0) > 1e-6:
        metadata.float32(f"{key}.attn_factor", found / usual)


def has_fractional_limits(rope: Rope, head_dim: int) -> bool:
    """Say whether a limit between the frequencies that YaRN scales and the others is no whole number."""
    params = rope.full
    size, base = int(head_dim * (params.get("partial_rotary_factor") or 1.0)), params["rope_theta"]
    if base is None or base <= 1.0:
        return False
    context = params["original_max_position_embeddings"]
    turns = (params.get("beta_fast") or 32.0, params.get("beta_slow") or 1.0)
    limits = [size * math.log(context / (turn * 2 * math.pi)) / (2 * math.log(base)) for turn in turns]
    # llama.cpp keeps both limits within the rotary values
    return any(0 < limit < size - 1 and limit != round(limit) for limit in limits)


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _f32(value: float) -> float:
    """Round to float32. Sums, products and quotients of float32 values, computed in float64 and then rounded,
    are the correctly rounded float32 ones."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def llama3_factors(
    config: Config, params: dict[str, Any], dimensions: int, *, single: bool = True
) -> tuple[float, ...]:
    """Return the `dimensions` / 2 values by which llama3 scaling divides rotary frequencies, computed in float32
    steps, or from the frequencies on in float64 if not `single`.

    Wavelengths up to original/high_freq_factor keep a factor of 1. Wavelengths beyond original/low_freq_factor
    are divided by `factor`. Between the two limits both are blended, as in the reference code of Llama 3.1. A
    number over a tensor is the number times the rounded reciprocal, so the values are those of llama.cpp's
    converter to the last bit.
    """
    try:
        return _llama3_factors(config, params, dimensions, single)
    except (OverflowError, ZeroDivisionError):
        raise config.error("the numbers of the RoPE scaling are too large or too small for float32") from None


def _llama3_factors(
    config: Config, params: dict[str, Any], dimensions: int, single: bool
) -> tuple[float, ...]:
    base, factor = _f32(params["rope_theta"]), float(params["factor"])
    low, high = float(params.get("low_freq_factor") or 1.0), float(params.get("high_freq_factor") or 4.0)
    if high < low:
        raise config.error(f"RoPE high_freq_factor {high} must not be less than low_freq_factor {low}")
    context = params["original_max_position_embeddings"]
    rounded = _f32 if single else float
    factors = []
    for index in range(0, dimensions, 2):
        frequency = _f32(1.0 / _f32(base ** _f32(index / dimensions)))
        wavelength = rounded(rounded(1 / frequency) * rounded(2 * math.pi))
        if wavelength < rounded(context / high):
            factors.append(1.0)
        elif wavelength > rounded(context / low) or high == low:
            factors.append(_f32(factor))
        else:
            smooth = rounded(
                rounded(rounded(rounded(1 / wavelength) * context) - rounded(low)) / rounded(high - low)
            )
            blend = rounded(rounded(rounded(1 - smooth) / rounded(factor)) + smooth)
            factors.append(_f32(1 / blend))
    return tuple(factors)
