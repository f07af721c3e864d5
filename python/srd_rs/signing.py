"""Signatures of the OpenSSF Model Signing specification (v1.0): ``model.sig``, which others verify too.

The signature is a Sigstore bundle: a DSSE envelope around an in-toto statement, signed with an elliptic-curve key
(P-256, P-384 or P-521), alone or with a certificate. The statement has the SHA-256 of each file of a folder, by its
name. `model_signing` (PyPI) verifies what `sign` writes, and `verify_signature` verifies what it writes.

    srd_rs.sign(["model.gguf", "model.met.json"], key="key.pem")
    srd_rs.verify_signature("model.sig", public_key="key.pub")

The cryptography is that of the package `cryptography` (the extra ``srd-rs[sign]``). A signature may be keyless:
`srd_rs.keyless`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeGuard

from srd_rs import _core, effects, hub, sniff
from srd_rs import keyless as identities
from srd_rs.errors import FormatError, UsageError, VerificationError, io_error, message
from srd_rs.options import StrPath
from srd_rs.reading import open_without_waiting, parse_object, read_limited, shown
from srd_rs.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
NAME: Final = "model.sig"
"""The usual name of a signature, beside the files that it is about."""
MAX_BYTES: Final = 64 << 20
"""A signature has at most this many bytes: a file takes about 150."""
_GIT: Final = (".git", ".gitattributes", ".github", ".gitignore")
_MAX_KEY_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Signed:
    """A signature that was written. `files` are the names that were signed, and `unsigned` those that lie in the folder
    and were not. `key` is the SHA-256 of the public key (PEM), by which the bundle names it; None for a keyless
    signature, whose identity is `signer`."""

    path: Path
    files: tuple[str, ...]
    unsigned: tuple[str, ...]
    key: str | None
    signer: str | None = None


@dataclass(frozen=True)
class SignatureCheck:
    """A signature that fits the files. `signer` is the subject of the certificate, or the identity of a keyless
    signature; None for a plain key."""

    path: Path
    folder: Path
    files: tuple[str, ...]
    unsigned: tuple[str, ...]
    bytes: int
    signer: str | None


def sign(
    paths: Sequence[StrPath] | StrPath,
    output: StrPath | None = None,
    *,
    key: StrPath | None = None,
    certificate: StrPath | None = None,
    certificate_chain: Sequence[StrPath] = (),
    keyless: bool = False,
    identity_token: StrPath | None = None,
    trust_config: StrPath | None = None,
    overwrite: bool = False,
) -> Signed:
    """Sign the files of a folder, or some of them.

    paths: A folder: everything in it is signed. Or files of one folder: they alone are signed, and the other names that
        are in the folder now are listed in the signature as not signed.
    output: The signature; by default ``model.sig`` in the folder.
    key: Private key (PEM, elliptic curve P-256, P-384 or P-521), whose file only its owner may read.
    certificate: Certificate of the key (PEM). certificate_chain: The certificates that issued it, without the root.
    keyless: Sign with an identity in the place of a key (`srd_rs.keyless`). The name of the identity becomes public.
    identity_token: File with the token of the identity. trust_config: The services of Sigstore (JSON), by default the
        public ones.

    Raises UsageError for paths of several folders, links and keys of another kind.

        >>> srd_rs.sign("path/to/model-Q4_K_M.gguf", "path/to/model.sig", key="key.pem").files
        ('model-Q4_K_M.gguf',)
    """
    given = {"certificate": certificate, "certificate_chain": certificate_chain}
    if (key is None) != keyless:
        what = "sign with one of the two: a key, or an identity"
        raise UsageError(message("sign", what, "Name the key with --oms-key, or pass --keyless"))
    for name, value in given.items() if keyless else (
        ("identity_token", identity_token), ("trust_config", trust_config),
    ):  # fmt: skip
        if value:
            raise effects.without_effect(name, "--keyless and --oms-key are two ways to sign")
    private = None if key is None else _private_key(Path(key))
    chain = [] if private is None else _chain(private, certificate, certificate_chain)
    folder, names = _chosen([paths] if isinstance(paths, (str, os.PathLike)) else list(paths))
    target = folder / NAME if output is None else Path(output)
    own = _inside(folder, target)
    if own is not None and own in names and is_signature(target):
        names.discard(own)
    if not overwrite and target.exists():
        fix = "Choose another name, or replace the file with --overwrite"
        raise UsageError(message(target, "the file exists already", fix))
    sniff.check_output(target, inputs=[folder / name for name in names])
    if not names:
        raise UsageError(message(folder, "there is no file to sign", "Name a GGUF, or a folder with one"))
    unsigned = sorted(_top(_listed(folder) - names - {own}, names))
    resources = [
        {"algorithm": "sha256", "digest": _core.file_sha256(folder / name)[1], "name": name}
        for name in _ordered(names)
    ]
    ignored = sorted({*_GIT, *unsigned, *([own] if own else [])})
    statement = _statement(folder.resolve().name, resources, ignored)
    payload = json.dumps(statement, indent=2, ensure_ascii=False).encode()
    if private is None:
        bundle, hint = identities.signed(payload, identity_token, trust_config), None
    else:
        bundle, hint = _bundle(private, chain, payload)
    _core.write_file(target, bundle, overwrite)
    signer = None if hint else identities.identity_of(parse_object(bundle, target))
    return Signed(target, tuple(r["name"] for r in resources), tuple(unsigned), hint, signer)


def _bundle(private: EllipticCurvePrivateKey, chain: list[bytes], payload: bytes) -> tuple[bytes, str]:
    """The bundle of a statement that a key signs, as JSON, and the SHA-256 of the public key."""
    public = _public_pem(private.public_key())
    hint = hashlib.sha256(public).hexdigest()
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {
            **(
                {"x509CertificateChain": {"certificates": [{"rawBytes": _base64(c)} for c in chain]}}
                if chain
                else {"publicKey": {"hint": hint}}
            ),
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": _base64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": _base64(_signature(private, payload)), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode(), hint


def check_key(path: StrPath) -> None:
    """Raise UsageError for what is no private key that `sign` takes, before the work that it is to sign."""
    _private_key(Path(path))


def is_signature(path: StrPath) -> bool:
    """Whether a file is a bundle of Sigstore: JSON with the media type."""
    try:
        # A pipe would block, and a device may never end.
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.lstrip().startswith(b"{") and b"application/vnd.dev.sigstore.bundle" in head


def verify_signature(
    signature: StrPath,
    folder: StrPath | None = None,
    *,
    public_key: StrPath | None = None,
    trust_root: Sequence[StrPath] = (),
    identity: str | None = None,
    identity_issuer: str | None = None,
    trust_config: StrPath | None = None,
    ignore_unsigned: bool = False,
) -> SignatureCheck:
    """Check that the files of a folder are those that were signed.

    signature: What `sign` or `model_signing` wrote. folder: By default the folder of the signature.
    public_key: The key (PEM) that must have signed. trust_root: Certificates (PEM) that are trusted, for a signature
        with a certificate.
    identity, identity_issuer: Who must have signed a keyless signature (such as an address, or the URL of a workflow),
        and the URL of whoever vouched for the identity. trust_config: The services of Sigstore, by default the public
        ones. One of the three is needed: a signature says nothing without a key or a name from a trusted place.
    ignore_unsigned: Allow files in the folder that the signature does not name.

    Raises VerificationError for a wrong signature, and for a file that was changed, removed or added.

        >>> srd_rs.verify_signature("model.sig", public_key="key.pub").files  # doctest: +SKIP
        ('model-Q4_K_M.gguf',)
    """
    if public_key is not None and trust_root:
        what = "the option has no effect: the signature is held against --public-key"
        raise UsageError(message("--trust-root", what, "Name one of the two"))
    if (identity is None) != (identity_issuer is None):
        what = "an identity is that of an issuer, so the two options belong together"
        raise UsageError(message("--identity, --identity-issuer", what, "Name both"))
    if identity is None and trust_config is not None:
        raise effects.without_effect("trust_config", "it is for keyless signatures (--identity)")
    if identity is not None and (public_key is not None or trust_root):
        what = "the signature is held against one of them"
        raise UsageError(message("--identity, --public-key, --trust-root", what, "Name one of them"))
    path = hub.file(signature)
    root = path.parent if folder is None else Path(folder)
    data = read_limited(path, MAX_BYTES)
    bundle = parse_object(data, path)
    payload, raw, material = _envelope(path, bundle)
    keyless = identities.is_keyless(material)
    if keyless and identity is None:
        found = identities.identity_of(bundle)
        what = f"it is a keyless signature{f', which says that {shown(found)} signed' if found else ''}"
        _fail(path, what, "Name who must have signed: --identity and --identity-issuer")
    signer, verifier = None, None
    if identity is not None and identity_issuer is not None:
        if not keyless:
            fix = "Name the public key with --public-key, or the root with --trust-root"
            _fail(path, "it is signed with a key, not by an identity", fix)
        payload = identities.verified(path, data, identity, identity_issuer, trust_config)
        signer = identity
    elif public_key is not None:
        if "x509CertificateChain" in material:
            _fail(
                path, "it is signed with a certificate, not with a plain key", "Name the root: --trust-root"
            )
        verifier = _public_key(Path(public_key))
        _check_hint(path, material, verifier)
    elif trust_root:
        verifier, signer = _certified(path, material, trust_root)
    else:
        what = "there is no key to hold the signature against"
        _fail(path, what, "Name the public key from a trusted place: --public-key, or --trust-root")
    if verifier is not None:
        _check_signature(path, verifier, raw, payload)
    statement = _parsed(path, payload)
    digests, ignored = _resources(path, statement)
    total = 0
    ends: dict[str, int] = {}
    for name, (digest, kind) in digests.items():
        file, start, end = (name, 0, None) if kind == "files" else _shard(path, name)
        if start != ends.get(file, 0):
            _fail(path, f"the signature lacks a part of {shown(file)}", _FIX)
        size = _check_file(path, root, file, digest, (start, end))
        total, ends[file] = total + size, start + size
    for file, size in ends.items():
        if (root / file).stat().st_size != size:
            _fail(root / file, "the file has more bytes than were signed", _FIX)
    present = _listed(root) - ends.keys() - {_inside(root, path)}
    added = sorted(name for name in present if not _ignored(name, ignored))
    if added and not ignore_unsigned:
        what = f"the folder has a file that the signature does not name: {shown(added[0])}"
        _fail(root / added[0], what, "Remove the file, or allow it with --ignore-unsigned")
    return SignatureCheck(path, root, tuple(ends), tuple(sorted(present)), total, signer)


def _fail(place: object, what: str, fix: str) -> NoReturn:
    raise VerificationError(message(place, what, fix))


_FIX: Final = "Get the files and the signature again from where the model was published"


# Files.


def _chosen(paths: list[StrPath]) -> tuple[Path, set[str]]:
    """The folder that is signed, and the names of its files."""
    if not paths:
        raise UsageError(message("sign", "there are no files", "Name a folder, or one file or more"))
    first = Path(paths[0])
    if len(paths) == 1 and first.is_dir():
        found = {name for name in _listed(first) if not _ignored(name, _GIT)}
        for name in sorted(found):
            if (first / name).is_symlink():
                what = "this is a link, and a signature is about files"
                raise UsageError(message(first / name, what, "Put the file itself into the folder"))
        return first, found
    folder, names = first.parent, set()
    for path in map(Path, paths):
        if path.parent.resolve() != folder.resolve():
            what = f"the file lies in another folder than {first}"
            raise UsageError(message(path, what, "Sign the files of one folder"))
        if path.is_symlink() or not path.is_file():
            what = "this is a link, or no regular file"
            raise UsageError(message(path, what, "Name the file itself, and a folder alone"))
        names.add(path.name)
    return folder, names


def _listed(folder: Path) -> set[str]:
    """The names of all files and links below a folder. Links are not followed."""
    found = set()
    for parent, folders, files in os.walk(folder, onerror=_raise):
        links = (name for name in folders if Path(parent, name).is_symlink())
        found |= {Path(parent, name).relative_to(folder).as_posix() for name in (*files, *links)}
    return found


def _raise(error: OSError) -> NoReturn:
    raise io_error(error.filename or "folder", "read", error, "Check the path and the permissions") from None


def _inside(folder: Path, path: Path) -> str | None:
    """The name of `path` in the folder; None for what lies elsewhere."""
    real, root = path.parent.resolve() / path.name, folder.resolve()
    return real.relative_to(root).as_posix() if real.is_relative_to(root) else None


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=PurePosixPath)


def _top(others: Iterable[str | None], names: Iterable[str]) -> set[str]:
    """The names that are not signed; a folder without a signed file stands for all that is in it."""
    used = {name.partition("/")[0] for name in names if "/" in name}
    found = set()
    for name in others:
        if name is not None:
            first = name.partition("/")[0]
            found.add(name if first in used else first)
    return found - set(_GIT)


def _ignored(name: str, ignored: Iterable[str]) -> bool:
    parts = PurePosixPath(name).parts
    return any(parts[: len(p := PurePosixPath(entry).parts)] == p for entry in ignored)


def _check_file(signature: Path, root: Path, name: str, digest: str, part: tuple[int, int | None]) -> int:
    """Compare a file, or the bytes `part` of a file, with the digest. Returns the number of bytes."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        _fail(signature, f"the name {shown(name)} leaves the folder", _FIX)
    path, mode = root, 0
    for step in parts:
        path = path / step
        try:
            mode = path.lstat().st_mode
        except OSError:
            _fail(path, "the file is missing, and the signature names it", _FIX)
        if stat.S_ISLNK(mode):
            _fail(path, "this is a link, and the signature is about a file", _FIX)
    if not stat.S_ISREG(mode):
        _fail(path, "this is not a regular file", _FIX)
    start, end = part
    size, found = _core.file_sha256(path) if end is None else _range_sha256(path, start, end)
    if found != digest:
        _fail(path, "the contents are not those that were signed", _FIX)
    return size


