"""The MET sidecar and hydration, through the command line and the API, on converted checkpoints."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gguf_reader import Reader
from srd_rs import Hydrator, errors, met
from srd_rs.hydration import INTENTS, PARTS, part_of, sidecar_path
from support import EXAMPLE, FIXTURES, REPO, per_fixture, srd, user_process

SCHEMA = json.loads((REPO / "docs" / "met.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PAGE = os.sysconf("SC_PAGESIZE")


def pages(n: int) -> int:
    return n * PAGE


@pytest.fixture(scope="module")
def converted(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """fixture -> its GGUF with the sidecar that `convert` wrote, each made once."""
    folder = tmp_path_factory.mktemp("met")

    @cache
    def make(name: str) -> Path:
        output = folder / f"{name}.gguf"
        run = srd("convert", "--fast", fixtures / name, "-o", output, "--json")
        assert run.code == 0, run.stderr
        assert run.json["sidecar"] == str(folder / f"{name}.met.json")
        return output

    return make


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, converted once, without a sidecar."""
    output = tmp_path_factory.mktemp("example") / "m.gguf"
    assert srd("convert", "--fast", EXAMPLE, "-o", output, "--no-met").code == 0
    assert not sidecar_path(output).exists()
    return output


@pytest.fixture
def gguf(tmp_path: Path, example: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copy(example, tmp_path / "m.gguf"))


def check_against_file(sidecar: dict[str, Any], path: Path) -> None:
    """Compares a sidecar with what another reader finds in the file."""
    reader = Reader(path)
    size = path.stat().st_size
    # Which part owns each tensor, by the layer in its name.
    owner = {}
    for tensor in reader.tensors:
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        owner[tensor.name] = sidecar["chunk_map"][layer[1]] if layer else "embedding"
    own_output = "output.weight" in owner
    for table in (
        "token_embd.weight",
        "per_layer_token_embd.weight",
        "token_types.weight",
        "position_embd.weight",
    ):
        if table in owner and (own_output or table != "token_embd.weight"):
            owner[table] = "tables"
    parts = {name: part_of(sidecar, name) for name in PARTS}
    for name, part in parts.items():
        if name not in ("embedding", "tables"):
            assert len(part["byte_ranges"]) == (1 if part["bytes"] else 0), f"{name} is not one run"
        assert part["tensors"] == sum(o == name for o in owner.values())
        inside = [t for t in reader.tensors if owner[t.name] == name]
        runs = [(r["offset"], r["offset"] + r["bytes"]) for r in part["byte_ranges"]]
        for tensor in inside:
            start, end = int(tensor.data_offset), int(tensor.data_offset + tensor.n_bytes)
            assert any(a <= start and end <= b for a, b in runs), tensor.name
        assert part["bytes"] == sum(b - a for a, b in runs)
    assert sum(part["bytes"] for part in parts.values()) == size == sidecar["file"]["bytes"]
    assert sidecar["intent_ram_budget"]["HARM"]["bytes"] == size - parts["tables"]["bytes"]
    check_access(sidecar, reader, owner)
    check_experts(sidecar, reader, owner)


def check_access(sidecar: dict[str, Any], reader: Reader, owner: dict[str, str]) -> None:
    """Each tensor is in one class of its part, and a token reads what the class says of it."""
    share = sidecar["moe"]["active_frac"] if sidecar["moe"] else 1
    wanted: dict[str, dict[str, list[float]]] = {name: {} for name in PARTS}
    for tensor in reader.tensors:
        part, size = owner[tensor.name], int(tensor.n_bytes)
        name, read = "every_token", float(size)
        if part == "tables":
            name, read = "rows", size // (int(tensor.shape[1]) if len(tensor.shape) > 1 else 1)
        elif "_exps." in tensor.name and share < 1:
            name, read = "experts", size * share
        facts = wanted[part].setdefault(name, [0, 0, 0])
        for i, amount in enumerate((1, size, read)):
            facts[i] += amount
    found = {
        part: {name: [f["tensors"], f["bytes"], f["token_bytes"]] for name, f in classes.items()}
        for part, classes in sidecar["access"].items()
    }
    assert found == wanted


