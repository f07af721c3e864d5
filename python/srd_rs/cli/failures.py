"""From an exception to a message and an exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback

import click

from srd_rs.cli.text import one_line

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNVERIFIED = 3
EXIT_INTERRUPTED = 130


def report(kind: str, message: str, *, as_json: bool) -> None:
    """One error: a line on stderr, or with `as_json` one object on stdout."""
    message = one_line(message)
    if as_json:
        click.echo(json.dumps({"error": {"kind": kind, "message": message}}))
    else:
        click.echo(f"error: {message}", err=True)


def exit_code_of(error: Exception, *, as_json: bool) -> int:
    """Report `error` and return the exit code that belongs to it."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output went away (`| head`). Point stdout elsewhere, or the interpreter
        # complains once more when it flushes on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    if os.environ.get("SRD_DEBUG") == "1":
        traceback.print_exception(error)
    kind, message, code = _classify(error)
    report(kind, message, as_json=as_json)
    return code


def _classify(error: Exception) -> tuple[str, str, int]:
    """(kind, message, exit code). The kinds are part of `--json`'s interface."""
    if isinstance(error, click.UsageError):
        where = f" See {error.ctx.command_path} --help" if error.ctx else ""
        return "usage", f"{error.format_message().rstrip('.')}.{where}", EXIT_USAGE
    if isinstance(error, click.ClickException):
        return "usage", error.format_message(), EXIT_USAGE

    from srd_rs import errors

    if isinstance(error, errors.UsageError):
        return "usage", str(error), EXIT_USAGE
    if isinstance(error, errors.VerificationError):
        return "verification", str(error), EXIT_UNVERIFIED
    kinds = (
        (errors.NonFiniteError, "nonfinite"),
        (errors.FormatError, "format"),
        (errors.ModelError, "model"),
        (errors.SrdIOError, "io"),
        (errors.SrdError, "failed"),
        (OSError, "io"),
    )
    for cls, kind in kinds:
        if isinstance(error, cls):
            return kind, str(error), EXIT_FAILED
    if isinstance(error, MemoryError):
        return (
            "memory",
            "out of memory. Lower --max-memory or --threads, or close other programs",
            EXIT_FAILED,
        )
    what = f"{type(error).__name__}: {error}"
    return "internal", f"internal error: {what}. Set SRD_DEBUG=1 for the traceback and report it", EXIT_FAILED
