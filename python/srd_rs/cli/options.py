"""The options that commands share. Those of a conversion are made from the fields of `srd_rs.ConvertOptions`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import click

from srd_rs import _core
from srd_rs.options import EFFORTS, MIXES, READS, ConvertOptions
from srd_rs.text import size_bytes, size_text

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Order of the groups in a help text; options without a group come last.
GROUPS: Final = (
    "Input",
    "What is measured",
    "Pictures and sounds",
    "Output",
    "Quality",
    "Size",
    "Calibration",
    "Container",
    "Placement",
    "Rebuilding",
    "Keys",
    "Identity",
    "Running",
)
_FIELDS: Final[dict[str, Field[Any]]] = {f.name: f for f in fields(ConvertOptions)}
#: Parts of options that a field cannot say: flags and types.
_FLAGS: Final = {
    "quant": ("-q", "--quant"),
    "tensor_types": ("--tensor-type",),
    "overwrite": ("-f", "--overwrite"),
}


def parse_size(text: str | int) -> int:
    """Option type: `512MiB`, `4GiB`, `1.5GB` or plain bytes."""
    if isinstance(text, int):
        return text
    try:
        return size_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_quant(text: str) -> str:
    """Option type: the name of a mix in any case."""
    name = text.upper()
    if name not in MIXES:
        raise click.BadParameter(f"{text!r} is not one of {', '.join(MIXES)}{_meant_mix(name)}")
    return name


def _meant_mix(name: str) -> str:
    """What a name that is no mix was meant to be, as the end of a sentence."""
    if name in ("IQ1_S", "IQ1_M"):
        return f". {name} is read, but not written: the smallest mix for a model of any kind is IQ2_XXS"
    if f"{name}_M" in MIXES:  # llama-quantize takes Q4_K for Q4_K_M
        return f". {name} is the type of a tensor: write {name}_M"
    near = get_close_matches(name, MIXES, n=1)
    return f". Did you mean {near[0]}?" if near else ""


def parse_types(text: str) -> tuple[str, ...]:
    """Option type: names of types, separated by commas."""
    names = tuple(name.strip().upper() for name in text.split(",") if name.strip())
    known = _core.quantizable_types()
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    return names


def parse_tensor_type(text: str) -> str:
    """Option type: `REGEX=TYPE`. The regular expression may hold `=`, a type name cannot."""
    regex, equals, type_name = text.rpartition("=")
    if not (regex and equals and type_name):
        raise click.BadParameter(f"{text!r} is not of the form REGEX=TYPE, for example 'ffn_down=Q6_K'")
    return text


def parse_metadata(text: str) -> dict[str, Any]:
    """Option type: a JSON file with keys of the metadata."""
    from srd_rs import overriding

    return overriding.read(Path(text))


def parse_override(text: str) -> tuple[str, Any]:
    """Option type: ``KEY=TYPE:VALUE``, as llama-quantize takes it."""
    from srd_rs import overriding

    try:
        return overriding.parsed(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_layers(text: str) -> tuple[float, float]:
    """Option type: ``40-77``, percent of the depth, as shares of the depth."""
    first, dash, last = text.partition("-")
    try:
        shares = float(first) / 100, float(last) / 100
    except ValueError:
        shares = 1.0, 0.0
    if not (dash and 0 <= shares[0] <= shares[1] <= 1):
        raise click.BadParameter(f"{text!r} is not of the form A-B in percent, for example 40-77")
    return shares


_TYPES: Final[dict[str, Any]] = {
    "quant": parse_quant,
    "effort": click.Choice(EFFORTS),
    "read": click.Choice(READS),
    "tensor_types": parse_tensor_type,
    "metadata": parse_metadata,
    "like": parse_quant,
    "types": parse_types,
    "target_bpw": click.FloatRange(min=0, min_open=True),
    "ctx": click.IntRange(1, 1 << 30),
    "residual_bits": click.Choice(["0", "2", "3", "4"]),
    "calibrate": str,
    "calibrate_tokens": click.IntRange(min=1),
    "calibrate_block": click.IntRange(min=0),
    "seed": click.IntRange(0, 2**64 - 1),
    "threads": click.IntRange(1, 4096),
}
_TYPES_BY_METAVAR: Final[dict[str | None, Any]] = {
    "FILE": click.Path(path_type=Path),
    "FOLDER": click.Path(path_type=Path),
    "SIZE": parse_size,
}


class Option(click.Option):
    """An option that knows its group in the help text."""

    def __init__(self, *args: Any, group: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if group not in (*GROUPS, None):
            raise ValueError(f"the group {group!r} is not in GROUPS, so that no help would show the option")
        self.group = group

    def get_help_extra(self, ctx: click.Context) -> Any:
        """The default without the range, which the error for a wrong value names."""
        return {key: value for key, value in super().get_help_extra(ctx).items() if key != "range"}


class GroupedCommand(click.Command):
    """A command whose help lists the options by group, and which refuses text that is no text."""

    def invoke(self, ctx: click.Context) -> Any:
        for parameter in self.get_params(ctx):
            found = ctx.params.get(parameter.name or "")
            for value in found if isinstance(found, tuple) else (found,):
                if isinstance(value, (str, Path)):
                    _check_text(str(value), ctx, parameter)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in (*GROUPS, None):
            records = []
            for parameter in self.get_params(ctx):
                record = parameter.get_help_record(ctx)
                option = isinstance(parameter, click.Option)
                if record is not None and option and getattr(parameter, "group", None) == group:
                    records.append(record)
            if records:
                with formatter.section(group or "Options"):
                    formatter.write_dl(records)


def _check_text(text: str, ctx: click.Context, parameter: click.Parameter) -> None:
    """Refuse what a script gives by mistake: an empty name, and bytes that are no text where text is wanted.

    The name of a file may have any bytes.
    """
    names_a_file = isinstance(parameter, click.Argument) or isinstance(parameter.type, click.Path)
    if not text and names_a_file:
        raise click.BadParameter("the name is empty", ctx, parameter)
    if not names_a_file and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise click.BadParameter(f"{text!r} is no text in UTF-8", ctx, parameter) from None


def explicit_options(context: click.Context) -> set[str]:
    """Names of the parameters that stand on the command line."""
    source = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is source}


def apply(options: Iterable[Decorator]) -> Decorator:
    """Several options as one decorator, in their order."""
    listed = list(options)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(listed):
            command = option(command)
        return command

    return decorate


def convert_option(name: str, **overrides: Any) -> Decorator:
    """The option of a field of `ConvertOptions`; `overrides` are arguments of `click.option`."""
    field = _FIELDS[name]
    help, metavar, group = (field.metadata[key] for key in ("help", "metavar", "group"))
    flag = "--" + name.replace("_", "-")
    attributes: dict[str, Any] = {"help": help, "group": group, "default": field.default}
    flags: Sequence[str] = _FLAGS.get(name, (flag,))
    if "bool" in str(field.type):
        attributes |= {"is_flag": True, "default": field.default}
        if field.default is not False:
            flags, attributes["show_default"] = (f"{flag}/--no-{flag[2:]}",), field.default is True
    else:
        attributes |= {"metavar": metavar, "type": _TYPES.get(name, _TYPES_BY_METAVAR.get(metavar, str))}
        if name in ("tensor_types", "lora"):
            attributes |= {"multiple": True}
        elif name == "types":
            attributes["default"] = ""
        elif field.default is not None:
            default: Any = field.default
            attributes |= {
                "default": size_text(default) if metavar == "SIZE" else str(default),
                "show_default": True,
            }
    if name == "quant":
        attributes["help"] += f" One of {', '.join(MIXES)}."
    return click.option(*flags, name, cls=Option, **{**attributes, **overrides})


def convert_options(**overrides: dict[str, Any]) -> Decorator:
    """Options for all fields of `ConvertOptions` but `srd`, whose parts are options of their own, and `exact_types`."""
    return apply(
        convert_option(name, **overrides.get(name, {}))
        for name in _FIELDS
        if name not in ("srd", "exact_types")
    )


def fast_option() -> Decorator:
    """`--fast`, the short form of `--effort fast`. See `chosen_effort`."""
    help = "Short for --effort fast: only search the scales of each block, without running the model."
    return click.option("--fast", cls=Option, group="Quality", is_flag=True, help=help)


def chosen_effort(effort: str | None, fast: bool) -> str | None:
    """The effort that `--effort` and `--fast` ask for."""
    if fast and effort not in (None, "fast"):
        raise click.UsageError(f"--fast and --effort {effort} contradict each other. Use one of them")
    return "fast" if fast else effort


def option(*flags: str, group: str | None = None, **attributes: Any) -> Decorator:
    """An option that knows its group in the help text."""
    return click.option(*flags, cls=Option, group=group, **attributes)


def path_option(*flags: str, group: str | None = None, metavar: str = "FILE", **attributes: Any) -> Decorator:
    """An option that names a file."""
    return option(*flags, group=group, metavar=metavar, type=click.Path(path_type=Path), **attributes)


def output_option(help: str, **attributes: Any) -> Decorator:
    """`-o`; a string, because a path would lose the slash that says that a folder is meant."""
    return click.option(
        "-o",
        "--output",
        cls=Option,
        group="Output",
        metavar="PATH",
        type=click.Path(),
        help=help,
        **attributes,
    )


def json_option(help: str = "Print one JSON object.") -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=help)


def signing_options() -> Decorator:
    """The keys that a container is signed with."""
    return apply([convert_option("key_file"), convert_option("sign_key")])


def checking_options() -> Decorator:
    """What a container is compared with."""
    return apply(
        [
            path_option(
                "--key-file",
                group="Keys",
                help="Master key that the container was signed with. The default is the variable SRD_MASTER_KEY, or the"
                " default key file if there is one.",
            ),
            option(
                "--no-key",
                group="Keys",
                is_flag=True,
                help="Use no master key. Without --public-key and --fingerprint, check the integrity alone.",
            ),
            path_option(
                "--public-key",
                group="Keys",
                help="Ed25519 public key (PEM) that must have signed the container.",
            ),
            option(
                "--fingerprint",
                group="Keys",
                metavar="HEX",
                help="Fingerprint that was published for the container.",
            ),
            option(
                "--expect-name",
                group="Keys",
                metavar="NAME",
                help="Name that the model (general.name) or its GGUF must have.",
            ),
        ]
    )
