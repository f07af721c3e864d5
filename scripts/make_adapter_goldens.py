"""Write GGUF adapters of tiny LoRA adapters with llama.cpp's own converter, and keep what is in them as hashes.

    python scripts/make_adapter_goldens.py --llama-cpp vendor/llama.cpp [NAME ...]

The script needs torch, transformers and peft; `tests/test_adapters.py`, which reads the goldens, needs none of them.
PEFT decides names and shapes; all weights follow from their names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]

from make_family_goldens import lines  # noqa: E402
from make_lora_goldens import SCALE, tensors_of  # noqa: E402
from patterns import write_shards  # noqa: E402

GOLDENS = REPO / "tests" / "data" / "adapters"
_SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "num_hidden_layers": 2, "vocab_size": 96, "max_position_embeddings": 128, "dtype": "float32",
}  # fmt: skip
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_GEMMA = {**_SIZES, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}
TYPES = ("f32", "f16", "bf16")


def _model(name: str, kind: str, sizes: dict[str, Any] = _SIZES, **more: Any) -> dict[str, Any]:
    return {"architectures": [name], "model_type": kind, **sizes, **more}


def _lora(*modules: str, **more: Any) -> dict[str, Any]:
    return {"r": 4, "lora_alpha": 8, "target_modules": list(modules), **more}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (_model("LlamaForCausalLM", "llama", tie_word_embeddings=False), _lora(*_LINEAR, "lm_head")),
    "llama-embedding": (
        _model("LlamaForCausalLM", "llama", tie_word_embeddings=False),
        _lora("q_proj", "k_proj", "embed_tokens", r=16, lora_alpha=4),
    ),
    "mistral-layers": (
        _model("MistralForCausalLM", "mistral", tie_word_embeddings=False),
        _lora("q_proj", "v_proj", layers_to_transform=[1]),
    ),
    "qwen2": (_model("Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True), _lora(*_LINEAR)),
    "qwen3": (_model("Qwen3ForCausalLM", "qwen3", tie_word_embeddings=True), _lora(*_LINEAR)),
    "gemma2": (_model("Gemma2ForCausalLM", "gemma2", _GEMMA), _lora(*_LINEAR)),
    "gemma3": (_model("Gemma3ForCausalLM", "gemma3_text", _GEMMA), _lora(*_LINEAR)),
    "phi3": (
        _model("Phi3ForCausalLM", "phi3", pad_token_id=0, original_max_position_embeddings=128),
        _lora("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    ),
    "mixtral-attention": (
        _model("MixtralForCausalLM", "mixtral", num_local_experts=4, num_experts_per_tok=2),
        _lora("q_proj", "k_proj", "v_proj", "o_proj"),
    ),
    "mixtral-experts": (
        _model("MixtralForCausalLM", "mixtral", num_local_experts=4, num_experts_per_tok=2),
        _lora("q_proj", "w1", "w2", "w3"),
    ),
    "phi2": (_model("PhiForCausalLM", "phi"), _lora("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")),
    "granite": (_model("GraniteForCausalLM", "granite"), _lora(*_LINEAR)),
    "gpt-neox": (
        _model("GPTNeoXForCausalLM", "gpt_neox", rotary_pct=0.25, use_parallel_residual=True),
        _lora("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "internlm2": (
        _model("InternLM2ForCausalLM", "internlm2", bias=False),
        _lora("wqkv", "wo", "w1", "w2", "w3"),
    ),
}


def _write_adapter(config: dict[str, Any], options: dict[str, Any], folder: Path) -> None:
    """Write the adapter with PEFT, with the names that PEFT gives."""
    import peft
    import torch
    import transformers

    name = config["architectures"][0]
    if name == "MixtralForCausalLM" and "w1" in options["target_modules"]:
        model = _mixtral(config)
    elif name == "InternLM2ForCausalLM":
        model = _internlm2(config)
    else:
        settings = transformers.AutoConfig.for_model(**config)
        model = getattr(transformers, name)(settings).to(torch.float32)
    peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options)).save_pretrained(folder)


def _nested(shapes: dict[str, tuple[int, int]], config: dict[str, Any]) -> Any:
    """Return a module of linear layers by name: rows and columns of each."""
    import torch

    root = torch.nn.Module()
    root.config = config
    root.prepare_inputs_for_generation = lambda *_a, **_k: None
    for name, (rows, columns) in shapes.items():
        module = root
        *path, last = name.split(".")
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        module.add_module(last, torch.nn.Linear(columns, rows, bias=False))
    return root


def _mixtral(config: dict[str, Any]) -> Any:
    """The modules of Mixtral as the published checkpoints and transformers 4 name them: one per expert."""
    d, x, k = 64, 96, 32
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}"
        shapes[f"{start}.self_attn.q_proj"] = (d, d)
        shapes[f"{start}.self_attn.k_proj"] = (k, d)
        for expert in range(config["num_local_experts"]):
            inside = f"{start}.block_sparse_moe.experts.{expert}"
            shapes |= {f"{inside}.w1": (x, d), f"{inside}.w2": (d, x), f"{inside}.w3": (x, d)}
    return _nested(shapes, config)


def _internlm2(config: dict[str, Any]) -> Any:
    """The modules of InternLM 2, whose class stands in its repository only."""
    shapes = {}
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}"
        shapes |= {f"{start}.attention.wqkv": (128, 64), f"{start}.attention.wo": (64, 64)}
        shapes |= {f"{start}.feed_forward.w1": (96, 64), f"{start}.feed_forward.w3": (96, 64)}
        shapes[f"{start}.feed_forward.w2"] = (64, 96)
    return _nested(shapes, config)


def made(name: str, llama_cpp: Path, scratch: Path) -> dict[str, Any]:
    """Write a base configuration and its adapter, convert the adapter, and return the golden."""
    config, options = CASES[name]
    base, folder = scratch / "base", scratch / "adapter"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(config))
    _write_adapter(config, options, folder)
    sources = tensors_of(folder / "adapter_model.safetensors")
    write_shards(sources, folder, SCALE)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "org/base"
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "README.md").unlink(missing_ok=True)
    golden: dict[str, Any] = {"config": config, "adapter": settings, "sources": sources, "files": {}}
    for kind in TYPES:
        output = scratch / f"{kind}.gguf"
        script = llama_cpp / "convert_lora_to_gguf.py"
        command = [sys.executable, script, folder, "--base", base, "--outfile", output, "--outtype", kind]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: the converter of llama.cpp stops: {done.stderr.strip().splitlines()[-1]}")
            golden["files"] = {}
            return golden
        golden["files"][kind] = read(output)
    return golden


def read(path: Path) -> dict[str, Any]:
    """Return the metadata of a GGUF, and its tensors with hashes."""
    import gguf

    reader = gguf.GGUFReader(path)
    return {
        "metadata": {n: f.contents() for n, f in reader.fields.items() if not n.startswith("GGUF.")},
        "tensors": {
            t.name: [t.tensor_type.name, t.shape.tolist(), hashlib.sha256(t.data.tobytes()).hexdigest()[:16]]
            for t in reader.tensors
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with convert_lora_to_gguf.py")
    parser.add_argument("names", nargs="*", help="cases; all by default")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    GOLDENS.mkdir(exist_ok=True)
    for name in options.names or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            golden = made(name, options.llama_cpp.resolve(), Path(scratch))
        (GOLDENS / f"{name}.json").write_text("".join(lines(golden)) + "\n", encoding="utf-8")
        print(f"{name}: {len(golden['sources'])} tensors", flush=True)


if __name__ == "__main__":
    main()
