"""The module `llama_cpp` of llama-cpp-python, and what llama.cpp logs as an error."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from srd_rs.errors import ModelError, UsageError, message

_GGML_LOG_LEVEL_ERROR: Final = 4
_log_callback: list[Any] = []  # kept alive: llama.cpp holds only the address
_errors: list[str] = []


def _keep_errors(level: int, text: bytes, _user: object) -> None:
    if level == _GGML_LOG_LEVEL_ERROR:
        _errors.append(text.decode(errors="replace").strip())


def log_to_here(log_set: Any) -> None:
    """Keep the errors of another part of llama.cpp too. `library` must have been called before."""
    log_set(_log_callback[0], ctypes.c_void_p(0))


def forget_errors() -> None:
    """Drop what llama.cpp has logged so far."""
    _errors.clear()


def library() -> Any:
    """The module `llama_cpp`, whose errors are kept for `failure`. Raises `UsageError` without it."""
    try:
        import llama_cpp
    except ImportError as error:
        raise UsageError(
            "this needs llama-cpp-python, which is not installed. Run: pip install 'srd-rs[eval]'"
        ) from error
    if not _log_callback:
        _log_callback.append(llama_cpp.llama_log_callback(_keep_errors))
        llama_cpp.llama_log_set(_log_callback[0], ctypes.c_void_p(0))
    return llama_cpp


def failure(place: object, what: str, fix: str) -> ModelError:
    """The error for a call of llama.cpp that failed. The error quotes the last message of llama.cpp."""
    said = f" ({_errors[-1]})" if _errors else ""
    _errors.clear()
    return ModelError(message(place, f"{what}{said}", fix))
