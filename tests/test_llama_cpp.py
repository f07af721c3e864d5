"""The example model's GGUF in llama.cpp: it loads, it writes, and it is as good as llama.cpp's own Q4_K_M."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import REPO, WIKI_TEST, require

N_CHUNKS = 12


def test_it_generates(example_q4_k_m: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (pip install '.[test]')")
    prompt = "The history of the"
    run = subprocess.run(
        [
            sys.executable,
            str(REPO / "scripts" / "generate.py"),
            str(example_q4_k_m),
            prompt,
            "-n",
            "12",
            "--threads",
            "1",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    text = run.stdout.strip()
    assert text.startswith(prompt)
    # A model that was read wrongly writes byte tokens or one token over and over.
    words = text[len(prompt) :].split()
    assert len(words) >= 4 and len(set(words)) >= 3, text
    assert text.isprintable() and text.isascii(), text


@pytest.mark.slow
def test_perplexity_is_that_of_llama_quantize(
    example_bf16: Path, example_q4_k_m: Path, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from srd_rs.eval.perplexity import perplexity
    from srd_rs.eval.quantizer import quantize

    text = require(WIKI_TEST)
    theirs = tmp_path / "llama-quantize.gguf"
    quantize(example_bf16, theirs)
    full = perplexity(example_bf16, text, n_chunks=2, threads=1)
    ours = perplexity(example_q4_k_m, text, n_chunks=N_CHUNKS, threads=1)
    reference = perplexity(theirs, text, n_chunks=N_CHUNKS, threads=1)
    print(f"BF16 {full.value:.4f}, ours {ours.value:.4f}, llama.cpp's {reference.value:.4f}")
    assert full.n_tokens == 2 * 255 and ours.n_tokens == reference.n_tokens == N_CHUNKS * 255
    assert abs(ours.value / reference.value - 1) <= 0.005
    assert full.value < 150  # the model has learnt something: a wrongly read one is above 4096


def test_both_quantizers_write_files_of_one_size(
    example_bf16: Path, example_q4_k_m: Path, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from srd_rs.eval.quantizer import quantize

    theirs = tmp_path / "llama-quantize.gguf"
    quantize(example_bf16, theirs)
    assert example_q4_k_m.stat().st_size == theirs.stat().st_size
