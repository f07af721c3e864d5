"""Class names that stand for another class: other spellings, and models whose text part is a model of its own. The
names stand in the modules of `srd_rs.families.tables`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srd_rs.checkpoint import text_part
from srd_rs.families.tables import names


def text_class(name: str, config: Mapping[str, Any]) -> str:
    """Return the class that reads the text model of a checkpoint whose class is `name`."""
    known = names()
    if name in known.composites:
        kind = text_part(config).get("model_type")
        return known.model_types.get(kind, name) if isinstance(kind, str) else name
    return known.spellings.get(name, name)


def others_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how the names of tensors of other modalities begin, beyond those that no text model has."""
    stated = config.get("architectures")
    first = stated[0] if isinstance(stated, list) and stated else None
    return names().others.get(first, ()) if isinstance(first, str) else ()


def reads_text_part(architectures: object) -> bool:
    """Say whether the class of a multimodal model reads the text part itself, whatever class the text part names."""
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    return isinstance(first, str) and first in names().whole
