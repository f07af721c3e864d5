"""A LoRA adapter merged by srd-rs, and the same adapter merged by PEFT, on the weights of a real model.

    python scripts/compare_peft.py smollm2.gguf

The GGUF (BF16) of a Llama is written as a checkpoint of transformers. Each adapter changes every matrix of every layer;
its values are random with a seed, and its update is a few hundredths of a weight, as after a fine-tune. srd-rs merges
the adapter while it converts to BF16. PEFT merges it in F32 and in BF16, and srd-rs converts what PEFT saved. A line
of the table has the share of equal values, and the largest difference in BF16 roundings: in the distance of two BF16
numbers at the size of the weight or of the merged value, whichever is larger. Needs torch, transformers and peft.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
# Where the package is installed, the installed one is used: the folder of the sources may lack the native module.
sys.path.insert(0, str(REPO / "tests"))
sys.path.append(str(REPO / "python"))

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
from gguf.quants import dequantize  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from srd_rs.checkpoint import Checkpoint  # noqa: E402
from srd_rs.families import describe  # noqa: E402
from test_family_goldens import converted  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "LoRA, F16 adapter": {},
}
SEED = 0
UPDATE = 0.03
"""Size of an update, as a share of the size of the weight."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a BF16 GGUF of a Llama")
    parser.add_argument("--rank", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = folder / "base"
        undone(arguments.model, base)
        weights = tensors(base, folder)
        print(
            f"{'adapter':20} {'PEFT in':8} {'values':>10} {'equal':>9} {'largest':>8}   (in BF16 roundings)"
        )
        for kind, options in KINDS.items():
            adapter = made(kind, options, base, folder, arguments.rank)
            ours = tensors(base, folder, adapter)
            for dtype in ("float32", "bfloat16"):
                theirs = tensors(merged(base, adapter, dtype, folder), folder)
                equal, count, largest = difference(ours, theirs, weights)
                print(f"{kind:20} {dtype:8} {count:10} {equal / count:9.5%} {largest:8.3f}", flush=True)


_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}  # fmt: skip


def undone(path: Path, folder: Path) -> None:
    """Write a GGUF of a Llama as a checkpoint of transformers."""
    reader = gguf.GGUFReader(path)

    def key(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    heads = {"attn_q": key("attention.head_count"), "attn_k": key("attention.head_count_kv")}
    weights = {}
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).to(torch.bfloat16)
        if parts[-2] in heads:  # llama.cpp turns neighbours, transformers turns halves
            count = heads[parts[-2]]
            values = values.reshape(count, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        layer = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        weights[f"{layer}{_NAMES[parts[-2]]}.weight"] = values.contiguous()
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": key("embedding_length"),
        "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"),
        "num_attention_heads": heads["attn_q"],
        "num_key_value_heads": heads["attn_k"],
        "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": key("context_length"),
        "vocab_size": len(weights["model.embed_tokens.weight"]),
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def made(kind: str, options: dict[str, Any], base: Path, folder: Path, rank: int) -> Path:
    """Write an adapter with random values, whose updates have the size `UPDATE`."""
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear", **options
    )
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, peft.tuners.lora.Linear):
                up, down = module.lora_B["default"].weight, module.lora_A["default"].weight
                up.normal_()
                size = module.scaling["default"] * (up @ down).std()
                up *= UPDATE * module.base_layer.weight.std() / size
                for magnitude in module.lora_magnitude_vector.values():
                    magnitude.weight *= 1 + UPDATE * torch.randn_like(magnitude.weight)
    if "F16" in kind:
        model = model.half()
    place = folder / "adapter"
    shutil.rmtree(place, ignore_errors=True)
    model.save_pretrained(place)
    return place


def merged(base: Path, adapter: Path, dtype: str, folder: Path) -> Path:
    """Return the folder of the model with the adapter, merged by PEFT in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    place = folder / "merged"
    shutil.rmtree(place, ignore_errors=True)
    model.save_pretrained(place)
    return place


def tensors(model: Path, folder: Path, *adapters: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the matrices that srd-rs writes as BF16, as F32, by name."""
    checkpoint = Checkpoint.open(model)
    checkpoint.adapters = adapters
    (folder / "out.gguf").unlink(missing_ok=True)
    found = converted(checkpoint, describe(checkpoint), "BF16", folder / "out.gguf", 1 << 30)
    return {
        t.name: (np.asarray(t.data).view(np.uint16).astype(np.uint32) << 16).view(np.float32).copy()
        for t in found
        if t.tensor_type.name == "BF16" and t.name.startswith("blk.")
    }


def difference(
    ours: dict[str, np.ndarray[Any, Any]],
    theirs: dict[str, np.ndarray[Any, Any]],
    weights: dict[str, np.ndarray[Any, Any]],
) -> tuple[int, int, float]:
    """Return the number of equal values, the number of values, and the largest difference in BF16 roundings."""
    assert ours.keys() == theirs.keys() == weights.keys() and ours
    equal = count = 0
    largest = 0.0
    for name, values in ours.items():
        assert not np.array_equal(values, weights[name]), f"{name} was not changed by the adapter"
        size = np.maximum(np.abs(weights[name]), np.maximum(np.abs(values), np.abs(theirs[name])))
        step = np.exp2(np.floor(np.log2(np.maximum(size, 2.0**-120))) - 7)
        largest = max(largest, float(np.max(np.abs(values - theirs[name]) / step)))
        equal += int(np.sum(values == theirs[name]))
        count += values.size
    return equal, count, largest


if __name__ == "__main__":
    main()
