"""The projectors of multimodal models: the encoders of pictures and of sound and what maps their outputs to the text
model, which llama.cpp reads from a GGUF of its own (mmproj, architecture ``clip``).

A projector is a table of the same kind as a text family (`srd_rs.families.projectors.tables`). Its rows declare exactly
the tensors that the text half of the class leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Final

from srd_rs.checkpoint import OWN_FORMAT, Checkpoint, SourceTensor, flatten, text_part
from srd_rs.errors import ModelError, message
from srd_rs.families import names
from srd_rs.families.aliases import others_of, text_class
from srd_rs.families.base import ModelFacts, ModelSpec
from srd_rs.families.config import Config
from srd_rs.families.general import Size, write_general
from srd_rs.families.interpreter import TableFamily, members_of
from srd_rs.families.lora import merged
from srd_rs.families.projectors import tables
from srd_rs.families.quantized import plain
from srd_rs.families.table import TensorSpec
from srd_rs.families.tables import tables as text_tables
from srd_rs.metadata import Metadata
from srd_rs.reading import load_json

__all__ = ["describe", "has_projector", "own_types", "supported"]

_PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json")
"""The files that say how pictures are prepared. The later file counts first."""
_INNER: Final = ("media_proc_cfg", "image_processor")
_AUDIO: Final = (
    "audio_config",
    "whisper_config",
    "speech_config",
    "encoder_config",
    "sound_config",
    "encoder",
)
"""The parts of config.json that may configure the encoder of sound."""
_F32_UNLESS_F16: Final = (".patch_embd.weight", ".patch_merger.weight")
_CONVOLUTIONS: Final = ("a.conv1d.", "a.conv2d.")
"""llama.cpp reads these tensors in F16 or F32 only."""
_SECOND_PATCH: Final = ".patch_embd.weight.1"
"""The second half of a convolution over two frames."""


class ProjectorFamily(TableFamily):
    """A projector whose rows and metadata stand in a table. The names of its expressions are the keys of
    ``vision_config``, or in a model that only hears those of ``audio_config``; ``audio`` is the configuration of the
    encoder of sound, ``text`` that of the text model, ``whole`` all of config.json, and ``preprocessor`` says how
    pictures are prepared."""

    def __init__(self, checkpoint: Checkpoint, class_name: str) -> None:
        super().__init__(checkpoint, class_name)
        whole = checkpoint.config
        vision, audio = _encoders(whole)
        values: dict[str, Any] = dict(vision or audio or {})
        values |= {"text": _text(whole), "whole": whole, "audio": audio}
        values["preprocessor"] = self._preprocessor()
        self.config = Config(values, self.defaults, self.file)

    def _preprocessor(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in _PROCESSORS:
            path = self.checkpoint.folder / name
            if path.is_file():
                stated = load_json(path)
                found |= stated
                for key in _INNER:
                    if isinstance(stated.get(key), dict):
                        found |= stated[key]
        return found

    @cached_property
    def text_tensors(self) -> dict[str, SourceTensor]:
        """The tensors of the projector by canonical name: those that the text half leaves out as another modality's."""
        short, _ = names.unwrapped(self.checkpoint.tensors)
        own = {name: shorter for name, shorter in short.items() if self._own(shorter)}

        def why_not(name: str) -> str | None:
            why = self.left_out(name)
            return None if why == names.OTHER_MODALITY else why

        kept, dropped = self.sorted_out(own, why_not)
        self.note_dropped("left out of the projector", dropped)
        return kept

    def _own(self, name: str) -> bool:
        """Say whether a tensor is the projector's, by the rule for all models or by `FamilyTable.keep`."""
        others = others_of(self.checkpoint.config)
        return (_of_other_modality(name, others) or self.keeps(name)) and self.left_out(name) != names.TEXT

    def describe(self, name: str | None, kind: str = "F16") -> ModelSpec:
        self.checkpoint = merged(plain(self.checkpoint, self.config), self.checkpoint.adapters)
        self.check()
        present = self.text_tensors
        table = self.table(present)
        table.check(present, self.checkpoint.folder)
        specs = table.resolve(present, self.checkpoint.folder)
        specs = [_stored(spec, kind) for spec in specs]
        metadata = Metadata()
        metadata.string("general.architecture", self.arch)
        size = Size.of((spec.name, spec.shape) for spec in specs)
        folder, stem = self.checkpoint.folder, self.checkpoint.stem
        write_general(metadata, folder, stem, self.checkpoint.config, None, size, name)
        metadata.string("general.type", "mmproj")
        self.write_metadata(metadata)
        if metadata.get("clip.has_vision_encoder") and metadata.get("clip.vision.image_mean") is None:
            what = "image_mean of preprocessor_config.json is missing"
            raise ModelError(
                message(self.checkpoint.folder, what, "Download preprocessor_config.json as well")
            )
        facts = ModelFacts(self.arch, self.n_layer, 0, self.n_head, self.n_head, False)
        return ModelSpec(self.arch, metadata, specs, facts, self.vocabulary)

    def write_metadata(self, metadata: Metadata) -> None:
        for key, (kind, expression) in self._lines().items():
            self._write_line(metadata, key, kind, expression)


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the text model. A text part may leave out its width, if that is the width by default
    of the class of the text model."""
    part = text_part(config)
    found = {**flatten(config), **part}
    if found.get("hidden_size") is None:
        classes = part.get("architectures") or config.get("architectures")
        name = classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else ""
        stands_for = text_class(name, config)
        defaults = next((table.defaults for table in text_tables() if stands_for in table.classes), {})
        found["hidden_size"] = found.get("n_embd") or defaults.get("hidden_size")
    return found


def _encoders(config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the configurations of the encoders of pictures and of sound."""
    thinker = config.get("thinker_config")
    parts = {**config, **thinker} if isinstance(thinker, dict) else config
    vision, *audio = (
        part if isinstance(part, dict) else None for part in map(parts.get, ("vision_config", *_AUDIO))
    )
    own = config.get("vision_encoder")
    if config.get("architectures") == [OWN_FORMAT] and isinstance(own, dict):
        vision = own
    if vision is None and config.get("vision_n_layers"):
        vision = dict(config)  # DeepSeek V4 has no part of its own for the encoder
    return vision, next((part for part in audio if part is not None), None)


