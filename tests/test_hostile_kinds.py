"""Small files that are wrong in ways of their own, and arguments that are no text: one line each."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

import srd_rs
from axm_tools import key_file, tiny_model
from support import EXAMPLE, RATES, here, refused


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, a GGUF that was made of it, its container and a sidecar."""
    folder = tmp_path_factory.mktemp("hostile")
    tiny_model(folder / "m.gguf")
    key = key_file(folder)
    srd_rs.convert(folder / "m.gguf", folder / "o.gguf", quant="Q8_0", effort="fast", axm=True, key_file=key)
    return folder


def edited(source: Path, target: Path, **values: Any) -> Path:
    """A GGUF with other values of metadata. None takes a key out."""
    reader, names = gguf.GGUFReader(source), {key.replace("__", "."): key for key in values}
    writer = gguf.GGUFWriter(target, "llama")
    for found in reader.fields.values():
        if found.name.startswith("GGUF.") or found.name == "general.architecture" or found.name in names:
            continue
        sub = found.types[1] if found.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(found.name, found.contents(), found.types[0], sub)
    kinds = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32}
    for name, key in names.items():
        value = values[key]
        if isinstance(value, list):
            writer.add_array(name, value)
        elif value is not None:
            writer.add_key_value(name, value, kinds[type(value)])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


# What a GGUF says of its own conversion.

OPTIONS: list[object] = [
    *({"name": value} for value in (5, [], {}, True)),
    *({"split_max_size": value} for value in ("x", -1, 10**30, 0.5, True, [], "1")),
    *({"calibrate_tokens": value} for value in ("a", -5, 1.5, {})),
    *({"calibrate_block": value} for value in (1.5, "x", -1)),
    *({"residual_bits": value} for value in ("x", 99, -1, None)),
    *({"allow_nonfinite": value} for value in ("yes", 1, [], 0)),
    *({"allow_requantize": value} for value in ([], "no", 2)),
    *({"mtp": value} for value in ("x", 1, [])),
    *({"pre_tokenizer": value} for value in (7, [], "\0")),
    *({"srd": value} for value in (5, [], "x", None, {"x": 1})),
    *(
        {"srd": {"dither_layers": value}}
        for value in (5, [1], ["a", "b"], [0, 1, 2], [-1, 1], {}, "ab", [None, 1])
    ),
    *({"srd": {"beam_width": value}} for value in ("x", 10**9, -1, 1.5, [])),
    *({"srd": {"descent_rounds": value}} for value in (10**30, "x", -1)),
    *({"srd": {"dither": value}} for value in ("x", -1, [], 10**400)),
    *({"srd": {"feedback": value}} for value in ("x", 1, [])),
    *({name: 1} for name in ("seed", "quant", "threads", "", "lora", "key_file", "overwrite")),
    "",
    "[]",
    "{",
    "null",
    "5",
    "[" * 5000,
    '{"name":"a","name":"b"}',
    '{"name":1e999}',
    '{"name":"\\ud800"}',
]
KEYS: dict[str, list[object]] = {
    "srd__lora": [["a", "b"], "x", 5, ["a"] * 1000],
    "srd__seed": ["x", None, [1]],
    "srd__method": [5, "srd", "srd-max", "", "x", None],
    "srd__version": [5, "99.0", "", None],
    "srd__source__digest": [5, "sha256:" + "00" * 32, None],
    "srd__calibration__text": [7, "random", "builtin", "/etc/passwd", "x" * 100_000],
    "srd__calibration__digest": [7, "x"],
    "srd__axm__id": [7, "zz", "00" * 32, ["a"]],
    "quantize__imatrix__file": ["x", 5, "/dev/zero"],
    "general__file_type": ["x", 99, 2**32 - 1, None, 3],
    "general__name": [5, "other", ["a"], "\x1b[31m"],
}


@pytest.mark.parametrize("which", range(0, len(OPTIONS), 8))
def test_options_in_a_gguf_that_no_conversion_has(place: Path, tmp_path: Path, which: int) -> None:
    """`verify --rebuild` takes the options of the conversion from the GGUF, which can say anything."""
    for value in OPTIONS[which : which + 8]:
        text = value if isinstance(value, str) else json.dumps(value)
        # The writer of the package gguf leaves an empty text out.
        path = edited(place / "o.gguf", tmp_path / "o.gguf", srd__options=text or " ")
        refused("verify", "--rebuild", path, "--from", place / "m.gguf")


@pytest.mark.parametrize("key", KEYS)
def test_keys_in_a_gguf_that_no_conversion_writes(place: Path, tmp_path: Path, key: str) -> None:
    for value in KEYS[key]:
        path = edited(place / "o.gguf", tmp_path / "o.gguf", **{key: value})
        refused("verify", "--rebuild", path, "--from", place / "m.gguf")


