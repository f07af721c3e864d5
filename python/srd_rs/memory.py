"""The memory that llama.cpp needs beside the weights: the cache of keys and values, recurrent states, compute buffers.

`needed` computes all three from the metadata of a GGUF, as llama.cpp allocates them for one sequence with its default
options: cache in F16, flash attention, batches of 512 tokens, and a short cache for layers with a sliding window. What
metadata does not say is estimated from above: a layer whose window is not known keeps the whole context.

    found = memory.needed(metadata, ctx=8192)
    found.cache + found.compute
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from srd_rs.encoders import is_encoder

#: Tokens of a physical batch (`--ubatch-size`), and the step to which llama.cpp rounds the cells of a cache.
BATCH: Final = 512
CELLS: Final = 256
_F16, _F32 = 2, 4
#: The period of the layers with full attention where the metadata has none; negative if the first layer is full.
WINDOW_PERIODS: Final = {
    "afmoe": 4, "cohere2": 4, "cohere2moe": -4, "exaone4": 4, "exaone-moe": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5,
    "gpt-oss": 2, "laguna": -4, "llama4": 4, "mellum": 4, "muse-glimmer": 4, "olmo2": 4, "plamo3": 8,
    "smallthinker": -4,
}  # fmt: skip
#: llama.cpp gives exaone4 sliding windows only if it has so many layers.
EXAONE4_LAYERS: Final = 64
#: Every fourth layer attends, the others are recurrent, where the metadata does not say the interval.
INTERVALS: Final = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
#: Models whose layers have attention and a recurrent state side by side.
BOTH: Final = ("falcon-h1",)
#: Models with a second mask as long as the context.
TWO_MASKS: Final = ("llama4",)


@dataclass(frozen=True)
class Memory:
    """Bytes beside the weights, for a context of `ctx` tokens.

    cache: keys and values, and recurrent states. compute: the buffers of the graph, with the logits of a batch.
    """

    ctx: int
    cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.cache + self.compute


def needed(metadata: Mapping[str, Any], ctx: int, n_vocab: int) -> Memory:
    """What a model needs for a context of `ctx` tokens. `n_vocab` is the number of rows of the output matrix."""
    model = _Model(metadata)
    ctx = _padded(ctx)
    return Memory(ctx, model.cache(ctx), model.compute(ctx, n_vocab))


def caches(metadata: Mapping[str, Any], ctx: int) -> list[int]:
    """Bytes of the cache of each layer, for a context of `ctx` tokens. They add up to `Memory.cache`."""
    return _Model(metadata).caches(_padded(ctx))


def _padded(cells: int) -> int:
    return -(-cells // CELLS) * CELLS


class _Model:
    """The numbers of an architecture's metadata, with the defaults of llama.cpp."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self.arch = metadata["general.architecture"]
        # The blocks that predict further tokens have caches of their own, in a context of their own.
        self.layers = int(self._get("block_count", 0)) - int(self._get("nextn_predict_layers", 0))
        self.width = int(self._get("embedding_length", 0))

    def _get(self, key: str, default: Any) -> Any:
        return self._metadata.get(f"{self.arch}.{key}", default)

    def _of_layer(self, key: str, layer: int, default: int) -> int:
        """A value that may be one number, or a list with a number for each layer."""
        found = self._get(key, default)
        if not isinstance(found, list):
            return int(found)
        return int(found[layer]) if layer < len(found) else default

    def _most(self, key: str) -> int:
        return max((self._of_layer(key, layer, 0) for layer in range(self.layers)), default=0)

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer; None for full attention."""
        window = int(self._get("attention.sliding_window", 0) or 0)
        pattern = self._get("attention.sliding_window_pattern", WINDOW_PERIODS.get(self.arch))
        if window <= 0 or pattern is None or (self.arch == "exaone4" and self.layers != EXAONE4_LAYERS):
            return None
        if isinstance(pattern, list):
            return window if layer < len(pattern) and pattern[layer] else None
        period = abs(int(pattern))
        first = int(pattern) < 0 or WINDOW_PERIODS.get(self.arch, 0) < 0
        slides = period == 0 or (layer % period != 0 if first else layer % period < period - 1)
        return window if slides else None

    def _state(self) -> int:
        """Values of the recurrent state of a layer."""
        heads = max(self._most("attention.head_count"), 1)
        if size := int(self._get("wkv.head_size", 0)):
            return self.width * (int(self._get("token_shift_count", 2)) + size)
        if length := int(self._get("shortconv.l_cache", 0)):
            return self.width * (length - 1)
        kernel = max(int(self._get("ssm.conv_kernel", 0)) - 1, 0)
        if size := int(self._get("kda.head_dim", 0)):
            return size * heads * (3 * (kernel or 3) + size)
        inner, state = int(self._get("ssm.inner_size", 0)), int(self._get("ssm.state_size", 0))
        groups = int(self._get("ssm.group_count", 0))
        return kernel * (inner + 2 * groups * state) + state * inner

    def _is_recurrent(self, layer: int) -> bool:
        if not self._state():
            return False
        interval = self._get("full_attention_interval", INTERVALS.get(self.arch))
        if interval:
            return (layer + 1) % int(interval) != 0
        heads = self._get("attention.head_count_kv", 0)
        if isinstance(heads, list):
            wide = isinstance(self._get("feed_forward_length", 0), list)
            only_ffn = wide and self._of_layer("feed_forward_length", layer, 0) > 0
            return self._of_layer("attention.head_count_kv", layer, 0) == 0 and not only_ffn
        return True

    def _attends(self, layer: int) -> bool:
        return self.arch in BOTH or not self._is_recurrent(layer)

    def _keys_and_values(self, layer: int, *, slides: bool) -> int:
        """Values that a layer keeps of each token."""
        heads = max(self._of_layer("attention.head_count", layer, 1), 1)
        kv_heads = self._of_layer("attention.head_count_kv", layer, heads)
        own = self.width // heads
        suffix = "_swa" if slides and self._get("attention.key_length_swa", None) is not None else ""
        key = int(self._get(f"attention.key_length{suffix}", own))
        value = int(self._get(f"attention.value_length{suffix}", own))
        # Latent attention keeps one latent vector and no values.
        latent = self._get("attention.key_length_mla", None) is not None
        indexer = int(self._get("attention.indexer.key_length", 0))
        return kv_heads * (key if latent else key + value) + indexer

    def cache(self, ctx: int) -> int:
        return sum(self.caches(ctx))

    def caches(self, ctx: int) -> list[int]:
        """Bytes of the cache of each layer."""
        if is_encoder(self._metadata):
            return [0] * self.layers
        shared = int(self._get("attention.shared_kv_layers", 0))
        first_shared = 20 if self.arch == "gemma3n" else self.layers - shared
        found = []
        for layer in range(self.layers):
            total = _F32 * self._state() if self._is_recurrent(layer) else 0
            if self._attends(layer) and layer < first_shared:
                window = self.window(layer)
                cells = ctx if window is None else min(ctx, _padded(min(ctx, window + BATCH)))
                total += _F16 * cells * self._keys_and_values(layer, slides=window is not None)
            found.append(total)
        return found

    def compute(self, ctx: int, n_vocab: int) -> int:
        """The larger of what the output and what a layer needs, for a batch of tokens."""
        batch = min(BATCH, ctx)
        output = n_vocab + 2 * self.width
        windows = {self.window(layer) for layer in range(self.layers) if self._attends(layer)}
        masks = sum(ctx if w is None else min(ctx, _padded(w + BATCH)) for w in windows)
        if is_encoder(self._metadata):
            masks = batch * self._most("attention.head_count")
        elif self.arch in TWO_MASKS:
            masks += ctx
        used = self._most("expert_used_count")
        ffn = max(
            self._most("feed_forward_length"),
            used * self._most("expert_feed_forward_length") + self._most("expert_shared_feed_forward_length"),
        )
        heads = max(self._most("attention.head_count"), 1)
        queries = heads * int(self._get("attention.key_length", self.width // heads))
        inner, groups, state = (
            int(self._get(f"ssm.{k}", 0)) for k in ("inner_size", "group_count", "state_size")
        )
        inside = 8 * (inner + groups * state)
        per_layer = self.layers * int(self._get("embedding_length_per_layer_input", 0))
        layer = max(4 * ffn, inside) + (4 + 2 * used) * self.width + 2 * queries + 2 * per_layer
        return batch * max(_F32 * output, _F16 * masks + _F32 * layer)
