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
from support import EXAMPLE, refused, srd

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


@pytest.mark.parametrize(
    ("output", "imatrix", "words"),
    [
        ("x.calib", "x.calib", "two outputs"),
        ("x.calib", "folder/../x.calib", "two outputs"),
        ("x.calib", "dangling", "two outputs"),
        ("x.calib", "theirs.gguf", "exists already|not replaced"),
        ("x.calib", "folder", "exists already|folder"),
        ("x.calib", "pipe", "exists already|pipe"),
        ("x.calib", "none/i.gguf", "folder of the output is not there"),
        ("none/x.calib", "i.gguf", "folder of the output is not there"),
        ("mine.calib", "i.gguf", "exists already"),
        ("t.txt", "i.gguf", "input|exists"),
        ("x.calib", "t.txt", "input|exists"),
        ("x.calib", "k", "master key"),
    ],
)
def test_a_calibration_is_refused_before_it_begins(
    tmp_path: Path, output: str, imatrix: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs of a calibration, which can take hours: nothing is computed and nothing is left."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "t.txt": "The river. " * 500,
        "k": KEY,
        "mine.calib": "mine",
        "theirs.gguf": "GGUF",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("x.calib")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(errors.SrdError, match=words):
        srd_rs.calibrate(
            EXAMPLE, output, text="t.txt", tokens=64, imatrix=imatrix, progress=lambda _: pytest.fail("ran")
        )
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "mine.calib").read_text() == "mine"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind that a command reads."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_model(folder / "m.gguf")
    (folder / "k").write_text(KEY)
    (folder / "k").chmod(0o600)
    srd_rs.keygen(folder / "ed", ed25519=True)
    common = {"effort": "fast", "quant": "Q8_0"}
    srd_rs.convert(
        folder / "m.gguf",
        folder / "o.gguf",
        **common,
        axm=True,
        key_file=folder / "k",
        sign_key=folder / "ed",
    )
    model = folder / "model"
    model.mkdir()
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, model)
    srd_rs.calibrate(
        EXAMPLE, folder / "c.calib", text="random", tokens=64, block=256, imatrix=folder / "i.gguf"
    )
    srd_rs.convert(EXAMPLE, folder / "e.gguf", **common, met=False, recipe_out=folder / "r.json")
    (folder / "t.txt").write_text("The river runs through the old town. " * 200)
    return folder


def jobs(box: Path) -> dict[str, tuple[list[object], str, list[str]]]:
    """Command -> its arguments, the option of its output, and its inputs."""
    model, gguf, key, ed = box / "model", box / "m.gguf", box / "k", box / "ed"
    convert = ["convert", model, "--fast", "--no-met", "-o", box / "new.gguf"]
    signing = ["--axm", "--key-file", key, "--sign-key", ed]
    small = ["model/config.json", "model/tokenizer.json", "model/model.safetensors"]
    return {
        "convert": (["convert", model, "--fast", "--no-met", *signing], "-o", [*small, "k", "ed"]),
        "convert a GGUF": (["convert", gguf, "--fast", "--no-met"], "-o", ["m.gguf"]),
        "convert --imatrix": (
            ["convert", model, "--fast", "--no-met", "--imatrix", box / "i.gguf"],
            "-o",
            ["i.gguf"],
        ),
        "convert --calibrate": (
            ["convert", model, "--no-met", "--calibrate", box / "c.calib", "--effort", "srd"],
            "-o",
            ["c.calib"],
        ),
        "convert --recipe": (
            ["convert", model, "--fast", "--no-met", "--recipe", box / "r.json"],
            "-o",
            ["r.json"],
        ),
        "the container": ([*convert, *signing], "--axm-output", [*small, "k", "ed"]),
        "the recipe": (convert, "--recipe-out", small),
        "calibrate": (
            ["calibrate", model, "--text", box / "t.txt", "--tokens", "64"],
            "-o",
            [*small, "t.txt"],
        ),
        "an imatrix": (
            ["calibrate", model, "--text", "random", "--tokens", "64", "-o", box / "new"],
            "--imatrix",
            small,
        ),
        "pack": (["pack", gguf, "--fast", "--key-file", key, "--sign-key", ed], "-o", ["m.gguf", "k", "ed"]),
        "extract": (["extract", box / "o.axm", "--key-file", key], "-o", ["o.axm", "k"]),
        "resign": (
            ["resign", box / "o.axm", "--old-key-file", key, "--key-file", key, "--sign-key", ed],
            "-o",
            ["o.axm", "k", "ed"],
        ),
        "a statement": (
            ["verify", box / "o.gguf", "--axm", box / "o.axm", "--key-file", key, "--sign-key", ed],
            "--attest",
            ["o.gguf", "o.axm", "k", "ed"],
        ),
        "a manifest": (
            ["verify", box / "o.axm", "--public-key", box / "ed.pub"],
            "--write-manifest",
            ["o.axm", "ed.pub"],
        ),
        "met": (["met", box / "o.gguf"], "-o", ["o.gguf"]),
        "a plot": (["met", box / "o.gguf", "-o", box / "new.json"], "--plot", ["o.gguf"]),
        "card": (["card", box / "o.gguf"], "-o", ["o.gguf"]),
        "modelfile": (["modelfile", box / "o.gguf"], "-o", ["o.gguf"]),
        "bom": (
            ["bom", box / "o.gguf", "--from", model, "--calibrate", box / "t.txt"],
            "-o",
            ["o.gguf", *small, "t.txt"],
        ),
        "keygen": (["keygen"], "", ["k", "ed", "ed.pub", "o.axm"]),
    }


def facts(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What changes when a file is written or replaced."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("way", ["itself", "hard link", "link", "detour"])
@pytest.mark.parametrize("name", list(jobs(Path())))
def test_no_output_takes_the_place_of_an_input(inputs: Path, tmp_path: Path, name: str, way: str) -> None:
    """Every output of every command under the name of each of its inputs: nothing that was read is lost."""
    box = tmp_path / "box"
    shutil.copytree(inputs, box, copy_function=os.link)
    arguments, option, named = jobs(box)[name]
    before = facts(inputs)
    for file in named:
        target = box / file
        if way == "hard link":
            target = box / "other"
            target.hardlink_to(box / file)
        elif way == "link":
            target = box / "other"
            target.symlink_to(file)
        elif way == "detour":
            target = box / "model" / ".." / file
        force = ["-f"] if arguments[0] != "keygen" else []
        refused(*arguments, *([option] if option else []), target, *force)
        assert facts(inputs) == before and (box / file).samefile(inputs / file), file
        (box / "other").unlink(missing_ok=True)
        for path in box.glob("new*"):
            path.unlink()
