"""Verification fails closed, and what was verified is what is used.

Every test here is a way to make a wrong file pass as a verified one, or to lose a file or a key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import axm_reader
import srd_rs
from axm_tools import KEY, entries, key_file, numbers, resealed, tiny_model
from srd_rs import _core
from srd_rs.conversion import run_plan
from srd_rs.errors import SrdIOError, UsageError, VerificationError
from srd_rs.options import Checks, ConvertOptions
from support import EXAMPLE, Run, srd

PEM_PUBLIC = bytes.fromhex("302a300506032b6570032100")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, its master key, an Ed25519 key pair, m.gguf, m.axm, and s.axm with a signature."""
    folder = tmp_path_factory.mktemp("verify")
    model, key = tiny_model(folder / "tiny.gguf"), key_file(folder)
    srd_rs.keygen(folder / "sign", ed25519=True)
    srd_rs.convert(model, folder / "m.gguf", axm=True, key_file=key, effort="fast")
    srd_rs.pack(model, folder / "s.axm", key_file=key, sign_key=folder / "sign", effort="fast")
    return folder


def key_of(folder: Path) -> Path:
    return folder / "0001.key"


def cli(*args: object, **env: str | None) -> Run:
    """The command line on a machine without a key. An environment variable that is None is unset."""
    nobody: dict[str, str | None] = dict.fromkeys(("XDG_CONFIG_HOME", "HOME"), "/nonexistent")
    return srd(*args, env={**nobody, "SRD_MASTER_KEY": None, **env})


def forged(folder: Path, target: Path) -> Path:
    """m.axm with other weights and all hashes made right: what a thief without the key can do."""
    data = bytearray((folder / "m.axm").read_bytes())
    data[entries(data)[-2][4]] ^= 1
    target.write_bytes(resealed(bytes(data)))
    return target


def fingerprint(path: Path) -> str:
    return axm_reader.Container(path.read_bytes()).fingerprint.hex()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Without a key, a public key or a fingerprint nothing is verified.


@pytest.mark.parametrize("home", ["/nonexistent", None])
def test_without_a_key_nothing_is_verified(made: Path, tmp_path: Path, home: str | None) -> None:
    for path in (made / "m.axm", made / "s.axm", forged(made, tmp_path / "f.axm")):
        for command in (
            ("verify", path),
            ("verify", path, "--attest", tmp_path / "a.json"),
            ("verify", path, "--write-manifest", tmp_path / "a.manifest"),
            ("extract", path, "-o", tmp_path / "x.gguf"),
            ("extract", path, "-o", tmp_path / "x.safetensors", "--safetensors"),
            ("resign", path, "-o", tmp_path / "r.axm", "--key-file", key_of(made), "--drop-signature"),
        ):
            done = cli(*command, HOME=home, XDG_CONFIG_HOME=home)
            assert done.code == 3 and "--no-key" in done.stderr, (command, done)
            assert names(tmp_path) == [] or names(tmp_path) == ["f.axm"]
        done = cli("verify", path, "--json", HOME=home, XDG_CONFIG_HOME=home)
        assert done.code == 3 and json.loads(done.stdout)["error"]["kind"] == "verification"


def test_a_gguf_needs_a_key_as_well(made: Path) -> None:
    assert cli("verify", made / "m.gguf", "--axm", made / "m.axm").code == 3
    done = cli("verify", made / "m.gguf", "--axm", made / "m.axm", "--key-file", key_of(made), "--json")
    assert done.code == 0 and json.loads(done.stdout)["verified"] is True


def test_no_key_checks_integrity_and_says_so(made: Path, tmp_path: Path) -> None:
    done = cli("verify", made / "m.axm", "--no-key", "--json")
    assert done.code == 0 and json.loads(done.stdout)["verified"] is False
    shown = cli("verify", made / "m.axm", "--no-key").stdout
    assert "not verified" in shown and "authentic" not in shown
    assert cli("extract", made / "m.axm", "--no-key", "-o", tmp_path / "x.gguf").code == 0
    assert cli("verify", made / "m.axm", "--no-key", "--key-file", key_of(made)).code == 2


