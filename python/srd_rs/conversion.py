"""From a checkpoint folder or a GGUF to a GGUF: what `srd-rs convert` does, for Python.

Only names, shapes and metadata pass through Python; weights stay in Rust.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from srd_rs import calibration, hydration
from srd_rs.errors import ModelError, UsageError, message
from srd_rs.hub import Source, locate
from srd_rs.options import ConvertOptions, StrPath, changed, takes_options
from srd_rs.planning import (
    NativeModel,
    calibration_file,
    calibration_text,
    described,
    native_model,
    native_plan,
    output_path,
)
from srd_rs.report import ConvertReport, Progress, SealedContainer
from srd_rs.system import cpus


@takes_options
def convert(
    model: StrPath,
    output: StrPath | None = None,
    options: ConvertOptions | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    **changes: Any,
) -> ConvertReport:
    """Convert a model to a GGUF.

    model: Folder with config.json, tokenizer files and safetensors files; or a GGUF file; or a model id on the hub
        (``ORG/NAME`` or ``ORG/NAME@REVISION``), which is downloaded.
    output: The GGUF to write, or a folder for the GGUF. The default is ``<model name>-<quant>.gguf`` in the current
        folder.
    options: All options in one object. Options that are given by name replace those of `options`.
    progress: Called about 20 times a second. An exception that `progress` raises stops the conversion.

    The output has its name only when the output is complete. Raises SrdIOError, FormatError, ModelError,
    NonFiniteError or UsageError (see `srd_rs.errors`).

        srd_rs.convert("path/to/model", "out/", quant="Q5_K_M", effort="srd")
    """
    chosen = changed(options, changes)
    signing = keys_json(chosen.key_file, chosen.sign_key) if chosen.axm else None
    report = run(locate(model), output, chosen, signing=signing, progress=progress)
    return replace(report, sidecar=_write_sidecar(report)) if chosen.met else report


def keys_json(key_file: StrPath | None, sign_key: StrPath | None) -> str:
    """The names of the keys, for the native module."""
    names = {"key_file": key_file, "sign_key": sign_key}
    return json.dumps({k: None if path is None else os.fspath(path) for k, path in names.items()})


def run(
    source: Source,
    output: StrPath | None,
    options: ConvertOptions,
    *,
    signing: str | None,
    gguf: bool = True,
    progress: Callable[[Progress], None] | None,
) -> ConvertReport:
    """Plan and convert; False as `gguf` writes the container alone."""
    if options.threads is not None and options.threads < 1:
        raise UsageError(message("threads", f"{options.threads} is no number of workers", "Pass 1 or more"))
    made = _calibration(source, output, options, progress)
    native = native_plan(source, output, options, made)
    return run_plan(native, options, signing=signing, gguf=gguf, progress=progress)


def run_plan(
    native: Any,
    options: ConvertOptions,
    *,
    signing: str | None = None,
    gguf: bool = True,
    progress: Callable[[Progress], None] | None,
) -> ConvertReport:
    """Convert what was planned."""
    planned = described(native)
    forward = None if progress is None else lambda *state: progress(Progress(*state))
    report = json.loads(
        native.run(
            options.threads or cpus(),
            max(options.max_memory, 1),
            options.allow_nonfinite,
            options.overwrite,
            forward,
            signing,
            gguf,
            _srd_json(options),
        )
    )
    return ConvertReport(
        plan=planned,
        seconds=report["seconds"],
        cpu_seconds=report["cpu_seconds"],
        peak_rss_bytes=report["peak_rss_bytes"],
        replaced=report["replaced"],
        threads=report["threads"],
        container=sealed(report["container"], report["key"]),
    )


def _srd_json(options: ConvertOptions) -> str:
    srd = options.srd
    feedback = {
        "feedback": srd.feedback,
        "descent_rounds": srd.polish,
        "beam_width": srd.proposals,
        "dither": srd.tau,
    }
    return json.dumps({"feedback": feedback, "seed": options.seed, "dither_layers": srd.dither_layers})


def sealed(written: dict[str, Any] | None, key: dict[str, Any] | None) -> SealedContainer | None:
    """A written container as plain data."""
    if written is None:
        return None
    made = key is not None and key["from"] == "made"
    return SealedContainer(
        path=Path(written["path"]),
        bytes=written["bytes"],
        fingerprint=written["fingerprint"],
        id=written["container"],
        key_id=written["key_id"],
        signed=written["signed"],
        key_made=Path(key["path"]) if made and key is not None else None,
    )


def _write_sidecar(report: ConvertReport) -> Path | None:
    """The sidecar describes one file: a split output gets none."""
    if len(report.outputs) > 1:
        return None
    path = hydration.sidecar_path(report.output)
    fingerprint = report.container.fingerprint if report.container else None
    try:
        hydration.met(report.output, path, fingerprint=fingerprint, digest=False, overwrite=True)
    except ModelError:
        # The input was a GGUF without layers: there is nothing to put into slots, and nothing failed.
        return None
    return path


def _calibration(
    source: Source,
    output: StrPath | None,
    options: ConvertOptions,
    progress: Callable[[Progress], None] | None,
) -> Any:
    """The native calibration that the options ask for: a file's, or one that is made now; None without."""
    from srd_rs import _core

    given = calibration_file(options)
    if given is not None:
        return _core.open_calibration(os.fspath(given))
    text = calibration_text(options)
    if text is None:
        return None
    gguf = output_path(source, output, options.quant)
    # The plan comes first, so that a mistake in the options shows before the long pass over the tokens.
    planned = NativeModel(source.path, native_plan(source, output, options))
    return calibration.measure(
        native_model(source.path, gguf) if planned.source_digest is None else planned,
        gguf,
        named=False,
        text=text,
        tokens=options.calibrate_tokens,
        block=options.calibrate_block,
        seed=options.seed,
        threads=options.threads,
        max_memory=options.max_memory,
        progress=progress and (lambda done, total: progress(Progress(done, total, "", "calibrate"))),
    )
