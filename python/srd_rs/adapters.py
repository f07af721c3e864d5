"""A LoRA adapter of PEFT as a GGUF adapter, which llama.cpp loads beside the GGUF of the base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from srd_rs import _core, hub
from srd_rs.conversion import run_plan
from srd_rs.errors import UsageError, message
from srd_rs.options import ConvertOptions, StrPath
from srd_rs.planning import is_folder, make_folder, output_path, without_weights
from srd_rs.progress import Wanted, showing
from srd_rs.reading import load_json
from srd_rs.report import ConvertReport, Plan

TYPES: Final = ("F32", "F16", "BF16")
"""The types that the matrices of a GGUF adapter can have."""


def lora(
    adapter: StrPath,
    output: StrPath | None = None,
    *,
    base: StrPath | None = None,
    quant: str = "F32",
    name: str | None = None,
    overwrite: bool = False,
    provenance: bool = True,
    progress: Wanted = None,
) -> ConvertReport:
    """Write a GGUF adapter of a LoRA adapter of PEFT.

    adapter: Folder with adapter_config.json and adapter_model.safetensors.
    output: The GGUF to write, or a folder for the GGUF. The default is ``<adapter name>-<quant>.gguf`` in the current
        folder.
    base: The base model: a folder with config.json, or a model on the hub, whose weights are not downloaded. Names and
        shapes are held against the headers of the weights, if these are there. The default is the base model that
        adapter_config.json names.
    quant: F32, F16 or BF16.
    name: Name of the adapter in the GGUF (``general.name``).
    overwrite: Replace an output that exists.
    provenance: Write the metadata ``srd.*``.
    progress: As for `srd_rs.convert`.

    Raises ModelError for what a GGUF adapter cannot hold: DoRA, weights that were trained as a whole, updates of
    several matrices that are one in the GGUF. `srd_rs.convert` with ``lora=[...]`` merges these.

        >>> srd_rs.lora("path/to/adapter", base="path/to/model", quant="F16").output.name
        'adapter-F16.gguf'
    """
    from srd_rs.checkpoint import Checkpoint
    from srd_rs.families import adapter as adapters
    from srd_rs.families.lora import CONFIG, WEIGHTS, check_folder

    if quant.upper() not in TYPES:
        what = f"the type '{quant[:40]}' is not known for an adapter"
        raise UsageError(message("quant", what, f"Use one of {', '.join(TYPES)}"))
    folder = Path(adapter)
    check_folder(folder)
    source = _base(folder, base, folder / CONFIG)
    checkpoint = Checkpoint.open(source.path, source.name, source.remote, bare=source.remote is None)
    spec = adapters.describe(folder, checkpoint, name=name)
    options = ConvertOptions(
        quant=quant.upper(), effort="fast", axm=False, provenance=provenance, overwrite=overwrite
    )
    native = _core.plan_checkpoint(
        folder / WEIGHTS,
        list(spec.metadata.entries()),
        json.dumps([tensor.to_json() for tensor in spec.tensors]),
        spec.hparams,
        output_path(hub.Source(folder), output, options.quant),
        options,
        [
            folder / CONFIG,
            *(path for path in (folder / "README.md",) if path.is_file()),
            checkpoint.config_file,
        ],
    )
    if output is not None and is_folder(output):
        make_folder(Path(output))
    with showing(progress) as tell:
        return run_plan(native, options, Plan.of(native), progress=tell)


def _base(folder: Path, base: StrPath | None, config: Path) -> hub.Source:
    """The base model: the one that is given, or the one that the adapter names."""
    if base is not None:
        return without_weights(base, "a base model")
    stated = load_json(config).get("base_model_name_or_path") if config.is_file() else None
    if not isinstance(stated, str) or not stated:
        what = "the adapter does not name its base model"
        raise UsageError(message(folder, what, "Name the base model with --base"))
    return hub.headers(stated)
