"""This module holds config.json against the activation that llama.cpp computes in the feed-forward part.

A GGUF does not name the activation: the graph of an architecture has one. A model that was trained with another one,
such as a Llama with ReLU, would load and give wrong texts.
"""

from __future__ import annotations

from typing import Any, Final

from srd_rs.families.config import Config
from srd_rs.reading import shown

_KEYS: Final = ("hidden_act", "hidden_activation", "activation_function")
_SILU: Final = frozenset((
    "llama", "llama-embed", "llama4", "mistral3", "mistral4", "deci", "eagle3", "baichuan", "internlm2", "qwen",
    "qwen2", "qwen2vl", "qwen2moe", "qwen3", "qwen3vl", "qwen3moe", "qwen3vlmoe", "qwen3next", "qwen35",
    "qwen35moe", "dream", "rnd1", "deepseek", "deepseek2", "deepseek32", "glm4", "glm4moe", "chatglm",
    "glm-dsa", "phi3", "phimoe", "granite", "granitemoe", "minicpm", "minicpm3", "olmo", "olmo2", "olmoe",
    "stablelm", "command-r", "cohere2", "exaone", "exaone4", "exaone-moe", "ernie4_5", "seed_oss",
    "ernie4_5-moe", "smollm3", "hunyuan-dense", "hunyuan-moe", "bailingmoe", "bailingmoe2", "dots1", "orion",
    "xverse", "plamo", "arctic", "dbrx", "jamba", "falcon-h1", "minimax-m2", "afmoe", "mellum",
))  # fmt: skip
_GELU: Final = frozenset((
    "gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "gemma-embedding", "gpt2", "gptneox", "falcon", "phi2",
    "starcoder", "starcoder2", "codeshell", "mpt", "bert", "grok",
))  # fmt: skip
_SQUARED_RELU: Final = frozenset(("nemotron", "arcee", "plm", "jais2"))


def check_activation(arch: str, config: Config) -> None:
    """Refuse an activation that llama.cpp's graph of `arch` does not have. Only what config.json states counts.

    The forms of GELU count as one, as in llama.cpp's converter. Raises ModelError.
    """
    for key in _KEYS:
        if config.stated(key) and not _fits(arch, config.get(key)):
            what = f"{key} is {shown(config.get(key))}, and llama.cpp's {arch} has another activation"
            raise config.error(
                what, "The model cannot be converted; correct config.json if the value is wrong"
            )


def _fits(arch: str, name: Any) -> bool:
    if arch in _SILU:
        return name in ("silu", "swish", "swiglu")
    if arch in _GELU:
        return isinstance(name, str) and name.startswith("gelu")
    return arch not in _SQUARED_RELU or name in ("relu2", "relu_squared", "squared_relu")
