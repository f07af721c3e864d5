"""A program of a user who has mypy in strict mode: the whole interface has types."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import srd_rs
from support import REPO

PROGRAM = """
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import srd_rs


def tell(step: srd_rs.Progress) -> None:
    print(step.phase, step.done, step.total)


def main(model: str, folder: Path) -> None:
    options = srd_rs.ConvertOptions(quant="Q5_K_M", srd=srd_rs.SrdOptions(beam_width=2))
    plan = srd_rs.plan(model, options=options)
    estimate: srd_rs.Estimate = srd_rs.estimate(model, options=options, nodes=(1, 4), disk=1e9)
    print([(of.nodes, of.seconds) for of in estimate.nodes])
    tensor: srd_rs.PlannedTensor = plan.tensors[0]
    file: srd_rs.PlannedFile = plan.files[0]
    container: srd_rs.PlannedContainer | None = plan.container
    totals: srd_rs.TypeTotals = plan.types["Q5_K"]
    print(tensor.name, file.bytes, container, totals.weights)
    report = srd_rs.convert(model, folder / "m.gguf", options, progress=tell, threads=2)
    assert_type(report, srd_rs.ConvertReport)
    sealed: srd_rs.SealedContainer | None = report.container
    found = srd_rs.inspect(report.output)
    first: srd_rs.InspectedTensor = found.tensors[0]
    print(sealed, first.shape)
    with srd_rs.open(report.output) as opened:
        t: srd_rs.Tensor = opened["token_embd.weight"]
        assert_type(t.raw, NDArray[np.uint8])
        assert_type(t.numpy(rows=slice(0, 4)), NDArray[np.float32])
    calibration: srd_rs.CalibrationReport = srd_rs.calibrate(model, folder / "c.calib", progress=True)
    key: srd_rs.KeyFile = srd_rs.keygen(folder / "key")
    packed = srd_rs.pack(model, folder / "m.axm", key_file=key.path)
    checked: srd_rs.Verification = srd_rs.verify(folder / "m.axm", key_file=key.path)
    print(calibration.tokens, packed.seconds, checked.authentic)
    srd_rs.extract(folder / "m.axm", folder / "x.gguf", key_file=key.path)
    srd_rs.resign(folder / "m.axm", folder / "r.axm", key_file=key.path)
    with srd_rs.Hydrator(report.output) as hydrator:
        done: srd_rs.Hydration = hydrator.hydrate("INFORM")
        parts: tuple[srd_rs.Residency, ...] = hydrator.residency()
    print(done.seconds, parts, srd_rs.met(report.output)["file"])
    scores: srd_rs.Evaluation = srd_rs.evaluate([report.output], "text.txt")
    score: srd_rs.FileScore = scores.files[0]
    divergence: srd_rs.Divergence | None = score.divergence
    paired: srd_rs.Paired | None = score.paired
    assert_type(found, srd_rs.Inspection)
    can: srd_rs.Conversion | None = found.conversion
    rates: srd_rs.Rates = estimate.rates
    nodes: tuple[srd_rs.NodeEstimate, ...] = estimate.nodes
    files: list[srd_rs.Gguf | srd_rs.Axm | srd_rs.Checkpoint] = [opened]
    srd_rs.write_manifest(folder / "m.axm", folder / "m.manifest")
    print(divergence, paired, can, rates, nodes, files)
    w = np.ones((8, 256), np.float32)
    assert_type(srd_rs.dequantize(srd_rs.quantize(w, "Q4_K"), "Q4_K"), NDArray[np.float32])
    placed: srd_rs.Placement = srd_rs.place(report.output, engine="llama-server", ram=16 << 30)
    again: srd_rs.Rebuilt = srd_rs.rebuild(report.output, model)
    signed: srd_rs.Signed = srd_rs.sign([report.output], key=folder / "key.pem")
    fits: srd_rs.SignatureCheck = srd_rs.verify_signature(signed.path, public_key=folder / "key.pub")
    print(placed.arguments, again.seconds, fits.files, srd_rs.bom(report.output)["bomFormat"])
    adapter: srd_rs.ConvertReport = srd_rs.lora(folder / "adapter", base=model, quant="F16")
    print(adapter.output)
    print(score.name, srd_rs.card(report.output), srd_rs.modelfile(report.output), srd_rs.__version__)
    try:
        srd_rs.push("org/name", [report.output])
    except srd_rs.errors.SrdIOError as error:
        print(error.file, error.errno)
"""


def test_the_program_uses_the_whole_interface() -> None:
    assert [name for name in srd_rs.__all__ if f"srd_rs.{name}" not in PROGRAM] == []


@pytest.mark.slow
def test_a_program_with_strict_types(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: the types of the interface were not checked")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = True\n")
    # What mypy has found of numpy and of this package is kept for the next run, as long as the files are the same.
    kept = pytestconfig.cache.mkdir("mypy") if pytestconfig.cache is not None else tmp_path
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(config),
        "--cache-dir",
        str(kept),
        str(program),
    ]
    env = {**os.environ, "MYPYPATH": str(REPO / "python")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_program_uses_every_function() -> None:
    functions = [n for n in srd_rs.__all__ if n[0].islower()]
    missing = [n for n in functions if f"srd_rs.{n}" not in PROGRAM and n != "write_manifest"]
    assert missing == []
