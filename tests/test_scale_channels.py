"""`--scale-channels`: the columns of each matrix become alike in size, and the model computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import srd_rs
from forward_tools import families, plan_variant, variants
from srd_rs import ConvertOptions, _core, effects
from srd_rs.cli import run
from srd_rs.errors import ModelError, UsageError
from support import EXAMPLE

CASES = variants() | families(_core.forward_architectures())
#: What llama.cpp does not load.
del CASES["nemotron-puzzle"]
#: Attention and the feed-forward part see one norm, queries, keys and values are one matrix, and nothing is gated.
WITHOUT_CHANNELS = ("falcon-11b", "falcon-7b", "falcon-rw", "neox")
QUICK: dict[str, Any] = {"met": False, "cache": False, "axm": False, "overwrite": True}


def tensors(path: Path) -> dict[str, Any]:
    return {t.name: np.array(t.data, np.float32) for t in gguf.GGUFReader(path).tensors}


def spread(matrix: Any) -> float:
    """How much the columns differ in size: the deviation of the logarithm."""
    return float(np.log(np.sqrt((matrix.astype(np.float64) ** 2).mean(0))).std())


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_model_computes_the_same(name: str, tmp_path: Path) -> None:
    """Every architecture: the logits are those of the model as it is, or the option is refused."""
    plain = plan_variant(CASES[name], tmp_path, tmp_path / "plain.gguf")
    try:
        scaled = plan_variant(CASES[name], tmp_path, tmp_path / "scaled.gguf", scale_channels=True)
    except ModelError as error:
        assert "Leave out --scale-channels" in str(error)
        assert not plain.has_gradient() or name in WITHOUT_CHANNELS
        return
    chunks = [[1, 5, 9, 3, 7, 11, 2, 8]]
    expected, found = (np.asarray(_core.forward_logits(plan, chunks, 2)[0]) for plan in (plain, scaled))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max())
    for plan in (plain, scaled):
        plan.run(ConvertOptions(quant="F32"))
    before, after = (tensors(tmp_path / f"{stem}.gguf") for stem in ("plain", "scaled"))
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changed and all(key.startswith("blk.") for key in changed)
    for key in changed:
        if key.endswith(("attn_output.weight", "ffn_down.weight")):
            assert spread(after[key]) < spread(before[key]), key


def test_the_factors_are_those_of_the_documentation(tmp_path: Path) -> None:
    """A factor is one over the size of the columns that take the channel; a matrix counts as much as all before it."""
    case = CASES["Llama-3.1-8B-Instruct"]
    before, after = (tmp_path / f"{stem}.gguf" for stem in ("plain", "scaled"))
    plan_variant(case, tmp_path, before).run(ConvertOptions(quant="F32"))
    plan_variant(case, tmp_path, after, scale_channels=True).run(ConvertOptions(quant="F32"))
    plain, scaled = tensors(before), tensors(after)

    def size(part: str) -> Any:
        return np.sqrt((plain[f"blk.0.{part}.weight"].astype(np.float64) ** 2).mean(0))

    def of(sizes: Any) -> Any:
        return 1 / sizes / (1 / sizes).mean()

    def factors(part: str) -> Any:
        return plain[f"blk.0.{part}.weight"] / scaled[f"blk.0.{part}.weight"]

    of_input = of(np.sqrt(np.sqrt(size("attn_q") * size("attn_k")) * size("attn_v")))
    np.testing.assert_allclose(factors("attn_norm"), of_input, rtol=1e-5)
    np.testing.assert_allclose(
        1 / factors("attn_q"), np.broadcast_to(of_input, plain["blk.0.attn_q.weight"].shape), rtol=1e-5
    )
    of_hidden = of(size("ffn_down"))
    np.testing.assert_allclose(1 / factors("ffn_down")[0], of_hidden, rtol=1e-5)
    of_ffn = of(np.sqrt(size("ffn_gate") * size("ffn_up")))
    np.testing.assert_allclose(factors("ffn_up"), of_hidden[:, None] / of_ffn[None, :], rtol=1e-4)


def test_a_quantized_file_has_the_same_bytes_everywhere_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**QUICK, "calibrate_tokens": 512, "scale_channels": True}
    made = [srd_rs.convert(EXAMPLE, tmp_path / f"{n}.gguf", threads=n, **options).output for n in (1, 2)]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert "adapters (LoRA) of the original model do not fit" in caplog.text
    monkeypatch.setenv("SRD_FORCE_SCALAR", "1")
    srd_rs.rebuild(made[0], EXAMPLE)
    for name, more in (("plain", []), ("scaled", ["--scale-channels"])):
        output = tmp_path / f"fast-{name}.gguf"
        assert run(["convert", str(EXAMPLE), "-o", str(output), "--fast", "--no-met", *more]) == 0
    plain, scaled = (tensors(tmp_path / f"fast-{name}.gguf") for name in ("plain", "scaled"))
    assert not np.array_equal(plain["blk.0.attn_norm.weight"], scaled["blk.0.attn_norm.weight"])
    assert np.array_equal(plain["token_embd.weight"], scaled["token_embd.weight"])


def test_a_kept_calibration_is_not_that_of_the_scaled_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRD_CACHE", str(tmp_path / "cache"))
    options = {**QUICK, "cache": True, "calibrate_tokens": 256}
    for provenance in (True, False):
        found = [
            srd_rs.convert(
                EXAMPLE, tmp_path / "x.gguf", scale_channels=scales, provenance=provenance, **options
            )
            for scales in (False, True, True)
        ]
        assert [report.calibration_found for report in found] == [not provenance, not provenance, True]


def test_types_are_chosen_for_the_scaled_model() -> None:
    options: dict[str, Any] = {"like": "Q4_K_M", "calibrate_tokens": 512, "cache": False}
    check = srd_rs.plan(EXAMPLE, scale_channels=True, **options).check
    assert check is not None and check.choice_kld < check.mix_kld


REFUSED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a calibration file": lambda folder: {"calibrate": folder / "c"},
    "an imatrix": lambda folder: {"effort": "fast", "imatrix": folder / "i"},
    "no tensor of the mix BF16": lambda folder: {"quant": "BF16"},
    "the machines of a cluster": lambda folder: {"ray": "local"},
}


def test_weights_of_the_network_are_refused() -> None:
    options = ConvertOptions(effort="fast", stream=True, scale_channels=True)
    with pytest.raises(UsageError, match="--scale-channels: the factors need all weights of a layer"):
        effects.check(options, (), from_gguf=False, text=False, measured=False)


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_done_is_refused(why: str, tmp_path: Path) -> None:
    srd_rs.calibrate(EXAMPLE, tmp_path / "c", text="random", tokens=64, ctx=64, imatrix=tmp_path / "i")
    with pytest.raises(UsageError, match=f"--scale-channels: {why}"):
        srd_rs.plan(EXAMPLE, scale_channels=True, **REFUSED[why](tmp_path))