# Reports, recipes and rates.

Change = Callable[[dict[str, Any]], object]


def score(**values: Any) -> Change:
    return lambda report: report["files"][0]["perplexity"].update(values)


REPORTS: dict[str, Change] = {
    "text": score(value="x"),
    "null": score(value=None),
    "huge": score(value=10**400),
    "list": score(value=[]),
    "an error of text": score(error="y"),
    "a huge error": score(error=-(10**400)),
    "no value": lambda r: r["files"][0]["perplexity"].pop("value"),
    "scores are a list": lambda r: r["files"][0].update(perplexity=[]),
    "scores are text": lambda r: r["files"][0].update(perplexity="x"),
    "path is a number": lambda r: r["files"][0].update(path=5),
    "no path": lambda r: r["files"][0].pop("path"),
    "another file": lambda r: r["files"][0].update(path="p.gguf"),
    "null byte": lambda r: r["files"][0].update(path="\0"),
    "files are a number": lambda r: r.update(files=5),
    "files are text": lambda r: r.update(files="abc"),
    "no files": lambda r: r.pop("files"),
    "files are none": lambda r: r.update(files=[]),
    "a file is null": lambda r: r.update(files=[None]),
    "text is a number": lambda r: r.update(text=5),
    "no text": lambda r: r.pop("text"),
    "no chunks": lambda r: r.pop("n_chunks"),
    "divergence is text": lambda r: r["files"][0].update(divergence="x"),
    "divergence is empty": lambda r: r["files"][0].update(divergence={}),
    "divergence of text": lambda r: r["files"][0].update(
        divergence={"kld": {"value": "a", "error": "b"}, "same_top": 3}
    ),
}


@pytest.mark.parametrize("command", ["card", "bom"])
def test_reports_that_are_none(place: Path, tmp_path: Path, command: str) -> None:
    good = {"path": "o.gguf", "perplexity": {"value": 1.0, "error": 0.1}, "divergence": None}
    base = {"files": [good], "n_chunks": 1, "text": "t"}
    path, out = tmp_path / "report.json", tmp_path / "out"
    path.write_text(json.dumps(base))
    assert here(command, place / "o.gguf", "--report", path, "-o", out)[0] == 0
    out.unlink()
    for change in REPORTS.values():
        report = copy.deepcopy(base)
        change(report)
        path.write_text(json.dumps(report))
        refused(command, place / "o.gguf", "--report", path, "-o", out)
        assert not out.exists()
    for other in (place / "o.gguf", Path("/dev/zero"), place / "none", place / "o.axm"):
        refused(command, place / "o.gguf", "--report", other, "-o", out)


RECIPES: list[dict[str, Any]] = [
    {"tensors": []},
    {"tensors": None},
    {"tensors": {"a": 5}},
    {"tensors": {"a": {"type": None}}},
    {"tensors": {"a": {}}},
    {"tensors": {"blk.0.attn_q.weight": "Q9_Z"}},
    {"tensors": {"blk.0.attn_q.weight": "I8"}},
    {"tensors": {"blk.0.attn_q.weight": ""}},
    {"tensors": {"output_norm.weight": "Q4_K"}},
    {"tensors": {"output_norm.weight": "F16"}},
    {"tensors": {"other": "Q4_K"}},
    {"tensors": {"\ud800": "Q4_K"}},
    {"tensors": {"blk.0.attn_q.weight": "\ud800"}},
    {"tensors": {"\x1b[31m": "Q4_K"}},
    {"mix": 5, "tensors": {}},
    {"mix": "XX", "tensors": {}},
    {"mix": None, "tensors": {}},
    {"format": "other", "tensors": {}},
    {},
]


