"""Print the speed-up of two machines with one thread each over one machine, and compare the bytes.

    python scripts/ray_speed.py MODEL [--effort fast] [--calibrate-tokens N] [--repeat 3]

The machines are nodes of a Ray cluster on this machine. All processes, those of Ray as well, have as many CPUs as there
are machines. Three times are printed: of the calibration, of the tasks that quantize, and of the whole conversion,
whose plans and last check are those of the driver alone. One machine calibrates in the driver, without Ray. Both
numbers of machines take turns, and the best of `--repeat` runs counts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray
from ray.cluster_utils import Cluster

import srd_rs
from srd_rs import calibration, cluster

CPUS: Final = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Seconds:
    """What a conversion took."""

    whole: float
    calibration: float
    tasks: float


def measured(model: str, nodes: int, output: Path, effort: str, tokens: int | None) -> Seconds:
    """The seconds of a conversion on so many machines."""
    made = Cluster()
    try:
        add(made, num_cpus=0, include_dashboard=False)
        for _ in range(nodes):
            add(made, num_cpus=1)
        ray.init(address=made.address, log_to_driver=False)
        # The machines start their processes and read the package before the clock starts.
        warm = ray.remote(_import).options(num_cpus=1, scheduling_strategy="SPREAD")
        ray.get([warm.remote() for _ in range(2 * nodes)])
        pin(os.getpid(), CPUS[:nodes])
        spent: dict[str, float] = {}

        def timed(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                begin = time.perf_counter()
                result = run(*args, **options)
                spent[name] = time.perf_counter() - begin
                return result

            return call

        kept = cluster.convert, calibration.measure
        cluster.convert, calibration.measure = timed("tasks", kept[0]), timed("calibration", kept[1])
        options: dict[str, Any] = {} if effort == "fast" else {"calibrate_tokens": tokens}
        begin = time.perf_counter()
        try:
            srd_rs.convert(
                model, output, ray="auto", threads=1, effort=effort, axm=False, met=False, overwrite=True,
                cache=False, **options,
            )  # fmt: skip
        finally:
            cluster.convert, calibration.measure = kept
        whole = time.perf_counter() - begin
        return Seconds(whole, spent.get("calibration", 0.0), spent["tasks"])
    finally:
        ray.shutdown()
        made.shutdown()
        pin(os.getpid(), CPUS)


def add(made: Any, **options: Any) -> None:
    """Add a machine. Ray gives it half a minute to start, which is too short on a busy machine."""
    for attempt in range(6):
        try:
            made.add_node(object_store_memory=cluster.STORE_BYTES, **options)
        except Exception as error:  # Ray raises a plain exception
            if "timed out during startup" not in str(error) or attempt == 5:
                raise
        else:
            return


def pin(process: int, cpus: list[int]) -> None:
    """Leave these CPUs to a process and to all that it has started."""
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cpus)
            children = (thread / "children").read_text()
            for child in children.split():
                pin(int(child), cpus)


def _import() -> None:
    import srd_rs.cluster  # noqa: F401

    time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--effort", choices=["fast", "srd"], default="fast")
    parser.add_argument("--calibrate-tokens", type=int, help="default: those of the model")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    # Ray's processes give way to all others by default.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "200000")
    found: dict[int, list[Seconds]] = {1: [], 2: []}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "m.gguf"
        for _ in range(args.repeat):
            for nodes, seconds in found.items():
                seconds.append(measured(args.model, nodes, output, args.effort, args.calibrate_tokens))
                digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
                output.unlink()
    best = {nodes: min(seconds, key=lambda s: s.whole) for nodes, seconds in found.items()}
    for nodes, s in best.items():
        parts = f"calibration {s.calibration:.2f} s, tasks {s.tasks:.2f} s"
        print(f"{nodes} machine(s), one thread each: {parts}, whole conversion {s.whole:.2f} s")
    names = [name for name in ("calibration", "tasks", "whole") if getattr(best[1], name)]
    ups = [f"{name} {getattr(best[1], name) / getattr(best[2], name):.2f}" for name in names]
    print(f"speed-up: {', '.join(ups)}")
    print("the bytes are the same" if len(digests) == 1 else "THE BYTES DIFFER")


if __name__ == "__main__":
    main()
