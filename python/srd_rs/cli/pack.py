"""`srd-rs pack`: a checkpoint in, a signed container out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from srd_rs.cli.convert import container_json, container_lines, parse_quant, parse_tensor_type
from srd_rs.cli.keys import signing_options
from srd_rs.cli.progress import progress_bar
from srd_rs.cli.text import duration_text, parse_size


@click.command("pack", short_help="Turn a checkpoint into a signed container.")
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The .axm to write, or a folder for it. Default: MODEL-QUANT.axm in the current folder.",
)
@click.option(
    "-q",
    "--quant",
    type=parse_quant,
    metavar="MIX",
    help="The mix. Default: Q4_K_M; of a quantised GGUF its own, its blocks unchanged.",
)
@click.option(
    "--residual-bits",
    type=click.Choice(["0", "2", "3", "4"]),
    default="2",
    show_default=True,
    help="Bits a weight for what quantising lost.",
)
@click.option(
    "--tensor-type",
    "tensor_types",
    type=parse_tensor_type,
    multiple=True,
    metavar="REGEX=TYPE",
    help="A type for the tensors whose name the regular expression matches. May be repeated.",
)
@click.option(
    "--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, show_default=True, help="Of the noise."
)
@signing_options()
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
def command(model: str, output: Path | None, residual_bits: str, as_json: bool, **options: Any) -> None:
    """Turn MODEL into an .axm container: what convert writes, without the GGUF.

    The GGUF comes out of it with srd-rs extract, byte for byte.
    """
    from srd_rs import container
    from srd_rs.hub import locate

    source = locate(model)
    if source.name is not None and (output is None or output.is_dir()):
        output = (output or Path()) / f"{source.name}-{options['quant'] or 'Q4_K_M'}.axm"
    bits = int(residual_bits) or None
    with progress_bar(wanted=not as_json) as progress:
        report = container.pack(source.path, output, residual_bits=bits, progress=progress, **options)
    sealed = report.container
    if sealed is None:
        raise AssertionError("pack writes a container")
    if as_json:
        click.echo(json.dumps({**container_json(sealed), "seconds": report.seconds}))
    else:
        click.echo("\n".join([*container_lines(sealed), f"packed in {duration_text(report.seconds)}"]))
