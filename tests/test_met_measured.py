"""What only a conversion knows, in the sidecar: the importance of the tensors and the use of the experts.

Golden sidecars of all versions are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import jsonschema
import numpy as np
import pytest

import srd_rs
from srd_rs.hydration import sidecar_path
from srd_rs.report import Measurements
from support import REPO, srd

VALIDATOR = jsonschema.Draft202012Validator(json.loads((REPO / "docs" / "met.schema.json").read_text()))
GOLDEN = Path(__file__).parent / "data" / "met"
SMALL: dict[str, Any] = {
    "effort": "srd",
    "calibrate": "random",
    "calibrate_tokens": 256,
    "calibrate_block": 256,
}


def convert(model: Path, output: Path, **more: Any) -> tuple[srd_rs.ConvertReport, dict[str, Any]]:
    report = srd_rs.convert(model, output, **{**SMALL, "axm": False, "mmproj": False, **more})
    sidecar: dict[str, Any] = json.loads(sidecar_path(report.output).read_text())
    VALIDATOR.validate(sidecar)
    return report, sidecar


@pytest.fixture(scope="module")
def moe(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A mixture of experts, converted by SRD, and its sidecar."""
    report, sidecar = convert(fixtures / "mixtral", tmp_path_factory.mktemp("moe") / "m.gguf", threads=2)
    return report.output, sidecar


