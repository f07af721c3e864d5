#!/usr/bin/env python3
"""Print the perplexity of GGUFs on a text, computed as llama-perplexity computes it.

    python scripts/perplexity.py TEXT GGUF... [--chunks 40] [--ctx 512] [--threads N]

Needs the extra `srd-rs[eval]` (llama-cpp-python).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from srd_rs.eval.perplexity import perplexity


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("gguf", type=Path, nargs="+")
    parser.add_argument(
        "--chunks", type=int, default=0, help="how many chunks, from the start (default: all)"
    )
    parser.add_argument("--ctx", type=int, default=512, help="tokens in a chunk")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    base = None
    for gguf in args.gguf:
        start = time.monotonic()
        result = perplexity(gguf, args.text, n_chunks=args.chunks, n_ctx=args.ctx, threads=args.threads)
        base = base or result.value
        print(
            f"{gguf.name}: perplexity {result.value:.4f} +- {result.error:.4f}"
            f" ({result.value / base - 1:+.3%} of the first), {result.n_chunks} chunks of {args.ctx},"
            f" {time.monotonic() - start:.1f} s"
        )


if __name__ == "__main__":
    main()
