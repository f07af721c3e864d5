#!/usr/bin/env python3
"""Print the digests that tests/test_golden_bytes.py pins: what each block format and two whole conversions give.

    python scripts/make_golden_bytes.py [--write] [--efforts fast,srd] [--rows whole,cut]

`--write` replaces tests/data/golden_bytes.json by the digests of the srd-rs that this Python imports. Do so only when
a change of the bytes is intended, and say why in the commit. The script uses the public Python API alone, so that the
same script measures any version. The package gguf reads the results.

The checkpoint is a Llama of one layer with random weights (a fixed seed). Two of its matrices get the block format:
`attn_k` and `attn_v` have 96 rows of 768 weights each. Three methods make the blocks: `plain` knows the weights
alone, `imatrix` weighs the errors of columns, `calibrated` is SRD feedback. A run with `whole` rows has one thread and
the default memory. A run with `cut` rows has four threads and so little memory that a worker gets 512 weights at a
time, so that it sees each row in two pieces. `moments` are the second moments of the checkpoint on random tokens, with
and without weights of the tokens; `calibrated` has those without. The weighed ones are of fewer tokens: the plain code
takes many times as long for derivatives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

import srd_rs
from srd_rs import _core

REPO = Path(__file__).resolve().parent.parent
GOLDENS = REPO / "tests" / "data" / "golden_bytes.json"
EXAMPLE = REPO / "examples" / "wiki-gemma4"

HIDDEN, FFN, HEADS, KV_HEADS, VOCAB = 768, 1024, 8, 1, 258
#: Weights that a worker takes at a time in a run with cut rows, and the bytes that the pipeline reserves for each.
CUT_WEIGHTS, BYTES_PER_WEIGHT, CUT_THREADS = 512, 20, 4
ROWS = {
    "whole": {"threads": 1},
    "cut": {"threads": CUT_THREADS, "max_memory": CUT_THREADS * BYTES_PER_WEIGHT * CUT_WEIGHTS},
}

FLOATS = ("F16", "BF16")
BLOCKS = (
    "Q8_0",
    "Q6_K",
    "Q5_K",
    "Q4_K",
    "Q5_1",
    "Q5_0",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K",
    "Q2_K",
    "MXFP4",
    "TQ2_0",
    "TQ1_0",
)
LATTICES = ("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS")
#: Types that effort srd quantizes by the search for scales.
WITHOUT_FEEDBACK = (*LATTICES, "TQ1_0", "TQ2_0")
CALIBRATION: dict[str, Any] = {"text": "random", "tokens": 256, "ctx": 64, "block": 256}
WEIGHED = {"tokens": 64, "ctx": 32}
METHODS = ("plain", "imatrix", "calibrated")
#: The matrices that get the block format, by their GGUF names.
MATRICES = ("blk.0.attn_k.weight", "blk.0.attn_v.weight")


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of the checkpoint."""
    layer, kv = "model.layers.0.", HIDDEN // HEADS * KV_HEADS
    return {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        layer + "input_layernorm.weight": (HIDDEN,),
        layer + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        layer + "self_attn.k_proj.weight": (kv, HIDDEN),
        layer + "self_attn.v_proj.weight": (kv, HIDDEN),
        layer + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        layer + "post_attention_layernorm.weight": (HIDDEN,),
        layer + "mlp.gate_proj.weight": (FFN, HIDDEN),
        layer + "mlp.up_proj.weight": (FFN, HIDDEN),
        layer + "mlp.down_proj.weight": (HIDDEN, FFN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    }


class Uniform:
    """Random numbers of [0, 1), made of the raw bits of PCG64: the same for every numpy and every CPU."""

    def __init__(self, seed: int) -> None:
        self.bits = np.random.PCG64(seed)

    def __call__(self, *shape: int) -> npt.NDArray[np.float64]:
        raw: npt.NDArray[np.uint64] = self.bits.random_raw(int(np.prod(shape)))
        return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)


def make_checkpoint(folder: Path) -> Path:
    """Write the synthetic model to `folder`."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 257,
        "eos_token_id": 257,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    # GPT-2's way to write a byte as a letter: printable Latin-1 stands for itself, the rest begins at U+0100.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab = {letters[i]: i for i in range(256)} | {"ab": 256, "<end>": 257}
    end = {"id": 257, "content": "<end>", "special": True, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [end | {"single_word": False, "lstrip": False, "rstrip": False}],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))

    # Sums, products and quotients alone, as a library's `exp` or `log` is not the same everywhere.
    uniform = Uniform(12)
    header, parts, end = {}, [], 0
    for name, shape in shapes().items():
        if len(shape) == 1:
            values = 0.8 + 0.4 * uniform(*shape)
        else:
            # A heavy tail and channels of uneven size, as trained matrices have them, and a few rows of zeros.
            share = 2 * uniform(*shape) - 1
            values = share / (1.1 - np.abs(share)) * (0.5 + uniform(shape[-1])) / np.sqrt(shape[-1])
            values[7::61] = 0
        data = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return folder


def make_imatrix(path: Path) -> Path:
    """Write importances of all matrices in llama.cpp's older format."""
    uniform = Uniform(34)
    columns = {f"blk.0.{name}.weight": HIDDEN for name in (
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up",
    )} | {"blk.0.ffn_down.weight": FFN, "output.weight": HIDDEN}  # fmt: skip
    entries = []
    for name, n in columns.items():
        sums = (1 / (0.02 + uniform(n))).astype("<f4")
        # One super-block of columns that was never fed: its weights are of no importance.
        sums[512:768] = 0 if name == "blk.0.attn_v.weight" else sums[512:768]
        entries.append(
            struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 4, n) + sums.tobytes()
        )
    tail = struct.pack("<ii", 4, 4) + b"none"
    path.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries) + tail)
    return path


