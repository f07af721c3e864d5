"""Write the small files from which the fuzz targets begin: fuzz/corpus/{axm,calibration,gguf,imatrix,model,sidecar}.

    python scripts/make_fuzz_corpus.py

The files that a fuzzer has found lie beside them under their hashes, and stay.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import gguf
import numpy as np

import srd_rs

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
WIDTH = 4
#: Metadata of the models beside what all have.
FAMILIES: dict[str, dict[str, int | float]] = {
    "llama": {},
    "qwen2": {},
    "gemma2": {"attn_logit_softcapping": 50.0, "attention.sliding_window": 2},
    "gemma3": {"attention.sliding_window": 2},
    "phi3": {},
}


def gguf_file(path: Path, arch: str, keys: dict[str, int | float], tensors: dict[str, np.ndarray]) -> None:
    writer = gguf.GGUFWriter(path, arch)
    for key, value in keys.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{arch}.{key}", value)
    if "context_length" in keys:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["a", "b", "c", "d"])
        writer.add_token_scores([0.0] * 4)
        writer.add_token_types([1] * 4)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model(path: Path, arch: str, own: dict[str, int | float]) -> None:
    """A model of two layers, with four tokens and vectors of four values."""
    rng = np.random.default_rng(0)
    keys = {
        "block_count": 2,
        "context_length": 8,
        "embedding_length": WIDTH,
        "feed_forward_length": WIDTH,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.key_length": 2,
        "attention.value_length": 2,
        "rope.dimension_count": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **own,
    }
    fused = arch == "phi3"
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (4, WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(2):
        stem = f"blk.{layer}."
        if fused:
            shapes[stem + "attn_qkv.weight"] = (8, WIDTH)
            shapes[stem + "ffn_up.weight"] = (2 * WIDTH, WIDTH)
        else:
            shapes[stem + "attn_q.weight"] = (4, WIDTH)
            shapes[stem + "attn_k.weight"] = shapes[stem + "attn_v.weight"] = (2, WIDTH)
            shapes[stem + "ffn_gate.weight"] = shapes[stem + "ffn_up.weight"] = (WIDTH, WIDTH)
        shapes[stem + "attn_output.weight"] = (WIDTH, 4)
        shapes[stem + "ffn_down.weight"] = (WIDTH, WIDTH)
        shapes[stem + "attn_norm.weight"] = shapes[stem + "ffn_norm.weight"] = (WIDTH,)
        if arch.startswith("gemma"):
            shapes[stem + "post_attention_norm.weight"] = shapes[stem + "post_ffw_norm.weight"] = (WIDTH,)
        if arch == "gemma3":
            shapes[stem + "attn_q_norm.weight"] = shapes[stem + "attn_k_norm.weight"] = (2,)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    gguf_file(path, arch, keys, tensors)


def imatrices(folder: Path) -> None:
    name, values = b"blk.0.attn_q.weight", struct.pack("<4f", 1, 2, 3, 4)
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii", 2, 4) + values
    (folder / "small.dat").write_bytes(struct.pack("<i", 1) + entry + struct.pack("<ii", 7, 4) + b"wiki")
    writer = gguf.GGUFWriter(folder / "small.gguf", "")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["wiki"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    stacked = np.ones((3, 4), np.float32)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", stacked)
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((3, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def calibration(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model(Path(folder) / "m.gguf", "llama", {})
        options = {"text": "random", "tokens": 8, "ctx": 4, "block": 0}
        srd_rs.calibrate(Path(folder) / "m.gguf", path, overwrite=True, **options)  # type: ignore[arg-type]


def axm(folder: Path) -> None:
    """Of the golden containers, everything but the shards, and the header alone."""
    for golden in sorted((ROOT / "tests" / "data" / "axm").glob("*.axm")):
        data = golden.read_bytes()
        header, data_at, manifest_at = struct.unpack("<3Q", data[16:40])
        (folder / f"{golden.stem}.manifest").write_bytes(data[:data_at] + data[manifest_at:])
        (folder / f"{golden.stem}.header").write_bytes(data[256 : 256 + header])


def main() -> None:
    for name in ("axm", "calibration", "gguf", "imatrix", "model", "sidecar"):
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
    axm(CORPUS / "axm")
    for arch, own in FAMILIES.items():
        model(CORPUS / "model" / f"{arch}.gguf", arch, own)
    imatrices(CORPUS / "imatrix")
    calibration(CORPUS / "calibration" / "small.safetensors")
    small = CORPUS / "gguf" / "small.gguf"
    names = ("token_embd.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight")
    gguf_file(small, "llama", {"block_count": 2}, {name: np.zeros((2, 4), np.float32) for name in names})
    srd_rs.met(small, CORPUS / "sidecar" / "small.met.json", digest=False, overwrite=True)


if __name__ == "__main__":
    main()
