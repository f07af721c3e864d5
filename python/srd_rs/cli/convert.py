"""`srd-rs convert`: a checkpoint in, a GGUF out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srd_rs.cli.progress import progress_bar
from srd_rs.cli.text import bytes_text, count_text, duration_text, parse_size, printable, type_table

if TYPE_CHECKING:
    from srd_rs.conversion import ConvertReport, Plan

QUANTS = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "F16", "BF16", "F32")


def parse_quant(text: str) -> str:
    """The name of a mix in any case, as an option's type."""
    if text.upper() not in QUANTS:
        raise click.BadParameter(f"{text!r} is not one of {', '.join(QUANTS)}")
    return text.upper()


def parse_tensor_type(text: str) -> tuple[str, str]:
    """`REGEX=TYPE`, as an option's type. The regular expression may hold `=`, a type name cannot."""
    regex, equals, type_name = text.rpartition("=")
    if not (regex and equals and type_name):
        raise click.BadParameter(f"{text!r} is not of the form REGEX=TYPE, for example 'ffn_down=Q6_K'")
    return regex, type_name


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
    type=click.Choice(["fast"]),
    default="fast",
    show_default=True,
    help="How the scales are found; fast: plain search.",
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
    help="An importance matrix made by llama-imatrix (GGUF or .dat).",
)
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

    source = locate(model)
    if source.name is not None:
        # A hub snapshot lies in a folder named by its commit, so the names come from the id.
        options["name"] = options["name"] or source.name
        output = _named_output(output, f"{source.name}-{options['quant']}.gguf")
    if dry_run:
        plan = srd_rs.plan(source.path, output, **options)
        click.echo(json.dumps(plan_json(plan)) if as_json else plan_text(plan))
        return
    with progress_bar(wanted=not as_json) as progress:
        report = srd_rs.convert(source.path, output, progress=progress, **options)
    click.echo(json.dumps(report_json(report)) if as_json else report_text(report))


def _named_output(output: Path | None, default_name: str) -> Path:
    if output is None:
        return Path(default_name)
    return output / default_name if output.is_dir() else output


def plan_types(plan: Plan) -> dict[str, tuple[int, int, int]]:
    """`{type: (tensors, weights, bytes)}` of a plan."""
    types: dict[str, tuple[int, int, int]] = {}
    for tensor in plan.tensors:
        weights = 1
        for n in tensor.shape:
            weights *= n
        tensors, all_weights, size = types.get(tensor.type, (0, 0, 0))
        types[tensor.type] = (tensors + 1, all_weights + weights, size + tensor.bytes)
    return types


def plan_text(plan: Plan) -> str:
    size = f"{plan.total_bytes} bytes ({bytes_text(plan.total_bytes)}), {plan.bpw:.2f} bits per weight"
    return f"{type_table(plan_types(plan))}\n\n{printable(str(plan.output))}: {size}; nothing was written"


def plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "output": str(plan.output),
        "total_bytes": plan.total_bytes,
        "n_weights": plan.n_weights,
        "bpw": plan.bpw,
        "types": _types_json(plan_types(plan)),
        "tensors": [
            {
                "name": t.name,
                "shape": list(t.shape),
                "source_types": list(t.source_types),
                "type": t.type,
                "bytes": t.bytes,
                "offset": t.offset,
            }
            for t in plan.tensors
        ],
    }


def report_text(report: ConvertReport) -> str:
    ratio = f"{report.file_bytes / report.source_bytes:.1%} of" if report.source_bytes else "from"
    rate = report.n_weights / report.seconds if report.seconds > 0 else 0.0
    files = ", ".join(printable(str(path)) for path in report.outputs)
    return "\n".join(
        (
            type_table(report.types),
            "",
            f"{report.arch}, {report.quant}: {count_text(report.n_weights)} weights,"
            f" {report.bpw:.2f} bits per weight",
            f"{bytes_text(report.file_bytes)}, {ratio} {bytes_text(report.source_bytes)}",
            f"{duration_text(report.seconds)} ({duration_text(report.cpu_seconds)} of CPU time,"
            f" {count_text(round(rate))} weights/s), peak memory {bytes_text(report.peak_rss_bytes)}",
            files,
        )
    )


def report_json(report: ConvertReport) -> dict[str, Any]:
    return {
        "output": str(report.output),
        "outputs": [str(path) for path in report.outputs],
        "arch": report.arch,
        "quant": report.quant,
        "file_bytes": report.file_bytes,
        "tensor_bytes": report.tensor_bytes,
        "source_bytes": report.source_bytes,
        "n_weights": report.n_weights,
        "bpw": report.bpw,
        "seconds": report.seconds,
        "cpu_seconds": report.cpu_seconds,
        "peak_rss_bytes": report.peak_rss_bytes,
        "types": _types_json(report.types),
    }


def _types_json(types: dict[str, tuple[int, int, int]]) -> dict[str, dict[str, int]]:
    return {name: {"tensors": t, "weights": w, "bytes": b} for name, (t, w, b) in types.items()}
