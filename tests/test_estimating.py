"""`srd-rs plan`: the cost of a conversion from headers alone, compared with real conversions and for huge models."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from local_hub import Hub, serving
from srd_rs import _core, estimating, hub
from srd_rs.costs import Rates, Size, cost_of_srd, count, reference_rates
from srd_rs.errors import FormatError, UsageError
from srd_rs.estimating import rates_from
from srd_rs.options import ConvertOptions, SrdOptions
from srd_rs.planning import NativeModel, native_plan
from support import EXAMPLE, REPO, srd, widened

FACTOR = 3.0
"""The documents state this factor: an estimate lies between a third and three times of what the conversion takes."""


def large_plan() -> Any:
    sys.path.insert(0, str(REPO / "scripts"))
    try:
        return importlib.import_module("large_plan")
    finally:
        del sys.path[0]


#: Rates that make the numbers easy: a CPU second for each 10^9 weights, and disks and networks of 1 GB/s.
TYPES = ("F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0")
EASY = Rates(
    threads=1, search=dict.fromkeys(TYPES, 1e-9), rows=dict.fromkeys(TYPES, 1e-9), columns=dict.fromkeys(TYPES, 0.0),
    block=256, beam_width=4, copy=0.0, product=1e-14, decode=0.0, disk_read=1e15, disk_write=1e15, network=1e9,
)  # fmt: skip


@pytest.fixture
def easy(tmp_path: Path) -> Path:
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"rates": EASY.to_json()}))
    return path


@pytest.mark.parametrize("effort", ["fast", "srd"])
def test_the_estimate_of_the_example_is_near_the_conversion(effort: str, tmp_path: Path) -> None:
    # The tokens of effort srd; the default number of them takes four times as long.
    tokens = ("--calibrate-tokens", 2048) if effort == "srd" else ()
    asked = ("--effort", effort, "--no-axm", *tokens)
    found = srd("plan", EXAMPLE, *asked, "-o", tmp_path / "m.gguf", "--json", "--nodes", 1).json
    real = srd("convert", EXAMPLE, *asked, "-o", tmp_path / "m.gguf", "--json", env={"SRD_CACHE": "off"}).json
    assert found["output_bytes"] == real["total_bytes"] and found["source_bytes"] == real["source_bytes"]
    print(f"{effort}: CPU {found['cpu_seconds']:.2f} s estimated, {real['cpu_seconds']:.2f} s measured")
    # CPU time, because other programs run beside the tests; what a process needs to start is not estimated.
    assert (
        real["cpu_seconds"] / FACTOR < found["cpu_seconds"] + 0.5
        and found["cpu_seconds"] < FACTOR * real["cpu_seconds"]
    )
    assert real["peak_rss_bytes"] < found["memory_bytes"] < real["peak_rss_bytes"] + (1 << 30)


def test_a_fast_conversion_tells_what_srd_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRD_CACHE", "off")
    fast, real = (
        srd_rs.convert(EXAMPLE, tmp_path / f"{effort}.gguf", effort=effort, axm=False, threads=2)
        for effort in ("fast", "srd")
    )
    assert (
        fast.srd_seconds is not None
        and real.srd_seconds is None
        and real.calibration_tokens == fast.srd_tokens
    )
    longer = real.cpu_seconds - fast.cpu_seconds
    print(f"CPU {2 * fast.srd_seconds:.2f} s longer estimated, {longer:.2f} s measured")
    assert longer / FACTOR < 2 * fast.srd_seconds < FACTOR * longer


def test_more_tokens_and_a_slower_machine_take_longer() -> None:
    native = NativeModel(
        EXAMPLE, native_plan(hub.Source(EXAMPLE), Path("m.gguf"), ConvertOptions(effort="fast"))
    ).plan
    usual = cost_of_srd(native, Size(4096, 256, 0), 1.0, 1)
    assert cost_of_srd(native, Size(4096, 256, 0), 3.0, 1) == pytest.approx(3 * usual)
    assert cost_of_srd(native, Size(4096, 256, 0), 1.0, 4) == pytest.approx(usual / 4)
    more = cost_of_srd(native, Size(16384, 256, 0), 1.0, 1)
    assert 1.5 * usual < more < 4 * usual
    assert cost_of_srd(native, Size(4096, 2048, 0), 1.0, 1) > usual
    weighed = [cost_of_srd(native, Size(4096, 256, batches), 1.0, 1) for batches in (1, 16)]
    assert usual < weighed[0] < weighed[1] and weighed[0] < 4 * usual


@pytest.mark.parametrize("rates", reference_rates(), ids=lambda rates: str(rates.block))
def test_the_kept_rates_know_every_type(rates: Rates) -> None:
    assert set(rates.search) == set(_core.quantizable_types())
    assert set(rates.rows) == set(rates.columns) == set(_core.FEEDBACK_TYPES)
    assert rates.beam_width == SrdOptions().beam_width
    assert all(rates.rows[name] > rates.search[name] > 0 < rates.columns[name] for name in rates.rows)


@pytest.mark.slow
@pytest.mark.parametrize("effort", ["fast", "srd"])
def test_the_estimate_of_a_wide_model_is_near_the_conversion(
    effort: str, wide_model: Path, tmp_path: Path
) -> None:
    # SRD takes tens of times as long as the search.
    model = widened(tmp_path / "wide", 8) if effort == "srd" else wide_model
    asked = ("--effort", effort, "--no-axm", "--threads", 2)
    if effort == "srd":
        asked += ("--calibrate-tokens", 256, "--calibrate-block", 256)
    found = srd("plan", model, *asked, "-o", tmp_path / "m.gguf", "--json").json
    made = srd(
        "convert",
        model,
        *asked,
        "-o",
        tmp_path / "m.gguf",
        "--json",
        env={"SRD_CACHE": "off"},
        timeout=280,
    )
    real = made.json
    print(f"{effort}: CPU {found['cpu_seconds']:.2f} s estimated, {real['cpu_seconds']:.2f} s measured")
    assert real["cpu_seconds"] / FACTOR < found["cpu_seconds"] < FACTOR * real["cpu_seconds"]
    assert made.peak_rss < found["memory_bytes"]


@pytest.mark.parametrize("shape", ["Kimi K2", "DeepSeek V3"])
def test_a_trillion_weights_are_planned_from_headers_alone(shape: str, easy: Path, tmp_path: Path) -> None:
    large = large_plan()
    costs = {}
    for layers in (8, 16):
        folder = tmp_path / f"layers-{layers}"
        folder.mkdir()
        large.write(folder, {**large.COMMON, **large.SHAPES[shape], "num_hidden_layers": layers}, cut=True)
        assert sum(p.stat().st_size for p in folder.iterdir()) < 10e6
        asked = ("--rates", easy, "--pre-tokenizer", "gpt-2", "--json", "-o", tmp_path / "m.gguf")
        run = srd("plan", folder, *asked)
        assert run.code == 0, run.stderr
        costs[layers] = run
    found = costs[16].json
    assert found["n_weights"] > 80e9 and found["effort"] == "srd" and found["block"] == 256
    alone, four, many = found["nodes"]
    assert (alone["nodes"], four["nodes"], many["nodes"]) == (1, 4, 16)
    assert alone["convert_seconds"] == pytest.approx(16 * many["convert_seconds"])
    assert alone["calibrate_seconds"] > four["calibrate_seconds"] > many["calibrate_seconds"]
    # There are 17 steps, and a machine begins a step when the machine before it has finished the step.
    assert alone["calibrate_seconds"] / many["calibrate_seconds"] == pytest.approx(17 * 16 / 32)
    # Names and shapes are all that is kept, so twice the layers take a few megabytes more.
    assert costs[16].peak_rss < costs[8].peak_rss + 100e6
    assert costs[16].wall_s < 120


def test_a_folder_with_cut_files_has_the_estimate_of_the_whole_one(easy: Path, tmp_path: Path) -> None:
    cut = tmp_path / EXAMPLE.name
    cut.mkdir()
    for path in (p for p in EXAMPLE.iterdir() if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            data = data[: 8 + struct.unpack("<Q", data[:8])[0]]
        (cut / path.name).write_bytes(data)
    rates = rates_from(easy)
    whole, found = (
        srd_rs.estimate(
            folder, tmp_path / "m.gguf", rates=rates, effort="fast", nodes=(2,), cost_per_hour=1.0
        )
        for folder in (EXAMPLE, cut)
    )
    assert (found.source_bytes, found.output_bytes) == (whole.source_bytes, whole.output_bytes)
    assert found.nodes[0].convert_seconds == whole.nodes[0].convert_seconds
    with pytest.raises(FormatError):
        srd_rs.convert(cut, tmp_path / "m.gguf")


def test_the_options_change_the_plan(easy: Path, tmp_path: Path) -> None:
    def plan(*options: object, fast: bool = True) -> Any:
        run = srd("plan", EXAMPLE, "--rates", easy, "--json", "-o", tmp_path / "m.gguf", "--no-axm",
                  *(("--fast",) if fast else ("--effort", "srd", "--calibrate-block", 256)), *options)  # fmt: skip
        assert run.code == 0, run.stderr
        return run.json

    usual = plan("--nodes", 2, "--nodes", 5, "--cost-per-hour", 3600)
    assert [node["nodes"] for node in usual["nodes"]] == [2, 5]
    for node in usual["nodes"]:
        assert node["cost"] == pytest.approx(node["nodes"] * node["seconds"])
    assert plan()["nodes"][0]["cost"] is None
    slow = plan("--disk-rate", "1MB")["nodes"][0]
    moved = usual["source_bytes"] + usual["output_bytes"]
    assert slow["convert_seconds"] == pytest.approx(moved / 1e6)
    one, four = (plan("--threads", n)["nodes"][0]["convert_seconds"] for n in (1, 4))
    assert one == pytest.approx(4 * four)
    assert plan("--max-memory", "1GiB")["memory_bytes"] > usual["memory_bytes"] + (500 << 20) - (32 << 20)
    assert plan("--axm")["output_bytes"] > 1.5 * usual["output_bytes"]
    assert plan("--quant", "Q8_0")["output_bytes"] > usual["output_bytes"]
    few, many = (plan("--calibrate-tokens", n, fast=False) for n in (512, 4096))
    assert (few["tokens"], many["tokens"]) == (512, 4096)
    assert many["nodes"][0]["calibrate_seconds"] == pytest.approx(
        8 * few["nodes"][0]["calibrate_seconds"], rel=0.01
    )
    text = srd("plan", EXAMPLE, "--rates", easy, "--fast", "--no-axm", "--cost-per-hour", "3.6").stdout
    assert "machines" in text and "cost" in text and "assumed: " in text and "no weight was read" in text


def test_rates_of_other_types_are_refused(easy: Path, tmp_path: Path) -> None:
    refused = srd("plan", EXAMPLE, "--rates", easy, "--fast", "-q", "Q3_K_M", "--no-axm")
    assert refused.code == 2 and "the rates know no Q3_K" in refused.stderr
    refused = srd("plan", EXAMPLE, "--rates", easy, "--effort", "srd", "--calibrate-block", 512)
    assert refused.code == 2 and "blocks of 256" in refused.stderr
    for text in (
        "[]",
        "{}",
        '{"threads": 0}',
        '{"threads": 1, "speed": 2}',
        '{"threads": 1, "copy": "fast"}',
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises((FormatError, UsageError)):
            rates_from(tmp_path / "bad.json")
    with pytest.raises(UsageError, match="one machine or more"):
        srd_rs.estimate(EXAMPLE, nodes=())
    with pytest.raises(UsageError, match="budget"):
        srd_rs.estimate(EXAMPLE, target_bpw=5.0)


def test_a_model_on_the_hub_is_planned_without_a_download(easy: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: no hub was asked")
    with serving(tmp_path / "hf", network=True) as env:
        Hub.folders["org/model"] = EXAMPLE
        asked = ("plan", "org/model", "--rates", easy, "--json", "-o", tmp_path / "m.gguf", "--no-axm")
        found = srd(*asked, "--fast", "--network-rate", "1MB", env=env).json
        read = found["source_bytes"]
        assert found["network_bytes"] == read and found["disk_bytes"] == read + found["output_bytes"]
        assert found["nodes"][0]["download_seconds"] == pytest.approx(read / 1e6)
        streamed = srd(*asked, "--fast", "--stream", "--network-rate", "1MB", env=env).json
        assert streamed["disk_bytes"] == streamed["output_bytes"] and streamed["network_bytes"] == read
        calibrated = ("--effort", "srd", "--calibrate-block", 256, "--stream")
        # What lies outside of the layers is read again for the quantizer: two tables of tokens and a projection.
        tables, all_weights = 4096 * (256 + 1536) + 256 * 1536, found["n_weights"]
        shared = srd(*asked, *calibrated, env=env).json
        expected = read + read * tables // all_weights
        assert shared["network_bytes"] == pytest.approx(expected, rel=1e-3)
        twice = srd(*asked[:-1], "--axm", *calibrated, env=env).json
        assert twice["network_bytes"] == 3 * read
        assert not list((tmp_path / "hf").rglob("*.safetensors"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders: none was tried")
def test_weights_that_are_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in EXAMPLE.glob("*.json"):
        shutil.copy(path, model)
    os.mkfifo(model / "model.safetensors")
    run = srd("plan", model)
    assert run.code == 1 and "not a regular file" in run.stderr, run.stderr


def test_rows_that_are_no_whole_super_blocks_are_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The types of a plan need not all fit the most frequent row: rows of 384 have no Q4_K, which longer rows have."""
    monkeypatch.setattr(estimating, "count", lambda *args: replace(count(*args), row_length=384))
    found = srd_rs.estimate(EXAMPLE, tmp_path / "m.gguf", effort="srd", calibrate_tokens=512)
    assert "Q4_K" in found.rates.rows and found.cpu_seconds > 0
