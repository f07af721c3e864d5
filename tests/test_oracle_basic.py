"""The plain types and the 32-weight blocks against ggml's own quantiser and dequantiser.

ggml is called through ctypes on the shared object of the xllamacpp wheel; ours through
examples/quant_cli.rs. Without the wheel what needs it is skipped; without the trained model
(SRD_SHARED) its real rows are left out.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("SRD_SHARED", ROOT.parent / "shared"))
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

# ggml's type ids, weights and bytes of a block.
TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "BF16": (30, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
}
BLOCKS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
LARGEST = {"Q4_0": 65504 * 8, "Q4_1": 65504, "Q5_0": 65504 * 16, "Q5_1": 65504, "Q8_0": 65504 * 127}
COLUMNS = 512
ROWS = 64


class Ggml:
    """What the tests need of ggml."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            *[ctypes.c_int64] * 3,
            ctypes.c_void_p,
        ]

    def quantize(self, kind: str, rows: Floats, h: Floats | None) -> Bytes:
        type_id, length, size = TYPES[kind]
        out = np.zeros(rows.size // length * size, np.uint8)
        address = None if h is None else h.ctypes.data
        self.lib.ggml_quantize_chunk(type_id, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, address)
        return out

    def dequantize(self, kind: str, data: Bytes) -> Floats:
        _, length, size = TYPES[kind]
        out = np.zeros(data.size // size * length, np.float32)
        name = {
            "F16": "ggml_fp16_to_fp32_row",
            "BF16": "ggml_bf16_to_fp32_row",
        }.get(kind, f"dequantize_row_{kind.lower()}")
        function = getattr(self.lib, name)
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function.restype = None
        function(data.ctypes.data, out.ctypes.data, out.size)
        return out


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        pytest.skip("xllamacpp is not installed")
    return Ggml(next(Path(spec.origin).parent.glob("*.so")))


class Ours:
    """The Rust quantisers, by files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        build = ["cargo", "build", "--quiet", "--example", "quant_cli", "--message-format=json"]
        run = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=True)
        made = [json.loads(line) for line in run.stdout.splitlines()]
        self.program = next(m["executable"] for m in made if m.get("executable"))

    def _run(self, *args: str, **env: str) -> None:
        subprocess.run([self.program, *args], check=True, capture_output=True, env={**os.environ, **env})

    def quantize(self, kind: str, rows: Floats, h: Floats | None, **env: str) -> Bytes:
        rows.tofile(self.folder / "in")
        if h is not None:
            h.tofile(self.folder / "h")
        importance = "-" if h is None else str(self.folder / "h")
        out = self.folder / "out"
        self._run("quantize", kind, str(rows.shape[1]), str(self.folder / "in"), str(out), importance, **env)
        return np.fromfile(out, np.uint8)

    def dequantize(self, kind: str, data: Bytes, **env: str) -> Floats:
        data.tofile(self.folder / "in")
        self._run("dequantize", kind, str(self.folder / "in"), str(self.folder / "out"), **env)
        return np.fromfile(self.folder / "out", np.float32)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return Ours(tmp_path_factory.mktemp("quant"))


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


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_error_is_at_most_that_of_ggml(ggml: Ggml, ours: Ours, kind: str, weighted: bool) -> None:
    h = importance() if weighted else None
    ratios = {}
    for name, rows in row_kinds(kind):
        mine = squared_error(lambda b: ggml.dequantize(kind, b), ours.quantize(kind, rows, h), rows, h)
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


def test_q8_0_is_the_bytes_of_ggml(ggml: Ggml, ours: Ours) -> None:
    for name, rows in row_kinds("Q8_0"):
        if name not in ("tiny", "minute"):
            mine, theirs = ours.quantize("Q8_0", rows, None), ggml.quantize("Q8_0", rows, None)
            scales = theirs.reshape(-1, 34)[:, :2].copy().view(np.uint16).ravel()
            normal = (scales >= 0x0400) | (scales == 0)
            assert np.array_equal(mine.reshape(-1, 34)[normal], theirs.reshape(-1, 34)[normal]), name


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_conversions_are_those_of_ggml(ggml: Ggml, ours: Ours, kind: str) -> None:
    bits = np.random.default_rng(9).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    halves = np.arange(1 << 16, dtype=np.uint32) << 16
    special = np.array([0x7F800001, 0xFFC00001, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001], np.uint32)
    edges = np.concatenate([bits, halves, halves + 0x7FFF, halves + 0x8000, halves + 0x8001, special])
    rows = edges[: edges.size // 2 * 2].view(np.float32).reshape(2, -1).copy()
    assert np.array_equal(ours.quantize(kind, rows, None), ggml.quantize(kind, rows, None))


@pytest.mark.parametrize("kind", [*BLOCKS, "F16", "BF16"])
def test_dequantiser_is_that_of_ggml_to_the_bit(ggml: Ggml, ours: Ours, kind: str) -> None:
    data = [ggml.quantize(kind, rows, h) for _, rows in row_kinds(kind) for h in (None, importance())]
    if kind in ("F16", "BF16"):
        data.append(np.arange(1 << 16, dtype=np.uint16).view(np.uint8))
    every = np.concatenate(data)
    theirs = ggml.dequantize(kind, every).view(np.uint32)
    for ceiling in ("scalar", "avx2", "avx512"):
        mine = ours.dequantize(kind, every, SRD_MAX_ISA=ceiling).view(np.uint32)
        assert np.array_equal(mine, theirs), ceiling


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_instruction_set_gives_the_same_bytes(ours: Ours, kind: str) -> None:
    # A shell takes 8 or 16 blocks at a time: rows of 16 blocks, and of 7.
    cases = [(f"{name} {n}", rows[:, :n].copy(), n) for name, rows in row_kinds(kind) for n in (COLUMNS, 224)]
    for name, rows, columns in cases:
        for h in (None, importance()[:columns]):
            made = [ours.quantize(kind, rows, h, SRD_MAX_ISA=isa) for isa in ("scalar", "avx2", "avx512")]
            assert all(np.array_equal(made[0], m) for m in made[1:]), name
