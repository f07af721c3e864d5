"""`srd-rs quality`: files of both programs are scored, and the page shows them in a browser and loads nothing."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from srd_rs.eval import svg
from srd_rs.eval.curve import Curve, Point
from srd_rs.eval.curve_page import page, plot, verdict
from srd_rs.eval.statistics import Estimate
from srd_rs.report import ChosenType
from support import EXAMPLE, SHARED, srd

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed (pip install '.[eval]')",
)


def made(*klds: tuple[str, str, float, float]) -> Curve:
    chosen = (
        ChosenType("blk.0.attn_q.weight", "Q4_K", 144, 0.01, 2e-4, 1e-3, 256),
        ChosenType("blk.1.ffn_down.weight", "Q6_K", 210, 0.001, 1e-4, 1e-3, 256),
        ChosenType("token_embd.weight", "Q8_0", 272, 0.0001, 5e-5, 1e-3, 256),
    )
    points = tuple(
        Point(method, name, 1000, bpw, Estimate(kld, kld / 20), chosen if method == "chosen" else ())
        for method, name, bpw, kld in klds
    )
    return Curve("<b>model", "text", 2, 512, 510, "builtin", points)


OURS = (("chosen", "Q3_K_M", 3.0, 0.04), ("chosen", "Q4_K_M", 5.0, 0.01))


def test_a_point_below_the_curve_is_found() -> None:
    # At 4 bits per weight the curve of the logarithm is at 0.02.
    better, worse = (("peer-imatrix", "IQ4_XS", 4.0, kld) for kld in (0.019, 0.021))
    assert [p.name for p in made(*OURS, better).below()] == ["IQ4_XS"]
    assert "IQ4_XS (4.00 bpw)" in verdict(made(*OURS, better))
    assert made(*OURS, worse).below() == [] and verdict(made(*OURS, worse)).startswith("No file")
    # Outside of the sizes that were measured nothing is said.
    assert made(*OURS, ("peer-imatrix", "Q8_0", 8.5, 0.001)).below() == []


def test_the_plots_are_whole_and_untrusted_names_are_text() -> None:
    found = made(*OURS, ("peer-imatrix", "IQ4_XS", 4.0, 0.03))
    picture = ElementTree.fromstring(plot(found))
    circles = picture.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 3
    # The larger file of the chosen types lies to the right, and lower on the page because its KLD is less.
    first, second = ((float(c.get("cx", "")), float(c.get("cy", ""))) for c in circles[:2])
    assert first[0] < second[0] and first[1] < second[1]
    text = page(found)
    assert "<b>model" not in text and "&lt;b&gt;model" in text
    assert not re.search(r"<script|<link|src=|@import|url\(", text)
    for part in re.findall(r"<svg.*?</svg>", text):
        ElementTree.fromstring(part)
    assert text.count("<svg") == 1 + 2 * 2


def test_a_bar_is_as_high_as_its_parts() -> None:
    picture = ElementTree.fromstring(svg.bars({"0": {"a": 3.0, "b": 1.0}, "1": {"a": 2.0}}, "layer", "cost"))
    heights = [
        float(r.get("height", ""))
        for r in picture.iter("{http://www.w3.org/2000/svg}rect")
        if r.find("{http://www.w3.org/2000/svg}title") is not None
    ]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)
    assert heights[2] == pytest.approx(2 * heights[1], rel=0.01)


def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed, so the page was not shown in a browser")
    file, picture = tmp_path / "quality.html", tmp_path / "page.png"
    file.write_text(page(made(*OURS, ("peer-imatrix", "IQ4_XS", 4.0, 0.03))))
    run = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,1400", f"--screenshot={picture}",
         file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0 and "CONSOLE" not in run.stderr, run.stderr
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 20_000


@needs_llama
def test_the_command_measures_both_programs(fixtures: Path, tmp_path: Path) -> None:
    text = SHARED / "data" / "wiki.test.raw"
    if not text.exists():
        pytest.skip("the shared files are not there, so no text was scored")
    folder = tmp_path / "report"
    args = (
        "quality",
        EXAMPLE,
        "-f",
        text,
        "--mixes",
        "Q4_K_M",
        "--chunks",
        2,
        "--ctx",
        256,
    )
    args += ("--calibrate", "builtin", "--calibrate-tokens", 512, "--threads", 1, "-o", folder)
    run = srd(*args, "--json", timeout=240)
    assert run.code == 0, run.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["quality.html", "quality.json", "quality.svg"]
    stored = json.loads((folder / "quality.json").read_text())
    assert stored["points"] == run.json["points"] and run.json["below"] == []
    found = {(p["method"], p["name"]): p for p in run.json["points"]}
    assert set(found) == {(m, "Q4_K_M") for m in ("chosen", "srd", "peer", "peer-imatrix")}
    kld = {method: found[method, "Q4_K_M"]["kld"]["value"] for method in ("chosen", "srd", "peer")}
    assert 0 < kld["chosen"] < kld["srd"] < kld["peer"]
    assert found["chosen", "Q4_K_M"]["file_bytes"] <= found["srd", "Q4_K_M"]["file_bytes"]
    short = ("--mixes", "Q8_0", "--budgets", "5.5", "--chunks", 1, "--ctx", 64, "--threads", 1)
    short += ("--calibrate", "random", "--calibrate-tokens", 64, "-o", tmp_path / "alone")
    alone = srd("quality", fixtures / "llama", "-f", text, "--no-peers", *short, "--json")
    assert alone.code == 0, alone.stderr
    *mix, budget = alone.json["points"]
    assert {p["method"] for p in mix} == {"chosen", "srd"} and {p["name"] for p in mix} == {"Q8_0"}
    assert (budget["method"], budget["name"]) == ("chosen", "5.5 bpw")
    assert budget["bpw"] <= 5.5 and budget["chosen"]
    again = srd(*args)
    assert again.code == 2 and "--overwrite" in again.stderr
    wrong = srd("quality", EXAMPLE, "-f", text, "--mixes", "Q9")
    assert wrong.code == 2 and "Q9" in wrong.stderr
