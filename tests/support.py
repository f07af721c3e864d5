"""What several test files share: running the command line as users do, and the files beside the repo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent
EXAMPLE = REPO / "examples" / "wiki-gemma4"
SHARED = Path(os.environ.get("SRD_SHARED", REPO.parent / "shared"))
WIKI_TEST = SHARED / "data" / "wiki.test.raw"
BAD = SHARED / "fixtures" / "bad"
MEASURE = REPO / "scripts" / "measure.py"


@dataclass(frozen=True)
class Run:
    """What a run of the command line printed and cost. `peak_rss` is in bytes."""

    code: int
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float
    peak_rss: int

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def srd(
    *args: object, cwd: Path | None = None, timeout: float = 120, env: dict[str, str] | None = None
) -> Run:
    """Run `srd-rs ARGS` in a process of its own."""
    command = [sys.executable, "-m", "srd_rs", *map(str, args)]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        done = subprocess.run(
            [sys.executable, "-S", "-E", str(MEASURE), str(result), str(timeout), *command],
            cwd=cwd,
            # A key of the tests, so that none is made in the home of whoever runs them.
            env={**os.environ, "SRD_MASTER_KEY": "5d" * 32, **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        figures = json.loads(result.read_text())
    return Run(stdout=done.stdout, stderr=done.stderr, **figures)


def require(path: Path) -> Path:
    """`path`, or skip the test and say what is missing."""
    if not path.exists():
        pytest.skip(f"{path} is not here (SRD_SHARED names the folder it lies in)")
    return path


def fixture_folder() -> Path | None:
    """The folder of the reference checkpoints, unpacked once; None where the archive is not at hand."""
    if "SRD_FIXTURES" in os.environ:
        return Path(os.environ["SRD_FIXTURES"])
    archive = SHARED / "fixtures" / "a.tar.xz"
    if not archive.exists():
        return None
    size = archive.stat().st_size
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "srd-rs-tests"
    folder = cache / f"a-{size}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch, tarfile.open(archive) as tar:
            unpacked = Path(scratch) / "a"
            tar.extractall(unpacked, filter="data")
            unpacked.rename(folder)
    inner = [p for p in folder.iterdir() if p.is_dir()]
    return inner[0] if len(inner) == 1 and not (inner[0] / "config.json").exists() else folder
