"""The command line `srd-rs`. One file per command; this one finds them and turns failures into exit codes.

Exit codes: 0 done, 1 failed, 2 usage, 3 verification failed, 130 interrupted. Errors are one line on stderr,
`error: place: what. What to do.`, or with `--json` one object on stdout, `{"error": {"kind", "message"}}`.
`SRD_DEBUG=1` shows the traceback as well.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

import click

from srd_rs.cli.completion import VARIABLE
from srd_rs.cli.failures import EXIT_INTERRUPTED, exit_code_of, report
from srd_rs.cli.output import finish, open_door, say

#: The commands by the headings of the help. The command NAME is the attribute `command` of the module srd_rs.cli.NAME,
#: which is imported only when the command is asked for.
COMMANDS = {
    "Convert and look": ("convert", "plan", "lora", "calibrate", "inspect", "eval", "quality", "models"),
    "Load only what a request needs": ("met", "hydrate"),
    "Signed containers": ("pack", "verify", "extract", "resign", "keygen"),
    "Publish": ("sign", "bom", "card", "modelfile", "push"),
    "Help": ("help", "env", "completion"),
}
#: What users of other tools type -> what they mean.
_OTHER_NAMES = {
    "quantize": "convert",
    "info": "inspect",
    "show": "inspect",
    "dump": "inspect",
    "imatrix": "calibrate --imatrix FILE",
    "perplexity": "eval",
    "doctor": "env",
    "version": "--version",
}


def no_such_command(name: str) -> str:
    """What is said of a command that does not exist: the command that was meant, or what to do with a path."""
    listed = [command for commands in COMMANDS.values() for command in commands]
    near = get_close_matches(name.lower(), listed, n=1, cutoff=0.7)
    if near:
        return f"No such command '{name}'. Did you mean '{near[0]}'?"
    if os.sep in name or name.endswith(".gguf"):
        return f"No such command '{name}'. A command comes first: srd-rs convert {shlex.quote(name)}"
    return f"No such command '{name}'. srd-rs help lists the commands"


PREFIX = "SRD_RS"
"""The variable SRD_RS_COMMAND_OPTION is the default of an option, for example SRD_RS_CONVERT_QUANT=Q5_K_M."""


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own: see `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"srd_rs.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in _OTHER_NAMES:
            ctx.fail(f"No such command '{args[0]}'. Use: srd-rs {_OTHER_NAMES[args[0]]}")
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            ctx.fail(no_such_command(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands under their headings, all in one column."""
        width = max(map(len, self.list_commands(ctx)))
        for heading, names in COMMANDS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name.ljust(width), command.short_help or "") for name, command in commands if command]
            with formatter.section(heading):
                formatter.write_dl(rows)


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from srd_rs import _core

    say(f"srd-rs {_core.__version__}")
    ctx.exit()


EXAMPLES = """\b
Examples:
  srd-rs convert path/to/model             writes model-Q4_K_M.gguf
  srd-rs convert org/name --dry-run        the exact size, without reading a weight
  srd-rs inspect model-Q4_K_M.gguf         what is in a GGUF or a checkpoint
  srd-rs help convert                      all options of a command
"""


@click.group(
    cls=LazyGroup,
    no_args_is_help=False,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
    """Turn a Hugging Face checkpoint into a GGUF for llama.cpp, quantized with SRD."""


def run(args: Sequence[str]) -> int:
    """Run the command line and return its exit code; every failure is printed, none is raised."""
    as_json = "--json" in args
    door = open_door(as_json=as_json)
    try:
        for text in args:
            if "\0" in text:  # which no system takes for a name, and click does not expect
                raise click.UsageError(f"the argument {text!r} has a null byte")
        # Not `cli.main`, which prints on its own when it is interrupted.
        given = list(args) or ["--help"]
        with cli.make_context("srd-rs", given, auto_envvar_prefix=PREFIX) as context:
            cli.invoke(context)
        finish()
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        kept = f"{error}. Go on with: {shlex.join(['srd-rs', *args])}" if str(error) else ""
        report("interrupted", f"interrupted{kept and ': '}{kept}", as_json=as_json)
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
    if instruction := os.environ.get(VARIABLE):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {}, "srd-rs", VARIABLE, instruction))
    sys.exit(run(sys.argv[1:]))
