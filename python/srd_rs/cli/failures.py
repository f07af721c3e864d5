"""From an exception to a message and an exit code."""

from __future__ import annotations

import os
import re
import traceback
from contextlib import suppress
from difflib import get_close_matches
from typing import Final

import click

from srd_rs.cli.output import give_up_stdout, print_json, say
from srd_rs.text import one_line

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNVERIFIED = 3
EXIT_INTERRUPTED = 130

#: Options of llama.cpp's tools that users try.
_FOREIGN_OPTIONS: Final = {
    "--outfile": "-o names the output",
    "--outtype": "-q names the mix, for example -q Q4_K_M or -q BF16",
    "--remote": "name the model id on the hub instead of a folder",
    "--model-name": "--name sets the name",
    "--print-supported-models": "srd-rs models lists the models",
    "--nthread": "--threads sets the number of threads",
    "-t": "--threads sets the number of threads",
    "-m": "the model is the first argument, without an option",
    "--leave-output-tensor": "--output-tensor-type BF16 keeps the output matrix as it is",
    "--tensor-type-file": "--recipe FILE takes the types of the tensors, and --recipe-out FILE writes them",
    "--keep-split": "--split-max-size SIZE splits the output",
    "--split-max-tensors": "--split-max-size SIZE splits the output",
    "--verbose": "--json prints the details of a run, and SRD_DEBUG=1 shows the traceback of an error",
    "--output-dir": "-o FOLDER/ names the folder of the output",
    "--output_dir": "-o FOLDER/ names the folder of the output",
    "--format": "-q names the mix, for example -q Q4_K_M",
    "--scheme": "-q names the mix, for example -q Q4_K_M",
    "--device": "no GPU is used",
    "--nsamples": "--calibrate-tokens sets how much of the text is read",
    "--iters": "--calibrate-tokens and --beam-width set how much work effort srd does",
    "--model": "the model is the first argument, without an option",
    "--use-temp-file": "no temporary file is needed",
    "--no-lazy": "the weights are always read as a stream",
    "--bits": "-q names the mix, for example -q Q4_K_M",
    "--calib-data": "--calibrate names the text",
}


def report(kind: str, message: str, *, as_json: bool) -> None:
    """Print one error: a line on stderr, or with `as_json` one object on stdout."""
    message = one_line(message)
    if as_json:
        print_json({"error": {"kind": kind, "message": message}})
    else:
        say(f"error: {message}", err=True)


def exit_code_of(error: BaseException, *, as_json: bool) -> int:
    """Report `error` and return the exit code that belongs to it."""
    if isinstance(error, BrokenPipeError):  # the reader of the output went away (`| head`)
        give_up_stdout()
        return EXIT_FAILED
    if os.environ.get("SRD_DEBUG") == "1":
        traceback.print_exception(error)
    kind, message, code = _classify(error)
    try:
        report(kind, message, as_json=as_json)
    except OSError:  # stdout cannot be written: the line goes to stderr, and the exit code stays
        with suppress(OSError):
            report(kind, message, as_json=False)
        give_up_stdout()
    return code


def _classify(error: BaseException) -> tuple[str, str, int]:
    """(kind, message, exit code). The kinds are part of the interface of `--json`."""
    if isinstance(error, click.ClickException):
        return "usage", _usage_text(error), EXIT_USAGE

    from srd_rs import errors

    if isinstance(error, errors.UsageError):
        return "usage", str(error), EXIT_USAGE
    if isinstance(error, errors.VerificationError):
        return "verification", str(error), EXIT_UNVERIFIED
    kinds = (
        (errors.InternalError, "internal"),
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
        what = "out of memory. Lower --max-memory or --threads, or close other programs"
        return "memory", what, EXIT_FAILED
    what = f"{type(error).__name__}: {error}"
    return "internal", f"internal error: {what}. Set SRD_DEBUG=1 for the traceback and report it", EXIT_FAILED


def _meant(extra: list[str]) -> str:
    """What superfluous arguments were meant to be: llama-quantize takes output, mix and threads without an option."""
    from srd_rs.options import MIXES

    flags = [
        f"{'-q' if word.upper() in MIXES else '--threads' if word.isdecimal() else '-o'} {word}"
        for word in extra
    ]
    return f"Options name everything but the input. Write: {' '.join(flags)}"


def _no_such_option(error: click.NoSuchOption) -> str:
    """What is said of an option that does not exist: the option that was meant, where one is near."""
    name = error.option_name
    text = f"No such option '{name}'"
    if name in _FOREIGN_OPTIONS:
        return f"{text}: {_FOREIGN_OPTIONS[name]}"
    near = get_close_matches(name, error.possibilities or (), n=2, cutoff=0.7)
    return f"{text}. Did you mean {' or '.join(near)}?" if near else text


def _usage_text(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        text = _no_such_option(error)
    elif extra := re.search(r"unexpected extra arguments? \((.*)\)", text):
        text += f". {_meant(extra[1].split())}"
    if context is None:
        return text
    return f"{text}{'' if text.endswith('?') else '.'} See {context.command_path} --help"
