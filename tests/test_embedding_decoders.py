"""Decoders that embed texts and are saved without their output matrix: each is the decoder, with the pooling that
sentence-transformers names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forward_tools import variants
from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import ModelError
from srd_rs.families import describe
from test_family_goldens import opened

MODULES = [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
LAST = {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 64}


def golden_of(kind: str, inner: str) -> dict[str, Any]:
    case = next(
        case
        for case in variants().values()
        if case["config"].get("architectures") == [kind] and case["sources"]
    )
    sources = {name: ["BF16", list(shape)] for name, (_, shape, _) in case["sources"].items()}
    if inner != kind:
        sources = {name.removeprefix("model."): row for name, row in sources.items() if "lm_head" not in name}
    return {
        "name": inner,
        "config": {**case["config"], "architectures": [inner]},
        "sources": sources,
        "files": {"modules.json": json.dumps(MODULES), "1_Pooling/config.json": LAST},
    }


@pytest.mark.parametrize(
    ("kind", "inner"), [("MistralForCausalLM", "MistralModel"), ("Gemma2ForCausalLM", "Gemma2Model")]
)
def test_a_decoder_that_embeds_is_the_decoder_without_its_head(kind: str, inner: str, tmp_path: Path) -> None:
    whole = describe(opened(golden_of(kind, kind), tmp_path))
    found = describe(opened(golden_of(kind, inner), tmp_path))

    def metadata(spec: Any) -> dict[str, Any]:
        return {
            key: value
            for key, _, value in spec.metadata.entries()
            if key.startswith((f"{spec.arch}.", "rope"))
        }

    assert metadata(found) == {**metadata(whole), f"{whole.arch}.pooling_type": 3}
    assert {t.name: t.shape for t in found.tensors} == {
        t.name: t.shape for t in whole.tensors if t.name != "output.weight"
    }


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "Qwen2ForRewardModel"])
def test_a_reward_model_is_named(kind: str, tmp_path: Path) -> None:
    golden = golden_of("LlamaForCausalLM", "LlamaForCausalLM")
    golden["config"] |= {"architectures": [kind]}
    checkpoint: Checkpoint = opened(golden, tmp_path)
    with pytest.raises(ModelError, match=r"give classes or rewards.*XLMRobertaForSequenceClassification"):
        describe(checkpoint)
