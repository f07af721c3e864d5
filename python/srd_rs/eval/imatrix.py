"""Computes the importance matrix of llama-imatrix by llama.cpp itself, to compare srd-rs with llama.cpp.

For each weight matrix of a layer: the sum over all tokens of the squares of its inputs, in f32 and one token
after the other as llama-imatrix adds them, and the number of tokens; for stacked experts, per expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from srd_rs.errors import ModelError, SrdIOError, UsageError, message
from srd_rs.eval import ggml
from srd_rs.eval.library import library
from srd_rs.eval.llama import LlamaModel, chunks_of

#: llama-imatrix leaves out matrices applied to fewer tokens at once (MoE shared parts, single rows).
MIN_TOKENS: Final = 16
CHUNK_SIZE: Final = 512

Array = npt.NDArray[np.float32]


@dataclass
class Statistics:
    """`sums` [n_mat, n_in] are sums of squares of inputs; `counts` [n_mat], or [1] for a dense tensor, of tokens."""

    sums: Array
    counts: npt.NDArray[np.int64]


class Collector:
    """Sums up the inputs of the matrix products of a graph while llama.cpp computes it.

    `callback` goes to `LlamaModel`; an exception inside it cannot pass through llama.cpp, so it is kept and
    `check` raises it.
    """

    def __init__(self) -> None:
        self.statistics: dict[str, Statistics] = {}
        self._mul_mat = ggml.op_number("MUL_MAT")
        self._mul_mat_id = ggml.op_number("MUL_MAT_ID")
        self._failure: Exception | None = None
        self.callback = library().ggml_backend_sched_eval_callback(self._visit)

    def check(self) -> None:
        if self._failure:
            raise self._failure

    def _visit(self, address: int, ask: bool, _user: object) -> bool:
        node = ggml.tensor_at(address)
        if ask:
            return self._wants(node)
        try:
            if node.op == self._mul_mat_id:
                self._add_experts(node)
            else:
                self._add_dense(node)
        except Exception as error:
            self._failure = error
            return False
        return True

    def _wants(self, node: ggml.GgmlTensor) -> bool:
        if node.op == self._mul_mat_id:
            return True
        if node.op != self._mul_mat:
            return False
        inputs = node.src[1].contents
        if inputs.type != ggml.TYPE_F32 or inputs.ne[1] < MIN_TOKENS:
            return False
        return weight_name(node).startswith("blk.")

    def _add_dense(self, node: ggml.GgmlTensor) -> None:
        """Add the inputs of a product. Input matrix i3, i2 belongs to weight matrix (i3 mod ne3, i2 mod ne2)."""
        weights, inputs = node.src[0].contents, node.src[1].contents
        x = ggml.read(inputs)
        n3, n2 = ggml.shape_of(weights)[:2]
        found = self._entry(weight_name(node), n2 * n3, x.shape[3], n_counts=1)
        for i3 in range(x.shape[0]):
            for i2 in range(x.shape[1]):
                _accumulate(found.sums[i3 % n3 * n2 + i2 % n2], x[i3, i2])
        found.counts += x.shape[0] * x.shape[1] * x.shape[2] // (n2 * n3)

    def _add_experts(self, node: ggml.GgmlTensor) -> None:
        """Add each row of the inputs [tokens, experts used or 1, n_in] to its expert in ids [tokens, experts used]."""
        x = ggml.read(node.src[1].contents)[0]
        ids = ggml.read(node.src[2].contents)[0, 0]
        n_experts = int(node.src[0].contents.ne[2])
        found = self._entry(weight_name(node), n_experts, x.shape[2], n_counts=n_experts)
        for slot in range(ids.shape[1]):
            rows = x[:, slot % x.shape[1]]
            for expert in np.unique(ids[:, slot]).tolist():
                chosen = rows[ids[:, slot] == expert]
                _accumulate(found.sums[expert], chosen)
                found.counts[expert] += len(chosen)

    def _entry(self, name: str, n_mat: int, n_in: int, *, n_counts: int) -> Statistics:
        if name not in self.statistics:
            sums, counts = np.zeros((n_mat, n_in), np.float32), np.zeros(n_counts, np.int64)
            self.statistics[name] = Statistics(sums, counts)
        found = self.statistics[name]
        if found.sums.shape != (n_mat, n_in):
            raise ModelError(f"{name}: used with inputs of different sizes. Its statistics have no form")
        return found


def weight_name(node: ggml.GgmlTensor) -> str:
    """The name of the weight of a product. A copy on a device is named `DEVICE#blk.0.attn_k.weight#0`."""
    name: str = node.src[0].contents.name.decode()
    return name.split("#")[1] if "#" in name else name


def _accumulate(sums: Array, rows: npt.NDArray[Any]) -> None:
    """Add the squares of `rows` [n, n_in] to `sums`, one row after the other, in f32."""
    sums[:] = np.add.reduce(np.vstack([sums[None], rows * rows]), axis=0)


def compute_imatrix(
    gguf: str | Path,
    text: str | Path,
    output: str | Path,
    *,
    n_chunks: int = 0,
    n_ctx: int = CHUNK_SIZE,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the importance matrix of a GGUF over a text as llama-imatrix does. Returns the number of chunks used.

    n_chunks: at most so many chunks of `n_ctx` tokens (0: all). Raises `UsageError` for a text that is too
    short, `ModelError` for a model that llama.cpp does not run or whose activations are not finite.
    """
    collector = Collector()
    with LlamaModel(gguf, n_ctx=n_ctx, threads=threads, eval_callback=collector.callback) as model:
        chunks = chunks_of(text, model, n_chunks)
        for done, chunk in enumerate(chunks, 1):
            # Every token gives an output, or the last layer would see only those that do.
            model.clear()
            model.decode(chunk, 0, 0)
            collector.check()
            if progress:
                progress(done, len(chunks))
    for name, found in collector.statistics.items():
        if not np.isfinite(found.sums).all():
            raise ModelError(message(gguf, f"{name}: an input is not finite", "Check the model's weights"))
    write(output, collector.statistics, dataset=str(text), n_chunks=len(chunks), chunk_size=n_ctx)
    return len(chunks)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise UsageError(
            "this needs the package gguf, which is not installed. Run: pip install gguf"
        ) from error
    return gguf


