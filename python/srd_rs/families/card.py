"""This module reads the front matter of a model card (README.md): a YAML document between two lines of ``---``.

All scalars are text, as in YAML's failsafe schema: the language ``no`` is not false. Values that are neither
text nor a list of texts, such as ``model-index``, are left out. A card that is not YAML never stops a
conversion.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Final

import yaml

from srd_rs.errors import SrdError
from srd_rs.reading import read_limited

Value = str | list[str]

log = logging.getLogger("srd_rs.families")

_MAX_CARD: Final = 1 << 20
"""A larger model card, in bytes, is not read."""
_MAX_FRONT: Final = 1 << 16
"""A longer front matter, in characters and without its table of results, is not parsed."""
_RESULTS: Final = re.compile(r"^model-index:.*\n(?:[ \t#-].*\n|\n)*", re.MULTILINE)
"""This is the table of results, which can have thousands of lines and is not needed."""
_NULLS: Final = ("", "~", "null", "Null", "NULL")


def card_text(folder: Path) -> str:
    """Return the text of `folder`/README.md, empty if there is none or if the file cannot be read."""
    path = folder / "README.md"
    if not path.is_file():
        return ""
    try:
        return read_limited(path, _MAX_CARD).decode("utf-8", "replace")
    except SrdError as error:
        log.warning("%s. The model card is left out", error)
        return ""


def read_card(folder: Path) -> dict[str, Value]:
    """Return the front matter of `folder`/README.md. The result is empty if there is none; a warning says so if
    the front matter is no YAML."""
    path = folder / "README.md"
    lines = card_text(folder).splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    try:
        return parse("\n".join(lines[1 : lines.index("---", 1)]) + "\n")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = str(error).split("\n")[0]
        log.warning("%s: the front matter is left out, because it cannot be read as YAML: %s", path, reason)
        return {}


def parse(text: str) -> dict[str, Value]:
    """Return the top-level keys of a front matter whose values are text or lists of texts.

    Raises ValueError or yaml.YAMLError.
    """
    text = _RESULTS.sub("", text)
    if len(text) > _MAX_FRONT:
        raise ValueError(f"it has more than {_MAX_FRONT} characters")
    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    front = yaml.load(text, Loader=loader)  # the loader makes text, lists and dicts
    pairs = front.items() if isinstance(front, dict) else ()
    values = ((key, _value(value)) for key, value in pairs if isinstance(key, str))
    return {key: value for key, value in values if value is not None}


def _value(value: object) -> Value | None:
    if isinstance(value, list):
        return [entry for entry in value if isinstance(entry, str) and entry not in _NULLS]
    return value if isinstance(value, str) and value not in _NULLS else None
