"""This module knows the names of a checkpoint's tensors: which prefixes training wrappers put before them, and
which tensors are not the text model's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

_WRAPPERS: Final = (
    "_orig_mod.", "module.", "base_model.model.", "_forward_module.", "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.", "pretrained_model.",
)  # fmt: skip
"""torch.compile, data-parallel and sharded training, checkpointing of activations, models with a value head, and PEFT
models that were merged but not unwrapped put these prefixes before names."""
_INNER: Final = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Wrappers of single layers put these parts into names."""

OTHER_MODALITY: Final = "of vision, audio or a projector"
BUFFER: Final = "of buffers, which are computed anew"
MTP: Final = "of multi-token prediction"
BEFORE_MTP: Final = "of the layers before those of multi-token prediction"
HEAD: Final = "of heads for training"
SETTING: Final = "of settings, which are written as metadata"
TEXT: Final = "of the text model"
COPY: Final = "with a copy of the embedding"
NO_HEAD: Final = (
    "tie_word_embeddings is false, but the checkpoint has no output matrix, so that the embedding is taken"
    " for it"
)

# Parts of other modalities, by how their names begin or by what occurs in them; see the text models of
# llama.cpp.
_OTHER_PREFIXES: Final = (
    "mlp", "vit.", "vpm.", "siglip2.", "conformer.", "merger.", "resampler.", "sound_encoder.",
    "sound_projection.", "speech_embeddings.",
)  # fmt: skip
_OTHER_PARTS: Final = (
    "visual.", "vision.", "audio.", "talker.", "vision_", "audio_", "token2wav.", "code2wav.", "projector.",
    "pre_mm_projector_norm", "image_newline", "view_seperator", "patch_embed", "patch_merger.",
    "patch_merge_mlp.", "model.connector.", "_projectors.",
)  # fmt: skip
_BUFFERS: Final = (
    ".masked_bias", ".attention.bias", "rotary_emb.inv_freq", "rotary_emb.cos_cached",
    "rotary_emb.sin_cached", "position_ids", "rotary_pos_emb.inv_freq", "rotary_emb.original_inv_freq",
    ".causal_mask", "._extra_state",
)  # fmt: skip
_BIASED: Final = re.compile(
    r"\.(?:(q_proj|k_proj|v_proj|qkv_proj|query_key_value|q_a_proj|kv_a_proj_with_mqa)"
    r"|(o_proj|out_proj|dense)|(gate_proj|up_proj|down_proj|gate_up_proj))\.bias"
)
_BIAS_KEYS: Final = (
    ("attention_bias", "qkv_bias", "use_qkv_bias", "add_qkv_bias"),
    ("attention_out_bias", "attention_output_bias", "attention_bias"),
    ("mlp_bias",),
)
_BIAS_KEYS_OF_ALL: Final = ("use_bias", "bias", "add_bias_linear")
_MTP: Final = re.compile(r"(^|\.)mtp(_layers|_block|_head)?\.")
_HEADS: Final = re.compile(r"(v_head|value_head|critic_head|reward_head|rm_head|score)\.")
_LAYER: Final = re.compile(r"(^|\.)layers\.(\d{1,9})\.")
_MTP_PARTS: Final = (".eh_proj.weight", ".enorm.weight", ".hnorm.weight", ".shared_head.norm.weight")


def unwrapped(names: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return each name without the prefixes that wrappers put before all names, and return these prefixes. A head for
    training stands beside the model that a wrapper holds."""
    found: list[str] = []
    shorter = {name: name for name in names}
    while prefix := _wrapper([short for short in shorter.values() if not _HEADS.match(short)]):
        found.append(prefix)
        shorter = {name: short.removeprefix(prefix) for name, short in shorter.items()}
    for part in _INNER:
        if any(f".{part}" in short for short in shorter.values()):
            found.append(part)
            shorter = {name: short.replace(f".{part}", ".") for name, short in shorter.items()}
    return shorter, found


def _wrapper(names: Collection[str]) -> str | None:
    """Return the prefix of a wrapper that all names have. A model that is an attribute of another module has its own
    ``model.`` behind the one of that module."""
    if not names:
        return None
    nested = any(name.startswith("model.model.") for name in names)
    prefixes = (*_WRAPPERS, "model.") if nested else _WRAPPERS
    return next((p for p in prefixes if all(name.startswith(p) for name in names)), None)


def left_out(name: str, others: Iterable[str] = ()) -> str | None:
    """Return the reason why a tensor is not the text model's; None for a tensor that is, or that is unknown. `others`
    are how names of other modalities begin in models of one class."""
    if name.endswith(_BUFFERS):
        return BUFFER
    if _MTP.search(name):
        return MTP
    if _HEADS.match(name):
        return HEAD
    if name.startswith((*_OTHER_PREFIXES, *others)) or any(part in name for part in _OTHER_PARTS):
        return OTHER_MODALITY
    return None


def bias_keys(name: str) -> tuple[str, ...]:
    """Return the keys of config.json that say whether a layer has this bias of attention or of its feed-forward part;
    empty for other tensors. The first that is there counts."""
    match = None if ".experts." in name else _BIASED.search(name)
    if match is None or not name.endswith(match[0]):
        return ()
    kind = next(index for index, part in enumerate(match.groups()) if part is not None)
    return (*_BIAS_KEYS[kind], *_BIAS_KEYS_OF_ALL)


def prediction_layers(names: Iterable[str], n_layer: int) -> set[int]:
    """Return the numbers of the layers behind the last layer that predict further tokens. Such a layer has
    projections that no other layer has."""
    found = set()
    for name in names:
        match = _LAYER.search(name)
        if match and int(match[2]) >= n_layer and name.endswith(_MTP_PARTS):
            found.add(int(match[2]))
    return found


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor belongs to."""
    match = _LAYER.search(name)
    return int(match[2]) if match else None
