"""Calibrations are kept and found again, by everything that they depend on."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from srd_rs import _core, cache, calibration, errors
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
    (file,) = kept.glob("*.calib")
    second = convert(EXAMPLE, tmp_path / "b.gguf", quant="Q5_K_M")
    third = convert(EXAMPLE, tmp_path / "c.gguf", threads=1)
    without = convert(EXAMPLE, tmp_path / "d.gguf", cache=False)
    found = [r.calibration_found for r in (first, second, third, without)]
    assert found == [False, True, True, False] and list(kept.glob("*.calib")) == [file]
    data = [(tmp_path / f"{name}.gguf").read_bytes() for name in "acd"]
    assert data[0] == data[1] == data[2]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"calibrate_tokens": 1024}, {"calibrate_block": 512}, {"calibrate": "builtin"}],
)
def test_other_options_are_measured_again(change: dict[str, Any], kept: Path, tmp_path: Path) -> None:
    assert not convert(EXAMPLE, tmp_path / "a.gguf").calibration_found
    assert not convert(EXAMPLE, tmp_path / "b.gguf", **change).calibration_found
    assert len(list(kept.glob("*.calib"))) == 2


def test_a_model_that_has_changed_in_one_bit_is_measured_again(kept: Path, tmp_path: Path) -> None:
    """Same names, shapes, sizes and times: only the weights differ, of which the source digest sees nothing."""
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


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the model or the text is read")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the example that has been there for a while."""
    if _core.file_identity(EXAMPLE / "config.json") is None:
        pytest.skip("the file system does not note each change with a time that no program can set")
    folder = tmp_path / "settled"
    shutil.copytree(EXAMPLE, folder)
    (folder / "text.txt").write_text("A sentence of a text. " * 100)
    assert _core.file_identity(folder / "text.txt") is None, "a second change may have the same time"
    time.sleep(2.1)
    return folder


def test_neither_model_nor_text_is_read_again(
    kept: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no file changes, a note says which calibration is that of the model and the text."""
    text = model / "text.txt"
    changes = {"calibrate": text, "calibrate_tokens": 100}
    assert not convert(model, tmp_path / "a.gguf", **changes).calibration_found
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "encode", refuse)
        patch.setattr(_core, "content_digest", refuse)
        assert convert(model, tmp_path / "b.gguf", **changes).calibration_found
        assert convert(model, tmp_path / "c.gguf", **changes, quant="Q5_K_M").calibration_found
        for other in ({"calibrate_tokens": 200}, {"seed": 3}, {"calibrate_block": 512}):
            with pytest.raises(AssertionError, match="read"):
                convert(model, tmp_path / "d.gguf", **{**changes, **other})
        # Another text of the same size, whose time of writing is set back.
        before = text.stat()
        text.write_text(text.read_text().replace("A sentence", "Other word"))
        os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert text.stat().st_mtime_ns == before.st_mtime_ns and text.stat().st_size == before.st_size
        with pytest.raises(AssertionError, match="read"):
            convert(model, tmp_path / "d.gguf", **changes)
    assert not convert(model, tmp_path / "d.gguf", **changes).calibration_found
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert (tmp_path / "a.gguf").read_bytes() != (tmp_path / "d.gguf").read_bytes()


def test_a_note_that_is_damaged_or_names_nothing_is_not_taken(
    kept: Path, model: Path, tmp_path: Path
) -> None:
    convert(model, tmp_path / "a.gguf")
    (note,) = kept.glob(".*.note")
    raw = note.read_bytes()
    for bad in (
        b"",
        raw[:-1],
        raw[:64],
        raw.replace(b'"ctx"', b'"ctz"'),
        raw.replace(b"1", b"2"),
        b"\xff" * 99,
    ):
        note.write_bytes(bad)
        assert convert(model, tmp_path / "b.gguf").calibration_found
        assert note.read_bytes() == raw
    (file,) = kept.glob("*.calib")
    file.unlink()
    assert not convert(model, tmp_path / "b.gguf").calibration_found
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_file_that_changes_while_it_is_read_is_not_noted(
    kept: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = _core.content_digest

    def touching(paths: Any) -> str:
        found = digest(paths)
        (model / "config.json").touch()
        return found

    monkeypatch.setattr(_core, "content_digest", touching)
    convert(model, tmp_path / "a.gguf")
    assert list(kept.glob("*.calib")) and not list(kept.glob(".*.note"))


def test_data_that_change_in_the_cache_are_found_where_they_are_used(kept: Path, tmp_path: Path) -> None:
    """A calibration is read as a whole once. Later each part is compared with its digest when it is used."""
    convert(EXAMPLE, tmp_path / "a.gguf")
    (file,) = kept.glob("*.calib")
    (sums,) = kept.glob(".*.sums")
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    with pytest.raises(errors.SrdError, match="has other bytes than when the calibration was made"):
        convert(EXAMPLE, tmp_path / "b.gguf")
    assert not (tmp_path / "b.gguf").exists()
    # Without the digests of the parts all data are read, and the calibration is made again.
    sums.unlink()
    assert not convert(EXAMPLE, tmp_path / "b.gguf").calibration_found
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_kept_file_that_is_damaged_is_made_again(kept: Path, tmp_path: Path) -> None:
    convert(EXAMPLE, tmp_path / "a.gguf")
    (file,) = kept.glob("*.calib")
    file.write_bytes(file.read_bytes()[:100])
    assert not convert(EXAMPLE, tmp_path / "b.gguf").calibration_found
    assert convert(EXAMPLE, tmp_path / "c.gguf").calibration_found
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SRD_CACHE", str(tmp_path / "file" / "kept"))
    assert convert(EXAMPLE, tmp_path / "a.gguf").method == "srd"


def test_the_least_used_go_first(kept: Path) -> None:
    kept.mkdir()
    for i, name in enumerate("abcd"):
        path = kept / f"{name}.calib"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + i, 1000 + i))
    assert cache.find("a") == kept / "a.calib"  # used now
    cache.trim(250)
    assert sorted(p.stem for p in kept.iterdir()) == ["a", "d"]
    # What an interrupted calibration has left goes as well, unless the calibration may be going on. So do notes.
    old, young, note = kept / ".old.calib.partial", kept / ".young.calib.state-0", kept / ".a.note"
    for path in (old, young, note):
        path.write_bytes(bytes(100))
    os.utime(old, (1000, 1000))
    cache.trim(0)
    assert list(kept.iterdir()) == [young]


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
