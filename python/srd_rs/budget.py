"""The types of the tensors within a budget of bytes.

`ConvertOptions.target_size`, `target_bpw` and `like` state a budget. The core measures the error of each matrix in
each candidate type (`src/convert/measure.rs`) and solves the knapsack (`src/quant/budget.rs`). `COST_OF_ERROR` says
what one unit of error in a kind of matrix costs the answers of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from srd_rs import _core, recipe
from srd_rs.errors import UsageError, message
from srd_rs.options import ConvertOptions
from srd_rs.planning import Planner
from srd_rs.report import ChosenType, Progress

#: Candidates for rows of whole super-blocks, and more candidates for other rows.
TYPES: Final = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
SMALL_BLOCKS: Final = ("IQ4_NL", "Q5_0", "Q5_1", "Q8_0")
#: KLD that an error of 1 in a matrix of each layer costs, by a part of its GGUF name; the first that is found counts.
#: An error of 1 has as much energy as the output of the matrix. docs/decisions/0011-budget.md has the measurement.
COST_OF_ERROR: Final[tuple[tuple[str, float], ...]] = (
    ("ffn_down", 0.5),
    ("ffn_gate", 0.23),
    ("ffn_up", 0.23),
    ("attn_output", 0.12),
    ("attn_", 0.16),
    ("token_embd", 0.5),
    ("", 0.2),
)
#: KLD that an error of the logits costs, by its mean square: about half the variance of a logit under the softmax.
COST_OF_LOGITS: Final = 0.22
#: Layers of the model that `COST_OF_ERROR` was measured on. A layer of a deeper model is a smaller share of the model.
LAYERS: Final = 30
_ALIGNMENT: Final = 32


def limit_of(options: ConvertOptions, base: _core.Plan) -> int:
    """The most bytes that all output files together may have. `base` is the plan of the mix `like`, or of any mix."""
    if options.like is not None:
        return base.total_bytes
    if options.target_size is not None:
        return options.target_size
    assert options.target_bpw is not None
    return base.total_bytes - base.tensor_bytes + int(options.target_bpw * base.n_weights / 8)


class CostOfError:
    """What an error of 1 in each tensor of a model costs."""

    def __init__(self, plan: _core.Plan) -> None:
        names = {t.name for t in plan.tensors}
        self._output = "output.weight" if "output.weight" in names else "token_embd.weight"
        layers = {name.split(".")[1] for name in names if name.startswith("blk.")}
        self._depth = LAYERS / max(len(layers), 1)

    def __call__(self, name: str, energy: float) -> float:
        """`energy` is the mean energy of an output of the tensor."""
        if name == self._output:
            return COST_OF_LOGITS * energy
        return self._depth * next(cost for part, cost in COST_OF_ERROR if part in name)


def choose(
    planner: Planner,
    calibration: _core.Calibration | None,
    progress: Callable[[Progress], None] | None,
) -> tuple[ChosenType, ...]:
    """Give the planner the types that cost least within the budget of its options. Returns what was measured."""
    options = planner.options
    base = planner.plan(calibration)
    limit = limit_of(options, base)
    types, small = (options.types, ()) if options.types else (TYPES, SMALL_BLOCKS)

    def forward(done: int, total: int, name: str) -> None:
        if progress is not None:
            progress(Progress(done, total, name, "measure"))

    measured = base.measure(types, small, options, forward)
    if not measured:
        what = "there is no matrix whose type can be chosen"
        fix = "Name types whose blocks fit the rows of the model"
        raise UsageError(message(recipe.flag(options.budget), what, fix))
    names, cost_of = list(measured), CostOfError(base)
    costs = {name: cost_of(name, measured[name][0].energy) for name in names}
    items = [[(_padded(c.bytes), costs[name] * c.error) for c in measured[name]] for name in names]
    fixed = base.total_bytes - sum(_padded(t.bytes) for t in base.tensors if t.name in measured)
    room = limit - fixed
    while True:
        chosen, needed = _core.choose_within_budget(items, max(room, 0))
        if chosen is None or room < 0:
            what = f"{limit} bytes are too few: the smallest possible size is {fixed + needed} bytes"
            if options.types:
                what += f" with the types {', '.join(options.types)}"
            fix = "Allow more bytes, or smaller types with --types"
            raise UsageError(message(recipe.flag(options.budget), what, fix))
        picks = {name: measured[name][i] for name, i in zip(names, chosen, strict=True)}
        mix = options.like or _mix(picks)
        planner.options = replace(options, quant=mix, exact_types=_exact(base, picks, options))
        over = planner.plan(calibration).total_bytes - limit
        if over <= 0:
            return tuple(_described(name, costs[name], picks[name], measured[name]) for name in names)
        # The headers of a split output depend on the number of its parts.
        room -= over


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _mix(picks: Mapping[str, _core.Candidate]) -> str:
    """The mix that the metadata names: that of the type with most bytes."""
    totals: dict[str, int] = {}
    for pick in picks.values():
        totals[pick.type] = totals.get(pick.type, 0) + pick.bytes
    return _core.mix_of_type(max(totals, key=lambda name: totals[name]))


def _exact(
    base: _core.Plan, picks: Mapping[str, _core.Candidate], options: ConvertOptions
) -> tuple[tuple[str, str], ...]:
    """The picks, and the types of all other tensors that the base mix quantises."""
    kept = {t.name: t.type for t in base.tensors if t.type not in ("F32", "F16", "BF16")}
    return tuple(
        (kept | {name: pick.type for name, pick in picks.items()} | dict(options.exact_types)).items()
    )


def _described(
    name: str, cost: float, pick: _core.Candidate, candidates: tuple[_core.Candidate, ...]
) -> ChosenType:
    larger = [c for c in candidates if c.bytes > pick.bytes and c.error < pick.error]
    gain = max((cost * (pick.error - c.error) / (c.bytes - pick.bytes) for c in larger), default=0.0)
    return ChosenType(name, pick.type, pick.bytes, pick.error, cost * pick.error, gain * 2**20)
