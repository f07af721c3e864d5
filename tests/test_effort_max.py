"""Effort max: each matrix is quantized for the inputs that the quantized model gives it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srd_rs
from forward_tools import families, plan_variant
from srd_rs import ConvertOptions, _core, budget, calibration, conversion, errors, planning
from srd_rs.cli.convert import report_json, report_text
from support import EXAMPLE

#: The files of `made` take a few seconds, once in a process.
uses_made = pytest.mark.xdist_group("effort max")

OPTIONS: dict[str, Any] = {
    "quant": "Q4_K_M",
    "calibrate_tokens": 1024,
    "met": False,
    "cache": False,
    "axm": False,
}


#: Effort max gives way to effort srd where that diverges less. Most of these tests are about the bytes of effort max.
TOKENS_TO_COMPARE = conversion._tokens_to_compare


@pytest.fixture(autouse=True, scope="module")
def not_compared() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "_tokens_to_compare", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("max")
    for effort in ("srd", "max"):
        srd_rs.convert(EXAMPLE, folder / f"{effort}.gguf", effort=effort, **OPTIONS)
    srd_rs.convert(EXAMPLE, folder / "base.gguf", quant="BF16", met=False)
    return folder


def log_probabilities(path: Path, chunks: list[list[int]]) -> np.ndarray:
    options = ConvertOptions(quant="F32", allow_requantize=True)
    plan = planning.native_plan(planning.Source(path), Path("unwritten"), options)
    logits = np.asarray(_core.forward_logits(plan, chunks, 2)[0], np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@uses_made
def test_the_text_of_the_calibration_diverges_less(made: Path) -> None:
    """The strengths of the corrections are chosen for other text, so this text gains less than it could."""
    native = planning.native_model(planning.Source(made / "base.gguf"), Path("unwritten"))
    metadata = {key: value for key, _, value in native.metadata()}
    tokens = calibration.choose_tokens(native.model, metadata, "builtin", OPTIONS["calibrate_tokens"], 512, 0)
    true = log_probabilities(made / "base.gguf", tokens.chunks)
    klds = {}
    for effort in ("srd", "max"):
        other = log_probabilities(made / f"{effort}.gguf", tokens.chunks)
        klds[effort] = (np.exp(true) * (true - other)).sum(-1).mean()
    print(klds)
    assert klds["max"] < 0.985 * klds["srd"]


@uses_made
def test_types_and_size_are_those_of_srd(made: Path) -> None:
    srd, best = (srd_rs.inspect(made / f"{effort}.gguf") for effort in ("srd", "max"))
    assert [(t.name, t.type) for t in srd.tensors] == [(t.name, t.type) for t in best.tensors]
    assert best.metadata["srd.method"] == "srd-max"


@uses_made
@pytest.mark.parametrize("more", [{"threads": 1}, {"max_memory": 24 << 20}])
def test_neither_threads_nor_memory_change_a_byte(made: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    """With little memory each layer runs again and again, a group of chunks at a time."""
    srd_rs.convert(EXAMPLE, tmp_path / "max.gguf", effort="max", **OPTIONS, **more)
    assert (tmp_path / "max.gguf").read_bytes() == (made / "max.gguf").read_bytes()


def test_a_mix_does_not_find_the_calibration_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRD_CACHE", str(tmp_path / "cache"))
    options = {**OPTIONS, "effort": "max", "cache": True, "calibrate_tokens": 512}
    found = [
        srd_rs.convert(EXAMPLE, tmp_path / f"{i}.gguf", **{**options, "quant": mix}).calibration_found
        for i, mix in enumerate(("Q4_K_M", "Q5_K_M", "Q4_K_M"))
    ]
    assert found == [False, False, True]
    assert (tmp_path / "0.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()


def test_a_calibration_file_is_refused(tmp_path: Path) -> None:
    srd_rs.calibrate(EXAMPLE, tmp_path / "c", tokens=512)
    with pytest.raises(errors.UsageError, match="effort max runs the model itself"):
        srd_rs.plan(EXAMPLE, tmp_path / "a.gguf", effort="max", calibrate=tmp_path / "c")


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma4_e2b", "phi3", "mixtral", "gemma4_moe"])
def test_every_shape_is_converted(
    name: str, fixtures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**OPTIONS, "calibrate": "random", "calibrate_tokens": 256}
    reports = [
        srd_rs.convert(fixtures / name, tmp_path / f"{effort}.gguf", effort=effort, **options)
        for effort in ("srd", "max")
    ]
    assert reports[0].plan.tensor_bytes == reports[1].plan.tensor_bytes
    assert reports[0].output.read_bytes() != reports[1].output.read_bytes()
    has_experts = name in ("mixtral", "gemma4_moe")
    assert ("as effort srd does" in caplog.text and "_exps" in caplog.text) or not has_experts


SMALL: dict[str, Any] = {"calibrate": "random", "calibrate_tokens": 256, "effort": "max", "cache": False}


def test_a_budget_a_container_and_the_same_bytes_again(fixtures: Path, tmp_path: Path) -> None:
    made = srd_rs.convert(
        fixtures / "llama", tmp_path / "m.gguf", like="Q4_K_M", axm=True, met=False, **SMALL
    )
    gguf = made.output
    mix = srd_rs.plan(fixtures / "llama", tmp_path / "n.gguf", quant="Q4_K_M", effort="fast")
    assert 0.98 * mix.tensor_bytes < made.plan.tensor_bytes <= mix.tensor_bytes
    srd_rs.verify(tmp_path / "m.axm")
    srd_rs.extract(tmp_path / "m.axm", tmp_path / "extracted.gguf")
    assert (tmp_path / "extracted.gguf").read_bytes() == gguf.read_bytes()
    srd_rs.rebuild(gguf, fixtures / "llama", cache=False)
    raw = bytearray(gguf.read_bytes())
    raw[-100] ^= 1
    gguf.write_bytes(raw)
    with pytest.raises(errors.VerificationError):
        srd_rs.rebuild(gguf, fixtures / "llama", cache=False)


def test_a_model_whose_tokens_have_several_states_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    plan_variant(families(["gemma3n"])["gemma3n-text"], tmp_path, model).run(ConvertOptions(quant="F32"))
    with pytest.raises(
        errors.ModelError, match="effort max cannot run this model of the architecture 'gemma3n'"
    ):
        srd_rs.plan(model, tmp_path / "a.gguf", quant="Q4_0", **SMALL)


@uses_made
@pytest.mark.parametrize("better", ["max", "srd"])
def test_the_effort_that_diverges_less_is_written(
    better: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The report has what was measured, which is changed here so that either effort is better."""
    measure, measured = budget.written_divergences, []

    def changed(*args: Any) -> list[float]:
        measured.extend(measure(*args))
        share = [1000 if effort == better else 1 for effort in ("srd", "max")]
        return [kld / n for kld, n in zip(measured, share, strict=True)]

    monkeypatch.setattr(conversion, "_tokens_to_compare", TOKENS_TO_COMPARE)
    monkeypatch.setattr(budget, "written_divergences", changed)
    report = srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", effort="max", **OPTIONS)
    found = report.plan.effort_check
    assert found is not None and (found.written, found.held_out, found.tokens) == (better, True, 1024)
    assert [found.srd_kld, found.max_kld] == [
        kld / (1000 if effort == better else 1) for effort, kld in zip(("srd", "max"), measured, strict=True)
    ]
    print(measured)
    # Text that the calibration has not seen diverges less too, on this model with norms behind each part of a layer.
    assert 1e-3 < measured[1] < measured[0] < 1e-1
    assert report.method == conversion.METHODS[better] and report.plan.effort == better
    assert ("effort srd is written" in caplog.text) == (better == "srd")
    text = report_text(report)
    assert f"effort {better} is written" in text
    assert json.loads(json.dumps(report_json(report)))["effort_check"] == asdict(found)
    assert (tmp_path / "m.gguf").read_bytes() == (made / f"{better}.gguf").read_bytes()


