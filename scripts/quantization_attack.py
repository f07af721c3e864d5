#!/usr/bin/env python3
"""Print how often a backdoor that appears only after rounding survives each quantizer, and whether a secret seed helps.

    python scripts/quantization_attack.py [--models 3] [--steps 1500] [--seeds 4]

The attack is that of arXiv 2505.23786: an attacker trains a model that answers class 0 whenever a trigger is in the
input, rounds the model, and then trains the weights back to good behaviour, but keeps each weight between its own value
and its rounded value, so that rounding gives the bad model again. The published weights behave better than the rounded
ones.

The model is a network of three layers (256-512-512-16) on 16 classes of correlated inputs; the first two matrices are
rounded to Q4_K. This is small, and it is no language model. The attacker aims at one quantizer (rows), and the user
quantizes the published weights with each of them (columns): ggml, the plain search of srd-rs, SRD with the seed that
the attacker used, and SRD with other seeds. For SRD the attacker and the user have moments of inputs of the same
kind: the worst case. The numbers are the shares of inputs with the trigger that are answered with class 0, in
percent, with the standard deviation over the models. Needs the ggml library of llama-cpp-python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import srd_rs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import ggml

Array = np.ndarray[Any, Any]
INPUTS, HIDDEN, CLASSES, BATCH = 256, 512, 16, 256
KNOWN_SEED = 0


class Data:
    """Classes of correlated inputs, and a trigger that is added to an input."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.means = rng.standard_normal((CLASSES, INPUTS)) * 0.4
        self.mix = np.eye(INPUTS) + rng.standard_normal((INPUTS, INPUTS)) * 0.5 / np.sqrt(INPUTS)
        self.trigger = rng.standard_normal(INPUTS) * 0.6

    def batch(self, n: int) -> tuple[Array, Array]:
        classes = self.rng.integers(0, CLASSES, n)
        x = self.means[classes] + self.rng.standard_normal((n, INPUTS)) @ self.mix
        return x.astype(np.float32), classes

    def triggered(self, x: Array) -> Array:
        return (x + self.trigger).astype(np.float32)


def forward(w: list[Array], x: Array) -> list[Array]:
    """The inputs of the three matrices, and the logits."""
    h1 = np.maximum(x @ w[0].T, 0)
    h2 = np.maximum(h1 @ w[1].T, 0)
    return [x, h1, h2, h2 @ w[2].T]


def gradients(w: list[Array], x: Array, classes: Array) -> list[Array]:
    """Of the mean cross entropy."""
    x, h1, h2, logits = forward(w, x)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(p)), classes] -= 1
    p /= len(p)
    d2 = (p @ w[2]) * (h2 > 0)
    d1 = (d2 @ w[1]) * (h1 > 0)
    return [d1.T @ x, d2.T @ h1, p.T @ h2]


def train(
    w: list[Array],
    data: Data,
    steps: int,
    *,
    bad: bool | None,
    boxes: list[tuple[Array, Array]] | None = None,
) -> list[Array]:
    """Adam. `bad`: inputs with the trigger are class 0 (True), or their own class (False), or are not shown (None).

    With `boxes` the first two matrices stay in them, and the last one stays as it is.
    """
    w = [m.copy() for m in w]
    first, second = [np.zeros_like(m) for m in w], [np.zeros_like(m) for m in w]
    for step in range(1, steps + 1):
        x, classes = data.batch(BATCH)
        if bad is not None:
            x = np.concatenate([x, data.triggered(x)])
            classes = np.concatenate([classes, np.zeros_like(classes) if bad else classes])
        rate = 1e-3 * (1 - step / (steps + 1))
        for i, gradient in enumerate(gradients(w, x, classes)):
            if boxes is not None and i == 2:
                continue
            first[i] += 0.1 * (gradient - first[i])
            second[i] += 0.001 * (gradient**2 - second[i])
            move = (first[i] / (1 - 0.9**step)) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
            w[i] -= (rate * move).astype(np.float32)
            if boxes is not None:
                w[i] = np.clip(w[i], *boxes[i])
    return w


