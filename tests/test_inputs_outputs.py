"""What a conversion reads and writes: split and quantized GGUFs, unsound metadata, outputs that are inputs."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import gguf
import jsonschema
import numpy as np
import pytest

import srd_rs
from srd_rs import errors, hydration
from support import EXAMPLE as MODEL
from support import REPO, bugs_folder, srd


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The example in BF16, in several parts."""
    folder = tmp_path_factory.mktemp("split")
    srd_rs.convert(MODEL, folder / "m.gguf", quant="BF16", split_max_size=2_000_000, effort="fast")
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
        lambda: srd_rs.met(copies[2]),
        lambda: srd_rs.Hydrator(copies[0]),
    ):
        with pytest.raises(errors.ModelError, match=copies[1].name):
            read()


def test_inspect_names_the_file_of_each_tensor(parts: list[Path]) -> None:
    found = srd_rs.inspect(parts[1])
    assert {tensor.file for tensor in found.tensors} == {part.name for part in parts}
    for part in parts:
        own = {t.name: int(t.data_offset) for t in gguf.GGUFReader(part).tensors}
        assert own == {tensor.name: tensor.offset for tensor in found.tensors if tensor.file == part.name}


def test_a_sidecar_describes_all_parts(parts: list[Path], tmp_path: Path) -> None:
    """The ranges of a slot hold its tensors, in the file that each range names, and cover every byte once."""
    copies = [Path(shutil.copy(part, tmp_path)) for part in parts]
    sidecar = srd_rs.met(copies[1], hydration.sidecar_path(copies[1]))
    assert hydration.sidecar_path(copies[1]) == copies[0].with_suffix(".met.json")
    jsonschema.validate(sidecar, json.loads((REPO / "docs" / "met.schema.json").read_text()))
    files = [sidecar["file"], *sidecar["more_files"]]
    assert [file["name"] for file in files] == [copy.name for copy in copies]
    assert [file["sha256"] for file in files] == [sha256(copy.read_bytes()).hexdigest() for copy in copies]
    parts_of = {part: hydration.part_of(sidecar, part) for part in hydration.PARTS}
    names = {tensor.name for copy in copies for tensor in gguf.GGUFReader(copy).tensors}
    tables = {"per_layer_token_embd.weight"} | ({"token_embd.weight"} if "output.weight" in names else set())
    covered: dict[int, list[tuple[int, int]]] = {number: [] for number in range(len(files))}
    for name, part in parts_of.items():
        for run in part["byte_ranges"]:
            covered[run.get("file", 0)].append((run["offset"], run["offset"] + run["bytes"]))
        for number, copy in enumerate(copies):
            inside = [
                (run["offset"], run["offset"] + run["bytes"])
                for run in part["byte_ranges"]
                if run.get("file", 0) == number
            ]
            for tensor in gguf.GGUFReader(copy).tensors:
                layer = re.match(r"blk\.(\d+)\.", tensor.name)
                owner = sidecar["chunk_map"][layer[1]] if layer else "embedding"
                owner = "tables" if tensor.name in tables else owner
                begin, end = int(tensor.data_offset), int(tensor.data_offset + tensor.n_bytes)
                assert (owner == name) == any(a <= begin and end <= b for a, b in inside), tensor.name
    for number, copy in enumerate(copies):
        runs = sorted(covered[number])
        assert runs[0][0] == 0 and runs[-1][1] == copy.stat().st_size
        assert all(a[1] == b[0] for a, b in itertools.pairwise(runs))
    needed = sidecar["intent_ram_budget"]["HARM"]["bytes"]
    assert needed + sidecar["tables"]["bytes"] == sum(copy.stat().st_size for copy in copies)
    hydration.check(copies[2])
    with srd_rs.Hydrator(copies[1]) as hydrator:
        assert hydrator.sidecar == sidecar
        done = hydrator.hydrate("HARM")
        assert done.hydrated_bytes == done.wanted_bytes
        assert 0 <= done.wanted_bytes - needed < 2 * len(copies) * mmap.PAGESIZE  # whole pages
    with copies[1].open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(errors.ModelError, match=f"SHA-256 of .*{copies[1].name}"):
        hydration.check(copies[0])


