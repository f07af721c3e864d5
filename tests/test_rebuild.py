"""`verify --rebuild` makes a GGUF again from its checkpoint, and names the first byte that differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from srd_rs import _core
from srd_rs.errors import ModelError, UsageError, VerificationError
from support import EXAMPLE, srd

#: Five families with their mixes: dense, two mixtures of experts, and one with per-layer embeddings.
FAMILIES = {
    "llama": "Q4_K_M",
    "qwen2": "Q5_K_M",
    "gemma4_moe": "IQ4_XS",
    "gemma4_e2b": "Q4_0",
    "mixtral": "Q6_K",
}
NARROWER = _core.instruction_sets()[:-1]
ISAS: dict[str, Mapping[str, str]] = {
    "native": {},
    "avx2": {"SRD_MAX_ISA": "avx2"},
    "scalar": {"SRD_FORCE_SCALAR": "1"},
}
SRD = {"effort": "srd", "calibrate": "random", "calibrate_tokens": 64, "calibrate_block": 256}


@pytest.fixture(scope="module")
def made(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GGUF of each family, made with the search on the widest vector path."""
    folder = tmp_path_factory.mktemp("rebuild")
    for name, quant in FAMILIES.items():
        srd_rs.convert(fixtures / name, folder / f"{name}.gguf", quant=quant, effort="fast", mmproj=False)
    return folder


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FAMILIES)
def test_five_families_on_every_path(made: Path, fixtures: Path, name: str, isa: str) -> None:
    if isa == "avx2" and "avx2" not in NARROWER:
        pytest.skip("avx2 is no narrower path than the native one of this CPU")
    gguf = made / f"{name}.gguf"
    done = srd("verify", "--rebuild", gguf, "--from", fixtures / name, "--json", timeout=280, env=ISAS[isa])
    assert done.code == 0, done.stdout
    found = json.loads(done.stdout)
    assert found["equal"] is True and found["bytes"] == gguf.stat().st_size
    assert found["quant"] == FAMILIES[name] and found["method"] == "search"


