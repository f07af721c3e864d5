"""Every reference checkpoint, converted and compared with what llama.cpp's own tools make of it.

The file is read by the `gguf` package, which knows nothing of this project. Where we differ from the
reference on purpose, `ACCEPTED` says so; docs/differences.md gives the reasons in full.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType

from gguf_reader import Reader
from support import FIXTURES, per_fixture, srd

#: fixture -> metadata keys whose value may differ. The reason of each is in docs/differences.md.
ACCEPTED: dict[str, set[str]] = {
    # tokenizer.json only: the reference writes -1000 for every score, and llama.cpp then merges in the wrong
    # order. We derive scores from the merges.
    "mistral": {"tokenizer.ggml.scores"},
    # tokenizer.json marks the tokens of the chat special, tokenizer_config.json does not name them: the reference
    # makes normal tokens of them, which llama.cpp does not find in a prompt.
    "gemma4_e2b": {"tokenizer.ggml.token_type"},
    "gemma4_moe": {"tokenizer.ggml.token_type"},
    "gemma4_moe_google": {"tokenizer.ggml.token_type"},
}
#: The reader's own fields, not keys of the file.
READER_FIELDS = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}


class Converted:
    """A converted fixture beside its `expected.json`."""

    def __init__(self, model: Path, quant: str, folder: Path) -> None:
        self.expected: dict[str, Any] = json.loads((model / "expected.json").read_text())
        self.path = folder / f"{model.name}-{quant}.gguf"
        options = ("-q", quant, "--no-provenance", "--no-axm", "--no-met")
        run = srd("convert", "--fast", model, "-o", self.path, *options)
        assert run.code == 0, run.stderr
        self.reader = Reader(self.path)
        self.keys = list(self.reader.fields)
        #: key -> (type as expected.json spells it, value), in file order.
        self.metadata: dict[str, tuple[str, Any]] = {
            key: (kind_of(field.types), field.contents())
            for key, field in self.reader.fields.items()
            if key not in READER_FIELDS
        }
        self.reader.fields.clear()  # it has an object for every token


def kind_of(types: list[GGUFValueType]) -> str:
    return types[0].name if types[0] != GGUFValueType.ARRAY else f"ARRAY[{types[-1].name}]"


made = cache(Converted)


@pytest.fixture(scope="module")
def convert(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(fixture, quant) -> `Converted`, each made once."""
    folder = tmp_path_factory.getbasetemp() / "fixtures"
    folder.mkdir(exist_ok=True)
    return lambda name, quant: made(fixtures / name, quant, folder)


def test_the_archive_holds_the_checkpoints_that_are_tested(fixtures: Path) -> None:
    assert sorted(p.parent.name for p in fixtures.glob("*/expected.json")) == sorted(FIXTURES)


def summary(value: Any) -> Any:
    """A value as expected.json has it: long arrays as length, digest and head."""
    if not isinstance(value, list) or len(value) <= 64:
        return value
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return {
        "len": len(value),
        "sha256_json": hashlib.sha256(text.encode()).hexdigest(),
        "head": value[:3],
    }


def comparable(value: Any) -> Any:
    """expected.json's long arrays without the digest of the raw bytes: the JSON digest implies it."""
    return {k: v for k, v in value.items() if k != "sha256_raw"} if isinstance(value, dict) else value


def check_metadata(
    found: dict[str, tuple[str, Any]], expected: dict[str, Any], name: str, quant: str
) -> None:
    accepted = ACCEPTED.get(name, set())
    wanted = expected["kv"] | (expected["kv_q4_k_m_diff"] if quant == "Q4_K_M" else {})
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        kind, ours = found[key]
        assert kind == expected["kv_types"][key], key
        if key not in accepted:
            assert summary(ours) == comparable(value), key


@per_fixture()
def test_bf16_metadata(name: str, convert: Any) -> None:
    made = convert(name, "BF16")
    check_metadata(made.metadata, made.expected, name, "BF16")


