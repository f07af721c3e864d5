"""The package does without what only Unix systems have: here that is taken away. The workflow of the wheels runs on
the systems themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import EXAMPLE, REPO

#: What the standard library lacks on Windows, as far as a program may come across it.
TAKEN_AWAY = """
import os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "posix_spawn"):
    sys.modules[name] = None
for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOFOLLOW", "O_TMPFILE", "geteuid", "getuid", "statvfs", "fork"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGXCPU", "SIGHUP", "SIGUSR1"):
    if hasattr(signal, name):
        delattr(signal, name)
"""


def run(program: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN_AWAY + program],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported(tmp_path: Path) -> None:
    package = REPO / "python" / "srd_rs"
    files = [p.relative_to(package.parent) for p in package.rglob("*.py") if p.name != "tokenizing.py"]
    names = [".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in files]
    assert len(names) > 100
    # `__main__` runs the command line when it is imported as the main program only.
    run(f"import importlib\nfor name in {sorted(names)!r}: importlib.import_module(name)", tmp_path)


def test_a_model_is_converted(tmp_path: Path) -> None:
    program = f"""
import srd_rs
report = srd_rs.convert({str(EXAMPLE)!r}, "out.gguf", calibrate_tokens=256, cache=False)
print(report.method)
"""
    assert run(program, tmp_path).split() == ["srd"]
    assert {p.name for p in tmp_path.iterdir()} == {"out.gguf", "out.met.json"}


def test_a_tokenizer_is_run_without_limits_of_the_system(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from srd_rs.calibration import encode
print(len(encode(Path({str(EXAMPLE)!r}), {{}}, "some text")))
"""
    assert int(run(program, tmp_path)) > 0