def _shard(signature: Path, name: str) -> tuple[str, int, int]:
    relative, _, rest = name.partition(":")
    start, _, end = rest.partition(":")
    if not (start.isdecimal() and end.isdecimal() and int(start) <= int(end) and len(rest) < 64):
        _fail(signature, f"{shown(name)} names no part of a file", _FIX)
    return relative, int(start), int(end)


def _range_sha256(path: Path, start: int, end: int) -> tuple[int, str]:
    """The number of bytes that a file has in a range, and their digest."""
    hasher, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        file.seek(start)
        while data := file.read(min(1 << 20, end - start - size)):
            hasher.update(data)
            size += len(data)
    return size, hasher.hexdigest()


# The statement.


def _statement(name: str, resources: list[dict[str, str]], ignored: list[str]) -> dict[str, Any]:
    root = hashlib.sha256(b"".join(bytes.fromhex(r["digest"]) for r in resources)).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ignored,
            },
            "resources": resources,
        },
    }


def _parsed(path: Path, payload: bytes) -> dict[str, Any]:
    try:
        statement = parse_object(payload, path)
    except FormatError as error:
        _fail(path, f"the signed statement cannot be read: {error}", _FIX)
    for key, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement.get(key) != wanted:
            what = f"the signed statement has the {key} {shown(statement.get(key))}, and {wanted} is expected"
            _fail(path, what, "Name the signature of a model (OpenSSF Model Signing v1.0)")
    return statement


