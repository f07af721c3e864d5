"""`srd-rs pack`: a checkpoint in, a signed container out."""

from __future__ import annotations

from typing import Any

import click

from srd_rs.cli.convert import container_json, container_lines
from srd_rs.cli.options import (
    GroupedCommand,
    chosen_effort,
    convert_option,
    fast_option,
    json_option,
    output_option,
    signing_options,
)
from srd_rs.cli.output import print_json, say
from srd_rs.options import DEFAULTS
from srd_rs.progress import progress_bar
from srd_rs.text import duration_text

EXAMPLES = """\b
Examples:
  srd-rs pack path/to/model
  srd-rs pack path/to/model --residual-bits 3 --sign-key private.pem
"""


@click.command(
    "pack", cls=GroupedCommand, short_help="Turn a checkpoint into a signed container.", epilog=EXAMPLES
)
@click.argument("model")
@output_option("The .axm to write, or a folder for it. The default is MODEL-MIX.axm in the current folder.")
@convert_option(
    "quant",
    default=None,
    show_default=False,
    help=f"Mix of tensor types. The default is {DEFAULTS.quant}; for a quantized GGUF it is the mix of that GGUF,"
    " whose blocks are packed unchanged.",
)
@convert_option("effort")
@fast_option()
@convert_option("calibrate")
@convert_option("calibrate_tokens")
@convert_option("residual_bits")
@convert_option("tensor_types")
@convert_option("seed", help="Seed of the noise.")
@convert_option("mmproj")
@convert_option("mmproj_type")
@signing_options()
@convert_option("threads")
@convert_option("max_memory")
@convert_option("overwrite")
@json_option()
def command(
    model: str,
    output: str | None,
    residual_bits: str,
    effort: str | None,
    fast: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn MODEL into an .axm container: what convert writes, without the GGUF.

    srd-rs extract writes the GGUF from the container, byte for byte.
    """
    from srd_rs import container

    options |= {"residual_bits": int(residual_bits) or None, "effort": chosen_effort(effort, fast)}
    with progress_bar(as_json=as_json) as progress:
        report = container.pack(model, output, progress=progress, **options)
    sealed, beside = report.container, report.mmproj_container
    if sealed is None:
        raise AssertionError("pack writes a container")
    if as_json:
        projector = beside and container_json(beside)
        print_json({**container_json(sealed), "mmproj_container": projector, "seconds": report.seconds})
    else:
        lines = [*container_lines(sealed), *(container_lines(beside) if beside else ())]
        say("\n".join([*lines, f"packed in {duration_text(report.seconds)}"]))
