"""Tensor names as tools leave them, and tensors that are not written: none without a line that names it."""

from __future__ import annotations

from typing import Any

import pytest

from srd_rs.checkpoint import SourceTensor
from srd_rs.errors import ModelError
from srd_rs.families import class_name, describe
from test_models import GEMMA3, LLAMA, D, Shapes, V, checkpoint, gemma3_tensors, llama_tensors, spec_of


def named(shapes: Shapes, prefix: str, old: str = "") -> Shapes:
    """The same tensors, with `prefix` in place of `old` before their names."""
    return {prefix + name.removeprefix(old): shape for name, shape in shapes.items()}


def written(shapes: Shapes, **changes: Any) -> list[tuple[str, tuple[int, ...]]]:
    return sorted((tensor.name, tensor.shape) for tensor in spec_of(LLAMA, shapes, **changes).tensors)


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.", "module.", "base_model.model.", "module._orig_mod.", "_orig_mod.module.",
        "base_model.model.module.", "_orig_mod._orig_mod.",
    ],
)  # fmt: skip
def test_wrappers_before_all_names(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    assert written(named(llama_tensors(), prefix)) == written(llama_tensors())
    assert f"'{prefix.split('.')[0]}." in caplog.text


def test_a_compiled_part_inside(caplog: pytest.LogCaptureFixture) -> None:
    inside = {
        name.replace("model.layers", "model._orig_mod.layers"): s for name, s in llama_tensors().items()
    }
    assert written(inside) == written(llama_tensors())
    assert "'_orig_mod.'" in caplog.text


def test_a_wrapper_before_some_names_is_no_wrapper() -> None:
    shapes = llama_tensors()
    shapes["module.model.norm.weight"] = shapes.pop("model.norm.weight")
    with pytest.raises(ModelError, match=r"module\.model\.norm"):
        written(shapes)


@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "base_model.model."])
def test_names_without_the_prefix_of_the_class(
    output: bool, wrapper: str, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = {name.removeprefix("model."): s for name, s in llama_tensors(output=output).items()}
    tied = {"tie_word_embeddings": not output}
    assert written(named(shapes, wrapper), **tied) == written(llama_tensors(output=output), **tied)
    assert "'model.'" in caplog.text


def test_a_class_without_head_needs_no_note(caplog: pytest.LogCaptureFixture) -> None:
    shapes = {name.removeprefix("model."): s for name, s in llama_tensors(output=False).items()}
    assert written(shapes, architectures=["LlamaModel"])
    assert not caplog.records


EXTRA = [
    ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,), "buffers"),
    ("model.rotary_emb.inv_freq", (4,), "buffers"),
    ("model.embeddings.position_ids", (1, 8), "buffers"),
    ("mtp.layers.0.self_attn.q_proj.weight", (D, D), "multi-token"),
    ("model.mtp_layers.0.norm.weight", (D,), "multi-token"),
    ("v_head.summary.weight", (1, D), "heads"),
    ("v_head.summary.bias", (1,), "heads"),
    ("score.weight", (1, D), "heads"),
    ("visual.blocks.0.norm1.weight", (D,), "vision"),
    ("model.vision_tower.encoder.weight", (D, D), "vision"),
    ("multi_modal_projector.linear_1.weight", (D, D), "vision"),
    ("audio_tower.conv1.weight", (D, D), "audio"),
]


