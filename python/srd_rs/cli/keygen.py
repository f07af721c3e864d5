"""`srd-rs keygen`: keys to sign containers with."""

from __future__ import annotations

from pathlib import Path

import click

from srd_rs.cli.options import GroupedCommand, json_option
from srd_rs.cli.output import print_json, say
from srd_rs.text import printable

EXAMPLES = """\b
Examples:
  srd-rs keygen
  srd-rs keygen master.key
  srd-rs keygen --ed25519 private.pem
"""


@click.command("keygen", cls=GroupedCommand, short_help="Make a key.", epilog=EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--ed25519", is_flag=True, help="Make an Ed25519 key pair instead: PATH and PATH.pub (PEM).")
@json_option()
def command(path: Path | None, ed25519: bool, as_json: bool) -> None:
    """Make a master key in PATH (mode 0600), by default in the default key file.

    An existing file is never overwritten. The key itself is not shown, only its id.
    """
    from srd_rs.container import keygen

    made = keygen(path, ed25519=ed25519)
    if as_json:
        public = None if made.public is None else str(made.public)
        print_json({"path": str(made.path), "id": made.id, "public": public})
        return
    say(f"{printable(str(made.path))}: keep it secret, keep a copy")
    if made.public is not None:
        say(f"{printable(str(made.public))}: for everybody who verifies")
    say(f"{'public key' if ed25519 else 'key id'} {made.id}")