def _resources(
    path: Path, statement: Mapping[str, Any]
) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """Name -> (SHA-256, method) of what was signed, and the names that the signature says nothing of."""
    try:
        (subject,) = statement["subject"]
        predicate = statement["predicate"]
        serialization, listed = predicate["serialization"], predicate["resources"]
        root, method = subject["digest"]["sha256"], serialization["method"]
        kind, ignored = serialization["hash_type"], serialization.get("ignore_paths", [])
        found: dict[str, tuple[str, str]] = {}
        hasher = hashlib.sha256()
        for resource in listed:
            name, digest = resource["name"], resource["digest"]
            hasher.update(bytes.fromhex(digest))
            if name in found:
                _fail(path, f"the signature names {shown(name)} twice", _FIX)
            found[name] = (digest.lower(), method)
        if not all(isinstance(name, str) for name in (*found, *ignored)):
            raise TypeError("a name is no text")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _fail(path, f"the signed statement lacks what a signature of a model has: {_lacking(error)}", _FIX)
    if method not in ("files", "shards") or not str(kind).startswith("sha256"):
        what = f"the files are hashed by {shown(kind)} in {shown(method)}, which srd-rs does not check"
        _fail(path, what, "Verify with the package model_signing, or sign with SHA-256")
    if hasher.hexdigest() != root:
        _fail(path, "the digests of the files do not give the digest of the model", _FIX)
    if not found:
        _fail(path, "the signature names no file", _FIX)
    return found, tuple(ignored)


