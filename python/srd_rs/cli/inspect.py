"""`srd-rs inspect`: what is in a GGUF, an .axm, a safetensors file or a checkpoint folder. Reads headers only."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from srd_rs import effects
from srd_rs.cli.options import GroupedCommand, json_option
from srd_rs.cli.output import print_json, say
from srd_rs.text import bytes_text, one_line, printable, shortened, table, type_table, types_json

if TYPE_CHECKING:
    from srd_rs.inspection import Conversion, Inspection

#: What the summary shows of the metadata: (line, key; `*` stands for the architecture).
SUMMARY = (
    ("fingerprint", "axm.fingerprint"),
    ("container", "axm.id"),
    ("key", "axm.key_id"),
    ("Ed25519 key", "axm.ed25519_public_key"),
    ("made by", "axm.tool"),
    ("mix", "axm.quant"),
    ("source", "axm.source_digest"),
    ("revision", "axm.source_revision"),
    ("architecture", "general.architecture"),
    ("name", "general.name"),
    ("size label", "general.size_label"),
    ("mix", "general.file_type"),
    ("layers", "*.block_count"),
    ("experts", "*.expert_count"),
    ("context", "*.context_length"),
    ("embedding", "*.embedding_length"),
    ("projector", "clip.projector_type"),
    ("sees with", "clip.vision.projector_type"),
    ("hears with", "clip.audio.projector_type"),
    ("picture size", "clip.vision.image_size"),
    ("patch size", "clip.vision.patch_size"),
    ("vision layers", "clip.vision.block_count"),
    ("audio layers", "clip.audio.block_count"),
    ("mel bins", "clip.audio.num_mel_bins"),
    ("tokenizer", "tokenizer.ggml.model"),
    ("pre-tokenizer", "tokenizer.ggml.pre"),
)
ALL_ITEMS = (1 << 63) - 1
CHAT_TEMPLATE = "tokenizer.chat_template"


EXAMPLES = """\b
Examples:
  srd-rs inspect model-Q4_K_M.gguf
  srd-rs inspect model-Q4_K_M.gguf --tensors
  srd-rs inspect path/to/model --json
