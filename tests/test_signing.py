"""Signatures of the OpenSSF Model Signing specification: the package `model_signing` verifies ours, ours verifies its,
and every change is refused with exit code 3."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from srd_rs.errors import FormatError, UsageError, VerificationError
from support import EXAMPLE, srd, write_projector

pytest.importorskip("cryptography", reason="cryptography is not installed: nothing was signed")
model_signing = pytest.importorskip(
    "model_signing", reason="model-signing is not installed: no signature was compared with its"
)

from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402
from cryptography.hazmat.primitives.serialization import (  # noqa: E402
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def write_pair(path: Path, key: Any) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("keys") / "key.pem", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split GGUF, a whole GGUF with its container and its projector, and their sidecars."""
    folder = tmp_path_factory.mktemp("published")
    os.environ["SRD_MASTER_KEY"] = "5d" * 32
    try:
        srd_rs.convert(EXAMPLE, folder / "a.gguf", quant="Q4_K_M", effort="fast", axm=True)
        srd_rs.convert(
            EXAMPLE, folder / "b.gguf", quant="Q8_0", effort="fast", axm=False, split_max_size=3 << 20
        )
    finally:
        del os.environ["SRD_MASTER_KEY"]
    write_projector(folder / "mmproj-a-F16.gguf")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("text")
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "model"))


def theirs(key: Path) -> Any:
    return model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key.with_suffix(".pub"))


def test_a_folder_is_verified_by_both(folder: Path, key: Path) -> None:
    signed = srd_rs.sign(folder, key=key)
    assert signed.path == folder / "model.sig" and signed.unsigned == ()
    assert {"a.gguf", "a.axm", "a.met.json", "mmproj-a-F16.gguf", "sub/notes.txt"} < set(signed.files)
    assert any(name.startswith("b-00001-of-") for name in signed.files)
    theirs(key).verify(folder, signed.path)
    found = srd_rs.verify_signature(signed.path, public_key=key.with_suffix(".pub"))
    assert found.files == signed.files
    assert found.bytes == sum((folder / name).stat().st_size for name in signed.files)


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_what_model_signing_signs_is_verified(folder: Path, tmp_path: Path, curve: Any) -> None:
    key = write_pair(tmp_path / "k.pem", ec.generate_private_key(curve()))
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=True)
    config.set_hashing_config(hashing).sign(folder, folder / "model.sig")
    found = srd_rs.verify_signature(folder / "model.sig", public_key=key.with_suffix(".pub"))
    assert "a.gguf" in found.files
    shutil.move(folder / "model.sig", tmp_path / "model.sig")
    srd_rs.verify_signature(tmp_path / "model.sig", folder, public_key=key.with_suffix(".pub"))
    # Ours with the same curve.
    srd_rs.sign(folder, key=key)
    theirs(key).verify(folder, folder / "model.sig")


def test_parts_of_files_are_verified(folder: Path, tmp_path: Path, key: Path) -> None:
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
    hashing = model_signing.hashing.Config().use_shard_serialization(shard_size=1_000_003)
    config.set_hashing_config(hashing).sign(folder, tmp_path / "s.sig")
    public = key.with_suffix(".pub")
    found = srd_rs.verify_signature(tmp_path / "s.sig", folder, public_key=public)
    assert found.bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    data = (folder / "a.gguf").read_bytes()
    for changed in (data + b"\0", data[:-1], data[:1_000_003] + b"\1" + data[1_000_004:]):
        (folder / "a.gguf").write_bytes(changed)
        with pytest.raises(VerificationError, match=r"a\.gguf"):
            srd_rs.verify_signature(tmp_path / "s.sig", folder, public_key=public)


def test_some_files_of_a_folder(folder: Path, key: Path) -> None:
    files = [folder / "a.gguf", folder / "a.met.json"]
    signed = srd_rs.sign(files, folder / "a.sig", key=key)
    assert signed.files == ("a.gguf", "a.met.json") and "a.axm" in signed.unsigned
    theirs(key).verify(folder, signed.path)
    public = key.with_suffix(".pub")
    assert srd_rs.verify_signature(signed.path, public_key=public).files == signed.files
    # A file that came later is a file too many, unless that is allowed.
    (folder / "late.gguf").write_bytes(b"x")
    with pytest.raises(VerificationError, match=r"late\.gguf"):
        srd_rs.verify_signature(signed.path, public_key=public)
    found = srd_rs.verify_signature(signed.path, public_key=public, ignore_unsigned=True)
    assert "late.gguf" in found.unsigned