# The envelope.


def _lacking(error: Exception) -> str:
    """What is wrong with a JSON object that was read, in words."""
    return f"it has no {error}" if isinstance(error, KeyError) else printable(str(error))


def _envelope(path: Path, bundle: Mapping[str, Any]) -> tuple[bytes, bytes, Mapping[str, Any]]:
    """The payload, its signature and the verification material of a bundle."""
    if bundle.get("mediaType") != MEDIA_TYPE:
        what = f"the media type is {shown(bundle.get('mediaType'))}, and {MEDIA_TYPE} is expected"
        raise FormatError(message(path, what, "Name a signature of a model (model.sig)"))
    try:
        envelope, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
        if len(envelope["signatures"]) != 1:
            raise ValueError(f"{len(envelope['signatures'])} signatures, where one is expected")
        signature = envelope["signatures"][0]
        payload = base64.b64decode(envelope["payload"], validate=True)
        raw = base64.b64decode(signature["sig"], validate=True)
        kind = envelope["payloadType"]
        if not isinstance(material, dict):
            raise TypeError("verificationMaterial is no object")
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        what = f"the bundle lacks what a signature of a model has: {_lacking(error)}"
        raise FormatError(message(path, what, "Name a signature of a model (model.sig)")) from None
    if kind != PAYLOAD_TYPE:
        _fail(path, f"the payload is of the type {shown(kind)}, and {PAYLOAD_TYPE} is expected", _FIX)
    return payload, raw, material


