"""Keep what transformers computes for a picture with tiny models of LLaVA.

    python scripts/make_llava_goldens.py

The script needs torch and transformers; the test that reads the goldens (`tests/test_llava.py`) needs neither. A golden
is a file of its own, ``tests/data/llava/NAME.json``: the configuration, the names and shapes of the tensors, and the
outputs of the projector, which llama.cpp's converter does not write. The picture is that of `tests/mtmd.py` in the size
of the encoder, so that it is not resized.

mtmd puts the token for the class behind the patches, where transformers puts it before them. So all patches have the
positions of their neighbours, and the first patch is left out. The outputs are those for this order.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]

import mtmd  # noqa: E402
from family_cases import Case  # noqa: E402
from make_family_goldens import lines, shapes_of  # noqa: E402

GOLDENS = REPO / "tests" / "data" / "llava"
SIDE = 56
MEANS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
TEXT: dict[str, Any] = {
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "vocab_size": 96,
}
ENCODER: dict[str, Any] = {
    "hidden_size": 48,
    "image_size": SIDE,
    "intermediate_size": 80,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "patch_size": 14,
}
CLIP = {**ENCODER, "model_type": "clip_vision_model", "projection_dim": 32, "vocab_size": 96}
SIGLIP = {**ENCODER, "model_type": "siglip_vision_model", "vision_use_head": False}
LLAVA: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 95,
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "text_config": TEXT,
    "vision_config": CLIP,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
NEXT = {
    **LLAVA,
    "architectures": ["LlavaNextForConditionalGeneration"],
    "image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
    "model_type": "llava_next",
}
GRANITE = {
    **NEXT,
    "text_config": {
        **TEXT,
        "attention_multiplier": 0.0625,
        "embedding_multiplier": 12.0,
        "logits_scaling": 8.0,
        "model_type": "granite",
        "residual_multiplier": 0.22,
        "tie_word_embeddings": True,
    },
    "tie_word_embeddings": True,
    "vision_config": SIGLIP,
    "vision_feature_layer": [-3, -1],
    "vision_feature_select_strategy": "full",
}
CONFIGS = {"llava-1.5": LLAVA, "llava-1.6": NEXT, "granite-3-vision": GRANITE}


def outputs(folder: Path, config: dict[str, Any]) -> np.ndarray:
    """Return what the projector gives for the picture."""
    import torch
    import transformers

    found = (
        getattr(transformers, config["architectures"][0]).from_pretrained(folder, dtype=torch.float32).eval()
    )
    model = found.model
    mtmd.WIDTH = mtmd.HEIGHT = SIDE
    pixels = (mtmd.picture() / 255 - MEANS["image_mean"]) / MEANS["image_std"]
    shown = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)
    encoder = model.vision_tower
    embeddings = encoder.embeddings
    with torch.no_grad():
        states = embeddings.patch_embedding(shown).flatten(2).transpose(1, 2)
        clip = config["vision_config"]["model_type"] == "clip_vision_model"
        if clip:
            states = torch.cat([states, embeddings.class_embedding.expand(1, 1, -1)], 1)
        states = states + embeddings.position_embedding.weight[None]
        states = encoder.pre_layrnorm(states) if clip else states
        after = [states]
        for layer in encoder.encoder.layers:
            states = layer(states, attention_mask=None)
            states = states[0] if isinstance(states, tuple) else states
            after.append(states)
        seen = config["vision_feature_layer"]
        joined = torch.cat([after[at] for at in (seen if isinstance(seen, list) else [seen])], -1)
        result: np.ndarray = model.multi_modal_projector(joined[:, 1:] if clip else joined).numpy()
    return result


def main() -> None:
    GOLDENS.mkdir(exist_ok=True)
    for name, config in CONFIGS.items():
        shapes = shapes_of(Case(name, config))
        golden: dict[str, Any] = {
            "name": name,
            "config": config,
            "files": {"preprocessor_config.json": MEANS},
            "sources": {tensor: ["BF16", list(shape)] for tensor, shape in shapes.items()},
        }
        with tempfile.TemporaryDirectory() as scratch:
            found = outputs(mtmd.prepared(golden, Path(scratch)), config)
        golden["outputs"] = [float(f"{value:.6g}") for value in found.reshape(-1)]
        (GOLDENS / f"{name}.json").write_text("".join(lines(golden)) + "\n", encoding="utf-8")
        print(f"{name}: {found.size} outputs, the largest is {np.abs(found).max():.4g}")


if __name__ == "__main__":
    main()
