"""The projectors of Qwen models that hear: Qwen2.5-Omni, Qwen3-Omni and Qwen3-ASR."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.projectors.tables.qwen import QWEN3_VL, QWEN25_VL
from srd_rs.families.projectors.tables.sound import (
    WHISPER_LAYER,
    WHISPER_LINES,
    WHISPER_SIZES,
    convolutions,
    sound_head,
)
from srd_rs.families.schema import FamilyTable, Rows, Stack

_THINKER: Final = ((r"^thinker\.", ""),)
_VOICE: Final = (
    (
        r"^(talker|token2wav|code2wav)\.",
        "of the voice, which is not written: the model hears, but does not speak",
    ),
)
_HEARD: Final = Stack("audio_tower.layers", "a.blk", "n_sound", WHISPER_LAYER)
_POSITIONS: Final = ("a.position_embd.weight = [1500, a]",)

QWEN25_OMNI: Final = replace(
    QWEN25_VL,
    classes=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
    sizes={**QWEN25_VL.sizes, **WHISPER_SIZES},
    renames=_THINKER,
    skip=(*_VOICE, (r"audio_bos_eos_token", "of tokens around sounds, which the model does not use")),
    top=(
        *QWEN25_VL.top,
        *convolutions(),
        "audio_tower.ln_post > a.post_ln | a | bias",
        "audio_tower.proj > mm.a.fc | t a | bias",
    ),
    layer=(
        Rows(
            tuple(row for part in ("q", "k", "v") for row in (f"attn.{part} > attn_{part} | w w | bias",))
            + tuple(row for row in QWEN25_VL.layer[0].rows if not row.startswith("attn.qkv"))
        ),
    ),
    stacks=(_HEARD,),
    sinusoids=_POSITIONS,
    metadata=(
        *(line for line in QWEN25_VL.metadata if "~projector_type" not in line),
        *sound_head("n_sound", "sound_heads"),
        *WHISPER_LINES,
        "str ~projector_type = 'qwen2.5o'",
    ),
)

_DOWN: Final = "audio['downsample_hidden_size']"
_SOUND3: Final = (
    *(
        row
        for index, width in ((1, "1"), (2, "down"), (3, "down"))
        for row in (
            f"audio_tower.conv2d{index} > a.conv2d.{index} | down {width} 3 3 | f16",
            f"audio_tower.conv2d{index}.bias! > a.conv2d.{index}=.bias | down | reshape(down, 1, 1)",
        )
    ),
    "audio_tower.conv_out > a.conv_out | a down*((((mel+1)//2+1)//2+1)//2) | f16",
    "audio_tower.ln_post > a.post_ln | a | bias",
    "audio_tower.proj1 > mm.a.mlp.1 | a a | bias",
    "audio_tower.proj2 > mm.a.mlp.2 | t a | bias",
)
_SOUND3_SIZES: Final = {**WHISPER_SIZES, "down": f"first({_DOWN}, 480)"}
_SOUND3_LINES: Final = (
    *sound_head("n_sound", "sound_heads"),
    *WHISPER_LINES,
    "str ~audio.projector_type = 'qwen3a'",
)

QWEN3_OMNI: Final = replace(
    QWEN3_VL,
    classes=("Qwen3OmniMoeForConditionalGeneration",),
    defaults={**QWEN3_VL.defaults, "deepstack_visual_indexes": [8, 16, 24]},
    sizes={**QWEN3_VL.sizes, **_SOUND3_SIZES},
    renames=(
        *_THINKER,
        (r"^visual\.merger_list\.", "visual.deepstack_merger_list."),
        (r"^(visual\.(?:merger|deepstack_merger_list\.\d+))\.ln_q\.", r"\1.norm."),
        (r"^(visual\.(?:merger|deepstack_merger_list\.\d+))\.mlp\.0\.", r"\1.linear_fc1."),
        (r"^(visual\.(?:merger|deepstack_merger_list\.\d+))\.mlp\.2\.", r"\1.linear_fc2."),
    ),
    skip=_VOICE,
    top=(*QWEN3_VL.top, *_SOUND3),
    stacks=(*QWEN3_VL.stacks, _HEARD),
    sinusoids=_POSITIONS,
    metadata=(
        *(
            line
            for line in QWEN3_VL.metadata
            if "~projector_type" not in line and "layer_norm_epsilon" not in line
        ),
        "f32 ~vision.attention.layer_norm_epsilon = first(text['rms_norm_eps'], 1e-6)",
        "str ~vision.projector_type = 'qwen3vl_merger'",
        *_SOUND3_LINES,
    ),
)

QWEN3_ASR: Final = FamilyTable(
    arch="clip",
    classes=("Qwen3ASRForConditionalGeneration",),
    defaults={
        "d_model": 1024,
        "encoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "encoder_layers": 24,
        "num_mel_bins": 128,
    },
    sizes=_SOUND3_SIZES,
    # The names of the authors, and those of transformers 5.
    renames=(
        *_THINKER,
        (r"^model\.audio_tower\.", "audio_tower."),
        (r"^(?:model\.)?multi_modal_projector\.linear_([12])\.", r"audio_tower.proj\1."),
    ),
    n_layer="n_sound",
    n_head="sound_heads",
    n_head_kv="sound_heads",
    layer_prefix="audio_tower.layers",
    layer_target="a.blk",
    output=None,
    top=_SOUND3,
    layer=WHISPER_LAYER,
    sinusoids=_POSITIONS,
    metadata=_SOUND3_LINES,
)
