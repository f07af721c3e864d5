#!/usr/bin/env python3
"""Generate text from a GGUF with llama.cpp, to see that llama.cpp runs the model.

    python scripts/generate.py GGUF PROMPT [-n 40] [--threads 2]

Needs `xllamacpp`, a prebuilt llama.cpp, which the extra `test` installs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def generate(gguf: str | Path, prompt: str, n_tokens: int, threads: int) -> str:
    """What llama.cpp's server completes `prompt` with (a fixed seed: the same text every time)."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = 512
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = 0
    server = xllamacpp.Server(params)
    answer = server.handle_completions(
        {"prompt": prompt, "max_tokens": n_tokens, "seed": 1, "temperature": 0.7, "repeat_penalty": 1.15}
    )
    return str(answer["choices"][0]["text"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("--threads", type=int, default=2, help="threads of llama.cpp")
    parser.add_argument("-n", type=int, default=40, help="tokens to generate")
    args = parser.parse_args()
    if not args.gguf.is_file():
        print(f"error: {args.gguf}: no such file. Make it with: srd-rs convert", file=sys.stderr)
        return 1
    print(args.prompt + generate(args.gguf, args.prompt, args.n, args.threads), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