def check_experts(sidecar: dict[str, Any], reader: Reader, owner: dict[str, str]) -> None:
    moe = sidecar["moe"]
    for name, slot in sidecar["slots"].items():
        experts = sum(int(t.n_bytes) for t in reader.tensors if owner[t.name] == name and "_exps." in t.name)
        idle = round(experts * (1 - moe["active_frac"])) if moe else 0
        assert slot["bytes"] - slot["active_bytes"] == idle


@per_fixture()
def test_fixtures_validate_and_add_up(name: str, fixtures: Path, converted: Any) -> None:
    path = converted(name)
    sidecar = json.loads(sidecar_path(path).read_text())
    VALIDATOR.validate(sidecar)
    check_against_file(sidecar, path)
    config = json.loads((fixtures / name / "config.json").read_text())
    config.update(config.get("text_config") or {})
    layers = [s["layers"]["count"] for s in sidecar["slots"].values() if s["layers"]]
    assert sum(layers) == config["num_hidden_layers"] == len(sidecar["chunk_map"])
    assert list(sidecar["hydration_policy"]) == list(INTENTS)
    # The same from the container's copy of the header, and, with the digest, from the file.
    assert sidecar["fingerprint"]
    assert met(path.with_suffix(".axm")) == sidecar
    again = met(path, fingerprint=sidecar["fingerprint"])
    assert again["file"].pop("sha256") and sidecar["file"].pop("sha256") is None
    assert again == sidecar


@per_fixture(n for n in FIXTURES if "moe" in n or "mixtral" in n)
def test_experts_are_named(name: str, converted: Any) -> None:
    path = converted(name)
    moe = json.loads(sidecar_path(path).read_text())["moe"]
    assert (moe["num_experts"], moe["experts_per_token"], moe["active_frac"]) == (8, 2, 0.25)
    shown = srd("met", path, "-o", path.with_suffix(".json")).stdout
    assert "active_frac 0.25" in shown and "20/20/37/23" in shown


