"""`srd-rs extract`: files from a container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from srd_rs.cli.convert import parse_quant, parse_tensor_type, report_json, report_text
from srd_rs.cli.keys import checking_options
from srd_rs.cli.progress import progress_bar
from srd_rs.cli.text import parse_size


@click.command("extract", short_help="Write a GGUF or safetensors file from a container.")
@click.argument("container", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write, or a folder for it. Default: named after CONTAINER, in the current folder.",
)
@click.option(
    "-q",
    "--quant",
    type=parse_quant,
    metavar="MIX",
    help="The mix of tensor types. Default: the packed one, copied byte for byte.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    help="Part of the residual that is added where types change: 0 none, 1 all. Default: 1.",
)
@click.option(
    "--safetensors",
    is_flag=True,
    help="Write safetensors with GGUF's tensor names: BF16, or --quant F16 or F32.",
)
@click.option(
    "--tensor-type",
    "tensor_types",
    type=parse_tensor_type,
    multiple=True,
    metavar="REGEX=TYPE",
    help="A type for the tensors whose name the regular expression matches. May be repeated.",
)
@checking_options()
@click.option("--threads", type=click.IntRange(1, 4096), help="Worker threads. Default: one per CPU.")
@click.option(
    "--max-memory",
    type=parse_size,
    metavar="SIZE",
    default="512MiB",
    show_default=True,
    help="Bytes alive in the pipeline at a time.",
)
@click.option("-f", "--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(container: Path, output: Path | None, no_key: bool, as_json: bool, **options: Any) -> None:
    """Verify CONTAINER and write a GGUF (or safetensors file) from it; exit code 3 if it does not verify."""
    from srd_rs.container import extract

    with progress_bar(wanted=not as_json) as progress:
        report = extract(container, output, use_key=not no_key, progress=progress, **options)
    click.echo(json.dumps(report_json(report)) if as_json else report_text(report))