def _encoded(payload: bytes) -> bytes:
    """The pre-authentication encoding of DSSE, which is what a key signs."""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Keys and certificates.


def _cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        fix = "Install it: pip install 'srd-rs[sign]'"
        raise UsageError(message("sign", "the package cryptography is not installed", fix)) from None


_KINDS: Final = "elliptic-curve key (P-256, P-384 or P-521) in PEM"


def _hash_of(key: EllipticCurvePublicKey) -> Any:
    """The signature scheme of a curve: ECDSA with the hash of its size."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    found = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]
    return ec.ECDSA(found)


def _is_known_private(key: object) -> TypeGuard[EllipticCurvePrivateKey]:
    from cryptography.hazmat.primitives.asymmetric import ec

    return isinstance(key, ec.EllipticCurvePrivateKey) and _curve_is_known(key.curve)


def _is_known_public(key: object) -> TypeGuard[EllipticCurvePublicKey]:
    from cryptography.hazmat.primitives.asymmetric import ec

    return isinstance(key, ec.EllipticCurvePublicKey) and _curve_is_known(key.curve)


def _curve_is_known(curve: object) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec

    return isinstance(curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))


def _private_key(path: Path) -> EllipticCurvePrivateKey:
    _cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, facts = _key_file(path)
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        what = "the key is encrypted, and srd-rs asks for no password"
        raise UsageError(message(path, what, "Decrypt it: openssl pkey -in KEY -out NEW")) from None
    except Exception:  # the library has many ways to refuse; none of them shows the key
        raise UsageError(message(path, f"this is no private {_KINDS}", _MAKE)) from None
    if not _is_known_private(key):
        raise UsageError(message(path, f"this is no private {_KINDS}", _MAKE))
    # The facts of Windows have no owner and no modes.
    user = os.geteuid() if hasattr(os, "geteuid") else facts.st_uid
    if facts.st_uid != user:
        what = f"the key belongs to the user {facts.st_uid}, and this process runs as the user {user}"
        raise UsageError(message(path, what, f"Run chown {user} {path.name} if the key is yours"))
    if hasattr(os, "geteuid") and facts.st_mode & 0o077:
        what = "others than the owner may read or change the key"
        raise UsageError(message(path, what, f"Change its mode: chmod 600 {path.name}"))
    return key


_MAKE: Final = "Make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def _public_key(path: Path) -> EllipticCurvePublicKey:
    _cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data, _ = _key_file(path)
    try:
        key = load_pem_public_key(data)
    except Exception:
        key = None
    if not _is_known_public(key):
        fix = "Name the public key: openssl pkey -in key.pem -pubout -out key.pub"
        raise UsageError(message(path, f"this is no public {_KINDS}", fix))
    return key


def _key_file(path: Path) -> tuple[bytes, os.stat_result]:
    """The bytes of a key or a certificate, and the facts of the very file that they were read from. It may be a link,
    as in a keyring of the system."""
    try:
        with open(path, "rb", opener=open_without_waiting) as file:  # Path.open takes no opener
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise UsageError(message(path, "this is not a regular file", "Name a file in PEM"))
            data = file.read(_MAX_KEY_BYTES + 1)
    except IsADirectoryError:
        raise UsageError(message(path, "this is a folder", "Name a file in PEM")) from None
    except OSError as error:
        raise io_error(path, "read", error, "Check the path and the permissions") from None
    if len(data) > _MAX_KEY_BYTES:
        raise UsageError(message(path, "the file is too large for keys", "Name a file in PEM"))
    return data, facts


def _public_pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def _check_hint(path: Path, material: Mapping[str, Any], key: EllipticCurvePublicKey) -> None:
    named = material.get("publicKey")
    hint = named.get("hint") if isinstance(named, dict) else None
    if hint is not None and hint != hashlib.sha256(_public_pem(key)).hexdigest():
        _fail(path, "it is signed with another key", "Name the public key of whoever signed")


def _signature(key: EllipticCurvePrivateKey, payload: bytes) -> bytes:
    raw: bytes = key.sign(_encoded(payload), _hash_of(key.public_key()))
    return raw


def _check_signature(path: Path, key: EllipticCurvePublicKey, raw: bytes, payload: bytes) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(raw, _encoded(payload), _hash_of(key))
    except InvalidSignature:
        _fail(path, "the signature is wrong: the statement was changed, or another key signed it", _FIX)


def _certificates(path: Path) -> list[Certificate]:
    _cryptography()
    from cryptography.x509 import load_pem_x509_certificates

    try:
        found: list[Certificate] = load_pem_x509_certificates(_key_file(path)[0])
    except ValueError:
        raise UsageError(message(path, "this is no certificate in PEM", "Name a certificate")) from None
    return found


def _chain(
    key: EllipticCurvePrivateKey, certificate: StrPath | None, chain: Sequence[StrPath]
) -> list[bytes]:
    """The certificates of a signature in DER, the signer's first; none for a plain key."""
    if certificate is None:
        if chain:
            what = "the option has no effect: there is no certificate of the key"
            raise UsageError(message("--certificate-chain", what, "Name it with --certificate"))
        return []
    from cryptography.hazmat.primitives.serialization import Encoding

    own = _certificates(Path(certificate))[0]
    if own.public_key() != key.public_key():
        what = "the certificate is not that of the key"
        raise UsageError(message(certificate, what, "Name the certificate of the key"))
    others = [found for path in chain for found in _certificates(Path(path))]
    return [found.public_bytes(Encoding.DER) for found in (own, *others)]


