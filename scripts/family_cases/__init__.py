"""Tiny checkpoints, one or more for each class that srd-rs converts. One file holds the cases of one vendor.

A case has the config.json of a published model of its class with all sizes made small, so that the keys and their
spelling are those of real files. `scripts/make_family_goldens.py` converts each case with llama.cpp's converter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
TARGET = "target"
"""Folder, within that of a draft, of the model that the draft drafts for."""


@dataclass(frozen=True)
class Case:
    """One checkpoint. `config` is its config.json.

    `tensors` gives the shape of each tensor by name, rows first. Without `tensors`, the class is made by
    transformers from the configuration, and the names and shapes are those that transformers saves. `more` are tensors
    that published files have beside those, such as layers of multi-token prediction. `files` are further files of the
    folder by name: JSON values or text. `dtypes` names the types of tensors that are not BF16.
    `mmproj` says that the reference writes a file of the projector as well, and `text` that it writes the text half.
    `raw_config` says that the reference reads config.json as it is, because transformers translates keys that the
    reference asks for. `constants` are attributes of the reference's class: sizes of published models that stand in its
    code, made small.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Shapes | None = None
    files: Mapping[str, Any] = field(default_factory=dict)
    more: Shapes = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    mmproj: bool = False
    text: bool = True
    raw_config: bool = False
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def drafts(self) -> bool:
        """Whether the model drafts for another model, whose config.json is among `files`. llama.cpp does not run it
        alone."""
        return f"{TARGET}/config.json" in self.files


def layers(count: int, shapes: Mapping[str, tuple[int, ...]], prefix: str = "model.layers") -> Shapes:
    """Return the shapes of the tensors of `count` equal layers: ``{prefix}.{layer}.{name}``."""
    return {f"{prefix}.{layer}.{name}": shape for layer in range(count) for name, shape in shapes.items()}


def all_cases() -> dict[str, Case]:
    """Return the cases of all files of this package by name. Raises ValueError if two have one name."""
    found: dict[str, Case] = {}
    for module in iter_modules(__path__):
        for case in import_module(f"{__name__}.{module.name}").CASES:
            if case.name in found:
                raise ValueError(f"two cases have the name {case.name}")
            found[case.name] = case
    return found
