"""Calibration files: what they hold, what is made with them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors import safe_open

import srd_rs
from srd_rs import errors
from support import EXAMPLE, srd


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    file = folder / "c.safetensors"
    srd_rs.calibrate(EXAMPLE, file, tokens=1024, imatrix=folder / "imatrix.gguf", threads=2)
    return file


def test_the_imatrix_has_the_diagonals(calibrated: Path) -> None:
    reader = gguf.GGUFReader(calibrated.with_name("imatrix.gguf"))
    found = {t.name: np.array(t.data) for t in reader.tensors}
    with safe_open(calibrated, "np") as file:
        inputs = json.loads(file.metadata()["inputs"])
        for entry in inputs:
            first = entry["tensors"][0]
            moments = file.get_tensor(f"{first}.moments")
            n, block = moments.shape
            rows = np.arange(n)
            for name in entry["tensors"]:
                mean = found[f"{name}.in_sum2"][0] / found[f"{name}.counts"][0]
                np.testing.assert_allclose(mean, moments[rows, rows % block], rtol=1e-6)


def test_any_number_of_threads_gives_the_same_file(calibrated: Path, tmp_path: Path) -> None:
    srd_rs.calibrate(EXAMPLE, tmp_path / "c", tokens=1024, threads=1)
    assert (tmp_path / "c").read_bytes() == calibrated.read_bytes()


def test_the_seed_decides_random_tokens(tmp_path: Path) -> None:
    digests = [
        srd_rs.calibrate(EXAMPLE, tmp_path / str(i), text="random", tokens=512, seed=seed).digest
        for i, seed in enumerate((1, 1, 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_convert_takes_it_and_says_so(calibrated: Path, tmp_path: Path) -> None:
    report = srd_rs.convert(EXAMPLE, tmp_path / "a.gguf", effort="srd", calibrate=calibrated)
    metadata = {key: value for key, _, value in srd_rs.inspect(report.output).metadata}
    assert metadata["srd.method"] == "srd"
    assert metadata["srd.calibration.text"] == metadata["quantize.imatrix.dataset"] == "builtin"
    assert metadata["srd.calibration.tokens"] == 1024
    planned = srd_rs.plan(EXAMPLE, tmp_path / "b.gguf", effort="srd", calibrate="builtin")
    assert planned.total_bytes == report.output.stat().st_size


def test_its_own_calibration_leaves_no_file(tmp_path: Path) -> None:
    srd_rs.convert(EXAMPLE, tmp_path / "a.gguf", effort="srd", calibrate="random", calibrate_tokens=512)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "a.met.json"]


def test_a_damaged_file_is_refused(calibrated: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(calibrated.read_bytes()[:-100])
    with pytest.raises(errors.FormatError, match="short"):
        srd_rs.plan(EXAMPLE, tmp_path / "a.gguf", effort="srd", calibrate=short)


def test_an_unknown_text_is_one_line(tmp_path: Path) -> None:
    run = srd("calibrate", EXAMPLE, "-o", tmp_path / "c", "--text", tmp_path / "nope.txt")
    assert run.code == 1 and run.stderr.count("\n") == 1 and "nope.txt" in run.stderr
    assert not list(tmp_path.iterdir())
    assert srd("calibrate", EXAMPLE, "-o", tmp_path / "c", "--block", "100").code == 2
