"""Families for which llama.cpp's own converter makes no golden: it stops, or it makes a file that llama.cpp cannot
read. Their tensors are held against what the model's own code does with the weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interpreter import run
from patterns import pattern, write_shards
from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import ModelError
from srd_rs.families import _families, describe
from test_families_tables import LLAMA
from test_family_goldens import opened

GOLDENS = Path(__file__).parent / "data" / "families"
Shapes = dict[str, tuple[int, ...]]


def written(config: dict[str, Any], shapes: Shapes, folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the GGUF by name, before they are quantized."""
    write_shards({name: ["BF16", list(shape), "model.safetensors"] for name, shape in shapes.items()}, folder)
    (folder / "config.json").write_text("{}")
    opened = Checkpoint.open(folder)
    spec = describe(Checkpoint(folder, config, None, opened.tensors))
    weights = {name: pattern(name, shape) for name, shape in shapes.items()}
    return {t.name: run(dict(t.transform), weights.__getitem__).reshape(t.shape) for t in spec.tensors}


def rotary_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


TOP: Shapes = {"model.embed_tokens.weight": (32, 64), "model.norm.weight": (64,), "lm_head.weight": (32, 64)}
LAYER = "model.layers.0."
FFN: Shapes = {
    f"{LAYER}mlp.gate_proj.weight": (96, 64),
    f"{LAYER}mlp.up_proj.weight": (96, 64),
    f"{LAYER}mlp.down_proj.weight": (64, 96),
}
NORMS: Shapes = {f"{LAYER}input_layernorm.weight": (64,), f"{LAYER}post_attention_layernorm.weight": (64,)}
BASE = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "head_dim", "architectures")} | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "vocab_size": 32,
    "tie_word_embeddings": False,
}


def test_baichuan_splits_its_projection(tmp_path: Path) -> None:
    packed = f"{LAYER}self_attn.W_pack.weight"
    shapes = {**TOP, **FFN, **NORMS, packed: (192, 64), f"{LAYER}self_attn.o_proj.weight": (64, 64)}
    tensors = written({**BASE, "architectures": ["BaichuanForCausalLM"]}, shapes, tmp_path)
    q, k, v = np.split(pattern(packed, (192, 64)), 3)
    assert np.array_equal(tensors["blk.0.attn_q.weight"], rotary_pairs(q, 4))
    assert np.array_equal(tensors["blk.0.attn_k.weight"], rotary_pairs(k, 4))
    assert np.array_equal(tensors["blk.0.attn_v.weight"], v)


