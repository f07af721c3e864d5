"""Models for the forward pass: the fixtures' and tiny ones with random weights of every architecture."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srd_rs import ConvertOptions, _core
from srd_rs.checkpoint import Checkpoint, SourceTensor
from srd_rs.families import describe

_VARIANTS = Path(__file__).parent / "data" / "model_variants.jsonl.gz"

Array = npt.NDArray[np.float32]


def variants() -> dict[str, dict[str, Any]]:
    """Headers of tiny checkpoints of every architecture, by name."""
    lines = gzip.decompress(_VARIANTS.read_bytes()).decode().splitlines()
    return {case["name"]: case for case in map(json.loads, lines) if "name" in case}


def _weights(name: str, shape: tuple[int, ...]) -> Array:
    """Random, and such that no layer drowns another: matrices keep the size of what they multiply."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return (values / np.sqrt(shape[-1])).astype(np.float32)
    vector = ("norm", "ln_", "scal", "layer_norm", "LayerNorm")
    one = name.endswith("weight") or "scal" in name
    return (values * 0.2 + (1.0 if one and any(part in name for part in vector) else 0.0)).astype(np.float32)


def plan_variant(case: dict[str, Any], folder: Path, output: Path) -> _core.Plan:
    """An F32 plan of a variant with random weights in `folder`, and a vocabulary that llama.cpp takes."""
    sources = {name: SourceTensor(name, "F32", tuple(s), "m") for name, (_, s, _) in case["sources"].items()}
    header: dict[str, Any] = {}
    data = bytearray()
    for name, source in sources.items():
        start = len(data)
        data += _weights(name, source.shape).tobytes()
        header[name] = {"dtype": "F32", "shape": source.shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    spec = describe(Checkpoint(folder, case["config"], case.get("generation"), sources))
    metadata = [
        e
        for e in spec.metadata.entries()
        if not e[0].startswith("tokenizer.") and e[0] != f"{spec.arch}.vocab_size"
    ]
    embedding = next(t for t in spec.tensors if t.name == "token_embd.weight")
    metadata += [
        ("tokenizer.ggml.model", "STRING", "no_vocab"),
        (f"{spec.arch}.vocab_size", "UINT32", embedding.shape[0]),
        ("tokenizer.ggml.token_type_count", "UINT32", 2),
    ]
    return _core.plan_checkpoint(
        folder,
        metadata,
        json.dumps([t.to_json() for t in spec.tensors]),
        spec.hparams,
        output,
        ConvertOptions(quant="F32", provenance=False),
        [],
    )


def log_probabilities(logits: Array) -> npt.NDArray[np.float64]:
    """Log-probabilities of every token of the vocabulary, from f32 logits [tokens, vocabulary]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
