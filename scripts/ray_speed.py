"""Print the speed-up of two machines with one thread each over one machine, and compare the bytes.

    python scripts/ray_speed.py MODEL [--effort fast] [--repeat 3]

The machines are nodes of a Ray cluster on this machine with one CPU each. Time counts from the first task to the last:
planning, the calibration and the last check are done by the driver alone, and are printed beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

import srd_rs
from srd_rs import cluster


def measured(model: str, nodes: int, output: Path, effort: str) -> tuple[float, float]:
    """Seconds of the tasks and of the whole conversion on so many machines."""
    store = {"object_store_memory": cluster.STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, **store)
        ray.init(address=made.address, log_to_driver=False)
        # The machines start their processes and read the package before the clock starts.
        warm = ray.remote(_import).options(num_cpus=1, scheduling_strategy="SPREAD")
        ray.get([warm.remote() for _ in range(2 * nodes)])
        seconds = []
        run = cluster.convert

        def timed(*args: Any) -> int:
            begin = time.perf_counter()
            resumed = run(*args)
            seconds.append(time.perf_counter() - begin)
            return resumed

        cluster.convert = timed
        begin = time.perf_counter()
        try:
            srd_rs.convert(
                model, output, ray="auto", threads=1, effort=effort, axm=False, met=False, overwrite=True
            )
        finally:
            cluster.convert = run
        return seconds[0], time.perf_counter() - begin
    finally:
        ray.shutdown()
        made.shutdown()


def _import() -> None:
    import srd_rs.cluster  # noqa: F401

    time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--effort", choices=["fast", "srd"], default="fast")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    # Ray's processes give way to all others by default.
    os.environ.setdefault("RAY_worker_niceness", "0")
    best: dict[int, tuple[float, float]] = {}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "m.gguf"
        for _ in range(args.repeat):
            for nodes in (1, 2):
                found = measured(args.model, nodes, output, args.effort)
                best[nodes] = min(found, best.get(nodes, found))
                digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
                output.unlink()
    for nodes, (tasks, whole) in best.items():
        print(f"{nodes} machine(s), one thread each: tasks {tasks:.2f} s, whole conversion {whole:.2f} s")
    print(f"speed-up of the tasks {best[1][0] / best[2][0]:.2f}, of the whole {best[1][1] / best[2][1]:.2f}")
    print("the bytes are the same" if len(digests) == 1 else "THE BYTES DIFFER")


if __name__ == "__main__":
    main()
