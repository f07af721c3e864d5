"""The projectors of DeepSeek-OCR."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Refusal, Rows, Stack

_SAM_SIZES: Final = {
    "sam": "width['sam_vit_b']",
    "s": "sam['width']",
    "s_head": "s // sam['heads']",
    "s_grid": "rows_of('model.sam_model.blocks.0.attn.rel_pos_h')",
    "neck": "rows_of('model.sam_model.neck.0.weight')",
    "net_2": "rows_of('model.sam_model.net_2.weight')",
    "net_3": "rows_of('model.sam_model.net_3.weight')",
    "s_mlp": "rows_of('model.sam_model.blocks.0.mlp.lin1.weight')",
    "s_pos": "whole['vision_config']['image_size'] // 16",
}
_SAM_TOP: Final = (
    "model.sam_model.pos_embed! > v.sam.pos_embd | 1 s_pos s_pos s | f32",
    "model.sam_model.patch_embed.proj > v.sam.patch_embd | s 3 16 16 | bias",
    "model.sam_model.neck.0 > v.sam.neck.0 | neck s 1 1 | f32",
    "model.sam_model.neck.1 > v.sam.neck.1 | neck | bias",
    "model.sam_model.neck.2 > v.sam.neck.2 | neck neck 3 3 | f32",
    "model.sam_model.neck.3 > v.sam.neck.3 | neck | bias",
    "model.sam_model.net_2 > v.sam.net_2 | net_2 neck 3 3 | f32",
    "model.sam_model.net_3 > v.sam.net_3 | net_3 net_2 3 3 | f32",
    "model.projector.layers > mm.model.fc | t w2 | bias",
    "model.image_newline! > v.image_newline= | t | ?",
    "model.view_seperator! > v.view_seperator= | t | reshape(1,t)",
)
_SAM: Final = Stack(
    "model.sam_model.blocks",
    "v.sam.blk",
    "sam['layers']",
    (
        Rows(
            (
                "norm1 > pre_ln | s | bias",
                "norm2 > post_ln | s | bias",
                "attn.qkv > attn.qkv | 3*s s | bias",
                "attn.proj > attn.out | s s | bias",
                "mlp.lin1 > mlp.lin1 | s_mlp s | bias",
                "mlp.lin2 > mlp.lin2 | s s_mlp | bias",
            )
        ),
        Rows(
            (
                "attn.rel_pos_h! > attn.pos_h | 2*s_pos-1 s_head | f32",
                "attn.rel_pos_w! > attn.pos_w | 2*s_pos-1 s_head | f32",
            ),
            when="layer in sam['global_attn_indexes']",
        ),
        Rows(
            (
                "attn.rel_pos_h! > attn.pos_h | 2*window-1 s_head | f32",
                "attn.rel_pos_w! > attn.pos_w | 2*window-1 s_head | f32",
            ),
            when="layer not in sam['global_attn_indexes']",
        ),
    ),
)
_LINES: Final = (
    *head(),
    "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
    "bool ~use_gelu = 1 == 1",
    "u32 ~vision.projector.scale_factor = scale if scale > 0 and scale != 4 else None",
    "u32 ~vision.window_size = window",
    "u32 ~vision.preproc_min_tiles = 2",
    "u32 ~vision.sam.block_count = sam['layers']",
    "u32 ~vision.sam.embedding_length = s",
    "u32 ~vision.sam.head_count = sam['heads']",
)
_OWN: Final = (r"^model\.(sam_model|vision_model|qwen2_model|projector|image_newline|view_seperator)\b",)

DEEPSEEK_OCR: Final = FamilyTable(
    arch="clip",
    classes=("DeepseekOCRForCausalLM", "UnlimitedOCRForCausalLM"),
    defaults={"window_size": 14},
    sizes={
        **_SAM_SIZES,
        "clip": "width['clip-l-14-224']",
        "w": "clip['width']",
        "i": "rows_of('model.vision_model.transformer.layers.0.mlp.fc1.weight')",
        "t": "text['hidden_size']",
        "p": "clip['patch_size']",
        "n_image": "clip['image_size']",
        "n_pos": "(n_image // p) * (n_image // p) + 1",
        "w2": "w + net_3",
        "window": "window_size",
        "scale": "(n_image // p) // int(sqrt(first(preprocessor['image_seq_length'], 256)))",
    },
    keep=_OWN,
    n_layer="clip['layers']",
    n_head="clip['heads']",
    layer_prefix="model.vision_model.transformer.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *_SAM_TOP,
        "model.vision_model.embeddings.class_embedding! > v.class_embd= | w",
        "model.vision_model.embeddings.patch_embedding > v.patch_embd | w 3 p p | f32",
        "model.vision_model.embeddings.position_embedding > v.position_embd | n_pos w | f32",
        "model.vision_model.pre_layrnorm > v.pre_ln | w | bias",
    ),
    layer=(
        Rows(
            (
                "layer_norm1 > ln1 | w | bias",
                "layer_norm2 > ln2 | w | bias",
                "self_attn.qkv_proj > attn_qkv | 3*w w | bias",
                "self_attn.out_proj > attn_out | w w | bias",
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    stacks=(_SAM,),
    metadata=(
        *_LINES,
        "str ~projector_type = 'deepseekocr'",
        # llama.cpp's converter writes this number, which it does not read
        "u32 ~vision.feed_forward_length = 4 * n_head",
        "u32 ~vision.preproc_max_tiles = 32 if class_name == 'UnlimitedOCRForCausalLM' else 9",
    ),
)

DEEPSEEK_OCR2: Final = FamilyTable(
    arch="clip",
    classes=("DeepseekOCR2ForCausalLM",),
    defaults={
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "patch_size": 16,
        "window_size": 14,
    },
    sizes={
        **SIZES,
        **_SAM_SIZES,
        "w": "width['qwen2-0-5b']['dim']",
        "w2": "w",
        "kv": "2 * (w // num_attention_heads)",
        "window": "window_size",
        "scale": "(n_image // p) // int(sqrt(first(preprocessor['image_seq_length'], 256)))",
    },
    keep=_OWN,
    n_layer="first(whole['vision_config']['layers'], 24)",
    layer_prefix="model.qwen2_model.model.model.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *_SAM_TOP,
        "model.qwen2_model.model.model.norm > v.post_ln | w",
        "model.qwen2_model.query_768 > v.resample_query_768 | 144 w",
        "model.qwen2_model.query_1024 > v.resample_query_1024 | 256 w",
    ),
    layer=(
        Rows(
            (
                "input_layernorm > ln1 | w",
                "post_attention_layernorm > ln2 | w",
                "self_attn.q_proj > attn_q | w w | bias",
                "self_attn.k_proj > attn_k | kv w | bias",
                "self_attn.v_proj > attn_v | kv w | bias",
                "self_attn.o_proj > attn_out | w w",
                "mlp.gate_proj > ffn_gate | i w",
                "mlp.up_proj > ffn_up | i w",
                "mlp.down_proj > ffn_down | w i",
            )
        ),
    ),
    stacks=(_SAM,),
    metadata=(
        *_LINES,
        "str ~projector_type = 'deepseekocr2'",
        "u32 ~vision.attention.head_count_kv = 2",
        "u32 ~vision.preproc_max_tiles = 6",
    ),
)

DEEPSEEK_V4: Final = FamilyTable(
    arch="clip",
    classes=("DeepseekV4ForCausalLM",),
    sizes={
        "w": "vision_dim",
        "i": "vision_inter_dim",
        "t": "text['hidden_size']",
        "p": "vision_patch_size",
        "c": "3",
        "n_image": "vision_patch_size * vision_downsample_ratio * 16",
        "m": "vision_dim * vision_downsample_ratio * vision_downsample_ratio",
        "wide": "rows_of('aligner.w1.weight')",
    },
    n_layer="vision_n_layers",
    n_head="vision_n_heads",
    n_head_kv="vision_n_heads",
    keep=(r"^(aligner\.|image_)",),
    layer_prefix="vision.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        "vision.patch_embed.proj > v.patch_embd | w c*p*p | reshape(w, c, p, p)",
        "vision.patch_embed.proj.bias! > v.patch_embd=.bias | w | ?",
        "vision.norm > v.post_ln | w",
        "aligner.w1 > mm.1 | wide m | bias",
        "aligner.w2 > mm.2 | t wide | bias",
        "image_newline! > v.image_newline= | t",
        "image_start! > v.token_embd.img_start= | t",
        "image_end! > v.token_embd.img_end= | t",
        "image_pad! > v.token_embd.img_pad= | t",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                "attn.wqkv > attn_qkv | 3*w w | bias?",
                "attn.wo > attn_out | w w | bias?",
                "mlp.w1 > ffn_gate | 2*i w | bias? rows(0, i)",
                "mlp.w1 > ffn_up | 2*i w | bias? rows(i, i)",
                "mlp.w2 > ffn_down | w i | bias?",
            )
        ),
    ),
    metadata=(
        *(line for line in head() if "image_mean" not in line and "image_std" not in line),
        # The models have no preprocessor_config.json.
        "f32s ~vision.image_mean = first(preprocessor['image_mean'], [0.5, 0.5, 0.5])",
        "f32s ~vision.image_std = first(preprocessor['image_std'], [0.5, 0.5, 0.5])",
        "str ~projector_type = 'deepseek4v'",
        "f32 ~vision.attention.layer_norm_epsilon = 1e-6",
        "bool ~use_silu = 1 == 1",
        "u32 ~vision.projector.scale_factor = vision_downsample_ratio",
        "u32 ~vision.image_min_pixels = vision_min_pixels",
    ),
    refusals=(
        Refusal(
            "vision_max_n_token != 384 or vision_max_wh_ratio != 8",
            "the largest number of tokens or ratio of sides of a picture is not what llama.cpp takes for granted",
        ),
    ),
)
