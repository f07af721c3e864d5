#!/usr/bin/env python3
"""Print how time and memory of a conversion grow with the size of the model and the number of threads.

    python scripts/scaling.py [--sizes 0.5,1,2,5] [--threads 1,2] [--repeat 3]

The script writes Llama-shaped checkpoints of that many billion random weights (BF16, 2 bytes per weight) and converts
each to Q4_K_M with each number of threads in turn, without container and sidecar. It prints a Markdown table of the
medians: wall and CPU seconds, weights per second, and the peak memory VmHWM.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
TOKENIZER = REPO / "examples" / "wiki-gemma4"
MEASURE = Path(__file__).resolve().parent / "measure.py"
HIDDEN, FFN, HEADS, KV_HEADS, VOCAB = 2048, 8192, 16, 4, 4096
PER_LAYER = HIDDEN * (2 * HIDDEN + 2 * HIDDEN * KV_HEADS // HEADS + 3 * FFN)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    kv = HIDDEN * KV_HEADS // HEADS
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(layers):
        for name, shape in (
            ("self_attn.q_proj", (HIDDEN, HIDDEN)),
            ("self_attn.k_proj", (kv, HIDDEN)),
            ("self_attn.v_proj", (kv, HIDDEN)),
            ("self_attn.o_proj", (HIDDEN, HIDDEN)),
            ("mlp.gate_proj", (FFN, HIDDEN)),
            ("mlp.up_proj", (FFN, HIDDEN)),
            ("mlp.down_proj", (HIDDEN, FFN)),
            ("input_layernorm", (HIDDEN,)),
            ("post_attention_layernorm", (HIDDEN,)),
        ):
            yield f"model.layers.{i}.{name}.weight", shape
    yield "model.norm.weight", (HIDDEN,)


def make_checkpoint(folder: Path, billions: float) -> int:
    """Write a checkpoint of about that many weights; returns how many it has."""
    folder.mkdir(parents=True)
    layers = max(1, round(billions * 1e9 / PER_LAYER))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    header, offset = {}, 0
    for name, shape in shapes(layers):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = np.random.default_rng(0).standard_t(6, 1 << 24).astype(np.float32) * np.float32(0.02)
    pool = memoryview((noise.view(np.uint32) >> 16).astype("<u2").tobytes())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, offset, len(pool)):
            file.write(pool[: min(len(pool), offset - start)])
    return offset // 2


def convert(folder: Path, threads: int, work: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "srd_rs", "convert", str(folder), "-o", str(work / "out.gguf"), "-f"]
    command += ["--threads", str(threads), "--json", "--fast", "--no-met", "--no-axm"]
    result = work / "figures.json"
    subprocess.run(
        [sys.executable, "-S", "-E", str(MEASURE), str(result), "3600", *command],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    figures: dict[str, float] = json.loads(result.read_text())
    if figures["code"] != 0:
        sys.exit(f"error: {' '.join(command)}: exit code {figures['code']}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="0.5,1,2,5", help="billions of weights")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for checkpoints and outputs, removed again")
    args = parser.parse_args()
    print("| weights | threads | wall s | CPU s | M weights/s | VmHWM MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in map(float, args.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=args.work) as name:
            work = Path(name)
            count = make_checkpoint(work / "model", size)
            counts = [int(n) for n in args.threads.split(",")]
            runs: dict[int, list[dict[str, float]]] = {n: [] for n in counts}
            for _ in range(args.repeat):
                for n in counts:
                    runs[n].append(convert(work / "model", n, work))
            for n in counts:
                wall, cpu, rss = (
                    statistics.median(r[k] for r in runs[n]) for k in ("wall_s", "cpu_s", "peak_rss")
                )
                rate = f"{wall:.1f} | {cpu:.1f} | {count / wall / 1e6:.0f}"
                print(f"| {count / 1e9:.2f} G | {n} | {rate} | {rss / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
