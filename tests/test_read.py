"""`--read`: local weights are read at offsets or through maps. The output is the same, also when a file shrinks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import EXAMPLE, srd

FAST = ("--fast", "-q", "Q8_0", "--no-met", "--no-axm", "--name", "M")


def test_every_way_gives_the_same_bytes(tmp_path: Path) -> None:
    made = set()
    for way in ("auto", "pread", "map"):
        output = tmp_path / f"{way}.gguf"
        run = srd("convert", EXAMPLE, "-o", output, *FAST, "--read", way)
        assert run.code == 0, run.stderr
        made.add(output.read_bytes())
    assert len(made) == 1


def test_srd_through_a_map(tmp_path: Path) -> None:
    options = ("-q", "Q4_0", "--no-met", "--no-axm", "--effort", "srd", "--calibrate", "random")
    options = (*options, "--calibrate-tokens", "64", "--name", "M", "--no-cache")
    for way in ("pread", "map"):
        run = srd("convert", EXAMPLE, "-o", tmp_path / f"{way}.gguf", *options, "--read", way)
        assert run.code == 0, run.stderr
    assert (tmp_path / "pread.gguf").read_bytes() == (tmp_path / "map.gguf").read_bytes()


@pytest.mark.parametrize("way", ["map", "pread"])
def test_a_file_that_shrinks_is_one_line(tmp_path: Path, way: str) -> None:
    """The file is cut while it is converted: no signal ends the process, and nothing is left."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(EXAMPLE, model)
    out.mkdir()
    program = (
        "import os, sys\n"
        "import srd_rs\n"
        "path = sys.argv[1]\n"
        "def cut(state):\n"
        "    if state.done: os.truncate(path, 1 << 20)\n"
        "srd_rs.convert(sys.argv[2], sys.argv[3], quant='IQ3_S', effort='fast', met=False, axm=False, name='M',\n"
        "    threads=1, read=sys.argv[4], progress=cut)\n"
    )
    paths = (model / "model.safetensors", model, out / "m.gguf")
    command = [sys.executable, "-c", program, *map(str, paths), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, (done.returncode, done.stderr)  # -7 would be the signal
    assert "cannot read weights" in done.stderr and "The file changed" in done.stderr, done.stderr
    assert not list(out.iterdir())


def test_what_no_map_is_made_for_is_refused(tmp_path: Path, example_bf16: Path) -> None:
    run = srd("convert", example_bf16, "-o", tmp_path / "m.gguf", *FAST[:-2], "--read", "map")
    assert run.code == 2 and "--read" in run.stderr, run.stderr
    run = srd("convert", EXAMPLE, "-o", tmp_path / "m.gguf", *FAST, "--read", "mmap")
    assert run.code == 2 and "--read" in run.stderr