def test_the_schema_is_sound_and_strict(gguf: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    sidecar = met(gguf, digest=False)
    VALIDATOR.validate(sidecar)
    for spoil in (
        lambda s: s.pop("file"),
        lambda s: s.update(extra=1),
        lambda s: s["slots"].pop("early"),
        lambda s: s["slots"]["early"].update(bytes=-1),
        lambda s: s["chunk_map"].update({"01": "early"}),
        lambda s: s["chunk_map"].update({"0": "late"}),
        lambda s: s["hydration_policy"].update(LEARN=["early"]),
        lambda s: s["file"].update(header_sha256="x"),
        lambda s: s.update(met_version=1),
        lambda s: s.update(met_version=2),
        lambda s: s.update(met_version=4),
        lambda s: s.pop("access"),
        lambda s: s.pop("tensors"),
        lambda s: s["tensors"]["output_norm.weight"].update(error=-1),
        lambda s: s.update(expert_heat={"tokens": 1, "layers": {}}),
        lambda s: s["access"]["early"].update(often={}),
    ):
        spoilt = json.loads(json.dumps(sidecar))
        spoil(spoilt)
        assert not VALIDATOR.is_valid(spoilt)


def test_slots_can_be_chosen(gguf: Path) -> None:
    n = met(gguf, digest=False)["model"]["n_layer"]
    slots = f"early=0-0,governance=1-{n - 1}"
    run = srd("met", gguf, "--slots", slots, "--json", "--no-digest")
    assert run.code == 0, run.stderr
    assert run.json["slots"]["factual"]["layers"] is None
    assert run.json["slots"]["governance"]["layers"] == {"first": 1, "last": n - 1, "count": n - 1}
    VALIDATOR.validate(run.json)
    check_against_file(run.json, gguf)
    # It is read back with its slots.
    with Hydrator(gguf) as hydrator:
        assert hydrator.sidecar == run.json
    for bad in ("early=0-0", f"early=0-{n}", "x=1", f"early=0-1,governance=1-{n - 1}"):
        run = srd("met", gguf, "--slots", bad)
        assert run.code == 2 and "early=0-5" in run.stderr


def test_met_writes_beside_and_replaces_only_its_own_name(gguf: Path) -> None:
    assert srd("met", gguf, "--fingerprint", "ab12").code == 0
    first = json.loads(sidecar_path(gguf).read_text())
    assert first["fingerprint"] == "ab12" and len(first["file"]["sha256"]) == 64
    assert srd("met", gguf).code == 0
    other = gguf.with_name("mine.json")
    other.write_text("mine")
    assert srd("met", gguf, "-o", other).code == 2 and other.read_text() == "mine"
    assert srd("met", gguf, "-o", other, "-f").code == 0
    assert json.loads(other.read_text())["met_version"] == 3


def sidecar_bytes(hydrator: Hydrator, part: str) -> int:
    return int(part_of(hydrator.sidecar, part)["bytes"])


def old_version(sidecar: dict[str, Any]) -> dict[str, Any]:
    """The sidecar of version 1 of the same file: the tables belong to the embedding part."""
    old = json.loads(json.dumps(sidecar))
    tables, _, _ = old.pop("tables"), old.pop("access"), old.pop("tensors")
    embedding, runs = old["embedding_slot"], []
    for run in sorted(embedding["byte_ranges"] + tables["byte_ranges"], key=lambda r: r["offset"]):
        if runs and runs[-1]["offset"] + runs[-1]["bytes"] == run["offset"]:
            runs[-1]["bytes"] += run["bytes"]
        else:
            runs.append(dict(run))
    for key in ("tensors", "bytes"):
        embedding[key] += tables[key]
    for budget in old["intent_ram_budget"].values():
        budget["bytes"] += tables["bytes"]
        budget["active_bytes"] += tables["bytes"]
    embedding["byte_ranges"] = runs
    return {**old, "met_version": 1}


def test_old_sidecars_are_still_read(gguf: Path) -> None:
    new = met(gguf, digest=False)
    assert new["tables"]["bytes"] > 0
    old = old_version(new)
    VALIDATOR.validate(old)
    path = sidecar_path(gguf)
    path.write_text(json.dumps(old))
    with Hydrator(gguf) as hydrator:
        assert hydrator.sidecar == old
        done = hydrator.hydrate("HARM")
        assert done.hydrated_bytes == gguf.stat().st_size
    assert srd("hydrate", gguf, "--intent", "INFORM").code == 0
    path.write_text(json.dumps({**old, "met_version": 2}))
    assert "version 2 and later" in failure("hydrate", gguf, "--intent", "INFORM")
    # Version 2 lists no tensors.
    second = {**new, "met_version": 2}
    path.write_text(json.dumps(second))
    assert "version 3" in failure("hydrate", gguf, "--intent", "INFORM")
    del second["tensors"]
    VALIDATOR.validate(second)
    path.write_text(json.dumps(second))
    with Hydrator(gguf) as hydrator:
        assert hydrator.sidecar == second


def test_tables_are_not_brought_in(gguf: Path) -> None:
    """No intent needs the tables: a token reads one row of each."""
    with Hydrator(gguf) as hydrator:
        tables = sidecar_bytes(hydrator, "tables")
        assert tables > pages(4)
        evicts = evict(hydrator)
        done = hydrator.hydrate("HARM")
        assert abs(done.wanted_bytes - (gguf.stat().st_size - tables)) < pages(8)
        if not evicts:
            skip_residency("the tables stay out of memory")
        assert residency(hydrator)["tables"] < pages(4)


def residency(hydrator: Hydrator) -> dict[str, int]:
    parts = hydrator.residency()
    assert [p.slot for p in parts] == list(PARTS)
    return {p.slot: p.resident_bytes or 0 for p in parts}


def evict(hydrator: Hydrator) -> bool:
    """Take the file out of memory. False where the file system keeps evicted pages: then all of it stays in memory, and
    what a test can say of residency is only that everything is there."""
    hydrator.evict()
    return not any(residency(hydrator).values())


def skip_residency(what: str) -> None:
    pytest.skip(f"this file system keeps evicted pages, so it was not tested that {what}; the rest passed")


@pytest.mark.parametrize("intent", INTENTS)
def test_hydration_makes_the_slots_resident_and_no_others(intent: str, gguf: Path) -> None:
    with Hydrator(gguf) as hydrator:
        evicts = evict(hydrator)
        done = hydrator.hydrate(intent)
        wanted = {"embedding", *hydrator.sidecar["hydration_policy"][intent]}
        for part in hydrator.residency():
            # A page can be shared with the neighbour at either end.
            if part.slot in wanted:
                assert abs((part.resident_bytes or 0) - part.bytes) < pages(2), part
            elif evicts:
                assert (part.resident_bytes or 0) < pages(2), part
        assert done.hydrated_bytes == done.wanted_bytes
        assert abs(done.wanted_bytes - hydrator.sidecar["intent_ram_budget"][intent]["bytes"]) < pages(4)
        assert hydrator.hydrate(intent).read_bytes == 0
        if not evicts:
            skip_residency("other slots stay out of memory and all missing bytes are read")
        assert done.read_bytes == done.hydrated_bytes


def test_the_command_shows_before_and_after(gguf: Path) -> None:
    with Hydrator(gguf) as hydrator:
        evict(hydrator)
    run = srd("hydrate", gguf, "--intent", "inform", "--json")
    assert run.code == 0, run.stderr
    slots = {s["slot"]: s for s in run.json["slots"]}
    # Opening the file has read its header, and what the kernel read ahead behind it.
    assert slots["early"]["resident_after"] >= slots["early"]["bytes"] - pages(1)
    assert run.json["hydration"]["intent"] == "INFORM"
    assert all(s["resident_before"] <= s["bytes"] for s in slots.values())
    shown = srd("hydrate", gguf, "--intent", "HARM").stdout
    assert "before" in shown and "after" in shown and "100.0 %" in shown and "HARM" in shown
    shown = srd("hydrate", gguf).stdout
    assert "resident" in shown and "before" not in shown


def test_a_budget_is_respected_and_others_are_evicted(gguf: Path) -> None:
    with Hydrator(gguf) as hydrator:
        evicts = evict(hydrator)
        hydrator.hydrate("HARM")
        budget = hydrator.sidecar["intent_ram_budget"]["HARM"]["bytes"] // 2
        done = hydrator.hydrate("HARM", budget=budget, evict_others=True)
        assert budget - pages(1) < done.hydrated_bytes <= budget < done.wanted_bytes
        if evicts:
            assert done.hydrated_bytes == sum(residency(hydrator).values())
            hydrator.evict(["embedding"])
            assert residency(hydrator)["embedding"] < pages(2)
    run = srd("hydrate", gguf, "--intent", "HARM", "--budget", "100KiB")
    assert run.code == 0 and "the budget left out" in run.stdout
    run = srd("hydrate", gguf, "--intent", "INFORM", "--evict-others", "--json")
    assert run.code == 0, run.stderr
    after = {s["slot"]: s["resident_after"] for s in run.json["slots"]}
    assert after["early"] > pages(4) and (not evicts or after["reasoning"] < pages(2))
    if not evicts:
        skip_residency("bytes beyond the budget are evicted")


def test_what_this_process_has_mapped_is_evicted(gguf: Path) -> None:
    """As beside llama-cpp-python: another map of the file, in use, must not keep its pages."""
    import mmap

    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as used:
        content = gguf.read_bytes()
        assert used[:] == content
        with Hydrator(gguf) as hydrator:
            evicts = evict(hydrator)
            assert used[:] == content
            assert sum(residency(hydrator).values()) == len(content)
    if not evicts:
        skip_residency("the pages that this process has mapped are evicted")


def test_locks_last_until_interrupted(gguf: Path) -> None:
    command = [sys.executable, "-m", "srd_rs", "hydrate", str(gguf), "--intent", "INFORM", "--lock"]
    process = user_process(command)
    # Nothing below waits longer: when the process is killed, its output ends.
    timer = threading.Timer(60, process.kill)
    timer.start()
    try:
        assert process.stdout is not None and process.stderr is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        else:
            error = process.stderr.read()
            assert "ulimit -l" in error, (lines, error, process.wait(timeout=10))
            pytest.skip(
                f"the pages of the early slot may not be locked here, so locks were not tested: {error}"
            )
        assert any(line.endswith(" locked\n") for line in lines)
        status = Path(f"/proc/{process.pid}/status").read_text()
        locked = int(re.search(r"VmLck:\s+(\d+) kB", status)[1]) * 1024
        with Hydrator(gguf) as hydrator:
            budget = hydrator.sidecar["intent_ram_budget"]["INFORM"]["bytes"]
            assert abs(locked - budget) < pages(4)
            hydrator.evict()
            # The slot is still in memory, because the other process has locked its pages.
            assert residency(hydrator)["early"] >= sidecar_bytes(hydrator, "early") - pages(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
    finally:
        timer.cancel()
        process.kill()
        process.communicate(timeout=10)


def test_progress_is_told_and_can_stop(gguf: Path) -> None:
    """The callback is called every 50 ms, so a hydration is repeated until one takes that long."""
    calls = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        raise RuntimeError("enough")

    with Hydrator(gguf) as hydrator:
        deadline = time.monotonic() + 60
        with pytest.raises(RuntimeError, match="enough"):
            while time.monotonic() < deadline:
                evict(hydrator)
                hydrator.hydrate("HARM", progress=stop)
        assert all(0 <= done <= total for done, total in calls) and len(calls) == 1
        hydrator.hydrate("HARM")


def failure(*args: object) -> str:
    """The message of a command that must fail with exit code 1."""
    run = srd(*args)
    assert run.code == 1 and run.stdout == "", run
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    return run.stderr


def test_wrong_and_changed_files_are_refused(gguf: Path, tmp_path: Path) -> None:
    assert srd("met", gguf, "--no-digest").code == 0
    sidecar = sidecar_path(gguf)

    other = tmp_path / "other.gguf"
    assert srd("convert", "--fast", EXAMPLE, "-o", other, "-q", "Q8_0", "--no-met").code == 0
    message = failure("hydrate", other, "--intent", "INFORM", "--sidecar", sidecar)
    assert str(sidecar) in message and "bytes" in message and "srd-rs met" in message

    # Same size, another header: one letter of the name.
    content = bytearray(gguf.read_bytes())
    key = b"general.name"
    # The value stands behind its type (4 bytes) and length (8).
    content[content.index(key) + len(key) + 12] ^= 0x20
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(content)
    message = failure("hydrate", changed, "--intent", "INFORM", "--sidecar", sidecar)
    assert "different header" in message

    # Weights changed in place: found by reading them.
    assert "no SHA-256" in failure("met", gguf, "--check")
    assert srd("met", gguf).code == 0
    assert "fits" in srd("met", gguf, "--check").stdout
    content = bytearray(gguf.read_bytes())
    content[-1000] ^= 1
    changed.write_bytes(content)
    assert "other weights" in failure("met", changed, "--check", "-o", sidecar)

    # Cut short and grown: found before anything is read.
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:-4096])
    assert "cut.gguf" in failure("hydrate", cut, "--intent", "INFORM", "--sidecar", sidecar)
    with gguf.open("ab") as file:
        file.write(bytes(4096))
    assert "bytes" in failure("hydrate", gguf, "--intent", "INFORM")
    with pytest.raises(errors.ModelError, match=r"m\.met\.json"):
        Hydrator(gguf)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda s: "", "not a MET sidecar"),
        (lambda s: s[: len(s) // 2], "not a MET sidecar"),
        (lambda s: s.replace('"met_version": 3', '"met_version": 7'), "version 7"),
        (lambda s: s.replace('"bytes"', '"byte"', 1), "not a sound MET sidecar"),
        (lambda s: s.replace('"early"', '"earl"'), "not a sound MET sidecar"),
        (lambda s: s.replace('"offset": 0,', '"offset": 18446744073709551615,'), "embedding_slot"),
        (lambda s: s.replace('"offset": 0,', '"offset": -1,'), "not a sound MET sidecar"),
        (lambda s: re.sub(r'"0": "early"', '"0": "factual"', s), "chunk_map"),
    ],
)
def test_bad_sidecars_are_refused(spoil: Any, part: str, gguf: Path) -> None:
    assert srd("met", gguf, "--no-digest").code == 0
    path = sidecar_path(gguf)
    text = path.read_text()
    assert spoil(text) != text
    path.write_text(spoil(text))
    message = failure("hydrate", gguf, "--intent", "INFORM")
    assert str(path) in message and part in message and "srd-rs met" in message


