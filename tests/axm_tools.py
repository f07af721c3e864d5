"""A tiny model, and containers altered by someone who knows the format."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path

import gguf
import numpy as np

from axm_reader import hkdf, sha256

#: The key of the tests and of the golden containers. It protects nothing.
KEY = bytes(range(32))


def key_file(folder: Path, key: bytes = KEY) -> Path:
    path = folder / f"{key[:2].hex()}.key"
    path.write_text(key.hex() + "\n")
    path.chmod(0o600)
    return path


def tiny_model(path: Path, *, seed: int = 0, rows: int = 256) -> Path:
    """A GGUF in F32 with the tensors of a one-layer llama: two of one shape, one wider, a norm."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    if rows != 256:
        writer.add_key_length(rows // 4)
        writer.add_value_length(rows // 4)
    shapes = {
        "token_embd.weight": (32, 256),
        "output_norm.weight": (256,),
        "blk.0.attn_q.weight": (rows, 256),
        "blk.0.attn_k.weight": (rows, 256),
        "blk.0.ffn_up.weight": (64, 256),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, (rng.standard_normal(shape) * 0.02).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def numbers(data: bytes) -> tuple[int, ...]:
    """header_bytes, data_offset, manifest_offset, manifest_bytes, file_bytes, n_shards."""
    return struct.unpack("<6Q", data[16:64])


def entries(data: bytes) -> list[tuple[int, int, int, int, int, int]]:
    """(tensor, plane, index, count, offset, length) of every shard, as the manifest has them."""
    _, _, at, _, _, n = numbers(data)
    return [struct.unpack("<4IQQ", data[at + 64 + 104 * i :][:32]) for i in range(n)]


def with_header(data: bytes, old: str, new: str) -> bytes:
    """The header with `old` replaced by `new` of the same length."""
    assert len(old) == len(new) and old.encode() in data
    size = numbers(data)[0]
    header = data[256 : 256 + size].replace(old.encode(), new.encode(), 1)
    return data[:256] + header + data[256 + size :]


def resealed(data: bytes, key: bytes | None = None) -> bytes:
    """All hashes computed again for what the bytes are now; with a key the tags too. Without it the old tags stay:
    what someone can do who does not have the key."""
    out = bytearray(data)
    header_bytes, _, manifest_at, manifest_bytes, *_ = numbers(data)
    out[64:96] = sha256(bytes(out[256 : 256 + header_bytes]))
    out[manifest_at + 16 : manifest_at + 48] = sha256(bytes(out[:256]))
    header = json.loads(out[256 : 256 + header_bytes])
    for i, (tensor, plane, index, count, offset, length) in enumerate(entries(data)):
        entry = manifest_at + 64 + 104 * i
        shard = bytes(out[offset : offset + length])
        out[entry + 40 : entry + 72] = sha256(shard)
        if key is not None:
            name = header["tensors"][tensor]["name"].encode()
            place = b"srd-axm v1 shard\0" + bytes.fromhex(header["container"])
            place += struct.pack("<I", len(name)) + name
            place += struct.pack("<BIIQQ", plane, index, count, offset, length)
            shard_key = hkdf(key, bytes(out[96:128]), b"srd-axm v1 shard", 32)
            out[entry + 72 : entry + 104] = hmac.digest(shard_key, place + sha256(shard), "sha256")
    seal = manifest_at + manifest_bytes
    manifest = bytes(out[manifest_at:seal])
    out[seal : seal + 32] = sha256(b"srd-axm v1 fingerprint\0", manifest)
    if key is not None:
        manifest_key = hkdf(key, bytes(out[96:128]), b"srd-axm v1 manifest", 32)
        message = b"srd-axm v1 manifest\0" + bytes(out[seal : seal + 32]) + bytes(out[seal + 64 : seal + 96])
        out[seal + 32 : seal + 64] = hmac.digest(manifest_key, message, "sha256")
    out[seal + 160 :] = hashlib.sha256(out[seal : seal + 160]).digest()
    return bytes(out)
