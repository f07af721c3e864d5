"""llama.cpp's mtmd loads every tiny model with its projector and makes something of a picture or a sound.

That the projectors are those of llama.cpp's converter is what `test_family_goldens.py` shows. `scripts/compare_mtmd.py`
holds the outputs against those for the converter's files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from mtmd import prepared, stand_in
from test_family_goldens import WITH_PROJECTOR

GOLDENS = Path(__file__).parent / "data" / "families"
_COUNTED = "llama.cpp counts 187 tokens where it makes 188, with the file of its converter as well"
NOT_LOADED = {
    "ultravox-0.5": _COUNTED,
    "voxtral": _COUNTED,
    "qwen3-omni": "mtmd wants the same width from pictures and sounds, and pictures have further layers here",
    "gemma3n-vision-audio": "the case has no text half, and no other text half has its width",
}
SENSED = [
    (path, sense)
    for path in WITH_PROJECTOR
    if path.stem not in NOT_LOADED
    for sense in ("vision", "audio")
    if f"clip.has_{sense}_encoder" in json.loads(path.read_text(encoding="utf-8"))["mmproj"]["metadata"]
]


def model_of(golden: dict[str, Any], folder: Path) -> Path:
    """Return the file of the model."""
    source = prepared(golden, folder)
    return srd_rs.convert(
        source, folder / "model.gguf", quant="BF16", effort="fast", axm=False, mmproj=False
    ).output


def projector_of(golden: dict[str, Any], folder: Path) -> Path:
    """Return the file of the projector."""
    return srd_rs.convert(prepared(golden, folder), folder / "mmproj.gguf", mmproj_only=True).output


def seen(model: Path, projector: Path, *how: str) -> dict[str, Any]:
    program = Path(__file__).parent / "mtmd.py"
    run = subprocess.run([sys.executable, program, model, projector, *how], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize(("path", "sense"), SENSED, ids=[f"{path.stem}-{sense}" for path, sense in SENSED])
def test_a_picture_or_a_sound_is_encoded(path: Path, sense: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    golden = json.loads(path.read_text(encoding="utf-8"))
    projector = projector_of(golden, tmp_path / "projector")
    if (other := stand_in(golden)) is not None:
        golden = json.loads((GOLDENS / f"{other}.json").read_text())
    model = model_of(golden, tmp_path / "model")
    answer = seen(model, projector, sense)
    # A sound is filled up with silence, and the silent parts are equal.
    assert answer["finite"] and answer["different"] > answer["values"] / (2 if sense == "vision" else 20) > 0


@pytest.mark.parametrize("name", ["internvl3-vision", "phi4-vision", "qwen2.5-vl-vision"])
def test_the_server_of_xllamacpp_sees(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    golden = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    projector = projector_of(golden, tmp_path / "projector")
    tokens = seen(model_of(golden, tmp_path / "model"), projector, "server")
    assert tokens["with"] > tokens["without"]
