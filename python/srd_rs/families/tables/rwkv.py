"""The tables of RWKV: versions 6 and 7, and the models that have its time mixing in place of Qwen2's attention."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import GATED_FFN, NORMS

_CONTEXT: Final = "u32 ~context_length = 1048576"
"""llama.cpp's converter writes this number, because a recurrent model has no longest context."""
_NO_ROPE: Final = (
    "~rope.freq_base",
    "~rope.scaling.type",
    "~rope.scaling.factor",
    "~rope.scaling.original_context_length",
)
_NO_ATTENTION: Final = ("~attention.head_count_kv", "~attention.layer_norm_rms_epsilon", *_NO_ROPE)
_FIRST_VALUES: Final = "of the first layer, whose values are not mixed with those of another"


def _either(rows: tuple[str, ...], tensor: str) -> tuple[Rows, Rows]:
    """Return the rows of vectors, which checkpoints have as [d] or as [1, 1, d]. The tensor shows which of the two."""
    whole = tuple(row.replace("| d", "| 1 1 d | squeeze", 1) for row in rows)
    return Rows(rows, f"rows_of('{tensor}') != 1"), Rows(whole, f"rows_of('{tensor}') == 1")


def _lerp(names: str, prefix: str, tensor: str) -> tuple[Rows, Rows]:
    """Return the row that stacks the factors of the token shift. `names` has a letter for each of them."""
    sources = " + ".join(f"{prefix}{name}!" for name in names)
    row = f"{sources} > time_mix_lerp_fused | {{}} | reshape({len(names)}, 1, 1, d)"
    return (
        Rows((row.format("d"),), f"rows_of('{tensor}') != 1"),
        Rows((row.format("1 1 d"),), f"rows_of('{tensor}') == 1"),
    )


RWKV6: Final = FamilyTable(
    arch="rwkv6",
    classes=("Rwkv6ForCausalLM",),
    defaults={
        "vocab_size": 65536,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "head_size": 64,
        "layer_norm_epsilon": 1e-5,
        "rescale_every": 6,
        "tie_word_embeddings": False,
    },
    sizes={
        "mixed": "64 if d == 4096 else 32",
        "decay": "128 if d == 4096 else 64",
        "scale": "1 / pow(2, layer // rescale_every) if rescale_every else 1",
    },
    top=(
        "rwkv.embeddings > token_embd | v d",
        "rwkv.blocks.0.pre_ln > token_embd_norm | d | bias",
        "rwkv.ln_out > output_norm | d | bias",
    ),
    output="head > output | v d",
    layer_prefix="rwkv.blocks",
    embedding="rwkv.embeddings.weight",
    layer=(
        Rows(
            (
                "ln1 > attn_norm | d | bias",
                "ln2 > attn_norm_2 | d | bias",
                "attention.time_maa_x! > time_mix_lerp_x | 1 1 d | squeeze",
                "attention.time_maa_w1! > time_mix_w1 | d 5*mixed | transpose",
                "attention.time_maa_w2! > time_mix_w2 | 5 mixed d | axes(0, 2, 1)",
                "attention.time_decay! > time_mix_decay | 1 1 d | squeeze",
                "attention.time_decay_w1! > time_mix_decay_w1 | d decay | transpose",
                "attention.time_decay_w2! > time_mix_decay_w2 | decay d | transpose",
                "attention.time_faaaa! > time_mix_first | d//head_size head_size",
                "attention.receptance > time_mix_receptance | d d",
                "attention.key > time_mix_key | d d",
                "attention.value > time_mix_value | d d",
                "attention.gate > time_mix_gate | d d",
                "attention.output > time_mix_output | d d | affine(scale, -0.0)",
                "attention.ln_x > time_mix_ln | d | bias",
                "feed_forward.time_maa_k! > channel_mix_lerp_k | 1 1 d | squeeze",
                "feed_forward.time_maa_r! > channel_mix_lerp_r | 1 1 d | squeeze",
                "feed_forward.key > channel_mix_key | f d",
                "feed_forward.value > channel_mix_value | d f | affine(scale, -0.0)",
                "feed_forward.receptance > channel_mix_receptance | d d",
            )
        ),
        *_lerp("wkvrg", "attention.time_maa_", "rwkv.blocks.0.attention.time_maa_x"),
    ),
    n_head="0",
    n_head_kv="0",
    n_ff="first(intermediate_size, int(d * 3.5 // 32 * 32))",
    head_dim="None",
    metadata=(
        _CONTEXT,
        "u32 ~rescale_every_n_layers = rescale_every",
        "u32 ~wkv.head_size = head_size",
        "u32 ~time_mix_extra_dim = mixed",
        "u32 ~time_decay_extra_dim = decay",
    ),
    without=_NO_ATTENTION,
    refusals=(Refusal("d % head_size != 0", "the width is no multiple of head_size"),),
    rope_theta=None,
    output_needed=True,
)

