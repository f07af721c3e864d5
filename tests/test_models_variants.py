"""Variants of every family (old and new spellings, tied and untied, biases, RoPE scalings, shards, source
types, model cards) against what llama.cpp's own converter wrote for the same tiny checkpoints: metadata,
names, order, shapes, types and bytes. The weights are a pattern made from the tensor's name, so only headers
are kept."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from interpreter import run, to_bf16
from patterns import pattern, write_shards
from srd_rs import ConvertOptions, _core
from srd_rs.checkpoint import Checkpoint, SourceTensor
from srd_rs.errors import ModelError
from srd_rs.families import _families, class_name, describe, supported
from test_family_goldens import GOLDENS, golden_of, opened

DATA = Path(__file__).parent / "data" / "model_variants.jsonl.gz"
LINES = gzip.decompress(DATA.read_bytes()).decode().splitlines()
CASES: list[dict[str, Any]] = [case for case in map(json.loads, LINES) if "name" in case]
WRITTEN_ON_PURPOSE = {
    "phi2": ["tokenizer.ggml.add_bos_token"],
    **{name: ["llama.rope.scaling.attn_factor"] for name in ("llama-yarn", "llama-yarn-old", "mistral-yarn")},
    "Qwen2.5-0.5B-Instruct": ["qwen2.rope.scaling.attn_factor"],
} | {
    case["name"]: ["gemma4.final_logit_softcapping"]
    for case in CASES
    if case["name"].startswith("gemma4") and case["config"]["final_logit_softcapping"] is None
}
"""Keys that the file of goldens leaves out with the tokenizer's, and that llama.cpp's converter does not write."""


def open_case(case: dict[str, Any], folder: Path) -> Checkpoint:
    folder = folder / case["name"]
    folder.mkdir()
    if "card" in case:
        (folder / "README.md").write_text(case["card"], encoding="utf-8")
    tensors = {
        name: SourceTensor(name, dtype, tuple(shape), shard)
        for name, (dtype, shape, shard) in case["sources"].items()
    }
    return Checkpoint(folder, case["config"], case.get("generation"), tensors)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_variant(case: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = open_case(case, tmp_path)
    spec = describe(checkpoint)

    extra = WRITTEN_ON_PURPOSE.get(case["name"], [])
    entries = [[key, kind, value] for key, kind, value in spec.metadata.entries() if key not in extra]
    for entry in entries:
        if entry[1] == "FLOAT32":
            entry[2] = float(np.float32(entry[2]))
    # The order of keys is not that of llama.cpp's converter; see docs/differences.md.
    assert sorted(entries, key=lambda entry: entry[0]) == sorted(case["kv"], key=lambda entry: entry[0])

    assert [t.name for t in spec.tensors] == [name for name, *_ in case["tensors"]]
    for tensor, (name, shape, kind, digest) in zip(spec.tensors, case["tensors"], strict=True):
        assert (list(tensor.shape), tensor.store == "f32") == (shape, kind == "F32"), name
        values = run(dict(tensor.transform), lambda source: pattern(source, checkpoint.tensors[source].shape))
        data = values.astype("<f4").tobytes() if kind == "F32" else to_bf16(values)
        assert hashlib.sha256(data).hexdigest()[:16] == digest, name


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_variant_through_the_pipeline(case: dict[str, Any], tmp_path: Path) -> None:
    """The same bytes from Rust, read back with the gguf package."""
    checkpoint = open_case(case, tmp_path)
    write_shards(case["sources"], checkpoint.folder)
    spec = describe(checkpoint)
    output = tmp_path / "out.gguf"
    # So little memory that even these tensors are cut into many chunks.
    options = ConvertOptions(quant="BF16", threads=2, max_memory=12 * 256 * 2, provenance=False)
    plan = _core.plan_checkpoint(
        checkpoint.folder,
        spec.metadata.entries(),
        json.dumps([t.to_json() for t in spec.tensors]),
        spec.hparams,
        output,
        options,
        [],
    )
    plan.run(options)
    tensors = {t.name: t for t in gguf.GGUFReader(output).tensors}
    assert set(tensors) == {name for name, *_ in case["tensors"]}
    for name, shape, kind, digest in case["tensors"]:
        tensor = tensors[name]
        assert (tensor.shape.tolist(), tensor.tensor_type.name) == (shape[::-1], kind), name
        assert hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16] == digest, name


@pytest.mark.parametrize("name", ["gemma", "gemma2", "neox", "phi2", "stablelm"])
def test_another_base_and_scaling_of_rope_are_written(name: str, tmp_path: Path) -> None:
    """llama.cpp's converter leaves both out in these families, and llama.cpp then turns positions as if the base were
    10000. Stable Code 3B has a base of 1000000."""
    case = next(case for case in CASES if case["name"] == name)
    kept = {
        k: v for k, v in case["config"].items() if k not in ("rope_parameters", "rope_scaling", "rope_theta")
    }
    rope = {"rope_theta": 1000000, "rope_scaling": {"type": "linear", "factor": 2.0}}
    spec = describe(open_case({**case, "config": {**kept, **rope}}, tmp_path))
    found = {key.partition(".")[2]: value for key, _, value in spec.metadata.entries()}
    assert found["rope.freq_base"] == 1000000.0
    assert (found["rope.scaling.type"], found["rope.scaling.factor"]) == ("linear", 2.0)


@pytest.mark.parametrize("name", ["cohere2", "gemma2", "gemma3"])
def test_another_pattern_of_sliding_windows_is_written(name: str, tmp_path: Path) -> None:
    """llama.cpp's converter writes no pattern for these families, and llama.cpp takes the usual one."""
    case = next(case for case in CASES if case["name"] == name)
    key = f"{case['config']['model_type'].removesuffix('_text')}.attention.sliding_window"
    for index, (types, wanted) in enumerate(
        (
            (["full_attention", "sliding_attention"], [False, True]),
            (["sliding_attention", "full_attention" if name == "gemma2" else "sliding_attention"], None),
        )
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        spec = describe(open_case({**case, "config": {**case["config"], "layer_types": types}}, folder))
        found = {found: value for found, _, value in spec.metadata.entries()}
        assert found.get(f"{key}_pattern") == wanted
        assert found[key] == case["config"]["sliding_window"]


@pytest.mark.parametrize("key", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_a_gemma_2_without_softcapping_is_refused(key: str, tmp_path: Path) -> None:
    """llama.cpp caps by 50 and 30 where the keys are absent, and cannot do without."""
    case = next(case for case in CASES if case["name"] == "gemma2")
    with pytest.raises(ModelError, match="softcapping is null"):
        describe(open_case({**case, "config": {**case["config"], key: None}}, tmp_path))


def test_a_gemma_3n_without_softcapping_is_refused(tmp_path: Path) -> None:
    golden = golden_of(GOLDENS[0].parent, "gemma3n-text")
    golden["config"]["final_logit_softcapping"] = None
    with pytest.raises(ModelError, match="softcapping is null"):
        describe(opened(golden, tmp_path))


def test_a_gemma_4_without_softcapping_has_0(tmp_path: Path) -> None:
    """llama.cpp caps logits at 30 where the key is absent."""
    case = next(case for case in CASES if case["name"] == "gemma4-default")
    assert case["config"]["final_logit_softcapping"] is None
    found = {key: value for key, _, value in describe(open_case(case, tmp_path)).metadata.entries()}
    assert found["gemma4.final_logit_softcapping"] == 0.0


def test_attention_in_both_directions_is_that_of_the_graph(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp's EmbeddingGemma always sees later tokens, its Gemma 3 never, its Gemma 4 in some layers."""
    key, folder = "use_bidirectional_attention", GOLDENS[0].parent
    causal = golden_of(folder, "embeddinggemma")
    causal["config"][key] = False
    gemma3 = next(case for case in CASES if case["name"] == "gemma3")
    gemma4 = next(case for case in CASES if case["name"] == "gemma4-default")
    with pytest.raises(ModelError, match=key):
        describe(opened(causal, tmp_path))
    with pytest.raises(ModelError, match=key):
        describe(open_case({**gemma3, "config": {**gemma3["config"], key: True}}, tmp_path))
    spec = describe(open_case({**gemma4, "config": {**gemma4["config"], key: "all"}}, tmp_path))
    assert ("gemma4.attention.causal", "BOOL", False) in spec.metadata.entries()
    assert key in caplog.text


def test_a_gemma_3_without_sliding_windows_has_no_window(tmp_path: Path) -> None:
    case = next(case for case in CASES if case["name"] == "gemma3")
    config = {**case["config"], "layer_types": ["full_attention", "full_attention"]}
    spec = describe(open_case({**case, "config": config}, tmp_path))
    assert not [key for key, *_ in spec.metadata.entries() if "sliding_window" in key]


def test_every_family_has_a_variant_or_a_golden(tmp_path: Path) -> None:
    covered = {class_name(open_case(case, tmp_path)) for case in CASES}
    goldens = [json.loads(path.read_text(encoding="utf-8")) for path in GOLDENS]
    # A golden of Mistral's own format has no config.json, whose class this is.
    configs = [golden["config"] for golden in goldens]
    covered |= {
        class_name(Checkpoint(tmp_path, c)) if "architectures" in c else "MistralOwnFormat" for c in configs
    }
    # llama.cpp's own converter cannot convert these, or makes files that llama.cpp cannot read.
    alone = {"BaichuanForCausalLM", "CogVLMForCausalLM", "PlamoForCausalLM"}
    # test_embedding_decoders.py and test_minicpm.py have these.
    alone |= {"MistralModel", "Gemma2Model", "MiniCPMV"}
    families = {_families()[name] for name in supported()}
    assert [family.arch for family in families if not {*family.classes} & (covered | alone)] == []
