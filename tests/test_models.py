"""The model families on tiny configurations: variants that occur in the wild, and what must be refused."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interpreter import run
from srd_rs.checkpoint import Checkpoint, SourceTensor
from srd_rs.errors import FormatError, ModelError, SrdError, SrdIOError
from srd_rs.families import ModelSpec, architectures, describe, supported
from srd_rs.families.card import parse
from srd_rs.families.general import Size, split_name, title
from srd_rs.metadata import Metadata
from srd_rs.reading import load_json

Shapes = dict[str, tuple[int, ...]]
D, F, V, HEADS, KV, HEAD = 32, 48, 40, 4, 2, 8

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "vocab_size": V,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def llama_tensors(layers: int = 2, head: int = HEAD, output: bool = True) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if output:
        shapes["lm_head.weight"] = (V, D)
    for layer in range(layers):
        p = f"model.layers.{layer}"
        shapes[f"{p}.input_layernorm.weight"] = shapes[f"{p}.post_attention_layernorm.weight"] = (D,)
        shapes[f"{p}.self_attn.q_proj.weight"] = (HEADS * head, D)
        shapes[f"{p}.self_attn.k_proj.weight"] = shapes[f"{p}.self_attn.v_proj.weight"] = (KV * head, D)
        shapes[f"{p}.self_attn.o_proj.weight"] = (D, HEADS * head)
        shapes[f"{p}.mlp.gate_proj.weight"] = shapes[f"{p}.mlp.up_proj.weight"] = (F, D)
        shapes[f"{p}.mlp.down_proj.weight"] = (D, F)
    return shapes


def checkpoint(config: dict[str, Any], shapes: Shapes, dtype: str = "BF16") -> Checkpoint:
    tensors = {name: SourceTensor(name, dtype, shape, "model.safetensors") for name, shape in shapes.items()}
    return Checkpoint(Path("tiny-model"), config, None, tensors)


def spec_of(config: dict[str, Any], shapes: Shapes | None = None, **changes: Any) -> ModelSpec:
    return describe(checkpoint({**config, **changes}, llama_tensors() if shapes is None else shapes))


def transform(spec: ModelSpec, name: str) -> dict[str, Any]:
    return next(dict(tensor.transform) for tensor in spec.tensors if tensor.name == name)


def entries(spec: ModelSpec) -> dict[str, Any]:
    return {key: value for key, _, value in spec.metadata.entries()}


# Spellings and defaults


def test_old_and_new_spellings_give_the_same_metadata() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 32
    old = spec_of(LLAMA, torch_dtype="bfloat16", rope_scaling={"type": "llama3", **scaling}, rope_theta=5e5)
    new = dict(LLAMA, dtype="bfloat16", rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    del new["rope_theta"]
    assert old == spec_of(new)


def test_class_defaults_fill_what_config_json_leaves_out() -> None:
    wanted = {key: LLAMA[key] for key in ("architectures", "hidden_size", "intermediate_size", "vocab_size")}
    spec = describe(
        checkpoint(
            {**wanted, "num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": KV},
            llama_tensors(),
        )
    )
    assert entries(spec)["llama.context_length"] == 2048
    assert entries(spec)["llama.attention.layer_norm_rms_epsilon"] == 1e-6
    assert entries(spec)["llama.rope.freq_base"] == 10000.0
    assert entries(spec)["llama.attention.key_length"] == HEAD


def test_text_config_is_merged_and_other_towers_are_skipped() -> None:
    shapes = {name.replace("model.", "model.language_model.", 1): s for name, s in gemma3_tensors().items()}
    shapes |= {"vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}
    shapes |= {"model.multi_modal_projector.mm_soft_emb_norm.weight": (8,)}
    text = {key: value for key, value in GEMMA3.items() if key != "architectures"}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text, "vision_config": {}}
    multimodal, plain = describe(checkpoint(config, shapes)), describe(checkpoint(GEMMA3, gemma3_tensors()))
    assert multimodal.metadata.entries() == plain.metadata.entries()
    assert [(t.name, t.shape) for t in multimodal.tensors] == [(t.name, t.shape) for t in plain.tensors]
    named = transform(multimodal, "token_embd.weight")["tensor"]
    assert named == "model.language_model.embed_tokens.weight"


GEMMA3: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "head_dim": 16,
    "vocab_size": V,
    "sliding_window": 16,
}


def gemma3_tensors() -> Shapes:
    shapes = llama_tensors(head=16, output=False)
    for layer in range(2):
        p = f"model.layers.{layer}"
        shapes[f"{p}.pre_feedforward_layernorm.weight"] = (D,)
        shapes[f"{p}.post_feedforward_layernorm.weight"] = (D,)
        shapes[f"{p}.self_attn.q_norm.weight"] = shapes[f"{p}.self_attn.k_norm.weight"] = (16,)
    return shapes


def test_gemma3_rope_of_both_layer_types_in_both_spellings() -> None:
    old = describe(
        checkpoint(
            dict(
                GEMMA3,
                rope_theta=1e6,
                rope_local_base_freq=5e3,
                rope_scaling={"rope_type": "linear", "factor": 8.0},
            ),
            gemma3_tensors(),
        )
    )
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    sliding = {"rope_type": "default", "rope_theta": 5e3}
    new = dict(GEMMA3, rope_parameters={"full_attention": full, "sliding_attention": sliding})
    assert old.metadata.entries() == describe(checkpoint(new, gemma3_tensors())).metadata.entries()
    values = entries(old)
    assert values["gemma3.rope.freq_base_swa"] == 5e3
    assert (values["gemma3.rope.scaling.type"], values["gemma3.rope.scaling.factor"]) == ("linear", 8.0)


def test_gemma3_norms_are_stored_plus_one() -> None:
    spec = describe(checkpoint(GEMMA3, gemma3_tensors()))
    for tensor in spec.tensors:
        added = tensor.transform["op"] == "affine"
        assert added == tensor.name.endswith("norm.weight"), tensor.name
    values = run(transform(spec, "output_norm.weight"), lambda name: np.array([-0.5, 0.25], np.float32))
    assert values.tolist() == [0.5, 1.25]


# Tied and untied, biases, permutation


def test_untied_model_needs_its_output_matrix() -> None:
    assert not spec_of(LLAMA).hparams.tied
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        spec_of(LLAMA, llama_tensors(output=False))


def test_tied_model_has_no_output_matrix_unless_the_checkpoint_has_one() -> None:
    tied = spec_of(LLAMA, llama_tensors(output=False), tie_word_embeddings=True)
    assert tied.hparams.tied and all(tensor.name != "output.weight" for tensor in tied.tensors)
    both = spec_of(LLAMA, tie_word_embeddings=True)
    assert not both.hparams.tied


def test_query_and_key_rows_and_biases_are_permuted_for_llama_only() -> None:
    shapes = llama_tensors()
    for layer in range(2):
        for part, width in (("q", HEADS * HEAD), ("k", KV * HEAD), ("v", KV * HEAD)):
            shapes[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = (width,)
    llama = spec_of(LLAMA, shapes, attention_bias=True)
    for kind in ("weight", "bias"):
        assert transform(llama, f"blk.1.attn_q.{kind}")["heads"] == HEADS
        assert transform(llama, f"blk.1.attn_k.{kind}")["heads"] == KV
        assert transform(llama, f"blk.1.attn_v.{kind}")["op"] == "source"
    qwen = spec_of(LLAMA, shapes, architectures=["Qwen2ForCausalLM"])
    assert {tensor.transform["op"] for tensor in qwen.tensors} == {"source"}
    assert next(t for t in qwen.tensors if t.name == "blk.0.attn_q.bias").store == "f32"


def test_permutation_makes_rotary_halves_to_pairs() -> None:
    rows = np.arange(HEADS * HEAD, dtype=np.float32)[:, None]
    values = run(transform(spec_of(LLAMA), "blk.0.attn_q.weight"), lambda name: rows)
    half = HEAD // 2
    assert values[:HEAD, 0].tolist() == [x for i in range(half) for x in (i, i + half)]


def test_store_rule() -> None:
    stores = {tensor.name: tensor.store for tensor in spec_of(LLAMA).tensors}
    assert stores["blk.0.attn_norm.weight"] == stores["output_norm.weight"] == "f32"
    assert stores["token_embd.weight"] == stores["blk.0.ffn_down.weight"] == "auto"


def test_a_model_without_head_is_named_without_prefix() -> None:
    shapes = {name.removeprefix("model."): s for name, s in llama_tensors(output=False).items()}
    spec = spec_of(LLAMA, shapes, architectures=["LlamaModel"])
    assert transform(spec, "token_embd.weight")["tensor"] == "embed_tokens.weight"


# RoPE


def test_llama3_factors() -> None:
    params = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    params |= {"original_max_position_embeddings": 32, "rope_theta": 100.0}
    spec = spec_of(LLAMA, rope_parameters=params)
    assert spec.tensors[0].name == "rope_freqs.weight" and spec.tensors[0].store == "f32"
    values = transform(spec, "rope_freqs.weight")["values"]
    wanted = []
    for index in range(HEAD // 2):
        wavelength = 2 * math.pi * 100.0 ** (2 * index / HEAD)
        smooth = min(max((32 / wavelength - 1) / 3, 0.0), 1.0)
        wanted.append(1 / ((1 - smooth) / 8 + smooth))
    assert values == pytest.approx(wanted, rel=1e-5)
    assert values[0] == 1.0 and values[-1] == 8.0 and 1.0 < values[1] < 8.0
    assert "llama.rope.scaling.type" not in spec.metadata


@pytest.mark.parametrize("where", ["rope_scaling", "rope_parameters"])
def test_yarn(where: str) -> None:
    params = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32}
    values = entries(spec_of(LLAMA, **{where: params}))
    assert values["llama.rope.scaling.type"] == "yarn"
    assert values["llama.rope.scaling.factor"] == 4.0
    assert values["llama.rope.scaling.original_context_length"] == 16
    assert values["llama.rope.scaling.yarn_beta_fast"] == 32.0
    assert "llama.rope.scaling.yarn_beta_slow" not in values


def test_dynamic_scaling_writes_nothing_and_unknown_types_are_refused() -> None:
    dynamic = spec_of(LLAMA, rope_scaling={"type": "dynamic", "factor": 2.0})
    assert dynamic.metadata.entries() == spec_of(LLAMA).metadata.entries()
    with pytest.raises(ModelError, match="spiral"):
        spec_of(LLAMA, rope_scaling={"type": "spiral", "factor": 2.0})


PHI3 = {**LLAMA, "architectures": ["Phi3ForCausalLM"], "original_max_position_embeddings": 16}


def phi3_tensors() -> Shapes:
    shapes = {n: s for n, s in llama_tensors().items() if "q_proj" not in n and "k_proj" not in n}
    shapes = {
        n: s for n, s in shapes.items() if "v_proj" not in n and "mlp.gate" not in n and "mlp.up" not in n
    }
    for layer in range(2):
        shapes[f"model.layers.{layer}.self_attn.qkv_proj.weight"] = ((HEADS + 2 * KV) * HEAD, D)
        shapes[f"model.layers.{layer}.mlp.gate_up_proj.weight"] = (2 * F, D)
    return shapes


@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_phi3_long_rope(kind: str) -> None:
    short, long = [1.0, 1.1, 1.2, 1.3], [2.0, 3.0, 4.0, 5.0]
    scaling = {"type": kind, "short_factor": short, "long_factor": long}
    spec = describe(checkpoint({**PHI3, "rope_scaling": scaling}, phi3_tensors()))
    assert [t.name for t in spec.tensors[:2]] == ["rope_factors_long.weight", "rope_factors_short.weight"]
    assert transform(spec, "rope_factors_long.weight")["values"] == long
    factor = entries(spec)["phi3.rope.scaling.attn_factor"]
    assert factor == pytest.approx(math.sqrt(1 + math.log(64 / 16) / math.log(16)))
    assert entries(spec)["phi3.attention.sliding_window"] == 0
    scaling["long_factor"] = long[:-1]
    with pytest.raises(ModelError, match="one number for each rotated pair"):
        describe(checkpoint({**PHI3, "rope_scaling": scaling}, phi3_tensors()))


# Experts


def moe(fused: bool) -> tuple[dict[str, Any], Shapes]:
    config = {**LLAMA, "architectures": ["Qwen3MoeForCausalLM"], "head_dim": HEAD, "num_experts_per_tok": 2}
    config |= {"moe_intermediate_size": 16, "num_local_experts" if fused else "num_experts": 3}
    shapes = {name: s for name, s in llama_tensors().items() if ".mlp." not in name}
    for layer in range(2):
        p = f"model.layers.{layer}"
        shapes[f"{p}.self_attn.q_norm.weight"] = shapes[f"{p}.self_attn.k_norm.weight"] = (HEAD,)
        shapes[f"{p}.mlp.gate.weight"] = (3, D)
        if fused:
            shapes[f"{p}.mlp.experts.gate_up_proj"] = (3, 32, D)
            shapes[f"{p}.mlp.experts.down_proj"] = (3, D, 16)
            continue
        for expert in range(3):
            e = f"{p}.mlp.experts.{expert}"
            shapes[f"{e}.gate_proj.weight"] = shapes[f"{e}.up_proj.weight"] = (16, D)
            shapes[f"{e}.down_proj.weight"] = (D, 16)
    return config, shapes


def test_experts_are_stacked_from_either_layout() -> None:
    single, fused = (describe(checkpoint(*moe(kind))) for kind in (False, True))
    assert single.metadata.entries() == fused.metadata.entries()
    assert entries(single)["general.size_label"].startswith("3x")
    shapes = {t.name: t.shape for t in single.tensors}
    assert shapes == {t.name: t.shape for t in fused.tensors}
    assert shapes["blk.0.ffn_gate_exps.weight"] == (3, 16, D)
    assert shapes["blk.0.ffn_down_exps.weight"] == (3, D, 16)

    rng = np.random.default_rng(0)
    both = rng.standard_normal((3, 32, D)).astype(np.float32)
    parts = {f"model.layers.0.mlp.experts.{e}.gate_proj.weight": both[e, :16] for e in range(3)}
    parts |= {f"model.layers.0.mlp.experts.{e}.up_proj.weight": both[e, 16:] for e in range(3)}
    for name in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"):
        one = run(transform(single, name), parts.__getitem__)
        assert np.array_equal(one.ravel(), run(transform(fused, name), lambda _: both).ravel())
    assert next(t.store for t in single.tensors if t.name == "blk.0.ffn_gate_inp.weight") == "f32"


def test_a_missing_expert_and_a_huge_number_of_experts_are_refused() -> None:
    config, shapes = moe(False)
    del shapes["model.layers.1.mlp.experts.2.up_proj.weight"]
    with pytest.raises(ModelError, match=r"experts\.2\.up_proj"):
        describe(checkpoint(config, shapes))
    for fused in (False, True):
        config, shapes = moe(fused)
        key = "num_local_experts" if fused else "num_experts"
        with pytest.raises(ModelError):
            describe(checkpoint({**config, key: 2**31 - 1}, shapes))


# Gemma 4

GEMMA4: dict[str, Any] = {
    **{key: value for key, value in GEMMA3.items() if key != "head_dim"},
    "architectures": ["Gemma4ForCausalLM"],
    "head_dim": 8,
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "layer_types": ["sliding_attention", "full_attention"],
}


def gemma4_tensors() -> Shapes:
    shapes = gemma3_tensors()
    for layer, (head, kv) in enumerate(((8, KV), (16, 1))):
        p = f"model.layers.{layer}.self_attn"
        shapes[f"{p}.q_proj.weight"], shapes[f"{p}.o_proj.weight"] = (HEADS * head, D), (D, HEADS * head)
        shapes[f"{p}.k_proj.weight"] = shapes[f"{p}.v_proj.weight"] = (kv * head, D)
        shapes[f"{p}.q_norm.weight"] = shapes[f"{p}.k_norm.weight"] = (head,)
        shapes[f"model.layers.{layer}.layer_scalar"] = (1,)
    del shapes["model.layers.1.self_attn.v_proj.weight"]
    return shapes


def test_gemma4_sizes_of_full_layers_in_both_spellings() -> None:
    google = describe(
        checkpoint({**GEMMA4, "global_head_dim": 16, "num_global_key_value_heads": 1}, gemma4_tensors())
    )
    per_layer = {"01": {"head_dim": 16, "num_key_value_heads": 1}}
    new = describe(checkpoint({**GEMMA4, "per_layer_config": per_layer}, gemma4_tensors()))
    assert google == new
    values = entries(google)
    assert values["gemma4.attention.head_count_kv"] == [KV, 1] == google.hparams.n_head_kv
    assert (values["gemma4.attention.key_length"], values["gemma4.attention.key_length_swa"]) == (16, 8)
    assert values["gemma4.attention.sliding_window_pattern"] == [True, False]
    assert transform(google, "rope_freqs.weight")["values"] == [1.0] * 2 + [1e30] * 6
    scale = next(tensor for tensor in google.tensors if tensor.name == "blk.0.layer_output_scale.weight")
    assert scale.shape == (1,) and scale.store == "f32"


@pytest.mark.parametrize(
    "change",
    [
        {"per_layer_config": {"9": {"head_dim": 16}}},
        {"per_layer_config": {"x": {"head_dim": 16}}},
        {"per_layer_config": [1]},
        {"layer_types": ["sliding_attention"]},
        {"layer_types": ["sliding_attention", "linear_attention"]},
        {"num_kv_shared_layers": 2},
        {"num_kv_shared_layers": -1},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
        {"global_head_dim": "16"},
    ],
)
def test_gemma4_refuses(change: dict[str, Any]) -> None:
    good = {"global_head_dim": 16, "num_global_key_value_heads": 1}
    with pytest.raises(ModelError, match=r"config\.json"):
        describe(checkpoint({**GEMMA4, **good, **change}, gemma4_tensors()))


# Refusals

NUMBERS = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
           "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta"]  # fmt: skip
BAD: list[Any] = [0, -1, True, "32", [32], {"x": 1}, float("nan"), float("inf"), 10**30]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", BAD, ids=repr)
def test_bad_numbers(key: str, value: Any) -> None:
    if key in ("rms_norm_eps", "rope_theta") and value == 10**30:
        value = 10**400  # not a float
    with pytest.raises(ModelError, match=key):
        spec_of(LLAMA, **{key: value})


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_fractions_where_integers_belong(key: str) -> None:
    with pytest.raises(ModelError, match="integer"):
        spec_of(LLAMA, **{key: 2.0})


def test_huge_layer_counts_cost_nothing() -> None:
    tracemalloc.start()
    start = time.monotonic()
    for count in (10**9, 2**31 - 1, 2**64):
        with pytest.raises(ModelError, match="num_hidden_layers"):
            spec_of(LLAMA, num_hidden_layers=count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - start < 0.5 and peak < 2 << 20


def test_missing_tensors_are_listed_unknown_ones_named() -> None:
    with pytest.raises(ModelError, match=r"9 tensors missing.*model\.layers\.2"):
        spec_of(LLAMA, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"9 tensors that the architecture does not have.*model\.layers\.1"):
        spec_of(LLAMA, num_hidden_layers=1)


def test_a_wrong_shape_names_file_tensor_and_both_shapes() -> None:
    shapes = llama_tensors() | {"model.layers.0.mlp.up_proj.weight": (F, D + 1)}
    with pytest.raises(
        ModelError, match=r"safetensors: tensor 'model\.layers\.0\.mlp\.up_proj.*48x33.*48x32"
    ):
        spec_of(LLAMA, shapes)


@pytest.mark.parametrize(("rows", "stated"), [(V, V + 1), (V, V - 1)])
def test_vocabulary_size_against_embedding(rows: int, stated: int) -> None:
    with pytest.raises(ModelError, match=f"vocab_size is {stated}, but .* has {rows} rows"):
        spec_of(LLAMA, vocab_size=stated)


def test_fp8_with_scales_is_refused_plain_fp8_is_not() -> None:
    fp8 = {"quant_method": "fp8"}
    shapes = llama_tensors()
    plain = describe(checkpoint({**LLAMA, "quantization_config": fp8}, shapes, dtype="F8_E4M3"))
    assert len(plain.tensors) == len(shapes)
    shapes["model.layers.0.mlp.up_proj.weight_scale_inv"] = (1, 1)
    for config in (LLAMA, {**LLAMA, "quantization_config": fp8}):
        with pytest.raises(ModelError, match="weight_scale_inv"):
            describe(checkpoint(config, shapes))


def test_integer_weights_are_refused() -> None:
    with pytest.raises(ModelError, match="I32"):
        describe(checkpoint(LLAMA, llama_tensors(), dtype="I32"))


def test_two_names_for_one_tensor_are_refused() -> None:
    shapes = llama_tensors() | {"model.language_model.norm.weight": (D,)}
    with pytest.raises(ModelError, match="both stand for"):
        spec_of(LLAMA, shapes)


def test_buffers_are_skipped() -> None:
    shapes = llama_tensors() | {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)}
    assert spec_of(LLAMA, shapes) == spec_of(LLAMA)


def test_no_weights() -> None:
    with pytest.raises(ModelError, match="no weights"):
        spec_of(LLAMA, {})


def test_unknown_class_lists_the_supported_ones() -> None:
    with pytest.raises(ModelError, match=r"models lists; similar names are .*ForCausalLM"):
        spec_of(LLAMA, architectures=["FooForCausalLM"])
    assert {"LlamaForCausalLM", "Qwen3MoeForCausalLM", "Phi3ForCausalLM", "BertModel"} <= set(supported())


ONE_CLASS_EACH = sorted({min(classes) for classes in architectures().values()})
"""Classes of one architecture have one table."""


@pytest.mark.parametrize("family", ONE_CLASS_EACH)
def test_any_configuration_ends_in_a_model_error(family: str) -> None:
    """Whatever a configuration holds, nothing but the package's own errors comes out."""
    rng = np.random.default_rng(len(family))
    base, shapes = whole_model(family)
    odd: list[Any] = [*BAD, *ODD]
    refused = 0
    for _ in range(100):
        chosen = {
            str(rng.choice(KEYS)): odd[int(rng.integers(len(odd)))] for _ in range(int(rng.integers(1, 4)))
        }
        try:
            describe(checkpoint({**base, **chosen, "architectures": [family]}, shapes))
        except SrdError as error:
            assert ": " in str(error) and ". " in str(error), str(error)
            refused += 1
    assert refused > 10


