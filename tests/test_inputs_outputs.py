"""What a conversion reads and writes: split and quantized GGUFs, unsound metadata, outputs that are inputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

import srd_rs
from srd_rs import errors

MODEL = Path(__file__).parent.parent / "examples" / "wiki-gemma4"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The example in BF16, in several parts."""
    folder = tmp_path_factory.mktemp("split")
    srd_rs.convert(MODEL, folder / "m.gguf", quant="BF16", split_max_size=2_000_000)
    found = sorted(folder.glob("m-*.gguf"))
    assert len(found) > 2
    return found


def tensors(path: Path) -> dict[str, bytes]:
    return {t.name: np.array(t.data).tobytes() for t in gguf.GGUFReader(path).tensors}


def test_all_parts_of_a_split_gguf_are_read(parts: list[Path], example_bf16: Path, tmp_path: Path) -> None:
    whole, joined, middle = (tmp_path / name for name in ("whole.gguf", "joined.gguf", "middle.gguf"))
    srd_rs.convert(example_bf16, whole, provenance=False, effort="fast")
    srd_rs.convert(parts[0], joined, provenance=False, effort="fast")
    srd_rs.convert(parts[1], middle, provenance=False, effort="fast")
    assert tensors(joined) == tensors(whole)
    assert joined.read_bytes() == middle.read_bytes()
    keys = {field.name for field in gguf.GGUFReader(joined).fields.values()}
    assert not any(key.startswith("split.") for key in keys)


def test_a_missing_part_is_named(parts: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copy(part, tmp_path)) for part in parts]
    copies[1].unlink()
    for read in (
        lambda: srd_rs.convert(copies[0], tmp_path / "out.gguf", effort="fast"),
        lambda: srd_rs.inspect(copies[0]),
    ):
        with pytest.raises(errors.ModelError, match=copies[1].name):
            read()


def test_inspect_counts_all_parts(parts: list[Path], example_bf16: Path) -> None:
    split, whole = srd_rs.inspect(parts[0]), srd_rs.inspect(example_bf16)
    assert [t.name for t in split.tensors] == [t.name for t in whole.tensors]


@pytest.mark.parametrize("link", ["itself", "hard", "folder"])
def test_an_input_is_never_replaced(example_bf16: Path, tmp_path: Path, link: str) -> None:
    model = Path(shutil.copy(example_bf16, tmp_path / "m.gguf"))
    before = model.read_bytes()
    output = model
    if link == "hard":
        output = tmp_path / "other.gguf"
        output.hardlink_to(model)
    elif link == "folder":
        (tmp_path / "linked").symlink_to(tmp_path)
        output = tmp_path / "linked" / "m.gguf"
    with pytest.raises(errors.UsageError, match="this run reads"):
        srd_rs.convert(model, output, overwrite=True, axm=False, met=False, effort="fast")
    assert model.read_bytes() == before


def test_a_shard_of_the_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    shard = next(model.glob("*.safetensors"))
    before = shard.read_bytes()
    for output in (shard, model / "config.json"):
        with pytest.raises(errors.UsageError, match="this run reads"):
            srd_rs.convert(model, output, overwrite=True, effort="fast")
    assert shard.read_bytes() == before


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    for name, message in [("dangling", "symbolic link"), ("link", "symbolic link")]:
        with pytest.raises(errors.UsageError, match=message):
            srd_rs.convert(MODEL, tmp_path / name, overwrite=True, effort="fast")
    with pytest.raises(errors.UsageError, match="a device"):
        srd_rs.convert(MODEL, "/dev/null", overwrite=True, effort="fast")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_quantized_input_is_refused(example_q4_k_m: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ModelError, match="quantized already"):
        srd_rs.convert(example_q4_k_m, tmp_path / "out.gguf", quant="Q6_K", effort="fast")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.scores", [1, 2, 3], "not an array of FLOAT32"),
        ("tokenizer.ggml.bos_token_id", 2**32 - 1, "there are .* tokens"),
        ("gemma4.block_count", 2**32 - 1, "block_count"),
        ("gemma4.attention.head_count", 0, "states no heads"),
    ],
)
def test_metadata_that_llama_cpp_cannot_load_are_refused(
    example_bf16: Path, tmp_path: Path, key: str, value: object, message: str
) -> None:
    reader = gguf.GGUFReader(example_bf16)
    writer = gguf.GGUFWriter(tmp_path / "bad.gguf", "gemma4")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", key):
            continue
        sub = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    if isinstance(value, list):
        writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8)
    else:
        writer.add_key_value(key, value, gguf.GGUFValueType.UINT32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(errors.ModelError, match=message):
        srd_rs.convert(tmp_path / "bad.gguf", tmp_path / "out.gguf", effort="fast")
