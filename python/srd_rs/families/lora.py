"""LoRA adapters of PEFT, merged into the weights of their base model while these are read.

An adapter folder has ``adapter_config.json`` and ``adapter_model.safetensors``. `merged` gives every weight that the
adapter changes a transform which adds the update, ``W + scale * up * down``; the core computes it in f32 while the
weights stream (``src/model/lowrank.rs``). Tensors that were trained whole (``modules_to_save``, biases) replace those
of the base model. What is not known is refused, because a part of a fine-tune that is left out makes a wrong model.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from srd_rs.checkpoint import Checkpoint, SourceTensor, layout
from srd_rs.errors import ModelError, message, not_found
from srd_rs.families.schema import checked_pattern
from srd_rs.reading import load_json, shown

log = logging.getLogger("srd_rs.families")

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_MERGE: Final = "Merge it with PEFT (merge_and_unload, then save_pretrained), and convert the result"
_OTHER_BASE: Final = ("pissa", "olora", "corda", "loftq")
"""Ways of initializing an adapter that change the weights of the base model too."""
_PREFIXES: Final = ("base_model.model.", "base_model.")
_MAX_PATTERNS: Final = 4096
_MAX_PATTERN: Final = 256
_MAX_REPETITIONS: Final = 3
_TRAINED_WHOLE: Final = (".modules_to_save.default.", ".modules_to_save.")

Json = dict[str, Any]


@dataclass(frozen=True)
class Adapter:
    """An open adapter. `number` is its place among the adapters of the conversion."""

    folder: Path
    number: int
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]

    def error(self, what: str, fix: str = _MERGE) -> ModelError:
        return ModelError(message(self.folder, what, fix))

    def source(self, name: str) -> Json:
        """The leaf that reads a tensor of the adapter, under the name that the core gives it."""
        return {"op": "source", "tensor": f"adapter {self.number}: {name}"}


def files(folders: Iterable[Path]) -> list[Path]:
    """Return the files of adapters that a conversion reads."""
    return [folder / name for folder in folders for name in (CONFIG, WEIGHTS)]


def merged(checkpoint: Checkpoint, folders: Iterable[Path]) -> Checkpoint:
    """Return the checkpoint with the adapters merged into its weights, one after another.

    Raises ModelError if an adapter is of a kind that is not known, or if it does not fit the model.
    """
    for number, folder in enumerate(folders):
        adapter = opened(folder, number)
        if adapter.config.get("alora_invocation_tokens"):
            what = "the adapter acts only behind certain tokens (aLoRA), which no merged weight can do"
            raise adapter.error(what, "Write a GGUF adapter with srd-rs lora")
        checkpoint = _merged(checkpoint, adapter)
    return checkpoint


def check_folder(folder: Path) -> None:
    """Raise SrdFileNotFoundError or ModelError where a folder is not one that PEFT wrote."""
    if not folder.exists():
        raise not_found(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        what = f"this is no LoRA adapter in safetensors: {CONFIG} and {WEIGHTS} are expected"
        fix = "Name the folder that PEFT wrote, with the weights as safetensors"
        raise ModelError(message(folder, what, fix))


def opened(folder: Path, number: int = 0) -> Adapter:
    """Return the adapter in a folder. Raises ModelError if there is none, or if its kind is not known."""
    check_folder(folder)
    config = load_json(folder / CONFIG)
    adapter = Adapter(folder, number, config, {tensor.name: tensor for tensor in layout(folder / WEIGHTS)})
    _check_kind(adapter)
    return adapter


def _check_kind(adapter: Adapter) -> None:
    """Refuse what changes the model in another way than by updates of low rank and by whole tensors."""
    config = adapter.config
    if config.get("peft_type") != "LORA":
        raise adapter.error(f"the adapter is of the kind {shown(config.get('peft_type'))}, LORA is known")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OTHER_BASE):
        raise adapter.error(
            f"the adapter was initialized by {shown(start)}, which changed its base model too"
        )
    for key in (
        "layer_replication", "target_parameters", "trainable_token_indices", "use_qalora", "arrow_config",
        "monteclora_config", "megatron_config",
    ):  # fmt: skip
        if config.get(key):
            raise adapter.error(f"the adapter uses {key}, which is not known here")


_HEAD: Final = "lm_head.weight"


def _merged(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    checkpoint = _with_head(checkpoint, adapter)
    weights = dict(checkpoint.tensors)
    names = Names(weights)
    pairs = list(filter(None, map(pair_of, adapter.tensors)))
    # A layer of tokens may be there whole, and its update beside it: the update comes on top.
    for name, tensor in adapter.tensors.items():
        if ".lora_" in name:
            continue
        whole = name
        for part in _TRAINED_WHOLE:
            whole = whole.replace(part, ".")
        target = weights[names.find(adapter, whole)]
        if target.shape != tensor.shape:
            what = f"'{name}' has shape {shown(tensor.shape)}, '{target.name}' of the base model {shown(target.shape)}"
            raise adapter.error(what)
        weights[target.name] = replace(target, dtype=tensor.dtype, decoded=adapter.source(name))
    left = {name: tensor for name, tensor in adapter.tensors.items() if ".lora_" in name}
    for module, down_name, up_name, embedded in pairs:
        if up_name not in left:
            raise adapter.error(f"'{down_name}' has no counterpart '{up_name}'", "Download the adapter again")
        down, up = left.pop(down_name), left.pop(up_name)
        ends = (f"{module}.lora_magnitude_vector{end}" for end in ("", ".weight", ".default.weight"))
        magnitude = next((left.pop(end) for end in ends if end in left), None)
        target = weights[names.find(adapter, f"{module}.weight")]
        weights[target.name] = _updated(adapter, module, target, (down, up), embedded, magnitude)
    if left:
        raise adapter.error(f"tensor '{next(iter(left))}' belongs to no update that is known here")
    if not adapter.tensors:
        raise adapter.error("the adapter changes no weight", "Download the adapter again")
    log.warning("%s: the adapter is merged: %d tensors", adapter.folder, len(pairs))
    return replace(checkpoint, tensors=weights)


def _with_head(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return the checkpoint with the output matrix that an adapter holds whole (modules_to_save), where the base model
    is tied and has none. The adapter was trained with a matrix of its own, so the model is tied no more."""
    wholes = (name for name in adapter.tensors if ".lora_" not in name and _end(name) == _end(_HEAD))
    name = next(wholes, None)
    if name is None or any(_end(other) == _end(_HEAD) for other in checkpoint.tensors):
        return checkpoint
    stored = adapter.tensors[name]
    head = SourceTensor(_HEAD, stored.dtype, stored.shape, stored.shard, adapter.source(name))
    config = {**checkpoint.config, "tie_word_embeddings": False}
    for key, part in checkpoint.config.items():
        if isinstance(part, dict) and "tie_word_embeddings" in part:
            config[key] = {**part, "tie_word_embeddings": False}
    return replace(checkpoint, config=config, tensors={**checkpoint.tensors, _HEAD: head})


