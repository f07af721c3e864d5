"""The tables of encoders: BERT and its relatives, for embeddings and for classification."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import BIASED_QKV, GATED_FFN, NORMS
from srd_rs.families.tables.skeletons import NO_BIASES
from srd_rs.vocab import rules
from srd_rs.vocab.rules import ENCODER

_BERT_DEFAULTS: Final = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
_TENSORFLOW: Final = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
_POOLER: Final = r"^(bert\.|roberta\.)?pooler\.dense\."
_TRAINING_HEADS: Final = (
    (_POOLER, names.HEAD),
    (r"^(bert\.|roberta\.)?cls\.(predictions|seq_relationship)", names.HEAD),
    (r"^lm_head\.", names.HEAD),
)
_EMBEDDINGS: Final = (
    "embeddings.word_embeddings > token_embd | v d",
    "embeddings.LayerNorm > token_embd_norm | d | bias",
)
_TYPES: Final = "embeddings.token_type_embeddings > token_types | type_vocab_size d"
_LAYER: Final = (
    Rows(
        (
            "attention.self.query > attn_q | d d | bias",
            "attention.self.key > attn_k | d d | bias",
            "attention.self.value > attn_v | d d | bias",
            "attention.output.dense > attn_output | d d | bias",
            "attention.output.LayerNorm > attn_output_norm | d | bias",
            "intermediate.dense > ffn_up | f d | bias",
            "output.dense > ffn_down | d f | bias",
            "output.LayerNorm > layer_output_norm | d | bias",
        )
    ),
)
_CLASSES: Final = {
    "classifier": "class_name in ['BertForSequenceClassification', 'RobertaForSequenceClassification',"
    " 'XLMRobertaForSequenceClassification', 'DistilBertForSequenceClassification',"
    " 'ModernBertForSequenceClassification', 'NeoBERTForSequenceClassification']",
    "dummy": "len(labels) == 2 and labels[0] == 'LABEL_0' if labels != None else 1",
    "classes": "len(labels) if labels != None else 2",
}
"""`classes` is the number of classes of a classifier. The names LABEL_0 and LABEL_1 are those of two classes without
names, and so is a file without names."""
_DECODER: Final = Refusal("is_decoder", "attention is causal (is_decoder)")
_NOT_CAUSAL: Final = "bool ~attention.causal = 0 == 1"
_WITHOUT: Final = (
    "~attention.head_count_kv",
    "~attention.causal",
    "~attention.key_length",
    "~attention.value_length",
)
"""A head of these encoders is a share of the width, whatever head_dim says."""
_LABELS: Final = (
    "strs ~classifier.output_labels = first(labels, ['LABEL_0', 'LABEL_1']) if classifier"
    " else None if dummy else labels"
)
_SPLIT_HEAD: Final = (
    "classifier.dense > cls | d d | bias ?",
    "classifier.out_proj > cls.output | classes d | bias ?",
)

BERT: Final = FamilyTable(
    arch="bert",
    classes=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    vocabulary=ENCODER,
    defaults=_BERT_DEFAULTS,
    sizes=_CLASSES,
    layer_prefix="encoder.layer",
    embedding="embeddings.word_embeddings.weight",
    renames=((r"^bert\.", ""), *_TENSORFLOW),
    skip=((_POOLER, names.HEAD, "class_name != 'BertForSequenceClassification'"), *_TRAINING_HEADS[1:]),
    output=None,
    top=(
        *_EMBEDDINGS,
        _TYPES,
        "embeddings.position_embeddings > position_embd | max_position_embeddings d",
        Rows(
            ("pooler.dense > cls | d d | bias", "classifier > cls.output | classes d | bias"),
            "class_name == 'BertForSequenceClassification'",
        ),
    ),
    layer=_LAYER,
    metadata=(_NOT_CAUSAL, _LABELS),
    without=_WITHOUT,
    rope_theta=None,
    pooling=True,
    refusals=(
        Refusal(
            "first(position_embedding_type, 'absolute') != 'absolute'",
            "positions are not embedded (position_embedding_type)",
        ),
        _DECODER,
    ),
)

ROBERTA: Final = FamilyTable(
    arch="bert",
    classes=(
        "RobertaModel",
        "RobertaForSequenceClassification",
        "XLMRobertaModel",
        "XLMRobertaForSequenceClassification",
        "CamembertModel",
    ),
    vocabulary=ENCODER,
    defaults={**_BERT_DEFAULTS, "vocab_size": 50265, "pad_token_id": 1},
    class_defaults={
        "XLMRobertaModel": {"vocab_size": 30522},
        "XLMRobertaForSequenceClassification": {"vocab_size": 30522},
        "CamembertModel": {"vocab_size": 30522},
    },
    # Positions are counted from the number behind that of the padding token.
    sizes={
        **_CLASSES,
        "first_position": "pad_token_id + 1",
        "positions": "max_position_embeddings - first_position",
    },
    layer_prefix="encoder.layer",
    embedding="embeddings.word_embeddings.weight",
    renames=((r"^roberta\.", ""), *_TENSORFLOW),
    skip=_TRAINING_HEADS,
    output=None,
    top=(
        *_EMBEDDINGS,
        _TYPES,
        "embeddings.position_embeddings > position_embd | max_position_embeddings d"
        " | rows(first_position, positions)",
        *_SPLIT_HEAD,
    ),
    layer=_LAYER,
    metadata=("u32 ~context_length = positions", _NOT_CAUSAL, _LABELS),
    without=_WITHOUT,
    rope_theta=None,
    pooling=True,
    refusals=(
        Refusal(
            "lora_adaptations", "the model has adapters inside (lora_adaptations)", "Convert another model"
        ),
        Refusal(
            "first(position_embedding_type, 'absolute') != 'absolute'",
            "positions are not embedded (position_embedding_type)",
        ),
        _DECODER,
    ),
)

DISTILBERT: Final = FamilyTable(
    arch="bert",
    classes=("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"),
    vocabulary=ENCODER,
    defaults={**_BERT_DEFAULTS, "num_hidden_layers": 6},
    spellings={"intermediate_size": ("hidden_dim",)},
    sizes=_CLASSES,
    layer_prefix="transformer.layer",
    embedding="embeddings.word_embeddings.weight",
    renames=((r"^distilbert\.", ""),),
    skip=((r"^vocab_", names.HEAD),),
    output=None,
    top=(
        *_EMBEDDINGS,
        "embeddings.position_embeddings > position_embd | max_position_embeddings d",
        Rows(
            ("pre_classifier > cls | d d | bias", "classifier > cls.output | classes d | bias"),
            "class_name == 'DistilBertForSequenceClassification'",
        ),
    ),
    layer=(
        Rows(
            (
                "attention.q_lin > attn_q | d d | bias",
                "attention.k_lin > attn_k | d d | bias",
                "attention.v_lin > attn_v | d d | bias",
                "attention.out_lin > attn_output | d d | bias",
                "sa_layer_norm > attn_output_norm | d | bias",
                "ffn.lin1 > ffn_up | f d | bias",
                "ffn.lin2 > ffn_down | d f | bias",
                "output_layer_norm > layer_output_norm | d | bias",
            )
        ),
    ),
    metadata=(_NOT_CAUSAL, _LABELS),
    without=_WITHOUT,
    rope_theta=None,
    pooling=True,
    refusals=(
        Refusal(
            "class_name == 'DistilBertForSequenceClassification'",
            "DistilBERT classifies through ReLU, but llama.cpp through tanh, so its scores are not those of the model",
            warns=True,
        ),
    ),
)

_NOMIC_REFUSALS: Final = (
    Refusal("causal", "attention is causal"),
    Refusal("prenorm", "norms stand before the blocks (prenorm)"),
    Refusal("first(rotary_emb_fraction, 1.0) != 1", "only a part of each head is rotated"),
    Refusal("rotary_emb_interleaved", "rotary pairs are interleaved"),
    Refusal("rotary_emb_scale_base != None", "RoPE is scaled (rotary_emb_scale_base)"),
)
_NOMIC_BERT_MOE: Final = FamilyTable(
    arch="nomic-bert-moe",
    classes=(),
    vocabulary=ENCODER,
    defaults={**_BERT_DEFAULTS, "max_position_embeddings": 2048, "max_trained_positions": 2048},
    spellings={
        "intermediate_size": ("n_inner",),
        "layer_norm_eps": ("layer_norm_epsilon",),
        "max_position_embeddings": ("n_positions",),
        "activation": ("activation_function", "hidden_act"),
    },
    # Models are trained on less than n_positions says: v1 and v1.5 on 2048 tokens, v2 on 512.
    sizes={
        "experts": "moe_every_n_layers != None and moe_every_n_layers > 0",
        "routed": "experts and layer % moe_every_n_layers == 1",
        "context": "config['max_position_embeddings'] if config['n_positions'] == None"
        " else 2048 if config['n_positions'] == 8192 else 512",
    },
    layer_prefix="encoder.layers",
    embedding="embeddings.word_embeddings.weight",
    renames=((r"^bert\.", ""),),
    skip=(*_TRAINING_HEADS, (r"mlp\.experts\.bias$", names.BUFFER)),
    output=None,
    top=(
        "embeddings.word_embeddings > token_embd | v d",
        "emb_ln > token_embd_norm | d | bias",
        f"{_TYPES} | ?",
    ),
    layer=(
        Rows(
            (
                "attn.Wqkv > attn_qkv | 3*d d | bias?",
                "attn.out_proj > attn_output | d d | bias?",
                "norm1 > attn_output_norm | d | bias",
                "norm2 > layer_output_norm | d | bias",
            )
        ),
        Rows(
            (
                "mlp.fc11 > ffn_up | f d",
                "mlp.fc12 > ffn_gate | f d",
                "mlp.fc2 > ffn_down | d f",
            ),
            "not experts",
        ),
        Rows(
            ("mlp.fc1 > ffn_up | f d | bias?", "mlp.fc2 > ffn_down | d f | bias?"), "experts and not routed"
        ),
        Rows(
            (
                "mlp.experts.mlp.w1! > ffn_up_exps | e*f d | reshape(e, f, d)",
                "mlp.experts.mlp.w2! > ffn_down_exps | e*f d | reshape(e, f, d) transpose",
                "mlp.router.layer > ffn_gate_inp | e d",
            ),
            "routed",
        ),
    ),
    n_expert="num_experts if experts else 0",
    n_expert_used="first(moe_top_k, 1)",
    metadata=(
        "u32 ~context_length = context",
        _NOT_CAUSAL,
        "u32 ~moe_every_n_layers = moe_every_n_layers if experts else None",
    ),
    without=("~attention.head_count_kv", "~attention.causal"),
    rope_theta=1000.0,
    pooling=True,
    refusals=(
        *_NOMIC_REFUSALS,
        Refusal(
            "config['n_positions'] != None and (max_trained_positions != 2048"
            " or not config['n_positions'] in [2048, 8192])",
            "the number of trained positions is not known (n_positions, max_trained_positions)",
        ),
        Refusal(
            "not activation in (['gelu'] if experts else ['swiglu', 'silu'])",
            "the activation is not that of llama.cpp's Nomic BERT",
        ),
    ),
)
NOMIC_BERT: Final = replace(
    _NOMIC_BERT_MOE,
    arch="nomic-bert",
    classes=("NomicBertModel",),
    variants=((_NOMIC_BERT_MOE.sizes["experts"], _NOMIC_BERT_MOE),),
)

_MODERN_NAMES: Final = ((r"^model\.", ""),)
MODERN_BERT: Final = FamilyTable(
    arch="modern-bert",
    classes=("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
    vocabulary=rules.MODERN_BERT,
    defaults={
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "local_attention": 128,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "hidden_activation": "gelu",
        "classifier_pooling": "cls",
    },
    sizes=_CLASSES,
    layer_prefix="layers",
    embedding="embeddings.tok_embeddings.weight",
    renames=_MODERN_NAMES,
    skip=((r"^decoder\.", names.HEAD),),
    output=None,
    top=(
        "embeddings.tok_embeddings > token_embd | v d",
        "embeddings.norm > token_embd_norm | d",
        "final_norm > output_norm | d",
        "head.dense > cls | d d | ?",
        "head.norm > cls.norm | d | ?",
        Rows(
            ("classifier > cls.output | classes d | bias",),
            "class_name == 'ModernBertForSequenceClassification'",
        ),
    ),
    layer=(
        Rows(("attn_norm > attn_norm | d",), "layer > 0"),
        Rows(
            (
                "attn.Wqkv > attn_qkv | 3*d d",
                "attn.Wo > attn_output | d d",
                "mlp_norm > ffn_norm | d",
                "mlp.Wi > ffn_up | 2*f d",
                "mlp.Wo > ffn_down | d f",
            )
        ),
    ),
    metadata=(
        "f32 ~attention.layer_norm_epsilon = norm_eps",
        "f32 ~attention.layer_norm_rms_epsilon = norm_eps",
        _NOT_CAUSAL,
        "u32 ~classifier.pooling_type = 1 if classifier_pooling == 'mean' else 2",
        _LABELS,
        "u32 ~attention.sliding_window = local_attention",
        "u32 ~attention.sliding_window_pattern = global_attn_every_n_layers",
        "str ~rope.scaling.type = 'none'",
        "u32 ~vocab_size = n_vocab",
        "str ~hidden_activation = hidden_activation",
    ),
    without=("~attention.head_count_kv", "~attention.causal"),
    rope_theta=160_000.0,
    rope_theta_sliding=10_000.0,
    pooling=True,
    symmetric_window=True,
    refusals=(
        Refusal(
            "layer_types != None and (layer_types[layer] == 'full_attention')"
            " != (layer % first(global_attn_every_n_layers, 3) == 0)",
            "the layers with full attention are not every third (layer_types)",
            per_layer=True,
        ),
        Refusal(
            "n_layer == 1 or global_attn_every_n_layers == 1",
            "no layer has local attention (global_attn_every_n_layers)",
        ),
        Refusal(
            "class_name == 'ModernBertForSequenceClassification' and first(classifier_activation, 'gelu') != 'gelu'",
            "the activation of the classifier is not gelu (classifier_activation)",
        ),
        Refusal("not classifier_pooling in ['cls', 'mean']", "classifier_pooling is neither cls nor mean"),
        Refusal(
            "attention_bias or mlp_bias or norm_bias", "there are biases that llama.cpp's ModernBERT has not"
        ),
    ),
)

NEO_BERT: Final = FamilyTable(
    arch="neo-bert",
    classes=("NeoBERT", "NeoBERTLMHead", "NeoBERTForSequenceClassification"),
    vocabulary=ENCODER,
    defaults={"norm_eps": 1e-6},
    sizes={**_CLASSES, "wide": "2 * intermediate_size // 3", "inner": "(wide + 7) // 8 * 8"},
    spellings={"max_position_embeddings": ("max_length",)},
    n_ff="wide",
    layer_prefix="transformer_encoder",
    embedding="encoder.weight",
    renames=_MODERN_NAMES,
    skip=((r"^decoder\.", names.HEAD), (r"freqs_cis$", names.BUFFER)),
    output=None,
    top=(
        "encoder > token_embd | v d",
        "layer_norm > enc.output_norm | d",
        Rows(
            ("dense > cls | d d | bias", "classifier > cls.output | classes d | bias"),
            "class_name == 'NeoBERTForSequenceClassification'",
        ),
    ),
    layer=(
        Rows(
            (
                "attention_norm > attn_norm | d",
                "qkv > attn_qkv | 3*d d",
                "wo > attn_output | d d",
                "ffn_norm > ffn_norm | d",
                "ffn.w12 > ffn_up | 2*f d",
                "ffn.w3 > ffn_down | d f",
            )
        ),
    ),
    metadata=(
        "f32 ~attention.layer_norm_rms_epsilon = norm_eps",
        _NOT_CAUSAL,
        _LABELS,
        "f32 ~rope.freq_base = 10000.0",
        "str ~rope.scaling.type = 'none'",
        "u32 ~pooling_type = 2",
    ),
    without=("~attention.head_count_kv", "~attention.causal"),
    refusals=(Refusal("inner != wide", "two thirds of intermediate_size are no multiple of 8"),),
)

JINA_BERT: Final = FamilyTable(
    arch="jina-bert-v2",
    classes=("JinaBertModel", "JinaBertForMaskedLM"),
    vocabulary=ENCODER,
    defaults=_BERT_DEFAULTS,
    layer_prefix="encoder.layer",
    embedding="embeddings.word_embeddings.weight",
    renames=((r"^bert\.", ""), *_TENSORFLOW),
    skip=_TRAINING_HEADS,
    output=None,
    top=(*_EMBEDDINGS, _TYPES),
    layer=(
        Rows(
            (
                *(row for row in _LAYER[0].rows[:4]),
                "attention.self.layer_norm_q > attn_q_norm | d | bias ?",
                "attention.self.layer_norm_k > attn_k_norm | d | bias ?",
                "attention.output.LayerNorm > attn_output_norm | d | bias",
            )
        ),
        Rows(
            (
                "mlp.gated_layers > ffn_up | 2*f d",
                "mlp.wo > ffn_down | d f | bias",
                "mlp.layernorm > layer_output_norm | d | bias",
            ),
            "layer_has('mlp.gated_layers.weight')",
        ),
        Rows(
            (
                "layer_norm_1 > attn_norm_2 | d | bias",
                "mlp.up_gated_layer > ffn_up | 2*f d",
                "mlp.down_layer > ffn_down | d f | bias",
                "layer_norm_2 > layer_output_norm | d | bias",
            ),
            "not layer_has('mlp.gated_layers.weight')",
        ),
    ),
    metadata=(_NOT_CAUSAL, _LABELS),
    sizes=_CLASSES,
    without=("~attention.head_count_kv", "~attention.causal"),
    rope_theta=None,
    pooling=True,
    refusals=(
        Refusal("first(position_embedding_type, 'alibi') != 'alibi'", "positions are not biases (alibi)"),
        Refusal("feed_forward_type == 'original'", "the feed-forward part has no gate"),
    ),
)

EURO_BERT: Final = FamilyTable(
    arch="eurobert",
    classes=("EuroBertModel", "JinaEmbeddingsV5Model"),
    vocabulary=rules.EUROBERT,
    defaults={
        **NO_BIASES,
        "vocab_size": 128256,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
    },
    output=None,
    skip=((r"^lm_head\.", names.HEAD),),
    layer=(Rows((*NORMS, *BIASED_QKV, *GATED_FFN)),),
    head_dim="h",
    metadata=(
        _NOT_CAUSAL,
        "str ~rope.scaling.type = 'none'",
        "u32 ~classifier.pooling_type = 1 if classifier_pooling == 'mean' else 2 if classifier_pooling == 'cls'"
        " else None",
    ),
    pooling=True,
)