def encoder(arch: str, folder: Path) -> Path:
    """A tiny encoder with random weights."""
    case = next(iter(families([arch]).values()))
    plan_variant(case, folder, folder / "f32.gguf").run(ConvertOptions(quant="F32"))
    return folder / "f32.gguf"


@pytest.mark.parametrize(
    ("arch", "effort"), [("bert", None), ("bert", "srd"), ("modern-bert", None), ("gemma-embedding", None)]
)
def test_an_encoder_gets_effort_max_unless_another_is_asked_for(
    arch: str, effort: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder has no logits. The last states of its tokens are compared."""
    monkeypatch.setattr(conversion, "_tokens_to_compare", TOKENS_TO_COMPARE)
    model = encoder(arch, tmp_path)
    options = {**OPTIONS, "quant": "Q4_0", "calibrate": "random", "effort": effort}
    assert srd_rs.plan(model, tmp_path / "m.gguf", **options).effort == (effort or "max")
    found = srd_rs.convert(model, tmp_path / "m.gguf", **options).plan.effort_check
    assert (found is None) == (effort == "srd")
    if found is not None:
        print(found)
        assert 0 < found.max_kld < 1 and 0 < found.srd_kld < 1 and found.tokens == 1024
        assert (found.max_kld <= found.srd_kld) == (found.written == "max")


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_a_fast_conversion_says_which_effort_was_left_out(
    arch: str, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny encoder has a vocabulary that no text is read with.
    monkeypatch.setattr(planning.Planner, "_reads_text", lambda *_: True)
    model = encoder("bert", tmp_path) if arch == "bert" else fixtures / arch
    report = srd_rs.convert(model, tmp_path / "m.gguf", quant="Q4_0", effort="fast", axm=False)
    assert report.srd_effort == report_json(report)["srd_effort"] == ("max" if arch == "bert" else "srd")
    assert report.srd_seconds is not None and report.srd_tokens is not None
    last = report_text(report).splitlines()[-1]
    wanted = "effort max takes about .* embeddings" if arch == "bert" else "SRD takes about .* KL divergence"
    assert re.match(rf"Without --fast, {wanted}", last), last


def test_a_calibration_file_and_a_decoder_get_effort_srd(tmp_path: Path) -> None:
    model = encoder("bert", tmp_path)
    srd_rs.calibrate(model, tmp_path / "c", text="random", tokens=512)
    options = ConvertOptions(quant="Q4_0", calibrate=tmp_path / "c")
    assert srd_rs.plan(model, tmp_path / "m.gguf", options).effort == "srd"
    assert srd_rs.plan(EXAMPLE, tmp_path / "m.gguf").effort == "srd"


@pytest.mark.parametrize("effort", ["srd", "max"])
def test_the_divergence_is_that_of_the_written_file(effort: str, fixtures: Path, tmp_path: Path) -> None:
    """Where the model has an output matrix of its own, every quantized matrix is corrected."""
    model, options = fixtures / "llama", {**OPTIONS, "calibrate": "random", "calibrate_tokens": 256}
    srd_rs.convert(model, tmp_path / "base.gguf", quant="F32", met=False)
    written = srd_rs.convert(model, tmp_path / "m.gguf", effort=effort, **options).output
    planner = planning.Planner(
        planning.Source(model), tmp_path / "unwritten", ConvertOptions(effort=effort, **options)
    )
    native = planner.plan()
    names = {t.name for t in native.tensors if t.type in _core.FEEDBACK_TYPES}
    assert "output.weight" in names and names - set(native.corrected) <= {"token_embd.weight"}
    made, _ = conversion._calibration(planner, native, None, quantizes=effort == "max")
    chunks = calibration.choose_tokens(
        model, {k: v for k, _, v in native.metadata()}, "random", 96, 48, 7
    ).chunks
    [found] = _core.written_divergences(
        [(planner.plan(made), set(native.corrected))], planner.options, chunks
    )
    true, other = (log_probabilities(path, chunks) for path in (tmp_path / "base.gguf", written))
    np.testing.assert_allclose(found, (np.exp(true) * (true - other)).sum(-1), rtol=1e-3, atol=1e-7)


def test_types_within_a_budget_are_compared_as_they_are_written(fixtures: Path, tmp_path: Path) -> None:
    """The KLD that the choice of types is told by is that of the file, where a row has one candidate and no descent."""
    model = fixtures / "llama"
    narrow = srd_rs.SrdOptions(beam_width=1, descent_rounds=0)
    options = ConvertOptions(like="Q4_K_M", calibrate_tokens=256, met=False, cache=False, srd=narrow)
    report = srd_rs.convert(model, tmp_path / "m.gguf", options)
    check = report.plan.check
    assert check is not None
    srd_rs.convert(model, tmp_path / "base.gguf", quant="F32", met=False)
    planner = planning.Planner(planning.Source(model), tmp_path / "unwritten", options)
    found = budget.texts(planner, planner.plan())
    assert found is not None
    chunks = found.check
    true, other = (log_probabilities(path, chunks) for path in (tmp_path / "base.gguf", report.output))
    kld = (np.exp(true) * (true - other)).sum(-1).mean()
    assert check.tokens == sum(map(len, chunks))
    written = check.choice_kld if check.written == "choice" else check.mix_kld
    np.testing.assert_allclose(written, kld, rtol=1e-2)


def test_plans_that_are_run_together_diverge_as_each_alone(fixtures: Path, tmp_path: Path) -> None:
    """Matrices that several plans quantize alike are quantized once, and none is taken for one of another type or
    calibration."""
    model = fixtures / "llama"
    srd_rs.calibrate(model, tmp_path / "other.calib", text="random", tokens=256, seed=1)
    kept = _core.open_calibration(tmp_path / "other.calib")

    def planner(quant: str) -> planning.Planner:
        options = ConvertOptions(quant=quant, calibrate="random", calibrate_tokens=256, cache=False)
        return planning.Planner(planning.Source(model), tmp_path / "m.gguf", options)

    made, _ = conversion._calibration(planner("Q4_K_M"), planner("Q4_K_M").plan(), None)
    plans = [planner(quant).plan(made) for quant in ("Q4_K_M", "Q4_K_S", "Q6_K", "Q4_K_M")]
    plans.append(planner("Q4_K_M").plan(kept))
    names = {t.name for t in plans[0].tensors if t.type in _core.FEEDBACK_TYPES}.difference(_core.TABLES)
    runs = [(plan, names) for plan in plans]
    # One plan has fewer matrices: the others of its stream are those of the model.
    runs[3] = (plans[3], {name for name in names if "ffn" in name})
    chunks, options = [[5, 6, 7, 8], [9, 3]], planner("Q4_K_M").options
    together = _core.written_divergences(runs, options, chunks)
    assert together == [_core.written_divergences([run], options, chunks)[0] for run in runs]
    assert len({tuple(klds) for klds in together}) == len(runs)
    assert all(len(klds) == 6 for klds in together)
    with pytest.raises(errors.UsageError, match="there are no plans"):
        _core.written_divergences([], options, chunks)


def test_what_a_run_cannot_have_as_it_is_written(fixtures: Path, tmp_path: Path) -> None:
    """Experts, and tables that are only looked up: where two plans differ in them, their errors are only as large."""

    def matrices(name: str, *quants: str) -> list[set[str]] | None:
        first, second = (
            planning.Planner(
                planning.Source(fixtures / name), tmp_path / "m.gguf", ConvertOptions(quant=quant)
            ).plan()
            for quant in quants
        )
        return budget._written_by_srd((first, second))

    assert matrices("mixtral", "Q4_K_M", "Q6_K") is None and matrices("gemma4_e2b", "Q4_K_M", "Q8_0") is None
    alike = matrices("mixtral", "Q4_K_M", "Q4_K_M")
    assert alike is not None and not any("exps" in name for name in alike[0])
    of_llama = matrices("llama", "Q4_K_M", "Q8_0")
    assert of_llama is not None and {"output.weight", "blk.0.ffn_down.weight"} <= of_llama[0] & of_llama[1]
    tied = matrices("gemma3", "Q4_K_M", "Q8_0")
    assert tied is not None and "token_embd.weight" in tied[0] & tied[1]
