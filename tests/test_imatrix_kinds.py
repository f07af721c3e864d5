"""Importances and cut rows: the blocks of every type that weighs its errors, for many ways to cut the work.

Stacks of experts and matrices of odd widths are quantized under an imatrix. Whatever the number of threads, the
memory, the type of the source, the form of the imatrix and the destination are, each matrix has the blocks that its
whole rows give under the importances of its columns, expert by expert. `srd_rs.quantize` makes these blocks apart from
the pipeline.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import srd_rs
from axm_tools import key_file
from srd_rs import _core
from vocab_tools import added, byte_bpe, byte_vocabulary, write_folder

#: Bytes that the pipeline reserves for each weight that a worker takes at a time.
BYTES_PER_WEIGHT = 20
LAYERS, EXPERTS, HIDDEN, WIDTH = 7, 3, 512, 96
Floats = npt.NDArray[np.float32]


def block_of(kind: str) -> int:
    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0])


WIDE = [kind for kind in _core.WEIGHED_TYPES if block_of(kind) == 256]
NARROW = [kind for kind in _core.WEIGHED_TYPES if block_of(kind) == 32]


@dataclass(frozen=True)
class Model:
    """A checkpoint, the type of each of its matrices, and importances of their columns."""

    folder: Path
    types: dict[str, str]
    squares: dict[str, Floats]

    @property
    def rules(self) -> list[str]:
        return [*(f"^{name}$={kind}" for name, kind in self.types.items()), "weight$=F32"]


def values(shape: tuple[int, ...], random: np.random.Generator) -> Floats:
    """Weights with a heavy tail that F16, BF16, F32 and F64 hold exactly, and a row of zeros."""
    whole = np.clip(np.rint(random.standard_t(3, shape) * 20), -255, 255)
    if len(shape) == 1:
        return np.full(shape, 1, np.float32)
    if len(whole) > 5:
        whole[5] = 0
    return (whole / 4096).astype(np.float32)


def stored(data: Floats, dtype: str) -> bytes:
    if dtype == "BF16":
        return (data.view(np.uint32) >> 16).astype("<u2").tobytes()
    return data.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_checkpoint(
    folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], dtype: str
) -> Path:
    vocab, merges = byte_vocabulary(("h", "e"))
    tokens = [added(len(vocab), "</s>", special=True)]
    folder.mkdir()
    write_folder(
        folder,
        config_json={
            **config,
            "vocab_size": len(vocab) + 1,
            "eos_token_id": len(vocab),
            "torch_dtype": "float32",
        },
        tokenizer_json=byte_bpe(vocab, merges, added_tokens=tokens),
        tokenizer_config_json={"eos_token": "</s>"},
    )
    random, header, parts, end = np.random.default_rng(8), {}, [], 0
    for name, shape in shapes.items():
        data = stored(values(shape, random), dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return folder


def importances(names: dict[str, int], stacks: tuple[str, ...] = ()) -> dict[str, Floats]:
    """Mean squares of the inputs, with some that are very large and a block of columns that saw nothing."""
    random, found = np.random.default_rng(9), {}
    for name, columns in names.items():
        rows = EXPERTS if name in stacks else 1
        h = np.exp(2 * random.standard_normal((rows, columns))).astype(np.float32)
        h[:, random.random(columns) < 0.02] *= 300
        if rows > 1:
            h[1, : columns // 2] = 0
        found[name] = h
    return found


def mixture(folder: Path, dtype: str) -> Model:
    """Qwen 3 with experts: rows of 512 weights for types of 256, rows of 96 and 128 for types of 32."""
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "moe_intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    rows = 257 + 1
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, HIDDEN)}
    types, columns = {"output.weight": "Q6_K"}, {"output.weight": HIDDEN}
    for layer in range(LAYERS):
        front, block = f"model.layers.{layer}.", f"blk.{layer}."
        shapes |= {
            f"{front}input_layernorm.weight": (HIDDEN,),
            f"{front}post_attention_layernorm.weight": (HIDDEN,),
            f"{front}self_attn.q_norm.weight": (64,),
            f"{front}self_attn.k_norm.weight": (64,),
            f"{front}self_attn.q_proj.weight": (128, HIDDEN),
            f"{front}self_attn.k_proj.weight": (64, HIDDEN),
            f"{front}self_attn.v_proj.weight": (64, HIDDEN),
            f"{front}self_attn.o_proj.weight": (HIDDEN, 128),
            f"{front}mlp.gate.weight": (EXPERTS, HIDDEN),
        }
        for expert in range(EXPERTS):
            part = f"{front}mlp.experts.{expert}."
            shapes |= {
                f"{part}gate_proj.weight": (WIDTH, HIDDEN),
                f"{part}up_proj.weight": (WIDTH, HIDDEN),
                f"{part}down_proj.weight": (HIDDEN, WIDTH),
            }
        # Each type with blocks of 256 falls on a stack of experts and on a matrix, the others on two stacks or more.
        for number, name in enumerate(("ffn_gate_exps", "ffn_up_exps")):
            types[f"{block}{name}.weight"] = WIDE[(2 * layer + number) % len(WIDE)]
            columns[f"{block}{name}.weight"] = HIDDEN
        for number, name in enumerate(("attn_q", "attn_k", "attn_v")):
            types[f"{block}{name}.weight"] = WIDE[(3 * layer + number) % len(WIDE)]
            columns[f"{block}{name}.weight"] = HIDDEN
        for name, width in (("ffn_down_exps", WIDTH), ("attn_output", 128)):
            types[f"{block}{name}.weight"] = NARROW[layer % len(NARROW)]
            columns[f"{block}{name}.weight"] = width
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (rows, HIDDEN)}
    stacks = tuple(name for name in columns if "_exps" in name)
    return Model(write_checkpoint(folder, config, shapes, dtype), types, importances(columns, stacks))


def odd(folder: Path, dtype: str) -> Model:
    """A Llama whose rows have 544 and 1056 weights: 17 and 33 blocks of 32, no whole number of blocks of 256."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 544,
        "intermediate_size": 1056,
        "num_hidden_layers": 2,
        "num_attention_heads": 17,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (258, 544)}
    types, columns = {}, {}
    kinds = iter([*NARROW, *NARROW, *NARROW])
    for layer in range(2):
        front, block = f"model.layers.{layer}.", f"blk.{layer}."
        shapes |= {
            f"{front}input_layernorm.weight": (544,),
            f"{front}post_attention_layernorm.weight": (544,),
        }
        for theirs, ours, rows, width in (
            ("self_attn.q_proj", "attn_q", 544, 544),
            ("self_attn.k_proj", "attn_k", 32, 544),
            ("self_attn.v_proj", "attn_v", 32, 544),
            ("self_attn.o_proj", "attn_output", 544, 544),
            ("mlp.gate_proj", "ffn_gate", 1056, 544),
            ("mlp.up_proj", "ffn_up", 1056, 544),
            ("mlp.down_proj", "ffn_down", 544, 1056),
        ):
            shapes[f"{front}{theirs}.weight"] = (rows, width)
            types[f"{block}{ours}.weight"] = next(kinds)
            columns[f"{block}{ours}.weight"] = width
    shapes |= {"model.norm.weight": (544,), "lm_head.weight": (258, 544)}
    return Model(write_checkpoint(folder, config, shapes, dtype), types, importances(columns))


