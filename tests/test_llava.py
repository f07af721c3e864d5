"""The projectors of LLaVA 1.5 and 1.6 and of Granite Vision 3, which llama.cpp's converter does not write: mtmd
computes with them what transformers computes. `scripts/make_llava_goldens.py` keeps what that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import srd_rs
from mtmd import prepared
from srd_rs.errors import ModelError
from srd_rs.families import projectors
from test_family_goldens import golden_of, opened

GOLDENS = Path(__file__).parent / "data" / "llava"
NAMES = sorted(path.stem for path in GOLDENS.glob("*.json"))
_SHOWN = (
    "import mtmd, sys, numpy; mtmd.WIDTH = mtmd.HEIGHT = 56;"
    " numpy.save(sys.argv[3], mtmd.encoded(sys.argv[1], sys.argv[2], 'vision'))"
)


@pytest.mark.parametrize("name", NAMES)
def test_mtmd_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    golden = golden_of(GOLDENS, name)
    folder = prepared(golden, tmp_path)
    model = srd_rs.convert(
        folder, tmp_path / "model.gguf", quant="BF16", effort="fast", axm=False, mmproj=False
    )
    projector = srd_rs.convert(folder, tmp_path / "mmproj.gguf", mmproj_only=True, mmproj_type="F32")
    saved = tmp_path / "outputs.npy"
    command = [sys.executable, "-c", _SHOWN, str(model.output), str(projector.output), str(saved)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert run.returncode == 0, run.stderr[-2000:]
    wanted = np.array(golden["outputs"], np.float32)
    found = np.load(saved)[: wanted.size]
    assert found.size == wanted.size and np.ptp(wanted) > 0
    assert np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_the_metadata_is_that_of_the_scripts_of_llama_cpp(tmp_path: Path) -> None:
    golden = golden_of(GOLDENS, "granite-3-vision")
    spec = projectors.describe(opened(golden, tmp_path))
    said = {key.removeprefix("clip."): value for key, _, value in spec.metadata.entries()}
    assert (said["projector_type"], said["use_gelu"], said["vision.block_count"]) == ("mlp", True, 4)
    assert said["vision.feature_layer"] == [2, 4]
    assert said["vision.image_grid_pinpoints"] == [112, 56, 56, 112, 112, 112]
    names = {tensor.name for tensor in spec.tensors}
    assert {"v.image_newline", "mm.0.weight", "mm.2.bias"} <= names and "v.post_ln.weight" not in names


def test_the_last_layers_of_clip_are_left_out(tmp_path: Path) -> None:
    spec = projectors.describe(opened(golden_of(GOLDENS, "llava-1.5"), tmp_path))
    assert spec.metadata.get("clip.use_gelu") is False  # quick_gelu
    assert spec.metadata.get("clip.vision.feature_layer") == [3]
    layers = {name.name.split(".")[2] for name in spec.tensors if name.name.startswith("v.blk.")}
    assert layers == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_feature_select_strategy": "full"}, "the output for the class"),
        ({"vision_feature_layer": 5}, "a layer that the encoder lacks"),
        ({"projector_hidden_act": "relu"}, "the activation of the projector"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    golden = golden_of(GOLDENS, "llava-1.5")
    golden["config"] |= change
    with pytest.raises(ModelError, match=said):
        projectors.describe(opened(golden, tmp_path))


def test_published_names(tmp_path: Path) -> None:
    """Older files have `vision_model.` in the names of the encoder."""
    golden = golden_of(GOLDENS, "llava-1.5")
    expected = projectors.describe(opened(golden, tmp_path))
    prefix = "vision_tower."
    golden["sources"] = {
        name.replace(prefix, f"{prefix}vision_model.", 1): source
        for name, source in golden["sources"].items()
    }
    golden["name"] = "published"
    found = projectors.describe(opened(golden, tmp_path))
    assert {t.name: t.shape for t in found.tensors} == {t.name: t.shape for t in expected.tensors}


def test_the_text_half_of_granite_vision(tmp_path: Path) -> None:
    folder = prepared(golden_of(GOLDENS, "granite-3-vision"), tmp_path)
    report = srd_rs.convert(folder, tmp_path / "m.gguf", quant="F16", effort="fast", axm=False, mmproj=False)
    assert gguf.GGUFReader(report.output).fields["general.architecture"].contents() == "granite"