_WKVRG: Final = (3, 1, 2, 0, 4)
"""The order of llama.cpp by the order of QRWKV6, which has r first and w fourth."""

RWKV6_QWEN2: Final = FamilyTable(
    arch="rwkv6qwen2",
    classes=("RWKV6Qwen2ForCausalLM",),
    defaults={"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    sizes={
        "mixed": "first(lora_rank_tokenshift, 64 if d >= 4096 else 32)",
        "decay": "first(lora_rank_decay, 128 if d >= 4096 else 64)",
    },
    layer=(
        Rows(NORMS),
        Rows(
            (
                "self_attn.time_maa_w1! > time_mix_w1 | d 5*mixed | "
                + " + ".join(f"transpose rows({part} * mixed, mixed)" for part in _WKVRG),
                "self_attn.time_maa_w2! > time_mix_w2 | 5 mixed d | "
                + " + ".join(f"axes(0, 2, 1) rows({part}, 1)" for part in _WKVRG),
                "self_attn.time_decay_w1! > time_mix_decay_w1 | d decay | transpose",
                "self_attn.time_decay_w2! > time_mix_decay_w2 | decay d | transpose",
                "self_attn.q_proj > time_mix_receptance | q d | bias?",
                "self_attn.k_proj > time_mix_key | k d | bias?",
                "self_attn.v_proj > time_mix_value | k d | bias?",
                "self_attn.gate > time_mix_gate | q d",
                "self_attn.o_proj > time_mix_output | d q",
            )
        ),
        *_either(("self_attn.time_maa_x! > time_mix_lerp_x | d",), "model.layers.0.self_attn.time_maa_x"),
        *_either(("self_attn.time_decay! > time_mix_decay | d",), "model.layers.0.self_attn.time_decay"),
        *_lerp("wkvrg", "self_attn.time_maa_", "model.layers.0.self_attn.time_maa_x"),
        Rows(GATED_FFN),
    ),
    head_dim="None",
    metadata=(
        _CONTEXT,
        "u32 ~attention.head_count = 0",
        "u32 ~wkv.head_size = h",
        "u32 ~time_mix_extra_dim = mixed",
        "u32 ~time_decay_extra_dim = decay",
        "u32 ~token_shift_count = 1",
    ),
    without=_NO_ROPE,
    refusals=(Refusal("q != d", "the heads are not as wide as the model"),),
    rope_theta=None,
    output_needed=True,
)

_MIXER: Final = (r"\.(self_attn|attn)\.(time_mixer\.)?", ".attention.")
_OF_LAYER: Final = r"\.(layers|blocks)\.0\.(attention|attn|self_attn)\.(time_mixer\.)?"


def _low_rank(letter: str, rank: str, vector: bool = True) -> tuple[Rows, Rows]:
    """Return the matrices of low rank of one letter, as parameters or as the layers that FLA makes of them."""
    source, target = f"attention.{letter}", f"time_mix_{letter}"
    raw = (
        f"{source}1! > {target}1 | d {rank} | transpose",
        f"{source}2! > {target}2 | {rank} d | transpose",
        f"{source}0! > {target}0 | 1 1 d | squeeze",
    )
    layers = (
        f"{source}1 > {target}1 | {rank} d",
        f"{source}2 > {target}2 | d {rank}",
        f"{source}0 > {target}0 | d",
    )
    count = 3 if vector else 2
    return Rows(raw[:count], "raw"), Rows(layers[:count], "not raw")


