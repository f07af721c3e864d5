"""Gemma 4 has a dense model with per-layer embeddings and shared keys and values, a dense model, and a mixture
of experts.

Layers use sliding or full attention. The two types have their own head sizes and, in the larger models, their
own numbers of KV heads. Full layers rotate only a part of each head: `rope_freqs.weight` divides the other
frequencies by 1e30. Norm weights are stored as they are, unlike those of Gemma 1 to 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar

from srd_rs.families import names
from srd_rs.families import rope as ropes
from srd_rs.families.base import GATED_FFN, HEAD_NORMS, Family, Row
from srd_rs.metadata import Metadata
from srd_rs.vocab.rules import GEMMA4

SANDWICH: tuple[Row, ...] = (
    Row("input_layernorm", "attn_norm", "d"),
    Row("self_attn.q_proj", "attn_q", "q d"),
    Row("self_attn.k_proj", "attn_k", "k d"),
    Row("self_attn.v_proj", "attn_v", "k d"),
    Row("self_attn.o_proj", "attn_output", "d q"),
    Row("post_attention_layernorm", "post_attention_norm", "d"),
    Row("pre_feedforward_layernorm", "ffn_norm", "d"),
    Row("post_feedforward_layernorm", "post_ffw_norm", "d"),
)
"""From Gemma 2 on, norms stand before and after attention and feed-forward."""

FULL, SLIDING = "full_attention", "sliding_attention"
_PATTERN = 6  # five sliding layers, then a full one, where config.json does not say
_UNROTATED = 1e30  # a frequency divided by this is no rotation

PER_LAYER = (
    Row("per_layer_input_gate", "inp_gate", "p d"),
    Row("per_layer_projection", "proj", "d p"),
    Row("post_per_layer_input_norm", "post_norm", "d"),
)
PER_LAYER_TOP = (
    Row("model.embed_tokens_per_layer", "per_layer_token_embd", "pv pl"),
    Row("model.per_layer_model_projection", "per_layer_model_proj", "pl d"),
    Row("model.per_layer_projection_norm", "per_layer_proj_norm", "p"),
)
MOE = (
    Row("router.proj", "ffn_gate_inp", "e d"),
    Row("router.scale", "ffn_gate_inp", "d", suffix="", target_suffix=".scale"),
    Row("router.per_expert_scale", "ffn_down_exps", "e", suffix="", target_suffix=".scale"),
    Row("experts.gate_up_proj", "ffn_gate_up_exps", "e 2x d", suffix=""),
    Row("experts.down_proj", "ffn_down_exps", "e d x", suffix=""),
    Row("post_feedforward_layernorm_1", "post_ffw_norm_1", "d"),
    Row("post_feedforward_layernorm_2", "post_ffw_norm_2", "d"),
    Row("pre_feedforward_layernorm_2", "pre_ffw_norm_2", "d"),
)
_OF_SHARED = ("attn_k", "attn_v", "attn_k_norm")


class Gemma4(Family):
    arch = "gemma4"
    vocabulary = GEMMA4
    classes: ClassVar[tuple[str, ...]] = (
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
    )
    defaults: ClassVar = {
        "vocab_size": 262144,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 30,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "global_head_dim": 512,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 512,
        "vocab_size_per_layer_input": 262144,
        "hidden_size_per_layer_input": 256,
        "num_kv_shared_layers": 0,
    }
    class_defaults: ClassVar = {
        name: {"max_position_embeddings": 262144, "sliding_window": 1024}
        for name in ("Gemma4UnifiedForConditionalGeneration", "Gemma4UnifiedAssistantForCausalLM")
    }
    spellings: ClassVar = {"top_k_experts": ("num_experts_per_tok",)}
    rope_theta = 1_000_000.0
    rope_theta_sliding = 10_000.0

    @property
    def tied(self) -> bool:
        return True  # lm_head, if it is there at all, is a copy

    def left_out(self, name: str) -> str | None:
        other = name.startswith(("model.embed_vision.", "model.embed_audio.", "model.vision_embedder."))
        return names.OTHER_MODALITY if other else super().left_out(name)

    @cached_property
    def layer_types(self) -> list[str]:
        kinds = self.config.strings("layer_types", self.n_layer)
        if kinds is None:
            kinds = [SLIDING if (layer + 1) % _PATTERN else FULL for layer in range(self.n_layer)]
        unknown = next((kind for kind in kinds if kind not in (FULL, SLIDING)), None)
        if unknown is not None:
            raise self.config.error(f"layer_types has '{unknown}', known are {FULL} and {SLIDING}")
        kinds[-1] = FULL  # as the model's class forces it
        return kinds

    def is_full(self, layer: int) -> bool:
        return self.layer_types[layer] == FULL

    @cached_property
    def n_embd_per_layer(self) -> int:
        return self.config.optional_count("hidden_size_per_layer_input", least=0) or 0

    @cached_property
    def n_shared_kv(self) -> int:
        count = self.config.count("num_kv_shared_layers", least=0)
        if count >= self.n_layer:
            raise self.config.error(
                f"num_kv_shared_layers {count} leaves none of {self.n_layer} layers with keys"
            )
        return count

    @cached_property
    def k_eq_v(self) -> bool:
        return self.config.flag("attention_k_eq_v")

    def _of_full_layers(self, key: str) -> int | None:
        """Return the size that all full layers share in `per_layer_config`, where transformers 5 keeps sizes per
        layer."""
        found: set[int] = set()
        for index, values in self._per_layer_config().items():
            if key not in values:
                continue
            size = self.config.check_count(f"per_layer_config.{index}.{key}", values[key])
            if self.is_full(index):
                found.add(size)
            elif size != self.config.count(key):
                raise self.config.error(
                    f"per_layer_config changes {key} of sliding layer {index}, GGUF cannot"
                )
        if len(found) > 1:
            raise self.config.error(f"per_layer_config gives full layers different {key}, GGUF has one")
        return found.pop() if found else None

    def _per_layer_config(self) -> dict[int, dict[str, Any]]:
        result: dict[int, dict[str, Any]] = {}
        for key, values in self.config.mapping("per_layer_config").items():
            if (
                not key.isdecimal()
                or len(key) > 9
                or int(key) >= self.n_layer
                or not isinstance(values, dict)
            ):
                raise self.config.error(f"per_layer_config has an entry '{key[:40]}' that is no layer's")
            result[int(key)] = values
        return result

    @cached_property
    def head_dim_full(self) -> int:
        return self.check_head_dim("global_head_dim", self._head_dim_full())

    def _head_dim_full(self) -> int:
        if self.config.stated("global_head_dim"):
            return self.config.count("global_head_dim")
        per_layer = self._of_full_layers("head_dim")
        if per_layer is not None:
            return per_layer
        if self.config.stated("per_layer_config"):
            return self.head_dim
        return self.config.count("global_head_dim")

    @cached_property
    def n_head_kv_full(self) -> int | None:
        """Return the number of KV heads of full layers if they have a number of their own."""
        if self.config.stated("per_layer_config"):
            count = self._of_full_layers("num_key_value_heads")
        else:
            count = self.config.optional_count("num_global_key_value_heads") if self.k_eq_v else None
        if count is not None and self.n_head % count:
            raise self.config.error(
                f"num_attention_heads {self.n_head} is no multiple of {count} global KV heads"
            )
        return count

    def head_counts_kv(self) -> int | list[int]:
        if self.n_head_kv_full is None:
            return self.n_head_kv
        return [
            self.n_head_kv_full if self.is_full(layer) else self.n_head_kv for layer in range(self.n_layer)
        ]

    @cached_property
    def n_expert(self) -> int:
        if not self.config.flag("enable_moe_block"):
            return 0
        return self.config.count("num_experts")

    @cached_property
    def n_expert_used(self) -> int:
        used = self.config.count("top_k_experts")
        if used > self.n_expert:
            raise self.config.error(f"{used} experts per token are more than the {self.n_expert} there are")
        return used

    def is_shared(self, layer: int) -> bool:
        """Say whether the layer uses the keys and values of an earlier layer. The layer's own tensors are then
        never read."""
        return layer >= self.n_layer - self.n_shared_kv

    def feed_forward(self, layer: int) -> int:
        wide = self.config.flag("use_double_wide_mlp") and self.is_shared(layer)
        return 2 * self.n_ff if wide else self.n_ff

    def sizes(self, layer: int) -> dict[str, int]:
        full = self.is_full(layer)
        head = self.head_dim_full if full else self.head_dim
        n_kv = self.n_head_kv_full if full and self.n_head_kv_full is not None else self.n_head_kv
        expert = self.config.count("moe_intermediate_size") if self.n_expert else 0
        per_layer = self.n_embd_per_layer
        return {
            **super().sizes(layer),
            "q": self.n_head * head,
            "k": n_kv * head,
            "h": head,
            "f": self.feed_forward(layer),
            "p": per_layer,
            "pl": per_layer * self.n_layer,
            "pv": self.config.count("vocab_size_per_layer_input", least=0),
            "x": expert,
            "2x": 2 * expert,
        }

    @property
    def top_rows(self) -> tuple[Row, ...]:  # type: ignore[override]
        return Family.top_rows + (PER_LAYER_TOP if self.n_embd_per_layer else ())

    def rows(self, layer: int) -> Iterable[Row]:
        from dataclasses import replace

        shared, no_value = self.is_shared(layer), self.k_eq_v and self.is_full(layer)
        for row in SANDWICH + HEAD_NORMS:
            if row.target == "attn_v" and no_value:
                continue  # keys are the values
            yield replace(row, needed=False) if shared and row.target in _OF_SHARED else row
        yield Row("layer_scalar", "layer_output_scale", "1", needed=False, suffix="")
        yield from GATED_FFN
        if self.n_embd_per_layer:
            yield from PER_LAYER
        if self.n_expert:
            yield from MOE

    def generated(self) -> dict[str, tuple[float, ...]]:
        half = self.head_dim_full // 2
        rotated = int(self.head_dim_full * self.rotated_fraction / 2)
        return {"rope_freqs.weight": (1.0,) * rotated + (_UNROTATED,) * (half - rotated)}

    @cached_property
    def rope(self) -> ropes.Rope:
        read = super().rope
        raw = self.config.mapping("rope_parameters")
        if not raw:
            read.full.update(rope_type="proportional", partial_rotary_factor=0.25)
        if read.kind != "proportional":
            raise self.config.error(f"full-attention layers have RoPE type '{read.kind}', not proportional")
        return read

    @property
    def rotated_fraction(self) -> float:
        return float(self.rope.full.get("partial_rotary_factor") or 1.0)

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        arch, config = self.arch, self.config
        layers = range(self.n_layer)
        if config.get("use_bidirectional_attention") == "all":
            key = f"{arch}.attention.causal"
            if key not in metadata:
                metadata.boolean(key, False)
            self._note(
                "each token sees all others (use_bidirectional_attention), but in llama.cpp's Gemma 4 only layers with"
                " a sliding window do so, so its answers are not those of the model"
            )
        # llama.cpp caps the logits at 30 where the key is absent, and not at all where it is 0.
        metadata.float32(
            f"{arch}.final_logit_softcapping", config.optional_number("final_logit_softcapping") or 0.0
        )
        metadata.uint32(f"{arch}.attention.sliding_window", config.count("sliding_window"))
        metadata.uint32(f"{arch}.attention.shared_kv_layers", self.n_shared_kv)
        metadata.uint32(f"{arch}.embedding_length_per_layer_input", self.n_embd_per_layer)
        metadata.booleans(f"{arch}.attention.sliding_window_pattern", [not self.is_full(i) for i in layers])
        metadata.uint32(f"{arch}.attention.key_length_swa", self.head_dim)
        metadata.uint32(f"{arch}.attention.value_length_swa", self.head_dim)
        if (width := config.optional_count("moe_intermediate_size")) is not None:
            metadata.uint32(f"{arch}.expert_feed_forward_length", width)
        if config.flag("use_double_wide_mlp"):
            metadata.int32s(f"{arch}.feed_forward_length", [self.feed_forward(i) for i in layers])
        counts = self.head_counts_kv()
        if isinstance(counts, list):
            metadata.int32s(f"{arch}.attention.head_count_kv", counts)
        metadata.uint32(f"{arch}.rope.dimension_count", self.head_dim_full)
        metadata.uint32(f"{arch}.rope.dimension_count_swa", self.head_dim)
        suppressed = (self.checkpoint.generation_config or {}).get("suppress_tokens")
        if self.class_name == "Gemma4UnifiedForConditionalGeneration" and suppressed is not None:
            metadata.int32s("tokenizer.ggml.suppress_tokens", suppressed)

    def written_head_dim(self) -> int | None:
        return self.head_dim_full


class Gemma4Assistant(Gemma4):
    """A small model that drafts tokens for a large one. All its layers use the keys and values of the large model."""

    arch = "gemma4-assistant"
    classes = ("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM")
    defaults: ClassVar = {
        **Gemma4.defaults,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "backbone_hidden_size": 1536,
    }

    @cached_property
    def n_shared_kv(self) -> int:
        return self.n_layer

    def left_out(self, name: str) -> str | None:
        # llama.cpp computes the scores of all tokens, without the order of the embeddings
        return names.HEAD if name.startswith("masked_embedding.") else super().left_out(name)

    @property
    def top_rows(self) -> tuple[Row, ...]:  # type: ignore[override]
        projections = (
            Row("pre_projection", "nextn.pre_projection", "d 2b"),
            Row("post_projection", "nextn.post_projection", "b d"),
        )
        return super().top_rows + projections

    def sizes(self, layer: int) -> dict[str, int]:
        backbone = self.config.count("backbone_hidden_size")
        return {**super().sizes(layer), "b": backbone, "2b": 2 * backbone}

    def write_metadata(self, metadata: Metadata) -> None:
        super().write_metadata(metadata)
        metadata.uint32(f"{self.arch}.embedding_length_out", self.config.count("backbone_hidden_size"))
        metadata.uint32(f"{self.arch}.nextn_predict_layers", self.n_layer)
