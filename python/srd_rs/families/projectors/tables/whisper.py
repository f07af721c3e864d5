"""The projectors of models that hear with the encoder of Whisper: Qwen2-Audio, Voxtral, Audio Flamingo 3 with Music
Flamingo, Ultravox, GLM-ASR and MERaLiON 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from srd_rs.families.projectors.tables.sound import (
    WHISPER_LAYER,
    WHISPER_LINES,
    WHISPER_SIZES,
    convolutions,
    sound_head,
)
from srd_rs.families.schema import FamilyTable, Rows

_WHISPER: Final = {
    "d_model": 1280,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "encoder_layers": 32,
    "num_mel_bins": 128,
}
_EMBEDDED: Final = (
    "audio_tower.embed_positions > a.position_embd | positions a | f32",
    "audio_tower.layer_norm > a.post_ln | a | bias",
)


def _whisper(
    classes: tuple[str, ...],
    kind: str,
    projector: tuple[str | Rows, ...],
    *,
    conv: str = "f16",
    embedded: bool = True,
    sizes: Mapping[str, str] | None = None,
    **more: Any,
) -> FamilyTable:
    """Return the table of a model that hears with the encoder of Whisper."""
    lines = more.pop("metadata", ())
    renames = (*more.pop("renames", ()), (r"^model\.(audio_tower|multi_modal_projector)\.", r"\1."))
    return FamilyTable(
        arch="clip",
        classes=classes,
        renames=renames,
        defaults=_WHISPER,
        sizes={
            **WHISPER_SIZES,
            "positions": "rows_of('audio_tower.embed_positions.weight')",
            **(sizes or {}),
        },
        n_layer="n_sound",
        n_head="sound_heads",
        n_head_kv="sound_heads",
        layer_prefix="audio_tower.layers",
        layer_target="a.blk",
        output=None,
        top=(
            *convolutions(conv),
            *(_EMBEDDED if embedded else ()),
            *projector,
        ),
        layer=WHISPER_LAYER,
        metadata=(*sound_head(), *WHISPER_LINES, f"str ~projector_type = '{kind}'", *lines),
        **more,
    )


QWEN2_AUDIO: Final = _whisper(
    ("Qwen2AudioForConditionalGeneration",),
    "qwen2a",
    ("multi_modal_projector.linear > mm.a.fc | t a | bias",),
)
AUDIO_FLAMINGO: Final = _whisper(
    ("AudioFlamingo3ForConditionalGeneration",),
    "musicflamingo",
    (
        "multi_modal_projector.linear_1 > mm.a.mlp.1 | t a | bias?",
        "multi_modal_projector.linear_2 > mm.a.mlp.2 | t t | bias?",
    ),
    conv="f32",
)
VOXTRAL: Final = _whisper(
    ("VoxtralForConditionalGeneration",),
    "voxtral",
    (
        "multi_modal_projector.linear_1 > mm.a.mlp.1 | t ai",
        "multi_modal_projector.linear_2 > mm.a.mlp.2 | t t",
    ),
    metadata=("u32 ~audio.projector.stack_factor = 4",),
)
ULTRAVOX: Final = _whisper(
    ("UltravoxModel",),
    "ultravox",
    (
        "multi_modal_projector.ln_pre > mm.a.norm_pre | a*stack",
        "multi_modal_projector.linear_1 > mm.a.mlp.1 | wide a*stack",
        "multi_modal_projector.linear_2 > mm.a.mlp.2 | out halved",
        Rows(
            ("multi_modal_projector.ln_mid > mm.a.norm_mid | halved",),
            when="has('multi_modal_projector.ln_mid.weight')",
        ),
    ),
    sizes={
        "stack": "first(whole['stack_factor'], 8)",
        "wide": "rows_of('multi_modal_projector.linear_1.weight')",
        "halved": "wide // 2",  # SwiGLU takes half of the rows as gates
        "out": "rows_of('multi_modal_projector.linear_2.weight')",
    },
    metadata=("u32 ~audio.projector.stack_factor = stack",),
)
_MERALION: Final = (
    ("0", "mlp_adapter.0", "a stack*a", " | bias"),
    ("1", "gate_proj", "wide a", " | bias"),
    ("2", "pool_proj", "wide a", " | bias"),
    ("3", "out_proj", "t wide", " | bias"),
)
MERALION: Final = _whisper(
    ("MERaLiON2ForConditionalGeneration",),
    "meralion",
    (
        "ln_speech > mm.a.norm_pre | a | bias",
        *(
            f"speech_audio_adapter.{source} > mm.a.mlp.{index} | {sizes}{flags}"
            for index, source, sizes, flags in _MERALION
        ),
    ),
    sizes={
        "stack": "first(whole['speech_mlp_scale_factor'], 15)",
        "wide": "rows_of('speech_audio_adapter.gate_proj.weight')",
    },
    renames=((r"^speech_encoder\.", "audio_tower."),),
    metadata=("u32 ~audio.projector.stack_factor = stack",),
)
GLM_ASR: Final = _whisper(
    ("GlmasrModel",),
    "glma",
    (
        Rows(_EMBEDDED[:1], when="has('audio_tower.embed_positions.weight')"),
        Rows(_EMBEDDED[1:], when="has('audio_tower.layer_norm.weight')"),
        "audio_encoder.layer_norm > mm.a.norm_pre | a | bias",
        "audio_encoder.adapting.0 > mm.a.mlp.1 | wide stack*a | bias",
        "audio_encoder.adapting.2 > mm.a.mlp.2 | t wide | bias",
        "audio_encoder.audio_bos_eos_token > v.boi= | 2 t | rows(0, 1) reshape(t)",
        "audio_encoder.audio_bos_eos_token > v.eoi= | 2 t | rows(1, 1) reshape(t)",
    ),
    sizes={
        "stack": "first(whole['merge_factor'], 4)",
        "wide": "rows_of('audio_encoder.adapting.0.weight')",
    },
    embedded=False,  # the layers turn queries and keys instead
    renames=((r"^audio_encoder\.whisper\.", "audio_tower."),),
    metadata=("u32 ~audio.projector.stack_factor = stack",),
)
