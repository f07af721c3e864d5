"""A CycloneDX ML-BOM of a GGUF: what the file is, what it was made of, how, and how good it is.

The document is JSON of the specification 1.7. It has the SHA-256 of each file of the GGUF; the base model with its
revision and the SHA-256 of its files; the adapters that were merged; the tool; and as a model card the method, the
seed, the calibration text with its hash, the types of the tensors, the licence and the scores of a report of
`srd-rs eval`.

The same files give the same bytes: there is no date in it, and the serial number comes from the hashes.

    >>> import srd_rs
    >>> document = srd_rs.bom("path/to/model-Q4_K_M.gguf", "path/to/model")
    >>> document["specVersion"], document["metadata"]["component"]["type"]
    ('1.7', 'machine-learning-model')
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, calibration, hub, sniff
from srd_rs.checkpoint import layout
from srd_rs.errors import FormatError, UsageError, message
from srd_rs.families import lora as lora_files
from srd_rs.hub import Source, model_files
from srd_rs.options import StrPath, mix_of
from srd_rs.reading import shown
from srd_rs.report import totals_by_type

SPEC_VERSION: Final = "1.7"
SUFFIX: Final = ".cdx.json"
"""The usual end of the name of a CycloneDX document in JSON."""
_NAMESPACE: Final = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""The namespace of addresses of RFC 9562, for the serial number."""
#: The hub's names of licences -> the identifiers of SPDX. Others are written by name.
_LICENCES: Final = {
    name.lower(): name
    for name in (
        *("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"),
        *(
            "CC-BY-NC-4.0",
            "CC-BY-NC-SA-4.0",
            "CC-BY-NC-ND-4.0",
            "GPL-3.0-only",
            "AGPL-3.0-only",
            "LGPL-3.0-only",
        ),
        *("MPL-2.0", "Unlicense", "ISC", "Zlib", "Artistic-2.0", "EUPL-1.2"),
    )
} | {"gpl-3.0": "GPL-3.0-only", "agpl-3.0": "AGPL-3.0-only", "lgpl-3.0": "LGPL-3.0-only"}


def bom(
    gguf: StrPath,
    model: StrPath | Source | None = None,
    *,
    report: StrPath | None = None,
    calibrate: StrPath | None = None,
    lora: Sequence[StrPath] = (),
) -> dict[str, Any]:
    """The CycloneDX document of a GGUF, as a dictionary. Reads the files of the GGUF and of the model for their hashes.

    model: What the GGUF was converted from: a folder, a GGUF, or a model on the hub. The weights of a model on the hub
        are not downloaded: the hub states the SHA-256 of each large file.
    report: A folder that ``srd-rs eval --report`` wrote, or its report.json: the scores of this GGUF.
    calibrate: The text of the calibration, for its hash. The hash of the bundled text is known.
    lora: The adapters that were merged into the model, for their hashes.

    Raises UsageError for a file that is no GGUF and for a report of other files.

        >>> document = srd_rs.bom("path/to/model-Q4_K_M.gguf", "path/to/model")
        >>> document["bomFormat"], document["specVersion"]
        ('CycloneDX', '1.7')
    """
    path = hub.file(gguf)
    sniff.check_gguf(path)
    header = _core.read_gguf(path, 64)
    metadata = {key: value for key, _, value in header["metadata"]}
    parts = [Path(part) for part, _ in header["parts"]]
    files = [_file(part) for part in parts]
    base = None if model is None else _base(model if isinstance(model, Source) else hub.glance(model))
    made_of = [*([base] if base else []), *_adapters(metadata, [Path(folder) for folder in lora])]
    text = _calibration(metadata, calibrate)
    component = {
        "type": "machine-learning-model",
        "bom-ref": f"sha256:{_digest(files)}",
        "name": str(metadata.get("general.name") or path.stem),
        **_version(metadata),
        "description": f"GGUF for llama.cpp, {_mix(metadata)}",
        "hashes": files[0]["hashes"] if len(files) == 1 else [_hash(_digest(files))],
        **_licences(metadata),
        **({"pedigree": {"ancestors": made_of}} if made_of else {}),
        "components": files,
        "modelCard": _model_card(path, metadata, header["tensors"], text, report),
        "properties": _properties(metadata),
    }
    if len(files) > 1:
        note = "The hash is that of one line for each part: name, tab, SHA-256."
        component["properties"].append({"name": "srd-rs:hash", "value": note})
    own = component["bom-ref"]
    needs = [part["bom-ref"] for part in (*made_of, text) if part]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, own)}",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {
                "components": [{"type": "application", "name": "srd-rs", "version": _core.__version__}]
            },
            "component": component,
        },
        **({"components": [text]} if text else {}),
        "dependencies": [{"ref": own, "dependsOn": needs}, *({"ref": need} for need in needs)],
    }


