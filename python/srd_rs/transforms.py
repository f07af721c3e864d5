"""What happens to a tensor between the checkpoint and the GGUF: a small closed set of steps that stream by
rows.

A transform is a tree. Its leaves are tensors of the checkpoint or generated values; each node knows its shape
(row-major, as in the checkpoint), so that the shape which a source must have and the shape that is written
follow from the same declaration. `to_json` is what Rust runs; no weight passes through Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Json = dict[str, Any]
Leaf = Callable[[str], Json]


def source(name: str) -> Json:
    """Return the leaf that reads a tensor of the checkpoint under this very name."""
    return {"op": "source", "tensor": name}


class Transform:
    """A node of the tree."""

    @property
    def shape(self) -> Shape:
        raise NotImplementedError

    @property
    def parts(self) -> Sequence[Transform]:
        return ()

    def sources(self) -> Iterator[Source]:
        """The checkpoint tensors that the tree reads, in order, repeated if read twice."""
        for part in self.parts:
            yield from part.sources()

    def to_json(self, leaf_of: Leaf = source) -> Json:
        """The node as plain data; `leaf_of` gives the leaf that reads the source with a canonical name."""
        raise NotImplementedError


@dataclass(frozen=True)
class Source(Transform):
    """A tensor of the checkpoint, with the shape that it must have."""

    tensor: str
    of_shape: Shape

    @property
    def shape(self) -> Shape:
        return self.of_shape

    def sources(self) -> Iterator[Source]:
        yield self

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return leaf_of(self.tensor)


@dataclass(frozen=True)
class _Unary(Transform):
    of: Transform

    @property
    def parts(self) -> Sequence[Transform]:
        return (self.of,)

    @property
    def shape(self) -> Shape:
        return self.of.shape


@dataclass(frozen=True)
class PermuteHeads(_Unary):
    """Rotary halves to rotary pairs within each head: rows.reshape(heads, 2, -1).swapaxes(1, 2).

    Hugging Face rotates (i, i + d/2), ggml's llama graphs rotate (2i, 2i + 1).
    """

    heads: int

    def __post_init__(self) -> None:
        if self.heads < 1 or self.shape[0] % (2 * self.heads):
            raise ValueError(f"{self.shape[0]} rows are not {self.heads} heads of an even size")

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "permute_heads", "of": self.of.to_json(leaf_of), "heads": self.heads}


@dataclass(frozen=True)
class Affine(_Unary):
    """x * mul + add, in f32."""

    mul: float = 1.0
    add: float = 0.0

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "affine", "of": self.of.to_json(leaf_of), "mul": self.mul, "add": self.add}


@dataclass(frozen=True)
class Rows(_Unary):
    """`count` rows from `start`; rows are counted with all leading dimensions flattened.

    `leading` gives the shape of the result before its last dimension where the source has more than two.
    """

    start: int
    count: int
    leading: Shape = ()

    @property
    def shape(self) -> Shape:
        return (*(self.leading or (self.count,)), *self.of.shape[1:][-1:])

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "rows", "of": self.of.to_json(leaf_of), "start": self.start, "count": self.count}


@dataclass(frozen=True)
class Concat(Transform):
    """Rows of one part after another. With `stack`, equal parts become slices of a tensor of one more
    dimension."""

    of: tuple[Transform, ...]
    stack: bool = False

    @property
    def parts(self) -> Sequence[Transform]:
        return self.of

    @property
    def shape(self) -> Shape:
        first = self.of[0].shape
        if self.stack:
            return (len(self.of), *first)
        return (sum(part.shape[0] for part in self.of), *first[1:])

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "concat", "of": [part.to_json(leaf_of) for part in self.of]}


@dataclass(frozen=True)
class Transpose(_Unary):
    """Each of `slices` equal row groups is a matrix, transposed."""

    slices: int = 1

    @property
    def shape(self) -> Shape:
        *lead, rows, columns = self.of.shape
        return (*lead, columns, rows)

    def to_json(self, leaf_of: Leaf = source) -> Json:
        of = self.of.to_json(leaf_of)
        if of["op"] == "transpose" and of.get("slices", 1) == self.slices:
            inner: Json = of["of"]
            return inner  # turned twice
        return {"op": "transpose", "of": of, "slices": self.slices}


@dataclass(frozen=True)
class Generated(Transform):
    """Values that no tensor of the checkpoint holds, one-dimensional, f32."""

    values: tuple[float, ...]

    @property
    def shape(self) -> Shape:
        return (len(self.values),)

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "generated", "values": list(self.values)}
