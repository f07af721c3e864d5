"""This module runs a GGUF in llama.cpp for one token, in a process of its own.

llama.cpp ends the whole process when a file breaks one of its assertions. `check_runs` lets that happen to a child, so
that the user gets one line that names the file. The child reads from a pipe that ends when this process ends, however
that happens, and ends then too.

    check_runs(Path("model.gguf"), n_ctx=512)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from srd_rs.errors import ModelError, SrdError, message
from srd_rs.eval.library import library
from srd_rs.eval.llama import LlamaModel, check_before_loading
from srd_rs.reading import shown

_REFUSED: Final = 3
"""Exit code of the child for a file that it refuses with a message."""


def check_runs(gguf: Path, n_ctx: int) -> None:
    """Raise ModelError if llama.cpp does not survive loading `gguf` and computing one token.

    srd-rs reads the file first; see `LlamaModel` for the errors.
    """
    library()
    check_before_loading(gguf)
    command = [sys.executable, "-m", "srd_rs.eval.probe", os.fspath(gguf), str(n_ctx)]
    # The folder of this package comes first, because the child may not find the package otherwise.
    package = os.fspath(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": path}
    lives, ours = os.pipe()
    try:
        done = subprocess.run(command, stdin=lives, capture_output=True, env=env, check=False)
    finally:
        os.close(lives)
        os.close(ours)
    if done.returncode == 0:
        return
    said = done.stderr.decode("utf-8", "replace").splitlines()
    if done.returncode == _REFUSED and said:
        raise ModelError(said[-1])
    if done.returncode < 0:
        reason = next(
            (line for line in said if "GGML_ASSERT" in line or "terminate called" in line), "no message"
        )
        what = f"llama.cpp crashed on it ({signal.Signals(-done.returncode).name}: {shown(reason.strip()[-80:])})"
    else:
        what = f"llama.cpp could not be started: {shown((said or ['no message'])[-1])}"
    raise ModelError(message(gguf, what, f"Check it with: srd-rs inspect {gguf}"))


def _end_with_parent() -> None:
    """Wait for the end of stdin, and end this process. llama.cpp may be computing meanwhile."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _run(gguf: str, n_ctx: int) -> int:
    try:
        with LlamaModel(gguf, n_ctx=n_ctx, threads=1) as model:
            model.logits(model.tokenize("a")[:n_ctx])
    except SrdError as error:
        print(error, file=sys.stderr)
        return _REFUSED
    return 0


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(_run(sys.argv[1], int(sys.argv[2])))
