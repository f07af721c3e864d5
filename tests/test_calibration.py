"""Calibration files: what they hold, what is made with them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from safetensors import safe_open

import srd_rs
from srd_rs import _core, calibration, errors
from support import EXAMPLE, WIKI_TEST, require, srd

ARCHITECTURES = (
    *("gemma2", "gemma3", "gemma4_e2b", "gemma4_moe", "gemma4_moe_google"),
    *("llama", "mistral", "mixtral", "phi3", "qwen3moe"),
)
"""The fixtures without those that are like others but for a long vocabulary."""
EXPERTS = ("gemma4_moe", "mixtral", "qwen3moe")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    file = folder / "c.safetensors"
    srd_rs.calibrate(EXAMPLE, file, tokens=1024, imatrix=folder / "imatrix.gguf", threads=2)
    return file


def test_the_imatrix_has_the_diagonals(calibrated: Path) -> None:
    reader = gguf.GGUFReader(calibrated.with_name("imatrix.gguf"))
    found = {t.name: np.array(t.data) for t in reader.tensors}
    with safe_open(calibrated, "np") as file:
        inputs = json.loads(file.metadata()["inputs"])
        for entry in inputs:
            first = entry["tensors"][0]
            moments = file.get_tensor(f"{first}.moments")
            n, block = moments.shape
            rows = np.arange(n)
            for name in entry["tensors"]:
                mean = found[f"{name}.in_sum2"][0] / found[f"{name}.counts"][0]
                np.testing.assert_allclose(mean, moments[rows, rows % block], rtol=1e-6)


def test_any_number_of_threads_gives_the_same_file(calibrated: Path, tmp_path: Path) -> None:
    srd_rs.calibrate(EXAMPLE, tmp_path / "c", tokens=1024, threads=1)
    assert (tmp_path / "c").read_bytes() == calibrated.read_bytes()


def test_a_seed_has_no_effect_on_chunks_that_are_too_long_to_be_weighed(
    fixtures: Path, tmp_path: Path
) -> None:
    longest = _core.MAX_WEIGHED_CHUNK
    with pytest.raises(errors.UsageError, match="only random and weighed tokens"):
        srd_rs.calibrate(fixtures / "llama", tmp_path / "c", ctx=longest + 1, tokens=64, seed=3)
    assert not list(tmp_path.iterdir())
    srd_rs.calibrate(fixtures / "llama", tmp_path / "c", ctx=longest, tokens=64, seed=3)


def test_the_seed_decides_random_tokens(tmp_path: Path) -> None:
    digests = [
        srd_rs.calibrate(EXAMPLE, tmp_path / str(i), text="random", tokens=512, seed=seed).digest
        for i, seed in enumerate((1, 1, 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_convert_takes_it_and_says_so(calibrated: Path, tmp_path: Path) -> None:
    report = srd_rs.convert(EXAMPLE, tmp_path / "a.gguf", effort="srd", calibrate=calibrated)
    metadata = srd_rs.inspect(report.output).metadata
    assert metadata["srd.method"] == "srd"
    assert metadata["srd.calibration.text"] == metadata["quantize.imatrix.dataset"] == "builtin"
    assert metadata["srd.calibration.tokens"] == 1024
    planned = srd_rs.plan(EXAMPLE, tmp_path / "b.gguf", effort="srd", calibrate="builtin")
    assert planned.total_bytes == report.output.stat().st_size


def test_its_own_calibration_leaves_no_file(tmp_path: Path) -> None:
    srd_rs.convert(EXAMPLE, tmp_path / "a.gguf", effort="srd", calibrate="random", calibrate_tokens=512)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "a.met.json"]


def test_a_damaged_file_is_refused(calibrated: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(calibrated.read_bytes()[:-100])
    with pytest.raises(errors.FormatError, match="short"):
        srd_rs.plan(EXAMPLE, tmp_path / "a.gguf", effort="srd", calibrate=short)


def test_a_changed_moment_is_refused(calibrated: Path, tmp_path: Path) -> None:
    """The digest of the file is that of its header, which has the digest of the moments."""
    data = bytearray(calibrated.read_bytes())
    data[-40] ^= 1
    (tmp_path / "changed").write_bytes(data)
    with pytest.raises(errors.FormatError, match=r"data\.sha256"):
        srd_rs.plan(EXAMPLE, tmp_path / "a.gguf", effort="srd", calibrate=tmp_path / "changed")


def _moments(calibration: Path) -> dict[str, np.ndarray]:
    with safe_open(calibration, "np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_tokens_have_weights_by_what_their_errors_do(fixtures: Path, tmp_path: Path) -> None:
    made = {}
    for name, options in {
        "plain": {"weigh_tokens": False},
        "weighed": {"threads": 1},
        "again": {"weigh_tokens": True, "threads": 2, "max_memory": 1 << 20},
        "other": {"weigh_tokens": True, "seed": 1},
    }.items():
        srd_rs.calibrate(
            fixtures / "llama", tmp_path / name, tokens=256, ctx=64, **{"text": WIKI_TEST, **options}
        )
        made[name] = _moments(tmp_path / name)
    for key, plain in made["plain"].items():
        np.testing.assert_array_equal(made["weighed"][key], made["again"][key])
        is_weighed = key.startswith("blk.")
        assert (plain != made["weighed"][key]).any() == is_weighed, key
        assert (made["weighed"][key] != made["other"][key]).any() == is_weighed, key
        # The mean weight is one, so sums of squares are of the same order.
        if is_weighed:
            assert 0.2 < np.abs(made["weighed"][key]).sum() / np.abs(plain).sum() < 5, key


def test_tokens_of_a_model_without_known_derivatives_cannot_be_weighed(
    fixtures: Path, tmp_path: Path
) -> None:
    of = fixtures / "qwen3moe"
    run = srd("calibrate", of, "-o", tmp_path / "c", "--tokens", "64", "--ctx", "64", "--weigh-tokens")
    assert run.code == 1 and "derivatives are not known" in run.stderr and "--weigh-tokens" in run.stderr
    assert not list(tmp_path.iterdir())


def test_tokens_of_gemma_4_are_weighed_when_that_is_asked_for(tmp_path: Path) -> None:
    """The example shares keys between layers and has embeddings for each layer."""
    kept = {}
    for name, more in (("usual", ()), ("alike", ("--no-weigh-tokens",)), ("weighed", ("--weigh-tokens",))):
        args = (
            "calibrate",
            EXAMPLE,
            "-o",
            tmp_path / name,
            "--tokens",
            "128",
            "--ctx",
            "64",
            "--json",
            *more,
        )
        run = srd(*args)
        assert run.code == 0 and run.json["weighed"] == (name == "weighed"), run.stderr
        kept[name] = _moments(tmp_path / name)
    for name, sums in kept["alike"].items():
        np.testing.assert_array_equal(sums, kept["usual"][name])
        # All matrices of the layers are weighed, those of their own embeddings and those without keys too.
        assert (sums != kept["weighed"][name]).any() == name.startswith("blk."), name


def test_an_unknown_text_is_one_line(tmp_path: Path) -> None:
    run = srd("calibrate", EXAMPLE, "-o", tmp_path / "c", "--text", tmp_path / "nope.txt")
    assert run.code == 1 and run.stderr.count("\n") == 1 and "nope.txt" in run.stderr
    assert not list(tmp_path.iterdir())
    assert srd("calibrate", EXAMPLE, "-o", tmp_path / "c", "--block", "100").code == 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_keeps_its_types_and_size(name: str, fixtures: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.gguf"
    tokens = 512 if name in EXPERTS else 256
    options = {"effort": "srd", "calibrate": "random", "calibrate_tokens": tokens, "provenance": False}
    report = srd_rs.convert(fixtures / name, output, met=False, **options)  # type: ignore[arg-type]
    plain = srd_rs.plan(fixtures / name, tmp_path / "b.gguf", provenance=False, effort="fast")
    assert [(t.name, t.type, t.bytes) for t in report.plan.tensors] == [
        (t.name, t.type, t.bytes) for t in plain.tensors
    ]
    assert report.plan.tensor_bytes == plain.tensor_bytes
    assert output.stat().st_size == report.file_bytes
    if name in EXPERTS:
        assert np.isfinite(logits(output)).all()


def logits(model: Path) -> np.ndarray:
    """llama.cpp's, of a few tokens."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from srd_rs.eval.llama import LlamaModel

    with LlamaModel(model, n_ctx=64, threads=1) as loaded:
        tokens = np.random.default_rng(1).integers(3, loaded.n_vocab, size=48).astype(np.int32)
        return np.array(loaded.logits(tokens))


