"""A killed or interrupted conversion goes on from what is complete, with the bytes of an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srd_rs
from srd_rs import _core
from srd_rs.errors import FormatError
from srd_rs.options import ConvertOptions
from support import EXAMPLE, Run, srd, user_process

#: SRD on few tokens, with a container: every kind of output.
OPTIONS = ("--calibrate-tokens", "512", "--axm", "--threads", "1")
NAMES = ("out.gguf", "out.axm", "out.met.json")


@pytest.fixture(scope="module", autouse=True)
def keys_and_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One key for the processes that are killed, and one calibration for all of them."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SRD_MASTER_KEY", "5d" * 32)
    patch.setenv("SRD_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, whose files may be changed."""
    folder = tmp_path_factory.mktemp("model") / "example"
    shutil.copytree(EXAMPLE, folder)
    settle()
    return folder


def settle() -> None:
    """Wait until files that were just written have an identity: a second change could no longer have the same time."""
    time.sleep(2.1)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of what an undisturbed conversion writes."""
    folder = tmp_path_factory.mktemp("whole")
    run = convert(model, folder / "out.gguf")
    assert run.code == 0, run.stderr
    assert sorted(p.name for p in folder.iterdir()) == sorted(NAMES)
    return digests(folder)


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES}


def convert(model: Path, output: Path, *more: str) -> Run:
    return srd("convert", model, "-o", output, *OPTIONS, *more, "--json")


def start(model: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "srd_rs", "convert", str(model), "-o", str(output), *OPTIONS, *more]
    return user_process(command)


def text_of(journal: Path) -> str:
    """What the journal says; nothing where there is none. A conversion that ends removes it at any moment."""
    try:
        return journal.read_text()
    except FileNotFoundError:
        return ""


def stopped(model: Path, output: Path, units: int, how: int = signal.SIGKILL, *more: str) -> str:
    """Stop a conversion when its journal names so many units; what it said. Skips where it was done sooner."""
    journal = output.with_name(f".{output.name}.journal")
    process = start(model, output, *more)
    while process.poll() is None:
        if text_of(journal).count("\nunit ") >= units:
            process.send_signal(how)
            break
        time.sleep(0.001)
    _, said = process.communicate(timeout=60)
    if output.exists():
        pytest.skip("the conversion was complete before it could be stopped")
    return said


WAYS = [
    (how, name)
    for how in ("other bytes", "same bytes", "moved")
    for name in ("model.safetensors", "tokenizer.json", "config.json")
]
"""How a file of a model may have changed."""


@pytest.fixture(scope="module")
def to_change(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a copy of the model for each of `WAYS`, in a folder of the number."""
    folder = tmp_path_factory.mktemp("to change")
    for number in range(len(WAYS)):
        shutil.copytree(model, folder / str(number) / model.name)
    settle()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def begun(model: Path, whole: dict[str, str], tmp_path: Path) -> Path:
    """The output of a conversion that was killed."""
    output = tmp_path / "out.gguf"
    stopped(model, output, 20)
    return output


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_conversion_goes_on(model: Path, whole: dict[str, str], tmp_path: Path, seed: int) -> None:
    output = tmp_path / "out.gguf"
    counts = sorted(random.Random(seed).sample(range(60), 2))
    for units in counts:  # it is killed twice: the second time while it goes on
        stopped(model, output, units + 1)
        hidden = {".out.gguf.partial", ".out.axm.partial", ".out.gguf.journal"}
        assert {p.name for p in tmp_path.iterdir()} == hidden
    run = convert(model, output)
    assert run.code == 0, run.stderr
    assert run.json["resumed_bytes"] > 0
    assert digests(tmp_path) == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(NAMES)


