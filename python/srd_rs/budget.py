"""The types of the tensors within a budget of bytes.

`ConvertOptions.target_size`, `target_bpw`, `like` and `fit` state a budget. The core measures the error of each matrix
in each candidate type (`src/convert/measure.rs`), what the errors of a matrix cost the answers of the model
(`src/convert/prices.rs`) or, where the derivatives of the model are not known, those of a kind of matrix
(`src/convert/sensitivity.rs`), and solves the knapsack (`src/quant/budget.rs`). Then the model is run with the types of
the choice and with those of a mix on text that was not used before, and the better one is written.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from srd_rs import _core, calibration, memory, recipe
from srd_rs.costs import SUPER_BLOCK
from srd_rs.encoders import is_encoder
from srd_rs.errors import FormatError, ModelError, UsageError, message
from srd_rs.options import FLOAT_TYPES, MIXES, ConvertOptions
from srd_rs.planning import Planner, calibration_file, calibration_text
from srd_rs.report import ChosenType, MixCheck, Progress
from srd_rs.text import bytes_text

log = logging.getLogger("srd_rs.budget")

#: Candidates for rows of whole super-blocks, and more candidates for other rows.
TYPES: Final = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
SMALL_BLOCKS: Final = ("IQ4_NL", "Q5_0", "Q5_1", "Q8_0")
#: More candidates for rows of whole super-blocks where the budget has less than so many bits per weight. They have no
#: feedback, so they pay only where matrices have to become smaller than in Q2_K.
TINY: Final = ("IQ2_XXS", "IQ2_XS")
BITS_OF_TINY: Final = 3.5
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
#: The number of tokens of a chunk that the model is run on.
TOKENS: Final = 128
#: The derivatives of the model on so many chunks say what the errors of each matrix cost. Where they are not known, the
#: first of the chunks says what those of each kind of matrix cost: with more tokens the costs of kinds differ no more
#: than from text to text, by a tenth.
PRICED: Final = 4
#: A matrix whose error is so many times as large as is usual for its kind, or as small, has costs of its own: a few
#: tokens with enormous activations make nearly all of its output or of its error, and say little of the other tokens.
SPREAD: Final = 3.0
#: The choice is compared with the mix on at most so many chunks of as many tokens from all parts of the text, because
#: few tokens have most of a divergence.
CHECKS: Final = 8
#: Logits that are kept at most: the tokens become fewer where the vocabulary is large. A run that quantizes by SRD
#: keeps none.
MAX_LOGITS: Final = 1 << 26
#: Where the matrix that makes the logits has this share of the weights or more, its type decides the choice, and a
#: price without derivatives is not certain enough for that: the run compares two choices that differ in the type.
LARGE: Final = 0.25
#: Context that `fit` makes room for if `ctx` says no other.
CTX: Final = 8192
#: Mixes that a choice is not compared with: those for special models, and those that quantize nothing.
SPECIAL: Final = ("TQ", "MXFP", "NVFP", "F", "BF")
#: The choice is written if it has at most this share of the KLD of the mix.
MARGIN: Final = 0.95
#: The same where the mix has less than this KLD. At the size of Q8_0 the run gave 0.87, and the files had 1.12.
SMALL_KLD: Final = 1e-3
MARGIN_OF_SMALL_KLD: Final = 0.85
#: Types in which nothing is quantized.
WHOLE: Final = ("F16", "BF16")
_ALIGNMENT: Final = 32
_EMBEDDING: Final = _core.TABLES[0]
#: What shows how far a run is.
Show = Callable[[Progress], None] | None
#: How the tensors of a name are rounded: the type, None for that of the probe, and the share of the error that stays.
_Group = Mapping[str, tuple[str | None, float]]


class Candidate(NamedTuple):
    """What a type would cost a tensor: see `_core.Candidate`."""

    type: str
    bytes: int
    error: float
    energy: float
    rounding: float


class Measured(NamedTuple):
    """What was measured of a tensor.

    probe: the error of a rounding to Q4_0, None where rows are no whole blocks. price: the divergence that an error of
    1 causes, None where the model was not run, and where its derivatives are not known.
    """

    candidates: tuple[Candidate, ...]
    probe: float | None
    price: float | None


_Measured = Mapping[str, Measured]


@dataclass(frozen=True)
class Texts:
    """The chunks that the model is run on: for the costs of errors, and for the check of the choice.

    kept: the number of chunks of the check whose logits can be kept. held_out: whether the calibration has not seen the
    chunks.
    """

    costs: list[list[int]]
    check: list[list[int]]
    kept: int
    held_out: bool


def memory_of(options: ConvertOptions, base: _core.Plan) -> memory.Memory | None:
    """What llama.cpp needs beside the weights, where the budget is the memory of a machine."""
    if options.fit is None:
        return None
    metadata = {key: value for key, _, value in base.metadata()}
    return memory.needed(metadata, options.ctx or CTX, _outputs(base))


def limit_of(options: ConvertOptions, base: _core.Plan) -> int:
    """The most bytes that all output files together may have. `base` is the plan of the mix `like`, or of any mix."""
    if options.like is not None:
        return base.total_bytes
    if options.target_size is not None:
        return options.target_size
    if options.fit is not None:
        beside = memory_of(options, base)
        assert beside is not None
        return options.fit - beside.total
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
    for name, (candidates, _, _) in measured.items():
        if name == output:
            costs[name] = COST_OF_LOGITS * candidates[0].energy
        else:
            costs[name] = next(cost for part, cost in COST_OF_ERROR if part in name)
    return costs


def _outputs(plan: _core.Plan) -> int:
    """Number of logits of a token."""
    return next((t.shape[1] for t in plan.tensors if t.name == _output_of(plan)), 0)


def texts(planner: Planner, plan: _core.Plan) -> Texts | None:
    """What to run the model on; None where no calibration is made, or where srd-rs cannot run the model on a text."""
    options = planner.options
    text = calibration_text(options)
    if text is None:
        return None
    if calibration_file(options) is not None or text == "random":
        text = "builtin"
    metadata = {key: value for key, _, value in plan.metadata()}
    if is_encoder(metadata):
        return None
    most = max(MAX_LOGITS // max(_outputs(plan), 1), 1)
    count = min(TOKENS, most)
    try:
        plan.check_runnable()
        used = options.calibrate_tokens or calibration.default_size(plan, options).tokens
        chunks, held_out = calibration.other_tokens(
            planner.source.path, metadata, text, used, (count,) * (PRICED + CHECKS)
        )
    except (ModelError, UsageError, FormatError) as error:
        log.warning(
            "what rounding costs this model is taken from a table, because it was not measured: %s", error
        )
        return None
    return Texts(chunks[:PRICED], chunks[PRICED:], min(CHECKS, most // count), held_out)


def _run(
    planner: Planner,
    plan: _core.Plan,
    groups: Sequence[_Group],
    chunks: list[list[int]],
    show: Show,
) -> list[float]:
    """The KLD of the model with each group of tensors rounded."""

    def forward(done: int, total: int) -> None:
        if show is not None:
            show(Progress(done, total, "", "sensitivity"))

    options = planner.options
    return plan.sensitivity(groups, chunks, options.threads or _core.cpus(), options.max_memory, forward)


_Runner = Callable[[Sequence[_Group], list[list[int]], Show], list[float]]


def measured_costs(
    run: _Runner, measured: _Measured, chunks: list[list[int]], show: Show
) -> dict[str, float]:
    """What an error of 1 in each tensor costs: its price by the derivatives of the model. Where this is not known, it
    is the KLD of the model with the tensors like it rounded, over the error of this.

    An unusually large error is mostly that of the few tokens with enormous activations, which feedback avoids. What is
    left then costs no less than usual.
    """
    costs = {name: price for name, (_, _, price) in measured.items() if price is not None}
    groups = alike({name: probe for name, (_, probe, _) in measured.items() if probe and name not in costs})
    klds = (
        run([dict.fromkeys(names, (None, 1.0)) for names in groups.values()], chunks[:1], show)
        if groups
        else ()
    )
    prices = {
        group: kld / sum(measured[name].probe or 0.0 for name in names)
        for (group, names), kld in zip(groups.items(), klds, strict=True)
    }
    for (kind, away), names in groups.items():
        price = prices[kind, away]
        costs |= dict.fromkeys(names, max(price, prices[kind, 0]) if away > 0 else price)
    mean = sum(costs.values()) / max(len(costs), 1)
    return {name: costs.get(name, mean) for name in measured}


def alike(errors: Mapping[str, float]) -> dict[tuple[str, int], list[str]]:
    """The tensors of each kind, in groups: 0 has the errors within a factor of `SPREAD` of the median of the kind, and
    the others those within this factor of a power of its square times the median. Every kind has a group 0."""
    kinds: dict[str, list[str]] = {}
    for name in errors:
        kinds.setdefault(kind_of(name), []).append(name)
    groups: dict[tuple[str, int], list[str]] = {}
    for kind, names in kinds.items():
        median = statistics.median(errors[name] for name in names)
        for name in names:
            away = math.log(errors[name] / median) / (2 * math.log(SPREAD))
            groups.setdefault((kind, round(away)), []).append(name)
    return groups


@dataclass(frozen=True)
class Choice:
    """What was chosen: what was measured of each tensor, and how the choice compares with a mix.

    types: empty where the types of the mix are written. check: None where the model was not run. whole: whether the
    budget holds the whole model, so that nothing is quantized. costs_measured: whether the costs come from a run of the
    model, and not from a table.
    """

    types: tuple[ChosenType, ...] = ()
    check: MixCheck | None = None
    whole: bool = False
    costs_measured: bool = False


@dataclass(frozen=True)
class _Solved:
    """Types within a budget, and the options and the plan of a conversion to them."""

    types: tuple[ChosenType, ...]
    options: ConvertOptions
    plan: _core.Plan


def choose(planner: Planner, made: _core.Calibration | None, show: Show) -> Choice:
    """Give the planner the types that cost least within the budget of its options, or those of a mix that fits."""
    options = planner.options
    base = planner.plan(made)
    limit = limit_of(options, base)
    found = texts(planner, base)
    # A mix has types that the user may not want.
    mix = None if found is None or options.types else _mix_within(planner, options, made, limit)
    measured = _measured(planner, made, base, limit, mix, () if found is None else found.costs, show)
    if not measured:
        what = "there is no matrix whose type can be chosen"
        fix = "Name types whose blocks fit the rows of the model"
        raise UsageError(message(recipe.flag(options.budget), what, fix))
    run = partial(_run, planner, base)
    costs = table_costs(base, measured) if found is None else measured_costs(run, measured, found.costs, show)
    solve = partial(_solve, planner, made, base, costs, limit)
    solved = solve(measured)
    whole = all(c.type in WHOLE for c in solved.types)
    if whole or mix is None or found is None:
        planner.options = solved.options
        return Choice(solved.types, whole=whole, costs_measured=found is not None and not whole)
    choices = [solved, *_with_another_output(solve, base, measured, solved)]
    plans = [mix, *(choice.plan for choice in choices)]
    matrices = None if made is None else _written_by_srd(plans)
    if matrices is None:
        chunks = found.check[: found.kept]
        # The check runs the plan of the source, of which `base` is one.
        of_mix, *of_choices = run([_as_converted(plan, measured) for plan in plans], chunks, show)
    else:
        chunks = found.check
        # One candidate without coordinate descent takes the solver a fifth of the time where the blocks of H are large.
        narrow = replace(options, srd=replace(options.srd, beam_width=1, descent_rounds=0))
        runs = list(zip(plans, matrices, strict=True))
        of_mix, *of_choices = written_divergences(runs, narrow, chunks, show)
    of_choice, chosen = min(zip(of_choices, choices, strict=True), key=lambda pair: pair[0])
    tokens = sum(map(len, chunks))
    expected = _expected_ratio(mix, chosen.types, measured, costs)
    margin = MARGIN if of_mix >= SMALL_KLD else MARGIN_OF_SMALL_KLD
    written = "choice" if of_choice <= margin * of_mix else "mix"
    check = MixCheck(mix.quant, mix.total_bytes, of_mix, of_choice, expected, tokens, found.held_out, written)
    if written == "choice":
        planner.options = chosen.options
        return Choice(chosen.types, check, costs_measured=True)
    log.warning("the mix %s is written, because the choice is not expected to be clearly better", mix.quant)
    planner.options = replace(options, quant=mix.quant)
    return Choice((), check)


def _with_another_output(
    solve: Callable[[_Measured], _Solved], base: _core.Plan, measured: _Measured, solved: _Solved
) -> list[_Solved]:
    """The types that cost least with another type than `solved` has for the matrix that makes the logits. Empty where
    this matrix is small, has no other type within the budget, or is priced by the derivatives of the model."""
    output = _output_of(base)
    weights = {t.name: t.n_weights for t in base.tensors}
    if (
        output not in measured
        or weights[output] < LARGE * base.n_weights
        or measured[output].price is not None
    ):
        return []
    taken = next(c.type for c in solved.types if c.name == output)
    others = tuple(c for c in measured[output].candidates if c.type != taken)
    if not others:
        return []
    try:
        return [solve({**measured, output: measured[output]._replace(candidates=others)})]
    except UsageError:
        return []


def _written_by_srd(plans: Sequence[_core.Plan]) -> list[set[str]] | None:
    """The matrices that a run can have as the conversion will write them, for each of several plans. None where this
    would leave out what the plans differ in: experts, tables that are only looked up, and models whose tokens have
    several states."""
    types = [{t.name: t.type for t in plan.tensors} for plan in plans]
    differ = {name for name in types[0] if len({of_plan[name] for of_plan in types}) > 1}
    is_tied = "output.weight" not in types[0]
    matrices: list[set[str]] = []
    for plan in plans:
        quantized = [t for t in plan.tensors if t.type not in FLOAT_TYPES.union(t.source_types)]
        names = {t.name for t in quantized if all(n == 1 for n in t.shape[2:])}.difference(_core.TABLES)
        # A table that is the output matrix as well counts where the plans differ in it.
        if is_tied and _EMBEDDING in differ:
            names.add(_EMBEDDING)
        matrices.append(names)
    left_out = differ.difference(*matrices, () if is_tied else {_EMBEDDING})
    return None if left_out or not plans[0].has_two_streams() else matrices


def written_divergences(
    runs: Sequence[tuple[_core.Plan, set[str]]],
    options: ConvertOptions,
    chunks: list[list[int]],
    show: Show,
) -> list[float]:
    """The mean KLD, or of an encoder 1 - cos, that named matrices of each of several plans of a model cause.

    The matrices are quantized as the plan writes them. All other matrices stay as they are.
    """

    def tell(done: int, total: int) -> None:
        if show is not None:
            show(Progress(done, total, "", "sensitivity"))

    found = _core.written_divergences(runs, options, chunks, tell)
    return [statistics.fmean(klds) for klds in found]


def _as_converted(plan: _core.Plan, measured: _Measured) -> _Group:
    """How the tensors of a plan are rounded so that their errors are as large as those that the conversion will leave.

    The run rounds by the search for scales. An error has twice the size of another one where it has four times the
    energy. A type that was not measured is rounded as it is.
    """
    group: dict[str, tuple[str | None, float]] = {}
    for tensor in plan.tensors:
        if tensor.type in FLOAT_TYPES.union(tensor.source_types):
            continue
        share = 1.0
        for candidate in measured[tensor.name].candidates if tensor.name in measured else ():
            if candidate.type == tensor.type and candidate.rounding > 0:
                share = math.sqrt(candidate.error / candidate.rounding)
        group[tensor.name] = (tensor.type, share)
    return group


def _expected_ratio(
    mix: _core.Plan, types: Sequence[ChosenType], measured: _Measured, costs: Mapping[str, float]
) -> float:
    """The cost of the choice over the cost of a mix by the measured errors, over the tensors where both are known."""
    of_mix, ours, theirs = {t.name: t.type for t in mix.tensors}, 0.0, 0.0
    for chosen in types:
        for candidate in measured[chosen.name].candidates:
            if candidate.type == of_mix[chosen.name]:
                ours += chosen.cost
                theirs += costs[chosen.name] * candidate.error
    return ours / theirs if theirs > 0 else 1.0


def _measured(
    planner: Planner,
    made: _core.Calibration | None,
    base: _core.Plan,
    limit: int,
    mix: _core.Plan | None,
    chunks: Sequence[Sequence[int]],
    show: Show,
) -> _Measured:
    """The candidates of each tensor whose type can be chosen. The types of the mix are among them, because the run that
    compares the choice with the mix has to know how large the errors of both are."""
    options = planner.options
    types, small = (options.types, ()) if options.types else (TYPES, SMALL_BLOCKS)
    if not options.types and 8 * limit < BITS_OF_TINY * base.n_weights:
        types = (*TINY, *types)
    if mix is not None:
        used = [t for t in mix.tensors if t.type not in FLOAT_TYPES.union(t.source_types)]
        whole = {t.type for t in used if t.shape[0] % SUPER_BLOCK == 0}
        types = (*types, *sorted(whole.difference(types)))
        small = (*small, *sorted({t.type for t in used}.difference(types, small)))

    def forward(done: int, total: int, name: str) -> None:
        if show is not None:
            show(Progress(done, total, name, "measure"))

    # A plan knows the second moments of the matrices that get a type with feedback: of all of them here.
    plan = planner.plan(made, replace(options, quant="Q8_0"))

    def plainly(candidates: Sequence[_core.Candidate]) -> tuple[Candidate, ...]:
        return tuple(Candidate(c.type, c.bytes, c.error, c.energy, c.rounding) for c in candidates)

    measured = plan.measure(types, small, options, chunks, forward)
    plain = {name: Measured(plainly(found), probe, price) for name, (found, probe, price) in measured.items()}
    return plain if options.types else _with_whole(base, plain)


def _solve(
    planner: Planner,
    made: _core.Calibration | None,
    base: _core.Plan,
    costs: Mapping[str, float],
    limit: int,
    measured: _Measured,
) -> _Solved:
    """The types that cost least within `limit` bytes."""
    options = planner.options
    names, candidates = list(measured), {name: of.candidates for name, of in measured.items()}
    items = [[(_padded(c.bytes), costs[name] * c.error) for c in candidates[name]] for name in names]
    fixed = base.total_bytes - sum(_padded(t.bytes) for t in base.tensors if t.name in measured)
    room = limit - fixed
    while True:
        chosen, needed = _core.choose_within_budget(items, max(room, 0))
        if chosen is None or room < 0:
            raise _too_few(options, base, limit, fixed + needed)
        picks = {name: candidates[name][i] for name, i in zip(names, chosen, strict=True)}
        mix = options.like or _mix(picks)
        with_types = replace(options, quant=mix, exact_types=_exact(base, picks, options))
        if all(pick.type in WHOLE for pick in picks.values()):
            # The budget holds the whole model, so there is no error that a calibration could make less.
            nothing: dict[str, Any] = dict.fromkeys(
                ("calibrate", "calibrate_tokens", "calibrate_block", "imatrix")
            )
            with_types = replace(with_types, effort="fast", **nothing)
            made = None
        plan = planner.plan(made, with_types)
        over = plan.total_bytes - limit
        if over <= 0:
            weights = {t.name: t.n_weights for t in base.tensors}
            types = tuple(
                _described(name, weights[name], costs[name], picks[name], candidates[name]) for name in names
            )
            return _Solved(types, with_types, plan)
        # The headers of a split output depend on the number of its parts.
        room -= over


def _too_few(options: ConvertOptions, base: _core.Plan, limit: int, smallest: int) -> UsageError:
    """The error for a budget that no types meet."""
    beside = memory_of(options, base)
    if beside is None:
        what = f"{limit} bytes are too few: the smallest possible size is {smallest} bytes"
    else:
        what = (
            f"{options.fit} bytes of memory are too few: the smallest possible size is {smallest + beside.total} bytes,"
            f" {bytes_text(smallest)} of weights, {bytes_text(beside.cache)} of cache for {beside.ctx} tokens and"
            f" {bytes_text(beside.compute)} of compute buffers"
        )
    if options.types:
        what += f" with the types {', '.join(options.types)}"
    fix = "Allow more bytes, or smaller types with --types"
    if beside is not None:
        fix += ", or a shorter context with --ctx"
    return UsageError(message(recipe.flag(options.budget), what, fix))


def _mix_within(
    planner: Planner, options: ConvertOptions, made: _core.Calibration | None, limit: int
) -> _core.Plan | None:
    """The plan of the mix that the choice is compared with: `like`, or the largest mix that fits."""
    names = [options.like] if options.like else [m for m in MIXES if not m.startswith(SPECIAL)]
    best = None
    for name in names:
        plan = planner.plan(made, replace(options, quant=name))
        if plan.total_bytes <= limit and (best is None or plan.total_bytes > best.total_bytes):
            best = plan
    return best


def _with_whole(base: _core.Plan, measured: _Measured) -> _Measured:
    """The candidates and the type of the source, which has no error: it spends what would be left of a large budget."""
    tensors = {t.name: t for t in base.tensors}
    found = {}
    for name, of in measured.items():
        types = set(tensors[name].source_types)
        found[name] = of
        if types <= {"BF16"} or types <= {"F16"}:
            size = 2 * tensors[name].n_weights
            whole = Candidate(types.pop(), size, 0.0, of.candidates[0].energy, 0.0)
            found[name] = of._replace(candidates=(*of.candidates, whole))
    return found


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _mix(picks: Mapping[str, Candidate]) -> str:
    """The mix that the metadata names: that of the type with most bytes."""
    totals: dict[str, int] = {}
    for pick in picks.values():
        totals[pick.type] = totals.get(pick.type, 0) + pick.bytes
    return _core.mix_of_type(max(totals, key=lambda name: totals[name]))


def _exact(
    base: _core.Plan, picks: Mapping[str, Candidate], options: ConvertOptions
) -> tuple[tuple[str, str], ...]:
    """The picks, and the types of all other tensors that the base mix quantizes."""
    kept = {t.name: t.type for t in base.tensors if t.type not in FLOAT_TYPES}
    return tuple(
        (kept | {name: pick.type for name, pick in picks.items()} | dict(options.exact_types)).items()
    )


def _described(
    name: str, n_weights: int, cost: float, pick: Candidate, candidates: tuple[Candidate, ...]
) -> ChosenType:
    larger = [c for c in candidates if c.bytes > pick.bytes and c.error < pick.error]
    gain = max((cost * (pick.error - c.error) / (c.bytes - pick.bytes) for c in larger), default=0.0)
    return ChosenType(name, pick.type, pick.bytes, pick.error, cost * pick.error, gain * 2**20, n_weights)
