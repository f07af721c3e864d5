"""The tables of the models of LG AI Research (K-EXAONE)."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_EXPERTS,
    GATED_FFN,
    HEAD_NORMS,
    NEXTN,
    NORMS,
    NOT_LEADING,
    SHARED_EXPERTS,
    leading_dense,
)

EXAONE_MOE: Final = FamilyTable(
    arch="exaone-moe",
    classes=("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
    defaults={
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "moe_intermediate_size": 1024,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
    },
    spellings={"first_k_dense_replace": ("first_last_k_dense_replace",)},
    sizes={
        "dense": leading_dense(1),
        "mixture": "dense <= layer and layer < n_layer",
        "x": "moe_intermediate_size",
        "shared": "num_shared_experts",
    },
    layer=(
        Rows((*NORMS, *ATTENTION, *HEAD_NORMS)),
        Rows(GATED_FFN, "not mixture"),
        Rows(
            (
                "mlp.gate > ffn_gate_inp | e d",
                "mlp.e_score_correction_bias! > exp_probs_b=.bias | e | ?",
                *SHARED_EXPERTS,
            ),
            "mixture",
        ),
        Rows((NEXTN[0], *NEXTN[2:4], NEXTN[5]), "layer >= n_layer"),
    ),
    experts=StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS, "mixture"),
    renames=((r"\.mlp\.gate\.e_score_correction_bias$", ".mlp.e_score_correction_bias"),),
    mtp=Mtp(
        "num_nextn_predict_layers",
        "mtp.layers",
        {
            "mtp.fc.": "eh_proj.",
            "mtp.pre_fc_norm_embedding.": "enorm.",
            "mtp.pre_fc_norm_hidden.": "hnorm.",
            "mtp.norm.": "shared_head.norm.",
        },
    ),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = [layer_types[i] == 'sliding_attention' for i in layers]"
        " if layer_types != None else [(i + 1) % sliding_window_pattern != 0 for i in layers]",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_count = shared",
        "u32 ~expert_shared_feed_forward_length = x * shared",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        "bool ~expert_weights_norm = norm_topk_prob",
        "u32 ~leading_dense_block_count = dense",
        "u32 ~nextn_predict_layers = n_mtp",
        "str ~rope.scaling.type = 'none'",
    ),
    refusals=(
        NOT_LEADING,
        Refusal(
            "layer_types == None and is_text(sliding_window_pattern)",
            "the layers with a sliding window are given as a text (sliding_window_pattern)",
            "Write them as a list, layer_types, in config.json",
        ),
        Refusal(
            "n_mtp > 1", "more than one block predicts further tokens", "Set num_nextn_predict_layers to 1"
        ),
        Refusal("rope['rope_type'] != 'default'", "RoPE is scaled (rope_scaling)"),
    ),
    output_needed=True,
)
