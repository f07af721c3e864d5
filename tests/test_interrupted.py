"""Whatever ends a conversion, nothing lies under the final name; and threads change no byte."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import EXAMPLE, srd, user_process


def start(model: Path, output: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "srd_rs",
        "convert",
        "--fast",
        str(model),
        "-o",
        str(output),
        "--threads",
        "1",
    ]
    return user_process(command)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, str]:
    """Seconds of an undisturbed conversion and the digest of what it writes."""
    output = tmp_path_factory.mktemp("whole") / "out.gguf"
    begin = time.monotonic()
    process = start(wide_model, output)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return time.monotonic() - begin, digest(output)


def test_killed_at_any_moment(wide_model: Path, whole: tuple[float, str], tmp_path: Path) -> None:
    seconds, expected = whole
    moments = random.Random(7)
    killed = 0
    for i in range(12):
        output = tmp_path / str(i) / "out.gguf"
        output.parent.mkdir()
        process = start(wide_model, output)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.communicate(timeout=30)
        # Either not there, or finished in time and complete.
        assert not output.exists() or digest(output) == expected
        killed += not output.exists()
    assert killed >= 4
    # What a killed run left behind does not stand in the way of the next one.
    output.unlink(missing_ok=True)
    again = start(wide_model, output)
    _, stderr = again.communicate(timeout=120)
    assert again.returncode == 0, stderr
    assert digest(output) == expected


def test_interrupted_by_the_user(wide_model: Path, whole: tuple[float, str], tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, one line, and no file of any name."""
    seconds, expected = whole
    interrupted = 0
    for i in range(24):
        if i >= 6 and interrupted >= 2:
            break  # more tries are for a busy machine, where many signals come too early or too late
        folder = tmp_path / str(i)
        folder.mkdir()
        process = start(wide_model, folder / "out.gguf")
        # Not while Python itself starts: a Ctrl-C then is Python's to report.
        time.sleep(seconds * (0.4 + 0.1 * (i % 6)))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        if (folder / "out.gguf").exists():
            assert digest(folder / "out.gguf") == expected  # too late: it was complete
            continue
        interrupted += 1
        assert list(folder.iterdir()) == []
        if process.returncode == -signal.SIGINT and not stderr:
            interrupted -= 1  # on a busy machine Python itself was still starting
            continue
        assert process.returncode == 130, stderr
        *plan, error = stderr.splitlines()
        assert error == "error: interrupted" and len(plan) <= 1 and all(" -> " in line for line in plan)
    assert interrupted >= 2


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0", "BF16"])
def test_threads_and_memory_change_no_byte(quant: str, tmp_path: Path) -> None:
    digests = set()
    for i, options in enumerate(
        (["--threads", 1], ["--threads", 2], ["--threads", 8], ["--threads", 3, "--max-memory", "1MiB"])
    ):
        output = tmp_path / f"{i}.gguf"
        run = srd("convert", "--fast", EXAMPLE, "-q", quant, "-o", output, *options)
        assert run.code == 0, run.stderr
        digests.add(digest(output))
    assert len(digests) == 1


def test_threads_change_no_byte_of_large_tensors(wide_model: Path, tmp_path: Path) -> None:
    """Tensors of many chunks each, so that threads do share one."""
    digests = set()
    for threads in (1, 2, 8):
        output = tmp_path / f"{threads}.gguf"
        run = srd(
            "convert", "--fast", wide_model, "-o", output, "--threads", threads, "--max-memory", "64MiB"
        )
        assert run.code == 0, run.stderr
        digests.add(digest(output))
    assert len(digests) == 1
