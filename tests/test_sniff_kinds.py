"""Files under the name of a model that are something else: each is named, and only what is damaged is called so."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from srd_rs import errors, sniff
from srd_rs.checkpoint import Checkpoint
from support import EXAMPLE

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Login</title></head><body></body></html>" + b" " * 200


def tar(path: Path) -> bytes:
    with tarfile.open(path, "w") as file:
        file.add(EXAMPLE / "config.json", "config.json")
    return path.read_bytes()


def archive(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model.gguf", b"GGUF")
    return path.read_bytes()


def contents(scratch: Path) -> dict[str, tuple[bytes, str, str]]:
    """Name -> first bytes, kind, and words of the message."""
    gguf = [b"GGUF" + struct.pack("<IQQ", version, 0, 0) for version in (1, 4)]
    big_endian = b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    return {
        "page.gguf": (PAGE, "page", "a web page"),
        "page2.gguf": (b"\n\n  <HTML lang='en'>" + PAGE, "page", "a web page"),
        "error.gguf": (b"Entry not found", "text", "a text file"),
        "error.json.gguf": (b'{"error": "Repository not found"}', "json", "a JSON file"),
        "m.gguf.gz": (gzip.compress(b"GGUF"), "archive", "gzip"),
        "m.gguf.xz": (lzma.compress(b"GGUF"), "archive", "xz"),
        "m.gguf.zst": (b"\x28\xb5\x2f\xfd" + bytes(20), "archive", "zstd"),
        "m.zip": (archive(scratch / "z"), "archive", "zip"),
        "m.tar": (tar(scratch / "t"), "archive", "tar"),
        "m.ggml": (b"lmgg" + bytes(100), "old", "before GGUF"),
        "m.bin": (b"tjgg" + bytes(100), "old", "before GGUF"),
        "lora.bin": (b"algg" + bytes(100), "old", "LoRA"),
        "m.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "other", "TensorFlow"),
        "m.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(100), "other", "ONNX"),
        "m.npz": (archive(scratch / "n"), "other", "numpy"),
        "zeros.gguf": (bytes(4096), "zeros", "zeros"),
        "lfs.gguf": (LFS, "lfs", "Git LFS pointer"),
        "picture.gguf": (b"\x89PNG\r\n\x1a\n" + bytes(50), "unknown", "no format"),
        "program.gguf": (b"\x7fELF" + bytes(50), "unknown", "no format"),
        "v1.gguf": (gguf[0], "gguf", "version 1"),
        "v4.gguf": (gguf[1], "gguf", "version 4"),
        "big.gguf": (big_endian, "gguf", "big-endian"),
    }


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    from srd_rs import _core

    for name, (data, kind, words) in contents(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(data)
        assert sniff.identify(path).kind == kind, name
        for check in (sniff.check_model, sniff.check_inspectable, sniff.check_gguf):
            try:
                check(path)
                _core.read_gguf(path, 0)
            except errors.SrdError as error:
                assert words in str(error) or kind == "unknown", (name, error)
                assert kind == "unknown" or "damaged" not in str(error), (name, error)
            else:
                pytest.fail(name)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PAGE, "a web page"),
        (LFS, "Git LFS pointer"),
        (gzip.compress(bytes(100)), "gzip"),
        (bytes(4096), "zeros"),
    ],
    ids=["page", "pointer", "gzip", "zeros"],
)
def test_weights_that_are_something_else_are_named(tmp_path: Path, data: bytes, words: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(EXAMPLE, folder)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(errors.ModelError, match=f"model.safetensors is .*{words}"):
        sniff.check_model(folder)


def test_an_index_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(EXAMPLE, folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(LFS)
    sniff.check_model(folder)
    with pytest.raises(errors.ModelError, match="git lfs pull"):
        Checkpoint.open(folder)


def test_shards_that_an_earlier_save_left_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """model.safetensors counts before an index, as in transformers, even if files of the index are missing."""
    folder = tmp_path / "model"
    shutil.copytree(EXAMPLE, folder)
    plain = len(Checkpoint.open(folder).tensors)
    assert "not read" not in caplog.text
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"x": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    sniff.check_model(folder)
    assert len(Checkpoint.open(folder).tensors) == plain
    assert "model-00001-of-00002.safetensors" in caplog.text and "not read" in caplog.text


TINY = b"\x02\0\0\0\0\0\0\0{}"
ZIP = b"PK\x03\x04" + bytes(60)
XET = b"# xet version 0\nfilesize = 3\nhash = 'x'\n"
LORA = b'{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'
#: Name -> files of a folder, and words of the message: what people name in place of a model.
FOLDERS: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "LoRA": ({"adapter_config.json": LORA, "adapter_model.safetensors": TINY}, ("for 'org/base'", "--lora")),
    "LoRA with a tokenizer": ({"adapter_config.json": LORA, "tokenizer.json": b"{}"}, ("a LoRA adapter",)),
    "LoRA as a pickle": ({"adapter_config.json": LORA, "adapter_model.bin": ZIP}, ("a LoRA adapter", "--lora")),
    "IA3": ({"adapter_config.json": LORA.replace(b"LORA", b"IA3")}, ("'IA3' for 'org/base'", "Merge it")),
    "prompt tuning": ({"adapter_config.json": b'{"peft_type": "PROMPT_TUNING"}'}, ("'PROMPT_TUNING'",)),
    "a kind that is no text": ({"adapter_config.json": b'{"peft_type": 5}'}, ("of the kind 5",)),
    "no JSON": ({"adapter_config.json": b"{"}, ("a LoRA adapter",)),
    "MLX": (
        {"adapter_config.json": b'{"lora_parameters": {}, "model": "a/b"}', "adapters.npz": ZIP},
        ("an adapter of MLX for 'a/b'", "mlx_lm.fuse"),
    ),
    "weights of an adapter": ({"adapter_model.safetensors": TINY}, ("without adapter_config.json",)),
    "an adapter in a folder": ({"lora/adapter_config.json": LORA, "README.md": b"x"}, ("Name the folder 'lora'",)),
    "what a training saved": (
        {f"checkpoint-{n}/{f}": TINY for n in (500, 1500, 1000) for f in ("config.json", "model.safetensors")},
        ("it has no config.json", "Name the folder 'checkpoint-1500'"),
    ),
    "sentence-transformers of old": (
        {"modules.json": b"[]", "0_Transformer/config.json": b"{}", "0_Transformer/pytorch_model.bin": ZIP},
        ("Name the folder '0_Transformer'",),
    ),
    "DeepSpeed": ({"zero_to_fp32.py": b"x", "latest": b"x", "config.json": b"{}"}, ("DeepSpeed", "zero_to_fp32.py")),
    "DeepSpeed without its script": ({"global_step9/mp_rank_00_model_states.pt": ZIP}, ("DeepSpeed",)),
    "FSDP": ({"config.json": b"{}", "pytorch_model_fsdp_0/__0_0.distcp": ZIP}, ("distributed checkpoint", "merge-w")),
    "parts of DCP": ({".metadata": b"\x80\x04", "__0_0.distcp": ZIP}, ("distributed checkpoint",)),
    "Megatron": ({"latest_checkpointed_iteration.txt": b"9", "iter_9/x.pt": ZIP}, ("Megatron",)),
    "NeMo": ({"m.nemo": ZIP}, ("NeMo",)),
    "Diffusers": ({"model_index.json": b"{}", "unet/config.json": b"{}", "unet/x.safetensors": TINY}, ("Diffusers",)),
    "OpenVINO": ({"config.json": b"{}", "openvino_model.xml": b"<x/>", "openvino_model.bin": b"x"}, ("OpenVINO",)),
    "ONNX": ({"config.json": b"{}", "onnx/model.onnx": b"x"}, ("ONNX",)),
    "TensorFlow Lite": ({"config.json": b"{}", "m.tflite": b"x"}, ("TensorFlow Lite",)),
    "Core ML": ({"m.mlpackage/Manifest.json": b"{}"}, ("Core ML",)),
    "Keras": ({"config.json": b"{}", "model.weights.h5": b"x"}, ("TensorFlow",)),
    "Meta's own format": ({"params.json": b"{}", "consolidated.00.pth": ZIP}, ("that of Meta",)),
    "half a download": ({"config.json": b"{}", "model.safetensors.crdownload": b"x"}, ("not finished", "crdownload")),
    "half a download of aria2": ({"model.safetensors.aria2": b"x"}, ("not finished",)),
    "half a download of the hub": ({"config.json": b"{}", "ab12.incomplete": b"x"}, ("not finished",)),
    "a pointer of Xet": ({"config.json": b"{}", "model.safetensors": XET}, ("a pointer of Xet", "hf download")),
    "a tokenizer": ({"tokenizer.json": b"{}"}, ("it has no config.json",)),
    "nothing": ({}, ("it has no config.json", "Name a folder with config.json")),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_folder_is(tmp_path: Path, name: str) -> None:
    files, words = FOLDERS[name]
    for file, data in files.items():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    for check in (sniff.check_model, sniff.check_gguf):
        with pytest.raises(errors.SrdError) as caught:
            check(tmp_path)
        assert all(word in str(caught.value) for word in words), caught.value
        assert "damaged" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    """Of many folders in a folder, the first are looked into, and links are not followed."""
    for number in range(200):
        (tmp_path / f"x{number:03}").mkdir()
    (tmp_path / "a").symlink_to(EXAMPLE)
    (tmp_path / "b").symlink_to("b")
    (tmp_path / "c").mkdir(mode=0)
    with pytest.raises(errors.UsageError, match=r"Name a folder with config\.json"):
        sniff.check_model(tmp_path)


CUTS = (
    *(
        "m.gguf.part1of2",
        "m.gguf.part2of2",
        "m.gguf-split-a",
        "m.gguf-split-b",
        "m.gguf-split-ab",
        "m.gguf.split-aa",
    ),
    *("m.gguf.00", "m.gguf.01", "m.gguf.001", "m.gguf.partaa", "m.gguf.part-1", "m.gguf.part_0"),
)


@pytest.mark.parametrize("name", CUTS)
def test_a_piece_of_a_gguf_is_not_damaged(tmp_path: Path, example_bf16: Path, name: str) -> None:
    """How large files were put on the hub before GGUFs could be split. A whole GGUF may have any name."""
    whole = example_bf16.read_bytes()
    path = tmp_path / name
    for data in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
        path.write_bytes(data)
        for check in (sniff.check_model, sniff.check_inspectable, sniff.check_gguf):
            with pytest.raises(
                errors.ModelError, match=r"a piece of a GGUF.*Join all pieces.* m\.gguf\*"
            ) as caught:
                check(path)
            assert "damaged" not in str(caught.value)
    path.write_bytes(whole)
    assert sniff.identify(path).kind == "gguf"


@pytest.mark.parametrize("suffix", [".crdownload", ".aria2", ".part", ".incomplete", ".partial"])
def test_half_a_download_is_not_damaged(tmp_path: Path, example_bf16: Path, suffix: str) -> None:
    path = tmp_path / f"m.gguf{suffix}"
    whole = example_bf16.read_bytes()
    for data in (whole[:100_000], whole[100_000:], bytes(100)):
        path.write_bytes(data)
        thing = sniff.identify(path)
        assert thing.kind in ("incomplete", "zeros") and "damaged" not in thing.what
