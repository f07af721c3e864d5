"""`srd-rs eval` and what it computes: against formulas by hand, and on the example model in llama.cpp."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import srd_rs
from srd_rs import calibration, errors
from srd_rs.eval import statistics
from srd_rs.eval.windows import Protocol
from support import srd

needs_llama = pytest.mark.skipif(
    find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed (pip install '.[eval]')",
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of English: enough for a few chunks."""
    words = "The river runs through the old town, where the church was built in the year {}. It is known for {}.\n"
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(words.format(1400 + 7 * i, "its bridge" * (i % 3 + 1)) for i in range(120)))
    return path


def test_divergence_of_known_distributions() -> None:
    from srd_rs.eval.scoring import divergence, log_softmax

    p, q = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]])
    with np.errstate(divide="ignore"):
        found = divergence(np.log(p), np.log(q))
    np.testing.assert_allclose(found, [0.5 * np.log(2), 0], atol=1e-15)
    # Far from zero, where exp alone would overflow.
    logits = (np.log(q[1:]) + 5000).astype(np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(logits)), q[1:], rtol=1e-3)


def test_errors_are_those_of_llama_perplexity() -> None:
    x = np.random.default_rng(1).lognormal(size=1000)
    n, first, second = len(x), x.mean(), (x**2).mean()
    found = statistics.mean(x)
    assert found.value == pytest.approx(first)
    assert found.error == pytest.approx(((second - first**2) / (n - 1)) ** 0.5)
    rms = statistics.root_mean_square(x)
    fourth = (((x**4).mean() - second**2) / (n - 1)) ** 0.5
    assert (rms.value, rms.error) == pytest.approx((second**0.5, 0.5 / second**0.5 * fourth))
    hits = x > 1
    p = hits.mean()
    assert statistics.fraction(hits).error == pytest.approx((p * (1 - p) / (n - 1)) ** 0.5)


def test_intervals_cover_the_truth() -> None:
    """95 % intervals of the 99 % quantile and of a ratio hold the true value in about 95 of 100 samples."""
    rng = np.random.default_rng(2)
    truth = -np.log(0.01)  # of the exponential distribution
    inside = covered = 0
    for _ in range(300):
        x = rng.exponential(size=2000)
        found = statistics.quantile(x, 0.99)
        assert found.low <= found.value <= found.high
        inside += found.low <= truth <= found.high
        y = 0.8 * x + rng.normal(0, 0.3, len(x))
        r = statistics.ratio(y, x)
        covered += abs(r.value - 0.8) <= 1.96 * r.error
    assert 0.92 <= inside / 300 <= 0.99
    assert 0.91 <= covered / 300 <= 0.985


