"""This module makes a `Family` from a table of `srd_rs.families.schema`. It is the only reader of the tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

from srd_rs.checkpoint import SourceTensor, flatten, text_part
from srd_rs.errors import ModelError
from srd_rs.families import names
from srd_rs.families import rope as ropes
from srd_rs.families.base import MAX_HEAD_DIM, Family, Row, fused_expert_halves
from srd_rs.families.card import card_text
from srd_rs.families.expressions import Names, evaluate, names_in
from srd_rs.families.schema import (
    KINDS,
    FamilyTable,
    Rows,
    StackedExperts,
    Step,
    TableRow,
    checked_pattern,
    flat,
    generated_line,
    metadata_line,
    row_of,
)
from srd_rs.families.table import Table, some
from srd_rs.metadata import Metadata
from srd_rs.reading import load_json, shown
from srd_rs.transforms import (
    Affine,
    Bilinear,
    Concat,
    FoldedNorm,
    NegExp,
    PadRows,
    PermuteHeads,
    Product,
    Reshape,
    Sinusoids,
    Softplus,
    Source,
    Sum,
    Ternary,
    Transform,
    Transpose,
    grid_of_positions,
    reordered,
    taken,
)
from srd_rs.vocab import tekken
from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.files import TokenizerJson, read_token_ids

NAMES: Final = (
    "n_embd",
    "n_vocab",
    "n_expert",
    "n_expert_used",
    "head_dim",
    "n_block",
    "n_mtp",
    "class_name",
)
"""These names of an expression are values that the families check, and so are ``n_layer`` (without the blocks that
predict further tokens), ``n_head``, ``n_head_kv`` and ``n_ff`` (of the layer, where the layers differ),
``rope_fraction``, ``rope`` (the RoPE parameters), ``rope_sliding``, ``config`` (the whole of config.json), ``target``
(that of the model that a draft drafts for), ``labels``
(the names of the classes), ``layer`` and ``layers`` (the numbers of all layers). The sizes of rows have the letters of
`LETTERS`. Every other name is a size of the table or a key of config.json."""
LETTERS: Final = {
    "d": "n_embd",
    "q": "n_head * h",
    "k": "n_head_kv * h",
    "h": "head_dim",
    "f": "n_ff",
    "v": "n_vocab",
    "e": "n_expert",
}
"""The sizes that every row may use: the widths of the model, of queries, of keys, of a head, of the feed-forward
part, and the numbers of tokens and experts."""
_ELEMENTWISE: Final = ("plus_one", "affine", "neg_exp", "softplus")
_OF_COLUMNS: Final = ("transpose", "squeeze", "cols", "pad_rows")
_MAX_SUMMANDS: Final = 64
_MAX_LABELS: Final = 1 << 16
_MAX_NAME: Final = 1024
"""Longer names are not held against patterns. Names of published checkpoints have up to about 120 signs."""


@dataclass(frozen=True)
class _Place:
    """Where the rows of a layer come from, and where they go."""

    source: str = ""
    target: str = ""
    layer: int = 0


class TableFamily(Family):
    """A family whose rows, sizes and metadata stand in a table."""

    data: ClassVar[FamilyTable]

    def variant(self) -> type[Family] | None:
        return next((family_of(table) for when, table in self.data.variants if self.evaluate(when)), None)

    # Values

    def names(self, layer: int = 0) -> Names:
        """The values of the names in the expressions of one layer."""
        return lambda name: self._value(name, layer)

    def _value(self, name: str, layer: int) -> Any:
        sizes = self.data.sizes
        if name in sizes:
            return self.evaluate(sizes[name], layer)
        if name in LETTERS:
            return self.evaluate(LETTERS[name], layer)
        if name in NAMES:
            return getattr(self, name)
        match name:
            case "layer":
                return layer
            case "layers":
                return list(range(self.n_main))
            case "n_layer":
                return self.n_main
            case "n_head":
                return self._of_layer(self.head_counts(), layer)
            case "n_head_kv":
                return self._of_layer(self.head_counts_kv(), layer)
            case "n_ff":
                return self._of_layer(self.feed_forward_lengths(), layer)
            case "rope":
                return self.rope.full
            case "rope_sliding":
                return self.rope.sliding
            case "rope_fraction":
                return self.rope.full.get("partial_rotary_factor") or 1.0
            case "config":
                return {**self.config.defaults, **self.config.values}
            case "target":
                return None if self.checkpoint.target is None else flatten(self.checkpoint.target.config)
            case "labels":
                return self._labels
        kind, space, asked = name.partition(" ")
        return self._of_tensor(kind, asked, layer) if space else self.config.get(name)

    def _of_tensor(self, kind: str, name: str, layer: int) -> Any:
        """The value of a function of tensors or files in an expression."""
        if kind == "token":
            return self._token(name)
        if kind == "named":
            return self._named(name)
        if kind == "stored":
            return name in self.checkpoint.tensors
        if kind == "states":
            return name in self.checkpoint.config or name in text_part(self.checkpoint.config)
        if kind == "file":
            return (self.checkpoint.folder / name).is_file()
        name = f"{self.layer_prefix}.{layer}.{name}" if kind.startswith("layer_") else name
        if kind.endswith("has"):
            return name in self.text_tensors
        if kind == "rows_of":
            tensor = self.text_tensors.get(name)
            return tensor.shape[0] if tensor is not None and tensor.shape else None
        return self._integers_in(name) if kind == "integers" else self._number_in(name)

    def _token(self, text: str) -> int:
        """The id of a token by the files of the tokenizer."""
        folder = self.checkpoint.folder
        file = TokenizerJson.open(folder / "tokenizer.json")
        ids = file.model().get("vocab") if file is not None else read_token_ids(folder / "vocab.json")
        found = ids.get(text) if isinstance(ids, dict) else None
        if found is None:
            stated = folder / "tokenizer_config.json"
            config = load_json(stated) if stated.is_file() else {}
            found = AddedTokens.read(folder, file, config).id_of(text)
        if found is None and (folder / "tekken.json").is_file():
            found = tekken.special_ids(folder / "tekken.json").get(text)
        if not isinstance(found, int):
            raise self.config.error(f"the tokenizer has no token '{text}'", "Add the files of the tokenizer")
        return found

    def _named(self, text: str) -> bool:
        """Whether the folder, config.json or a heading of the model card names the model so."""
        head = card_text(self.checkpoint.folder).lower()
        stated = (self.config.get("_name_or_path"), self.config.get("model_type"), self.class_name)
        names = (self.checkpoint.stem, *(value for value in stated if isinstance(value, str)))
        return f"# {text}" in head or any(text in name.lower() for name in names)

    def _integers_in(self, name: str) -> list[int]:
        found = (t for t in self.checkpoint.tensors.values() if self.canonical(t.name) == name)
        tensor = next(found, None)
        if tensor is None:
            raise self.config.error(f"there is no tensor '{name}'", "Download the checkpoint again")
        return self.checkpoint.integers_in(tensor)

    @cached_property
    def _single_numbers(self) -> dict[str, SourceTensor]:
        """The tensors of one number by canonical name, also those that are left out."""
        tensors = self.checkpoint.tensors.values()
        return {self.canonical(t.name): t for t in tensors if all(size == 1 for size in t.shape)}

    def _number_in(self, name: str) -> float:
        tensor = self._single_numbers.get(name)
        if tensor is None:
            what = f"there is no tensor '{name}' that holds one number"
            raise self.config.error(what, "Download the checkpoint again")
        return self.checkpoint.number_in(tensor)

    def _of_layer(self, value: int | list[int] | None, layer: int) -> int:
        if value is None:
            raise self.config.error("the number of heads or the width of the feed-forward part is not stated")
        return value[min(layer, len(value) - 1)] if isinstance(value, list) else value

    @cached_property
    def _labels(self) -> list[str] | None:
        """The names of the classes of a classifier, in the order of their numbers. Classes without names have those
        that transformers gives them."""
        stated = self.config.get("id2label")
        if stated is None:
            count = self.config.optional_count("num_labels")
            if count is not None and count > _MAX_LABELS:
                raise self.config.error(
                    f"num_labels is {count}, a classifier has at most {_MAX_LABELS} classes"
                )
            return None if count in (None, 2) else [f"LABEL_{number}" for number in range(count)]
        if not isinstance(stated, dict) or not all(
            key.isdecimal() and len(key) < 10 and isinstance(value, str) for key, value in stated.items()
        ):
            raise self.config.error("id2label does not map numbers to names")
        return [stated[key] for key in sorted(stated, key=int)]

    def evaluate(self, text: str, layer: int = 0) -> Any:
        return evaluate(text, self.names(layer), self.config.error)

    def count(self, text: str, layer: int = 0, *, least: int = 1) -> int:
        """Return the value of an expression, which must be a count."""
        return self.config.check_count(text, self.evaluate(text, layer), least=least)

    def _counts(self, text: str) -> int | list[int] | None:
        """Return one count, or one per layer if the expression names the layer; None if there is none."""
        if not self._names_layer(text):
            return None if self.evaluate(text) is None else self.count(text, least=0)
        return [self.count(text, layer, least=0) for layer in range(self.n_layer)]

    def _names_layer(self, text: str) -> bool:
        """Say whether an expression, or a size that it uses, names the layer."""
        names = names_in(text)
        sizes = self.data.sizes
        return "layer" in names or any(self._names_layer(sizes[name]) for name in names if name in sizes)

    @cached_property
    def n_vocab(self) -> int:
        """The number of tokens. A draft that does not state it has the tokens of its target."""
        target = self.checkpoint.target
        if not self.data.drafts or target is None or self.config.get("vocab_size") is not None:
            return super().n_vocab
        return self.config.check_count("vocab_size", flatten(target.config).get("vocab_size"))

    @cached_property
    def n_main(self) -> int:
        """The number of layers without the blocks that predict further tokens."""
        if self.data.n_layer is None:
            return self.stated_layers()
        count = self.count(self.data.n_layer)
        if count > self.checkpoint.most_tensors:
            what = (
                f"there are {count} layers ({self.data.n_layer}), but {self.checkpoint.most_tensors} tensors"
            )
            raise self.config.error(what, "Correct the number of layers, or download the missing shards")
        return count

    @cached_property
    def n_layer(self) -> int:
        return self.n_main + self.n_mtp

    @property
    def n_block(self) -> int:
        return self.n_layer

    @property
    def n_run(self) -> int:
        return self.n_layer if self.data.n_run is None else self.count(self.data.n_run)

    @cached_property
    def n_mtp(self) -> int:
        """The number of blocks that predict further tokens and that are written."""
        mtp = self.data.mtp
        if mtp is None or self.mtp is False or not (mtp.default or self.mtp):
            return 0
        stated = self.evaluate(mtp.count)
        found = {
            layer
            for name in self.checkpoint.tensors
            if (layer := self._layer_of(self.canonical(name))) is not None and layer >= self.n_main
        }
        if not found:
            return 0
        if stated is None or stated == 0:
            stated = max(found) + 1 - self.n_main
        count = self.config.check_count(mtp.count, stated)
        if count > self.checkpoint.most_tensors:
            raise self.config.error(f"{mtp.count} is {count}, which is more than the tensors that are there")
        return count

    def _layer_of(self, name: str) -> int | None:
        number, dot, _ = name.removeprefix(f"{self.layer_prefix}.").partition(".")
        inside = name.startswith(f"{self.layer_prefix}.") and dot and number.isdecimal() and len(number) < 10
        return int(number) if inside else None

    @cached_property
    def n_head(self) -> int:
        return self._of_layer(self.head_counts(), 0)

    @cached_property
    def _heads(self) -> int | list[int] | None:
        return (
            self.config.count("num_attention_heads")
            if self.data.n_head is None
            else self._counts(self.data.n_head)
        )

    @cached_property
    def _heads_kv(self) -> int | list[int] | None:
        return self.stated_heads_kv() if self.data.n_head_kv is None else self._counts(self.data.n_head_kv)

    @cached_property
    def _widths(self) -> int | list[int] | None:
        return (
            self.config.count("intermediate_size") if self.data.n_ff is None else self._counts(self.data.n_ff)
        )

    def head_counts(self) -> int | list[int] | None:
        return self._heads

    def head_counts_kv(self) -> int | list[int]:
        return self._of_layer(None, 0) if self._heads_kv is None else self._heads_kv

    def feed_forward_lengths(self) -> int | list[int] | None:
        return self._widths

    @cached_property
    def n_expert(self) -> int:
        text = next((experts.count for experts in self.data.all_experts), self.data.n_expert)
        value = None if text is None else self.evaluate(text)
        return 0 if value is None else self.config.check_count(str(text), value, least=0)

    @cached_property
    def n_expert_used(self) -> int:
        text = next((experts.used for experts in self.data.all_experts), self.data.n_expert_used)
        used = self.count(text or "num_experts_per_tok")
        if used > self.n_expert:
            raise self.config.error(f"{used} experts per token are more than the {self.n_expert} there are")
        return used

    @property
    def tied(self) -> bool:
        if self.data.tied is not None and not self.headless:
            return bool(self.evaluate(self.data.tied))
        return super().tied

    def check(self) -> None:
        for refusal in self.data.refusals:
            layers = range(self.n_main) if refusal.per_layer else range(1)
            if not any(self.evaluate(refusal.when, layer) for layer in layers):
                continue
            if refusal.warns:
                self._note("%s", refusal.what)
            else:
                raise self.config.error(refusal.what, refusal.fix)

    # Names of the checkpoint

    def _is_no_copy(self, name: str) -> bool:
        """Say whether a tensor that is usually a copy of the embedding has values of its own. transformers keeps them,
        though the configuration ties both."""
        tensors = self.checkpoint.tensors
        copy = tensors.get(name)
        embedding = next((t for t in tensors.values() if self.canonical(t.name) == self.embedding), None)
        return copy is not None and embedding is not None and self.checkpoint.differ(copy, embedding)

    def _biased(self, kind: str) -> set[str]:
        """The biases that every model of the family has ("yes"), or that it may have ("maybe"), by their names within a
        layer."""
        stacks = (group for stack in self.data.stacks for group in stack.layer)
        rows = (row_of(row) for group in (*self.data.layer, *stacks) for row in group.rows)
        return {f"{name}.bias" for row in rows if row.bias == kind for name, _, _ in row.sources}

    @cached_property
    def _needed_biases(self) -> tuple[str, ...]:
        return tuple(f".{name}" for name in self._biased("yes"))

    def _bias_key(self, name: str) -> str | None:
        """Return the key of config.json, or of the defaults of the class, that says whether there is such a bias."""
        keys = names.bias_keys(name)
        stated = next((key for key in keys if self.config.stated(key)), None)
        return stated or next((key for key in keys if self.config.get(key) is not None), None)

    def _denied(self, name: str) -> str | None:
        """Return the key that says that there is no such bias."""
        if len(name) > _MAX_NAME or name.endswith(self._needed_biases):
            return None
        key = self._bias_key(name)
        return key if key is not None and self.config.get(key) is False else None

    def _note_missing_biases(self, present: Iterable[str]) -> None:
        """Warn of biases that config.json promises and that no layer has."""
        inside = {name.removeprefix(f"{self.layer_prefix}.").partition(".")[2] for name in present}
        missing: dict[str, list[str]] = {}
        for name in sorted(self._biased("maybe") - inside):
            key = self._bias_key(f".{name}")
            if key is not None and self.config.get(key) is True and f"{name[:-4]}weight" in inside:
                missing.setdefault(key, []).append(name)
        for key, found in missing.items():
            self._note(
                "%s is true, but no layer has %s: the file is that of biases of zero, as in transformers",
                key,
                some(found),
            )

    def left_out(self, name: str) -> str | None:
        if self.data.beyond is not None:
            layer = self._layer_of(self.canonical(name))
            if layer is not None and layer >= self.n_main:
                return self.data.beyond
        if len(name) <= _MAX_NAME:
            for pattern, reason, *conditions in self.data.skip:
                if checked_pattern(pattern).search(name) and all(map(self.evaluate, conditions)):
                    if reason == names.COPY and self._is_no_copy(name):
                        break
                    return reason
            if self.keeps(name):
                return None
        why = super().left_out(name)
        if why is None and (denied := self._denied(self.canonical(name))) is not None:
            return f"of biases, which transformers does not read because {denied} is false"
        mtp = self.data.mtp
        if mtp is None:
            return why
        layer = self._layer_of(self.canonical(name))
        if layer is not None and layer >= self.n_main:
            return None if self.n_mtp else names.MTP
        return names.BEFORE_MTP if layer is not None and self.mtp else why

    def keeps(self, name: str) -> bool:
        """Say whether the table keeps a tensor, though its name looks like that of another part."""
        return len(name) <= _MAX_NAME and any(checked_pattern(p).search(name) for p in self.data.keep)

    def canonical(self, name: str) -> str:
        name = super().canonical(name)
        if len(name) > _MAX_NAME:
            return name
        for pattern, to in self.data.renames:
            name = checked_pattern(pattern).sub(to, name)
        mtp = self.data.mtp
        if mtp is not None and mtp.source:
            for start, to in mtp.renames.items():
                if name.startswith(start):
                    return f"{self.layer_prefix}.{self.n_main}.{to}{name[len(start) :]}"
            number, dot, rest = name.removeprefix(f"{mtp.source}.").partition(".")
            if name.startswith(f"{mtp.source}.") and dot and number.isdecimal() and len(number) < 10:
                return f"{self.layer_prefix}.{self.n_main + int(number)}.{rest}"
        return name

    # Tensors

    def table(self, present: Mapping[str, SourceTensor]) -> Table:
        self._note_missing_biases(present)
        table = Table()
        for group in flat(self.data.top):
            self._add_rows(table, (group,), _Place())
        if self.data.output is not None:
            self._add_output(table, row_of(self.data.output), present)
        for layer in range(self.n_main if self.mtp else 0, self.n_layer):
            place = _Place(f"{self.layer_prefix}.{layer}.", f"{self.data.layer_target}.{layer}.", layer)
            self._add_rows(table, self.data.layer, place)
            for experts in self.data.all_experts:
                if self.evaluate(experts.when, layer):
                    self._add_stacked(table, experts, place, present)
        for pattern, target in self.data.as_stored:
            for name in (name for name in present if len(name) <= _MAX_NAME):
                match = checked_pattern(pattern).fullmatch(name)
                if match:
                    table.add(match.expand(target), Source(name, present[name].shape))
        for name, expression in map(generated_line, self.data.sinusoids):
            sizes = self.evaluate(expression)
            if not isinstance(sizes, list) or len(sizes) not in (2, 3):
                raise self.config.error(f"{expression} are neither two nor three sizes")
            counts = [self.config.check_count(expression, size) for size in sizes]
            try:
                rows, columns, *width = counts
                made = grid_of_positions(rows, columns, *width) if width else Sinusoids(rows, columns)
                table.add(name, made, f32=True)
            except ValueError as error:
                raise self.config.error(f"{expression}: {error}") from None
        for stack in self.data.stacks:
            count = self.count(stack.count, least=0)
            if count > self.checkpoint.most_tensors:
                raise self.config.error(
                    f"{stack.count} is {count}, but there are only {self.checkpoint.most_tensors} tensors"
                )
            for layer in range(count):
                number = layer + self.count(stack.offset, least=0)
                if stack.number is not None:
                    number = self.count(stack.number, layer, least=0)
                place = _Place(f"{stack.source}.{layer}.", f"{stack.target}.{number}.", layer)
                self._add_rows(table, stack.layer, place)
        return table

    def _add_rows(self, table: Table, groups: Iterable[Rows], place: _Place) -> None:
        for group in groups:
            if self.evaluate(group.when, place.layer):
                for row in group.rows:
                    self._add(table, row_of(row), place)

    def _shape(self, dims: Iterable[str], layer: int) -> tuple[int, ...]:
        return tuple(self.count(dim, layer) for dim in dims)

    def _add_output(self, table: Table, row: TableRow, present: Mapping[str, SourceTensor]) -> None:
        """Declare the output matrix. Where llama.cpp does not load a tied model without an output matrix, the embedding
        is written twice."""
        self._add(table, row, _Place(), needed=not self.tied)
        stored = any(name + suffix in present for name, suffix, _ in row.sources)
        if self.tied and not stored and self.data.output_needed:
            table.entries["output.weight"].transform = table.entries["token_embd.weight"].transform

    def _add(self, table: Table, row: TableRow, place: _Place, *, needed: bool = True) -> None:
        needed = needed and row.needed
        parts = [
            (f"{place.source}{name}", suffix, self._shape(dims, place.layer))
            for name, suffix, dims in row.sources
        ]
        target = f"{place.target}{row.target}"
        weight = self._joined(
            [Source(name + suffix, shape) for name, suffix, shape in parts], row, place.layer
        )
        table.add(target + row.target_suffix, weight, needed=needed, f32=row.f32, i32=row.i32, f16=row.f16)
        if row.bias != "no":
            transposed = any(step.name == "transpose" for steps in row.steps for step in steps)
            sources = [
                Source(f"{name}.bias", shape[-1:] if transposed else shape[:1]) for name, _, shape in parts
            ]
            bias = self._bias(sources, row, place.layer)
            table.add(f"{target}.bias", bias, needed=needed and row.bias == "yes", f32=row.f32)

    def _joined(self, sources: list[Source], row: TableRow, layer: int) -> Transform:
        """Return the sources with their steps done, one after another."""
        if len(row.steps) > 1:
            parts = zip(sources, row.steps, strict=True)
            return Concat(tuple(self._all_done(source, steps, layer) for source, steps in parts))
        steps = row.steps[0]
        if steps and steps[0].name == "product":
            return self._all_done(Product(tuple(sources)), steps[1:], layer)
        if steps and steps[0].name in ("norm_factor", "norm_summand"):
            return self._all_done(self._folded_norm(sources, steps[0], layer), steps[1:], layer)
        of = sources[0] if len(sources) == 1 else Concat(tuple(sources))
        return self._all_done(of, steps, layer)

    def _folded_norm(self, sources: list[Source], step: Step, layer: int) -> Transform:
        """Return the factor of a normalization from weight and variance, or its summand from these and from bias and
        mean."""
        weight, variance, *shift = sources
        epsilon = self.config.check_number(step.arguments[0], self.evaluate(step.arguments[0], layer))
        if step.name == "norm_factor":
            return FoldedNorm(weight, variance, epsilon)
        return FoldedNorm(weight, variance, epsilon, (shift[0], shift[1]))

    def _all_done(self, of: Transform, steps: Iterable[Step], layer: int) -> Transform:
        for step in steps:
            of = self._done(of, step, layer)
        return of

    def _stack(self, of: Transform, step: Step, layer: int) -> Transform:
        if not isinstance(of, Source):
            raise ValueError(f"{step.name} must be the first step of its source")
        count = self.count(step.arguments[0], layer)
        if count > self.checkpoint.most_tensors:
            raise self.config.error(
                f"{step.arguments[0]} is {count}, which is more than the tensors there are"
            )
        parts = (Source(of.tensor.replace("{i}", str(i)), of.shape) for i in range(count))
        return Concat(tuple(parts), stack=step.name == "stack")

    def _bias(self, sources: list[Source], row: TableRow, layer: int) -> Transform:
        """Return the bias with those steps that change the order or the number of rows."""

        def of_rows(of: Transform, steps: Iterable[Step]) -> Transform:
            steps = [step for step in steps if step.name not in (*_ELEMENTWISE, *_OF_COLUMNS)]
            if all(step.name.startswith("permute") or step.name in ("stack", "parts") for step in steps):
                return self._all_done(of, steps, layer)
            of = Reshape(of, (*of.shape, 1))
            for step in steps:
                arguments = (*step.arguments[:-1], "1") if step.name == "reshape" else step.arguments
                of = self._done(of, Step(step.name, arguments), layer)
            return Reshape(of, (math.prod(of.shape),))

        if len(row.steps) > 1:
            return Concat(tuple(map(of_rows, sources, row.steps)))
        return of_rows(sources[0] if len(sources) == 1 else Concat(tuple(sources)), row.steps[0])

    def _done(self, of: Transform, step: Step, layer: int) -> Transform:
        """Return `of` with one step done."""

        def number(index: int, default: int = 1) -> int:
            if index >= len(step.arguments):
                return default
            return self.count(step.arguments[index], layer, least=0)

        def real(index: int) -> float:
            value = self.evaluate(step.arguments[index], layer)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise self.config.error(f"{step.arguments[index]} is {shown(value)}, a number is expected")
            return float(value)

        def axis(index: int = 0) -> int:
            value = self.evaluate(step.arguments[index], layer)
            if not isinstance(value, int) or not -len(of.shape) <= value < len(of.shape):
                raise self.config.error(f"{step.arguments[index]} is no axis of a tensor of shape {of.shape}")
            return value % len(of.shape)

        try:
            match step.name:
                case "stack" | "parts":
                    return self._stack(of, step, layer)
                case "plus_one":
                    return Affine(of, 1.0, 1.0)
                case "affine":
                    return Affine(of, real(0), real(1))
                case "ternary":
                    return Ternary(of)
                case "neg_exp":
                    return NegExp(of)
                case "softplus":
                    return Softplus(of)
                case "permute_q":
                    return PermuteHeads(of, self._of_layer(self.head_counts(), layer))
                case "permute_k":
                    return PermuteHeads(of, self._of_layer(self.head_counts_kv(), layer))
                case "zero_first":
                    padded = PadRows(of, of.shape[0] + 1)
                    return Concat((taken(padded, 0, of.shape[0], 1), of))
                case "sum":
                    return _summed(of, axis())
                case "bilinear":
                    grid, to = (number(0), number(1)), (number(2), number(3))
                    return of if grid == to else Bilinear(of, grid, to)
                case "permute_neox":
                    return _to_halves(of, number(0), number(1))
                case "permute":
                    return PermuteHeads(of, number(0))
                case "transpose":
                    return Transpose(of, math.prod(of.shape[:-2]))
                case "squeeze":
                    return Reshape(of, tuple(size for size in of.shape if size != 1) or (1,))
                case "reshape":
                    return Reshape(of, self._shape(step.arguments, layer))
                case "axes":
                    return reordered(of, [axis(index) for index in range(len(step.arguments))])
                case "slice":
                    return taken(of, axis(), number(1), number(2), number(3))
                case "rows":
                    return taken(of, 0, number(0), number(1))
                case "cols":
                    return taken(of, len(of.shape) - 1, number(0), number(1))
                case "by_kind":
                    return _by_kind(of, number(0), [number(index) for index in range(1, len(step.arguments))])
                case "half_negative":
                    return _half_negative(of, number(0))
                case "pair_axes":
                    return _pair_axes(of, number(0))
                case "every":
                    stride, first = number(1), number(2, 0)
                    return taken(of, axis(), first, (of.shape[axis()] - first + stride - 1) // stride, stride)
                case "pad_rows":
                    rows = number(0)
                    return PadRows(of, rows, real(1) if len(step.arguments) > 1 else 0.0)
        except ModelError:
            raise
        except (ValueError, ZeroDivisionError, IndexError) as error:
            raise self.config.error(f"{step.name}({', '.join(step.arguments)}): {error}") from None
        raise ValueError(step.name)

    def _add_stacked(
        self, table: Table, experts: StackedExperts, place: _Place, present: Mapping[str, SourceTensor]
    ) -> None:
        """Declare stacked experts, from one tensor per expert or from the stacks that newer files have."""
        count = self.count(experts.count, place.layer)
        source, halves = f"{place.source}{experts.source}", ("gate", "up")
        rows = {row.target: row for row in map(_expert_row, experts.parts)}
        gate, down = rows.get("ffn_gate_exps"), rows.get("ffn_down_exps")
        if gate is not None and down is not None:
            width, model = self._shape(gate.sources[0][2], place.layer)
            fused = fused_expert_halves(source, count, width, model, present, self)
            if fused is not None:
                for half, transform in zip(halves, fused[:2], strict=True):
                    table.add(f"{place.target}ffn_{half}_exps.weight", transform, group=source)
                table.add(f"{place.target}ffn_down_exps.weight", fused[2])
                return
        # The count may be any number: never loop over more experts than there can be.
        most = self.checkpoint.most_tensors
        if count * self.n_layer > most:
            what = f"{count} experts in {self.n_layer} layers, but only {most} tensors are there"
            raise self.config.error(what, "Correct the number of experts, or download the missing shards")
        for row in rows.values():
            ((part, suffix, dims),) = row.sources
            shape = self._shape(dims, place.layer)
            stacks = {row.target_suffix: (suffix, shape)}
            if row.bias != "no":
                stacks[".bias"] = (".bias", shape[:1])
            for end, (own, of_shape) in stacks.items():
                parts: list[Transform] = []
                for index in range(count):
                    of: Transform = Source(f"{source}.{index}.{part}{own}", of_shape)
                    parts.append(of if end == ".bias" else self._all_done(of, row.steps[0], place.layer))
                table.add(
                    f"{place.target}{row.target}{end}",
                    Concat(tuple(parts), stack=True),
                    needed=row.needed and not (end == ".bias" and row.bias == "maybe"),
                    group=f"{place.target}{experts.source}",
                    f32=row.f32,
                )

    def generated(self) -> dict[str, tuple[float, ...]]:
        found: dict[str, tuple[float, ...]] = {}
        if self.data.llama3_rope and self.rope.kind == "llama3":
            turned, text = self.head_dim, self.data.llama3_rope
            if isinstance(text, str):
                turned = min(self.count(text), turned)
            factors = ropes.llama3_factors(
                self.config, self.rope.full, turned, single=not isinstance(text, str)
            )
            found["rope_freqs.weight"] = factors + (1.0,) * (self.head_dim // 2 - len(factors))
        if self.data.longrope and self.rope.is_longrope:
            found.update(ropes.longrope_factors(self.config, self.rope, self.head_dim))
        lines = [generated_line(line) for line in self.data.generated]
        places = [
            (name.replace("{layer}", str(layer)), expression, layer)
            for name, expression in lines
            for layer in range(self.n_layer if "{layer}" in name else 1)
        ]
        for name, expression, layer in places:
            values = self.evaluate(expression, layer)
            if values is None:
                continue
            if not isinstance(values, list) or not 1 <= len(values) <= MAX_HEAD_DIM:
                raise self.config.error(f"{expression} is no list of up to {MAX_HEAD_DIM} numbers")
            numbers = (
                value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)
            )
            if sum(map(math.isfinite, numbers)) != len(values):
                raise self.config.error(f"{expression} is no list of finite numbers")
            found[name] = tuple(map(float, values))
        return found

    def token_ids(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for name, expression in map(generated_line, self.data.token_ids):
            ids = self.evaluate(expression)
            if ids is None:
                continue
            if not isinstance(ids, list) or not all(
                isinstance(i, int) and 0 <= i < self.n_vocab for i in ids
            ):
                raise self.config.error(f"the tensor '{name}' does not hold ids of {self.n_vocab} tokens")
            if len(set(ids)) != len(ids):
                raise self.config.error(f"the tensor '{name}' names a token twice")
            found[name] = ids
        return found

    # Metadata

    def written_head_dim(self) -> int | None:
        if self.data.head_dim is None:
            return super().written_head_dim()
        size = self.evaluate(self.data.head_dim)
        return None if size is None else self.config.check_count("head_dim", size)

    def _lines(self) -> dict[str, tuple[str, str]]:
        """The lines of metadata: key -> type and expression."""
        lines = map(metadata_line, self.data.metadata)
        return {key.replace("~", f"{self.arch}."): (kind, expression) for kind, key, expression in lines}

    def _line_value(self, kind: str, expression: str) -> Any:
        """Return the value of a line; None if the line writes nothing."""
        if not kind.endswith("s") or not self._names_layer(expression):
            return self.evaluate(expression)
        values = [self.evaluate(expression, layer) for layer in range(self.n_layer)]
        return None if None in values else values

    def _write_line(self, metadata: Metadata, key: str, kind: str, expression: str) -> bool:
        value = self._line_value(kind, expression)
        if value is not None:
            metadata.add(key, KINDS[kind], value)
        return value is not None

    def _is_left_out(self, key: str) -> bool:
        return any(key == stated.replace("~", f"{self.arch}.") for stated in self.data.without)

    def put(self, metadata: Metadata, key: str, kind: str, value: Callable[[], Any]) -> None:
        if self._is_left_out(key):
            return
        line = self._lines().get(key)
        if line is None or not self._write_line(metadata, key, *line):
            super().put(metadata, key, kind, value)

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        for key in self.data.without:
            metadata.remove(key.replace("~", f"{self.arch}."))
        for key, (kind, expression) in self._lines().items():
            self._write_line(metadata, key, kind, expression)
        if self.data.longrope and self.rope.is_longrope:
            ropes.write_longrope(self.config, self.rope, self.arch, metadata)
        ropes.write_magnitude(self.config, self.rope, self.arch, metadata)
        self._check_window(metadata)
        if self.data.mtp is not None and self.n_mtp:
            metadata.uint32(self.data.mtp.key.replace("~", f"{self.arch}."), self.n_mtp)
        if self.data.pooling:
            self.write_pooling(metadata)
        metadata.put_first(f"{self.arch}.", [key.replace("~", f"{self.arch}.") for key in self.data.order])

    def _check_window(self, metadata: Metadata) -> None:
        """Refuse a sliding window where tokens see later ones, and llama.cpp's window does not reach forward."""
        if self.config.flag("is_causal", True) or self.data.symmetric_window or self.data.drafts:
            return
        window = metadata.get(f"{self.arch}.attention.sliding_window")
        if isinstance(window, int) and window > 0:
            what = (
                "attention is not causal (is_causal) and has a sliding window (sliding_window), which in llama.cpp"
                " does not reach forward"
            )
            raise self.config.error(what, "The model cannot be converted")