"""


@click.command(
    "inspect", cls=GroupedCommand, short_help="Show what is in a GGUF or a checkpoint.", epilog=EXAMPLES
)
@click.argument("path")
@click.option("--metadata", "show_metadata", is_flag=True, help="List every metadata key.")
@click.option("--tensors", "show_tensors", is_flag=True, help="List every tensor.")
@json_option("Print one JSON object; metadata and tensors in full where they are asked for.")
def command(path: str, show_metadata: bool, show_tensors: bool, as_json: bool) -> None:
    """Show what is in PATH: a GGUF, an .axm container, a safetensors file or a checkpoint folder.

    Reads and checks the headers only. The config.json and the tokenizer of a checkpoint are read as well, to say
    whether the checkpoint can be converted. A chat template is shown by its length and SHA-256 and never run.
    """
    import srd_rs

    # On a terminal a few values of an array are enough; a machine that asks for metadata gets all of it.
    found = srd_rs.inspect(path, max_items=ALL_ITEMS if as_json and show_metadata else 8)
    if show_metadata and found.kind == "safetensors" and not found.metadata:
        raise effects.without_effect("metadata", "safetensors files have no metadata of a model")
    if as_json:
        print_json(as_dict(found, metadata=show_metadata, tensors=show_tensors))
        return
    parts = [summary_text(path, found)]
    if show_metadata:
        parts.append(metadata_text(found))
    if show_tensors:
        parts.append(tensors_text(found))
    say("\n\n".join(parts))


def summary_text(path: str, found: Inspection) -> str:
    from srd_rs.publishing import senses

    values = found.metadata
    arch = str(values.get("general.architecture", ""))
    lines = [("file", f"{printable(str(path))}, {found.kind}, {bytes_text(found.file_bytes)}")]
    if found.mix is not None:
        values = {**values, "general.file_type": f"{found.mix} ({values['general.file_type']})"}
    for label, key in SUMMARY:
        value = values.get(key.replace("*", arch))
        if value is not None:
            lines.append((label, shortened(printable(_value_text(value)), 80)))
    if found.conversion is not None:
        lines.append(("converts", conversion_text(found.conversion)))
    if arch == "clip" and found.kind == "axm":
        lines.append(
            ("this is", "a projector: srd-rs extract writes its GGUF, which a model needs to see or hear")
        )
    elif arch == "clip":
        widths = (values.get(f"clip.{kind}.projection_dim") for kind in ("vision", "audio"))
        width = next((width for width in widths if width is not None), "unknown")
        lines.append(("this is", f"a projector: it reads {senses(values)} for a model of embedding {width}"))
        lines.append(("use it", f"llama-mtmd-cli -m MODEL.gguf --mmproj {printable(str(path))}"))
    template = values.get(CHAT_TEMPLATE)
    if isinstance(template, str):
        digest = hashlib.sha256(template.encode("utf-8", "surrogateescape")).hexdigest()
        lines.append(("chat template", f"{len(template)} characters, sha256 {digest}"))
    width = max(len(label) for label, _ in lines)
    head = "\n".join(f"{label.ljust(width)}  {value}" for label, value in lines)
    return f"{head}\n\n{type_table(found.types)}"


def conversion_text(conversion: Conversion) -> str:
    """Whether a model folder can be converted, and how."""
    if conversion.obstacle is not None:
        return f"no: {one_line(conversion.obstacle)}"
    if conversion.why_fast is not None:
        return f"yes, without SRD: {printable(conversion.why_fast)}"
    return "yes, with SRD" if conversion.effort == "srd" else "yes"


def metadata_text(found: Inspection) -> str:
    rows = [
        (
            printable(key),
            found.kinds[key],
            shortened(printable(_value_text(value, found.lengths.get(key))), 80),
        )
        for key, value in found.metadata.items()
    ]
    return table(("key", "kind", "value"), rows, left=3)


def tensors_text(found: Inspection) -> str:
    rows = [
        (printable(t.name), t.type, " x ".join(map(str, t.shape)), str(t.bytes), str(t.offset))
        for t in found.tensors
    ]
    return table(("tensor", "type", "shape", "bytes", "offset"), rows, left=3)


def _value_text(value: object, length: int | None = None) -> str:
    """`value`; of an array its first values and its length."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    length = len(value) if length is None else length
    head = ", ".join(map(repr, value[:4]))
    return f"[{head}{', …' if length > 4 else ''}] ({length})"


def as_dict(found: Inspection, *, metadata: bool, tensors: bool) -> dict[str, Any]:
    result: dict[str, Any] = {
        "kind": found.kind,
        "file_bytes": found.file_bytes,
        "n_tensors": len(found.tensors),
        "n_weights": found.n_weights,
        "bpw": found.bpw,
        "types": types_json(found.types),
    }
    if found.conversion is not None:
        result["conversion"] = {**asdict(found.conversion), "possible": found.conversion.possible}
        result["architecture"] = found.metadata.get("general.architecture")
    values = found.metadata
    if values.get("general.architecture") == "clip":
        kinds = ("vision", "audio")
        result["projector"] = {
            kind: values.get(f"clip.{kind}.projector_type", values.get("clip.projector_type"))
            for kind in kinds
            if values.get(f"clip.has_{kind}_encoder")
        }
    if metadata:
        result["metadata"] = [
            {"key": key, "kind": found.kinds[key], "value": _json_value(value)}
            for key, value in found.metadata.items()
        ]
    if tensors:
        result["tensors"] = [
            {"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.bytes, "offset": t.offset}
            for t in found.tensors
        ]
    return result


def _json_value(value: Any) -> Any:
    """JSON has no NaN and no infinity: those become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_json_value(v) for v in value]
    return value
