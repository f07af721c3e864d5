"""The plain types and the 32-weight blocks against ggml's own quantizer and dequantizer, called through ctypes.

Without a ggml library what needs it is skipped; without the trained model (SRD_SHARED) its real rows are left out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest

import ggml
from quantizers import ISAS, dequantize, dequantize_on, quantize, quantize_on
from support import SHARED

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCKS = [kind for kind, (_, length, _) in ggml.TYPES.items() if length == 32]
#: The largest weight that a type can hold, if it is much more than 65504.
LARGEST = {
    "Q4_0": 65504 * 8,
    "Q4_1": 65504,
    "Q5_0": 65504 * 16,
    "Q5_1": 65504,
    "Q8_0": 65504 * 127,
    "MXFP4": 1e6,
}
COLUMNS = 512
ROWS = 64

needs_ggml = pytest.mark.usefixtures("ggml_library")


def real_rows() -> Floats | None:
    """Rows of the trained model's matrices, as far as it is there."""
    path = SHARED / "models" / "wiki-gemma4" / "model.safetensors"
    if not path.exists():
        return None
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
        taken = []
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] == "BF16" and entry["shape"][-1] in (256, 512, 1536):
                file.seek(8 + length + entry["data_offsets"][0])
                raw = np.frombuffer(file.read(2 * COLUMNS * 8), np.uint16)
                taken.append((raw.astype(np.uint32) << 16).view(np.float32))
    flat = np.concatenate([t for t in taken if t.size % COLUMNS == 0])
    return np.ascontiguousarray(flat.reshape(-1, COLUMNS))


def row_kinds(kind: str) -> Iterator[tuple[str, Floats]]:
    rng = np.random.default_rng(7)
    shape = (ROWS, COLUMNS)
    normal = rng.standard_normal(shape)
    made: dict[str, npt.NDArray[np.float64]] = {
        "gaussian": normal * 0.02,
        "heavy": rng.standard_t(2, shape) * 0.02,
        "laplace": rng.laplace(size=shape) * 0.02,
        "uniform": rng.uniform(-1, 1, shape),
        "shifted": normal * 0.02 + 0.1,
        "constant": np.repeat(rng.standard_normal((ROWS, 1)), COLUMNS, axis=1),
        "zero": np.zeros(shape),
        "tiny": normal * 1e-7,
        "minute": normal * 1e-30,
        "huge": rng.uniform(-1, 1, shape) * LARGEST.get(kind, 6e4),
        "large": normal * LARGEST.get(kind, 6e4) / 50,
        "one outlier": normal * 0.02 + 5.0 * (rng.random(shape) < 1 / 200),
        "sparse": normal * (rng.random(shape) < 0.05),
    }
    for name, rows in made.items():
        yield name, rows.astype(np.float32)
    real = real_rows()
    if real is not None:
        yield "real", real


def importance() -> Floats:
    return np.random.default_rng(8).lognormal(0, 1.5, COLUMNS).astype(np.float32)


def squared_error(decode: Callable[[Bytes], Floats], data: Bytes, rows: Floats, h: Floats | None) -> float:
    e = (decode(data).reshape(rows.shape).astype(np.float64) - rows) ** 2
    return float((e * (1.0 if h is None else h)).sum())


@needs_ggml
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_error_is_at_most_that_of_ggml(kind: str, weighted: bool) -> None:
    h = importance() if weighted else None
    ratios = {}
    for name, rows in row_kinds(kind):
        mine = squared_error(lambda b: ggml.dequantize(kind, b), quantize(rows, kind, h), rows, h)
        theirs = squared_error(lambda b: ggml.dequantize(kind, b), ggml.quantize(kind, rows, h), rows, h)
        assert np.isfinite(mine), name
        if not np.isfinite(theirs):
            # ggml's search overflows the f16 scale of the largest rows.
            assert name == "huge"
            continue
        ratios[name] = 1.0 if mine == theirs else mine / theirs if theirs > 0 else np.inf
    print(kind, "imatrix" if weighted else "plain", {k: round(v, 4) for k, v in ratios.items()})
    assert max(ratios.values()) <= 1.02, ratios
    assert np.mean(list(ratios.values())) <= 1.0, ratios


@needs_ggml
def test_q8_0_is_the_bytes_of_ggml() -> None:
    for name, rows in row_kinds("Q8_0"):
        if name not in ("tiny", "minute"):
            mine, theirs = quantize(rows, "Q8_0"), ggml.quantize("Q8_0", rows)
            scales = theirs.reshape(-1, 34)[:, :2].copy().view(np.uint16).ravel()
            normal = (scales >= 0x0400) | (scales == 0)
            assert np.array_equal(mine.reshape(-1, 34)[normal], theirs.reshape(-1, 34)[normal]), name


@needs_ggml
@pytest.mark.parametrize(("kind", "limit"), [("F16", 65504.0), ("BF16", 3.3895e38)])
def test_conversions_are_those_of_ggml(kind: str, limit: float) -> None:
    """Every weight that a conversion lets through: finite, and within the range of the type."""
    bits = np.random.default_rng(9).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    halves = np.arange(1 << 16, dtype=np.uint32) << 16
    special = np.array([0x477FE000, 0xC77FE000, 0x33000000, 0x33000001, 0x00000001, 0x80000000], np.uint32)
    edges = np.concatenate([bits, halves, halves + 0x7FFF, halves + 0x8000, halves + 0x8001, special])
    values = edges.view(np.float32)
    values = values[np.abs(values) <= limit]
    assert values.size > 1 << 17
    rows = np.ascontiguousarray(values[: values.size // 2 * 2].reshape(2, -1))
    assert np.array_equal(quantize(rows, kind), ggml.quantize(kind, rows))


@needs_ggml
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [*BLOCKS, "F16", "BF16"])
def test_dequantizer_is_that_of_ggml_to_the_bit(kind: str, isa: str) -> None:
    data = [ggml.quantize(kind, rows, h) for _, rows in row_kinds(kind) for h in (None, importance())]
    every = np.concatenate([blocks.reshape(-1) for blocks in data])
    if kind in ("F16", "BF16"):
        every = np.concatenate([every, np.arange(1 << 16, dtype=np.uint16).view(np.uint8)])
    blocks = every.reshape(1, -1)
    mine, theirs = dequantize_on(isa, kind, blocks), ggml.dequantize(kind, blocks)
    assert np.array_equal(mine.view(np.uint32), theirs.view(np.uint32))
    assert np.array_equal(dequantize(blocks, kind).view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_every_instruction_set_gives_the_same_bytes(kind: str, isa: str) -> None:
    """A vector holds 8 or 16 blocks: rows of 16 blocks, and of 7."""
    cases = [
        (np.ascontiguousarray(rows[:, :n]), h)
        for _, rows in row_kinds(kind)
        for n in (COLUMNS, 224)
        for h in (None, importance()[:n])
    ]
    for (rows, h), found in zip(cases, quantize_on(isa, kind, cases), strict=True):
        assert np.array_equal(found, quantize(rows, kind, h))