@per_fixture()
def test_bf16_tensors(name: str, convert: Any) -> None:
    made = convert(name, "BF16")
    found = {
        t.name: ([int(n) for n in t.shape], t.tensor_type.name, sha256(t.data)) for t in made.reader.tensors
    }
    wanted = {t["name"]: (t["shape"], t["type_bf16"], t["sha256"]) for t in made.expected["tensors"]}
    assert found == wanted


def sha256(data: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).view(np.uint8).data).hexdigest()


@pytest.mark.parametrize("quant", ["BF16", "Q4_K_M"])
@per_fixture()
def test_order(name: str, quant: str, convert: Any) -> None:
    """Keys and tensors stand in llama-quantize's order, in files that are not quantized as well."""
    made = convert(name, quant)
    assert list(made.metadata) == made.expected["kv_order_q4_k_m"]
    assert [t.name for t in made.reader.tensors] == made.expected["tensor_order_q4_k_m"]


@per_fixture()
def test_q4_k_m_metadata(name: str, convert: Any) -> None:
    made = convert(name, "Q4_K_M")
    check_metadata(made.metadata, made.expected, name, "Q4_K_M")


@per_fixture()
def test_q4_k_m_tensors(name: str, convert: Any) -> None:
    made = convert(name, "Q4_K_M")
    found = {t.name: ([int(n) for n in t.shape], t.tensor_type.name) for t in made.reader.tensors}
    wanted = {t["name"]: (t["shape"], t["type_q4km"]) for t in made.expected["tensors"]}
    assert found == wanted


@per_fixture()
def test_q4_k_m_plain_types_keep_their_bytes(name: str, convert: Any) -> None:
    """What the mix leaves in F32 or BF16 has one right answer, so its bytes are the reference's."""
    made = convert(name, "Q4_K_M")
    wanted = {
        t["name"]: t["sha256_q4km"] for t in made.expected["tensors"] if t["type_q4km"] in ("F32", "BF16")
    }
    found = {t.name: sha256(t.data) for t in made.reader.tensors if t.name in wanted}
    assert wanted and found == wanted


@pytest.mark.parametrize(("quant", "key"), [("BF16", "ref_full"), ("Q4_K_M", "ref_q4_k_m")])
@per_fixture()
def test_file_size(name: str, quant: str, key: str, convert: Any) -> None:
    made = convert(name, quant)
    assert made.path.stat().st_size == made.expected["file_size"][key]
    assert made.reader.data_offset == made.expected["data_offset"][key]


@per_fixture()
def test_dry_run_is_exact(name: str, fixtures: Path, convert: Any, tmp_path: Path) -> None:
    made = convert(name, "Q4_K_M")
    run = srd("convert", "--fast", fixtures / name, "--dry-run", "--no-provenance", "--json", cwd=tmp_path)
    assert run.code == 0, run.stderr
    assert run.json["total_bytes"] == made.path.stat().st_size
    planned = [(t["name"], t["shape"], t["type"], t["offset"], t["bytes"]) for t in run.json["tensors"]]
    written = [
        (t.name, [int(n) for n in t.shape], t.tensor_type.name, int(t.data_offset), int(t.n_bytes))
        for t in made.reader.tensors
    ]
    assert planned == written
    assert list(tmp_path.iterdir()) == []


@per_fixture()
def test_provenance_only_adds_keys(name: str, fixtures: Path, convert: Any, tmp_path: Path) -> None:
    """With provenance: the same file plus `srd.*` keys, larger by exactly what the header grew."""
    made = convert(name, "Q4_K_M")
    path = tmp_path / made.path.name
    run = srd("convert", "--fast", fixtures / name, "-o", path)
    assert run.code == 0, run.stderr
    reader = Reader(path)
    added = [key for key in reader.fields if key not in made.keys]
    assert added and all(key.startswith("srd.") for key in added)
    assert [key for key in reader.fields if key not in added] == made.keys
    grown = reader.data_offset - made.reader.data_offset
    assert path.stat().st_size == made.path.stat().st_size + grown
    assert path.read_bytes()[reader.data_offset :] == made.path.read_bytes()[made.reader.data_offset :]
