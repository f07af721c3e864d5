"""Adapters merged by `srd-rs convert --lora` against PEFT's own merge.

`scripts/make_lora_goldens.py` made the goldens.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import srd_rs
from patterns import write_shards
from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import ModelError, UsageError, VerificationError
from srd_rs.families import describe, lora
from support import EXAMPLE
from test_family_goldens import converted

GOLDENS = sorted((Path(__file__).parent / "data" / "lora").glob("*.json"))
SCALE = 1 / 256


def opened(golden: dict[str, Any], folder: Path) -> Checkpoint:
    """The base model of a golden with its adapters."""
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(golden["config"]))
    write_shards(golden["sources"], base, SCALE)
    adapters = []
    for number, adapter in enumerate(golden["adapters"]):
        adapters.append(folder / f"adapter-{number}")
        adapters[-1].mkdir()
        (adapters[-1] / "adapter_config.json").write_text(json.dumps(adapter["config"]))
        write_shards(adapter["sources"], adapters[-1], SCALE)
    checkpoint = Checkpoint.open(base)
    checkpoint.adapters = tuple(adapters)
    return checkpoint


def of(name: str, **changes: Any) -> dict[str, Any]:
    """A golden by name, with changes of the configuration of its first adapter."""
    golden: dict[str, Any] = json.loads((GOLDENS[0].parent / f"{name}.json").read_text(encoding="utf-8"))
    golden["adapters"][0]["config"] |= changes
    return golden


def test_what_is_no_adapter_is_named(tmp_path: Path) -> None:
    for call in (lambda path: srd_rs.lora(path), lambda path: srd_rs.convert(EXAMPLE, lora=[path])):
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            call(tmp_path / "nowhere")
        with pytest.raises(ModelError, match="this is no LoRA adapter"):
            call(EXAMPLE)


@pytest.mark.parametrize("path", GOLDENS, ids=[path.stem for path in GOLDENS])
def test_merges_as_peft(path: Path, tmp_path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    checkpoint = opened(golden, tmp_path)
    tensors = converted(checkpoint, describe(checkpoint), "F32", tmp_path / "out.gguf")
    assert {t.name for t in tensors} == golden["tensors"].keys()
    for tensor in tensors:
        expected = golden["tensors"][tensor.name]
        if isinstance(expected, list):
            np.testing.assert_allclose(tensor.data.flatten()[:16], expected, rtol=3e-6, err_msg=tensor.name)
        else:
            assert hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16] == expected, tensor.name


def test_the_bytes_do_not_depend_on_threads_and_memory(tmp_path: Path) -> None:
    checkpoint = opened(of("dora"), tmp_path)
    model = write_vocabulary(checkpoint)
    files = [
        srd_rs.convert(
            model,
            tmp_path / f"{threads}-{memory}.gguf",
            lora=checkpoint.adapters,
            quant="Q5_0",
            effort="fast",
            threads=threads,
            max_memory=memory,
        ).output
        for threads, memory in ((1, 1 << 30), (3, 1 << 14), (2, 1 << 12))
    ]
    assert len({path.read_bytes() for path in files}) == 1
    reader = gguf.GGUFReader(files[0])
    assert reader.fields["srd.lora"].contents() == ["adapter-0"]


def test_the_digest_of_the_sources_has_the_adapter(tmp_path: Path) -> None:
    checkpoint = opened(of("two"), tmp_path)
    model = write_vocabulary(checkpoint)
    digests = set()
    for number, adapters in enumerate(([], checkpoint.adapters[:1], checkpoint.adapters)):
        out = srd_rs.convert(
            model, tmp_path / f"{number}.gguf", lora=adapters, quant="BF16", met=False
        ).output
        digests.add(gguf.GGUFReader(out).fields["srd.source.digest"].contents())
    assert len(digests) == 3


def test_a_calibration_runs_the_merged_model(tmp_path: Path) -> None:
    checkpoint = opened(of("two"), tmp_path)
    model = write_vocabulary(checkpoint)
    files = [
        srd_rs.convert(
            model,
            tmp_path / f"{provenance}.gguf",
            lora=checkpoint.adapters,
            quant="Q4_0",
            effort="srd",
            calibrate="random",
            calibrate_tokens=64,
            cache=False,
            provenance=provenance,
            met=False,
        ).output
        for provenance in (True, False)
    ]
    first, second = (gguf.GGUFReader(path).tensors for path in files)
    assert all((a.data == b.data).all() for a, b in zip(first, second, strict=True))


def test_the_merged_model_is_rebuilt(tmp_path: Path) -> None:
    checkpoint = opened(of("two"), tmp_path)
    model, made = write_vocabulary(checkpoint), tmp_path / "merged.gguf"
    srd_rs.convert(model, made, lora=checkpoint.adapters, quant="Q8_0", met=False)
    assert srd_rs.rebuild(made, model, lora=checkpoint.adapters).quant == "Q8_0"
    for given in ((), checkpoint.adapters[:1]):
        with pytest.raises(UsageError, match="merged 2 adapters"):
            srd_rs.rebuild(made, model, lora=given)
    with pytest.raises(VerificationError):
        srd_rs.rebuild(made, model, lora=checkpoint.adapters[::-1])


def write_vocabulary(checkpoint: Checkpoint) -> Path:
    """Give the model of a golden a tokenizer of bytes."""
    tokens = {chr(33 + i): i for i in range(checkpoint.config["vocab_size"] - 1)} | {'!"': 95}
    model = {"type": "BPE", "vocab": tokens, "merges": [["!", '"']]}
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (checkpoint.folder / "tokenizer.json").write_text(
        json.dumps({"model": model, "pre_tokenizer": pre, "decoder": pre, "added_tokens": []})
    )
    return checkpoint.folder


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"peft_type": "LOHA"}, "of the kind 'LOHA'"),
        ({"init_lora_weights": "pissa_niter_16"}, "changed its base model too"),
        ({"target_parameters": ["experts.down_proj"]}, "uses target_parameters"),
        ({"lora_alpha": "many"}, "lora_alpha is 'many'"),
        ({"r": 5}, "adapter_config.json says 5"),
        ({"alpha_pattern": {"(a+)+": 3}}, "is not used"),
        ({"alpha_pattern": {"(": 3}}, "is not used"),
        ({"fan_in_fan_out": True}, "updates a matrix"),
        ({"use_dora": True}, "has no magnitudes"),
    ],
)
def test_what_is_not_known_is_refused(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    checkpoint = opened(of("two", **changes), tmp_path)
    with pytest.raises(ModelError, match=what.replace("(", r"\(")):
        describe(checkpoint)


@pytest.mark.parametrize(
    ("name", "shape", "what"),
    [
        ("base_model.model.model.layers.7.mlp.up_proj.lora_A.weight", [4, 64], "has no counterpart"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_B.bias", [96], "no update that is known"),
        ("base_model.model.score.weight", [2, 64], "no such tensor"),
        ("base_model.model.model.embed_tokens.weight", [100, 64], "has shape"),
    ],
)
def test_a_tensor_without_a_place_is_refused(name: str, shape: list[int], what: str, tmp_path: Path) -> None:
    golden = of("two")
    golden["adapters"][0]["sources"][name] = ["F32", shape, "adapter_model.safetensors"]
    with pytest.raises(ModelError, match=what):
        describe(opened(golden, tmp_path))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    checkpoint = opened(of("two"), tmp_path)
    with pytest.raises(ModelError, match="no LoRA adapter"):
        lora.merged(checkpoint, [tmp_path])


def test_names_under_another_prefix_are_found(tmp_path: Path) -> None:
    golden = of("two")
    sources = golden["sources"]
    golden["sources"] = {name.replace("model.", "", 1): value for name, value in sources.items()}
    assert describe(opened(golden, tmp_path))
