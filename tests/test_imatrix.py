"""`convert --imatrix` with files as llama-imatrix writes them, in both formats."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import srd_rs
from srd_rs import errors
from support import REPO

sys.path.insert(0, str(REPO / "scripts"))

import make_golden_bytes
from make_golden_bytes import BYTES_PER_WEIGHT

MODEL = Path(__file__).parent.parent / "examples" / "wiki-gemma4"
NAME = "blk.1.ffn_gate.weight"
SUMS = (np.random.default_rng(3).lognormal(0, 2, 256) * 5).astype(np.float32)
CALLS = 5


def write_gguf(path: Path, sums: np.ndarray = SUMS) -> Path:
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["wiki.txt"])
    writer.add_uint32("imatrix.chunk_count", 9)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor(f"{NAME}.in_sum2", sums.reshape(1, -1))
    writer.add_tensor(f"{NAME}.counts", np.full((1, 1), CALLS, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_dat(path: Path) -> Path:
    name = NAME.encode()
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii", CALLS, SUMS.size) + SUMS.tobytes()
    path.write_bytes(struct.pack("<i", 1) + entry + struct.pack("<ii", 9, 8) + b"wiki.txt")
    return path


def tensor(path: Path, name: str) -> np.ndarray:
    (found,) = (t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return np.array(found.data)


def dequantized(path: Path) -> np.ndarray:
    return gguf.quants.dequantize(tensor(path, NAME), gguf.GGMLQuantizationType.Q4_K)


def test_tensors_that_an_imatrix_lacks_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    srd_rs.plan(MODEL, tmp_path / "out.gguf", imatrix=write_gguf(tmp_path / "imatrix.gguf"))
    (line,) = (message for message in caplog.messages if "the imatrix lacks" in message)
    assert "quantized without it: " in line and NAME not in line


def test_both_formats_weigh_the_error(tmp_path: Path) -> None:
    original = tmp_path / "bf16.gguf"
    srd_rs.convert(MODEL, original, quant="BF16")
    weights = (tensor(original, NAME).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    plain, guided, old = (tmp_path / f"{n}.gguf" for n in ("plain", "guided", "old"))
    srd_rs.convert(MODEL, plain, effort="fast")
    srd_rs.convert(MODEL, guided, imatrix=write_gguf(tmp_path / "imatrix.gguf"))
    srd_rs.convert(MODEL, old, imatrix=write_dat(tmp_path / "imatrix.dat"))

    h = SUMS / CALLS
    loss = {p: float((h * (dequantized(p) - weights) ** 2).sum()) for p in (plain, guided)}
    assert loss[guided] < 0.9 * loss[plain]
    assert np.array_equal(tensor(guided, NAME), tensor(old, NAME))
    other = "blk.2.ffn_gate.weight"
    assert np.array_equal(tensor(guided, other), tensor(plain, other))
    blocks = srd_rs.quantize(np.ascontiguousarray(weights), "Q4_K", h)
    assert np.array_equal(blocks, tensor(guided, NAME))

    metadata = srd_rs.inspect(guided).metadata
    assert metadata["quantize.imatrix.file"] == "imatrix.gguf"
    assert metadata["quantize.imatrix.dataset"] == "wiki.txt"
    assert metadata["quantize.imatrix.entries_count"] == 1
    assert metadata["quantize.imatrix.chunks_count"] == 9


@pytest.mark.parametrize("sums", [SUMS[:128], -SUMS, SUMS * np.float32(np.nan)])
def test_a_file_that_does_not_fit_is_refused(sums: np.ndarray, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "imatrix.gguf", sums)
    with pytest.raises((errors.ModelError, errors.FormatError), match=r"imatrix\.gguf"):
        srd_rs.plan(MODEL, tmp_path / "out.gguf", imatrix=file)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The checkpoint of the golden bytes, whose rows have 768 and 1024 weights, and importances of its columns."""
    folder = tmp_path_factory.mktemp("imatrix")
    return make_golden_bytes.make_checkpoint(folder / "model"), make_golden_bytes.make_imatrix(folder / "dat")


@pytest.mark.parametrize("kind", make_golden_bytes.BLOCKS)
def test_threads_and_memory_change_no_byte(tmp_path: Path, model: tuple[Path, Path], kind: str) -> None:
    """Importances are scaled once per matrix. Scaling them per piece of a row made the bytes depend on the cuts."""
    found = set()
    for threads in (1, 3, 4):
        # Weights that a worker takes at a time. None: whole rows.
        for weights in (None, 256, 512, 1280):
            memory = {} if weights is None else {"max_memory": threads * weights * BYTES_PER_WEIGHT}
            output = tmp_path / f"{threads}-{weights}.gguf"
            srd_rs.convert(
                model[0], output, quant="Q4_K_M", effort="fast", imatrix=model[1], met=False, axm=False,
                tensor_types=[f"attn|ffn|output={kind}"], provenance=False, threads=threads, **memory,
            )  # fmt: skip
            found.add(make_golden_bytes.tensor_digest(output))
    assert len(found) == 1
