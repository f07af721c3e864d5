"""This package turns a Hugging Face checkpoint into GGUF metadata and a table of tensors. Each family of models
is one file."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final

from srd_rs.checkpoint import Checkpoint, text_part
from srd_rs.errors import ModelError, message
from srd_rs.families.aliases import reads_text_part, text_class
from srd_rs.families.base import Family, ModelFacts, ModelSpec
from srd_rs.families.interpreter import family_of
from srd_rs.families.table import TensorSpec
from srd_rs.families.tables import names as other_names
from srd_rs.families.tables import tables
from srd_rs.reading import shown

__all__ = ["ModelFacts", "ModelSpec", "TensorSpec", "architectures", "class_name", "describe", "supported"]

_CLASSIFIERS: Final = (
    "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForRewardModel",
    "ForProcessRewardModel",
)  # fmt: skip


_HEADS: Final = ("forcausallm", "lmheadmodel", "model")
"""How names of classes end, in the order in which a ``model_type`` stands for them."""


@cache
def _families() -> dict[str, type[Family]]:
    """Return the families by the Hugging Face class names that they serve: those that are tables, and the classes
    of every module of this package."""
    found: dict[str, type[Family]] = {}
    for module in iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Family) and "classes" in vars(value):
                found.update(dict.fromkeys(value.classes, value))
    for table in tables():
        family = family_of(table)
        for name in table.classes:
            if name in found:
                raise ValueError(f"the class {name} has two families, {found[name].arch} and {table.arch}")
            found[name] = family
    return found


def supported() -> list[str]:
    """Return the names of the Hugging Face classes that can be converted."""
    return sorted(_families())


def known_classes() -> list[str]:
    """Return the names of all classes that are read: those of families, other spellings of them, and classes of
    multimodal models whose text part names its own class."""
    stated = other_names()
    return sorted({*_families(), *stated.spellings, *stated.composites})


def architectures() -> dict[str, list[str]]:
    """Return the architectures of GGUF, each with the Hugging Face classes that become the architecture."""
    found: dict[str, list[str]] = {}
    for name, family in sorted(_families().items()):
        found.setdefault(family.arch, []).append(name)
    return dict(sorted(found.items()))


def class_name(checkpoint: Checkpoint) -> str:
    """Return the class that config.json names. A class named in the text part of config.json counts first, unless the
    class of the whole model reads the text part itself. Raises ModelError."""
    config, file = checkpoint.config, checkpoint.folder / "config.json"
    whole, named = config.get("architectures"), text_part(config).get("architectures")
    architectures = whole if named is None or reads_text_part(whole) else named
    meant = _class_of_type(config)
    fix = (
        'Add the class of the model, such as ["LlamaForCausalLM"]'
        if meant is None
        else f'Add "architectures": ["{meant}"] if the model is what its model_type says'
    )
    if architectures is None:
        raise ModelError(message(file, "architectures is missing, so the model is unknown", fix))
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelError(
            message(file, f"architectures is {shown(architectures)}, a list of names is expected", fix)
        )
    return text_class(architectures[0], config)


def _class_of_type(config: Mapping[str, Any]) -> str | None:
    """Return the class of the ``model_type`` of a text model. The names of classes are those of types in capitals:
    qwen3_moe is that of Qwen3MoeForCausalLM. A class without a head is meant where there is no other."""
    stated = config.get("model_type")
    if not isinstance(stated, str) or text_part(config):
        return None
    wanted = stated.removesuffix("_text").replace("_", "").replace("-", "").lower()
    named = {name.replace("_", "").lower(): name for name in supported()}
    return next((named[wanted + end] for end in _HEADS if wanted + end in named), None)


def describe(
    checkpoint: Checkpoint, *, name: str | None = None, mtp: bool | None = None, with_projector: bool = False
) -> ModelSpec:
    """Return the GGUF metadata and the tensors of a checkpoint.

    `name` replaces `general.name`. `mtp` is True for the blocks that predict further tokens alone, False for the model
    without these blocks, and None for the whole model. `with_projector` says that the tensors of other modalities go
    into a file of their own, so that no warning names them. Raises ModelError, which names config.json or the
    tensor, if the class of the model is not known or if the configuration and the tensors do not fit each other.
    """
    return opened(checkpoint, mtp=mtp, with_projector=with_projector).describe(name)


def opened(checkpoint: Checkpoint, *, mtp: bool | None = None, with_projector: bool = False) -> Family:
    """Return the family of a checkpoint, with the options of `describe`. Raises ModelError."""
    kind = class_name(checkpoint)
    family = _families().get(kind)
    if family is None and kind in other_names().refused:
        what, fix = other_names().refused[kind]
        raise ModelError(message(checkpoint.folder / "config.json", f"models of class {kind} {what}", fix))
    if family is None and kind.endswith(_CLASSIFIERS):
        what = f"models of class {shown(kind)} give classes or rewards, which llama.cpp does not compute"
        known = (name for name in supported() if name.endswith(_CLASSIFIERS))
        fix = f"Convert the model that it was made from. Classes of such models that are known: {', '.join(known)}"
        raise ModelError(message(checkpoint.folder / "config.json", what, fix))
    if family is None:
        what = f"models of class {shown(kind)} are not supported"
        near = get_close_matches(kind[:200], supported(), n=3)
        meant = f"; similar names are {', '.join(near)}" if near else ""
        fix = f"Convert a model of one of the {len(supported())} classes that srd-rs models lists{meant}"
        raise ModelError(message(checkpoint.folder / "config.json", what, fix))
    found = family(checkpoint, kind)
    found.mtp, found.with_projector = mtp, with_projector
    while (variant := found.variant()) is not None:
        found = variant(checkpoint, kind)
        found.mtp, found.with_projector = mtp, with_projector
    return found