def test_windows_are_cut_as_llama_perplexity_does() -> None:
    tokens = np.arange(10_000, dtype=np.int32)
    chunks = Protocol(512).windows(tokens, 7, 0, "text")
    assert len(chunks) == 10_000 // 512
    assert [int(chunks[3].tokens[i]) for i in (0, 1, -1)] == [7, 3 * 512 + 1, 4 * 512 - 1]
    assert len(chunks[3].targets) == Protocol(512).n_scored == 255
    assert int(chunks[3].targets[0]) == 3 * 512 + 257

    protocol = Protocol(2048, 512)
    windows = protocol.windows(tokens, 7, 0, "text")
    # The context is widened by half a stride; no token is scored twice and none between is left out.
    assert protocol.n_tokens == 2048 + 256
    assert len(windows) == -(-(10_000 - 2304) // 512)
    assert int(windows[1].tokens[0]) == 512
    targets = np.concatenate([w.targets for w in windows])
    assert np.array_equal(targets, np.arange(2304 - 512, 2304 + 512 * (len(windows) - 1)))
    assert len(protocol.windows(tokens, 7, 5, "text")) == 5


@pytest.mark.parametrize(("ctx", "stride"), [(512, 513), (512, 0), (2, None)])
def test_windows_that_make_no_sense_are_refused(ctx: int, stride: int | None) -> None:
    with pytest.raises(errors.UsageError):
        Protocol(ctx, stride)


@needs_llama
def test_a_file_against_itself(example_bf16: Path, text: Path) -> None:
    from srd_rs.eval.evaluation import evaluate

    found = evaluate([example_bf16], text, base=example_bf16, n_ctx=128, n_chunks=4, threads=1)
    assert found.n_tokens == 4 * 63
    assert found.base is not None
    (same,) = found.files
    assert same.divergence is not None
    assert same.divergence.kld.value == pytest.approx(0, abs=1e-9)
    assert same.perplexity == found.base.perplexity
    assert same.divergence.same_top.value == 1


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.logaddexp.reduce(x, axis=1, keepdims=True)


@needs_llama
def test_figures_are_those_computed_by_hand(example_bf16: Path, example_q4_k_m: Path, text: Path) -> None:
    from srd_rs.eval.evaluation import evaluate
    from srd_rs.eval.llama import LlamaModel, chunks_of

    found = evaluate([example_q4_k_m], text, base=example_bf16, n_ctx=128, n_chunks=3, threads=1).files[0]
    logs = []
    for path in (example_bf16, example_q4_k_m):
        with LlamaModel(path, n_ctx=128, threads=1) as model:
            chunks = chunks_of(text, model, 3)
            rows = [log_softmax(model.logits(c, 64)[:-1].astype(float)) for c in chunks]
        logs.append(np.concatenate(rows))
    targets = np.concatenate([c[65:] for c in chunks])
    p, q = logs
    at = (np.arange(len(targets)), targets)
    kld = (np.exp(p) * (p - q)).sum(axis=1)
    assert found.divergence is not None
    assert found.divergence.kld.value == pytest.approx(kld.mean(), rel=1e-6)
    assert found.divergence.kld_max == pytest.approx(kld.max(), rel=1e-6)
    assert found.divergence.quantile(0.99).value == pytest.approx(np.quantile(kld, 0.99), rel=1e-6)
    assert found.divergence.ln_ppl_ratio.value == pytest.approx((p[at] - q[at]).mean(), rel=1e-6)
    assert found.perplexity.value == pytest.approx(np.exp(-q[at].mean()), rel=1e-9)
    assert 0.0005 < found.divergence.kld.value < 0.05  # Q4_K_M: not nothing, and not a broken file
    assert found.divergence.same_top.value == pytest.approx((p.argmax(1) == q.argmax(1)).mean())


@needs_llama
def test_a_long_text_is_tokenized_in_pieces(
    example_bf16: Path, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pieces have the tokens of the whole text, where words follow a space and where none does."""
    from srd_rs.eval import llama

    srd_rs.convert(fixtures / "llama", tmp_path / "llama.gguf", quant="BF16", effort="fast")
    raw = calibration.read_text("builtin")[1][:100_000].decode("utf-8", "ignore").encode()
    for path in (example_bf16, tmp_path / "llama.gguf"):
        with llama.LlamaModel(path, n_ctx=32, threads=1) as model:
            monkeypatch.setattr(llama, "PIECE_BYTES", 1 << 20)
            whole = model.tokenize(raw)
            monkeypatch.setattr(llama, "PIECE_BYTES", 5000)
            assert len(list(llama.pieces(raw))) > 20
            np.testing.assert_array_equal(model.tokenize(raw), whole)
            few = model.tokenize(raw, 2000)
            assert 2000 <= len(few) < 8000
            np.testing.assert_array_equal(few[:2000], whole[:2000])


@pytest.mark.parametrize("raw", [b"", b"a" * 30, ("中" * 30).encode(), b"ab\n" * 20, b"\n" * 40])
def test_pieces_are_the_text(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from srd_rs.eval import llama

    monkeypatch.setattr(llama, "PIECE_BYTES", 10)
    found = list(llama.pieces(raw))
    assert b"".join(found) == raw and max(map(len, found)) <= 10
    assert all(piece.decode() or not raw for piece in found)


@needs_llama
def test_a_text_that_is_one_word_takes_little_memory(example_bf16: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a word " * 1000)
    (tmp_path / "long.txt").write_text("(" * 3_000_000)
    args = ("--ctx", "16", "--chunks", "1", "--threads", "1")
    runs = [srd("eval", example_bf16, "-f", tmp_path / name, *args) for name in ("short.txt", "long.txt")]
    assert [run.code for run in runs] == [0, 0], runs
    assert runs[1].peak_rss - runs[0].peak_rss < 150 * 10**6
    assert runs[1].cpu_s - runs[0].cpu_s < 2


@needs_llama
def test_logits_in_blocks_are_those_of_one_decoding(
    example_bf16: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a large vocabulary a chunk is decoded in parts; the first part is nothing but context."""
    from srd_rs.eval import llama

    with llama.LlamaModel(example_bf16, n_ctx=128, threads=1) as model:
        (chunk, _) = llama.chunks_of(text, model, 2)
        whole = model.logits(chunk, 64).copy()
        monkeypatch.setattr(llama, "LOGITS_BYTES", 4 * model.n_vocab * 10)
        blocks = [block.copy() for block in model.logit_blocks(chunk, 64)]
    assert [len(b) for b in blocks] == [10] * 6 + [4]
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=0.2)
    assert np.abs(np.concatenate(blocks) - whole).mean() < 0.02


@needs_llama
def test_imatrix_of_llama_cpp_and_its_use(example_bf16: Path, text: Path, tmp_path: Path) -> None:
    from srd_rs.eval.evaluation import evaluate
    from srd_rs.eval.imatrix import compute_imatrix, load
    from srd_rs.eval.quantizer import quantize

    imatrix = tmp_path / "imatrix.gguf"
    assert compute_imatrix(example_bf16, text, imatrix, n_ctx=128, n_chunks=4, threads=1) == 4
    metadata = srd_rs.inspect(imatrix).metadata
    assert metadata["general.type"] == "imatrix"
    assert (metadata["imatrix.chunk_count"], metadata["imatrix.chunk_size"]) == (4, 128)
    means = load(imatrix)
    names = set(means)
    assert {"blk.0.attn_q.weight", "blk.1.ffn_down.weight"} <= names
    assert not any("output" in n and not n.startswith("blk.") for n in names)
    # Q, K and V see the same input.
    np.testing.assert_array_equal(means["blk.0.attn_q.weight"], means["blk.0.attn_k.weight"])
    plain, guided = tmp_path / "plain.gguf", tmp_path / "guided.gguf"
    quantize(example_bf16, plain)
    quantize(example_bf16, guided, imatrix=imatrix)
    assert plain.stat().st_size == guided.stat().st_size
    found = evaluate([plain, guided], text, base=example_bf16, n_ctx=128, n_chunks=4, threads=1)
    paired = found.files[1].paired
    assert paired is not None and paired.kld_ratio is not None
    assert paired.kld_ratio.value < 1  # the text it is judged on is the one it was calibrated on


@needs_llama
def test_command_writes_a_report(
    example_bf16: Path, example_q4_k_m: Path, text: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[plot]')")
    args = (
        "eval",
        example_q4_k_m,
        example_bf16,
        "--base",
        example_bf16,
        "-f",
        text,
        "--threads",
        1,
        "--ctx",
        128,
    )
    folder = tmp_path / "report"
    run = srd(*args, "--chunks", 2, "--report", folder, "--json")
    assert run.code == 0, run.stderr
    assert sorted(p.name for p in folder.iterdir()) == sorted(Path(p).name for p in run.json["report"])
    report = json.loads((folder / "report.json").read_text())
    first, second = report["files"]
    assert first["divergence"]["kld"]["value"] > 0 and second["bpw"] > 16
    assert second["paired"]["kld_ratio"]["value"] == pytest.approx(0, abs=1e-6)
    assert f"| {example_q4_k_m.stem} |" in (folder / "report.md").read_text()
    check_page((folder / "report.html").read_text(), example_q4_k_m.stem)
    for name in ("bpw.png", "percentiles.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    again = srd(*args, "--chunks", 2, "--report", folder)
    assert again.code == 2 and "--overwrite" in again.stderr


@needs_llama
def test_strided_perplexity_needs_no_base(example_q4_k_m: Path, text: Path) -> None:
    run = srd(
        "eval",
        example_q4_k_m,
        "-f",
        text,
        "--threads",
        1,
        "--ctx",
        128,
        "--stride",
        32,
        "--chunks",
        3,
        "--json",
    )
    assert run.code == 0, run.stderr
    assert (run.json["n_chunks"], run.json["n_tokens"]) == (3, 96)
    (file,) = run.json["files"]
    assert 1 < file["perplexity"]["value"] < 4096
    assert file["divergence"] is None and run.json["base"] is None


@needs_llama
def test_another_vocabulary_is_refused(example_q4_k_m: Path, text: Path, tmp_path: Path) -> None:
    """One token renamed: the same count, but not the same vocabulary."""
    raw = example_q4_k_m.read_bytes()
    at = raw.index("▁the".encode())
    other = tmp_path / "other.gguf"
    other.write_bytes(raw[:at] + "▁teh".encode() + raw[at + len("▁the".encode()) :])
    run = srd(
        "eval", other, "--base", example_q4_k_m, "-f", text, "--threads", 1, "--ctx", 128, "--chunks", 1
    )
    assert run.code == 1
    assert "other.gguf" in run.stderr and "vocabulary" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


@needs_llama
@pytest.mark.parametrize(
    ("content", "code"),
    [(b"Too short.", 2), (b"\xff\xfe" * 10, 2), (None, 1)],
    ids=["short", "bytes", "none"],
)
def test_a_text_that_cannot_be_scored(
    content: bytes | None, code: int, example_q4_k_m: Path, tmp_path: Path
) -> None:
    path = tmp_path / "some.txt"
    if content is not None:
        path.write_bytes(content)
    run = srd("eval", example_q4_k_m, "-f", path)
    assert run.code == code and "some.txt" in run.stderr


@needs_llama
def test_a_file_that_is_no_model_is_refused(text: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    run = srd("eval", broken, "-f", text)
    assert run.code == 1 and "broken.gguf" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from srd_rs.eval import library, plots

    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(errors.UsageError, match=r"srd-rs\[eval\]"):
        library.library()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(errors.UsageError, match=r"srd-rs\[plot\]"):
        plots.figure_class()


class Page(HTMLParser):
    """Counts elements, and keeps what would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.outside += [
            v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:image/png")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(text: str, name: str) -> None:
    """The page is well formed, needs no other file, and has the pictures and the tables in it."""
    page = Page()
    page.feed(text)
    assert page.open == [] and page.outside == [] and "<script" not in text
    assert page.count["img"] == 2 and page.count["table"] >= 2 and f"<td>{name}</td>" in text


@needs_llama
def test_a_crash_of_llama_cpp_is_one_line(
    example_q4_k_m: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp runs a file in a process of its own first. Here the check that would refuse the file is left out."""
    import struct

    from srd_rs.eval import probe

    data = bytearray(example_q4_k_m.read_bytes())
    key = b"gemma4.block_count"
    at = data.index(key) + len(key) + 4
    data[at : at + 4] = struct.pack("<I", 2**20)
    crashing = tmp_path / "crashing.gguf"
    crashing.write_bytes(data)
    with pytest.raises(errors.ModelError, match=r"'gemma4\.block_count' is 1048576"):
        probe.check_runs(crashing, 64)
    unchecked = tmp_path / "unchecked.py"
    unchecked.write_text(
        "import sys, srd_rs.eval.llama as llama\nllama.check_before_loading = lambda path: None\n"
        "from srd_rs.eval import probe\nsys.exit(probe._run(sys.argv[1], int(sys.argv[2])))\n"
    )
    real = probe.subprocess.run
    monkeypatch.setattr(
        probe.subprocess,
        "run",
        lambda command, **options: real([command[0], str(unchecked), *command[3:]], **options),
    )
    monkeypatch.setattr(probe, "check_before_loading", lambda path: None)
    with pytest.raises(
        errors.ModelError, match=r"crashing.gguf: llama.cpp crashed on it \(SIGABRT: .*n_layer"
    ):
        probe.check_runs(crashing, 64)


@needs_llama
def test_the_child_ends_with_its_parent(example_q4_k_m: Path, tmp_path: Path) -> None:
    """Also a parent that is killed, which can end no child itself."""
    fake, note = tmp_path / "llama_cpp.py", tmp_path / "note"
    fake.write_text(f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(120)\n")
    # The child finds the fake in front of the package that is installed.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    parent = (
        "import sys\nfrom pathlib import Path\nfrom srd_rs.eval import probe\n"
        f"sys.executable = {str(python)!r}\nprobe.check_runs(Path(sys.argv[1]), 64)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent, str(example_q4_k_m)]) as process:
        deadline = time.monotonic() + 60
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    child = int(note.read_text())
    deadline = time.monotonic() + 60
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(process: int) -> bool:
    """Whether a process computes or waits. One that has ended may be left to whoever collects it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@needs_llama
def test_a_split_gguf_is_scored_by_any_of_its_parts(text: Path, example_bf16: Path, tmp_path: Path) -> None:
    from srd_rs.eval.evaluation import evaluate

    report = srd_rs.convert(
        example_bf16, tmp_path / "m.gguf", quant="BF16", split_max_size=8_000_000, met=False
    )
    assert len(report.outputs) > 1
    found = evaluate([example_bf16, report.outputs[1]], text, n_ctx=64, n_chunks=2)
    assert found.files[0].perplexity == found.files[1].perplexity
    assert found.files[0].tensor_bytes == found.files[1].tensor_bytes
    report.outputs[0].unlink()
    with pytest.raises(errors.ModelError, match=f"{report.outputs[0].name}: is missing"):
        evaluate([report.outputs[1]], text, n_ctx=64, n_chunks=2)
