"""Split GGUFs as unlucky days leave them: every reader reads all parts, or says which part is wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import srd_rs
from axm_tools import tiny_model
from support import here, refused

VALUES = gguf.GGUFValueType
SPLIT = {"split.no": VALUES.UINT16, "split.count": VALUES.UINT16, "split.tensors.count": VALUES.INT32}
Parts = list[Path]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The tiny model in three parts or more, and beside it the whole."""
    folder = tmp_path_factory.mktemp("split")
    tiny_model(folder / "tiny.gguf")
    srd_rs.convert(folder / "tiny.gguf", folder / "whole.gguf", quant="F16", effort="fast", met=False)
    srd_rs.convert(
        folder / "tiny.gguf", folder / "m.gguf", quant="F16", effort="fast", met=False, split_max_size=160_000
    )
    parts = sorted(folder.glob("m-*.gguf"))
    assert len(parts) == 3
    return parts


@pytest.fixture
def parts(split: Parts, tmp_path: Path) -> Parts:
    (tmp_path / "in").mkdir()
    return [Path(shutil.copy(part, tmp_path / "in")) for part in split]


def edited(path: Path, *, without: tuple[str, ...] = (), twice: Path | None = None, **values: Any) -> None:
    """Write a part again with other keys (``split_no=``), without some keys, or with a tensor of another part."""
    reader = gguf.GGUFReader(path)
    target = path.with_name("new")
    writer = gguf.GGUFWriter(target, "llama")
    changed = {key.replace("_", "."): value for key, value in values.items()}
    for found in reader.fields.values():
        key = found.name
        if not key.startswith("GGUF.") and key not in (*without, *changed, "general.architecture"):
            sub = found.types[1] if found.types[0] == VALUES.ARRAY else None
            writer.add_key_value(key, found.contents(), found.types[0], sub)
    for key, value in changed.items():
        kind = VALUES.STRING if isinstance(value, str) else VALUES.INT64 if value < 0 else VALUES.UINT32
        writer.add_key_value(key, value, kind)
    extra = gguf.GGUFReader(twice).tensors[:1] if twice is not None else []
    for tensor in (*reader.tensors, *extra):
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target.replace(path)


def moved(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def swapped(a: Path, b: Path) -> None:
    a.rename(a.with_name("t"))
    b.rename(a)
    a.with_name("t").rename(b)


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


#: What happened to the three parts -> how.
UNLUCKY: dict[str, Callable[[Parts], object]] = {
    "the first is missing": lambda p: p[0].unlink(),
    "the second is missing": lambda p: p[1].unlink(),
    "the last is missing": lambda p: p[2].unlink(),
    "only the first is there": lambda p: (p[1].unlink(), p[2].unlink()),
    "the first has another name": lambda p: moved(p[0], "model.gguf"),
    "the second has another name": lambda p: moved(p[1], "other-00002-of-00003.gguf"),
    "a browser renamed the last": lambda p: moved(p[2], "m-00003-of-00003(1).gguf"),
    "still being downloaded": lambda p: moved(p[1], p[1].name + ".part"),
    "numbers without zeros": lambda p: moved(p[1], "m-2-of-3.gguf"),
    "counted from 0": lambda p: [moved(part, f"m-{i:05}-of-00003.gguf") for i, part in enumerate(p)],
    "all named 2 of 3": lambda p: (shutil.copy(p[1], p[0]), shutil.copy(p[1], p[2])),
    "two changed places": lambda p: swapped(p[0], p[1]),
    "two others changed places": lambda p: swapped(p[1], p[2]),
    "the first stands twice": lambda p: shutil.copy(p[0], p[1]),
    "the second stands twice": lambda p: shutil.copy(p[1], p[2]),
    "another count in one": lambda p: edited(p[1], split_count=2),
    "another count in the first": lambda p: edited(p[0], split_count=4),
    "a count of text": lambda p: edited(p[0], split_count="3"),
    "a number of text": lambda p: edited(p[1], split_no="1"),
    "a count below zero": lambda p: edited(p[0], split_count=-3),
    "a huge count": lambda p: edited(p[0], split_count=2**32 - 1),
    "another number": lambda p: edited(p[1], split_no=2),
    "a count of zero": lambda p: edited(p[0], split_count=0),
    "a count of one": lambda p: edited(p[0], split_count=1),
    "one has lost its count": lambda p: edited(p[1], without=("split.count",)),
    "the first has lost its count": lambda p: edited(p[0], without=("split.count",)),
    "the first has lost all of it": lambda p: edited(p[0], without=tuple(SPLIT)),
    "one has lost all of it": lambda p: edited(p[2], without=tuple(SPLIT)),
    "all have lost it": lambda p: [edited(part, without=tuple(SPLIT)) for part in p],
    "a tensor stands in two": lambda p: edited(p[1], twice=p[2]),
    "too many tensors stated": lambda p: [edited(part, split_tensors_count=99) for part in p],
    "too few tensors stated": lambda p: [edited(part, split_tensors_count=1) for part in p],
    "one is empty": lambda p: p[1].write_bytes(b""),
    "one is cut off": lambda p: cut(p[1]),
    "one is zeros": lambda p: p[1].write_bytes(bytes(p[1].stat().st_size)),
    "one is a page": lambda p: p[1].write_bytes(b"<!DOCTYPE html><html>404</html>"),
    "one is a pointer": lambda p: p[1].write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    ),
    "one is a pipe": lambda p: replaced(p[1], os.mkfifo),
    "one is a folder": lambda p: replaced(p[1], Path.mkdir),
    "one is a device": lambda p: replaced(p[1], lambda path: path.symlink_to("/dev/zero")),
    "one is a dangling link": lambda p: replaced(p[1], lambda path: path.symlink_to("nowhere")),
    "one is a circle": lambda p: replaced(p[1], lambda path: path.symlink_to(path.name)),
    "one is the whole model": lambda p: shutil.copy(p[0].parents[1] / "whole.gguf", p[1]),
    "one is of another split": lambda p: shutil.copy(p[0].parents[1] / "other.gguf", p[1]),
}


