"""This module finds chat templates as transformers finds them and copies them. No template is ever rendered.

The files ``chat_template.jinja`` and ``additional_chat_templates/*.jinja`` replace what tokenizer_config.json
holds. ``chat_template.json``, which belongs to the processor of a multimodal model, comes last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srd_rs.metadata import Metadata
from srd_rs.reading import read_text
from srd_rs.vocab.files import log, read_json

DEFAULT = "default"


def find(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return Jinja texts by name; the usual template is named `DEFAULT`. `config` is tokenizer_config.json."""
    templates = _from_files(folder)
    if templates:
        return templates
    for name, entry in (
        ("tokenizer_config.json", config),
        ("chat_template.json", read_json(folder / "chat_template.json") or {}),
    ):
        value = entry.get("chat_template")
        if value is not None:
            return _from_json(value, folder / name)
    return {}


def _from_files(folder: Path) -> dict[str, str]:
    named = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    templates = {path.stem: read_text(path, root=folder) for path in named}
    usual = folder / "chat_template.jinja"
    if usual.is_file():
        templates[DEFAULT] = read_text(usual)
    return templates


def _from_json(value: object, place: Path) -> dict[str, str]:
    """Read one template, a list of ``{"name": ..., "template": ...}``, or an object from name to template."""
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list):
        pairs = [(entry.get("name"), entry.get("template")) for entry in value if isinstance(entry, dict)]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        log.warning(
            "%s: 'chat_template' is neither text nor a list of texts; the template is left out", place
        )
        return {}
    return {name: text for name, text in pairs if isinstance(name, str) and name and isinstance(text, str)}


def write(metadata: Metadata, templates: dict[str, str]) -> None:
    """Add each named template, the list of their names, and the usual template."""
    others = {_key(name): text for name, text in templates.items() if name != DEFAULT}
    for name, text in others.items():
        metadata.string(f"tokenizer.chat_template.{name}", text)
    if others:
        metadata.strings("tokenizer.chat_templates", sorted(others))
    if DEFAULT in templates:
        metadata.string("tokenizer.chat_template", templates[DEFAULT])


def _key(name: str) -> str:
    """Return a name in the form of a GGUF key."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
