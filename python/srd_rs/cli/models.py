"""`srd-rs models`: which models can be converted."""

from __future__ import annotations

import click

from srd_rs.cli.options import GroupedCommand, json_option
from srd_rs.cli.output import show
from srd_rs.text import table

EXAMPLES = """\b
Examples:
  srd-rs models
  srd-rs models --json
"""


@click.command(
    "models", cls=GroupedCommand, short_help="List the models that can be converted.", epilog=EXAMPLES
)
@json_option()
def command(as_json: bool) -> None:
    """List the architectures of GGUF, and the classes of Hugging Face that are converted to each of them.

    The class of a checkpoint stands in its config.json, under "architectures". The third column says whether
    models of the architecture can be calibrated; others are converted with the search without data. With --json, the
    kinds of weights and of tokenizers that are read are listed as well ("bare" stands for weights without the prefix
    of their class).
    """
    from srd_rs import _core, families, vocab
    from srd_rs.families import projectors, quantized

    found = families.architectures()
    calibrated = _core.forward_architectures()
    rows = [
        (arch, cls, "yes" if arch in calibrated else "no")
        for arch, classes in found.items()
        for cls in classes
    ]
    show(
        lambda: {
            "architectures": found,
            "calibrated": [arch for arch in found if arch in calibrated],
            "classes": families.known_classes(),
            "mmproj": projectors.supported(),
            "inputs": ["safetensors", "bin", "bare", *quantized.INPUTS],
            "tokenizers": list(vocab.TOKENIZERS),
        },
        lambda: table(("architecture", "class in config.json", "calibrated"), rows, left=3),
        as_json=as_json,
    )
