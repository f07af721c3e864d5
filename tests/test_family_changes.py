"""Configurations that were changed in one place: the file computes as transformers does, or the model is refused, or a
warning says what llama.cpp computes otherwise.

What is right was found with tiny models: their log-probabilities in transformers 5 against those of llama.cpp.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interpreter import run
from patterns import pattern, write_shards
from srd_rs.checkpoint import Checkpoint, SourceTensor
from srd_rs.errors import ModelError
from srd_rs.families import describe
from srd_rs.families.base import ModelSpec
from test_family_goldens import GOLDENS, golden_of
from test_models_variants import CASES, open_case

_NAMED = {case["name"]: case for case in CASES}
_YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}
_LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "factor": 4.0,
    "original_max_position_embeddings": 1024,
}


def changed(name: str, changes: dict[str, Any], folder: Path, drop: tuple[str, ...] = ()) -> Checkpoint:
    """The checkpoint of a golden with other values in its configuration, and without some keys."""
    if name in _NAMED:
        checkpoint = open_case(_NAMED[name], folder)
    else:
        golden = golden_of(GOLDENS[0].parent, name)
        sources = {
            key: SourceTensor(key, kind, tuple(shape), "a")
            for key, (kind, shape) in golden["sources"].items()
        }
        checkpoint = Checkpoint(folder, golden["config"], None, sources)
    config = {**checkpoint.config, **changes}
    return replace(checkpoint, config={key: value for key, value in config.items() if key not in drop})


def described(*arguments: Any) -> ModelSpec:
    return describe(changed(*arguments))


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("lfm2-as-published", "conv", {"layer_types": ["conv"] * 4}, "partly convolutions"),
    ("lfm2-as-published", "causal", {"is_causal": False}, "not causal"),
    ("lfm2moe-as-published", "scaled", {"routed_scaling_factor": 2.0}, "routed_scaling_factor"),
    ("nemotron-h-as-published", "one-kind", {"hybrid_override_pattern": "MMMMM"}, "not both Mamba and"),
    ("nemotron-h-as-published", "activation", {"mlp_hidden_act": "silu"}, "mlp_hidden_act"),
    ("nemotron-3-as-published", "dense", {"hybrid_override_pattern": "ME-*E"}, "without experts stand"),
    ("llama4-text", "interval", {"no_rope_layer_interval": 2, "no_rope_layers": []}, "not every fourth"),
    ("llama4-text", "temperature", {"floor_scale": 4096}, "floor_scale"),
    ("cohere2", "untied", {"tie_word_embeddings": False}, "is not the embedding"),
    ("cohere", "untied", {"tie_word_embeddings": False}, "is not the embedding"),
    ("bert", "decoder", {"is_decoder": True}, "is_decoder"),
    ("xlm-roberta", "decoder", {"is_decoder": True}, "is_decoder"),
    ("granite-hybrid-as-published", "kinds", {"layer_types": ["mamba"] * 4}, "no layer has attention"),
    ("granite-hybrid-as-published", "steps", {"time_step_limit": [0.1, 0.5]}, "time_step_limit"),
    (
        "falcon-h1-as-published",
        "gate",
        {"mamba_rms_norm": True, "mamba_norm_before_gate": True},
        "before their gate",
    ),
    ("modernbert", "global", {"global_attn_every_n_layers": 1}, "no layer has local attention"),
    ("modernbert-three-labels", "activation", {"classifier_activation": "relu"}, "classifier_activation"),
    ("trinity", "pattern", {"layer_types": ["sliding_attention"] * 4}, "not every fourth"),
    ("mpt-7b", "scale", {"attn_config": {"alibi": True, "softmax_scale": 0.5}}, "softmax_scale"),
    ("dots1", "shared-heads", {"num_key_value_heads": 2}, "share keys and values"),
    ("smollm3", "empty", {"no_rope_layers": []}, "not one entry for each layer"),
    ("gemma3", "type", {"rope_scaling": {"type": "linear", "factor": 8.0}}, "type without rope_type"),
    *(
        (name, "magnitude", {"rope_scaling": {**_YARN, "attention_factor": 1.2}}, "attention_factor")
        for name in ("gemma3", "gemma3n-text", "embeddinggemma")
    ),
    ("olmo3", "type", {"rope_scaling": {"type": "yarn", "factor": 8.0}}, "type without rope_type"),
    (
        "olmo3-without-theta",
        "theta",
        {"rope_theta": 10000.0, "sliding_window": 64},
        "another base of RoPE than",
    ),
    ("gemma2", "not-causal", {"is_causal": False}, "does not reach forward"),
    ("gpt-oss", "not-causal", {"is_causal": False}, "does not reach forward"),
    ("llama4-text", "not-causal", {"is_causal": False}, "chunks is not causal"),
    (
        "llama-a",
        "factors",
        {"rope_scaling": {**_LONG, "long_factor": [1.0], "short_factor": [1.0]}},
        "one number",
    ),
]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [(name, changes, message) for name, _, changes, message in REFUSED],
    ids=[f"{name}-{what}" for name, what, *_ in REFUSED],
)
def test_refused(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        described(name, changes, tmp_path)


_EIGHT: dict[str, Any] = {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8}
LATENT = (
    "deepseek-v2",
    "deepseek-v3",
    "deepseek-v32",
    "glm47-flash",
    "glm5",
    "kimi-k2",
    "kimi-linear-as-published",
    "minicpm3",
    "youtu",
    "hy4",
    "ling-3-tiny",
)
"""Models with latent attention, whose norms have an epsilon of their own in transformers."""

WARNED: list[tuple[str, str, dict[str, Any], str]] = [
    ("exaone4", "window", {"sliding_window": 64}, "EXAONE 4 with 64 layers"),
    ("llama4-text", "norms", {"use_qk_norm": False}, "use_qk_norm"),
    ("cohere-old", "norms", {}, "64 or more layers"),
    ("nemotron-h-as-published", "steps", {"time_step_min": 0.5}, "time_step_min"),
    (
        "smollm3",
        "window",
        {"layer_types": ["sliding_attention"] * 9, "sliding_window": 64, "max_position_embeddings": 128},
        "longer than the window",
    ),
    ("dots1", "window", {"sliding_window": 64, "max_window_layers": 0}, "longer than the window"),
    (
        "qwen2vl-as-published",
        "window",
        {"text_config": {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}},
        "longer than the window",
    ),
    ("qwen3moe", "window", {"use_sliding_window": True, "sliding_window": 64}, "longer than the window"),
    ("phimoe", "graph", {}, "SparseMixer"),
    ("phimoe", "window", {"sliding_window": 64}, "longer than the window"),
    (
        "phimoe",
        "temperatures",
        {"rope_scaling": {"type": "longrope", "long_mscale": 1.5, "short_mscale": 1.25, **_EIGHT}},
        "long_mscale",
    ),
    *((name, "latents", {"rms_norm_eps": 1e-4}, "latent vectors") for name in LATENT),
    ("distilbert-classifier", "relu", {}, "through ReLU"),
    ("gpt-oss", "limits-of-the-class", {"rope_scaling": None, "rope_parameters": None}, "truncate of YaRN"),
    ("gpt-oss", "limits", {"rope_scaling": {**_YARN, "truncate": False}}, "truncate of YaRN"),
    ("embeddinggemma", "scale", {"query_pre_attn_scalar": 999}, "query_pre_attn_scalar"),
    ("qwen35-text", "norms", {"rms_norm_eps": 0.1}, "delta attention"),
    ("qwen3next-as-published", "norms", {"rms_norm_eps": 0.1}, "delta attention"),
    ("gemma3", "head", {"tie_word_embeddings": False}, "has no output matrix"),
    ("gemma2", "head", {"tie_word_embeddings": False}, "has no output matrix"),
    ("gemma3", "scale", {"query_pre_attn_scalar": 999}, "query_pre_attn_scalar"),
    ("gemma2", "scale", {"query_pre_attn_scalar": 999}, "query_pre_attn_scalar"),
    ("granite-hybrid-attention-moe", "rope", {}, "always turns queries"),
    ("deepseek-v3", "linear", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "mscale_all_dim"),
    ("qwen3moe", "weights", {"norm_topk_prob": None}, "norm_topk_prob"),
    ("phi3", "window", {"sliding_window": 64, "max_position_embeddings": 128}, "longer than the window"),
    ("lfm2moe-as-published", "weights", {"norm_topk_prob": False}, "norm_topk_prob"),
    ("mistral", "window", {"sliding_window": 64, "max_position_embeddings": 128}, "longer than the window"),
    (
        "qwen2",
        "window",
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0, "layer_types": None},
        "longer than the window",
    ),
]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [(name, changes, message) for name, _, changes, message in WARNED],
    ids=[f"{name}-{what}" for name, what, *_ in WARNED],
)
def test_warned(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drop = tuple(key for key, value in changes.items() if value is None)
    with caplog.at_level(logging.INFO, logger="srd_rs.families"):
        described(name, changes, tmp_path, drop)
    assert message in caplog.text


@pytest.mark.parametrize("name", LATENT)
def test_latent_norms_of_published_models(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With tiny models, log-probabilities change by 0.0001 where the norms have 1e-5 in place of 1e-6."""
    with caplog.at_level(logging.INFO, logger="srd_rs.families"):
        described(name, {"rms_norm_eps": 1e-5}, tmp_path)
    assert "latent vectors" not in caplog.text


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3moe", {"use_sliding_window": False, "sliding_window": 64}),
        ("dots1", {"sliding_window": 64, "max_window_layers": 62}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4096, "max_position_embeddings": 4096}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 64}),
        ("exaone4-1.2b", {}),
    ],
)
def test_no_window_no_warning(
    name: str, changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="srd_rs.families"):
        described(name, changes, tmp_path)
    assert "sliding window" not in caplog.text