def _of_first(groups: tuple[Rows, Rows]) -> tuple[Rows, ...]:
    """Return the rows of the value residual of the first layer. llama.cpp wants tensors there, which it does not use;
    its converter takes those of the learning rate."""
    return tuple(
        Rows(
            tuple(row.replace("time_mix_a", "time_mix_v") for row in group.rows),
            f"layer == 0 and {group.when}",
        )
        for group in groups
    )


def _of_later(groups: tuple[Rows, Rows]) -> tuple[Rows, ...]:
    return tuple(Rows(group.rows, f"layer > 0 and {group.when}") for group in groups)


_RATE: Final = _low_rank("a", "of_rate")
_TIME_MIX: Final = (
    *_low_rank("w", "of_decay"),
    *_RATE,
    *_of_first(_RATE),
    *_of_later(_low_rank("v", "of_value")),
    *_either(
        ("attention.k_k! > time_mix_k_k | d", "attention.k_a! > time_mix_k_a | d"),
        "model.layers.0.attention.k_k",
    ),
    Rows(("attention.r_k! > time_mix_r_k | d//size size | reshape(d)",)),
)
_GATE: Final = _low_rank("g", "of_gate", vector=False)
_PROJECTIONS: Final = (
    "attention.receptance > time_mix_receptance | d d",
    "attention.key > time_mix_key | d d",
    "attention.value > time_mix_value | d d",
    "attention.output > time_mix_output | d d",
)
_FUSED: Final = "has('model.layers.0.attention.x_x')"
_RANKS: Final = (
    "u32 ~wkv.head_size = size",
    "u32 ~attention.decay_lora_rank = of_decay",
    "u32 ~attention.iclr_lora_rank = of_rate",
    "u32 ~attention.value_residual_mix_lora_rank = of_value",
    "u32 ~attention.gate_lora_rank = of_gate",
)
_RENAMES: Final = (
    (r"\.blocks\.", ".layers."),
    _MIXER,
    (r"\.ffn\.", ".feed_forward."),
    (r"\.(attn_norm|attention_norm)\.", ".ln1."),
    (r"\.(ffn_norm|feed_forward_norm)\.", ".ln2."),
    (r"\.g_norm\.", ".ln_x."),
    (r"^model\.layers\.0\.(pre_norm|pre_ln)\.", "model.pre_ln."),
    (r"^model\.norm\.", "model.ln_out."),
    (r"^(model\.)?head\.", "lm_head."),
    (r"\.([wavg])_lora\.lora\.0\.weight$", r".\g<1>1.weight"),
    (r"\.([wavg])_lora\.lora\.2\.weight$", r".\g<1>2.weight"),
    (r"\.([wavg])_lora\.lora\.2\.bias$", r".\g<1>0.weight"),
    (r"\.attention\.r_proj\.", ".attention.receptance."),
    (r"\.attention\.k_proj\.", ".attention.key."),
    (r"\.attention\.v_proj\.", ".attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output."),
)

