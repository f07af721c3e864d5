"""Class names that stand for another class: other spellings, and models whose text part is a model of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from srd_rs.checkpoint import text_part

SPELLINGS: Final = {
    "IQuestCoderForCausalLM": "LlamaForCausalLM",
    "VLlama3ForCausalLM": "LlamaForCausalLM",
    "KORMoForCausalLM": "Qwen2ForCausalLM",
    "DotsOCRForCausalLM": "Qwen2ForCausalLM",
    "Phi4ForCausalLMV": "Phi3ForCausalLM",
    "OLMoForCausalLM": "OlmoForCausalLM",
}
"""These classes differ from the class that they stand for in their name only, as far as text goes."""

COMPOSITES: Final = frozenset(
    (
        *(
            "LlavaForConditionalGeneration",
            "VoxtralForConditionalGeneration",
            "Qwen2AudioForConditionalGeneration",
        ),
        *("AudioFlamingo3ForConditionalGeneration", "Idefics3ForConditionalGeneration"),
        *("SmolVLMForConditionalGeneration", "InternVLForConditionalGeneration", "InternVLChatModel"),
    )
)
"""The text part of these models says what the text model is: by its own class name, or by its model type."""

_OF_TYPE: Final = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}


def text_class(name: str, config: Mapping[str, Any]) -> str:
    """Return the class that reads the text model of a checkpoint whose class is `name`."""
    if name in COMPOSITES:
        kind = text_part(config).get("model_type")
        return _OF_TYPE.get(kind, name) if isinstance(kind, str) else name
    return SPELLINGS.get(name, name)
