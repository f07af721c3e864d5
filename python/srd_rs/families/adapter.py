"""A LoRA adapter of PEFT as the metadata and the tensors of a GGUF adapter, which llama.cpp adds to its base model.

`describe` takes names and steps from the table of the base model: `factors` does to the two matrices of an update what
the table does to the weight. A part of the adapter that a GGUF adapter cannot hold is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from srd_rs import families
from srd_rs.checkpoint import Checkpoint, SourceTensor
from srd_rs.families import lora
from srd_rs.families.base import Family, ModelFacts, ModelSpec
from srd_rs.families.factors import Factors, NoFactorsError, factored
from srd_rs.families.general import Size, write_general
from srd_rs.families.quantized import plain
from srd_rs.families.table import Entry, TensorSpec, check_shapes, store_of
from srd_rs.metadata import Metadata
from srd_rs.reading import shown
from srd_rs.transforms import Affine, Source, Transform, Transpose, source

_MERGE: Final = "Merge the adapter while the model is converted: srd-rs convert --lora"
_EMBEDDING: Final = "token_embd.weight"


@dataclass(frozen=True)
class _Update:
    """The update of one matrix of the base model. `alpha` is its factor times its rank."""

    module: str
    down: SourceTensor
    up: SourceTensor
    turned: bool
    alpha: float

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix."""
        rows, columns = self.up.shape[0], self.down.shape[1]
        return (columns, rows) if self.turned else (rows, columns)

    def factors(self, alpha: float) -> Factors:
        """The update with the factor of the whole adapter taken out."""
        down: Transform = Source(self.down.name, self.down.shape)
        up: Transform = Source(self.up.name, self.up.shape)
        if self.turned:
            down, up = Transpose(up), Transpose(down)
        rows, columns = self.shape
        if self.alpha != alpha:
            up = Affine(up, self.alpha / alpha)
        return Factors(down, up, (rows,), (columns,))


def describe(folder: Path, base: Checkpoint, *, name: str | None = None) -> ModelSpec:
    """Return the metadata and the tensors of the GGUF of the adapter in `folder`. The tensors of `base` may be missing
    (`Checkpoint.complete`). Raises ModelError."""
    adapter = lora.opened(folder)
    updates = list(_updates(adapter))
    if not base.complete:
        base = replace(base, tensors=_bare_base(updates))
    family = families.opened(base)
    family.checkpoint = plain(base, family.config) if base.complete else base
    family.check()
    present = family.text_tensors
    changed = _changed(adapter, family, present, updates)
    alphas = [update.alpha for update in updates]
    if not all(alphas):
        raise adapter.error("lora_alpha is 0, so an update changes nothing", "Correct adapter_config.json")
    alpha = max(set(alphas), key=lambda value: (alphas.count(value), value))
    specs = list(_tensors(adapter, family, present, changed, alpha))
    metadata = Metadata()
    metadata.string("general.architecture", family.arch)
    size = Size.of(_whole_shapes(specs))
    size = replace(size, total=-size.total)
    write_general(metadata, folder, folder.resolve().name, {}, None, size, name)
    metadata.string("general.type", "adapter")
    metadata.string("adapter.type", "lora")
    metadata.float32("adapter.lora.alpha", alpha)
    tokens = adapter.config.get("alora_invocation_tokens")
    if tokens:
        metadata.add("adapter.alora.invocation_tokens", "ARRAY[UINT32]", tokens)
    facts = ModelFacts(family.arch, family.n_run, 0, 1, 1, False)
    return ModelSpec(family.arch, metadata, specs, facts)


def _updates(adapter: lora.Adapter) -> Iterator[_Update]:
    """Check every tensor of the adapter, and return the updates."""
    if adapter.config.get("use_dora"):
        raise adapter.error("llama.cpp cannot add an update with magnitudes (DoRA)", _MERGE)
    left = dict(adapter.tensors)
    for pair in filter(None, map(lora.pair_of, adapter.tensors)):
        module, down_name, up_name, embedded = pair
        if up_name not in left:
            raise adapter.error(f"'{down_name}' has no counterpart '{up_name}'", "Download the adapter again")
        down, up = left.pop(down_name), left.pop(up_name)
        if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
            what = f"'{down.name}' {shown(down.shape)} and '{up.name}' {shown(up.shape)} are no update of low rank"
            raise adapter.error(what)
        left.pop(f"{module}.base_layer.weight", None)  # a copy of what the update is added to
        rank = down.shape[0]
        turned = embedded or bool(adapter.config.get("fan_in_fan_out"))
        yield _Update(module, down, up, turned, lora.alpha_of(adapter, module, rank))
    if left:
        name = next(iter(left))
        what = f"'{name}' is a tensor that was trained as a whole, and a GGUF adapter holds updates of low rank only"
        raise adapter.error(what, _MERGE)
    if not adapter.tensors:
        raise adapter.error("the adapter changes no weight", "Download the adapter again")


