"""This module opens a Hugging Face checkpoint folder: its configuration and the list of its tensors. No weight is
read here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srd_rs.errors import FormatError, ModelError, message
from srd_rs.reading import MAX_POINTER_BYTES, load_json, read_limited, shown

_TEXT_PARTS: Final = ("text_config", "llm_config", "language_config")


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a multimodal config.json that configures the text model; empty in a plain text model."""
    parts = (config.get(name) for name in _TEXT_PARTS)
    return next((part for part in parts if isinstance(part, dict)), {})


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top level of config.json with the text part over it. A value of null counts as absent."""
    merged = (*config.items(), *text_part(config).items())
    return {key: value for key, value in merged if value is not None}


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the checkpoint has the name of a safetensors dtype (``"BF16"``), a row-major shape, and the file
    that holds the tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str


@dataclass
class Checkpoint:
    """A checkpoint is an open model folder. `tensors` is in file order, shard by shard."""

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any] | None = None
    tensors: dict[str, SourceTensor] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Read config.json, generation_config.json and the shard headers of `folder`.

        Raises SrdIOError if a file cannot be read, FormatError if one breaks its format. A broken
        generation_config.json is passed over: it only holds advice, and published ones are not always valid.
        """
        from srd_rs import _core

        folder = Path(folder)
        _refuse_adapter(folder)
        _refuse_pointers(folder)
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
        return cls(folder, config, generation_config, tensors)


def _refuse_adapter(folder: Path) -> None:
    """Refuse a folder that holds a LoRA adapter and no weights of a model."""
    file = folder / "adapter_config.json"
    weights = [path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")]
    if not file.is_file() or weights:
        return
    base = load_json(file).get("base_model_name_or_path")
    of = f" for {shown(base)}" if isinstance(base, str) else ""
    fix = "Merge the adapter into its base model (peft: merge_and_unload), save the result, and convert that folder"
    raise ModelError(message(folder, f"this is a LoRA adapter{of}, not a model", fix))


def _refuse_pointers(folder: Path) -> None:
    """Refuse weights that are Git LFS pointers: small text files in place of files that were not downloaded."""
    for path in sorted(folder.glob("*.safetensors")):
        if path.is_file() and path.stat().st_size <= MAX_POINTER_BYTES:
            read_limited(path)