WRITTEN: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    (
        "lfm2-as-published",
        "epsilon",
        {"rms_norm_eps": 0.5, "norm_eps": 0.25},
        {"lfm2.attention.layer_norm_rms_epsilon": 0.25},
    ),
    (
        "nemotron",
        "dynamic",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"nemotron.rope.scaling.type": "none", "nemotron.rope.scaling.factor": None},
    ),
    (
        "nemotron",
        "linear",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"nemotron.rope.scaling.type": "linear", "nemotron.rope.scaling.factor": 2.0},
    ),
    (
        "hunyuan-dense",
        "no-alpha",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 5000.0},
        {"hunyuan-dense.rope.freq_base": 5000.0, "hunyuan-dense.rope.scaling.type": None},
    ),
    (
        "nemotron-h-as-published",
        "as-transformers-saves",
        {"num_experts_per_tok": 2, "n_routed_experts": 8, "num_hidden_layers": 9},
        {"general.architecture": "nemotron_h", "nemotron_h.block_count": 5},
    ),
    (
        "nemotron-3-as-published",
        "normalized",
        {"norm_topk_prob": None},
        {"nemotron_h_moe.expert_weights_norm": True},
    ),
    (
        "minimax-m2",
        "rotary",
        {"partial_rotary_factor": 0.25, "head_dim": 32, "rotary_dim": 16},
        {"minimax-m2.rope.dimension_count": 8},
    ),
    (
        "granite-hybrid-as-published",
        "rope",
        {"position_embedding_type": "rope"},
        {"granitehybrid.rope.scaling.finetuned": True},
    ),
    (
        "nemotron-h-as-published",
        "epsilon",
        {"rms_norm_eps": 0.5, "layer_norm_epsilon": 0.25},
        {"nemotron_h.attention.layer_norm_rms_epsilon": 0.25},
    ),
    (
        "modernbert",
        "epsilon",
        {"layer_norm_eps": 0.5, "norm_eps": 0.25},
        {"modern-bert.attention.layer_norm_epsilon": 0.25},
    ),
    ("deepseek-v3", "sigmoid", {"scoring_func": None}, {"deepseek2.expert_gating_func": 2}),
    (
        "deepseek-v3",
        "sigmoid-in-any-case",
        {"scoring_func": "softmax"},
        {"deepseek2.expert_gating_func": 2},
    ),
    ("glm47-flash", "sigmoid", {}, {"deepseek2.expert_gating_func": 2}),
    (
        "olmo2",
        "no-window",
        {"sliding_window": 64},
        {"olmo2.attention.sliding_window": None, "olmo2.attention.sliding_window_pattern": None},
    ),
    ("olmoe", "epsilon", {"rms_norm_eps": 0.25}, {"olmoe.attention.layer_norm_rms_epsilon": 0.25}),
    ("llama-a", "not-causal", {"is_causal": False}, {"llama.attention.causal": False}),
    (
        "phimoe",
        "temperature",
        {"rope_scaling": {"type": "longrope", "long_mscale": 1.25, "short_mscale": 1.25, **_EIGHT}},
        {"phimoe.rope.scaling.attn_factor": 1.25},
    ),
    ("cohere2", "rotary", {"rotary_pct": 0.5}, {"cohere2.rope.dimension_count": 16}),
    ("bert", "head_dim", {"head_dim": 64}, {"bert.attention.key_length": None}),
    (
        "bert",
        "labels",
        {"num_labels": 3},
        {"bert.classifier.output_labels": ["LABEL_0", "LABEL_1", "LABEL_2"]},
    ),
]


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [(name, changes, wanted) for name, _, changes, wanted in WRITTEN],
    ids=[f"{name}-{what}" for name, what, *_ in WRITTEN],
)
def test_written(name: str, changes: dict[str, Any], wanted: dict[str, Any], tmp_path: Path) -> None:
    drop = tuple(key for key, value in changes.items() if value is None)
    metadata = described(name, changes, tmp_path, drop).metadata
    assert {key: metadata.get(key) for key in wanted} == wanted