def write_gguf(path: Path, squares: dict[str, Floats], *, by_expert: bool) -> None:
    """What llama-imatrix writes; or the names of older files, an entry for each expert."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    for name, h in squares.items():
        if by_expert and len(h) > 1:
            stem, end = name.split("_exps.")
            entries = {f"{stem}.{i}.{end}": h[i : i + 1] for i in range(len(h))}
        else:
            entries = {name: h}
        for entry, means in entries.items():
            # A power of two, so that the means come out as they were.
            counts = np.exp2(np.arange(len(means)) + 2).astype(np.float32)[:, None]
            writer.add_tensor(f"{entry}.in_sum2", np.asarray(means * counts, np.float32))
            writer.add_tensor(f"{entry}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_dat(path: Path, squares: dict[str, Floats]) -> None:
    out = struct.pack("<i", len(squares))
    for name, h in squares.items():
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 4, h.size)
        out += (h * np.float32(4)).tobytes()
    path.write_bytes(out + struct.pack("<ii", 9, 1) + b"x")


class Place:
    """The models in every type of source, their imatrices, and the blocks that are right."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = key_file(folder)
        self.models: dict[tuple[str, str], Model] = {}
        self.right: dict[str, dict[str, bytes]] = {}

    def model(self, name: str, dtype: str) -> Model:
        if (name, dtype) not in self.models:
            folder = self.folder / f"{name}-{dtype}"
            self.models[name, dtype] = (mixture if name == "mixture" else odd)(folder, dtype)
        return self.models[name, dtype]

    def source(self, name: str, kind: str) -> Path:
        """A folder with weights of a type, or a GGUF, whole or in parts."""
        if not kind.startswith("GGUF "):
            return self.model(name, kind).folder
        *_, dtype = kind.split()
        path = self.folder / f"{name}-{kind.replace(' ', '-')}.gguf"
        first = path.with_name(path.stem + "-00001-of-00003.gguf")
        split = 3 << 20 if "parts" in kind else None
        found = sorted(self.folder.glob(f"{path.stem}-00001-of-*.gguf")) or [path]
        if not found[0].exists():
            model = self.model(name, "F32").folder
            report = srd_rs.convert(model, path, quant=dtype, met=False, effort="fast", split_max_size=split)
            found = [report.output]
            assert ("-of-" in report.output.name) == (split is not None), first
        return found[0]

    def imatrix(self, name: str, form: str) -> Path:
        path = self.folder / f"{name}-{form}"
        if not path.exists():
            squares = self.model(name, "F32").squares
            if form == "dat":
                write_dat(path, squares)
            else:
                write_gguf(path, squares, by_expert=form == "by expert")
        return path

    def blocks(self, name: str) -> dict[str, bytes]:
        """The blocks of whole rows under the importances of their columns, made one matrix after another."""
        if name not in self.right:
            model, found = self.model(name, "F32"), {}
            reader = gguf.GGUFReader(self.source(name, "GGUF F32"))
            for tensor in reader.tensors:
                if tensor.name in model.types:
                    kind, h = model.types[tensor.name], model.squares[tensor.name]
                    stack = np.array(tensor.data, np.float32).reshape(len(h), -1, h.shape[1])
                    parts = zip(stack, h, strict=True)
                    found[tensor.name] = b"".join(
                        srd_rs.quantize(np.ascontiguousarray(rows), kind, columns).tobytes()
                        for rows, columns in parts
                    )
            self.right[name] = found
        return self.right[name]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("imatrix"))


