"""What a running command shows: the first line, lines without a terminal, objects with --json, a bar on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import srd_rs
from srd_rs import progress
from srd_rs.progress import Phases, plan_line
from srd_rs.report import Progress
from support import EXAMPLE, srd


def test_the_first_line_says_what_will_be_written(tmp_path: Path) -> None:
    run = srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "m.gguf", "--no-axm")
    assert run.code == 0
    (line,) = run.stderr.splitlines()
    assert re.fullmatch(
        r"gemma4, 13\.2 M weights -> \S*m\.gguf, 10\.19 MB, [\d.]+ \wB free on the disk", line
    )
    both = srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "m.gguf", "-f", "--axm")
    size = (tmp_path / "m.gguf").stat().st_size + (tmp_path / "m.axm").stat().st_size
    assert f"m.gguf and container, {size / 1e6:.2f} MB," in both.stderr


def test_on_plan_comes_before_the_work(tmp_path: Path) -> None:
    seen: list[object] = []
    report = srd_rs.convert(
        EXAMPLE, tmp_path / "m.gguf", effort="fast", met=False, on_plan=seen.append, progress=seen.append
    )
    assert seen[0] == report.plan and isinstance(seen[-1], Progress)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the module sees, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Phases(as_json=False) as shown:
        shown.expect(("calibrate", "convert"))
        for second in range(26):
            clock[0] = 100.0 + second
            shown.update(Progress(second * 100, 5000, "", "calibrate"))
        clock[0] = 140.0
        shown.update(Progress(0, 8_000_000, "blk.0", "convert"))
        clock[0] = 150.0
        shown.update(Progress(2_000_000, 8_000_000, "blk.1", "convert"))
    assert stream.getvalue().splitlines() == [
        "1/2 calibrating: 20%, 1000/5000 tokens 100 tokens/s, 40.0 s left",
        "1/2 calibrating: 40%, 2000/5000 tokens 100 tokens/s, 30.0 s left",
        "2/2 writing: 0%, 0 B/8.00 MB, unknown left",
        "2/2 writing: 25%, 2.00 MB/8.00 MB 200 kB/s, 30.0 s left",
    ]


def test_objects_with_json(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Phases(as_json=True) as shown:
        for half in range(5):
            clock[0] = 100.0 + half / 2
            shown.update(Progress(half, 4, "blk.1", "convert"))
    found = [json.loads(line)["progress"] for line in stream.getvalue().splitlines()]
    assert found == [{"phase": "convert", "done": n, "total": 4, "tensor": "blk.1"} for n in (2, 4)]


def test_json_begins_with_the_plan(tmp_path: Path) -> None:
    run = srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "m.gguf", "--json")
    first = json.loads(run.stderr.splitlines()[0])["plan"]
    assert first["total_bytes"] == run.json["total_bytes"] and first["output"] == run.json["output"]
    assert all(json.loads(line) for line in run.stderr.splitlines())


def test_the_bar_counts_the_phases(tmp_path: Path) -> None:
    """On a terminal 80 columns wide the line of the bar never wraps, and the bar keeps its place."""
    master, slave = pty.openpty()
    command = [
        *(sys.executable, "-m", "srd_rs", "convert", str(EXAMPLE), "-o", str(tmp_path / "m.gguf")),
        *("--calibrate", "random", "--calibrate-tokens", "2048", "--no-met"),
    ]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "SRD_MASTER_KEY": ""}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env=env)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # Linux's way of saying that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    frames = [line for line in re.split(r"[\r\n]", text) if "calibrating" in line or "writing" in line]
    assert any(frame.startswith("1/2 calibrating") for frame in frames), frames
    assert all(len(frame.rstrip()) <= 80 for frame in frames)
    starts = {frame.index("━") for frame in frames if "━" in frame and "calibrating" in frame}
    assert len(starts) <= 1
    assert "gemma4, 13.2 M weights ->" in text


def test_a_folder_that_is_missing_does_not_end_the_line(tmp_path: Path) -> None:
    plan = srd_rs.plan(EXAMPLE, tmp_path / "no" / "m.gguf", effort="fast")
    assert "free on the disk" not in plan_line(plan)


def test_the_report_ends_with_the_command_that_runs_the_file(tmp_path: Path) -> None:
    output = tmp_path / "with space.gguf"
    run = srd("convert", "--fast", EXAMPLE, "-o", output)
    assert f"run it: llama-cli -m '{output}'" in run.stdout
    assert f"or:     srd-rs modelfile '{output}' (Ollama)" in run.stdout
    assert "~/.lmstudio/models/PUBLISHER/MODEL/ (LM Studio)" in run.stdout


@pytest.mark.parametrize("command", ["calibrate", "verify", "extract", "pack"])
def test_other_commands_are_quiet_on_stdout(command: str, tmp_path: Path) -> None:
    """Progress goes to stderr: stdout has the result alone."""
    key = {"SRD_MASTER_KEY": "5d" * 32}
    axm = tmp_path / "m.axm"
    packed = srd("pack", EXAMPLE, "-o", axm, "--fast", "--json", env=key)
    arguments = {
        "calibrate": (EXAMPLE, "-o", tmp_path / "c.calib", "--text", "random", "--tokens", 64, "--ctx", 64),
        "verify": (axm,),
        "extract": (axm, "-o", tmp_path / "x.gguf"),
    }
    run = packed if command == "pack" else srd(command, *arguments[command], "--json", env=key)
    assert run.code == 0 and isinstance(run.json, dict)


def test_the_plan_of_a_budget_is_told_when_it_is_exact(tmp_path: Path) -> None:
    seen: list[srd_rs.Plan] = []
    report = srd_rs.convert(
        EXAMPLE, tmp_path / "m.gguf", effort="fast", target_bpw=6.0, met=False, on_plan=seen.append
    )
    assert seen == [report.plan] and seen[0].total_bytes == (tmp_path / "m.gguf").stat().st_size