@pytest.mark.parametrize("anchor", ["key", "public_key", "fingerprint"])
def test_verified_says_what_the_container_was_held_against(made: Path, anchor: str) -> None:
    options: dict[str, tuple[object, ...]] = {
        "key": ("--key-file", key_of(made)),
        "public_key": ("--public-key", made / "sign.pub"),
        "fingerprint": ("--fingerprint", fingerprint(made / "s.axm")),
    }
    done = cli("verify", made / "s.axm", "--json", *options[anchor])
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verified"] is True
    flags = {"key": "authentic", "public_key": "public_key_checked", "fingerprint": "fingerprint_checked"}
    assert {name for name, flag in flags.items() if found[flag]} == {anchor}


def test_a_key_that_cannot_be_looked_for_is_not_a_missing_key(made: Path, tmp_path: Path) -> None:
    """Only ENOENT means that there is no key. Here the folder of the key is a file, which gives ENOTDIR."""
    config = tmp_path / "config"
    config.write_text("not a folder")
    for options in ([], ["--json"]):
        done = cli("verify", made / "m.axm", *options, XDG_CONFIG_HOME=str(config))
        assert done.code == 1 and "key" in done.stdout + done.stderr, done
    # What the user gives for the check is enough, as it is for somebody who has no key at all.
    given = ("--fingerprint", fingerprint(made / "m.axm"))
    assert cli("verify", made / "m.axm", *given, XDG_CONFIG_HOME=str(config)).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, so EACCES was not tested")