def found_blocks(paths: list[Path]) -> dict[str, tuple[str, bytes]]:
    return {
        tensor.name: (tensor.tensor_type.name, tensor.data.tobytes())
        for path in paths
        for tensor in gguf.GGUFReader(path).tensors
    }


#: Model, threads, weights that a worker takes at a time (None: the default memory), source, form of the imatrix,
#: destination.
RUNS: list[tuple[str, int, int | None, str, str, str]] = [
    ("mixture", 1, None, "F32", "GGUF", "GGUF"),
    ("mixture", 1, 256, "F16", "dat", "GGUF"),
    ("mixture", 2, 256, "BF16", "by expert", "axm"),
    ("mixture", 3, 256, "F64", "GGUF", "parts"),
    ("mixture", 5, 256, "GGUF F16", "dat", "GGUF"),
    ("mixture", 2, 512, "F32", "by expert", "GGUF"),
    ("mixture", 3, 512, "GGUF parts BF16", "GGUF", "GGUF"),
    ("mixture", 1, 768, "BF16", "dat", "axm"),
    ("mixture", 4, 768, "F16", "by expert", "parts"),
    ("mixture", 3, 1280, "F32", "dat", "GGUF"),
    ("mixture", 2, 1536, "GGUF F32", "by expert", "axm"),
    ("mixture", 4, 100_000, "F64", "by expert", "GGUF"),
    ("mixture", 3, None, "GGUF BF16", "dat", "parts"),
    ("mixture", 7, 511, "F16", "GGUF", "GGUF"),
    ("odd", 1, None, "F32", "GGUF", "GGUF"),
    ("odd", 1, 256, "BF16", "dat", "GGUF"),
    ("odd", 2, 256, "F16", "GGUF", "axm"),
    ("odd", 3, 512, "F64", "dat", "parts"),
    ("odd", 4, 768, "GGUF F16", "GGUF", "GGUF"),
    ("odd", 5, 1280, "GGUF parts BF16", "dat", "axm"),
    ("odd", 2, 1024, "BF16", "GGUF", "parts"),
    ("odd", 3, None, "F16", "dat", "GGUF"),
]


def test_every_type_is_tried(place: Place) -> None:
    """Each type that takes an imatrix stands on a stack of experts and on a single matrix."""
    types = place.model("mixture", "F32").types
    stacks = {kind for name, kind in types.items() if "_exps" in name}
    others = {kind for name, kind in types.items() if "_exps" not in name}
    assert stacks == others == set(_core.WEIGHED_TYPES)
    assert set(place.model("odd", "F32").types.values()) == set(NARROW)


@pytest.mark.parametrize(("name", "threads", "weights", "source", "form", "to"), RUNS)
def test_rows_are_weighed_as_a_whole(
    place: Place,
    tmp_path: Path,
    name: str,
    threads: int,
    weights: int | None,
    source: str,
    form: str,
    to: str,
) -> None:
    right = place.blocks(name)
    options: dict[str, Any] = {"axm": to == "axm", "key_file": place.key if to == "axm" else None}
    if weights is not None:
        options["max_memory"] = threads * weights * BYTES_PER_WEIGHT
    if to == "parts":
        options["split_max_size"] = 2 << 20
    model = place.model(name, "F32")
    srd_rs.convert(
        place.source(name, source),
        tmp_path / "o.gguf",
        quant="Q4_K_M",
        effort="fast",
        met=False,
        threads=threads,
        imatrix=place.imatrix(name, form),
        tensor_types=model.rules,
        **options,
    )
    found = found_blocks(sorted(tmp_path.glob("o*.gguf")))
    assert len(right) == len(model.types)
    for tensor, kind in model.types.items():
        assert found[tensor][0] == kind, tensor
        assert found[tensor][1] == right[tensor], (tensor, kind)