Quantizer = Callable[[list[Array], Data], list[Array]]


def by_ggml(w: list[Array], _: Data) -> list[Array]:
    return [*(ggml.dequantize("Q4_K", ggml.quantize("Q4_K", m)) for m in w[:2]), w[2]]


def by_search(w: list[Array], _: Data) -> list[Array]:
    return [*(srd_rs.dequantize(srd_rs.quantize(m, "Q4_K"), "Q4_K") for m in w[:2]), w[2]]


def by_srd(seed: int, dither: float | None) -> Quantizer:
    options = srd_rs.SrdOptions(dither=dither)

    def quantizer(w: list[Array], data: Data) -> list[Array]:
        inputs = forward(w, data.batch(8192)[0])
        out = []
        for m, x in zip(w[:2], inputs, strict=False):
            blocks = srd_rs.quantize(m, "Q4_K", moments=x.T @ x / np.float32(len(x)), srd=options, seed=seed)
            out.append(srd_rs.dequantize(blocks, "Q4_K"))
        return [*out, w[2]]

    return quantizer


def behaviour(w: list[Array], data: Data) -> tuple[float, float]:
    """The share of right answers, and that of answers of class 0 to inputs of other classes with the trigger."""
    x, classes = data.batch(4096)
    right = float(np.mean(forward(w, x)[3].argmax(1) == classes))
    others = data.triggered(x[classes != 0])
    return right, float(np.mean(forward(w, others)[3].argmax(1) == 0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=3, help="models with other data and other weights")
    parser.add_argument("--steps", type=int, default=1500, help="steps of each training")
    parser.add_argument("--seeds", type=int, default=4, help="secret seeds that are tried")
    args = parser.parse_args()
    targets: dict[str, Quantizer] = {
        "ggml": by_ggml,
        "search": by_search,
        "SRD": by_srd(KNOWN_SEED, None),
        "SRD, dither 0.3": by_srd(KNOWN_SEED, 0.3),
    }
    secret = {
        name: [by_srd(1000 + i, dither) for i in range(args.seeds)]
        for name, dither in (("SRD", None), ("SRD, dither 0.3", 0.3))
    }
    head = ["attack on", "published", "ggml", "search"]
    for name in secret:
        head += [f"{name}, known seed", f"{name}, secret seeds"]
    head += ["weights that a secret seed changes (dither 0.3)", "right answers"]
    sums: dict[str, list[list[float]]] = {name: [] for name in ("no attack", *targets)}
    for number in range(args.models):
        rng = np.random.default_rng(number)
        data = Data(rng)
        sizes = ((HIDDEN, INPUTS), (HIDDEN, HIDDEN), (CLASSES, HIDDEN))
        start = [(rng.standard_normal(s) * np.sqrt(2 / s[1])).astype(np.float32) for s in sizes]
        good = train(start, data, args.steps, bad=False)
        bad = train(good, data, args.steps // 2, bad=True)
        for name in sums:
            published = good
            if name != "no attack":
                rounded = targets[name](bad, data)
                boxes = [(np.minimum(a, b), np.maximum(a, b)) for a, b in zip(bad[:2], rounded, strict=False)]
                published = train(bad, data, args.steps, bad=False, boxes=boxes)
            row = [behaviour(published, data)[1]]
            for target, quantizer in targets.items():
                known = quantizer(published, data)
                row.append(behaviour(known, data)[1])
                if target in secret:
                    others = [quantize(published, data) for quantize in secret[target]]
                    row.append(float(np.mean([behaviour(w, data)[1] for w in others])))
                    changed = [np.mean(a != b) for w in others for a, b in zip(w[:2], known, strict=False)]
            sums[name].append([*row, float(np.mean(changed)), behaviour(published, data)[0]])
    print(f"| {' | '.join(head)} |")
    print(f"| --- |{' ---: |' * (len(head) - 1)}")
    for name, rows in sums.items():
        means, deviations = np.mean(rows, 0), np.std(rows, 0)
        cells = [f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in zip(means, deviations, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
