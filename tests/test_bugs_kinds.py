"""Further cases of the kinds of fixtures/bugs: names, types and settings of checkpoints as people really have them."""

from __future__ import annotations

from typing import Any

import pytest

from srd_rs.checkpoint import SourceTensor
from srd_rs.errors import ModelError
from srd_rs.families import describe
from test_models import LLAMA, D, checkpoint, llama_tensors, spec_of

WRAPPERS = (
    *("_orig_mod.", "module.", "base_model.model.", "_forward_module.", "_fsdp_wrapped_module."),
    *("_checkpoint_wrapped_module.", "model.", "module._orig_mod.", "_orig_mod.module.base_model.model."),
    "base_model.model._orig_mod.",
)
PEFT = (
    *(
        "self_attn.q_proj.base_layer.weight",
        "self_attn.q_proj.lora_A.default.weight",
        "self_attn.q_proj.lora_B.weight",
    ),
    *("self_attn.q_proj.lora_magnitude_vector", "self_attn.q_proj.lora_magnitude_vector.default.weight"),
    *("mlp.down_proj.ia3_l.default", "self_attn.q_proj.oft_r.default", "self_attn.q_proj.hada_w1_a.default"),
    *("mlp.modules_to_save.default.up_proj.weight", "mlp.original_module.up_proj.weight"),
)
BUFFERS = (
    *(
        "model.rotary_emb.inv_freq",
        "model.rotary_emb.original_inv_freq",
        "model.layers.0.self_attn.masked_bias",
    ),
    *("model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.causal_mask"),
    *("model.embeddings.position_ids", "model.layers.0.self_attn.q_proj._extra_state"),
)
HEADS = ("v_head.summary.weight", "v_head.weight", "value_head.weight", "score.weight", "critic_head.weight")


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("headless", [False, True])
def test_names_in_wrappers(prefix: str, headless: bool, caplog: pytest.LogCaptureFixture) -> None:
    if prefix == "model." and headless:
        return  # these are plain names
    plain = llama_tensors()
    names = {name: name.removeprefix("model.") if headless else name for name in plain}
    found = spec_of(LLAMA, {f"{prefix}{names[name]}": shape for name, shape in plain.items()})
    assert {t.name for t in found.tensors} == {t.name for t in spec_of(LLAMA).tensors}
    assert "without" in caplog.text


@pytest.mark.parametrize("part", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
@pytest.mark.parametrize("place", ["model.", "layers.0.", "layers.1.mlp."])
def test_wrappers_within_names(part: str, place: str, caplog: pytest.LogCaptureFixture) -> None:
    shapes = {name.replace(place, f"{place}{part}."): shape for name, shape in llama_tensors().items()}
    assert len(spec_of(LLAMA, shapes).tensors) == len(spec_of(LLAMA).tensors)
    assert f"'{part}.'" in caplog.text


@pytest.mark.parametrize("prefix", ["", "pretrained_model.", "module.pretrained_model."])
@pytest.mark.parametrize("head", HEADS)
def test_heads_for_training_are_named(prefix: str, head: str, caplog: pytest.LogCaptureFixture) -> None:
    shapes = {f"{prefix}{name}": shape for name, shape in llama_tensors().items()}
    outer = prefix.removesuffix("pretrained_model.")
    found = spec_of(LLAMA, {**shapes, f"{outer}{head}": (1, D)})
    assert len(found.tensors) == len(spec_of(LLAMA).tensors)
    assert head in caplog.text and "heads for training" in caplog.text


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("name", PEFT)
def test_an_adapter_that_was_not_unloaded_is_refused(prefix: str, name: str) -> None:
    shapes = {**llama_tensors(), f"model.layers.0.{name}": (4, D)}
    with pytest.raises(ModelError, match="merge_and_unload") as caught:
        spec_of(LLAMA, {f"{prefix}{name}": shape for name, shape in shapes.items()})
    assert name in str(caught.value)


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_are_named(name: str, caplog: pytest.LogCaptureFixture) -> None:
    found = spec_of(LLAMA, {**llama_tensors(), name: (4,)})
    assert len(found.tensors) == len(spec_of(LLAMA).tensors)
    assert name in caplog.text and "buffers" in caplog.text


def test_two_tensors_that_stand_for_one_are_refused() -> None:
    twice = {**llama_tensors(), "model._orig_mod.norm.weight": (D,)}
    with pytest.raises(ModelError, match="both stand for"):
        spec_of(LLAMA, twice)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "base_model.model."])
