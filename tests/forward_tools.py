"""Models for the forward pass: the fixtures' and tiny ones with random weights of every architecture."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srd_rs import ConvertOptions, _core
from srd_rs.checkpoint import Checkpoint, SourceTensor
from srd_rs.families import describe

_FAMILIES = Path(__file__).parent / "data" / "families"
_VARIANTS = Path(__file__).parent / "data" / "model_variants.jsonl.gz"

Array = npt.NDArray[np.float32]


def variants() -> dict[str, dict[str, Any]]:
    """Headers of tiny checkpoints of every architecture, by name."""
    lines = gzip.decompress(_VARIANTS.read_bytes()).decode().splitlines()
    return {case["name"]: case for case in map(json.loads, lines) if "name" in case}


def _with_layers(case: dict[str, Any], layers: int) -> dict[str, Any]:
    """The model with so many layers: copies of the shapes of layer 1. llama.cpp knows some models by this number."""
    config, sources = json.loads(json.dumps(case["config"])), dict(case["sources"])
    config.get("text_config", config)["num_hidden_layers"] = layers
    for name, source in case["sources"].items():
        if ".layers.1." in name:
            sources |= {name.replace(".layers.1.", f".layers.{i}."): source for i in range(2, layers)}
    return {**case, "config": config, "sources": sources}


def _with_square_queries(case: dict[str, Any]) -> dict[str, Any]:
    """The model with half as many heads: llama.cpp expects queries as wide as the model."""
    sources = {}
    for name, (kind, shape, _) in case["sources"].items():
        cut = {"query_key_value.weight": (192, 64), "attention.dense.weight": (64, 64)}
        sources[name] = (kind, next((new for end, new in cut.items() if name.endswith(end)), shape), None)
    return {**case, "config": {**case["config"], "num_attention_heads": 2}, "sources": sources}


def _gemma3n(case: dict[str, Any]) -> dict[str, Any]:
    """Gemma 3n with what llama.cpp does not read from a file.

    These are 20 layers with keys of their own, 256 values for each layer, a rank of 64, and sparse gates in the
    first 10 layers."""
    deep = _with_layers(case, 25)
    config = deep["config"].get("text_config", deep["config"])
    config |= {
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 5,
        "num_kv_shared_layers": 5,
        "hidden_size_per_layer_input": 256,
        "laurel_rank": 64,
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 15,
        "intermediate_size": [config["intermediate_size"][0]] * 25,
    }
    wider = {
        "embed_tokens_per_layer.weight": (None, 256 * 25),
        "per_layer_model_projection.weight": (256 * 25, None),
        "per_layer_projection_norm.weight": (256,),
        "per_layer_input_gate.weight": (256, None),
        "per_layer_projection.weight": (None, 256),
        "laurel.linear_left.weight": (64, None),
        "laurel.linear_right.weight": (None, 64),
    }
    sources = deep["sources"]
    for name, (kind, shape, _) in sources.items():
        for end, new in wider.items():
            if name.endswith(end):
                shape = tuple(n or old for n, old in zip(new, shape, strict=True))
        sources[name] = (kind, shape, None)
    # Scores are not scaled: with small queries, attention is as even as in published models. What comes from
    # GELU is small, since llama.cpp rounds it.
    factors = {
        "q_norm.weight": 0.1,
        "post_feedforward_layernorm.weight": 0.3,
        "post_per_layer_input_norm.weight": 0.3,
    }
    return {**deep, "factors": factors}


def _without_linear_attention(case: dict[str, Any]) -> dict[str, Any]:
    """DeciLM with no attention at all in the layer that has one matrix in its place, which is refused."""
    config = json.loads(json.dumps(case["config"]))
    config["block_configs"][1]["attention"] = {"n_heads_in_group": None, "no_op": True}
    left_out = ("model.layers.1.self_attn.linear_attn.weight", "model.layers.1.input_layernorm.weight")
    sources = {name: source for name, source in case["sources"].items() if name not in left_out}
    return {**case, "config": config, "sources": sources}


def _as_published(case: dict[str, Any]) -> dict[str, Any]:
    if case["name"] == "deci-nemotron":
        return _without_linear_attention(case)
    if case["arch"] == "gemma3n":
        return _gemma3n(case)
    return _with_square_queries(case) if case["arch"] == "bailingmoe2" else case


def families(archs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The goldens of the given architectures (see scripts/family_cases) as variants, by name."""
    archs, found = set(archs), {}
    for path in sorted(_FAMILIES.glob("*.json")):
        golden = json.loads(path.read_text(encoding="utf-8"))
        arch = golden.get("text", {}).get("metadata", {}).get("general.architecture", ["STRING", None])[1]
        # A golden of Mistral's own format has no config.json, and another golden has its architecture.
        if arch in archs and "architectures" in golden["config"]:
            sources = {name: (kind, shape, None) for name, (kind, shape) in golden["sources"].items()}
            found[path.stem] = _as_published({**golden, "sources": sources, "arch": arch})
    return found


def _weights(name: str, shape: tuple[int, ...]) -> Array:
    """Random, and such that no layer drowns another: matrices keep the size of what they multiply."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return (values / np.sqrt(shape[-1])).astype(np.float32)
    vector = ("norm", "ln_", "scal", "layer_norm", "LayerNorm")
    one = name.endswith("weight") or "scal" in name
    return (values * 0.2 + (1.0 if one and any(part in name for part in vector) else 0.0)).astype(np.float32)


def plan_variant(case: dict[str, Any], folder: Path, output: Path, **options: Any) -> _core.Plan:
    """An F32 plan of a variant with random weights in `folder`, and a vocabulary that llama.cpp takes. `options` are
    more options of the plan."""
    sources = {name: SourceTensor(name, "F32", tuple(s), "m") for name, (_, s, _) in case["sources"].items()}
    header: dict[str, Any] = {}
    data = bytearray()
    for name, source in sources.items():
        start = len(data)
        factors = (factor for end, factor in case.get("factors", {}).items() if name.endswith(end))
        data += (_weights(name, source.shape) * np.float32(next(factors, 1.0))).tobytes()
        header[name] = {"dtype": "F32", "shape": source.shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    sources = {
        name: replace(source, nbytes=header[name]["data_offsets"][1] - header[name]["data_offsets"][0])
        for name, source in sources.items()
    }
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    for name, value in case.get("files", {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    spec = describe(Checkpoint(folder, case["config"], case.get("generation"), sources))
    metadata = [
        e
        for e in spec.metadata.entries()
        if not e[0].startswith("tokenizer.") and e[0] != f"{spec.arch}.vocab_size"
    ]
    rows = {tensor.name: tensor.shape[0] for tensor in spec.tensors}
    metadata += [
        ("tokenizer.ggml.model", "STRING", "no_vocab"),
        (f"{spec.arch}.vocab_size", "UINT32", rows["token_embd.weight"]),
        ("tokenizer.ggml.token_type_count", "UINT32", rows.get("token_types.weight", 2)),
        # Without a vocabulary llama.cpp does not read the types; calibration draws its tokens by them.
        ("tokenizer.ggml.token_type", "ARRAY[INT32]", [1] * rows["token_embd.weight"]),
    ]
    return _core.plan_checkpoint(
        folder,
        metadata,
        json.dumps([t.to_json() for t in spec.tensors]),
        spec.hparams,
        output,
        ConvertOptions(quant="F32", provenance=False, **options),
        [],
    )


def log_probabilities(logits: Array) -> npt.NDArray[np.float64]:
    """Log-probabilities of every token of the vocabulary, from f32 logits [tokens, vocabulary]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
