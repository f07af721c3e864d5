"""`srd-rs calibrate`: what a model's matrices are fed, as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from srd_rs.cli.progress import token_bar
from srd_rs.cli.text import parse_size, printable


@click.command("calibrate", short_help="Measure the inputs of a model's matrices.")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--text", default="builtin", show_default=True, help="random, builtin or a UTF-8 text file.")
@click.option(
    "--tokens",
    "--calibrate-tokens",
    "tokens",
    type=click.IntRange(min=1),
    help="Tokens. Default: 4096 to 16384, by model.",
)
@click.option(
    "--ctx", type=click.IntRange(min=2), help="Tokens of a chunk. Default: 512, or 64 for an encoder."
)
@click.option(
    "--block", type=click.IntRange(min=0), help="Side of H's blocks; 0: all. Default: 256 to 2048, by model."
)
@click.option("--imatrix", type=click.Path(path_type=Path), help="Also write a llama.cpp imatrix (GGUF).")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Of random tokens.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Worker threads. Default: one per CPU.")
@click.option("--max-memory", type=parse_size, metavar="SIZE", default="1GiB", show_default=True)
@click.option("-f", "--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, output: Path, as_json: bool, **options: Any) -> None:
    """Run MODEL on calibration tokens and write the second moments of its matrices' inputs.

    The file serves `srd-rs convert --calibrate FILE`.
    """
    import srd_rs
    from srd_rs.hub import locate

    with token_bar(wanted=not as_json) as progress:
        report = srd_rs.calibrate(locate(model).path, output, progress=progress, **options)
    facts = {
        "output": str(report.path),
        "digest": report.digest,
        "text": report.text,
        "tokens": report.tokens,
        "chunks": report.chunks,
        "tensors": report.tensors,
        "imatrix": str(report.imatrix) if report.imatrix else None,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"{report.tensors} tensors, {report.tokens} tokens of {printable(report.text)}")
    click.echo(printable(str(report.path)))
    if report.imatrix:
        click.echo(printable(str(report.imatrix)))