def test_files_without_a_sidecar(tmp_path: Path, gguf: Path) -> None:
    split = tmp_path / "s.gguf"
    run = srd("convert", "--fast", EXAMPLE, "-o", split, "--split-max-size", "4MB", "--json")
    first, second = (file["path"] for file in run.json["files"][:2])
    assert run.code == 0 and run.json["sidecar"] == str(sidecar_path(first))
    Path(second).unlink()
    for command in ("met", "hydrate"):
        assert f"{second}: is missing" in failure(command, first)
    wrong = srd("met", EXAMPLE / "config.json")
    assert wrong.code == 2 and "this is a JSON file" in wrong.stderr
    assert "no such file" in failure("met", tmp_path / "none.gguf").lower()
    assert "no such file" in failure("hydrate", gguf, "--sidecar", tmp_path / "none.json").lower()


def test_usage_errors(gguf: Path) -> None:
    assert srd("hydrate", gguf, "--intent", "LEARN").code == 2
    assert srd("hydrate", gguf, "--lock").code == 2
    assert srd("hydrate", gguf, "--intent", "HARM", "--budget", "100").code == 2
    with Hydrator(gguf) as hydrator, pytest.raises(errors.UsageError, match="not a slot"):
        hydrator.evict(["late"])
    with pytest.raises(errors.UsageError, match="closed"):
        hydrator.residency()


