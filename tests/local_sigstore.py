"""The services of Sigstore on this machine: Fulcio, which issues certificates, and Rekor, which logs signatures.

As much of them as the package `sigstore` asks for: a certificate with a timestamp of a log of certificates, and an
entry of a log that has one leaf, with its checkpoint. The keys are new each time, and `trust_config` says to trust
them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

ISSUER = "https://issuer.example"
_ISSUER_OIDS = ("1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8")
_TIMESTAMPS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Key:
    """A key of P-256, its public half, and the id by which logs name it."""

    def __init__(self) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.public = self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.id = hashlib.sha256(self.public).digest()

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data, ec.ECDSA(hashes.SHA256()))

    def log(self, url: str) -> dict[str, Any]:
        public = {
            "rawBytes": b64(self.public),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        }
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": public,
            "logId": {"keyId": b64(self.id)},
        }


def token(identity: str, **changed: object) -> str:
    """A token of OpenID Connect for an identity. The services here do not check its signature."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": identity,
        "aud": "sigstore",
        "iat": now - 5,
        "exp": now + 600,
        **changed,
    }
    parts = [canonical({"alg": "ES256", "typ": "JWT"}), canonical(claims), b"not checked"]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


class Services:
    """The keys of the services and what they answer."""

    def __init__(self) -> None:
        self.url = ""
        self.authority, self.certificates, self.entries = Key(), Key(), Key()
        self.root = self._certificate_authority()

    def _certificate_authority(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a root of the tests")])
        now = datetime.now(timezone.utc)
        key = self.authority.private
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(True, 1), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )

    def certificate(self, body: dict[str, Any], bearer: str) -> dict[str, Any]:
        """Fulcio: a certificate for the identity of the token and the key of the request."""
        claims = json.loads(base64.urlsafe_b64decode(bearer.split(".")[1] + "=="))
        request = x509.load_pem_x509_csr(base64.b64decode(body["certificateSigningRequest"]))
        now = datetime.now(timezone.utc).replace(microsecond=0)
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(minutes=9))
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(claims["sub"])]), critical=True)
        )
        issuer = claims["iss"].encode()
        for oid, value in zip(_ISSUER_OIDS, (issuer, b"\x0c" + bytes([len(issuer)]) + issuer), strict=True):
            builder = builder.add_extension(
                x509.UnrecognizedExtension(ObjectIdentifier(oid), value), critical=False
            )
        plain = builder.sign(self.authority.private, hashes.SHA256()).tbs_certificate_bytes
        at = int(time.time() * 1000)
        entry = self.authority.id + len(plain).to_bytes(3, "big") + plain
        sct = self.certificates.sign(struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\0\0")
        stamp = b"\0" + self.certificates.id + struct.pack("!QH", at, 0) + b"\x04\x03"
        stamp += struct.pack("!H", len(sct)) + sct
        listed = struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp
        octets = b"\x04" + (bytes([len(listed)]) if len(listed) < 128 else b"\x81" + bytes([len(listed)]))
        builder = builder.add_extension(
            x509.UnrecognizedExtension(_TIMESTAMPS, octets + listed), critical=False
        )
        found = builder.sign(self.authority.private, hashes.SHA256())
        chain = [c.public_bytes(Encoding.PEM).decode() for c in (found, self.root)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def entry(self, body: dict[str, Any]) -> dict[str, Any]:
        """Rekor: the entry of a signature in a log that has no other one."""
        content = body["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        payload = base64.b64decode(envelope["payload"])
        leaf = canonical(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": _digest(content["envelope"].encode()),
                    "payloadHash": _digest(payload),
                    "signatures": [
                        {"signature": envelope["signatures"][0]["sig"], "verifier": content["verifiers"][0]}
                    ],
                },
            }
        )
        root = hashlib.sha256(b"\0" + leaf).digest()
        note = f"a log of the tests\n1\n{b64(root)}\n"
        line = b64(self.entries.id[:4] + self.entries.sign(note.encode()))
        logged = {
            "body": b64(leaf),
            "integratedTime": int(time.time()),
            "logID": self.entries.id.hex(),
            "logIndex": 0,
        }
        proof = {
            "checkpoint": f"{note}\n\N{EM DASH} log {line}\n",
            "hashes": [],
            "logIndex": 0,
            "rootHash": root.hex(),
            "treeSize": 1,
        }
        promise = b64(self.entries.sign(canonical(logged)))
        return {
            "0" * 80: {
                **logged,
                "verification": {"inclusionProof": proof, "signedEntryTimestamp": promise},
            }
        }

    def trust_config(self) -> str:
        start = {"start": "2020-01-01T00:00:00Z"}
        service = {"url": self.url, "majorApiVersion": 1, "validFor": start, "operator": "tests"}
        authority = {
            "subject": {"organization": "tests", "commonName": "tests"},
            "uri": self.url,
            "certChain": {"certificates": [{"rawBytes": b64(self.root.public_bytes(Encoding.DER))}]},
            "validFor": start,
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": {
                    "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                    "tlogs": [self.entries.log(self.url)],
                    "certificateAuthorities": [authority],
                    "ctlogs": [self.certificates.log(self.url)],
                    "timestampAuthorities": [],
                },
                "signingConfig": {
                    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                    "caUrls": [service],
                    "oidcUrls": [service],
                    "rekorTlogUrls": [service],
                    "tsaUrls": [],
                    "rekorTlogConfig": {"selector": "ANY"},
                    "tsaConfig": {"selector": "ANY"},
                },
            }
        )


def _digest(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


@contextlib.contextmanager
def serving() -> Iterator[Services]:
    """The services, as long as the block lasts."""
    services = Services()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Where a browser would be sent.
            names = ("authorization_endpoint", "token_endpoint")
            self.answer(200, {name: f"{services.url}/{name}" for name in names})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/signingCert"):
                answer = services.certificate(body, self.headers["Authorization"].removeprefix("Bearer "))
            else:
                answer = services.entry(body)
            self.answer(201, answer)

        def answer(self, status: int, found: dict[str, Any]) -> None:
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    services.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield services
    finally:
        server.shutdown()
        server.server_close()
