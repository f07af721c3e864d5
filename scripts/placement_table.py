#!/usr/bin/env python3
"""Print tokens/s of llama-server under a limit of memory: by default, with --fit, and as `srd-rs met --for` says.

    sudo python scripts/placement_table.py MODEL.gguf [MODEL.gguf ...] [--limit 0.8] [--tokens 16] [--ctx 512]
        [--engine 400]

Each run is a process of its own in a control group (v1 or v2) whose memory limit is a share of the size of the file,
and the file is taken out of the page cache before. "resident" are the bytes of the file in memory after the last
token. In the last row of a model, `srd-rs hydrate --lock` holds what tokens read most in memory, in the same control
group: as much as the limit allows beside the memory that the engine needs for itself (--engine). The column "bound"
is what the bandwidth of the memory allows (`srd_rs.place`), as if everything were in memory. Needs xllamacpp, which
is llama-server in a process, and the rights to make a control group; without them the runs have no limit, and the
table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import srd_rs

CHILD = """
import json, os, sys, time
path, ctx, tokens, how, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]), sys.argv[5]
if group:
    open(group + "/cgroup.procs", "w").write(str(os.getpid()))
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = path, ctx, 1, False
params.cpuparams.n_threads = os.cpu_count()
if "fit" in how:
    params.fit_params = how["fit"]
if "lazy" in how:
    params.lazy_mode = xllamacpp.llama_lazy_mode.LLAMA_LAZY_MODE_ON
server = xllamacpp.Server(params)
start = time.perf_counter()
answer = server.handle_completions({"prompt": "The capital of France is", "max_tokens": tokens, "temperature": 0.0,
                                    "ignore_eos": True})
seconds = time.perf_counter() - start
timings = answer.get("timings", {})
print(json.dumps([timings.get("predicted_per_second") or tokens / seconds, seconds]))
"""


LOCK = """
import os, sys
path, budget, group = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if group:
    open(group + "/cgroup.procs", "w").write(str(os.getpid()))
import resource
try:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
except (ValueError, OSError):
    pass
import srd_rs
hydrator = srd_rs.Hydrator(path)
print(hydrator.hydrate("HARM", budget=budget, lock=True).locked_bytes, flush=True)
sys.stdin.read()
"""


def control_group(limit: int) -> Path | None:
    """A new control group with a limit of memory; None where none can be made."""
    for root, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"placement-{os.getpid()}"
        try:
            group.mkdir(exist_ok=True)
            (group / name).write_text(str(limit))
        except OSError:
            continue
        return group
    return None


def locked(model: Path, budget: int, group: Path | None) -> subprocess.Popen[str] | None:
    """A process that holds the bytes of the model that tokens read most in memory, until its input is closed.

    None where so much memory may not be locked (`ulimit -l`).
    """
    words = [sys.executable, "-c", LOCK, str(model), str(budget), str(group or "")]
    holder = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert holder.stdout is not None
    return holder if holder.stdout.readline() else None


def run(
    model: Path, how: dict[str, bool], group: Path | None, ctx: int, tokens: int, lock: int = 0
) -> tuple[float, int] | None:
    """Tokens per second, and the bytes of the file that are in memory afterwards.

    lock: bytes to hold there. None where they may not be locked.
    """
    with srd_rs.Hydrator(model) as hydrator:
        hydrator.evict()
        holder = locked(model, lock, group) if lock else None
        if lock and holder is None:
            return None
        words = [str(model), str(ctx), str(tokens), json.dumps(how), str(group or "")]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=False
        )
        if holder is not None:
            holder.communicate()
        if done.returncode != 0:
            sys.exit(f"error: {model}: {how}: {done.stderr[-2000:]}")
        speed, _ = json.loads(done.stdout.splitlines()[-1])
        return speed, sum(part.resident_bytes or 0 for part in hydrator.residency())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", metavar="MODEL.gguf", nargs="+", type=Path)
    parser.add_argument("--limit", type=float, default=0.8, help="memory limit as a share of the file")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate")
    parser.add_argument("--ctx", type=int, default=512, help="tokens of the context")
    parser.add_argument("--engine", type=int, default=400, help="MiB that the engine needs beside the file")
    args = parser.parse_args()
    print("| model | size, MB | limit, MB | arguments | tokens/s | resident, MB | bound, tokens/s |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for model in args.models:
        size = sum(p.stat().st_size for p in [model])
        limit = int(size * args.limit)
        placed = srd_rs.place(model, ram=1 << 40, ctx=args.ctx)
        short = srd_rs.place(model, ram=limit, ctx=args.ctx, ram_bandwidth=1e9)
        ours = {"fit": False} | ({"lazy": True} if "--lazy-mode" in short.arguments else {})
        bound = placed.tokens_per_second[0] if placed.tokens_per_second else float("nan")
        group = control_group(limit)
        rows = [("defaults", {}, 0), ("--fit on", {"fit": True}, 0), ("met --for llama-server", ours, 0)]
        budget = limit - (args.engine << 20)
        if budget > 0:
            rows.append(("the same, and hydrate --lock", ours, budget))
        for name, how, lock in rows:
            measured = run(model, how, group, args.ctx, args.tokens, lock)
            if measured is None:
                print(f"{model.name}: {lock >> 20} MiB may not be locked here (ulimit -l)", file=sys.stderr)
                continue
            speed, resident = measured
            shown = f"{limit / 1e6:.0f}" if group else "none could be set"
            cells = (model.name, f"{size / 1e6:.0f}", shown, name, f"{speed:.2f}", f"{resident / 1e6:.0f}")
            print(f"| {' | '.join(cells)} | {bound:.1f} |", flush=True)
        if group:
            time.sleep(0.5)
            group.rmdir()


if __name__ == "__main__":
    main()
