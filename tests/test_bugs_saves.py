"""What transformers and PEFT save of fine-tunes: tied matrices, experts, the start of a text, heads of adapters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from generation import generated, with_vocabulary
from interpreter import run
from patterns import pattern
from srd_rs.checkpoint import Checkpoint
from srd_rs.errors import ModelError
from srd_rs.families import describe, rope
from srd_rs.families.config import Config
from srd_rs.vocab import load
from test_family_goldens import converted, golden_of, opened
from test_lora import of
from test_lora import opened as with_adapters
from vocab_tools import rules_of, write_folder

DATA = Path(__file__).parent / "data" / "families"
HEADS = ("lm_head.weight", "embed_out.weight")


def golden(name: str, **changes: Any) -> dict[str, Any]:
    """A golden with changes of its configuration."""
    file = golden_of(DATA, name)
    file["config"] |= changes
    return file


@pytest.mark.parametrize("name", ["olmo3", "phimoe", "qwen2moe-as-published", "dots1", "muse-glimmer-vision"])
def test_a_tied_model_loads_where_llama_cpp_wants_an_output_matrix(name: str, tmp_path: Path) -> None:
    """llama.cpp takes the embedding for the output matrix in most architectures, but not in these."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    tied = golden(name, tie_word_embeddings=True)
    head = next(source for source in tied["sources"] if source.endswith(HEADS))
    del tied["sources"][head]
    checkpoint = opened(tied, tmp_path, 1 / 256)
    spec = describe(checkpoint)
    transforms = {tensor.name: tensor.transform for tensor in spec.tensors}
    assert transforms["output.weight"] == transforms["token_embd.weight"]
    tensors = {
        tensor.name: tensor.data for tensor in converted(checkpoint, spec, "BF16", tmp_path / "bare.gguf")
    }
    assert tensors["output.weight"].tobytes() == tensors["token_embd.weight"].tobytes()
    with_vocabulary(tmp_path / "bare.gguf", tmp_path / "m.gguf")
    (found,) = generated([(tmp_path / "m.gguf", None)])
    assert "tokens" in found, found


