"""`srd-rs extract`: files from a container."""

from __future__ import annotations

from typing import Any

import click

from srd_rs.cli.convert import report_json, report_text
from srd_rs.cli.options import (
    GroupedCommand,
    checking_options,
    convert_option,
    json_option,
    option,
    output_option,
)
from srd_rs.cli.output import show
from srd_rs.progress import progress_bar

EXAMPLES = """\b
Examples:
  srd-rs extract model-Q4_K_M.axm
  srd-rs extract model-Q4_K_M.axm -q Q5_K_M
"""


@click.command(
    "extract",
    cls=GroupedCommand,
    short_help="Write a GGUF or safetensors file from a container.",
    epilog=EXAMPLES,
)
@click.argument("container")
@output_option(
    "The file to write, or a folder for it. The default is named after CONTAINER, in the current folder."
)
@convert_option(
    "quant",
    default=None,
    show_default=False,
    help="Mix of tensor types. The default is the packed mix, whose blocks are copied byte for byte.",
)
@option(
    "--alpha",
    group="Quality",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Share of the residual (0 to 1) that is added to tensors whose type changes. The default is 1, or 0.75"
    " for residuals of 2 bits over an SRD base.",
)
@option(
    "--safetensors",
    group="Output",
    is_flag=True,
    help="Write a safetensors file with the tensor names of GGUF, in BF16, or in F16 or F32 with --quant.",
)
@convert_option("tensor_types")
@checking_options()
@convert_option("threads")
@convert_option("max_memory")
@convert_option("overwrite")
@json_option()
def command(container: str, output: str | None, no_key: bool, as_json: bool, **options: Any) -> None:
    """Verify CONTAINER and write a GGUF (or safetensors file) from it; exit code 3 if it does not verify."""
    from srd_rs.container import extract

    with progress_bar(as_json=as_json) as progress:
        report = extract(container, output, use_key=not no_key, progress=progress, **options)
    show(lambda: report_json(report), lambda: report_text(report), as_json=as_json)