def test_a_split_output_has_one_sidecar_and_one_container(tmp_path: Path) -> None:
    """What convert writes for a split output is what met measures, from the files and from the container."""
    (tmp_path / "k").write_text("5d" * 32)
    (tmp_path / "k").chmod(0o600)
    options = {"effort": "fast", "split_max_size": 2_000_000, "axm": True, "key_file": tmp_path / "k"}
    report = srd_rs.convert(MODEL, tmp_path / "m.gguf", quant="BF16", **options)
    assert report.sidecar == hydration.sidecar_path(report.outputs[0])
    written = json.loads(report.sidecar.read_text())
    assert srd_rs.met(tmp_path / "m.axm") == written
    assert srd_rs.met(report.outputs[1], digest=False, fingerprint=written["fingerprint"]) == written
    for part in report.outputs:
        assert srd_rs.verify(part, container=tmp_path / "m.axm", key_file=tmp_path / "k").verified
    report.outputs[1].rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(errors.ModelError, match=r"m-00002-of-.*part 2 of \d+ of the split GGUF is missing"):
        srd_rs.verify(report.outputs[0], container=tmp_path / "m.axm", key_file=tmp_path / "k")


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


V = gguf.GGUFValueType
#: Key, value, type, type of an array's elements, and words of the message. llama.cpp does not load such a file.
UNLOADABLE = (
    ("tokenizer.ggml.model", "magic", V.STRING, None, "unknown"),
    ("tokenizer.ggml.model", "gpt2", V.STRING, None, "no merges"),
    ("tokenizer.ggml.eos_token_id", 2, V.INT32, None, "not a token id"),
    ("tokenizer.ggml.eos_token_id", 2, V.UINT64, None, "not a token id"),
    ("tokenizer.ggml.add_bos_token", "true", V.STRING, None, "not BOOL"),
    ("tokenizer.ggml.add_bos_token", 1, V.UINT32, None, "not BOOL"),
    ("tokenizer.ggml.add_space_prefix", 1, V.UINT8, None, "not BOOL"),
    ("tokenizer.ggml.token_type_count", "x", V.STRING, None, "not UINT32"),
    ("general.name", 5, V.UINT32, None, "not a string"),
    ("llama.context_length", 512, V.UINT64, None, "not a count"),
    ("llama.rope.scaling.type", 5, V.UINT32, None, "not a string"),
    ("llama.rope.scaling.type", "magic", V.STRING, None, "not one of none"),
    ("llama.attention.layer_norm_rms_epsilon", 1e-5, V.FLOAT64, None, "not FLOAT32"),
    ("llama.attention.head_count_kv", [1], V.ARRAY, V.UINT32, "1 values for 2 layers"),
    ("llama.feed_forward_length", [64] * 9, V.ARRAY, V.UINT32, "9 values for 2 layers"),
    ("llama.attention.causal", "no", V.STRING, None, "not BOOL"),
    ("llama.expert_count", 2**31, V.UINT32, None, "more than 1024"),
    ("llama.block_count", 1, V.UINT32, None, "1 layers, but a tensor"),
    ("tokenizer.ggml.model", "bert", V.STRING, None, "but there are byte tokens"),
    ("tokenizer.ggml.model", "hybriddna", V.STRING, None, "no merges"),
    ("tokenizer.ggml.suppress_tokens", "x", V.STRING, None, "not an array"),
    ("llama.embedding_length", 128, V.UINT32, None, "token_embd.weight' has the shape"),
    ("llama.feed_forward_length", 63, V.UINT32, None, "ffn_gate.weight' has the shape"),
    ("llama.feed_forward_length", 64, V.UINT64, None, "not a count"),
    ("llama.attention.head_count", 4, V.UINT32, None, "attn_q.weight' has the shape"),
    ("llama.attention.head_count", 2**32 - 1, V.UINT32, None, "attn_q.weight' has the shape"),
    ("llama.attention.head_count", 2, V.INT32, None, "not a count"),
    ("llama.attention.head_count_kv", 2, V.UINT32, None, "attn_k.weight' has the shape"),
    ("llama.attention.head_count_kv", None, V.UINT32, None, "attn_k.weight' has the shape"),
    ("llama.attention.key_length", 32, V.UINT32, None, "rope.dimension_count' is 16"),
    ("llama.attention.key_length", None, V.UINT32, None, "rope.dimension_count' is 16"),
    ("llama.attention.value_length", 8, V.UINT32, None, "attn_v.weight' has the shape"),
    ("llama.attention.value_length", None, V.UINT32, None, "attn_v.weight' has the shape"),
    ("llama.rope.dimension_count", 8, V.UINT32, None, "a head has 16 values"),
    ("llama.vocab_size", 4096, V.INT32, None, "not a count"),
    ("llama.nextn_predict_layers", 9, V.UINT32, None, "but there are"),
    ("general.file_type", 1, V.INT32, None, "not UINT32"),
)