def _bare_base(updates: list[_Update]) -> dict[str, SourceTensor]:
    """Return the tensors of the base model that the adapter changes, for a base of which only config.json is there."""
    names = {f"{lora.without_prefix(update.module)}.weight": update for update in updates}
    return {n: SourceTensor(n, update.down.dtype, update.shape, lora.WEIGHTS) for n, update in names.items()}


def _changed(
    adapter: lora.Adapter, family: Family, present: Mapping[str, SourceTensor], updates: list[_Update]
) -> dict[str, _Update]:
    """Return the updates by the canonical name of the tensor that each changes."""
    canonical = {tensor.name: name for name, tensor in present.items()}
    names = lora.Names(family.checkpoint.tensors)
    found: dict[str, _Update] = {}
    for update in updates:
        target = names.find(adapter, f"{update.module}.weight")
        if target not in canonical:
            what = f"'{update.module}' is no part of the text model, for which the adapter is written"
            raise adapter.error(what, "Train an adapter of the text model")
        shape = family.checkpoint.tensors[target].shape
        if shape != update.shape:
            what = f"'{update.module}' updates a matrix {shown(update.shape)}, but '{target}' has shape {shown(shape)}"
            raise adapter.error(what, "Use the base model that the adapter was trained on")
        if canonical[target] in found:
            raise adapter.error(f"two updates change '{target}'", _MERGE)
        found[canonical[target]] = update
    return found


def _tensors(
    adapter: lora.Adapter,
    family: Family,
    present: Mapping[str, SourceTensor],
    changed: Mapping[str, _Update],
    alpha: float,
) -> Iterator[TensorSpec]:
    """Return both matrices of each tensor of the GGUF that the adapter changes."""
    used: set[str] = set()
    for entry in family.table(present).entries.values():
        sources = [part.tensor for part in entry.transform.sources()]
        touched = [name for name in sources if name in changed]
        if not touched:
            continue
        used.update(touched)
        if len(touched) < len(sources):
            absent = next(name for name in sources if name not in changed)
            what = f"'{entry.name}' of the GGUF is made of several matrices, and '{absent}' has no update"
            raise adapter.error(what, _MERGE)
        check_shapes(entry, present, family.checkpoint.folder)
        yield from _pair(adapter, family, entry, changed, alpha)
    lost = next((name for name in changed if name not in used), None)
    if lost is not None:
        what = f"'{lost}' is changed, which the architecture {family.arch} does not have"
        raise adapter.error(what, "Use the base model that the adapter was trained on, with its weights")


def _pair(
    adapter: lora.Adapter, family: Family, entry: Entry, changed: Mapping[str, _Update], alpha: float
) -> Iterator[TensorSpec]:
    try:
        factors = factored(entry.transform, lambda name: changed[name].factors(alpha))
    except NoFactorsError as error:
        raise adapter.error(f"'{entry.name}' of the GGUF cannot have an update: {error}", _MERGE) from None
    tied = family.tied and not family.headless
    if tied and entry.name in (_EMBEDDING, "output.weight"):
        what = f"'{entry.name}' is changed, and the model has one matrix for tokens and output"
        raise adapter.error(what, _MERGE)
    experts = factors.stacked and entry.name.partition(".weight")[0].endswith("_exps")
    plain_matrix = len(factors.rows) == len(factors.columns) == 1 and (experts or not factors.stacked)
    if not plain_matrix or not entry.name.endswith(".weight"):
        what = f"llama.cpp adds no update to '{entry.name}' of the architecture {family.arch}"
        raise adapter.error(what, _MERGE)
    down, up = factors.down, factors.up
    if entry.name == _EMBEDDING:  # llama.cpp looks up rows of the first matrix
        down, up = up, Transpose(down)
    for end, matrix in (("a", down), ("b", up)):
        name = f"{entry.name}.lora_{end}"
        yield TensorSpec(name, matrix.shape, store_of(name, matrix.shape), matrix.to_json(source))


def _whole_shapes(specs: list[TensorSpec]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Return the names and shapes of the matrices that the adapter changes."""
    for first, second in zip(specs[::2], specs[1::2], strict=True):
        name = first.name.removesuffix(".lora_a")
        yield name, (*second.shape[:-1], first.shape[-1])
