"""The formats with super-blocks against ggml: bytes read to the bit, errors not exceeded, on every kind of row."""

from __future__ import annotations

import numpy as np
import pytest

import ggml
from quantizers import ISAS, dequantize, quantize, quantize_on
from row_kinds import importances, metrics, row_kinds

needs_ggml = pytest.mark.usefixtures("ggml_library")

QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "TQ1_0", "TQ2_0")
#: The largest weights that a type can hold, where these are below those of the rows.
LARGEST = {"Q2_K": 9.8e5, "TQ1_0": 65504.0, "TQ2_0": 65504.0}


@needs_ggml
@pytest.mark.parametrize("quant", QUANTS)
def test_dequantizer_reads_ggmls_bytes_to_the_bit(quant: str) -> None:
    for kind, rows in row_kinds().items():
        blocks = ggml.quantize(quant, rows)
        ours, theirs = dequantize(blocks, quant), ggml.dequantize(quant, blocks)
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)), kind


@needs_ggml
@pytest.mark.parametrize("quant", QUANTS)
def test_dequantizer_reads_any_bytes_as_ggml_does(quant: str) -> None:
    _, _, size = ggml.TYPES[quant]
    blocks = np.random.default_rng(3).integers(0, 256, (4, 64 * size), np.uint8)
    ours, theirs = dequantize(blocks, quant), ggml.dequantize(quant, blocks)
    finite = np.isfinite(theirs)
    assert finite.mean() > 0.9
    assert np.array_equal(np.isfinite(ours), finite)
    assert np.array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))


def error_ratios(quant: str, importance: str | None) -> dict[str, dict[str, float]]:
    """Row kind -> metric -> our summed error over ggml's."""
    ratios: dict[str, dict[str, float]] = {}
    for kind, every in row_kinds().items():
        limit = LARGEST.get(quant, np.inf)
        rows = np.clip(every, -limit, limit).astype(np.float32)
        h = None if importance is None else importances(importance, rows.shape[1])
        exact = rows.astype(np.float64)
        ours = ggml.dequantize(quant, quantize(rows, quant, h)) - exact
        theirs = ggml.dequantize(quant, ggml.quantize(quant, rows, h)) - exact
        for name, weights in metrics(quant, h).items():
            a, b = ((weights(exact) * e**2).sum() for e in (ours, theirs))
            assert np.isfinite(a), kind
            if not np.isfinite(b):
                # ggml's search overflows the f16 scale of the largest rows.
                assert kind == "huge 1e6"
                continue
            ratios.setdefault(kind, {})[name] = 1.0 if a == b == 0 else float(a / b)
    return ratios


@needs_ggml
@pytest.mark.parametrize("importance", [None, "lognormal", "spiky"])
@pytest.mark.parametrize("quant", QUANTS)
def test_error_is_not_above_ggmls(quant: str, importance: str | None) -> None:
    ratios = error_ratios(quant, importance)
    for metric in next(iter(ratios.values())):
        by_kind = {kind: r[metric] for kind, r in ratios.items()}
        assert np.mean(list(by_kind.values())) <= 1.0
        worst = max(by_kind, key=lambda kind: by_kind[kind])
        assert by_kind[worst] <= 1.02, f"{worst}, error weighted by {metric}: {by_kind[worst]:.4f} of ggml's"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("quant", QUANTS)
def test_every_instruction_set_gives_the_same_bytes(quant: str, isa: str) -> None:
    """Rows of an even and of an odd number of super-blocks, on the path that this process uses and on `isa`."""
    cases: list[tuple[ggml.Floats, ggml.Floats | None]] = []
    for every in row_kinds().values():
        rows = np.clip(every, -LARGEST.get(quant, np.inf), LARGEST.get(quant, np.inf)).astype(np.float32)
        for n in {rows.shape[1], rows.shape[1] - 256} - {0}:
            part = np.ascontiguousarray(rows[:, :n])
            cases += [(part, None), (part, importances("spiky", n))]
    for (rows, h), found in zip(cases, quantize_on(isa, quant, cases), strict=True):
        assert np.array_equal(found, quantize(rows, quant, h))
