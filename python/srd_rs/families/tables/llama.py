"""Other names of the Llama models."""

from __future__ import annotations

from typing import Final

SPELLINGS: Final = {
    "IQuestCoderForCausalLM": "LlamaForCausalLM",
    "VLlama3ForCausalLM": "LlamaForCausalLM",
}
COMPOSITES: Final = ("LlavaForConditionalGeneration",)
MODEL_TYPES: Final = {"llama": "LlamaForCausalLM"}
