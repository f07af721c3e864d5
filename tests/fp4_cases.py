"""Tiny checkpoints of FP4 whose weights follow from the names of their tensors: configurations, files and sources."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patterns import write_config, write_shards

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A checkpoint. `sources` has the type and the shape of each tensor."""

    name: str
    config: dict[str, Any]
    sources: dict[str, tuple[str, Shape]]
    files: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(case: Case, folder: Path, scale: float = 1.0) -> None:
    """Write the files of a case into a new folder. Weights in floats are multiplied by `scale`."""
    folder.mkdir()
    write_config(case.config, folder)
    for name, value in case.files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    sources = {name: [kind, list(shape), "model.safetensors"] for name, (kind, shape) in case.sources.items()}
    write_shards(sources, folder, scale)


def modelopt(name: str, rows: int, columns: int, *, inputs: bool = True) -> dict[str, tuple[str, Shape]]:
    """The tensors of a weight as modelopt writes them."""
    found: dict[str, tuple[str, Shape]] = {
        f"{name}.weight": ("U8", (rows, columns // 2)),
        f"{name}.weight_scale": ("F8_E4M3", (rows, columns // 16)),
        f"{name}.weight_scale_2": ("F32", ()),
    }
    return found | ({f"{name}.input_scale": ("F32", ())} if inputs else {})


def compressed(name: str, rows: int, columns: int) -> dict[str, tuple[str, Shape]]:
    """The tensors of a weight as compressed-tensors writes them."""
    return {
        f"{name}.weight_packed": ("U8", (rows, columns // 2)),
        f"{name}.weight_scale": ("F8_E4M3", (rows, columns // 16)),
        f"{name}.weight_global_scale": ("F32", (1,)),
        f"{name}.input_global_scale": ("F32", (1,)),
    }


_WIDTH, _FFN, _HEADS, _HEADS_KV, _HEAD, _VOCAB, _LAYERS = 128, 192, 4, 2, 32, 96, 2
_COMMON = {
    "hidden_size": _WIDTH, "intermediate_size": _FFN, "num_attention_heads": _HEADS, "num_key_value_heads": _HEADS_KV,
    "head_dim": _HEAD, "num_hidden_layers": _LAYERS, "vocab_size": _VOCAB, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip


def _attention(weight: Any, prefix: str) -> dict[str, tuple[str, Shape]]:
    found: dict[str, tuple[str, Shape]] = {}
    for part, rows, columns in (
        ("q_proj", _HEADS * _HEAD, _WIDTH),
        ("k_proj", _HEADS_KV * _HEAD, _WIDTH),
        ("v_proj", _HEADS_KV * _HEAD, _WIDTH),
        ("o_proj", _WIDTH, _HEADS * _HEAD),
    ):
        found |= weight(f"{prefix}.self_attn.{part}", rows, columns)
    return found


def _ffn(weight: Any, prefix: str, width: int) -> dict[str, tuple[str, Shape]]:
    found: dict[str, tuple[str, Shape]] = {}
    for part, rows, columns in (
        ("gate_proj", width, _WIDTH),
        ("up_proj", width, _WIDTH),
        ("down_proj", _WIDTH, width),
    ):
        found |= weight(f"{prefix}.{part}", rows, columns)
    return found


def _model(weight: Any, *, head_norms: bool, experts: int = 0) -> dict[str, tuple[str, Shape]]:
    found: dict[str, tuple[str, Shape]] = {
        "model.embed_tokens.weight": ("BF16", (_VOCAB, _WIDTH)),
        "model.norm.weight": ("BF16", (_WIDTH,)),
        "lm_head.weight": ("BF16", (_VOCAB, _WIDTH)),
    }
    for i in range(_LAYERS):
        prefix = f"model.layers.{i}"
        found |= {
            f"{prefix}.{norm}.weight": ("BF16", (_WIDTH,))
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        if head_norms:
            found |= {f"{prefix}.self_attn.{n}_norm.weight": ("BF16", (_HEAD,)) for n in "qk"}
        found |= _attention(weight, prefix)
        if not experts:
            found |= _ffn(weight, f"{prefix}.mlp", _FFN)
            continue
        found[f"{prefix}.mlp.gate.weight"] = ("BF16", (experts, _WIDTH))
        for e in range(experts):
            found |= _ffn(weight, f"{prefix}.mlp.experts.{e}", _FFN)
    return found


def gpt_oss() -> Case:
    """gpt-oss with experts of MXFP4, the sizes of which are those of its golden."""
    path = Path(__file__).parent / "data" / "families" / "gpt-oss.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    sources: dict[str, tuple[str, Shape]] = {}
    for name, (kind, shape) in golden["sources"].items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            sources[name] = (kind, tuple(shape))
            continue
        experts, inputs, outputs = shape
        sources[f"{name}_blocks"] = ("U8", (experts, outputs, inputs // 32, 16))
        sources[f"{name}_scales"] = ("U8", (experts, outputs, inputs // 32))
    config = {**golden["config"], "quantization_config": {"quant_method": "mxfp4"}}
    return Case("gpt-oss-mxfp4", config, sources)


def cases() -> list[Case]:
    settings = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    dense = _model(modelopt, head_norms=False)
    # A scale of 1 is left out of a GGUF.
    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **_COMMON}
    qwen3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **_COMMON}
    moe = {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], **_COMMON, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": _FFN, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "norm_topk_prob": True,
    }  # fmt: skip
    group = {"weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}}
    packed = {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": group},
    }
    without_inputs = {"quant_algo": "W4A16_NVFP4", "quant_method": "modelopt"}
    bare = _model(lambda *of: modelopt(*of, inputs=False), head_norms=True)
    output = modelopt("lm_head", _VOCAB, _WIDTH)
    with_output = {k: v for k, v in dense.items() if k != "lm_head.weight"} | output
    return [
        Case("llama-modelopt", llama | {"quantization_config": settings}, dense),
        Case("llama-modelopt-output", llama | {"quantization_config": settings}, with_output),
        Case(
            "qwen3-compressed",
            qwen3 | {"quantization_config": packed},
            _model(compressed, head_norms=True),
        ),
        Case("qwen3-w4a16", qwen3 | {"quantization_config": without_inputs}, bare),
        gpt_oss(),
        Case(
            "qwen3moe-modelopt",
            moe,
            _model(modelopt, head_norms=True, experts=4),
            {
                "hf_quant_config.json": {
                    "producer": {"name": "modelopt"},
                    "quantization": {"quant_algo": "NVFP4"},
                }
            },
        ),
    ]
