"""GGUF adapters of `srd-rs lora` against those of llama.cpp's own converter.

`scripts/make_adapter_goldens.py` made the goldens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import srd_rs
from generation import PROMPT, _run, with_vocabulary
from interpreter import run
from patterns import write_shards
from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import ModelError, UsageError
from srd_rs.families import describe
from srd_rs.families.factors import Factors, NoFactorsError, factored
from srd_rs.transforms import (
    Affine,
    Concat,
    NegExp,
    PadRows,
    PermuteHeads,
    Reshape,
    Source,
    Transform,
    Transpose,
    reordered,
    taken,
)
from test_family_goldens import converted

GOLDENS = sorted((Path(__file__).parent / "data" / "adapters").glob("*.json"))
SCALE = 1 / 256
NOT_WRITTEN_THERE = ("general.file_type", "srd.")
MERGED = Path(__file__).parent / "data" / "lora"
"""The adapters whose merge is compared with that of PEFT."""


def of(name: str) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads((GOLDENS[0].parent / f"{name}.json").read_text(encoding="utf-8"))
    return golden


def written(golden: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """The folders of the adapter and of the base model, of which only config.json is there."""
    adapter, base = folder / "adapter", folder / "base"
    for made in (adapter, base):
        made.mkdir()
    (base / "config.json").write_text(json.dumps(golden["config"]))
    (adapter / "adapter_config.json").write_text(json.dumps(golden["adapter"]))
    write_shards(golden["sources"], adapter, SCALE)
    return adapter, base


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("path", GOLDENS, ids=[path.stem for path in GOLDENS])
def test_the_adapter_is_that_of_the_converter(path: Path, kind: str, tmp_path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    adapter, base = written(golden, tmp_path)
    report = srd_rs.lora(adapter, tmp_path / "out.gguf", base=base, quant=kind)
    reader, expected = gguf.GGUFReader(report.output), golden["files"][kind]
    metadata = {n: f.contents() for n, f in reader.fields.items() if not n.startswith("GGUF.")}
    assert {n: v for n, v in metadata.items() if not n.startswith(NOT_WRITTEN_THERE)} == expected["metadata"]
    found = {
        t.name: [t.tensor_type.name, t.shape.tolist(), hashlib.sha256(t.data.tobytes()).hexdigest()[:16]]
        for t in reader.tensors
    }
    assert found == expected["tensors"]


def opened(name: str, folder: Path, **changes: Any) -> Checkpoint:
    """The base model of an adapter of `test_lora`, and the adapter beside it, with changes of its configuration."""
    golden = json.loads((MERGED / f"{name}.json").read_text(encoding="utf-8"))
    base, adapter = folder / "base", folder / "adapter"
    for made, config, file in (
        (base, golden["config"], "config.json"),
        (adapter, {**golden["adapters"][0]["config"], **changes}, "adapter_config.json"),
    ):
        made.mkdir()
        (made / file).write_text(json.dumps(config))
    write_shards(golden["sources"], base, SCALE)
    # The copy of a weight of the base has its values, which here follow from the name.
    sources = {n: v for n, v in golden["adapters"][0]["sources"].items() if ".base_layer." not in n}
    write_shards(sources, adapter, SCALE)
    return Checkpoint.open(base)


def logits(model: Path, adapter: Path | None) -> np.ndarray:
    """What llama.cpp computes behind a prompt."""
    import ctypes

    import llama_cpp as lib

    with_vocabulary(model, model.with_suffix(".loaded.gguf"))
    parameters = lib.llama_model_default_params()
    parameters.n_gpu_layers = 0
    loaded = lib.llama_model_load_from_file(str(model.with_suffix(".loaded.gguf")).encode(), parameters)
    assert loaded
    settings = lib.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.type_k = settings.type_v = 0
    settings.flash_attn_type = 0
    context = lib.llama_init_from_model(loaded, settings)
    if adapter is not None:
        opened = lib.llama_adapter_lora_init(loaded, str(adapter).encode())
        assert opened, "llama.cpp does not load the adapter"
        one = (lib.llama_adapter_lora_p_ctypes * 1)(opened)
        assert lib.llama_set_adapters_lora(context, one, 1, (ctypes.c_float * 1)(1.0)) == 0
    n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
    assert _run(lib, context, [token % n_vocab for token in PROMPT]) is None
    found = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), shape=(n_vocab,)).copy()
    lib.llama_free(context)
    lib.llama_model_free(loaded)
    return found


CHANGED_ALPHA = {"alpha_pattern": {"layers.1.self_attn.q_proj": 32, "up_proj": 1}}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("two", {}),
        ("two", CHANGED_ALPHA),
        ("rank-stabilized", {}),
        ("rank-stabilized", CHANGED_ALPHA),
        ("rows-are-inputs", {}),
    ],
)
def test_llama_computes_with_the_adapter_as_with_the_merged_model(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    checkpoint = opened(name, tmp_path, **changes)
    made = srd_rs.lora(tmp_path / "adapter", tmp_path / "adapter.gguf", base=tmp_path / "base").output
    converted(checkpoint, describe(checkpoint), "F32", tmp_path / "base.gguf")
    checkpoint.adapters = (tmp_path / "adapter",)
    converted(checkpoint, describe(checkpoint), "F32", tmp_path / "merged.gguf")
    alone, merged = logits(tmp_path / "base.gguf", None), logits(tmp_path / "merged.gguf", None)
    both = logits(tmp_path / "base.gguf", made)
    assert np.abs(alone - merged).max() > 0.01 * np.abs(merged).max()
    assert np.abs(both - merged).max() < 1e-4 * np.abs(merged).max()


W = Source("w", (24, 12))


@pytest.mark.parametrize(
    "transform",
    [
        W,
        PermuteHeads(W, 3),
        Affine(W, 2.0, 1.0),
        PadRows(W, 30, 5.0),
        Transpose(W),
        Transpose(PermuteHeads(W, 2)),
        taken(W, 0, 3, 5, 2),
        taken(W, 1, 2, 4),
        Reshape(taken(Reshape(W, (2, 12, 12)), 1, 4, 4), (8, 12)),
        Reshape(reordered(Reshape(W, (4, 6, 12)), (1, 0, 2)), (24, 12)),
        Reshape(reordered(Reshape(W, (24, 3, 4)), (0, 2, 1)), (24, 12)),
        Concat((taken(W, 0, 8, 16), taken(W, 0, 0, 8))),
        Reshape(reordered(taken(taken(W, 0, 1, 10, 2), 1, 3, 5), (1, 0)), (5, 10)),
    ],
)
def test_the_product_of_the_factors_is_the_update_of_the_result(transform: Transform) -> None:
    random = np.random.default_rng(0)
    down, up = random.integers(-9, 10, (4, 12)), random.integers(-9, 10, (24, 4))
    values = {"a": down.astype(np.float32), "b": up.astype(np.float32)}
    factors = factored(transform, lambda _: Factors(Source("a", (4, 12)), Source("b", (24, 4)), (24,), (12,)))
    product = run(factors.up.to_json(), values.get).reshape(-1, 4) @ run(
        factors.down.to_json(), values.get
    ).reshape(4, -1)
    zero = run(transform.to_json(), lambda _: np.zeros((24, 12), np.float32))
    whole = run(transform.to_json(), lambda _: values["b"] @ values["a"])
    assert (product.reshape(whole.shape) == whole - zero).all()


@pytest.mark.parametrize(
    "transform",
    [
        NegExp(W),
        Reshape(W, (12, 24)),
        Concat((W, Source("v", (24, 12)))),
        Reshape(reordered(Reshape(W, (4, 6, 12)), (0, 2, 1)), (48, 6)),
    ],
)
def test_steps_without_factors_are_refused(transform: Transform) -> None:
    def of(name: str) -> Factors:
        return Factors(Source(f"a-{name}", (4, 12)), Source(f"b-{name}", (24, 4)), (24,), (12,))

    with pytest.raises(NoFactorsError):
        factored(transform, of)


@pytest.mark.parametrize(
    ("name", "what"),
    [("dora", "magnitudes"), ("patterns", "trained as a whole")],
)
def test_what_a_gguf_adapter_cannot_hold_names_the_merge(name: str, what: str, tmp_path: Path) -> None:
    opened(name, tmp_path)
    with pytest.raises(ModelError, match=f"{what}.*convert --lora"):
        srd_rs.lora(tmp_path / "adapter", tmp_path / "out.gguf", base=tmp_path / "base")


def without_one_expert(golden: dict[str, Any]) -> None:
    golden["sources"] = {
        n: v for n, v in golden["sources"].items() if "layers.1" not in n or "experts.2.w1" not in n
    }


def with_one_more(golden: dict[str, Any]) -> None:
    for end, shape in (("A", [4, 64]), ("B", [64, 4])):
        name = f"base_model.model.model.layers.0.self_attn.other.lora_{end}.weight"
        golden["sources"][name] = ["F32", shape, "adapter_model.safetensors"]


def tied(golden: dict[str, Any]) -> None:
    golden["config"]["tie_word_embeddings"] = True


def wider(golden: dict[str, Any]) -> None:
    golden["config"]["hidden_size"] = 128


def without_alpha(golden: dict[str, Any]) -> None:
    golden["adapter"]["lora_alpha"] = 0


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("mixtral-experts", without_one_expert, "has no update"),
        ("qwen2", with_one_more, "does not have"),
        ("llama-embedding", tied, "one matrix for tokens and output"),
        ("qwen3", wider, "has shape"),
        ("qwen3", without_alpha, "changes nothing"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    name: str, change: Callable[[dict[str, Any]], None], what: str, tmp_path: Path
) -> None:
    golden = of(name)
    change(golden)
    adapter, base = written(golden, tmp_path)
    with pytest.raises(ModelError, match=what):
        srd_rs.lora(adapter, tmp_path / "out.gguf", base=base)
    assert not (tmp_path / "out.gguf").exists()


def test_the_base_and_the_type_must_be_known(tmp_path: Path) -> None:
    golden = of("qwen2")
    del golden["adapter"]["base_model_name_or_path"]
    adapter, base = written(golden, tmp_path)
    with pytest.raises(UsageError, match="--base"):
        srd_rs.lora(adapter, tmp_path / "out.gguf")
    with pytest.raises(UsageError, match="Q4_K_M"):
        srd_rs.lora(adapter, tmp_path / "out.gguf", base=base, quant="Q4_K_M")


def test_the_base_is_the_one_that_the_adapter_names(tmp_path: Path) -> None:
    golden = of("qwen2")
    golden["adapter"] |= {
        "base_model_name_or_path": str(tmp_path / "base"),
        "alora_invocation_tokens": [5, 7],
    }
    adapter, _ = written(golden, tmp_path)
    reader = gguf.GGUFReader(srd_rs.lora(adapter, tmp_path / "out.gguf", name="Mine").output)
    assert reader.fields["general.name"].contents() == "Mine"
    assert reader.fields["adapter.alora.invocation_tokens"].contents() == [5, 7]
