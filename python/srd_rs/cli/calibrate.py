"""`srd-rs calibrate`: what a model's matrices are fed, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from srd_rs import _core
from srd_rs.cli.options import GroupedCommand, convert_option, json_option, option, path_option
from srd_rs.cli.output import print_json, say
from srd_rs.progress import token_bar
from srd_rs.text import printable, size_text

EXAMPLES = """\b
Examples:
  srd-rs calibrate path/to/model -o model.calib
  srd-rs convert path/to/model --calibrate model.calib
  srd-rs calibrate path/to/model -o model.calib --imatrix imatrix.gguf
"""


@click.command(
    "calibrate", cls=GroupedCommand, short_help="Measure the inputs of a model's matrices.", epilog=EXAMPLES
)
@click.argument("model")
@path_option("-o", "--output", group="Output", required=True, help="The calibration file to write.")
@option(
    "--text",
    group="What is measured",
    default="builtin",
    show_default=True,
    metavar="TEXT",
    help="builtin (a bundled text), random (random tokens) or a UTF-8 text file.",
)
@option(
    "--tokens",
    "--calibrate-tokens",
    "tokens",
    group="What is measured",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of tokens. The default is 8192, or up to 16384 for small models whose tokens are not weighed.",
)
@option(
    "--ctx",
    group="What is measured",
    type=click.IntRange(min=2),
    metavar="N",
    help="Number of tokens of a chunk. The default is 512, or 64 for an encoder.",
)
@option(
    "--block",
    group="What is measured",
    type=click.IntRange(min=0),
    metavar="N",
    help="Number of columns of each block of the second moments; 0 keeps the whole matrix. The default is 256 to 2048;"
    " small models get more.",
)
@convert_option("weigh_tokens", group="What is measured")
@path_option(
    "--imatrix", group="Output", help="Write an importance matrix of llama.cpp (GGUF) as well, to this file."
)
@convert_option(
    "seed",
    group="What is measured",
    help="Seed of random tokens, and of the tokens that the model draws where tokens are weighed.",
)
@convert_option("threads")
@convert_option("max_memory", default=size_text(_core.DEFAULT_CALIBRATION_MEMORY))
@convert_option("overwrite")
@json_option()
def command(model: str, output: Path, as_json: bool, **options: Any) -> None:
    """Run MODEL on calibration tokens and write the second moments of its matrices' inputs.

    srd-rs convert --calibrate FILE takes the file.
    """
    import srd_rs

    with token_bar(as_json=as_json) as progress:
        report = srd_rs.calibrate(model, output, progress=progress, **options)
    facts = {
        "output": str(report.path),
        "digest": report.digest,
        "text": report.text,
        "tokens": report.tokens,
        "chunks": report.chunks,
        "tensors": report.tensors,
        "weighed": report.weighed,
        "imatrix": str(report.imatrix) if report.imatrix else None,
    }
    if as_json:
        print_json(facts)
        return
    weighed = "weighed " if report.weighed else ""
    say(f"{report.tensors} tensors, {report.tokens} {weighed}tokens of {printable(report.text)}")
    say(printable(str(report.path)))
    if report.imatrix:
        say(printable(str(report.imatrix)))