def test_cogvlm_has_two_sets_of_weights(tmp_path: Path) -> None:
    shapes = {**TOP, **NORMS, "model.vision.patch_embedding.proj.weight": (8, 3, 2, 2)}
    for part in ("language", "vision"):
        shapes[f"{LAYER}self_attn.{part}_expert_query_key_value.weight"] = (192, 64)
        shapes[f"{LAYER}self_attn.{part}_expert_dense.weight"] = (64, 64)
        for name, shape in FFN.items():
            shapes[name.replace("mlp.", f"mlp.{part}_mlp.")] = shape
    tensors = written({**BASE, "architectures": ["CogVLMForCausalLM"]}, shapes, tmp_path)
    names = {name.removeprefix("blk.0.").removesuffix(".weight") for name in tensors}
    parts = ("attn_qkv", "attn_output", "gate", "up", "down")
    wanted = {f"vis_{part}" for part in parts} | {"attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}
    assert names == wanted | {"attn_norm", "ffn_norm", "token_embd", "output_norm", "output"}
    source = f"{LAYER}mlp.vision_mlp.down_proj.weight"
    assert np.array_equal(tensors["blk.0.vis_down.weight"], pattern(source, (64, 96)))


def test_plamo_puts_the_queries_of_a_key_side_by_side(tmp_path: Path) -> None:
    # Six query heads of four values, of which three share a key: query head i uses key head i % 2.
    inner = "model.layers.layers.0."
    q, o = f"{inner}self_attn.q_proj.weight", f"{inner}self_attn.o_proj.weight"
    shapes = {
        **{name: (*shape[:-1], 24) for name, shape in TOP.items()},
        f"{inner}norm.weight": (24,),
        q: (24, 24),
        o: (24, 24),
        f"{inner}self_attn.k_proj.weight": (8, 24),
        f"{inner}self_attn.v_proj.weight": (8, 24),
        **{
            name.replace(LAYER, inner): tuple(24 if s == 64 else s for s in shape)
            for name, shape in FFN.items()
        },
        f"{inner}self_attn.rotary_emb.inv_freq": (2,),
    }
    config = {
        **BASE,
        "architectures": ["PlamoForCausalLM"],
        "hidden_size": 24,
        "num_attention_heads": 6,
        "n_shared_head": 3,
    }
    tensors = written(config, shapes, tmp_path)
    order = [0, 2, 4, 1, 3, 5]
    heads = pattern(q, (24, 24)).reshape(6, 4, 24)
    assert np.array_equal(tensors["blk.0.attn_q.weight"], heads[order].reshape(24, 24))
    columns = pattern(o, (24, 24)).reshape(24, 6, 4)
    assert np.array_equal(tensors["blk.0.attn_output.weight"], columns[:, order].reshape(24, 24))


def test_stablelm_has_a_norm_for_each_head(tmp_path: Path) -> None:
    # StableLM 2 12B: llama.cpp's converter loses these norms and stops.
    attention = f"{LAYER}self_attn."
    shapes = {
        **TOP,
        **FFN,
        "model.norm.bias": (64,),
        f"{LAYER}input_layernorm.weight": (64,),
        f"{LAYER}input_layernorm.bias": (64,),
        **{f"{attention}{name}_proj.weight": (64 if name in "qo" else 32, 64) for name in "qkvo"},
        **{f"{attention}q_layernorm.norms.{head}.weight": (16,) for head in range(4)},
        **{f"{attention}k_layernorm.norms.{head}.weight": (16,) for head in range(2)},
    }
    own = {"num_key_value_heads": 2, "qk_layernorm": True, "use_parallel_residual": True}
    tensors = written({**BASE, **own, "architectures": ["StableLmForCausalLM"]}, shapes, tmp_path)
    for kind, heads in (("q", 4), ("k", 2)):
        norms = [pattern(f"{attention}{kind}_layernorm.norms.{head}.weight", (16,)) for head in range(heads)]
        assert np.array_equal(tensors[f"blk.0.attn_{kind}_norm.weight"], np.stack(norms))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Qwen2_5_VLForConditionalGeneration", {"vocab_size": 152064, "intermediate_size": 29568}),
        ("Qwen2_5OmniModel", {"hidden_size": 3584, "num_key_value_heads": 4, "vocab_size": 152064}),
        ("Qwen3VLMoeForConditionalGeneration", {"num_experts": 60, "head_dim": 128}),
        ("Glm4vMoeForConditionalGeneration", {"vocab_size": 151424, "max_position_embeddings": 65536}),
        ("Exaone4_5_ForConditionalGeneration", {"intermediate_size": 16384, "vocab_size": 102400}),
    ],
)
def test_text_parts_leave_out_the_defaults_of_transformers(name: str, wanted: dict[str, int]) -> None:
    """Some versions save only those keys of a part that are not the default; see scripts/compare_defaults.py."""
    family = _families()[name]
    found = {**family.defaults, **family.class_defaults.get(name, {})}
    assert {key: found.get(key) for key in wanted} == wanted


def test_keys_that_are_left_out_have_the_values_of_transformers(tmp_path: Path) -> None:
    for name, key, wanted in (
        ("qwen3vl-as-published", "qwen3vl.n_deepstack_layers", 3),
        ("apertus", "apertus.rope.freq_base", 12_000_000.0),
    ):
        golden = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
        config = golden["config"]
        config.get("vision_config", {}).pop("deepstack_visual_indexes", None)
        for left_out in ("rope_parameters", "rope_scaling", "rope_theta") if name == "apertus" else ():
            config.pop(left_out, None)
        spec = describe(opened(golden, tmp_path))
        assert {found: value for found, _, value in spec.metadata.entries()}[key] == wanted
        assert ("rope_freqs.weight" in {t.name for t in spec.tensors}) == (name == "apertus")


def test_gemma3n_without_keys_of_layers_that_share_them(tmp_path: Path) -> None:
    # transformers 5 saves no keys and values of layers that attend with those of an earlier layer.
    golden = json.loads((GOLDENS / "gemma3n-text.json").read_text(encoding="utf-8"))
    last = f"model.layers.{golden['config']['num_hidden_layers'] - 1}.self_attn."
    unused = {last + name for name in ("k_proj.weight", "v_proj.weight", "k_norm.weight")}
    assert unused <= golden["sources"].keys()
    left = {name: source for name, source in golden["sources"].items() if name not in unused}
    shapes = {name: tuple(shape) for name, (_, shape) in left.items()}
    tensors = written(golden["config"], shapes, tmp_path)
    wanted = {name: row[0] for name, row in golden["text"]["tensors"].items()}
    assert {name: list(values.shape) for name, values in tensors.items()} == wanted
    zeros = {name for name, values in tensors.items() if not values.any()}
    assert zeros == {f"blk.3.{name}.weight" for name in ("attn_k", "attn_v", "attn_k_norm")}


def test_gemma3n_needs_the_keys_of_other_layers(tmp_path: Path) -> None:
    golden = json.loads((GOLDENS / "gemma3n-text.json").read_text(encoding="utf-8"))
    name = "model.layers.0.self_attn.k_proj.weight"
    shapes = {n: tuple(shape) for n, (_, shape) in golden["sources"].items() if n != name}
    with pytest.raises(ModelError, match=re.escape(name)):
        written(golden["config"], shapes, tmp_path)
