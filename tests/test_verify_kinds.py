"""Verification fails closed, what was verified is what is used, digests are of whole files: many ways of each."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

import srd_rs
from axm_tools import KEY, entries, key_file, numbers, resealed, tiny_model
from srd_rs import _core
from srd_rs.errors import FormatError, SrdError, UsageError, VerificationError
from srd_rs.options import Checks
from support import EXAMPLE, here, refused
from test_lora import of, opened, write_vocabulary
from test_pickled import CONFIG, single
from test_verify import PEM_PUBLIC, forged, sharded_example, statement
from vocab_tools import byte_bpe

OTHER = bytes(range(9, 41))
ORDERS = (
    *("00" * 32, "01" + "00" * 31, "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    *("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "ec" + "ff" * 30 + "7f"),
    *("ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f"),
)
"""The y coordinates of Ed25519 keys of small order, without the sign."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.gguf with m.axm and m.manifest; p in parts; s.axm with an Ed25519 signature; r.axm with residuals."""
    folder = tmp_path_factory.mktemp("kinds")
    model, key = tiny_model(folder / "tiny.gguf"), key_file(folder)
    srd_rs.keygen(folder / "sign", ed25519=True)
    common: dict[str, Any] = {"key_file": key, "effort": "fast"}
    srd_rs.convert(model, folder / "m.gguf", axm=True, met=False, **common)
    srd_rs.convert(
        model, folder / "p.gguf", axm=True, met=False, quant="F16", split_max_size=100_000, **common
    )
    srd_rs.pack(model, folder / "s.axm", sign_key=folder / "sign", **common)
    srd_rs.pack(model, folder / "r.axm", residual_bits=3, **common)
    srd_rs.verify(folder / "m.axm", key_file=key, manifest=folder / "m.manifest")
    return folder


