"""Helpers of several test files: running the command line as users do, and finding the files beside the repository."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import io
import json
import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent
EXAMPLE = REPO / "examples" / "wiki-gemma4"
SHARED = Path(os.environ.get("SRD_SHARED", REPO.parent / "shared"))
WIKI_TEST = SHARED / "data" / "wiki.test.raw"
BAD = SHARED / "fixtures" / "bad"
MEASURE = REPO / "scripts" / "measure.py"


#: Rates that `srd-rs plan --rates` takes, without those of the searches.
RATES: dict[str, Any] = {
    "threads": 2, "search": {}, "rows": {}, "columns": {}, "block": None, "beam_width": None, "copy": 1e-9,
    "product": 1e-10, "decode": 1e-9, "disk_read": 1e9, "disk_write": 1e9, "network": 1e8,
}  # fmt: skip


def fuzzer() -> ModuleType:
    """`fuzz/cli.py`, which has the sound files and the runner of one case."""
    spec = importlib.util.spec_from_file_location("srd_fuzz_cli", REPO / "fuzz" / "cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Run:
    """The output and the cost of a run of the command line. `peak_rss` is in bytes."""

    code: int
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float
    peak_rss: int

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


#: How the names of variables begin that the interpreter, the C library or its loader read at the start of a process.
AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "MEASURE_")


def srd(
    *args: object,
    cwd: Path | None = None,
    timeout: float = 120,
    env: Mapping[str, str | None] | None = None,
    fresh: bool = False,
    tokens: int | None = None,
) -> Run:
    """Run `srd-rs ARGS` in a process of its own. An environment variable that is None is unset.

    The process is forked from one that has loaded the package, see starter.py; a `fresh` one loads it itself. In a
    forked one, calibrations have so many `tokens` where the command does not name a number: the default is many.
    """
    # A key of the tests, so that none is made in the home of whoever runs them.
    changed = {"SRD_MASTER_KEY": "5d" * 32, **(env or {})}
    variables = {key: value for key, value in {**os.environ, **changed}.items() if value is not None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words, where = [str(arg) for arg in args], str(cwd or Path.cwd())
        if fresh or not _starter().fits(variables):
            assert tokens is None
            _measured(folder, words, variables, where, timeout)
        else:
            request = {"args": words, "env": variables, "cwd": where, "timeout": timeout, "tokens": tokens}
            _forked(folder, request)
        figures = json.loads((folder / "result.json").read_text())
        stdout, stderr = ((folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
    return Run(stdout=stdout, stderr=stderr, **figures)


def _measured(folder: Path, args: list[str], variables: dict[str, str], cwd: str, timeout: float) -> None:
    """Run a command in a process that is started for it."""
    words = [sys.executable, "-S", "-E", str(MEASURE), str(folder / "result.json"), str(timeout)]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        command = [*words, sys.executable, "-m", "srd_rs", *args]
        subprocess.run(command, cwd=cwd, env=variables, stdout=out, stderr=err, check=False)


def _forked(folder: Path, request: dict[str, object]) -> None:
    """Run a command in a process that is forked for it."""
    (folder / "request.json").write_text(json.dumps(request))
    done, given = os.pipe()
    with open(done, "rb") as end:  # noqa: PTH123 (a descriptor)
        try:
            socket.send_fds(_starter().requests, [os.fsencode(folder)], [given])
        finally:
            os.close(given)
        end.read()


class _Starter:
    """The process of starter.py, which ends with the process that runs the tests."""

    def __init__(self) -> None:
        self.variables = _at_start(os.environ)
        self.requests, given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with given:
            command = [sys.executable, str(Path(__file__).with_name("starter.py")), str(given.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[given.fileno()], stdout=subprocess.DEVNULL)
        atexit.register(self.end)

    def end(self) -> None:
        self.requests.close()
        self.process.wait()

    def fits(self, variables: Mapping[str, str]) -> bool:
        """Whether a process that starts with `variables` starts as this one did."""
        return _at_start(variables) == self.variables


def _at_start(variables: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in variables.items() if key.startswith(AT_START)}


_starter = cache(_Starter)


def user_process(command: list[str]) -> subprocess.Popen[str]:
    """A process as a user starts it in a terminal: Ctrl-C ends it, whatever the test runner itself ignores.

    Under nohup and on some CI systems SIGINT is ignored, and a child would inherit that.
    """
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def require(path: Path) -> Path:
    """`path`, or skip the test and say what is missing."""
    if not path.exists():
        pytest.skip(f"{path} is not here (SRD_SHARED names the folder it lies in)")
    return path


#: The reference checkpoints, named here so that no archive is unpacked while tests are collected.
FIXTURES = (
    "gemma2", "gemma3", "gemma4_e2b", "gemma4_moe", "gemma4_moe_google", "llama", "mistral", "mixtral", "phi3", "qwen2",
    "qwen3", "qwen3moe",
)  # fmt: skip


def per_fixture(names: Iterable[str] = FIXTURES) -> pytest.MarkDecorator:
    """Parametrizes a test by `name`; all tests of one checkpoint run in one process, which converts it once."""
    params = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]
    return pytest.mark.parametrize("name", params)


def fixture_folder() -> Path:
    """The folder of the reference checkpoints, unpacked once; skips the test where the archive is not at hand."""
    if "SRD_FIXTURES" in os.environ:
        return _checked(Path(os.environ["SRD_FIXTURES"]), "SRD_FIXTURES names it")
    archive = SHARED / "fixtures" / "a.tar.xz"
    if not archive.exists():
        pytest.skip(
            f"{archive} is not here (SRD_SHARED, SRD_FIXTURES): nothing was compared with llama.cpp's files"
        )
    return _checked(unpacked(archive), f"delete it to unpack {archive} again")


def bugs_folder() -> Path:
    """The folder of the checkpoints as people really have them; skips the test where the archive is not at hand."""
    return unpacked(require(SHARED / "fixtures" / "bugs" / "bugs.tar.xz"))


def unpacked(archive: Path) -> Path:
    """The folder that holds what is in `archive` (``NAME.tar.xz``), unpacked once for all runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "srd-rs-tests"
    folder = cache / f"{archive.name.removesuffix('.tar.xz')}-{archive.stat().st_size}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        # Several test processes begin at once: one unpacks, the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as scratch, tarfile.open(archive) as tar:
                inside = Path(scratch) / "inside"
                tar.extractall(inside, filter="data")
                inside.rename(folder)
    return folder


