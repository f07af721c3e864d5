"""What repositories hold beside a model: a download converts to the bytes of the folder, or fails in the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_hub import Hub, serving
from support import srd
from test_hub import bert


@pytest.fixture
def local_hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: no download was tried")
    with serving(tmp_path / "hf", network=False) as env:
        yield env


def weights(folder: Path, *names: str) -> None:
    """Copies of the weights under other names."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "model.safetensors", folder / name)


def text(folder: Path, **files: str) -> None:
    for name, value in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(value)


def shards(folder: Path, *, listed: int = 1, there: int = 1) -> None:
    """The weights in one part, under an index that names `listed` parts, of which `there` parts are there."""
    from safetensors import safe_open

    first = f"model-00001-of-{listed:05}.safetensors"
    (folder / "model.safetensors").rename(folder / first)
    with safe_open(folder / first, "np") as file:
        found = dict.fromkeys(file.keys(), first)
    for part in range(2, listed + 1):
        found[f"more.{part}"] = f"model-{part:05}-of-{listed:05}.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": found}))
    assert there == 1


def pooling(folder: Path, name: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = name
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").rename(folder / name)


def rename(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)


VARIANTS = ("fp16", "bf16")
#: Name -> what is done to the folder of a small BERT.
CHANGES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda folder: None,
    "onnx": lambda folder: (
        weights(folder, "onnx/model.safetensors"),
        text(folder, onnx__model_dot_onnx="x"),
    ),
    "openvino": lambda folder: text(folder, openvino__openvino_model_dot_xml="x"),
    "variant beside": lambda folder: weights(folder, "model.fp16.safetensors"),
    "variant alone": lambda folder: rename(folder, "model.fp16.safetensors"),
    "variant in parts": lambda folder: weights(
        folder, "model.fp16-00001-of-00002.safetensors", "model-00001-of-00001.bf16.safetensors"
    ),
    "another folder of weights": lambda folder: weights(folder, "original/model.safetensors"),
    "another name beside": lambda folder: weights(folder, "ema.safetensors", "optimizer.safetensors"),
    "another name alone": lambda folder: rename(folder, "weights.safetensors"),
    "Mistral's name beside": lambda folder: weights(folder, "consolidated.safetensors"),
    "Mistral's name alone": lambda folder: rename(folder, "consolidated.safetensors"),
    "adapter beside": lambda folder: (
        weights(folder, "adapter_model.safetensors"),
        text(folder, adapter_config_dot_json='{"base_model_name_or_path": "x", "peft_type": "LORA"}'),
    ),
    "adapter alone": lambda folder: (
        rename(folder, "adapter_model.safetensors"),
        text(folder, adapter_config_dot_json='{"base_model_name_or_path": "x", "peft_type": "LORA"}'),
    ),
    "one part": lambda folder: shards(folder),
    "index with a part that is not there": lambda folder: shards(folder, listed=2),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "pickle beside": lambda folder: text(folder, pytorch_model_dot_bin="no pickle"),
    "pickle alone": lambda folder: (
        rename(folder, "x"),
        (folder / "x").unlink(),
        text(folder, pytorch_model_dot_bin="no pickle"),
    ),
    "code": lambda folder: text(folder, modeling_x_dot_py="raise SystemExit"),
    "pooling of another name": lambda folder: pooling(folder, "pooling"),
    "pooling of a subclass": lambda folder: pooling(folder, "1_WeightedMeanPooling"),
    "no pooling": lambda folder: shutil.rmtree(folder / "1_Pooling"),
    "card": lambda folder: text(folder, README_dot_md="---\nlicense: mit\n---\n# A model\n"),
    "no vocabulary": lambda folder: (folder / "vocab.txt").unlink(),
    "added tokens": lambda folder: text(folder, added_tokens_dot_json='{"[NEW]": 7}'),
}


def outcome(model: str | Path, output: Path, folder: Path, env: dict[str, str]) -> bytes | str:
    """The bytes, or the message without the paths."""
    run = srd("convert", "--fast", model, "-q", "F32", "-o", output, "--no-met", "--name", "x", env=env)
    if run.code == 0:
        return output.read_bytes()
    assert "Traceback" not in run.stderr and len(run.stderr.splitlines()) == 1, run.stderr
    words = run.stderr.replace(str(folder), "MODEL")
    snapshot = next(iter(Path(env["HF_HOME"]).rglob("snapshots/*")) if "HF_HOME" in env else iter(()), None)
    return words if snapshot is None else words.replace(str(snapshot), "MODEL")


@pytest.mark.parametrize("name", CHANGES)
def test_hub_and_folder_are_one(local_hub: dict[str, str], tmp_path: Path, name: str) -> None:
    folder = bert(tmp_path / "bert")
    CHANGES[name](folder)
    here = outcome(folder, tmp_path / "here.gguf", folder, local_hub)
    Hub.folders["org/bert"] = folder
    there = outcome("org/bert", tmp_path / "there.gguf", folder, local_hub)
    if isinstance(here, bytes):
        assert here == there, there
    else:
        assert isinstance(there, str) and here.split(":")[1:2] == there.split(":")[1:2], (here, there)
    clutter = ("onnx", "openvino", "original", "adapter_model", ".py", *(() if "alone" in name else VARIANTS))
    assert not [file for file in Hub.fetched if any(part in file for part in clutter)]


def test_mistrals_own_format_of_the_hub(local_hub: dict[str, str], tmp_path: Path) -> None:
    """The weights of that format are downloaded where there are no others, and only there."""
    folder = bert(tmp_path / "bert")
    weights(folder, "consolidated.safetensors")
    Hub.folders["org/both"] = folder
    outcome("org/both", tmp_path / "o.gguf", folder, local_hub)
    assert "consolidated.safetensors" not in Hub.fetched
    (folder / "model.safetensors").unlink()
    Hub.folders["org/own"] = folder
    outcome("org/own", tmp_path / "p.gguf", folder, local_hub)
    assert "consolidated.safetensors" in Hub.fetched
