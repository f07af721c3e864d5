"""PyTorch checkpoints are read without PyTorch: the same file as from safetensors, and no code of a pickle is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srd_rs
from patterns import pattern, write_shards
from srd_rs import pickled
from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import FormatError, ModelError
from support import srd
from vocab_tools import byte_bpe

FOLDER = Path(__file__).parent / "data" / "pickled"
CONFIG = json.loads((FOLDER / "config.json").read_text())
SHAPES: dict[str, list[int]] = json.loads((FOLDER / "shapes.json").read_text())
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def single(folder: Path, name: str = "single.bin") -> Path:
    shutil.copy(FOLDER / name, model_folder(folder) / pickled.SINGLE)
    return folder


def sharded(folder: Path) -> Path:
    model_folder(folder)
    weight_map = {}
    for name in SHARDS:
        shutil.copy(FOLDER / name, folder / name)
        weight_map[name] = name
    (folder / pickled.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def safetensors(folder: Path) -> Path:
    sources = {
        name: ["F32" if name == "model.norm.weight" else "BF16", shape, "model.safetensors"]
        for name, shape in SHAPES.items()
    }
    write_shards(sources, model_folder(folder))
    return folder


@pytest.fixture
def tokenizer(tmp_path: Path) -> list[Path]:
    """The files of a tokenizer with as many tokens as the models have."""
    letters = [chr(0x100 + i) for i in range(CONFIG["vocab_size"] - 1)]
    vocab = {letter: number for number, letter in enumerate([*letters, letters[0] + letters[1]])}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(byte_bpe(vocab, [[letters[0], letters[1]]])))
    return [path]


@pytest.mark.parametrize("make", [single, sharded])
def test_the_file_is_that_of_safetensors(make: Any, tmp_path: Path, tokenizer: list[Path]) -> None:
    files = []
    for number, folder in enumerate((make(tmp_path / "a"), safetensors(tmp_path / "b"))):
        for path in tokenizer:
            shutil.copy(path, folder / path.name)
        output = tmp_path / f"{number}.gguf"
        run = srd("convert", folder, "-q", "BF16", "--name", "m", "--no-provenance", "--no-met", "-o", output)
        assert run.code == 0, run.stderr
        files.append(output.read_bytes())
    assert files[0] == files[1]


def test_every_reader_finds_the_tensors(tmp_path: Path, tokenizer: list[Path]) -> None:
    """inspect, srd_rs.open and a kept calibration read the same list as the conversion."""
    folder = single(tmp_path / "a")
    for path in tokenizer:
        shutil.copy(path, folder / path.name)
    listed = {t.name: (t.dtype, t.shape, t.nbytes) for t in pickled.listed(folder)}
    inspected = srd_rs.inspect(folder)
    assert {t.name: (t.type, t.shape, t.bytes) for t in inspected.tensors} == listed
    with srd_rs.open(folder) as tensors:
        norm = tensors["model.norm.weight"].numpy()
        assert np.array_equal(norm, pattern("model.norm.weight", (32,)))
    command = ("convert", folder, "-q", "Q8_0", "--calibrate", "random", "--calibrate-tokens", 64)
    env = {"SRD_CACHE": str(tmp_path / "kept")}
    for name, found in (("x.gguf", False), ("y.gguf", True)):
        run = srd(*command, "--no-axm", "--json", "-o", tmp_path / name, env=env)
        assert run.code == 0, run.stderr
        assert run.json["method"] == "srd" and run.json["calibration_found"] is found


def test_tensors_that_share_a_storage_and_float8_are_found(tmp_path: Path) -> None:
    found = {t.name: t for t in pickled.listed(single(tmp_path / "a"))}
    k, v = (found[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "kv")
    assert (k.shape, v.shape, v.offset - k.offset) == ((16, 32), (16, 32), 16 * 32 * 2)
    assert found["model.norm.weight"].dtype == "F32"
    assert [t.dtype for t in pickled.listed(single(tmp_path / "b", "float8.bin"))] == ["F8_E4M3"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("view.bin", "view"), ("more.bin", "'args' that is no tensor"), ("legacy.bin", "since version 1.6")],
)
def test_what_is_no_plain_state_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=words):
        Checkpoint.open(single(tmp_path / "a", name))


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def archive(path: Path, data: bytes, prefix: str = "archive/", **entries: bytes) -> None:
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(f"{prefix}data.pkl", data)
        for name, content in entries.items():
            zipped.writestr(f"{prefix}data/{name}", content)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_code_of_a_pickle_is_run(protocol: int, tmp_path: Path) -> None:
    folder, trace = model_folder(tmp_path / "a"), tmp_path / "trace"
    for evil in (Evil(os.mkdir, str(trace)), Evil(eval, f"open({str(trace)!r}, 'w')"), Evil(exec, "1/0")):
        archive(folder / pickled.SINGLE, pickle.dumps({"a": evil}, protocol))
        with pytest.raises(FormatError, match="is no part of a tensor"):
            Checkpoint.open(folder)
        assert not trace.exists()


def hostile() -> dict[str, bytes]:
    return {
        "memo of 2^31": b"\x80\x02}r\xff\xff\xff\x7f.",
        "a long text": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "deep": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        "nothing": b"",
        "no end": b"\x80\x02}",
        "a list": pickle.dumps([1, 2]),
        "a name that is none": b"ctorch\nload\n.",
        "attributes": pickle.dumps({"a": Evil(getattr, "", "join")}),
        "a number of many digits": b"I" + b"9" * 100_000 + b"\n.",
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_pickles_are_refused_quickly(name: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "a")
    archive(folder / pickled.SINGLE, hostile()[name])
    run = srd("convert", folder, "-o", tmp_path / "o.gguf")
    assert run.code == 1 and "Traceback" not in run.stderr and not (tmp_path / "o.gguf").exists()
    assert run.peak_rss <= 150_000_000 and run.wall_s < 5


def tensor_pickle(count: int, shape: tuple[Any, ...], first: int = 0, key: str = "0") -> bytes:
    """A pickle of one tensor, written by hand."""
    buffer = io.BytesIO()
    out = pickle._Pickler(buffer, 2)
    out.write(b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(")
    out.write(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n")
    for value in (key, "cpu", count):
        out.save(value)
    out.write(b"tQ")
    out.save(first)
    out.save(shape)
    out.save((1,))
    out.write(b"\x89NtRs.")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("shape", "first", "key"),
    [
        ((5,), 0, "0"),
        ((4,), 1, "0"),
        ((-4,), 0, "0"),
        ((2**60,), 0, "0"),
        ((4,), 0, "1"),
        ((4,), 0, "../../x"),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    shape: tuple[int, ...], first: int, key: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "a")
    archive(folder / pickled.SINGLE, tensor_pickle(4, (4,)), **{"0": bytes(16)})
    assert [t.shape for t in pickled.listed(folder)] == [(4,)]
    archive(folder / pickled.SINGLE, tensor_pickle(4, shape, first, key), **{"0": bytes(16)})
    with pytest.raises(FormatError):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        ({"a": "../pytorch_model-00001-of-00002.bin"}, FormatError),
        ({"a": "pytorch_model-00003-of-00002.bin"}, ModelError),
        ({"a": 3}, FormatError),
        ({}, FormatError),
        ({"a": SHARDS[0], "b": "single.bin"}, FormatError),
    ],
)
def test_indexes_that_do_not_fit_are_refused(mapping: Any, error: Any, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "a")
    shutil.copy(FOLDER / "single.bin", folder / "single.bin")
    (folder / pickled.INDEX).write_text(json.dumps({"weight_map": mapping}))
    with pytest.raises(error):
        Checkpoint.open(folder)


def test_safetensors_come_first(tmp_path: Path) -> None:
    folder = safetensors(tmp_path / "a")
    (folder / pickled.SINGLE).write_bytes(b"nothing")
    assert not Checkpoint.open(folder).pickled
