"""`srd-rs convert`: a checkpoint in, a GGUF out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srd_rs.cli.progress import progress_bar
from srd_rs.cli.text import (
    bytes_text,
    count_text,
    duration_text,
    parse_size,
    printable,
    type_table,
    types_json,
)

if TYPE_CHECKING:
    from srd_rs.conversion import ConvertReport, Plan, SealedContainer

#: Below this share of the threads' time spent working a run of at least so many seconds was held up by something.
MIN_BUSY_SHARE, MIN_SECONDS_JUDGED = 0.7, 2.0
QUANTS = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "F16", "BF16", "F32")
#: Options that say how to run, not what to write: a plan does not take them.
RUN_OPTIONS = ("threads", "max_memory", "allow_nonfinite", "overwrite", "met", "key_file", "sign_key")


def parse_quant(text: str) -> str:
    """The name of a mix in any case, as an option's type."""
    if text.upper() not in QUANTS:
        raise click.BadParameter(f"{text!r} is not one of {', '.join(QUANTS)}")
    return text.upper()


def parse_tensor_type(text: str) -> str:
    """`REGEX=TYPE`, as an option's type. The regular expression may hold `=`, a type name cannot."""
    regex, equals, type_name = text.rpartition("=")
    if not (regex and equals and type_name):
        raise click.BadParameter(f"{text!r} is not of the form REGEX=TYPE, for example 'ffn_down=Q6_K'")
    return text


def parse_layers(text: str) -> tuple[float, float]:
    """``40-77`` as shares of depth."""
    first, dash, last = text.partition("-")
    try:
        shares = float(first) / 100, float(last) / 100
    except ValueError:
        shares = 1.0, 0.0
    if not (dash and 0 <= shares[0] <= shares[1] <= 1):
        raise click.BadParameter(f"{text!r} is not of the form A-B in percent, for example 40-77")
    return shares


