"""`srd-rs plan`: what a conversion will cost, before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srd_rs.cli.options import (
    GroupedCommand,
    chosen_effort,
    convert_option,
    fast_option,
    json_option,
    option,
    output_option,
    parse_size,
    path_option,
)
from srd_rs.cli.output import show
from srd_rs.options import ConvertOptions
from srd_rs.text import bytes_text, count_text, duration_text, printable, table

if TYPE_CHECKING:
    from srd_rs.estimating import Estimate

EXAMPLES = """\b
Examples:
  srd-rs plan path/to/model
  srd-rs plan org/name -q Q5_K_M --cost-per-hour 2.50
  srd-rs plan org/name --json > rates.json
  srd-rs plan org/another --rates rates.json --nodes 8
"""


@click.command(
    "plan",
    cls=GroupedCommand,
    short_help="Say what a conversion will cost, before it begins.",
    epilog=EXAMPLES,
)
@click.argument("model")
@output_option("The GGUF that would be written, or its folder, whose disk is measured.")
@convert_option("quant")
@convert_option("effort")
@fast_option()
@convert_option("stream")
@convert_option("axm")
@convert_option("pre_tokenizer")
@convert_option("calibrate_tokens")
@convert_option("calibrate_block")
@option(
    "--nodes",
    group="What is measured",
    type=click.IntRange(1, 1_000_000),
    multiple=True,
    metavar="N",
    help="Number of machines to plan for. The option may be repeated. The default is 1, 4 and 16.",
)
@option(
    "--cost-per-hour",
    group="What is measured",
    type=click.FloatRange(min=0),
    metavar="PRICE",
    help="Price of one machine for an hour, in any currency.",
)
@path_option(
    "--rates",
    group="What is measured",
    help="Take the speed of the machine from this file, which srd-rs plan --json has printed there, and measure"
    " nothing.",
)
@option(
    "--network-rate",
    group="What is measured",
    type=parse_size,
    metavar="SIZE",
    help="Bytes that the network brings to a machine in a second. The default is 125MB, which is 1 Gbit/s.",
)
@option(
    "--disk-rate",
    group="What is measured",
    type=parse_size,
    metavar="SIZE",
    help="Bytes that the disk of a machine reads or writes in a second. The default is what is measured.",
)
@convert_option("threads")
@convert_option("max_memory")
@json_option()
def command(
    model: str,
    output: str | None,
    nodes: tuple[int, ...],
    cost_per_hour: float | None,
    rates: Path | None,
    network_rate: int | None,
    disk_rate: int | None,
    effort: str | None,
    fast: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Say how long a conversion of MODEL will take on 1, 4 and 16 machines, and what it needs.

    Only headers are read, and nothing is downloaded: MODEL is a folder, a GGUF or a model on the hub, of any size. The
    safetensors files of a folder may be cut off behind their headers. The speed of this machine is measured in a few
    seconds with made-up weights. srd-rs convert --dry-run prints the types of all tensors.
    """
    from srd_rs import estimating

    found = estimating.estimate(
        model,
        output,
        ConvertOptions(effort=chosen_effort(effort, fast), **options),
        nodes=nodes or estimating.NODES,
        cost_per_hour=cost_per_hour,
        rates=None if rates is None else estimating.rates_from(rates),
        network=network_rate,
        disk=disk_rate,
    )
    show(found.to_json, lambda: estimate_text(found), as_json=as_json)


def estimate_text(found: Estimate) -> str:
    """The tables of `srd-rs plan`."""
    with_cost = any(node.cost is not None for node in found.nodes)
    head = ["machines", "time", "download", "calibrate", "convert", *(["cost"] if with_cost else [])]
    rows = [
        [
            str(node.nodes),
            *map(_time, (node.seconds, node.download_seconds, node.calibrate_seconds, node.convert_seconds)),
            *([f"{node.cost:.2f}"] if node.cost is not None else []),
        ]
        for node in found.nodes
    ]
    effort = f", calibrated on {found.tokens} tokens, blocks of {found.block}" if found.tokens else ""
    lines = [
        f"{printable(found.arch)}: {count_text(found.n_weights)} weights, {found.quant}, effort {found.effort}{effort}",
        f"{bytes_text(found.source_bytes)} are read, {bytes_text(found.output_bytes)} are written",
        f"memory of a machine: at most {bytes_text(found.memory_bytes)}",
        f"disk: {bytes_text(found.disk_bytes)}; network: {bytes_text(found.network_bytes)}",
        f"CPU time: {_time(found.cpu_seconds)}",
        "",
        table(head, rows, left=0),
        "",
        *(f"measured: {line}" for line in found.measured),
        *(f"assumed: {line}" for line in found.assumed),
        "no weight was read",
    ]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    """Hours where minutes would be many."""
    return duration_text(seconds) if seconds < 36_000 else f"{seconds / 3600:.1f} h"
