"""Models with the Llama skeleton under names of their own."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers

_BASE: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
_LAYER = {
    "input_layernorm.weight": (64,),
    "mlp.down_proj.weight": (64, 96),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "post_attention_layernorm.weight": (64,),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.v_proj.weight": (32, 64),
}
_TOP = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,), "lm_head.weight": (96, 64)}
_LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
_BIASES = {f"self_attn.{p}_proj.bias": (64 if p in "qo" else 32,) for p in "qkvo"}
_NEMOTRON_BLOCKS = [
    {
        "attention": {"n_heads_in_group": 2, "no_op": False, "replace_with_linear": False},
        "ffn": {"ffn_mult": 2.625, "no_op": False, "replace_with_linear": False},
    },
    {
        "attention": {"n_heads_in_group": None, "no_op": False, "replace_with_linear": True},
        "ffn": {"ffn_mult": 5.25, "no_op": False, "replace_with_linear": False},
    },
    {
        "attention": {"n_heads_in_group": None, "no_op": True, "replace_with_linear": False},
        "ffn": {"ffn_mult": 5.25, "no_op": False, "replace_with_linear": False},
    },
    {
        "attention": {"n_heads_in_group": 4, "no_op": False, "replace_with_linear": False},
        "ffn": {"ffn_mult": 1.0, "no_op": False, "replace_with_linear": False},
    },
]


def _deci_layer(layer: int) -> dict[str, tuple[int, ...]]:
    block = _NEMOTRON_BLOCKS[layer]
    mult = int(2 * block["ffn"]["ffn_mult"] * 64 / 3)
    width = -(-mult // 256) * 256
    shapes = {
        "mlp.down_proj.weight": (64, width),
        "mlp.gate_proj.weight": (width, 64),
        "mlp.up_proj.weight": (width, 64),
        "post_attention_layernorm.weight": (64,),
    }
    group = block["attention"]["n_heads_in_group"]
    if group is not None:
        kv = 4 // group * 16
        shapes["input_layernorm.weight"] = (64,)
        shapes["self_attn.q_proj.weight"] = (64, 64)
        shapes["self_attn.k_proj.weight"] = (kv, 64)
        shapes["self_attn.v_proj.weight"] = (kv, 64)
        shapes["self_attn.o_proj.weight"] = (64, 64)
    elif block["attention"]["replace_with_linear"]:
        shapes["input_layernorm.weight"] = (64,)
        shapes["self_attn.linear_attn.weight"] = (64, 64)
    return shapes


CASES = (
    Case(
        "internlm3",
        {
            **{k: v for k, v in _BASE.items() if k != "attention_bias"},
            "architectures": ["InternLM3ForCausalLM"],
            "bias": False,
            "head_dim": 16,
            "model_type": "internlm3",
            "qkv_bias": False,
            "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
        },
        {**_TOP, **layers(2, _LAYER)},
    ),
    Case(
        "llama-bidirectional",
        {
            **_BASE,
            "architectures": ["LlamaBidirectionalModel"],
            "head_dim": 16,
            "model_type": "llama_bidirec",
            "rope_scaling": _LLAMA3,
        },
        {
            **{k: v for k, v in _TOP.items() if k != "lm_head.weight"},
            **layers(2, _LAYER),
        },
    ),
    Case(
        "nanbeige",
        {
            **_BASE,
            "architectures": ["NanbeigeForCausalLM"],
            "head_dim": 16,
            "model_type": "nanbeige",
            "num_loops": 2,
            "skip_loop_final_norm": True,
        },
        {**_TOP, **layers(2, _LAYER)},
    ),
    Case(
        "nanbeige-plain",
        {**_BASE, "architectures": ["NanbeigeForCausalLM"], "model_type": "nanbeige"},
        {**_TOP, **layers(2, _LAYER)},
    ),
    Case(
        "pangu-embedded",
        {
            **{k: v for k, v in _BASE.items() if k not in ("attention_bias",)},
            "architectures": ["PanguEmbeddedForCausalLM"],
            "bias": True,
            "model_type": "PanguEmbedded",
        },
        {**_TOP, **layers(2, {**_LAYER, **_BIASES})},
    ),
    Case(
        "pangu-embedded-tied",
        {
            **_BASE,
            "architectures": ["PanguEmbeddedForCausalLM"],
            "head_dim": 16,
            "model_type": "PanguEmbedded",
            "tie_word_embeddings": True,
        },
        {**_TOP, **layers(2, {**_LAYER, **_BIASES})},
    ),
    Case(
        "maincoder",
        {
            **_BASE,
            "architectures": ["MaincoderForCausalLM"],
            "attention_out_bias": False,
            "head_dim": 16,
            "model_type": "maincoder",
            "tie_word_embeddings": True,
            "use_qk_norm": True,
        },
        {
            **{k: v for k, v in _TOP.items() if k != "lm_head.weight"},
            **layers(2, {**_LAYER, "self_attn.q_norm.weight": (16,), "self_attn.k_norm.weight": (16,)}),
        },
    ),
    Case(
        "janus",
        {
            "architectures": ["JanusForConditionalGeneration"],
            "image_token_id": 90,
            "model_type": "janus",
            "text_config": {**_BASE, "model_type": "llama"},
            "torch_dtype": "bfloat16",
            "vision_config": {"hidden_size": 32, "model_type": "janus_vision_model"},
            "vq_config": {"embed_dim": 8, "model_type": "janus_vqgan"},
        },
        {
            "lm_head.weight": (96, 64),
            "model.aligner.fc1.weight": (64, 32),
            "model.generation_aligner.fc1.weight": (64, 8),
            "model.generation_embeddings.weight": (16, 8),
            "model.generation_head.proj_out.weight": (64, 64),
            "model.language_model.embed_tokens.weight": (96, 64),
            "model.language_model.norm.weight": (64,),
            "model.vision_model.post_layernorm.weight": (32,),
            "model.vqmodel.quant_conv.weight": (8, 8, 1, 1),
            **layers(2, _LAYER, "model.language_model.layers"),
        },
    ),
    Case(
        "sarashina2-vision",
        {
            "architectures": ["Sarashina2VisionForCausalLM"],
            "end_image_token_index": 92,
            "image_token_index": 90,
            "model_type": "sarashina2_vision",
            "start_image_token_index": 91,
            "text_config": {
                **_BASE,
                "architectures": ["LlamaForCausalLM"],
                "head_dim": 16,
                "model_type": "llama",
            },
            "torch_dtype": "bfloat16",
            "vision_config": {"embed_dim": 32, "model_type": "qwen2_vl"},
        },
        {
            "llm.lm_head.weight": (96, 64),
            "llm.model.embed_tokens.weight": (96, 64),
            "llm.model.norm.weight": (64,),
            "norm.bias": (64,),
            "norm.weight": (64,),
            "visual.blocks.0.norm1.weight": (32,),
            **layers(2, _LAYER, "llm.model.layers"),
        },
    ),
    Case(
        "cogvlm",
        {
            "architectures": ["CogVLMForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 96,
            "max_position_embeddings": 256,
            "model_type": "cogvlm",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 4,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-05,
            "template_version": "chat",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vision_config": {"hidden_size": 32, "num_hidden_layers": 1},
            "vocab_size": 96,
        },
        {
            **_TOP,
            "model.vision.boi": (1, 1, 64),
            "model.vision.transformer.layers.0.input_layernorm.weight": (32,),
            **layers(
                2,
                {
                    "input_layernorm.weight": (64,),
                    **{
                        f"mlp.{part}_mlp.{p}_proj.weight": ((64, 96) if p == "down" else (96, 64))
                        for part in ("language", "vision")
                        for p in ("down", "gate", "up")
                    },
                    "post_attention_layernorm.weight": (64,),
                    "self_attn.language_expert_dense.weight": (64, 64),
                    "self_attn.language_expert_query_key_value.weight": (192, 64),
                    "self_attn.vision_expert_dense.weight": (64, 64),
                    "self_attn.vision_expert_query_key_value.weight": (192, 64),
                },
            ),
        },
    ),
    Case(
        "deci-nemotron",
        {
            **_BASE,
            "architectures": ["DeciLMForCausalLM"],
            "block_configs": _NEMOTRON_BLOCKS,
            "intermediate_size": None,
            "model_type": "nemotron-nas",
            "num_hidden_layers": 4,
            "num_key_value_heads": None,
            "rope_scaling": _LLAMA3,
        },
        {**_TOP, **{f"model.layers.{i}.{n}": s for i in range(4) for n, s in _deci_layer(i).items()}},
    ),
    Case(
        "deci-7b",
        {
            **{k: v for k, v in _BASE.items() if k != "num_key_value_heads"},
            "architectures": ["DeciLMForCausalLM"],
            "model_type": "deci",
            "num_key_value_heads_per_layer": [4, 2],
            "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        },
        {
            **_TOP,
            **layers(2, _LAYER),
            "model.layers.0.self_attn.k_proj.weight": (64, 64),
            "model.layers.0.self_attn.v_proj.weight": (64, 64),
        },
    ),
    Case(
        "xverse",
        {
            **{
                k: v
                for k, v in _BASE.items()
                if k not in ("num_key_value_heads", "attention_bias", "rope_theta")
            },
            "architectures": ["XverseForCausalLM"],
            "max_tokenizer_truncation": 256,
            "model_type": "xverse",
        },
        {
            **_TOP,
            **layers(2, {**_LAYER, "self_attn.k_proj.weight": (64, 64), "self_attn.v_proj.weight": (64, 64)}),
        },
    ),
    Case(
        "xverse-gqa",
        {
            **{k: v for k, v in _BASE.items() if k not in ("attention_bias",)},
            "architectures": ["XverseForCausalLM"],
            "model_type": "xverse",
            "rope_theta": 500000,
        },
        {**_TOP, **layers(2, _LAYER)},
    ),
    Case(
        "baichuan2-7b",
        {
            **{
                k: v
                for k, v in _BASE.items()
                if k not in ("num_key_value_heads", "attention_bias", "rope_theta")
            },
            "architectures": ["BaichuanForCausalLM"],
            "model_max_length": 256,
            "model_type": "baichuan",
            "z_loss_weight": 0,
        },
        {
            **_TOP,
            **layers(
                2,
                {
                    **{
                        k: v
                        for k, v in _LAYER.items()
                        if k[10:11] != "q" and "k_proj" not in k and "v_proj" not in k
                    },
                    "self_attn.W_pack.weight": (192, 64),
                },
            ),
        },
    ),
    Case(
        "baichuan-7b",
        {
            **{
                k: v
                for k, v in _BASE.items()
                if k not in ("num_key_value_heads", "attention_bias", "rope_theta")
            },
            "architectures": ["BaiChuanForCausalLM"],
            "model_type": "baichuan",
        },
        {
            **_TOP,
            **layers(
                2,
                {
                    **{
                        k: v
                        for k, v in _LAYER.items()
                        if k[10:11] != "q" and "k_proj" not in k and "v_proj" not in k
                    },
                    "self_attn.W_pack.weight": (192, 64),
                },
            ),
        },
    ),
    Case(
        "orion",
        {
            **{k: v for k, v in _BASE.items() if k != "num_key_value_heads"},
            "architectures": ["OrionForCausalLM"],
            "max_sequence_length": 256,
            "model_type": "orion",
            "rope_theta": 10000.0,
        },
        {
            **_TOP,
            "model.norm.bias": (64,),
            **layers(
                2,
                {
                    **_LAYER,
                    "input_layernorm.bias": (64,),
                    "post_attention_layernorm.bias": (64,),
                    "self_attn.k_proj.weight": (64, 64),
                    "self_attn.v_proj.weight": (64, 64),
                },
            ),
        },
    ),
    *(
        Case(
            f"eagle3-{number}",
            {**_BASE, "architectures": [name], "model_type": "llama", "rope_scaling": _LLAMA3},
            {**_TOP, **layers(2, _LAYER)},
        )
        for number, name in enumerate(
            ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel")
        )
    ),
)