def pair_of(name: str) -> tuple[str, str, str, bool] | None:
    """Return for the first matrix of an update: the module, the names of both matrices, and whether it is an
    embedding."""
    for first, second, embedded in (
        (".lora_A.weight", ".lora_B.weight", False),
        (".lora_A.default.weight", ".lora_B.default.weight", False),
        (".lora_embedding_A", ".lora_embedding_B", True),
        (".lora_embedding_A.default", ".lora_embedding_B.default", True),
    ):
        if name.endswith(first):
            module = name.removesuffix(first)
            return module, name, module + second, embedded
    return None


def _updated(
    adapter: Adapter,
    module: str,
    target: SourceTensor,
    pair: tuple[SourceTensor, SourceTensor],
    embedded: bool,
    magnitude: SourceTensor | None,
) -> SourceTensor:
    """Return a weight with an update. The matrices of an embedding, and those of a weight whose rows are inputs, are
    turned."""
    down, up = pair
    if len(down.shape) != 2 or len(up.shape) != 2 or len(target.shape) != 2 or down.shape[0] != up.shape[1]:
        what = (
            f"'{down.name}' {shown(down.shape)} and '{up.name}' {shown(up.shape)} are no update of low rank"
        )
        raise adapter.error(what)
    turned = embedded or bool(adapter.config.get("fan_in_fan_out"))
    shape = (up.shape[0], down.shape[1])
    if target.shape != (shape[::-1] if turned else shape):
        what = f"'{down.name}' updates a matrix {shown(shape)}, but '{target.name}' has shape {shown(target.shape)}"
        raise adapter.error(what, "Use the base model that the adapter was trained on")
    if magnitude is not None and (turned or math.prod(magnitude.shape) != shape[0]):
        raise adapter.error(f"'{magnitude.name}' (DoRA) does not fit '{target.name}'")
    if magnitude is None and adapter.config.get("use_dora"):
        raise adapter.error(f"'{module}' has no magnitudes, which DoRA needs", "Download the adapter again")
    first, second = adapter.source(up.name), adapter.source(down.name)
    if turned:
        first, second = {"op": "transpose", "of": second}, {"op": "transpose", "of": first}
    leaf = {
        "op": "merge",
        "of": target.to_json(),
        "up": first,
        "down": second,
        "scale": _scale(adapter, module, down.shape[0]),
    }
    if magnitude is not None:
        leaf["magnitude"] = {"op": "reshape", "of": adapter.source(magnitude.name), "shape": [shape[0]]}
    return replace(target, dtype="F32", decoded=leaf)


