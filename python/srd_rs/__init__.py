"""srd-rs: Hugging Face checkpoint in, GGUF out.

`convert` writes a GGUF, `plan` says what it would write, `inspect` shows what is in a file;
`met` measures which of its bytes belong to which slot of depth, `Hydrator` brings those into memory;
`pack`, `verify`, `extract` and `resign` work on signed containers (.axm), `keygen` makes keys; `quantize` and
`dequantize` work on single tensors. Errors are in
`srd_rs.errors`. Everything loads on first use, so that `import srd_rs` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srd_rs.calibration import CalibrationReport, calibrate
    from srd_rs.container import extract, keygen, pack, resign, verify
    from srd_rs.conversion import convert
    from srd_rs.hydration import Hydrator, met
    from srd_rs.inspection import Inspection, inspect
    from srd_rs.options import ConvertOptions, SrdOptions
    from srd_rs.planning import plan
    from srd_rs.report import ConvertReport, Plan, Progress, Verification
    from srd_rs.tensors import dequantize, quantize

_HOMES = {
    "CalibrationReport": "srd_rs.calibration",
    "ConvertOptions": "srd_rs.options",
    "ConvertReport": "srd_rs.report",
    "Hydrator": "srd_rs.hydration",
    "Inspection": "srd_rs.inspection",
    "Plan": "srd_rs.report",
    "Progress": "srd_rs.report",
    "SrdOptions": "srd_rs.options",
    "Verification": "srd_rs.report",
    "calibrate": "srd_rs.calibration",
    "convert": "srd_rs.conversion",
    "dequantize": "srd_rs.tensors",
    "extract": "srd_rs.container",
    "inspect": "srd_rs.inspection",
    "met": "srd_rs.hydration",
    "keygen": "srd_rs.container",
    "pack": "srd_rs.container",
    "plan": "srd_rs.planning",
    "quantize": "srd_rs.tensors",
    "resign": "srd_rs.container",
    "verify": "srd_rs.container",
}

__all__ = [
    "CalibrationReport",
    "ConvertOptions",
    "ConvertReport",
    "Hydrator",
    "Inspection",
    "Plan",
    "Progress",
    "SrdOptions",
    "Verification",
    "calibrate",
    "convert",
    "dequantize",
    "extract",
    "inspect",
    "keygen",
    "met",
    "pack",
    "plan",
    "quantize",
    "resign",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
