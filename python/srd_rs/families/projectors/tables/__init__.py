"""The tables of the projectors: one file per vendor, and one `FamilyTable` for each layout.

Every `FamilyTable` that a module of this package holds and that names classes is a projector. A module may hold
``ONLY_WITH``: classes whose projector is written for one `model_type` of the encoder of pictures only, because
llama.cpp knows no other. ``BY_ENCODER`` has the tables of classes whose projector follows from the `model_type` of the
encoder of pictures: (class, `model_type`) -> table.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from srd_rs.families.schema import FamilyTable


@cache
def projectors() -> Mapping[str, FamilyTable]:
    """Return the table of each class that has a projector. Raises ValueError if a class has two."""
    found: dict[str, FamilyTable] = {}
    for module in iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, FamilyTable):
                for name in value.classes:
                    if found.setdefault(name, value) is not value:
                        raise ValueError(f"two projectors have the class {name}")
    return found


@cache
def only_with() -> Mapping[str, str]:
    """Return the `model_type` that the encoder must have, for the classes for which it matters."""
    found: dict[str, str] = {}
    for module in iter_modules(__path__):
        found.update(getattr(import_module(f"{__name__}.{module.name}"), "ONLY_WITH", {}))
    return found


@cache
def by_encoder() -> Mapping[tuple[str, str], FamilyTable]:
    """Return the tables of classes whose projector follows from the `model_type` of the encoder of pictures."""
    found: dict[tuple[str, str], FamilyTable] = {}
    for module in iter_modules(__path__):
        found.update(getattr(import_module(f"{__name__}.{module.name}"), "BY_ENCODER", {}))
    return found