def tensor_digest(path: Path, names: tuple[str, ...] | None = None, kind: str | None = None) -> str:
    """SHA-256 of the bytes of the tensors `names`, or of all tensors of the file, in the order of their names."""
    digest = hashlib.sha256()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name in sorted(tensors if names is None else names):
        if kind is not None and tensors[name].tensor_type.name != kind:
            sys.exit(f"error: {name} is {tensors[name].tensor_type.name} where {kind} was asked for")
        digest.update(tensors[name].data.tobytes())
    return digest.hexdigest()


def block_digests(folder: Path, rows: list[str]) -> dict[str, str]:
    """A digest for each ``TYPE/method/rows``."""
    model = make_checkpoint(folder / "model")
    moments, imatrix = folder / "moments.safetensors", make_imatrix(folder / "imatrix.dat")
    srd_rs.calibrate(model, moments, weigh_tokens=False, **CALIBRATION)
    extra: dict[str, dict[str, Any]] = {
        "plain": {"effort": "fast"},
        "imatrix": {"effort": "fast", "imatrix": imatrix},
        "calibrated": {"effort": "srd", "calibrate": moments},
    }
    found = {}
    for kind in FLOATS + BLOCKS + LATTICES:
        for method in METHODS:
            if kind in FLOATS + WITHOUT_FEEDBACK and method == "calibrated":
                continue
            # An imatrix has no effect on a type that does not weigh the errors, and is refused there.
            is_plain = method == "imatrix" and kind not in (*FLOATS, *_core.WEIGHED_TYPES)
            how = extra["plain" if is_plain else method]
            for name in rows:
                output = folder / "out.gguf"
                srd_rs.convert(
                    model, output, quant="Q4_K_M", provenance=False, met=False, axm=False, overwrite=True,
                    tensor_types=[f"attn_k|attn_v={kind}", "attn|ffn|token_embd|output=F16"],
                    name="golden", **how, **ROWS[name],
                )  # fmt: skip
                found[f"{kind}/{method}/{name}"] = tensor_digest(output, MATRICES, kind)
    return found


def moments_digests(folder: Path) -> dict[str, str]:
    """Digests of the second moments with and without weights of the tokens."""
    found = {}
    srd_rs.calibrate(folder / "model", folder / "weighed", weigh_tokens=True, **{**CALIBRATION, **WEIGHED})
    for name, file in (("weighed", folder / "weighed"), ("not weighed", folder / "moments.safetensors")):
        digest = hashlib.sha256()
        with safe_open(file, "np") as tensors:
            for key in sorted(tensors.keys()):
                digest.update(tensors.get_tensor(key).tobytes())
        found[name] = digest.hexdigest()
    return found


def residual_digests(folder: Path) -> dict[str, str]:
    """A digest for each width of the residual plane: the weights that base and residual give together."""
    key = folder / "master.key"
    srd_rs.keygen(key)
    found = {}
    for bits in (2, 3, 4):
        container, output = folder / f"{bits}.axm", folder / f"{bits}.gguf"
        srd_rs.convert(
            folder / "model", folder / "base.gguf", quant="Q4_K_M", effort="fast", met=False, overwrite=True,
            axm=True, axm_output=container, residual_bits=bits, key_file=key,
            name="golden", threads=2,
        )  # fmt: skip
        srd_rs.extract(container, output, quant="F32", alpha=1.0, key_file=key)
        found[f"{bits} bits"] = tensor_digest(output)
    return found


def whole_digests(folder: Path, efforts: list[str]) -> dict[str, dict[str, str]]:
    """Digests of the tensors and of the whole file of conversions of the example model."""
    options: dict[str, dict[str, Any]] = {
        "fast": {},
        "srd": {"calibrate": "builtin", "calibrate_tokens": 256, "calibrate_block": 256},
    }
    found = {}
    for effort in efforts:
        output = folder / f"{effort}.gguf"
        srd_rs.convert(
            EXAMPLE, output, quant="Q4_K_M", effort=effort, provenance=False, met=False, axm=False, threads=2,
            name="golden", **options[effort],
        )  # fmt: skip
        file = hashlib.sha256(output.read_bytes()).hexdigest()
        found[effort] = {"tensors": tensor_digest(output), "file": file}
    return found


def digests(efforts: list[str], rows: list[str]) -> dict[str, Any]:
    """All that the golden file pins."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return {
            "blocks": block_digests(folder, rows),
            "moments": moments_digests(folder),
            "residuals": residual_digests(folder),
            "conversions": whole_digests(folder, efforts),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace tests/data/golden_bytes.json")
    parser.add_argument("--efforts", default="fast,srd", help="whole conversions to make, comma-separated")
    parser.add_argument("--rows", default="whole,cut", help="how rows are given to workers, comma-separated")
    arguments = parser.parse_args()
    text = json.dumps(digests(arguments.efforts.split(","), arguments.rows.split(",")), indent=1) + "\n"
    if arguments.write:
        GOLDENS.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