def test_a_key_folder_that_may_not_be_read_is_not_a_missing_key(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is there, with the key in it, and this user may not look into it."""
    config = tmp_path / "config"
    (config / "srd-rs").mkdir(parents=True, mode=0o700)
    shutil.copy(key_of(made), config / "srd-rs" / "master.key")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    monkeypatch.delenv("SRD_MASTER_KEY", raising=False)
    opened = _core.open_container(str(made / "m.axm"))
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            opened.verify(Checks(), [], 1, None)
            os._exit(0)
        except SrdIOError as error:
            os._exit(42 if "ermission denied" in str(error) else 43)
        except BaseException:
            os._exit(44)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


# A third party.


def test_a_third_party_with_a_key_of_his_own_needs_only_what_he_was_given(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "cfg"
    (home / "srd-rs").mkdir(parents=True)
    own = home / "srd-rs" / "master.key"
    own.write_text("77" * 32)
    own.chmod(0o600)
    other = srd_rs.keygen(tmp_path / "other", ed25519=True)
    container = made / "s.axm"
    for variables in ({"XDG_CONFIG_HOME": str(home)}, {"SRD_MASTER_KEY": "78" * 32}):
        assert cli("verify", container, **variables).code == 3
        for good in (("--public-key", made / "sign.pub"), ("--fingerprint", fingerprint(container))):
            done = cli("verify", container, *good, **variables)
            assert done.code == 0, done.stderr
        for bad in (("--public-key", other.public), ("--fingerprint", "00" * 32)):
            assert cli("verify", container, *bad, **variables).code == 3
        # A key that is named is a key that must have signed.
        named = ("--public-key", made / "sign.pub", "--key-file", own)
        assert cli("verify", container, *named, **variables).code == 3
    # The right public key is not enough for a container that the key did not sign.
    assert cli("verify", made / "m.axm", "--public-key", made / "sign.pub").code == 3
    assert cli("extract", container, "--public-key", made / "sign.pub", "-o", tmp_path / "x.gguf").code == 0


@pytest.mark.parametrize(
    "y",
    [
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    ],
)
def test_an_ed25519_key_of_small_order_is_refused(made: Path, tmp_path: Path, y: str) -> None:
    """For the key 01 00.., the signature 01 00.., 0 verifies for every message, and there is no private key."""
    public = tmp_path / "small.pub"
    body = base64.b64encode(PEM_PUBLIC + bytes.fromhex(y)).decode()
    public.write_text(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    data = bytearray((made / "m.axm").read_bytes())
    seal = len(data) - 192
    data[seal + 64 : seal + 96] = bytes.fromhex(y)
    data[seal + 96 : seal + 160] = bytes([1]) + bytes(63)
    data[seal + 160 :] = hashlib.sha256(data[seal : seal + 160]).digest()
    (tmp_path / "f.axm").write_bytes(data)
    done = cli("verify", made / "s.axm", "--public-key", public)
    assert done.code == 2 and "small order" in done.stderr
    # The key of zeros stands for "no signature" in a seal, so that one is refused for the signature beside it.
    assert cli("verify", tmp_path / "f.axm", "--no-key").code == 3


# Signing with another key.


def test_resign_does_not_launder(made: Path, tmp_path: Path) -> None:
    new = key_file(tmp_path, bytes(range(9, 41)))
    path = forged(made, tmp_path / "f.axm")
    for container in (path, made / "m.axm"):
        done = cli("resign", container, "-o", tmp_path / "x.axm", "--key-file", new)
        assert done.code == 3 and not (tmp_path / "x.axm").exists(), done
    done = cli("resign", path, "-o", tmp_path / "x.axm", "--key-file", new, "--old-key-file", key_of(made))
    assert done.code == 3 and not (tmp_path / "x.axm").exists()
    with pytest.raises(VerificationError):
        srd_rs.resign(path, tmp_path / "x.axm", key_file=new, old_key_file=key_of(made))
    done = cli("resign", path, "-o", tmp_path / "x.axm", "--key-file", new, "--no-old-key")
    assert done.code == 0, done.stderr


def test_resign_checks_what_lies_between_the_shards(made: Path, tmp_path: Path) -> None:
    """Without the old key as with it: what `verify` refuses gets no new signature."""
    new, path = key_file(tmp_path, bytes(range(9, 41))), tmp_path / "p.axm"
    raw = bytearray((made / "m.axm").read_bytes())
    opened = _core.open_container(made / "m.axm")
    # Shards begin at multiples of 64 KiB, and a small tensor is one shard.
    first = min(opened.tensors, key=lambda tensor: tensor.offset)
    assert 0 < first.bytes < 1 << 16
    raw[first.offset + first.bytes] = 1
    path.write_bytes(raw)
    for more in (("--no-old-key",), ("--old-key-file", key_of(made))):
        done = cli("resign", path, "-o", tmp_path / "x.axm", "--key-file", new, *more)
        assert done.code == 3 and "that are not zero" in done.stderr, done
        assert not (tmp_path / "x.axm").exists()


def test_resign_does_not_lose_a_signature_without_a_word(made: Path, tmp_path: Path) -> None:
    new, signed = key_file(tmp_path, bytes(range(9, 41))), made / "s.axm"
    keys: dict[str, Any] = {"key_file": new, "old_key_file": key_of(made)}
    with pytest.raises(UsageError, match="--drop-signature"):
        srd_rs.resign(signed, tmp_path / "x.axm", **keys)
    done = cli("resign", signed, "-o", tmp_path / "x.axm", "--key-file", new, "--old-key-file", key_of(made))
    assert done.code == 2 and not (tmp_path / "x.axm").exists()
    srd_rs.resign(signed, tmp_path / "x.axm", sign_key=made / "sign", **keys)
    assert srd_rs.verify(tmp_path / "x.axm", public_key=made / "sign.pub").public_key_checked
    srd_rs.resign(signed, tmp_path / "y.axm", drop_signature=True, **keys)
    assert srd_rs.verify(tmp_path / "y.axm", key_file=new).public_key is None


# What was verified is what is used.


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "s.axm", tmp_path / "c.axm"))


def checks(made: Path) -> Checks:
    return Checks(key_of(made))


def flips(path: Path) -> Iterator[int]:
    """Change one byte of one shard at a time, and give the number of the shard."""
    data = path.read_bytes()
    for number, (*_, offset, length) in enumerate(entries(data)):
        at = offset + length // 2
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))
            file.flush()
            yield number
            file.seek(at)
            file.write(data[at : at + 1])


@pytest.mark.parametrize(
    ("quant", "safetensors"), [(None, False), ("Q8_0", False), ("F32", False), ("BF16", True)]
)
def test_extract_copies_only_what_is_signed(
    made: Path, copy: Path, tmp_path: Path, quant: str | None, safetensors: bool
) -> None:
    """The container changes after its verification and before its weights are copied."""
    target = tmp_path / "x.out"
    planes = [entry[1] for entry in entries(copy.read_bytes())]
    options = ConvertOptions(threads=2, allow_nonfinite=True, overwrite=True)
    refused = []
    for number in flips(copy):
        shutil.copy(made / "s.axm", tmp_path / "sound.axm")
        opened = _core.open_container(str(tmp_path / "sound.axm"))
        planned = opened.plan_extract(target, quant, None, safetensors, [])
        opened.verify(checks(made), [], 2, None)
        with (tmp_path / "sound.axm").open("r+b") as file:
            file.write(copy.read_bytes())
        try:
            run_plan(planned, options, progress=None)
        except VerificationError as error:
            assert "not the signed one" in str(error) and not target.exists()
            refused.append(number)
        else:
            # A copy of the packed mix does not read the residual.
            assert quant is None and planes[number] == 1
            target.unlink()
    assert len(refused) == (len(planes) if quant or safetensors else planes.count(0))


def test_an_attestation_is_on_the_file_that_was_verified(made: Path, copy: Path, tmp_path: Path) -> None:
    good = copy.read_bytes()
    opened = _core.open_container(str(copy))
    found = opened.verify(checks(made), [], 2, None)
    # The name stands for another file now; the statement is on the one that is open.
    copy.rename(tmp_path / "moved.axm")
    copy.write_bytes(forged(made, tmp_path / "f.axm").read_bytes())
    opened.attest([], found, None, str(tmp_path / "a.json"))
    opened.detach(str(tmp_path / "a.manifest"))
    (subject,) = statement(tmp_path / "a.json")["subject"]
    assert subject == {"name": "c.axm", "digest": {"sha256": hashlib.sha256(good).hexdigest()}}
    at = numbers(good)[2]
    assert (tmp_path / "a.manifest").read_bytes() == good[: numbers(good)[1]] + good[at:]
    # The open file itself changes: at the front, in each shard, behind it, in the manifest and in the seal.
    places = [0, 70, 300, numbers(good)[1] - 1, at + 70, at + 110, len(good) - 100, len(good) - 1]
    for *_, offset, length in entries(good):
        places += [offset, offset + length]
    for place in places:
        with (tmp_path / "moved.axm").open("r+b") as file:
            file.seek(place)
            file.write(bytes([good[place] ^ 1]))
        with pytest.raises(VerificationError):
            opened.attest([], found, None, str(tmp_path / "b.json"))
        (tmp_path / "moved.axm").write_bytes(good)
    # A seal that is sound in itself, without the signature that was verified.
    stripped = bytearray(good)
    seal = len(good) - 192
    stripped[seal + 64 : seal + 160] = bytes(96)
    stripped[seal + 160 :] = hashlib.sha256(stripped[seal : seal + 160]).digest()
    (tmp_path / "moved.axm").write_bytes(stripped)
    with pytest.raises(VerificationError, match="replaced or changed"):
        opened.attest([], found, None, str(tmp_path / "b.json"))
    assert not (tmp_path / "b.json").exists()


def test_an_attestation_on_a_gguf_is_on_signed_bytes(made: Path, tmp_path: Path) -> None:
    gguf = Path(shutil.copy(made / "m.gguf", tmp_path / "g.gguf"))
    good = gguf.read_bytes()
    opened = _core.open_container(str(made / "m.axm"))
    found = opened.verify(checks(made), [str(gguf)], 2, None)
    opened.attest([str(gguf)], found, None, str(tmp_path / "a.json"))
    (subject,) = statement(tmp_path / "a.json")["subject"]
    assert subject["digest"]["sha256"] == hashlib.sha256(good).hexdigest()
    rng = random.Random(3)
    for place in [0, 100, len(good) - 1, *(rng.randrange(len(good)) for _ in range(30))]:
        gguf.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(VerificationError):
            opened.attest([str(gguf)], found, None, str(tmp_path / "b.json"))
    for other in (good + b"\0", good[:-1]):
        gguf.write_bytes(other)
        with pytest.raises(VerificationError):
            opened.attest([str(gguf)], found, None, str(tmp_path / "b.json"))
    assert not (tmp_path / "b.json").exists()


def statement(path: Path) -> dict[str, Any]:
    return json.loads(base64.b64decode(json.loads(path.read_text())["payload"]))


def test_the_digest_of_a_source_is_of_the_whole_file(made: Path, tmp_path: Path) -> None:
    srd_rs.verify(made / "m.axm", key_file=key_of(made), attest=tmp_path / "a.json")
    (source,) = statement(tmp_path / "a.json")["predicate"]["sources"]
    data = (made / "tiny.gguf").read_bytes()
    assert source["digest"] == {"sha256": hashlib.sha256(data).hexdigest()} and source["bytes"] == len(data)
    # The source digest of the GGUF covers the header alone, which is known before the weights are read.
    header = source["annotations"]
    assert header["headerSha256"] == hashlib.sha256(data[: header["headerBytes"]]).hexdigest()
    assert 0 < header["headerBytes"] < len(data)


def test_the_digests_of_all_shards_bind_the_weights(made: Path, tmp_path: Path) -> None:
    """Every file of a checkpoint in shards, for any number of threads; other weights give another fingerprint."""
    folder, prints = sharded_example(tmp_path / "model"), set()
    for threads in (1, 4):
        container = tmp_path / str(threads) / "m.axm"
        container.parent.mkdir()
        srd_rs.pack(folder, container, quant="Q4_K_M", key_file=key_of(made), threads=threads, effort="fast")
        prints.add(fingerprint(container))
    assert len(prints) == 1
    srd_rs.verify(tmp_path / "1" / "m.axm", key_file=key_of(made), attest=tmp_path / "a.json")
    sources = statement(tmp_path / "a.json")["predicate"]["sources"]
    assert {source["name"] for source in sources} >= {
        path.name for path in folder.glob("model-*.safetensors")
    }
    for source in sources:
        data = (folder / source["name"]).read_bytes()
        assert source["digest"]["sha256"] == hashlib.sha256(data).hexdigest()
    # A change of one weight that quantizing does not see changes the fingerprint all the same.
    shard = folder / "model-00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-2] ^= 1
    shard.write_bytes(data)
    srd_rs.pack(folder, tmp_path / "m.axm", quant="Q4_K_M", key_file=key_of(made), effort="fast")
    assert fingerprint(tmp_path / "m.axm") not in prints


def sharded_example(folder: Path) -> Path:
    """The example with its tensors in two files and an index."""
    shutil.copytree(EXAMPLE, folder)
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (size,) = struct.unpack_from("<Q", raw)
    entries_of = {k: v for k, v in json.loads(raw[8 : 8 + size]).items() if k != "__metadata__"}
    order = sorted(entries_of, key=lambda name: entries_of[name]["data_offsets"][0])
    index = {}
    for number, names_in in enumerate((order[: len(order) // 2], order[len(order) // 2 :]), 1):
        header, body, name = {}, b"", f"model-0000{number}-of-00002.safetensors"
        for tensor in names_in:
            begin, end = entries_of[tensor]["data_offsets"]
            part = raw[8 + size + begin : 8 + size + end]
            header[tensor] = {**entries_of[tensor], "data_offsets": [len(body), len(body) + len(part)]}
            body += part
            index[tensor] = name
        text = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + body)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


# Which model it is.


def test_another_model_under_the_name_is_noticed(made: Path) -> None:
    """All containers of a key are authentic. Their names tell one from another."""
    key = ("--key-file", key_of(made))
    done = cli("verify", made / "m.axm", *key)
    assert done.code == 0, done.stderr
    assert "model tiny, Q4_K_M, as m.gguf" in done.stdout and "made from tiny.gguf" in done.stdout
    found = json.loads(cli("verify", made / "m.axm", "--json", *key).stdout)
    assert (found["model"], found["quant"], found["files"], found["sources"]) == (
        "tiny",
        "Q4_K_M",
        ["m.gguf"],
        ["tiny.gguf"],
    )
    for good in ("tiny", "m.gguf", "m"):
        assert cli("verify", made / "m.axm", *key, "--expect-name", good).code == 0
    for bad in ("Tiny", "m.axm", "", "s"):
        done = cli("verify", made / "m.axm", *key, "--expect-name", bad)
        assert done.code == 3 and "'tiny' as m.gguf" in done.stderr
    assert cli("extract", made / "m.axm", *key, "--expect-name", "other", "-o", made / "no.gguf").code == 3
    assert not (made / "no.gguf").exists()


# Keys.


def test_keys_that_protect_nothing_are_refused(made: Path, tmp_path: Path) -> None:
    zeros = key_file(tmp_path, bytes(32))
    for command in (
        ("verify", made / "m.axm"),
        ("pack", made / "tiny.gguf", "-o", tmp_path / "z.axm"),
    ):
        done = cli(*command, "--key-file", zeros)
        assert done.code == 2 and "not all 0" in done.stderr
        assert cli(*command, SRD_MASTER_KEY="00" * 32).code == 2
    if os.geteuid() == 0:
        theirs = key_file(tmp_path, bytes(range(3, 35)))
        os.chown(theirs, 65534, -1)
        done = cli("verify", made / "m.axm", "--key-file", theirs)
        assert done.code == 2 and "belongs to the user 65534" in done.stderr


def test_a_key_is_not_echoed(made: Path) -> None:
    for secret in (KEY.hex(), KEY.hex().upper()):
        done = cli("verify", made / "m.axm", "--key-file", secret)
        assert done.code == 2 and secret not in done.stdout + done.stderr
        assert "name of a key file" in done.stderr


def test_pipes_and_devices_as_keys_do_not_block(made: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, "/dev/zero"):
        assert cli("verify", made / "m.axm", "--key-file", path).code == 2
        assert cli("verify", made / "s.axm", "--public-key", path).code == 2


def test_a_killed_keygen_leaves_no_part_of_a_key(tmp_path: Path) -> None:
    rng = random.Random(4)
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "srd_rs", "keygen", tmp_path / "whole"], check=True, capture_output=True
    )
    whole = time.monotonic() - start
    for i in range(8):
        process = subprocess.Popen([sys.executable, "-m", "srd_rs", "keygen", tmp_path / f"k{i}"])
        time.sleep(rng.uniform(0.5, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    for path in tmp_path.iterdir():
        assert path.name.startswith(("whole", "k")) and len(path.read_text().strip()) == 64, path
        assert path.stat().st_mode & 0o777 == 0o600


# Nothing is destroyed.


def test_no_output_replaces_an_input(made: Path, copy: Path, tmp_path: Path) -> None:
    before = copy.read_bytes()
    key = ("--key-file", shutil.copy(key_of(made), tmp_path / "k"))
    (tmp_path / "k").chmod(0o600)
    (tmp_path / "link").symlink_to(copy)
    os.link(copy, tmp_path / "hard")
    for target in (copy, tmp_path / "link", tmp_path / "hard", tmp_path / "k"):
        for command in (
            ("verify", copy, "--attest", target, "-f"),
            ("verify", copy, "--write-manifest", target, "-f"),
            ("extract", copy, "-o", target, "-f"),
            ("resign", copy, "-o", target, "-f", "--old-key-file", key[1], "--sign-key", made / "sign"),
        ):
            done = cli(*command, *key)
            assert done.code == 2 and "input" in done.stderr, (command, done)
            assert copy.read_bytes() == before and axm_reader.Container(before, KEY)
    assert (tmp_path / "k").read_text().strip() == KEY.hex()


def test_no_output_of_a_container_replaces_weights_or_keys(made: Path, tmp_path: Path) -> None:
    """With --overwrite as well, but for a GGUF where a GGUF is written, and so on: a slip of the pen costs nothing."""
    key, other = ("--key-file", key_of(made)), tmp_path / "k"
    other.write_text("5e" * 32)
    other.chmod(0o600)
    model, weights = tmp_path / "m.gguf", tmp_path / "w.safetensors"
    shutil.copy(made / "m.gguf", model)
    shutil.copy(EXAMPLE / "model.safetensors", weights)
    before = {path: path.read_bytes() for path in (model, weights, other)}
    resign = ("resign", made / "m.axm", "-f", "--old-key-file", key_of(made))
    for command, kept in (
        (("verify", made / "m.axm", "-f", "--attest"), before),
        (("verify", made / "m.axm", "-f", "--write-manifest"), before),
        ((*resign, "-o"), before),
        (("extract", made / "m.axm", "-f", "-o"), (weights, other)),
        (("extract", made / "m.axm", "-f", "--safetensors", "-o"), (model, other)),
    ):
        for target in kept:
            done = cli(*command, target, *key)
            assert done.code == 2 and "not replaced" in done.stderr, (command, target, done)
    assert before == {path: path.read_bytes() for path in before}
    done = cli("extract", made / "m.axm", "-f", "--safetensors", "-o", weights, *key)
    assert done.code == 0 and weights.read_bytes() != before[weights] and "llama-cli" not in done.stdout


def test_an_attestation_replaces_nothing_unasked(made: Path, tmp_path: Path) -> None:
    key = ("--key-file", key_of(made))
    target = tmp_path / "a.json"
    target.write_text("a signed statement")
    for option in ("--attest", "--write-manifest"):
        done = cli("verify", made / "m.axm", *key, option, target)
        assert done.code == 2 and target.read_text() == "a signed statement"
    assert cli("verify", made / "m.axm", *key, "--attest", target, "-f").code == 0
    assert statement(target)["predicate"]["verified"]["verified"] is True
    done = cli("verify", made / "m.axm", *key, "--attest", tmp_path / "none" / "a.json")
    assert done.code == 1 and names(tmp_path) == ["a.json"]
    # A key that would sign nothing is a mistake, and nobody signs for a container that was held against nothing.
    assert cli("verify", made / "m.axm", *key, "--sign-key", made / "sign").code == 2
    signing = ("--attest", tmp_path / "b.json", "--sign-key", made / "sign")
    assert cli("verify", made / "m.axm", "--no-key", *signing).code == 2 and names(tmp_path) == ["a.json"]
    assert cli("verify", made / "s.axm", "--no-key", "--public-key", made / "sign.pub", *signing).code == 0


def test_keygen_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text("theirs")
    for target in ("a", "b"):
        (tmp_path / "b").write_text("mine")
        done = cli("keygen", "--ed25519", tmp_path / target)
        assert done.code == 2 and "exists already" in done.stderr
    assert names(tmp_path) == ["a.pub", "b"]
    assert (tmp_path / "a.pub").read_text() == "theirs" and (tmp_path / "b").read_text() == "mine"


# Sizes.


def test_a_small_file_with_large_numbers_takes_no_memory(made: Path, tmp_path: Path) -> None:
    """A sparse file as long as its preamble says, with 2^32 - 1 shards, or with GGUF headers of 300 GB."""
    shards, header = (1 << 32) - 1, 400
    for n, data_at in ((shards, 1 << 16), (0, 300 << 30)):
        manifest_bytes = 64 + 104 * n
        size = data_at + manifest_bytes + 192
        front = b"\x89AXM\r\n\x1a\n" + struct.pack(
            "<II6Q", 1, 1, header, data_at, data_at, manifest_bytes, size, n
        )
        path = tmp_path / f"{n}.axm"
        path.write_bytes(front.ljust(256 + header, b"\0"))
        os.truncate(path, size)
        start = time.monotonic()
        done = cli("verify", path, "--no-key")
        assert done.code == 3 and "states" in done.stderr, done.stderr
        assert time.monotonic() - start < 10
        path.unlink()


@pytest.mark.parametrize("field", ["files", "sources", "tensors"])
def test_a_long_header_takes_little_memory(tmp_path: Path, field: str) -> None:
    """As many of the smallest entries as a header of 16 MiB can hold, with every hash right."""
    entry = {
        "files": '{"bytes":0,"header_bytes":0,"header_sha256":"","name":""}',
        "sources": '{"bytes":0,"hashed_bytes":0,"name":"","sha256":""}',
        "tensors": '{"base":{"bytes":0,"shards":0},"file":0,"name":"","ne":[],"offset":0,"residual":null,'
        '"shard_weights":0,"type":""}',
    }[field]
    lists = {name: "" for name in ("files", "sources", "tensors")}
    lists[field] = ",".join([entry] * (((16 << 20) - 400) // (len(entry) + 1)))
    header = (
        f'{{"alignment":65536,"arch":"","container":"{"00" * 32}","files":[{lists["files"]}],'
        f'"format":"srd-axm/1","method":"","quant":"","seed":0,"source_digest":"","sources":[{lists["sources"]}],'
        f'"tensors":[{lists["tensors"]}],"tool":""}}'
    ).encode()
    data_at = (256 + len(header) + 65535) // 65536 * 65536
    sizes = (len(header), data_at, data_at, 64, data_at + 64 + 192, 0)
    front = b"\x89AXM\r\n\x1a\n" + struct.pack("<II6Q", 1, 1, *sizes) + bytes(192)
    path = tmp_path / "long.axm"
    path.write_bytes(resealed((front[:256] + header).ljust(sizes[4], b"\0")))
    run = srd("verify", path, "--no-key")
    assert run.code == 3 and run.stderr.count("\n") == 1, run
    assert run.peak_rss < 150 << 20, f"{run.peak_rss >> 20} MiB"
