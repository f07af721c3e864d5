"""Merge LoRA adapters with PEFT, convert the results with llama.cpp's own converter, and keep the tensors as hashes.

    python scripts/make_lora_goldens.py --llama-cpp vendor/llama.cpp

The script needs torch, transformers and peft; `tests/test_lora.py`, which reads the goldens, needs none of them. All
weights follow from their names and are fractions with few digits, so that the sums of a merge are exact in F32, in
whatever order they are added, and the hashes can be compared. The rows of a DoRA adapter are divided by their lengths,
which is not exact; of its tensors the first values are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]

from make_family_goldens import lines, without_vocabulary  # noqa: E402
from patterns import write_shards  # noqa: E402

GOLDENS = REPO / "tests" / "data" / "lora"
SCALE = 1 / 256
_SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 96, "max_position_embeddings": 128, "dtype": "float32",
}  # fmt: skip
_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    **_SIZES,
    "tie_word_embeddings": False,
}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    **_SIZES,
    "tie_word_embeddings": False,
}
_GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2,
    "n_positions": 128, "n_ctx": 128, "vocab_size": 96, "dtype": "float32",
}  # fmt: skip
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "patterns": (
        _QWEN2,
        [
            {
                "r": 4,
                "lora_alpha": 8,
                "target_modules": ["q_proj", "v_proj", "down_proj"],
                "rank_pattern": {"down_proj": 8, "layers.1.self_attn.q_proj": 2},
                "alpha_pattern": {r"layers\.\d+\.mlp\.down_proj": 32, "1.self_attn.v_proj": 16},
                "modules_to_save": ["lm_head"],
                "bias": "lora_only",
            }
        ],
    ),
    "rank-stabilized": (
        _LLAMA,
        [{"r": 16, "lora_alpha": 8, "use_rslora": True, "target_modules": [*_LINEAR, "embed_tokens"]}],
    ),
    "two": (
        _LLAMA,
        [
            {"r": 4, "lora_alpha": 4, "target_modules": _LINEAR},
            {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "lm_head"]},
        ],
    ),
    "rows-are-inputs": (
        _GPT2,
        [{"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}],
    ),
    "dora": (_LLAMA, [{"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ["q_proj", "up_proj"]}]),
}


def tensors_of(path: Path) -> dict[str, list[Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {n: ["F32", list(file.get_slice(n).get_shape()), path.name] for n in file.keys()}  # noqa: SIM118


def made(config: dict[str, Any], adapters: list[dict[str, Any]], scratch: Path) -> dict[str, Any]:
    """Write a base model and its adapters, merge them with PEFT, and return the golden."""
    import peft
    import torch
    import transformers

    base = scratch / "base"
    model_class = getattr(transformers, config["architectures"][0])
    model_class(transformers.AutoConfig.for_model(**config)).to(torch.float32).save_pretrained(base)
    (base / "config.json").write_text(json.dumps(config))
    sources = tensors_of(base / "model.safetensors")
    write_shards(sources, base, SCALE)
    golden: dict[str, Any] = {"config": config, "sources": sources, "adapters": []}
    folders = []
    for number, options in enumerate(adapters):
        folder = scratch / f"adapter-{number}"
        model = model_class.from_pretrained(base, dtype=torch.float32)
        peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options)).save_pretrained(folder)
        held = tensors_of(folder / "adapter_model.safetensors")
        write_shards(held, folder, SCALE)
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = "org/base"
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        folders.append(folder)
        golden["adapters"].append({"config": settings, "sources": held})
    model = model_class.from_pretrained(base, dtype=torch.float32)
    for folder in folders:
        model = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    model.save_pretrained(scratch / "merged")
    (scratch / "merged" / "config.json").write_text(json.dumps(config))
    inexact = any(options.get("use_dora") for options in adapters)
    golden["tensors"] = converted(scratch / "merged", scratch / "merged.gguf", inexact)
    return golden


def converted(folder: Path, output: Path, values: bool) -> dict[str, Any]:
    """Return the tensors of the F32 file of llama.cpp's converter: the first values, or a hash of all of them."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(folder, False)
    model_class = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    without_vocabulary(ModelBase)
    with torch.inference_mode():
        model_class(folder, gguf.LlamaFileType.ALL_F32, output, hparams=hparams).write()
    return {
        t.name: [float(v) for v in t.data.flatten()[:16]]
        if values
        else hashlib.sha256(t.data.tobytes()).hexdigest()[:16]
        for t in gguf.GGUFReader(output).tensors
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with conversion/ and gguf-py/")
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp), str(options.llama_cpp / "gguf-py")]
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    GOLDENS.mkdir(exist_ok=True)
    for name, (config, adapters) in CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            golden = made(config, adapters, Path(scratch))
        (GOLDENS / f"{name}.json").write_text("".join(lines(golden)) + "\n", encoding="utf-8")
        print(f"{name}: {len(golden['tensors'])} tensors", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
