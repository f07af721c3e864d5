"""`srd-rs help`: the help of the tool or of one command."""

from __future__ import annotations

import click

from srd_rs.cli.options import GroupedCommand
from srd_rs.cli.output import say

EXAMPLES = """\b
Examples:
  srd-rs help
  srd-rs help convert
"""


@click.command("help", cls=GroupedCommand, short_help="Show the help of a command.", epilog=EXAMPLES)
@click.argument("name", metavar="[COMMAND]", required=False)
@click.pass_context
def command(context: click.Context, name: str | None) -> None:
    """Show the help of COMMAND, or the list of all commands."""
    top = context.parent
    if top is None or not isinstance(top.command, click.Group):
        raise AssertionError("help is a command of srd-rs")
    if name is None:
        say(top.get_help())
        return
    found = top.command.get_command(top, name)
    if found is None:
        from srd_rs.cli import no_such_command

        raise click.UsageError(no_such_command(name))
    say(found.get_help(click.Context(found, parent=top, info_name=name)))
