#!/usr/bin/env python3
"""Write a GGUF with the experts of each layer in the order of their heat, for the measurement of decision 0015.

    python scripts/expert_order.py MODEL.gguf OUT.gguf

The heat is that of the sidecar beside MODEL.gguf (`expert_heat`), so the model has to be calibrated. The stacks of the
experts, the rows of the router and its biases are permuted together; no weight is changed. OUT.gguf gets a sidecar with
the permuted heat. The script prints how far the probabilities of the next token differ from those of MODEL.gguf in
llama-cpp-python, and of how many pieces of 128 KiB the hottest experts are that serve 90 % of the reads. Needs
llama-cpp-python and gguf; both files have to have the experts that MODEL.gguf has, without groups.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from llama_cpp import Llama

from srd_rs.hydration import sidecar_path

PIECE = 128 << 10
ROUTERS = ("ffn_gate_inp.weight", "ffn_gate_inp.bias", "exp_probs_b.bias")
TEXT = b"The history of the town began in the year 1234, when the first church was built on the river."


def permuted(source: Path, target: Path) -> None:
    """Copy a GGUF and its sidecar, with the experts of each layer in the order of their heat."""
    sidecar = json.loads(sidecar_path(source).read_text())
    heat = sidecar["expert_heat"]["layers"]
    n = sidecar["moe"]["num_experts"]
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        for tensor in GGUFReader(source).tensors:
            _, layer, rest, *_ = (*tensor.name.split(".", 2), "", "")
            if layer not in heat or not ("_exps." in rest or rest in ROUTERS):
                continue
            order = np.argsort(-np.array(heat[layer]), kind="stable")
            data = np.frombuffer(tensor.data.tobytes(), np.uint8).reshape(n, -1)
            file.seek(int(tensor.data_offset))
            file.write(data[order].tobytes())
    for layer, counts in heat.items():
        heat[layer] = sorted(counts, reverse=True)
    sidecar["file"]["sha256"] = None
    sidecar["file"]["name"] = target.name
    sidecar_path(target).write_text(json.dumps(sidecar))


def pieces(path: Path) -> tuple[int, int]:
    """Of how many pieces the hottest experts are, which serve 90 % of the reads, and their bytes."""
    sidecar = json.loads(sidecar_path(path).read_text())
    n, found = sidecar["moe"]["num_experts"], []
    for name, facts in sidecar["tensors"].items():
        counts = sidecar["expert_heat"]["layers"].get(name.split(".")[1]) if "_exps." in name else None
        for expert, used in enumerate(counts or []):
            size = facts["bytes"] // n
            found.append((used, facts["offset"] + expert * size, size))
    found.sort(key=lambda item: (-item[0], item[1]))
    every, served, total, touched = sum(used * size for used, _, size in found), 0, 0, set()
    for used, start, size in found:
        if served >= 0.9 * every:
            break
        served, total = served + used * size, total + size
        touched |= set(range(start // PIECE, (start + size - 1) // PIECE + 1))
    return len(touched), total


def probabilities(path: Path) -> np.ndarray:
    llm = Llama(str(path), n_ctx=256, logits_all=True, verbose=False)
    llm.eval(llm.tokenize(TEXT))
    scores = np.array(llm.scores[: llm.n_tokens], np.float64)
    scores -= scores.max(-1, keepdims=True)
    found: np.ndarray = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL.gguf", type=Path)
    parser.add_argument("output", metavar="OUT.gguf", type=Path)
    args = parser.parse_args()
    permuted(args.model, args.output)
    difference = np.abs(probabilities(args.model) - probabilities(args.output)).max()
    print(f"largest difference of a probability: {difference:.2g}")
    for path in (args.model, args.output):
        count, total = pieces(path)
        print(f"{path.name}: {total / 1e6:.2f} MB of experts serve 90 % of the reads, and lie in"
              f" {count} pieces of 128 KiB ({count * PIECE / 1e6:.2f} MB)")  # fmt: skip


if __name__ == "__main__":
    main()