def _by_kind(of: Transform, groups: int, parts: list[int]) -> Transform:
    """Reorder rows that stand in equal groups, each with a number of rows of each kind: all rows of the first kind
    come first, such as the queries of all heads, then those of the second."""
    rows, *rest = of.shape
    if groups < 1 or groups * sum(parts) != rows:
        raise ValueError(f"{rows} rows are not {groups} groups of {sum(parts)}")
    whole = Reshape(of, (groups, sum(parts), *rest))
    kinds = []
    for index, count in enumerate(parts):
        kind = taken(whole, 1, sum(parts[:index]), count)
        kinds.append(Reshape(kind, (groups * count, *rest)))
    return Concat(tuple(kinds))


def _summed(of: Transform, axis: int) -> Transform:
    """Return the sums along an axis, which is gone."""
    if of.shape[axis] > _MAX_SUMMANDS:
        raise ValueError(f"{of.shape[axis]} entries are more than the {_MAX_SUMMANDS} that are added")
    parts = (taken(of, axis, index, 1) for index in range(of.shape[axis]))
    return Reshape(Sum(tuple(parts)), (*of.shape[:axis], *of.shape[axis + 1 :]))


def _half_negative(of: Transform, head: int) -> Transform:
    """Return the rows with the second half of each head negative."""
    rows, *rest = of.shape
    if head < 2 or head % 2 or rows % head:
        raise ValueError(f"{rows} rows are not heads of {head} rows")
    heads = Reshape(of, (rows // head, 2, head // 2, *rest))
    halves = (
        taken(heads, 1, 0, 1),
        Affine(taken(heads, 1, 1, 1), -1.0, -0.0),
    )  # -0.0 keeps the sign of zeros
    both = Concat(tuple(Reshape(half, (1, rows // head, head // 2, *rest)) for half in halves))
    return Reshape(reordered(both, (1, 0, *range(2, len(both.shape)))), of.shape)


def _pair_axes(of: Transform, heads: int) -> Transform:
    """Return the rows of heads that are turned along three axes with the two parts of each axis side by side: a head
    has the first parts of all axes, then the second parts, then rows that are not turned."""
    rows, *rest = of.shape
    if heads < 1 or rows % heads:
        raise ValueError(f"{rows} rows are not {heads} heads")
    size = rows // heads
    part = 2 * (size // 2) // 3 // 2
    whole = Reshape(of, (heads, size, *rest))
    turned = Reshape(taken(whole, 1, 0, 6 * part), (heads, 2, 3, part, *rest))
    order = (1, 0, *range(2, 2 + len(rest)))
    paired = Reshape(reordered(turned, (0, 2, 1, *range(3, 4 + len(rest)))), (heads, 6 * part, *rest))
    parts = [reordered(paired, order)]
    if size > 6 * part:
        parts.append(reordered(taken(whole, 1, 6 * part, size - 6 * part), order))
    return Reshape(reordered(Concat(tuple(parts)), order), of.shape)


def _expert_row(text: str) -> TableRow:
    """Return a part of stacked experts, ``part target sizes bias``, as a row."""
    if ">" in text:
        return row_of(text)
    part, target, *dims = text.split()
    flags = [dims.pop()] if dims and dims[-1].startswith("bias") else []
    return row_of(f"{part} > {target} | {' '.join(dims)} | {' '.join(flags)}")


def _to_halves(of: Transform, heads: int, rotary: int) -> Transform:
    """Return the rows of each head with the pairs of its first `rotary` rows taken apart: the first of all pairs, then
    the second of all pairs, then the rows that are not turned."""
    if heads < 1 or of.shape[0] % heads or rotary % 2 or rotary > of.shape[0] // heads:
        raise ValueError(f"{of.shape[0]} rows are not {heads} heads with {rotary} rows that are turned")
    size = of.shape[0] // heads
    parts: list[Transform] = []
    for start in range(0, of.shape[0], size):
        parts += [taken(of, 0, start, rotary // 2, 2), taken(of, 0, start + 1, rotary // 2, 2)]
        if rotary < size:
            parts.append(taken(of, 0, start + rotary, size - rotary))
    return Concat(tuple(parts))


def members_of(table: FamilyTable) -> dict[str, Any]:
    """Return what the class of a table has."""
    output = None if table.output is None else row_of(table.output)
    return {
        "__doc__": f"The family of the architecture {table.arch}.",
        "data": table,
        "arch": table.arch,
        "classes": table.classes,
        "defaults": table.defaults,
        "class_defaults": table.class_defaults,
        "spellings": table.spellings,
        "rope_theta": table.rope_theta,
        "rope_theta_sliding": table.rope_theta_sliding,
        "square_output": table.square_output,
        "layer_prefix": table.layer_prefix,
        "embedding": table.embedding,
        "vocabulary": table.vocabulary,
        "drafts": table.drafts,
        "output_row": None if output is None else Row(output.sources[0][0], output.target, ""),
    }


def family_of(table: FamilyTable) -> type[Family]:
    """Return the family of a table."""
    return type(table.arch, (TableFamily,), members_of(table))
