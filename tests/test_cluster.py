"""One conversion on several machines: the bytes of one machine, also when machines are lost.

The machines are nodes of a Ray cluster on this machine: processes of their own with one CPU each. The parts of a
conversion are tested without Ray as well. `SRD_LOST_MACHINES` is the number of conversions that lose a machine.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import srd_rs
from local_hub import Hub, serving
from srd_rs import ConvertOptions, _core, calibration, cluster
from srd_rs.errors import SrdError, UsageError
from srd_rs.hub import Source
from srd_rs.planning import Planner, native_model
from support import EXAMPLE, per_fixture, srd

RESUME = ("program", "options")
FAST: dict[str, Any] = {"effort": "fast", "axm": False, "met": False, "threads": 1}
SRD: dict[str, Any] = {
    "effort": "srd", "axm": False, "met": False, "threads": 1, "calibrate": "random", "calibrate_tokens": 2048,
    "calibrate_block": 256, "cache": False, "metadata": {"gemma4.rope.freq_base": 500.0},
}  # fmt: skip


def planned(output: Path, **options: Any) -> tuple[_core.Plan, ConvertOptions]:
    planner = Planner(Source(EXAMPLE), output, ConvertOptions(**{**FAST, **options}))
    return planner.plan(), planner.options


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of one machine."""
    folder = tmp_path_factory.mktemp("alone")
    made = {}
    for name, options in (("fast", FAST), ("srd", SRD)):
        srd_rs.convert(EXAMPLE, folder / "m.gguf", overwrite=True, **options)
        made[name] = (folder / "m.gguf").read_bytes()
    return made


