"""`quantize` and `dequantize` on numpy arrays, against the independent gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from srd_rs import dequantize, errors, quantize

#: The root mean square error that a type may have, as a share of the weights' own root mean square: about a tenth more
#: than what each type has on the weights of this file. The next coarser type is above it.
MAX_ERROR = {
    "Q4_0": 0.12, "Q4_1": 0.09, "Q4_K": 0.092, "Q5_0": 0.061, "Q5_1": 0.044, "Q5_K": 0.046, "Q6_K": 0.0243,
    "Q8_0": 0.0083, "IQ4_NL": 0.092, "IQ4_XS": 0.092,
    "Q3_K": 0.19, "Q2_K": 0.33, "MXFP4": 0.14, "TQ2_0": 0.7, "TQ1_0": 0.7,
    "IQ3_S": 0.2, "IQ3_XXS": 0.25, "IQ2_S": 0.36, "IQ2_XS": 0.4, "IQ2_XXS": 0.45,
    "BF16": 0.0019, "F16": 0.00023, "F32": 0.0,
}  # fmt: skip


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(1).standard_t(5, (6, 512)).astype(np.float32)


@pytest.mark.parametrize("name", MAX_ERROR)
def test_gguf_reads_what_we_write(name: str, weights: np.ndarray) -> None:
    blocks = quantize(weights, name)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    ours = dequantize(blocks, name)
    assert np.array_equal(ours, theirs.reshape(ours.shape))
    error = np.sqrt(((ours - weights) ** 2).mean() / (weights**2).mean())
    assert error <= MAX_ERROR[name]


def test_importance_moves_the_error(weights: np.ndarray) -> None:
    h = np.ones(512, np.float32)
    h[::4] = 100.0
    plain = dequantize(quantize(weights, "Q4_K"), "Q4_K") - weights
    guided = dequantize(quantize(weights, "Q4_K", h), "Q4_K") - weights
    assert (guided[:, ::4] ** 2).sum() < (plain[:, ::4] ** 2).sum()
    assert (h * guided**2).sum() < (h * plain**2).sum()


@pytest.mark.parametrize(
    ("array", "name", "importance", "error"),
    [
        (np.ones((2, 100), np.float32), "Q4_K", None, errors.UsageError),
        (np.ones((2, 256), np.float32), "Q9_Z", None, errors.UsageError),
        (np.ones((2, 256), np.float32), "Q4_K", np.ones(3, np.float32), errors.UsageError),
        (np.full((2, 256), np.nan, np.float32), "Q4_K", None, errors.NonFiniteError),
        (np.full((2, 256), 3e38, np.float32), "Q6_K", None, errors.NonFiniteError),
        (np.ones((256, 2), np.float32).T, "Q4_K", None, errors.UsageError),
    ],
)
def test_what_does_not_fit(
    array: np.ndarray, name: str, importance: np.ndarray | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        quantize(array, name, importance)
