"""The exception classes of the package, and the form of their messages.

The classes are defined by the native module, so that Rust and Python raise the same ones:

* ``SrdError``: the base of all of them;
* ``FormatError`` (also a ``ValueError``): a file breaks its own format;
* ``ModelError`` (also a ``ValueError``): well-formed files that are not a model this tool can convert;
* ``NonFiniteError`` (also a ``ValueError``): a weight is NaN, infinite or too large for its type;
* ``UsageError`` (also a ``ValueError``): the caller asked for something that makes no sense;
* ``VerificationError`` (also a ``ValueError``): a signed file is not what was signed;
* ``SrdIOError`` (also an ``OSError``): the operating system refused.
"""

from __future__ import annotations

from srd_rs._core import (
    FormatError,
    ModelError,
    NonFiniteError,
    SrdError,
    SrdIOError,
    UsageError,
    VerificationError,
)

__all__ = [
    "FormatError",
    "ModelError",
    "NonFiniteError",
    "SrdError",
    "SrdIOError",
    "UsageError",
    "VerificationError",
    "message",
]


def message(place: object, what: str, fix: str) -> str:
    """The form of every message of the package: ``place: what. What to do``."""
    return f"{place}: {what}. {fix}"
