"""The tables of Mixtral and Mistral 3, and other names of these models."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.checkpoint import OWN_FORMAT
from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    LATENT_NORMS,
    LLAMA_ATTENTION,
    LLAMA_METADATA,
    NORMS,
    WINDOW,
)
from srd_rs.families.tables.deepseek import DEEPSEEK2, GATING
from srd_rs.families.tables.llama import LLAMA_TABLE
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import LLAMA

MIXTRAL: Final = FamilyTable(
    arch="llama",
    classes=("MixtralForCausalLM",),
    vocabulary=LLAMA,
    defaults={
        **LLAMA_DEFAULTS,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 2,
        "num_experts": 8,
    },
    layer=(Rows((*NORMS, *LLAMA_ATTENTION, "block_sparse_moe.gate > ffn_gate_inp | e d")),),
    experts=StackedExperts(
        "block_sparse_moe.experts",
        "num_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps f d", "w2 ffn_down_exps d f", "w3 ffn_up_exps f d"),
    ),
    metadata=LLAMA_METADATA,
    longrope=True,
    refusals=(WINDOW,),
    # as transformers 5 saves them
    renames=((r"\.mlp\.(gate|experts)\.", r".block_sparse_moe.\1."),),
    rope_theta=1_000_000.0,
    llama3_rope=True,
)

_SCALED: Final = "rope['llama_4_scaling_beta']"
# Experts and attention of DeepSeek V2. transformers scales the queries of distant tokens by `llama_4_scaling_beta`.
_MISTRAL4: Final = FamilyTable(
    arch="mistral4",
    classes=(),
    vocabulary=LLAMA,
    defaults={
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "n_shared_experts": 1,
        "n_routed_experts": 128,
        "num_experts_per_tok": 4,
        "routed_scaling_factor": 1.0,
        "kv_lora_rank": 256,
        "q_lora_rank": 1024,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 64,
        "v_head_dim": 128,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 0,
        "norm_topk_prob": True,
        "max_position_embeddings": 1048576,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 128.0,
            "original_max_position_embeddings": 8192,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    sizes=DEEPSEEK2.sizes,
    layer=(
        *DEEPSEEK2.layer,
        Rows(
            (
                "mlp.experts.gate_up_proj! > ffn_gate_up_exps | e 2*x d",
                "mlp.experts.down_proj! > ffn_down_exps | e d x",
            ),
            "layer >= dense",
        ),
    ),
    n_expert="n_routed_experts",
    n_head_kv="1",
    metadata=(
        *(line for line in DEEPSEEK2.metadata if line != GATING),
        f"f32 ~attention.temperature_scale = {_SCALED}",
        f"u32 ~attention.temperature_length = rope['original_max_position_embeddings'] if {_SCALED} else None",
    ),
    skip=DEEPSEEK2.skip,
    refusals=(LATENT_NORMS,),
)

_YARN: Final = "model_type == 'ministral3'"
MISTRAL3: Final = FamilyTable(
    arch="mistral3",
    classes=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    vocabulary=LLAMA,
    defaults={**LLAMA_DEFAULTS, **LLAMA_TABLE.class_defaults["MistralForCausalLM"]},
    class_defaults={
        "Ministral3ForCausalLM": {
            "vocab_size": 131072,
            "num_hidden_layers": 34,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
            "rope_theta": 1_000_000.0,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1_000_000.0,
                "factor": 16.0,
                "original_max_position_embeddings": 16384,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale_all_dim": 1.0,
                "mscale": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        }
    },
    layer=LLAMA_LAYER,
    metadata=(
        *LLAMA_METADATA,
        f"f32 ~rope.scaling.yarn_log_multiplier = rope['mscale_all_dim'] if {_YARN} else None",
        f"f32 ~attention.temperature_scale = rope['llama_4_scaling_beta'] if {_YARN} else None",
    ),
    head_dim="head_dim",
    llama3_rope=True,
    longrope=True,
    variants=(("model_type == 'mistral4'", _MISTRAL4),),
    refusals=(
        WINDOW,
        Refusal(
            f"{_YARN} and (rope['mscale_all_dim'] == None or rope['llama_4_scaling_beta'] == None)",
            "the RoPE parameters of Ministral 3 lack mscale_all_dim or llama_4_scaling_beta",
            "Add them to config.json",
        ),
    ),
)

_OWN_LAYER: Final = (
    "attention_norm > attn_norm | d",
    "attention.wq > attn_q | q d",
    "attention.wk > attn_k | k d",
    "attention.wv > attn_v | k d",
    "attention.wo > attn_output | d q",
    "ffn_norm > ffn_norm | d",
    "feed_forward.w1 > ffn_gate | f d",
    "feed_forward.w2 > ffn_down | d f",
    "feed_forward.w3 > ffn_up | f d",
)
_OWN_VISION: Final = (
    "^(vision_encoder|vision_language_adapter|patch_merger|pre_mm_projector_norm|whisper|mm_)"
)
_OWN: Final = FamilyTable(
    arch="llama",
    classes=(),
    vocabulary=LLAMA,
    defaults={"max_position_embeddings": 32768, "rope_theta": 10000.0},
    spellings={
        "hidden_size": ("dim",),
        "num_hidden_layers": ("n_layers",),
        "num_attention_heads": ("n_heads",),
        "num_key_value_heads": ("n_kv_heads",),
        "intermediate_size": ("hidden_dim",),
        "rms_norm_eps": ("norm_eps",),
        "max_position_embeddings": ("max_seq_len",),
        "tie_word_embeddings": ("tied_embeddings",),
    },
    top=("tok_embeddings > token_embd | v d", "norm > output_norm | d"),
    output="output > output | v d",
    tied="tied_embeddings == 1",
    layer_prefix="layers",
    embedding="tok_embeddings.weight",
    layer=(Rows(_OWN_LAYER),),
    metadata=(
        "u32 ~attention.key_length = head_dim",
        "u32 ~attention.value_length = head_dim",
        "u32 ~rope.dimension_count = head_dim",
        "str ~rope.scaling.type = 'yarn' if yarn != None else None",
        "f32 ~rope.scaling.factor = yarn['factor']",
        "f32 ~rope.scaling.yarn_beta_fast = yarn['beta']",
        "f32 ~rope.scaling.yarn_beta_slow = yarn['alpha']",
        "f32 ~rope.scaling.yarn_log_multiplier = (0.0 if yarn['apply_scale'] else 1.0) if yarn != None else None",
        "u32 ~rope.scaling.original_context_length = yarn['original_max_position_embeddings']",
        "f32 ~attention.temperature_scale = llama_4_scaling['beta']",
    ),
    skip=((_OWN_VISION, names.OTHER_MODALITY),),
    refusals=(
        Refusal(
            "moe != None",
            "a mixture of experts in Mistral's own format is not supported",
            "Download the files of the transformers format: config.json and model*.safetensors",
        ),
    ),
)
MISTRAL_OWN: Final = replace(
    _OWN,
    classes=(OWN_FORMAT,),
    variants=(("llama_4_scaling != None", replace(_OWN, arch="mistral3")),),
)

COMPOSITES: Final = ("VoxtralForConditionalGeneration",)
MODEL_TYPES: Final = {"mistral": "MistralForCausalLM"}
