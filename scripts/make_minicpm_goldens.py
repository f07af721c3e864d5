"""Keep what llama.cpp's script for the projectors of MiniCPM-V writes for tiny models.

    python scripts/make_minicpm_goldens.py --llama-cpp vendor/llama.cpp

llama.cpp's converter knows MiniCPM-V 4.6 only. For the others there is a script of its own,
`tools/mtmd/legacy-models/minicpmv-convert-image-encoder-to-gguf.py`, which needs torch and transformers. The test that
reads the goldens (`tests/test_minicpm.py`) needs neither. A golden is ``tests/data/minicpm/NAME.json``: the
configuration, the names and shapes of the tensors, and metadata and tensors that the script writes. The script calls
the first matrix of a feed-forward network `ffn_down` and the second `ffn_up`; llama.cpp exchanges them while it loads
the file. Here they have the names that they have in every other projector.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]

from family_cases import Case  # noqa: E402
from make_family_goldens import lines, write_checkpoint, written  # noqa: E402
from patterns import pattern  # noqa: E402

GOLDENS = REPO / "tests" / "data" / "minicpm"
SCRIPT = "tools/mtmd/legacy-models/minicpmv-convert-image-encoder-to-gguf.py"
WIDTH, WIDE, FEED_FORWARD = 128, 48, 80
VISION: dict[str, Any] = {
    "hidden_size": WIDE,
    "image_size": 980,
    "intermediate_size": FEED_FORWARD,
    "model_type": "siglip",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 14,
}
QWEN: dict[str, Any] = {
    "architectures": ["MiniCPMV"],
    "attention_dropout": 0.0,
    "batch_vision_input": True,
    "bos_token_id": 90,
    "drop_vision_last_layer": False,
    "eos_token_id": 91,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "image_size": 448,
    "intermediate_size": 96,
    "max_position_embeddings": 32768,
    "max_window_layers": 2,
    "model_type": "minicpmv",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "patch_size": 14,
    "query_num": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "slice_config": {"max_slice_nums": 9, "model_type": "minicpmv", "patch_size": 14},
    "slice_mode": True,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_image_id": True,
    "use_sliding_window": False,
    "version": 2.6,
    "vision_config": VISION,
    "vocab_size": 96,
}
LLAMA = {
    **{key: value for key, value in QWEN.items() if "window" not in key and key != "version"},
    "max_position_embeddings": 8192,
    "query_num": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "vision_config": {**VISION, "model_type": "idefics2"},
}
CONFIGS: dict[str, tuple[int, dict[str, Any]]] = {
    "minicpm-v-2.5": (2, LLAMA),
    "minicpm-v-2.6": (3, QWEN),
    "minicpm-o-2.6": (
        4,
        {
            **QWEN,
            "architectures": ["MiniCPMO"],
            "audio_config": {"d_model": 32, "encoder_layers": 1, "model_type": "whisper"},
            "model_type": "minicpmo",
            "tts_config": {"model_type": "conditional_chattts"},
            "version": "2.6",
            "vision_config": {**VISION, "model_type": "siglip_vision_model"},
        },
    ),
    "minicpm-v-4": (5, {**LLAMA, "head_dim": 32, "query_num": 64, "version": 4.0, "vision_config": VISION}),
    "minicpm-v-4.5": (6, {**QWEN, "head_dim": 32, "version": 4.5}),
    "minicpm-o-4.5": (
        100045,
        {**QWEN, "architectures": ["MiniCPMO"], "head_dim": 32, "model_type": "minicpmo", "version": "4.5"},
    ),
}
"""Each with the number that llama.cpp gives to the version."""


def tensors_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a checkpoint."""
    found: dict[str, tuple[int, ...]] = {
        "llm.model.embed_tokens.weight": (96, WIDTH),
        "llm.model.norm.weight": (WIDTH,),
        "llm.lm_head.weight": (96, WIDTH),
    }
    for layer in range(2):
        at = f"llm.model.layers.{layer}"
        for name, rows in (("q", WIDTH), ("k", WIDTH // 2), ("v", WIDTH // 2)):
            found[f"{at}.self_attn.{name}_proj.weight"] = (rows, WIDTH)
            if "max_window_layers" in config and "head_dim" not in config:
                found[f"{at}.self_attn.{name}_proj.bias"] = (rows,)
        found[f"{at}.self_attn.o_proj.weight"] = (WIDTH, WIDTH)
        if "max_window_layers" in config and "head_dim" in config:
            found |= {f"{at}.self_attn.{name}_norm.weight": (32,) for name in "qk"}
        for name in ("gate", "up"):
            found[f"{at}.mlp.{name}_proj.weight"] = (96, WIDTH)
        found[f"{at}.mlp.down_proj.weight"] = (WIDTH, 96)
        found |= {f"{at}.{norm}.weight": (WIDTH,) for norm in ("input_layernorm", "post_attention_layernorm")}
    found |= {
        "vpm.embeddings.patch_embedding.weight": (WIDE, 3, 14, 14),
        "vpm.embeddings.patch_embedding.bias": (WIDE,),
        "vpm.embeddings.position_embedding.weight": (4900, WIDE),
    }
    pairs = [("vpm.post_layernorm", (WIDE,))]
    for layer in range(2):
        at = f"vpm.encoder.layers.{layer}"
        pairs += [(f"{at}.self_attn.{name}_proj", (WIDE, WIDE)) for name in ("q", "k", "v", "out")]
        pairs += [(f"{at}.layer_norm{index}", (WIDE,)) for index in (1, 2)]
        pairs += [(f"{at}.mlp.fc1", (FEED_FORWARD, WIDE)), (f"{at}.mlp.fc2", (WIDE, FEED_FORWARD))]
    pairs += [(f"resampler.ln_{name}", (WIDTH,)) for name in ("q", "kv", "post")]
    pairs += [("resampler.attn.out_proj", (WIDTH, WIDTH))]
    for name, shape in pairs:
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    found |= {
        "resampler.query": (config["query_num"], WIDTH),
        "resampler.proj": (WIDTH, WIDTH),
        "resampler.kv_proj.weight": (WIDTH, WIDE),
        "resampler.attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "resampler.attn.in_proj_bias": (3 * WIDTH,),
    }
    if config["architectures"] == ["MiniCPMO"]:
        found |= {
            "apm.layers.0.fc1.weight": (64, 32),
            "audio_projection_layer.linear1.weight": (WIDTH, 32),
            "tts.projector.linear1.weight": (32, WIDTH),
        }
    return found


def converted(folder: Path, number: int, shapes: dict[str, tuple[int, ...]], llama_cpp: Path) -> Path:
    """Return the file that llama.cpp's script writes. The parts of the model are what its other script would save."""
    import torch

    def part(start: str, short: bool) -> dict[str, torch.Tensor]:
        names = [name for name in shapes if name.startswith(start)]
        return {
            name.removeprefix(start) if short else name: torch.tensor(pattern(name, shapes[name]))
            for name in names
        }

    torch.save(part("vpm.", True), folder / "minicpmv.clip")
    torch.save(part("resampler.", False), folder / "minicpmv.projector")
    command = [sys.executable, llama_cpp / SCRIPT, "-m", folder, "--minicpmv_version", str(number)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "mmproj-model-f16.gguf"


def usual(name: str) -> str:
    """Return the name that a tensor has in other projectors."""
    names = {"ffn_down": "ffn_up", "ffn_up": "ffn_down"}
    return re.sub("ffn_(down|up)", lambda match: names[match[0]], name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with tools/ and gguf-py/")
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp / "gguf-py")]
    GOLDENS.mkdir(exist_ok=True)
    for name, (number, config) in CONFIGS.items():
        shapes = tensors_of(config)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            write_checkpoint(Case(name, config), shapes, folder)
            metadata, tensors = written(converted(folder, number, shapes, options.llama_cpp))
        golden = {
            "name": name,
            "config": config,
            "sources": {tensor: ["BF16", list(shape)] for tensor, shape in shapes.items()},
            "mmproj": {
                "metadata": metadata,
                "tensors": {usual(tensor): row for tensor, row in tensors.items()},
            },
        }
        (GOLDENS / f"{name}.json").write_text("".join(lines(golden)) + "\n", encoding="utf-8")
        print(f"{name}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()
