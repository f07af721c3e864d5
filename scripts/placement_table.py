#!/usr/bin/env python3
"""Print tokens/s of llama-server and llama-cpp-python under a limit of memory: by default, with --fit, and as
`srd-rs met --for` says.

    sudo python scripts/placement_table.py MODEL.gguf [MODEL.gguf ...] [--limit 0.6] [--tokens 16] [--ctx 512]

Each run is a process of its own in a control group (v1 or v2), and the file is taken out of the page cache before.
What an engine needs beside the file is measured in a first run without a limit, whose weights stay in the file. The
limit is that and a share (--limit) of the file, and it is the same in all rows of an engine but the first one, which
has none.
"killed" says that the process needed more than the limit. "from disk" is what the process read from the disk for each
token after the first one, and "resident" is what lies in memory of the file after the first token and after the last
one. In the rows with "lock" the process holds what tokens read most (`srd_rs.Hydrator`: hottest experts first) in 0.9
of the memory for the file before the engine loads the file, and "expected" is what `srd_rs.place` says of it: bytes
from the disk, for a mixture of experts for text that uses the experts as the calibration does and for text that uses
all of them equally, and tokens/s with the bandwidths that are measured in the beginning (that of the memory, and that
of the disk by reading the file). The first row has the tokens/s that `srd_rs.place` expects without a limit. Tokens
are drawn at temperature 1, so that the text does not repeat. How much the system reads ahead of a page counts
(/sys/block/*/queue/read_ahead_kb), so the script prints it. Needs xllamacpp, which is llama-server in a process,
llama-cpp-python, and the rights to make a control group; without them the runs have no limit, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import srd_rs
from srd_rs.placement import measure_bandwidth, read_ahead_of

CHILD = """
import json, os, resource, sys, time
path, ctx, tokens, how, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]), sys.argv[5]
if group:
    open(group + "/cgroup.procs", "w").write(str(os.getpid()))
import srd_rs
watch = srd_rs.Hydrator(path)
if how["lock"]:
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        pass
    try:
        watch.hydrate("HARM", budget=how["lock"], lock=True)
    except srd_rs.errors.SrdIOError as error:
        sys.exit(f"not locked: {error}")
prompt = "The capital of France is"

def resident():
    return sum(part.resident_bytes or 0 for part in watch.residency())

def read():
    return int(dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())["read_bytes"])

if how["engine"] == "llama-server":
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = path, ctx, 1, False
    params.cpuparams.n_threads = how["threads"]
    if "fit" in how:
        params.fit_params = how["fit"]
    params.no_extra_bufts = "no-repack" in how
    if "lazy" in how:
        params.lazy_mode = xllamacpp.llama_lazy_mode.LLAMA_LAZY_MODE_ON
    server = xllamacpp.Server(params)

    def ask(n):
        server.handle_completions({"prompt": prompt, "max_tokens": n, "temperature": 1.0, "seed": 1,
                                   "ignore_eos": True, "cache_prompt": True})

    ask(1)
    first, before, start = resident(), read(), time.perf_counter()
    ask(tokens)
else:
    from llama_cpp import Llama, llama_cpp
    if "no-repack" in how:  # no argument of Llama
        default = llama_cpp.llama_model_default_params

        def changed():
            params = default()
            params.use_extra_bufts = False
            return params

        llama_cpp.llama_model_default_params = changed
    given = how["keywords"] or {"model_path": path, "n_ctx": ctx}
    llm = Llama(**given, n_threads=how["threads"], seed=1, verbose=False)
    drawn = llm.generate(llm.tokenize(prompt.encode()), temp=1.0, top_k=40)
    next(drawn)
    first, before, start = resident(), read(), time.perf_counter()
    for _ in range(tokens):
        next(drawn)
seconds = time.perf_counter() - start
anon = 0
if group:
    facts = dict(line.split() for line in open(group + "/memory.stat").read().splitlines())
    anon = int(facts.get("rss") or facts.get("anon") or 0)
