"""The layers of the Python package (`[tool.importlinter]` in pyproject.toml): imports only look down, and no circle."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import REPO

PACKAGE = REPO / "python" / "srd_rs"


def lint(package: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        timeout=120,
    )


def test_imports_only_look_down() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib: the layers were not checked")
    pytest.importorskip("importlinter", reason="import-linter is not installed: the layers were not checked")
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [sorted(re.findall(r"\w+", line)) for line in contracts[0]["layers"]]
    print(*(f"  {' '.join(layer)}" for layer in layers), sep="\n")
    table = (REPO / "docs" / "architecture.md").read_text().partition("## Layers of the package")[2]
    rows = re.findall(r"^\| \d+ \| ([^|]*) \|", table, re.MULTILINE)
    assert [sorted(re.findall(r"`(\w+)`", row)) for row in rows] == layers
    done = lint(PACKAGE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_that_looks_up_is_found(tmp_path: Path) -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed: the layers were not checked")
    copy = shutil.copytree(PACKAGE, tmp_path / "srd_rs", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    with (copy / "options.py").open("a") as file:
        file.write("\nfrom srd_rs import conversion\n")
    done = lint(copy)
    assert done.returncode == 1 and "srd_rs.options -> srd_rs.conversion" in done.stdout