def test_parts_that_are_written_apart_become_the_file_of_one_run(
    alone: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "m.gguf"
    native, options = planned(output)
    shared = native.share(options, RESUME)
    numbers = [number for number, _ in shared.pending]
    assert sum(size for _, size in shared.pending) == native.tensor_bytes and shared.resumed_bytes == 0
    random.Random(1).shuffle(numbers)
    for part in (numbers[::2], numbers[1::2]):
        other, _ = planned(output)  # as another process would plan
        records = other.convert_units(options, RESUME, shared.identity, part)
        assert len(records) == len(part)
        shared.add(records)
    assert not output.exists()
    shared.close()
    native.run(options, True, None, resume=RESUME)
    assert output.read_bytes() == alone["fast"]


def test_what_a_lost_machine_wrote_wrong_or_not_at_all_is_written_again(
    alone: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "m.gguf"
    native, options = planned(output)
    shared = native.share(options, RESUME)
    numbers = [number for number, _ in shared.pending]
    shared.add(native.convert_units(options, RESUME, shared.identity, numbers[3:]))
    with pytest.raises(UsageError, match="another process"):
        native.share(options, RESUME)
    shared.close()
    partial = tmp_path / ".m.gguf.partial"
    with partial.open("r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\x55" * 100)
    report = native.run(options, True, None, resume=RESUME)
    assert 0 < report.resumed_bytes < native.tensor_bytes
    assert output.read_bytes() == alone["fast"]


def test_a_machine_that_sees_something_else_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    native, options = planned(output)
    shared = native.share(options, RESUME)
    other, others = planned(output, quant="Q6_K")
    with pytest.raises(UsageError, match="something else"):
        other.convert_units(others, RESUME, shared.identity, [0])
    with pytest.raises(UsageError, match="no unit"):
        native.convert_units(options, RESUME, shared.identity, [1 << 40])
    for record in (
        "complete",
        "unit 1 2 3",
        "unit 1 2 3 zz 0,0,0,0",
        "head {}",
        "unit 1 1 0  1e0,1,1e0,1\nunit",
    ):
        with pytest.raises(UsageError, match="no record"):
            shared.add([record])
    shared.close(failed=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="closed"):
        shared.add([])
    with pytest.raises(UsageError, match="is not there"):
        native.convert_units(options, RESUME, shared.identity, [0])
    sealed = Planner(Source(EXAMPLE), output, ConvertOptions(**{**FAST, "axm": True})).plan()
    with pytest.raises(UsageError, match="container"):
        sealed.share(ConvertOptions(**{**FAST, "axm": True}), RESUME)


def in_parts(
    model: Path, folder: Path, request: calibration.Request, shares: list[tuple[int, int]], memory: list[int]
) -> bytes:
    """The calibration that is put together from parts, each of which gets another `max_memory`."""
    source = Source(model)
    native = native_model(source, folder / "m.gguf")
    made = _core.CalibrationParts(native.plan, request)
    longest = max(map(len, request.tokens))
    firsts = [sum(map(len, request.tokens[:first])) for first, _ in shares]
    gradients = (
        [folder / f"gradients-{share}" for share in range(len(shares))] if request.weigh_tokens else []
    )
    for file, (first, end), begin in zip(gradients, shares, firsts, strict=False):
        asked = replace(request, tokens=request.tokens[first:end], max_memory=memory[0])
        _core.weigh_part(native.plan, asked, begin, longest, file)
    for step in range(made.steps):
        for share, (first, end) in enumerate(shares):
            part = cluster.Part(
                step,
                longest,
                folder / f"states-{share}-{step - 1}" if step else None,
                folder / f"sums-{share - 1}-{step}" if share else None,
                (folder / f"states-{share}-{step}", folder / f"sums-{share}-{step}"),
                gradients,
                firsts[share],
            )
            size = memory[(step + share) % len(memory)]
            asked = replace(request, tokens=request.tokens[first:end], max_memory=size)
            _core.calibrate_part(native_model(source, folder / "m.gguf").plan, asked, part)
        made.take(folder / f"sums-{len(shares) - 1}-{step}")
    return made.finish().path.read_bytes()


@per_fixture(("gemma4_e2b", "gemma4_moe", "llama", "mixtral", "phi3", "qwen3moe"))
def test_a_calibration_in_parts_has_the_bytes_of_one_pass(name: str, fixtures: Path, tmp_path: Path) -> None:
    model = fixtures / name
    asked: dict[str, Any] = {
        "named": True, "text": "random", "tokens": 700, "ctx": 100, "block": 256, "seed": 3, "threads": 1,
        "overwrite": True, "weigh_tokens": None,
    }  # fmt: skip
    native = native_model(Source(model), tmp_path / "m.gguf")
    whole = []
    for memory in (1 << 30, 1 << 20):
        calibration.measure(native, tmp_path / "c", max_memory=memory, **asked)
        whole.append((tmp_path / "c").read_bytes())
    # The sums of experts once depended on how many chunks fit into memory at a time.
    assert whole[0] == whole[1]
    request = calibration.requested(native, tmp_path / "c", max_memory=1 << 30, **asked)
    assert len(request.tokens) == 7 and request.weigh_tokens == (name in ("llama", "phi3"))
    for shares in ([(0, 3), (3, 7)], [(0, 1), (1, 2), (2, 7)]):
        assert in_parts(model, tmp_path, request, shares, [1 << 30, 1 << 20]) == whole[0]


def test_shares_are_even_runs_of_chunks() -> None:
    lengths = (512, 512, 512, 512, 100)
    assert _core.runs_of_chunks(lengths, 2) == [(0, 3), (3, 5)]
    assert _core.runs_of_chunks(lengths, 1) == [(0, 5)]
    for count in range(1, 9):
        made = _core.runs_of_chunks(lengths, count)
        assert [n for first, end in made for n in range(first, end)] == list(range(5))
        assert len(made) <= count and all(first < end for first, end in made)


def test_what_a_part_leaves_must_be_whole(tmp_path: Path) -> None:
    native = native_model(Source(EXAMPLE), tmp_path / "m.gguf")
    request = calibration.requested(
        native, tmp_path / "c", named=True, text="random", tokens=64, ctx=32, block=256, seed=0, threads=1,
        max_memory=1 << 30, overwrite=False, weigh_tokens=None,
    )  # fmt: skip
    files = tmp_path / "states", tmp_path / "sums"
    _core.calibrate_part(native.plan, request, cluster.Part(0, 32, None, None, files))
    sound = files[0].read_bytes()
    for damaged in (b"", sound[:-1], sound[:-1] + bytes([sound[-1] ^ 1]), b"\0" * 100):
        files[0].write_bytes(damaged)
        with pytest.raises(srd_rs.errors.ModelError, match="not whole"):
            _core.calibrate_part(native.plan, request, cluster.Part(1, 32, files[0], None, files))
    with pytest.raises(FileNotFoundError):
        _core.calibrate_part(native.plan, request, cluster.Part(1, 32, tmp_path / "none", None, files))
    made = _core.CalibrationParts(native.plan, request)
    made.take(files[1])
    made.failed()
    with pytest.raises(UsageError, match="complete"):
        made.finish()
    assert not (tmp_path / "c").exists()


def test_parts_are_even_runs() -> None:
    pending = [(n, 10 + n % 3) for n in range(5, 105)]
    made = cluster.parts(pending, 8)
    assert [n for part in made for n in part] == [n for n, _ in pending]
    sizes = [sum(10 + n % 3 for n in part) for part in made]
    assert 7 <= len(made) <= 9 and max(sizes) < 2 * sum(sizes) / 8
    assert cluster.parts([], 8) == [] and cluster.parts([(3, 1)], 8) == [[3]]


def test_a_cluster_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nMore")  # as Ray raises it

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with (
        pytest.raises(SrdError, match="Ray does not start on this machine: The current node timed out"),
        cluster.connected("local"),
    ):
        pass
    with pytest.raises(UsageError, match="no cluster can be reached at auto"), cluster.connected("auto"):
        pass


def test_without_resume_nothing_is_shared(tmp_path: Path) -> None:
    run = srd(
        "convert", EXAMPLE, "--fast", "--no-axm", "--ray", "local", "--no-resume", "-o", tmp_path / "m.gguf"
    )
    assert run.code == 2 and "--no-resume" in run.stderr
    for options, what in ((("--axm",), "container"), (("--no-axm", "-o", "hf://org/model"), "upload")):
        run = srd("convert", EXAMPLE, "--fast", "--ray", "local", *options, cwd=tmp_path)
        assert run.code == 2 and what in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of a head without CPUs, which is never lost, and three machines with one CPU each."""
    ray = pytest.importorskip("ray", reason="ray is not installed: nothing was converted on several machines")
    utils = pytest.importorskip("ray.cluster_utils")
    # Ray gives way to all other processes by default, and would get nothing beside other tests.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A node starts other programs, for which Ray waits half a minute.
    os.environ.setdefault("RAY_agent_register_timeout_ms", "200000")
    made = utils.Cluster()
    node(made, num_cpus=0, include_dashboard=False)
    nodes = [node(made) for _ in range(3)]
    ray.init(address=made.address, log_to_driver=False)
    yield made, nodes
    ray.shutdown()
    made.shutdown()


def node(made: Any, **options: Any) -> Any:
    """A new machine of a cluster. Ray gives it half a minute to start, which is too short where many processes run."""
    asked = {"num_cpus": 1, "object_store_memory": cluster.STORE_BYTES, **options}
    for attempt in range(6):
        try:
            return made.add_node(**asked)
        except Exception as error:  # Ray raises a plain exception
            if "timed out during startup" not in str(error) or attempt == 5:
                raise
    return None


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("effort", ["fast", "srd"])
def test_three_machines_write_the_bytes_of_one(
    effort: str, machines: Any, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    options = FAST if effort == "fast" else SRD
    shares = []
    runs = _core.runs_of_chunks

    def watched(*args: Any) -> list[tuple[int, int]]:
        shares.append(runs(*args))
        return shares[-1]

    monkeypatch.setattr(_core, "runs_of_chunks", watched)
    report = srd_rs.convert(
        EXAMPLE,
        tmp_path / "m.gguf",
        ray="auto",
        progress=lambda p: seen.append(p.tensor),
        **options,
    )
    assert (tmp_path / "m.gguf").read_bytes() == alone[effort] and report.resumed_bytes == 0
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
    assert any("of 4 nodes" in text for text in seen)
    assert [len(found) for found in shares] == ([] if effort == "fast" else [3])


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_machines_weigh_tokens_together(
    machines: Any, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of batches of tokens lie beside each other, and the calibration has the bytes of one machine."""
    options = {**SRD, "metadata": None}
    alone, together = (tmp_path / name / "m.gguf" for name in ("alone", "together"))
    done: list[int] = []
    alone.parent.mkdir()
    together.parent.mkdir()
    assert srd_rs.convert(fixtures / "llama", alone, **options).calibration_weighed
    batches = []
    weigh = cluster._weigh

    def watched(*args: Any) -> list[Path]:
        batches.extend(weigh(*args))
        return batches

    monkeypatch.setattr(cluster, "_weigh", watched)
    tell = lambda p: done.append(p.done) if p.phase == "calibrate" else None  # noqa: E731
    report = srd_rs.convert(fixtures / "llama", together, ray="auto", progress=tell, **options)
    assert report.calibration_weighed and len(batches) == 4
    assert together.read_bytes() == alone.read_bytes()
    assert [path.name for path in together.parent.iterdir()] == ["m.gguf"]
    assert done == sorted(done)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("effort", ["fast", "srd"])
@pytest.mark.parametrize("seed", range(int(os.environ.get("SRD_LOST_MACHINES", "2"))))
def test_a_lost_machine_changes_nothing(
    seed: int, effort: str, machines: Any, wide_model: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    made, nodes = machines
    # Effort srd is slow enough with the small model.
    model, options = (wide_model, FAST) if effort == "fast" else (EXAMPLE, SRD)
    if effort == "fast":
        srd_rs.convert(model, tmp_path / "alone.gguf", **options)
        expected = (tmp_path / "alone.gguf").read_bytes()
    else:
        expected = alone["srd"]
    wait = random.Random(seed).uniform(0.5, 4.0)

    def lose() -> None:
        time.sleep(wait)
        made.remove_node(nodes.pop(0), allow_graceful=False)

    killer = threading.Thread(target=lose)
    killer.start()
    srd_rs.convert(model, tmp_path / "m.gguf", ray="auto", **options)
    killer.join()
    nodes.append(node(made))
    assert (tmp_path / "m.gguf").read_bytes() == expected
    assert {p.name for p in tmp_path.iterdir()} <= {"m.gguf", "alone.gguf"}
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_an_interrupted_calibration_goes_on(
    machines: Any, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRD_CACHE", str(tmp_path / "cache"))
    output, options = tmp_path / "m.gguf", {**SRD, "cache": True, "ray": "auto"}
    counts: list[int] = []

    def stop(done: Any) -> None:
        if done.phase == "calibrate":
            counts.append(done.done)
            if len(counts) > 1 and done.done * 3 > done.total:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        srd_rs.convert(EXAMPLE, output, progress=stop, **options)
    assert (tmp_path / ".m.gguf.calibration-parts").is_dir()
    reached = counts[-1]
    counts.clear()
    srd_rs.convert(EXAMPLE, output, progress=lambda p: counts.append(p.done), **options)
    assert counts[0] >= reached > 0
    assert output.read_bytes() == alone["srd"]
    assert {p.name for p in tmp_path.iterdir()} == {"m.gguf", "cache"}


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_an_error_on_a_machine_is_the_error_of_the_conversion(machines: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(EXAMPLE, model)
    file = next(model.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-64:] = b"\xff" * 64
    file.write_bytes(data)
    with pytest.raises(srd_rs.errors.NonFiniteError, match="not finite"):
        srd_rs.convert(model, tmp_path / "m.gguf", ray="auto", **FAST)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_machines_calibrate_a_streamed_model_together(tmp_path: Path) -> None:
    """Each of two machines fetches the weights that it computes, and the bytes are those of one machine."""
    pytest.importorskip("ray", reason="ray is not installed: nothing was converted on several machines")
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: nothing was streamed")
    options = ("--effort", "srd", "--calibrate-tokens", "2048", "--no-axm", "--no-met", "--threads", "1")
    sent = {}
    with serving(tmp_path / "hf", network=True) as env:
        Hub.folders["org/m"] = EXAMPLE
        for name, more in (("alone", ()), ("together", ("--ray", "local"))):
            (tmp_path / name).mkdir()
            environment = {**env, "SRD_CACHE": str(tmp_path / f"{name}-kept"), "RAY_worker_niceness": "0"}
            Hub.sent = 0
            output = tmp_path / name / "m.gguf"
            run = srd("convert", "org/m", "--stream", *options, *more, "-o", output, env=environment)
            assert run.code == 0, run.stderr
            assert [p.name for p in output.parent.iterdir()] == ["m.gguf"]
            sent[name] = Hub.sent
    assert (tmp_path / "together" / "m.gguf").read_bytes() == (tmp_path / "alone" / "m.gguf").read_bytes()
    weights = sum(p.stat().st_size for p in EXAMPLE.glob("*.safetensors"))
    machines = min(_core.cpus(), 4)
    if machines > 1:
        # Each share of the tokens needs the layers, and the units need them once more.
        assert sent["alone"] < 2.2 * weights < sent["together"] < (machines + 1.8) * weights, sent
