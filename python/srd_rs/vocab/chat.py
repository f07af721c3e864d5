"""This module finds chat templates as transformers finds them and copies them. No template is ever rendered.

The files ``chat_template.jinja`` and ``additional_chat_templates/*.jinja`` replace what tokenizer_config.json
holds. Then come ``processor_config.json`` and ``chat_template.json``, which belong to the processor of a multimodal
model: the tokenizer of transformers does not read the two files, but the processor does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from srd_rs import reading
from srd_rs.metadata import Metadata
from srd_rs.reading import read_text, shown
from srd_rs.vocab.files import fail, first_of, log, read_json, refuse

DEFAULT = "default"
MAX_TEMPLATE_BYTES: Final = reading.MAX_TEMPLATE_BYTES
"""The chat templates of a model have at most this many characters together, and a file of one at most this many bytes.
Published ones stay below 100 kB."""
_BYTE_ORDER_MARK = "\ufeff"


def find(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return Jinja texts by name; the usual template is named `DEFAULT`. `config` is tokenizer_config.json.

    Raises FormatError for a text that a C string cannot hold, ModelError for two names of one GGUF key.
    """
    return _checked(_resolved(folder, config), folder)


def _resolved(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    templates = _from_files(folder)
    if templates:
        return templates
    if (value := config.get("chat_template")) is not None:
        return _from_json(value, folder / "tokenizer_config.json")
    for name in ("processor_config.json", "chat_template.json"):
        value = (read_json(folder / name) or {}).get("chat_template")
        if value is not None:
            return _from_json(value, folder / name)
    return {}


def _from_files(folder: Path) -> dict[str, str]:
    """Read the files of templates. An additional one that is named `DEFAULT` replaces the usual one, as in
    transformers."""
    usual = folder / "chat_template.jinja"
    templates = {DEFAULT: _text(usual, folder)} if usual.is_file() else {}
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.name.removesuffix(".jinja")] = _text(path, folder)
    return templates


def _text(path: Path, folder: Path) -> str:
    """Return the text of a file with the line ends that Python gives to a text."""
    return read_text(path, MAX_TEMPLATE_BYTES, root=folder).replace("\r\n", "\n").replace("\r", "\n")


def _from_json(value: object, place: Path) -> dict[str, str]:
    """Read one template, a list of ``{"name": ..., "template": ...}``, or an object from name to template."""
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list):
        pairs = [
            (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, entry)
            for entry in value
        ]
    elif isinstance(value, dict):
        pairs = [(name, text) for name, text in value.items() if text is not None]
    else:
        log.warning(
            "%s: 'chat_template' is neither text nor a list of texts; the template is left out", place
        )
        return {}
    found = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
    odd = [pair for pair in pairs if not all(isinstance(part, str) for part in pair)]
    if not pairs:
        log.warning("%s: 'chat_template' is there but holds no template, so the file gets none", place)
    if odd:
        what = "%s: %d of the chat templates have no name or no text and are left out, such as %s"
        log.warning(what, place, len(odd), shown(odd[0]))
    return found


def _checked(templates: dict[str, str], folder: Path) -> dict[str, str]:
    """Leave out templates that say nothing, and name what llama.cpp will do with the others."""
    size = sum(map(len, templates.values()))
    if size > MAX_TEMPLATE_BYTES:
        what = f"the chat templates have {size} characters, more than {MAX_TEMPLATE_BYTES}"
        refuse(folder, what, "Replace them by the templates of the model")
    for name, text in templates.items():
        if "\0" in text:
            what = f"the chat template {shown(name)} has a null byte, at which llama.cpp ends the text"
            fail(folder, what, "Correct the template")
        if text.startswith(_BYTE_ORDER_MARK):
            what = "%s: the chat template %s begins with a byte order mark, so every prompt begins with one"
            log.warning(what, folder, shown(name))
    empty = [name for name, text in templates.items() if not text]
    if empty:
        what = "%s: the chat template %s is empty and is left out"
        log.warning(what, folder, first_of([*map(shown, empty)]))
    found = {name: text for name, text in templates.items() if text}
    keys: dict[str, str] = {}
    for name in found:
        other = keys.setdefault(_key(name), name)
        if other != name:
            what = f"the chat templates {shown(other)} and {shown(name)} have the same key in a GGUF"
            refuse(folder, what, "Rename or remove one of the two")
    if "" in found:
        del found[""]
        log.warning("%s: a chat template without a name is left out", folder)
    if found and DEFAULT not in found:
        what = "%s: none of the chat templates (%s) is named 'default', so llama.cpp takes %s"
        taken = "the one named 'tool_use'" if "tool_use" in found else "ChatML"
        log.warning(what, folder, first_of([*map(shown, sorted(found))]), taken)
    return found


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
