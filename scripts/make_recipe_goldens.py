"""Write tests/data/recipes/*.json: the tensor types that llama-quantize itself chooses.

For each model the script writes a tiny GGUF (real names and row lengths, few rows, zero weights), and
`llama_model_quantize` of llama-cpp-python quantizes it, once for each recipe and override. The types of the tensors are
stored with one letter for each tensor, in the order of the output.

    python scripts/make_recipe_goldens.py [FIXTURES]

FIXTURES: the folder with the unpacked fixtures; their models are included when it is given.
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

import srd_rs.options

OUT = Path(__file__).parent.parent / "tests" / "data" / "recipes"
FILE_TYPES = srd_rs.options.MIXES
#: Mixes whose choice depends on whether there is an imatrix.
BY_IMATRIX = ("Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_M")
#: Mixes that llama-quantize refuses without an imatrix.
NEED_IMATRIX = ("Q2_K_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS")
LETTERS = {
    "F32": "f",
    "F16": "h",
    "BF16": "b",
    "Q4_0": "a",
    "Q4_1": "c",
    "Q5_0": "0",
    "Q5_1": "1",
    "Q8_0": "8",
    "Q4_K": "4",
    "Q5_K": "5",
    "Q6_K": "6",
    "Q2_K": "2",
    "Q3_K": "3",
    "IQ4_NL": "n",
    "IQ4_XS": "x",
    "TQ1_0": "t",
    "TQ2_0": "u",
    "MXFP4": "m",
    "IQ3_S": "S",
    "IQ3_XXS": "T",
    "IQ2_S": "P",
    "IQ2_XS": "R",
    "IQ2_XXS": "V",
}
OVERRIDES: list[dict[str, Any]] = [
    {"pure": True},
    {"token_embedding": "Q8_0"},
    {"token_embedding": "F16"},
    {"output_tensor": "Q8_0"},
    {"token_embedding": "Q4_K", "output_tensor": "Q5_K", "pure": True},
    {"tensor_type": ["attn_v=Q8_0"]},
    {"tensor_type": [r"blk\.[0-3]\.ffn_down=Q8_0", "ffn_down=Q4_0", "token_embd=Q5_1"]},
    {"tensor_type": ["(attn_k|attn_q).weight$=F16"], "pure": True},
    {"tensor_type": ["per_layer_token_embd=Q5_K", "embd=Q6_K"], "token_embedding": "Q8_0"},
]


@dataclass
class Model:
    """A model to quantize: metadata, and tensors as (name, ne, type)."""

    arch: str
    n_layer: int
    n_head: int = 8
    n_head_kv: int = 2
    n_expert: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    tensors: list[tuple[str, list[int], str]] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """The model as the recipe sees it."""
        return {
            "arch": self.arch,
            "n_layer": self.n_layer,
            "n_expert": self.n_expert,
            "n_head": self.n_head,
            "n_head_kv": [self.n_head_kv],
        }

    def add(self, name: str, *ne: int, kind: str = "BF16") -> Model:
        self.tensors.append((name, list(ne), kind))
        return self

    def add_layers(self, parts: list[tuple[str, list[int]]]) -> Model:
        for i in range(self.n_layer):
            self.add(f"blk.{i}.attn_norm.weight", parts[0][1][0], kind="F32")
            for part, ne in parts:
                self.add(f"blk.{i}.{part}.weight", *ne)
        return self


def dense(width: int = 256, ff: int = 512, *, fused: bool = False) -> list[tuple[str, list[int]]]:
    """The matrices of a dense layer."""
    names = ["attn_qkv"] if fused else ["attn_q", "attn_k", "attn_v"]
    attention = [(name, [width, 4]) for name in names]
    return [
        *attention,
        ("attn_output", [width, 4]),
        ("ffn_gate", [width, 4]),
        ("ffn_up", [width, 4]),
        ("ffn_down", [ff, 4]),
    ]


def experts(n: int) -> list[tuple[str, list[int]]]:
    """The matrices of a mixture-of-experts layer."""
    return [
        *dense()[:4],
        ("ffn_gate_inp", [256, n]),
        ("ffn_gate_exps", [256, 4, n]),
        ("ffn_up_exps", [256, 4, n]),
        ("ffn_down_exps", [256, 4, n]),
        ("ffn_down_shexp", [256, 4]),
    ]


def ends(model: Model, width: int = 256, *, tied: bool = False) -> Model:
    """Puts embeddings, final norm and, unless tied, the output matrix before the layers."""
    head = Model("", 0).add("token_embd.weight", width, 8).add("output_norm.weight", width, kind="F32")
    if not tied:
        head.add("output.weight", width, 8)
    model.tensors = head.tensors + model.tensors
    return model


def models() -> dict[str, Model]:
    rows_of_few = [("attn_v", [256, 4]), ("attn_output", [256, 4]), ("ffn_down", [256, 4])]
    odd = [*dense(896, 4864)[:4], ("ffn_gate", [100, 4]), ("ffn_up", [256, 1]), ("ffn_down", [288, 4])]
    return {
        "llama": ends(Model("llama", 17).add_layers(dense())),
        "llama_tied": ends(Model("llama", 16).add_layers(dense()), tied=True),
        "llama_odd": ends(Model("llama", 9).add_layers(odd), 896),
        "llama_odd_tied": ends(Model("llama", 9).add_layers(odd), 80, tied=True),
        "llama_8_experts": ends(Model("llama", 9, n_expert=8).add_layers(experts(8))),
        "llama_80": ends(Model("llama", 80, n_head=64, n_head_kv=8).add_layers(rows_of_few)),
        "llama_80_no_gqa": ends(Model("llama", 80, n_head=8, n_head_kv=8).add_layers(rows_of_few)),
        "qwen2_80": ends(Model("qwen2", 80).add_layers(rows_of_few)),
        "qwen2": ends(Model("qwen2", 24).add_layers(dense(896, 4864)), 896, tied=True),
        "qwen3moe": ends(Model("qwen3moe", 10, n_expert=16).add_layers(experts(16))),
        "gemma": ends(Model("gemma", 18).add_layers(dense()), tied=True),
        "phi3": ends(Model("phi3", 32).add_layers(dense(fused=True))),
        "falcon": ends(Model("falcon", 32, n_head_kv=1).add_layers(dense(fused=True))),
    }


def write(model: Model, path: Path) -> None:
    writer = gguf.GGUFWriter(str(path), model.arch)
    arch = model.arch
    writer.add_block_count(model.n_layer)
    writer.add_context_length(256)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(model.n_head)
    writer.add_head_count_kv(model.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(8)
    if model.n_expert:
        writer.add_expert_count(model.n_expert)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(256)
    for key, value in model.extra.items():
        full = f"{arch}.{key}"
        if isinstance(value, list):
            writer.add_array(full, value)
        elif isinstance(value, float):
            writer.add_float32(full, value)
        else:
            writer.add_uint32(full, value)
    for name, ne, kind in model.tensors:
        shape = ne[::-1]
        if kind == "F32":
            writer.add_tensor(name, np.zeros(shape, np.float32))
        else:
            raw = np.zeros([*shape[:-1], 2 * shape[-1]], np.uint8)
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    # By name: these methods have no annotations.
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()


def even_imatrix(model: Model) -> Any:
    """Importances of 1 for every matrix."""
    matrices = [(name, ne) for name, ne, _ in model.tensors if len(ne) > 1]
    table = (llama_cpp.llama_cpp.llama_model_imatrix_data * (len(matrices) + 1))()
    for row, (name, ne) in zip(table, matrices, strict=False):
        size = ne[0] * (ne[2] if len(ne) > 2 else 1)
        row.name, row.size = name.encode(), size
        row.data = (ctypes.c_float * size)(*[1.0] * size)
    return table


def quantize(
    source: Path, recipe: str, overrides: dict[str, Any], imatrix: Any = None
) -> tuple[list[str], str]:
    """Names in file order, and a letter for the type of each."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 1
    params.ftype = FILE_TYPES[recipe]
    params.pure = overrides.get("pure", False)
    if "token_embedding" in overrides:
        params.token_embedding_type = gguf.GGMLQuantizationType[overrides["token_embedding"]]
    if "output_tensor" in overrides:
        params.output_tensor_type = gguf.GGMLQuantizationType[overrides["output_tensor"]]
    patterns = [text.rsplit("=", 1) for text in overrides.get("tensor_type", [])]
    table = (llama_cpp.llama_cpp.llama_model_tensor_override * (len(patterns) + 1))()
    for row, (pattern, kind) in zip(table, patterns, strict=False):
        row.pattern, row.type = pattern.encode(), gguf.GGMLQuantizationType[kind]
    if patterns:
        params.tt_overrides = table
    if imatrix is not None:
        params.imatrix = imatrix
    target = source.with_suffix(".out.gguf")
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize failed on {source.name}, {recipe}, {overrides}")
    tensors = gguf.GGUFReader(target).tensors
    return [t.name for t in tensors], "".join(LETTERS[t.tensor_type.name] for t in tensors)


