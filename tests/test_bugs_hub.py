"""What repositories hold beside a model: a download converts to the bytes of the folder, or fails in the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_hub import Hub, serving
from support import srd
from test_family_goldens import TARGET, opened
from test_hub import bert

DATA = Path(__file__).parent / "data" / "families"


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


def indexed(folder: Path, name: str) -> None:
    """The weights under another name, which an index states."""
    from safetensors import safe_open

    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").rename(folder / name)
    with safe_open(folder / name, "np") as file:
        found = dict.fromkeys(file.keys(), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": found}))


def modules(folder: Path, **paths: str) -> None:
    """A list of modules of sentence-transformers: class -> folder."""
    kind = "sentence_transformers.models."
    listed = [{"idx": i, "path": paths[name], "type": kind + name} for i, name in enumerate(paths)]
    (folder / "modules.json").write_text(json.dumps(listed))


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
    "pooling of a free name": lambda folder: pooling(folder, "agg"),
    "pooling of a name with brackets": lambda folder: pooling(folder, "[x] *agg?"),
    "pooling in a deep folder": lambda folder: (
        (folder / "modules").mkdir(),
        pooling(folder, "modules/second"),
    ),
    "pooling outside": lambda folder: modules(folder, Pooling="../other"),
    "modules of nothing": lambda folder: text(folder, modules_dot_json="[1, {}, [], {'path': 5}]"),
    "an index of a variant": lambda folder: (
        weights(folder, "extra.safetensors"),
        indexed(folder, "model.bf16-00001-of-00001.safetensors"),
    ),
    "an index of a folder": lambda folder: indexed(folder, "weights/model-00001-of-00001.safetensors"),
    "an index of Mistral's name": lambda folder: (
        weights(folder, "extra.safetensors"),
        indexed(folder, "consolidated-00001-of-00001.safetensors"),
    ),
    "an index that leaves the folder": lambda folder: (
        weights(folder, "extra.safetensors"),
        indexed(folder, "sub/model.safetensors"),
        text(folder, model_dot_safetensors_dot_index_dot_json='{"weight_map": {"a": "../x.safetensors"}}'),
    ),
    "an index beside the whole": lambda folder: (
        weights(folder, "keep.safetensors"),
        indexed(folder, "part.safetensors"),
        (folder / "keep.safetensors").rename(folder / "model.safetensors"),
    ),
    "variant beside another name": lambda folder: (
        weights(folder, "weights.fp16.safetensors"),
        rename(folder, "weights.safetensors"),
    ),
    "variants beside parts without an index": lambda folder: (
        weights(folder, "model.fp16-00001-of-00002.safetensors", "model.int8.safetensors"),
        rename(folder, "model-00001-of-00001.safetensors"),
    ),
    "Mistral's name beside another name": lambda folder: (
        weights(folder, "consolidated.safetensors"),
        rename(folder, "weights.safetensors"),
    ),
    "a hidden file beside": lambda folder: (
        rename(folder, "weights.safetensors"),
        (folder / "._weights.safetensors").write_bytes(b"\0\5\x16\7"),
    ),
    "a hidden file beside pickles": lambda folder: (
        (folder / "model.safetensors").unlink(),
        (folder / "._model.safetensors").write_bytes(b"\0\5\x16\7"),
        text(folder, pytorch_model_dot_bin="no pickle"),
    ),
    "a name with spaces": lambda folder: rename(folder, "my model #1 100%.safetensors"),
    "a name with brackets": lambda folder: rename(folder, "model [v2].safetensors"),
    "a name in capitals": lambda folder: rename(folder, "model.SAFETENSORS"),
    "dense layers": lambda folder: modules(folder, Pooling="1_Pooling", Dense="2_Dense"),
}


#: What is converted, wherever the parts lie that the index names.
CONVERTED = ("an index of a variant", "an index of a folder", "an index of Mistral's name")


def outcome(model: str | Path, output: Path, folder: Path, env: dict[str, str], *more: str) -> bytes | str:
    """The bytes, or the message without the paths."""
    options = ("-q", "F32", "-o", output, "--no-met", "--name", "x", *more)
    run = srd("convert", "--fast", model, *options, env=env)
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
    assert isinstance(here, bytes) or name not in CONVERTED, here
    if isinstance(here, bytes):
        assert here == there, there
    else:
        assert isinstance(there, str) and (words(here) == words(there) or name in OTHER_WORDS), (here, there)
    clutter = ("onnx", "openvino", "original", "adapter_model", ".py", *(() if "alone" in name else VARIANTS))
    assert not [file for file in Hub.fetched if any(part in file for part in clutter)]


def words(said: str) -> list[str]:
    """A message without the name of the model."""
    return said.split(":")[2:]


#: What is refused in a folder by the names of files that are not downloaded, and so in other words.
OTHER_WORDS = ("adapter alone", "a hidden file beside pickles")
#: What has no weights to stream: pickles are downloaded.
NOT_STREAMED = (
    "adapter alone",
    "no weights",
    "pickle alone",
    "a hidden file beside pickles",
    "a name in capitals",
)


@pytest.mark.parametrize("name", CHANGES)
def test_stream_and_folder_are_one(local_hub: dict[str, str], tmp_path: Path, name: str) -> None:
    folder = bert(tmp_path / "bert")
    CHANGES[name](folder)
    here = outcome(folder, tmp_path / "here.gguf", folder, local_hub)
    Hub.folders["org/bert"] = folder
    there = outcome("org/bert", tmp_path / "there.gguf", folder, local_hub, "--stream")
    if name in NOT_STREAMED:
        assert isinstance(there, str) and "no safetensors files to stream" in there, there
    elif isinstance(here, bytes):
        assert here == there, there
    else:
        assert isinstance(there, str) and words(here) == words(there), (here, there)


#: Name -> the files that are left out beside weights of a free name.
LEFT_OUT = {
    "Mistral's name beside another name": "consolidated.safetensors",
    "variant beside another name": "weights.fp16.safetensors",
    "an adapter beside another name": "adapter_model.safetensors",
    "an index of a variant": "extra.safetensors",
    "Mistral's name beside": "",
}


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("way", ["folder", "download", "stream"])
def test_weights_that_are_left_out_are_named(
    local_hub: dict[str, str], tmp_path: Path, name: str, way: str
) -> None:
    folder = bert(tmp_path / "bert")
    if name == "an adapter beside another name":
        weights(folder, "adapter_model.safetensors")
        rename(folder, "weights.safetensors")
    else:
        CHANGES[name](folder)
    Hub.folders["org/bert"] = folder
    model: tuple[str | Path, ...] = (folder,) if way == "folder" else ("org/bert",)
    options = (*model, *(("--stream",) if way == "stream" else ()), "-q", "F32", "-o", tmp_path / "o.gguf")
    run = srd("convert", "--fast", *options, "--no-met", env=local_hub)
    said = f"1 other files are not read: {LEFT_OUT[name]}\n" if LEFT_OUT[name] else "are not read"
    assert run.code == 0 and run.stderr.count(said) == bool(LEFT_OUT[name]), run.stderr


def drafting(folder: Path) -> Path:
    """A draft whose embedding of the mask is a pickle beside the weights."""
    golden = json.loads((DATA / "dflash.json").read_text(encoding="utf-8"))
    opened(golden, folder)
    (folder / "dflash" / "mask_embedding.pt").write_bytes(b"no pickle")
    return folder / "dflash"


def with_dense_layers(folder: Path) -> Path:
    """An embedding model of LFM2 with a dense layer, without which its embeddings are others."""
    golden = json.loads((DATA / "lfm2-embedding.json").read_text(encoding="utf-8"))
    opened(golden, folder)
    model = folder / "lfm2-embedding"
    (model / "1_Dense").mkdir()
    (model / "1_Dense" / "config.json").write_text("{}")
    shutil.copy(model / "model.safetensors", model / "1_Dense" / "model.safetensors")
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [(drafting, "mask is a pickle"), (with_dense_layers, "1_Dense")],
    ids=["a draft", "dense layers"],
)
def test_what_is_refused_in_a_folder_is_refused_on_the_hub(
    local_hub: dict[str, str], tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    """The file that refuses the model is none that a conversion reads, so the download left it out."""
    (tmp_path / "made").mkdir()
    folder = make(tmp_path / "made")
    Hub.folders["org/refused"] = folder
    target = ("--target", folder / TARGET) if (folder / TARGET).is_dir() else ()
    for model in (folder, "org/refused"):
        run = srd("convert", "--fast", model, "--dry-run", *target, env=local_hub, cwd=tmp_path)
        assert run.code == 1 and words in run.stderr, (model, run.stderr)


def test_dense_layers_behind_a_model_are_named(local_hub: dict[str, str], tmp_path: Path) -> None:
    folder = bert(tmp_path / "bert")
    modules(folder, Pooling="1_Pooling", Dense="2_Dense")
    Hub.folders["org/dense"] = folder
    for model in (folder, "org/dense"):
        run = srd("convert", "--fast", model, "-q", "F32", "--dry-run", env=local_hub, cwd=tmp_path)
        assert run.code == 0 and "dense layers behind the model ('2_Dense')" in run.stderr, run.stderr


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
