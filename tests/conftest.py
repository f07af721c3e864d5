"""Fixtures for all tests. What lies beside the repo may be absent; tests that need it skip and say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ggml
from support import BAD, EXAMPLE, fixture_folder, require, srd, widened

#: llama.cpp ends the process at files that it does not expect. It need not call a debugger first, which takes seconds.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of the reference checkpoints."""
    return fixture_folder()


@pytest.fixture(scope="session")
def ggml_library() -> None:
    """Skips the test where no ggml library is installed."""
    if ggml.library() is None:
        pytest.skip("neither llama-cpp-python nor xllamacpp is installed: ggml was not compared with")


@pytest.fixture(scope="session")
def bad_models() -> Path:
    """The folder of the hostile model folders."""
    return require(BAD / "dir")


@pytest.fixture(scope="session")
def example_bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model as a BF16 GGUF, without provenance keys: what the reference converter writes."""
    return converted(tmp_path_factory, "BF16")


@pytest.fixture(scope="session")
def example_q4_k_m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model as a Q4_K_M GGUF."""
    return converted(tmp_path_factory, "Q4_K_M")


def converted(tmp_path_factory: pytest.TempPathFactory, quant: str) -> Path:
    output = tmp_path_factory.mktemp("example") / f"wiki-gemma4-{quant}.gguf"
    run = srd("convert", "--fast", EXAMPLE, "-q", quant, "-o", output, "--no-provenance")
    assert run.code == 0, run.stderr
    return output


@pytest.fixture(autouse=True, scope="session")
def no_kept_calibrations() -> None:
    """No test finds what another run has kept in the home of whoever runs the tests."""
    os.environ.setdefault("SRD_CACHE", "off")


#: How much wider the feed-forward matrices of the model are than the example's: 0.1 G weights.
WIDER = 32


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose conversion lasts long enough to be interrupted."""
    return widened(tmp_path_factory.mktemp("model") / "wide", WIDER)