def from_fixture(folder: Path) -> Model:
    """A fixture's model: its own metadata and names, its matrices cut to two rows."""
    expected = json.loads((folder / "expected.json").read_text())
    kv, arch = expected["kv"], expected["gguf_arch"]
    get = lambda key, default=0: kv.get(f"{arch}.{key}", default)  # noqa: E731
    first = lambda value: value[0] if isinstance(value, list) else value  # noqa: E731
    model = Model(arch, get("block_count"), first(get("attention.head_count")))
    model.n_head_kv = first(get("attention.head_count_kv"))
    model.n_expert = get("expert_count")
    known = {"block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"}
    known |= {"attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"}
    known |= {"expert_count", "expert_used_count", "expert_feed_forward_length"}
    for key, value in kv.items():
        short = key.removeprefix(f"{arch}.")
        if short != key and short not in known and not isinstance(value, str | dict):
            model.extra[short] = value
    for t in expected["tensors"]:
        ne = [n if i == 0 else min(n, 2) for i, n in enumerate(t["shape"])]
        model.add(t["name"], *ne, kind=t["type_bf16"])
    return model


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    every = models()
    with_overrides = {"llama", "gemma", "llama_odd", "fixture_gemma4_e2b"}
    if len(sys.argv) > 1:
        for folder in sorted(Path(sys.argv[1]).iterdir()):
            if (folder / "expected.json").exists():
                every[f"fixture_{folder.name}"] = from_fixture(folder)
    for name, model in every.items():
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "m.gguf"
            write(model, source)
            wanted: list[tuple[str, dict[str, Any], bool]] = []
            for recipe in FILE_TYPES:
                known = {True} if recipe in NEED_IMATRIX else {False, recipe in BY_IMATRIX}
                wanted += [(recipe, {}, imatrix) for imatrix in sorted(known)]
            if name in with_overrides:
                wanted += [(r, o, False) for r in ("Q4_K_M", "Q5_K_S", "F16") for o in OVERRIDES]
            imatrix = even_imatrix(model)
            cases = []
            order: list[str] = []
            for recipe, overrides, known in wanted:
                # An asked-for type whose blocks do not fit aborts llama-quantize: nothing to compare.
                if name == "llama_odd" and overrides.get("token_embedding", "").endswith("K"):
                    continue
                order, types = quantize(source, recipe, overrides, imatrix if known else None)
                case = {"recipe": recipe, "overrides": overrides, "types": types}
                cases.append(case | {"imatrix": True} if known else case)
        golden = {
            "facts": model.facts(),
            "letters": {v: k for k, v in LETTERS.items()},
            "order": order,
            "tensors": model.tensors,
            "cases": cases,
        }
        text = json.dumps(golden, separators=(",", ":")).replace('],["', '],\n["').replace('},{"', '},\n{"')
        (OUT / f"{name}.json").write_text(text + "\n")
        print(f"{name}: {len(model.tensors)} tensors, {len(cases)} cases")


if __name__ == "__main__":
    main()
