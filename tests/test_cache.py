"""Calibrations are kept and found again, by everything that they depend on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from srd_rs import cache
from support import EXAMPLE, srd

OPTIONS: dict[str, Any] = {
    "calibrate": "random",
    "calibrate_tokens": 64,
    "calibrate_block": 256,
    "met": False,
}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, empty."""
    folder = tmp_path / "kept"
    monkeypatch.setenv("SRD_CACHE", str(folder))
    return folder


def convert(model: Path, output: Path, **changes: Any) -> srd_rs.ConvertReport:
    return srd_rs.convert(model, output, overwrite=True, **{**OPTIONS, **changes})


def test_a_second_conversion_finds_the_calibration(kept: Path, tmp_path: Path) -> None:
    first = convert(EXAMPLE, tmp_path / "a.gguf")
    (file,) = kept.iterdir()
    second = convert(EXAMPLE, tmp_path / "b.gguf", quant="Q5_K_M")
    third = convert(EXAMPLE, tmp_path / "c.gguf", threads=1)
    without = convert(EXAMPLE, tmp_path / "d.gguf", cache=False)
    found = [r.calibration_found for r in (first, second, third, without)]
    assert found == [False, True, True, False] and list(kept.iterdir()) == [file]
    data = [(tmp_path / f"{name}.gguf").read_bytes() for name in "acd"]
    assert data[0] == data[1] == data[2]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"calibrate_tokens": 1024}, {"calibrate_block": 512}, {"calibrate": "builtin"}],
)
def test_other_options_are_measured_again(change: dict[str, Any], kept: Path, tmp_path: Path) -> None:
    assert not convert(EXAMPLE, tmp_path / "a.gguf").calibration_found
    assert not convert(EXAMPLE, tmp_path / "b.gguf", **change).calibration_found
    assert len(list(kept.iterdir())) == 2


def test_a_model_that_has_changed_in_one_bit_is_measured_again(kept: Path, tmp_path: Path) -> None:
    """Same names, shapes, sizes and times: only the weights differ, of which the source digest sees nothing."""
    import os

    model = tmp_path / "model"
    shutil.copytree(EXAMPLE, model)
    convert(model, tmp_path / "a.gguf")
    weights = model / "model.safetensors"
    state = weights.stat()
    with weights.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        last = file.read(1)
        file.seek(-2, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not convert(model, tmp_path / "b.gguf").calibration_found
    assert convert(model, tmp_path / "c.gguf").calibration_found


def test_a_kept_file_that_is_damaged_is_made_again(kept: Path, tmp_path: Path) -> None:
    convert(EXAMPLE, tmp_path / "a.gguf")
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert not convert(EXAMPLE, tmp_path / "b.gguf").calibration_found
    assert convert(EXAMPLE, tmp_path / "c.gguf").calibration_found
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SRD_CACHE", str(tmp_path / "file" / "kept"))
    assert convert(EXAMPLE, tmp_path / "a.gguf").method == "srd"


def test_the_least_used_go_first(kept: Path) -> None:
    import os

    kept.mkdir()
    for i, name in enumerate("abcd"):
        path = kept / f"{name}.calib"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + i, 1000 + i))
    assert cache.find("a") == kept / "a.calib"  # used now
    cache.trim(250)
    assert sorted(p.stem for p in kept.iterdir()) == ["a", "d"]
    cache.trim(0)
    assert list(kept.iterdir()) == []


def test_where_things_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SRD_CACHE", "off")
    assert cache.folder() is None and cache.find("x") is None and cache.place("x") is None
    monkeypatch.delenv("SRD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "srd-rs" / "calibrations"


def test_on_the_command_line(kept: Path, tmp_path: Path) -> None:
    arguments = ("convert", EXAMPLE, "-o", tmp_path / "m.gguf", "-f", "--no-axm", "--calibrate", "random")
    arguments = (*arguments, "--calibrate-tokens", 64, "--calibrate-block", 256)
    first, second = srd(*arguments), srd(*arguments)
    assert "(found in the cache)" not in first.stdout and "(found in the cache)" in second.stdout
    assert json.loads(srd(*arguments, "--json", "--no-cache").stdout)["calibration_found"] is False
    fast = srd("convert", EXAMPLE, "-o", tmp_path / "m.gguf", "-f", "--fast", "--no-cache")
    assert fast.code == 2 and "--no-cache" in fast.stderr
