"""The types of ggml that are read and not written: IQ1_S, IQ1_M, NVFP4, Q1_0 and Q2_0."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import ggml
import srd_rs
from quantizers import ISAS, dequantize, dequantize_on
from srd_rs import _core
from srd_rs.errors import FormatError, ModelError, NonFiniteError, UsageError
from support import EXAMPLE, srd

READ_ONLY = sorted(set(_core.readable_types()) - set(_core.quantizable_types()))
ROWS, COLUMNS = 4, 512

needs_ggml = pytest.mark.usefixtures("ggml_library")


def random_blocks(kind: str, scales: bool = True) -> ggml.Bytes:
    """Blocks of any bits. Without `scales` the f16 scales are 1, so that all values are finite."""
    _, length, size = ggml.TYPES[kind]
    blocks = np.random.default_rng(5).integers(0, 256, (ROWS, COLUMNS // length, size), np.uint8)
    if not scales and kind == "IQ1_M":
        # The high nibbles of the last four words are the scale: 0x3C00 from the lowest nibble up.
        blocks[..., 49::2] = blocks[..., 49::2] & 15 | np.array([0x00, 0x00, 0xC0, 0x30], np.uint8)
    elif not scales and kind != "NVFP4":
        blocks[..., :2] = (0x00, 0x3C)
    return blocks.reshape(ROWS, -1)


def gguf_of(path: Path, kind: str, columns: int, data: bytes) -> Path:
    """A GGUF with one matrix of four rows, written byte by byte: the package gguf does not know every type."""
    number = ggml.TYPES[kind][0]

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    out = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    out += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    out += text("llama.block_count") + struct.pack("<II", 4, 1)
    out += text("blk.0.ffn_up.weight") + struct.pack("<IQQIQ", 2, columns, ROWS, number, 0)
    path.write_bytes(out + b"\0" * (-len(out) % 32) + data + b"\0" * (-len(data) % 32))
    return path


def test_the_types_are_these() -> None:
    assert READ_ONLY == ["IQ1_M", "IQ1_S", "NVFP4", "Q1_0", "Q2_0"]


@needs_ggml
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", READ_ONLY)
def test_any_bytes_are_read_to_the_bit_as_ggml_reads_them(kind: str, isa: str) -> None:
    blocks = random_blocks(kind)
    theirs = ggml.dequantize(kind, blocks)
    for ours in (dequantize(blocks, kind), dequantize_on(isa, kind, blocks)):
        finite = np.isfinite(theirs)
        assert finite.mean() > 0.9 and np.array_equal(np.isfinite(ours), finite)
        assert np.array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))


@needs_ggml
def test_every_scale_of_nvfp4() -> None:
    blocks = np.zeros((1, 64, 36), np.uint8)
    blocks[0, :, :4] = np.arange(256, dtype=np.uint8).reshape(64, 4)
    blocks[0, :, 4:] = np.tile(np.arange(16, dtype=np.uint8) * 17, 2)
    theirs = ggml.dequantize("NVFP4", blocks.reshape(1, -1))
    assert np.array_equal(dequantize(blocks.reshape(1, -1), "NVFP4").view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("kind", READ_ONLY)
def test_a_gguf_of_the_type_is_an_input(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, scales=False)
    wanted = dequantize(blocks, kind)
    assert np.isfinite(wanted).all() and np.unique(wanted).size > 1
    path = gguf_of(tmp_path / "m.gguf", kind, COLUMNS, blocks.tobytes())
    tensor = srd_rs.open(path)["blk.0.ffn_up.weight"]
    assert tensor.type == kind and np.array_equal(tensor.numpy(), wanted)
    assert np.array_equal(tensor.numpy(rows=2), wanted[2])
    shown = srd("inspect", path, "--tensors", "--json")
    assert shown.code == 0 and [t["type"] for t in shown.json["tensors"]] == [kind]
    output = tmp_path / "f32.gguf"
    with pytest.raises(ModelError, match="allow-requantize"):
        srd_rs.convert(path, output, quant="F32", met=False)
    key = tmp_path / "key"
    srd_rs.keygen(key)
    srd_rs.convert(path, output, quant="F32", axm=True, key_file=key, allow_requantize=True)
    assert np.array_equal(srd_rs.open(output)["blk.0.ffn_up.weight"].numpy(), wanted)
    run = srd("verify", output, "--axm", output.with_suffix(".axm"), "--key-file", key, "--json")
    assert run.code == 0, run.stderr


@pytest.mark.parametrize("kind", READ_ONLY)
def test_the_type_is_not_written(kind: str) -> None:
    with pytest.raises(UsageError, match="cannot be quantized"):
        srd_rs.quantize(np.ones((2, 512), np.float32), kind)
    with pytest.raises(UsageError, match=r"can write|is not one of"):
        srd_rs.plan(EXAMPLE, tensor_types=[f"ffn={kind}"])


@pytest.mark.parametrize("kind", READ_ONLY)
def test_damaged_files_are_refused(kind: str, tmp_path: Path) -> None:
    _, length, size = ggml.TYPES[kind]
    blocks = random_blocks(kind, scales=False)
    odd = gguf_of(tmp_path / "odd.gguf", kind, length + length // 2, blocks[:, : 2 * size].tobytes())
    short = gguf_of(tmp_path / "short.gguf", kind, COLUMNS, blocks.tobytes()[:-32])
    for path in (odd, short):
        with pytest.raises(FormatError):
            srd_rs.inspect(path)
        with pytest.raises(FormatError):
            srd_rs.convert(path, tmp_path / "o.gguf", quant="F32", allow_requantize=True)
    if kind != "NVFP4":  # whose scales are finite whatever their bits
        broken = random_blocks(kind, scales=False).reshape(ROWS, -1, size)
        broken[2, 0, 49::2] |= 0xF0
        broken[2, 0, :2] = (0xFF, 0x7F) if kind != "IQ1_M" else broken[2, 0, :2]
        path = gguf_of(tmp_path / "nan.gguf", kind, COLUMNS, broken.tobytes())
        with pytest.raises(NonFiniteError, match="ffn_up"):
            srd_rs.convert(path, tmp_path / "o.gguf", quant="F32", allow_requantize=True)
    assert not (tmp_path / "o.gguf").exists()
