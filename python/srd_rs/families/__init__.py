"""From a Hugging Face configuration to GGUF metadata and tensor map: one file per family."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from srd_rs.checkpoint import Checkpoint, text_part
from srd_rs.errors import ModelError, message
from srd_rs.families.base import Family, ModelFacts, ModelSpec
from srd_rs.families.table import TensorSpec
from srd_rs.reading import shown

__all__ = ["ModelFacts", "ModelSpec", "TensorSpec", "class_name", "describe", "supported"]


@cache
def _families() -> dict[str, type[Family]]:
    """Hugging Face class name -> family. Every module of this package is looked through."""
    found: dict[str, type[Family]] = {}
    for module in iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Family) and "classes" in vars(value):
                found.update(dict.fromkeys(value.classes, value))
    return found


def supported() -> list[str]:
    """The Hugging Face class names that can be converted."""
    return sorted(_families())


def class_name(checkpoint: Checkpoint) -> str:
    """The class that config.json names, in its text part if it has one of its own. Raises ModelError."""
    config, file = checkpoint.config, checkpoint.folder / "config.json"
    named = text_part(config).get("architectures")
    architectures = named if named is not None else config.get("architectures")
    fix = 'Add the class of the model, such as ["LlamaForCausalLM"]'
    if architectures is None:
        raise ModelError(message(file, "architectures is missing, so the model is unknown", fix))
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelError(
            message(file, f"architectures is {shown(architectures)}, a list of names is expected", fix)
        )
    return architectures[0]


def describe(checkpoint: Checkpoint, *, name: str | None = None) -> ModelSpec:
    """The GGUF metadata and tensors of a checkpoint.

    `name` replaces `general.name`. Raises ModelError, naming config.json or the tensor, if the model is of an
    unknown class, or its configuration and its tensors do not fit each other.
    """
    kind = class_name(checkpoint)
    family = _families().get(kind)
    if family is None:
        what = f"models of class {shown(kind)} are not supported"
        fix = f"Convert a model of one of the classes {', '.join(supported())}"
        raise ModelError(message(checkpoint.folder / "config.json", what, fix))
    return family(checkpoint, kind).describe(name)