def test_the_errors_are_those_of_the_rounding(
    fixtures: Path, moe: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The error of a matrix is computed here from the moments, and from the weights before and after."""
    path, sidecar = moe
    calibration = tmp_path / "m.calibration"
    srd_rs.calibrate(fixtures / "mixtral", calibration, text="random", tokens=256, block=256)
    whole = srd_rs.convert(fixtures / "mixtral", tmp_path / "w.gguf", quant="F32", effort="fast", axm=False)
    before = {t.name: t for t in gguf.GGUFReader(whole.output).tensors}
    after = {t.name: t for t in gguf.GGUFReader(path).tensors}
    moments = srd_rs_moments(calibration)
    checked = 0
    for name, facts in sidecar["tensors"].items():
        if "error" not in facts:
            continue
        w = gguf.quants.dequantize(before[name].data, before[name].tensor_type).astype(np.float64)
        v = gguf.quants.dequantize(after[name].data, after[name].tensor_type).astype(np.float64)
        h = moments[name]
        w, v = (x.reshape(len(h), -1, x.shape[-1]) for x in (w, v))
        energy = sum(quadratic(rows, part) for rows, part in zip(w, h, strict=True))
        lost = sum(quadratic(rows, part) for rows, part in zip(v - w, h, strict=True))
        # The program adds H a little damping, and takes the energy from a sample of the rows.
        # All rows of a small matrix give its energy, and a sample of the rows of a large one.
        assert facts["error"] == pytest.approx(
            lost / energy, rel=0.02 if w.shape[0] * w.shape[1] < 512 else 0.12
        ), name
        checked += 1
    assert checked >= 7


def quadratic(rows: np.ndarray[Any, Any], h: np.ndarray[Any, Any]) -> float:
    """The sum of `x H x^T` over rows, for H in diagonal blocks."""
    n, block = h.shape
    total = 0.0
    for start in range(0, n, block):
        part = rows[:, start : start + block]
        total += float(np.einsum("ri,ij,rj->", part, h[start : start + block, : part.shape[1]], part))
    return total


def srd_rs_moments(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """name of a tensor -> its moments, `[experts, n, block]`, shrunk and damped as docs/quantizer.md says."""
    from safetensors import safe_open

    found = {}
    with safe_open(path, "np") as file:
        for item in json.loads(file.metadata()["inputs"]):
            values = file.get_tensor(f"{item['tensors'][0]}.moments").astype(np.float64)
            for name in item["tensors"]:
                found[name] = np.stack([used(h) for h in values.reshape(-1, *values.shape[-2:])])
    return found


def used(h: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The moments of few tokens as SRD uses them: 0.7 of what is off the diagonal, and 0.001 of the mean on it."""
    n, block = h.shape
    rows, columns = np.arange(n), np.arange(n) % block
    diagonal = h[rows, columns]
    out: np.ndarray[Any, Any] = 0.7 * h
    out[rows, columns] = diagonal + 0.001 * diagonal.mean()
    return out


def test_the_heat_is_that_of_the_calibration(
    fixtures: Path, moe: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from safetensors import safe_open

    _, sidecar = moe
    calibration = tmp_path / "m.calibration"
    srd_rs.calibrate(fixtures / "mixtral", calibration, text="random", tokens=256, block=256)
    with safe_open(calibration, "np") as file:
        inputs = json.loads(file.metadata()["inputs"])
    wanted = {
        item["tensors"][0].split(".")[1]: item["tokens"] for item in inputs if "_exps" in item["tensors"][0]
    }
    heat, facts = sidecar["expert_heat"], sidecar["moe"]
    assert heat["layers"] == wanted and len(wanted) == sidecar["model"]["n_layer"]
    for counts in heat["layers"].values():
        # Each token uses so many experts.
        assert sum(counts) == heat["tokens"] * facts["experts_per_token"]
        assert len(set(counts)) > 1


def test_threads_and_memory_change_no_digit(
    fixtures: Path, moe: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, sidecar = moe
    _, other = convert(fixtures / "mixtral", tmp_path / "m.gguf", threads=1, max_memory=1)
    assert other == sidecar


def test_a_fast_conversion_and_a_dense_model_know_less(fixtures: Path, tmp_path: Path) -> None:
    fast = srd_rs.convert(fixtures / "mixtral", tmp_path / "f.gguf", effort="fast", axm=False)
    sidecar = json.loads(sidecar_path(fast.output).read_text())
    assert "expert_heat" not in sidecar
    assert not any({"error", "kld"} & facts.keys() for facts in sidecar["tensors"].values())
    assert fast.measured == Measurements()
    report, sidecar = convert(fixtures / "llama", tmp_path / "d.gguf")
    assert "expert_heat" not in sidecar and report.measured.expert_tokens == {}
    known = {name for name, facts in sidecar["tensors"].items() if "error" in facts}
    assert known == set(report.measured.errors) and "blk.0.ffn_down.weight" in known
    # A norm is not rounded.
    assert not {name for name in known if "norm" in name}


def test_a_budget_adds_what_the_types_cost(fixtures: Path, tmp_path: Path) -> None:
    report, sidecar = convert(fixtures / "llama", tmp_path / "b.gguf", target_bpw=6.0)
    costs = {c.name: c.cost for c in report.plan.chosen}
    found = {name: facts["kld"] for name, facts in sidecar["tensors"].items() if "kld" in facts}
    if report.plan.check is None or report.plan.check.written == "mix":
        assert found == {}
    else:
        assert found == {name: float(f"{cost:.3e}") for name, cost in costs.items()}
        assert sum(found.values()) > 0


def test_measuring_again_keeps_what_only_the_conversion_knows(
    moe: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, sidecar = moe
    again = srd_rs.met(path)
    assert again["file"].pop("sha256")
    assert again == {**sidecar, "file": again["file"]}
    run = srd("met", path, "-o", tmp_path / "x.json", "--slots", slots_of(sidecar), "--json", "--no-digest")
    assert run.code == 0, run.stderr
    assert run.json["expert_heat"] == sidecar["expert_heat"]
    # The sidecar of another file is of no use.
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    assert "expert_heat" not in srd_rs.met(copy)
    spoilt = json.loads(json.dumps(sidecar))
    spoilt["expert_heat"]["layers"]["0"].append(1)
    sidecar_path(copy).write_text(json.dumps(spoilt))
    assert "expert_heat" not in srd_rs.met(copy)
    run = srd("hydrate", copy)
    assert run.code == 1 and "'expert_heat'" in run.stderr


def slots_of(sidecar: dict[str, Any]) -> str:
    last = sidecar["model"]["n_layer"] - 1
    return f"early=0-0,governance=1-{last}"


def test_hydration_within_a_budget_takes_what_every_token_reads_first(
    moe: tuple[Path, dict[str, Any]],
) -> None:
    path, sidecar = moe
    stacks = [t for t in sidecar["tensors"].values() if t["access"] == "experts"]
    experts = sum(t["bytes"] for t in stacks)
    with srd_rs.Hydrator(path) as hydrator:
        hydrator.evict()
        if any(part.resident_bytes for part in hydrator.residency()):
            pytest.skip("this file system keeps evicted pages")
        page = os.sysconf("SC_PAGESIZE")
        budget = sidecar["intent_ram_budget"]["HARM"]["bytes"] - experts + page
        hydrator.hydrate("HARM", budget=budget)
        there = {part.slot: part.resident_bytes or 0 for part in hydrator.residency()}
    for slot, facts in sidecar["slots"].items():
        held = sum(t["bytes"] for t in stacks if t["part"] == slot)
        n_stacks = sum(t["part"] == slot for t in stacks)
        # What is not an expert is in memory, and hardly more. Pages have two owners where a stack begins and ends.
        assert abs(there[slot] - (facts["bytes"] - held)) <= 2 * page * (n_stacks + 1), slot


def golden_model(path: Path) -> None:
    """A GGUF whose bytes follow from this function alone."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(5)
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    shapes = {"token_embd.weight": (6, 32), "output.weight": (6, 32), "output_norm.weight": (32,)}
    for layer in range(5):
        shapes |= {f"blk.{layer}.attn_q.weight": (3, 32), f"blk.{layer}.ffn_up_exps.weight": (4, 2, 32)}
    for name, shape in shapes.items():
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


KNOWN = Measurements(
    errors={"blk.0.attn_q.weight": 0.001234, "blk.4.ffn_up_exps.weight": 2.5e-05},
    klds={"blk.0.attn_q.weight": 1e-06},
    expert_tokens={0: (10, 0, 3, 7), 4: (5, 5, 5, 5)},
    tokens=10,
)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_golden_sidecars(version: int, tmp_path: Path) -> None:
    """Sidecars of each version are read, and they fit their file."""
    path = tmp_path / "golden.gguf"
    golden_model(path)
    golden = (GOLDEN / f"v{version}.met.json").read_text()
    VALIDATOR.validate(json.loads(golden))
    assert json.loads(golden)["met_version"] == version
    sidecar_path(path).write_text(golden)
    assert srd("met", path, "--check").code == 0
    with srd_rs.Hydrator(path) as hydrator:
        assert hydrator.sidecar == json.loads(golden)
        hydrator.hydrate("HARM")
    if version == 3:
        made = srd_rs.met(path, known=KNOWN)
        assert {**made, "generator": ""} == {**json.loads(golden), "generator": ""}
