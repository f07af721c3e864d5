"""`srd-rs modelfile`: the file with which Ollama takes over a GGUF."""

from __future__ import annotations

from pathlib import Path

import click

from srd_rs.cli.options import GroupedCommand, convert_option, json_option, path_option
from srd_rs.cli.output import print_json, say
from srd_rs.text import printable

EXAMPLES = """\b
Examples:
  srd-rs modelfile model-Q4_K_M.gguf
"""


@click.command("modelfile", cls=GroupedCommand, short_help="Write a Modelfile for Ollama.", epilog=EXAMPLES)
@click.argument("gguf")
@path_option(
    "-o",
    "--output",
    group="Output",
    help="The Modelfile to write, in the folder of the GGUF. The default is NAME.Modelfile beside the GGUF.",
)
@path_option(
    "--mmproj",
    group="Output",
    help="The projector of a model that sees or hears. The default is the file mmproj-NAME-*.gguf beside the GGUF.",
)
@convert_option("overwrite")
@json_option()
def command(gguf: str, output: Path | None, mmproj: Path | None, overwrite: bool, as_json: bool) -> None:
    """Write the Modelfile with which ollama create takes over GGUF, with the sampling that the model recommends.

    Ollama does not run the chat template of a GGUF. The Modelfile has a TEMPLATE with the turns of the chat, if srd-rs
    recognizes them; it says so if not.
    """
    from srd_rs import _core, publishing, sniff

    text = publishing.modelfile(gguf, mmproj=mmproj)
    target = output or Path(gguf).with_suffix(".Modelfile")
    sniff.check_output(target)
    _core.write_file(target, text.encode(), overwrite)
    if as_json:
        print_json({"output": str(target)})
    else:
        say(f"{printable(str(target))}\n{printable(text.splitlines()[0].removeprefix('# '))}")
