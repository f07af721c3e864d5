"""What a command prints: results on stdout, warnings and errors on stderr; with `--json` one object on stdout.

Warnings come through the logger ``srd_rs`` and the module `warnings`. Each is one escaped line, `warning: ...`, or with
`--json` an entry of the list ``warnings`` of the object.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import click

from srd_rs.text import one_line

SCHEMA_VERSION: Final = 1
"""The version of the JSON output. Keys may be added in a version; a key that is removed or changed is a new one."""
MAX_WARNINGS: Final = 50
"""Most warnings that are shown; a hostile model could cause hundreds of thousands."""


class Door(logging.Handler):
    """The one way for warnings to the user."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(logging.WARNING)
        self.as_json = as_json
        self.texts: list[str] = []
        self.hidden = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning once: a calibration and the conversion behind it read the same files."""
        text = one_line(record.getMessage())
        if text in self.texts:
            return
        if len(self.texts) == MAX_WARNINGS:
            self.hidden += 1
            return
        self.texts.append(text)
        if not self.as_json:
            say(f"warning: {self.texts[-1]}", err=True)

    def close(self) -> None:
        """Say how many warnings were not shown."""
        if self.hidden and not self.as_json:
            say(f"warning: {self.hidden} more warnings", err=True)
        super().close()


_LOGGERS: Final = ("srd_rs", "py.warnings")
_door = Door(as_json=False)


def open_door(*, as_json: bool) -> Door:
    """Lead all warnings of this process through a new door."""
    global _door
    _door = Door(as_json=as_json)
    logging.captureWarnings(True)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_door], False
    return _door


def say(text: str, *, err: bool = False) -> None:
    """Print a line. A stream that was closed before the start takes nothing."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        click.echo(text, file=stream)


def print_json(data: dict[str, Any]) -> None:
    """Print one JSON object, with the version of the output and the warnings of the run in it."""
    hidden = [f"{_door.hidden} more warnings"] if _door.hidden else []
    say(json.dumps({"schema_version": SCHEMA_VERSION, **data, "warnings": [*_door.texts, *hidden]}))


def show(data: Callable[[], dict[str, Any]], text: Callable[[], str], *, as_json: bool) -> None:
    """Print a result, as an object or as text."""
    if as_json:
        print_json(data())
    else:
        say(text())


def finish() -> None:
    """Flush stdout; a stream that cannot be written is an error of the run."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up_stdout() -> None:
    """Point stdout elsewhere, or the interpreter complains once more when it flushes stdout on the way out."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
