"""The types of the tensors within a budget of bytes.

`ConvertOptions.target_size`, `target_bpw` and `like` state a budget. The core measures the error of each matrix in
each candidate type (`src/convert/measure.rs`), what the errors of a kind of matrix cost the answers of the model
(`src/convert/sensitivity.rs`), and solves the knapsack (`src/quant/budget.rs`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from srd_rs import _core, calibration, recipe
from srd_rs.errors import FormatError, ModelError, UsageError, message
from srd_rs.options import ConvertOptions
from srd_rs.planning import Planner, calibration_file, calibration_text
from srd_rs.report import ChosenType, Progress

log = logging.getLogger("srd_rs.budget")

#: Candidates for rows of whole super-blocks, and more candidates for other rows.
TYPES: Final = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
SMALL_BLOCKS: Final = ("IQ4_NL", "Q5_0", "Q5_1", "Q8_0")
#: What an error of 1 in a matrix costs where the model was not run, by a part of its GGUF name; the first that is found
#: counts. An error of 1 has as much energy as the output of the matrix. Decision 0011 has the measurement.
COST_OF_ERROR: Final[tuple[tuple[str, float], ...]] = (
    ("ffn_down", 0.5),
    ("ffn_gate", 0.23),
    ("ffn_up", 0.23),
    ("attn_output", 0.12),
    ("attn_", 0.16),
    ("token_embd", 0.5),
    ("", 0.2),
)
#: KLD that an error of the logits costs, by its mean square.
COST_OF_LOGITS: Final = 0.2
#: The model is run on this share of the default tokens of a calibration, in chunks of so many tokens, to find what the
#: errors of each kind of matrix cost: all passes together take about half the time of the calibration.
SHARE_OF_TOKENS: Final = 24
CTX: Final = 256
#: Logits that are kept at most: the tokens become fewer where the vocabulary is large.
MAX_LOGITS: Final = 1 << 26
_Measured = Mapping[str, tuple[tuple[_core.Candidate, ...], float | None]]
_ALIGNMENT: Final = 32


def limit_of(options: ConvertOptions, base: _core.Plan) -> int:
    """The most bytes that all output files together may have. `base` is the plan of the mix `like`, or of any mix."""
    if options.like is not None:
        return base.total_bytes
    if options.target_size is not None:
        return options.target_size
    assert options.target_bpw is not None
    return base.total_bytes - base.tensor_bytes + int(options.target_bpw * base.n_weights / 8)


def kind_of(name: str) -> str:
    """The part of a tensor's name that says what the matrix does: without the layer."""
    return ".".join(part for part in name.split(".")[:-1] if part != "blk" and not part.isdigit())


def _output_of(plan: _core.Plan) -> str:
    """The matrix that makes the logits."""
    names = {t.name for t in plan.tensors}
    return "output.weight" if "output.weight" in names else "token_embd.weight"


def table_costs(plan: _core.Plan, measured: _Measured) -> dict[str, float]:
    """What an error of 1 in each tensor costs by the table, where the model was not run."""
    output, costs = _output_of(plan), {}
    for name, (candidates, _) in measured.items():
        if name == output:
            costs[name] = COST_OF_LOGITS * candidates[0].energy
        else:
            costs[name] = next(cost for part, cost in COST_OF_ERROR if part in name)
    return costs


def measured_costs(
    planner: Planner, plan: _core.Plan, measured: _Measured, progress: Callable[[Progress], None] | None
) -> dict[str, float] | None:
    """What an error of 1 in each tensor costs: the KLD of the model with all tensors of a kind rounded, by the error.

    None where no calibration is made, or where srd-rs cannot run the model on a text.
    """

    text = calibration_text(planner.options)
    if text is None:
        return None
    kinds: dict[str, list[str]] = {}
    for name, (_, probe) in measured.items():
        if probe:
            kinds.setdefault(kind_of(name), []).append(name)
    if calibration_file(planner.options) is not None or text == "random":
        text = "builtin"
    metadata = {key: value for key, _, value in plan.metadata()}
    if metadata.get(f"{plan.arch}.attention.causal", True) is False:
        return None
    rows = next(t.shape[1] for t in plan.tensors if t.name == _output_of(plan))
    count = max(calibration.default_tokens(plan) // SHARE_OF_TOKENS, CTX)
    count = min(count, max(MAX_LOGITS // rows, 1))
    try:
        plan.check_runnable()
        chunks = calibration.choose_tokens(planner.source.path, metadata, text, count, CTX, 0).chunks
    except (ModelError, UsageError, FormatError) as error:
        log.warning(
            "what rounding costs this model is taken from a table, because it was not measured: %s", error
        )
        return None

    def forward(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(done, total, "", "sensitivity"))

    options = planner.options
    threads = options.threads or _core.cpus()
    klds = plan.sensitivity(list(kinds.values()), chunks, threads, options.max_memory, forward)
    costs: dict[str, float] = {}
    for names, kld in zip(kinds.values(), klds, strict=True):
        probes = sum(measured[name][1] or 0.0 for name in names)
        costs |= dict.fromkeys(names, kld / probes)
    mean = sum(costs.values()) / max(len(costs), 1)
    return {name: costs.get(name, mean) for name in measured}


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
    names, candidates = list(measured), {name: found for name, (found, _) in measured.items()}
    costs = measured_costs(planner, base, measured, progress) or table_costs(base, measured)
    items = [[(_padded(c.bytes), costs[name] * c.error) for c in candidates[name]] for name in names]
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
        picks = {name: candidates[name][i] for name, i in zip(names, chosen, strict=True)}
        mix = options.like or _mix(picks)
        planner.options = replace(options, quant=mix, exact_types=_exact(base, picks, options))
        over = planner.plan(calibration).total_bytes - limit
        if over <= 0:
            return tuple(_described(name, costs[name], picks[name], candidates[name]) for name in names)
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
