"""Encoders: embedding models and classifiers."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
_CLS = {
    "modules.json": _MODULES,
    "1_Pooling/config.json": {
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
        "word_embedding_dimension": 64,
    },
}
_MEAN = {
    "modules.json": _MODULES,
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 64},
}
_LAST = {
    "modules.json": _MODULES,
    "1_Pooling/config.json": {"pooling_mode_lasttoken": True, "word_embedding_dimension": 64},
}
_WORDPIECE = {"tokenizer.json": {"model": {"type": "WordPiece"}}}
_UNIGRAM = {"tokenizer.json": {"model": {"type": "Unigram"}}}

_BERT: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 256,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": 96,
}
_ROBERTA: dict[str, Any] = {
    **_BERT,
    "architectures": ["RobertaModel"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 258,
    "model_type": "roberta",
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
_DISTIL: dict[str, Any] = {
    "activation": "gelu",
    "architectures": ["DistilBertForMaskedLM"],
    "attention_dropout": 0.1,
    "dim": 64,
    "dropout": 0.1,
    "hidden_dim": 96,
    "initializer_range": 0.02,
    "max_position_embeddings": 256,
    "model_type": "distilbert",
    "n_heads": 4,
    "n_layers": 2,
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "vocab_size": 96,
}
_NOMIC: dict[str, Any] = {
    "activation_function": "swiglu",
    "architectures": ["NomicBertModel"],
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "causal": False,
    "dense_seq_output": True,
    "embd_pdrop": 0.0,
    "eos_token_id": None,
    "fused_bias_fc": True,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert_remote",  # with "nomic_bert", transformers renames the keys that llama.cpp reads
    "n_embd": 64,
    "n_head": 4,
    "n_inner": 96,
    "n_layer": 2,
    "n_positions": 8192,
    "pad_vocab_size_multiple": 32,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "resid_pdrop": 0.0,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "scale_attn_weights": True,
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
    "use_flash_attn": True,
    "vocab_size": 96,
}
_NOMIC_MOE: dict[str, Any] = {
    **_NOMIC,
    "activation_function": "gelu",
    "ffn_div": 1,
    "layer_norm_epsilon": 1e-05,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
    "moe_every_n_layers": 2,
    "moe_impl": "megablocks",
    "moe_normalize_expert_weights": False,
    "moe_resid_pdrop": 0.0,
    "moe_top_k": 2,
    "n_positions": 2048,
    "num_experts": 4,
    "num_shared_experts": 0,
    "pad_token_id": 1,
    "qkv_proj_bias": True,
    "rotary_emb_base": 10000,
    "type_vocab_size": 1,
}


def _both(*names: str) -> Shapes:
    return {f"{name}.{part}": (64,) for name in names for part in ("weight", "bias")}


_NOMIC_TOP = {"embeddings.word_embeddings.weight": (96, 64), **_both("emb_ln")}
_NOMIC_ATTENTION = {
    "attn.Wqkv.weight": (192, 64),
    "attn.out_proj.weight": (64, 64),
    **_both("norm1", "norm2"),
}
_NOMIC_BIASES = {"attn.Wqkv.bias": (192,), "attn.out_proj.bias": (64,)}
_MODERN: dict[str, Any] = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 81,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 81,
    "decoder_bias": False,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 82,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": 64,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "pad_token_id": 83,
    "position_embedding_type": "absolute",
    "sep_token_id": 82,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": 96,
}
_NEO: dict[str, Any] = {
    "architectures": ["NeoBERTLMHead"],
    "classifier_init_range": 0.02,
    "decoder_init_range": 0.02,
    "dim_head": 16,
    "embedding_init_range": 0.02,
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_length": 256,
    "model_type": "neobert",
    "norm_eps": 1e-05,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
    "vocab_size": 96,
}
_NEO_LAYERS = {
    "attention_norm.weight": (64,),
    "ffn.w12.weight": (128, 64),
    "ffn.w3.weight": (64, 64),
    "ffn_norm.weight": (64,),
    "qkv.weight": (192, 64),
    "wo.weight": (64, 64),
}
_JINA: dict[str, Any] = {
    **_BERT,
    "architectures": ["JinaBertForMaskedLM"],
    "attn_implementation": "torch",
    "emb_pooler": "mean",
    "feed_forward_type": "geglu",
    "model_max_length": 256,
    "model_type": "jina_bert",  # not "bert", which the newest transformers reads without the keys of Jina
    "position_embedding_type": "alibi",
    "use_cache": True,
}
_JINA_LAYER = {
    **{f"attention.self.{p}.weight": (64, 64) for p in ("query", "key", "value")},
    **{f"attention.self.{p}.bias": (64,) for p in ("query", "key", "value")},
    "attention.output.dense.weight": (64, 64),
    "attention.output.dense.bias": (64,),
    **_both("attention.output.LayerNorm", "mlp.layernorm"),
    "mlp.gated_layers.weight": (192, 64),
    "mlp.wo.weight": (64, 96),
    "mlp.wo.bias": (64,),
}
_JINA_TOP = {
    "embeddings.token_type_embeddings.weight": (2, 64),
    "embeddings.word_embeddings.weight": (96, 64),
    **_both("embeddings.LayerNorm"),
}
_JINA_CODE_LAYER = {
    **{f"attention.self.{p}.weight": (64, 64) for p in ("query", "key", "value")},
    **{f"attention.self.{p}.bias": (64,) for p in ("query", "key", "value")},
    "attention.output.dense.weight": (64, 64),
    "attention.output.dense.bias": (64,),
    **_both("attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1", "layer_norm_2"),
    **_both("attention.output.LayerNorm"),
    "mlp.down_layer.weight": (64, 96),
    "mlp.down_layer.bias": (64,),
    "mlp.up_gated_layer.weight": (192, 64),
}
_EURO: dict[str, Any] = {
    "architectures": ["EuroBertModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token": "<|begin_of_text|>",
    "bos_token_id": 80,
    "clf_pooling": "late",
    "eos_token_id": 81,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_dropout": 0.0,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "mask_token_id": 82,
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "model_type": "eurobert_remote",  # with "eurobert", transformers states a pooling that llama.cpp refuses
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pad_token_id": 81,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 250000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 96,
}
_LABELS = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}

CASES = (
    Case("bert-reranker", {**_BERT, **_LABELS}),
    Case(
        "bert-classifier",
        {
            **_BERT,
            "id2label": {"0": "bad", "1": "good", "2": "neutral"},
            "label2id": {"bad": 0, "good": 1, "neutral": 2},
        },
    ),
    Case(
        "camembert",
        {
            **_ROBERTA,
            "architectures": ["CamembertModel"],
            "bos_token_id": 5,
            "eos_token_id": 6,
            "model_type": "camembert",
        },
        files=_MEAN,
    ),
    Case("distilbert", _DISTIL),
    Case("distilbert-base", {**_DISTIL, "architectures": ["DistilBertModel"]}, files=_MEAN),
    Case(
        "distilbert-classifier",
        {
            **_DISTIL,
            "architectures": ["DistilBertForSequenceClassification"],
            "id2label": {"0": "NEGATIVE", "1": "POSITIVE"},
            "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
        },
    ),
    Case("roberta", _ROBERTA, files=_MEAN),
    Case(
        "roberta-classifier",
        {
            **_ROBERTA,
            "architectures": ["RobertaForSequenceClassification"],
            "id2label": {"0": "negative", "1": "neutral", "2": "positive"},
            "label2id": {"negative": 0, "neutral": 1, "positive": 2},
        },
    ),
    Case(
        "xlm-roberta",
        {**_ROBERTA, "architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "output_past": True},
        files={**_CLS},
    ),
    Case(
        "xlm-roberta-reranker",
        {
            **_ROBERTA,
            **_LABELS,
            "architectures": ["XLMRobertaForSequenceClassification"],
            "model_type": "xlm-roberta",
        },
    ),
    Case(
        "nomic-bert",
        _NOMIC,
        {
            **_NOMIC_TOP,
            "embeddings.token_type_embeddings.weight": (2, 64),
            **layers(
                2,
                {
                    **_NOMIC_ATTENTION,
                    "mlp.fc11.weight": (96, 64),
                    "mlp.fc12.weight": (96, 64),
                    "mlp.fc2.weight": (64, 96),
                },
                "encoder.layers",
            ),
        },
        {**_MEAN, **_WORDPIECE},
    ),
    Case(
        "nomic-bert-moe",
        _NOMIC_MOE,
        {
            **_NOMIC_TOP,
            "embeddings.token_type_embeddings.weight": (1, 64),
            **layers(2, {**_NOMIC_ATTENTION, **_NOMIC_BIASES}, "encoder.layers"),
            "encoder.layers.0.mlp.fc1.weight": (96, 64),
            "encoder.layers.0.mlp.fc1.bias": (96,),
            "encoder.layers.0.mlp.fc2.weight": (64, 96),
            "encoder.layers.0.mlp.fc2.bias": (64,),
            "encoder.layers.1.mlp.experts.bias": (64,),
            "encoder.layers.1.mlp.experts.mlp.w1": (384, 64),
            "encoder.layers.1.mlp.experts.mlp.w2": (384, 64),
            "encoder.layers.1.mlp.router.layer.weight": (4, 64),
        },
        {**_MEAN, **_UNIGRAM},
    ),
    Case("modernbert", _MODERN),
    Case(
        "modernbert-base",
        {**_MODERN, "architectures": ["ModernBertModel"], "classifier_pooling": "cls"},
        files=_CLS,
    ),
    Case(
        "modernbert-reranker",
        {
            **_MODERN,
            **_LABELS,
            "architectures": ["ModernBertForSequenceClassification"],
            "classifier_pooling": "cls",
        },
    ),
    Case(
        "modernbert-silu",
        {
            **_MODERN,
            "architectures": ["ModernBertModel"],
            "hidden_activation": "silu",
            "tie_word_embeddings": False,
        },
        files=_CLS,
    ),
    Case(
        "neobert",
        _NEO,
        {
            "decoder.bias": (96,),
            "decoder.weight": (96, 64),
            "model.encoder.weight": (96, 64),
            "model.layer_norm.weight": (64,),
            **layers(2, _NEO_LAYERS, "model.transformer_encoder"),
        },
    ),
    Case(
        "neobert-classifier",
        {**_NEO, **_LABELS, "architectures": ["NeoBERTForSequenceClassification"]},
        {
            "classifier.bias": (1,),
            "classifier.weight": (1, 64),
            "dense.bias": (64,),
            "dense.weight": (64, 64),
            "model.encoder.weight": (96, 64),
            "model.layer_norm.weight": (64,),
            **layers(2, _NEO_LAYERS, "model.transformer_encoder"),
        },
    ),
    Case(
        "neobert-base",
        {**_NEO, "architectures": ["NeoBERT"]},
        {
            "encoder.weight": (96, 64),
            "layer_norm.weight": (64,),
            **layers(2, _NEO_LAYERS, "transformer_encoder"),
        },
    ),
    Case(
        "jina-bert-v2",
        _JINA,
        {
            **{f"bert.{k}": v for k, v in {**_JINA_TOP, **layers(2, _JINA_LAYER, "encoder.layer")}.items()},
            "cls.predictions.bias": (96,),
        },
        _MEAN,
    ),
    Case(
        "jina-bert-code",
        {**_JINA, "architectures": ["JinaBertModel"]},
        {
            **_JINA_TOP,
            "pooler.dense.weight": (64, 64),
            "pooler.dense.bias": (64,),
            **layers(2, _JINA_CODE_LAYER, "encoder.layer"),
        },
        _MEAN,
    ),
    Case(
        "eurobert",
        {
            **{k: v for k, v in _EURO.items() if k != "clf_pooling"},
            "classifier_pooling": "mean",
            "model_type": "eurobert",
        },
        files=_MEAN,
    ),
    Case(
        "jina-embeddings-v5",
        {**_EURO, "architectures": ["JinaEmbeddingsV5Model"], "is_causal": False},
        {
            "embed_tokens.weight": (96, 64),
            "norm.weight": (64,),
            **layers(
                2,
                {
                    "input_layernorm.weight": (64,),
                    "mlp.down_proj.weight": (64, 96),
                    "mlp.gate_proj.weight": (96, 64),
                    "mlp.up_proj.weight": (96, 64),
                    "post_attention_layernorm.weight": (64,),
                    **{f"self_attn.{p}_proj.weight": (64, 64) for p in "qkvo"},
                },
                "layers",
            ),
        },
        _LAST,
    ),
)
