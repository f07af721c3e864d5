"""`convert -o hf://ORG/NAME`: the output goes to the hub part by part, and leaves the disk on the way."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest

import srd_rs
from local_hub import Faults, Hub, serving
from srd_rs.hydration import sidecar_path
from support import Run, srd, user_process
from test_stream import sharded

FAST = ("--fast", "-q", "Q4_K_M", "--no-met")
SPLIT = ("--split-max-size", "4MB")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a run that uses a hub which takes uploads."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: nothing was uploaded")
    with serving(tmp_path / "hf", network=True) as env:
        Hub.folders["org/model"] = sharded(tmp_path / "model")
        (tmp_path / "work").mkdir()
        yield {**env, "HF_TOKEN": "hf_x", "SRD_HTTP_TRIES": "2"}


def convert(env: dict[str, str], work: Path, *options: object, output: str = "hf://org/made") -> Run:
    given = options or (*FAST, *SPLIT)
    return srd("convert", "hf://org/model", "--stream", "-o", output, *given, env=env, cwd=work)


@pytest.fixture
def local(hub: dict[str, str], tmp_path: Path) -> dict[str, bytes]:
    """The parts of a local conversion."""
    folder = tmp_path / "local"
    run = srd("convert", Hub.folders["org/model"], "-o", f"{folder}/", *FAST, *SPLIT, "--no-axm")
    assert run.code == 0, run.stderr
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Watched(threading.Thread):
    """Notes the most that the disk held while a conversion ran: the files in the folder that it runs in, and those
    without a name that its processes have open. It looks at the latter first, so that a file which is freed meanwhile
    is not counted together with the one that takes its room."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.peak, self.done = folder, 0, threading.Event()
        self._pids: set[Path] = set()

    def run(self) -> None:
        looks = 0
        while not self.done.wait(0.002):
            if looks % 50 == 0:
                self._pids = {p.parent for p in Path("/proc").glob("[0-9]*/cwd") if self._is_here(p)}
            looks += 1
            self.peak = max(self.peak, self._used())

    def _is_here(self, link: Path) -> bool:
        with contextlib.suppress(OSError):
            return link.readlink() == self.folder
        return False

    def _used(self) -> int:
        """Bytes that the files take of the disk. A file that has just got its name counts once."""
        found: dict[int, int] = {}
        for path in chain(*(pid.glob("fd/*") for pid in self._pids), self.folder.rglob("*")):
            with contextlib.suppress(OSError):
                if path.is_relative_to(self.folder) or str(path.readlink()).endswith("(deleted)"):
                    status = path.stat()
                    found[status.st_ino] = status.st_blocks * 512
        return sum(found.values())


def watched(folder: Path, work: Callable[[], Run]) -> tuple[Run, int]:
    watch = Watched(folder)
    watch.start()
    try:
        return work(), watch.peak
    finally:
        watch.done.set()
        watch.join()


