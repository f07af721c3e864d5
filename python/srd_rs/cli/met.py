"""`srd-rs met`: the MET sidecar of a GGUF or a container."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srd_rs import effects, sniff
from srd_rs.cli.options import (
    GroupedCommand,
    convert_option,
    explicit_options,
    json_option,
    option,
    parse_size,
    path_option,
)
from srd_rs.cli.output import say, show
from srd_rs.hydration import PARTS, part_of
from srd_rs.placement import ENGINES
from srd_rs.text import bytes_text, count_text, printable, table

if TYPE_CHECKING:
    from srd_rs.placement import Placement

EXAMPLES = """\b
Examples:
  srd-rs met model-Q4_K_M.gguf
  srd-rs met model-Q4_K_M.gguf --check
  srd-rs met model-Q4_K_M.gguf --for llama-server --ram 16GiB --vram 8GiB
"""


@click.command(
    "met", cls=GroupedCommand, short_help="Write the MET sidecar of a GGUF or a container.", epilog=EXAMPLES
)
@click.argument("gguf")
@path_option(
    "-o",
    "--output",
    group="Output",
    help="The sidecar to write. The default is NAME.met.json beside the GGUF, which is replaced if it exists.",
)
@option(
    "--slots",
    group="What is measured",
    metavar="LAYERS",
    help="Layers of the slots, instead of 20/20/37/23 percent of the depth, for example"
    " early=0-5,factual=6-11,reasoning=12-22,governance=23-29.",
)
@option(
    "--fingerprint",
    group="What is measured",
    metavar="HEX",
    help="Fingerprint of the signed container that the GGUF came from.",
)
@option(
    "--digest/--no-digest",
    group="What is measured",
    default=True,
    show_default=True,
    help="Read the whole file for its SHA-256.",
)
@path_option(
    "--plot",
    "picture",
    group="Output",
    metavar="PICTURE",
    help="Draw the slots and what is in memory, too: .png, .svg or .pdf (needs the extra srd-rs[plot]).",
)
@option(
    "--check",
    group="Output",
    is_flag=True,
    help="Write nothing: check the sidecar against the GGUF, weights too.",
)
@option(
    "--for",
    "engine",
    group="Placement",
    type=click.Choice(ENGINES),
    help="Write nothing: print the arguments with which this engine runs GGUF on a machine, and the speed to expect.",
)
@option("--ram", group="Placement", type=parse_size, metavar="SIZE", help="Memory that the engine may use.")
@option(
    "--vram",
    group="Placement",
    type=parse_size,
    metavar="SIZE",
    help="Memory of the GPU; 1 GiB of it is left to others. Without this option there is no GPU.",
)
@option(
    "--ctx",
    group="Placement",
    type=click.IntRange(1, 1 << 30),
    metavar="N",
    help="Number of tokens of the context. The default is 8192.",
)
@option(
    "--ram-bandwidth",
    group="Placement",
    type=parse_size,
    metavar="SIZE",
    help="Bytes per second that the CPUs read from memory, for example 80GB. The default is measured.",
)
@option(
    "--vram-bandwidth",
    group="Placement",
    type=parse_size,
    metavar="SIZE",
    help="Bytes per second that the GPU reads from its memory, for example 1000GB.",
)
@option(
    "--disk-bandwidth",
    group="Placement",
    type=parse_size,
    metavar="SIZE",
    help="Bytes per second that the disk gives, for example 2GB: for a model that does not fit into memory.",
)
@convert_option("overwrite", help="Replace the file named by -o if the file exists.")
@json_option("Print the sidecar as one JSON object.")
def command(
    gguf: str,
    output: Path | None,
    slots: str | None,
    fingerprint: str | None,
    digest: bool,
    picture: Path | None,
    check: bool,
    overwrite: bool,
    as_json: bool,
    **placement: Any,
) -> None:
    """Measure which bytes of GGUF belong to which slot of depth, and write it down as JSON.

    GGUF may be a signed container (.axm). The sidecar is then that of the GGUF that srd-rs extract writes.

    An engine reads the sidecar to know what to bring into memory for which intent; `srd-rs hydrate` does
    so. Sizes are measured from the file's tensor table and add up to its size.

    With --for nothing is written: the tensors are placed into the memory of a machine, and the arguments that an
    engine needs for this placement are printed.
    """
    import srd_rs
    from srd_rs import hub, hydration

    explicit = explicit_options(click.get_current_context())
    if placement["engine"] is not None:
        _place(gguf, explicit, placement, as_json=as_json)
        return
    for name in ("ram", "vram", "ctx", "ram_bandwidth", "vram_bandwidth", "disk_bandwidth"):
        if name in explicit:
            raise effects.without_effect(name, "no engine is named", "Add --for")
    effects.refuse(
        (
            output is None and picture is None and overwrite,
            "--overwrite",
            "the default sidecar is replaced anyway",
        ),
        (check and slots is not None, "--slots", "--check measures nothing"),
        (check and fingerprint is not None, "--fingerprint", "--check writes nothing"),
        (check and picture is not None, "--plot", "--check draws nothing"),
        (check and not digest, "--no-digest", "--check reads the whole file"),
        (check and overwrite, "--overwrite", "--check writes nothing"),
    )
    if picture is not None:
        from srd_rs.met_plot import check_output

        check_output(picture)
    path = hub.file(gguf)
    beside = hydration.sidecar_path(path)
    # Nothing is written into the cache of downloads.
    target = output or (Path(beside.name) if "://" in gguf else beside)
    if picture is not None:
        sniff.check_new([picture], [path], overwrite)
        sniff.check_new([picture, target], [path], overwrite=True)
        sniff.check_output(picture)
    if check:
        hydration.check(path, target)
        result = {"gguf": str(gguf), "sidecar": str(target), "fits": True}
        show(lambda: result, lambda: f"{printable(str(target))} fits, weights included", as_json=as_json)
        return
    sidecar = srd_rs.met(
        path,
        target,
        slots=slots,
        fingerprint=fingerprint,
        digest=digest,
        overwrite=overwrite or output is None,
    )
    if picture is not None:
        from srd_rs.met_plot import plot

        with srd_rs.Hydrator(path, target) as hydrator:
            plot(sidecar, hydrator.residency(), picture, overwrite=overwrite)
    if as_json:
        say(json.dumps(sidecar))
        return
    written = [target] if picture is None else [target, picture]
    say("\n".join([summary_text(sidecar), "", *(printable(str(path)) for path in written)]))


def _place(gguf: str, explicit: set[str], given: dict[str, Any], *, as_json: bool) -> None:
    import srd_rs

    for name in explicit - {"gguf", "as_json", *given}:
        raise effects.without_effect(_FLAGS.get(name, name), "--for writes no sidecar")
    if given["ram"] is None:
        raise click.UsageError("--for needs the memory of the machine: name it with --ram")
    no_gpu = given["vram_bandwidth"] is not None and given["vram"] is None
    effects.refuse((no_gpu, "--vram-bandwidth", "no GPU is named (--vram)"))
    chosen = {name: value for name, value in given.items() if value is not None}
    placed = srd_rs.place(gguf, **chosen)
    show(lambda: placement_json(placed), lambda: placement_text(placed), as_json=as_json)


_FLAGS = {"picture": "plot"}


def placement_json(placed: Placement) -> dict[str, Any]:
    """The placement as an object."""
    data = asdict(placed)
    speed = placed.tokens_per_second
    data["tokens_per_second"] = None if speed is None else {"empty": speed[0], "full": speed[1]}
    return {**data, "path": str(placed.path)}


def placement_text(placed: Placement) -> str:
    """The placement as tables and the arguments."""
    rows = [
        (name, str(a.tensors), bytes_text(a.bytes), bytes_text(a.token_bytes))
        for name, a in placed.access.items()
    ]
    lines = [table(("access", "tensors", "size", "read for a token"), rows, left=1), ""]
    devices = [("CPU", placed.cpu)] + ([("GPU", placed.gpu)] if placed.gpu_layers else [])
    sizes = [
        (name, *map(bytes_text, (d.weights, d.kv_cache, d.compute, d.total, d.token_bytes)))
        for name, d in devices
    ]
    head = ("device", "weights", "KV cache", "compute", "together", "read for a token")
    lines += [table(head, sizes, left=1), ""]
    if placed.lazy:
        lines.append(f"{bytes_text(placed.lazy)} of tables stay on the disk; a token reads one row of each")
    if placed.tokens_per_second:
        empty, full = placed.tokens_per_second
        lines.append(
            f"at most {_rate_text(empty)}, and {_rate_text(full)} with a full context of {placed.ctx} tokens"
            "; llama.cpp reached about half of that where it was measured"
        )
    lines += [printable(note) for note in placed.notes]
    lines.append("")
    if placed.keywords:
        words = ", ".join(f"{name}={value!r}" for name, value in placed.keywords.items())
        lines.append(printable(f"Llama({words})"))
    elif placed.engine == "ollama":
        lines += map(printable, placed.arguments)
    else:
        lines.append(printable(f"llama-server {shlex.join(placed.arguments)}"))
    return "\n".join(lines)


def _rate_text(rate: float) -> str:
    return f"{f'{rate:.3g}' if rate < 1000 else count_text(round(rate))} tokens/s"


def layers_text(sidecar: dict[str, Any], part: str) -> str:
    """`0-5`, or `-` for a part without layers."""
    layers = part_of(sidecar, part).get("layers")
    return f"{layers['first']}-{layers['last']}" if layers else "-"


def summary_text(sidecar: dict[str, Any]) -> str:
    """The slots, what each intent needs, and the experts."""
    moe = sidecar["moe"]
    parts = {name: part_of(sidecar, name) for name in PARTS}
    head = ["slot", "layers", "tensors", "size"] + (["with active experts"] if moe else [])
    rows = []
    for name, part in parts.items():
        cells = [name, layers_text(sidecar, name), str(part["tensors"]), bytes_text(part["bytes"])]
        rows.append(cells + ([bytes_text(part.get("active_bytes", part["bytes"]))] if moe else []))
    needs = []
    for intent, budget in sidecar["intent_ram_budget"].items():
        slots = ", ".join(sidecar["hydration_policy"][intent])
        cells = [intent, f"embedding, {slots}", bytes_text(budget["bytes"])]
        needs.append(cells + ([bytes_text(budget["active_bytes"])] if moe else []))
    head2 = ["intent", "slots", "memory"] + (["with active experts"] if moe else [])
    text = f"{table(head, rows, left=2)}\n\n{table(head2, needs, left=2)}"
    if moe:
        text += (
            f"\n\n{moe['num_experts']} experts, {moe['experts_per_token']} per token:"
            f" active_frac {moe['active_frac']:g}; {moe['chunk_note']}"
        )
    return text
