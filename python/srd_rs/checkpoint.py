"""This module opens a Hugging Face checkpoint folder: its configuration and the list of its tensors. Of the
tensors, only settings are read here: those that hold one number."""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, pickled
from srd_rs.errors import FormatError, message
from srd_rs.reading import load_json, parse_json, read_limited

_TEXT_PARTS: Final = (
    "text_config",
    "llm_config",
    "language_config",
    "lm_config",
    "lfm",
    "thinker_config",
    "transformer_layer_config",
)


log = logging.getLogger("srd_rs.checkpoint")

_NUMBERED: Final = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
"""The names that transformers gives to the weights of a model."""

OWN_FORMAT: Final = "MistralOwnFormat"
"""Stands for the class of a model in Mistral's own format: params.json and consolidated.safetensors."""

MAX_TENSORS: Final = 1 << 16
"""A model whose tensors are not listed has at most this many."""

_PLACES: Final = 16
_LOOKED_AT: Final = 1 << 14
"""Two large tensors are compared at so many places, so many bytes at each."""

MAX_INTEGERS: Final = 1 << 19
"""A tensor of integers that becomes metadata, or a table of tokens, has at most this many bytes."""


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a multimodal config.json that configures the text model; empty in a plain text model. In
    models that speak, the part of the thinker has a text part of its own."""
    parts = (config.get(name) for name in _TEXT_PARTS)
    part = next((part for part in parts if isinstance(part, dict)), {})
    inner = part.get("text_config")
    return inner if isinstance(inner, dict) else part


def modules_of(folder: Path) -> list[tuple[str, str]]:
    """Return the class and the folder of each module of a sentence-transformers model, as modules.json names them. The
    class of a module without one is empty.

    Raises SrdIOError or FormatError for a file that cannot be read.
    """
    file = folder / "modules.json"
    modules = parse_json(read_limited(file), file)
    listed = [module for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []
    pairs = [(module.get("type"), module.get("path")) for module in listed]
    return [(kind if isinstance(kind, str) else "", path) for kind, path in pairs if isinstance(path, str)]


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top level of config.json with the text part over it. A value of null counts as absent."""
    merged = (*config.items(), *text_part(config).items())
    return {key: value for key, value in merged if value is not None}


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the checkpoint has the name of a safetensors dtype (``"BF16"``), a row-major shape, and the file
    that holds the tensor, with the offset and the number of its bytes there. A weight that is decoded from codes has
    the transform that decodes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    decoded: Mapping[str, Any] | None = None
    offset: int = 0
    nbytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the leaf of a transform that reads the tensor."""
        return {"op": "source", "tensor": self.name} if self.decoded is None else dict(self.decoded)


def layout(path: Path, remote: _core.RemoteFiles | None = None) -> list[SourceTensor]:
    """Return the tensors of a model folder or of a safetensors file, in file order. The weight files are `remote` where
    they are given.

    Raises SrdIOError if a file cannot be read, FormatError if a file breaks its format, ModelError if there is no
    model.
    """
    if remote is None and path.is_dir() and pickled.is_pickled(path):
        return [
            SourceTensor(t.name, t.dtype, t.shape, t.file, offset=t.offset, nbytes=t.nbytes)
            for t in pickled.listed(path)
        ]
    return [
        SourceTensor(name, dtype, tuple(shape), shard, offset=offset, nbytes=nbytes)
        for name, dtype, shape, shard, offset, nbytes in _core.read_checkpoint_layout(path, remote)
    ]


@dataclass
class Checkpoint:
    """A checkpoint is an open model folder. `tensors` is in file order, shard by shard."""

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any] | None = None
    tensors: dict[str, SourceTensor] = field(default_factory=dict)
    hub_name: str | None = None
    pickled: bool = False
    """Whether the weights are PyTorch pickles."""
    adapters: tuple[Path, ...] = ()
    """Folders of LoRA adapters that are merged into the weights."""
    target: Checkpoint | None = None
    """The model that a draft drafts tokens for, of which the configuration and the tokenizer are read."""
    remote: _core.RemoteFiles | None = None
    """The weight files, if they are not in the folder."""
    complete: bool = True
    """Whether all tensors are listed. Of the base of a GGUF adapter, only those that the adapter changes may be."""

    @property
    def stem(self) -> str:
        """What the model is called: a snapshot of the hub lies in a folder named by its commit."""
        return self.hub_name or self.folder.resolve().name

    @property
    def most_tensors(self) -> int:
        """What counts of config.json are held against before anything is done so many times."""
        return len(self.tensors) if self.complete else MAX_TENSORS

    @classmethod
    def open(
        cls,
        folder: str | Path,
        hub_name: str | None = None,
        remote: _core.RemoteFiles | None = None,
        *,
        bare: bool = False,
        beside: Collection[str] = (),
    ) -> Checkpoint:
        """Read config.json, generation_config.json and the shard headers of `folder`. With `bare`, there may be no
        weights. `beside` are the names of the files of a model that is not a folder of the user's own.

        Raises SrdIOError if a file cannot be read, FormatError if one breaks its format. A broken
        generation_config.json is passed over: it only holds advice, and published ones are not always valid.
        """
        folder = Path(folder)
        config = _configuration(folder)
        generation = folder / "generation_config.json"
        generation_config = None
        if generation.is_file():
            with suppress(FormatError):
                generation_config = load_json(generation)
        if bare and not pickled.is_pickled(folder) and not any(folder.glob("*.safetensors")):
            return cls(folder, config, generation_config, hub_name=hub_name, complete=False)
        tensors = {tensor.name: tensor for tensor in layout(folder, remote)}
        _note_unread(folder, {tensor.shard for tensor in tensors.values()}, beside)
        is_pickled = remote is None and pickled.is_pickled(folder)
        return cls(folder, config, generation_config, tensors, hub_name, is_pickled, remote=remote)

    @property
    def config_file(self) -> Path:
        """The file that the configuration is from."""
        own = self.config.get("architectures") == [OWN_FORMAT]
        return self.folder / ("params.json" if own else "config.json")

    def number_in(self, tensor: SourceTensor) -> float:
        """Return the number of a tensor that holds one number. Raises FormatError."""
        number = number_of(tensor.dtype, self._bytes_of(tensor))
        if number is None or not math.isfinite(number):
            what = f"tensor '{tensor.name}' ({tensor.dtype}) does not hold one finite number"
            raise FormatError(message(self.folder / tensor.shard, what, "Download the checkpoint again"))
        return number

    def integers_in(self, tensor: SourceTensor) -> list[int]:
        """Return the values of a small tensor of integers. Raises FormatError."""
        code = {"I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B"}.get(tensor.dtype)
        if code is None or tensor.nbytes > MAX_INTEGERS:
            what = f"tensor '{tensor.name}' ({tensor.dtype}) is no small tensor of integers"
            raise FormatError(message(self.folder / tensor.shard, what, "Download the checkpoint again"))
        return [value for (value,) in struct.iter_unpack(f"<{code}", self._bytes_of(tensor))]

    def _bytes_of(self, tensor: SourceTensor) -> bytes:
        """Return the bytes of a small tensor."""
        if not self.pickled:
            return self.small([tensor.name], max(tensor.nbytes, 1))[tensor.name]
        with (self.folder / tensor.shard).open("rb") as file:
            file.seek(tensor.offset)
            return file.read(tensor.nbytes)

    def differ(self, first: SourceTensor, second: SourceTensor) -> bool:
        """Say whether two tensors of one type and shape have other bytes at some places that are looked at. Of files
        that are not in the folder, and of tensors that are stored in another way, nothing is known."""
        same_kind = (first.dtype, first.shape, first.nbytes) == (second.dtype, second.shape, second.nbytes)
        paths = [self.folder / tensor.shard for tensor in (first, second)]
        if self.remote is not None or not same_kind or not all(path.is_file() for path in paths):
            return False
        places = {first.nbytes * index // _PLACES for index in range(_PLACES)}
        with paths[0].open("rb") as one, paths[1].open("rb") as other:
            for place in sorted(places):
                length = min(_LOOKED_AT, first.nbytes - place)
                one.seek(first.offset + place)
                other.seek(second.offset + place)
                if one.read(length) != other.read(length):
                    return True
        return False

    def small(self, names: Sequence[str], most: int) -> dict[str, bytes]:
        """Return the bytes of small tensors by name. A tensor of more than `most` bytes is refused."""
        return _core.read_small_tensors(self.folder, names, most, self.remote)


def has_usual_name(name: str) -> bool:
    """Whether a file of weights has a name that transformers gives."""
    return _NUMBERED.fullmatch(name) is not None


def _note_unread(folder: Path, read: Collection[str], beside: Collection[str]) -> None:
    """Warn of files of weights that lie beside those of the model: an earlier save may have left them behind, or a
    training. Second copies and adapters beside weights with usual names are in many published models, and are not
    named."""
    found = {path.name for path in folder.glob("*.safetensors")} | {n for n in beside if "/" not in n}
    weights = (n for n in found if n.endswith(".safetensors") and not n.startswith("."))
    free = all(name.endswith(".safetensors") and not has_usual_name(name) for name in read)
    unread = sorted(name for name in weights if name not in read and (free or has_usual_name(name)))
    if unread and read:
        what = "%s: the weights are read from %s; %d other files are not read: %s"
        listed = ", ".join(unread[:3]) + (", ..." if len(unread) > 3 else "")
        log.warning(what, folder, ", ".join(sorted(read)[:3]), len(unread), listed)


def _configuration(folder: Path) -> dict[str, Any]:
    """Return what config.json says. A folder in Mistral's own format has params.json instead, which names no class."""
    own = folder / "params.json"
    if own.is_file() and not (folder / "config.json").exists():
        return {**load_json(own), "architectures": [OWN_FORMAT]}
    return load_json(folder / "config.json")


def number_of(dtype: str, data: bytes) -> float | None:
    """Return the number that the bytes hold; None if they are not one number of a plain type."""
    if dtype == "BF16" and len(data) == 2:
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    form = {"F16": "<e", "F32": "<f", "F64": "<d"}.get(dtype)
    return float(struct.unpack(form, data)[0]) if form and len(data) == struct.calcsize(form) else None
