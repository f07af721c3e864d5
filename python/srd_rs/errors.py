"""The exception classes of the package, and the form of their messages.

The classes are defined by the native module, so that Rust and Python raise the same ones:

* ``SrdError``: the base of all of them;
* ``FormatError`` (also a ``ValueError``): a file breaks its own format;
* ``ModelError`` (also a ``ValueError``): well-formed files that are not a model this tool can convert;
* ``NonFiniteError`` (also a ``ValueError``): a weight is NaN, infinite or too large for its type;
* ``UsageError`` (also a ``ValueError``): the caller asked for something that makes no sense;
* ``VerificationError`` (also a ``ValueError``): a signed file is not what was signed;
* ``SrdIOError`` (also an ``OSError``): the operating system refused;
* ``SrdFileNotFoundError`` (also an ``SrdIOError`` and a ``FileNotFoundError``): a file or folder does not exist;
* ``InternalError`` (also a ``RuntimeError``): a mistake in srd-rs.

Every one has the attributes ``file``, ``tensor`` and ``offset`` (None where unknown); an ``SrdIOError`` also has
``errno``, ``strerror`` and ``filename``.
"""

from __future__ import annotations

import errno
import os

from srd_rs._core import (
    FormatError,
    InternalError,
    ModelError,
    NonFiniteError,
    SrdError,
    SrdFileNotFoundError,
    SrdIOError,
    UsageError,
    VerificationError,
)

__all__ = [
    "FormatError",
    "InternalError",
    "ModelError",
    "NonFiniteError",
    "SrdError",
    "SrdFileNotFoundError",
    "SrdIOError",
    "UsageError",
    "VerificationError",
    "io_error",
    "message",
    "not_found",
]


def message(place: object, what: str, fix: str) -> str:
    """The form of every message of the package: ``place: what. What to do``."""
    return f"{place}: {what}. {fix}"


def not_found(path: str | os.PathLike[str]) -> SrdFileNotFoundError:
    """The error for a path where nothing lies."""
    raised = SrdFileNotFoundError(message(path, "no such file or folder", "Check the path"))
    raised.file = raised.filename = os.fspath(path)
    raised.errno, raised.strerror = errno.ENOENT, os.strerror(errno.ENOENT)
    return raised


def io_error(path: str | os.PathLike[str], action: str, error: OSError, fix: str) -> SrdIOError:
    """The error for a call of the operating system on `path` that failed; `action` is a verb, such as ``"read"``."""
    kind = SrdFileNotFoundError if isinstance(error, FileNotFoundError) else SrdIOError
    raised = kind(message(path, f"cannot {action}: {error.strerror or error}", fix))
    raised.file = raised.filename = os.fspath(path)
    raised.errno, raised.strerror = error.errno, error.strerror
    return raised
