"""The command line itself: codes, messages, JSON, sizes, output names, start-up."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import srd_rs
from srd_rs import text
from srd_rs.cli.convert import report_text
from srd_rs.cli.options import parse_layers, parse_quant, parse_size, parse_tensor_type
from support import EXAMPLE, REPO, srd


def test_convert_prints_what_it_wrote(tmp_path: Path) -> None:
    run = srd("convert", "--fast", EXAMPLE, cwd=tmp_path)
    assert run.code == 0 and run.stderr.count("\n") == 1
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"wiki-gemma4-Q4_K_M.{end}" for end in ("axm", "gguf", "met.json")]
    for word in ("fingerprint", "Q4_K", "Q6_K", "F32", "bits per weight", "weights/s", *names):
        assert word in run.stdout


def test_convert_json_agrees_with_the_file(tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    run = srd("convert", "--fast", EXAMPLE, "-o", output, "--json")
    assert run.code == 0
    report = run.json
    assert report["output"] == str(output) and report["quant"] == "Q4_K_M" and report["arch"] == "gemma4"
    assert report["total_bytes"] == output.stat().st_size
    assert sum(t["bytes"] for t in report["types"].values()) == report["tensor_bytes"]
    assert sum(t["weights"] for t in report["types"].values()) == report["n_weights"]
    assert report["bpw"] == pytest.approx(report["tensor_bytes"] * 8 / report["n_weights"])
    inspected = srd("inspect", output, "--json").json
    assert inspected["types"] == report["types"] and inspected["file_bytes"] == report["total_bytes"]


def test_a_run_that_the_disk_held_up_says_so(tmp_path: Path) -> None:
    report = srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", met=False, effort="fast")
    slow = dataclasses.replace(report, seconds=10.0, threads=2)
    assert "held them up" not in report_text(dataclasses.replace(slow, cpu_seconds=19.0))
    assert "worked 20% of the time, the disk" in report_text(dataclasses.replace(slow, cpu_seconds=4.0))


def test_dry_run_writes_nothing_and_is_exact(tmp_path: Path) -> None:
    planned = srd("convert", "--fast", EXAMPLE, "--dry-run", "--json", cwd=tmp_path)
    assert planned.code == 0 and list(tmp_path.iterdir()) == []
    output = tmp_path / "m.gguf"
    assert srd("convert", "--fast", EXAMPLE, "-o", output).code == 0
    assert planned.json["total_bytes"] == output.stat().st_size
    shown = srd("convert", "--fast", EXAMPLE, "--dry-run", cwd=tmp_path).stdout
    assert f"{output.stat().st_size} bytes" in shown and "nothing was written" in shown


def test_dry_run_reads_no_weight(tmp_path: Path) -> None:
    """Weights that are a hole in the file: a plan needs the header only."""
    model = tmp_path / "model"
    shutil.copytree(EXAMPLE, model)
    weights = model / "model.safetensors"
    size = weights.stat().st_size
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    os.truncate(weights, header)
    os.truncate(weights, size)
    poisoned = srd("convert", "--fast", model, "--dry-run", "--json", cwd=tmp_path)
    intact = srd("convert", "--fast", EXAMPLE, "--dry-run", "--json", "--name", "x", cwd=tmp_path)
    assert poisoned.code == intact.code == 0
    assert poisoned.json["tensor_bytes"] == intact.json["tensor_bytes"]


def test_output_may_be_a_folder(tmp_path: Path) -> None:
    assert srd("convert", "--fast", EXAMPLE, "-o", tmp_path, "-q", "bf16", "--no-met", "--no-axm").code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["wiki-gemma4-BF16.gguf"]


def test_refuses_to_overwrite_unless_told(tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    output.write_text("mine")
    run = srd("convert", "--fast", EXAMPLE, "-o", output)
    assert run.code in (1, 2) and str(output) in run.stderr and "--overwrite" in run.stderr
    assert output.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    assert srd("convert", "--fast", EXAMPLE, "-o", output, "-f").code == 0
    assert output.read_bytes()[:4] == b"GGUF"


def test_types_can_be_chosen(tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    options = ["--tensor-type", r"blk\.0\.ffn_down=Q8_0", "--token-embedding-type", "Q5_K"]
    assert srd("convert", "--fast", EXAMPLE, "-o", output, *options).code == 0
    tensors = {t["name"]: t["type"] for t in srd("inspect", output, "--json", "--tensors").json["tensors"]}
    assert tensors["blk.0.ffn_down.weight"] == "Q8_0"
    assert tensors["blk.1.ffn_down.weight"] != "Q8_0"
    assert tensors["token_embd.weight"] == "Q5_K"


def test_split_files_fit_and_hold_everything(tmp_path: Path) -> None:
    run = srd(
        "convert",
        "--fast",
        EXAMPLE,
        "-o",
        tmp_path / "m.gguf",
        "--split-max-size",
        "4MB",
        "--json",
        "--no-axm",
    )
    assert run.code == 0, run.stderr
    files = sorted(tmp_path.glob("*.gguf"))
    assert len(files) >= 3 and [f["path"] for f in run.json["files"]] == [str(p) for p in files]
    assert files[0].name == f"m-00001-of-{len(files):05d}.gguf"
    for part in (files[0], files[-1]):
        names = [t["name"] for t in srd("inspect", part, "--json", "--tensors").json["tensors"]]
        assert len(names) == len(set(names)) == sum(t["tensors"] for t in run.json["types"].values())


@pytest.mark.parametrize(
    ("args", "kind", "part"),
    [
        (["convert"], "usage", "Missing argument"),
        (["paint"], "usage", "No such command"),
        (["convert", "x", "--max-memory", "4G"], "usage", "4GiB"),
        (["convert", "x", "-q", "Q9"], "usage", "Q4_K_M"),
        (["convert", "x", "--tensor-type", "Q6_K"], "usage", "REGEX=TYPE"),
        (["convert", "x", "--threads", "0"], "usage", "--threads"),
        (["convert", EXAMPLE, "--token-embedding-type", "Q9_X", "-o", "out.gguf"], "usage", "Q9_X"),
        (["convert", EXAMPLE, "--tensor-type", "(=Q6_K", "-o", "out.gguf"], "usage", "("),
    ],
)
def test_usage_errors(args: list[object], kind: str, part: str, tmp_path: Path) -> None:
    run = srd(*args, cwd=tmp_path)
    assert run.code == 2 and run.stdout == ""
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1 and part in run.stderr
    as_json = srd(*args, "--json", cwd=tmp_path)
    assert as_json.code == 2 and as_json.stderr == ""
    assert as_json.json["error"]["kind"] == kind and part in as_json.json["error"]["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_missing_input(command: str, tmp_path: Path) -> None:
    run = srd(command, tmp_path / "nothing")
    assert run.code in (1, 2) and "nothing" in run.stderr and run.stderr.count("\n") == 1


def test_output_folder_that_does_not_exist(tmp_path: Path) -> None:
    run = srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "no" / "m.gguf")
    assert run.code == 1 and str(tmp_path / "no") in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    bad = tmp_path / "x.gguf"
    bad.write_bytes(b"")
    assert "Traceback" not in srd("inspect", bad).stderr
    assert "Traceback" in srd("inspect", bad, env={"SRD_DEBUG": "1"}).stderr


def test_inspect_shows_metadata_and_tensors(example_q4_k_m: Path) -> None:
    brief = srd("inspect", example_q4_k_m).stdout
    assert "gemma4" in brief and "Q6_K" in brief and "token_embd.weight" not in brief
    full = srd("inspect", example_q4_k_m, "--metadata", "--tensors").stdout
    assert "token_embd.weight" in full and "tokenizer.ggml.tokens" in full and "(4096)" in full
    as_json = srd("inspect", example_q4_k_m, "--metadata", "--json").json
    (tokens,) = (m["value"] for m in as_json["metadata"] if m["key"] == "tokenizer.ggml.tokens")
    assert len(tokens) == 4096


def test_inspect_reads_checkpoints(tmp_path: Path) -> None:
    folder = srd("inspect", EXAMPLE, "--json").json
    file = srd("inspect", EXAMPLE / "model.safetensors", "--json").json
    assert folder["kind"] == file["kind"] == "safetensors"
    assert folder["types"] == file["types"] and folder["types"]["BF16"]["tensors"] > 50
    assert folder["architecture"] == "gemma4" and "conversion" not in file
    assert folder["conversion"] == {"possible": True, "obstacle": None, "effort": "srd", "why_fast": None}


def test_inspect_says_what_a_checkpoint_is(tmp_path: Path) -> None:
    """Layers, context and tokenizer stand in the GGUF that would be written, and whether one can be is said."""
    lines = dict(line.split(None, 1) for line in srd("inspect", EXAMPLE).stdout.split("\n\n")[0].splitlines())
    assert lines["architecture"] == "gemma4" and lines["layers"] == "6" and lines["context"] == "2048"
    assert lines["tokenizer"] == "gemma4" and lines["converts"] == "yes, with SRD"
    keys = {m["key"]: m["value"] for m in srd("inspect", EXAMPLE, "--metadata", "--json").json["metadata"]}
    assert len(keys["tokenizer.ggml.tokens"]) == 4096 and not any(key.startswith("srd.") for key in keys)
    assert "general.file_type" not in keys
    shutil.copytree(EXAMPLE, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "architectures": ["Gemma9Model"]}))
    run = srd("inspect", tmp_path / "other")
    assert (
        run.code == 0 and "converts  no: " in run.stdout and "'Gemma9Model' are not supported" in run.stdout
    )
    found = srd_rs.inspect(tmp_path / "other")
    assert found.conversion is not None and not found.conversion.possible and found.metadata == {}


def test_layers_are_shares_of_the_depth() -> None:
    assert parse_layers("40-77") == (0.4, 0.77) and parse_layers("0-100") == (0.0, 1.0)
    for bad in ("77-40", "40", "-1-5", "40-101", "a-b", "nan-50"):
        with pytest.raises(click.BadParameter):
            parse_layers(bad)


def test_inspect_names_the_mix(example_q4_k_m: Path) -> None:
    assert "mix           Q4_K_M (15)\n" in srd("inspect", example_q4_k_m).stdout
    found = srd_rs.inspect(example_q4_k_m)
    assert (
        found.mix == "Q4_K_M" and found.metadata["general.name"] and found.kinds["general.name"] == "STRING"
    )
    with srd_rs.open(example_q4_k_m) as file:  # both have one order of the shape
        assert {t.name: t.shape for t in found.tensors} == {t.name: t.shape for t in file.values()}


def test_output_to_a_closed_pipe_is_quiet(example_q4_k_m: Path) -> None:
    command = f"{sys.executable} -m srd_rs inspect --tensors --metadata '{example_q4_k_m}' | head -n 1"
    run = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert run.stdout.startswith("file") and run.stderr == ""


def test_progress_bar_on_a_terminal_only(wide_model: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "srd_rs",
        "convert",
        "--fast",
        str(wide_model),
        "-o",
        str(tmp_path / "m.gguf"),
    ]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=env)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # Linux's way of saying that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(60) == 0
    assert b"%" in shown and b"B/s" in shown
    quiet = srd("convert", "--fast", wide_model, "-o", tmp_path / "quiet.gguf")
    assert quiet.code == 0 and "%" not in quiet.stderr


@pytest.mark.parametrize(
    ("written", "size"),
    [("1", 1), ("512MiB", 512 << 20), ("4gib", 4 << 30), ("1.5GB", 1_500_000_000), (" 2 kb ", 2000)],
)
def test_sizes(written: str, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "4G", "-1", "0", "MiB", "1e9", "1 parsec", "9999999999GiB", "٣MiB"])
def test_no_sizes(written: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_size(written)


def test_option_values() -> None:
    assert parse_quant("q4_k_m") == "Q4_K_M"
    assert parse_tensor_type("a=b=Q6_K") == "a=b=Q6_K"
    for bad in ("Q6_K", "=Q6_K", "ffn="):
        with pytest.raises(click.BadParameter):
            parse_tensor_type(bad)


def test_texts() -> None:
    assert [text.bytes_text(n) for n in (0, 999, 1000, 999_499, 9_270_000_000, 3 * 10**15)] == [
        "0 B", "999 B", "1.00 kB", "999 kB", "9.27 GB", "3000 TB",
    ]  # fmt: skip
    assert [text.count_text(n) for n in (12, 4_630_000_000, 13_247_302)] == ["12", "4.63 G", "13.2 M"]
    assert [text.duration_text(s) for s in (0.844, 12.34, 185.2, 59.999)] == [
        "0.84 s", "12.3 s", "3 min 05 s", "60.0 s",
    ]  # fmt: skip


def test_untrusted_text_does_not_reach_the_terminal() -> None:
    assert text.printable("a\x1b[2Jb\u202e") == "a\\x1b[2Jb\\u202e"
    assert text.one_line("a\nb\rc\n") == "a b\\rc"
    assert text.printable("▁naïve 日本") == "▁naïve 日本"


def test_type_table_sums_up() -> None:
    lines = text.type_table({"Q4_K": (2, 512, 288), "F32": (1, 10, 40)}).splitlines()
    assert lines[0].split() == ["type", "tensors", "weights", "size", "bpw"]
    assert lines[-1].split() == ["all", "3", "522", "328", "B", "5.03"]
    assert text.type_table({}).splitlines()[-1].split() == ["all", "0", "0", "0", "B", "-"]


def seconds_of(code: str) -> float:
    """CPU seconds of `python -c code` beyond those of an empty program: the least of several runs."""

    def once(program: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once(code) for _ in range(7)) - min(once("") for _ in range(7))


def test_import_is_quick() -> None:
    assert seconds_of("import srd_rs") <= 0.150


def test_help_is_quick() -> None:
    assert seconds_of("from srd_rs.cli import run; run(['--help'])") <= 0.250


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import json, sys; from srd_rs.cli import run; run(['convert', '--help']);"
        "print(json.dumps([m for m in ('numpy', 'rich', 'torch', 'huggingface_hub')"
        " if m in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.splitlines()[-1]) == []


def test_version() -> None:
    run = srd("--version")
    assert run.code == 0 and run.stdout.startswith("srd-rs 0.")


def test_hub_downloads_only_safe_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import ModuleType

    from srd_rs import hub

    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(tmp_path)

    # Only a model without safetensors is asked for pickles, which are read and never run: tests/test_hub.py.
    (tmp_path / "model.safetensors").write_bytes(b"")
    fake = ModuleType("huggingface_hub")
    fake.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert hub.locate("org/name.v2@main") == hub.Source(
        tmp_path, "name.v2", "org/name.v2", "org/name.v2@main"
    )
    assert asked["repo"] == "org/name.v2" and asked["revision"] == "main"
    # One pickle is downloaded and never opened: a model that has the file is refused, as its folder is.
    allowed = [pattern for pattern in asked["allow_patterns"] if pattern != "mask_embedding.pt"]
    assert not any(
        p.endswith((".bin", ".py", ".pt")) or p.startswith("*.*") or p in ("*", "*/*") for p in allowed
    )
    # Paths are never taken for ids.
    for path in ("../x", "./x", "/a/b", "a/b/c", str(EXAMPLE)):
        assert hub.locate(path).name is None


def test_every_readme_command_exists() -> None:
    readme = (REPO / "README.md").read_text()
    code = "\n".join(readme.split("```")[1::2])
    used = [words for line in code.splitlines() if (words := line.split())[:1] == ["srd-rs"]]
    assert used
    for command in {words[1] for words in used}:
        run = srd(command, "--help")
        assert run.code == 0, command
        for words in (w for w in used if w[1] == command):
            for word in (w for w in words if w.startswith("--")):
                assert word.split("=")[0] in run.stdout, words


def test_no_arguments_show_the_help() -> None:
    run = srd()
    assert run.code == 0 and run.stdout.startswith("Usage: srd-rs") and run.stderr == ""


def test_shells_can_complete() -> None:
    script = srd(env={"_SRD_RS_COMPLETE": "bash_source"})
    assert script.code == 0 and "_SRD_RS_COMPLETE=bash_complete" in script.stdout
    words = {"COMP_WORDS": "srd-rs conv", "COMP_CWORD": "1", "_SRD_RS_COMPLETE": "bash_complete"}
    assert "convert" in srd(env=words).stdout


def test_an_output_folder_and_a_missing_suffix(tmp_path: Path) -> None:
    common = ("convert", EXAMPLE, "--fast", "-q", "Q8_0", "--no-axm", "--no-met")
    assert srd(*common, "-o", f"{tmp_path}/models/").code == 0
    assert srd(*common, "-o", tmp_path / "Qwen2.5-7B").code == 0
    assert srd(*common, "-o", tmp_path / "plain").code == 0
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert names == ["Qwen2.5-7B.gguf", "models/wiki-gemma4-Q8_0.gguf", "plain.gguf"]


def test_the_cost_is_that_of_the_whole_run(tmp_path: Path) -> None:
    """Calibration included: it took 6 s and the report said 0.4."""
    run = srd(
        "convert",
        EXAMPLE,
        "--effort",
        "srd",
        "--calibrate-tokens",
        "2048",
        "-o",
        tmp_path / "m.gguf",
        "--json",
    )
    assert run.code == 0, run.stderr
    assert run.json["cpu_seconds"] > 0.5 * run.cpu_s and run.wall_s > run.json["seconds"] > 0.5 * run.wall_s
    assert run.json["method"] == "srd"


def test_options_of_llama_cpp_are_explained() -> None:
    run = srd("convert", "--fast", EXAMPLE, "--outfile", "x.gguf")
    assert run.code == 2 and "-o names the output" in run.stderr and "?." not in run.stderr
    run = srd("convert", "--fast", EXAMPLE, "x.gguf")
    assert run.code == 2 and "Write: -o x.gguf" in run.stderr


def test_stdout_that_cannot_be_written(tmp_path: Path) -> None:
    """A full or closed stdout changes neither the files nor the exit code of a failure, and shows no traceback."""
    command = [sys.executable, "-m", "srd_rs"]
    forged = tmp_path / "m.axm"
    forged.write_bytes(b"\x89AXM\r\n\x1a\n" + bytes(200))
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [*command, "verify", forged, "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
        assert run.returncode == 3 and "Traceback" not in run.stderr and run.stderr.startswith("error: ")
        run = subprocess.run(
            [*command, "inspect", EXAMPLE, "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
        assert run.returncode == 1 and "Traceback" not in run.stderr and run.stderr.count("\n") == 1
    closed = subprocess.run(
        f"{sys.executable} -m srd_rs inspect {EXAMPLE} >&-", shell=True, stderr=subprocess.PIPE, text=True
    )
    assert closed.returncode == 0 and closed.stderr == ""


def test_ctrl_c_while_modules_are_loaded(tmp_path: Path) -> None:
    """A module of the command line that takes long to load is interrupted: one line, no traceback."""
    (tmp_path / "rich.py").write_text("")
    (tmp_path / "click.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    child = subprocess.Popen(
        [sys.executable, "-m", "srd_rs", "--help"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup and on some CI systems SIGINT is ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout is not None and child.stdout.readline() == "loading\n"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130 and said == "error: interrupted\n"


def test_an_architecture_does_not_drive_the_terminal(tmp_path: Path) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "ll\x1b[31mama")
    writer.add_block_count(1)
    writer.add_tensor("a.weight", np.ones((2, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    run = srd("convert", "--fast", tmp_path / "m.gguf", "-q", "F16", "-o", tmp_path / "o.gguf", "--no-axm")
    assert run.code == 0, run.stderr
    assert "\x1b" not in run.stdout + run.stderr and "\\x1b[31m" in run.stdout
