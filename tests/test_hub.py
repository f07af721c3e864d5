"""A model from the hub is converted as the same folder is: through a hub of our own, on this machine."""

from __future__ import annotations

import base64
import json
import re
import shutil
import struct
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from local_hub import COMMIT, Hub, serving
from srd_rs import hub
from support import EXAMPLE, srd


@pytest.fixture
def local_hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a run that uses the hub."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: no download was tried")
    with serving(tmp_path / "hf", network=False) as env:
        yield env


def add_clutter(folder: Path) -> None:
    """What a repository also has, and a conversion never reads."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + b"\0" * 4
    for name in (
        "adapter_model.safetensors",
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "onnx/model.safetensors",
        "pytorch_model.bin",
        "modeling_custom.py",
        "1_Pooling/other.bin",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(weights)


CLUTTER = ("adapter", "consolidated", "fp16", ".bin", ".py", "onnx")


def converted(model: str | Path, output: Path, env: dict[str, str]) -> bytes:
    run = srd("convert", "--fast", model, "-q", "BF16", "-o", output, "--no-axm", "--no-met", env=env)
    assert run.code == 0, run.stderr
    return output.read_bytes()


def test_a_download_gives_the_bytes_of_the_folder(local_hub: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLE, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    here = converted(folder, tmp_path / "here.gguf", local_hub)
    add_clutter(folder)
    Hub.folders["org/model"] = folder
    there = converted("org/model", tmp_path / "there.gguf", local_hub)
    assert here == there
    assert b"tokenizer.chat_template.tool_use" in there
    assert not [name for name in Hub.fetched if any(part in name for part in CLUTTER)]


def bert(folder: Path) -> Path:
    """A sentence-transformers model with one small layer and mean pooling."""
    folder.mkdir()
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": 32,
        "intermediate_size": 64, "layer_norm_eps": 1e-12, "max_position_embeddings": 64,
        "num_attention_heads": 2, "num_hidden_layers": 1, "type_vocab_size": 2, "vocab_size": 8,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c"])
    )
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    layer = "encoder.layer.0."
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (8, 32),
        "embeddings.position_embeddings.weight": (64, 32),
        "embeddings.token_type_embeddings.weight": (2, 32),
        f"{layer}intermediate.dense.weight": (64, 32),
        f"{layer}intermediate.dense.bias": (64,),
        f"{layer}output.dense.weight": (32, 64),
        f"{layer}output.dense.bias": (32,),
    }
    for part in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ):
        shapes |= {f"{layer}{part}.weight": (32, 32), f"{layer}{part}.bias": (32,)}
    for norm in ("embeddings.LayerNorm", f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"):
        shapes |= {f"{norm}.weight": (32,), f"{norm}.bias": (32,)}
    random = np.random.default_rng(3)
    save_file(
        {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}, folder / "model.safetensors"
    )
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_bert_keeps_its_pooling(local_hub: dict[str, str], tmp_path: Path) -> None:
    folder = bert(tmp_path / "bert")
    here = converted(folder, tmp_path / "here.gguf", local_hub)
    add_clutter(folder)
    Hub.folders["org/bert"] = folder
    there = converted("org/bert@main", tmp_path / "there.gguf", local_hub)
    assert here == there and b"bert.pooling_type" in there and "vocab.txt" in Hub.fetched


def test_output_is_named_after_the_id(local_hub: dict[str, str], tmp_path: Path) -> None:
    Hub.folders["org/Some-Model"] = EXAMPLE
    run = srd(
        "convert",
        "hf://org/Some-Model",
        "--fast",
        "-q",
        "Q8_0",
        "--no-axm",
        "--no-met",
        env=local_hub,
        cwd=tmp_path,
    )
    assert run.code == 0, run.stderr
    assert (tmp_path / "Some-Model-Q8_0.gguf").exists()


def test_what_is_not_on_the_hub(local_hub: dict[str, str], tmp_path: Path) -> None:
    run = srd("convert", "--fast", "org/nothing", "--dry-run", env=local_hub, cwd=tmp_path)
    assert run.code == 1 and "no such model on the hub" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    offline = {**local_hub, "HF_ENDPOINT": "http://127.0.0.1:9"}
    run = srd("convert", "--fast", "org/other", "--dry-run", env=offline, cwd=tmp_path, timeout=110)
    assert run.code == 1 and len(run.stderr.strip().splitlines()) == 1, run.stderr


def test_a_mistyped_path_asks_no_hub(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    run = srd(
        "convert", "models/mymodel", "--dry-run", env={"HF_ENDPOINT": "http://127.0.0.1:9"}, cwd=tmp_path
    )
    assert run.code == 1 and "no such file or folder" in run.stderr and "hub" not in run.stderr


#: Prints what is opened in model folders by a process whose every opening of a file is heard of.
OPENED = """
import json, os, sys
from pathlib import Path
folders, opened = [Path(name).resolve() for name in sys.argv[1:]], set()
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        path = Path(os.fsdecode(args[0])).resolve()
        for folder in folders:
            if path.is_relative_to(folder) and path != folder:
                opened.add(path.relative_to(folder).as_posix())