Change = Callable[[Path], object]


def flip(name: str) -> Change:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return change


def swap(folder: Path) -> None:
    one, other = sorted(folder.glob("b-*.gguf"))[:2]
    one.rename(folder / "t")
    other.rename(one)
    (folder / "t").rename(other)


def link(folder: Path) -> None:
    (folder / "a.gguf").rename(folder.parent / "real.gguf")
    (folder / "a.gguf").symlink_to(folder.parent / "real.gguf")


def resigned(change: Callable[[dict[str, Any]], object]) -> Change:
    """Another statement in the same envelope: the signature is no longer that of the statement."""

    def apply(folder: Path) -> None:
        path = folder / "model.sig"
        bundle = json.loads(path.read_text())
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        change(statement)
        payload = base64.b64encode(json.dumps(statement).encode()).decode()
        bundle["dsseEnvelope"]["payload"] = payload
        path.write_text(json.dumps(bundle))

    return apply


CHANGES: dict[str, Change] = {
    **{
        f"change {n}": flip(n)
        for n in ("a.gguf", "a.axm", "a.met.json", "mmproj-a-F16.gguf", "sub/notes.txt")
    },
    "change a part": lambda f: flip(sorted(f.glob("b-*.gguf"))[1].name)(f),
    "change the sidecar of the parts": lambda f: flip(next(f.glob("b-*.met.json")).name)(f),
    "swap two parts": swap,
    "add a file": lambda f: (f / "new.gguf").write_bytes(b"x"),
    "add a file in a folder": lambda f: (f / "sub" / "new.txt").write_text("x"),
    "add a link": lambda f: (f / "new.gguf").symlink_to("/etc/hostname"),
    "add a linked folder": lambda f: (f / "new").symlink_to("/etc"),
    "remove a file": lambda f: (f / "a.axm").unlink(),
    "rename a file": lambda f: (f / "a.axm").rename(f / "c.axm"),
    "a link in the place of a file": link,
    "a folder in the place of a file": lambda f: ((f / "a.gguf").unlink(), (f / "a.gguf").mkdir()),
    "shorter": lambda f: (f / "a.gguf").write_bytes((f / "a.gguf").read_bytes()[:-1]),
    "longer": lambda f: (f / "a.gguf").write_bytes((f / "a.gguf").read_bytes() + b"\0"),
    "another digest": resigned(lambda s: s["predicate"]["resources"][0].update(digest="0" * 64)),
    "an ignored name": resigned(lambda s: s["predicate"]["serialization"]["ignore_paths"].append("a.gguf")),
    "no file": resigned(lambda s: s["predicate"].update(resources=[])),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_refused(folder: Path, key: Path, name: str) -> None:
    srd_rs.sign(folder, key=key)
    public = key.with_suffix(".pub")
    assert srd("verify", folder / "model.sig", "--public-key", public).code == 0
    CHANGES[name](folder)
    done = srd("verify", folder / "model.sig", "--public-key", public, "--json")
    assert done.code == 3 and done.json["error"]["kind"] == "verification", done
    with pytest.raises(Exception):  # noqa: B017 (the other tool refuses as well, with many kinds of errors)
        theirs(key).verify(folder, folder / "model.sig")


def test_another_key_and_no_key(folder: Path, key: Path, tmp_path: Path) -> None:
    srd_rs.sign(folder, key=key)
    other = write_pair(tmp_path / "o.pem", ec.generate_private_key(ec.SECP256R1())).with_suffix(".pub")
    assert srd("verify", folder / "model.sig", "--public-key", other).code == 3
    assert srd("verify", folder / "model.sig").code == 3
    # Without the name of the key in the bundle the signature itself decides.
    path = folder / "model.sig"
    bundle = json.loads(path.read_text())
    bundle["verificationMaterial"]["publicKey"] = {}
    path.write_text(json.dumps(bundle))
    assert srd("verify", path, "--public-key", key.with_suffix(".pub")).code == 0
    done = srd("verify", path, "--public-key", other, "--json")
    assert done.code == 3 and "signature is wrong" in done.json["error"]["message"]


def forged(folder: Path, key: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A statement that whoever has the key has signed, but that no signer would make."""
    from srd_rs.signing import _private_key, _signature

    path = folder / "model.sig"
    resigned(change)(folder)
    bundle = json.loads(path.read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    raw = _signature(_private_key(key), payload)
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(raw).decode()
    path.write_text(json.dumps(bundle))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["predicate"]["resources"][0].update(name="../a.gguf"),
        lambda s: s["predicate"]["resources"][0].update(name="/etc/hostname"),
        lambda s: s["predicate"]["resources"].append(dict(s["predicate"]["resources"][0])),
        lambda s: s["predicate"]["serialization"].update(hash_type="blake3"),
        lambda s: s["predicate"]["serialization"].update(method="shards"),
        lambda s: s.update(predicateType="https://example.com/other"),
        lambda s: s.pop("predicate"),
        lambda s: s["subject"].append(s["subject"][0]),
        lambda s: s["predicate"]["resources"][0].update(name=5),
    ],
)
def test_statements_that_no_signer_makes(folder: Path, key: Path, change: Any) -> None:
    srd_rs.sign(folder, key=key)
    forged(folder, key, change)
    with pytest.raises(VerificationError):
        srd_rs.verify_signature(folder / "model.sig", public_key=key.with_suffix(".pub"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root.pem issued int.pem, which issued leaf.pem. other.pem is another root, and bad.pem may not sign."""
    folder = tmp_path_factory.mktemp("authority")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate was tried")

    def run(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    for name in ("root", "other", "int", "leaf", "bad"):
        run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        (folder / f"{name}.key").chmod(0o600)
    ca = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    for name in ("root", "other"):
        run("req", "-x509", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.pem", *ca)
    for name, issuer, lines in (
        ("int", "root", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"),
        ("leaf", "int", "keyUsage=critical,digitalSignature\n"),
        ("bad", "int", "keyUsage=critical,keyAgreement\n"),
    ):
        (folder / "ext").write_text(lines)
        run("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key",
            "-CAcreateserial", "-days", "100", "-extfile", "ext", "-out", f"{name}.pem")  # fmt: skip
    return folder


def test_a_certificate(folder: Path, authority: Path) -> None:
    sig = folder / "model.sig"
    signing = ("--oms-key", authority / "leaf.key", "--certificate", authority / "leaf.pem")
    assert srd("sign", folder, *signing, "--certificate-chain", authority / "int.pem").code == 0
    root = authority / "root.pem"
    done = srd("verify", sig, "--trust-root", root, "--json")
    assert done.code == 0 and done.json["signer"] == "CN=leaf"
    config = model_signing.verifying.Config()
    config.use_certificate_verifier(certificate_chain=[root]).verify(folder, sig)
    assert srd("verify", sig, "--trust-root", authority / "other.pem").code == 3
    assert srd("verify", sig, "--public-key", authority / "root.pem").code == 3
    flip("a.gguf")(folder)
    assert srd("verify", sig, "--trust-root", root).code == 3
    flip("a.gguf")(folder)
    # Theirs, with certificates.
    sig.unlink()
    theirs = model_signing.signing.Config().use_certificate_signer(
        private_key=authority / "leaf.key",
        signing_certificate=authority / "leaf.pem",
        certificate_chain=[authority / "int.pem"],
    )
    theirs.sign(folder, sig.with_name("t.sig"))
    found = srd_rs.verify_signature(sig.with_name("t.sig"), trust_root=[root])
    assert found.signer == "CN=leaf"
    sig.with_name("t.sig").unlink()
    # A certificate that may not sign, and one that is not that of the key.
    bad = {"key": authority / "bad.key", "certificate": authority / "bad.pem"}
    srd_rs.sign(folder, **bad, certificate_chain=[authority / "int.pem"])
    with pytest.raises(VerificationError):
        srd_rs.verify_signature(sig, trust_root=[root])
    with pytest.raises(UsageError, match="not that of the key"):
        srd_rs.sign(folder, key=authority / "leaf.key", certificate=authority / "bad.pem", overwrite=True)
    with pytest.raises(UsageError, match="--certificate"):
        srd_rs.sign(folder, key=authority / "leaf.key", certificate_chain=[root], overwrite=True)


def test_keys_that_are_none(folder: Path, key: Path, tmp_path: Path) -> None:
    other = write_pair(tmp_path / "rsa.pem", rsa.generate_private_key(65537, 2048))
    small = write_pair(tmp_path / "k1.pem", ec.generate_private_key(ec.SECP256K1()))
    text = tmp_path / "text"
    text.write_text("no key")
    text.chmod(0o600)
    for wrong in (other, small, text, key.with_suffix(".pub")):
        assert srd("sign", folder, "--oms-key", wrong).code == 2
    open_key = Path(shutil.copy(key, tmp_path / "open.pem"))
    open_key.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        srd_rs.sign(folder, key=open_key)
    assert not (folder / "model.sig").exists()
    srd_rs.sign(folder, key=key)
    for wrong in (other.with_suffix(".pub"), small.with_suffix(".pub"), text):
        assert srd("verify", folder / "model.sig", "--public-key", wrong).code == 2


def test_what_is_signed_is_named(folder: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another folder"):
        srd_rs.sign([folder / "a.gguf", folder / "sub" / "notes.txt"], key=key)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file"):
        srd_rs.sign(tmp_path / "empty", key=key)
    srd_rs.sign(folder, key=key)
    with pytest.raises(UsageError, match="exists already"):
        srd_rs.sign(folder, key=key)
    srd_rs.sign(folder, key=key, overwrite=True)
    srd_rs.verify_signature(folder / "model.sig", public_key=key.with_suffix(".pub"))
    with pytest.raises(UsageError, match="never replaced"):
        srd_rs.sign([folder / "a.gguf"], folder / "a.gguf", key=key, overwrite=True)
    (folder / "link.gguf").symlink_to(folder / "a.gguf")
    with pytest.raises(UsageError, match="link"):
        srd_rs.sign(folder, key=key, overwrite=True)


def test_files_that_are_no_signature(folder: Path, key: Path) -> None:
    path = folder / "model.sig"
    srd_rs.sign(folder, key=key)
    bundle = json.loads(path.read_text())
    public = key.with_suffix(".pub")
    envelope = bundle["dsseEnvelope"]
    twice = [*envelope["signatures"], {"sig": "AAAA"}]
    for wrong, said in (
        ({**bundle, "mediaType": "application/vnd.dev.sigstore.bundle.v9+json"}, "v9"),
        ({**bundle, "dsseEnvelope": {}}, "it has no 'signatures'"),
        ({**bundle, "verificationMaterial": []}, "verificationMaterial is no object"),
        ({**bundle, "dsseEnvelope": {**envelope, "payload": "%%%"}}, "lacks"),
        ({**bundle, "dsseEnvelope": {**envelope, "signatures": []}}, "0 signatures, where one is expected"),
        (
            {**bundle, "dsseEnvelope": {**envelope, "signatures": twice}},
            "2 signatures, where one is expected",
        ),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(FormatError, match=said):
            srd_rs.verify_signature(path, public_key=public)
    path.write_text(
        json.dumps({**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "payloadType": "text/plain"}})
    )
    with pytest.raises(VerificationError):
        srd_rs.verify_signature(path, public_key=public)
    assert srd("verify", folder / "a.axm", "--ignore-unsigned").code == 2
    os.mkfifo(folder / "pipe.sig")
    assert srd("verify", folder / "pipe.sig", "--public-key", public, timeout=30).code in (1, 2)
    (folder / "pipe.sig").unlink()
    assert srd("verify", folder / "a.axm", "--trust-root", public).code == 2
    path.write_text(json.dumps(bundle))
    assert srd("verify", path, "--public-key", public, "--no-key").code == 2
    assert srd("verify", path, "--public-key", public, "--fingerprint", "00").code == 2


def test_a_conversion_signs_all_that_it_writes(key: Path, tmp_path: Path) -> None:
    common = (
        "convert",
        EXAMPLE,
        "-o",
        tmp_path / "m.gguf",
        "--fast",
        "--axm",
        "--bom",
        "--card",
        "--modelfile",
    )
    done = srd(*common, "--oms-key", key, "--json")
    assert done.code == 0 and done.json["signature"] == str(tmp_path / "m.sig")
    found = srd_rs.verify_signature(tmp_path / "m.sig", public_key=key.with_suffix(".pub"))
    wanted = {"m.gguf", "m.axm", "m.met.json", "m.cdx.json", "m.md", "m.Modelfile"}
    assert set(found.files) == wanted and found.unsigned == ()
    theirs(key).verify(tmp_path, tmp_path / "m.sig")
    assert done.json["bom"] == str(tmp_path / "m.cdx.json")
    # A key that is none is refused before the work.
    again = srd(*common, "--oms-key", key.with_suffix(".pub"), "--overwrite")
    assert again.code == 2 and "private" in again.stderr
    flip("m.cdx.json")(tmp_path)
    assert srd("verify", tmp_path / "m.sig", "--public-key", key.with_suffix(".pub")).code == 3
