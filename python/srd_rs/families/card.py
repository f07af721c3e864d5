"""The front matter of a model card (README.md): the part of YAML that model cards use, nothing executable.

Read are top-level keys with plain or quoted scalars, flow lists, block lists of scalars, and block scalars
(``|``, ``>``). All scalars are text. Anything else (nested mappings such as ``model-index``) is skipped, so
an odd card never stops a conversion.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

Value = str | list[str]

_MAX_BYTES: Final = 1 << 20
_KEY: Final = re.compile(r"^([A-Za-z_][\w.-]*)\s*:(?:\s+(.*))?$")
_ITEM: Final = re.compile(r"^\s*-(?:\s+(.*))?$")
_NULLS: Final = ("", "~", "null", "Null", "NULL")


def read_card(folder: Path) -> dict[str, Value]:
    """The front matter of `folder`/README.md; empty if there is none."""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    lines = text.splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    return parse(lines[1 : lines.index("---", 1)])


def parse(lines: list[str]) -> dict[str, Value]:
    """Top-level keys and the values that are text or lists of text."""
    result: dict[str, Value] = {}
    position = 0
    while position < len(lines):
        match = _KEY.match(lines[position])
        position += 1
        if not match:
            continue
        end = position
        while end < len(lines) and not _starts_key(lines[end]):
            end += 1
        value = _value((match[2] or "").strip(), lines[position:end])
        if value is not None:
            result.setdefault(match[1], value)
        position = end
    return result


def _starts_key(line: str) -> bool:
    return bool(line) and not line[0].isspace() and line[0] not in "#-]}" and bool(_KEY.match(line))


def _value(first: str, rest: list[str]) -> Value | None:
    if first[:1] in ("|", ">"):
        return _block(first, rest)
    first = _strip_comment(first)
    if first.startswith("["):
        return _flow(" ".join([first, *(_strip_comment(line.strip()) for line in rest)]))
    rest = [line for line in rest if line.strip() and not line.strip().startswith("#")]
    if first in _NULLS and rest:
        return _items(rest)
    text = " ".join([first, *(line.strip() for line in rest)]) if rest else first
    return _scalar(text)


def _block(header: str, rest: list[str]) -> str:
    """A literal (``|``) or folded (``>``) block scalar."""
    body = [line.strip() for line in rest]
    while body and not body[-1]:
        body.pop()
    joined = ("\n" if header[0] == "|" else " ").join(body)
    return joined if "-" in header else joined + "\n"


def _items(lines: list[str]) -> list[str] | str | None:
    """A block list of scalars; entries that are mappings are skipped. Without dashes, a scalar on its own
    line."""
    matches = [_ITEM.match(line) for line in lines]
    if not matches[0]:
        if ":" in lines[0]:
            return None
        return _scalar(" ".join(line.strip() for line in lines))
    indent = len(lines[0]) - len(lines[0].lstrip())
    result = []
    for line, match in zip(lines, matches, strict=True):
        if match is None or len(line) - len(line.lstrip()) != indent:
            continue
        text = _strip_comment((match[1] or "").strip())
        if _KEY.match(text) and text[:1] not in "\"'":
            continue
        value = _scalar(text)
        if value is not None:
            result.append(value)
    return result


def _flow(text: str) -> list[str] | None:
    """A flow list, ``[a, "b, c"]``."""
    end = text.rfind("]")
    if end < 0:
        return None
    parts = re.findall(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'|[^,\"']+", text[1:end])
    values = (_scalar(part.strip()) for part in parts)
    return [value for value in values if value is not None]


def _scalar(text: str) -> str | None:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return None if text in _NULLS else text


def _strip_comment(text: str) -> str:
    if text[:1] in ('"', "'"):
        return text
    return re.sub(r"(^|\s)#.*$", "", text).strip()
