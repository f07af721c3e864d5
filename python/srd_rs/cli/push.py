"""`srd-rs push`: files to the hub."""

from __future__ import annotations

from pathlib import Path

import click

from srd_rs.cli.options import GroupedCommand, json_option, option, path_option
from srd_rs.cli.output import print_json, say
from srd_rs.text import printable

EXAMPLES = """\b
Examples:
  srd-rs push org/name-GGUF model-Q4_K_M.gguf --card README.md
  srd-rs push org/name-GGUF model-Q4_K_M.gguf model-Q4_K_M.axm --private
"""


@click.command("push", cls=GroupedCommand, short_help="Upload files to the hub.", epilog=EXAMPLES)
@click.argument("repo", metavar="ORG/NAME")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@path_option("--card", help="Model card (see srd-rs card); it becomes README.md of the repository.")
@option("--private", is_flag=True, help="Make the repository private, if it is new.")
@option("--message", metavar="TEXT", help="Message of the commit.")
@json_option()
def command(
    repo: str, files: tuple[Path, ...], card: Path | None, private: bool, message: str | None, as_json: bool
) -> None:
    """Upload FILEs to the model repository ORG/NAME on the hub, in one commit. The repository is made if it is missing.

    The token is what hf auth login keeps, or the variable HF_TOKEN.
    """
    from srd_rs import publishing

    address = publishing.push(repo, files, card=card, private=private, message=message)
    if as_json:
        print_json({"commit": address})
    else:
        say(printable(address))
