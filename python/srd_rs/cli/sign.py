"""`srd-rs sign`: a signature of files that others verify, too."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from srd_rs.cli.options import GroupedCommand, convert_option, json_option, option, path_option
from srd_rs.cli.output import show
from srd_rs.text import printable

EXAMPLES = """\b
Examples:
  srd-rs sign folder/ --oms-key key.pem
  srd-rs sign model-Q4_K_M.gguf model-Q4_K_M.met.json --oms-key key.pem -o model-Q4_K_M.sig
  srd-rs sign folder/ --keyless
"""


@click.command(
    "sign", cls=GroupedCommand, short_help="Sign files for others (OpenSSF Model Signing).", epilog=EXAMPLES
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@path_option(
    "-o", "--output", group="Output", help="The signature. The default is model.sig beside the files."
)
@path_option(
    "--oms-key",
    group="Keys",
    help="Private key (PEM, elliptic curve P-256, P-384 or P-521) that signs.",
)
@path_option("--certificate", group="Keys", help="Certificate of the key (PEM).")
@path_option(
    "--certificate-chain",
    group="Keys",
    multiple=True,
    help="Certificates (PEM) that issued the certificate. The option may be repeated.",
)
@option(
    "--keyless",
    group="Identity",
    is_flag=True,
    help="Sign with an identity in the place of a key (Sigstore). The name of the identity and the digest of the"
    " statement become public.",
)
@path_option(
    "--identity-token",
    group="Identity",
    help="File with the token (OpenID Connect) of the identity. The default is the identity of the workflow that this"
    " runs in, or at a terminal the browser asks.",
)
@path_option(
    "--trust-config",
    group="Identity",
    help="Other services than the public ones of Sigstore (a ClientTrustConfig in JSON).",
)
@convert_option("overwrite")
@json_option()
def command(
    paths: tuple[Path, ...],
    output: Path | None,
    oms_key: Path | None,
    certificate: Path | None,
    certificate_chain: tuple[Path, ...],
    keyless: bool,
    identity_token: Path | None,
    trust_config: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Sign the files PATH..., or all files of the folder PATH, in one signature.

    The signature is a Sigstore bundle with the SHA-256 of each file, as the OpenSSF Model Signing specification (v1.0)
    has it. `srd-rs verify model.sig --public-key key.pub` verifies it, and so does `model_signing` (PyPI).
    """
    import srd_rs

    signed = srd_rs.sign(
        paths,
        output,
        key=oms_key,
        certificate=certificate,
        certificate_chain=certificate_chain,
        keyless=keyless,
        identity_token=identity_token,
        trust_config=trust_config,
        overwrite=overwrite,
    )
    lines = [printable(str(signed.path)), *(f"  {printable(name)}" for name in signed.files)]
    if signed.unsigned:
        lines.append(f"not signed: {', '.join(map(printable, signed.unsigned))}")
    data = {**asdict(signed), "path": str(signed.path)}
    who = f"key {signed.key}" if signed.key else f"signed by {printable(str(signed.signer))}"
    show(lambda: data, lambda: "\n".join([*lines, who]), as_json=as_json)