def test_recipes_that_are_none(place: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "r.json", tmp_path / "x.gguf"
    convert = ("convert", place / "m.gguf", "--fast", "--no-met", "-o", out, "--recipe")
    for recipe in RECIPES:
        path.write_text(json.dumps({"format": "srd-rs recipe", **recipe}))
        assert refused(*convert, path)[0] == 2 and not out.exists(), recipe
    for other in (place / "m.gguf", Path("/dev/zero"), place, place / "none"):
        refused(*convert, other)
        assert not out.exists()


def test_rates_that_are_none(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    good = {**RATES, "search": {"Q4_K": 1e-8, "Q6_K": 1e-8}}
    plan = ("plan", place / "m.gguf", "--fast", "--rates", path)
    path.write_text(json.dumps(good))
    assert here(*plan)[0] == 0
    tried = 0
    for key in good:
        for value in (-1, None, "x", [], {}, 1e308, float("nan"), float("inf"), 10**400):
            if value == good[key] or (key in ("rows", "columns", "search") and value == {}):
                continue
            if key in ("block", "beam_width"):
                continue  # of no effect with effort fast
            path.write_text(json.dumps(good | {key: value}))
            refused(*plan)
            tried += 1
    for key in ("disk_read", "disk_write", "network", "threads"):
        path.write_text(json.dumps(good | {key: 0}))
        refused(*plan)
    assert tried > 80


# Arguments.

NO_TEXT = os.fsdecode(b"\xff\xfe")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            ("convert", EXAMPLE, "--fast", "--dry-run"),
            (
                "--name",
                "--tensor-type",
                "--token-embedding-type",
                "--calibrate",
                "--like",
                "--types",
                "-q",
                "--pre-tokenizer",
                "--seed",
                "--max-memory",
                "--target-size",
                "--effort",
            ),
        ),
        (("verify", "{axm}", "--key-file", "{key}"), ("--fingerprint", "--expect-name")),
        (
            ("extract", "{axm}", "--key-file", "{key}", "-o", "{out}"),
            ("--quant", "--alpha", "--tensor-type", "--expect-name"),
        ),
        (("hydrate", "{gguf}"), ("--intent", "--budget")),
        (("met", "{gguf}", "-o", "{out}"), ("--slots", "--fingerprint", "--for", "--ram")),
        (("card", "{gguf}", "-o", "{out}"), ("--base-model",)),
    ],
)
def test_options_that_are_no_text(
    place: Path, tmp_path: Path, command: tuple[object, ...], options: tuple[str, ...]
) -> None:
    names = {
        "axm": place / "o.axm",
        "gguf": place / "o.gguf",
        "key": place / "0001.key",
        "out": tmp_path / "out",
    }
    arguments = [str(word).format(**names) for word in command]
    for option in options:
        for text in (NO_TEXT, f"a{NO_TEXT}=Q4_K", "a\0b", "\0"):
            assert refused(*arguments, option, text)[0] == 2, (option, text)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_empty_or_no_names(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a script gives when a variable is not set."""
    monkeypatch.chdir(tmp_path)
    gguf_, axm, key = place / "o.gguf", place / "o.axm", place / "0001.key"
    for bad in ("", "a\0b"):
        for command in (
            ("convert", bad, "--fast"),
            ("convert", gguf_, "--allow-requantize", "--fast", "-o", bad),
            ("inspect", bad),
            ("verify", bad),
            ("verify", axm, "--key-file", key, "--attest", bad),
            ("extract", axm, "--key-file", key, "-o", bad),
            ("extract", bad),
            ("resign", axm, "-o", bad, "--old-key-file", key, "--key-file", key),
            ("met", bad),
            ("met", gguf_, "-o", bad),
            ("hydrate", bad),
            ("card", bad),
            ("modelfile", bad),
            ("bom", bad),
            ("pack", bad),
            ("calibrate", bad, "-o", "c"),
            ("calibrate", gguf_, "-o", bad),
            ("lora", bad),
            ("plan", bad),
            ("keygen", bad),
            ("sign", bad, "--oms-key", key),
            ("eval", bad, "-f", "t"),
            ("push", "a/b", bad),
        ):
            code, line = refused(*command)
            assert code in (1, 2), (command, line)
            assert list(tmp_path.iterdir()) == [], command


def test_a_secret_key_is_not_uploaded(place: Path, tmp_path: Path) -> None:
    srd_rs.keygen(tmp_path / "ed", ed25519=True)
    for path in (place / "0001.key", tmp_path / "ed"):
        assert "secret key" in refused("push", "org/name", place / "o.gguf", path)[1]
        assert "secret key" in refused("push", "org/name", place / "o.gguf", "--card", path)[1]


def test_a_card_names_the_container_of_its_gguf_alone(place: Path, tmp_path: Path) -> None:
    """A container that an earlier conversion left beside the GGUF is not published as that of the GGUF."""
    for name in ("o.gguf", "o.axm"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    assert "Fingerprint" in srd_rs.card(tmp_path / "o.gguf")
    tiny_model(tmp_path / "n.gguf", seed=1)
    srd_rs.pack(
        tmp_path / "n.gguf", tmp_path / "p.axm", quant="Q8_0", effort="fast", key_file=place / "0001.key"
    )
    (tmp_path / "p.axm").replace(tmp_path / "o.axm")
    assert "Fingerprint" not in srd_rs.card(tmp_path / "o.gguf")
