"""A curve of KLD over size as text and as one HTML page with plots, which loads nothing."""

from __future__ import annotations

from html import escape

from srd_rs.budget import kind_of
from srd_rs.eval import svg
from srd_rs.eval.curve import METHODS, Curve, Point
from srd_rs.eval.report import STYLE, Row, with_error
from srd_rs.report import ChosenType
from srd_rs.text import bytes_text, html_table


def points_table(found: Curve) -> tuple[Row, list[Row]]:
    """Head and rows of the table of all files."""
    rows: list[Row] = [
        (p.name, METHODS[p.method], str(p.file_bytes), f"{p.bpw:.3f}", with_error(p.kld, 6))
        for p in found.points
    ]
    return ("size of", "method", "bytes", "bpw", "KLD"), rows


def verdict(found: Curve) -> str:
    """A sentence that says whether llama-quantize lies below the curve of srd-rs."""
    peers = found.of("peer-imatrix")
    if not peers:
        return "llama-quantize was not measured."
    below = found.below()
    if not below:
        return "No file of llama-quantize with an importance matrix has less KLD than srd-rs at its size."
    names = ", ".join(f"{p.name} ({p.bpw:.2f} bpw)" for p in below)
    return f"llama-quantize with an importance matrix has less KLD than srd-rs at its size with {names}."


def conditions(found: Curve) -> str:
    return (
        f"{found.text}: {found.n_chunks} chunks of {found.n_ctx} tokens, {found.n_tokens} tokens scored by llama.cpp;"
        f" calibrated on {found.calibration}; ± is a standard error over tokens"
    )


def plot(found: Curve) -> str:
    """KLD over bits per weight as SVG."""
    series = {
        title: [
            svg.Mark(p.bpw, max(p.kld.value, 1e-9), p.kld.error, f"{p.name}: {with_error(p.kld, 6)}")
            for p in found.of(method)
        ]
        for method, title in METHODS.items()
        if found.of(method)
    }
    return svg.scatter(series, "bits per weight over all tensors", "mean KLD from BF16, nats")


def page(found: Curve) -> str:
    """The whole report."""
    title = f"KLD over size: {escape(found.model)}"
    parts = [f"<p>{escape(verdict(found))}</p>", plot(found), html_table("Files", *points_table(found))]
    for point in found.of("chosen"):
        if point.chosen:
            parts.append(_choice(point))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}svg{{max-width:100%;height:auto}}</style></head><body><h1>{title}</h1>"
        f"<p>{escape(conditions(found))}</p>{''.join(parts)}</body></html>\n"
    )


def _choice(point: Point) -> str:
    """Where the bits of a choice went, and what is left of the error in each layer."""
    layers: dict[str, dict[str, float]] = {}
    for c in point.chosen:
        layers.setdefault(_layer(c.name), {})[kind_of(c.name)] = c.cost
    costs = svg.bars(layers, "layer", "estimated KLD")
    summary = f"{point.name}: {bytes_text(point.file_bytes)}, {point.bpw:.2f} bits per weight"
    return (
        f"<details open><summary>{escape(summary)}</summary>"
        f"<h3>Types</h3>{svg.heat_map([_cell(c) for c in point.chosen])}"
        f"<h3>Error by layer</h3>{costs}</details>"
    )


def _layer(name: str) -> str:
    return next((part for part in name.split(".") if part.isdigit()), "-")


def _cell(c: ChosenType) -> svg.Cell:
    bits = 8 * c.bytes / max(c.n_weights, 1)
    text = f"{c.name}: {c.type}, {bytes_text(c.bytes)}, error {c.error:.2e}, cost {c.cost:.2e}"
    return svg.Cell(kind_of(c.name), _layer(c.name), (bits - 2) / 7, c.type, text)