@click.command("convert", short_help="Turn a checkpoint into a GGUF.")
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The GGUF to write, or a folder for it. Default: MODEL-QUANT.gguf in the current folder.",
)
@click.option(
    "-q",
    "--quant",
    type=parse_quant,
    metavar="MIX",
    default="Q4_K_M",
    show_default=True,
    help=f"The mix of tensor types: {', '.join(QUANTS)}.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "srd"]),
    default="fast",
    show_default=True,
    help="fast: plain search for scales; srd: calibrated residual feedback.",
)
@click.option(
    "--tensor-type",
    "tensor_types",
    type=parse_tensor_type,
    multiple=True,
    metavar="REGEX=TYPE",
    help="A type for the tensors whose name the regular expression matches. May be repeated.",
)
@click.option("--token-embedding-type", metavar="TYPE", help="A type for the token embedding table.")
@click.option("--output-tensor-type", metavar="TYPE", help="A type for the output matrix.")
@click.option("--pure", is_flag=True, help="One type for all matrices instead of the mix.")
@click.option(
    "--imatrix",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Importance matrix of llama.cpp (GGUF or .dat).",
)
@click.option(
    "--calibrate",
    metavar="TEXT",
    help="builtin, random, a UTF-8 text file or a file of srd-rs calibrate. Default for --effort srd: builtin.",
)
@click.option("--calibrate-tokens", type=click.IntRange(min=1), help="Tokens of it. Default: 4096 to 16384.")
@click.option(
    "--calibrate-block",
    type=click.IntRange(min=0),
    help="Side of the blocks of H; 0: all. Default: 256 to 2048, by model.",
)
@click.option(
    "--proposals",
    type=click.IntRange(1, 8),
    help="Partial solutions, with noise and without, that go on side by side (--effort srd). Default: 4.",
)
@click.option(
    "--dither-layers",
    type=parse_layers,
    metavar="A-B",
    help="Layers that get them, in percent of depth, for example 40-77. Default: all.",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Recorded in the output.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Worker threads. Default: one per CPU.")
@click.option(
    "--max-memory",
    type=parse_size,
    metavar="SIZE",
    default="512MiB",
    show_default=True,
    help="Bytes alive in the pipeline at a time.",
)
@click.option(
    "--split-max-size",
    type=parse_size,
    metavar="SIZE",
    help="Cut the output into files of at most this size.",
)
@click.option("--name", help="general.name of the model. Default: from the checkpoint and its folder.")
@click.option("--pre-tokenizer", metavar="NAME", help="tokenizer.ggml.pre, if it is not recognised.")
@click.option("--allow-nonfinite", is_flag=True, help="Convert weights that are NaN or infinite, too.")
@click.option("--provenance/--no-provenance", default=True, help="Write srd.* keys: version, digest, method.")
@click.option("--met/--no-met", default=True, help="Write the MET sidecar NAME.met.json beside the GGUF.")
@click.option("--axm/--no-axm", default=True, help="Write the signed container beside the GGUF.")
@click.option(
    "--residual-bits",
    type=click.Choice(["0", "2", "3", "4"]),
    default="2",
    show_default=True,
    help="Bits a weight in the container for what quantising lost.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="The master key. Default: SRD_MASTER_KEY, or the default key file, made on first use.",
)
@click.option(
    "--sign-key",
    type=click.Path(path_type=Path),
    help="Ed25519 private key (PEM): also sign the container for third parties.",
)
@click.option("-f", "--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--dry-run", is_flag=True, help="Print the exact output size and types; read no weight.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, output: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Turn MODEL into a GGUF in one streaming pass.

    MODEL is a folder with a Hugging Face checkpoint (safetensors), an F32, F16 or BF16 GGUF, or a model id
    on the hub (ORG/NAME or ORG/NAME@REVISION; needs the extra srd-rs[hub]). Nothing appears under the
    output's name until it is complete.
    """
    import srd_rs
    from srd_rs.hub import locate

    options["residual_bits"] = int(options["residual_bits"]) or None
    source = locate(model)
    if source.name is not None:
        # A hub snapshot lies in a folder named by its commit, so the names come from the id.
        options["name"] = options["name"] or source.name
        output = _named_output(output, f"{source.name}-{options['quant']}.gguf")
    detail = {key: options.pop(key) for key in ("proposals", "dither_layers")}
    options["srd"] = srd_rs.SrdOptions(**{key: value for key, value in detail.items() if value is not None})
    run = {key: options.pop(key) for key in RUN_OPTIONS}
    if dry_run:
        plan = srd_rs.plan(source.path, output, **options)
        click.echo(json.dumps(plan_json(plan)) if as_json else plan_text(plan))
        return
    with progress_bar(wanted=not as_json) as progress:
        report = srd_rs.convert(source.path, output, progress=progress, **options, **run)
    click.echo(json.dumps(report_json(report)) if as_json else report_text(report))


def _named_output(output: Path | None, default_name: str) -> Path:
    if output is None:
        return Path(default_name)
    return output / default_name if output.is_dir() else output


def plan_text(plan: Plan) -> str:
    """The closing table of `--dry-run`."""
    size = f"{plan.total_bytes} bytes ({bytes_text(plan.total_bytes)}), {plan.bpw:.2f} bits per weight"
    files = ", ".join(printable(str(file.path)) for file in plan.files)
    lines = [type_table(plan.types), "", f"{files}: {size}"]
    if plan.container:
        path = printable(str(plan.container.path))
        lines.append(f"{path}: {plan.container.bytes} bytes ({bytes_text(plan.container.bytes)})")
    return "\n".join([*lines, "nothing was written"])


def report_text(report: ConvertReport) -> str:
    """The closing table of a conversion."""
    plan = report.plan
    rate = round(plan.n_weights / report.seconds) if report.seconds > 0 else 0
    lines = [
        type_table(plan.types),
        "",
        f"{plan.arch}, {plan.quant}: {count_text(plan.n_weights)} weights, {plan.bpw:.2f} bits per weight",
        f"{bytes_text(report.file_bytes)} from {bytes_text(plan.source_bytes)}"
        f" in {duration_text(report.seconds)} ({count_text(rate)} weights/s;"
        f" {duration_text(report.cpu_seconds)} of CPU time, {report.threads} threads),"
        f" peak memory {bytes_text(report.peak_rss_bytes)}",
    ]
    if held_up := _held_up(report):
        lines.append(held_up)
    if report.replaced:
        lines.append(f"{report.replaced} weights were not finite or too large and have been replaced")
    written = [*report.outputs, *([report.sidecar] if report.sidecar else [])]
    lines += [printable(str(path)) for path in written]
    if report.container:
        lines += container_lines(report.container)
    return "\n".join(lines)


def _held_up(report: ConvertReport) -> str | None:
    """Tells when more threads or a faster CPU would not have helped."""
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
        {
            "name": t.name,
            "shape": list(t.shape),
            "type": t.type,
            "source_types": list(t.source_types),
            "file": t.file,
            "offset": t.offset,
            "bytes": t.bytes,
        }
        for t in plan.tensors
    ]
    planned = plan.container
    container = planned and {"path": str(planned.path), "bytes": planned.bytes, "id": planned.id}
    return {**_sizes_json(plan), "tensors": tensors, "container": container}


def report_json(report: ConvertReport) -> dict[str, Any]:
    """`--json`: sizes, types and what the run cost."""
    return {
        **_sizes_json(report.plan),
        "seconds": report.seconds,
        "cpu_seconds": report.cpu_seconds,
        "peak_rss_bytes": report.peak_rss_bytes,
        "threads": report.threads,
        "replaced": report.replaced,
        "sidecar": str(report.sidecar) if report.sidecar else None,
        "container": report.container and container_json(report.container),
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
        "types": types_json(plan.types),
    }
