"""Plans: from a model folder or a GGUF to what a conversion would write. Only headers are read, no weight.

This module is not called ``plan``, and the conversion not ``convert``, because importing a submodule
``srd_rs.plan`` would replace the function `srd_rs.plan` of the package by the module.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srd_rs.errors import ModelError, UsageError, message
from srd_rs.hub import Source, locate
from srd_rs.options import EFFORTS, ConvertOptions, StrPath, changed, takes_options
from srd_rs.report import Plan, PlannedContainer, PlannedFile, PlannedTensor

if TYPE_CHECKING:
    from srd_rs.families.base import ModelFacts, ModelSpec


@dataclass(frozen=True)
class NativeModel:
    """A planned model whose weights can be run: what a calibration needs."""

    model: Path
    plan: Any

    def metadata(self) -> list[tuple[str, str, Any]]:
        entries: list[tuple[str, str, Any]] = self.plan.metadata()
        return entries

    @property
    def source_digest(self) -> str | None:
        digest: str | None = self.plan.source_digest
        return digest


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
    return described(native_plan(locate(model), output, changed(options, changes)))


def calibration_file(options: ConvertOptions) -> StrPath | None:
    """The calibration file that was named, as `calibrate` or as `imatrix`."""
    from srd_rs import _core

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
    source: Source, output: StrPath | None, options: ConvertOptions, calibration: Any = None
) -> Any:
    """The native plan. `calibration` is the native calibration, where one was made already."""
    from srd_rs import _core

    model = source.path
    if options.effort not in EFFORTS:
        what = f"effort '{options.effort}' is not known"
        raise UsageError(message("effort", what, "Use 'fast' or 'srd'"))
    if not model.exists():
        raise UsageError(message(model, "no such file or folder", "Name a model folder or a GGUF"))
    gguf = output_path(source, output, options.quant)
    native: dict[str, Any] = {
        "output": str(gguf),
        "quant": options.quant,
        "tensor_types": list(options.tensor_types),
        "token_embedding_type": options.token_embedding_type,
        "output_tensor_type": options.output_tensor_type,
        "pure": options.pure,
        "split_max_size": options.split_max_size,
        "imatrix": None,
        "feedback": options.effort == "srd",
    }
    file, text = calibration_file(options), calibration_text(options)
    if file is not None and calibration is None:
        calibration = _core.open_calibration(os.fspath(file))
    elif options.imatrix is not None and file is None:
        native["imatrix"] = os.fspath(options.imatrix)
    if text is not None and file is None:
        native["calibration_text"] = text if text in ("builtin", "random") else Path(text).name
    if options.axm:
        path = options.axm_output or gguf.with_suffix(".axm")
        native["container"] = {"path": os.fspath(path), "residual_bits": options.residual_bits}
    if options.provenance or options.axm:
        native["provenance"] = {
            "method": "srd" if options.effort == "srd" else "search",
            "seed": options.seed,
            "files": [],
            "keys": options.provenance,
        }
    if model.is_file() and model.suffix != ".safetensors":
        return _core.plan_gguf(str(model), json.dumps(native), calibration)
    return _plan_checkpoint(source, options, native, calibration)


def _plan_checkpoint(
    source: Source, options: ConvertOptions, native: dict[str, Any], calibration: Any
) -> Any:
    from srd_rs import _core, families, vocab
    from srd_rs.checkpoint import Checkpoint, flatten

    model = source.path
    if model.is_file():
        fix = "Name the folder that holds the file, with config.json and the tokenizer beside the file"
        raise ModelError(message(model, "a weight file alone is not a model", fix))
    checkpoint = Checkpoint.open(model)
    spec = families.describe(checkpoint, name=options.name or source.name)
    metadata = spec.metadata
    metadata.update(
        vocab.load(
            checkpoint.folder,
            config=flatten(checkpoint.config),
            arch=spec.arch,
            n_vocab=_embedding_rows(spec, model),
            pre=options.pre_tokenizer,
        )
    )
    if "provenance" in native:
        native["provenance"]["files"] = [str(p) for p in _described_by(checkpoint.folder)]
    tensors = json.dumps([t.to_json() for t in spec.tensors])
    facts = json.dumps(_facts(spec.hparams))
    return _core.plan_checkpoint(
        str(model), metadata.entries(), tensors, facts, json.dumps(native), calibration
    )


def _facts(facts: ModelFacts) -> dict[str, Any]:
    """What the mixes need to know of a model, in the form of the native module."""
    kv = facts.n_head_kv
    return {
        "arch": facts.arch,
        "n_layer": facts.n_layer,
        "n_expert": facts.n_expert,
        "n_head": facts.n_head,
        "n_head_kv": kv if isinstance(kv, list) else [kv],
    }


def _embedding_rows(spec: ModelSpec, model: Path) -> int:
    for tensor in spec.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[0]
    raise ModelError(message(model, "the model has no token embedding", "Convert a complete checkpoint"))


def _described_by(folder: Path) -> list[Path]:
    """The small files of a model folder that decide its metadata: the source digest covers them beside the headers."""
    patterns = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "README.md")
    return sorted(p for pattern in patterns for p in folder.glob(pattern) if p.is_file())


def output_path(source: Source, output: StrPath | None, quant: str, suffix: str = ".gguf") -> Path:
    """Name of the output: `output`, or the default name in the folder `output` or in the current folder."""
    default = f"{source.stem}-{quant.upper()}{suffix}"
    if output is None:
        return Path(default)
    path = Path(output)
    return path / default if is_folder(output) else path


def is_folder(output: StrPath) -> bool:
    """Whether an output names a folder: an existing one, or any name that ends in a slash."""
    return Path(output).is_dir() or os.fspath(output).endswith(os.sep)


def described(native: Any) -> Plan:
    """A native plan as plain data."""
    data = json.loads(native.to_json())
    container = data["container"]
    files = tuple(PlannedFile(Path(f["path"]), f["bytes"], f["header_bytes"]) for f in data["files"])
    tensors = tuple(
        PlannedTensor(
            name=t["name"],
            shape=tuple(t["shape"]),
            type=t["type"],
            source_types=tuple(t["source_types"]),
            file=t["file"],
            offset=t["offset"],
            bytes=t["bytes"],
        )
        for t in data["tensors"]
    )
    return Plan(
        arch=data["arch"],
        quant=data["quant"],
        files=files,
        tensors=tensors,
        total_bytes=data["total_bytes"],
        tensor_bytes=data["tensor_bytes"],
        source_bytes=data["source_bytes"],
        n_weights=data["n_weights"],
        bpw=data["bpw"],
        container=container and PlannedContainer(**{**container, "path": Path(container["path"])}),
    )
