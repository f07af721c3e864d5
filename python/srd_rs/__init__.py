"""srd-rs: Hugging Face checkpoint in, GGUF out.

`convert` writes a GGUF, `plan` says what it would write, `inspect` shows what is in a file. Errors are in
`srd_rs.errors`. Everything loads on first use, so that `import srd_rs` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srd_rs.conversion import ConvertReport, Plan, Progress, convert, plan
    from srd_rs.inspection import Inspection, inspect

_HOMES = {
    "ConvertReport": "srd_rs.conversion",
    "Inspection": "srd_rs.inspection",
    "Plan": "srd_rs.conversion",
    "Progress": "srd_rs.conversion",
    "convert": "srd_rs.conversion",
    "inspect": "srd_rs.inspection",
    "plan": "srd_rs.conversion",
}

__all__ = ["ConvertReport", "Inspection", "Plan", "Progress", "convert", "inspect", "plan"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
