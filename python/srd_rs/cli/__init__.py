"""The command line `srd-rs`. One file per command; this one finds them and turns failures into exit codes.

Exit codes: 0 done, 1 failed, 2 usage, 3 verification failed, 130 interrupted. Errors are one line on stderr,
`error: place: what. What to do.`, or with `--json` one object on stdout, `{"error": {"kind", "message"}}`.
`SRD_DEBUG=1` shows the traceback as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from srd_rs.cli.failures import EXIT_INTERRUPTED, exit_code_of, report
from srd_rs.cli.output import finish, open_door, say

#: The variable with which a shell asks for completions: `eval "$(_SRD_RS_COMPLETE=bash_source srd-rs)"`.
_COMPLETE = "_SRD_RS_COMPLETE"

#: Commands and where they live. A command's module is imported only when it is asked for.
COMMANDS = {
    "convert": "srd_rs.cli.convert",
    "calibrate": "srd_rs.cli.calibrate",
    "pack": "srd_rs.cli.pack",
    "verify": "srd_rs.cli.verify",
    "extract": "srd_rs.cli.extract",
    "inspect": "srd_rs.cli.inspect",
    "keygen": "srd_rs.cli.keygen",
    "resign": "srd_rs.cli.resign",
    "eval": "srd_rs.cli.eval",
    "met": "srd_rs.cli.met",
    "hydrate": "srd_rs.cli.hydrate",
}


class LazyGroup(click.Group):
    """A group whose commands are the attribute `command` of the modules in `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from srd_rs import _core

    say(f"srd-rs {_core.__version__}")
    ctx.exit()


@click.group(cls=LazyGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V",
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """Hugging Face checkpoint in, GGUF out: one streaming pass, no PyTorch, no llama.cpp, no GPU.

    \b
    srd-rs convert MODEL             MODEL-Q4_K_M.gguf in the current folder
    srd-rs convert MODEL --dry-run   the exact size, without reading a weight
    srd-rs inspect FILE              what is in a GGUF or a checkpoint
    """


def run(args: Sequence[str]) -> int:
    """Run the command line and return its exit code; every failure is printed, none is raised."""
    as_json = "--json" in args
    door = open_door(as_json=as_json)
    try:
        # Not `cli.main`, which prints on its own when it is interrupted.
        with cli.make_context("srd-rs", list(args) or ["--help"]) as context:
            cli.invoke(context)
        finish()
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        report("interrupted", "interrupted", as_json=as_json)
        return EXIT_INTERRUPTED
    except BaseException as error:  # the one place where every failure becomes a line and a code
        return exit_code_of(error, as_json=as_json)
    finally:
        door.close()
    return 0


def start() -> None:
    """Run the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped instead of ending the run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if instruction := os.environ.get(_COMPLETE):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {}, "srd-rs", _COMPLETE, instruction))
    sys.exit(run(sys.argv[1:]))
