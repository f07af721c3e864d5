"""`srd_rs.open`: the tensors of every kind of file, against the bytes of the file and against gguf and safetensors."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors import safe_open

import srd_rs
from srd_rs.errors import FormatError, UsageError
from srd_rs.files import Axm, Checkpoint, Gguf
from support import EXAMPLE


@pytest.fixture(scope="module")
def opened(example_q4_k_m: Path) -> Gguf:
    file = srd_rs.open(example_q4_k_m)
    assert isinstance(file, Gguf)
    return file


def test_a_gguf_is_what_gguf_reads(opened: Gguf, example_q4_k_m: Path) -> None:
    reader = gguf.GGUFReader(example_q4_k_m)
    assert list(opened) == [t.name for t in reader.tensors] and len(opened) == len(reader.tensors)
    for theirs in reader.tensors:
        ours = opened[theirs.name]
        assert ours.type == theirs.tensor_type.name and ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert (ours.offset, ours.nbytes) == (theirs.data_offset, theirs.n_bytes)
        assert ours.raw.tobytes() == theirs.data.tobytes() and ours.raw.shape[0] == ours.rows
        expected = gguf.dequantize(theirs.data, theirs.tensor_type).reshape(ours.shape)
        assert np.allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_metadata_is_a_mapping(opened: Gguf, example_q4_k_m: Path) -> None:
    metadata = opened.metadata
    assert metadata["general.architecture"] == opened.architecture == "gemma4"
    tokens = gguf.GGUFReader(example_q4_k_m).fields["tokenizer.ggml.tokens"].contents()
    assert (
        metadata["tokenizer.ggml.tokens"] == tokens
        and metadata.kinds["tokenizer.ggml.tokens"] == "ARRAY[STRING]"
    )
    assert "general.name" in metadata and "nothing" not in metadata and dict(metadata)
    assert metadata.get("nothing") is None
    with pytest.raises(KeyError):
        metadata["nothing"]


def test_rows(opened: Gguf) -> None:
    with pytest.raises(KeyError, match="has no tensor 'nothing'"):
        opened["nothing"]
    tensor = opened["token_embd.weight"]
    whole = tensor.numpy()
    assert whole.shape == tensor.shape == (4096, 256) and whole.dtype == np.float32
    assert np.array_equal(tensor.numpy(rows=7), whole[7]) and np.array_equal(tensor.numpy(rows=-1), whole[-1])
    for rows in (slice(0, 64), slice(None, None, 100), slice(4000, 9999), slice(5, 5)):
        assert np.array_equal(tensor.numpy(rows=rows), whole[rows])
    for bad in (4096, -4097):
        with pytest.raises(UsageError, match="out of range"):
            tensor.numpy(rows=bad)
    vector = opened["output_norm.weight"]
    assert vector.rows == 1 and vector.numpy().shape == vector.shape == (256,)


def test_raw_is_a_view_and_read_only(opened: Gguf) -> None:
    tensor = opened["blk.0.attn_q.weight"]
    assert not tensor.raw.flags.writeable and not tensor.raw.flags.owndata
    assert np.shares_memory(tensor.raw, opened["blk.0.attn_q.weight"].raw)
    assert np.array_equal(srd_rs.dequantize(tensor.raw, tensor.type), tensor.numpy())


def test_a_checkpoint() -> None:
    file = srd_rs.open(EXAMPLE)
    assert isinstance(file, Checkpoint) and file.metadata["model_type"] == "gemma4_text"
    with safe_open(EXAMPLE / "model.safetensors", "numpy") as reader:
        assert set(file) == set(reader.keys())
        for name, tensor in file.items():
            assert tensor.shape == tuple(reader.get_slice(name).get_shape())
    raw = (EXAMPLE / "model.safetensors").read_bytes()
    tensor = file["model.embed_tokens.weight"]
    stored = np.frombuffer(raw[tensor.offset : tensor.offset + tensor.nbytes], "<u2")
    expected = (stored.astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    assert tensor.type == "BF16" and np.array_equal(tensor.numpy(), expected)
    single = srd_rs.open(EXAMPLE / "model.safetensors")
    assert list(single) == list(file) and dict(single.metadata) == {}


def test_types_of_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    values = np.arange(-6, 6).reshape(3, 4)
    kinds = ("float64", "float32", "float16", "int64", "int32", "int16", "int8")
    arrays = {kind: values.astype(kind) for kind in kinds} | {"u": np.abs(values).astype("uint8")}
    save_file(arrays | {"scalar": np.array(3.5, np.float32)}, tmp_path / "m.safetensors")
    file = srd_rs.open(tmp_path / "m.safetensors")
    for name, array in arrays.items():
        assert np.array_equal(file[name].numpy(), array.astype(np.float32)), name
    assert file["scalar"].numpy() == np.float32(3.5) and file["scalar"].shape == ()


def test_a_split_gguf(tmp_path: Path, opened: Gguf, example_q4_k_m: Path) -> None:
    srd_rs.convert(example_q4_k_m, tmp_path / "m.gguf", effort="fast", split_max_size=4_000_000, met=False)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    split = srd_rs.open(parts[0])
    assert len(parts) > 2 and {t.file for t in split.values()} == set(parts)
    assert list(split) == list(opened)
    assert all(split[name].raw.tobytes() == opened[name].raw.tobytes() for name in opened)


def test_a_container(tmp_path: Path, opened: Gguf) -> None:
    key = tmp_path / "key"
    srd_rs.keygen(key)
    report = srd_rs.pack(opened.path, tmp_path / "m.axm", key_file=key, effort="fast")
    file = srd_rs.open(tmp_path / "m.axm")
    assert isinstance(file, Axm) and report.container is not None
    assert file.metadata["fingerprint"] == report.container.fingerprint and file.metadata["arch"] == "gemma4"
    assert list(file) == list(opened)
    for name, tensor in file.items():
        assert tensor.type == opened[name].type and tensor.shape == opened[name].shape
        assert tensor.raw.tobytes() == opened[name].raw.tobytes(), name


def test_a_container_of_tensors_of_several_shards(tmp_path: Path) -> None:
    """A plane longer than a shard of 8 MiB has gaps in the file, and none in `raw`."""
    random = np.random.default_rng(1)
    values = random.normal(size=(4099, 1056)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "unheard-of")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.long.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    key = tmp_path / "key"
    srd_rs.keygen(key)
    srd_rs.pack(tmp_path / "m.gguf", tmp_path / "m.axm", quant="F32", key_file=key)
    tensor = srd_rs.open(tmp_path / "m.axm")["blk.0.long.weight"]
    assert len(tensor._runs) > 1 and np.array_equal(tensor.numpy(), values)
    assert not tensor.raw.flags.writeable and np.array_equal(tensor.numpy(rows=4098), values[4098])


def test_closing(example_q4_k_m: Path) -> None:
    with srd_rs.open(example_q4_k_m) as file:
        tensor = file["output_norm.weight"]
        kept = tensor.raw
    assert kept.sum() >= 0
    with pytest.raises(UsageError, match="closed"):
        tensor.numpy()


def test_a_file_that_shrinks_before_it_is_mapped(tmp_path: Path, example_q4_k_m: Path) -> None:
    data = example_q4_k_m.read_bytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    file = srd_rs.open(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match="shorter"):
        file[list(file)[-1]].numpy()


def test_what_is_no_file_of_tensors(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(UsageError, match="text file"):
        srd_rs.open(tmp_path / "text.txt")
    with pytest.raises(FileNotFoundError):
        srd_rs.open(tmp_path / "nothing")


def test_dequantizing_lets_other_threads_run(opened: Gguf) -> None:
    counted, stop = 0, threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1
            time.sleep(0)

    # No thread is interrupted, so the other thread only runs while `numpy` does not hold the interpreter's lock.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        before, end = counted, time.monotonic() + 60
        while counted == before and time.monotonic() < end:
            opened["token_embd.weight"].numpy()
        assert counted > before
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_short_texts(opened: Gguf) -> None:
    assert repr(opened) == f"<Gguf {opened.path.name}: 99 tensors, 13.2 M weights, 10.05 MB>"
    assert repr(opened["output_norm.weight"]) == "<Tensor 'output_norm.weight': F32 [256], 1.02 kB>"
    html = opened._repr_html_()
    assert html.startswith("<table>") and "<td>Q4_K</td>" in html
    assert len(repr(opened.metadata)) < 100
