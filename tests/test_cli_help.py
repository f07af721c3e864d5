"""Help, and the commands that explain: every option is explained in sentences, every help ends with examples."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from srd_rs.cli import COMMANDS, cli
from srd_rs.cli.failures import _FOREIGN_OPTIONS
from support import EXAMPLE, srd

NAMES = [name for names in COMMANDS.values() for name in names]


def command_of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def test_every_module_of_a_command_is_listed() -> None:
    folder = Path(sys.modules["srd_rs.cli"].__file__ or "").parent
    modules = {p.stem for p in folder.glob("*.py") if re.search(r"^@click\.command\(", p.read_text(), re.M)}
    assert modules == set(NAMES) and len(NAMES) == len(set(NAMES))


def test_commands_stand_under_headings() -> None:
    shown = srd("--help").stdout
    lines = shown.splitlines()
    for heading, names in COMMANDS.items():
        start = lines.index(f"{heading}:")
        assert [line.split()[0] for line in lines[start + 1 : start + 1 + len(names)]] == list(names)
    assert "Examples:" in shown and max(map(len, lines)) <= 90


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command(name: str) -> None:
    """Options have sentences, plain placeholders and a group where there are many; examples name real options."""
    command = command_of(name)
    options = [p for p in command.params if isinstance(p, click.Option)]
    for option in options:
        assert option.help and option.help.endswith("."), option.name
        if not (option.is_flag or option.count):
            record = option.get_help_record(click.Context(command))
            assert record and "RANGE" not in record[0] and "<=" not in record[1], record
    if len(options) > 8:
        ungrouped = [o.name for o in options if getattr(o, "group", None) is None]
        assert len(ungrouped) <= 3, ungrouped
    shown = srd(name, "--help")
    left_out = [o.opts for o in options if not any(f"  {flag}" in shown.stdout for flag in o.opts)]
    assert not left_out, "the help shows every option"
    assert shown.code == 0 and shown.stdout == srd("help", name).stdout
    _, _, examples = shown.stdout.partition("Examples:")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines and all(line.startswith("srd-rs ") for line in lines)
    for line in lines:
        words = shlex.split(line.split(" > ")[0].split(" >> ")[0])[1:]
        used = command_of(words[0])
        flags = {flag for p in used.params for flag in (*p.opts, *p.secondary_opts)}
        assert {w for w in words if w.startswith("-")} <= flags, line


def test_help_of_nothing_and_of_the_unknown() -> None:
    assert srd("help").stdout == srd().stdout == srd("--help").stdout
    run = srd("help", "paint")
    assert run.code == 2 and "srd-rs help lists the commands" in run.stderr


def test_defaults_are_shown() -> None:
    shown = " ".join(srd("convert", "--help").stdout.split())
    for text in ("[default: Q4_K_M]", "[default: provenance]", "[default: 512MiB]", "[default: met]"):
        assert text in shown


def test_version_has_a_short_form() -> None:
    assert srd("-V").stdout == srd("--version").stdout


def test_models() -> None:
    from srd_rs import families

    shown = srd("models").stdout
    assert all(name in shown for name in families.supported())
    rows = [line.split() for line in shown.splitlines()]
    assert ["gpt-oss", "GptOssForCausalLM", "yes"] in rows and ["arctic", "ArcticForCausalLM", "no"] in rows
    everything = srd("models", "--json").json
    assert (
        {"gpt-oss", "qwen35", "deepseek2"}
        <= set(everything["calibrated"])
        <= everything["architectures"].keys()
    )
    listed = everything["architectures"]
    assert set(families.supported()) | {"LlavaForConditionalGeneration"} <= set(everything["classes"])
    assert {"bin", "bare", "gptq", "fp8-block"} <= set(everything["inputs"])
    assert {"spm", "bpe", "unigram", "tekken"} <= set(everything["tokenizers"])
    assert {"Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"} <= set(listed["gemma4"])
    assert sorted(c for classes in listed.values() for c in classes) == families.supported()


def test_env_shows_no_secret(tmp_path: Path) -> None:
    secret = "ab" * 32
    env = {"SRD_MASTER_KEY": secret, "HF_TOKEN": "hf_secret", "SRD_MAX_ISA": "portable"}
    text, facts = srd("env", env=env).stdout, srd("env", "--json", env=env).json
    assert secret not in text + json.dumps(facts) and "hf_secret" not in text + json.dumps(facts)
    assert "SRD_MASTER_KEY (set)" in text
    assert facts["secrets_set"]["SRD_MASTER_KEY"] and facts["secrets_set"]["HF_TOKEN"]
    assert facts["used_instruction_set"] == "portable" and "portable (of" in text
    assert facts["memory_bytes"] > facts["available_memory_bytes"] > 0 and facts["disk_free_bytes"] > 0
    assert facts["packages"]["numpy"] and facts["packages"]["click"]
    program = tmp_path / "llama-cli"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = srd("env", "--json", env={"PATH": str(tmp_path)}).json["engines"]
    assert found["llama-cli"] == str(program) and found["ollama"] is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    run = srd("completion", shell)
    assert run.code == 0 and f"_SRD_RS_COMPLETE={shell}_complete" in run.stdout
    assert srd("completion", "tcsh").code == 2


def test_completion_works_in_bash(tmp_path: Path) -> None:
    """The script, sourced by a real shell, completes a command and an option."""
    program = tmp_path / "srd-rs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m srd_rs "$@"\n')
    program.chmod(0o755)
    script = tmp_path / "completion.bash"
    script.write_text(srd("completion", "bash").stdout)
    for words, wanted in (("srd-rs hydr", "hydrate"), ("srd-rs convert --calibrate-t", "--calibrate-tokens")):
        last = len(words.split()) - 1
        code = (
            f"source {script}; COMP_WORDS=({words}); COMP_CWORD={last}; compopt() {{ :; }};"
            f' _srd_rs_completion {program}; echo "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [wanted], done.stderr


@pytest.mark.parametrize("option", _FOREIGN_OPTIONS)
def test_options_of_other_tools(option: str) -> None:
    run = srd("convert", EXAMPLE, option, "x")
    assert run.code == 2 and _FOREIGN_OPTIONS[option] in run.stderr and run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("extra", "meant"),
    [
        (("x.gguf",), "-o x.gguf"),
        (("x.gguf", "q5_k_m"), "-o x.gguf -q q5_k_m"),
        (("Q8_0",), "-q Q8_0"),
        (("x.gguf", "Q8_0", "4"), "-o x.gguf -q Q8_0 --threads 4"),
    ],
)
def test_arguments_of_llama_quantize(extra: tuple[str, ...], meant: str) -> None:
    run = srd("convert", EXAMPLE, *extra)
    assert run.code == 2 and f"Write: {meant}" in run.stderr


@pytest.mark.parametrize(
    ("typed", "meant"), [("quantize", "convert"), ("doctor", "env"), ("show", "inspect")]
)
def test_commands_of_other_tools(typed: str, meant: str) -> None:
    run = srd(typed, "x")
    assert run.code == 2 and f"Use: srd-rs {meant}" in run.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("conver", "Did you mean 'convert'?"),
        ("path/to/model", "srd-rs convert path/to/model"),
        ("frobnicate", "srd-rs help lists the commands"),
    ],
)
def test_a_command_that_does_not_exist(typed: str, said: str) -> None:
    for args in ((typed,), ("help", typed)):
        run = srd(*args)
        assert run.code == 2 and f"No such command '{typed}'. " in run.stderr and said in run.stderr
        assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [("Q4_K", "write Q4_K_M"), ("iq1_s", "read, but not written"), ("q4km", "Did you mean Q4_K_M?")],
)
def test_a_mix_that_does_not_exist(typed: str, said: str) -> None:
    run = srd("convert", EXAMPLE, "-q", typed, "--dry-run")
    assert run.code == 2 and f"'{typed}' is not one of" in run.stderr and said in run.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("convert", "m", "--efort", "fast"), "No such option '--efort'. Did you mean --effort"),
        (("convert", "m", "--trgt-size", "1GB"), "Did you mean --target-size?"),
        (("push", "a/b", "f", "--to", "c"), "No such option '--to'. See srd-rs push --help"),
        (("resign", "m", "--old-key", "k"), "Did you mean --no-old-key or --old-key-file?"),
    ],
)
def test_an_option_that_does_not_exist(args: tuple[str, ...], said: str) -> None:
    run = srd(*args)
    assert run.code == 2 and said in run.stderr and "?)" not in run.stderr


def test_a_group_that_no_help_shows_is_refused() -> None:
    from srd_rs.cli.options import Option

    with pytest.raises(ValueError, match="no help would show the option"):
        Option(["--new"], group="Elsewhere")


def test_choices_are_on_one_line() -> None:
    assert "Choose from: bash, zsh, fish." in srd("completion").stderr
