"""PyTorch checkpoints as torch.save writes them, for the tests of `srd_rs.pickled`.

    python scripts/make_pickled_goldens.py

The weights follow from the names of their tensors (`tests/patterns.py`), so that the tests can write the same model as
safetensors. The script needs torch; the tests do not.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "tests")]

from patterns import pattern  # noqa: E402

FOLDER = REPO / "tests" / "data" / "pickled"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "vocab_size": 64,
}
LAYER = {
    "input_layernorm.weight": (32,),
    "mlp.down_proj.weight": (32, 64),
    "mlp.gate_proj.weight": (64, 32),
    "mlp.up_proj.weight": (64, 32),
    "post_attention_layernorm.weight": (32,),
    "self_attn.k_proj.weight": (16, 32),
    "self_attn.o_proj.weight": (32, 32),
    "self_attn.q_proj.weight": (32, 32),
    "self_attn.v_proj.weight": (16, 32),
}
SHAPES = {
    "lm_head.weight": (64, 32),
    "model.embed_tokens.weight": (64, 32),
    "model.norm.weight": (32,),
    **{f"model.layers.0.{name}": shape for name, shape in LAYER.items()},
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    state = OrderedDict(
        (name, torch.from_numpy(pattern(name, shape)).bfloat16()) for name, shape in SHAPES.items()
    )
    state["model.norm.weight"] = torch.nn.Parameter(state["model.norm.weight"].float())
    attention = "model.layers.0.self_attn"
    shared = torch.cat([state[f"{attention}.k_proj.weight"], state[f"{attention}.v_proj.weight"]])
    state[f"{attention}.k_proj.weight"] = shared[:16]  # two tensors of one storage
    state[f"{attention}.v_proj.weight"] = shared[16:]
    torch.save(state, FOLDER / "single.bin")
    halves = [OrderedDict(list(state.items())[:5]), {"state_dict": dict(list(state.items())[5:])}]
    for number, half in enumerate(halves, 1):
        torch.save(half, FOLDER / f"pytorch_model-0000{number}-of-00002.bin")
    torch.save({"a": torch.zeros(4, 6).half().T}, FOLDER / "view.bin")
    torch.save({"a": torch.zeros(4), "args": {"lr": 1e-4}}, FOLDER / "more.bin")
    torch.save({"a": torch.zeros(4)}, FOLDER / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.zeros(4, 4).to(torch.float8_e4m3fn)}, FOLDER / "float8.bin")
    (FOLDER / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (FOLDER / "shapes.json").write_text(json.dumps(SHAPES, indent=1) + "\n")


if __name__ == "__main__":
    main()