@pytest.mark.parametrize("tied", [True, False])
def test_the_copy_of_the_embedding_of_gemma_3(tied: bool, tmp_path: Path) -> None:
    checkpoint = changed("gemma3", {"tie_word_embeddings": tied}, tmp_path)
    embedding = checkpoint.tensors["model.embed_tokens.weight"]
    head = replace(embedding, name="lm_head.weight")
    spec = describe(replace(checkpoint, tensors={**checkpoint.tensors, head.name: head}))
    assert any(t.name == "output.weight" for t in spec.tensors) != tied


def test_a_missing_norm_of_glm_4_5(tmp_path: Path) -> None:
    checkpoint = changed("glm45", {}, tmp_path)
    tensors = {name: t for name, t in checkpoint.tensors.items() if "0.self_attn.q_norm" not in name}
    with pytest.raises(ModelError, match="norms of queries and keys are missing"):
        describe(replace(checkpoint, tensors=tensors))


def test_the_tied_output_of_falcon_h1_has_its_own_factor(tmp_path: Path) -> None:
    spec = described("falcon-h1-without-norm", {}, tmp_path)
    matrices = {
        t.name: str(t.transform) for t in spec.tensors if t.name in ("output.weight", "token_embd.weight")
    }
    assert matrices["output.weight"] != matrices["token_embd.weight"]


