"""This module makes a `Family` from a table of `srd_rs.families.schema`. It is the only reader of the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, ClassVar, Final

from srd_rs.families import rope as ropes
from srd_rs.families.base import Experts, Family, Row
from srd_rs.families.expressions import Names, evaluate
from srd_rs.families.schema import FamilyTable, metadata_line, row_of
from srd_rs.metadata import Metadata

NAMES: Final = ("n_layer", "n_head", "n_head_kv", "n_embd", "n_ff", "n_vocab", "head_dim", "rope_fraction")
"""These names of an expression are values that the families check; every other name is a key of config.json."""


class TableFamily(Family):
    """A family whose rows, sizes and metadata stand in a table."""

    data: ClassVar[FamilyTable]

    def names(self, layer: int = 0) -> Names:
        """The values of the names in the expressions of one layer."""

        def value(name: str) -> Any:
            if name == "layer":
                return layer
            if name == "rope_fraction":
                return self.rope.full.get("partial_rotary_factor") or 1.0
            return getattr(self, name) if name in NAMES else self.config.get(name)

        return value

    def evaluate(self, text: str, layer: int = 0) -> Any:
        return evaluate(text, self.names(layer), self.config.error)

    def check(self) -> None:
        for refusal in self.data.refusals:
            layers = range(self.n_layer) if refusal.per_layer else range(1)
            if any(self.evaluate(refusal.when, layer) for layer in layers):
                raise self.config.error(refusal.what, refusal.fix)

    @cached_property
    def n_expert(self) -> int:
        experts = self.data.experts
        return self._count(experts.count) if experts is not None else 0

    @cached_property
    def n_expert_used(self) -> int:
        assert self.data.experts is not None
        used = self._count(self.data.experts.used)
        if used > self.n_expert:
            raise self.config.error(f"{used} experts per token are more than the {self.n_expert} there are")
        return used

    def _count(self, text: str) -> int:
        return self.config.check_count(text, self.evaluate(text))

    def sizes(self, layer: int) -> dict[str, int]:
        sizes = super().sizes(layer)
        own = {
            key: self.config.check_count(key, self.evaluate(text, layer))
            for key, text in self.data.sizes.items()
        }
        return {**sizes, **own}

    def rows(self, layer: int) -> Iterable[Row]:
        for group in self.data.layer:
            if self.evaluate(group.when, layer):
                yield from map(row_of, group.rows)

    def experts(self, layer: int) -> Experts | None:
        experts = self.data.experts
        if experts is None or not self.evaluate(experts.when, layer):
            return None
        parts = [part.split(" ", 2) for part in experts.parts]
        return Experts(experts.source, tuple((part, target, sizes) for part, target, sizes in parts))

    def _per_layer(self, expression: str) -> list[Any] | None:
        values = [self.evaluate(expression, layer) for layer in range(self.n_layer)]
        return None if None in values else values

    def generated(self) -> dict[str, tuple[float, ...]]:
        if not self.data.llama3_rope or self.rope.kind != "llama3":
            return {}
        return {"rope_freqs.weight": ropes.llama3_factors(self.config, self.rope.full, self.head_dim)}

    def written_head_dim(self) -> int | None:
        if self.data.head_dim is None:
            return super().written_head_dim()
        size = self.evaluate(self.data.head_dim)
        return None if size is None else self.config.check_count("head_dim", size)

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        writers: dict[str, Callable[[str, Any], None]] = {
            "u32": metadata.uint32,
            "f32": metadata.float32,
            "bool": metadata.boolean,
            "str": metadata.string,
            "bools": metadata.booleans,
            "i32s": metadata.int32s,
        }
        for line in self.data.metadata:
            kind, key, expression = metadata_line(line)
            value = self._per_layer(expression) if kind in ("bools", "i32s") else self.evaluate(expression)
            if value is not None:
                writers[kind](key.replace("~", f"{self.arch}."), value)
        if self.data.pooling:
            self.write_pooling(metadata)


def family_of(table: FamilyTable) -> type[Family]:
    """Return the family of a table."""
    members = {
        "__doc__": f"The family of the architecture {table.arch}.",
        "data": table,
        "arch": table.arch,
        "classes": table.classes,
        "defaults": table.defaults,
        "class_defaults": table.class_defaults,
        "rope_theta": table.rope_theta,
        "rope_theta_sliding": table.rope_theta_sliding,
        "top_rows": tuple(map(row_of, table.top)),
        "vocabulary": table.vocabulary,
        "output_row": None if table.output is None else row_of(table.output),
    }
    return type(table.arch, (TableFamily,), members)