@pytest.mark.parametrize("name", FAMILIES)
def test_one_flipped_bit_is_found_and_named(made: Path, fixtures: Path, tmp_path: Path, name: str) -> None:
    header = _core.read_gguf(made / f"{name}.gguf", 0)
    tensors = sorted(header["tensors"], key=lambda t: t[3])
    tensor, _, kind, offset, size = tensors[len(tensors) // 2]
    changed = Path(shutil.copy(made / f"{name}.gguf", tmp_path))
    # Where in a tensor the bit is does not depend on the family.
    for at in (0, size // 2, size - 1) if name == "llama" else (size // 2,):
        flip(changed, offset + at)
        with pytest.raises(VerificationError) as caught:
            srd_rs.rebuild(changed, fixtures / name, threads=2)
        assert (caught.value.tensor, caught.value.offset) == (tensor, offset + at), kind
        assert f"byte {at} of its {size} bytes" in str(caught.value)
        flip(changed, offset + at)
    assert srd_rs.rebuild(changed, fixtures / name).tensors == len(tensors)
    done = srd("verify", "--rebuild", changed, "--from", fixtures / "phi3", "--json")
    assert done.code == 3 and json.loads(done.stdout)["error"]["kind"] == "verification"


def test_the_first_tensor_is_named_on_any_number_of_threads(
    made: Path, fixtures: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copy(made / "llama.gguf", tmp_path))
    tensors = _core.read_gguf(changed, 0)["tensors"]
    for tensor in tensors[3::5]:
        flip(changed, tensor[3])
    for threads in (1, 2, 7):
        with pytest.raises(VerificationError) as caught:
            srd_rs.rebuild(changed, fixtures / "llama", threads=threads)
        assert caught.value.tensor == tensors[3][0]


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_every_other_byte_counts_too(made: Path, fixtures: Path, tmp_path: Path) -> None:
    """A metadata value, the padding behind the header and between tensors, and bytes behind the end."""
    source = made / "llama.gguf"
    changed = tmp_path / "llama.gguf"

    def refused(why: str) -> VerificationError:
        with pytest.raises(VerificationError, match=why) as caught:
            srd_rs.rebuild(changed, fixtures / "llama")
        return caught.value

    data = source.read_bytes()
    key = b"llama.context_length"
    shutil.copy(source, changed)
    flip(changed, data.index(key) + len(key) + 4)
    refused("the metadata key 'llama.context_length' has another value")
    changed.write_bytes(data.replace(key, b"llama.context_lengtj"))
    refused("llama.context_length' is missing")

    first = _core.read_gguf(source, 0)["data_offset"]
    if data[first - 1 : first] == b"\0":
        changed.write_bytes(data[: first - 1] + b"\1" + data[first:])
        refused("differs|header")
    changed.write_bytes(data + b"\0")
    refused("bytes, and the conversion writes")
    changed.write_bytes(data[:-1])
    with pytest.raises(srd_rs.errors.SrdError):
        srd_rs.rebuild(changed, fixtures / "llama")


def test_another_type_another_seed_another_checkpoint(fixtures: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "o.gguf"
    srd_rs.convert(EXAMPLE, gguf, quant="Q4_K_M", seed=5, **SRD)
    found = srd_rs.rebuild(gguf, EXAMPLE)
    assert (found.method, found.seed, found.calibration) == ("srd", 5, "random")
    assert found.options.calibrate_tokens == 64

    model = Path(shutil.copytree(EXAMPLE, tmp_path / EXAMPLE.name))
    weights = model / "model.safetensors"
    flip(weights, weights.stat().st_size - 1000)
    with pytest.raises(VerificationError):
        srd_rs.rebuild(gguf, model)
    flip(weights, weights.stat().st_size - 1000)
    assert srd_rs.rebuild(gguf, model).tensors == found.tensors
    config = model / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(VerificationError, match=r"srd\.source\.digest|digest"):
        srd_rs.rebuild(gguf, model)


@pytest.mark.parametrize(
    "options",
    [
        {"quant": "BF16"},
        {"quant": "Q8_0", "effort": "fast", "split_max_size": 3 << 20},
        {"quant": "Q4_K_M", "effort": "fast", "tensor_types": ["ffn_down=Q6_K", "attn_q=F16"]},
        {"quant": "Q4_K_M", "effort": "fast", "pure": True, "name": "Another name"},
        {"target_bpw": 5.5, "effort": "fast"},
        {"quant": "IQ3_XXS", "effort": "fast", "calibrate": "random", "calibrate_tokens": 64},
        {"quant": "Q4_K_M", **SRD, "srd": srd_rs.SrdOptions(beam_width=1, dither_layers=(0.0, 0.5))},
    ],
    ids=["BF16", "split", "types", "name", "budget", "importances", "beam"],
)
def test_the_options_are_those_of_the_conversion(tmp_path: Path, options: dict[str, Any]) -> None:
    report = srd_rs.convert(EXAMPLE, tmp_path / "o.gguf", **options)
    found = srd_rs.rebuild(report.outputs[-1], EXAMPLE)
    assert found.bytes == sum(path.stat().st_size for path in report.outputs)
    last = report.outputs[-1]
    at = last.stat().st_size - 40
    flip(last, at)
    with pytest.raises(VerificationError) as caught:
        srd_rs.rebuild(last, EXAMPLE)
    assert caught.value.offset == at and Path(str(caught.value.file)) == last


def test_the_folder_of_the_checkpoint_may_have_another_name(fixtures: Path, tmp_path: Path) -> None:
    named = shutil.copytree(fixtures / "llama", tmp_path / "some-Base-chat")
    gguf = srd_rs.convert(named, f"{tmp_path}/out/", quant="Q8_0", effort="fast").output
    moved = named.rename(tmp_path / "elsewhere")
    assert srd_rs.rebuild(gguf, moved).quant == "Q8_0"
    with pytest.raises(VerificationError, match=r"general\.\w+"):
        srd_rs.rebuild(gguf.rename(tmp_path / "x.gguf"), moved)


def test_a_gguf_of_a_gguf_and_a_projector(fixtures: Path, tmp_path: Path) -> None:
    full = srd_rs.convert(fixtures / "llama", tmp_path / "full.gguf", quant="BF16").output
    small = srd_rs.convert(full, tmp_path / "small.gguf", quant="Q4_K_S", effort="fast").output
    assert srd_rs.rebuild(small, full).model == full


def test_options_that_change_no_byte_of_the_model_are_not_recorded(fixtures: Path, tmp_path: Path) -> None:
    """A container holds the text model alone and says so with mmproj=False, and its GGUF is that of `convert`."""
    plain = srd_rs.convert(EXAMPLE, tmp_path / "a.gguf", quant="Q8_0", effort="fast").output
    other = srd_rs.convert(
        EXAMPLE, tmp_path / "b.gguf", quant="Q8_0", effort="fast", mmproj=False, met=False, threads=1
    ).output
    assert plain.read_bytes() == other.read_bytes()


def test_a_text_and_an_imatrix_are_asked_for(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 400)
    gguf = tmp_path / "o.gguf"
    options = {**SRD, "calibrate": text}
    srd_rs.convert(EXAMPLE, gguf, quant="Q4_K_M", **options)
    with pytest.raises(UsageError, match=r"text\.txt"):
        srd_rs.rebuild(gguf, EXAMPLE)
    assert srd_rs.rebuild(gguf, EXAMPLE, calibrate=text).calibration == "text.txt"
    other = tmp_path / "other" / "text.txt"
    other.parent.mkdir()
    other.write_text("Another text that has other words in it. " * 400)
    with pytest.raises(VerificationError, match="calibration"):
        srd_rs.rebuild(gguf, EXAMPLE, calibrate=other)
    with pytest.raises(UsageError, match="--imatrix"):
        srd_rs.rebuild(gguf, EXAMPLE, calibrate=text, imatrix=text)

    srd_rs.calibrate(EXAMPLE, tmp_path / "c.calib", text="random", tokens=64, imatrix=tmp_path / "i.gguf")
    srd_rs.convert(EXAMPLE, gguf, quant="Q4_K_M", effort="fast", imatrix=tmp_path / "i.gguf", overwrite=True)
    with pytest.raises(UsageError, match="imatrix"):
        srd_rs.rebuild(gguf, EXAMPLE)
    assert srd_rs.rebuild(gguf, EXAMPLE, imatrix=tmp_path / "i.gguf").method == "search"


def test_what_records_nothing_and_what_another_version_made(made: Path, tmp_path: Path) -> None:
    bare = srd_rs.convert(EXAMPLE, tmp_path / "b.gguf", quant="Q8_0", effort="fast", provenance=False).output
    with pytest.raises(UsageError, match="--no-provenance"):
        srd_rs.rebuild(bare, EXAMPLE)
    data = (made / "llama.gguf").read_bytes()
    version = _core.__version__.encode()
    key = data.index(b"srd.version")
    at = data.index(version, key)
    other = tmp_path / "v.gguf"
    other.write_bytes(data[:at] + b"9" + data[at + 1 :])
    with pytest.raises(ModelError, match="install"):
        srd_rs.rebuild(other, EXAMPLE)


def test_options_without_effect_are_refused(made: Path, fixtures: Path) -> None:
    gguf = made / "llama.gguf"
    for args in (
        ("verify", "--rebuild", gguf),
        ("verify", gguf, "--from", fixtures / "llama"),
        ("verify", "--rebuild", gguf, "--from", fixtures / "llama", "--fingerprint", "00"),
        ("verify", "--rebuild", gguf, "--from", fixtures / "llama", "--no-key"),
        ("verify", "--rebuild", gguf, "--from", fixtures / "llama", "--calibrate", "builtin"),
        ("verify", gguf, "--max-memory", "1GiB"),
        ("verify", gguf, "--no-cache"),
    ):
        assert srd(*args).code == 2, args
    shown = srd("verify", "--rebuild", gguf, "--from", fixtures / "llama", "--max-memory", "64MiB").stdout
    assert "equal to the conversion of" in shown
