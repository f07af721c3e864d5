"""The bytes that each block format and whole conversions give are pinned, on every vector path of this CPU.

scripts/make_golden_bytes.py makes the digests in tests/data/golden_bytes.json, and says what they are of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from srd_rs import _core
from support import REPO

SCRIPT = REPO / "scripts" / "make_golden_bytes.py"
GOLDENS = json.loads((Path(__file__).parent / "data" / "golden_bytes.json").read_text())
#: The widest instruction set of this CPU is "native"; a narrower one is a path of its own only where there is a wider.
NARROWER = _core.instruction_sets()[:-1]
#: Variables that hold srd-rs back to a narrower vector path, the whole conversions that are made on the path, and how
#: rows are given to workers. The plain code is an order of magnitude slower: its SRD feedback is held by `blocks`. Rows
#: are cut by the same code for every path, which the faster ones hold.
PATHS: dict[str, tuple[dict[str, str], str, str]] = {
    "native": ({}, "fast,srd", "whole,cut"),
    "avx2": ({"SRD_MAX_ISA": "avx2"}, "fast,srd", "whole,cut"),
    "portable": ({"SRD_FORCE_SCALAR": "1"}, "fast", "whole"),
}
PARAMS = [
    pytest.param(
        path,
        marks=[
            pytest.mark.xdist_group(f"golden {path}"),
            pytest.mark.skipif(
                path != "native" and path not in NARROWER,
                reason=f"{path} is no narrower path than the native one of this CPU: it was not tested by itself",
            ),
        ],
    )
    for path in PATHS
]


@pytest.fixture(scope="module", params=PARAMS)
def found(request: pytest.FixtureRequest) -> Any:
    return digests(request.param)


@cache
def digests(path: str) -> Any:
    """The digests of this build, made in a process of its own: the vector path is chosen once in a process."""
    clean = {k: v for k, v in os.environ.items() if k not in ("SRD_MAX_ISA", "SRD_FORCE_SCALAR")}
    variables, efforts, rows = PATHS[path]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--efforts", efforts, "--rows", rows],
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sorted(result["conversions"]) == efforts.split(",")
    assert {key.rpartition("/")[2] for key in result["blocks"]} == {*rows.split(",")}
    return result


def differing(found: dict[str, Any], golden: dict[str, Any]) -> list[str]:
    return [key for key in sorted(found.keys() | golden.keys()) if found.get(key) != golden.get(key)]


@pytest.mark.parametrize("part", ["blocks", "moments", "residuals"])
def test_the_bytes_of_each_type_are_the_golden_ones(found: Any, part: str) -> None:
    # A path that is given whole rows alone has no digests of cut ones.
    rows = {key.rpartition("/")[2] for key in found["blocks"]}
    golden = {
        key: value
        for key, value in GOLDENS[part].items()
        if part != "blocks" or key.rpartition("/")[2] in rows
    }
    assert differing(found[part], golden) == []


def test_whole_conversions_are_the_golden_ones(found: Any) -> None:
    golden = {effort: GOLDENS["conversions"][effort] for effort in found["conversions"]}
    assert differing(found["conversions"], golden) == []


def test_every_type_that_can_be_written_is_pinned() -> None:
    """A new block format appears in the goldens, or this test fails."""
    written = {key.split("/")[0] for key in GOLDENS["blocks"]}
    assert written == {*_core.quantizable_types()} - {"F32"}


def test_cut_rows_give_the_bytes_of_whole_rows() -> None:
    """How much memory and how many threads a conversion has is not seen in its bytes."""
    blocks = GOLDENS["blocks"]
    assert any(key.endswith("/cut") for key in blocks)
    assert [key for key in blocks if blocks[key] != blocks[key.rpartition("/")[0] + "/whole"]] == []
