"""One conversion on several machines, by Ray (https://docs.ray.io).

Where a calibration is asked for, the machines make it together. Where its tokens are weighed, each machine first weighs
some of them. Then each has a share of the chunks of tokens, and a task is
one step of the forward pass (a layer) over one share. A task goes on with the sums of its step over the shares before,
while the machine of the share before computes the next step. So the sums run over all tokens in the order of one
machine. The tasks leave the activations and the sums as files in a folder beside the output.

The driver plans, has the calibration made, and makes the output of its whole size, with the journal of a
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
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from srd_rs import _core, errors
from srd_rs.calibration import Request
from srd_rs.errors import SrdError, UsageError, io_error, message
from srd_rs.hub import Source, locate
from srd_rs.options import ConvertOptions, StrPath
from srd_rs.planning import NativeModel, Planner, native_model
from srd_rs.report import Progress
from srd_rs.text import bytes_text

At = TypeVar("At")
LOCAL: Final = "local"
"""The address that stands for machines which are started for this conversion, on this machine."""
PARTS: Final = 8
"""Number of tasks for each machine, at least: the machines end at about the same time, and a lost one loses little."""
RETRIES: Final = 20
"""How often Ray repeats a task whose machine was lost. A task that fails for another reason is not repeated."""
STORE_BYTES: Final = 80_000_000
"""Memory of Ray's object store on a machine that is started here. Only records of units pass through it."""


@dataclass(frozen=True)
class Model:
    """Where a machine finds a model. `streamed` is what the hub calls it, if its weights stay on the hub: each machine
    reads them over its own network."""

    source: Source
    streamed: str | None

    @classmethod
    def of(cls, source: Source) -> Model:
        return cls(replace(source, remote=None), None if source.remote is None else source.revision)

    def located(self) -> Source:
        return self.source if self.streamed is None else locate(self.streamed, stream=True)


