"""A picture of a GGUF: its slots in file order, their sizes, what of them is in memory, and how hot the experts are.

Needs matplotlib.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from srd_rs import _core
from srd_rs.errors import UsageError, message
from srd_rs.hydration import PARTS, Residency, part_of

FORMATS: Final = (".png", ".svg", ".pdf")
COLOURS: Final = dict(
    zip(PARTS, ("#7f7f7f", "#4e79a7", "#59a14f", "#f28e2b", "#b07aa1", "#bab0ac"), strict=True)
)

HATCHES: Final = {"every_token": "", "rows": "..", "experts": "//"}
"""How an access class is drawn."""


def check_output(output: str | os.PathLike[str]) -> Any:
    """The class `Figure` of matplotlib. Raises UsageError for an ending that is no picture, or without matplotlib."""
    if Path(output).suffix.lower() not in FORMATS:
        what = f"'{Path(output).suffix}' is no picture format"
        raise UsageError(message(output, what, f"Name a file that ends in {', '.join(FORMATS)}"))
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        fix = "Install it: pip install 'srd-rs[plot]'"
        raise UsageError(message("plot", "matplotlib is not installed", fix)) from error
    return Figure


def plot(
    sidecar: dict[str, Any],
    residency: Sequence[Residency],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> None:
    """Draw `sidecar` with the resident share of each part to `output` (.png, .svg or .pdf).

    Raises UsageError for another ending, where matplotlib is missing, and for a file that exists without `overwrite`.
    """
    heat = sidecar.get("expert_heat")
    figure = check_output(output)(figsize=(9, 7.6 if heat else 4.8), layout="constrained")
    file_map, sizes, *more = figure.subplots(2 + bool(heat), 1, height_ratios=[1, 4, 3] if heat else [1, 4])
    figure.suptitle(sidecar["file"]["name"])
    _draw_file(file_map, sidecar)
    _draw_sizes(sizes, sidecar, {r.slot: r for r in residency})
    if heat:
        _draw_heat(figure, more[0], heat)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=Path(output).suffix[1:].lower())
    _core.write_file(Path(output), drawn.getvalue(), overwrite)


def _ranges(sidecar: dict[str, Any], part: str) -> list[dict[str, int]]:
    owner = part_of(sidecar, part)
    ranges: list[dict[str, int]] = owner["byte_ranges"]
    return ranges


def _access(sidecar: dict[str, Any], part: str) -> list[tuple[str, int]]:
    """The bytes of each access class in a part; one entry for a sidecar of version 1, which knows no classes."""
    size = sum(r["bytes"] for r in _ranges(sidecar, part))
    classes = sidecar.get("access", {}).get(part)
    if not classes:
        return [("every_token", size)]
    return [(name, facts["bytes"]) for name, facts in classes.items()]


def _draw_file(axes: Any, sidecar: dict[str, Any]) -> None:
    """The file from its first byte to its last."""
    for part in PARTS:
        pieces = [(r["offset"] / 1e9, r["bytes"] / 1e9) for r in _ranges(sidecar, part)]
        axes.broken_barh(pieces, (0, 1), facecolors=COLOURS[part])
    axes.set(xlim=(0, sidecar["file"]["bytes"] / 1e9), yticks=[], xlabel="offset in the file, GB")


def _draw_sizes(axes: Any, sidecar: dict[str, Any], resident: dict[str, Residency]) -> None:
    """A bar per part: pale its size, full what of it is in memory."""
    labels = []
    for row, part in enumerate(PARTS):
        size = sum(r["bytes"] for r in _ranges(sidecar, part))
        here = resident[part].resident_bytes if part in resident else None
        left = 0.0
        for name, amount in _access(sidecar, part):
            hatch = HATCHES[name]
            axes.barh(row, amount / 1e9, left=left, color=COLOURS[part], alpha=0.3, hatch=hatch)
            left += amount / 1e9
        axes.barh(row, (here or 0) / 1e9, color=COLOURS[part])
        share = "" if here is None else f", {100 * here / max(size, 1):.0f} % resident"
        axes.annotate(f" {size / 1e9:.3f} GB{share}", (size / 1e9, row), va="center")
        labels.append(_label(sidecar, part))
    axes.set_yticks(range(len(PARTS)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max(sum(r["bytes"] for r in _ranges(sidecar, part)) for part in PARTS) / 1e9)
    axes.set_xlabel(
        "GB; a token reads all of a plain bar, some experts of a striped one, one row of a dotted one"
    )


def _draw_heat(figure: Any, axes: Any, heat: dict[str, Any]) -> None:
    """The share of the tokens that used each expert, a row for each layer, the expert that is used most on the left."""
    layers = sorted(heat["layers"], key=int)
    shares = [[n / heat["tokens"] for n in sorted(heat["layers"][layer], reverse=True)] for layer in layers]
    image = axes.imshow(shares, aspect="auto", interpolation="nearest", cmap="inferno", vmin=0)
    figure.colorbar(image, ax=axes, label="share of the tokens")
    # As many labels as have room.
    every = -(-len(layers) // 10)
    axes.set_yticks(range(0, len(layers), every), layers[::every])
    axes.set(xlabel="experts, the most used first", ylabel="layer")


def _label(sidecar: dict[str, Any], part: str) -> str:
    layers = part_of(sidecar, part).get("layers")
    return f"{part}, layers {layers['first']}–{layers['last']}" if layers else part
