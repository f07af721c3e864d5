"""A checkpoint of Qwen2.5-VL whose encoder has the published widths. All weights are zero, so that its file takes no
room on the disk."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from vocab_tools import byte_bpe, byte_vocabulary

WIDTH, FEED_FORWARD, HEADS, VOCABULARY = 1280, 3420, 16, 96


def large(folder: Path, depth: int) -> Path:
    """Write a model whose encoder and whose text half have `depth` layers each, of about the same size."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "max_position_embeddings": 4096,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": HEADS,
        "num_hidden_layers": depth,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_section": [8, 16, 16], "type": "mrope"},
        "tie_word_embeddings": True,
        "vision_config": {
            "depth": depth,
            "hidden_size": WIDTH,
            "intermediate_size": FEED_FORWARD,
            "num_heads": HEADS,
            "out_hidden_size": WIDTH,
        },
        "vocab_size": VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config))
    means = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(means))
    vocab, merges = byte_vocabulary(("a", "b"))
    letters = dict(list(vocab.items())[: VOCABULARY - 1])
    letters["ab"] = len(letters)
    (folder / "tokenizer.json").write_text(json.dumps(byte_bpe(letters, merges)))
    _write_zeros(folder / "model.safetensors", _shapes(depth))
    return folder


def _shapes(depth: int) -> dict[str, tuple[int, ...]]:
    w, f, merged = WIDTH, FEED_FORWARD, 4 * WIDTH
    seen: dict[str, tuple[int, ...]] = {
        "attn.qkv.weight": (3 * w, w),
        "attn.qkv.bias": (3 * w,),
        "attn.proj.weight": (w, w),
        "attn.proj.bias": (w,),
        "norm1.weight": (w,),
        "norm2.weight": (w,),
    }
    text: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (w,),
        "post_attention_layernorm.weight": (w,),
    }
    for part, shape in (("gate", (f, w)), ("up", (f, w)), ("down", (w, f))):
        seen |= {f"mlp.{part}_proj.weight": shape, f"mlp.{part}_proj.bias": shape[:1]}
        text[f"mlp.{part}_proj.weight"] = shape
    for part in "qkv":
        text |= {f"self_attn.{part}_proj.weight": (w, w), f"self_attn.{part}_proj.bias": (w,)}
    text["self_attn.o_proj.weight"] = (w, w)
    return {
        "model.embed_tokens.weight": (VOCABULARY, w),
        "model.norm.weight": (w,),
        **{f"model.layers.{i}.{name}": shape for i in range(depth) for name, shape in text.items()},
        "visual.patch_embed.proj.weight": (w, 3, 2, 14, 14),
        **{f"visual.blocks.{i}.{name}": shape for i in range(depth) for name, shape in seen.items()},
        "visual.merger.ln_q.weight": (w,),
        "visual.merger.mlp.0.weight": (merged, merged),
        "visual.merger.mlp.0.bias": (merged,),
        "visual.merger.mlp.2.weight": (w, merged),
        "visual.merger.mlp.2.bias": (w,),
    }


def _write_zeros(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of BF16 zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * prod(shape)]}
        end += 2 * prod(shape)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
