"""Calibrated conversions end to end: deterministic, of the same size, and better."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import srd_rs

MODEL = Path(__file__).parent.parent / "examples/wiki-gemma4"
TOKENS = 2048


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("srd") / "moments.safetensors"
    srd_rs.calibrate(MODEL, path, text="random", tokens=TOKENS)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def convert(output: Path, moments: Path, **options: object) -> Path:
    srd_rs.convert(MODEL, output, effort="srd", calibrate=moments, met=False, **options)  # type: ignore[arg-type]
    return output


def test_the_same_bytes_for_any_threads_and_another_file_for_another_seed(
    tmp_path: Path, moments: Path
) -> None:
    one = convert(tmp_path / "1.gguf", moments, threads=1, provenance=False)
    three = convert(tmp_path / "3.gguf", moments, threads=3, max_memory=1 << 20, provenance=False)
    other = convert(tmp_path / "s.gguf", moments, seed=1, provenance=False)
    assert digest(one) == digest(three)
    assert digest(one) != digest(other)
    assert one.stat().st_size == other.stat().st_size


def test_types_and_tensor_bytes_are_those_of_the_plain_mix(tmp_path: Path, moments: Path) -> None:
    plain = tmp_path / "plain.gguf"
    srd_rs.convert(MODEL, plain, met=False, effort="fast")
    files = [srd_rs.inspect(plain), srd_rs.inspect(convert(tmp_path / "srd.gguf", moments))]
    first, second = [[(t.name, t.type, t.bytes) for t in file.tensors] for file in files]
    assert first == second


@pytest.mark.slow
def test_feedback_nearly_halves_the_divergence(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    from srd_rs.eval.evaluation import evaluate
    from support import SHARED

    text = SHARED / "data/wiki.test.raw"
    if not text.is_file():
        pytest.skip("needs wiki.test.raw of the shared folder")
    base, plain, moments = (tmp_path / name for name in ("bf16.gguf", "plain.gguf", "moments.safetensors"))
    srd_rs.convert(MODEL, base, quant="BF16", met=False)
    srd_rs.convert(MODEL, plain, met=False, effort="fast")
    srd_rs.calibrate(MODEL, moments, tokens=4096)
    paths = [plain, convert(tmp_path / "srd.gguf", moments)]
    scores = evaluate(paths, text, base=base, n_chunks=8, threads=1)
    before, after = (file.divergence.kld.value for file in scores.files if file.divergence)
    print(after / before)
    assert after < 0.7 * before
