#!/usr/bin/env python3
"""Print the time to the first token of llama-cpp-python: cold, hydrated for an intent, and warm.

    python scripts/met_first_token.py model.gguf [--runs 3] [--threads N]

Every measurement is a process of its own, and the page cache is prepared before it. "load" is the time of
`Llama(...)`, which maps the file; "first token" is the time from there to the first token of a short prompt. The time
of the hydration is shown separately, because hydration happens before the request. The values are medians. Needs
llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from srd_rs import Hydrator

STATES = ("cold", "INFORM", "CLARIFY", "HARM", "warm")

CHILD = """
import json, sys, time
from llama_cpp import Llama
path, threads = sys.argv[1], int(sys.argv[2]) or None
start = time.perf_counter()
llm = Llama(path, n_ctx=256, n_threads=threads, n_threads_batch=threads, use_mmap=True, verbose=False)
loaded = time.perf_counter()
tokens = llm.tokenize(b"The capital of France is")
next(llm.generate(tokens, temp=0.0))
done = time.perf_counter()
print(json.dumps([loaded - start, done - loaded]))
"""


def first_token(path: Path, threads: int) -> list[float]:
    """Seconds of [load, first token] in a new process."""
    command = [sys.executable, "-c", CHILD, str(path), str(threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds: list[float] = json.loads(out.splitlines()[-1])
    return seconds


def prepare(path: Path, state: str) -> tuple[float, float]:
    """Put the page cache into a state; returns (seconds of hydration, resident share)."""
    with Hydrator(path) as hydrator:
        hydrator.evict()
        seconds = 0.0
        if state != "cold":
            seconds = hydrator.hydrate("HARM" if state == "warm" else state).seconds
        parts = hydrator.residency()
        return seconds, sum(p.resident_bytes or 0 for p in parts) / sum(p.bytes for p in parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    first_token(args.gguf, args.threads)  # so that the libraries are in memory
    samples: dict[str, list[tuple[float, ...]]] = {state: [] for state in STATES}
    for _ in range(args.runs):
        for state in STATES:
            before = prepare(args.gguf, state)
            if state == "warm":
                first_token(args.gguf, args.threads)
            samples[state].append((*before, *first_token(args.gguf, args.threads)))
    print("state    resident %  hydration s  load s  first token s  load + first token s")
    for state, rows in samples.items():
        hydration, share, load, token = (statistics.median(column) for column in zip(*rows, strict=True))
        both = statistics.median(row[2] + row[3] for row in rows)
        ahead = "" if state in ("cold", "warm") else f"{hydration:.2f}"
        print(f"{state:8} {100 * share:10.1f}  {ahead:>11}  {load:6.2f}  {token:13.2f}  {both:20.2f}")


if __name__ == "__main__":
    main()
