"""Every option of every command is named in a test, and the options that no other file tries have an effect here."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import gguf
import numpy as np
import pytest

import srd_rs
from srd_rs.cli import COMMANDS, cli, run
from srd_rs.errors import UsageError
from support import EXAMPLE, REPO, write_adapter

Call = Callable[..., dict[str, Any]]
SRD = ("--calibrate", "random", "--calibrate-tokens", "64", "--calibrate-block", "256")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Runs a command in this process with `--json`, with a key of its own, and returns what it prints."""
    monkeypatch.setenv("SRD_MASTER_KEY", "5d" * 32)
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> dict[str, Any]:
        code = run([*map(str, args), "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert code == 0, found
        return found

    return call


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A GGUF with an output matrix and a weight that is not finite."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    random = np.random.default_rng(2)
    for name in ("token_embd.weight", "output.weight", "blk.0.ffn_up.weight"):
        values = random.normal(size=(8, 256)).astype(np.float32)
        if name == "blk.0.ffn_up.weight":
            values[3, 5] = np.nan
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def types(planned: dict[str, Any]) -> dict[str, str]:
    return {t["name"]: t["type"] for t in planned["tensors"]}


WORD = re.compile(r"[\w./{}:-]+")


def words(node: ast.AST) -> set[str]:
    """The words of all texts in a piece of code."""
    texts = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return {word for text in texts for word in WORD.findall(text)}


def words_of_functions() -> list[set[str]]:
    """For each function of the tests its words, with those of the functions and constants of its file that it names."""
    found = []
    for path in (REPO / "tests").glob("*.py"):
        named: dict[str, ast.AST] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                named[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                named |= {target.id: node.value for target in targets if isinstance(target, ast.Name)}
        for function in (node for node in named.values() if isinstance(node, ast.FunctionDef)):
            names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)} & set(named)
            found.append(words(function).union(*(words(named[name]) for name in names)))
    return found


def options() -> list[tuple[str, tuple[str, ...]]]:
    """Every option of every command: the name of the command, and the flags."""
    found = []
    for name in (n for names in COMMANDS.values() for n in names):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        found += [(name, (*o.opts, *o.secondary_opts)) for o in command.params if isinstance(o, click.Option)]
    return found


def test_every_option_of_every_command_is_in_a_test() -> None:
    """A test types the command and the option: the same flag of another command does not count."""
    functions = words_of_functions()
    missing = [
        f"{command} {flags[0]}"
        for command, flags in options()
        if not any(command in typed and not typed.isdisjoint(flags) for typed in functions)
    ]
    assert missing == [] and len(options()) > 200


def test_budgets_by_their_options(call: Call) -> None:
    common = ("convert", EXAMPLE, "--fast", "--dry-run", "--no-axm", "--threads", 1)
    small, large = (call(*common, "--target-bpw", bpw) for bpw in (4.5, 7))
    assert small["bpw"] <= 4.5 < large["bpw"] <= 7
    fits = call(*common, "--fit", "30MB", "--ctx", 256)
    assert fits["memory"]["ctx"] == 256 and fits["memory"]["total"] <= 30_000_000


def test_options_of_lora(call: Call, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter")
    made = call(
        "lora", "adapter", "--base", EXAMPLE, "-q", "f16", "--name", "Mine", "--no-provenance", "-o", "a.gguf"
    )
    assert made["output"] == "a.gguf"
    metadata = srd_rs.open(tmp_path / "a.gguf").metadata
    assert metadata["general.name"] == "Mine" and not any(key.startswith("srd.") for key in metadata)
    assert {t.type for t in srd_rs.inspect(tmp_path / "a.gguf").tensors} == {"F16"}


def test_the_projector_of_a_modelfile_is_one(
    capsys: pytest.CaptureFixture[str], example_q4_k_m: Path, tmp_path: Path
) -> None:
    args = ["modelfile", example_q4_k_m, "--mmproj", example_q4_k_m, "-o", tmp_path / "x.Modelfile"]
    assert run(list(map(str, args))) == 2 and "this is no projector" in capsys.readouterr().err
    assert not (tmp_path / "x.Modelfile").exists()


def test_long_forms_of_output_and_quant(call: Call, tmp_path: Path) -> None:
    planned = call("convert", EXAMPLE, "--fast", "--dry-run", "--quant", "Q6_K", "--output", "x.gguf")
    assert planned["quant"] == "Q6_K" and planned["output"] == "x.gguf"
    packed = call("pack", EXAMPLE, "--fast", "--quant", "Q8_0", "--output", "m.axm", "--threads", 1)
    assert packed["path"] == "m.axm"
    extracted = call("extract", "m.axm", "--quant", "Q4_K_M", "--output", "e.gguf", "--threads", 1)
    assert extracted["quant"] == "Q4_K_M" and Path("e.gguf").exists()
    call("resign", "m.axm", "--output", "r.axm", "--threads", 1)
    call("resign", "m.axm", "--output", "r.axm", "--overwrite", "--no-old-key")
    call("met", "e.gguf", "--output", "e.json")
    call("card", "e.gguf", "--output", "e.md")
    call("modelfile", "e.gguf", "--output", "e.Modelfile")
    call("calibrate", EXAMPLE, "--output", "c.calib", "--text", "random", "--tokens", 64, "--ctx", 64)
    assert {"r.axm", "e.json", "e.md", "e.Modelfile", "c.calib"} <= {p.name for p in tmp_path.iterdir()}
    assert call("verify", "r.axm", "--threads", 1)["authentic"] is True


def test_types_of_single_tensors(call: Call, small: Path) -> None:
    common = ("convert", small, "--fast", "--dry-run", "--no-axm")
    assert types(call(*common))["output.weight"] == "Q6_K"
    assert types(call(*common, "--output-tensor-type", "Q8_0"))["output.weight"] == "Q8_0"
    assert types(call(*common, "--pure"))["output.weight"] == "Q4_K"


def test_weights_that_are_not_finite(call: Call, small: Path) -> None:
    assert run(["convert", str(small), "--fast", "--no-axm", "-o", "o.gguf"]) == 1
    made = call("convert", small, "--fast", "--no-axm", "-o", "o.gguf", "--allow-nonfinite", "--no-met")
    assert made["replaced"] == 1


def test_the_container_of_a_conversion(call: Call) -> None:
    common = ("convert", EXAMPLE, "--fast", "--dry-run", "--axm")
    planned = call(*common, "--axm-output", "other.axm")
    assert planned["container"]["path"] == "other.axm"
    sizes = [call(*common, "--residual-bits", bits)["container"]["bytes"] for bits in (0, 2, 3, 4)]
    # Shards are aligned, so one bit more need not show in a small model.
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[3]


def test_the_name_of_the_pre_tokenizer(call: Call, tmp_path: Path, fixtures: Path) -> None:
    common = ("-q", "BF16", "--no-axm", "--no-met", "-o", "o.gguf", "--pre-tokenizer", "gpt-2")
    call("convert", fixtures / "qwen2", *common)
    assert srd_rs.open(tmp_path / "o.gguf").metadata["tokenizer.ggml.pre"] == "gpt-2"


def test_a_vocabulary_without_a_pre_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--pre-tokenizer: the option has no effect"):
        srd_rs.plan(EXAMPLE, tmp_path / "o.gguf", pre_tokenizer="gpt-2")


def test_what_srd_does_more_or_less_of(call: Call, tmp_path: Path) -> None:
    """Each option changes bytes: beam width, layers with candidates, and the seed."""
    made = {}
    calibrated = ("--calibrate", tmp_path / "c.calib")
    call(
        "calibrate", EXAMPLE, "-o", "c.calib", "--text", "random", "--tokens", 64, "--ctx", 64, "--threads", 1
    )
    for extra in ((), ("--beam-width", 1), ("--dither-layers", "0-50"), ("--seed", 7)):
        call(
            "convert",
            EXAMPLE,
            "-o",
            "o.gguf",
            "-f",
            "--no-axm",
            "--no-met",
            "--no-provenance",
            *calibrated,
            *extra,
        )
        made[extra] = (tmp_path / "o.gguf").read_bytes()
    assert len(set(made.values())) == 4


def test_options_of_pack(call: Call, tmp_path: Path) -> None:
    call("keygen", "--ed25519", "sign")
    plain = call("pack", EXAMPLE, "-o", "a.axm", "--effort", "fast", "--max-memory", "8MiB")
    more = call(
        "pack", EXAMPLE, "-o", "b.axm", "--fast", "--residual-bits", 4, "--tensor-type", "ffn_down=Q8_0",
        "--seed", 5, "--sign-key", "sign",
    )  # fmt: skip
    assert plain["signed"] is False and more["signed"] is True and more["bytes"] > plain["bytes"]
    opened = srd_rs.open(tmp_path / "b.axm")
    assert opened.metadata["seed"] == 5 and opened["blk.0.ffn_down.weight"].type == "Q8_0"
    call("pack", EXAMPLE, "-o", "c.axm", *SRD[:4])
    assert srd_rs.open(tmp_path / "c.axm").metadata["method"] == "srd"
    call("extract", "a.axm", "-o", "a.gguf", "--max-memory", "8MiB")


def test_options_of_calibrate(call: Call, tmp_path: Path) -> None:
    common = ("calibrate", EXAMPLE, "--text", "random", "--tokens", 64, "--ctx", 64)
    call(*common, "-o", "a.calib", "--imatrix", "i.gguf", "--max-memory", "8MiB")
    call(*common, "-o", "b.calib", "--seed", 1, "--block", 256)
    assert (tmp_path / "i.gguf").read_bytes()[:4] == b"GGUF"
    assert (tmp_path / "a.calib").read_bytes() != (tmp_path / "b.calib").read_bytes()


def test_defaults_from_the_environment(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRD_RS_CONVERT_QUANT", "Q6_K")
    monkeypatch.setenv("SRD_RS_CONVERT_FAST", "1")
    planned = call("convert", EXAMPLE, "--dry-run")
    assert planned["quant"] == "Q6_K" and planned["effort"] == "fast" and planned["schema_version"] == 1
    assert call("convert", EXAMPLE, "--dry-run", "-q", "Q8_0")["quant"] == "Q8_0"
    assert call("env")["variables"]["SRD_RS_CONVERT_QUANT"] == "Q6_K"


def test_a_quiet_conversion(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = ["convert", str(EXAMPLE), "--fast", "--quiet", "--no-axm", "-o", str(tmp_path / "q.gguf")]
    assert run(args) == 0 and (tmp_path / "q.gguf").exists()
    assert capsys.readouterr() == ("", "")
    assert run(args) == 2 and "exists already" in capsys.readouterr().err
    for other in ("--json", "--dry-run"):
        assert run([*args, other, "-f"]) == 2 and "--quiet: the option has no effect" in "".join(
            capsys.readouterr()
        )


def test_tokens_of_a_dense_decoder_are_weighed_unless_that_is_not_wanted(
    call: Call, fixtures: Path, tmp_path: Path
) -> None:
    how = ("--effort", "srd", *SRD, "--no-cache", "--no-met")
    made = {}
    for name, more in (("default", ()), ("weighed", ("--weigh-tokens",)), ("alike", ("--no-weigh-tokens",))):
        report = call("convert", fixtures / "llama", "-o", f"{name}.gguf", *how, *more)
        assert report["calibration_weighed"] == (name != "alike")
        tensors = gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors
        made[name] = {tensor.name: tensor.data.tobytes() for tensor in tensors}
        call("verify", "--rebuild", f"{name}.gguf", "--from", fixtures / "llama")
    assert made["default"] == made["weighed"] != made["alike"]
    assert call("calibrate", fixtures / "llama", "-o", "c", "--tokens", 64)["weighed"] is True
    assert call("calibrate", EXAMPLE, "-o", "d", "--tokens", 64)["weighed"] is False
