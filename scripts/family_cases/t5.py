"""T5 and its relatives: encoders and decoders."""

from __future__ import annotations

from family_cases import Case

_T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "classifier_dropout": 0.0,
    "d_ff": 96,
    "d_kv": 16,
    "d_model": 64,
    "decoder_start_token_id": 0,
    "dense_act_fn": "relu",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "relu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": False,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": True,
    "vocab_size": 96,
}
_FLAN = {
    **_T5,
    "dense_act_fn": "gelu_new",
    "feed_forward_proj": "gated-gelu",
    "is_gated_act": True,
    "num_decoder_layers": 2,
    "tie_word_embeddings": False,
}
_UMT5 = {
    **{key: value for key, value in _FLAN.items() if key != "n_positions"},
    "architectures": ["UMT5ForConditionalGeneration"],
    "model_type": "umt5",
    "scalable_attention": True,
}
_MT5 = {**_FLAN, "architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5"}
_ENCODER = {
    **{key: value for key, value in _T5.items() if key != "num_decoder_layers"},
    "architectures": ["T5EncoderModel"],
}

CASES = (
    Case("t5", _T5),
    Case("t5-flan", _FLAN),
    Case("t5-umt5", _UMT5),
    Case("t5-mt5", _MT5),
    Case("t5-encoder", _ENCODER),
    Case("t5-encoder-gated", {**_ENCODER, "feed_forward_proj": "gated-gelu"}),
)
