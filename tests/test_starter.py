"""A command that is forked (tests/starter.py) does what a command in a fresh process does."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path

import pytest

from srd_rs.cli import COMMANDS
from support import EXAMPLE, Run, srd

NAMES = [name for names in COMMANDS.values() for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_a_command_loads_what_it_needs(name: str) -> None:
    """In a fresh process nothing else has imported the modules of a command."""
    fresh, forked = srd(name, "--help", fresh=True), srd(name, "--help")
    assert fresh.code == 0 and fresh.stdout.startswith("Usage: srd-rs ")
    assert same(forked) == same(fresh)


def same(run: Run) -> tuple[int, str, str]:
    """A run without what it cost: no number is compared."""
    return run.code, re.sub(r"\d+", "N", run.stdout), re.sub(r"\d+", "N", run.stderr)


@pytest.mark.parametrize(
    "args",
    [
        ("inspect", EXAMPLE, "--json"),
        ("inspect", "nothing.gguf"),
        ("convert", EXAMPLE, "--fast", "--quant", "Q9"),
        ("convert", EXAMPLE, "--fast", "--dry-run", "--json"),
        ("plan", "\udcff", "--json"),
    ],
)
def test_a_forked_command_says_what_a_fresh_one_says(args: tuple[object, ...], tmp_path: Path) -> None:
    forked, fresh = (srd(*args, fresh=fresh, cwd=tmp_path, env={"SRD_DEBUG": "1"}) for fresh in (False, True))
    assert same(forked) == same(fresh) and list(tmp_path.iterdir()) == []


def test_a_forked_command_writes_what_a_fresh_one_writes(tmp_path: Path) -> None:
    for fresh in (False, True):
        folder = tmp_path / str(fresh)
        folder.mkdir()
        run = srd("convert", EXAMPLE, "--fast", "-o", "out.gguf", "--axm", fresh=fresh, cwd=folder)
        assert run.code == 0, run.stderr
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["out.axm", "out.gguf", "out.met.json"]
    for name in names:
        assert (tmp_path / "False" / name).read_bytes() == (folder / name).read_bytes()


def test_variables_come_along_and_some_need_a_fresh_process() -> None:
    facts = [srd("env", "--json", env={"SRD_MAX_ISA": isa}).json for isa in ("portable", "")]
    assert facts[0]["used_instruction_set"] == "portable" != facts[1]["used_instruction_set"]
    assert srd("env", "--json", env={"SRD_MASTER_KEY": None}).json["secrets_set"]["SRD_MASTER_KEY"] is False
    # An interpreter reads this one when it starts.
    wrong = srd("--version", env={"PYTHONHOME": "/nonexistent"})
    assert wrong.code == 1 and "Python" in wrong.stderr


@pytest.mark.parametrize("fresh", [False, True])
def test_a_command_that_takes_too_long_is_killed(fresh: bool, tmp_path: Path) -> None:
    many = ("--text", "random", "--tokens", 1 << 18)
    run = srd("calibrate", EXAMPLE, "-o", tmp_path / "c", *many, timeout=0.5, fresh=fresh)
    assert run.code == -signal.SIGKILL and 0.4 < run.wall_s < 60


def test_commands_run_side_by_side(tmp_path: Path) -> None:
    outputs = [tmp_path / f"{i}.gguf" for i in range(3)]
    codes: list[int] = []

    def convert(output: Path) -> None:
        codes.append(srd("convert", EXAMPLE, "--fast", "-o", output, "--no-met").code)

    threads = [threading.Thread(target=convert, args=(output,)) for output in outputs]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    assert srd("--version").code == 0 and time.monotonic() - begin < 60
    for thread in threads:
        thread.join()
    assert codes == [0, 0, 0] and len({output.read_bytes() for output in outputs}) == 1