def write(
    path: str | Path, statistics: dict[str, Statistics], *, dataset: str, n_chunks: int, chunk_size: int
) -> None:
    """Write an imatrix GGUF: for each weight `NAME.in_sum2` [n_mat, n_in] and `NAME.counts` [n_counts, 1]."""
    writer = _gguf().GGUFWriter(path, arch="")
    writer.kv_data[0].pop("general.architecture", None)  # llama-imatrix writes none
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", n_chunks)
    writer.add_uint32("imatrix.chunk_size", chunk_size)
    for name in sorted(statistics):
        found = statistics[name]
        n_counts = len(found.counts)
        writer.add_tensor(f"{name}.in_sum2", found.sums.reshape(n_counts, -1))
        writer.add_tensor(f"{name}.counts", found.counts.astype(np.float32).reshape(n_counts, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(path: str | Path) -> dict[str, Array]:
    """Read an imatrix GGUF as llama-quantize does: mean squares [n_mat * n_in], 1 for an expert that was never used."""
    if not Path(path).is_file():
        raise SrdIOError(message(path, "no such file", "Check the path"))
    try:
        tensors = {t.name: np.array(t.data) for t in _gguf().GGUFReader(path).tensors}
    except ValueError as error:
        raise ModelError(message(path, f"no GGUF: {error}", "Name an imatrix in GGUF format")) from error
    means: dict[str, Array] = {}
    for name, sums in tensors.items():
        if not name.endswith(".in_sum2"):
            continue
        weight = name.removesuffix(".in_sum2")
        counts = tensors[f"{weight}.counts"].reshape(-1, 1)
        rows = sums.reshape(len(counts), -1)
        mean = np.where(counts > 0, rows / np.maximum(counts, 1), np.float32(1))
        means[weight] = mean.astype(np.float32).reshape(-1)
    if not means:
        raise ModelError(message(path, "no importance matrix in it", "Name a file that llama-imatrix wrote"))
    return means
