"""This module writes the `general.*` keys: the name of the model, its size, and its origin.

A name comes from the caller, else from the front matter of the model card, else from `_name_or_path` of
config.json, else from the name of the folder. A name is taken apart by the rules of the GGUF naming convention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from srd_rs.families.card import Value, read_card
from srd_rs.metadata import Metadata

_VERSION: Final = re.compile(r"(v|iter)?\d+([.]\d+)*", re.IGNORECASE)
_TYPE: Final = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE: Final = re.compile(
    r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)", re.IGNORECASE
)
_FINETUNE: Final = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)

_SAMPLING: Final = (
    ("sequence", "STRING", ("sequence",)),
    ("top_k", "INT32", ("top_k",)),
    ("top_p", "FLOAT32", ("top_p",)),
    ("min_p", "FLOAT32", ("min_p",)),
    ("xtc_probability", "FLOAT32", ("xtc_probability",)),
    ("xtc_threshold", "FLOAT32", ("xtc_threshold",)),
    ("temp", "FLOAT32", ("temperature",)),
    ("penalty_last_n", "INT32", ("penalty_last_n",)),
    ("penalty_repeat", "FLOAT32", ("penalty_repeat", "repetition_penalty")),
    ("mirostat", "INT32", ("mirostat",)),
    ("mirostat_tau", "FLOAT32", ("mirostat_tau",)),
    ("mirostat_eta", "FLOAT32", ("mirostat_eta",)),
)

# general.* key -> the names under which a card may give it
_CARD_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "description": ("description", "model_description"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename", "model_type"),
    "size_label": ("size_label", "model_size_label"),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
    "license": ("license",),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
}

_ORDER: Final = (
    "name", "author", "version", "organization", "finetune", "basename", "description", "size_label",
    "license", "license.name", "license.link", "source.url", "source.doi", "source.uuid", "source.repo_url",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """The numbers of parameters of the whole model, of the part that every token uses, and of one expert. The total of
    an adapter is negative: its model may be larger, and the size says nothing of it."""

    total: int
    shared: int
    expert: int
    n_expert: int

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> Size:
        """Count (GGUF name, shape) pairs. Stacked expert tensors are named `*_exps.*` and have at least three
        dimensions."""
        total = shared = expert = n_experts = n_stacks = 0
        for name, shape in tensors:
            size = 1
            for dimension in shape:
                size *= dimension
            total += size
            if "_exps." in name and len(shape) >= 3 and shape[-3]:
                expert += size // shape[-3]
                n_experts += shape[-3]
                n_stacks += 1
            else:
                shared += size
        return cls(total, shared, expert, n_experts // n_stacks if n_stacks else 0)

    def label(self) -> str:
        """Return a label such as ``3.4M`` or ``8x3.3M``: at least two significant digits, and the number of
        experts times the size of a model with one expert."""
        if self.n_expert:
            return f"{self.n_expert}x{_rounded(self.shared + self.expert)}"
        return _rounded(self.total)


def _rounded(count: int) -> str:
    scaled, suffix = count * 1e-3, "K"
    for limit, factor, letter in ((1e6, 1e-6, "M"), (1e9, 1e-9, "B"), (1e12, 1e-12, "T")):
        if count > limit:
            scaled, suffix = count * factor, letter
    digits = len(str(round(scaled)).lstrip("0"))
    return f"{scaled:.{max(2 - digits, 0)}f}{suffix}"


@dataclass
class NameParts:
    """The parts of a model id. A part that is not recognized is None."""

    full: str | None = None
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None


def title(name: str) -> str:
    """Return ``My Model v1`` for ``my-model-v1``: a lower-case word gets a capital unless the word is a version
    or a number."""
    words = name.strip().replace("-", " ").split()
    keep = re.compile(r"^(v\d+(?:\.\d+)*|\d.*)$")
    return " ".join(w.title() if w.islower() and not keep.match(w) else w for w in words)


def split_name(model_id: str, total: int) -> NameParts:
    """Take ``org/Base-1.5-7B-chat-v2`` apart. The `total` of parameters tells a size label from a context
    length."""
    if " " in model_id:
        return NameParts(full=model_id)
    organization, slash, full = model_id.partition("/") if "/" in model_id else ("", "", model_id)
    org = organization if slash and not organization.startswith(".") else None
    parts = [part for part in full.split("-") if part]
    kinds: list[set[str]] = []
    for index, part in enumerate(parts):
        parts[index], kind = _kind_of(part, index, total)
        kinds.append({kind} if kind else set())
    _prefer_numbers(parts, kinds)
    _mark_basename(parts, kinds)

    def joined(kind: str, without: str = "") -> str | None:
        chosen = [
            p for p, k in zip(parts, kinds, strict=True) if kind in k and (not without or without not in k)
        ]
        return "-".join(dict.fromkeys(chosen) if kind == "size" else chosen) or None

    found = NameParts(
        full, org, joined("basename"), joined("finetune"), joined("version", "basename"), joined("size")
    )
    if found.size_label is None and found.finetune is None and found.version is None:
        found.basename = None  # one word says too little to call it the base model
    return found


def _kind_of(part: str, index: int, total: int) -> tuple[str, str]:
    """Return a part in its usual spelling, and its kind: version, type, size, finetune, or nothing known."""
    if _VERSION.fullmatch(part):
        return part, "version"
    if _TYPE.fullmatch(part):
        return part.upper(), "type"
    if index > 0 and _SIZE.fullmatch(part):
        return _size_part(part, total)
    if index > 0 and _FINETUNE.fullmatch(part):
        return part, "finetune"
    return part, ""


def _size_part(part: str, total: int) -> tuple[str, str]:
    part = part.replace("_", ".")
    if part[-1].isdecimal():  # 7b1 is 7.1B
        part = f"{part[:-2]}.{part[-1]}{part[-2]}"
    if len(part) > 1 and part[-2].isdecimal() and part[-1] in "kmbt":
        part = part[:-1] + part[-1].upper()
    if total:
        try:
            label = float(part[:-1]) * 1000 ** " KMBT".find(part[-1])
        except (ValueError, ZeroDivisionError):
            return part, "size"
        far = label < -total // 8 if total < 0 else abs(label - total) > 7 * total // 8
        if far:  # far from the size of the model: a context length
            return part[:-1] + part[-1].lower(), "finetune"
    return part, "size"


def _prefer_numbers(parts: list[str], kinds: list[set[str]]) -> None:
    """Let a size label with a number win: ``mini`` is no size label beside ``3.8B``."""
    sizes = [part for part, kind in zip(parts, kinds, strict=True) if "size" in kind]
    if any(char.isdecimal() for part in sizes for char in part):
        for part, kind in zip(parts, kinds, strict=True):
            if "size" in kind and part.isalpha():
                kind.discard("size")


def _mark_basename(parts: list[str], kinds: list[set[str]]) -> None:
    """Take leading words and versions as the base name, and later unknown words as the finetune's."""
    at_start = True
    for part, kind in zip(parts, kinds, strict=True):
        if at_start and ((not kind and part[0].isalpha()) or "version" in kind):
            kind.add("basename")
        else:
            at_start = False
            if not kind:
                kind.add("finetune")
    for kind in reversed(kinds):  # a trailing version belongs to the version, not to the base name
        if "basename" not in kind or len(kind) < 2:
            break
        kind.discard("basename")


