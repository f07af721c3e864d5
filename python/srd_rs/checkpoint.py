"""This module opens a Hugging Face checkpoint folder: its configuration and the list of its tensors. No weight is
read here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srd_rs import _core
from srd_rs.errors import FormatError
from srd_rs.reading import load_json

_TEXT_PARTS: Final = ("text_config", "llm_config", "language_config", "lm_config", "lfm", "thinker_config")


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
        generation = folder / "generation_config.json"
        generation_config = None
        if generation.is_file():
            with suppress(FormatError):
                generation_config = load_json(generation)
        listed = _core.read_checkpoint(str(folder))
        tensors = {
            name: SourceTensor(name, dtype, tuple(shape), shard) for name, dtype, shape, shard in listed
        }
        return cls(folder, config, generation_config, tensors, hub_name)