def bom_text(document: Mapping[str, Any]) -> str:
    """The document as it is written."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _file(path: Path, name: str | None = None) -> dict[str, Any]:
    size, digest = _core.file_sha256(path)
    return {
        "type": "file",
        "bom-ref": f"sha256:{digest}#{name or path.name}",
        "name": name or path.name,
        "hashes": [_hash(digest)],
        "properties": [{"name": "srd-rs:bytes", "value": str(size)}],
    }


def _weights_file(source: Source, name: str, size: int, digest: str | None) -> dict[str, Any]:
    """A file of weights over the network, with the SHA-256 that its server states. The hub states none for the small
    files that it keeps in git: such a file is downloaded."""
    if digest is None and source.revision is not None:
        return _file(hub.file(f"hf://{source.revision}/{name}"), name)
    stated = [{"name": "srd-rs:hash", "value": "The hash is the one that the hub states."}]
    return {
        "type": "file",
        "bom-ref": f"sha256:{digest}#{name}" if digest else name,
        "name": name,
        **({"hashes": [_hash(digest)]} if digest else {}),
        "properties": [{"name": "srd-rs:bytes", "value": str(size)}, *(stated if digest else [])],
    }


def _digest(files: Iterable[Mapping[str, Any]]) -> str:
    """The SHA-256 of one file, or one over the names and the SHA-256 of several."""
    pairs = sorted((str(f["name"]), str(f["hashes"][0]["content"])) for f in files)
    if len(pairs) == 1:
        return pairs[0][1]
    return hashlib.sha256("".join(f"{name}\t{digest}\n" for name, digest in pairs).encode()).hexdigest()


def _base(source: Source) -> dict[str, Any]:
    """The model that was converted, with its files."""
    path = source.path
    if path.is_file():
        paths = [Path(part) for part, _ in _core.read_gguf(path, 0)["parts"]]
    elif source.remote is not None:
        paths = model_files(path)
    else:
        shards = {path / tensor.shard for tensor in layout(path)}
        paths = sorted({*model_files(path), *shards})
    files = [*map(_file, paths), *(_weights_file(source, *file) for file in source.weights)]
    known = all("hashes" in file for file in files)
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"sha256:{_digest(files)}#base" if known else "base",
        "name": source.repo or source.stem,
        **({"hashes": [_hash(_digest(files))]} if known else {}),
        "components": [{**file, "bom-ref": f"base/{file['bom-ref']}"} for file in files],
    }
    if source.repo is not None:
        _, _, commit = (source.revision or "").partition("@")
        found |= {"version": commit} if commit else {}
        found["purl"] = f"pkg:huggingface/{source.repo}" + (f"@{commit}" if commit else "")
        address = f"https://huggingface.co/{source.repo}" + (f"/tree/{commit}" if commit else "")
        found["externalReferences"] = [{"type": "distribution", "url": address}]
    return found


def _adapters(metadata: Mapping[str, Any], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The adapters of PEFT that were merged into the model, in their order."""
    merged = metadata.get("srd.lora") or []
    names = [folder.resolve().name for folder in folders]
    if names and names != merged:
        what = (
            f"the GGUF was made with the adapters {', '.join(map(shown, merged))}"
            if merged
            else "none was merged"
        )
        raise UsageError(message("--lora", what, "Name the adapters of the conversion, in their order"))
    found = []
    for number, (folder, name) in enumerate(zip(folders, names, strict=True)):
        files = [_file(folder / file) for file in (lora_files.CONFIG, lora_files.WEIGHTS)]
        ref = f"adapter-{number}"
        found.append(
            {
                "type": "machine-learning-model",
                "bom-ref": f"sha256:{_digest(files)}#{ref}",
                "name": name,
                "description": "LoRA adapter, merged into the model",
                "hashes": [_hash(_digest(files))],
                "components": [{**file, "bom-ref": f"{ref}/{file['bom-ref']}"} for file in files],
            }
        )
    return found


def _version(metadata: Mapping[str, Any]) -> dict[str, str]:
    version = metadata.get("general.version")
    return {"version": version} if isinstance(version, str) else {}


def _mix(metadata: Mapping[str, Any]) -> str:
    return mix_of(metadata.get("general.file_type")) or "unknown mix"


