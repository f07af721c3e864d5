#!/usr/bin/env python3
"""What SRD gains when it quantizes each matrix for the inputs that the quantized model gives it. A prototype.

    python scripts/asymmetric_target.py MODEL.gguf CALIBRATION_TEXT TEXT... [--tokens 8192] [--chunks 8]
        [--settings 0,0 0.5,0.5 0.5,0.5,layer] [--quant Q4_K_M]

Two streams of the same tokens run layer by layer: the original model, and the model whose earlier matrices are
quantized. Let x and y be the inputs of a matrix W in the two streams, h and g the residual streams that its output is
added to, and H = E[y y^T] with its entries off the diagonal shrunk. Then W is replaced by

    W + alpha W E[(x - y) y^T] H^-1 + beta E[(h - g) y^T] H^-1

and quantized by SRD under H. The second term is that of GPTAQ (Li et al. 2025). The third is for the matrices whose
output is added to the residual stream: they undo a part of the error that is already there. A setting is `alpha,beta`;
`0,0` is SRD as it is: W under the moments of x. With `,layer` the inputs y of a whole layer are those before any matrix
of this layer is quantized.

Prints the KLD on each text, beside that of the first setting. MODEL is a BF16 or F32 GGUF of the architecture llama
without biases and with a tied embedding. The script needs torch and gguf.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import forward_kld
from srd_rs import ConvertOptions, SrdOptions, _core, calibration, planning

CTX = 512
SHRINKAGE = 0.3
DAMPING = 1e-3
AT_A_TIME = 2
"""Chunks that are judged together."""
ATTENTION, FEED = ("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up")
Weights = dict[str, Tensor]


def decoded(model: Path) -> Weights:
    """All tensors of a GGUF whose types are BF16 and F32."""
    tensors = {}
    for tensor in gguf.GGUFReader(model).tensors:
        data = np.asarray(tensor.data)
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            data = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        shape = [int(n) for n in reversed(tensor.shape)]
        tensors[tensor.name] = torch.from_numpy(np.array(data, np.float32).reshape(shape))
    return tensors


class Llama:
    """The arithmetic of the model, on rows of activations of whole chunks."""

    def __init__(self, model: Path, metadata: dict[str, Any]) -> None:
        def get(key: str) -> Any:
            return metadata[f"llama.{key}"]

        self.weights = decoded(model)
        self.layers, self.heads = get("block_count"), get("attention.head_count")
        self.kv_heads, self.eps = get("attention.head_count_kv"), get("attention.layer_norm_rms_epsilon")
        n = get("embedding_length") // self.heads
        angles = torch.arange(CTX)[:, None] * get("rope.freq_base") ** (-torch.arange(0, n, 2) / n)
        self.cos, self.sin = angles.cos()[:, None], angles.sin()[:, None]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weights[f"{name}.weight"]

    def rotated(self, x: Tensor) -> Tensor:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1).flatten(-2)

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def split(w: Tensor, heads: int) -> Tensor:
            return (x @ w.T).view(-1, CTX, heads, w.shape[0] // heads)

        repeats = self.heads // self.kv_heads
        keys = self.rotated(split(k, self.kv_heads)).repeat_interleave(repeats, 2)
        values = split(v, self.kv_heads).repeat_interleave(repeats, 2)
        parts = [y.transpose(1, 2) for y in (self.rotated(split(q, self.heads)), keys, values)]
        sums = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return sums.transpose(1, 2).reshape(len(x), -1)

    def log_probabilities(self, weights: Weights, chunks: np.ndarray) -> Tensor:
        """Those of the second half of each chunk, with other matrices."""
        x = weights["token_embd.weight"][torch.from_numpy(chunks).flatten()]
        for layer in range(self.layers):
            w = {name: weights[f"blk.{layer}.{name}.weight"] for name in MATRICES}
            x = (
                x
                + self.attend(self.norm(x, f"blk.{layer}.attn_norm"), *(w[n] for n in ATTENTION))
                @ w["attn_output"].T
            )
            y = self.norm(x, f"blk.{layer}.ffn_norm")
            x = x + (functional.silu(y @ w["ffn_gate"].T) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
        x = self.norm(x, "output_norm").view(len(chunks), CTX, -1)[:, CTX // 2 : CTX - 1].flatten(0, 1)
        return torch.log_softmax(x @ weights["token_embd.weight"].T, -1)


MATRICES = (*ATTENTION, "attn_output", *FEED, "ffn_down")


@dataclass
class Setting:
    """One way to quantize, with the residual stream of the model that it has quantized so far."""

    name: str
    stream: Tensor
    types: dict[str, str]
    matrices: Weights = field(default_factory=dict)

    def __post_init__(self) -> None:
        alpha, beta, *rest = self.name.split(",")
        self.alpha, self.beta, self.whole_layer = float(alpha), float(beta), rest == ["layer"]

    def quantize(self, of: Weights, names: list[str], x: Tensor, y: Tensor, error: Tensor | None) -> None:
        """Quantizes matrices whose inputs are `x` in the original and `y` in this model. `error` is what the residual
        stream of the original has more."""
        is_asymmetric = self.alpha or self.beta
        h = shrunk(y if is_asymmetric else x)
        wanted = {name: of[name] for name in names}
        if is_asymmetric:
            damped = h + torch.eye(len(h)) * DAMPING * h.diagonal().mean()
            change = self.alpha * torch.linalg.solve(damped, y.T @ (x - y) / len(y))
            for name in names:
                wanted[name] = of[name] + of[name] @ change.T
                if self.beta and error is not None:
                    wanted[name] += self.beta * torch.linalg.solve(damped, y.T @ error / len(y)).T
        moments = np.ascontiguousarray(h.numpy())

        def solve(name: str) -> Tensor:
            rows, kind = np.ascontiguousarray(wanted[name].numpy()), self.types[name]
            blocks, _ = _core.quantize_calibrated(rows, kind, moments, SrdOptions(), 0)
            return torch.from_numpy(_core.dequantize(blocks, kind))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.matrices.update(zip(names, pool.map(solve, names), strict=True))


def shrunk(x: Tensor) -> Tensor:
    h = x.T @ x / len(x)
    diagonal = h.diagonal().clone()
    h *= 1 - SHRINKAGE
    h.diagonal().copy_(diagonal)
    return h


def quantize_layer(model: Llama, layer: int, original: Tensor, settings: list[Setting]) -> Tensor:
    """Quantizes a layer for every setting, and returns the original's residual stream behind the layer."""
    of = model.weights

    def named(names: tuple[str, ...]) -> list[str]:
        return [f"blk.{layer}.{name}.weight" for name in names]

    qkv, (output,), feed, (down,) = (named(n) for n in (ATTENTION, ("attn_output",), FEED, ("ffn_down",)))

    def attended(stream: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
        x = model.norm(stream, f"blk.{layer}.attn_norm")
        return x, model.attend(x, *(w[name] for name in qkv))

    def fed(stream: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
        x = model.norm(stream, f"blk.{layer}.ffn_norm")
        gate, up = (x @ w[name].T for name in feed)
        return x, functional.silu(gate) * up

    x, sums = attended(original, of)
    between = original + sums @ of[output].T
    x2, products = fed(between, of)
    for s in settings:
        if s.whole_layer:
            y, own = attended(s.stream, of)
            middle = s.stream + own @ of[output].T
            y2, own2 = fed(middle, of)
            s.quantize(of, qkv, x, y, None)
            s.quantize(of, [output], sums, own, original - s.stream)
            s.quantize(of, feed, x2, y2, None)
            s.quantize(of, [down], products, own2, between - middle)
            s.stream = s.stream + attended(s.stream, s.matrices)[1] @ s.matrices[output].T
        else:
            s.quantize(of, qkv, x, model.norm(s.stream, f"blk.{layer}.attn_norm"), None)
            own = attended(s.stream, s.matrices)[1]
            s.quantize(of, [output], sums, own, original - s.stream)
            s.stream = s.stream + own @ s.matrices[output].T
            s.quantize(of, feed, x2, model.norm(s.stream, f"blk.{layer}.ffn_norm"), None)
            s.quantize(of, [down], products, fed(s.stream, s.matrices)[1], between - s.stream)
        s.stream = s.stream + fed(s.stream, s.matrices)[1] @ s.matrices[down].T
    return between + products @ of[down].T


def judge(model: Llama, settings: list[Setting], chunks: np.ndarray) -> None:
    klds: list[list[Tensor]] = [[] for _ in settings]
    for start in range(0, len(chunks), AT_A_TIME):
        some = chunks[start : start + AT_A_TIME]
        true = model.log_probabilities(model.weights, some)
        for s, found in zip(settings, klds, strict=True):
            found.append((true.exp() * (true - model.log_probabilities(s.matrices, some))).sum(-1))
    rows = [(s.name, torch.cat(found).double().numpy()) for s, found in zip(settings, klds, strict=True)]
    forward_kld.print_table("setting", rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--settings", nargs="+", default=["0,0", "0.5,0.5"])
    args = parser.parse_args()
    native = forward_kld.native(args.model)
    metadata = {key: value for key, _, value in native.metadata()}
    options = ConvertOptions(quant=args.quant, allow_requantize=True)
    plan = planning.native_plan(planning.Source(args.model), Path("unwritten"), options)
    types = {tensor.name: tensor.type for tensor in plan.tensors}
    made = calibration.choose_tokens(args.model, metadata, args.calibration, args.tokens, CTX, 0)
    model = Llama(args.model, metadata)
    ids = torch.tensor(made.chunks).flatten()
    rows = np.ascontiguousarray(model.weights["token_embd.weight"].numpy())
    kind = types["token_embd.weight"]
    embedding = torch.from_numpy(_core.dequantize(_core.quantize(rows, kind), kind))
    settings = [
        Setting(name, embedding[ids], types, {"token_embd.weight": embedding}) for name in args.settings
    ]
    original = model.weights["token_embd.weight"][ids]
    for layer in range(model.layers):
        original = quantize_layer(model, layer, original, settings)
    for text in args.texts:
        chunks = forward_kld.chunks_of(native, text.read_text(encoding="utf-8"), CTX, args.chunks)
        print(f"{len(chunks)} chunks of {CTX} tokens of {text.name}")
        judge(model, settings, np.array(chunks))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
