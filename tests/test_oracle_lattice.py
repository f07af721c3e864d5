"""The formats whose magnitudes are points of a grid against ggml: bytes read to the bit, errors not exceeded."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import ggml
from quantizers import ISAS, dequantize, quantize, quantize_on
from row_kinds import importances, row_kinds

#: ggml needs seconds for its tables, once in a process.
pytestmark = pytest.mark.xdist_group("tables of ggml")

needs_ggml = pytest.mark.usefixtures("ggml_library")

QUANTS = ("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS")
#: ggml has no search without importances for these.
NEED_IMPORTANCE = ("IQ2_XS", "IQ2_XXS")
#: Where ggml writes values that are not finite, or nothing but noise: weights near the limits of f16 scales.
EXTREME = ("tiny 1e-8", "tiny 1e-6", "tiny 1e-5", "huge 1e6", "huge 1e4")


@pytest.fixture(autouse=True)
def tables(ggml_library: None) -> None:
    """ggml makes the neighbours of each point when it is asked to."""
    lib = ggml.library()
    assert lib is not None
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    for quant in QUANTS:
        lib.ggml_quantize_init(ggml.TYPES[quant][0])


def kinds() -> dict[str, ggml.Floats]:
    return {name: rows[:8] for name, rows in row_kinds().items()}


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


@needs_ggml
@pytest.mark.parametrize("importance", [None, "lognormal", "spiky"])
@pytest.mark.parametrize("quant", QUANTS)
def test_error_is_not_above_ggmls(quant: str, importance: str | None) -> None:
    ratios: dict[str, float] = {}
    for kind, rows in kinds().items():
        h = None if importance is None else importances(importance, rows.shape[1])
        # ggml needs importances for some types: even ones say nothing.
        given = np.ones(rows.shape[1], np.float32) if h is None and quant in NEED_IMPORTANCE else h
        exact, weight = rows.astype(np.float64), 1.0 if h is None else h.astype(np.float64)
        ours = (weight * (ggml.dequantize(quant, quantize(rows, quant, h)) - exact) ** 2).sum()
        assert np.isfinite(ours), kind
        if kind not in EXTREME:
            blocks = ggml.quantize(quant, rows, given)
            theirs = (weight * (ggml.dequantize(quant, blocks) - exact) ** 2).sum()
            ratios[kind] = 1.0 if ours == theirs else float(ours / theirs)
    print(quant, importance, {k: round(v, 3) for k, v in sorted(ratios.items(), key=lambda i: -i[1])})
    assert np.mean(list(ratios.values())) <= 1.0, ratios
    worst = max(ratios, key=lambda kind: ratios[kind])
    assert ratios[worst] <= 1.03, f"{worst}: {ratios[worst]:.4f} of ggml's"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("quant", QUANTS)
def test_every_instruction_set_gives_the_same_bytes(quant: str, isa: str) -> None:
    cases: list[tuple[ggml.Floats, ggml.Floats | None]] = []
    for rows in kinds().values():
        part = np.ascontiguousarray(rows[:2, :512])
        part = np.clip(part, -6e4, 6e4)
        cases += [(part, None), (part, importances("spiky", part.shape[1]))]
    for (rows, h), found in zip(cases, quantize_on(isa, quant, cases), strict=True):
        assert np.array_equal(found, quantize(rows, quant, h))


def test_zeros_stay_zeros_and_signs_are_even_where_they_must_be() -> None:
    rows = np.zeros((1, 512), np.float32)
    rows[0, 300:310] = -1.0
    for quant in QUANTS:
        back = dequantize(quantize(rows, quant), quant)
        assert (back[0, :256] == 0).all()
        assert np.abs(back[0, 300:310] + 1).max() < 0.5