def test_yarn_with_rounded_limits_has_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="srd_rs.families"):
        described("gpt-oss", {"rope_scaling": _YARN}, tmp_path)
    assert "YaRN" not in caplog.text


def test_a_classifier_of_bert_has_its_pooler(tmp_path: Path) -> None:
    spec = described("bert-classifier", {}, tmp_path)
    assert {"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"} <= {
        t.name for t in spec.tensors
    }


def test_experts_without_biases_get_biases_of_zero(tmp_path: Path) -> None:
    checkpoint = changed("lfm2moe-as-published", {"use_expert_bias": False}, tmp_path)
    tensors = {name: t for name, t in checkpoint.tensors.items() if "expert_bias" not in name}
    spec = describe(replace(checkpoint, tensors=tensors))
    biases = [t for t in spec.tensors if t.name.endswith("exp_probs_b.bias")]
    assert len(biases) == len(checkpoint.tensors) - len(tensors) > 0
    for bias in biases:
        values = run(dict(bias.transform), lambda source: pattern(source, checkpoint.tensors[source].shape))
        assert not values.any()


@pytest.mark.parametrize("name", ["llama-a", "granite", "mistral3", "Mixtral-8x7B-v0.1"])
def test_longrope(name: str, tmp_path: Path) -> None:
    """llama.cpp loads the factors in these architectures, and multiplies queries and keys by the temperature."""
    case = _NAMED[name]
    text = case["config"].get("text_config", case["config"])
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    long, short = [2.0] * (size // 2), [1.5] * (size // 2)
    rope = {**_LONG, "long_factor": long, "short_factor": short}
    changes: dict[str, Any] = {
        "rope_scaling": rope,
        "rope_theta": 5000.0,
        "max_position_embeddings": 4096,
    }
    if text is not case["config"]:
        changes = {"text_config": {**{k: v for k, v in text.items() if k != "rope_parameters"}, **changes}}
    spec = described(name, changes, tmp_path, ("rope_parameters",))
    key = f"{spec.arch}.rope.scaling"
    assert spec.metadata.get(f"{key}.type") == "longrope"
    assert spec.metadata.get(f"{key}.original_context_length") == 1024
    assert spec.metadata.get(f"{key}.attn_factor") == pytest.approx(
        float(np.sqrt(1 + np.log(4) / np.log(1024)))
    )
    shapes = {t.name: t.shape for t in spec.tensors}
    assert shapes["rope_factors_long.weight"] == shapes["rope_factors_short.weight"] == (size // 2,)


@pytest.mark.parametrize("name", ["lfm2-as-published", "qwen2", "nemotron", "cohere2", "exaone4"])
def test_heads_that_are_not_as_wide_as_the_model(name: str, tmp_path: Path) -> None:
    """llama.cpp does not load such a file in these architectures."""
    checkpoint = changed(name, {}, tmp_path)
    heads = checkpoint.config["num_attention_heads"]
    heads_kv = checkpoint.config.get("num_key_value_heads") or heads
    model = checkpoint.config["hidden_size"]
    size = 2 * model // heads
    tensors = {}
    for key, tensor in checkpoint.tensors.items():
        part, shape = key.split(".")[-2], tensor.shape
        if part in ("q_proj", "k_proj", "v_proj"):
            shape = (size * (heads if part == "q_proj" else heads_kv), *shape[1:])
        elif part in ("o_proj", "out_proj") and "attn" in key:
            shape = (model, size * heads) if len(shape) == 2 else shape
        elif part in ("q_norm", "k_norm", "q_layernorm", "k_layernorm"):
            shape = (size,)
        tensors[key] = replace(tensor, shape=shape)
    changed_too = replace(checkpoint, config={**checkpoint.config, "head_dim": size}, tensors=tensors)
    with pytest.raises(ModelError, match="all heads together"):
        describe(changed_too)


BIASED = [
    ("llama-a", "attention_bias", "self_attn.q_proj"),
    ("llama-a", "attention_bias", "self_attn.o_proj"),
    ("llama-a", "mlp_bias", "mlp.up_proj"),
    ("qwen3", "attention_bias", "self_attn.k_proj"),
    ("qwen3", "attention_bias", "self_attn.o_proj"),
    ("granite", "mlp_bias", "mlp.down_proj"),
    ("olmo2", "attention_bias", "self_attn.v_proj"),
    ("gemma2", "attention_bias", "self_attn.q_proj"),
    ("smollm3", "attention_bias", "self_attn.q_proj"),
    ("stablelm", "use_qkv_bias", "self_attn.q_proj"),
    ("glm45", "attention_bias", "self_attn.q_proj"),
    ("deepseek-v3", "attention_bias", "self_attn.o_proj"),
]
"""Models without biases: the key that says so, and a matrix that could have one."""


def _with_bias(name: str, key: str, value: bool | None, matrix: str, folder: Path) -> Checkpoint:
    """The checkpoint of a golden with a bias in layer 0, and with a value of a key or without the key."""
    checkpoint = changed(name, {} if value is None else {key: value}, folder, (key,) if value is None else ())
    weight = checkpoint.tensors[f"model.layers.0.{matrix}.weight"]
    bias = replace(weight, name=f"model.layers.0.{matrix}.bias", shape=weight.shape[:1])
    return replace(checkpoint, tensors={**checkpoint.tensors, bias.name: bias})


@pytest.mark.parametrize(("name", "key", "matrix"), BIASED)
def test_a_bias_that_config_json_denies(
    name: str, key: str, matrix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers does not read such a bias."""
    without = described(name, {key: False}, tmp_path)
    (tmp_path / "denied").mkdir()
    with caplog.at_level(logging.INFO, logger="srd_rs.families"):
        spec = describe(_with_bias(name, key, False, matrix, tmp_path / "denied"))
    assert [t.name for t in spec.tensors] == [t.name for t in without.tensors]
    assert f"{key} is false" in caplog.text
    assert f"{matrix}.bias" in caplog.text


@pytest.mark.parametrize(
    ("name", "key", "matrix"), [(n, k, m) for n, k, m in BIASED if n in ("llama-a", "qwen3", "granite")]
)
def test_a_bias_of_which_config_json_says_nothing(name: str, key: str, matrix: str, tmp_path: Path) -> None:
    """The default of these classes is that there is none."""
    spec = describe(_with_bias(name, key, None, matrix, tmp_path))
    assert not any(t.name.endswith("0.attn_q.bias") for t in spec.tensors)


def test_a_bias_that_config_json_promises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="srd_rs.families"):
        spec = described("llama-a", {"attention_bias": True}, tmp_path)
    assert not any(t.name.endswith(".bias") for t in spec.tensors)
    assert "attention_bias is true, but no layer has 'self_attn.k_proj.bias'" in caplog.text


@pytest.mark.parametrize("matrix", ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"])
def test_a_bias_that_config_json_states(matrix: str, tmp_path: Path) -> None:
    key = "mlp_bias" if "mlp" in matrix else "attention_bias"
    spec = describe(_with_bias("llama-a", key, True, matrix, tmp_path))
    assert sum(t.name.endswith(".bias") for t in spec.tensors) == 1


def test_qwen_2_has_biases_whatever_config_json_says(tmp_path: Path) -> None:
    spec = described("qwen2", {"attention_bias": False}, tmp_path)
    assert any(t.name == "blk.0.attn_q.bias" for t in spec.tensors)


@pytest.mark.parametrize(
    ("name", "head"), [("deepseek-v3-as-transformers-saves", "lm_head"), ("gemma3", "lm_head")]
)
@pytest.mark.parametrize("copied", [True, False])
def test_an_output_matrix_beside_a_tied_embedding(name: str, head: str, copied: bool, tmp_path: Path) -> None:
    """transformers 5 keeps an output matrix with values of its own, which merged adapters have."""
    checkpoint = changed(name, {"tie_word_embeddings": True}, tmp_path)
    shapes = {key: [t.dtype, list(t.shape), "model.safetensors"] for key, t in checkpoint.tensors.items()}
    shapes[f"{head}.weight"] = shapes["model.embed_tokens.weight"]
    write_shards(shapes, checkpoint.folder)
    (checkpoint.folder / "config.json").write_text("{}")
    stored = Checkpoint.open(checkpoint.folder).tensors
    if copied:
        file, (one, other) = (
            checkpoint.folder / "model.safetensors",
            (stored[f"{part}.weight"] for part in (head, "model.embed_tokens")),
        )
        data = bytearray(file.read_bytes())
        data[one.offset : one.offset + one.nbytes] = data[other.offset : other.offset + other.nbytes]
        file.write_bytes(data)
    spec = describe(replace(checkpoint, tensors=stored))
    assert any(t.name == "output.weight" for t in spec.tensors) != copied


def test_dense_layers_of_kimi_linear_as_transformers_saves_them(tmp_path: Path) -> None:
    checkpoint = changed("kimi-linear-as-published", {}, tmp_path)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        saved = name.replace("layers.0.mlp.", "layers.0.block_sparse_moe.")
        tensors[saved] = replace(tensor, name=saved)
    assert tensors.keys() != checkpoint.tensors.keys()
    spec = describe(replace(checkpoint, tensors=tensors))
    assert {t.name for t in spec.tensors} == {t.name for t in describe(checkpoint).tensors}