def _checked(folder: Path, hint: str) -> Path:
    """`folder`, or the one folder inside, if reference checkpoints are in it."""
    inner = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    if len(inner) == 1 and not (inner[0] / "config.json").exists():
        folder = inner[0]
    if not any(folder.glob("*/expected.json")):
        pytest.skip(f"{folder} holds no reference checkpoints ({hint})")
    return folder


def widened(folder: Path, times: int) -> Path:
    """The example with feed-forward matrices that are so many times as wide, in a new folder."""
    shutil.copytree(EXAMPLE, folder)
    config = json.loads((folder / "config.json").read_text())
    width = config["intermediate_size"]
    config["intermediate_size"] = width * times
    (folder / "config.json").write_text(json.dumps(config))
    raw = (EXAMPLE / "model.safetensors").read_bytes()
    size = struct.unpack_from("<Q", raw)[0]
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    header.pop("__metadata__", None)
    order = sorted(header, key=lambda name: header[name]["data_offsets"][0])
    parts, end = [], 0
    for name in order:
        begin, stop = header[name]["data_offsets"]
        part = data[begin:stop]
        if ".mlp." in name:
            # Double-wide layers have twice the width; both dimensions of the others stay.
            shape = [n * times if n in (width, 2 * width) else n for n in header[name]["shape"]]
            header[name]["shape"] = shape
            part = part * (math.prod(shape) * 2 // len(part))
        header[name]["data_offsets"] = [end, end + len(part)]
        end += len(part)
        parts.append(part)
    text = json.dumps({name: header[name] for name in order}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(parts)
    return folder


def here(*args: object) -> tuple[int, str, str]:
    """Run `srd-rs ARGS` in this process: the exit code, stdout and stderr. A tenth of the time of `srd`."""
    from srd_rs import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(arg) for arg in args])
    return code, out.getvalue(), err.getvalue()


#: What no output of the command line has.
FAULTS = ("Traceback", "panicked", "internal error", "PanicException", "\x1b")


def refused(*args: object) -> tuple[int, str]:
    """Run `srd-rs ARGS` in this process, which must end with one line of error. Returns the exit code and the line."""
    code, out, err = here(*args)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code in (1, 2, 3) and len(lines) == 1, (args, code, out, err)
    assert not any(sign in out + err for sign in FAULTS), (args, err)
    return code, lines[0]


def write_projector(path: Path) -> None:
    """A GGUF of the kind of a projector, with one tensor."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("general.type", "mmproj")
    writer.add_tensor("v.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_adapter(folder: Path) -> None:
    """A LoRA adapter of one matrix of the example."""
    import numpy as np
    from safetensors.numpy import save_file

    import srd_rs

    with srd_rs.open(EXAMPLE) as checkpoint:
        name = next(name for name in checkpoint if name.endswith("layers.0.self_attn.q_proj.weight"))
        rows, columns = checkpoint[name].shape
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    parts = {"lora_A": np.ones((4, columns), np.float32), "lora_B": np.ones((rows, 4), np.float32)}
    save_file({f"{stem}.{part}.weight": w for part, w in parts.items()}, folder / "adapter_model.safetensors")