def test_effort_max_goes_on_too(fixtures: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    more, model = ("--effort", "max", "--calibrate-tokens", "128"), fixtures / "llama"
    run = convert(model, tmp_path / "whole" / "out.gguf", *more)
    assert run.code == 0, run.stderr
    stopped(model, tmp_path / "out.gguf", 15, signal.SIGKILL, *more)
    run = convert(model, tmp_path / "out.gguf", *more)
    assert run.code == 0 and run.json["resumed_bytes"] > 0, run.stderr
    assert digests(tmp_path) == digests(tmp_path / "whole")


def test_killed_at_random_moments(model: Path, whole: dict[str, str], tmp_path: Path) -> None:
    """Whatever the moment: beginning, calibration, between the names of two outputs."""
    moments = random.Random(11)
    output = tmp_path / "out.gguf"
    begin = time.monotonic()
    assert convert(model, tmp_path / "timed.gguf").code == 0
    seconds = time.monotonic() - begin
    for path in tmp_path.iterdir():
        path.unlink()
    for _ in range(6):
        process = start(model, output)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.communicate(timeout=60)
        if (tmp_path / ".out.gguf.journal").exists() or not output.exists():
            run = convert(model, output)
            assert run.code == 0, run.stderr
        assert digests(tmp_path) == whole
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(NAMES)
        for name in NAMES:
            (tmp_path / name).unlink()


def test_named_outputs_are_compared_and_the_rest_is_made(
    model: Path, whole: dict[str, str], begun: Path, tmp_path: Path
) -> None:
    """Killed after the outputs got their names, and before the sidecar was written."""
    journal = begun.with_name(".out.gguf.journal")
    text = journal.read_text()
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in (".out.gguf.partial", ".out.axm.partial"):
        shutil.copy(tmp_path / name, kept)
    process = start(model, begun)
    while process.poll() is None and journal.exists():
        text = text_of(journal) or text
    process.communicate(timeout=60)
    if "\ncomplete " not in text:
        pytest.skip("the last line of the journal was not seen")
    journal.write_text(text)
    (tmp_path / "out.met.json").unlink()
    run = convert(model, begun)
    assert run.code == 0, run.stderr
    assert digests(tmp_path) == whole and not journal.exists()
    # A file of the same length that is another one is not taken for the output.
    journal.write_text(text)
    raw = bytearray(begun.read_bytes())
    raw[100] ^= 1
    begun.write_bytes(raw)
    run = convert(model, begun)
    assert run.code == 2 and "not the file that the interrupted run wrote" in run.json["error"]["message"]


def test_bytes_that_are_not_those_of_the_journal_are_made_again(
    model: Path, whole: dict[str, str], begun: Path, tmp_path: Path
) -> None:
    for name in (".out.gguf.partial", ".out.axm.partial"):
        raw = bytearray((tmp_path / name).read_bytes())
        for at in range(len(raw) // 3, len(raw), len(raw) // 7):
            raw[at] ^= 0xFF
        (tmp_path / name).write_bytes(raw)
    # A line that a power cut has torn.
    journal = begun.with_name(".out.gguf.journal")
    journal.write_bytes(journal.read_bytes()[:-30])
    run = convert(model, begun)
    assert run.code == 0, run.stderr
    assert digests(tmp_path) == whole


def test_other_options_are_refused(model: Path, whole: dict[str, str], begun: Path, tmp_path: Path) -> None:
    stated = ("--override-kv", "general.author=str:me")
    for more in (("-q", "Q5_K_M"), ("--seed", "1"), ("--fast",), ("--beam-width", "8"), stated):
        options = [o for o in OPTIONS if not (more == ("--fast",) and o in ("--calibrate-tokens", "512"))]
        run = srd("convert", model, "-o", begun, *options, *more, "--json")
        assert run.code == 2, (more, run)
        message = run.json["error"]["message"]
        assert "interrupted conversion" in message and "options" in message and "--overwrite" in message
    # What decides no byte may differ.
    run = convert(model, begun, "--threads", "2", "--no-met", "--max-memory", "64MiB")
    assert run.code == 0 and run.json["resumed_bytes"] > 0
    assert digests_of(tmp_path, NAMES[:2]) == {name: whole[name] for name in NAMES[:2]}


def test_other_options_that_decide_bytes_are_told_apart() -> None:
    """Also those that the native module would notice by the metadata, which a conversion may leave out."""
    from srd_rs.conversion import _resume

    def asked(**options: Any) -> tuple[str, str] | None:
        return _resume(ConvertOptions(effort="srd", **options))

    plain = asked()
    for changed in ({"seed": 1}, {"quant": "Q6_K"}, {"calibrate_tokens": 64}, {"pure": True}, {"name": "x"}):
        assert asked(**changed) != plain, changed
    for same in (
        {"threads": 2},
        {"max_memory": 1 << 20},
        {"met": False},
        {"cache": False},
        {"overwrite": True},
    ):
        assert asked(**same) == plain, same


def digests_of(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


#: Runs the command in a process that can neither read the whole model nor choose tokens.
WITHOUT_READING = """
import sys
from srd_rs import _core, calibration
from srd_rs.cli import start

def refuse(*args, **kwargs):
    sys.exit("the model or the text is read")

calibration.requested = _core.content_digest = refuse
start()
"""

has_identities = pytest.mark.skipif(
    _core.file_identity(EXAMPLE / "config.json") is None,
    reason="the file system does not note each change with a time that no program can set",
)


def without_reading(model: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_READING, "convert", model, "-o", output, *OPTIONS, *more]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@has_identities
def test_what_goes_on_reads_neither_the_model_nor_the_text(
    model: Path, whole: dict[str, str], begun: Path, tmp_path: Path
) -> None:
    run = without_reading(model, begun)
    assert run.returncode == 0, run.stderr
    assert digests(tmp_path) == whole


def kept_notes() -> Iterator[Path]:
    return Path(os.environ["SRD_CACHE"]).glob(".*.note")


@has_identities
@pytest.mark.xdist_group("changed files")
@pytest.mark.parametrize(("how", "name"), WAYS)
def test_a_file_that_may_have_changed_is_read(
    to_change: Path, whole: dict[str, str], tmp_path: Path, name: str, how: str
) -> None:
    """Size and time of writing say nothing: `cp -p` and `touch -r` set them. No program can set the time of change."""
    model, begun = to_change / str(WAYS.index((how, name))) / "example", tmp_path / "out.gguf"
    notes = {*kept_notes()}
    stopped(model, begun, 20)
    assert {*kept_notes()} - notes, "the conversion has not noted what the files of the model are"
    path = model / name
    before, raw = path.stat(), path.read_bytes()
    if how == "moved":
        shutil.copy2(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
    else:
        path.write_bytes(raw if how == "same bytes" else raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    run = without_reading(model, begun)
    assert run.returncode == 1 and not begun.exists(), run
    if how != "other bytes":
        assert "the model or the text is read" in run.stderr
        assert convert(model, begun).code == 0
        assert digests(tmp_path) == whole
    elif name == "model.safetensors":
        other = convert(model, begun)
        assert other.code == 2 and "another calibration" in other.json["error"]["message"], other


def states_in(cache: Path) -> set[tuple[str, int]]:
    """What is there of calibrations that are being made: names and times."""
    found = set()
    for path in cache.glob(".*.state-*"):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


@pytest.mark.parametrize("effort", ["srd", "max"])
def test_a_killed_calibration_goes_on_behind_a_layer(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effort: str
) -> None:
    """What is complete of a calibration is kept in the cache, and the same command goes on from there."""
    kept = tmp_path / "cache"
    monkeypatch.setenv("SRD_CACHE", str(kept))
    # A layer takes more CPU time than must lie between two states, for so many tokens. Small blocks are kept quickly.
    tokens = 4096 if effort == "srd" else 1024
    more = ("--calibrate-tokens", str(tokens), "--calibrate-block", "256", "--effort", effort)
    for _ in range(2):
        before, seen = states_in(kept), False
        process = start(model, tmp_path / "out.gguf", *more)
        while process.poll() is None:
            # The states take turns: where the second one has changed, the first one is whole.
            new = states_in(kept) - before
            seen = seen or bool(new)
            if len(new) == 2:
                process.kill()
                break
            time.sleep(0.001)
        process.communicate(timeout=120)
        left = sorted(path.suffix for path in kept.glob("*.calib*"))
        if ".calib" in left:
            assert seen, "nothing was kept of the calibration while it was made"
            pytest.skip("the calibration was complete before it could be stopped")
        assert left[:3] == [".partial", ".state-0", ".state-1"] and not (tmp_path / "out.gguf").exists()
    run = convert(model, tmp_path / "out.gguf", *more)
    assert run.code == 0 and run.json["calibration_found"] is False, run.stderr
    lines = run.stderr.splitlines()
    steps = [json.loads(line)["progress"] for line in lines if line.startswith('{"progress"')]
    of_pass = [step["done"] for step in steps if step["phase"] == "calibrate"]
    # Each of the two passes that were killed has completed a layer, of six and the output matrix.
    assert next(done for done in of_pass if done > 0) >= 2 * tokens // 7, of_pass
    assert {path.suffix for path in kept.glob("*.calib*")} == {".calib", ".sums"}
    monkeypatch.setenv("SRD_CACHE", str(tmp_path / "other"))
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert convert(model, undisturbed / "out.gguf", *more).code == 0
    assert digests(tmp_path) == digests(undisturbed)


def test_tokens_that_were_weighed_are_not_weighed_again(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So few tokens are weighed in eight batches of a chunk, and a batch that is complete is kept."""
    kept = tmp_path / "cache"
    monkeypatch.setenv("SRD_CACHE", str(kept))
    more = (
        "--calibrate",
        "random",
        "--calibrate-tokens",
        "4096",
        "--calibrate-block",
        "256",
        "--effort",
        "srd",
    )
    process = start(fixtures / "llama", tmp_path / "out.gguf", *more)
    while process.poll() is None and not list(kept.glob(".*.gradients")):
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=120)
    if list(kept.glob("*.calib")):
        pytest.skip("the calibration was complete before it could be stopped")
    assert list(kept.glob(".*.gradients")) and not (tmp_path / "out.gguf").exists()
    run = convert(fixtures / "llama", tmp_path / "out.gguf", *more)
    assert run.code == 0 and run.json["calibration_found"] is False, run.stderr
    lines = run.stderr.splitlines()
    steps = [json.loads(line)["progress"] for line in lines if line.startswith('{"progress"')]
    of_pass = [step["done"] for step in steps if step["phase"] == "calibrate"]
    # Weighing is three quarters of the work, and at least one of the batches was complete.
    assert next(done for done in of_pass if done > 0) >= 4096 * 3 // 4 // 8 - 1, of_pass
    assert {path.suffix for path in kept.glob("*.calib*")} == {".calib", ".sums"}
    assert not list(kept.glob(".*.gradients"))
    monkeypatch.setenv("SRD_CACHE", str(tmp_path / "other"))
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert convert(fixtures / "llama", undisturbed / "out.gguf", *more).code == 0
    assert digests(tmp_path) == digests(undisturbed)


def test_what_is_kept_of_a_calibration_serves_no_other_input_or_options(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each model, text and set of options has a name of its own in the cache, so that nothing is mixed."""
    kept = tmp_path / "cache"
    monkeypatch.setenv("SRD_CACHE", str(kept))
    names: set[str] = set()
    for more in ((), ("--seed", "1"), ("--calibrate", "random"), ("--effort", "max")):
        process = start(model, tmp_path / "out.gguf", "--calibrate-tokens", "16384", *more)
        while process.poll() is None and not {path.name for path in kept.glob(".*.partial")} - names:
            time.sleep(0.001)
        process.kill()
        process.communicate(timeout=60)
        names |= {path.name for path in kept.glob(".*.partial")}
    assert len(names) == 4 and not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("flag", ["--overwrite", "--no-resume"])
def test_changed_input_is_refused_and_can_begin_afresh(
    model: Path, whole: dict[str, str], begun: Path, tmp_path: Path, flag: str
) -> None:
    config = model / "config.json"
    before = config.stat()
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text), indent=4) + "\n\n")
    try:
        run = convert(model, begun)
        assert run.code == 2 and "a file of the model was changed" in run.json["error"]["message"], run
        assert begun.with_name(".out.gguf.partial").exists()
        run = convert(model, begun, flag)
        assert run.code == 0 and run.json["resumed_bytes"] == 0, run
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(NAMES)
    finally:
        config.write_text(text)
        os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_interrupted_conversion_says_how_to_go_on(
    model: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    said = stopped(model, tmp_path / "out.gguf", 10, signal.SIGINT)
    *_, line = said.splitlines()
    assert line.startswith("error: interrupted: what is complete is kept")
    assert f"Go on with: srd-rs convert {model} -o {tmp_path / 'out.gguf'}" in line
    run = convert(model, tmp_path / "out.gguf")
    assert run.code == 0 and digests(tmp_path) == whole


def test_two_processes_do_not_write_one_output(model: Path, whole: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    journal = output.with_name(".out.gguf.journal")
    process = start(model, output)
    while process.poll() is None and not (journal.exists() and "\nunit " in journal.read_text()):
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    try:
        run = convert(model, output)
        if journal.exists():
            assert run.code == 2 and "another process is writing this output" in run.json["error"]["message"]
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert digests(tmp_path) == whole


def test_without_anything_complete_nothing_is_kept(model: Path, tmp_path: Path) -> None:
    """A conversion that fails before its first unit leaves no file."""
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = broken / "model.safetensors"
    raw = weights.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    weights.write_bytes(raw[:start] + b"\xff\x7f" * ((len(raw) - start) // 2))
    folder = tmp_path / "out"
    folder.mkdir()
    run = srd("convert", broken, "-o", folder / "out.gguf", "--resume", "--fast", "--json")
    assert run.code == 1 and run.json["error"]["kind"] == "nonfinite"
    assert list(folder.iterdir()) == []


def one_matrix(path: Path) -> None:
    """A GGUF with one matrix, which is one unit of work: a worker needs about a second for it."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(1024)
    weights = np.random.default_rng(1).standard_normal((16384, 1024), dtype=np.float32)
    writer.add_tensor("blk.0.ffn_up.weight", weights.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("changed", [None, "GGUF", "base", "residual"])
def test_a_unit_goes_on_where_it_was_cut(tmp_path: Path, changed: str | None) -> None:
    """A worker notes how far it has come within a unit, in the GGUF and in both planes of the container."""
    model, output, other = tmp_path / "m.gguf", tmp_path / "out.gguf", tmp_path / "whole"
    one_matrix(model)
    other.mkdir()
    options = ("-q", "IQ2_XXS", "--fast", "--resume", "--axm", "--threads", "1", "--no-met", "--json")
    assert srd("convert", model, "-o", other / "out.gguf", *options).code == 0
    journal = tmp_path / ".out.gguf.journal"
    process = user_process(
        [sys.executable, "-m", "srd_rs", "convert", str(model), "-o", str(output), *options]
    )
    while process.poll() is None:
        if text_of(journal).count("\nunit ") >= 2:
            process.kill()
            break
        time.sleep(0.001)
    process.communicate(timeout=60)
    if output.exists():
        pytest.skip("the conversion was complete before it could be stopped")
    notes = [line.split() for line in journal.read_text().splitlines(True) if line.startswith("unit 0 ")]
    done = int([words for words in notes if len(words) == 7][-1][2])  # a whole line has seven words
    assert 0 < done < 16384 * 1024 and done % 1024 == 0
    if changed:
        size = 16384 * 1024 // 256 * 66
        blocks = (tmp_path / ".out.gguf.partial").read_bytes()[-size:][:66]
        path = tmp_path / (".out.gguf.partial" if changed == "GGUF" else ".out.axm.partial")
        raw = bytearray(path.read_bytes())
        at = raw.index(blocks) + (size if changed == "residual" else 0)
        raw[at : at + 8192] = bytes(byte ^ 1 for byte in raw[at : at + 8192])
        path.write_bytes(raw)
    run = srd("convert", model, "-o", output, *options)
    assert run.code == 0, run.stderr
    assert run.json["resumed_bytes"] == (done // 256 * 66 if changed is None else 0)
    names = NAMES[:2]
    assert digests_of(tmp_path, names) == digests_of(other, names)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="the system has no symbolic links")
@pytest.mark.parametrize("name", [".out.gguf.journal", ".out.gguf.partial", ".out.axm.partial"])
def test_a_link_in_the_place_of_what_is_kept_is_refused(
    model: Path, whole: dict[str, str], begun: Path, tmp_path: Path, name: str
) -> None:
    """Whoever may write to the folder could otherwise have another file of the user overwritten."""
    kept = tmp_path / name
    victim = tmp_path / "victim"
    kept.rename(victim)
    before = victim.read_bytes()
    kept.symlink_to(victim)
    run = convert(model, begun)
    if name.endswith("journal"):
        assert run.code == 1 and "symbolic link" in run.json["error"]["message"], run
        assert not begun.exists()
    else:  # it is no file of an earlier run, so a new one takes its place
        assert run.code == 0, run
        assert digests(tmp_path) == whole
    assert victim.read_bytes() == before


def calibrate(model: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """A running `srd-rs calibrate` on 4096 tokens, whose layers are kept quickly."""
    options = ["--tokens", "4096", "--block", "256", "--threads", "1", *more]
    return user_process(
        [sys.executable, "-m", "srd_rs", "calibrate", str(model), "-o", str(output), *options]
    )


def test_srd_rs_calibrate_goes_on_too_and_copies_what_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, output = tmp_path / "cache", tmp_path / "model.calib"
    monkeypatch.setenv("SRD_CACHE", str(kept))
    process = calibrate(model, output)
    while process.poll() is None and len(states_in(kept)) < 2:
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=120)
    if list(kept.glob("*.calib")):
        pytest.skip("the calibration was complete before it could be stopped")
    assert len(states_in(kept)) == 2 and not output.exists()
    process = calibrate(model, output, "--json")
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 0, told
    steps = [json.loads(line)["progress"] for line in told.splitlines() if line.startswith('{"progress"')]
    assert next(step["done"] for step in steps if step["done"] > 0) >= 4096 // 7, steps
    # A conversion finds the calibration, and another calibration is a copy of it.
    more = ("--calibrate-tokens", "4096", "--calibrate-block", "256")
    run = convert(model, tmp_path / "out.gguf", *more)
    assert run.code == 0 and run.json["calibration_found"] is True, run.stderr
    again = tmp_path / "again.calib"
    report = srd_rs.calibrate(model, again, tokens=4096, block=256, progress=refuse_progress)
    monkeypatch.setenv("SRD_CACHE", "off")
    undisturbed = tmp_path / "undisturbed.calib"
    assert srd_rs.calibrate(model, undisturbed, tokens=4096, block=256).digest == report.digest
    assert output.read_bytes() == again.read_bytes() == undisturbed.read_bytes()


def refuse_progress(done: int, total: int) -> None:
    assert done in (0, total), "a calibration that is in the cache was made again"


def test_a_kept_calibration_that_was_changed_is_not_copied(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, output = tmp_path / "cache", tmp_path / "model.calib"
    monkeypatch.setenv("SRD_CACHE", str(kept))
    srd_rs.calibrate(model, output, tokens=256)
    [path] = kept.glob("*.calib")
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\1")
    again = tmp_path / "again.calib"
    with pytest.raises(FormatError, match="has other bytes than when the calibration was made"):
        srd_rs.calibrate(model, again, tokens=256)
    assert not again.exists()
