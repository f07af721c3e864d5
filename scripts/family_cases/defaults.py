"""Files that leave keys out: the values are the defaults of the configuration class in transformers."""

from __future__ import annotations

from family_cases import Case
from family_cases.others import CASES as _OTHERS

_PHI3 = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 96,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_BITNET = next(case for case in _OTHERS if case.name == "bitnet")

CASES = (
    Case("phi3-of-defaults", _PHI3),
    Case(
        "bitnet-without-theta",
        {key: value for key, value in _BITNET.config.items() if key != "rope_theta"},
        _BITNET.tensors,
    ),
)
