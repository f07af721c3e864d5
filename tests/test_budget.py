"""Types within a budget of bytes: the budget is met and never exceeded, and recipe files hold the choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srd_rs
from srd_rs import _core, budget, conversion, errors, planning
from srd_rs.hub import Source
from srd_rs.options import ConvertOptions
from support import EXAMPLE, srd

#: The largest share of the budget that may stay unused.
UNUSED = 0.001


def converted(tmp_path: Path, name: str = "out.gguf", **options: Any) -> srd_rs.ConvertReport:
    return srd_rs.convert(EXAMPLE, tmp_path / name, met=False, **{"effort": "fast", **options})


def planned(output: Path | None = None, **options: Any) -> srd_rs.Plan:
    return srd_rs.plan(EXAMPLE, output, **{"effort": "fast", **options})


@pytest.mark.parametrize("mix", ["Q3_K_M", "IQ4_XS", "Q4_K_M", "Q6_K"])
def test_like_a_mix_has_the_bytes_of_the_mix_at_most(mix: str, tmp_path: Path) -> None:
    report = converted(tmp_path, like=mix)
    limit = planned(tmp_path / "mix.gguf", quant=mix).total_bytes
    size = (tmp_path / "out.gguf").stat().st_size
    assert size == report.plan.total_bytes <= limit
    assert size >= (1 - UNUSED) * limit
    assert report.plan.chosen and report.plan.quant == mix


@pytest.mark.parametrize("share", [0.25, 0.35, 0.42])
def test_a_size_is_met(share: float, tmp_path: Path) -> None:
    whole = planned(quant="BF16").total_bytes
    limit = int(share * whole)
    report = converted(tmp_path, target_size=limit)
    assert (1 - UNUSED) * limit <= (tmp_path / "out.gguf").stat().st_size <= limit
    assert len(report.plan.types) > 2


def test_bits_per_weight_are_met(tmp_path: Path) -> None:
    report = converted(tmp_path, target_bpw=4.5)
    assert 4.5 * (1 - UNUSED) - 0.01 <= report.plan.bpw <= 4.5


def test_a_larger_budget_costs_less(tmp_path: Path) -> None:
    costs = [sum(c.cost for c in planned(target_bpw=bpw).chosen) for bpw in (4.0, 4.5, 5.0, 6.0)]
    assert costs == sorted(costs, reverse=True) and costs[0] > 2 * costs[-1] > 0


def test_an_impossible_size_is_refused_with_the_smallest_one(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError) as caught:
        converted(tmp_path, target_size=100_000)
    smallest = int(str(caught.value).split("size is ")[1].split(" bytes")[0])
    assert converted(tmp_path, target_size=smallest).plan.total_bytes == smallest
    with pytest.raises(errors.UsageError, match=str(smallest)):
        converted(tmp_path, "other.gguf", target_size=smallest - 1)


def test_lattice_types_make_files_smaller_than_q2_k(tmp_path: Path) -> None:
    tiny = converted(tmp_path, target_bpw=2.6).plan
    assert 2.6 * (1 - UNUSED) - 0.01 <= tiny.bpw <= 2.6
    assert {"IQ2_XXS", "IQ2_XS"} & set(tiny.types)
    # They have no feedback, so a larger budget does not measure them.
    assert not {"IQ2_XXS", "IQ2_XS"} & set(planned(target_bpw=4.0).types)


def test_types_restrict_the_choice(tmp_path: Path) -> None:
    report = converted(tmp_path, like="Q4_K_M", types=("Q4_0", "Q8_0"))
    assert {c.type for c in report.plan.chosen} == {"Q4_0", "Q8_0"}


def test_types_that_the_user_names_stay(tmp_path: Path) -> None:
    report = converted(tmp_path, like="Q4_K_M", tensor_types=["attn_q=Q8_0"])
    types = {t.name: t.type for t in report.plan.tensors}
    assert all(kind == "Q8_0" for name, kind in types.items() if ".attn_q.weight" in name)
    assert not any("attn_q.weight" in c.name for c in report.plan.chosen)


def test_a_recipe_file_gives_the_same_file_and_can_be_edited(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    first = converted(tmp_path, like="Q4_K_M", recipe_out=recipe)
    converted(tmp_path, "again.gguf", recipe=recipe)
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "out.gguf").read_bytes()
    stored = json.loads(recipe.read_text())
    assert stored["total_bytes"] == first.plan.total_bytes
    # One line for each tensor.
    assert sum('"type"' in line for line in recipe.read_text().splitlines()) == len(stored["tensors"])
    name = next(name for name, entry in stored["tensors"].items() if entry["type"] != "Q8_0")
    stored["tensors"][name] = "Q8_0"
    recipe.write_text(json.dumps(stored))
    edited = converted(tmp_path, "edited.gguf", recipe=recipe)
    types = [{t.name: t.type for t in report.plan.tensors} for report in (first, edited)]
    assert {n for n in types[0] if types[0][n] != types[1][n]} == {name}


def test_a_recipe_of_a_fixed_mix_can_be_written(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    mix = converted(tmp_path, quant="Q3_K_L", recipe_out=recipe)
    assert json.loads(recipe.read_text())["mix"] == "Q3_K_L"
    again = planned(recipe=recipe)
    assert [t.type for t in again.tensors] == [t.type for t in mix.plan.tensors]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "other", "tensors": {}}', "no recipe"),
        ('{"format": "srd-rs recipe", "tensors": {"blk.0.attn_q.weight": 3}}', "has no type"),
        ('{"format": "srd-rs recipe", "tensors": {"blk.0.attn_q.weight": "Q9"}}', "Q9"),
        ('{"format": "srd-rs recipe", "tensors": {"blk.99.attn_q.weight": "Q4_K"}}', "does not have"),
        ('{"format": "srd-rs recipe", "mix": "Q9_K", "tensors": {}}', "Q9_K"),
    ],
)
def test_a_wrong_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(text)
    with pytest.raises(errors.UsageError, match=message):
        planned(recipe=recipe)


@pytest.mark.parametrize(
    "options",
    [
        {"like": "Q4_K_M", "target_bpw": 4.5},
        {"like": "Q4_K_M", "recipe": "recipe.json"},
        {"like": "Q4_K_M", "quant": "Q5_K_M"},
        {"target_bpw": 4.5, "pure": True},
        {"types": ("Q4_K",)},
        {"fit": 1 << 30, "like": "Q4_K_M"},
        {"ctx": 4096},
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError):
        converted(tmp_path, **options)


def test_the_choice_does_not_depend_on_the_number_of_threads() -> None:
    one, two = (planned(target_bpw=4.3, threads=n) for n in (1, 2))
    assert one.chosen == two.chosen


def test_a_calibrated_choice_measures_with_feedback(tmp_path: Path) -> None:
    options = {"effort": "srd", "calibrate_tokens": 512, "calibrate_block": 256}
    plain = planned(like="Q4_K_M")
    calibrated = converted(tmp_path, like="Q4_K_M", **options)
    limit = planned(quant="Q4_K_M", **options).total_bytes
    assert (1 - UNUSED) * limit <= (tmp_path / "out.gguf").stat().st_size <= limit
    before = {(c.name, c.type): c.error for c in plain.chosen if c.error}
    ratios = [c.error / before[c.name, c.type] for c in calibrated.plan.chosen if (c.name, c.type) in before]
    assert len(ratios) > 4 and float(np.median(ratios)) < 0.8
    # The choice was compared with the mix on text that the calibration has not seen, and it is better.
    assert plain.check is None
    check = calibrated.plan.check
    assert check and (check.mix, check.written, check.held_out) == ("Q4_K_M", "choice", True)
    assert check.mix_bytes == limit and 0 < check.choice_kld < 0.9 * check.mix_kld
    assert 0 < check.expected_ratio < 0.9
    # Eight chunks of 128 tokens from all parts of the text.
    assert check.tokens == 1024


def test_the_mix_is_written_where_it_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that say the opposite of the truth make a bad choice, which the check finds."""
    right = budget.measured_costs
    monkeypatch.setattr(
        budget,
        "measured_costs",
        lambda *args: {name: 1 / max(cost, 1e-6) for name, cost in right(*args).items()},
    )
    options = {"effort": "srd", "calibrate_tokens": 512, "calibrate_block": 256}
    report = converted(tmp_path, like="Q4_K_M", **options)
    check = report.plan.check
    assert check and check.written == "mix" and check.mix_kld < check.choice_kld
    mix = planned(tmp_path / "mix.gguf", quant="Q4_K_M", **options)
    assert [t.type for t in report.plan.tensors] == [t.type for t in mix.tensors]
    assert report.plan.chosen == ()


