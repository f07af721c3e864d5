"""Plots as SVG, without a library: points with error bars over a logarithmic axis, bars, and a map of colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

COLOURS: Final = ("#1b6ca8", "#5aa469", "#d35400", "#8e6c8a", "#555555")
_LEFT, _TOP, _BOTTOM = 96, 16, 46


class Mark(NamedTuple):
    """A point: its place, the standard error of y, and a text that shows what it is."""

    x: float
    y: float
    error: float
    text: str


def scatter(
    series: Mapping[str, Sequence[Mark]], x_label: str, y_label: str, *, width: int = 860, height: int = 460
) -> str:
    """Series of points, each joined by a line, over a linear x and a logarithmic y."""
    marks = [mark for points in series.values() for mark in points]
    low, high = min(m.y for m in marks), max(m.y for m in marks)
    low, high = math.log10(max(low, 1e-9) * 0.8), math.log10(max(high, 2e-9) * 1.25)
    start, end = min(m.x for m in marks) - 0.2, max(m.x for m in marks) + 0.2
    right, bottom = width - 16, height - _BOTTOM

    def x_of(x: float) -> float:
        return _LEFT + (x - start) / (end - start) * (right - _LEFT)

    def y_of(y: float) -> float:
        return bottom - (math.log10(max(y, 1e-12)) - low) / (high - low) * (bottom - _TOP)

    parts = [_rect(_LEFT, _TOP, right - _LEFT, bottom - _TOP, "none", "#999")]
    for x in range(math.ceil(start), math.floor(end) + 1):
        parts += [_line(x_of(x), _TOP, x_of(x), bottom, "#e4e4e4"), _text(x_of(x), bottom + 18, str(x))]
    for power in range(math.floor(low), math.ceil(high) + 1):
        for step in (1, 2, 5):
            y = step * 10.0**power
            if low <= math.log10(y) <= high:
                parts.append(_line(_LEFT, y_of(y), right, y_of(y), "#e4e4e4"))
                parts.append(_text(_LEFT - 8, y_of(y) + 4, f"{y:g}", "end"))
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x_of(m.x):.1f},{y_of(m.y):.1f}" for m in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for m in points:
            above, below = y_of(m.y + m.error), y_of(max(m.y - m.error, m.y / 10))
            parts.append(_line(x_of(m.x), above, x_of(m.x), below, colour))
            parts.append(
                f'<circle cx="{x_of(m.x):.1f}" cy="{y_of(m.y):.1f}" r="4" fill="{colour}">'
                f"<title>{escape(m.text)}</title></circle>"
            )
        y = _TOP + 20 + 20 * number
        parts.append(_rect(right - 330, y - 10, 12, 12, colour))
        parts.append(_text(right - 312, y, name, "start"))
    parts.append(_text((_LEFT + right) / 2, height - 8, x_label))
    parts.append(_turned(18, (_TOP + bottom) / 2, y_label))
    return _svg(width, height, parts)


def bars(
    groups: Mapping[str, Mapping[str, float]],
    x_label: str,
    y_label: str,
    *,
    width: int = 860,
    height: int = 320,
) -> str:
    """A bar for each group, made of the parts of the group, one upon the other."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    most = max((sum(group.values()) for group in groups.values()), default=0.0) or 1.0
    right, bottom = width - 220, height - _BOTTOM
    step = (right - _LEFT) / max(len(groups), 1)
    parts = [_rect(_LEFT, _TOP, right - _LEFT, bottom - _TOP, "none", "#999")]
    for i in range(5):
        y = bottom - i / 4 * (bottom - _TOP)
        parts += [_line(_LEFT, y, right, y, "#e4e4e4"), _text(_LEFT - 8, y + 4, f"{most * i / 4:.2g}", "end")]
    for i, (label, group) in enumerate(groups.items()):
        x, y = _LEFT + i * step, float(bottom)
        for name, value in group.items():
            tall = value / most * (bottom - _TOP)
            y -= tall
            parts.append(
                f'<rect x="{x + step * 0.1:.1f}" y="{y:.1f}" width="{step * 0.8:.1f}" height="{tall:.1f}"'
                f' fill="{_hue(names.index(name), len(names))}"><title>{escape(label)}, {escape(name)}:'
                f" {value:.3g}</title></rect>"
            )
        if len(groups) <= 40 or i % 5 == 0:
            parts.append(_text(x + step / 2, bottom + 16, label, size=11))
    for i, name in enumerate(names):
        parts.append(_rect(right + 12, _TOP + 16 * i, 10, 10, _hue(i, len(names))))
        parts.append(_text(right + 28, _TOP + 9 + 16 * i, name, "start", 11))
    parts.append(_text((_LEFT + right) / 2, height - 8, x_label))
    parts.append(_turned(18, (_TOP + bottom) / 2, y_label))
    return _svg(width, max(height, _TOP + 16 * len(names) + 8), parts)


class Cell(NamedTuple):
    """A cell of a map: its row and column, a share from 0 to 1 for its colour, and texts."""

    row: str
    column: str
    share: float
    label: str
    text: str


def heat_map(cells: Sequence[Cell], *, width: int = 860) -> str:
    """Cells by row and column, the darker the larger the share."""
    rows = list(dict.fromkeys(c.row for c in cells))
    columns = list(dict.fromkeys(c.column for c in cells))
    left = 170
    wide, tall = (width - left - 8) / max(len(columns), 1), 20
    parts = []
    for i, row in enumerate(rows):
        parts.append(_text(left - 8, i * tall + 34, row, "end", 12))
    for i, column in enumerate(columns):
        if len(columns) <= 40 or i % 5 == 0:
            parts.append(_text(left + (i + 0.5) * wide, 14, column, size=11))
    for c in cells:
        x, y = left + columns.index(c.column) * wide, rows.index(c.row) * tall + 20
        light = round(96 - 58 * min(max(c.share, 0.0), 1.0))
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{wide - 1:.1f}" height="{tall - 1}" fill="hsl(205 60% {light}%)">'
            f"<title>{escape(c.text)}</title></rect>"
        )
        if wide >= 34:
            colour = "#fff" if light < 62 else "#222"
            parts.append(_text(x + wide / 2, y + 14, c.label, size=10, colour=colour))
    return _svg(width, len(rows) * tall + 28, parts)


def _hue(i: int, n: int) -> str:
    return f"hsl({360 * i // max(n, 1)} 45% 52%)"


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="system-ui,sans-serif" font-size="13" role="img">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _rect(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"'
        f' stroke="{stroke}"/>'
    )


def _line(x: float, y: float, to_x: float, to_y: float, colour: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 13, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _turned(x: float, y: float, text: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" fill="#222"'
        f' transform="rotate(-90 {x:.1f} {y:.1f})">{escape(text)}</text>'
    )
