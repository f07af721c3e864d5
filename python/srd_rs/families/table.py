"""This module declares the tensors of a model as a table: what is written, from which tensors of the checkpoint,
and whether a tensor must be there.

A family declares every tensor that its architecture has. `Table.resolve` holds the declaration against the
checkpoint: nothing may be missing, nothing unknown, and every shape must be as the configuration says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srd_rs.checkpoint import SourceTensor
from srd_rs.errors import ModelError, message
from srd_rs.transforms import Shape, Transform

PLAIN: Final = ("F64", "F32", "F16", "BF16")
"""These safetensors dtypes hold weights that are not quantized."""
READABLE: Final = (*PLAIN, "F8_E4M3", "F8_E5M2")
"""These safetensors dtypes can be decoded to f32."""

MAX_DIMENSIONS: Final = 4
"""A tensor in a GGUF file has at most this many dimensions."""

_F32_NAMES: Final = (
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d.weight",
    "ssm_conv1d_q.weight",
    "ssm_conv1d_k.weight",
    "ssm_conv1d_v.weight",
    "shortconv.conv.weight",
    "time_mix_first.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "altup_correct_coef.weight",
    "altup_predict_coef.weight",
    "indexer.proj.weight",
)
_QUANTIZABLE: Final = (".weight", ".lora_a", ".lora_b")
_LISTED: Final = 4


@dataclass(frozen=True)
class TensorSpec:
    """This is a tensor of the GGUF. The shape is row-major. `store` is "f32" if the tensor stays F32 in every
    mix, "i32" for integers, which are copied, "i64" for integers that are computed, "f16" for a tensor of a projector
    that stays F16, else "auto"."""

    name: str
    shape: Shape
    store: str
    transform: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "store": "auto" if self.store == "f16" else self.store,
            "transform": dict(self.transform),
        }


def store_of(name: str, shape: Sequence[int]) -> str:
    """Return "f32" for what llama.cpp never quantizes: vectors, norms, routers, embeddings of positions and
    types, short convolutions, and every tensor whose name does not end in `.weight`. Return "auto" for all others."""
    single = name.removeprefix("blk.").partition(".")[2] if name.startswith("blk.") else name
    plain = len(shape) <= 1 or name.endswith("_norm.weight") or not name.endswith(_QUANTIZABLE)
    return "f32" if plain or single in _F32_NAMES else "auto"


@dataclass
class Entry:
    """A declared tensor of the GGUF."""

    name: str
    transform: Transform
    needed: bool
    group: str
    f32: bool | None = None
    i32: bool = False
    i64: bool = False
    f16: bool = False


@dataclass
class Table:
    """A table holds declared tensors by canonical source name, that is, by the name without the prefix of a
    multimodal checkpoint."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def add(
        self,
        name: str,
        transform: Transform,
        *,
        needed: bool = True,
        group: str | None = None,
        f32: bool | None = None,
        i32: bool = False,
        i64: bool = False,
        f16: bool = False,
    ) -> None:
        """Declare GGUF tensor `name`. Entries of one `group` are written together, when the last source of
        any has been met. `f32` says whether the tensor stays F32 in every mix; None lets the name decide. `i32`
        says that the tensor holds integers, which are copied, and `i64` that it holds integers that are computed.
        `f16` says that it stays F16."""
        if name in self.entries:
            raise ValueError(f"{name} is declared twice")
        self.entries[name] = Entry(name, transform, needed, group or name, f32, i32, i64, f16)

    def resolve(self, tensors: Mapping[str, SourceTensor], folder: Path) -> list[TensorSpec]:
        """Return the tensors to write: generated ones first, then the others in the order of the checkpoint's
        files.

        `tensors` maps canonical names to tensors, in file order. Raises ModelError.
        """
        return [_spec(entry, tensors) for entry in _in_order(self._checked(tensors, folder), tensors)]

    def check(self, tensors: Mapping[str, SourceTensor], folder: Path) -> None:
        """Hold the declared tensors against those that are there. Raises ModelError."""
        self._checked(tensors, folder)

    def _checked(self, tensors: Mapping[str, SourceTensor], folder: Path) -> list[Entry]:
        users = self._users()
        self._check_unknown(tensors, users, folder)
        entries = self._present(tensors, folder)
        for entry in entries:
            check_shapes(entry, tensors, folder)
        return entries

    def _users(self) -> dict[str, list[Entry]]:
        users: dict[str, list[Entry]] = {}
        for entry in self.entries.values():
            for source in entry.transform.sources():
                users.setdefault(source.tensor, []).append(entry)
        return users

    def _check_unknown(
        self, tensors: Mapping[str, SourceTensor], users: Mapping[str, Any], folder: Path
    ) -> None:
        unknown = [tensor.name for name, tensor in tensors.items() if name not in users]
        if unknown:
            what = f"{count(len(unknown), 'tensor')} that the architecture does not have: {some(unknown)}"
            raise ModelError(
                message(
                    folder,
                    what,
                    "Check architectures and num_hidden_layers in config.json, or the checkpoint",
                )
            )

    def _present(self, tensors: Mapping[str, SourceTensor], folder: Path) -> list[Entry]:
        present, missing = [], []
        for entry in self.entries.values():
            absent = [s.tensor for s in entry.transform.sources() if s.tensor not in tensors]
            n_sources = sum(1 for _ in entry.transform.sources())
            if not absent:
                present.append(entry)
            elif entry.needed or len(absent) < n_sources:
                missing += absent
        if missing:
            missing = list(dict.fromkeys(missing))
            what = f"{count(len(missing), 'tensor')} missing from the checkpoint: {some(missing)}"
            raise ModelError(
                message(
                    folder, what, "Download the checkpoint again, or correct num_hidden_layers in config.json"
                )
            )
        return present


