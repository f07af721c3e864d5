"""Keyless signatures of Sigstore, with services on this machine: made and verified here and by `model_signing`."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import local_sigstore
import srd_rs
from srd_rs.errors import FormatError, SrdIOError, UsageError, VerificationError
from support import srd
from test_signing import write_pair

pytest.importorskip("sigstore", reason="sigstore is not installed: no keyless signature was tried")
model_signing = pytest.importorskip("model_signing")

WHO = "someone@example.org"
#: No workflow has an identity in these tests, and no terminal asks.
_WORKFLOWS = ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "GITHUB_ACTIONS", "GITLAB_CI")


@pytest.fixture(autouse=True)
def no_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_WORKFLOWS, "CIRCLECI", "BUILDKITE", "SIGSTORE_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def services() -> Iterator[local_sigstore.Services]:
    with local_sigstore.serving() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, services: local_sigstore.Services) -> Path:
    """A folder with two files; `trust.json` and `token` lie beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.gguf").write_bytes(b"weights" * 1000)
    (folder / "a.met.json").write_text("{}")
    (tmp_path / "trust.json").write_text(services.trust_config())
    (tmp_path / "token").write_text(local_sigstore.token(WHO) + "\n")
    return folder


def named(folder: Path) -> dict[str, Any]:
    """The arguments of a verification."""
    return {
        "identity": WHO,
        "identity_issuer": local_sigstore.ISSUER,
        "trust_config": folder.parent / "trust.json",
    }


def signed(folder: Path) -> Path:
    given = {"identity_token": folder.parent / "token", "trust_config": folder.parent / "trust.json"}
    found = srd_rs.sign(folder, keyless=True, **given)
    assert (found.key, found.signer, found.files) == (None, WHO, ("a.gguf", "a.met.json"))
    return found.path


def test_a_keyless_signature_is_verified_by_both(folder: Path) -> None:
    path = signed(folder)
    found = srd_rs.verify_signature(path, **named(folder))
    assert (found.signer, found.files) == (WHO, ("a.gguf", "a.met.json"))
    theirs = model_signing.verifying.Config().use_sigstore_verifier(
        identity=WHO, oidc_issuer=local_sigstore.ISSUER, trust_config=folder.parent / "trust.json"
    )
    theirs.verify(folder, path)


def test_what_model_signing_signs_is_verified(folder: Path) -> None:
    config = model_signing.signing.Config().use_sigstore_signer(
        identity_token=(folder.parent / "token").read_text().strip(),
        trust_config=folder.parent / "trust.json",
    )
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=True)
    config.set_hashing_config(hashing).sign(folder, folder / "model.sig")
    assert srd_rs.verify_signature(folder / "model.sig", **named(folder)).signer == WHO


def test_the_commands(folder: Path) -> None:
    trust = ("--trust-config", folder.parent / "trust.json")
    run = srd("sign", folder, "--keyless", "--identity-token", folder.parent / "token", *trust)
    assert run.code == 0 and f"signed by {WHO}" in run.stdout, run.stderr
    who = ("--identity", WHO, "--identity-issuer", local_sigstore.ISSUER)
    run = srd("verify", folder / "model.sig", *who, *trust, "--json")
    assert run.code == 0 and run.json["signer"] == WHO, run.stderr
    run = srd("verify", folder / "model.sig")
    assert run.code == 3 and WHO in run.stderr and "--identity" in run.stderr, run.stderr


@pytest.mark.parametrize("change", ["file", "added", "statement", "log", "identity", "issuer", "trust"])
def test_every_change_is_refused(folder: Path, change: str) -> None:
    path, given = signed(folder), named(folder)
    bundle = json.loads(path.read_text())
    if change == "file":
        (folder / "a.gguf").write_bytes(b"other weights")
    elif change == "added":
        (folder / "b.gguf").write_bytes(b"more")
    elif change == "statement":
        payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"a.gguf", b"b.gguf")
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    elif change == "log":
        bundle["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1700000000"
    elif change == "identity":
        given["identity"] = "other@example.org"
    elif change == "issuer":
        given["identity_issuer"] = "https://other.example"
    else:
        given["trust_config"] = folder.parent / "other.json"
        given["trust_config"].write_text(local_sigstore.Services().trust_config())
    path.write_text(json.dumps(bundle))
    with pytest.raises(VerificationError):
        srd_rs.verify_signature(path, **given)


def test_no_identity_and_none_that_is_usable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written, and no service is asked, where there is no identity."""
    trust = {"trust_config": folder.parent / "trust.json"}
    run = srd("sign", folder, "--keyless")
    assert run.code == 2 and "there is no identity here" in run.stderr and "--oms-key" in run.stderr
    tokens = (
        "",
        "no token",
        local_sigstore.token(WHO, exp=1),
        local_sigstore.token(WHO, aud="another"),
    )
    for text in tokens:
        (folder.parent / "token").write_text(text)
        with pytest.raises(UsageError, match=r"token: the identity is not usable"):
            srd_rs.sign(folder, keyless=True, identity_token=folder.parent / "token", **trust)
    (folder.parent / "trust.json").write_text("{}")
    (folder.parent / "token").write_text(local_sigstore.token(WHO))
    with pytest.raises(FormatError, match="no trust configuration"):
        srd_rs.sign(folder, keyless=True, identity_token=folder.parent / "token", **trust)
    assert not (folder / "model.sig").exists()
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    with pytest.raises(UsageError, match=r"srd-rs\[keyless\]"):
        srd_rs.sign(folder, keyless=True, identity_token=folder.parent / "token", **trust)


def test_services_that_do_not_answer(folder: Path) -> None:
    """An address at which nothing listens is an error of the network, with a sentence."""
    with local_sigstore.serving() as gone:
        text = gone.trust_config()
    (folder.parent / "trust.json").write_text(text)
    given = {"identity_token": folder.parent / "token", "trust_config": folder.parent / "trust.json"}
    with pytest.raises(SrdIOError, match="the signature could not be made"):
        srd_rs.sign(folder, keyless=True, **given)
    # No network at all: the keys of the public services cannot be fetched.
    env = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "XDG_CACHE_HOME": str(folder.parent),
        "HOME": str(folder.parent),
    }
    run = srd("sign", folder, "--keyless", "--identity-token", folder.parent / "token", env=env)
    assert run.code == 1 and "the keys of Sigstore could not be fetched" in run.stderr, run.stderr
    assert not (folder / "model.sig").exists()


def test_options_that_belong_together(folder: Path, tmp_path: Path) -> None:
    path, given = signed(folder), named(folder)
    for change in (
        {"identity": None},
        {"identity_issuer": None},
        {"identity": None, "identity_issuer": None},
        {"public_key": tmp_path / "k.pub"},
        {"trust_root": [tmp_path / "k.pem"]},
    ):
        with pytest.raises(UsageError):
            srd_rs.verify_signature(path, **{**given, **change})
    for options in (
        {},
        {"key": tmp_path / "k.pem", "keyless": True},
        {"keyless": True, "certificate": tmp_path / "k.pem"},
        {"key": tmp_path / "k.pem", "trust_config": given["trust_config"]},
    ):
        with pytest.raises(UsageError):
            srd_rs.sign(folder, tmp_path / "x.sig", **options)
    key = write_pair(tmp_path / "k.pem", ec.generate_private_key(ec.SECP256R1()))
    with_key = srd_rs.sign(folder, tmp_path / "k.sig", key=key).path
    with pytest.raises(VerificationError, match="not by an identity"):
        srd_rs.verify_signature(with_key, folder, **given)
