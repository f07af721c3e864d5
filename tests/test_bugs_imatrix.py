"""Importance matrices as people have them: of other models, of parts, in both formats, by the names of old files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import srd_rs
from srd_rs.errors import SrdError
from test_bugs_quantized import model

OUT, ATTENTION, UP = "output.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight"
EXPERTS = "blk.0.ffn_up_exps.weight"
Entries = dict[str, tuple[Any, Any]]


def whole() -> Entries:
    """Sums and counts of every matrix of the model."""
    random = np.random.default_rng(4)
    rows = {OUT: 1, ATTENTION: 1, UP: 1, EXPERTS: 4}
    return {
        name: (random.random((n, 256), np.float32) + 0.1, np.full((n, 1), 5, np.float32))
        for name, n in rows.items()
    }


def changed(name: str, sums: Any = None, counts: Any = None) -> Entries:
    """The whole, with other sums or counts of one matrix."""
    entries = whole()
    old = entries[name]
    entries[name] = (old[0] if sums is None else sums, old[1] if counts is None else counts)
    return entries


def one_value(name: str, value: float, *, count: bool = False) -> Entries:
    entries = whole()
    entries[name][count][0, 0] = value
    return entries


def without(*names: str) -> Entries:
    return {name: entry for name, entry in whole().items() if name not in names}


def by_expert(*experts: int) -> Entries:
    entries = without(EXPERTS)
    return entries | {f"blk.0.ffn_up.{i}.weight": (np.ones((1, 256)), np.full((1, 1), 5)) for i in experts}


def write_gguf(path: Path, entries: Entries, kind: type = np.float32) -> Path:
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    for name, (sums, counts) in entries.items():
        if sums is not None:
            writer.add_tensor(f"{name}.in_sum2", np.asarray(sums, kind))
        if counts is not None:
            writer.add_tensor(f"{name}.counts", np.asarray(counts, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dat(entries: Entries, *, number: int | None = None, calls: int = 5, tail: bytes | None = None) -> bytes:
    out = struct.pack("<i", len(entries) if number is None else number)
    for name, (sums, _) in entries.items():
        values = np.asarray(sums, np.float32)
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size)
        out += values.tobytes()
    return out + (struct.pack("<ii", 9, 1) + b"x" if tail is None else tail)


#: Name -> the file, and words of the warning or of the error; no words for a conversion without a warning.
TAKEN: dict[str, Entries | bytes] = {
    "whole": whole(),
    "whole, older format": dat(whole()),
    "before 2024, without the names of texts": dat(whole(), tail=b""),
    "more names than the model has": whole() | {"blk.9.attn_q.weight": whole()[UP]},
    "one count for all experts": changed(EXPERTS, counts=np.full((1, 1), 5)),
    "experts by their own names": by_expert(0, 1, 2, 3),
    "experts by their own names, older format": dat(by_expert(0, 1, 2, 3)),
    "very small and very large sums": changed(OUT, sums=np.geomspace(1e-30, 1e30, 256)[None]),
    "sums of zero": changed(OUT, sums=np.zeros((1, 256))),
}
WARNED: dict[str, tuple[Entries | bytes, str]] = {
    "an expert that saw no token": (
        changed(EXPERTS, counts=np.array([[5], [0], [5], [5]])),
        f"some experts of 1 tensors, whose inputs count the same: {EXPERTS} (1)",
    ),
    "a matrix that saw no token": (
        changed(OUT, counts=np.zeros((1, 1))),
        f"lacks 1 tensors, which are quantized without it: {OUT}",
    ),
    "an expert that the file leaves out": (by_expert(0, 1, 3), f"{EXPERTS} (1)"),
    "lacks one": (without(OUT), "lacks 1 tensors"),
    "lacks two, older format": (dat(without(OUT, UP)), "lacks 2 tensors"),
    "counts without sums": ({**without(OUT), OUT: (None, np.full((1, 1), 5))}, OUT),
}
NOT: dict[str, tuple[Entries | bytes, str]] = {
    "other model": ({f"x.{name}": entry for name, entry in whole().items()}, "names no tensor"),
    "other model, older format": (dat({"a": whole()[OUT]}), "names no tensor"),
    "other width": (changed(OUT, np.ones((1, 128)), np.full((1, 1), 5)), "128 values"),
    "experts of a dense matrix": (changed(OUT, np.ones((2, 256)), np.full((2, 1), 5)), OUT),
    "one row for four experts": (changed(EXPERTS, np.ones((1, 256)), np.full((1, 1), 5)), EXPERTS),
    "three of four experts": (changed(EXPERTS, np.ones((3, 256)), np.full((3, 1), 5)), EXPERTS),
    "NaN": (one_value(OUT, np.nan), OUT),
    "infinite": (one_value(OUT, np.inf), OUT),
    "negative": (one_value(OUT, -1.0), OUT),
    "a count of NaN": (one_value(OUT, np.nan, count=True), OUT),
    "a negative count": (one_value(OUT, -1.0, count=True), OUT),
    "sums without counts": ({**without(OUT), OUT: (whole()[OUT][0], None)}, "no counts"),
    "nothing": ({}, "no statistics"),
    "more entries than the file has": (dat(whole(), number=9), "ends before"),
    "fewer than none": (dat(whole(), number=-1), "negative number"),
    "fewer calls than none": (dat(whole(), calls=-1), "negative number"),
    "NaN, older format": (dat(one_value(OUT, np.nan)), "not finite"),
    "cut off": (dat(whole())[:5000], "ends before"),
    "empty": (b"", "too short"),
    "zeros": (bytes(4096), "no statistics"),
    "JSON": (b'{"a": 1}', "imatrix"),
}


def convert(folder: Path, file: Entries | bytes) -> Path:
    path = folder / "imatrix"
    if isinstance(file, bytes):
        path.write_bytes(file)
    else:
        write_gguf(path, file)
    source = model(folder / "m.gguf", {})
    return srd_rs.convert(source, folder / "o.gguf", imatrix=path, met=False, effort="fast").output


@pytest.mark.parametrize("name", [*TAKEN, *WARNED])
def test_an_imatrix_that_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    file, words = {**{key: (file, "") for key, file in TAKEN.items()}, **WARNED}[name]
    output = convert(tmp_path, file)
    lines = [line for line in caplog.messages if "imatrix" in line]
    assert len(lines) == bool(words) and words in "".join(lines)
    for tensor in gguf.GGUFReader(output).tensors:
        if tensor.tensor_type.name not in ("F32", "F16"):
            assert np.isfinite(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).all()


@pytest.mark.parametrize("name", NOT)
def test_an_imatrix_that_does_not_fit(tmp_path: Path, name: str) -> None:
    file, words = NOT[name]
    with pytest.raises(SrdError, match=words) as caught:
        convert(tmp_path, file)
    assert "\n" not in str(caught.value) and not (tmp_path / "o.gguf").exists()


@pytest.mark.parametrize("older", [False, True])
def test_the_names_of_experts_give_the_same_bytes(tmp_path: Path, older: bool) -> None:
    """An old file names each expert; a new one has them in one tensor."""
    ones = changed(EXPERTS, np.ones((4, 256)))
    found = []
    for place, file in (("new", ones), ("old", by_expert(0, 1, 2, 3))):
        folder = tmp_path / place
        folder.mkdir()
        output = convert(folder, dat(file) if older and place == "old" else file)
        found.append({t.name: t.data.tobytes() for t in gguf.GGUFReader(output).tensors})
    assert found[0] == found[1]