def _scale(adapter: Adapter, module: str, rank: int) -> float:
    """Return the factor of an update."""
    alpha, root = _alpha_and_root(adapter, module, rank)
    return alpha / root


def alpha_of(adapter: Adapter, module: str, rank: int) -> float:
    """Return the factor of an update times its rank."""
    alpha, root = _alpha_and_root(adapter, module, rank)
    return alpha if root == rank else alpha * root


def _alpha_and_root(adapter: Adapter, module: str, rank: int) -> tuple[float, float]:
    """Return alpha of a module, and what alpha is divided by: the rank, or its root in a rank-stabilized adapter."""
    config = adapter.config
    alpha = _of_module(adapter, "alpha_pattern", module, config.get("lora_alpha", 8))
    stated = _of_module(adapter, "rank_pattern", module, config.get("r", 8))
    for key, value in (("lora_alpha", alpha), ("r", stated)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise adapter.error(f"{key} is {shown(value)}, a number is expected", f"Correct {CONFIG}")
    if stated != rank:
        what = f"the rank of '{module}' is {rank}, {CONFIG} says {shown(stated)}"
        raise adapter.error(what, f"Correct {CONFIG}, or download the adapter again")
    return float(alpha), math.sqrt(rank) if config.get("use_rslora") else rank


def _of_module(adapter: Adapter, key: str, module: str, default: Any) -> Any:
    """Return the value of the first pattern that a module ends in."""
    patterns = adapter.config.get(key) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERNS:
        raise adapter.error(f"{key} is no map from names to numbers", f"Correct {CONFIG}")
    name = without_prefix(module)
    for pattern, value in patterns.items():
        repetitions = sum(map(pattern.count, "*+{"))
        try:
            if len(pattern) > _MAX_PATTERN or repetitions > _MAX_REPETITIONS:
                raise ValueError("it is too long or repeats too much")
            checked_pattern(pattern)
            found = re.match(rf"(.*\.)?({pattern})$", name[:1024])
        except (ValueError, re.error) as error:
            raise adapter.error(
                f"{key}: {shown(pattern)} is not used: {error}", f"Correct {CONFIG}"
            ) from None
        if found:
            return value
    return default


def without_prefix(name: str) -> str:
    """Return the name of a module without what PEFT puts before it."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


class Names:
    """Names of modules, as transformers loads them, to the names of the files."""

    def __init__(self, weights: Mapping[str, SourceTensor]) -> None:
        self._exact = set(weights)
        self._ends: dict[str, list[str]] = {}
        for name in weights:
            self._ends.setdefault(_end(name), []).append(name)

    def find(self, adapter: Adapter, name: str) -> str:
        """Return the tensor of the base model that a name of the adapter means. The files may have another prefix
        before the layers than the model in memory."""
        plain = without_prefix(name).replace(".base_layer.", ".")
        if plain in self._exact:
            return plain
        found = self._ends.get(_end(plain), [])
        if len(found) == 1:
            return found[0]
        which = f"several tensors that it may mean ({found[0]}, {found[1]})" if found else "no such tensor"
        what = f"'{name}' of the adapter changes '{plain}', but the base model has {which}"
        raise adapter.error(what, "Use the base model that the adapter was trained on, or merge with PEFT")


def _end(name: str) -> str:
    """Return the part of a name that does not depend on what the model is wrapped in."""
    start = name.find("layers.")
    if start == 0 or (start > 0 and name[start - 1] == "."):
        return name[start:]
    parts = name.split(".")
    return ".".join(parts[-2:])
