"""Options: one list of names, defaults and help; an option without effect is an error."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

import srd_rs
from srd_rs import ConvertOptions, SrdOptions, _core, effects, errors
from srd_rs.cli.convert import command
from srd_rs.options import MIXES
from support import EXAMPLE, REPO, srd

GOLDEN = REPO / "tests" / "data" / "axm" / "v1-2bit.axm"


def test_the_command_line_has_every_option() -> None:
    """Flags, help and defaults of `convert` are those of the fields."""
    parameters = {p.name: p for p in command.params}
    for field in fields(ConvertOptions):
        if field.name == "srd":
            assert {"beam_width", "dither_layers"} <= set(parameters)
            continue
        if field.name == "exact_types":  # a recipe file, --recipe, says them
            assert "recipe" in parameters
            continue
        option = parameters[field.name]
        assert field.metadata["help"] in option.help  # type: ignore[attr-defined]
        assert field.metadata["help"].endswith(".") and field.metadata["group"] == option.group  # type: ignore[attr-defined]
    shown = srd("convert", "--help").stdout
    assert "<=" not in shown and all(f"\n{group}:" in shown for group in ("Output", "Quality", "Container"))
    assert all(mix in shown for mix in MIXES)


def test_python_shows_every_option() -> None:
    for function in (srd_rs.convert, srd_rs.plan):
        parameters = inspect.signature(function).parameters
        assert {f.name for f in fields(ConvertOptions)} <= set(parameters)
        assert parameters["quant"].default == _core.DEFAULT_MIX
        assert "Mix of tensor types" in (function.__doc__ or "")


def test_the_lists_are_those_of_the_core() -> None:
    """No Python file of the package writes the mixes, the intents or the parts of a sidecar again."""
    lists = (list(MIXES), _core.INTENTS, [p for p in _core.PARTS if p not in ("embedding", "tables")])
    for path in (REPO / "python" / "srd_rs").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for names in lists:
            assert not all(re.search(rf"['\"]{name}['\"]", text) for name in names), path


WITHOUT_EFFECT = {
    "--fast --beam-width 8": "--beam-width",
    "--fast --dither-layers 40-77": "--dither-layers",
    "--fast --calibrate-tokens 100": "--calibrate-tokens",
    "--fast --calibrate-block 256": "--calibrate-block",
    "--fast --weigh-tokens": "--weigh-tokens",
    "--effort max --no-weigh-tokens": "--weigh-tokens",
    "-q F16 --beam-width 8": "--beam-width",
    "--no-axm --key-file nowhere": "--key-file",
    "--no-axm --sign-key nowhere": "--sign-key",
    "--no-axm --residual-bits 3": "--residual-bits",
    "--no-axm --residual-bits 2": "--residual-bits",
    "--no-axm --axm-output x.axm": "--axm-output",
    "--fast --no-axm --no-provenance --seed 3": "--seed",
    "--effort srd -q F16": "--effort",
    "--effort srd -q BF16": "--effort",
    "-q F16 --calibrate random": "--calibrate",
    "-q F32 --pure": "--pure",
    "--tensor-type nothing=Q6_K": "finds no tensor",
    "--tensor-type norm=Q6_K": "decides the type of no tensor",
    "--tensor-type ffn=Q4_K --tensor-type ffn_down=Q6_K": "'ffn_down' decides the type of no tensor",
    "--tensor-type ^token_embd=Q4_K --token-embedding-type Q6_K": "decides the type of no tensor",
}


@pytest.mark.parametrize("arguments", WITHOUT_EFFECT)
def test_an_option_without_effect_is_an_error(arguments: str, tmp_path: Path) -> None:
    run = srd("convert", EXAMPLE, "-o", tmp_path / "o.gguf", *arguments.split())
    assert run.code == 2 and WITHOUT_EFFECT[arguments] in run.stderr, run.stderr
    assert run.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "c.calib"
    imatrix = path.with_name("i.gguf")
    srd_rs.calibrate(EXAMPLE, path, text="random", tokens=64, ctx=64, imatrix=imatrix)
    return path


def test_options_beside_a_calibration_file(calibration: Path, tmp_path: Path) -> None:
    common = ("convert", EXAMPLE, "-o", tmp_path / "o.gguf", "--calibrate", calibration, "--dry-run")
    for extra in (("--calibrate-tokens", 9), ("--calibrate-block", 256)):
        run = srd(*common, *extra)
        assert run.code == 2 and "measured already" in run.stderr
    run = srd(*common, "--imatrix", calibration.with_name("i.gguf"))
    assert run.code == 2 and "--imatrix" in run.stderr
    assert srd(*common).code == 0 and srd(*common, "--effort", "fast").code == 0


def test_srd_with_an_imatrix_is_refused(calibration: Path, tmp_path: Path) -> None:
    """It wrote the plain search and signed it as SRD."""
    imatrix = calibration.with_name("i.gguf")
    run = srd("convert", EXAMPLE, "--effort", "srd", "--imatrix", imatrix, "-o", tmp_path / "o.gguf")
    assert run.code == 2 and "diagonal" in run.stderr and list(tmp_path.iterdir()) == []
    with pytest.raises(errors.UsageError, match="diagonal"):
        srd_rs.plan(EXAMPLE, effort="srd", imatrix=imatrix)


def test_the_method_is_what_ran(calibration: Path, tmp_path: Path) -> None:
    """Bytes differ exactly where the recorded method differs."""
    outputs = {}
    for name, arguments in {
        "search": ("--fast",),
        "weighed": ("--fast", "--calibrate", calibration),
        "srd": ("--calibrate", calibration),
    }.items():
        run = srd("convert", EXAMPLE, "-o", tmp_path / f"{name}.gguf", "--no-axm", "--json", *arguments)
        assert run.code == 0, run.stderr
        metadata = srd("inspect", tmp_path / f"{name}.gguf", "--metadata", "--json").json["metadata"]
        recorded = next(entry["value"] for entry in metadata if entry["key"] == "srd.method")
        assert recorded == run.json["method"] == ("srd" if name == "srd" else "search")
        outputs[name] = (tmp_path / f"{name}.gguf").read_bytes()
    assert len(set(outputs.values())) == 3


def test_options_of_a_gguf(tmp_path: Path) -> None:
    srd_rs.convert(EXAMPLE, tmp_path / "f16.gguf", quant="F16", met=False)
    for extra in (("--name", "x"), ("--pre-tokenizer", "gpt-2")):
        run = srd("convert", tmp_path / "f16.gguf", "-o", tmp_path / "o.gguf", *extra)
        assert run.code == 2 and extra[0] in run.stderr and "the metadata of a GGUF is kept" in run.stderr


def test_tensor_types_work_with_plain_mixes(tmp_path: Path) -> None:
    for mix in ("BF16", "F16", "F32"):
        planned = srd_rs.plan(
            EXAMPLE, tmp_path / "o.gguf", quant=mix, tensor_types=["ffn_down=Q8_0"], effort="fast"
        )
        types = {t.name: t.type for t in planned.tensors}
        assert types["blk.0.ffn_down.weight"] == "Q8_0" and types["blk.0.ffn_up.weight"] == mix
    report = srd_rs.convert(
        EXAMPLE, tmp_path / "o.gguf", quant="F16", tensor_types=["attn_q=Q6_K"], met=False, effort="fast"
    )
    kinds = {t.name: t.type for t in srd_rs.inspect(report.output).tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q6_K"


def test_a_quantized_gguf_is_quantized_again_only_where_that_is_allowed(
    tmp_path: Path, example_q4_k_m: Path
) -> None:
    common = (
        "convert", "--fast", example_q4_k_m, "-q", "Q5_K_M", "-o", tmp_path / "o.gguf", "--no-axm", "--no-met"
    )  # fmt: skip
    run = srd(*common)
    assert run.code != 0 and "--allow-requantize" in run.stderr and list(tmp_path.iterdir()) == []
    run = srd(*common, "--allow-requantize", "--json")
    assert run.code == 0, run.stderr
    assert len(run.json["warnings"]) == 1 and "quantized again" in run.json["warnings"][0]
    metadata = srd("inspect", tmp_path / "o.gguf", "--metadata", "--json").json["metadata"]
    assert any(entry["key"] == "srd.requantized" and entry["value"] > 0 for entry in metadata)
    # Whoever gets the file has to know of the loss, so the number is there without provenance, and stays in copies.
    plain = ("--fast", "-q", "Q5_K_M", "--no-axm", "--no-met", "--no-provenance")
    again = ("convert", example_q4_k_m, *plain, "-o", tmp_path / "n.gguf", "--allow-requantize")
    assert srd(*again).code == 0
    assert srd("convert", tmp_path / "n.gguf", *plain, "-o", tmp_path / "c.gguf").code == 0
    for name in ("n.gguf", "c.gguf"):
        metadata = srd("inspect", tmp_path / name, "--metadata", "--json").json["metadata"]
        keys = {entry["key"]: entry["value"] for entry in metadata if entry["key"].startswith("srd.")}
        assert set(keys) == {"srd.requantized"} and keys["srd.requantized"] > 0, name
    run = srd("convert", EXAMPLE, "-o", tmp_path / "p.gguf", "--allow-requantize")
    assert run.code == 2 and "--allow-requantize" in run.stderr


def test_an_imatrix_that_lacks_tensors_is_one_warning(calibration: Path, tmp_path: Path) -> None:
    """One line with names and a count, and in `--json` too."""
    import gguf

    whole = gguf.GGUFReader(calibration.with_name("i.gguf"))
    part = gguf.GGUFWriter(tmp_path / "part.gguf", arch="")
    part.kv_data[0].pop("general.architecture", None)
    part.add_type("imatrix")
    part.add_array("imatrix.datasets", ["x"])
    part.add_uint32("imatrix.chunk_count", 1)
    part.add_uint32("imatrix.chunk_size", 64)
    for tensor in whole.tensors:
        if ".ffn_down." not in tensor.name:
            part.add_tensor(tensor.name, tensor.data)
    part.write_header_to_file()
    part.write_kv_data_to_file()
    part.write_tensors_to_file()
    part.close()
    common = ("convert", EXAMPLE, "--imatrix", tmp_path / "part.gguf", "-o", tmp_path / "o.gguf", "--dry-run")
    run = srd(*common)
    assert run.code == 0 and run.stderr.count("\n") == 1 and run.stderr.startswith("warning: "), run.stderr
    assert "ffn_down" in run.stderr and "lacks" in run.stderr
    assert len(srd(*common, "--json").json["warnings"]) == 1


OTHER_COMMANDS = {
    "verify {axm} --no-key --key-file k": "--key-file",
    "verify {axm} --no-key --sign-key k": "--sign-key",
    "extract {axm} --no-key --alpha 0.5": "--alpha",
    "extract {axm} --no-key --key-file k": "--key-file",
    "met {axm} --fingerprint 00": "--fingerprint",
    "met {gguf} --check --slots early=0-1": "--slots",
    "met {gguf} --check --plot x.png": "--plot",
    "met {gguf} -f": "--overwrite",
    "eval {gguf} -f {gguf} --overwrite": "--overwrite",
    "calibrate {model} -o c --seed 3": "--seed",
    "resign {axm} -o x.axm --no-old-key --old-key-file k": "--old-key-file",
    "hydrate {gguf} --lock": "--intent",
    "convert {gguf} -o o.gguf --mtp": "--mtp",
    "convert {gguf} -o o.gguf --no-mtp": "--mtp",
    "convert {gguf} -o o.gguf --mmproj": "no projector",
    "convert {gguf} -o o.gguf --mmproj-only": "no projector",
    "convert {gguf} -o o.gguf --mmproj-type BF16": "--mmproj-type",
    "convert {gguf} -o o.gguf --lora x": "--lora",
    "convert {gguf} -o o.gguf --stream": "--stream",
    "convert {model} -o o.gguf --mmproj-type BF16": "--mmproj-type",
    "convert {model} -o o.gguf --mmproj": "no projector",
    "convert {model} -o o.gguf --stream": "--stream",
    "convert {model} -o o.gguf --ctx 100": "--ctx",
    "convert {model} -o o.gguf --types Q4_K": "--types",
    "convert {model} -o o.gguf --target-size 3MB --pure": "--pure",
    "convert {model} -o o.gguf --like Q4_0 -q Q6_K": "--quant",
    "pack {model} -o o.axm --fast --mmproj-type BF16": "--mmproj-type",
    "pack {model} -o o.axm --fast --calibrate-tokens 50": "--calibrate-tokens",
    "plan {model} --network-rate 1GB": "--network-rate",
    "plan {model} --stream": "--stream",
    "plan {model} --fast --calibrate-tokens 50": "--calibrate-tokens",
    "eval {gguf} -f {gguf} --prompt hi": "--prompt",
    "eval {gguf} -f {gguf} --predict 5": "--predict",
    "eval {gguf} -f {gguf} --mmproj x.gguf": "--mmproj",
    "met {gguf} --ram 5GB": "--ram",
    "met {gguf} --vram 5GB": "--vram",
    "met {gguf} --ctx 50": "--ctx",
    "met {gguf} --ram-bandwidth 5GB": "--ram-bandwidth",
    "met {gguf} --check --no-digest": "--no-digest",
    "met {gguf} --for ollama --ram 5GB --vram-bandwidth 9GB": "--vram-bandwidth",
    "met {gguf} --for ollama --ram 5GB -o x.json": "--output",
    "inspect {model}/model.safetensors --metadata": "--metadata",
    "extract {axm} --no-key --safetensors --tensor-type ffn=Q6_K": "--tensor-type",
    "extract {axm} --no-key -q Q8_0 --tensor-type nothing=Q6_K": "finds no tensor",
    "extract {axm} --no-key -q Q8_0 --tensor-type norm=Q6_K": "decides the type of no tensor",
    "resign {axm} -o x.axm --no-old-key --drop-signature --sign-key k": "--drop-signature",
    "verify {axm} --no-key --from {model}": "--from",
    "verify {axm} --no-key --calibrate random": "--calibrate",
    "verify {axm} --no-key --lora k": "--lora",
    "verify {axm} --no-key --imatrix k": "--imatrix",
    "verify {axm} --no-key --trust-root k": "--trust-root",
    "verify {axm} --no-key --ignore-unsigned": "--ignore-unsigned",
    "verify {axm} --no-key --overwrite": "--overwrite",
    "verify {axm} --no-key --no-cache": "--no-cache",
}


@pytest.mark.parametrize("arguments", OTHER_COMMANDS)
def test_other_commands(arguments: str, tmp_path: Path, example_q4_k_m: Path) -> None:
    axm = shutil.copy(GOLDEN, tmp_path / "m.axm")
    filled = [part.format(axm=axm, gguf=example_q4_k_m, model=EXAMPLE) for part in arguments.split()]
    run = srd(*filled, cwd=tmp_path)
    assert run.code == 2 and OTHER_COMMANDS[arguments] in run.stderr, run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["m.axm"]


def test_what_differs_from_the_defaults() -> None:
    assert effects.given(ConvertOptions()) == set()
    options = ConvertOptions(srd=SrdOptions(beam_width=2), axm=True, threads=3)
    assert effects.given(options) == {"srd", "axm", "threads"}


def test_json_of_a_dry_run_names_what_is_planned(tmp_path: Path) -> None:
    data = json.loads(srd("convert", EXAMPLE, "-o", tmp_path / "o.gguf", "--dry-run", "--json").stdout)
    assert {"name", "shape", "type", "source_types", "file", "offset", "bytes"} == set(data["tensors"][0])
    assert data["warnings"] == []