def edited(source: Path, target: Path, key: str, value: Any, kind: V, element: V | None) -> None:
    """Write a GGUF again with another value of a key; None removes the key."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", key):
            sub = field.types[-1] if field.types[0] == V.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    if value is not None:
        writer.add_key_value(key, value, kind, element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def plain_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.gguf"
    srd_rs.convert(bugs_folder() / "plain", path, quant="F16", effort="fast", met=False)
    return path


@pytest.mark.parametrize(("key", "value", "kind", "element", "words"), UNLOADABLE)
def test_keys_that_llama_cpp_reads_otherwise_are_refused(
    plain_gguf: Path, tmp_path: Path, key: str, value: object, kind: V, element: V | None, words: str
) -> None:
    """llama.cpp refuses each of these files, or aborts."""
    edited(plain_gguf, tmp_path / "bad.gguf", key, value, kind, element)
    with pytest.raises(errors.ModelError, match=words):
        srd_rs.convert(tmp_path / "bad.gguf", tmp_path / "out.gguf", quant="Q8_0", effort="fast")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    script = "import llama_cpp, sys; llama_cpp.Llama(sys.argv[1], n_ctx=32, verbose=False)"
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "bad.gguf"], capture_output=True, check=False
    )
    assert run.returncode != 0


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_model_that_stops_llama_cpp_at_the_first_token_is_refused(
    plain_gguf: Path, tmp_path: Path, value: float
) -> None:
    """llama.cpp loads such a file, and aborts when it runs it."""
    key = "llama.attention.layer_norm_rms_epsilon"
    edited(plain_gguf, tmp_path / "bad.gguf", key, value, V.FLOAT32, None)
    with pytest.raises(errors.ModelError, match="not a number of 0 or more"):
        srd_rs.convert(tmp_path / "bad.gguf", tmp_path / "out.gguf", quant="Q8_0", effort="fast")


@pytest.mark.parametrize("name", ["context_length", "embedding_length", "feed_forward_length"])
def test_a_size_that_is_not_stated_is_not_compared(plain_gguf: Path, tmp_path: Path, name: str) -> None:
    edited(plain_gguf, tmp_path / "bare.gguf", f"llama.{name}", None, V.UINT32, None)
    srd_rs.convert(tmp_path / "bare.gguf", tmp_path / "out.gguf", quant="Q8_0", effort="fast")
    assert (tmp_path / "out.gguf").exists()


def test_a_chat_template_is_text(plain_gguf: Path, tmp_path: Path) -> None:
    """llama.cpp loads such a file, and takes what it prints of the array for the template."""
    edited(plain_gguf, tmp_path / "bad.gguf", "tokenizer.chat_template", ["a"], V.ARRAY, V.STRING)
    with pytest.raises(errors.ModelError, match=r"chat_template.*not a string"):
        srd_rs.convert(tmp_path / "bad.gguf", tmp_path / "out.gguf", quant="Q8_0", effort="fast")


def test_two_tokens_of_one_text_are_refused(plain_gguf: Path, tmp_path: Path) -> None:
    """llama.cpp aborts when it loads such a file."""
    key = "tokenizer.ggml.tokens"
    tokens = gguf.GGUFReader(plain_gguf).fields[key].contents()
    edited(plain_gguf, tmp_path / "bad.gguf", key, [*tokens[:-1], tokens[300]], V.ARRAY, V.STRING)
    with pytest.raises(errors.ModelError, match=f"300 and {len(tokens) - 1} have the same text"):
        srd_rs.convert(tmp_path / "bad.gguf", tmp_path / "out.gguf", quant="Q8_0", effort="fast")


# Files of an earlier conversion beside the output.


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A GGUF with its sidecar and its container."""
    (tmp_path / "k").write_text("5d" * 32)
    (tmp_path / "k").chmod(0o600)
    srd_rs.convert(MODEL, tmp_path / "m.gguf", quant="Q8_0", axm=True, key_file=tmp_path / "k", effort="fast")
    return tmp_path / "m.gguf"


