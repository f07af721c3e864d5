"""`srd-rs convert`: a checkpoint in, a GGUF out."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srd_rs import _core, effects
from srd_rs.cli.options import (
    GroupedCommand,
    chosen_effort,
    convert_options,
    explicit_options,
    fast_option,
    json_option,
    option,
    output_option,
    parse_layers,
    parse_override,
)
from srd_rs.cli.output import show
from srd_rs.options import ConvertOptions, SrdOptions, writes_container
from srd_rs.progress import Phases
from srd_rs.text import (
    about_text,
    bytes_text,
    count_text,
    duration_text,
    printable,
    table,
    type_table,
    types_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srd_rs.report import ChosenType, ConvertReport, EffortCheck, MixCheck, Plan, SealedContainer

#: A run of at least so many seconds was held up by something if less than this share of the threads' time was work.
MIN_BUSY_SHARE, MIN_SECONDS_JUDGED = 0.7, 2.0
EXAMPLES = """\b
Examples:
  srd-rs convert path/to/model
  srd-rs convert org/name -q Q5_K_M -o models/
  srd-rs convert path/to/model --fast
  srd-rs convert path/to/model --calibrate my-text.txt
"""


@click.command("convert", cls=GroupedCommand, short_help="Turn a checkpoint into a GGUF.", epilog=EXAMPLES)
@click.argument("model")
@output_option(
    "The GGUF to write, or a folder for it, or hf://ORG/NAME to upload it. The default is MODEL-MIX.gguf in the current"
    " folder."
)
@convert_options()
@fast_option()
@option(
    "--override-kv",
    group="Output",
    multiple=True,
    type=parse_override,
    metavar="KEY=TYPE:VALUE",
    help="Set a key of the metadata, as with llama-quantize: TYPE is int, float, bool or str. The option may be"
    " repeated, and counts more than --metadata.",
)
@option(
    "--beam-width",
    group="Calibration",
    type=click.Choice(["1", "2", "4", "8"]),
    metavar="N",
    help="Number of candidate roundings that effort srd keeps for each row (beam width). The default is"
    f" {SrdOptions().beam_width}.",
)
@option(
    "--dither-layers",
    group="Calibration",
    type=parse_layers,
    metavar="A-B",
    help="Layers that get that many candidates, in percent of the depth, for example 40-77. The other layers get one"
    " candidate. The default is all layers.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the exact output size and the types, and write no model. Weights are read only to choose types within"
    " a budget.",
)
@click.option(
    "--quiet", is_flag=True, help="Print warnings and errors alone: no plan, no progress and no report."
)
@json_option()
def command(
    model: str,
    output: str | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    beam_width: str | None,
    dither_layers: tuple[float, float] | None,
    residual_bits: str,
    effort: str | None,
    fast: bool,
    override_kv: tuple[tuple[str, Any], ...],
    **options: Any,
) -> None:
    """Turn MODEL into a GGUF for llama.cpp. The weights are read as a stream.

    MODEL is a folder with a Hugging Face checkpoint (safetensors), an F32, F16 or BF16 GGUF, or a model on the hub
    (ORG/NAME, ORG/NAME@REVISION, hf://ORG/NAME or the address of its page). Nothing appears under the name of the
    output until the output is complete.
    """
    import srd_rs

    effects.refuse(
        (quiet and as_json, "--quiet", "--json prints one object"),
        (quiet and dry_run, "--quiet", "--dry-run only prints"),
    )
    srd = SrdOptions(beam_width=int(beam_width or SrdOptions().beam_width), dither_layers=dither_layers)
    options |= {"effort": chosen_effort(effort, fast), "residual_bits": int(residual_bits) or None}
    options["metadata"] = {**(options["metadata"] or {}), **dict(override_kv)} or None
    chosen = ConvertOptions(srd=srd, **options)
    explicit = explicit_options(click.get_current_context())
    what = "only the efforts srd and max keep several candidate roundings"
    effects.refuse(
        *(
            (chosen.effort == "fast" and name in explicit, f"--{name.replace('_', '-')}", what)
            for name in ("beam_width", "dither_layers")
        )
    )
    if not writes_container(chosen):
        effects.check_container(explicit)
    if dry_run:
        plan = srd_rs.plan(model, output, chosen)
        show(lambda: plan_json(plan), lambda: plan_text(plan), as_json=as_json)
        return
    if quiet:
        srd_rs.convert(model, output, chosen)
        return
    with Phases(as_json=as_json) as shown:

        def begin(plan: Plan) -> None:
            shown.expect(("calibrate", "convert") if plan.calibrates else ("convert",))
            shown.plan(plan)

        report = srd_rs.convert(model, output, chosen, progress=shown.update, on_plan=begin)
    show(lambda: {**report_json(report), "seed": chosen.seed}, lambda: report_text(report), as_json=as_json)


def _threads(n: int) -> str:
    return f"{n} thread{'' if n == 1 else 's'}"


def plan_text(plan: Plan) -> str:
    """The closing table of `--dry-run`."""
    size = f"{plan.total_bytes} bytes ({bytes_text(plan.total_bytes)}), {plan.bpw:.2f} bits per weight"
    files = ", ".join(printable(str(file.path)) for file in plan.files)
    lines = [type_table(plan.types), "", f"{files}: {size}"]
    if plan.chosen:
        lines = [chosen_table(plan.chosen), "", *lines]
    lines += budget_lines(plan)
    if plan.container:
        path = printable(str(plan.container.path))
        lines.append(f"{path}: {plan.container.bytes} bytes ({bytes_text(plan.container.bytes)})")
    if plan.mmproj:
        total = plan.mmproj.total_bytes
        lines.append(f"{printable(str(plan.mmproj.output))}: {total} bytes ({bytes_text(total)})")
        if packed := plan.mmproj.container:
            path = printable(str(packed.path))
            lines.append(f"{path}: {packed.bytes} bytes ({bytes_text(packed.bytes)})")
    if plan.effort != "fast":
        lines.append(f"effort {plan.effort}{f', calibrated on {printable(plan.text)}' if plan.text else ''}")
    if plan.why_fast:
        lines.append(printable(plan.why_fast))
    return "\n".join([*lines, "nothing was written"])


def chosen_table(chosen: Sequence[ChosenType]) -> str:
    """What was measured of each tensor whose type was chosen within a budget."""
    rows = [
        (printable(c.name), c.type, bytes_text(c.bytes), f"{c.error:.2e}", f"{c.cost:.2e}", f"{c.gain:.2e}")
        for c in chosen
    ]
    return table(("tensor", "type", "size", "error", "cost", "gain per MiB"), rows, left=2)


def _compared_on(check: MixCheck | EffortCheck) -> str:
    """The tokens that a check has run the model on."""
    return f"{check.tokens} tokens of {'held-out text' if check.held_out else 'the text of the calibration'}"


def budget_lines(plan: Plan) -> list[str]:
    """What the checks of a choice of types and of effort max found, and the memory that a budget of memory is for."""
    lines = []
    if plan.check:
        c = plan.check
        lines.append(
            f"estimated KLD on {_compared_on(c)}: the choice {c.choice_kld:.3e}, the mix {c.mix}"
            f" {c.mix_kld:.3e} ({bytes_text(c.mix_bytes)}); the {c.written} is written"
        )
    if plan.effort_check:
        e = plan.effort_check
        lines.append(
            f"divergence on {_compared_on(e)}: effort srd {e.srd_kld:.3e}, effort max {e.max_kld:.3e}; effort"
            f" {e.written} is written"
        )
    if plan.memory:
        m = plan.memory
        total = plan.total_bytes + m.total
        lines.append(
            f"{bytes_text(total)} of memory: the file, {bytes_text(m.cache)} of cache for {m.ctx} tokens,"
            f" {bytes_text(m.compute)} of compute buffers"
        )
    return lines


def report_text(report: ConvertReport) -> str:
    """The closing table of a conversion."""
    plan = report.plan
    rate = round(plan.n_weights / report.seconds) if report.seconds > 0 else 0
    lines = [
        type_table(plan.types),
        "",
        f"{plan.quant} by {method_text(report)}",
        f"{printable(plan.arch)}: {count_text(plan.n_weights)} weights, {plan.bpw:.2f} bits per weight",
        f"{bytes_text(report.file_bytes)} from {bytes_text(plan.source_bytes)}"
        f" in {duration_text(report.seconds)}, {count_text(rate)} weights/s",
        f"{duration_text(report.cpu_seconds)} of CPU time, {_threads(report.threads)},"
        f" peak memory {bytes_text(report.peak_rss_bytes)}",
    ]
    lines += budget_lines(plan)
    if held_up := _held_up(report):
        lines.append(held_up)
    if report.resumed_bytes:
        lines.append(f"{bytes_text(report.resumed_bytes)} were taken from an interrupted conversion")
    if report.replaced:
        lines.append(f"{report.replaced} weights were not finite or too large and have been replaced")
    beside = (report.mmproj, report.sidecar, report.card, report.modelfile, report.bom, report.signature)
    written = [*report.outputs, *(path for path in beside if path is not None)]
    lines += [printable(str(path)) for path in written]
    for sealed in filter(None, (report.container, report.mmproj_container)):
        lines += container_lines(sealed)
    if report.commit is not None:
        lines.append(f"uploaded: {printable(report.commit)}")
    if report.output.suffix != ".safetensors":  # which no engine runs
        lines += [next_step(plan, report.mmproj), *_other_engines(report)]
    if plan.why_fast:
        lines.append(printable(plan.why_fast))
    elif report.srd_tokens is not None:
        lines.append(_without_fast(report))
    return "\n".join(lines)


def _without_fast(report: ConvertReport) -> str:
    """What SRD would gain, and what SRD would cost on this machine."""
    is_max = report.srd_effort == "max"
    if report.srd_seconds is None:
        gain = "effort max moves the embeddings less" if is_max else "SRD halves the KL divergence"
        return f"Without --fast, {gain} (README). srd-rs plan MODEL says the time."
    longer = about_text(report.srd_seconds)
    if is_max:
        gain = "for embeddings that move less (README)"
        return f"Without --fast, effort max takes about {longer} longer here, {gain}."
    return f"Without --fast, SRD takes about {longer} longer here, for half the KL divergence (README)."


def next_step(plan: Plan, mmproj: Path | None = None) -> str:
    """The command that runs what was written."""
    if plan.arch == "clip":
        return "use it: llama-mtmd-cli -m MODEL.gguf --mmproj " + printable(shlex.quote(str(plan.output)))
    if mmproj is not None:
        model, seen = (printable(shlex.quote(str(path))) for path in (plan.output, mmproj))
        return f"run it: llama-mtmd-cli -m {model} --mmproj {seen}"
    program = "llama-embedding" if plan.arch.endswith("bert") else "llama-cli"
    return f"run it: {program} -m {printable(shlex.quote(str(plan.output)))}"


def _other_engines(report: ConvertReport) -> list[str]:
    """How Ollama and LM Studio take over what was written. Ollama takes no split GGUF."""
    if report.plan.arch == "clip" or report.commit is not None:
        return []
    from srd_rs.publishing import ollama_name

    lines = ["or:     copy it to ~/.lmstudio/models/PUBLISHER/MODEL/ (LM Studio)"]
    if report.modelfile is not None:
        modelfile = shlex.quote(str(report.modelfile))
        lines.insert(0, f"or:     ollama create {ollama_name(report.output)} -f {modelfile}")
    elif len(report.outputs) == 1:
        lines.insert(0, f"or:     srd-rs modelfile {shlex.quote(str(report.output))} (Ollama)")
    return [printable(line) for line in lines]


def method_text(report: ConvertReport) -> str:
    """How the weights were quantized: ``SRD, calibrated on 16384 tokens of builtin``."""
    names = {"srd": "SRD", "srd-max": "SRD with effort max", "search": "search"}
    if report.calibration_tokens is None:
        return names[report.method]
    text = f" of {printable(report.plan.text)}" if report.plan.text else ""
    kept = " (found in the cache)" if report.calibration_found else ""
    weighed = "weighed " if report.calibration_weighed else ""
    return f"{names[report.method]}, calibrated on {report.calibration_tokens} {weighed}tokens{text}{kept}"


def _held_up(report: ConvertReport) -> str | None:
    """Tells when more threads or a faster CPU would not have helped."""
    if report.calibration_tokens is not None:  # the time went into arithmetic, of which not all is parallel
        return None
    busy = report.cpu_seconds / max(report.seconds * report.threads, 1e-9)
    if report.seconds < MIN_SECONDS_JUDGED or busy >= MIN_BUSY_SHARE:
        return None
    rate = bytes_text(round(report.plan.source_bytes / report.seconds))
    return f"the threads worked {busy:.0%} of the time, the disk (or other programs) held them up: {rate} a second read"


def container_lines(sealed: SealedContainer) -> list[str]:
    """A container that was written, its fingerprint, and where a key that was made with it lies."""
    lines = [
        f"{printable(str(sealed.path))} ({bytes_text(sealed.bytes)})",
        f"fingerprint {sealed.fingerprint}",
        f"signed with the key {sealed.key_id}{' and an Ed25519 key' if sealed.signed else ''}",
    ]
    if sealed.key_made:
        lines.append(f"a new master key was made in {printable(str(sealed.key_made))}: keep a copy of it")
    return lines


def plan_json(plan: Plan) -> dict[str, Any]:
    """`--dry-run --json`: sizes, types and every tensor."""
    tensors = [
        {name: value for name, value in t.to_dict().items() if name != "n_weights"} for t in plan.tensors
    ]
    planned = plan.container
    container = planned and {"path": str(planned.path), "bytes": planned.bytes, "id": planned.id}
    chosen = [c._asdict() for c in plan.chosen]
    return {**_sizes_json(plan), "tensors": tensors, "container": container, "chosen": chosen}


def report_json(report: ConvertReport) -> dict[str, Any]:
    """`--json`: sizes, types and what the run cost."""
    return {
        "srd_rs": _core.__version__,
        **_sizes_json(report.plan),
        "seconds": report.seconds,
        "cpu_seconds": report.cpu_seconds,
        "peak_rss_bytes": report.peak_rss_bytes,
        "threads": report.threads,
        "replaced": report.replaced,
        "resumed_bytes": report.resumed_bytes,
        "method": report.method,
        "calibration_tokens": report.calibration_tokens,
        "calibration_weighed": report.calibration_weighed,
        "calibration_found": report.calibration_found,
        "srd_effort": report.srd_effort,
        "srd_seconds": report.srd_seconds,
        "mmproj": str(report.mmproj) if report.mmproj else None,
        "sidecar": str(report.sidecar) if report.sidecar else None,
        "card": str(report.card) if report.card else None,
        "modelfile": str(report.modelfile) if report.modelfile else None,
        "bom": str(report.bom) if report.bom else None,
        "signature": str(report.signature) if report.signature else None,
        "commit": report.commit,
        "container": report.container and container_json(report.container),
        "mmproj_container": report.mmproj_container and container_json(report.mmproj_container),
    }


def container_json(sealed: SealedContainer) -> dict[str, Any]:
    return {
        "path": str(sealed.path),
        "bytes": sealed.bytes,
        "fingerprint": sealed.fingerprint,
        "id": sealed.id,
        "key_id": sealed.key_id,
        "signed": sealed.signed,
        "key_made": None if sealed.key_made is None else str(sealed.key_made),
    }


def _projector_json(plan: Plan) -> dict[str, Any]:
    packed = plan.container
    container = packed and {"path": str(packed.path), "bytes": packed.bytes, "id": packed.id}
    return {"path": str(plan.output), "bytes": plan.total_bytes, "container": container}


def _sizes_json(plan: Plan) -> dict[str, Any]:
    return {
        "output": str(plan.output),
        "files": [{"path": str(f.path), "bytes": f.bytes} for f in plan.files],
        "arch": plan.arch,
        "quant": plan.quant,
        "total_bytes": plan.total_bytes,
        "tensor_bytes": plan.tensor_bytes,
        "source_bytes": plan.source_bytes,
        "n_weights": plan.n_weights,
        "bpw": plan.bpw,
        "effort": plan.effort,
        "why_fast": plan.why_fast,
        "calibration": plan.text,
        "types": types_json(plan.types),
        "check": plan.check and asdict(plan.check),
        "effort_check": plan.effort_check and asdict(plan.effort_check),
        "memory": plan.memory and {**asdict(plan.memory), "total": plan.total_bytes + plan.memory.total},
        "mmproj": plan.mmproj and _projector_json(plan.mmproj),
    }