def test_a_moved_pair_still_fits(gguf: Path, tmp_path: Path) -> None:
    assert srd("met", gguf, "--no-digest").code == 0
    folder = tmp_path / "else where"
    folder.mkdir()
    shutil.move(gguf, folder / "n.gguf")
    shutil.move(sidecar_path(gguf), folder / "n.met.json")
    assert srd("hydrate", folder / "n.gguf", "--intent", "CLARIFY").code == 0


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_a_picture(ending: str, gguf: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the plot was not drawn")
    picture = gguf.with_name(f"p{ending}")
    run = srd("met", gguf, "--no-digest", "--plot", picture)
    assert run.code == 0 and str(picture) in run.stdout, run.stderr
    start = picture.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") or b"<?xml" in start
    if ending == ".svg":
        assert "governance" in picture.read_text()
    assert srd("met", gguf, "--no-digest", "--plot", gguf.with_name("p.doc")).code == 2
    assert srd("met", gguf, "--no-digest", "--plot", picture).code == 2
    assert srd("met", gguf, "--no-digest", "--plot", picture, "--overwrite").code == 0


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
@pytest.mark.parametrize(
    "kind", ["link to the GGUF", "hard link to the GGUF", "link to a key", "the output", "folder"]
)
def test_a_picture_replaces_nothing_else(gguf: Path, kind: str, options: tuple[str, ...]) -> None:
    """The picture was written through a link into the GGUF."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the plot was not drawn")
    picture, key = gguf.with_name("p.png"), gguf.with_name("a.key")
    key.write_text("5d" * 32)
    extra: tuple[str | Path, ...] = ()
    if kind == "link to the GGUF":
        picture.symlink_to(gguf)
    elif kind == "hard link to the GGUF":
        picture.hardlink_to(gguf)
    elif kind == "link to a key":
        picture.symlink_to(key)
    elif kind == "folder":
        picture.mkdir()
    else:
        extra = ("-o", picture)
    before = {path: path.read_bytes() for path in (gguf, key)}
    run = srd("met", gguf, "--no-digest", "--plot", picture, *extra, *options)
    assert run.code != 0 and run.stderr.count("error: ") == 1, run.stderr
    assert {path: path.read_bytes() for path in before} == before