def test_its_diagonal_is_the_imatrix_of_llama_cpp(tmp_path: Path) -> None:
    """The same text, so the same tokens and chunks; llama.cpp keeps keys and values in F16."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from srd_rs.eval import imatrix, quantizer

    text = tmp_path / "text.txt"
    text.write_text(require(WIKI_TEST).read_text(encoding="utf-8")[:5_000], encoding="utf-8")
    original = tmp_path / "f32.gguf"
    srd_rs.convert(EXAMPLE, original, quant="F32", met=False)
    n_chunks = imatrix.compute_imatrix(original, text, tmp_path / "theirs.gguf", threads=1)
    srd_rs.calibrate(
        EXAMPLE, tmp_path / "c", text=text, tokens=512 * n_chunks, imatrix=tmp_path / "ours.gguf"
    )
    theirs, ours = (imatrix.load(tmp_path / f"{name}.gguf") for name in ("theirs", "ours"))
    assert theirs.keys() <= ours.keys()
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0.01, atol=1e-6 * expected.max(), err_msg=name)

    # And llama.cpp takes it.
    quantizer.quantize(original, tmp_path / "plain.gguf", threads=2)
    quantizer.quantize(original, tmp_path / "weighed.gguf", imatrix=tmp_path / "ours.gguf", threads=2)
    plain, weighed = ((tmp_path / f"{name}.gguf").read_bytes() for name in ("plain", "weighed"))
    assert len(plain) == len(weighed) and plain != weighed


def test_progress_and_memory_reach_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from srd_rs import calibration

    seen: list[srd_rs.Progress] = []
    asked: list[int] = []
    measure = calibration.measure

    def watched(*args: object, **options: object) -> object:
        asked.append(options["max_memory"])  # type: ignore[arg-type]
        return measure(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(calibration, "measure", watched)
    srd_rs.convert(
        EXAMPLE, tmp_path / "a.gguf", effort="srd", calibrate_tokens=2048, max_memory=64 << 20, met=False,
        progress=seen.append, cache=False,
    )  # fmt: skip
    assert asked == [64 << 20]
    calibrating = [step for step in seen if step.phase == "calibrate"]
    assert calibrating and all(step.total == 2048 >= step.done for step in calibrating)
    done = [step.done for step in calibrating]
    assert done == sorted(done) and done[-1] > 0


def test_the_bar_is_drawn_on_a_terminal_only(tmp_path: Path) -> None:
    import os
    import pty
    import subprocess
    import sys

    command = [sys.executable, "-m", "srd_rs", "calibrate", str(EXAMPLE), "-o", str(tmp_path / "c")]
    command += ["--calibrate-tokens", "1024"]
    master, slave = pty.openpty()
    size = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env=size)
    os.close(slave)
    drawn = b""
    try:
        while piece := os.read(master, 4096):
            drawn += piece
    except OSError:  # how the end of a terminal shows on Linux
        pass
    os.close(master)
    assert running.wait() == 0
    assert b"/1024 tokens" in drawn and b"calibrating" in drawn
    quiet = srd("calibrate", EXAMPLE, "-o", tmp_path / "d", "--calibrate-tokens", 512, "--text", "random")
    assert quiet.code == 0 and "%" not in quiet.stderr


def test_the_default_block_depends_on_the_weights_and_on_the_experts() -> None:
    def block(*shape: int, tokens: int = 8192, weights: int = 10**9) -> int:
        tensor = SimpleNamespace(name="blk.0.ffn_down.weight", shape=shape)
        return calibration._default_block(SimpleNamespace(tensors=[tensor]), weights, tokens)  # type: ignore[arg-type]

    assert block(8960, 1536) == 2048
    assert block(8960, 1536, tokens=4096) == 1024
    assert block(14336, 4096, weights=7 * 10**9) == 1024
    assert block(28672, 8192, weights=7 * 10**10) == 256
    # 64 experts of 4096 columns: sums in blocks of 512 columns take 512 MiB.
    assert block(4096, 2048, 64) == 512
    assert block(4096, 2048, 256) == 256