def _licences(metadata: Mapping[str, Any]) -> dict[str, Any]:
    name, link = metadata.get("general.license"), metadata.get("general.license.link")
    if not isinstance(name, str) or not name:
        return {}
    known = _LICENCES.get(name.lower())
    if known is not None:
        return {"licenses": [{"license": {"id": known}}]}
    named = metadata.get("general.license.name")
    licence = {"name": named if isinstance(named, str) else name}
    if isinstance(link, str) and link.startswith(("https://", "http://")):
        licence["url"] = link
    return {"licenses": [{"license": licence}]}


def _calibration(metadata: Mapping[str, Any], given: StrPath | None) -> dict[str, Any] | None:
    """The text of the calibration as a component; None where there was no text."""
    name = metadata.get("srd.calibration.text") or metadata.get("quantize.imatrix.dataset")
    if not isinstance(name, str) or name == "random":
        if given is not None:
            what = "the GGUF was made without a calibration text"
            raise UsageError(message("--calibrate", what, "Leave the option out"))
        return None
    found: dict[str, Any] = {"type": "data", "bom-ref": f"calibration#{name}", "name": name}
    if name == "builtin" or given is not None:
        read, text = calibration.read_text(name if given is None else given)
        if read != name:
            what = f"the GGUF was calibrated on the text {shown(name)}"
            raise UsageError(message(given, what, "Name that text"))
        found["hashes"] = [_hash(hashlib.sha256(text).hexdigest())]
    return {**found, "data": [{"type": "dataset", "name": name}]}


def _properties(metadata: Mapping[str, Any]) -> list[dict[str, str]]:
    """How the file was made, as it says itself."""
    keys = {
        "mix": _mix(metadata),
        "version": metadata.get("srd.version"),
        "method": metadata.get("srd.method"),
        "seed": metadata.get("srd.seed"),
        "lora": ", ".join(metadata["srd.lora"]) if metadata.get("srd.lora") else None,
        "options": metadata.get("srd.options"),
        "source-digest": metadata.get("srd.source.digest"),
        "calibration-text": metadata.get("srd.calibration.text"),
        "calibration-tokens": metadata.get("srd.calibration.tokens"),
        "calibration-digest": metadata.get("srd.calibration.digest"),
        "imatrix": metadata.get("quantize.imatrix.file") if "srd.calibration.text" not in metadata else None,
        "requantized-tensors": metadata.get("srd.requantized"),
    }
    return [{"name": f"srd-rs:{key}", "value": str(v)} for key, v in keys.items() if v is not None]


class _Tensor:
    def __init__(self, kind: str, shape: Iterable[int], size: int) -> None:
        self.type, self.bytes, self.n_weights = kind, size, 1
        for n in shape:
            self.n_weights *= n


def _model_card(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Iterable[Any],
    text: Mapping[str, Any] | None,
    report: StrPath | None,
) -> dict[str, Any]:
    parameters: dict[str, Any] = {"modelArchitecture": str(metadata.get("general.architecture", "unknown"))}
    if text is not None:
        parameters["datasets"] = [{"ref": text["bom-ref"]}]
    totals = totals_by_type(_Tensor(kind, shape, size) for _, shape, kind, _, size in tensors)
    recipe = [
        {"name": f"srd-rs:type:{kind}", "value": f"{t.tensors} tensors, {t.weights} weights, {t.bytes} bytes"}
        for kind, t in totals.items()
    ]
    card: dict[str, Any] = {"modelParameters": parameters, "properties": recipe}
    if report is not None:
        card["quantitativeAnalysis"] = {"performanceMetrics": _metrics(path, Path(report))}
    return card


def _metrics(path: Path, report: Path) -> list[dict[str, Any]]:
    """The scores of a report of this file, with confidence intervals of 95 %."""
    file, data = sniff.read_report(report)
    try:
        entry = next((e for e in data["files"] if Path(e["path"]).name == path.name), None)
        if entry is None:
            what = f"the report has no scores of {path.name}"
            raise UsageError(message(file, what, "Name the report of this file"))
        scores = {"perplexity": entry["perplexity"]}
        if entry["divergence"] is not None:
            kld, same = entry["divergence"]["kld"], entry["divergence"]["same_top"]
            scores |= {"KL divergence from the base": kld, "same top token as the base": same}
        where = f"{data['n_chunks']} chunks of {Path(data['text']).name}"
        return [_metric(name, score["value"], score["error"], where) for name, score in scores.items()]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        what = f"this is no report of srd-rs eval: {error!r}"
        raise FormatError(message(file, what, "Name the folder that srd-rs eval --report wrote")) from None


def _metric(name: str, value: float, error: float, where: str) -> dict[str, Any]:
    low, high = value - 1.96 * error, value + 1.96 * error
    return {
        "type": name,
        "value": f"{value:.6g}",
        "slice": where,
        "confidenceInterval": {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"},
    }
