"""The border to the native module: its errors, and what it takes. scripts/check.sh compares its types with the stub."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import srd_rs
from srd_rs import SrdOptions, errors
from support import EXAMPLE


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    """Errors of Rust and of Python alike have file and errno, and are what Python code catches."""
    missing = tmp_path / "missing.gguf"
    for call in (srd_rs.inspect, srd_rs.met, srd_rs.plan, srd_rs.verify):
        with pytest.raises(FileNotFoundError) as raised:
            call(missing)
        error = raised.value
        assert isinstance(error, errors.SrdIOError)
        assert error.errno == errno.ENOENT and Path(error.filename) == missing == Path(error.file or "")
        assert str(error).startswith(f"{missing}: ") and "[Errno" not in str(error)


def test_every_error_has_the_attributes(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError) as raised:
        srd_rs.convert(EXAMPLE, tmp_path / "x.gguf", effort="hard")
    assert (raised.value.file, raised.value.tensor, raised.value.offset) == (None, None, None)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(errors.FormatError) as broken:
        srd_rs.inspect(tmp_path / "bad.gguf")
    assert Path(broken.value.file or "") == tmp_path / "bad.gguf"


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"'quants'.*quant"):
        srd_rs.plan(EXAMPLE, tmp_path / "x.gguf", quants="Q8_0", effort="fast")
    with pytest.raises(errors.UsageError, match=r"max_memory: \[4\] is of the type list"):
        srd_rs.plan(EXAMPLE, tmp_path / "x.gguf", max_memory=[4], effort="fast")


def test_plan_takes_what_convert_takes(tmp_path: Path) -> None:
    options = srd_rs.ConvertOptions(quant="Q8_0", threads=2, overwrite=True, met=False, calibrate_tokens=512)
    planned = srd_rs.plan(EXAMPLE, tmp_path / "x.gguf", options)
    assert planned == srd_rs.convert(EXAMPLE, tmp_path / "x.gguf", options).plan
    assert planned.total_bytes == (tmp_path / "x.gguf").stat().st_size
    assert len(repr(planned)) < 600 and planned.tensors[0].to_dict()["shape"] == (256,)


def test_moments_make_the_error_smaller() -> None:
    """quantize(w, type, moments=H): (v - w)^T H (v - w) is far below that of a search that knows the diagonal alone."""
    random = np.random.default_rng(5)
    w = random.normal(size=(8, 512)).astype(np.float32)
    x = (random.normal(size=(600, 24)) @ random.normal(size=(24, 512))).astype(np.float32)
    h = x.T @ x / np.float32(len(x)) + np.eye(512, dtype=np.float32) / 100

    def loss(blocks: np.ndarray) -> float:
        d = srd_rs.dequantize(blocks, "Q4_K") - w
        return float(np.einsum("ri,ij,rj", d, h, d))

    feedback = srd_rs.quantize(w, "Q4_K", moments=h)
    assert loss(feedback) < 0.6 * loss(srd_rs.quantize(w, "Q4_K", np.diag(h).copy()))
    assert np.array_equal(feedback, srd_rs.quantize(w, "Q4_K", moments=h))
    noisy = [srd_rs.quantize(w, "Q4_K", moments=h, srd=SrdOptions(dither=0.3), seed=seed) for seed in (0, 1)]
    assert not np.array_equal(*noisy)
    blocks = np.concatenate([h[:256, :256], h[256:, 256:]])
    assert not np.array_equal(feedback, srd_rs.quantize(w, "Q4_K", moments=blocks))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"moments": np.zeros((512, 100), np.float32)}, "moments do not describe"),
        ({"moments": np.full((512, 512), np.nan, np.float32)}, "moments do not describe"),
        ({"srd": SrdOptions(beam_width=2)}, "without moments"),
        ({"moments": np.eye(512, dtype=np.float32), "srd": SrdOptions(beam_width=3)}, "1, 2, 4 or 8"),
        (
            {"moments": np.eye(512, dtype=np.float32), "importance": np.ones(512, np.float32)},
            "beside moments",
        ),
    ],
)
def test_moments_that_make_no_sense(arguments: dict[str, object], what: str) -> None:
    with pytest.raises(errors.UsageError, match=what):
        srd_rs.quantize(np.ones((1, 512), np.float32), "Q4_K", **arguments)  # type: ignore[arg-type]


def test_import_is_quick() -> None:
    """`import srd_rs` loads neither the native module nor numpy."""
    code = "import sys, srd_rs; print([m for m in ('numpy', 'srd_rs._core', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
