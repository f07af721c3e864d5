"""One conversion on several machines, by Ray (https://docs.ray.io).

The driver plans, calibrates where that is asked for, and makes the output of its whole size, with the journal of a
conversion that can be resumed. A task is a run of units: slices of tensors. Each machine makes the same plan from the
same files, reads what its units need, and writes their bytes at their offsets into the same file. It returns a record
of each unit with the SHA-256 of the bytes, which the driver puts into the journal. The driver then completes the output
as it completes an interrupted conversion: it reads the bytes of all units again, compares them, converts what is
missing, and names the file. So the bytes are those of one machine.

Ray places the tasks, and repeats those of a machine that is lost. All machines need the same version of srd-rs, and a
file system that they share, for the files of the model and the folder of the output. No weight passes through Python or
through Ray.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, errors
from srd_rs.errors import SrdError, UsageError, message
from srd_rs.hub import Source, locate
from srd_rs.options import ConvertOptions
from srd_rs.planning import Planner
from srd_rs.report import Progress
from srd_rs.text import bytes_text

LOCAL: Final = "local"
"""The address that stands for machines which are started for this conversion, on this machine."""
PARTS: Final = 8
"""Number of tasks for each machine, at least: the machines end at about the same time, and a lost one loses little."""
RETRIES: Final = 20
"""How often Ray repeats a task whose machine was lost. A task that fails for another reason is not repeated."""
STORE_BYTES: Final = 80_000_000
"""Memory of Ray's object store on a machine that is started here. Only records of units pass through it."""


@dataclass(frozen=True)
class Job:
    """What a machine needs to know to make the same plan as the driver. Paths are those of the folder `cwd`."""

    cwd: Path
    source: Source
    streamed: str | None
    output: Path
    options: ConvertOptions
    calibration: Path | None
    resume: tuple[str, str]
    identity: str


@dataclass(frozen=True)
class Result:
    """The records of a task, or the name and the message of the error that it failed with; and the machine."""

    node: str
    records: list[str]
    error: tuple[str, str] | None = None


def convert(
    native: _core.Plan,
    planner: Planner,
    calibration: _core.Calibration | None,
    resume: tuple[str, str],
    progress: Callable[[Progress], None] | None,
) -> int:
    """Convert the units of a plan on the machines of the cluster `planner.options.ray`, and return the bytes that an
    interrupted conversion had written. The output is then complete, but for the check and the name, which `Plan.run`
    adds."""
    options = planner.options
    assert options.ray is not None
    with _cluster(options.ray) as ray:
        threads = options.threads or _fewest_cpus(ray)
        options = replace(options, threads=threads)
        shared = native.share(options, resume)
        failed = True
        try:
            job = Job(
                cwd=Path.cwd(),
                source=replace(planner.source, remote=None),
                streamed=planner.source.revision if planner.source.remote is not None else None,
                output=planner.gguf,
                options=options,
                calibration=None if calibration is None else calibration.path,
                resume=resume,
                identity=shared.identity,
            )
            _run(ray, job, shared, threads, progress)
            failed = False
        finally:
            shared.close(failed)
    return shared.resumed_bytes


def _run(
    ray: Any,
    job: Job,
    shared: _core.SharedOutput,
    threads: int,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Give the tasks to the cluster, and note what they return."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sizes = dict(shared.pending)
    task = ray.remote(_convert_part).options(
        num_cpus=threads, max_retries=RETRIES, scheduling_strategy="SPREAD"
    )
    kept = ray.put(job)
    waiting = {task.remote(kept, part): part for part in parts(shared.pending, PARTS * len(nodes))}
    done, total, by_node = 0, sum(sizes.values()), Counter[str]()
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=0.2)
            for reference in ready:
                part = waiting.pop(reference)
                result: Result = ray.get(reference)
                if result.error is not None:
                    raise _error(*result.error)
                shared.add(result.records)
                written = sum(sizes[number] for number in part)
                by_node[result.node] += written
                done += written
            if progress is not None:
                shares = ", ".join(f"{node} {bytes_text(n)}" for node, n in sorted(by_node.items()))
                progress(Progress(done, total, f"{len(by_node)} of {len(nodes)} nodes: {shares}", "convert"))
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def parts(pending: Sequence[tuple[int, int]], count: int) -> list[list[int]]:
    """The numbers of the units in about `count` runs of about as many bytes."""
    limit = max(sum(size for _, size in pending) // max(count, 1), 1)
    found: list[list[int]] = []
    size = limit
    for number, more in pending:
        if size >= limit:
            found.append([])
            size = 0
        found[-1].append(number)
        size += more
    return found


def _convert_part(job: Job, numbers: list[int]) -> Result:
    """Convert units on this machine. Runs in a worker process of Ray."""
    ray: Any = importlib.import_module("ray")
    node = str(ray.get_runtime_context().get_node_id())[:8]
    try:
        return Result(node, _planned(job).convert_units(job.options, job.resume, job.identity, numbers))
    except SrdError as error:
        return Result(node, [], (type(error).__name__, str(error)))


_PLANS: Final[dict[tuple[str, Path], _core.Plan]] = {}
"""The plan of the job that this process works for: a large model takes seconds to plan. Jobs with the same identity may
write to different folders."""


def _planned(job: Job) -> _core.Plan:
    key = job.identity, job.cwd / job.output
    found = _PLANS.get(key)
    if found is not None:
        return found
    try:
        os.chdir(job.cwd)
    except OSError as error:
        what = f"the folder cannot be entered on this machine: {error.strerror or error}"
        fix = "Convert in a folder that all machines share"
        raise UsageError(message(job.cwd, what, fix)) from None
    source = job.source if job.streamed is None else locate(job.streamed, stream=True)
    planner = Planner(source, job.output, job.options)
    measured = None if job.calibration is None else _core.open_calibration(job.calibration)
    _PLANS.clear()
    return _PLANS.setdefault(key, planner.plan(measured))


def _error(name: str, text: str) -> SrdError:
    """The error that a task failed with, of the same class."""
    found = getattr(errors, name, SrdError)
    is_known = isinstance(found, type) and issubclass(found, SrdError)
    return found(text) if is_known else SrdError(text)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster: to one that this process is connected to already, to one at an address, or to one of
    this machine alone, which ends with the conversion."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        fix = "pip install 'srd-rs[ray]'"
        raise UsageError(message("--ray", "the package ray is not installed", fix)) from None
    if ray.is_initialized():
        yield ray
        return
    asked: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address == LOCAL:
        asked |= {"address": LOCAL, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        asked |= {"num_cpus": _core.cpus()}
    else:
        asked |= {"address": address}
    try:
        ray.init(**asked)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        what = (
            f"no cluster can be reached at {address}: {str(error).splitlines()[0] if str(error) else error!r}"
        )
        fix = "Name the address of a Ray cluster (HOST:PORT or auto), or local"
        raise UsageError(message("--ray", what, fix)) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _fewest_cpus(ray: Any) -> int:
    """The CPUs of the machine that has the fewest."""
    counts = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(min((n for n in counts if n), default=1), 1)
