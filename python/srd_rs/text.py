"""Numbers, sizes, tables and untrusted strings as text and HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape


def size_text(n: int) -> str:
    """A number of bytes as `size_bytes` reads it: 512MiB, 1GiB."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n and n % (1 << power) == 0:
            return f"{n >> power}{unit}"
    return str(n)


_UNITS = {
    "": 1,
    "b": 1,
    **{f"{p}b": 1000 ** (i + 1) for i, p in enumerate("kmgt")},
    **{f"{p}ib": 1024 ** (i + 1) for i, p in enumerate("kmgt")},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)


def size_bytes(text: str) -> int:
    """The bytes of `512MiB`, `4GiB`, `1.5GB` or plain digits. A bare `G` is refused, because it has two meanings.

    Raises ValueError, whose text says what is wrong.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    if not match or unit not in _UNITS:
        raise ValueError(f"{text!r} is no size: write 512MiB, 4GiB, 4GB or a number of bytes")
    size = int(float(match[1]) * _UNITS[unit]) if "." in match[1] else int(match[1]) * _UNITS[unit]
    if not 0 < size < 1 << 63:
        raise ValueError(f"{text!r} must be more than 0 and less than 8 EiB")
    return size


def printable(text: str) -> str:
    """`text` with unprintable characters escaped: names in a file must not drive the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """`text` on one line, unprintable characters escaped."""
    return printable(" ".join(text.split("\n")).strip())


def shortened(text: str, width: int) -> str:
    """At most `width` characters, the cut marked."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def bytes_text(n: int) -> str:
    """3.42 GB: decimal units, as disks and hubs count."""
    value, prefix = _scaled(n)
    if not prefix:
        return f"{n} B"
    return f"{value:.2f} {prefix}B" if value < 100 else f"{value:.0f} {prefix}B"


def count_text(n: int) -> str:
    """4.63 G, 13.2 M: a number of weights."""
    value, prefix = _scaled(n)
    return f"{value:.3g} {prefix}" if prefix else str(n)


def _scaled(n: int) -> tuple[float, str]:
    """`n` as a number below 1000 and a decimal prefix."""
    value, prefixes = float(n), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        del prefixes[0]
    return value, prefixes[0]


def duration_text(seconds: float) -> str:
    """0.84 s, 12.3 s, 3 min 05 s."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def about_text(seconds: float) -> str:
    """A time that is not known exactly: 4 s, 40 s, 3 min, 2 h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{max(_two_digits(seconds), 1)} s"


def _two_digits(value: float) -> int:
    return round(float(f"{value:.2g}"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns: the first `left` to the left, the others (numbers) to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = []
    for line in lines:
        cells = [
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def types_json(types: Mapping[str, tuple[int, int, int]]) -> dict[str, dict[str, int]]:
    """`{type: (tensors, weights, bytes)}` with the counts named."""
    return {name: {"tensors": t, "weights": w, "bytes": b} for name, (t, w, b) in types.items()}


def type_table(types: Mapping[str, tuple[int, int, int]]) -> str:
    """`{type: (tensors, weights, bytes)}` as a table with a total."""
    total = tuple(sum(column) for column in zip(*types.values(), strict=True)) if types else (0, 0, 0)
    lines = [(name, *_type_cells(*counts)) for name, counts in types.items()]
    return table(("type", "tensors", "weights", "size", "bpw"), [*lines, ("all", *_type_cells(*total))])


def _type_cells(tensors: int, weights: int, size: int) -> tuple[str, str, str, str]:
    bpw = f"{size * 8 / weights:.2f}" if weights else "-"
    return str(tensors), count_text(weights), bytes_text(size), bpw


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A small table for a notebook. Everything is escaped."""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    caption = f"<caption>{escape(title)}</caption>"
    return f"<table>{caption}<thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
