"""Q4_K, Q5_K and Q6_K against ggml: bytes read to the bit, errors not exceeded, on every kind of row."""

from __future__ import annotations

import numpy as np
import pytest

import ggml
import quant_cli
from row_kinds import importances, metrics, row_kinds

pytestmark = [
    pytest.mark.skipif(ggml.library() is None, reason="no ggml library (llama-cpp-python or xllamacpp)"),
    pytest.mark.skipif(quant_cli.executable() is None, reason="no cargo to build the quant_cli example"),
]

QUANTS = ("Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize("quant", QUANTS)
def test_dequantiser_reads_ggmls_bytes_to_the_bit(quant: str) -> None:
    for kind, rows in row_kinds().items():
        blocks = ggml.quantize(quant, rows)
        ours, theirs = quant_cli.dequantize(quant, blocks), ggml.dequantize(quant, blocks)
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)), kind


@pytest.mark.parametrize("quant", QUANTS)
def test_dequantiser_reads_any_bytes_as_ggml_does(quant: str) -> None:
    _, _, size = ggml.TYPES[quant]
    blocks = np.random.default_rng(3).integers(0, 256, (4, 64 * size), np.uint8)
    ours, theirs = quant_cli.dequantize(quant, blocks), ggml.dequantize(quant, blocks)
    finite = np.isfinite(theirs)
    assert finite.mean() > 0.9
    assert np.array_equal(np.isfinite(ours), finite)
    assert np.array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))


def error_ratios(quant: str, importance: str | None) -> dict[str, dict[str, float]]:
    """Row kind -> metric -> our summed error over ggml's."""
    ratios: dict[str, dict[str, float]] = {}
    for kind, rows in row_kinds().items():
        h = None if importance is None else importances(importance, rows.shape[1])
        exact = rows.astype(np.float64)
        ours = ggml.dequantize(quant, quant_cli.quantize(quant, rows, h)[0]) - exact
        theirs = ggml.dequantize(quant, ggml.quantize(quant, rows, h)) - exact
        for name, weights in metrics(quant, h).items():
            a, b = ((weights(exact) * e**2).sum() for e in (ours, theirs))
            ratios.setdefault(kind, {})[name] = 1.0 if a == b == 0 else float(a / b)
    return ratios


@pytest.mark.parametrize("importance", [None, "lognormal", "spiky"])
@pytest.mark.parametrize("quant", QUANTS)
def test_error_is_not_above_ggmls(quant: str, importance: str | None) -> None:
    ratios = error_ratios(quant, importance)
    for metric in next(iter(ratios.values())):
        by_kind = {kind: r[metric] for kind, r in ratios.items()}
        assert np.mean(list(by_kind.values())) <= 1.0
        worst = max(by_kind, key=lambda kind: by_kind[kind])
        assert by_kind[worst] <= 1.02, f"{worst}, error weighted by {metric}: {by_kind[worst]:.4f} of ggml's"


@pytest.mark.parametrize("importance", [None, "spiky"])
@pytest.mark.parametrize("quant", QUANTS)
def test_every_instruction_set_gives_the_same_bytes(quant: str, importance: str | None) -> None:
    for kind, rows in row_kinds().items():
        h = None if importance is None else importances(importance, rows.shape[1])
        expected, _ = quant_cli.quantize(quant, rows, h, isa="scalar")
        for isa in ("avx2", "avx512"):
            assert np.array_equal(quant_cli.quantize(quant, rows, h, isa=isa)[0], expected), (kind, isa)
