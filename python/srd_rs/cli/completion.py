"""`srd-rs completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

from typing import Final

import click

from srd_rs.cli.options import GroupedCommand
from srd_rs.cli.output import say

SHELLS: Final = ("bash", "zsh", "fish")
#: The variable with which a shell asks for completions.
VARIABLE: Final = "_SRD_RS_COMPLETE"
EXAMPLES = """\b
Examples:
  srd-rs completion bash >> ~/.bashrc
  srd-rs completion zsh >> ~/.zshrc
  srd-rs completion fish > ~/.config/fish/completions/srd-rs.fish
"""


@click.command(
    "completion", cls=GroupedCommand, short_help="Print a script for completion in a shell.", epilog=EXAMPLES
)
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script with which SHELL (bash, zsh or fish) completes the commands and options of srd-rs.

    Add the script to the start-up file of the shell, and open a new shell.
    """
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    if completion is None:
        raise AssertionError(f"click knows {shell}")
    group = context.find_root().command
    say(completion(group, {}, "srd-rs", VARIABLE).source())