KEYS = [
    *LLAMA, *GEMMA4, "rope_scaling", "rope_parameters", "num_experts", "num_experts_per_tok", "top_k_experts",
    "moe_intermediate_size", "head_dim", "per_layer_config", "enable_moe_block", "quantization_config",
    "text_config", "partial_rotary_factor", "no_rope_layers", "use_parallel_residual", "_name_or_path",
    "sliding_window", "final_logit_softcapping", "use_double_wide_mlp", "is_causal", "mlp_only_layers",
    "decoder_sparse_step", "original_max_position_embeddings", "rope_local_base_freq", "global_head_dim",
]  # fmt: skip
ODD: list[Any] = [
    None, {}, [], "", "a/b/c", 1.5, {"type": "yarn"}, {"rope_type": "llama3", "factor": 2},
    {"full_attention": 3}, {"full_attention": {"rope_type": 4}}, {"rope_type": []}, {"long_factor": [1]},
    {"0": {"head_dim": "x"}}, {"1": {"head_dim": 2**40}}, [None], {"quant_method": {}}, 7, 2**31 - 1, False,
    {"rope_type": "longrope", "long_factor": {}}, {"full_attention": {"partial_rotary_factor": 9}},
]  # fmt: skip


def whole_model(family: str) -> tuple[dict[str, Any], Shapes]:
    """A configuration and tensors that fit each other, where a test has some for the family."""
    if family.startswith("Gemma4"):
        return {**GEMMA4, "global_head_dim": 16, "num_global_key_value_heads": 1}, gemma4_tensors()
    if family.startswith("Gemma3"):
        return GEMMA3, gemma3_tensors()
    if family.startswith("Phi3"):
        return PHI3, phi3_tensors()
    if "Moe" in family:
        return moe(fused=False)
    return LLAMA, llama_tensors()