def without_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no derivatives known, as for experts and recurrences."""
    measure = budget._measured
    monkeypatch.setattr(
        budget,
        "_measured",
        lambda *args: {name: of._replace(price=None) for name, of in measure(*args).items()},
    )


@pytest.mark.parametrize(
    ("klds", "best"),
    [([3.0, 2.0, 1.0], 2), ([3.0, 1.0, 2.0], 1), ([1.0, 3.0, 2.0], 0)],
    ids=("b", "a", "mix"),
)
def test_two_types_of_a_large_output_matrix_are_compared(
    klds: list[float], best: int, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the weights make the logits here: the run decides between two choices and the mix."""
    compared: list[Any] = []

    def watched(runs: Any, *_: Any) -> list[float]:
        compared.extend(plan for plan, _ in runs)
        return klds

    monkeypatch.setattr(budget, "written_divergences", watched)
    without_derivatives(monkeypatch)
    options = {"effort": "srd", "calibrate_tokens": 256, "calibrate_block": 256}
    report = srd_rs.convert(fixtures / "gemma3", tmp_path / "out.gguf", met=False, like="Q4_K_M", **options)
    types = [{t.name: t.type for t in plan.tensors} for plan in compared]
    mix, *choices = compared
    assert len(choices) == 2 and all(plan.total_bytes <= mix.total_bytes for plan in choices)
    assert types[1]["token_embd.weight"] != types[2]["token_embd.weight"]
    assert {t.name: t.type for t in report.plan.tensors} == types[best]
    check = report.plan.check
    assert check and (check.mix_kld, check.choice_kld) == (klds[0], min(klds[1:]))


