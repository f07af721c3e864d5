"""Keyless signatures of Sigstore: an identity (of a person or of a workflow) in the place of a key.

The package `sigstore` (the extra ``srd-rs[keyless]``) does the work: Fulcio issues a certificate of a few minutes for
the identity, a new key signs, and the log Rekor keeps the signature. `srd_rs.signing` makes the statement that is
signed, and compares the files with a statement that was signed.
"""

from __future__ import annotations

import base64
import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from srd_rs.errors import FormatError, SrdIOError, UsageError, VerificationError, message
from srd_rs.options import StrPath
from srd_rs.reading import parse_object, read_limited, shown

if TYPE_CHECKING:
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken

_MAX_BYTES: Final = 1 << 20
_AUDIENCE: Final = "sigstore"


def is_keyless(material: Mapping[str, Any]) -> bool:
    """Whether the verification material of a bundle is a certificate of Fulcio."""
    return "certificate" in material


def signed(statement: bytes, identity_token: StrPath | None, trust_config: StrPath | None) -> bytes:
    """The bundle of a statement that the identity signs, as JSON.

    identity_token: A file with a token of OpenID Connect for the audience ``sigstore``. By default the token of the
        workflow in which this process runs (GitHub Actions, GitLab, Google Cloud, Buildkite), or at a terminal the
        browser.
    trust_config: The services and their keys (a ClientTrustConfig of Sigstore in JSON); by default the public ones.
    """
    _installed("sign")
    from sigstore.dsse import Statement
    from sigstore.sign import SigningContext

    # The identity comes first: without one, no service is asked.
    token = _token(identity_token)
    config = _trusted(trust_config, "sign")
    with _network("sign", "the signature could not be made"):
        if token is None:
            token = _asked(config)
        with SigningContext.from_trust_config(config).signer(token) as signer:
            bundle: bytes = signer.sign_dsse(Statement(statement)).to_json().encode()
            return bundle


def verified(path: Path, bundle: bytes, identity: str, issuer: str, trust_config: StrPath | None) -> bytes:
    """The statement of a bundle that `identity` signed, which `issuer` vouched for.

    Raises VerificationError for a bundle that another identity signed, that is in no log, or that was changed.
    """
    _installed(path)
    from sigstore.errors import Error
    from sigstore.models import Bundle, InvalidBundle
    from sigstore.verify import Verifier, policy

    config = _trusted(trust_config, path)
    try:
        read = Bundle.from_json(bundle)
    except (InvalidBundle, ValueError) as error:
        what = f"the bundle lacks what a keyless signature has: {error}"
        raise FormatError(message(path, what, "Name a signature of a model (model.sig)")) from None
    payload: bytes
    try:
        _, payload = Verifier(trusted_root=config.trusted_root).verify_dsse(
            read, policy.Identity(identity=identity, issuer=issuer)
        )
    except Error as error:
        what = f"{identity} (of {issuer}) did not sign it: {error}"
        fix = "Name who should have signed with --identity and --identity-issuer, or get the files again"
        raise VerificationError(message(path, what, fix)) from None
    return payload


def _installed(place: StrPath) -> None:
    try:
        import sigstore.models  # noqa: F401
    except ImportError:
        what = "keyless signatures need the package sigstore, which is not installed"
        raise UsageError(message(place, what, "Install it: pip install 'srd-rs[keyless]'")) from None


def _trusted(path: StrPath | None, place: StrPath) -> ClientTrustConfig:
    """The services of Sigstore and the keys that are trusted. `place` is what asks for them."""
    from sigstore.models import ClientTrustConfig

    if path is None:
        with _network(place, "the keys of Sigstore could not be fetched"):
            return ClientTrustConfig.production()
    text = read_limited(Path(path), _MAX_BYTES)
    parse_object(text, Path(path))
    try:
        return ClientTrustConfig.from_json(text.decode())
    except Exception:  # pydantic and sigstore have many ways to refuse
        what = "this is no trust configuration of Sigstore (a ClientTrustConfig in JSON)"
        raise FormatError(message(path, what, "Name one with --trust-config")) from None


_ASK: Final = (
    "Run this in a workflow that has one (GitHub Actions with id-token: write, GitLab, Google Cloud, Buildkite), name a"
    " file with a token (--identity-token), or sign with a key (--oms-key)"
)


def _token(path: StrPath | None) -> IdentityToken | None:
    """The token of the identity; None where a person is to be asked."""
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential

    place = "sign" if path is None else path
    try:
        raw = detect_credential(_AUDIENCE) if path is None else _read_token(Path(path))
        if raw is not None:
            return IdentityToken(raw, _AUDIENCE)
    except IdentityError as error:
        raise UsageError(message(place, f"the identity is not usable: {error}", _ASK)) from None
    except Exception as error:  # the environments that have identities are many
        what = f"the identity of this environment could not be read: {error}"
        raise UsageError(message(place, what, _ASK)) from None
    if not sys.stdin.isatty():
        what = "there is no identity here: no workflow has one, and there is no terminal at which to ask"
        raise UsageError(message("sign", what, _ASK))
    return None


def _read_token(path: Path) -> str:
    return read_limited(path, _MAX_BYTES).decode("ascii", "replace").strip()


def _asked(config: ClientTrustConfig) -> IdentityToken:
    """The identity of the person at the terminal, whom the browser asks."""
    from sigstore.oidc import Issuer

    return Issuer(config.signing_config.get_oidc_url()).identity_token()


@contextlib.contextmanager
def _network(place: StrPath, what: str) -> Iterator[None]:
    """Says of any failure of a service what could not be done."""
    try:
        yield
    except (UsageError, FormatError):
        raise
    except Exception as error:  # requests, tuf, sigstore: each service has errors of its own
        reason = shown(str(error) or type(error).__name__)
        fix = "Check the network, or name other services with --trust-config"
        fix += ". A key (--oms-key) needs no network" if place == "sign" else ""
        raise SrdIOError(message(place, f"{what}: {reason}", fix)) from None


def identity_of(bundle: Mapping[str, Any]) -> str | None:
    """Who a bundle says has signed, for a message. Nothing is verified."""
    try:
        from cryptography import x509

        raw = base64.b64decode(bundle["verificationMaterial"]["certificate"]["rawBytes"])
        found = x509.load_der_x509_certificate(raw).extensions
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
        return str(next(iter(names)).value)
    except Exception:
        return None
