"""Draws pictures of an evaluation, with matplotlib."""

from __future__ import annotations

import io
from typing import Any

from srd_rs.errors import UsageError, message
from srd_rs.eval.evaluation import Evaluation


def figure_class() -> Any:
    """The class `Figure` of matplotlib. Raises `UsageError` if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        fix = "Install it: pip install 'srd-rs[plot]'"
        raise UsageError(message("report", "matplotlib is not installed", fix)) from error
    return Figure


def against_bpw(found: Evaluation) -> bytes:
    """A PNG of KLD (without a base: perplexity) of each file over its bits per weight, with standard errors."""
    figure = figure_class()(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, file in enumerate(found.files):
        point = file.divergence.kld if file.divergence else file.perplexity
        style = {"fmt": "o", "capsize": 4, "color": f"C{number % 10}"}
        axes.errorbar(file.bpw, point.value, yerr=point.error, label=file.name, **style)
    axes.set_xlabel("bits per weight")
    if found.base:
        axes.set_ylabel(f"mean KLD from {found.base.name}, nats")
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylabel("perplexity")
    return _finish(figure, axes, found)


def percentiles(found: Evaluation) -> bytes:
    """A PNG of KLD at several percentiles of the tokens with 95 % intervals, a line for each file."""
    figure = figure_class()(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    labels: list[str] = []
    for number, file in enumerate(found.files):
        if file.divergence is None:
            continue
        quantiles = file.divergence.kld_quantiles
        labels = [f"{100 * q.fraction:g} %" for q in quantiles]
        places = [i + 0.06 * (number - (len(found.files) - 1) / 2) for i in range(len(quantiles))]
        values = [q.value for q in quantiles]
        below = [max(q.value - q.low, 0.0) for q in quantiles]
        above = [max(q.high - q.value, 0.0) for q in quantiles]
        style = {"fmt": "o-", "capsize": 3, "color": f"C{number % 10}"}
        axes.errorbar(places, values, yerr=[below, above], label=file.name, **style)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yscale("symlog", linthresh=1e-6)
    axes.set_xlabel("percentile of the tokens")
    axes.set_ylabel("KLD, nats")
    return _finish(figure, axes, found)


def _finish(figure: Any, axes: Any, found: Evaluation) -> bytes:
    """The picture as a PNG."""
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    axes.set_title(f"{found.text.name}, {found.n_tokens} tokens", fontsize="medium")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    return drawn.getvalue()
