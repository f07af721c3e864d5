"""The work that a conversion is, counted from its plan, and what the work costs at the rates of a machine.

The work is counted in CPU seconds: quantizing costs the same for each weight of a type, calibrating a matrix costs the
products of its weights with the tokens. `srd_rs.estimate` measures the rates of a machine. `cost_of_srd` needs none:
a fast conversion has shown how fast the machine is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

from srd_rs import _core

NETWORK: Final = 125_000_000
"""Bytes a second of the network where nobody says another rate: 1 Gbit/s."""
SUPER_BLOCK: Final = 256
"""Weights of a super-block."""
LONGEST_ROW: Final = 2048
"""The length of the longest rows that rates are measured with."""
SHARED_INPUTS: Final = re.compile(r"\.(attn_k|attn_v|ffn_gate\w*)\.weight$")
"""Matrices that have the input of a neighbour, so that their moments are summed only once."""


@dataclass(frozen=True)
class Size:
    """What a calibration takes: the number of its tokens, the side of the blocks of the second moments, and the number
    of batches in which the tokens are weighed, 0 where they are not."""

    tokens: int
    block: int
    batches: int


@dataclass(frozen=True)
class Rates:
    """What a machine does. All costs are in CPU seconds of one thread while all threads are busy.

    search: For each type, the cost of a weight with effort fast.
    rows, columns: For each type, the costs with effort srd of a weight, and of a column of a matrix or expert, whose
        moments are factorized; with blocks of `block` columns and `beam_width` candidates.
    copy: The cost of a weight that keeps its type.
    product: The cost of one multiplication and addition of the calibration. decode: of one weight that is made ready
        for that.
    disk_read, disk_write, network: Bytes a second.
    """

    threads: int
    search: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, float] = field(default_factory=dict)
    columns: Mapping[str, float] = field(default_factory=dict)
    block: int | None = None
    beam_width: int | None = None
    copy: float = 0.0
    product: float = 0.0
    decode: float = 0.0
    disk_read: float = 0.0
    disk_write: float = 0.0
    network: float = NETWORK

    def to_json(self) -> dict[str, Any]:
        """Plain data, as `srd-rs plan --json` prints it and `--rates` takes it."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """The work of a conversion, counted from its plan.

    search, rows: For each type the weights that the search and that SRD quantize. columns: the columns of the matrices
        that SRD quantizes. row_length: the most frequent length of these rows. width: the length of an embedding.
    copied: Weights that keep their type. multiplied, products: weights that the calibration makes ready, and its
        multiplications. calibration_bytes, layer_bytes: the moments of all layers, and of the largest.
    """

    search: Counter[str]
    rows: Counter[str]
    columns: Counter[str]
    row_length: int
    width: int
    copied: int
    multiplied: int
    products: int
    calibration_bytes: int
    layer_bytes: int

    def converting(self, rates: Rates) -> float:
        """CPU seconds of the conversion alone."""
        return (
            sum(count * rates.search[name] for name, count in self.search.items())
            + sum(count * rates.rows[name] for name, count in self.rows.items())
            + sum(count * rates.columns[name] for name, count in self.columns.items())
            + self.copied * rates.copy
        )

    def calibrating(self, rates: Rates) -> float:
        """CPU seconds of the calibration, 0 without one."""
        return self.products * rates.product + self.multiplied * rates.decode


def count(native: _core.Plan, calibrated: Size | None) -> Work:
    """The work of a plan. `calibrated` is the size of the calibration, None for effort fast."""
    facts = {key: value for key, _, value in native.metadata() if key.endswith("expert_used_count")}
    used = next((v for v in facts.values() if isinstance(v, int)), 0)
    tied = not any(t.name == "output.weight" for t in native.tensors)
    quantizable = set(_core.quantizable_types())
    search: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    layers: Counter[str] = Counter()
    copied = multiplied = products = sums = 0
    size = calibrated or Size(0, 0, 0)
    tokens, side = size.tokens, size.block
    # A token that is weighed costs some passes more, and each batch of tokens makes the weights ready for each of them.
    more = _core.WEIGHING_PASSES
    passes, decodes = 1 + more * (size.batches > 0), 1 + more * size.batches
    for tensor in native.tensors:
        is_matrix = len(tensor.shape) > 1
        is_table = tensor.name.endswith("_embd.weight")
        is_multiplied = is_matrix and (not is_table or (tied and tensor.name == "token_embd.weight"))
        experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
        if tensor.type in tensor.source_types or tensor.type not in quantizable:
            copied += tensor.n_weights
        elif calibrated is not None and is_multiplied and tensor.type in _core.FEEDBACK_TYPES:
            rows[tensor.type] += tensor.n_weights
            columns[tensor.type] += tensor.shape[0] * experts
            lengths[tensor.shape[0]] += tensor.n_weights
        else:
            search[tensor.type] += tensor.n_weights
            lengths[tensor.shape[0]] += 0
        if calibrated is None or not is_multiplied:
            continue
        share = min(used / experts, 1.0) if experts > 1 and used else 1.0
        if tensor.name not in ("output.weight", "token_embd.weight"):
            multiplied += tensor.n_weights * decodes
            products += round(tensor.n_weights * share * tokens) * passes
        elif size.batches:
            products += 2 * tensor.n_weights * tokens
        if not SHARED_INPUTS.search(tensor.name):
            block = min(side or tensor.shape[0], tensor.shape[0])
            products += round(tensor.shape[0] * block * experts * share * tokens / 2)
            bytes_ = 4 * tensor.shape[0] * block * experts
            sums += bytes_
            layers[tensor.name.rsplit(".", 2)[0] if tensor.name.startswith("blk.") else ""] += bytes_
    return Work(
        search=search,
        rows=rows,
        columns=columns,
        row_length=max(lengths, key=lambda n: lengths[n]) if lengths else LONGEST_ROW,
        width=next((t.shape[0] for t in native.tensors if t.name == "token_embd.weight"), LONGEST_ROW),
        copied=copied,
        multiplied=multiplied,
        products=products,
        calibration_bytes=sums,
        layer_bytes=max(layers.values(), default=0),
    )


@cache
def reference_rates() -> tuple[Rates, ...]:
    """The rates of one machine, for blocks of 256, 512, 1024 and 2048 columns. `scripts/reference_rates.py` measured
    them. Only their ratios count."""
    text = files("srd_rs").joinpath("data/rates.json").read_text(encoding="utf-8")
    return tuple(Rates(**rates) for rates in json.loads(text))


MAX_CALIBRATIONS: Final = 4
"""How many calibrations of effort srd effort max costs: three for its two streams and their sums, and the one that it
is compared with. It reads the weights as often."""


def cost_of_srd(
    native: _core.Plan, calibrated: Size, cpu_seconds: float, threads: int, *, is_max: bool = False
) -> float:
    """Seconds that effort srd, or effort max, would have taken longer than the fast conversion of a plan, on the same
    machine.

    calibrated: the size of the calibration. cpu_seconds: what the conversion alone took.
    The fast conversion tells how fast the machine is, and the rates of another machine tell how many times as long SRD
    takes.
    """
    plain, work = count(native, None), count(native, calibrated)
    side = min(calibrated.block or work.row_length, work.row_length)
    rates = min(reference_rates(), key=lambda r: abs((r.block or side) - side))
    usual = plain.converting(rates)
    calibrations = MAX_CALIBRATIONS if is_max else 1
    longer = work.calibrating(rates) * calibrations + work.converting(rates) - usual
    return max(longer, 0.0) * cpu_seconds / usual / threads
