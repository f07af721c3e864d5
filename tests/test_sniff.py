"""A wrong input is told what it is: one function recognizes things, in front of every reader."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import gguf
import pytest

from srd_rs import errors, sniff
from support import EXAMPLE, REPO, Run, srd

GOLDEN = REPO / "tests" / "data" / "axm" / "v1-2bit.axm"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def tiny_safetensors(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)


def tiny_gguf(path: Path, arch: str = "llama", kind: str | None = None) -> None:
    writer = gguf.GGUFWriter(path, arch)
    if kind:
        writer.add_type(kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def folder(root: Path, *files: str) -> Path:
    root.mkdir()
    for name in files:
        tiny_safetensors(root / name) if name.endswith(".safetensors") else (root / name).write_text("{}")
    return root


@pytest.fixture
def things(tmp_path: Path) -> dict[str, Path]:
    """kind -> a thing of that kind."""
    made: dict[str, Path] = {"checkpoint": EXAMPLE, "axm": GOLDEN}
    adapter = folder(tmp_path / "adapter", "adapter_model.safetensors", "config.json")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    made["adapter"] = adapter
    made["mistral"] = folder(tmp_path / "mistral", "params.json", "consolidated.00.pth", "tekken.json")
    made["pickle"] = folder(tmp_path / "pickles", "config.json", "pytorch_model-00001-of-00002.bin")
    made["weights"] = folder(tmp_path / "weights", "model.safetensors")
    made["incomplete"] = folder(tmp_path / "incomplete", "config.json", "tokenizer.json")
    made["ggufs"] = folder(tmp_path / "ggufs", "a.gguf", "b.gguf")
    made["folder"] = folder(tmp_path / "folder", "notes.txt")
    made["other"] = folder(tmp_path / "other", "config.json", "tf_model.h5")
    pointer = folder(tmp_path / "pointer", "config.json")
    (pointer / "model.safetensors").write_bytes(LFS)
    made["lfs"] = pointer
    parts = folder(tmp_path / "parts", "config.json", "model-00001-of-00003.safetensors")
    names = {f"t{i}": f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)}
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    made["parts"] = parts
    contents = {
        "key": b"5d" * 32 + b"\n",
        "text": b"once upon a time\n",
        "empty": b"",
        "json": b'{"a": 1}',
        "met": b'{"met_version": 1}',
        "unknown": b"\xff\xfe\x00\x01" * 50,
    }
    for kind, data in contents.items():
        made[kind] = tmp_path / f"{kind}.file"
        made[kind].write_bytes(data)
    made["safetensors"] = tmp_path / "x.safetensors"
    tiny_safetensors(made["safetensors"])
    for kind, (arch, general) in {
        "gguf": ("llama", None),
        "mmproj": ("clip", None),
        "imatrix": ("x", "imatrix"),
        "gguf-adapter": ("llama", "adapter"),
    }.items():
        made[kind] = tmp_path / f"{kind}.gguf"
        tiny_gguf(made[kind], arch, general)
    made["special"] = tmp_path / "pipe"
    os.mkfifo(made["special"])
    return made


def test_every_kind_is_recognized(things: dict[str, Path]) -> None:
    assert {kind: sniff.identify(path).kind for kind, path in things.items()} == {
        kind: kind for kind in things
    }


def test_a_device_does_not_block() -> None:
    assert sniff.identify(Path("/dev/zero")).kind == "special"


def refused(run: Run, code: int, *words: str) -> None:
    assert run.code == code, run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert all(word in run.stderr for word in words), run.stderr
    assert "damaged" not in run.stderr and "altered" not in run.stderr


def test_what_a_conversion_says(things: dict[str, Path], tmp_path: Path) -> None:
    """Models that cannot be converted: exit code 1. Things that are no models: a mistake of the call, exit code 2."""
    models = {
        "adapter": ("LoRA adapter for 'org/base'", "--lora ADAPTER"),
        "mistral": ("Mistral's own format",),
        "pickle": ("PyTorch pickles",),
        "lfs": ("Git LFS pointer", "git lfs pull"),
        "parts": ("lacks 2 of its weight files", "model-00002-of-00003.safetensors"),
        "mmproj": ("mmproj",),
        "incomplete": ("without weights",),
        "safetensors": ("Name the folder",),
    }
    for kind, words in models.items():
        refused(srd("convert", "--fast", things[kind], "-o", tmp_path / "o.gguf"), 1, *words)
    calls = {
        "key": ("master key file",),
        "text": ("text file",),
        "json": ("JSON file",),
        "axm": ("an .axm container", "srd-rs extract"),
        "imatrix": ("importance matrix", "--imatrix"),
        "ggufs": ("2 GGUF files", "a.gguf"),
        "folder": ("no config.json",),
        "special": ("a pipe",),
    }
    for kind, words in calls.items():
        refused(srd("convert", "--fast", things[kind], "-o", tmp_path / "o.gguf"), 2, *words)
    assert not (tmp_path / "o.gguf").exists()


def test_what_other_commands_say(things: dict[str, Path], tmp_path: Path) -> None:
    refused(srd("verify", things["gguf"]), 2, "this is a GGUF", "--axm")
    shutil.copy(GOLDEN, things["gguf"].with_suffix(".axm"))
    refused(srd("verify", things["gguf"]), 2, f"--axm {things['gguf'].stem}.axm")
    for command in ("verify", "extract", "inspect"):
        refused(srd(command, things["key"]), 2, "master key file")
    refused(srd("extract", things["checkpoint"]), 2, "a Hugging Face checkpoint")
    refused(srd("hydrate", things["axm"]), 2, "an .axm container")
    refused(srd("met", things["text"]), 2, "text file")
    refused(srd("met", things["special"]), 2, "a pipe")
    refused(srd("inspect", things["special"]), 2, "a pipe")
    refused(srd("inspect", things["adapter"]), 1, "LoRA adapter")


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (("convert", EXAMPLE, "--fast", "-o", "OUT", "--recipe"), "not a recipe"),
        (("plan", EXAMPLE, "--rates"), "not a file of rates"),
        (("card", "GGUF", "--report"), "not a report of scores"),
        (("bom", "GGUF", "--report"), "not a report of scores"),
        (("lora", "ADAPTER", "-o", "OUT", "--base"), "not the folder of a base model"),
    ],
)
def test_what_the_files_of_options_are(
    things: dict[str, Path], tmp_path: Path, command: tuple[object, ...], wanted: str
) -> None:
    """A file of an option that is something else is named, and what is said of it does not depend on its reader."""
    places = {"OUT": tmp_path / "o", "GGUF": things["gguf"], "ADAPTER": things["adapter"]}
    call = [places.get(str(part), part) for part in command]
    whats = {"key": "a master key file", "unknown": "of no format", "gguf": "a GGUF", "special": "a pipe"}
    for kind, what in whats.items():
        refused(srd(*call, things[kind]), 2, f"this is {what}" if kind != "unknown" else what, wanted)
    assert not (tmp_path / "o").exists()


def test_a_calibration_file_is_named(tmp_path: Path) -> None:
    calibration = tmp_path / "c.calib"
    made = srd("calibrate", EXAMPLE, "-o", calibration, "--text", "random", "--tokens", "64", "--ctx", "64")
    assert made.code == 0, made.stderr
    for command in ("inspect", "convert"):
        refused(srd(command, calibration), 2, "a calibration file", "--calibrate")


def test_one_exit_code_for_a_missing_input(tmp_path: Path) -> None:
    for command in ("convert", "inspect", "met", "hydrate", "verify", "extract", "pack"):
        refused(srd(command, tmp_path / "nowhere"), 1, "no such file or folder")


def test_a_container_with_broken_first_bytes_is_still_damaged(tmp_path: Path) -> None:
    broken = tmp_path / "m.axm"
    data = GOLDEN.read_bytes()
    broken.write_bytes(b"\x00" + data[1:])
    run = srd("verify", broken)
    assert run.code == 3 and "damaged or was altered" in run.stderr


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(errors.SrdFileNotFoundError) as raised:
        sniff.identify(tmp_path / "x")
    assert raised.value.filename == str(tmp_path / "x") and raised.value.errno == 2
