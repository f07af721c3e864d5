"""Plan models of the shape of Kimi K2 (1 T weights) and DeepSeek V3, and print seconds and peak memory.

    python scripts/large_plan.py [--layers 8 61]

The shards are sparse files: they have headers and the right sizes, and take no space on the disk. For each number of
layers two lines are printed: weights, tensors, bytes of the headers, seconds and peak memory of the process; first for
`convert --dry-run`, then for `plan`, which measures this machine as well and estimates the cost with effort srd.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MEASURE = Path(__file__).with_name("measure.py")

COMMON = {
    "architectures": ["DeepseekV3ForCausalLM"], "hidden_act": "silu", "hidden_size": 7168, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "moe_intermediate_size": 2048, "intermediate_size": 18432, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "num_nextn_predict_layers": 0, "moe_layer_freq": 1, "max_position_embeddings": 131072,
    "bos_token_id": 0, "eos_token_id": 1, "rope_theta": 50000.0,
    "rope_scaling": {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096, "type": "yarn"},
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "Kimi K2": {"model_type": "kimi_k2", "n_routed_experts": 384, "num_attention_heads": 64, "vocab_size": 163840,
                "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827},
    "DeepSeek V3": {"model_type": "deepseek_v3", "n_routed_experts": 256, "num_attention_heads": 128,
                    "vocab_size": 129280, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4,
                    "routed_scaling_factor": 2.5},
}  # fmt: skip


def tensors(config: dict[str, Any]) -> list[tuple[int, str, list[int]]]:
    """(layer, name, shape) of every tensor; what is in no layer belongs to layer 0."""
    width, heads, rank = config["hidden_size"], config["num_attention_heads"], config["q_lora_rank"]
    key, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    low, of_expert = config["kv_lora_rank"], config["moe_intermediate_size"]
    vocab = config["vocab_size"]
    found = [
        (0, "model.embed_tokens.weight", [vocab, width]),
        (0, "model.norm.weight", [width]),
        (0, "lm_head.weight", [vocab, width]),
    ]

    def mlp(layer: int, name: str, inner: int) -> None:
        for part, shape in (("gate", [inner, width]), ("up", [inner, width]), ("down", [width, inner])):
            found.append((layer, f"{name}.{part}_proj.weight", shape))

    for layer in range(config["num_hidden_layers"]):
        blk = f"model.layers.{layer}"
        attention = {
            "q_a_proj": [rank, width], "q_a_layernorm": [rank], "q_b_proj": [heads * (key + rope), rank],
            "kv_a_proj_with_mqa": [low + rope, width], "kv_a_layernorm": [low],
            "kv_b_proj": [heads * (key + value), low], "o_proj": [width, heads * value],
        }  # fmt: skip
        found += [(layer, f"{blk}.self_attn.{name}.weight", shape) for name, shape in attention.items()]
        found += [
            (layer, f"{blk}.{name}.weight", [width])
            for name in ("input_layernorm", "post_attention_layernorm")
        ]
        if layer < config["first_k_dense_replace"]:
            mlp(layer, f"{blk}.mlp", config["intermediate_size"])
            continue
        found.append((layer, f"{blk}.mlp.gate.weight", [config["n_routed_experts"], width]))
        found.append((layer, f"{blk}.mlp.gate.e_score_correction_bias", [config["n_routed_experts"]]))
        mlp(layer, f"{blk}.mlp.shared_experts", of_expert)
        for expert in range(config["n_routed_experts"]):
            mlp(layer, f"{blk}.mlp.experts.{expert}", of_expert)
    return found


def write(folder: Path, config: dict[str, Any], *, cut: bool = False) -> tuple[int, int]:
    """Write config, a small vocabulary and sparse shards, one for each layer. Returns the numbers of tensors and of the
    bytes of the headers. With `cut` the shards end behind their headers."""
    (folder / "config.json").write_text(json.dumps(config))
    letters = [chr(i) for i in range(33, 127)]
    vocab = {name: i for i, name in enumerate(["<s>", "</s>", *letters, "ab"])}
    special = [
        {"id": i, "content": name, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for name, i in list(vocab.items())[:2]
    ]  # fmt: skip
    tokenizer = {
        "version": "1.0", "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    listed = tensors(config)
    layers = config["num_hidden_layers"]
    weight_map, all_bytes = {}, 0
    for layer in range(layers):
        file = f"model-{layer + 1:05}-of-{layers:05}.safetensors"
        header, at = {}, 0
        for of, name, shape in listed:
            if of == layer:
                size = 2
                for n in shape:
                    size *= n
                header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
                weight_map[name] = file
                at += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as shard:
            shard.write(struct.pack("<Q", len(text)) + text)
            if not cut:
                shard.truncate(8 + len(text) + at)
        all_bytes += len(text)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return len(listed), all_bytes


def measured(folder: Path, *command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a command prints about the model of `folder`, and what it costs."""
    result = folder / "result.json"
    options = ["--json", "--pre-tokenizer", "gpt-2", "-o", str(folder / "m.gguf")]
    words = [sys.executable, "-m", "srd_rs", command[0], str(folder), *command[1:], *options]
    done = subprocess.run(
        [sys.executable, str(MEASURE), str(result), "600", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or json.loads(result.read_text())["code"]:
        sys.exit(done.stderr or done.stdout)
    return json.loads(done.stdout), json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 61])
    args = parser.parse_args()
    print("shape        layers   weights  tensors  headers  output  seconds  peak memory")
    for name, shape in SHAPES.items():
        for layers in args.layers:
            config = {**COMMON, **shape, "num_hidden_layers": layers}
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                count, header_bytes = write(folder, config)
                plan, cost = measured(folder, "convert", "--fast", "--dry-run")
                print(
                    f"{name:12} {layers:6} {plan['n_weights'] / 1e12:7.3f} T {count:8} {header_bytes / 1e6:5.1f} MB"
                    f" {plan['total_bytes'] / 1e9:5.0f} GB {cost['wall_s']:8.1f} {cost['peak_rss'] / 1e6:9.0f} MB"
                )
                found, cost = measured(folder, "plan")
                hours = ", ".join(f"{n['nodes']}: {n['seconds'] / 3600:.1f} h" for n in found["nodes"])
                print(
                    f"    plan: {cost['wall_s']:.1f} s ({found['planning_seconds']:.1f} s without measuring),"
                    f" {cost['peak_rss'] / 1e6:.0f} MB; effort {found['effort']} on machines like this one: {hours}"
                )


if __name__ == "__main__":
    main()
