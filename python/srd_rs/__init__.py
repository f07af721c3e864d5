"""srd-rs: a Hugging Face checkpoint in, a GGUF for llama.cpp out.

* `convert` writes a GGUF; `plan` says what `convert` would write; `ConvertOptions` holds the options of both.
* `estimate` says what a conversion costs on one machine or on several.
* `lora` writes a GGUF adapter of a LoRA adapter.
* `open` looks into a GGUF, a container or a checkpoint: tensors as lazily mapped numpy views. `inspect` reads headers.
* `calibrate` measures the inputs of the matrices of a model; `evaluate` measures how far a GGUF is from another.
* `met` measures which bytes belong to which slot of depth; `Hydrator` brings those into memory.
* `place` says where the tensors go on a machine, and with which arguments an engine puts them there.
* `pack`, `verify`, `extract` and `resign` work on signed containers (.axm); `keygen` makes keys.
* `sign` and `verify_signature` make and check signatures that other tools know (OpenSSF Model Signing).
* `rebuild` makes a GGUF again from its checkpoint and compares the two.
* `bom` describes a GGUF as a CycloneDX ML-BOM.
* `card` writes a model card, `modelfile` a Modelfile for Ollama; `push` uploads to the hub.
* `quantize` and `dequantize` work on single tensors.

Errors are in `srd_rs.errors`. Everything loads on first use, so that ``import srd_rs`` takes next to no time.

    >>> import srd_rs
    >>> plan = srd_rs.plan("path/to/model", quant="Q5_K_M")
    >>> plan.arch, plan.total_bytes, plan.effort
    ('gemma4', 10828160, 'srd')
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from srd_rs import errors
    from srd_rs._core import __version__
    from srd_rs.adapters import lora
    from srd_rs.calibration import CalibrationReport, calibrate
    from srd_rs.container import KeyFile, extract, keygen, pack, resign, verify, write_manifest
    from srd_rs.conversion import convert, plan
    from srd_rs.costs import Rates
    from srd_rs.estimating import Estimate, NodeEstimate, estimate
    from srd_rs.eval.evaluation import Divergence, Evaluation, FileScore, Paired, evaluate
    from srd_rs.files import Axm, Checkpoint, Gguf, Tensor, open
    from srd_rs.hydration import Hydration, Hydrator, Residency, met
    from srd_rs.inspection import Conversion, InspectedTensor, Inspection, inspect
    from srd_rs.materials import bom
    from srd_rs.options import ConvertOptions, SrdOptions
    from srd_rs.placement import Placement, place
    from srd_rs.publishing import card, modelfile, push
    from srd_rs.rebuilding import Rebuilt, rebuild
    from srd_rs.report import (
        ConvertReport,
        Plan,
        PlannedContainer,
        PlannedFile,
        PlannedTensor,
        Progress,
        SealedContainer,
        TypeTotals,
        Verification,
    )
    from srd_rs.signing import SignatureCheck, Signed, sign, verify_signature
    from srd_rs.tensors import dequantize, quantize

#: Module -> its names that are the interface of the package.
_NAMES = {
    "srd_rs._core": ("__version__",),
    "srd_rs.adapters": ("lora",),
    "srd_rs.calibration": ("CalibrationReport", "calibrate"),
    "srd_rs.container": ("KeyFile", "extract", "keygen", "pack", "resign", "verify", "write_manifest"),
    "srd_rs.conversion": ("convert", "plan"),
    "srd_rs.costs": ("Rates",),
    "srd_rs.estimating": ("Estimate", "NodeEstimate", "estimate"),
    "srd_rs.eval.evaluation": ("Divergence", "Evaluation", "FileScore", "Paired", "evaluate"),
    "srd_rs.files": ("Axm", "Checkpoint", "Gguf", "Tensor", "open"),
    "srd_rs.hydration": ("Hydration", "Hydrator", "Residency", "met"),
    "srd_rs.inspection": ("Conversion", "InspectedTensor", "Inspection", "inspect"),
    "srd_rs.materials": ("bom",),
    "srd_rs.options": ("ConvertOptions", "SrdOptions"),
    "srd_rs.placement": ("Placement", "place"),
    "srd_rs.publishing": ("card", "modelfile", "push"),
    "srd_rs.rebuilding": ("Rebuilt", "rebuild"),
    "srd_rs.report": (
        *("ConvertReport", "Plan", "PlannedContainer", "PlannedFile", "PlannedTensor", "Progress"),
        *("SealedContainer", "TypeTotals", "Verification"),
    ),
    "srd_rs.signing": ("SignatureCheck", "Signed", "sign", "verify_signature"),
    "srd_rs.tensors": ("dequantize", "quantize"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Axm",
    "CalibrationReport",
    "Checkpoint",
    "Conversion",
    "ConvertOptions",
    "ConvertReport",
    "Divergence",
    "Estimate",
    "Evaluation",
    "FileScore",
    "Gguf",
    "Hydration",
    "Hydrator",
    "InspectedTensor",
    "Inspection",
    "KeyFile",
    "NodeEstimate",
    "Paired",
    "Placement",
    "Plan",
    "PlannedContainer",
    "PlannedFile",
    "PlannedTensor",
    "Progress",
    "Rates",
    "Rebuilt",
    "Residency",
    "SealedContainer",
    "SignatureCheck",
    "Signed",
    "SrdOptions",
    "Tensor",
    "TypeTotals",
    "Verification",
    "__version__",
    "bom",
    "calibrate",
    "card",
    "convert",
    "dequantize",
    "errors",
    "estimate",
    "evaluate",
    "extract",
    "inspect",
    "keygen",
    "lora",
    "met",
    "modelfile",
    "open",
    "pack",
    "place",
    "plan",
    "push",
    "quantize",
    "rebuild",
    "resign",
    "sign",
    "verify",
    "verify_signature",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return _import_module("srd_rs.errors")
    if name not in _HOMES:
        elsewhere = f": it is srd_rs.errors.{name}" if name.endswith("Error") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{elsewhere}")
    return getattr(_import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