@pytest.mark.parametrize(
    ("name", "shape", "why"), EXTRA, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_tensors_that_transformers_ignores_are_named(
    name: str, shape: tuple[int, ...], why: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert written(named({**llama_tensors(), name: shape}, prefix)) == written(llama_tensors())
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 1 and f"'{prefix}{name}'" in lines[0] and why in lines[0]


def test_all_extra_tensors_are_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    extra = {name: shape for name, shape, _ in EXTRA}
    assert written({**llama_tensors(), **extra}) == written(llama_tensors())
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 1 and "4 tensors of vision" in lines[0] and "3 tensors of buffers" in lines[0]


def test_prediction_layers_behind_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    """As DeepSeek and GLM store them: a whole layer more, with projections that no other layer has."""
    layers = llama_tensors(layers=3)
    layers |= {f"model.layers.2.{name}.weight": (D,) for name in ("enorm", "hnorm", "shared_head.norm")}
    layers["model.layers.2.eh_proj.weight"] = (D, 2 * D)
    assert written(layers) == written(llama_tensors())
    assert "multi-token" in caplog.text


def test_a_layer_too_many_is_still_an_error() -> None:
    with pytest.raises(ModelError, match=r"does not have.*model\.layers\.2"):
        written(llama_tensors(layers=3))


def test_an_unknown_tensor_is_still_an_error() -> None:
    with pytest.raises(ModelError, match="mystery"):
        written({**llama_tensors(), "model.layers.0.mystery.weight": (D, D)})


def test_matrices_of_an_adapter_that_was_not_merged() -> None:
    base = named(llama_tensors(), "base_model.model.")
    base["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = (8, D)
    with pytest.raises(ModelError, match="LoRA matrices"):
        written(base)


def test_a_second_output_matrix_of_gemma(caplog: pytest.LogCaptureFixture) -> None:
    config = {**GEMMA3, "architectures": ["Gemma2ForCausalLM"]}
    shapes = {
        name: shape
        for name, shape in gemma3_tensors().items()
        if "_norm.weight" not in name or "_proj" in name
    }
    shapes |= {
        name: shape
        for name, shape in gemma3_tensors().items()
        if "q_norm" not in name and "k_norm" not in name
    }
    shapes["lm_head.weight"] = (V, D)
    assert all(tensor.name != "output.weight" for tensor in describe(checkpoint(config, shapes)).tensors)
    assert "a copy of the embedding" in caplog.text
    with pytest.raises(ModelError, match="tie_word_embeddings"):
        describe(checkpoint({**config, "tie_word_embeddings": False}, shapes))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize(
    "left",
    [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {"load_in_8bit": True}, {"load_in_4bit": True}],
)
def test_bitsandbytes_left_over(dtype: str, left: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    config = {**LLAMA, "quantization_config": left}
    assert describe(checkpoint(config, llama_tensors(), dtype)).tensors
    assert "left over" in caplog.text


@pytest.mark.parametrize("dtype", ["U8", "I8", "F8_E4M3"])
def test_bitsandbytes_with_codes(dtype: str) -> None:
    model = checkpoint({**LLAMA, "quantization_config": {"load_in_8bit": True}}, llama_tensors())
    name = "model.layers.0.mlp.up_proj.weight"
    model.tensors[name] = SourceTensor(name, dtype, model.tensors[name].shape, "model.safetensors")
    with pytest.raises(ModelError, match="quantized already"):
        describe(model)


@pytest.mark.parametrize("head_dim", [2147483646, 65537, 4096])
def test_head_sizes_are_checked_before_tables_are_made(head_dim: int) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32}
    with pytest.raises(ModelError, match=r"head_dim|q_proj"):
        spec_of(LLAMA, head_dim=head_dim, rope_scaling=scaling)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("qwen3_moe", "Qwen3MoeForCausalLM"),
        ("gemma3_text", "Gemma3ForCausalLM"),
        ("gpt2", "GPT2LMHeadModel"),
        ("xlm-roberta", "XLMRobertaModel"),
        ("llava", "LlamaForCausalLM"),
        (None, "LlamaForCausalLM"),
    ],
)
def test_a_class_that_is_missing_is_named_by_the_model_type(kind: str | None, expected: str) -> None:
    with pytest.raises(ModelError, match=rf'architectures is missing.*\["{expected}"\]'):
        class_name(checkpoint({"model_type": kind}, {}))


@pytest.mark.parametrize("part", ["text_config", "llm_config", "language_config"])
def test_the_text_part_has_three_names(part: str) -> None:
    text = {key: value for key, value in LLAMA.items() if key != "architectures"}
    plain = describe(checkpoint(LLAMA, llama_tensors()))
    nested = describe(checkpoint({"architectures": LLAMA["architectures"], part: text}, llama_tensors()))
    assert nested.metadata.entries() == plain.metadata.entries()
