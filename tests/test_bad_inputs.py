"""Hostile and odd inputs through the real command line: exit code, message, memory, time, no leftovers."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest

from support import BAD, Run, srd

MAX_RSS = 150 * 10**6
MAX_SECONDS = 2.0
TIMEOUT = 20.0

MANIFEST = BAD / "MANIFEST.json"
CASES: list[dict[str, Any]] = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else []
#: The tensor that carries a poisoned weight of `st/` into a model: same number of weights, rows not permuted.
CARRIER = "model.layers.0.self_attn.v_proj.weight"


@dataclass(frozen=True)
class Outcome:
    """A command of a case, how it ended and which files were there afterwards."""

    command: str
    subject: Path
    run: Run
    left: list[str]
    output: Path


def model_with(weights: Path, folder: Path) -> Path:
    """The control model's folder with `weights` as its weight file."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(BAD / "dir" / "ok" / name, folder / name)
    shutil.copyfile(weights, folder / "model.safetensors")
    return folder


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    size = struct.unpack_from("<Q", raw)[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def poisoned_model(weights: Path, folder: Path) -> Path:
    """The control model with the one tensor of `weights` in the place of `CARRIER`."""
    model_with(BAD / "dir" / "ok" / "model.safetensors", folder)
    header, data = header_of(folder / "model.safetensors")
    poison_header, poison = header_of(weights)
    header.pop("__metadata__", None)
    new, body = {}, b""
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        part = poison if name == CARRIER else data[begin:end]
        dtype = poison_header["a"]["dtype"] if name == CARRIER else entry["dtype"]
        new[name] = {**entry, "dtype": dtype, "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    text = json.dumps(new).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    return folder


def run_case(case: dict[str, Any], scratch: Path) -> list[Outcome]:
    """Every command of a case, one after the other."""
    path = BAD / case["file"]
    kind = case["file"].split("/")[0]
    model = scratch / "model"
    model.mkdir(parents=True)
    if kind == "st" and case["expect"] == "report":
        return [run_command("convert", poisoned_model(path, model), scratch)]
    if kind == "st":
        return [
            run_command("inspect", path, scratch),
            run_command("convert", model_with(path, model), scratch),
        ]
    if kind == "gguf":
        return [run_command("inspect", path, scratch), run_command("convert", path, scratch)]
    return [run_command("convert", path, scratch)]


def run_command(command: str, subject: Path, scratch: Path) -> Outcome:
    out = scratch / command
    out.mkdir()
    args = ["--fast", "--threads", "2", "-o", out / "out.gguf"] if command == "convert" else []
    run = srd(command, subject, *args, cwd=out, timeout=TIMEOUT)
    return Outcome(command, subject, run, sorted(p.name for p in out.iterdir()), out / "out.gguf")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs the selected cases a few at a time; a test then waits for its own."""
    scratch = tmp_path_factory.mktemp("bad")
    selected = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(
        2 if "PYTEST_XDIST_WORKER" in os.environ else min(4, os.cpu_count() or 1)
    ) as pool:
        running: dict[str, Future[list[Outcome]]] = {
            case["file"]: pool.submit(run_case, case, scratch / str(i)) for i, case in enumerate(selected)
        }
        yield running


@pytest.mark.skipif(not CASES, reason=f"{BAD} is not here (SRD_SHARED names the folder it lies in)")
@pytest.mark.parametrize("case", CASES, ids=[c["file"].rstrip("/") for c in CASES])
def test_bad_input(case: dict[str, Any], outcomes: dict[str, Future[list[Outcome]]]) -> None:
    for outcome in outcomes[case["file"]].result():
        check_limits(outcome)
        codes = expected_codes(case, outcome.command)
        assert outcome.run.code in codes, (outcome.command, outcome.run)
        if outcome.run.code:
            check_failure(outcome)
        elif outcome.command == "convert":
            check_success(outcome)
    if case["expect"] == "report":
        check_report(case, outcomes[case["file"]].result()[-1])


def expected_codes(case: dict[str, Any], command: str) -> set[int]:
    """Exit codes that the manifest allows a command."""
    kind = case["file"].split("/")[0]
    if case["expect"] == "accept":
        # The controls of st/ and gguf/ are good files, but no models: `convert` may refuse them.
        return {0} if kind == "dir" or command == "inspect" else {0, 1}
    if case["strength"] == "soft":
        return {0, 1}
    return {1}


def check_limits(outcome: Outcome) -> None:
    run = outcome.run
    assert run.peak_rss <= MAX_RSS, f"{outcome.command}: {run.peak_rss / 1e6:.0f} MB"
    # CPU time: other programs run on the machine, too. What waits for ever is killed after TIMEOUT seconds.
    assert run.cpu_s <= MAX_SECONDS, f"{outcome.command}: {run.cpu_s:.2f} s of CPU time"
    assert run.wall_s < TIMEOUT, f"{outcome.command}: killed after {run.wall_s:.0f} s"
    for sign in ("Traceback", "panicked", "internal error"):
        assert sign not in run.stderr + run.stdout, run.stderr


def check_failure(outcome: Outcome) -> None:
    """One line, `error: place: what. What to do`, and no file. Where a weight is wrong, the plan was shown before."""
    *before, last = outcome.run.stderr.splitlines()
    assert last.startswith("error: "), outcome.run.stderr
    assert len(before) <= 1 and all(" -> out.gguf" in line for line in before), outcome.run.stderr
    assert outcome.subject.name in last, last
    # The longest one lists the classes that are supported.
    assert len(last) < 1200, last
    assert outcome.left == []


def check_success(outcome: Outcome) -> None:
    """A conversion that ends well leaves a GGUF that another reader reads to its end."""
    output = outcome.output
    tensors = gguf.GGUFReader(output).tensors
    assert output.stat().st_size >= max((t.data_offset + t.n_bytes for t in tensors), default=0)


def check_report(case: dict[str, Any], outcome: Outcome) -> None:
    """A weight that is not finite is named by tensor and flat index."""
    message = outcome.run.stderr
    if case["file"].startswith("st/"):
        tensor = "(attn_v|v_proj)"
        found = re.search(r"(?:index|at) (\d+)", case["wrong"])
        assert found
        index = int(found[1])
    else:
        tensor = ""
        index = first_nonfinite(outcome.subject)
    assert re.search(rf"tensor '[^']*{tensor}[^']*'", message), message
    assert re.search(rf"(?<!\d){index}(?!\d)", message), message


def first_nonfinite(model: Path) -> int:
    """Index, within its tensor, of the first BF16 weight that is NaN or infinite."""
    header, data = header_of(model / "model.safetensors")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        for i, bits in enumerate(struct.unpack(f"<{(end - begin) // 2}H", data[begin:end])):
            if bits & 0x7F80 == 0x7F80:
                return i
    raise AssertionError(f"{model}: every weight is finite")
