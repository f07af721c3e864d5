"""`srd-rs bom`: a CycloneDX ML-BOM of a GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import click

from srd_rs.cli.options import GroupedCommand, convert_option, json_option, option, path_option
from srd_rs.cli.output import say
from srd_rs.text import printable

EXAMPLES = """\b
Examples:
  srd-rs bom model-Q4_K_M.gguf --from path/to/model
  srd-rs bom model-Q4_K_M.gguf --from org/name@revision --report report/
"""


@click.command("bom", cls=GroupedCommand, short_help="Write a CycloneDX ML-BOM of a GGUF.", epilog=EXAMPLES)
@click.argument("gguf")
@path_option(
    "-o", "--output", group="Output", help="The document. The default is NAME.cdx.json beside the GGUF."
)
@option(
    "--from", "model", group="Output", metavar="MODEL", help="The model that the GGUF was converted from."
)
@path_option(
    "--report",
    group="Output",
    metavar="FOLDER",
    help="Folder of srd-rs eval --report: its scores become the quality of the model.",
)
@path_option("--calibrate", group="Output", help="Text of the calibration, for its hash.")
@path_option(
    "--lora",
    group="Output",
    metavar="ADAPTER",
    multiple=True,
    help="Adapter that the conversion merged, for its hash. The option may be repeated.",
)
@convert_option("overwrite")
@json_option("Print the document instead of writing it.")
def command(
    gguf: str,
    output: Path | None,
    model: str | None,
    report: Path | None,
    calibrate: Path | None,
    lora: tuple[Path, ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write what GGUF is, what it was made of, how, and how good it is, as a CycloneDX 1.7 document.

    The files of the GGUF and of MODEL are read for their SHA-256. The weights of a MODEL on the hub are not downloaded:
    the hub states their SHA-256.
    """
    import srd_rs
    from srd_rs import _core, effects, hub, materials, sniff

    effects.refuse(
        (as_json and output is not None, "--output", "--json prints the document"),
        (as_json and overwrite, "--overwrite", "no file is written"),
    )
    path = hub.file(gguf)
    sniff.check_gguf(path)
    beside = path.with_suffix(materials.SUFFIX)
    target = output or (Path(beside.name) if "://" in gguf else beside)
    if not as_json:
        sniff.check_output(target)
    document = srd_rs.bom(path, model, report=report, calibrate=calibrate, lora=lora)
    if as_json:
        say(json.dumps(document))  # as it is, because the schema of CycloneDX allows no other keys
        return
    _core.write_file(target, materials.bom_text(document).encode(), overwrite)
    say(printable(str(target)))