@dataclass(frozen=True)
class Job:
    """What a machine needs to know to make the same plan as the driver. Paths are those of the folder `cwd`."""

    cwd: Path
    model: Model
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
    with connected(options.ray) as ray:
        threads = options.threads or _fewest_cpus(ray)
        options = replace(options, threads=threads)
        shared = native.share(options, resume)
        failed = True
        try:
            job = Job(
                cwd=Path.cwd(),
                model=Model.of(planner.source),
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


@dataclass(frozen=True)
class Measurement:
    """What a machine needs to know to run the same model as the driver. Paths are those of the folder `cwd`."""

    cwd: Path
    model: Model
    output: Path
    lora: Sequence[StrPath]
    metadata: Mapping[str, Any] | None
    digest: str


@dataclass(frozen=True)
class Part:
    """One step of the forward pass over a share of the chunks, and the files that it reads and writes."""

    step: int
    longest: int
    states: Path | None
    sums: Path | None
    to: tuple[Path, Path]
    gradients: Sequence[Path] = ()
    first: int = 0


def calibrate(
    planner: Planner, native: NativeModel, request: Request, tell: Callable[[int, int], None] | None
) -> _core.Calibration | None:
    """The calibration of a planned model, made by the machines of the cluster `planner.options.ray`; None where one
    machine alone has to make it.

    A calibration that goes to the cache goes on from what an interrupted one has left. Each machine fetches the layers
    that it computes of a model on the network, and would fetch a table of embeddings for each layer as a whole for
    each layer: such a model is for one machine."""
    assert planner.options.ray is not None
    if planner.source.remote is not None and any(
        t.name == _core.PER_LAYER_TABLE for t in native.plan.tensors
    ):
        return None
    with connected(planner.options.ray) as ray:
        threads = request.threads or _fewest_cpus(ray)
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        machines = sum(n // threads for n in cpus)
        if min(machines, len(request.tokens)) < 2:
            return None
        folder = planner.gguf.with_name(f".{planner.gguf.name}.calibration-parts")
        made = _core.CalibrationParts(native.plan, request)
        is_kept = False
        try:
            key = request.output.name if request.kept else None
            lengths = [len(chunk) for chunk in request.tokens]
            shares = _begin(folder, key, _core.runs_of_chunks(lengths, machines))
            job = Measurement(
                Path.cwd(),
                Model.of(planner.source),
                planner.gguf,
                planner.options.lora,
                planner.options.metadata,
                request.source_digest,
            )
            _calibrate_shares(ray, job, replace(request, threads=threads), made, shares, folder, tell)
            return made.finish()
        except KeyboardInterrupt:
            is_kept = request.kept
            raise
        finally:
            made.failed()
            if not is_kept:
                shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path, key: str | None, shares: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Make the folder of the files, or take what an interrupted calibration of the same `key` has left. Returns the
    shares of the chunks."""
    note = folder / "shares.json"
    try:
        kept = json.loads(note.read_text())
        if key is not None and kept["key"] == key:
            return [(first, end) for first, end in kept["shares"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        _core.write_file(note, json.dumps({"key": key, "shares": shares}).encode(), True)
    except OSError as error:
        fix = "Check the disk and its permissions"
        raise io_error(folder, "make the folder of the calibration", error, fix) from None
    return shares


def _calibrate_shares(
    ray: Any,
    job: Measurement,
    request: Request,
    made: _core.CalibrationParts,
    shares: list[tuple[int, int]],
    folder: Path,
    tell: Callable[[int, int], None] | None,
) -> None:
    """Give the tasks to the cluster, and take the sums over all shares step by step."""

    def states(share: int, step: int) -> Path:
        return folder / f"states-{share}-{step}"

    def sums(share: int, step: int) -> Path:
        return folder / f"sums-{share}-{step}"

    def remove(path: Path) -> None:
        path.unlink(missing_ok=True)

    steps, last = made.steps, len(shares) - 1
    lengths = [len(chunk) for chunk in request.tokens]
    longest = max(lengths)
    gradients: list[Path] = []
    if request.weigh_tokens:
        weighing = _core.WEIGHING_PASSES / (_core.WEIGHING_PASSES + 1)
        # Each batch fetches the weights of a streamed model again.
        count = _core.WEIGHING_BATCHES if job.model.streamed is None else len(shares)
        batches = _core.runs_of_chunks(lengths, count)
        gradients = _weigh(ray, job, request, batches, folder, _share(tell, 0, weighing))
        tell = _share(tell, weighing, 1)
    # A part is complete when its states are there. They are removed when the next part of the share is complete.
    done = [
        max((n for n in range(steps) if states(share, n).exists()), default=-1) for share in range(last + 1)
    ]
    for step in range(done[last] + 1):
        made.take(sums(last, step))
    task = ray.remote(_calibrate_part).options(
        num_cpus=request.threads, max_retries=RETRIES, scheduling_strategy="SPREAD"
    )
    kept = ray.put(job)
    requests = [ray.put(replace(request, tokens=request.tokens[first:end])) for first, end in shares]
    firsts = [sum(map(len, request.tokens[:first])) for first, _ in shares]
    running: dict[tuple[int, int], Any] = {}
    for step in range(steps):
        for share in range(last + 1):
            if step <= done[share]:
                continue
            part = Part(
                step,
                longest,
                states(share, step - 1) if step else None,
                sums(share - 1, step) if share else None,
                (states(share, step), sums(share, step)),
                gradients,
                firsts[share],
            )
            after = [running[at] for at in ((share, step - 1), (share - 1, step)) if at in running]
            running[share, step] = task.remote(kept, requests[share], part, *after)
    waiting = {reference: at for at, reference in running.items()}
    running.clear()
    total = steps * len(shares)
    with closing(_finished(ray, waiting)) as rounds:
        for round in rounds:
            for share, step in round:
                remove(states(share, step - 1))
                if share:
                    remove(sums(share - 1, step))
                if share == last:
                    made.take(sums(share, step))
                    if not request.kept:
                        remove(sums(share, step))
            if tell is not None:
                tell(total - len(waiting), total)


def _finished(ray: Any, waiting: dict[Any, At]) -> Generator[list[At], None, None]:
    """Take tasks out of `waiting` when they end, and yield those of the last fifth of a second. Raises the error of a
    task. Close the iterator: tasks that still run are then cancelled."""
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=0.2)
            ended = []
            for reference in ready:
                ended.append(waiting.pop(reference))
                result: Result = ray.get(reference)
                if result.error is not None:
                    raise _error(*result.error)
            yield ended
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        # Whoever removes the folder waits until nobody writes into it.
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=10)


def _weigh(
    ray: Any,
    job: Measurement,
    request: Request,
    batches: Sequence[tuple[int, int]],
    folder: Path,
    tell: Callable[[int, int], None] | None,
) -> list[Path]:
    """Have the machines weigh the tokens, in batches of chunks. Returns the files of the gradients in the order of the
    tokens."""
    files = [folder / f"gradients-{number}" for number in range(len(batches))]
    task = ray.remote(_weigh_part).options(
        num_cpus=request.threads, max_retries=RETRIES, scheduling_strategy="SPREAD"
    )
    kept, longest = ray.put(job), max(map(len, request.tokens))
    waiting = {}
    for (begin, end), file in zip(batches, files, strict=True):
        if not file.exists():
            first = sum(map(len, request.tokens[:begin]))
            share = replace(request, tokens=request.tokens[begin:end])
            waiting[task.remote(kept, share, first, longest, file)] = file
    with closing(_finished(ray, waiting)) as rounds:
        for _ in rounds:
            if tell is not None:
                tell(len(files) - len(waiting), len(files))
    return files


def _share(
    tell: Callable[[int, int], None] | None, begin: float, end: float
) -> Callable[[int, int], None] | None:
    """A function for the progress of a part of the work, which goes from `begin` to `end` of the whole work."""
    if tell is None:
        return None
    units = 10**6
    return lambda done, total: tell(round(units * (begin + (end - begin) * done / total)), units)


def _weigh_part(job: Measurement, request: Request, first: int, longest: int, to: Path) -> Result:
    """Weigh some of the tokens on this machine. Runs in a worker process of Ray."""
    return _outcome(lambda: _core.weigh_part(_model(job).plan, request, first, longest, to))


def _calibrate_part(job: Measurement, request: Request, part: Part, *after: Result) -> Result:
    """Compute a part of a calibration on this machine, when the parts before are complete. Runs in a worker process of
    Ray."""
    failed = next((result for result in after if result.error is not None), None)
    return failed or _outcome(lambda: _core.calibrate_part(_model(job).plan, request, part))


def _outcome(work: Callable[[], None]) -> Result:
    """What a task returns that writes files: that it is done, or its error."""
    try:
        work()
    except SrdError as error:
        return Result(_node(), [], (type(error).__name__, str(error)))
    return Result(_node(), [])


_MODELS: Final[dict[tuple[str, Path, Path, str], NativeModel]] = {}
"""The model that this process runs."""


def _model(job: Measurement) -> NativeModel:
    key = job.digest, job.cwd, job.model.source.path, repr(job.metadata)
    found = _MODELS.get(key)
    if found is not None:
        return found
    _enter(job.cwd)
    model = native_model(job.model.located(), job.output, job.lora, job.metadata)
    if model.source_digest != job.digest:
        what = "this machine sees other files of the model, or has another version of srd-rs"
        fix = "Give all machines the same files and the same version of srd-rs"
        raise UsageError(message(job.model.source.path, what, fix))
    _MODELS.clear()
    return _MODELS.setdefault(key, model)


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
    node = _node()
    try:
        return Result(node, _planned(job).convert_units(job.options, job.resume, job.identity, numbers))
    except SrdError as error:
        return Result(node, [], (type(error).__name__, str(error)))


def _node() -> str:
    """The name of this machine in the cluster."""
    ray: Any = importlib.import_module("ray")
    return str(ray.get_runtime_context().get_node_id())[:8]


_PLANS: Final[dict[tuple[str, Path], _core.Plan]] = {}
"""The plan of the job that this process works for: a large model takes seconds to plan. Jobs with the same identity may
write to different folders."""


def _planned(job: Job) -> _core.Plan:
    key = job.identity, job.cwd / job.output
    found = _PLANS.get(key)
    if found is not None:
        return found
    _enter(job.cwd)
    planner = Planner(job.model.located(), job.output, job.options)
    measured = None if job.calibration is None else _core.open_calibration(job.calibration)
    _PLANS.clear()
    return _PLANS.setdefault(key, planner.plan(measured))


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        what = f"the folder cannot be entered on this machine: {error.strerror or error}"
        fix = "Convert in a folder that all machines share"
        raise UsageError(message(folder, what, fix)) from None


def _error(name: str, text: str) -> SrdError:
    """The error that a task failed with, of the same class."""
    found = getattr(errors, name, SrdError)
    is_known = isinstance(found, type) and issubclass(found, SrdError)
    return found(text) if is_known else SrdError(text)


@contextmanager
def connected(address: str) -> Iterator[Any]:
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
    except Exception as error:  # Ray raises a bare Exception where a node does not start in time
        said = str(error).splitlines()[0] if str(error) else repr(error)
        if address == LOCAL:
            fix = "Try again when the machine has less to do, or leave out --ray"
            raise SrdError(message("--ray", f"Ray does not start on this machine: {said}", fix)) from None
        fix = "Name the address of a Ray cluster (HOST:PORT or auto), or local"
        raise UsageError(message("--ray", f"no cluster can be reached at {address}: {said}", fix)) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _fewest_cpus(ray: Any) -> int:
    """The CPUs of the machine that has the fewest."""
    counts = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(min((n for n in counts if n), default=1), 1)
