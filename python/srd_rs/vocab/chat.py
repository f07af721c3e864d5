"""Chat templates: found, copied, never rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srd_rs.metadata import Metadata
from srd_rs.vocab.files import log, read_json, read_text

Templates = list[tuple[str, str]]
"""Names, ``default`` for the usual one, and Jinja texts."""


def find(folder: Path, config: dict[str, Any]) -> Templates:
    """The templates of tokenizer_config.json (`config`), else chat_template.jinja with
    additional_chat_templates/, else chat_template.json."""
    value: object = config["chat_template"] if "chat_template" in config else _from_files(folder)
    if isinstance(value, str):
        return [("default", value)]
    if isinstance(value, list):
        return [template for entry in value if (template := _named(entry)) is not None]
    if value is not None:
        log.warning(
            "%s: 'chat_template' is neither text nor a list; left out", folder / "tokenizer_config.json"
        )
    return []


def _from_files(folder: Path) -> object:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        named = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        entries = [{"name": path.stem, "template": read_text(path)} for path in named]
        return [{"name": "default", "template": read_text(jinja)}, *entries]
    return (read_json(folder / "chat_template.json") or {}).get("chat_template")


def _named(entry: object) -> tuple[str, str] | None:
    if not isinstance(entry, dict):
        return None
    name, template = entry.get("name", ""), entry.get("template")
    if not isinstance(name, str) or not isinstance(template, str):
        return None
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return (name, template) if name else None


def write(metadata: Metadata, templates: Templates) -> None:
    """Add each named template, the list of their names, and the default one."""
    others = {name: template for name, template in templates if name != "default"}
    for name, template in others.items():
        metadata.string(f"tokenizer.chat_template.{name}", template)
    if others:
        metadata.strings("tokenizer.chat_templates", sorted(others))
    default = [template for name, template in templates if name == "default"]
    if default:
        metadata.string("tokenizer.chat_template", default[-1])
