"""Options without effect: whoever sets one believes in something that does not happen, so it is an error."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import Final

from srd_rs import _core
from srd_rs.errors import UsageError, message
from srd_rs.options import DEFAULTS, FLOAT_TYPES, ConvertOptions, writes_container

log = logging.getLogger("srd_rs.effects")

_UNQUANTIZED: Final = FLOAT_TYPES | {"F64"}
_FLAGS: Final = {
    "cache": "--no-cache",
    "metadata": "--metadata, --override-kv",
    "srd": "--beam-width, --dither-layers",
    "tensor_types": "--tensor-type",
}


def given(options: ConvertOptions) -> set[str]:
    """Names of the options that differ from their defaults."""
    return {f.name for f in fields(options) if getattr(options, f.name) != getattr(DEFAULTS, f.name)}


def check(
    options: ConvertOptions, names: Collection[str], *, from_gguf: bool, text: bool, measured: bool
) -> None:
    """Raise UsageError for one of the options `names` that has no effect beside the others.

    from_gguf: the input is a GGUF. text: a calibration on a text is made. measured: a calibration file is named.
    """
    axm = writes_container(options)
    recorded = options.provenance or axm
    seeded = options.is_measured or options.calibrate == "random"
    calibration = "the calibration file was measured already" if measured else "no calibration is made"
    if not axm:
        check_container(names)
    rules: list[tuple[bool, Iterable[str], str]] = [
        (not options.is_measured, ("srd",), "only the efforts srd and max keep several candidate roundings"),
        (not text, ("calibrate_tokens", "calibrate_block", "weigh_tokens", "cache"), calibration),
        (options.effort == "max", ("weigh_tokens",), "effort max weighs no tokens"),
        (not (recorded or seeded), ("seed",), "nothing is random, and the seed is not recorded"),
        (not from_gguf, ("allow_requantize",), "a checkpoint is not quantized"),
        (from_gguf, ("target",), "a GGUF has its tokenizer"),
        (from_gguf, ("lora",), "adapters are merged into checkpoints of Hugging Face only"),
        (from_gguf, ("name", "pre_tokenizer"), "the metadata of a GGUF is kept, but for --override-kv"),
        ("general.name" in (options.metadata or ()), ("name",), "the metadata states general.name"),
        ("tokenizer.ggml.pre" in (options.metadata or ()), ("pre_tokenizer",), "the metadata states it"),
        (from_gguf, ("read",), "a GGUF is read at offsets"),
        (options.stream, ("read",), "the weights come over the network"),
        (from_gguf, ("mmproj_type",), "a GGUF holds no projector"),
        (from_gguf, ("mtp",), "all blocks of a GGUF are kept"),
        (options.mmproj is False and not options.mmproj_only, ("mmproj_type",), "no projector is written"),
        (options.split_max_size is not None, ("modelfile",), "Ollama takes no split GGUF"),
        (options.calibrate is not None, ("imatrix",), "the calibration weighs the errors"),
        (options.quant.upper() in FLOAT_TYPES, ("pure",), "all matrices have the type of the mix"),
    ]
    for applies, about, why in rules:
        for name in about:
            if applies and name in names:
                raise without_effect(name, why)
    if options.scale_channels:
        _check_scaled_channels(options, measured=measured)
    if options.effort == "max" and measured:
        what = "effort max runs the model itself, and a calibration file holds the inputs of the original model alone"
        raise UsageError(message("--calibrate", what, "Name a text, or use --effort srd"))
    if options.is_measured and options.imatrix is not None and not measured:
        what = (
            f"effort {options.effort} measures the second moments of the inputs itself, and an imatrix holds only"
            " their diagonal"
        )
        raise UsageError(message("--imatrix", what, "Leave --imatrix out, or use --effort fast"))


def _check_scaled_channels(options: ConvertOptions, *, measured: bool) -> None:
    """Raise UsageError for what cannot be done where the channels are scaled."""
    refused: list[tuple[bool, str, str]] = [
        (
            measured,
            "a calibration file holds the inputs of the model as it is",
            "Name a text with --calibrate",
        ),
        (
            options.imatrix is not None and not measured,
            "an imatrix holds the inputs of the model as it is",
            "Leave --imatrix out",
        ),
        (
            options.stream,
            "the factors need all weights of a layer before one is written, and the weights come over the network",
            "Leave --stream out",
        ),
        (
            options.ray is not None,
            "the machines of a cluster calibrate the model as it is",
            "Leave --ray out",
        ),
        (
            options.quant.upper() in FLOAT_TYPES and options.budget is None,
            f"no tensor of the mix {options.quant.upper()} is quantized",
            "Leave the option out, or choose a mix such as Q4_K_M",
        ),
    ]
    for applies, why, fix in refused:
        if applies:
            raise UsageError(message("--scale-channels", why, fix))


def check_container(names: Collection[str]) -> None:
    """Raise UsageError for one of the options `names` that is about a container, where none is written."""
    for name in ("axm_output", "residual_bits", "key_file", "sign_key"):
        if name in names:
            raise without_effect(name, "no container is written", "Leave the option out, or add --axm")


def check_plan(options: ConvertOptions, plan: _core.Plan) -> None:
    """Raise UsageError for a method that no planned tensor uses."""
    types = {t.type for t in plan.tensors}
    mix = options.quant.upper()
    if options.is_measured and types.isdisjoint(_core.FEEDBACK_TYPES):
        why = f"no tensor of the mix {mix} has a type that effort {options.effort} quantizes"
        what = f"{options.effort} has no effect: {why}"
        raise UsageError(message("--effort", what, "Choose another mix, or --effort fast"))
    plain = mix in FLOAT_TYPES and types <= FLOAT_TYPES
    for name in ("imatrix", "calibrate"):
        if plain and getattr(options, name) is not None:
            raise without_effect(name, f"no tensor of the mix {mix} is quantized")
    quantized = {t.type for t in plan.tensors if t.type not in FLOAT_TYPES and t.type not in t.source_types}
    if options.imatrix is not None and quantized and quantized.isdisjoint(_core.WEIGHED_TYPES):
        raise without_effect("imatrix", f"the type {', '.join(sorted(quantized))} does not weigh the errors")


def warn_of_plan(plan: _core.Plan, options: ConvertOptions) -> None:
    """Warn of tensors that an imatrix does not know, of tensors that are quantized for the second time, and of scaled
    channels."""
    if options.scale_channels:
        log.warning("the channels are scaled, so adapters (LoRA) of the original model do not fit the file")
    unknown = plan.without_importance
    if unknown:
        log.warning(
            "the imatrix lacks %d tensors, which are quantized without it: %s", len(unknown), _listed(unknown)
        )
    if plan.unseen_experts:
        names = [f"{name} ({count})" for name, count in plan.unseen_experts]
        what = "the imatrix has nothing of some experts of %d tensors, whose inputs count the same: %s"
        log.warning(what, len(names), _listed(names))
    again = [
        t.name
        for t in plan.tensors
        if not _UNQUANTIZED.issuperset(t.source_types) and t.type not in t.source_types
    ]
    if again:
        what = "%d tensors were quantized already and are quantized again, which loses precision twice: %s"
        log.warning(what, len(again), _listed(again))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if names[4:] else "")


def without_effect(name: str, why: str, fix: str = "Leave the option out") -> UsageError:
    """The error for the option `name` that has no effect."""
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    return UsageError(message(flag, f"the option has no effect: {why}", fix))


def refuse(*rules: tuple[bool, str, str]) -> None:
    """Raise UsageError for the first of (applies, flag, why) that applies: the checks of calls with few options."""
    for applies, flag, why in rules:
        if applies:
            raise UsageError(message(flag, f"the option has no effect: {why}", "Leave the option out"))
