"""Every class of `scripts/family_cases` against what llama.cpp's own converter and llama-quantize made of the same tiny
checkpoint: metadata, names, shapes, types and bytes. `scripts/make_family_goldens.py` made the goldens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from interpreter import run
from mtmd import ADDED, RENAMED, ROUNDED
from patterns import pattern, write_config, write_shards
from srd_rs import ConvertOptions, _core
from srd_rs.checkpoint import Checkpoint
from srd_rs.families import describe, projectors
from srd_rs.families.lora import WEIGHTS

TARGET = "target"
"""Folder, within that of a draft, of the model that the draft drafts for."""
GOLDENS = sorted((Path(__file__).parent / "data" / "families").glob("*.json"))
_GIT = "the published model_type is git, so llama.cpp's converter takes a norm's epsilon of another model"
_SHIFT = (
    "llama.cpp's converter takes the mean from the bias, and the order of experts does not change by that"
)
_OLD_NAMES = (
    "llama.cpp's converter looks for the names of the older class ChatGLMModel and takes a wrong default"
)
_POSITIONS = "positions of CamemBERT start behind the padding token, as those of RoBERTa"
_ROWS = "each head keeps its own norm, where llama.cpp's converter repeats that of the first head"
_EPSILON = "llama.cpp does not load EXAONE 3 without it, but its converter leaves it out"
_BLOCKS = "llama.cpp's converter counts blocks for further tokens, whose weights it leaves out"
_NORMS = {f"blk.{i}.attn_{n}_norm.{p}": _ROWS for i in (0, 1) for n in "qk" for p in ("weight", "bias")}
_CONTEXT = "llama.cpp does not load a file without it, and its converter reads max_position_embeddings only"
_RATIOS = {
    "qwen4exp.attention.compress_ratios": "transformers renames full_attention, and the reference writes 0 for it"
}
_MINICPM = dict.fromkeys(
    (
        "qwen35.block_count",
        "qwen35.nextn_predict_layers",
        "qwen35.attention.recurrent_layers",
        "blk.1.ffn_down.weight",  # its type in Q4_K_M follows from the number of layers
    ),
    _BLOCKS,
)
WITH_TEXT = [path for path in GOLDENS if '"text": {' in path.read_text(encoding="utf-8")]
WITH_PROJECTOR = [path for path in GOLDENS if '"mmproj": {' in path.read_text(encoding="utf-8")]
_FP4 = "a mix without FP4 has the decoded values; tests/test_mxfp4_kept.py compares the blocks"
_ROUTER = "routers and the projection of the indexer are F32 as in every other model"
_DISTANT = dict.fromkeys(
    ("mistral4.attention.temperature_scale", "mistral4.attention.temperature_length"),
    "llama.cpp's converter leaves the scale of distant tokens out",
)
_HEAD = dict.fromkeys(
    ("output.weight", "token_embd.weight", "general.size_label"),
    "the output matrix of this checkpoint is no copy of the embedding, and transformers 5 keeps it",
)
_SIGMOIDS = {"deepseek2.expert_gating_func": "GLM-4.7-Flash scores experts by sigmoids in any case"}
_QUERIES = {"deepseek2.attention.q_lora_rank": "llama.cpp does not load a file without the key"}


def _fp4(layers: range) -> dict[str, str]:
    """What differs in layers of DeepSeek V4."""
    experts = {f"blk.{i}.ffn_{part}_exps.weight": _FP4 for i in layers for part in ("gate", "up", "down")}
    return {**experts, **{f"blk.{i}.ffn_gate_inp.weight": _ROUTER for i in layers}}


_POOLER = dict.fromkeys(
    ("cls.weight", "cls.bias", "general.size_label"),
    "BERT classifies the pooled state, and llama.cpp's converter leaves the pooler out",
)
_CAPS = {"gemma4.final_logit_softcapping": "llama.cpp caps the logits at 30 where the key is absent"}
_MAGNITUDE = "llama.cpp reads no yarn_attn_factor"
DIFFERENCES: dict[str, dict[str, str]] = {
    "falcon-h1-without-norm": dict.fromkeys(
        ("output.weight", "token_embd.weight", "general.size_label"),
        "the factors of the embedding and of the output matrix differ, so a tied matrix is written twice",
    ),
    "bert-classifier": _POOLER,
    "bert-reranker": _POOLER,
    "laguna-m": {"laguna.rope.scaling.attn_factor": _MAGNITUDE},
    "laguna-xs": {"laguna.rope.scaling.attn_factor": _MAGNITUDE},
    "olmo3": {"olmo2.rope.scaling.attn_factor": _MAGNITUDE},
    **dict.fromkeys(
        (f"gemma4-{kind}" for kind in ("audio", "vision", "vision-clipped", "vision-standardized")), _CAPS
    ),
    "deepseek-v2-lite": _QUERIES,
    "deepseek-v3-without-q-lora": {
        **_QUERIES,
        "deepseek2.expert_gating_func": "DeepSeek V3 scores experts by the sigmoid in any case",
    },
    **dict.fromkeys(
        ("hunyuan-dense-with-head", "mistral4-tied-in-its-text", "pangu-embedded-tied", "youtu-with-head"),
        _HEAD,
    ),
    "glm47-flash": _SIGMOIDS,
    "phimoe": {"phimoe.rope.scaling.attn_factor": "the temperature is that of config.json, long_mscale"},
    "glm47-flash-plain-queries": {**_QUERIES, **_SIGMOIDS},
    "kimi-vl": _QUERIES,
    "kimi-vl-vision": _QUERIES,
    "modernbert-three-labels": {
        "modern-bert.attention.layer_norm_epsilon": "llama.cpp does not load a file without the key"
    },
    "deepseek-v4": {**_fp4(range(3)), "blk.1.indexer.proj.weight": _ROUTER},
    "deepseek-v4-dspark": _fp4(range(2)),
    "mistral-own-7b": {"llama.context_length": _CONTEXT},
    "mistral-own-small": {"llama.context_length": _CONTEXT},
    "qwen4exp": _RATIOS,
    "qwen4exp-ngrams": _RATIOS,
    "camembert": dict.fromkeys(
        ("general.size_label", "bert.context_length", "position_embd.weight"), _POSITIONS
    ),
    "minicpm-v-4-6": _MINICPM,
    "minicpm-v-4-6-vision": _MINICPM,
    "minicpm-v-4-6-vision-4x": _MINICPM,
    "exaone-plain": {"exaone.attention.layer_norm_rms_epsilon": _EPSILON},
    "exaone-tied": {"exaone.attention.layer_norm_rms_epsilon": _EPSILON},
    "chameleon": _NORMS,
    "chameleon-old": _NORMS,
    "qwen1-as-published": {
        "qwen.attention.layer_norm_rms_epsilon": "llama.cpp does not load a file without the key",
    },
    "nemotron-3-mtp": {
        "blk.5.ffn_gate_inp.weight": "the router of this block is F32 as those of all other blocks",
    },
    "glm-4-9b-chat-hf": {
        "chatglm.context_length": _OLD_NAMES,
        "chatglm.attention.layer_norm_rms_epsilon": _OLD_NAMES,
    },
    "grok-2": {"grok.attention.layer_norm_epsilon": _GIT},
    "mistral4": _DISTANT,
    "mistral4-tied-in-its-text": {**_DISTANT, **_HEAD},
    "sarvam-30b": {"blk.1.exp_probs_b.bias": _SHIFT},
    "sarvam-30b-module": {"blk.1.exp_probs_b.bias": _SHIFT},
}
"""Keys and tensors that differ on purpose, by golden, each with its reason; see docs/differences.md."""


def golden_of(folder: Path, name: str) -> dict[str, Any]:
    """Return the golden `name` of a folder."""
    golden: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return golden


def opened(golden: dict[str, Any], folder: Path, scale: float = 1.0) -> Checkpoint:
    """The checkpoint of a golden, whose weights are multiplied by `scale`."""
    folder = folder / golden["name"]
    folder.mkdir()
    write_config(golden["config"], folder)
    for name, value in golden.get("files", {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    shard = "model.safetensors" if "architectures" in golden["config"] else "consolidated.safetensors"
    sources = {name: [kind, shape, shard] for name, (kind, shape) in golden["sources"].items()}
    write_shards(sources, folder, scale)
    target = folder / TARGET
    return replace(
        Checkpoint.open(folder), target=Checkpoint.open(target, bare=True) if target.is_dir() else None
    )


def metadata_of(entries: list[tuple[str, str, Any]]) -> dict[str, list[Any]]:
    return {key: [kind, _plain(kind, value)] for key, kind, value in entries}


def _plain(kind: str, value: Any) -> Any:
    """The value as JSON holds it, with the precision that a file has."""
    if isinstance(value, (list, tuple)):
        return [_plain(kind, part) for part in value]
    return float(np.float32(value)) if "FLOAT32" in kind else value


@pytest.mark.parametrize("path", WITH_TEXT, ids=[path.stem for path in WITH_TEXT])
def test_golden(path: Path, tmp_path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    checkpoint = opened(golden, tmp_path)
    spec = describe(checkpoint)
    known = DIFFERENCES.get(golden["name"], {})

    metadata = {
        key: value
        for key, value in metadata_of(spec.metadata.entries()).items()
        if key not in known and not key.startswith("tokenizer.")
    }
    wanted = {key: value for key, value in golden["text"]["metadata"].items() if key not in known}
    assert metadata == wanted

    for quant, column in (("BF16", 1), ("Q4_K_M", 3)):
        if quant == "Q4_K_M" and "q4_k_m" in golden:
            continue  # llama.cpp itself cannot quantize the file
        tensors = converted(checkpoint, spec, quant, tmp_path / f"{quant}.gguf")
        found = {t.name: [t.shape.tolist()[::-1], t.tensor_type.name] for t in tensors}
        expected = {name: [row[0], row[column]] for name, row in golden["text"]["tensors"].items()}
        assert found.keys() - (known.keys() - expected.keys()) == expected.keys()
        assert {n: f for n, f in found.items() if n not in known} == {
            n: e for n, e in expected.items() if n not in known
        }, quant
        if quant == "BF16":
            _core.check_gguf_model(tmp_path / "BF16.gguf")  # such a file is a sound input, too
            for tensor in (t for t in tensors if t.name not in known):
                digests = [golden["text"]["tensors"][tensor.name][2]]
                if tensor.name.endswith(".ssm_a"):  # see docs/differences.md
                    digests.append(digest(rounded(spec, tensor.name, checkpoint)))
                assert digest(tensor.data) in digests, tensor.name


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def rounded(spec: Any, name: str, checkpoint: Checkpoint) -> np.ndarray:
    """A tensor in f32 with every e^x rounded correctly."""
    transform = next(tensor.transform for tensor in spec.tensors if tensor.name == name)
    values = run(dict(transform), lambda source: pattern(source, checkpoint.tensors[source].shape))
    return values.astype("<f4")


@pytest.mark.parametrize("path", WITH_PROJECTOR, ids=[path.stem for path in WITH_PROJECTOR])
def test_projector(path: Path, tmp_path: Path) -> None:
    """The file of the projector, which holds exactly the tensors that the text half leaves out."""
    golden = json.loads(path.read_text(encoding="utf-8"))
    checkpoint = opened(golden, tmp_path)
    assert projectors.has_projector(checkpoint)
    spec = projectors.describe(checkpoint)
    assert metadata_of(spec.metadata.entries()) == golden["mmproj"]["metadata"]
    tensors = converted(checkpoint, spec, "F16", tmp_path / "mmproj.gguf")
    _core.check_gguf_model(tmp_path / "mmproj.gguf")
    found = {t.name: [t.shape.tolist()[::-1], t.tensor_type.name, digest(t.data)] for t in tensors}
    for name, source in ADDED.get(golden["name"], {}).items():
        ((width,), kind, found_digest) = found.pop(name)
        row = pattern(source, tuple(golden["sources"][source][1]))[12]  # the id in tokenizer_config.json
        assert (width, kind, found_digest) == (row.size, "F32", digest(row.astype("<f4")))
    before, after = RENAMED.get(golden["name"], ("", ""))
    wanted = {name.replace(before, after): row for name, row in golden["mmproj"]["tensors"].items()}
    for name in filter(lambda name: name.endswith(ROUNDED), found):
        if found[name][2] == digest(rounded(spec, name, checkpoint)):
            found[name][2] = wanted[name][2]
    assert found == wanted


def converted(
    checkpoint: Checkpoint, spec: Any, quant: str, output: Path, max_memory: int = 12 * 256 * 16
) -> list[Any]:
    """The tensors of the file that Rust writes without a tokenizer. By default there is so little memory that even the
    tensors of the goldens are cut into many chunks."""
    options = ConvertOptions(quant=quant, effort="fast", threads=2, max_memory=max_memory, provenance=False)
    plan = _core.plan_checkpoint(
        checkpoint.folder,
        spec.metadata.entries(),
        json.dumps([t.to_json() for t in spec.tensors]),
        spec.hparams,
        output,
        options,
        [],
        adapters=[folder / WEIGHTS for folder in checkpoint.adapters],
    )
    plan.run(options)
    return gguf.GGUFReader(output).tensors