def test_a_container_does_not_lose_its_gguf(earlier: Path, tmp_path: Path) -> None:
    """The container of a GGUF that is replaced is replaced with it, or nothing is replaced."""
    container, before = earlier.with_suffix(".axm"), earlier.read_bytes()
    sealed = container.read_bytes()
    with pytest.raises(errors.UsageError, match=r"m\.axm: the container belongs to m\.gguf"):
        srd_rs.convert(MODEL, earlier, quant="Q6_K", overwrite=True, effort="fast")
    assert (earlier.read_bytes(), container.read_bytes()) == (before, sealed)
    options = {"effort": "fast", "quant": "Q6_K", "overwrite": True, "axm": True, "key_file": tmp_path / "k"}
    with pytest.raises(errors.UsageError, match="the container belongs to"):
        srd_rs.convert(MODEL, earlier, axm_output=tmp_path / "other.axm", **options)
    srd_rs.convert(MODEL, earlier, **options)
    assert srd_rs.verify(earlier, container=container, key_file=tmp_path / "k").verified
    container.unlink()
    srd_rs.convert(MODEL, earlier, quant="Q8_0", overwrite=True, effort="fast")
    # A container of another GGUF does not matter, nor does a file that is no container.
    other = tmp_path / "n.gguf"
    srd_rs.pack(MODEL, tmp_path / "x.axm", key_file=tmp_path / "k", effort="fast")
    (tmp_path / "x.axm").rename(other.with_suffix(".axm"))
    srd_rs.convert(MODEL, other, quant="Q8_0", effort="fast")
    srd_rs.convert(MODEL, other, quant="Q8_0", overwrite=True, effort="fast")


def test_a_stale_sidecar_does_not_stay(earlier: Path, caplog: pytest.LogCaptureFixture) -> None:
    sidecar = hydration.sidecar_path(earlier)
    earlier.with_suffix(".axm").unlink()
    srd_rs.convert(MODEL, earlier, quant="Q6_K", overwrite=True, met=False, effort="fast")
    assert not sidecar.exists() and "m.met.json: removed" in caplog.text
    # A sidecar that fits stays.
    srd_rs.met(earlier, sidecar)
    srd_rs.convert(MODEL, earlier, quant="Q6_K", overwrite=True, met=False, effort="fast")
    assert sidecar.exists()


def test_an_extraction_removes_the_sidecar_of_what_it_replaces(earlier: Path, tmp_path: Path) -> None:
    options = {"key_file": tmp_path / "k", "overwrite": True}
    sidecar = hydration.sidecar_path(earlier)
    srd_rs.extract(earlier.with_suffix(".axm"), tmp_path / "m.safetensors", safetensors=True, **options)
    srd_rs.extract(earlier.with_suffix(".axm"), earlier, **options)
    assert sidecar.exists()
    srd_rs.extract(earlier.with_suffix(".axm"), earlier, quant="Q4_K_M", **options)
    assert not sidecar.exists()