@pytest.mark.parametrize(
    ("name", "normalized"),
    [("qwen3moe-short", False), ("qwen3next-as-published", False), ("qwen2moe-as-published", True)],
)
def test_experts_that_llama_cpp_weighs_otherwise_are_named(
    name: str, normalized: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    describe(opened(golden(name, norm_topk_prob=not normalized), tmp_path))
    assert "norm_topk_prob" not in caplog.text
    (tmp_path / "other").mkdir()
    describe(opened(golden(name, norm_topk_prob=normalized), tmp_path / "other"))
    assert caplog.text.count("norm_topk_prob") == 1


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
START = {"SpecialToken": {"id": "<s>", "type_id": 0}}


@pytest.mark.parametrize(
    ("single", "config", "added"),
    [
        ([TEXT], {"backend": "tokenizers"}, False),
        (None, {"backend": "tokenizers"}, False),
        ([START, TEXT], {"backend": "tokenizers"}, True),
        ([TEXT], {"backend": "tokenizers", "add_bos_token": True}, True),
        ([TEXT], {}, None),
    ],
    ids=["nothing", "no post-processor", "the start", "stated", "transformers 4"],
)
def test_the_start_of_a_text_is_as_transformers_5_says(
    single: list[Any] | None, config: dict[str, Any], added: bool | None, tmp_path: Path
) -> None:
    """transformers 5 leaves out add_bos_token, and llama.cpp adds the start where nothing is stated."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "\u2581a"]
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": True,
        "fuse_unk": True,
        "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": [["\u2581", "a"]],
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    file = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], **flags} for i in range(3)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "first",
            "split": False,
        },
        "post_processor": None
        if single is None
        else {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [TEXT],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteFallback"},
        "model": model,
    }
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_folder(tmp_path, tokenizer_json=file, tokenizer_config_json={**named, **config})
    metadata = load(tmp_path, config={}, n_vocab=len(pieces), rules=rules_of("llama"))
    stated = {key: value for key, _, value in metadata.entries()}
    assert stated["tokenizer.ggml.model"] == "llama"
    assert stated.get("tokenizer.ggml.add_bos_token") is added


@pytest.mark.parametrize("name", ["dora", "rank-stabilized"])
def test_an_adapter_may_hold_the_output_matrix_of_a_tied_model(name: str, tmp_path: Path) -> None:
    """It was trained apart from the embedding, so the model is tied no more."""
    file = of(name)
    base, adapter = file, file["adapters"][0]
    base["config"]["tie_word_embeddings"] = True
    kind, shape, _ = base["sources"].pop("lm_head.weight")
    source = "base_model.model.lm_head.weight"
    _, _, weights = next(iter(adapter["sources"].values()))
    adapter["sources"][source] = [kind, shape, weights]
    spec = describe(with_adapters(file, tmp_path))
    output = next(tensor for tensor in spec.tensors if tensor.name == "output.weight")
    values = run(dict(output.transform), lambda found: pattern(found, tuple(shape)))
    assert values.shape == tuple(shape) and "adapter 0" in json.dumps(output.transform)


def with_biases(name: str, matrices: str) -> dict[str, Any]:
    """A golden whose matrices have biases."""
    file = golden(name, attention_bias=True, mlp_bias=True)
    for source, (kind, shape) in list(file["sources"].items()):
        if re.search(rf"({matrices})_proj\.weight$", source):
            file["sources"][f"{source.removesuffix('weight')}bias"] = [kind, shape[:1]]
    return file


def check_loads(checkpoint: Checkpoint, folder: Path) -> None:
    """llama.cpp loads what a checkpoint is converted to, and writes tokens."""
    converted(checkpoint, describe(checkpoint), "BF16", folder / "bare.gguf")
    with_vocabulary(folder / "bare.gguf", folder / "m.gguf")
    (found,) = generated([(folder / "m.gguf", None)])
    assert "tokens" in found, found


@pytest.mark.parametrize(
    ("name", "loaded", "refused"),
    [
        ("qwen3moe-short", r"self_attn\.[qkv]", "o"),
        ("glm4", r"self_attn\.[qkv]", "o"),
        ("glm45-air", r"self_attn\.[qkv]", "o"),
        ("qwen35-text", r"self_attn\.[qkv]", "o"),
        ("hunyuan-dense", r"self_attn\.[qkv]", "o"),
        ("ernie-0.3b", r"self_attn\.[qkvo]", "up"),
    ],
)
def test_a_bias_that_llama_cpp_does_not_load_is_refused(
    name: str, loaded: str, refused: str, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    check_loads(opened(with_biases(name, loaded), tmp_path, 1 / 256), tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match=rf"{refused}_proj\.bias"):
        describe(opened(with_biases(name, rf"{loaded}|\.{refused}"), tmp_path / "other"))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("deepseek-v3", {"n_group": 4, "topk_group": 2}, "4 groups of two or more"),
        ("deepseek-v3", {"n_group": 3, "topk_group": 2}, "3 groups of two or more"),
        ("deepseek-v3", {"n_group": 2, "topk_group": 3}, "3 of 2 groups"),
        ("deepseek-v3", {"n_group": 2, "topk_group": 2}, None),
        ("deepseek-v2", {"n_group": 2, "topk_group": 1, "topk_method": "greedy"}, None),
    ],
    ids=["of one expert", "unequal", "too many", "all", "greedy"],
)
def test_groups_of_experts_load_or_are_refused(
    name: str, changes: dict[str, Any], expected: str | None, tmp_path: Path
) -> None:
    """llama.cpp ends its process with groups that it cannot use. A model that uses all groups has none."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    checkpoint = opened(golden(name, **changes), tmp_path, 1 / 256)
    if expected is not None:
        with pytest.raises(ModelError, match=expected):
            describe(checkpoint)
        return
    check_loads(checkpoint, tmp_path)
    found = {key: value for key, _, value in describe(checkpoint).metadata.entries()}
    assert found["deepseek2.expert_group_count"] == found["deepseek2.expert_group_used_count"] == 1


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64, "rope_theta": 1e4}


