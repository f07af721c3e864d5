"""Plans: from a model folder or a GGUF to what a conversion would write. Only headers are read, no weight.

This module is not called ``plan``, and the conversion not ``convert``, because importing a submodule
``srd_rs.plan`` would replace the function `srd_rs.plan` of the package by the module.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srd_rs import _core, effects, sniff
from srd_rs.errors import ModelError, UsageError, io_error, message
from srd_rs.hub import Source, locate, model_files
from srd_rs.options import EFFORTS, ConvertOptions, StrPath, changed, takes_options
from srd_rs.report import Plan

if TYPE_CHECKING:
    from srd_rs.families.base import ModelSpec


@dataclass(frozen=True)
class NativeModel:
    """A planned model whose weights can be run: what a calibration needs."""

    model: Path
    plan: _core.Plan

    def metadata(self) -> list[tuple[str, str, Any]]:
        return self.plan.metadata()

    @property
    def source_digest(self) -> str | None:
        return self.plan.source_digest


def native_model(model: Path, beside: Path = Path("model.gguf")) -> NativeModel:
    """A model folder or GGUF, to be run. States that do not fit into memory go into the folder of `beside`."""
    return NativeModel(model, native_plan(Source(model), beside, ConvertOptions(quant="F32")))


@takes_options
def plan(
    model: StrPath, output: StrPath | None = None, options: ConvertOptions | None = None, **changes: Any
) -> Plan:
    """What `srd_rs.convert` with the same arguments would write. Reads headers, no weight.

    Raises the errors of `srd_rs.convert`, except those that only weights can cause.
    """
    native = native_plan(locate(model), output, changed(options, changes))
    effects.warn_of_plan(native)
    return Plan.of(native)


def calibration_file(options: ConvertOptions) -> StrPath | None:
    """The calibration file that was named, as `calibrate` or as `imatrix`."""
    for path in (options.calibrate, options.imatrix):
        if path not in (None, "builtin", "random") and _core.is_calibration(os.fspath(path)):
            return path
    return None


def calibration_text(options: ConvertOptions) -> StrPath | None:
    """The text to calibrate on, None for no calibration. An imatrix alone serves both efforts."""
    if options.calibrate is not None or options.imatrix is not None:
        return options.calibrate
    return "builtin" if options.effort == "srd" else None


def native_plan(
    source: Source,
    output: StrPath | None,
    options: ConvertOptions,
    calibration: _core.Calibration | None = None,
) -> _core.Plan:
    """The native plan. `calibration` is the native calibration, where one was made already."""
    model = source.path
    if options.effort not in EFFORTS:
        what = f"effort '{options.effort}' is not known"
        raise UsageError(message("effort", what, "Use 'fast' or 'srd'"))
    sniff.check_model(model)
    gguf = output_path(source, output, options.quant)
    file, text = calibration_file(options), calibration_text(options)
    made = text is not None and file is None
    names = effects.given(options)
    effects.check(options, names, from_gguf=model.is_file(), text=made, measured=file is not None)
    if file is not None and calibration is None:
        calibration = _core.open_calibration(file)
    name = None
    if text is not None and made:
        name = os.fspath(text) if text in ("builtin", "random") else Path(text).name
    if model.is_file():
        planned = _core.plan_gguf(model, gguf, options, calibration, name)
    else:
        planned = _plan_checkpoint(source, gguf, options, calibration, name)
    effects.check_plan(options, planned)
    return planned


def _plan_checkpoint(
    source: Source,
    gguf: Path,
    options: ConvertOptions,
    calibration: _core.Calibration | None,
    text: str | None,
) -> _core.Plan:
    from srd_rs import families, vocab
    from srd_rs.checkpoint import Checkpoint, flatten

    model = source.path
    checkpoint = Checkpoint.open(model, source.name)
    spec = families.describe(checkpoint, name=options.name)
    metadata = spec.metadata
    metadata.update(
        vocab.load(
            checkpoint.folder,
            config=flatten(checkpoint.config),
            n_vocab=_embedding_rows(spec, model),
            rules=spec.vocabulary,
            pre=options.pre_tokenizer,
        )
    )
    tensors = json.dumps([t.to_json() for t in spec.tensors])
    files = model_files(checkpoint.folder)
    return _core.plan_checkpoint(
        model, metadata.entries(), tensors, spec.hparams, gguf, options, files, calibration, text
    )


def _embedding_rows(spec: ModelSpec, model: Path) -> int:
    for tensor in spec.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[0]
    raise ModelError(message(model, "the model has no token embedding", "Convert a complete checkpoint"))


def output_path(source: Source, output: StrPath | None, quant: str, suffix: str = ".gguf") -> Path:
    """Name of the output: `output`, or the default name in the folder `output` or in the current folder."""
    default = f"{source.stem}-{quant.upper()}{suffix}"
    return Path(default) if output is None else named(output, default, suffix)


def named(output: StrPath, default: str, suffix: str) -> Path:
    """`output`, with `suffix` where the name has none, or the name `default` in the folder `output`."""
    path = Path(output)
    if is_folder(output):
        return path / default
    # The end of a name such as Qwen2.5-7B is no suffix.
    if path.is_symlink() or path.exists() or re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):
        return path
    return path.with_name(path.name + suffix)


def make_folder(folder: Path) -> None:
    """Make the folder that an output goes into, with its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise io_error(folder, "create the folder", error, "Check the path of the output") from None


def is_folder(output: StrPath) -> bool:
    """Whether an output names a folder: an existing one, or any name that ends in a slash."""
    return Path(output).is_dir() or os.fspath(output).endswith(os.sep)