def test_one_choice_is_compared_where_derivatives_price_the_output_matrix(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def watched(runs: Any, *_: Any) -> list[float]:
        compared.append(len(runs))
        return [2.0, 1.0]

    monkeypatch.setattr(budget, "written_divergences", watched)
    options = {"effort": "srd", "calibrate_tokens": 256, "calibrate_block": 256}
    report = srd_rs.convert(fixtures / "gemma3", tmp_path / "out.gguf", met=False, like="Q4_K_M", **options)
    assert compared == [2] and report.plan.check and report.plan.check.written == "choice"


def test_the_errors_of_the_mix_are_those_that_its_types_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of types that no tensor may get by the choice: their whole rounding errors would flatter the choice."""
    runs: list[Any] = []

    def watched(planner: Any, plan: Any, groups: Any, chunks: Any, show: Any) -> list[float]:
        runs.append(groups)
        return [1.0, 0.5][: len(groups)] if len(groups) == 2 else [1.0] * len(groups)

    monkeypatch.setattr(budget, "_run", watched)
    # The run cannot have all matrices as the conversion will write them.
    monkeypatch.setattr(budget, "_written_by_srd", lambda plans: None)
    chosen = planned(like="IQ3_XXS", effort="srd", calibrate_tokens=512, calibrate_block=256).chosen
    of_mix = runs[-1][0]
    shares = [of_mix[c.name][1] for c in chosen if of_mix[c.name][0].startswith("IQ3_")]
    assert len(shares) > 10 and 1.0 not in shares


def test_a_budget_that_holds_the_whole_model_quantizes_nothing(tmp_path: Path) -> None:
    options = {"effort": "srd", "calibrate_tokens": 512, "calibrate_block": 256}
    report = converted(tmp_path, target_size=100_000_000, **options)
    whole = converted(tmp_path, "whole.gguf", quant="BF16")
    assert {t.type for t in report.plan.tensors} == {t.type for t in whole.plan.tensors}
    assert report.plan.check is None and report.calibration_tokens is None


def test_a_stated_size_is_compared_with_the_largest_mix_that_fits(tmp_path: Path) -> None:
    options = {"effort": "srd", "calibrate_tokens": 512, "calibrate_block": 256}
    limit = planned(quant="Q5_K_S").total_bytes + 5000
    check = converted(tmp_path, target_size=limit, **options).plan.check
    assert check and check.written == "choice" and check.choice_kld < check.mix_kld
    assert limit - 200_000 < check.mix_bytes <= limit


@pytest.mark.parametrize("ctx", [512, 8192, 65536])
def test_a_memory_holds_the_file_the_cache_and_the_buffers(ctx: int, tmp_path: Path) -> None:
    limit = 150_000_000
    plan = planned(tmp_path / "out.gguf", fit=limit, ctx=ctx)
    assert plan.memory and plan.memory.ctx == ctx
    unused = limit - plan.total_bytes - plan.memory.total
    whole = planned(quant="BF16").total_bytes
    assert unused >= 0 and (unused <= UNUSED * limit or plan.total_bytes >= 0.999 * whole)
    small = plan.memory.total + 100_000
    with pytest.raises(errors.UsageError, match="smallest possible size is") as caught:
        planned(fit=small, ctx=ctx)
    smallest = int(str(caught.value).split("size is ")[1].split(" bytes")[0])
    again = planned(fit=smallest, ctx=ctx)
    assert again.memory and again.total_bytes + again.memory.total == smallest


def test_a_split_output_stays_within_the_budget(tmp_path: Path) -> None:
    report = converted(tmp_path, target_bpw=4.5, split_max_size=2_000_000)
    assert len(report.outputs) > 1
    limit = planned(tmp_path / "mix.gguf", split_max_size=2_000_000)
    bits = 8 * sum(t.bytes for t in report.plan.tensors) / limit.n_weights
    assert bits <= 4.5


def test_the_container_holds_and_gives_back_a_choice(tmp_path: Path) -> None:
    key = tmp_path / "master.key"
    srd_rs.keygen(key)
    converted(tmp_path, target_bpw=3.6, axm=True, key_file=key)
    srd_rs.extract(tmp_path / "out.axm", tmp_path / "back.gguf", key_file=key)
    assert (tmp_path / "back.gguf").read_bytes() == (tmp_path / "out.gguf").read_bytes()


def test_the_command_prints_the_choice(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    done = srd("convert", EXAMPLE, "--like", "Q4_K_M", "--recipe-out", recipe, "--dry-run", "--fast")
    assert done.code == 0, done.stderr
    assert "blk.0.attn_q.weight" in done.stdout and "gain" in done.stdout
    assert recipe.exists()
    wrong = srd("convert", EXAMPLE, "--target-size", "1000", "--dry-run", "--fast")
    assert wrong.code == 2 and "smallest possible size" in wrong.stderr


def test_sensitivity_is_the_divergence_of_the_rounded_model(tmp_path: Path) -> None:
    """The forward pass with rounded matrices is that of a file with the rounded matrices."""
    tokens = [[2, *range(100, 140)], [2, *range(500, 540)]]
    native = planning.native_plan(Source(EXAMPLE), tmp_path / "f32.gguf", ConvertOptions(quant="F32"))
    names = [t.name for t in native.tensors if ".ffn_down.weight" in t.name]
    whole, half = (dict.fromkeys(names, (None, share)) for share in (1.0, 0.5))
    groups = [{}, {names[0]: (None, 1.0)}, whole, half]
    nothing, one, kind, less = native.sensitivity(groups, tokens, 2, 1 << 30)
    # The KLD of small errors grows with their square.
    assert nothing == 0 and 0 < one < kind and less == pytest.approx(kind / 4, rel=0.2)
    rounded = tmp_path / "rounded.gguf"
    assert kind == native.sensitivity([dict.fromkeys(names, ("Q4_0", 1.0))], tokens, 2, 1 << 30)[0]
    srd_rs.convert(EXAMPLE, rounded, quant="F32", effort="fast", tensor_types=["ffn_down=Q4_0"], met=False)
    other = planning.native_plan(
        Source(rounded), tmp_path / "x.gguf", ConvertOptions(quant="F32", allow_requantize=True)
    )
    p, q = (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
        for logits in (
            _core.forward_logits(plan, tokens, 2)[0].astype(np.float64) for plan in (native, other)
        )
    )
    assert kind == pytest.approx(float((np.exp(p) * (p - q)).sum(1).mean()), rel=1e-3)


def test_derivatives_say_what_the_errors_of_each_matrix_cost(tmp_path: Path) -> None:
    """The divergence that the matrices of each kind cause, once by the prices and once by a run with the quantized
    matrices."""
    options = ConvertOptions(like="Q4_K_M", calibrate_tokens=2048, calibrate_block=256, cache=False)
    planner = planning.Planner(Source(EXAMPLE), tmp_path / "m.gguf", options)
    made, _ = conversion._calibration(planner, planner.plan(), None)
    plan = planner.plan(made)
    found = budget.texts(planner, plan)
    assert found is not None
    measured = budget._measured(planner, made, plan, plan.total_bytes, plan, found.costs, None)
    kinds: dict[str, set[str]] = {}
    types = {t.name: t.type for t in plan.tensors}
    for name in measured:
        if name not in _core.TABLES and types[name] in _core.FEEDBACK_TYPES:
            kinds.setdefault(budget.kind_of(name), set()).add(name)
    # The embeddings that are looked up are rounded in each run.
    runs = [(plan, names) for names in (set[str](), *kinds.values())]
    looked_up, *true = budget.written_divergences(runs, options, found.check, None)
    ratios = {}
    for (kind, names), together in zip(kinds.items(), true, strict=True):
        kld = together - looked_up
        errors = {name: {c.type: c.error for c in measured[name].candidates}[types[name]] for name in names}
        ratios[kind] = sum((measured[name].price or 0.0) * error for name, error in errors.items()) / kld
    assert len(ratios) > 6 and all(0.4 < ratio < 2 for ratio in ratios.values())
    assert 0.6 < float(np.exp(np.mean(np.log(list(ratios.values()))))) < 1.4


def test_prices_are_the_same_on_every_machine(fixtures: Path, tmp_path: Path) -> None:
    def prices(threads: int, max_memory: int) -> dict[str, Any]:
        options = ConvertOptions(quant="Q8_0", effort="fast", threads=threads, max_memory=max_memory)
        plan = planning.Planner(Source(fixtures / "llama"), tmp_path / "m.gguf", options).plan()
        measured = plan.measure(["Q4_0"], [], options, [[5, 6, 7, 8], [9, 10, 11], [300, 2]])
        return {name: price for name, (_, _, price) in measured.items()}

    found = prices(1, 1 << 30)
    assert found == prices(2, 1 << 30) == prices(1, 1 << 16)
    assert all(price > 0 for price in found.values()) and len(found) > 8


def test_kinds_of_matrices_have_prices_where_derivatives_are_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_derivatives(monkeypatch)
    groups: dict[tuple[str, int], list[str]] = {}
    right = budget.alike

    def watched(errors: Any) -> dict[tuple[str, int], list[str]]:
        groups.update(right(errors))
        return groups

    monkeypatch.setattr(budget, "alike", watched)
    chosen = planned(like="Q4_K_M", effort="srd", calibrate_tokens=512, calibrate_block=256).chosen
    prices = {c.name: c.cost / c.error for c in chosen if c.error}
    # Tensors with errors alike have one price, and the kinds have prices of their own.
    of_groups = {
        group: {round(prices[name], 9) for name in names if name in prices} for group, names in groups.items()
    }
    assert all(len(found) <= 1 for found in of_groups.values())
    kinds = {kind: found for (kind, away), found in of_groups.items() if away == 0}
    assert len({min(found) for found in kinds.values() if found}) == len(kinds) > 6
    # An error that is large because of a few tokens costs no less than usual.
    large = {kind: found for (kind, away), found in of_groups.items() if away > 0 and found}
    assert all(min(found) >= min(kinds[kind]) for kind, found in large.items())


def test_matrices_with_unusual_errors_are_priced_by_themselves() -> None:
    """Where a few tokens have enormous activations, the error of a matrix says little of what it costs."""
    errors = {f"blk.{i}.ffn_down.weight": e for i, e in enumerate([0.1, 1.0, 1.2, 2.9, 0.9, 51.0, 4.0])}
    errors |= {"blk.0.attn_q.weight": 7.0, "output.weight": 0.01}
    layers = {
        away: [int(name.split(".")[1]) for name in names]
        for (kind, away), names in budget.alike(errors).items()
        if kind == "ffn_down"
    }
    assert layers == {-1: [0], 0: [1, 2, 3, 4], 1: [6], 2: [5]}
    assert budget.alike(errors)["attn_q", 0] == ["blk.0.attn_q.weight"]
    # Each group is rounded alone, and a large error has at least the price that is usual.
    measured = {name: budget.Measured((), error, None) for name, error in errors.items()}
    klds = {"0": 1.0, "1": 2.0, "6": 2.0, "5": 2.0}

    def run(groups: Any, chunks: Any, show: Any) -> list[float]:
        return [
            klds[next(iter(group)).split(".")[1]] if "ffn" in next(iter(group)) else 1.0 for group in groups
        ]

    measured |= {"blk.0.attn_k.weight": budget.Measured((), 1.0, 0.25)}
    costs = budget.measured_costs(run, measured, [], None)
    assert costs["blk.0.attn_k.weight"] == 0.25
    of_layers = [costs[f"blk.{i}.ffn_down.weight"] for i in range(7)]
    assert of_layers == pytest.approx([10.0, *[2 / 6] * 4, 2 / 6, 0.5])