sys.addaudithook(hook)
import srd_rs, srd_rs.errors
for folder in folders:
    try:
        srd_rs.plan(folder, folder / "x.gguf", quant="BF16")
    except srd_rs.errors.SrdError:
        pass
print(json.dumps(sorted(opened)))
"""


def test_readers_open_nothing_else(fixtures: Path, tmp_path: Path) -> None:
    """Every file that Python opens in a model folder is in the list, over all reference checkpoints."""
    import subprocess
    import sys

    patterns = [*hub.MODEL_FILES, *hub.WEIGHT_FILES]
    folders = [
        f for f in (bert(tmp_path / "bert"), *sorted(fixtures.iterdir())) if (f / "config.json").is_file()
    ]
    done = subprocess.run(
        [sys.executable, "-c", OPENED, *folders], capture_output=True, text=True, check=True
    )
    seen = set(json.loads(done.stdout))
    assert {"config.json", "tokenizer.json", "vocab.txt", "1_Pooling/config.json", "README.md"} <= seen
    assert [name for name in seen if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_one_file_of_a_model_on_the_hub(
    local_hub: dict[str, str], tmp_path: Path, example_q4_k_m: Path
) -> None:
    """A GGUF on the hub, in every form of its name and in every command that reads a GGUF."""
    folder = tmp_path / "repo"
    folder.mkdir()
    shutil.copy(example_q4_k_m, folder / "m.gguf")
    Hub.folders["org/made"] = folder
    forms = (
        "hf://org/made/m.gguf",
        "hf://org/made@main/m.gguf",
        "https://huggingface.co/org/made/blob/main/m.gguf",
        "https://huggingface.co/org/made/resolve/main/m.gguf?download=true",
    )
    for form in forms:
        run = srd("inspect", form, "--json", env=local_hub)
        assert run.code == 0 and run.json["kind"] == "gguf", run.stderr
    run = srd(
        "convert",
        "--fast",
        forms[0],
        "-q",
        "Q5_K_M",
        "--allow-requantize",
        "--no-axm",
        "--dry-run",
        env=local_hub,
    )
    assert run.code == 0, run.stderr
    run = srd("met", forms[0], env=local_hub, cwd=tmp_path)
    assert run.code == 0 and (tmp_path / "m.met.json").exists(), run.stderr
    assert srd("hydrate", forms[0], env=local_hub).code == 0
    run = srd("card", forms[0], "-o", tmp_path / "card.md", env=local_hub)
    assert run.code == 0 and "m.gguf" in (tmp_path / "card.md").read_text(), run.stderr
    run = srd("modelfile", forms[0], "-o", tmp_path / "Modelfile", env=local_hub)
    assert run.code == 0 and (tmp_path / "Modelfile").exists(), run.stderr
    run = srd("inspect", "hf://org/made/other.gguf", env=local_hub)
    assert run.code == 1 and "no such file" in run.stderr and run.stderr.count("\n") == 1


def test_all_parts_of_a_split_gguf_are_downloaded(
    local_hub: dict[str, str], tmp_path: Path, example_bf16: Path
) -> None:
    import srd_rs

    folder = tmp_path / "repo"
    folder.mkdir()
    report = srd_rs.convert(
        example_bf16, folder / "m.gguf", quant="BF16", effort="fast", split_max_size=8_000_000, met=False
    )
    Hub.folders["org/split"] = folder
    part = f"hf://org/split/{report.outputs[1].name}"
    run = srd("inspect", part, "--tensors", "--json", env=local_hub)
    assert run.code == 0, run.stderr
    assert len(run.json["tensors"]) == len(report.plan.tensors)
    assert {path.name for path in report.outputs} <= set(Hub.fetched)


def test_the_commit_of_a_download_is_recorded(local_hub: dict[str, str], tmp_path: Path) -> None:
    """In the container and in an attestation. The GGUF has the bytes of a conversion from a folder."""
    Hub.folders["org/wiki-gemma4"] = EXAMPLE
    common = ("convert", "--fast", "-q", "Q8_0", "--no-met", "--axm", "-o")
    for model, name in (("org/wiki-gemma4@main", "hub"), (EXAMPLE, "folder")):
        (tmp_path / name).mkdir()
        run = srd(*common, tmp_path / name / "m.gguf", model, env=local_hub)
        assert run.code == 0, run.stderr
    container = tmp_path / "hub" / "m.axm"
    run = srd("verify", container, "--attest", tmp_path / "a.json", "--json")
    assert run.code == 0 and run.json["revision"] == f"org/wiki-gemma4@{COMMIT}", run.stderr
    assert f"of org/wiki-gemma4@{COMMIT}" in srd("verify", container).stdout
    payload = json.loads((tmp_path / "a.json").read_text())["payload"]
    assert json.loads(base64.b64decode(payload))["predicate"]["revision"] == f"org/wiki-gemma4@{COMMIT}"
    assert srd("verify", tmp_path / "folder" / "m.axm", "--json").json["revision"] is None
    same = [(tmp_path / name / "m.gguf").read_bytes() for name in ("hub", "folder")]
    assert same[0] == same[1]


def test_models_by_every_form_of_their_name(local_hub: dict[str, str], tmp_path: Path) -> None:
    Hub.folders["org/Some-Model"] = EXAMPLE
    forms = (
        "org/Some-Model",
        "org/Some-Model@main",
        "hf://org/Some-Model",
        "https://huggingface.co/org/Some-Model",
        "https://huggingface.co/org/Some-Model/",
        "https://huggingface.co/org/Some-Model/tree/main",
        "https://huggingface.co/org/Some-Model?library=transformers",
        "https://hf.co/org/Some-Model#files",
    )
    for form in forms:
        run = srd("convert", "--fast", form, "--dry-run", "--json", env=local_hub, cwd=tmp_path)
        assert run.code == 0 and run.json["output"] == "Some-Model-Q4_K_M.gguf", (form, run.stderr)
    run = srd("inspect", forms[0], "--json", env=local_hub, cwd=tmp_path)
    assert run.code == 0 and run.json["kind"] == "safetensors"


def test_a_look_leaves_the_weights_on_the_hub(local_hub: dict[str, str], tmp_path: Path) -> None:
    """inspect and a dry run read headers over the network; what they say is what they say of the folder."""
    Hub.folders["org/wiki-gemma4"] = EXAMPLE
    for args in (("inspect", "--tensors"), ("convert", "--dry-run"), ("convert", "--fast", "--dry-run")):
        far, near = (
            srd(*args, model, "--json", env=local_hub, cwd=tmp_path) for model in ("org/wiki-gemma4", EXAMPLE)
        )
        assert far.code == 0 and far.json == near.json, far.stderr
    assert list(Path(local_hub["HF_HOME"]).rglob("*.safetensors")) == []
    assert list(Path(local_hub["HF_HOME"]).rglob("config.json"))


def test_a_look_without_a_network_takes_what_was_downloaded(
    local_hub: dict[str, str], tmp_path: Path
) -> None:
    Hub.folders["org/kept"] = EXAMPLE
    assert srd("convert", "--fast", "org/kept", "--no-met", env=local_hub, cwd=tmp_path).code == 0
    for args in (("inspect", "org/kept"), ("convert", "--fast", "org/kept", "--dry-run")):
        run = srd(*args, "--json", env={**local_hub, "HF_HUB_OFFLINE": "1"}, cwd=tmp_path)
        assert run.code == 0, run.stderr


def test_addresses_of_other_places(tmp_path: Path) -> None:
    for command in ("convert", "inspect", "calibrate"):
        extra = ("-o", tmp_path / "c") if command == "calibrate" else ()
        run = srd(command, "https://example.org/org/name", *extra, cwd=tmp_path)
        assert run.code == 2 and "hf://ORG/NAME" in run.stderr and run.stderr.count("\n") == 1


def test_the_hub_offline(local_hub: dict[str, str], tmp_path: Path) -> None:
    run = srd("convert", "org/any", "--dry-run", env={**local_hub, "HF_HUB_OFFLINE": "1"}, cwd=tmp_path)
    assert run.code == 1 and "HF_HUB_OFFLINE" in run.stderr and run.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["inspect", "convert"])
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached"),
    ],
)
def test_without_a_network_the_line_is_ours(
    local_hub: dict[str, str], tmp_path: Path, command: str, setting: dict[str, str], said: str
) -> None:
    run = srd(command, "org/any", env={**local_hub, **setting}, cwd=tmp_path, timeout=110)
    assert run.code == 1 and re.search(said, run.stderr) and run.stderr.count("\n") == 1
    assert "Error:" not in run.stderr and "Errno" not in run.stderr


def test_python_takes_the_same_names(
    local_hub: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub.folders["org/Some-Model"] = EXAMPLE
    code = (
        "import srd_rs; p = srd_rs.plan('hf://org/Some-Model', effort='fast');"
        "print(p.output, srd_rs.inspect('org/Some-Model').kind)"
    )
    import os
    import subprocess
    import sys

    env = {**os.environ, **local_hub}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["Some-Model-Q4_K_M.gguf", "safetensors"], done.stderr


def test_a_gated_model_has_its_sentence(local_hub: dict[str, str], tmp_path: Path) -> None:
    run = srd("convert", "org/shut", "--dry-run", env=local_hub, cwd=tmp_path)
    assert run.code == 1 and "the model is gated" in run.stderr and "hf auth login" in run.stderr
    assert "https://huggingface.co/org/shut" in run.stderr and run.stderr.count("\n") == 1
