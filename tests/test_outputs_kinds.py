"""Outputs that would cost a file: each is refused before the work begins, and nothing is changed or left behind."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

import srd_rs
from axm_tools import tiny_model
from srd_rs import errors
from support import EXAMPLE, srd

KEY = "5d" * 32


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model, a key, weights of others, links to them, and things that are no files."""
    tiny_model(tmp_path / "m.gguf")
    (tmp_path / "k").write_text(KEY)
    (tmp_path / "k").chmod(0o600)
    key = {"key_file": tmp_path / "k"}
    srd_rs.convert(tmp_path / "m.gguf", tmp_path / "o.gguf", quant="Q8_0", effort="fast", axm=True, **key)
    (tmp_path / "o.axm").rename(tmp_path / "theirs.axm")
    (tmp_path / "theirs.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "theirs.pt").write_bytes(b"PK\x03\x04" + bytes(50))
    (tmp_path / "hard").hardlink_to(tmp_path / "k")
    (tmp_path / "link").symlink_to("k")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.Modelfile")
    (tmp_path / "dir.md").mkdir()
    (tmp_path / "dir.cdx.json").symlink_to("nowhere")
    return tmp_path


def state(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("output", "options", "words"),
    [
        ("k", {}, "master key"),
        ("hard", {}, "master key"),
        ("link", {}, "link"),
        ("folder/../k", {}, "master key"),
        ("theirs.axm", {}, r"container"),
        ("theirs.safetensors", {}, "safetensors"),
        ("theirs.pt", {}, "pickle"),
        ("x.gguf", {"axm": True, "axm_output": "theirs.safetensors"}, "safetensors"),
        ("x.gguf", {"axm": True, "axm_output": "o.gguf"}, "GGUF"),
        ("x.gguf", {"axm": True, "axm_output": "x.met.json"}, "two outputs"),
        ("x.gguf", {"axm": True, "axm_output": "folder/../x.met.json"}, "two outputs"),
        ("x.gguf", {"recipe_out": "x.gguf"}, "two outputs"),
        ("x.gguf", {"recipe_out": "x.met.json"}, "two outputs"),
        ("x.gguf", {"recipe_out": "x.md", "card": True}, "two outputs"),
        ("x.gguf", {"recipe_out": "k"}, "master key"),
        ("x.gguf", {"recipe_out": "m.gguf"}, "input"),
        ("pipe.gguf", {"modelfile": True}, "link, a folder or a device"),
        ("dir.gguf", {"card": True}, "link, a folder or a device"),
        ("dir.gguf", {"bom": True}, "link, a folder or a device"),
        ("-", {}, "in order"),
        ("x" * 300, {}, "300|305"),
        ("x" * 245 + ".gguf", {}, "250"),
    ],
)
def test_no_file_is_lost(
    place: Path, monkeypatch: pytest.MonkeyPatch, output: str, options: dict[str, object], words: str
) -> None:
    monkeypatch.chdir(place)
    before = state(place)
    with pytest.raises(errors.UsageError, match=words):
        srd_rs.convert(
            "m.gguf",
            output,
            quant="Q8_0",
            effort="fast",
            overwrite=True,
            key_file="k" if "axm" in options else None,
            **options,
        )
    assert state(place) == before


@pytest.mark.parametrize("output", ["none/x.gguf", "none/deep/x"])
def test_a_folder_that_is_not_there_is_named(place: Path, output: str) -> None:
    before = state(place)
    run = srd("convert", place / "m.gguf", "-q", "Q8_0", "--fast", "-o", place / output)
    assert (
        run.code == 1
        and "the folder of the output is not there" in run.stderr
        and "partial" not in run.stderr
    )
    assert state(place) == before


def test_a_card_does_not_replace_that_of_the_model(place: Path) -> None:
    """The model card is read by a conversion, and is an input."""
    model = shutil.copytree(EXAMPLE, place / "model")
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    before = state(place)
    with pytest.raises(errors.UsageError, match="an input is never replaced"):
        srd_rs.convert(model, model / "README.gguf", quant="Q8_0", effort="fast", overwrite=True, card=True)
    assert state(place) == before


@pytest.mark.parametrize("suffix", [".md", ".cdx.json"])
def test_texts_beside_the_first_part_are_not_replaced(tmp_path: Path, suffix: str) -> None:
    """The texts of a split output have the name of its first part."""
    options = {"quant": "Q8_0", "effort": "fast", "split_max_size": 4_000_000, "met": False}
    parts = srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", **options).outputs
    assert len(parts) > 1
    for part in parts:
        part.unlink()
    text = parts[0].with_suffix(suffix)
    text.write_text("mine")
    with pytest.raises(errors.UsageError, match="the file exists already"):
        srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", **options, card=True, bom=True)
    assert list(tmp_path.iterdir()) == [text] and text.read_text() == "mine"