def _certified(
    path: Path, material: Mapping[str, Any], roots: Sequence[StrPath]
) -> tuple[EllipticCurvePublicKey, str]:
    """The key of the certificate of a bundle, which one of the roots must have issued, and its subject."""
    _cryptography()
    from cryptography import x509
    from cryptography.x509 import verification as checks

    trusted = [found for root in roots for found in _certificates(Path(root))]
    try:
        listed = material["x509CertificateChain"]["certificates"]
        chain = [x509.load_der_x509_certificate(base64.b64decode(c["rawBytes"])) for c in listed]
        own = chain[0]
    except (KeyError, TypeError, ValueError, IndexError):
        _fail(path, "the signature holds no certificate", "Name the public key: --public-key")

    def may_sign(_policy: object, _certificate: object, usage: x509.KeyUsage | None) -> None:
        if usage is not None and not usage.digital_signature:
            raise ValueError("the certificate is not for signatures")

    def may_issue(_policy: object, _certificate: object, usage: x509.BasicConstraints) -> None:
        if not usage.ca:
            raise ValueError("the issuer is no certificate authority")

    agnostic = checks.Criticality.AGNOSTIC
    extensions = checks.ExtensionPolicy.permit_all()
    signer = extensions.may_be_present(x509.KeyUsage, agnostic, may_sign)
    issuer = extensions.require_present(x509.BasicConstraints, agnostic, may_issue)
    policy = (
        checks.PolicyBuilder()
        .store(checks.Store(trusted))
        # A signature without a timestamp does not prove when it was made, so the certificate need only have been valid.
        .time(own.not_valid_before_utc.replace(tzinfo=None))
        .extension_policies(ca_policy=issuer, ee_policy=signer)
    )
    try:
        policy.build_client_verifier().verify(own, chain[1:])
    except (checks.VerificationError, ValueError) as error:
        what = f"no trusted certificate has issued the signer's certificate: {error}"
        _fail(path, what, "Name the root of the signer: --trust-root")
    key = own.public_key()
    if not _is_known_public(key):
        _fail(path, f"the certificate is not of an {_KINDS}", _FIX)
    return key, own.subject.rfc4514_string()
