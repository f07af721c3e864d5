"""`srd-rs lora`: a LoRA adapter of PEFT in, a GGUF adapter out."""

from __future__ import annotations

import shlex

import click

from srd_rs.cli.options import GroupedCommand, convert_option, json_option, option, output_option
from srd_rs.cli.output import print_json, say
from srd_rs.progress import progress_bar
from srd_rs.text import bytes_text, printable

EXAMPLES = """\b
Examples:
  srd-rs lora path/to/adapter --base path/to/model
  srd-rs lora path/to/adapter --base org/name -q F16
  srd-rs convert path/to/model --lora path/to/adapter    merges the adapter instead
"""


@click.command("lora", cls=GroupedCommand, short_help="Turn a LoRA adapter into a GGUF.", epilog=EXAMPLES)
@click.argument("adapter")
@output_option(
    "The GGUF to write, or a folder for it. The default is ADAPTER-TYPE.gguf in the current folder."
)
@option(
    "--base",
    group="Input",
    metavar="MODEL",
    help="The base model: a folder with config.json, or a model on the hub (ORG/NAME). Its weights need not be there."
    " The default is the base model that adapter_config.json names.",
)
@option(
    "-q",
    "--quant",
    group="Output",
    type=click.Choice(["F32", "F16", "BF16"], case_sensitive=False),
    default="F32",
    show_default=True,
    help="Type of the matrices.",
)
@convert_option("name")
@convert_option("provenance")
@convert_option("overwrite")
@json_option()
def command(adapter: str, output: str | None, as_json: bool, **options: object) -> None:
    """Turn ADAPTER, a folder with a LoRA adapter of PEFT, into a GGUF adapter.

    llama.cpp adds a GGUF adapter to its base model while it loads both (llama-cli -m BASE.gguf --lora ADAPTER.gguf).
    A GGUF adapter cannot hold DoRA, weights that were trained as a whole, and updates of matrices that a GGUF holds as
    one matrix. srd-rs convert --lora merges these into the model.
    """
    import srd_rs

    with progress_bar(as_json=as_json) as progress:
        report = srd_rs.lora(adapter, output, progress=progress, **options)  # type: ignore[arg-type]
    plan = report.plan
    if as_json:
        print_json(
            {
                "output": str(report.output),
                "arch": plan.arch,
                "quant": plan.quant,
                "total_bytes": plan.total_bytes,
                "tensors": len(plan.tensors),
            }
        )
        return
    say(f"{len(plan.tensors) // 2} updates of the architecture {printable(plan.arch)}, {plan.quant}")
    say(f"{printable(str(report.output))} ({bytes_text(plan.total_bytes)})")
    say(f"run it: llama-cli -m BASE.gguf --lora {printable(shlex.quote(str(report.output)))}")