RWKV7: Final = FamilyTable(
    arch="rwkv7",
    classes=("Rwkv7ForCausalLM", "RWKV7ForCausalLM"),
    defaults={
        "vocab_size": 65536,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "head_size": 64,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    },
    spellings={"head_size": ("head_dim",), "layer_norm_epsilon": ("norm_eps",)},
    sizes={
        "size": "head_size",
        "raw": "has('model.layers.0.attention.w1')",
        "half": "max(1, int(pow(d, 0.5) * 1.8 / 32 + 0.5)) * 32",
        "of_decay": "first(lora_rank_decay, decay_low_rank_dim, half)",
        "of_rate": "first(lora_rank_iclr, a_low_rank_dim, half)",
        "of_value": "first(lora_rank_value_residual_mix, v_low_rank_dim,"
        " max(1, int(pow(d, 0.5) * 1.3 / 32 + 0.5)) * 32)",
        "of_gate": "first(lora_rank_gate, gate_low_rank_dim, max(1, int(pow(d, 0.8) * 0.6 / 32 + 0.5)) * 32)",
    },
    top=(
        "model.embeddings > token_embd | v d",
        "model.pre_ln > token_embd_norm | d | bias",
        "model.ln_out > output_norm | d | bias",
    ),
    embedding="model.embeddings.weight",
    layer=(
        Rows(("ln1 > attn_norm | d | bias", "ln2 > attn_norm_2 | d | bias")),
        *_TIME_MIX,
        *_GATE,
        Rows(_PROJECTIONS),
        Rows(("attention.ln_x > time_mix_ln | d | bias",)),
        Rows(("attention.x_x! > time_mix_lerp_fused | 6 d | reshape(6, 1, 1, d)",), _FUSED),
        *(
            Rows(group.rows, f"not {_FUSED} and {group.when}")
            for group in _lerp("rwkvag", "attention.x_", "model.layers.0.attention.x_r")
        ),
        *_either(("feed_forward.x_k! > channel_mix_lerp_k | d",), "model.layers.0.feed_forward.x_k"),
        Rows(("feed_forward.key > channel_mix_key | f d", "feed_forward.value > channel_mix_value | d f")),
    ),
    n_head="0",
    n_head_kv="0",
    n_ff="first(intermediate_size, 4 * d)",
    head_dim="None",
    metadata=(_CONTEXT, *_RANKS),
    without=_NO_ATTENTION,
    renames=_RENAMES,
    skip=((_OF_LAYER + r"v([012]$|_lora\.)", _FIRST_VALUES),),
    refusals=(Refusal("d % size != 0", "the width is no multiple of the size of a head (head_size)"),),
    rope_theta=None,
    output_needed=True,
)

ARWKV7: Final = FamilyTable(
    arch="arwkv7",
    classes=("RwkvHybridForCausalLM",),
    defaults={"rms_norm_eps": 1e-6, "head_size": 64, "wkv_has_gate": True, "tie_word_embeddings": False},
    sizes={
        "size": "head_size",
        "raw": "has('model.layers.0.attention.w1')",
        "of_decay": "64",
        "of_rate": "64",
        "of_value": "32",
        "of_gate": "128 if wkv_has_gate else 0",
    },
    layer=(
        Rows(NORMS),
        *_TIME_MIX,
        *(Rows(group.rows, f"wkv_has_gate and {group.when}") for group in _GATE),
        Rows(_PROJECTIONS),
        Rows(("attention.ln_x > time_mix_ln | d | bias",), "layer_has('attention.ln_x.weight')"),
        *(
            Rows(group.rows, f"{gate} and {group.when}")
            for names, gate in (("rwkvag", "wkv_has_gate"), ("rwkva", "not wkv_has_gate"))
            for group in _lerp(names, "attention.x_", "model.layers.0.attention.x_r")
        ),
        Rows(GATED_FFN),
    ),
    n_head="0",
    n_head_kv="0",
    head_dim="None",
    metadata=(_CONTEXT, *_RANKS, "u32 ~token_shift_count = 1"),
    without=("~attention.head_count_kv", *_NO_ROPE),
    renames=(_MIXER,),
    skip=((_OF_LAYER + r"v([012]$|_lora\.)", _FIRST_VALUES),),
    refusals=(
        Refusal("first(wkv_version, 7) != 7", "the time mixing is not that of version 7 (wkv_version)"),
        Refusal(
            "wkv_layers != None and wkv_layers != 'all'"
            " and (not is_list(wkv_layers) or len(wkv_layers) != n_layer)",
            "some layers have attention (wkv_layers)",
        ),
        Refusal("d % size != 0", "the width is no multiple of the size of a head (head_size)"),
    ),
    rope_theta=None,
    output_needed=True,
)
