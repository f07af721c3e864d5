"""`srd-rs card`: a model card for the hub."""

from __future__ import annotations

from pathlib import Path

import click

from srd_rs.cli.options import GroupedCommand, convert_option, json_option, option, path_option
from srd_rs.cli.output import print_json, say
from srd_rs.text import printable

EXAMPLES = """\b
Examples:
  srd-rs card model-Q4_K_M.gguf
  srd-rs card model-Q4_K_M.gguf mmproj-model-F16.gguf
  srd-rs card model-Q4_K_M.gguf model-Q8_0.gguf --base-model org/name --report report/ -o README.md
"""


@click.command("card", cls=GroupedCommand, short_help="Write a model card for GGUFs.", epilog=EXAMPLES)
@click.argument("ggufs", metavar="GGUF...", nargs=-1, required=True)
@path_option(
    "-o",
    "--output",
    group="Output",
    default=Path("README.md"),
    show_default=True,
    help="The card to write. The hub shows the file README.md.",
)
@option(
    "--base-model",
    group="Output",
    metavar="ORG/NAME",
    help="The model on the hub that the files were made from.",
)
@path_option(
    "--report",
    group="Output",
    metavar="FOLDER",
    help="Folder of srd-rs eval --report: its scores become the table of the quality.",
)
@convert_option("overwrite")
@json_option()
def command(
    ggufs: tuple[str, ...],
    output: Path,
    base_model: str | None,
    report: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a model card for GGUFs of one model: front matter, sizes, method, quality, commands and fingerprints.

    Everything is read from the metadata of the files, and from containers and a projector that lie beside them.
    """
    from srd_rs import _core, publishing, sniff

    sniff.check_output(output)
    text = publishing.card(ggufs, base_model=base_model, report=report)
    _core.write_file(output, text.encode(), overwrite)
    if as_json:
        print_json({"output": str(output)})
    else:
        say(printable(str(output)))