@pytest.mark.parametrize(("name", "known"), [("granitemoe", True), ("trinity", False)])
def test_llama3_scaling_loads_or_is_refused(name: str, known: bool, tmp_path: Path) -> None:
    """llama.cpp's graph of Trinity reads no factors, and llama.cpp does not load a file with the tensor of them."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    checkpoint = opened(golden(name, rope_parameters=LLAMA3, rope_scaling=None), tmp_path, 1 / 256)
    if known:
        check_loads(checkpoint, tmp_path)
    else:
        with pytest.raises(ModelError, match="has no RoPE scaling of type llama3"):
            describe(checkpoint)


@pytest.mark.parametrize(
    ("name", "loads"), [("glm45-air", True), ("deepseek-v3", False), ("deepseek-v2-lite", False)]
)
def test_a_mixture_without_shared_experts_loads_or_is_refused(name: str, loads: bool, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    file = golden(name, n_shared_experts=0)
    file["sources"] = {
        source: row for source, row in file["sources"].items() if "shared_experts" not in source
    }
    checkpoint = opened(file, tmp_path, 1 / 256)
    if not loads:
        with pytest.raises(ModelError, match="no shared experts"):
            describe(checkpoint)
        return
    check_loads(checkpoint, tmp_path)


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("config", "sliding", "expected"),
    [
        ({"rope_scaling": YARN, "original_max_position_embeddings": 64}, None, ("yarn", 1e4, 256)),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 64}}, None, ("yarn", 1e4, 64)),
        ({"rope_parameters": {**YARN, "rope_theta": 5e5}}, None, ("yarn", 5e5, 256)),
        ({"rope_parameters": {**YARN, "rope_theta": 5e5}}, 1e4, ("default", 1e4, None)),
        ({"rope_scaling": YARN}, 1e4, ("yarn", 1e4, 256)),
        ({"rope_parameters": {"full_attention": YARN}}, 1e4, ("yarn", 1e4, 256)),
    ],
    ids=["beside", "inside", "flat", "flat, two bases", "old, two bases", "per type"],
)
def test_rope_is_read_as_transformers_reads_it(
    config: dict[str, Any], sliding: float | None, expected: tuple[str, float, int | None], tmp_path: Path
) -> None:
    read = rope.read(
        Config({"max_position_embeddings": 256, **config}, {}, tmp_path), theta_sliding=sliding
    ).full
    found = (read["rope_type"], read["rope_theta"], read.get("original_max_position_embeddings"))
    assert found == expected


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("qwen3moe-short", {"attention_factor": 1.0}, 0.7426256),
        ("qwen3moe-short", {"mscale": 1.0, "mscale_all_dim": 1.0}, 0.7426256),
        ("qwen3moe-short", {"attention_factor": 1.3465736}, None),
        ("qwen3moe-short", {"attn_factor": 1.0, "mscale": 1.0}, None),
        ("deepseek-v3", {"mscale": 1.0, "mscale_all_dim": 1.0}, None),
    ],
    ids=["stated", "by mscale", "the usual", "not read", "DeepSeek"],
)
def test_the_magnitude_of_yarn_is_that_of_transformers(
    name: str, changes: dict[str, Any], expected: float | None, tmp_path: Path
) -> None:
    """llama.cpp multiplies queries and keys by 0.1 ln(factor) + 1, and reads no yarn_attn_factor."""
    yarn = {**YARN, "factor": 32.0, "original_max_position_embeddings": 64, **changes}
    spec = describe(opened(golden(name, rope_scaling=yarn, rope_parameters=None), tmp_path))
    found = {key.partition(".")[2]: value for key, _, value in spec.metadata.entries()}
    assert found.get("rope.scaling.attn_factor") == (None if expected is None else pytest.approx(expected))


def test_betas_of_yarn_that_llama_cpp_does_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    yarn = {**YARN, "original_max_position_embeddings": 64, "beta_fast": 64.0}
    describe(opened(golden("qwen3moe-short", rope_scaling=yarn, rope_parameters=None), tmp_path))
    assert "beta_fast and beta_slow of YaRN are 64.0 and None" in caplog.text


def test_flat_rope_parameters_of_olmo_3_are_passed_over(tmp_path: Path) -> None:
    """transformers reads those of the types of layers only."""
    flat = golden("olmo3", rope_parameters={**YARN, "rope_theta": 1e6}, rope_scaling=None, rope_theta=None)
    found = {key: value for key, _, value in describe(opened(flat, tmp_path)).metadata.entries()}
    assert found["olmo2.rope.freq_base"] == found["olmo2.rope.freq_base_swa"] == 500_000.0
    assert "olmo2.rope.scaling.type" not in found


@pytest.mark.parametrize("name", ["gpt-oss", "olmo3"])
def test_a_model_without_sliding_layers_loads_or_is_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    file = golden(name)
    file["config"]["layer_types"] = ["full_attention"] * file["config"]["num_hidden_layers"]
    checkpoint = opened(file, tmp_path, 1 / 256)
    if name == "gpt-oss":
        with pytest.raises(ModelError, match="no layer has a sliding window"):
            describe(checkpoint)
        return
    check_loads(checkpoint, tmp_path)