def write_general(
    metadata: Metadata,
    folder: Path,
    stem: str,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None,
    size: Size,
    name: str | None,
) -> None:
    """Write every `general.*` key but the architecture, `file_type` and `quantization_version`.

    `stem` is the name of the folder, or what the hub calls the model.
    """
    metadata.string("general.type", "model")
    _write_sampling(metadata, generation_config or {})
    card = read_card(folder)
    values = _from_card(card)
    _add_name_parts(values, config.get("_name_or_path"), size.total, most_slashes=1)
    _add_name_parts(values, stem, size.total)
    values["name"] = name or values.get("name") or stem
    if size.total > 0:
        values.setdefault("size_label", size.label())
    for key in _ORDER:
        if values.get(key):
            metadata.string(f"general.{key}", values[key])
    _write_origins(
        metadata, "base_model", _first(card, "base_model", "base_models", "base_model_sources"), size.total
    )
    _write_origins(metadata, "dataset", _first(card, "datasets", "dataset", "dataset_sources"), size.total)
    for key, fields in (("tags", ("tags", "pipeline_tag")), ("languages", ("languages", "language"))):
        items = [item for source in fields for item in _as_list(card.get(source))]
        if items:
            metadata.strings(f"general.{key}", items)


def _write_sampling(metadata: Metadata, generation: Mapping[str, Any]) -> None:
    """Write recommended sampler settings. A value of a wrong type is left out, because these settings are only
    advice."""
    for key, kind, names in _SAMPLING:
        value = next((generation[name] for name in names if generation.get(name) is not None), None)
        wanted: tuple[type, ...] = {"STRING": (str,), "INT32": (int,), "FLOAT32": (int, float)}[kind]
        if isinstance(value, bool) or not isinstance(value, wanted):
            continue
        if isinstance(value, (int, float)) and not -(2**31) < value < 2**31:
            continue
        metadata.add(f"general.sampling.{key}", kind, value)