def test_a_sidecar_replaces_only_sidecars_of_its_gguf(tmp_path: Path) -> None:
    target = tmp_path / "m.met.json"
    for content in ("mine", "{}", '{"met_version": 1}'):
        target.write_text(content)
        for overwrite in (False, True):
            with pytest.raises(errors.UsageError, match=r"m\.met\.json: .* is no MET sidecar"):
                srd_rs.convert(MODEL, tmp_path / "m.gguf", quant="Q8_0", overwrite=overwrite, effort="fast")
        assert target.read_text() == content
    target.unlink()
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.UsageError, match="no MET sidecar"):
        srd_rs.convert(MODEL, tmp_path / "m.gguf", quant="Q8_0", effort="fast")
    target.unlink()
    srd_rs.convert(MODEL, tmp_path / "m.gguf", quant="Q8_0", effort="fast")
    # The GGUF without a usual suffix would take the sidecar of its neighbour.
    before = target.read_bytes()
    with pytest.raises(errors.UsageError, match=r"sidecar of 'm\.gguf'"):
        srd_rs.convert(MODEL, tmp_path / "m.bin", quant="Q6_K", effort="fast")
    assert target.read_bytes() == before and not (tmp_path / "m.bin").exists()


# Outputs that are not the GGUF.


def test_weights_and_keys_are_not_replaced_by_texts(earlier: Path, tmp_path: Path) -> None:
    """With --overwrite and through a hard link as well: a slip of the pen costs no model and no key."""
    container, key = earlier.with_suffix(".axm"), tmp_path / "k"
    link = tmp_path / "link.json"
    link.hardlink_to(earlier)
    before = {path: path.read_bytes() for path in (earlier, container, key)}
    for output in (earlier, container, key, link):
        with pytest.raises(errors.UsageError, match="not replaced"):
            srd_rs.met(earlier, output, overwrite=True)
    for output in (earlier, container, key):
        for command in (
            ("met", earlier, "-f", "-o", output),
            ("card", earlier, "-f", "-o", output),
            ("modelfile", earlier, "-f", "-o", output),
            ("calibrate", earlier, "--text", "random", "--tokens", 32, "-f", "-o", output),
            (
                "calibrate",
                earlier,
                "--text",
                "random",
                "--tokens",
                32,
                "-o",
                tmp_path / "c",
                "--imatrix",
                output,
                "-f",
            ),
        ):
            run = srd(*command)
            assert run.code == 2 and "not replaced" in run.stderr, (command, run)
    assert before == {path: path.read_bytes() for path in before}


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "k").write_text("5d" * 32)
    (tmp_path / "k").chmod(0o600)
    options = {"effort": "fast", "axm": True, "overwrite": True, "key_file": tmp_path / "k", "met": False}
    for other in ("m.gguf", "folder/../m.gguf", "linked/m.gguf"):
        with pytest.raises(errors.UsageError, match="two outputs"):
            srd_rs.convert(MODEL, tmp_path / "m.gguf", axm_output=tmp_path / other, **options)
    with pytest.raises(errors.UsageError, match="this run reads"):
        srd_rs.convert(MODEL, tmp_path / "m.gguf", axm_output=tmp_path / "k", **options)
    assert (tmp_path / "k").read_text() == "5d" * 32


def test_a_recipe_does_not_replace_a_file_of_the_model(tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    before = (model / "config.json").read_bytes()
    with pytest.raises(errors.UsageError, match="never replaced"):
        srd_rs.convert(
            model,
            tmp_path / "m.gguf",
            quant="Q8_0",
            effort="fast",
            overwrite=True,
            recipe_out=model / "config.json",
        )
    assert (model / "config.json").read_bytes() == before