def public(folder: Path, data: bytes) -> Path:
    path = folder / f"{hashlib.sha256(data).hexdigest()[:8]}.pub"
    body = base64.b64encode(data).decode()
    path.write_text(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    return path


# Where no key is found.


def with_home(home: str | None = "/nonexistent", config: str | None = None, key: str | None = None) -> Any:
    def change(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
        for name, value in (("HOME", home), ("XDG_CONFIG_HOME", config), ("SRD_MASTER_KEY", key)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return change


def with_file(write: Callable[[Path], object]) -> Any:
    """The default key file is what `write` makes."""

    def change(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        (folder / "config" / "srd-rs").mkdir(parents=True)
        write(folder / "config" / "srd-rs" / "master.key")
        with_home("/nonexistent", str(folder / "config"))(monkeypatch, folder)

    return change


def written(text: str | bytes, mode: int = 0o600, owner: int | None = None) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        if owner is not None:
            os.chown(path, owner, -1)

    return write


def broken_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "config").write_text("no folder")
    with_home("/nonexistent", str(folder / "config"))(monkeypatch, folder)


#: How the machine is -> the exit code of a verification on it.
MACHINES: dict[str, tuple[Any, int]] = {
    "no home": (with_home(), 3),
    "HOME unset": (with_home(None), 3),
    "HOME empty": (with_home(""), 3),
    "HOME relative": (with_home("home"), 3),
    "XDG empty": (with_home("/nonexistent", ""), 3),
    "XDG relative": (with_home("/nonexistent", "config"), 3),
    "a folder without the key": (with_file(lambda path: None), 3),
    "config is a file": (broken_folder, 1),
    "a dangling link": (with_file(lambda path: path.symlink_to("none")), 1),
    "a circle of links": (with_file(lambda path: path.symlink_to(path.name)), 1),
    "a folder as key": (with_file(lambda path: path.mkdir()), 2),
    "a pipe as key": (with_file(lambda path: os.mkfifo(path, 0o600)), 2),
    "a device as key": (with_file(lambda path: path.symlink_to("/dev/zero")), 2),
    "an empty key": (with_file(written("")), 2),
    "a short key": (with_file(written("5d" * 31)), 2),
    "a long key": (with_file(written("5d" * 33)), 2),
    "no digits": (with_file(written("xy" * 32)), 2),
    "zeros": (with_file(written("00" * 32)), 2),
    "bytes": (with_file(written(bytes(range(128, 160)))), 2),
    "two keys": (with_file(written("5d" * 32 + "\n" + "5e" * 32)), 2),
    "others may read": (with_file(written(KEY.hex(), 0o644)), 2),
    "a group may write": (with_file(written(KEY.hex(), 0o620)), 2),
    "another key": (with_file(written(OTHER.hex())), 3),
    "a large file": (with_file(written("5d" * 4096)), 2),
    "empty variable": (with_home(key=""), 2),
    "blank variable": (with_home(key="  "), 2),
    "short variable": (with_home(key="5d" * 31), 2),
    "zero variable": (with_home(key="0" * 64), 2),
    "0x variable": (with_home(key="0x" + "5d" * 31), 2),
    "a path in the variable": (with_home(key="/etc/hostname"), 2),
    "another key in the variable": (with_home(key=OTHER.hex()), 3),
}
if os.geteuid() == 0:
    MACHINES["the key of another user"] = with_file(written(KEY.hex(), owner=65534)), 2


@pytest.mark.parametrize("machine", MACHINES)
def test_no_command_trusts_a_container_without_its_key(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    change, code = MACHINES[machine]
    (tmp_path / "machine").mkdir()
    change(monkeypatch, tmp_path / "machine")
    monkeypatch.chdir(tmp_path / "machine")
    (tmp_path / "out").mkdir()
    out, fake = tmp_path / "out" / "x", forged(made, tmp_path / "f.axm")
    for path in (made / "m.axm", fake):
        for command in (
            ("verify", path),
            ("verify", path, "--attest", out),
            ("verify", path, "--write-manifest", out),
            ("verify", path, "--expect-name", "tiny"),
            ("verify", made / "m.gguf", "--axm", path),
            ("verify", made / "m.gguf", "--axm", made / "m.manifest", "--attest", out),
            ("extract", path, "-o", out),
            ("extract", path, "-o", out, "-q", "Q8_0"),
            ("extract", path, "-o", out, "--safetensors"),
            ("resign", path, "-o", out, "--key-file", made / "0001.key"),
        ):
            found, line = refused(*command)
            assert found == code, (machine, command, line)
            assert KEY.hex() not in line and not list(out.parent.iterdir()), (machine, command)
    # JSON says nothing else.
    found, shown, _ = here("verify", made / "m.axm", "--json")
    assert found == code and "verified" not in json.loads(shown)
    # A given fingerprint is enough on any machine, and a wrong one on none.
    right = _core.open_container(str(made / "m.axm")).header.fingerprint
    assert here("verify", made / "m.axm", "--fingerprint", right)[0] == 0
    assert refused("verify", fake, "--fingerprint", right)[0] == 3


# What a container is held against.


def test_keys_that_are_no_public_keys(made: Path, tmp_path: Path) -> None:
    """Nothing that is given as a public key makes a container pass but the key that signed it."""
    good = (made / "sign.pub").read_text()
    body = base64.b64decode(good.splitlines()[1])
    others: list[Path] = [made / name for name in ("sign", "0001.key", "m.gguf", "m.axm")]
    others += [Path("/dev/null"), Path("/dev/zero"), tmp_path, tmp_path / "none"]
    for number, data in enumerate(
        (
            b"",
            b"\xff" * 100,
            good.replace("PUBLIC", "PRIVATE").encode(),
            good.replace("-----END", "----END").encode(),
            good.replace(good[40:44], "!!!!").encode(),
            body,
            base64.b64encode(body),
            good.encode() * 100,
        )
    ):
        others.append(tmp_path / f"{number}.pub")
        others[-1].write_bytes(data)
    # X25519, a key with bytes behind it, a short one, and another one.
    x25519 = bytes.fromhex("302a300506032b656e032100") + body[12:]
    flipped = body[:-1] + bytes([body[-1] ^ 1])
    others += [
        public(tmp_path, data) for data in (x25519, body + b"\0", body[:-1], body[12:], flipped, bytes(44))
    ]
    for y in ORDERS:
        for sign in (0, 0x80):
            key = bytearray.fromhex(y)
            key[31] |= sign
            others.append(public(tmp_path, PEM_PUBLIC + key))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert len(others) > 25
    for path in [*others, pipe]:
        for key in ((), ("--no-key",), ("--key-file", made / "0001.key")):
            code, line = refused("verify", made / "s.axm", "--public-key", path, *key)
            assert code in (1, 2, 3), (path, line)
    assert here("verify", made / "s.axm", "--public-key", made / "sign.pub")[0] == 0


def test_fingerprints_and_names_that_are_not_those(made: Path) -> None:
    right = _core.open_container(str(made / "m.axm")).header.fingerprint
    key = ("--key-file", made / "0001.key")
    for good in (right, right.upper(), f"sha256:{right}", f" {right} "):
        assert here("verify", made / "m.axm", "--fingerprint", good)[0] == 0
    for bad in (
        "",
        " ",
        right[:-1],
        right + "0",
        right[:-2],
        "0" * 64,
        right[::-1],
        f"sha512:{right}",
        f"sha256:sha256:{right}",
        right.replace(right[0], "g"),
        "sha256:",
        f"0x{right}",
        right[:32] + " " + right[32:],
        _other(right),
    ):
        for extra in ((), key, ("--no-key",)):
            assert refused("verify", made / "m.axm", "--fingerprint", bad, *extra)[0] in (2, 3), bad
    for name in ("tiny", "m.gguf", "m"):
        assert here("verify", made / "m.axm", *key, "--expect-name", name)[0] == 0
    for bad in (
        "Tiny",
        "tiny ",
        " tiny",
        "tin",
        "tinyy",
        "m.GGUF",
        "M",
        "m.axm",
        "./m.gguf",
        "m.gguf.gguf",
        "*",
        "t.ny",
        "tiny\n",
        "",
        "m.",
        ".gguf",
        "tiny.gguf",
        str(made / "m.gguf"),
        "unknown",
        "\u0442iny",
        "m.gguf/",
        "m\u200b",
    ):
        code, line = refused("verify", made / "m.axm", *key, "--expect-name", bad)
        assert code == 3 and "'tiny' as m.gguf" in line, bad


def _other(digits: str) -> str:
    return ("1" if digits[0] == "0" else "0") + digits[1:]


def test_every_place_of_a_container_counts(made: Path, tmp_path: Path) -> None:
    """One changed byte anywhere, another length, and parts of another container of the same key."""
    key, path, out = made / "0001.key", tmp_path / "c.axm", tmp_path / "out"
    rng, tried = random.Random(5), 0
    for name in ("m.axm", "s.axm", "r.axm", "p.axm"):
        data = (made / name).read_bytes()
        other = (made / ("s.axm" if name == "m.axm" else "m.axm")).read_bytes()
        front, _, at, _, size, _ = numbers(data)
        places = [
            0,
            8,
            12,
            64,
            100,
            255,
            256,
            256 + front - 1,
            256 + front,
            at,
            at + 16,
            at + 63,
            at + 64,
            at + 110,
        ]
        places += [size - 192, size - 160, size - 128, size - 96, size - 32, size - 1]
        places += [
            start + step for *_, start, length in entries(data) for step in (0, length // 2, length - 1)
        ]
        changed = [bytes([*data[:i], data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :] for i in places]
        changed += [data[:i] for i in (0, 1, 255, 256, at, size - 192, size - 1)]
        changed += [
            data + b"\0",
            data + data,
            data[1:],
            other[:256] + data[256:],
            data[:at] + other[numbers(other)[2] :],
        ]
        changed += [data[:-192] + other[-192:], data[:-192] + bytes(192)]
        for content in changed:
            path.write_bytes(content)
            for command in (("verify", path), ("extract", path, "-o", out)):
                code, line = refused(*command, "--key-file", key)
                assert code == 3 or (code == 2 and "this is" in line) or (code == 1 and "empty" in line), line
                assert not out.exists()
                tried += 1
    assert tried > 400


def test_other_ggufs_than_that_of_the_container(made: Path, tmp_path: Path) -> None:
    key, tried = ("--key-file", made / "0001.key"), 0
    good = (made / "m.gguf").read_bytes()
    start = gguf.GGUFReader(made / "m.gguf").data_offset
    places = [0, 4, 8, 16, 24, 40, start - 40, start, len(good) // 2, len(good) - 1]
    changed = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in places]
    changed += [
        good[:-1],
        good + b"\0",
        good + bytes(32),
        good[: len(good) // 2],
        (made / "tiny.gguf").read_bytes(),
    ]
    for content in changed:
        (tmp_path / "g.gguf").write_bytes(content)
        for holder in ("m.axm", "m.manifest"):
            code, line = refused(
                "verify", tmp_path / "g.gguf", "--axm", made / holder, *key, "--attest", tmp_path / "a"
            )
            assert code == 3 or "this is" in line, line
            assert not (tmp_path / "a").exists()
            tried += 1
    for holder in ("p.axm", "tiny.gguf", "sign.pub", "0001.key"):
        refused("verify", made / "m.gguf", "--axm", made / holder, *key)
    # Parts: one is missing, one is another's, two change places, one stands twice.
    parts = sorted(made.glob("p-*.gguf"))
    assert len(parts) >= 3

    def fresh() -> list[Path]:
        shutil.rmtree(tmp_path / "p", ignore_errors=True)
        (tmp_path / "p").mkdir()
        return [Path(shutil.copy(part, tmp_path / "p")) for part in parts]

    assert here("verify", fresh()[1], "--axm", made / "p.axm", *key)[0] == 0
    for change in (
        lambda p: p[1].unlink(),
        lambda p: p[0].unlink(),
        lambda p: shutil.copy(p[0], p[1]),
        lambda p: shutil.copy(p[1], p[0]),
        lambda p: (p[1].rename(p[0].with_name("t")), p[2].rename(p[1]), p[0].with_name("t").rename(p[2])),
        lambda p: p[1].write_bytes(b""),
        lambda p: (p[1].unlink(), p[1].mkdir()),
        lambda p: (p[1].unlink(), os.mkfifo(p[1])),
        lambda p: p[1].write_bytes(p[1].read_bytes()[:-1]),
        lambda p: (p[1].unlink(), p[1].symlink_to("/dev/zero")),
    ):
        copies = fresh()
        change(copies)
        refused("verify", copies[2], "--axm", made / "p.axm", *key)


# What was verified is what is used.


def test_a_race_is_never_won(made: Path, tmp_path: Path) -> None:
    """Another thread changes the container all the time: what comes out has the signed bytes, or nothing comes out."""
    good, path = (made / "r.axm").read_bytes(), tmp_path / "c.axm"
    key = made / "0001.key"
    right = {}
    for quant in (None, "Q8_0"):
        srd_rs.extract(made / "r.axm", tmp_path / "x.gguf", quant=quant, key_file=key, overwrite=True)
        right[quant] = (tmp_path / "x.gguf").read_bytes()
    path.write_bytes(good)
    places = [offset + length // 2 for *_, offset, length in entries(good)]
    stop, rng = threading.Event(), random.Random(6)

    def change() -> None:
        with path.open("r+b", buffering=0) as file:
            while not stop.is_set():
                at = rng.choice(places)
                for value in (good[at] ^ 1, good[at]):
                    file.seek(at)
                    file.write(bytes([value]))
                    time.sleep(rng.random() * 0.002)

    thread = threading.Thread(target=change)
    thread.start()
    ends = {"refused": 0, "right": 0}
    try:
        for number in range(40):
            quant, out = (None, "Q8_0")[number % 2], tmp_path / f"{number}.gguf"
            try:
                if number % 4 < 2:
                    srd_rs.extract(path, out, quant=quant, key_file=key)
                else:
                    srd_rs.resign(path, out, key_file=key, old_key_file=key)
            except VerificationError:
                ends["refused"] += 1
                assert not out.exists()
                continue
            ends["right"] += 1
            if number % 4 < 2:
                assert out.read_bytes() == right[quant]
            else:
                srd_rs.verify(out, key_file=key)
    finally:
        stop.set()
        thread.join()
    assert ends["refused"] > 0, ends


def test_a_changed_container_is_not_signed_again(made: Path, tmp_path: Path) -> None:
    """The container changes after it was opened, at the front, in its GGUF header, and in each shard."""
    good, out = (made / "m.axm").read_bytes(), tmp_path / "out.axm"
    front, start, at, *_ = numbers(good)
    shards = [offset + length // 2 for *_, offset, length in entries(good)]
    for place in [256 + front + 8, start - 1, *shards]:
        path = tmp_path / "c.axm"
        path.write_bytes(good)
        container = _core.open_container(str(path))
        changed = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        with path.open("r+b") as file:
            file.write(changed)
        try:
            container.resign(Checks(made / "0001.key"), out, made / "0001.key")
        except VerificationError:
            assert not out.exists()
        else:
            # Padding alone is not copied.
            assert place == start - 1
            srd_rs.verify(out, key_file=made / "0001.key")
            out.unlink()
    # A manifest is made of the open file, and is checked again.
    for place in (256 + 8, 256 + front + 8, at + 70, len(good) - 150, len(good) - 40):
        path.write_bytes(good)
        container = _core.open_container(str(path))
        container.detach(tmp_path / "right", True)
        assert (tmp_path / "right").read_bytes() == good[:start] + good[at:]
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([good[place] ^ 1]))
        with pytest.raises(VerificationError):
            container.detach(out)
        assert not out.exists()


# Digests.


def sources(path: Path, key: Path) -> list[tuple[str, str]]:
    """Name and SHA-256 of the sources in an attestation of a container."""
    target = path.with_suffix(".json")
    srd_rs.verify(path, key_file=key, attest=target, overwrite=target.exists())
    listed = statement(target)["predicate"]["sources"]
    return [(source["name"], source["digest"]["sha256"]) for source in listed]


def digests(*folders: Path) -> set[tuple[str, str]]:
    return {
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
        for folder in folders
        for path in (folder.rglob("*") if folder.is_dir() else [folder])
        if path.is_file()
    }


@pytest.mark.parametrize(
    "kind", ["one file", "shards", "GGUF", "GGUF in parts", "adapters", "pickle", "effort srd", "parts"]
)
def test_digests_of_sources_are_of_whole_files(made: Path, tmp_path: Path, kind: str) -> None:
    key = made / "0001.key"
    common: dict[str, Any] = {"key_file": key, "axm": True, "met": False, "effort": "fast", "quant": "Q8_0"}
    folders, weights = [EXAMPLE], {"model.safetensors"}
    if kind == "shards":
        folders = [sharded_example(tmp_path / "model")]
        weights = {path.name for path in folders[0].glob("model-*")}
    elif kind == "GGUF":
        folders, weights = [made / "tiny.gguf"], {"tiny.gguf"}
    elif kind == "GGUF in parts":
        (tmp_path / "g").mkdir()
        srd_rs.convert(
            made / "tiny.gguf", tmp_path / "g" / "g.gguf", quant="F16", split_max_size=100_000, effort="fast"
        )
        folders = [tmp_path / "g"]
        weights = {path.name for path in folders[0].glob("g-*.gguf")}
    elif kind == "adapters":
        checkpoint = opened(of("two"), tmp_path)
        folders = [write_vocabulary(checkpoint), *checkpoint.adapters]
        common["lora"], common["quant"] = checkpoint.adapters, "BF16"
        weights = {"model.safetensors", "adapter_model.safetensors", "adapter_config.json"}
    elif kind == "pickle":
        folders, weights = [single(tmp_path / "model")], {"pytorch_model.bin"}
        letters = [chr(0x100 + i) for i in range(CONFIG["vocab_size"] - 1)]
        vocab = {letter: i for i, letter in enumerate([*letters, letters[0] + letters[1]])}
        tokenizer = byte_bpe(vocab, [[letters[0], letters[1]]])
        (folders[0] / "tokenizer.json").write_text(json.dumps(tokenizer))
        common["quant"] = "F16"
    elif kind == "effort srd":
        common |= {
            "effort": "srd",
            "calibrate": "random",
            "calibrate_tokens": 64,
            "calibrate_block": 256,
            "quant": "Q4_K_M",
        }
    elif kind == "parts":
        common["split_max_size"] = 3 << 20
    model = sorted(folders[0].glob("g-*"))[0] if kind == "GGUF in parts" else folders[0]
    prints = set()
    for threads in (1, 3):
        out = tmp_path / f"{threads}" / "o.gguf"
        out.parent.mkdir()
        srd_rs.convert(model, out, threads=threads, **common)
        found = sources(out.with_suffix(".axm"), key)
        assert set(found) <= digests(*folders), kind
        assert weights <= {name for name, _ in found}, kind
        # Two adapters have files of the same names, and each has its own digest.
        assert len(found) == len(set(found)) or kind != "adapters"
        prints.add(_core.open_container(str(out.with_suffix(".axm"))).header.fingerprint)
    assert len(prints) == 1


def test_a_change_of_any_source_is_another_fingerprint(made: Path, tmp_path: Path) -> None:
    """Every file that a conversion reads is bound, whether the change shows in the GGUF or not."""
    model = Path(shutil.copytree(EXAMPLE, tmp_path / "model"))
    out, key = tmp_path / "o.axm", made / "0001.key"

    def fingerprint() -> str | None:
        try:
            srd_rs.pack(model, out, quant="Q4_K_M", effort="fast", key_file=key, overwrite=out.exists())
        except SrdError:
            return None
        return _core.open_container(str(out)).header.fingerprint

    first = fingerprint()
    assert first is not None and fingerprint() == first
    listed = {name for name, _ in sources(out, key)}
    for path in sorted(model.rglob("*")):
        if not path.is_file() or path.name in ("LICENSE", "NOTICE"):
            continue
        data = path.read_bytes()
        weights = path.suffix == ".safetensors"
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:] if weights else data + b"\n")
        assert (fingerprint() != first) == (path.name in listed), path
        path.write_bytes(data)
    assert fingerprint() == first
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= listed


def test_a_calibration_is_bound_by_its_digest(tmp_path: Path) -> None:
    """Any change of a calibration file is refused; who makes the hashes right again gets another digest."""
    path, other, out = tmp_path / "c.safetensors", tmp_path / "d.safetensors", tmp_path / "o.gguf"
    options: dict[str, Any] = {"quant": "Q4_K_M", "effort": "srd", "met": False, "overwrite": True}
    srd_rs.calibrate(EXAMPLE, path, text="random", tokens=64, block=256)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    rng = random.Random(7)
    places = [
        0,
        8,
        9,
        30,
        8 + size - 1,
        8 + size,
        len(data) - 1,
        *(rng.randrange(len(data)) for _ in range(40)),
    ]
    changed = [data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :] for i in places]
    changed += [data[:-1], data + b"\0", data[: 8 + size], data[:100], data[8 + size :], data + data[-4:]]
    # Two moments change places.
    changed.append(data[: 8 + size] + data[-64:] + data[8 + size : -64])
    for content in changed:
        other.write_bytes(content)
        with pytest.raises((FormatError, UsageError, VerificationError)):
            srd_rs.convert(EXAMPLE, out, calibrate=other, **options)
        assert not out.exists()
    header = json.loads(data[8 : 8 + size])
    assert "sha256" in json.dumps(header)
    srd_rs.convert(EXAMPLE, out, calibrate=path, **options)
    first = digest_of(out)
    body = bytearray(data[8 + size :])
    body[3] ^= 1
    metadata = header["__metadata__"]
    (name,) = [
        key for key, value in metadata.items() if value == hashlib.sha256(data[8 + size :]).hexdigest()
    ]
    metadata[name] = hashlib.sha256(body).hexdigest()
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    if len(text) == size:
        other.write_bytes(data[:8] + text + body)
        srd_rs.convert(EXAMPLE, out, calibrate=other, **options)
        assert digest_of(out) != first


def digest_of(path: Path) -> str:
    return str(gguf.GGUFReader(path).fields["srd.calibration.digest"].contents())


# Keys.


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_secret_keys_of_others_are_refused(made: Path, tmp_path: Path) -> None:
    """The master key, the old key, the Ed25519 key and the key of `srd-rs sign`: of another user, or open to others."""
    ec = pytest.importorskip(
        "cryptography.hazmat.primitives.asymmetric.ec", reason="cryptography is not installed"
    )
    from test_signing import write_pair

    oms = write_pair(tmp_path / "oms.pem", ec.generate_private_key(ec.SECP256R1()))
    master, ed = (Path(shutil.copy(made / name, tmp_path)) for name in ("0001.key", "sign"))
    (tmp_path / "m.gguf").write_bytes(b"x")
    key, out = ("--key-file", made / "0001.key"), tmp_path / "out"
    commands: list[tuple[Path, tuple[object, ...]]] = [
        (master, ("verify", made / "m.axm", "--key-file", master)),
        (master, ("extract", made / "m.axm", "-o", out, "--key-file", master)),
        (master, ("pack", made / "tiny.gguf", "-o", out, "--key-file", master)),
        (master, ("resign", made / "m.axm", "-o", out, "--old-key-file", master, *key)),
        (
            master,
            ("resign", made / "m.axm", "-o", out, "--old-key-file", made / "0001.key", "--key-file", master),
        ),
        (ed, ("pack", made / "tiny.gguf", "-o", out, *key, "--sign-key", ed)),
        (ed, ("verify", made / "m.axm", *key, "--attest", out, "--sign-key", ed)),
        (
            ed,
            (
                "resign",
                made / "m.axm",
                "-o",
                out,
                "--old-key-file",
                made / "0001.key",
                *key,
                "--sign-key",
                ed,
            ),
        ),
        (oms, ("sign", tmp_path / "m.gguf", "-o", out, "--oms-key", oms)),
        (oms, ("convert", made / "tiny.gguf", "--fast", "-o", out, "--oms-key", oms)),
    ]
    for path, command in commands:
        for mode, owner in ((0o600, 65534), (0o644, 0), (0o660, 0), (0o602, 0), (0o400, 1)):
            path.chmod(mode)
            os.chown(path, owner, -1)
            code, line = refused(*command)
            assert code == 2 and str(path.name) in line, (command, line)
            assert not out.exists()
        path.chmod(0o600)
        os.chown(path, 0, -1)
        # Through a link it is the file that counts.
        link = tmp_path / "link"
        link.symlink_to(path)
        assert here(*[link if word == path else word for word in command])[0] == 0, command
        for left in tmp_path.glob("out*"):
            left.unlink()
        link.unlink()


def test_a_new_key_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask is, nobody else can read the key or look into the folder that is made for it."""
    old = os.umask(0)
    try:
        for number, command in enumerate(
            (
                ("keygen",),
                ("keygen", "{new}/k"),
                ("keygen", "--ed25519", "{new}"),
                ("pack", "{model}", "-o", "{new}.axm", "--fast"),
            )
        ):
            config, new = tmp_path / f"config{number}", tmp_path / f"new{number}"
            monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
            monkeypatch.delenv("SRD_MASTER_KEY", raising=False)
            model = tiny_model(tmp_path / "tiny.gguf")
            assert here(*(word.format(new=new, model=model) for word in command))[0] == 0
            keys = [
                *config.rglob("master.key"),
                *tmp_path.glob(f"new{number}"),
                *tmp_path.glob(f"new{number}/k"),
            ]
            for path in keys:
                if path.is_file():
                    assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            if (config / "srd-rs").exists():
                assert stat.S_IMODE((config / "srd-rs").stat().st_mode) == 0o700
    finally:
        os.umask(old)


def test_hashes_that_are_right_again_do_not_make_a_container(made: Path, tmp_path: Path) -> None:
    """What somebody without the key can do: other weights, another name, another source; all hashes are right."""
    data, path = (made / "m.axm").read_bytes(), tmp_path / "c.axm"
    front = numbers(data)[0]
    header = json.loads(data[256 : 256 + front])
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda h: h["sources"][0].update(file_sha256="0" * 64),
        lambda h: h["sources"][0].update(name="t.gguf"),
        lambda h: h.update(seed=1),
        lambda h: h.update(method="srd-x"),
        lambda h: h.update(quant="Q4_K_S"),
        lambda h: h["files"][0].update(name="x.gguf"),
        lambda h: h.update(tool=h["tool"][::-1]),
        lambda h: h.update(source_digest="sha256:" + "0" * 64),
        lambda h: h.update(container="0" * 64),
    ]
    key = ("--key-file", made / "0001.key")
    right = _core.open_container(str(made / "m.axm")).header.fingerprint
    for change in changes:
        other = json.loads(json.dumps(header))
        change(other)
        text = json.dumps(other, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
        if len(text) > front:
            continue
        text = text[:-1] + b" " * (front - len(text)) + text[-1:]
        for sealed_by in (None, OTHER):
            path.write_bytes(resealed(data[:256] + text + data[256 + front :], sealed_by))
            for anchor in (key, ("--fingerprint", right), ("--public-key", made / "sign.pub")):
                assert refused("verify", path, *anchor)[0] == 3
                assert refused("extract", path, *anchor, "-o", tmp_path / "out")[0] == 3
            assert refused("resign", path, "-o", tmp_path / "out", "--old-key-file", key[1], *key)[0] == 3
    assert not (tmp_path / "out").exists()
