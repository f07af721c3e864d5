"""Every recipe gives every tensor the type that llama-quantize gives it.

The goldens in data/recipes were made by llama-quantize itself (scripts/make_recipe_goldens.py). The recipes
are run by examples/recipe_cli.rs.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
GOLDENS = sorted((ROOT / "tests" / "data" / "recipes").glob("*.json"))


def assign(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs the recipes on the cases; see examples/recipe_cli.rs for their form."""
    command = ["cargo", "run", "--quiet", "--example", "recipe_cli"]
    run = subprocess.run(
        command, cwd=ROOT, input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    answers: list[dict[str, Any]] = json.loads(run.stdout)
    return answers


def differences(names: list[str], ours: list[str], theirs: list[str]) -> list[str]:
    assert len(names) == len(ours) == len(theirs)
    return [f"{n}: {a}, not {b}" for n, a, b in zip(names, ours, theirs, strict=True) if a != b]


def test_the_goldens_are_there() -> None:
    assert len(GOLDENS) >= 25


@pytest.mark.parametrize("path", GOLDENS, ids=lambda p: p.stem)
def test_types_and_order_are_those_of_llama_quantize(path: Path) -> None:
    golden = json.loads(path.read_text())
    cases = [
        {
            "recipe": case["recipe"],
            "facts": golden["facts"],
            "overrides": case["overrides"],
            "tensors": golden["tensors"][::-1],
        }
        for case in golden["cases"]
    ]
    for case, answer in zip(golden["cases"], assign(cases), strict=True):
        what = f"{case['recipe']} {case['overrides']}"
        assert "error" not in answer, f"{what}: {answer}"
        assert answer["names"] == golden["order"], what
        theirs = [golden["letters"][letter] for letter in case["types"]]
        assert not differences(golden["order"], answer["types"], theirs), what


def test_the_fixtures_get_their_q4_k_m_types(fixtures: Path) -> None:
    paths = sorted(fixtures.glob("*/expected.json"))
    assert paths
    expected = [json.loads(path.read_text()) for path in paths]
    for e, answer in zip(expected, assign([q4_k_m_case(e) for e in expected]), strict=True):
        assert answer["names"] == e["tensor_order_q4_k_m"], e["fixture"]
        theirs = {t["name"]: t["type_q4km"] for t in e["tensors"]}
        ours = dict(zip(answer["names"], answer["types"], strict=True))
        assert ours == theirs, e["fixture"]


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
    return {"recipe": "Q4_K_M", "facts": facts, "tensors": tensors}
