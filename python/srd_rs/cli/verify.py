"""`srd-rs verify`: is a container, or a GGUF made with it, what was signed?"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srd_rs import effects
from srd_rs.cli.options import (
    GroupedCommand,
    checking_options,
    convert_option,
    explicit_options,
    json_option,
    option,
    path_option,
)
from srd_rs.cli.output import show
from srd_rs.progress import Phases, progress_bar
from srd_rs.text import bytes_text, duration_text, printable

if TYPE_CHECKING:
    from srd_rs.rebuilding import Rebuilt
    from srd_rs.report import Verification


EXAMPLES = """\b
Examples:
  srd-rs verify model-Q4_K_M.axm
  srd-rs verify model-Q4_K_M.gguf --axm model-Q4_K_M.axm
  srd-rs verify model-Q4_K_M.axm --fingerprint HEX
  srd-rs verify model.sig --public-key key.pub
  srd-rs verify --rebuild model-Q4_K_M.gguf --from org/name
"""


@click.command(
    "verify", cls=GroupedCommand, short_help="Check a container, or a GGUF against it.", epilog=EXAMPLES
)
@click.argument("path")
@path_option(
    "--axm",
    "container",
    help="PATH is a GGUF: check it against this container or manifest file.",
)
@option(
    "--rebuild",
    group="Rebuilding",
    is_flag=True,
    help="PATH is a GGUF: make it again from the model of --from and compare every byte. Nothing is written.",
)
@option(
    "--from",
    "model",
    group="Rebuilding",
    metavar="MODEL",
    help="The checkpoint (a folder, a GGUF, or ORG/NAME@REVISION) that the GGUF was converted from.",
)
@option(
    "--calibrate",
    group="Rebuilding",
    metavar="TEXT",
    help="Text or calibration file of the conversion, unless that was builtin or random.",
)
@path_option(
    "--lora",
    group="Rebuilding",
    metavar="ADAPTER",
    multiple=True,
    help="Adapter that the conversion merged. The option may be repeated.",
)
@option(
    "--target",
    group="Rebuilding",
    metavar="MODEL",
    help="PATH is a draft model: the model that it drafts tokens for, which the conversion named.",
)
@path_option("--imatrix", group="Rebuilding", help="Importance matrix of the conversion, if it had one.")
@checking_options()
@path_option(
    "--trust-root",
    group="Keys",
    multiple=True,
    help="PATH is a signature with a certificate: trust this certificate (PEM). The option may be repeated.",
)
@option(
    "--identity",
    group="Keys",
    metavar="NAME",
    help="PATH is a keyless signature: who must have signed, such as an address or the URL of a workflow.",
)
@option(
    "--identity-issuer",
    group="Keys",
    metavar="URL",
    help="Who vouched for the identity, such as https://token.actions.githubusercontent.com.",
)
@path_option(
    "--trust-config",
    group="Keys",
    help="Other services than the public ones of Sigstore that are trusted (a ClientTrustConfig in JSON).",
)
@option(
    "--ignore-unsigned",
    group="Keys",
    is_flag=True,
    help="PATH is a signature: allow files beside it that it does not name.",
)
@path_option(
    "--attest",
    group="Output",
    help="Write an in-toto statement in a DSSE envelope to this file.",
)
@path_option(
    "--sign-key", group="Output", help="Ed25519 private key (PEM) that signs the statement of --attest."
)
@path_option(
    "--write-manifest",
    group="Output",
    help="Write the manifest file, with which a GGUF can be verified without the container.",
)
@convert_option("overwrite", help="Replace the files of --attest and --write-manifest if they exist.")
@convert_option("threads")
@convert_option("max_memory", default=None, show_default=False)
@convert_option("cache")
@json_option()
def command(
    path: str,
    as_json: bool,
    no_key: bool,
    write_manifest: Path | None,
    rebuild: bool,
    **options: Any,
) -> None:
    """Check that PATH, an .axm container, is what was signed. The exit code is 3 if it is not.

    PATH may also be a signature of the OpenSSF Model Signing specification (model.sig), which is compared with
    the files beside it and held against --public-key, --trust-root or --identity.

    The container is held against the master key, an Ed25519 public key (--public-key) or a published fingerprint
    (--fingerprint). Where there is none of them, the exit code is 3 as well, unless --no-key says that integrity alone
    is wanted. Whoever has the master key could have signed, so third parties need the fingerprint or the public key
    from a trusted place.

    With --rebuild PATH is a GGUF, which is made again from the model of --from with the options that the GGUF records.
    The exit code is 3 if one byte differs, and the message names the first tensor that differs.
    """
    explicit = explicit_options(click.get_current_context())
    if rebuild:
        _rebuild(path, explicit, options, as_json=as_json)
        return
    for name in _OF_REBUILD:
        if name in explicit:
            raise effects.without_effect(_FLAGS.get(name, name), "nothing is rebuilt", "Add --rebuild")
        options.pop(name)
    from srd_rs import container, signing

    if options["container"] is None and signing.is_signature(path):
        _signature(path, explicit, options, as_json=as_json)
        return
    for name in _OF_SIGNATURES:
        if name in explicit:
            raise effects.without_effect(name, "PATH is no signature (model.sig)")
        options.pop(name)

    with progress_bar(as_json=as_json) as progress:
        found = container.verify(
            path, use_key=not no_key, manifest=write_manifest, progress=progress, **options
        )
    show(lambda: _json(found), lambda: text(found), as_json=as_json)


_OF_SIGNATURES = ("trust_root", "identity", "identity_issuer", "trust_config", "ignore_unsigned")
_OF_REBUILD = ("model", "calibrate", "imatrix", "lora", "target", "max_memory", "cache")
_FLAGS = {"model": "from"}


def _rebuild(path: str, explicit: set[str], options: dict[str, Any], *, as_json: bool) -> None:
    import srd_rs

    for name in explicit - {"path", "rebuild", "as_json", "threads", *_OF_REBUILD}:
        raise effects.without_effect(name, "--rebuild compares a GGUF with its checkpoint")
    if options["model"] is None:
        raise click.UsageError("--rebuild needs the checkpoint: name it with --from")
    given = {name: options[name] for name in ("calibrate", "imatrix", "lora", "target", "cache", "threads")}
    if options["max_memory"] is not None:
        given["max_memory"] = options["max_memory"]
    with Phases(as_json=as_json) as shown:
        found = srd_rs.rebuild(path, options["model"], progress=shown.update, **given)
    show(lambda: _rebuilt_json(found), lambda: rebuilt_text(found), as_json=as_json)


def _signature(path: str, explicit: set[str], options: dict[str, Any], *, as_json: bool) -> None:
    import srd_rs

    for name in explicit - {"path", "as_json", "public_key", *_OF_SIGNATURES}:
        raise effects.without_effect(name, "PATH is a signature (model.sig)")
    given = {name: options[name] for name in ("public_key", *_OF_SIGNATURES)}
    found = srd_rs.verify_signature(path, **given)
    who = f"by {printable(found.signer)}" if found.signer else "with the given key"
    lines = [f"{printable(str(found.path))}: authentic: signed {who}"]
    lines += [f"  {printable(name)}" for name in found.files]
    if found.unsigned:
        lines.append(f"not signed: {', '.join(map(printable, found.unsigned))}")
    data = {f.name: getattr(found, f.name) for f in fields(found)}
    data |= {"path": str(found.path), "folder": str(found.folder), "verified": True}
    show(lambda: data, lambda: "\n".join([*lines, bytes_text(found.bytes)]), as_json=as_json)


def rebuilt_text(found: Rebuilt) -> str:
    """What was compared."""
    calibrated = f", calibrated on {printable(found.calibration)}" if found.calibration else ""
    return "\n".join(
        [
            f"{printable(str(found.path))}: equal to the conversion of {printable(str(found.model))}",
            f"{found.quant} by {found.method}, seed {found.seed}{calibrated}",
            f"source {found.source_digest}",
            f"{found.tensors} tensors, {bytes_text(found.bytes)} in {duration_text(found.seconds)}",
        ]
    )


def _rebuilt_json(found: Rebuilt) -> dict[str, Any]:
    data = {f.name: getattr(found, f.name) for f in fields(found) if f.name != "options"}
    return {**data, "path": str(found.path), "model": str(found.model), "equal": True}


def text(found: Verification) -> str:
    if found.authentic:
        what = f"authentic: signed with the master key {found.key_id}"
    elif found.public_key_checked:
        what = "authentic: signed with the given Ed25519 key"
    elif found.fingerprint_checked:
        what = "is the container with the given fingerprint; its tags were not checked without the master key"
    else:
        what = "intact, but not verified: --no-key was given, so nothing shows who made it"
    rate = found.bytes / found.seconds if found.seconds > 0 else 0
    model = "without a name" if found.model is None else printable(found.model)
    sources = ", ".join(printable(name) for name in found.sources[:4]) + (
        ", ..." if found.sources[4:] else ""
    )
    lines = [
        f"{printable(str(found.path))}: {what}",
        f"model {model}, {found.quant}, as {printable(found.files[0])}",
        f"made from {sources or 'an unknown source'}"
        + (f" of {printable(found.revision)}" if found.revision else ""),
        f"fingerprint {found.fingerprint}",
    ]
    if found.public_key and not found.public_key_checked:
        lines.append(f"carries a signature of the Ed25519 key {found.public_key}, which was not compared")
    speed = f"{bytes_text(found.bytes)} in {duration_text(found.seconds)}, {bytes_text(round(rate))}/s"
    return "\n".join([*lines, speed])


def _json(found: Verification) -> dict[str, Any]:
    return {**found.to_dict(), "path": str(found.path)}