def check_shapes(entry: Entry, tensors: Mapping[str, SourceTensor], folder: Path) -> None:
    """Hold the shapes that an entry declares against those of the tensors. Raises ModelError."""
    for source in entry.transform.sources():
        tensor = tensors[source.tensor]
        if tensor.shape == source.shape and tensor.dtype in (("I32",) if entry.i32 else READABLE):
            continue
        place = f"{folder / tensor.shard}: tensor '{tensor.name}'"
        if tensor.shape != source.shape:
            what = f"has shape {_dims(tensor.shape)}, the configuration asks for {_dims(source.shape)}"
            raise ModelError(
                message(place, what, "Correct the sizes in config.json, or download the tensor again")
            )
        if entry.i32:
            what = f"has type {tensor.dtype}, where integers of type I32 are expected"
            raise ModelError(message(place, what, "Convert from a checkpoint with such integers"))
        what = f"has type {tensor.dtype}, which holds no plain weights"
        raise ModelError(message(place, what, f"Convert from a checkpoint in {', '.join(PLAIN)}"))
    if len(entry.transform.shape) > MAX_DIMENSIONS:
        what = f"has {len(entry.transform.shape)} dimensions, GGUF has at most {MAX_DIMENSIONS}"
        raise ModelError(message(f"tensor '{entry.name}'", what, "This tensor cannot be converted"))


def _in_order(entries: Iterable[Entry], tensors: Mapping[str, SourceTensor]) -> list[Entry]:
    """Return generated tensors first, then each group where its last source is met."""
    generated = [entry for entry in entries if not any(entry.transform.sources())]
    position = {name: index for index, name in enumerate(tensors)}
    groups: dict[str, list[Entry]] = {}
    last: dict[str, int] = {}
    for entry in entries:
        if any(entry.transform.sources()):
            groups.setdefault(entry.group, []).append(entry)
            met = max(position[source.tensor] for source in entry.transform.sources())
            last[entry.group] = max(met, last.get(entry.group, -1))
    ordered = sorted(groups, key=lambda group: last[group])
    return generated + [entry for group in ordered for entry in groups[group]]


def _spec(entry: Entry, tensors: Mapping[str, SourceTensor]) -> TensorSpec:
    shape = entry.transform.shape
    if not math.prod(shape):
        raise ModelError(
            message(f"tensor '{entry.name}'", "has no elements", "Check the sizes in config.json")
        )
    transform = entry.transform.to_json(lambda name: tensors[name].to_json())
    store = store_of(entry.name, shape) if entry.f32 is None else "f32" if entry.f32 else "auto"
    store = "i32" if entry.i32 else "i64" if entry.i64 else "f16" if entry.f16 else store
    return TensorSpec(entry.name, shape, store, transform)


def _dims(shape: Sequence[int]) -> str:
    text = "x".join(str(size) for size in shape[:8]) + ("x..." if len(shape) > 8 else "")
    return text or "()"


def count(number: int, what: str) -> str:
    """Return a number with a noun: ``1 tensor`` or ``2 tensors``."""
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def some(names: Sequence[str]) -> str:
    """Return the first names of a list, quoted, for a message."""
    shown = ", ".join(repr(name if len(name) <= 120 else name[:117] + "...") for name in names[:_LISTED])
    return shown + (", ..." if len(names) > _LISTED else "")
