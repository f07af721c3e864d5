"""Fixtures for all tests. What lies beside the repo may be absent; tests that need it skip and say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import BAD, EXAMPLE, fixture_folder, require, srd


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of the reference checkpoints."""
    folder = fixture_folder()
    if folder is None:
        pytest.skip("fixtures/a.tar.xz is not here (SRD_SHARED or SRD_FIXTURES)")
    return folder


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
    run = srd("convert", EXAMPLE, "-q", quant, "-o", output, "--no-provenance")
    assert run.code == 0, run.stderr
    return output
