"""The projectors of dots."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import NO_PIXELS, PIXELS, SIZES, head
from srd_rs.families.projectors.tables.sound import sound_head
from srd_rs.families.schema import FamilyTable, Rows, Stack

DOTS_OCR: Final = FamilyTable(
    arch="clip",
    classes=("DotsOCRForCausalLM",),
    defaults={
        "hidden_size": 1536,
        "intermediate_size": 4224,
        "num_attention_heads": 12,
        "num_hidden_layers": 42,
        "patch_size": 14,
        "rms_norm_eps": 1e-5,
        "spatial_merge_size": 2,
    },
    sizes={**SIZES, "n_image": "0", "m": "spatial_merge_size * spatial_merge_size * w"},
    layer_prefix="vision_tower.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.patch_embed.patchifier.proj > v.patch_embd | w c p p | bias",
        "vision_tower.patch_embed.patchifier.norm > v.pre_ln | w",
        "vision_tower.post_trunk_norm > mm.post_norm | w",
        "vision_tower.merger.ln_q > mm.input_norm | w | bias",
        "vision_tower.merger.mlp.0 > mm.0 | m m | bias",
        "vision_tower.merger.mlp.2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                "attn.qkv > attn_qkv | 3*w w | bias?",
                "attn.proj > attn_out | w w | bias?",
                "mlp.fc1 > ffn_gate | i w | bias?",
                "mlp.fc2 > ffn_down | w i | bias?",
                "mlp.fc3 > ffn_up | i w | bias?",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'dots_ocr'",
        *PIXELS,
        "f32 ~vision.attention.layer_norm_epsilon = rms_norm_eps",
        "u32 ~vision.projector.scale_factor = spatial_merge_size",
        "bool ~use_silu = 1 == 1",
    ),
    refusals=(NO_PIXELS,),
)

_ROUTED: Final = "pyramid_num_routed[layer] > 0"
_SPEECH: Final = "audio_encoder.dots_encoder.speech_encoder"

DOTS3_NOTE: Final = FamilyTable(
    arch="clip",
    classes=("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration"),
    defaults={
        "embed_dim": 1536,
        "intermediate_size": 4224,
        "num_attention_heads": 24,
        "num_hidden_layers": 42,
        "patch_size": 14,
        "rms_norm_eps": 1e-5,
        "spatial_merge_size": 2,
        "capacity_factor": 2,
        "pyramid_num_routed": [-1] * 25 + [*range(4, 65, 4), 64],
    },
    sizes={
        **SIZES,
        "w": "embed_dim",
        "n_image": "0",
        "m": "spatial_merge_size * spatial_merge_size * w",
        "one": "w // n_head",
        "x": "first(moe_intermediate_size, intermediate_size // 2)",
        "least": "first(preprocessor['min_pixels'], preprocessor['vision_config']['min_pixels'])",
        "most": "first(preprocessor['max_pixels'], preprocessor['vision_config']['max_pixels'])",
        "whisper": "audio['whisper_config']",
        "a": "first(whisper['d_model'], 1280)",
        "ai": "first(whisper['encoder_ffn_dim'], 5120)",
        "mel": "first(whisper['num_mel_bins'], 128)",
        "n_sound": "first(whisper['encoder_layers'], 32)",
        "sound_heads": "first(whisper['encoder_attention_heads'], 20)",
        "down": "rows_of('audio_encoder.dots_encoder.speech_encoder.conv2d1.weight')",
    },
    n_head="first(num_heads, num_attention_heads)",
    n_head_kv="first(num_heads, num_attention_heads)",
    layer_prefix="vision_encoder.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_encoder.patch_embed.proj > v.patch_embd | w c p p | bias",
        "vision_encoder.patch_embed.norm > v.pre_ln | w",
        "vision_encoder.post_trunk_norm > mm.post_norm | w",
        "vision_encoder.adapter.ln_q > mm.input_norm | w | bias",
        "vision_encoder.adapter.mlp.0 > mm.0 | m m | bias",
        "vision_encoder.adapter.mlp.2 > mm.2 | t m | bias",
        f"{_SPEECH}.conv2d1 > a.conv2d.1 | down 1 3 3 | bias f32",
        f"{_SPEECH}.conv2d2 > a.conv2d.2 | down down 3 3 | bias f32",
        f"{_SPEECH}.conv2d3 > a.conv2d.3 | down down 3 3 | bias f32",
        f"{_SPEECH}.conv_out > a.conv_out | a down*((mel+7)//8) | f32",
        f"{_SPEECH}.layer_norm > a.post_ln | a",
        "audio_encoder.audio_adapter.proj.0 > mm.a.norm_pre | a | bias",
        "audio_encoder.audio_adapter.proj.1 > mm.a.mlp.1 | t a | bias",
        "audio_encoder.audio_adapter.proj.3 > mm.a.mlp.3 | t t | bias",
    ),
    layer=(
        Rows(
            (
                "norm_1 > ln1 | w",
                "norm_2 > ln2 | w",
                "attn.qkv > attn_qkv | 3*w w",
                "attn.q_norm > attn_q_norm | one",
                "attn.k_norm > attn_k_norm | one",
                "attn.proj > attn_out | w w",
            )
        ),
        Rows(
            (
                "mlp.fc1 > ffn_gate | i w",
                "mlp.fc2 > ffn_down | w i",
                "mlp.fc3 > ffn_up | i w",
            ),
            when=f"not {_ROUTED}",
        ),
        Rows(
            (
                "mlp.gate_weight! > ffn_gate_inp | pyramid_num_routed[layer] w | f32",
                "mlp.router_bias! > exp_probs_b | pyramid_num_routed[layer] | f32",
                "mlp.experts.{i}.fc1 > ffn_gate_exps | x w | stack(pyramid_num_routed[layer])",
                "mlp.experts.{i}.fc2 > ffn_down_exps | w x | stack(pyramid_num_routed[layer])",
                "mlp.experts.{i}.fc3 > ffn_up_exps | x w | stack(pyramid_num_routed[layer])",
            ),
            when=_ROUTED,
        ),
    ),
    stacks=(
        Stack(
            f"{_SPEECH}.layers",
            "a.blk",
            "n_sound",
            (
                Rows(
                    (
                        "self_attn_layer_norm > ln1 | a",
                        "final_layer_norm > ln2 | a",
                        "self_attn.q_proj > attn_q | a a | bias",
                        "self_attn.k_proj > attn_k | a a | bias?",
                        "self_attn.v_proj > attn_v | a a | bias",
                        "self_attn.out_proj > attn_out | a a | bias",
                        "fc1 > ffn_gate | 2*ai a | bias rows(0, ai)",
                        "fc1 > ffn_up | 2*ai a | bias rows(ai, ai)",
                        "fc2 > ffn_down | a ai | bias",
                    )
                ),
            ),
        ),
    ),
    metadata=(
        *head(),
        "str ~vision.projector_type = 'dots3note_v'",
        "bool ~use_silu = 1 == 1",
        "f32 ~vision.attention.layer_norm_epsilon = rms_norm_eps",
        "u32 ~vision.spatial_merge_size = spatial_merge_size",
        "u32 ~vision.image_min_pixels = least",
        "u32 ~vision.image_max_pixels = most",
        "i32s ~vision.expert_count_per_layer = [max(0, n) for n in pyramid_num_routed]",
        "u32 ~vision.expert_used_count = int(capacity_factor)",
        *sound_head("n_sound", "sound_heads"),
        "str ~audio.projector_type = 'dots3note_a'",
        "u32 ~audio.num_mel_bins = mel",
        "f32 ~audio.attention.layer_norm_epsilon = 1e-6",
    ),
)