def _from_card(card: Mapping[str, Value]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, names in _CARD_KEYS.items():
        value = next((card[name] for name in names if name in card), None)
        if isinstance(value, list):
            value = ",".join(value)
        if value:
            values[key] = value
    return values


def _add_name_parts(
    values: dict[str, str], model_id: object, total: int, most_slashes: int | None = None
) -> None:
    """Fill what `values` lacks from a model id."""
    if not isinstance(model_id, str) or not model_id:
        return
    if most_slashes is not None and model_id.count("/") > most_slashes:
        return  # a path on somebody's machine
    parts = split_name(model_id, total)
    found = {
        "name": title(parts.full) if parts.full else None,
        "organization": title(parts.organization) if parts.organization else None,
        "basename": parts.basename,
        "finetune": parts.finetune,
        "version": parts.version,
        "size_label": parts.size_label,
    }
    for key, value in found.items():
        if value:
            values.setdefault(key, value)


def _write_origins(metadata: Metadata, kind: str, origins: Value | None, total: int) -> None:
    """Write `general.base_model.*` or `general.dataset.*`: name, version, organization and address of each
    origin."""
    if origins is None:
        return
    ids = _as_list(origins)
    metadata.uint32(f"general.{kind}.count", len(ids))
    for index, origin in enumerate(ids):
        for key, value in _origin(origin, total).items():
            metadata.string(f"general.{kind}.{index}.{key}", value)


def _origin(origin: str, total: int) -> dict[str, str]:
    url = None
    if origin.startswith(("http://", "https://", "ssh://")):
        url = origin
        match = re.match(r"https?://huggingface.co/([^/]+/[^/]+)$", origin)
        if not match:
            return {"repo_url": url}
        origin = match[1]
    parts = split_name(origin, total)
    found: dict[str, str] = {}
    if parts.full:
        found["name"] = title(parts.full)
    if parts.version:
        found["version"] = parts.version
    if parts.organization:
        found["organization"] = title(parts.organization)
    if url is None and parts.organization and parts.full:
        url = f"https://huggingface.co/{parts.organization}/{parts.full}"
    if url is not None:
        found["repo_url"] = url
    return found


def _first(card: Mapping[str, Value], *names: str) -> Value | None:
    return next((card[name] for name in names if name in card), None)


def _as_list(value: Value | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