print(json.dumps([tokens / seconds, (read() - before) / tokens, first, resident(), anon]), flush=True)
os._exit(0)
"""


def control_group() -> tuple[Path, str] | None:
    """A new control group and the name of its limit of memory; None where none can be made."""
    for root, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"placement-{os.getpid()}"
        try:
            group.mkdir(exist_ok=True)
            (group / name).write_text(str(1 << 50))
        except OSError:
            continue
        return group, name
    return None


def run(
    model: Path, how: dict[str, Any], group: Path | None, ctx: int, tokens: int
) -> tuple[float, float, int, int, int] | None:
    """Tokens per second, bytes from the disk for a token, resident bytes after the first and the last token, and the
    memory that is no page of a file. None where so much memory may not be locked (`ulimit -l`). Raises MemoryError for
    a process that was killed for want of memory."""
    with srd_rs.Hydrator(model) as hydrator:
        hydrator.evict()
    words = [str(model), str(ctx), str(tokens), json.dumps(how), str(group or "")]
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=False)
    if "not locked" in done.stderr:
        return None
    if done.returncode == -signal.SIGKILL:
        raise MemoryError(how)
    if done.returncode != 0:
        sys.exit(f"error: {model}: {how}: ended with {done.returncode}: {done.stderr[-2000:]}")
    speed, read, first, last, anon = json.loads(done.stdout.splitlines()[-1])
    return speed, read, first, last, anon


def disk_bandwidth(model: Path) -> float:
    """Bytes per second of the disk: the beginning of the file is read, which was taken out of the page cache."""
    with srd_rs.Hydrator(model) as hydrator:
        hydrator.evict()
    start, count = time.perf_counter(), 0
    with model.open("rb", buffering=0) as file:
        while count < 1 << 30 and (piece := file.read(4 << 20)):
            count += len(piece)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", metavar="MODEL.gguf", nargs="+", type=Path)
    parser.add_argument(
        "--limit", type=float, default=0.6, help="memory for the file, as a share of the file"
    )
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate after the first one")
    parser.add_argument("--ctx", type=int, default=512, help="tokens of the context")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the engine")
    parser.add_argument("--rows", default="", help="only the rows whose names have one of these texts (A;B)")
    args = parser.parse_args()
    print("| model | size, MB | limit, MB | engine and arguments | tokens/s | expected | from disk, MB/token"
          " | expected | resident at first token, MB | at the end |")  # fmt: skip
    print(f"| --- | ---: | ---: | --- {'| ---: ' * 6}|")
    made = control_group()
    only = [word for word in args.rows.split(";") if word]
    for model in args.models:
        size = model.stat().st_size
        room = int(size * args.limit)
        kept = int(room * 0.9)
        memory_rate, disk_rate = measure_bandwidth(2.0, args.threads), disk_bandwidth(model)
        ahead = read_ahead_of(model) >> 10
        rates = f"memory {memory_rate / 1e9:.1f} GB/s, disk {disk_rate / 1e9:.2f} GB/s"
        print(f"{model.name}: {ahead} KiB are read ahead; {rates}", file=sys.stderr)
        place = partial(
            srd_rs.place, model, ctx=args.ctx, ram_bandwidth=memory_rate, disk_bandwidth=disk_rate
        )
        placed = place(ram=1 << 40)
        buffers = placed.cpu.kv_cache + placed.cpu.compute
        short, locked = place(ram=room + buffers), place(ram=kept + buffers)
        keywords = dict(place(engine="llama-cpp-python", ram=1 << 40).keywords)
        alike = {"lock": 0, "threads": args.threads}
        server, python = {"engine": "llama-server", **alike}, {"engine": "llama-cpp-python", **alike}
        ours = {**server, "fit": False}
        if "--lazy-mode" in short.arguments:
            ours["lazy"] = True
        if "--no-repack" in short.arguments:
            ours["no-repack"] = True
        named = {**python, "keywords": keywords}
        rows: list[tuple[str, dict[str, Any]]] = [
            ("llama-server, no limit", {**server, "no limit": True}),
            ("llama-server, defaults", server),
            ("llama-server, --fit on", {**server, "fit": True}),
            ("llama-server, met --for", ours),
            # Copies of the weights have no room beside the lock.
            ("llama-server, met --for, lock", {**ours, "lock": kept, "no-repack": True}),
            ("llama-cpp-python, defaults", {**python, "keywords": None}),
            ("llama-cpp-python, met --for", named),
            ("llama-cpp-python, met --for, lock", {**named, "lock": kept}),
        ]
        bytes_expected = ""
        if locked.experts is not None:
            low, high = locked.experts.read_bytes
            bytes_expected = f"{low / 1e6:.2f} to {high / 1e6:.2f}"
        elif not locked.fits:
            bytes_expected = f"{max(locked.cpu.token_bytes - kept, 0) / 1e6:.2f}"
        limits = {}
        for how in (server, {**python, "keywords": None}) if made is not None else ():
            (made[0] / made[1]).write_text(str(1 << 50))
            free = run(model, {**how, "no-repack": True}, made[0], args.ctx, 1)
            assert free is not None
            time.sleep(0.2)
            limits[how["engine"]] = free[4] + room
        for name, how in rows:
            if only and not any(word in name for word in only):
                continue
            limit = None if "no limit" in how else limits.get(how["engine"])
            if made is not None:
                (made[0] / made[1]).write_text(str(limit or 1 << 50))
            about = placed if limit is None else locked
            speeds = about.tokens_per_second if how["lock"] or "no limit" in how else None
            try:
                measured = run(model, how, made[0] if made is not None else None, args.ctx, args.tokens)
            except MemoryError:
                found = ["killed", "", "", "", "", ""]
            else:
                if measured is None:
                    print(
                        f"{model.name}: {kept >> 20} MiB may not be locked here (ulimit -l)", file=sys.stderr
                    )
                    continue
                speed, read, first, last, _ = measured
                found = [
                    f"{speed:.2f}", "" if speeds is None else f"{speeds[0]:.2f}",
                    f"{read / 1e6:.2f}", bytes_expected if how["lock"] else "",
                    f"{first / 1e6:.0f}", f"{last / 1e6:.0f}",
                ]  # fmt: skip
            shown = "none" if limit is None else f"{limit / 1e6:.0f}"
            print(f"| {' | '.join([model.name, f'{size / 1e6:.0f}', shown, name, *found])} |", flush=True)
            time.sleep(0.2)
    if made is not None:
        made[0].rmdir()


if __name__ == "__main__":
    main()
