"""Every recipe gives every tensor the type that llama-quantize gives it.

The goldens in data/recipes were made by llama-quantize itself (scripts/make_recipe_goldens.py). A plan of a GGUF with
the same tensors says what srd-rs chooses.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import srd_rs
from srd_rs import errors

ROOT = Path(__file__).parent.parent
#: With these mixes llama-quantize ignores the types that a user names; srd-rs follows them (tests/test_options.py).
PLAIN_MIXES = ("F16", "BF16", "F32")
GOLDENS = sorted((ROOT / "tests" / "data" / "recipes").glob("*.json"))


def write_gguf(case: dict[str, Any], path: Path) -> None:
    """A GGUF with the case's tensors [name, shape, type]. Its weights are a hole: a plan reads none."""
    facts = case["facts"]
    writer = gguf.GGUFWriter(path, facts["arch"])
    writer.add_block_count(facts["n_layer"])
    writer.add_expert_count(facts["n_expert"])
    writer.add_head_count(facts["n_head"])
    n_head_kv = facts["n_head_kv"]
    writer.add_head_count_kv(n_head_kv if len(n_head_kv) > 1 else n_head_kv[0])
    end = 0
    for name, ne, kind in case["tensors"]:
        ggml_type = gguf.GGMLQuantizationType[kind]
        size = math.prod(ne) * (4 if kind == "F32" else 2)
        writer.add_tensor_info(name, ne[::-1], np.dtype(np.float32), size, raw_dtype=ggml_type)
        end = writer.ggml_pad(end + size, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        header = writer.ggml_pad(file.tell(), writer.data_alignment)
        file.truncate(header + end)


def write_imatrix(case: dict[str, Any], path: Path) -> Path:
    """An imatrix in llama.cpp's older format that knows one matrix."""
    name, columns = next((name, ne[0]) for name, ne, _ in case["tensors"] if "attn_output.weight" in name)
    values = np.ones(columns, "<f4").tobytes()
    entry = struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, columns) + values
    path.write_bytes(struct.pack("<i", 1) + entry + struct.pack("<ii", 1, 4) + b"none")
    return path


def assign(case: dict[str, Any], folder: Path) -> tuple[list[str], list[str]]:
    """The names in the order of the file and their types: of a case with `recipe`, `facts`, `overrides`, `tensors`."""
    model, imatrix = folder / "model.gguf", None
    write_gguf(case, model)
    if case.get("imatrix"):
        imatrix = write_imatrix(case, folder / "imatrix.dat")
    asked = case["overrides"]
    names = [name for name, _, _ in case["tensors"]]
    # srd-rs refuses options without effect, which llama-quantize ignores: without them the types must be the same.
    patterns = [
        rule
        for rule in asked.get("tensor_type", [])
        if any(re.search(rule.rsplit("=", 1)[0], name) for name in names)
    ]

    def planned(patterns: list[str], *, pure: bool) -> srd_rs.Plan:
        return srd_rs.plan(
            model,
            folder / "out.gguf",
            quant=case["recipe"],
            tensor_types=patterns,
            token_embedding_type=asked.get("token_embedding"),
            output_tensor_type=asked.get("output_tensor"),
            pure=pure,
            effort="fast",
            imatrix=imatrix,
        )

    pure = asked.get("pure", False)
    while True:
        try:
            plan = planned(patterns, pure=pure)
            break
        except errors.UsageError as error:
            refused = re.search(r"the expression '(.*)' decides the type of no tensor", str(error))
            assert refused or "--pure: the option has no effect" in str(error)
            pure = pure and refused is not None
            patterns = [rule for rule in patterns if refused is None or not rule.startswith(f"{refused[1]}=")]
    return [t.name for t in plan.tensors], [t.type for t in plan.tensors]


def differences(names: list[str], ours: list[str], theirs: list[str]) -> list[str]:
    assert len(names) == len(ours) == len(theirs)
    return [f"{n}: {a}, not {b}" for n, a, b in zip(names, ours, theirs, strict=True) if a != b]


def test_the_goldens_are_there() -> None:
    assert len(GOLDENS) >= 25


@pytest.mark.parametrize("path", GOLDENS, ids=lambda p: p.stem)
def test_types_and_order_are_those_of_llama_quantize(path: Path, tmp_path: Path) -> None:
    golden = json.loads(path.read_text())
    for case in golden["cases"]:
        if case["recipe"] in PLAIN_MIXES and "tensor_type" in case["overrides"]:
            continue
        what = f"{case['recipe']} {case['overrides']}"
        asked = case | {"facts": golden["facts"], "tensors": golden["tensors"][::-1]}
        names, types = assign(asked, tmp_path)
        assert names == golden["order"], what
        theirs = [golden["letters"][letter] for letter in case["types"]]
        assert not differences(golden["order"], types, theirs), what


def test_the_fixtures_get_their_q4_k_m_types(fixtures: Path, tmp_path: Path) -> None:
    paths = sorted(fixtures.glob("*/expected.json"))
    assert paths
    for path in paths:
        expected = json.loads(path.read_text())
        names, types = assign(q4_k_m_case(expected), tmp_path)
        assert names == expected["tensor_order_q4_k_m"], expected["fixture"]
        theirs = {t["name"]: t["type_q4km"] for t in expected["tensors"]}
        assert dict(zip(names, types, strict=True)) == theirs, expected["fixture"]


def q4_k_m_case(expected: dict[str, Any]) -> dict[str, Any]:
    kv, arch = expected["kv"], expected["gguf_arch"]
    n_head_kv = kv[f"{arch}.attention.head_count_kv"]
    facts = {
        "arch": arch,
        "n_layer": kv[f"{arch}.block_count"],
        "n_expert": kv.get(f"{arch}.expert_count", 0),
        "n_head": kv[f"{arch}.attention.head_count"],
        "n_head_kv": n_head_kv if isinstance(n_head_kv, list) else [n_head_kv],
    }
    tensors = [(t["name"], t["shape"], t["type_bf16"]) for t in expected["tensors"]]
    return {"recipe": "Q4_K_M", "facts": facts, "overrides": {}, "tensors": tensors}
