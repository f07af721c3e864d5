"""The structure-aware fuzzer of the commands, for a moment each. `python fuzz/cli.py -s 600` runs it for longer."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support import fuzzer

CASES = 12


@pytest.fixture(scope="module")
def fuzz_cli() -> ModuleType:
    return fuzzer()


@pytest.fixture(scope="module")
def seeds(fuzz_cli: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    fuzz_cli.make_seeds(folder)
    return folder


COMMANDS = ("convert", "inspect", "verify", "extract", "met", "hydrate", "calibrate", "eval")


@pytest.mark.parametrize("command", COMMANDS)
def test_changed_inputs_end_as_a_result_or_as_one_line(
    command: str,
    fuzz_cli: ModuleType,
    seeds: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if command == "eval":
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    monkeypatch.delenv("SRD_DEBUG", raising=False)
    fuzz_cli.load()
    ends: Any = fuzz_cli.fuzz(command, 120, 900, seeds, tmp_path / "kept", count=CASES)
    assert ends["FAULTS"] == 0, capfd.readouterr().out
    assert ends["RUNS"] == CASES


def test_the_fuzzer_sees_faults(fuzz_cli: ModuleType, tmp_path: Path) -> None:
    """A signal, a traceback, an unknown exit code, two lines of error and much memory are faults; a refusal is none."""
    report = tmp_path / "report"
    report.with_suffix(".stderr").write_text("")

    def ended(code: int, err: str = "", peak: int = 0) -> str | None:
        report.write_text(json.dumps({"code": code, "out": "", "err": err, "peak": peak}))
        return fuzz_cli.fault(["inspect"], 0, report)[0]

    assert ended(0) is None and ended(1, "error: x. Do y\n") is None
    assert ended(1, "error: x\nerror: y\n") and ended(1, "") and ended(7, "error: x\n")
    assert ended(1, "Traceback (most recent call last)") and ended(0, "", 1 << 31)
    assert fuzz_cli.fault(["inspect"], 6, report)[0] is not None


def test_a_gguf_comes_back_as_it_was(fuzz_cli: ModuleType, seeds: Path) -> None:
    for name in ("base.gguf", "m.gguf", "imatrix.gguf"):
        data = (seeds / name).read_bytes()
        assert fuzz_cli.Gguf.read(data).encode() == data, name
