"""MiniCPM-V 2.5 to 4.5 and MiniCPM-o. llama.cpp's script for the projectors writes what
`scripts/make_minicpm_goldens.py` keeps; the text half is the model that the class holds."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srd_rs
from interpreter import run
from mtmd import prepared
from patterns import pattern
from srd_rs.errors import ModelError
from srd_rs.families import describe, projectors
from test_family_goldens import golden_of, metadata_of, opened

GOLDENS = Path(__file__).parent / "data" / "minicpm"
NAMES = sorted(path.stem for path in GOLDENS.glob("*.json"))
TEXT = {
    "minicpm-v-2.5": "LlamaForCausalLM",
    "minicpm-v-2.6": "Qwen2ForCausalLM",
    "minicpm-o-2.6": "Qwen2ForCausalLM",
    "minicpm-v-4": "LlamaForCausalLM",
    "minicpm-v-4.5": "Qwen3ForCausalLM",
    "minicpm-o-4.5": "Qwen3ForCausalLM",
}
POSITIONS = "resampler.pos_embed_k"


@pytest.mark.parametrize("name", NAMES)
def test_the_projector_is_that_of_the_script_of_llama_cpp(name: str, tmp_path: Path) -> None:
    golden = golden_of(GOLDENS, name)
    checkpoint = opened(golden, tmp_path)
    spec = projectors.describe(checkpoint)
    wanted = golden["mmproj"]
    said = {
        key: row
        for key, row in metadata_of(spec.metadata.entries()).items()
        if not key.startswith("general.")
    }
    assert said == {key: row for key, row in wanted["metadata"].items() if not key.startswith("general.")}
    found = {}
    for tensor in spec.tensors:
        values = run(dict(tensor.transform), lambda name: pattern(name, checkpoint.tensors[name].shape))
        kind = "F32" if tensor.store == "f32" or len(tensor.shape) < 2 else "F16"
        data = values.astype("<f4" if kind == "F32" else "<f2").tobytes()
        found[tensor.name] = [list(tensor.shape), kind, hashlib.sha256(data).hexdigest()[:16]]
    tensors = wanted["tensors"]
    assert found.pop(POSITIONS)[:2] == tensors.pop(POSITIONS)[:2]
    assert found == tensors


def test_the_positions_are_those_of_the_script_of_llama_cpp(tmp_path: Path) -> None:
    """But for the last bits of sines."""
    spec = projectors.describe(opened(golden_of(GOLDENS, "minicpm-v-2.6"), tmp_path))
    transform = next(dict(tensor.transform) for tensor in spec.tensors if tensor.name == POSITIONS)
    found = run(transform, None).reshape(70, 70, 128)
    frequencies = 1 / 10000 ** (np.arange(32) / 32)
    for row, column in ((0, 0), (3, 65), (69, 1)):
        angles = [column * frequencies, row * frequencies]
        wanted = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)])
        assert np.abs(found[row, column] - wanted).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_text_half_is_the_model_that_the_class_holds(name: str, tmp_path: Path) -> None:
    golden = golden_of(GOLDENS, name)
    found = describe(opened(golden, tmp_path))
    config = {key: value for key, value in golden["config"].items() if key != "vision_config"}
    inner = {
        **golden,
        "name": "inner",
        "config": {**config, "architectures": [TEXT[name]]},
        "sources": {
            source.removeprefix("llm."): row
            for source, row in golden["sources"].items()
            if source.startswith("llm.")
        },
    }
    wanted = describe(opened(inner, tmp_path))

    def metadata(spec: Any) -> dict[str, Any]:
        entries = metadata_of(spec.metadata.entries())
        return {key: row for key, row in entries.items() if not key.startswith("general.")}

    assert metadata(found) == metadata(wanted)
    assert found.arch == wanted.arch
    assert [(t.name, t.shape, t.store) for t in found.tensors] == [
        (t.name, t.shape, t.store) for t in wanted.tensors
    ]
    steps = [json.dumps(dict(tensor.transform)).replace("llm.", "") for tensor in found.tensors]
    assert steps == [json.dumps(dict(tensor.transform)) for tensor in wanted.tensors]


@pytest.mark.parametrize("name", ["minicpm-v-2.5", "minicpm-v-2.6", "minicpm-o-4.5"])
def test_mtmd_reads_the_projector(name: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    golden = golden_of(GOLDENS, name)
    folder = prepared(golden, tmp_path)
    model = srd_rs.convert(
        folder, tmp_path / "model.gguf", quant="BF16", effort="fast", axm=False, mmproj=False
    )
    projector = srd_rs.convert(folder, tmp_path / "mmproj.gguf", mmproj_only=True)
    command = [
        sys.executable,
        str(Path(__file__).parent / "mtmd.py"),
        str(model.output),
        str(projector.output),
    ]
    done = subprocess.run([*command, "vision"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["finite"] and answer["values"] % (golden["config"]["query_num"] * 128) == 0
    assert answer["different"] > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 9.0}, "does not know this version"),
        ({"drop_vision_last_layer": True}, "the last layer of the encoder"),
        ({"scale_emb": 12}, "the embeddings of the text model are scaled"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    golden = golden_of(GOLDENS, "minicpm-v-2.6")
    golden["config"] |= change
    with pytest.raises(ModelError, match=said):
        projectors.describe(opened(golden, tmp_path))
