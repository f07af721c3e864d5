"""llama.cpp loads the BF16 file of each tiny checkpoint of `scripts/family_cases` and generates the 16 tokens (or, with
an encoder, the embedding) that it generates with the file of llama.cpp's own converter. The goldens hold both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generation import ENDLESS, SCALE, generated, with_vocabulary
from srd_rs.families import describe
from test_family_goldens import WITH_TEXT, converted, opened

CHUNK = 16
"""So many files are loaded by one process."""
WITH_TOKENS = [path for path in WITH_TEXT if '"generated": {' in path.read_text(encoding="utf-8")]
CHUNKS = [WITH_TOKENS[start : start + CHUNK] for start in range(0, len(WITH_TOKENS), CHUNK)]
BETTER = (
    "deepseek-v2-lite",
    "deepseek-v3-without-q-lora",
    "kimi-vl",
    "kimi-vl-vision",
    "modernbert-three-labels",
    "exaone-plain",
    "exaone-tied",
    "glm47-flash-plain-queries",
    "minicpm-v-4-6",
    "minicpm-v-4-6-vision",
    "minicpm-v-4-6-vision-4x",
    "mistral-own-7b",
    "mistral-own-small",
    "qwen1-as-published",
)
"""llama.cpp refuses the file of its own converter and loads that of srd-rs; docs/differences.md says why."""

OTHER = (
    "falcon-h1-without-norm",
    "glm47-flash",
    "hunyuan-dense-with-head",
    "laguna-m",
    "laguna-xs",
    "mistral4-tied-in-its-text",
    "pangu-embedded-tied",
    "youtu-with-head",
)
"""llama.cpp computes something else than the model with the file of its own converter; docs/differences.md says why."""


@pytest.mark.parametrize("paths", CHUNKS, ids=[f"{c[0].stem}..{c[-1].stem}" for c in CHUNKS])
def test_generates_as_the_reference(paths: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    goldens = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    goldens = [golden for golden in goldens if golden["generated"] != {"refused": ENDLESS}]
    jobs = []
    for golden in goldens:
        folder = tmp_path / "checkpoints"
        folder.mkdir(exist_ok=True)
        checkpoint = opened(golden, folder, SCALE)
        bare = tmp_path / f"{golden['name']}.bare.gguf"
        converted(checkpoint, describe(checkpoint), "BF16", bare)
        with_vocabulary(bare, tmp_path / f"{golden['name']}.gguf")
        jobs.append((tmp_path / f"{golden['name']}.gguf", golden["generated"]))
    wrong = {}
    for golden, found in zip(goldens, generated(jobs), strict=True):
        if golden["name"] in BETTER and "refused" in golden["generated"]:
            if not found.keys() & {"tokens", "embedding"}:
                wrong[golden["name"]] = found
        elif alike(found, golden["generated"]) == (golden["name"] in OTHER):
            wrong[golden["name"]] = {"found": found, "expected": golden["generated"]}
    assert not wrong


def alike(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """The same tokens, and nearly the same values: processors add up in other orders."""
    if found.keys() != expected.keys() or found.get("tokens") != expected.get("tokens"):
        return False
    if "refused" in expected:
        return found == expected
    key = "logits" if "tokens" in expected else "embedding"
    values = np.array(expected[key])
    return np.allclose(found[key], values, rtol=0, atol=2e-2 * np.abs(values).max())