def test_the_parts_are_those_of_a_local_conversion(
    hub: dict[str, str], local: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From hub to hub: the disk holds two parts at most, and nothing afterwards."""
    Hub.faults = Faults(upload_rate=20e6)  # slower than the conversion, so that parts wait
    work = tmp_path / "work"
    run, peak = watched(tmp_path / "work", lambda: convert(hub, work))
    assert run.code == 0, run.stderr
    assert Hub.commits["org/made"] == [local]
    assert len(local) >= 4 and not list(work.iterdir())
    assert not [p for p in (tmp_path / "hf").rglob("*") if p.suffix in (".gguf", ".safetensors")]
    *_, second, first = sorted(map(len, local.values()))
    with capsys.disabled():
        print(
            f"\n{len(local)} parts, the two largest have {first + second} bytes; most on the disk: {peak} bytes"
        )
    # Beside two parts the disk holds the headers of the others, of which the first has the vocabulary.
    assert first < peak <= first + second + 300_000
    assert "/org/made/commit/" in run.stdout and "model-Q4_K_M-00001-of-" in run.stdout
    assert str(work) not in run.stdout + run.stderr and ".srd-rs-" not in run.stdout + run.stderr


def only_line(run: Run) -> str:
    assert run.stderr.count("error: ") == 1, run.stderr
    return run.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(upload_statuses={2: 403}), "model-Q4_K_M-00003-of-"),
        (Faults(upload_statuses=dict.fromkeys(range(2, 99), 418)), "2 of "),
        (Faults(commit_status=500), "giving the files their names: the upload failed"),
    ],
)
def test_a_failure_says_what_is_where(
    hub: dict[str, str], local: dict[str, bytes], tmp_path: Path, faults: Faults, said: str
) -> None:
    """No commit names a part of the output, and nothing is left on the disk."""
    Hub.faults = faults
    run = convert(hub, tmp_path / "work")
    line = only_line(run)
    assert run.code == 1 and said in line, run.stderr
    assert "have no name there, the place is as it was, and nothing is left on this disk" in line
    assert Hub.commits["org/made"] == [] and not list((tmp_path / "work").iterdir())
    # The same command sends only what the hub does not have.
    stored = len(Hub.stored)
    Hub.faults, Hub.uploads = Faults(), 0
    run = convert(hub, tmp_path / "work")
    assert run.code == 0, run.stderr
    assert Hub.commits["org/made"] == [local] and Hub.uploads == len(local) - stored


def test_a_busy_server_is_asked_again(hub: dict[str, str], local: dict[str, bytes], tmp_path: Path) -> None:
    Hub.faults = Faults(upload_statuses={0: 503, 2: 500})
    run = convert(hub, tmp_path / "work")
    assert run.code == 0, run.stderr
    assert Hub.commits["org/made"] == [local]


def test_large_files_are_sent_in_pieces(hub: dict[str, str], local: dict[str, bytes], tmp_path: Path) -> None:
    Hub.multipart_above = 1_000_000
    run = convert(hub, tmp_path / "work", output="hf://org/made/4 bits/")
    assert run.code == 0, run.stderr
    assert Hub.commits["org/made"] == [{f"4 bits/{name}": data for name, data in local.items()}]
    assert len(Hub.pieces) > 2 * len(local)


def test_one_file_with_its_card_and_sidecar(hub: dict[str, str], tmp_path: Path) -> None:
    local = tmp_path / "model-Q8_0.gguf"
    options = ("--fast", "-q", "Q8_0", "--card", "--modelfile", "--no-axm", "--name", "M")
    assert srd("convert", Hub.folders["org/model"], "-o", local, *options).code == 0
    options = tuple(option for option in options if option != "--no-axm")
    run = convert(hub, tmp_path / "work", *options, "--json")
    assert run.code == 0, run.stderr
    made = dict(Hub.commits["org/made"][0])
    assert made.pop("model-Q8_0.gguf") == local.read_bytes()
    assert made.pop("model-Q8_0.Modelfile") == local.with_suffix(".Modelfile").read_bytes()
    assert made.pop("model-Q8_0.met.json") == sidecar_path(local).read_bytes()
    assert b"base_model: org/model" in made.pop("README.md") and not made
    assert run.json["output"] == "model-Q8_0.gguf" and run.json["card"] == "README.md"
    assert run.json["commit"].endswith("/org/made/commit/" + "76543210fedcba98" * 2 + "76543210")
    again = convert(hub, tmp_path / "work", *options)
    assert again.code == 2 and "hf://org/made/model-Q8_0.gguf: the file exists already" in only_line(again)
    again = convert(hub, tmp_path / "work", *options, "--overwrite", output="hf://org/made/model-Q8_0.gguf")
    assert again.code == 0 and len(Hub.commits["org/made"]) == 2, again.stderr


def test_a_dry_run_asks_the_hub_for_nothing(hub: dict[str, str], tmp_path: Path) -> None:
    run = convert(hub, tmp_path / "work", *FAST, *SPLIT, "--dry-run", "--json", output="hf://org/made/a/b/")
    assert run.code == 0, run.stderr
    assert re.fullmatch(r"a/b/model-Q4_K_M-00001-of-\d{5}\.gguf", run.json["files"][0]["path"])
    assert not Hub.commits and not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        ("hf://org", (), "no output can be written to this address"),
        ("hf://org/made/../x", (), "no output can be written to this address"),
        ("ftp://org/made", (), "no output can be written to this address"),
        ("hf://org/made", ("--axm",), "--axm is not possible"),
        ("hf://org/made", ("--bom",), "--bom is not possible"),
        ("hf://org/made", ("--resume",), "--resume is not possible"),
        ("hf://org/made", ("--residual-bits", "4"), "no container is written"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_at_once(
    hub: dict[str, str], tmp_path: Path, output: str, options: tuple[str, ...], said: str
) -> None:
    run = convert(hub, tmp_path / "work", *FAST, *options, output=output)
    assert run.code == 2 and said in only_line(run), run.stderr
    assert not Hub.commits and not list((tmp_path / "work").iterdir())


def test_without_a_right_to_write_nothing_is_read(hub: dict[str, str], tmp_path: Path) -> None:
    Hub.faults = Faults(token="hf_right")
    run = srd(
        *("convert", Hub.folders["org/model"], "-o", "hf://org/made", *FAST),
        env={**hub, "HF_TOKEN": "hf_wrong"},
        cwd=tmp_path / "work",
    )
    assert run.code == 1 and "the hub refuses the upload" in only_line(run), run.stderr
    assert "hf auth login" in run.stderr and not Hub.uploads and not list((tmp_path / "work").iterdir())


def test_ctrl_c_ends_a_slow_upload(
    hub: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub.faults = Faults(upload_rate=200_000)
    for name, value in hub.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "work")
    command = [sys.executable, "-m", "srd_rs", "convert", "hf://org/model", "--stream", "-o", "hf://org/made"]
    process = user_process([*command, *FAST, *SPLIT])
    deadline = time.monotonic() + 60
    while Hub.uploads < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - begun < 5
    assert Hub.commits["org/made"] == [] and not list((tmp_path / "work").iterdir())


def test_the_parts_load(hub: dict[str, str], tmp_path: Path) -> None:
    """What is on the hub opens as one model, metadata in the first part."""
    assert convert(hub, tmp_path / "work").code == 0
    (made,) = Hub.commits["org/made"]
    folder = tmp_path / "loaded"
    folder.mkdir()
    for name, data in made.items():
        (folder / name).write_bytes(data)
    opened = srd_rs.open(folder / min(made))
    assert opened.metadata["split.count"] == len(made) and len(opened) > 10
    assert json.loads(srd("inspect", folder / min(made), "--json").stdout)
