"""This module opens a Hugging Face checkpoint folder: its configuration and the list of its tensors. Of the
tensors, only settings are read here: those that hold one number."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, pickled
from srd_rs.errors import FormatError, message
from srd_rs.reading import load_json

_TEXT_PARTS: Final = ("text_config", "llm_config", "language_config", "lm_config", "lfm", "thinker_config")


MAX_INTEGERS: Final = 1 << 16
"""A tensor of integers that becomes metadata has at most this many bytes."""


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a multimodal config.json that configures the text model; empty in a plain text model. In
    models that speak, the part of the thinker has a text part of its own."""
    parts = (config.get(name) for name in _TEXT_PARTS)
    part = next((part for part in parts if isinstance(part, dict)), {})
    inner = part.get("text_config")
    return inner if isinstance(inner, dict) else part


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top level of config.json with the text part over it. A value of null counts as absent."""
    merged = (*config.items(), *text_part(config).items())
    return {key: value for key, value in merged if value is not None}


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the checkpoint has the name of a safetensors dtype (``"BF16"``), a row-major shape, and the file
    that holds the tensor. A weight that is decoded from codes has the transform that decodes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    decoded: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the leaf of a transform that reads the tensor."""
        return {"op": "source", "tensor": self.name} if self.decoded is None else dict(self.decoded)


@dataclass
class Checkpoint:
    """A checkpoint is an open model folder. `tensors` is in file order, shard by shard."""

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any] | None = None
    tensors: dict[str, SourceTensor] = field(default_factory=dict)
    hub_name: str | None = None
    pickles: list[pickled.Listed] | None = None
    """Where the tensors lie, if the weights are PyTorch pickles."""

    @property
    def stem(self) -> str:
        """What the model is called: a snapshot of the hub lies in a folder named by its commit."""
        return self.hub_name or self.folder.resolve().name

    @classmethod
    def open(cls, folder: str | Path, hub_name: str | None = None) -> Checkpoint:
        """Read config.json, generation_config.json and the shard headers of `folder`.

        Raises SrdIOError if a file cannot be read, FormatError if one breaks its format. A broken
        generation_config.json is passed over: it only holds advice, and published ones are not always valid.
        """
        folder = Path(folder)
        config = load_json(folder / "config.json")
        pickles = pickled.listed(folder) if pickled.is_pickled(folder) else None
        generation = folder / "generation_config.json"
        generation_config = None
        if generation.is_file():
            with suppress(FormatError):
                generation_config = load_json(generation)
        if pickles is not None:
            listed = [(t.name, t.dtype, t.shape, t.file) for t in pickles]
        else:
            listed = _core.read_checkpoint(str(folder))
        tensors = {
            name: SourceTensor(name, dtype, tuple(shape), shard) for name, dtype, shape, shard in listed
        }
        return cls(folder, config, generation_config, tensors, hub_name, pickles)

    def number_in(self, tensor: SourceTensor) -> float:
        """Return the number of a tensor that holds one number. Raises FormatError."""
        shard, offset, size = self._places[tensor.name]
        path = self.folder / shard
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        number = _decoded(tensor.dtype, data)
        if number is None or not math.isfinite(number):
            what = f"tensor '{tensor.name}' ({tensor.dtype}) does not hold one finite number"
            raise FormatError(message(path, what, "Download the checkpoint again"))
        return number

    def integers_in(self, tensor: SourceTensor) -> list[int]:
        """Return the values of a small tensor of integers. Raises FormatError."""
        code = {"I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B"}.get(tensor.dtype)
        shard, offset, size = self._places[tensor.name]
        path = self.folder / shard
        if code is None or size > MAX_INTEGERS:
            what = f"tensor '{tensor.name}' ({tensor.dtype}) is no small tensor of integers"
            raise FormatError(message(path, what, "Download the checkpoint again"))
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        return [value for (value,) in struct.iter_unpack(f"<{code}", data)]

    @cached_property
    def _places(self) -> dict[str, tuple[str, int, int]]:
        """Where the bytes of each tensor are: shard, offset and size."""
        if self.pickles is not None:
            places = {t.name: (t.file, t.offset, self.tensors[t.name].dtype) for t in self.pickles}
            sizes = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
            return {
                name: (file, offset, sizes.get(dtype, 1)) for name, (file, offset, dtype) in places.items()
            }
        layout = _core.read_checkpoint_layout(str(self.folder))
        return {name: (shard, offset, size) for name, _, _, shard, offset, size in layout}


def _decoded(dtype: str, data: bytes) -> float | None:
    """Return the number that the bytes hold; None if they are not one number of a plain type."""
    if dtype == "BF16" and len(data) == 2:
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    form = {"F16": "<e", "F32": "<f", "F64": "<d"}.get(dtype)
    return float(struct.unpack(form, data)[0]) if form and len(data) == struct.calcsize(form) else None