@pytest.mark.parametrize("name", UNLUCKY)
def test_parts_that_do_not_fit_are_refused(split: Parts, parts: Parts, tmp_path: Path, name: str) -> None:
    shutil.copy(split[0].with_name("whole.gguf"), tmp_path / "whole.gguf")
    if "another split" in name:
        srd_rs.convert(
            tmp_path / "whole.gguf",
            tmp_path / "q.gguf",
            quant="F32",
            met=False,
            split_max_size=150_000,
            effort="fast",
        )
        shutil.copy(sorted(tmp_path.glob("q-*.gguf"))[1], tmp_path / "other.gguf")
    UNLUCKY[name](parts)
    out = tmp_path / "out"
    for path in sorted(parts[0].parent.iterdir()):
        # What has lost its keys and its neighbours is a GGUF of its own, which lacks tensors: see the next test.
        for command in (
            ("convert", path, "--fast", "--no-met", "-o", out),
            ("convert", path, "--fast", "--no-met", "-o", out, "-q", "BF16", "--dry-run"),
            ("pack", path, "--fast", "-o", out, "--key-file", "none"),
            ("inspect", path, "--tensors"),
            ("met", path, "-o", out),
            ("hydrate", path, "--intent", "INFORM"),
            ("calibrate", path, "--text", "random", "--tokens", "32", "-o", out),
            ("bom", path, "-o", out),
            ("card", path, "-o", out),
        ):
            code, line = refused(*command)
            assert code in (1, 2), (command, line)
            assert not out.exists(), command


def tensors(path: Path) -> dict[str, bytes]:
    return {t.name: np.array(t.data).tobytes() for t in gguf.GGUFReader(path).tensors}


#: What happened to the parts that makes no difference.
HARMLESS: dict[str, Callable[[Parts], object]] = {
    "nothing": lambda p: None,
    "a part of a larger split lies beside": lambda p: shutil.copy(
        p[2], p[2].with_name("m-00004-of-00004.gguf")
    ),
    "others lie beside": lambda p: shutil.copy(p[1], p[1].with_name("n-00002-of-00003.gguf")),
    "all are links": lambda p: [
        (moved(part, f"real-{part.name}"), part.symlink_to(f"real-{part.name}")) for part in p
    ],
    "all have another stem": lambda p: [
        moved(part, part.name.replace("m-", "a-00001-of-00002-")) for part in p
    ],
    "kinds of numbers": lambda p: [edited(part, split_no=i, split_count=3) for i, part in enumerate(p)],
    "no number of tensors": lambda p: [edited(part, without=("split.tensors.count",)) for part in p],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_every_part_names_the_whole(split: Parts, parts: Parts, tmp_path: Path, name: str) -> None:
    folder = parts[0].parent
    HARMLESS[name](parts)
    srd_rs.convert(
        split[0].with_name("whole.gguf"), tmp_path / "w.gguf", met=False, effort="fast", quant="Q8_0"
    )
    right = tensors(tmp_path / "w.gguf")
    named = [path for path in sorted(folder.iterdir()) if path.name.endswith("-of-00003.gguf")]
    for path in named:
        if path.name.startswith(("n-", "real-")):
            continue
        srd_rs.convert(path, tmp_path / "o.gguf", met=False, effort="fast", quant="Q8_0", overwrite=True)
        assert tensors(tmp_path / "o.gguf") == right
        assert not any(key.startswith("split.") for key in gguf.GGUFReader(tmp_path / "o.gguf").fields)
        code, shown, _ = here("inspect", path, "--json")
        assert code == 0 and str(len(right)) in shown