def _of_other_modality(name: str, others: Sequence[str]) -> bool:
    """Say whether the text half leaves a tensor out as another modality's."""
    return names.left_out(name, others) == names.OTHER_MODALITY


def _stored(spec: TensorSpec, kind: str) -> TensorSpec:
    """Return the tensor as llama.cpp reads it: patches, their mergers and convolutions in F16 or F32 only,
    whatever `kind` is."""
    store = spec.store
    if store == "f16":
        return spec
    if spec.name.endswith(_SECOND_PATCH):
        store = "auto"
    patch = spec.name.endswith((*_F32_UNLESS_F16, _SECOND_PATCH)) or len(spec.shape) == 4
    if kind != "F16" and (patch or spec.name.startswith(_CONVOLUTIONS)):
        store = "f32"
    return TensorSpec(spec.name, spec.shape, store, spec.transform)


def own_types(spec: ModelSpec, kind: str) -> list[str]:
    """Return the types of the tensors whose type does not follow from `kind`, as `tensor_types` has them. A mix of
    blocks would give a type of its own to matrices that a table keeps in F32."""
    kept = {"f16": "F16", "f32": "F32"} if kind == "Q8_0" else {"f16": "F16"}
    stores = ((tensor, kept.get(tensor.store)) for tensor in spec.tensors if len(tensor.shape) > 1)
    return [f"^{re.escape(tensor.name)}$={own}" for tensor, own in stores if own is not None]


@cache
def _families() -> Mapping[str, type[ProjectorFamily]]:
    made: dict[int, type[ProjectorFamily]] = {}
    for table in tables.projectors().values():
        if id(table) not in made:
            made[id(table)] = type("projector", (ProjectorFamily,), members_of(table))
    return {name: made[id(table)] for name, table in tables.projectors().items()}


@cache
def _families_by_encoder() -> Mapping[tuple[str, str], type[ProjectorFamily]]:
    return {
        key: type("projector", (ProjectorFamily,), members_of(table))
        for key, table in tables.by_encoder().items()
    }


def supported() -> list[str]:
    """Return the names of the classes whose projectors are written."""
    return sorted({*_families(), *(name for name, _ in _families_by_encoder())})


def _class_of(checkpoint: Checkpoint) -> str | None:
    """Return the class that decides about the projector: that of the encoder of pictures, such as InternVisionModel,
    where it is known, else that of the whole model."""
    encoder, whole = map(_class_named, (checkpoint.config.get("vision_config"), checkpoint.config))
    return encoder if encoder in _families() else whole


def _class_named(part: Any) -> str | None:
    stated = part.get("architectures") if isinstance(part, dict) else None
    return stated[0] if isinstance(stated, list) and stated and isinstance(stated[0], str) else None


def _family_of(checkpoint: Checkpoint) -> tuple[type[ProjectorFamily] | None, str]:
    """Return what reads the projector of a checkpoint, and the class that decides about the projector."""
    found, (vision, audio) = _class_of(checkpoint) or "", _encoders(checkpoint.config)
    encoder = vision or audio
    if encoder is None:
        return None, found
    kind = encoder.get("model_type")
    if isinstance(kind, str) and (found, kind) in _families_by_encoder():
        return _families_by_encoder()[found, kind], found
    fits = tables.only_with().get(found) in (None, kind)
    return (_families().get(found) if fits else None), found


def has_projector(checkpoint: Checkpoint) -> bool:
    """Say whether the checkpoint has a projector that can be written. A text model saved without it has none."""
    others = others_of(checkpoint.config)
    known = _family_of(checkpoint)[0] is not None
    return known and any(_of_other_modality(name, others) for name in checkpoint.tensors)


def describe(checkpoint: Checkpoint, *, name: str | None = None, kind: str = "F16") -> ModelSpec:
    """Return the GGUF metadata and the tensors of the projector of a checkpoint, for matrices of the type `kind`.

    Raises ModelError if the class has no projector, or if the configuration and the tensors do not fit each other.
    """
    family, found = _family_of(checkpoint)
    if family is None or not has_projector(checkpoint):
        what = "this model has no projector that can be written"
        raise ModelError(message(checkpoint.folder, what, "srd-rs models lists the classes that have one"))
    return family(checkpoint, found).describe(name, kind)
