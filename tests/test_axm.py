"""Containers: what goes in comes out, what is altered is found, and the format stays what it is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

import axm_reader
import srd_rs
from axm_tools import KEY, entries, key_file, numbers, resealed, tiny_model, with_header
from srd_rs.container import write_manifest
from srd_rs.errors import ModelError, UsageError, VerificationError
from support import EXAMPLE, Run, srd

GOLDEN = Path(__file__).resolve().parent / "data" / "axm"
RESIDUAL_TYPES = {"Q4_K": 12}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, its key, and m.gguf with m.axm."""
    folder = tmp_path_factory.mktemp("axm")
    model = tiny_model(folder / "tiny.gguf")
    srd_rs.convert(model, folder / "m.gguf", axm=True, key_file=key_file(folder), effort="fast")
    return folder


def key_of(folder: Path) -> Path:
    return folder / "0001.key"


def run(*args: object, **env: str) -> Run:
    """The command line, with keys of its own."""
    return srd(*args, env={"SRD_MASTER_KEY": None, "XDG_CONFIG_HOME": "/nonexistent", **env})


def weights(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a GGUF as f32, read by the gguf package."""
    return {t.name: dequantize(t.data, t.tensor_type).reshape(-1) for t in GGUFReader(path).tensors}


# What goes in comes out.


def test_extract_gives_the_very_gguf(made: Path, tmp_path: Path) -> None:
    srd_rs.extract(made / "m.axm", tmp_path / "x.gguf", key_file=key_of(made))
    assert (tmp_path / "x.gguf").read_bytes() == (made / "m.gguf").read_bytes()


def test_the_container_does_not_depend_on_threads_and_memory(made: Path, tmp_path: Path) -> None:
    for threads, memory in ((1, 1 << 30), (3, 1)):
        srd_rs.convert(
            made / "tiny.gguf",
            tmp_path / "m.gguf",
            axm=True,
            key_file=key_of(made),
            threads=threads,
            max_memory=memory,
            overwrite=True,
            effort="fast",
        )
        assert (tmp_path / "m.axm").read_bytes() == (made / "m.axm").read_bytes()


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q5_K_M", "Q8_0"])
def test_the_blocks_of_a_quantized_gguf_are_packed_as_they_are(quant: str, tmp_path: Path) -> None:
    gguf, axm, back = tmp_path / "m.gguf", tmp_path / "m.axm", tmp_path / "back.gguf"
    key = key_file(tmp_path)
    srd_rs.convert(EXAMPLE, gguf, quant=quant, tensor_types=["ffn_gate=Q5_K"], met=False, effort="fast")
    srd_rs.pack(gguf, axm, key_file=key, effort="fast")
    srd_rs.extract(axm, back, key_file=key)
    first, second = (
        {t.name: (t.tensor_type.name, t.data.tobytes()) for t in GGUFReader(path).tensors}
        for path in (gguf, back)
    )
    assert first == second and any(kind == "Q5_K" for kind, _ in first.values())


def test_a_gguf_of_an_unknown_mix_is_not_packed_unasked(tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    srd_rs.convert(EXAMPLE, gguf, met=False, effort="fast")
    data = gguf.read_bytes()
    at = data.index(b"general.file_type") + len("general.file_type") + 4
    assert data[at : at + 4] == struct.pack("<I", 15)
    gguf.write_bytes(data[:at] + struct.pack("<I", 777) + data[at + 4 :])
    with pytest.raises(UsageError, match="file type 777"):
        srd_rs.pack(gguf, tmp_path / "m.axm", key_file=key_file(tmp_path), effort="fast")
    assert not (tmp_path / "m.axm").exists()


def test_pack_is_convert_without_the_gguf(made: Path, tmp_path: Path) -> None:
    packed = srd_rs.pack(made / "tiny.gguf", tmp_path / "m.axm", key_file=key_of(made), effort="fast")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.axm"]
    assert (tmp_path / "m.axm").read_bytes() == (made / "m.axm").read_bytes()
    assert packed.container and packed.container.fingerprint == fingerprint(made / "m.axm")


def fingerprint(path: Path) -> str:
    return axm_reader.Container(path.read_bytes()).fingerprint.hex()


def test_tensors_of_several_shards(tmp_path: Path) -> None:
    """20 MB in F32 are three shards of one tensor; Q4_K's residual has as many as its base."""
    model = tiny_model(tmp_path / "big.gguf", rows=20_000)
    key = key_file(tmp_path)
    for quant in ("F32", "Q4_K_M"):
        srd_rs.convert(model, tmp_path / f"{quant}.gguf", quant=quant, axm=True, key_file=key, effort="fast")
        container = (tmp_path / f"{quant}.axm").read_bytes()
        assert quant != "F32" or max(e[3] for e in entries(container)) == 3
        srd_rs.extract(tmp_path / f"{quant}.axm", tmp_path / "x.gguf", key_file=key, overwrite=True)
        assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / f"{quant}.gguf").read_bytes()
    assert (
        axm_reader.Container((tmp_path / "F32.axm").read_bytes(), KEY).gguf()
        == (tmp_path / "F32.gguf").read_bytes()
    )


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    from srd_rs.container import gguf_parts

    paths = [tmp_path / f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for path in paths:
        path.touch()
    assert gguf_parts(paths[1], 3) == paths
    paths[2].unlink()
    with pytest.raises(ModelError, match=r"m-00003-of-00003\.gguf: part 3 of 3 of the split GGUF is missing"):
        gguf_parts(paths[0], 3)


def test_a_split_gguf_comes_out_in_its_parts(made: Path, tmp_path: Path) -> None:
    key = key_of(made)
    srd_rs.convert(
        made / "tiny.gguf", tmp_path / "s.gguf", quant="F32", split_max_size=300_000, axm=True, key_file=key
    )
    parts = sorted(tmp_path.glob("s-*.gguf"))
    assert len(parts) > 1
    assert srd_rs.verify(parts[0], container=tmp_path / "s.axm", key_file=key).authentic
    srd_rs.extract(tmp_path / "s.axm", tmp_path / "x.gguf", key_file=key)
    for part in parts:
        assert (tmp_path / part.name.replace("s-", "x-")).read_bytes() == part.read_bytes()


@pytest.mark.parametrize("quant", ["Q5_K_M", "Q6_K", "Q8_0", "BF16", "F32"])
def test_other_mixes_come_from_base_and_residual(made: Path, tmp_path: Path, quant: str) -> None:
    """Closer to the weights than the base, and no farther than 1.25 times the error of the residual allows."""
    truth, base = weights(made / "tiny.gguf"), weights(made / "m.gguf")
    srd_rs.extract(made / "m.axm", tmp_path / "x.gguf", quant=quant, key_file=key_of(made))
    found = weights(tmp_path / "x.gguf")
    name = "blk.0.attn_q.weight"
    before = float(np.square(base[name] - truth[name]).sum())
    after = float(np.square(found[name] - truth[name]).sum())
    # 2-bit residuals leave 9 %; Q5_K adds its own quarter of Q4_K's error.
    assert after < before * (0.5 if quant == "Q5_K_M" else 0.2)
    assert np.array_equal(found["output_norm.weight"], truth["output_norm.weight"])


def test_alpha_blends(made: Path, tmp_path: Path) -> None:
    """F32 out: base at 0, base + residual at 1, on the line between them at 0.25."""
    at = {}
    for alpha in (0.0, 0.25, 1.0):
        path = tmp_path / f"{alpha}.gguf"
        srd_rs.extract(made / "m.axm", path, quant="F32", alpha=alpha, key_file=key_of(made))
        at[alpha] = weights(path)
    for name, base in weights(made / "m.gguf").items():
        assert np.array_equal(at[0.0][name], base)
        middle = at[0.0][name] + 0.25 * (at[1.0][name] - at[0.0][name])
        assert np.allclose(at[0.25][name], middle, atol=1e-7)
    assert not np.array_equal(at[0.0]["blk.0.attn_q.weight"], at[1.0]["blk.0.attn_q.weight"])


def test_the_independent_reader_gets_the_same_residual(made: Path, tmp_path: Path) -> None:
    container = axm_reader.Container((made / "m.axm").read_bytes(), KEY)
    assert container.gguf() == (made / "m.gguf").read_bytes()
    srd_rs.extract(made / "m.axm", tmp_path / "x.gguf", quant="F32", key_file=key_of(made))
    full, base = weights(tmp_path / "x.gguf"), weights(made / "m.gguf")
    numbers_with = [i for i, t in enumerate(container.header["tensors"]) if t["residual"]]
    assert numbers_with
    for i in numbers_with:
        name = container.header["tensors"][i]["name"]
        assert np.allclose(full[name], base[name] + np.array(container.residual(i)), atol=1e-8)


@pytest.mark.parametrize("bits", [3, 4, None])
def test_other_widths_of_the_residual(made: Path, tmp_path: Path, bits: int | None) -> None:
    key = key_of(made)
    srd_rs.convert(
        made / "tiny.gguf", tmp_path / "m.gguf", axm=True, residual_bits=bits, key_file=key, effort="fast"
    )
    container = axm_reader.Container((tmp_path / "m.axm").read_bytes(), KEY)
    assert {t["residual"] and t["residual"]["bits"] for t in container.header["tensors"]} <= {bits, None}
    srd_rs.extract(tmp_path / "m.axm", tmp_path / "x.gguf", quant="F32", key_file=key)
    truth, found, base = (
        weights(made / "tiny.gguf"),
        weights(tmp_path / "x.gguf"),
        weights(tmp_path / "m.gguf"),
    )
    name = "blk.0.attn_q.weight"
    left = np.square(found[name] - truth[name]).sum() / np.square(base[name] - truth[name]).sum()
    assert left < {3: 0.03, 4: 0.01, None: 1.01}[bits]


def test_safetensors(made: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    key = key_of(made)
    srd_rs.extract(made / "m.axm", tmp_path / "x.safetensors", quant="F32", safetensors=True, key_file=key)
    srd_rs.extract(made / "m.axm", tmp_path / "x.gguf", quant="F32", key_file=key)
    expected = weights(tmp_path / "x.gguf")
    found = load_file(tmp_path / "x.safetensors")
    assert found["blk.0.ffn_up.weight"].shape == (64, 256)
    assert {n: v.reshape(-1).tobytes() for n, v in found.items()} == {
        n: v.tobytes() for n, v in expected.items()
    }
    srd_rs.extract(made / "m.axm", tmp_path / "b.safetensors", safetensors=True, key_file=key)
    assert (tmp_path / "b.safetensors").stat().st_size < (tmp_path / "x.safetensors").stat().st_size


def test_the_gguf_names_its_container(made: Path) -> None:
    field = GGUFReader(made / "m.gguf").fields["srd.axm.id"]
    header = axm_reader.Container((made / "m.axm").read_bytes()).header
    assert field.contents() == header["container"]


def test_options_that_contradict_each_other(made: Path, tmp_path: Path) -> None:
    for options in (
        {"alpha": 0.5},
        {"alpha": 1.5, "quant": "Q8_0"},
        {"safetensors": True, "quant": "Q8_0"},
    ):
        with pytest.raises(UsageError):
            srd_rs.extract(made / "m.axm", tmp_path / "x", key_file=key_of(made), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


# What is altered is found.


def refused(path: Path, folder: Path, *, with_key: bool = True) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        srd_rs.verify(path, key_file=key_of(folder) if with_key else None, use_key=with_key, threads=2)
    return caught.value


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    path = tmp_path / "c.axm"
    path.write_bytes((made / "m.axm").read_bytes())
    return path


@pytest.mark.parametrize("with_key", [True, False])
def test_every_byte_before_and_behind_the_shards(made: Path, copy: Path, with_key: bool) -> None:
    data = copy.read_bytes()
    header_bytes, data_at, manifest_at, *_ = numbers(data)
    stored = 256 + header_bytes + json.loads(data[256 : 256 + header_bytes])["files"][0]["header_bytes"]
    places = [*range(stored), data_at - 1, *range(manifest_at, len(data))]
    with copy.open("r+b", buffering=0) as file:
        for at in places:
            file.seek(at)
            file.write(bytes([data[at] ^ (1 << at % 8)]))
            refused(copy, made, with_key=with_key)
            file.seek(at)
            file.write(data[at : at + 1])
    assert srd_rs.verify(copy, key_file=key_of(made)).authentic


@pytest.mark.parametrize("with_key", [True, False])
def test_one_byte_in_every_shard_and_behind_it(made: Path, copy: Path, with_key: bool) -> None:
    data = copy.read_bytes()
    header = axm_reader.Container(data).header
    rng = random.Random(1)
    for tensor, plane, _, _, offset, length in entries(data):
        for at in (offset, offset + length - 1, offset + rng.randrange(length), offset + length):
            with copy.open("r+b") as file:
                file.seek(at)
                file.write(bytes([data[at] ^ 1]))
            error = refused(copy, made, with_key=with_key)
            assert error.tensor == header["tensors"][tensor]["name"]
            assert f"shard 1 of 1 of the {['base', 'residual'][plane]} plane" in str(error)
            with copy.open("r+b") as file:
                file.seek(at)
                file.write(data[at : at + 1])


def test_the_first_bad_shard_is_named(made: Path, copy: Path) -> None:
    data = bytearray(copy.read_bytes())
    found = entries(data)
    for *_, offset, _length in found[2:]:
        data[offset] ^= 1
    copy.write_bytes(data)
    for _ in range(5):
        assert refused(copy, made).offset == found[2][4]


def test_truncation(made: Path, copy: Path) -> None:
    data = copy.read_bytes()
    header_bytes, data_at, manifest_at, manifest_bytes, size, _ = numbers(data)
    ends = {
        0,
        1,
        8,
        255,
        256,
        256 + header_bytes,
        data_at,
        manifest_at,
        manifest_at + manifest_bytes,
        size - 1,
    }
    for *_, offset, length in entries(data):
        ends |= {offset, offset + length, offset + length - 1}
    rng = random.Random(2)
    ends |= {rng.randrange(size) for _ in range(1000)}
    for end in sorted(ends, reverse=True):
        os.truncate(copy, end)
        refused(copy, made)


def altered(data: bytes, kind: str, other: bytes) -> bytes:
    """`data` with its shards moved about; `other` is a container of the same key and layout."""
    found = entries(data)
    tensors = json.loads(data[256 : 256 + numbers(data)[0]])["tensors"]
    names = [tensors[e[0]]["name"] for e in found]
    q, k = names.index("blk.0.attn_q.weight"), names.index("blk.0.attn_k.weight")
    (at_q, n), (at_k, m) = found[q][4:], found[k][4:]
    if kind in ("swapped", "duplicated", "spliced", "dropped"):
        assert n == m
    out = bytearray(data)
    if kind == "swapped":
        out[at_q : at_q + n], out[at_k : at_k + n] = data[at_k : at_k + n], data[at_q : at_q + n]
    elif kind == "duplicated":
        out[at_k : at_k + n] = data[at_q : at_q + n]
    elif kind == "spliced":
        assert other[at_q : at_q + n] != data[at_q : at_q + n]
        out[at_q : at_q + n] = other[at_q : at_q + n]
    elif kind == "dropped":
        del out[at_q : at_q + (n + 65535) // 65536 * 65536]
    elif kind == "trailing":
        out += b"\0"
    elif kind == "manifest":
        at = numbers(data)[2]
        out[at:] = other[at:]
    return bytes(out)


@pytest.fixture(scope="module")
def other(made: Path) -> bytes:
    """Another model of the same shapes in a container of the same key."""
    model = tiny_model(made / "other.gguf", seed=1)
    srd_rs.convert(model, made / "o.gguf", axm=True, key_file=key_of(made), effort="fast")
    return (made / "o.axm").read_bytes()


@pytest.mark.parametrize("kind", ["swapped", "duplicated", "dropped", "spliced", "trailing", "manifest"])
@pytest.mark.parametrize("with_key", [True, False])
def test_shards_moved_about(made: Path, copy: Path, other: bytes, kind: str, with_key: bool) -> None:
    copy.write_bytes(altered(copy.read_bytes(), kind, other))
    error = refused(copy, made, with_key=with_key)
    if kind in ("swapped", "duplicated", "spliced"):
        assert error.tensor in ("blk.0.attn_q.weight", "blk.0.attn_k.weight") and "shard" in str(error)


@pytest.mark.parametrize("kind", ["swapped", "duplicated", "spliced"])
def test_new_hashes_do_not_help_without_the_key(made: Path, copy: Path, other: bytes, kind: str) -> None:
    before = fingerprint(copy)
    copy.write_bytes(resealed(altered(copy.read_bytes(), kind, other)))
    # It is a sound container now, but another one.
    assert srd_rs.verify(copy, use_key=False).fingerprint != before
    refused(copy, made)
    with pytest.raises(VerificationError, match="fingerprint"):
        srd_rs.verify(copy, use_key=False, fingerprint=before)


@pytest.mark.parametrize("kind", ["swapped", "duplicated", "spliced"])
def test_tags_bind_the_place(made: Path, copy: Path, other: bytes, kind: str) -> None:
    """The manifest sealed with the key over new hashes, but the tags of where the shards came from."""
    data = copy.read_bytes()
    moved = bytearray(resealed(altered(data, kind, other), KEY))
    _, _, at, size, _, n = numbers(data)
    for i in range(n):
        moved[at + 136 + 104 * i : at + 168 + 104 * i] = data[at + 136 + 104 * i : at + 168 + 104 * i]
    seal = at + size
    moved[seal : seal + 32] = axm_reader.sha256(b"srd-axm v1 fingerprint\0", bytes(moved[at:seal]))
    key = axm_reader.hkdf(KEY, bytes(moved[96:128]), b"srd-axm v1 manifest", 32)
    message = b"srd-axm v1 manifest\0" + moved[seal : seal + 32] + bytes(32)
    moved[seal + 32 : seal + 64] = hmac.digest(key, message, "sha256")
    moved[seal + 160 :] = hashlib.sha256(moved[seal : seal + 160]).digest()
    copy.write_bytes(moved)
    assert "is not the signed one" in str(refused(copy, made))


def test_the_tools_of_these_tests_can_sign(made: Path, copy: Path) -> None:
    """Every hash and every tag, computed again by Python's hashlib and hmac, gives the same bytes. A header that was
    changed and signed with the key is accepted, so the refusals above and below are for other reasons."""
    data = copy.read_bytes()
    assert resealed(data, KEY) == data
    copy.write_bytes(resealed(with_header(data, '"seed":0', '"seed":1'), KEY))
    assert srd_rs.verify(copy, key_file=key_of(made)).authentic


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [(8, 0, "version 0"), (8, 2, "version 2"), (12, 0, "algorithms 0"), (12, 2, "algorithms 2")],
)
def test_other_versions_and_algorithms(made: Path, copy: Path, at: int, value: int, named: str) -> None:
    data = bytearray(copy.read_bytes())
    data[at : at + 4] = struct.pack("<I", value)
    manifest_at = numbers(data)[2]
    data[manifest_at + at : manifest_at + at + 4] = struct.pack("<I", value)
    copy.write_bytes(resealed(bytes(data), KEY))
    assert named in str(refused(copy, made))


@pytest.mark.parametrize("name", ["../y", "/etc", "a\\\\b", "c:xy", "....", ".", ".."])
def test_names_that_lead_elsewhere(made: Path, tmp_path: Path, name: str) -> None:
    """Signed with the key, and still refused. `....` is a plain name, and accepted."""
    json_name = f'"name":"{name}"'
    plain = "n" * (len(json_name) - len('"name":"') - len('.gguf"')) + ".gguf"
    if len(plain) == len(".gguf"):
        plain = "mmmm"[: len(name)]
    model, path = made / "tiny.gguf", tmp_path / f"{'m' * len(name)}"
    path.write_bytes(b"")  # a new name would get the suffix .gguf
    srd_rs.convert(
        model,
        path,
        axm=True,
        axm_output=tmp_path / "c.axm",
        key_file=key_of(made),
        overwrite=True,
        effort="fast",
    )
    data = with_header((tmp_path / "c.axm").read_bytes(), f'"name":"{path.name}"', json_name)
    (tmp_path / "c.axm").write_bytes(resealed(data, KEY))
    if name == "....":
        assert srd_rs.verify(tmp_path / "c.axm", key_file=key_of(made)).authentic
    else:
        assert "plain file name" in str(refused(tmp_path / "c.axm", made))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"bits":2', '"bits":5'),
        ('"type":"Q4_K"', '"type":"Q5_K"'),
        ('"alignment":65536', '"alignment":65537'),
        ('"file":0', '"file":1'),
        ('"shards":1', '"shards":2'),
        ('"shard_weights":256', '"shard_weights":0  '),
        ('"name":"blk.0.attn_k.weight"', '"name":"blk.0.attn_q.weight"'),
        ('"seed":0', '"sead":0'),
        ('"ne":[256,256]', '"ne":[256,255]'),
    ],
)
def test_headers_that_contradict_themselves(made: Path, copy: Path, old: str, new: str) -> None:
    copy.write_bytes(resealed(with_header(copy.read_bytes(), old, new)))
    refused(copy, made, with_key=False)


def test_another_key_and_no_key(made: Path, tmp_path: Path) -> None:
    stranger = key_file(tmp_path, bytes(range(1, 33)))
    with pytest.raises(VerificationError, match="signed with the key"):
        srd_rs.verify(made / "m.axm", key_file=stranger)
    assert not srd_rs.verify(made / "m.axm", use_key=False).authentic


def test_extract_refuses_what_does_not_verify(made: Path, copy: Path, tmp_path: Path) -> None:
    data = bytearray(copy.read_bytes())
    data[entries(data)[-1][4]] ^= 1
    copy.write_bytes(data)
    for quant in (None, "Q8_0"):
        with pytest.raises(VerificationError):
            srd_rs.extract(copy, tmp_path / "x.gguf", quant=quant, use_key=False)
    assert not (tmp_path / "x.gguf").exists()


# A GGUF against its container.


def test_a_gguf_is_proven_by_container_or_manifest(made: Path, tmp_path: Path) -> None:
    write_manifest(made / "m.axm", tmp_path / "m.manifest")
    assert (tmp_path / "m.manifest").stat().st_size < (made / "m.axm").stat().st_size / 3
    gguf, data = tmp_path / "g.gguf", (made / "m.gguf").read_bytes()
    tensors = GGUFReader(made / "m.gguf").tensors
    for proof in (made / "m.axm", tmp_path / "m.manifest"):
        gguf.write_bytes(data)
        assert srd_rs.verify(gguf, container=proof, key_file=key_of(made)).authentic
        for tensor in tensors:
            changed = bytearray(data)
            changed[tensor.data_offset + tensor.n_bytes - 1] ^= 1
            gguf.write_bytes(changed)
            with pytest.raises(VerificationError) as caught:
                srd_rs.verify(gguf, container=proof, use_key=False)
            assert caught.value.tensor == tensor.name and str(caught.value.file) == str(gguf)
        for changed in (data[:-1], data + b"\0", b"X" + data[1:], data[:40] + b"X" + data[41:]):
            gguf.write_bytes(changed)
            with pytest.raises(VerificationError):
                srd_rs.verify(gguf, container=proof, use_key=False)
    with pytest.raises(UsageError):
        srd_rs.verify(tmp_path / "m.manifest", use_key=False)


def test_the_gguf_of_another_conversion(made: Path, other: bytes) -> None:
    with pytest.raises(VerificationError):
        srd_rs.verify(made / "o.gguf", container=made / "m.axm", key_file=key_of(made))


# Keys and signatures.


def test_resign(made: Path, tmp_path: Path) -> None:
    new = key_file(tmp_path, bytes(range(2, 34)))
    sealed = srd_rs.resign(made / "m.axm", tmp_path / "r.axm", key_file=new, old_key_file=key_of(made))
    assert srd_rs.verify(tmp_path / "r.axm", key_file=new).fingerprint == sealed.fingerprint
    with pytest.raises(VerificationError):
        srd_rs.verify(tmp_path / "r.axm", key_file=key_of(made))
    old, now = (made / "m.axm").read_bytes(), (tmp_path / "r.axm").read_bytes()
    first, last = 256, numbers(old)[2]
    assert old[first:last] == now[first:last] and old[last:] != now[last:]
    back = srd_rs.resign(tmp_path / "r.axm", tmp_path / "b.axm", key_file=key_of(made), old_key_file=new)
    assert (tmp_path / "b.axm").read_bytes() == old and back.fingerprint == fingerprint(made / "m.axm")


def test_resign_refuses_a_bad_shard(made: Path, copy: Path, tmp_path: Path) -> None:
    data = bytearray(copy.read_bytes())
    data[entries(data)[1][4]] ^= 1
    copy.write_bytes(data)
    with pytest.raises(VerificationError):
        srd_rs.resign(copy, tmp_path / "r.axm", key_file=key_of(made), old_key_file=key_of(made))
    assert not (tmp_path / "r.axm").exists()


def test_a_signature_for_third_parties(made: Path, tmp_path: Path) -> None:
    pair, stranger = (srd_rs.keygen(tmp_path / name, ed25519=True) for name in ("a", "b"))
    assert pair.public and stranger.public and (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    options = {"axm": True, "key_file": key_of(made), "sign_key": tmp_path / "a"}
    srd_rs.convert(made / "tiny.gguf", tmp_path / "m.gguf", **options)  # type: ignore[arg-type]
    container = tmp_path / "m.axm"
    found = srd_rs.verify(container, use_key=False, public_key=pair.public)
    assert found.public_key == pair.id and found.public_key_checked and not found.authentic
    with pytest.raises(VerificationError, match="another Ed25519 key"):
        srd_rs.verify(container, use_key=False, public_key=stranger.public)
    with pytest.raises(VerificationError, match="no Ed25519 signature"):
        srd_rs.verify(made / "m.axm", use_key=False, public_key=pair.public)
    data = bytearray(container.read_bytes())
    seal = len(data) - 192
    stripped = data[: seal + 64] + bytes(96) + data[seal + 160 :]
    stripped[seal + 160 :] = hashlib.sha256(stripped[seal : seal + 160]).digest()
    container.write_bytes(stripped)
    assert srd_rs.verify(container, use_key=False).public_key is None
    with pytest.raises(VerificationError, match="not signed with the given key"):
        srd_rs.verify(container, key_file=key_of(made))


def test_attestation(made: Path, tmp_path: Path) -> None:
    pair = srd_rs.keygen(tmp_path / "k", ed25519=True)
    srd_rs.verify(
        made / "m.gguf",
        container=made / "m.axm",
        key_file=key_of(made),
        attest=tmp_path / "a.json",
        sign_key=tmp_path / "k",
    )
    envelope = json.loads((tmp_path / "a.json").read_text())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    (signature,) = envelope["signatures"]
    assert signature["keyid"] == hashlib.sha256(bytes.fromhex(pair.id)).hexdigest()
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    digest = hashlib.sha256((made / "m.gguf").read_bytes()).hexdigest()
    assert statement["subject"] == [{"name": "m.gguf", "digest": {"sha256": digest}}]
    facts = statement["predicate"]
    assert facts["fingerprint"] == fingerprint(made / "m.axm") and facts["recipe"] == "Q4_K_M"
    assert facts["verified"]["authentic"] is True
    assert [s["name"] for s in facts["sources"]] == ["tiny.gguf"]


def test_the_default_key_is_made_once_and_never_shown(made: Path, tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path / "cfg")}
    first = run("pack", made / "tiny.gguf", "-o", tmp_path / "a.axm", **home)
    key = tmp_path / "cfg" / "srd-rs" / "master.key"
    assert first.code == 0 and str(key) in first.stdout, first.stderr
    assert key.stat().st_mode & 0o777 == 0o600 and key.parent.stat().st_mode & 0o777 == 0o700
    (tmp_path / "again").mkdir()
    second = run("pack", made / "tiny.gguf", "-o", tmp_path / "again" / "a.axm", **home)
    assert second.code == 0 and str(key) not in second.stdout
    assert (tmp_path / "a.axm").read_bytes() == (tmp_path / "again" / "a.axm").read_bytes()
    secret = key.read_text().strip()
    assert secret not in first.stdout + first.stderr + second.stdout + second.stderr
    key.chmod(0o644)
    third = run("pack", made / "tiny.gguf", "-o", tmp_path / "c.axm", **home)
    assert third.code == 2 and "chmod 600" in third.stderr and secret not in third.stderr


def test_the_environment_holds_a_key(made: Path, tmp_path: Path) -> None:
    done = run("verify", made / "m.axm", SRD_MASTER_KEY=KEY.hex())
    assert done.code == 0 and "authentic" in done.stdout
    assert run("verify", made / "m.axm", SRD_MASTER_KEY="abc").code == 2


# The command line.


def test_exit_codes(made: Path, copy: Path, tmp_path: Path) -> None:
    with copy.open("r+b") as file:
        file.seek(entries(copy.read_bytes())[0][4])
        file.write(b"\xff\xff\xff")
    for command in (
        ("verify", copy),
        ("extract", copy, "-o", tmp_path / "x.gguf"),
    ):
        done = run(*command)
        assert done.code == 3, done.stderr
    done = run("verify", copy, "--json")
    assert done.code == 3 and json.loads(done.stdout)["error"]["kind"] == "verification"
    assert run("verify", tmp_path / "absent.axm").code == 1
    sound = run("verify", made / "tiny.gguf")
    assert sound.code == 2 and "this is a GGUF" in sound.stderr


def test_convert_writes_both_unless_told_otherwise(made: Path, tmp_path: Path) -> None:
    key = key_of(made)
    done = run(
        "convert", "--fast", made / "tiny.gguf", "-o", tmp_path / "a.gguf", "--key-file", key, "--json"
    )
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["container"]["fingerprint"] == fingerprint(tmp_path / "a.axm")
    assert run("convert", "--fast", made / "tiny.gguf", "-o", tmp_path / "b.gguf", "--no-axm").code == 0
    names = ["a.axm", "a.gguf", "a.met.json", "b.gguf", "b.met.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert "fingerprint" in run("inspect", tmp_path / "a.axm").stdout


def test_keygen_and_resign(made: Path, tmp_path: Path) -> None:
    first, pair = tmp_path / "new.key", tmp_path / "sign"
    done = run("keygen", first, "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(first) and first.stat().st_mode & 0o777 == 0o600
    assert first.read_text().strip() not in done.stdout
    assert (
        axm_reader.hkdf(
            bytes.fromhex(first.read_text().strip()), b"srd-axm v1 key id", b"srd-axm v1 key id", 16
        ).hex()
        == (json.loads(done.stdout)["id"])
    )
    done = run("keygen", "--ed25519", pair, "--json")
    assert done.code == 0 and pair.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    public = json.loads(done.stdout)["id"]
    assert bytes.fromhex(public) in base64.b64decode(
        "".join((tmp_path / "sign.pub").read_text().split("\n")[1:-2])
    )
    assert run("keygen", "--ed25519").code == 2
    target = tmp_path / "r.axm"
    done = run(
        *("resign", made / "m.axm", "-o", target, "--old-key-file", key_of(made)),
        *("--key-file", first, "--sign-key", pair, "--json"),
    )
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["fingerprint"] == fingerprint(target) != fingerprint(made / "m.axm")
    assert run("verify", target, "--key-file", first).code == 0
    done = run("verify", target, "--public-key", tmp_path / "sign.pub", "--json")
    assert done.code == 0 and json.loads(done.stdout)["public_key"] == public
    assert run("verify", target, "--key-file", key_of(made)).code == 3
    other = run(
        "resign", made / "m.axm", "-o", tmp_path / "x.axm", "--old-key-file", first, "--key-file", first
    )
    assert other.code == 3 and not (tmp_path / "x.axm").exists()


def test_what_extract_is_told_on_the_command_line(made: Path, tmp_path: Path) -> None:
    key = ("--key-file", key_of(made))
    name = "blk.0.attn_q.weight"
    found = {}
    for alpha in ("0", "0.5", "1"):
        path = tmp_path / f"{alpha}.gguf"
        done = run("extract", made / "m.axm", "-o", path, "-q", "F32", "--alpha", alpha, *key)
        assert done.code == 0, done.stderr
        found[alpha] = weights(path)[name]
    assert np.array_equal(found["0"], weights(made / "m.gguf")[name])
    assert np.allclose(found["0.5"], (found["0"] + found["1"]) / 2, atol=1e-7)
    assert not np.array_equal(found["0"], found["1"])
    target = tmp_path / "x.safetensors"
    assert run("extract", made / "m.axm", "-o", target, "--safetensors", *key).code == 0
    header = json.loads(target.read_bytes()[8 : 8 + struct.unpack("<Q", target.read_bytes()[:8])[0]])
    assert header[name]["dtype"] == "BF16"
    done = run(
        "extract", made / "m.axm", "-o", tmp_path / "y.gguf", "--tensor-type", "attn_q=Q8_0", *key, "--json"
    )
    assert done.code == 0, done.stderr
    types = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "y.gguf").tensors}
    assert types[name] == "Q8_0" != types["blk.0.attn_k.weight"]


@pytest.mark.parametrize("bits", [0, 2, 4])
def test_what_pack_is_told_on_the_command_line(made: Path, tmp_path: Path, bits: int) -> None:
    key = ("--key-file", key_of(made))
    srd_rs.keygen(tmp_path / "sign", ed25519=True)
    target = tmp_path / "p.axm"
    options = ("--residual-bits", bits, "--seed", 5, "--sign-key", tmp_path / "sign")
    done = run("pack", made / "tiny.gguf", "-o", target, "-q", "Q5_K_M", *options, *key, "--json")
    assert done.code == 0 and json.loads(done.stdout)["signed"] is True, done
    header = axm_reader.Container(target.read_bytes(), KEY).header
    assert (header["quant"], header["seed"]) == ("Q5_K_M", 5)
    kept = {t["residual"]["bits"] for t in header["tensors"] if t["residual"]}
    assert kept == ({bits} if bits else set())
    assert run("verify", target, "--public-key", tmp_path / "sign.pub").code == 0


# The format stays what it is.


@pytest.mark.parametrize("name", ["v1-2bit", "v1-3bit-ed25519"])
def test_golden_containers(name: str, tmp_path: Path) -> None:
    path, facts = GOLDEN / f"{name}.axm", json.loads((GOLDEN / "expected.json").read_text())[name]
    found = srd_rs.verify(path, key_file=key_file(tmp_path))
    assert found.authentic and found.fingerprint == facts["fingerprint"]
    assert found.public_key == facts["public_key"]
    assert axm_reader.Container(path.read_bytes(), KEY).fingerprint.hex() == facts["fingerprint"]
    for quant in (None, "F32"):
        srd_rs.extract(path, tmp_path / "x.gguf", quant=quant, key_file=key_file(tmp_path), overwrite=True)
        data = (tmp_path / "x.gguf").read_bytes()
        if quant is None:
            assert hashlib.sha256(data).hexdigest() == facts["gguf_sha256"]
    full = weights(tmp_path / "x.gguf")
    assert {n: hashlib.sha256(w.tobytes()).hexdigest() for n, w in full.items()} == facts["weights_sha256"]