# Hostile folders

TOKENIZER_OR_READER = ("tokenizer_", "index_", "shard_", "weights_")


def test_hostile_folders_end_as_their_manifest_says(bad_models: Path) -> None:
    manifest = json.loads((bad_models.parent / "MANIFEST.json").read_text())
    checked = 0
    for case in manifest:
        name = case["file"].removeprefix("dir/").rstrip("/")
        if not case["file"].startswith("dir/") or name.startswith(TOKENIZER_OR_READER):
            continue
        start = time.monotonic()
        if case["expect"] == "accept":
            assert describe(Checkpoint.open(bad_models / name)).tensors
        else:
            with pytest.raises(SrdError) as caught:
                describe(Checkpoint.open(bad_models / name))
            assert name in str(caught.value), caught.value
        assert time.monotonic() - start < 2
        checked += 1
    assert checked > 30


# Files


def test_json_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for text, what in (
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("[1]", "object is expected"),
        ('{"a": }', "not JSON"),
        ("[" * 100_000, "nested too deep|not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "thousands of digits"),
    ):
        file.write_text(text)
        with pytest.raises(FormatError, match=what):
            load_json(file)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(FormatError, match="not UTF-8 at byte 7"):
        load_json(file)
    with pytest.raises(FormatError, match="larger than"):
        load_json(file, limit=4)
    with pytest.raises(SrdIOError, match="No such file"):
        load_json(tmp_path / "missing.json")
    with pytest.raises(SrdIOError):
        load_json(tmp_path)


def test_card() -> None:
    card = parse(
        """license: apache-2.0  # a comment
language:
- en
- no
tags: [a, 'b, c',
  d]
license_link: >-
  https://example.com/
  licence
model-index:
- name: x
  results:
  - task: y
base_model:
    - org/Base-1B
datasets:
- {name: y}
empty:
nothing: null
model_name: 'It''s'
"""
    )
    assert card["license"] == "apache-2.0"
    assert card["language"] == ["en", "no"]
    assert card["tags"] == ["a", "b, c", "d"]
    assert card["license_link"] == "https://example.com/ licence"
    assert card["base_model"] == ["org/Base-1B"]
    assert card["model_name"] == "It's"
    assert (
        "empty" not in card and "nothing" not in card and "model-index" not in card and card["datasets"] == []
    )


def test_names() -> None:
    parts = split_name("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_000_000)
    assert (parts.organization, parts.basename, parts.size_label) == ("TinyLlama", "TinyLlama", "1.1B")
    assert (parts.finetune, parts.version) == ("Chat", "v1.0")
    assert split_name("phi-3-mini-128k-instruct", 3_800_000_000).finetune == "128k-instruct"
    assert split_name("bloom-7b1-x", 7_000_000_000).size_label == "7.1B"
    assert split_name("gemma", 1).basename is None
    assert title("gemma4_e2b-it-v2 7b") == "Gemma4_E2B It v2 7b"


def test_size_labels() -> None:
    assert Size(3_400_000, 3_400_000, 0, 0).label() == "3.4M"
    assert Size(41_000_000, 41_000_000, 0, 0).label() == "41M"
    assert Size(999, 999, 0, 0).label() == "1.0K"
    experts = Size.of([("token_embd.weight", (100, 1000)), ("blk.0.ffn_up_exps.weight", (8, 1000, 3200))])
    assert experts == Size(25_700_000, 100_000, 3_200_000, 8)
    assert experts.label() == "8x3.3M"


def test_metadata_checks_kinds_and_keeps_order() -> None:
    metadata = Metadata()
    metadata.uint32("b", 1)
    metadata.string("a", "x")
    metadata.int32s("b", [1, 2])
    assert metadata.entries() == [("b", "ARRAY[INT32]", [1, 2]), ("a", "STRING", "x")]
    for kind, value in (
        ("UINT32", -1), ("UINT32", 2**32), ("UINT32", True), ("UINT32", 1.0), ("FLOAT32", 1e39),
        ("FLOAT32", math.nan), ("STRING", 1), ("STRING", "\ud800"), ("BOOL", 1), ("ARRAY[INT32]", "ab"),
        ("ARRAY[BOOL]", [1]),
    ):  # fmt: skip
        with pytest.raises(ModelError, match="'k'"):
            metadata.add("k", kind, value)
    with pytest.raises(ValueError, match="no GGUF value type"):
        metadata.add("k", "UINT33", 1)
    other = Metadata([("c", "BOOL", True), ("a", "STRING", "y")])
    metadata.update(other)
    assert list(metadata) == ["b", "a", "c"] and metadata.get("a") == "y" and metadata.kind("c") == "BOOL"


def test_a_card_that_is_no_text_stops_no_family(tmp_path: Path) -> None:
    """Qwen 3 looks into the card for the name of the reranker."""
    (tmp_path / "README.md").write_bytes(bytes(range(256)))
    config, shapes = whole_model("Qwen3ForCausalLM")
    spec = describe(replace(checkpoint(config, shapes), folder=tmp_path))
    assert all(tensor.name != "cls.output.weight" for tensor in spec.tensors)