@pytest.mark.parametrize("tied", [True, False, None])
def test_a_tied_model_that_has_the_head_alone(
    prefix: str, tied: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """As `save_model` of safetensors writes it, and transformers reads it; untied, the embedding is missing."""
    plain = {name: shape for name, shape in llama_tensors().items() if name != "lm_head.weight"}
    shapes = {name.replace("model.embed_tokens", "lm_head"): shape for name, shape in plain.items()}
    config = {**LLAMA, "tie_word_embeddings": tied} if tied is not None else LLAMA
    config = {key: value for key, value in config.items() if tied is not None or key != "tie_word_embeddings"}
    shapes = {f"{prefix}{name}": shape for name, shape in shapes.items()}
    if not tied:
        with pytest.raises(ModelError, match=r"missing from the checkpoint: .*embed_tokens"):
            spec_of(config, shapes)
        return
    assert [t.name for t in spec_of(config, shapes).tensors] == [
        t.name for t in spec_of(config, plain).tensors
    ]
    assert "in its place" in caplog.text


LEFT_OVER = ("bitsandbytes", "BitsAndBytes", "fp8", "fbgemm_fp8", "hqq", "torchao", "eetq", "quanto")


@pytest.mark.parametrize("method", LEFT_OVER)
def test_a_method_that_a_merge_left_over(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """With a buffer of integers, which is no code."""
    config = {**LLAMA, "quantization_config": {"quant_method": method, "bits": 4}}
    model = checkpoint(config, llama_tensors(), "BF16")
    buffer = "model.embeddings.position_ids"
    model.tensors[buffer] = SourceTensor(buffer, "I64", (1, 8), "model.safetensors")
    assert describe(model).tensors
    assert "left over" in caplog.text and method.lower() in caplog.text


@pytest.mark.parametrize(
    "stated",
    [
        *(
            {"quant_method": name}
            for name in ("awq", "gptq", "mxfp4", "auto-round", "compressed-tensors", "bitnet")
        ),
        *({"quant_method": "unheard-of"}, {"quant_method": 5}, {"bits": 4}, "x", ["x"]),
    ],
    ids=str,
)
def test_a_method_that_does_not_quantize_while_loading_is_refused(stated: Any) -> None:
    with pytest.raises(ModelError, match=r"quantized already.*delete quantization_config"):
        spec_of(LLAMA, quantization_config=stated)


@pytest.mark.parametrize("method", ["awq", "gptq", "mxfp4", "hqq", "compressed-tensors"])
@pytest.mark.parametrize("code", ["qweight", "scales", "weight_packed", "absmax", "weight_scale"])
def test_a_method_with_codes_that_are_not_whole_is_refused(method: str, code: str) -> None:
    shapes = {**llama_tensors(), f"model.layers.0.mlp.up_proj.{code}": (4,)}
    with pytest.raises(ModelError):
        spec_of(LLAMA, shapes, quantization_config={"quant_method": method})


@pytest.mark.parametrize("name", ["gelu", "relu", "fatrelu", "relu2", "gelu_new", "SiLU", "", 5, ["silu"]])
def test_an_activation_that_the_graph_does_not_have_is_refused(name: Any) -> None:
    """Such as a Llama that was trained again with ReLU: the file would load and answer nonsense."""
    with pytest.raises(ModelError, match="hidden_act"):
        spec_of(LLAMA, hidden_act=name)


@pytest.mark.parametrize("name", ["silu", "swish", None])
def test_an_activation_of_the_graph_is_read(name: Any) -> None:
    assert spec_of(LLAMA, hidden_act=name).tensors


@pytest.mark.parametrize("kind", ["longrope", "su"])
@pytest.mark.parametrize("where", ["rope_scaling", "rope_parameters"])
def test_factors_that_no_tensor_takes_are_refused(kind: str, where: str) -> None:
    scaling = {"rope_type": kind, "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    size = LLAMA["hidden_size"] // LLAMA["num_attention_heads"]
    with pytest.raises(ModelError, match=f"seed_oss has no RoPE scaling of type {kind}"):
        spec_of(LLAMA, architectures=["SeedOssForCausalLM"], head_dim=size, **{where: scaling})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_attention_heads", value) for value in (True, "4", 0, -1, 10**30, 4.0, [4], {})),
        *(("num_hidden_layers", value) for value in (True, "2", 0, -1, 10**30, 2.0, [2], {})),
        *(("head_dim", value) for value in ("x", 0, -1, 2.5, [8])),
        *(("rope_theta", value) for value in ("1e4", 0, -1.0, float("nan"), float("inf"), 10**400)),
        *(("rms_norm_eps", value) for value in ("1e-5", 0, float("nan"))),
    ],
)
def test_a_wrong_value_is_named_once(key: str, value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        spec_of(LLAMA, **{key: value})
    assert key in str(caught.value) and str(caught.value).count("Correct") <= 1
