"""The families that are data: one file per vendor.

Every `FamilyTable` that a module of this package holds is a family, so adding a model is adding a constant.
`docs/adding-a-model.md` shows how. A module may hold six more constants:

- `SPELLINGS`: a class name -> the class that it stands for. The two differ in their name only, as far as text goes.
- `COMPOSITES`: classes of multimodal models whose text part is a model of its own. The text part names its class, or it
  has a `model_type` that `MODEL_TYPES` knows.
- `MODEL_TYPES`: the `model_type` of a text part -> its class.
- `OTHERS`: a class of multimodal models -> how names of other modalities begin in it, where text models of other
  classes have such names.
- `WHOLE`: classes of multimodal models that read the text part themselves, whatever class the text part names.
- `REFUSED`: a class that is known and not converted -> what its models are, and what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from srd_rs.families.schema import FamilyTable


@dataclass(frozen=True)
class Names:
    """The class names that stand for others."""

    spellings: Mapping[str, str]
    composites: frozenset[str]
    model_types: Mapping[str, str]
    whole: frozenset[str]
    others: Mapping[str, tuple[str, ...]]
    refused: Mapping[str, tuple[str, str]]


@cache
def tables() -> tuple[FamilyTable, ...]:
    """Return the tables of all modules of this package, each once."""
    found: dict[int, FamilyTable] = {}
    for module in iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, FamilyTable):
                found[id(value)] = value
    return tuple(found.values())


@cache
def names() -> Names:
    """Return the names that the modules of this package declare. Raises ValueError if a name is declared twice."""
    spellings: dict[str, str] = {}
    model_types: dict[str, str] = {}
    composites: set[str] = set()
    whole: set[str] = set()
    others: dict[str, tuple[str, ...]] = {}
    refused: dict[str, tuple[str, str]] = {}
    for info in iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        for found, key in ((spellings, "SPELLINGS"), (model_types, "MODEL_TYPES")):
            declared: Mapping[str, str] = getattr(module, key, {})
            twice = found.keys() & declared.keys()
            if twice:
                raise ValueError(
                    f"{sorted(twice)} of {module.__name__}.{key} is declared in another module as well"
                )
            found.update(declared)
        composites.update(getattr(module, "COMPOSITES", ()))
        whole.update(getattr(module, "WHOLE", ()))
        others.update(getattr(module, "OTHERS", {}))
        refused.update(getattr(module, "REFUSED", {}))
    return Names(spellings, frozenset(composites), model_types, frozenset(whole), others, refused)
