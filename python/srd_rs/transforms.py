"""What happens to a tensor between the checkpoint and the GGUF: a small closed set of steps that stream by
rows.

A transform is a tree. Its leaves are tensors of the checkpoint or generated values; each node knows its shape
(row-major, as in the checkpoint), so that the shape which a source must have and the shape that is written
follow from the same declaration. `to_json` is what Rust runs; no weight passes through Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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


@dataclass(frozen=True)
class _Combined(Transform):
    """Parts with equally many elements, which `op` combines element by element."""

    op: ClassVar[str]
    of: tuple[Transform, ...]

    def __post_init__(self) -> None:
        if len({math.prod(part.shape) for part in self.of}) != 1:
            raise ValueError(f"{[part.shape for part in self.of]} have no {self.op}")

    @property
    def parts(self) -> Sequence[Transform]:
        return self.of

    @property
    def shape(self) -> Shape:
        return self.of[0].shape

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": self.op, "of": [part.to_json(leaf_of) for part in self.of]}


@dataclass(frozen=True)
class Product(_Combined):
    """The products of the elements of parts with equally many elements, in f32."""

    op = "product"


@dataclass(frozen=True)
class Sum(_Combined):
    """The sums of the elements of parts with equally many elements, in f32 and from the first part to the last."""

    op = "sum"


@dataclass(frozen=True)
class Bilinear(_Unary):
    """A table with a row for each position of a grid, for a grid of another size whose corners stay where they are.
    Between positions, rows are interpolated linearly along both axes."""

    grid: tuple[int, int]
    to: tuple[int, int]

    def __post_init__(self) -> None:
        rows = math.prod(self.grid)
        if not all(1 <= side <= 1 << 16 for side in (*self.grid, *self.to)) or self.of.shape[:1] != (rows,):
            raise ValueError(
                f"{self.of.shape} is no table for a grid of {self.grid}, or {self.to} is no grid"
            )

    @property
    def shape(self) -> Shape:
        return (math.prod(self.to), *self.of.shape[1:])

    def to_json(self, leaf_of: Leaf = source) -> Json:
        of = self.of.to_json(leaf_of)
        return {"op": "bilinear", "of": of, "from": list(self.grid), "to": list(self.to)}


@dataclass(frozen=True)
class NegExp(_Unary):
    """-exp(x), rounded to f32: the decay rates of state space models, which checkpoints store as logarithms."""

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "neg_exp", "of": self.of.to_json(leaf_of)}


@dataclass(frozen=True)
class Softplus(_Unary):
    """ln(1 + e^x), rounded to f32."""

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "softplus", "of": self.of.to_json(leaf_of)}


@dataclass(frozen=True)
class FoldedNorm(Transform):
    """The factor of a normalization over a batch whose statistics are fixed, ``weight / sqrt(variance + epsilon)``, or
    with `shift`, which is bias and mean, its summand ``bias - mean * factor``. Each step is rounded to f32."""

    weight: Transform
    variance: Transform
    epsilon: float
    shift: tuple[Transform, Transform] | None = None

    def __post_init__(self) -> None:
        if len({math.prod(part.shape) for part in self.parts}) != 1:
            raise ValueError(f"{[part.shape for part in self.parts]} are no normalization")

    @property
    def parts(self) -> Sequence[Transform]:
        return (self.weight, self.variance, *(self.shift or ()))

    @property
    def shape(self) -> Shape:
        return self.weight.shape

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {
            "op": "folded_norm",
            "weight": self.weight.to_json(leaf_of),
            "variance": self.variance.to_json(leaf_of),
            "shift": None if self.shift is None else [part.to_json(leaf_of) for part in self.shift],
            "epsilon": self.epsilon,
        }


@dataclass(frozen=True)
class Sinusoids(Transform):
    """Positions as sines and then cosines of frequencies from 1 to 1/10000, or with `open` to the one before. No
    tensor of the checkpoint holds them."""

    rows: int
    columns: int
    open: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= 1 << 20 or not 4 <= self.columns <= 1 << 16 or self.columns % 2:
            raise ValueError(f"{self.rows} x {self.columns} is no table of positions")

    @property
    def shape(self) -> Shape:
        return (self.rows, self.columns)

    def to_json(self, leaf_of: Leaf = source) -> Json:
        made: Json = {"op": "sinusoids", "rows": self.rows, "columns": self.columns}
        return {**made, "open": True} if self.open else made


def grid_of_positions(rows: int, columns: int, width: int) -> Transform:
    """Return a table of the positions of a grid, row by row. Half of the width has the sines and cosines of the column,
    the other half those of the row."""
    if width % 4:
        raise ValueError(f"a width of {width} cannot be divided by 4")
    half = width // 2
    of = Sinusoids(max(rows, columns), half, open=True)
    column = View(of, (rows, columns, half), (0, half, 1))
    row = View(of, (rows, columns, half), (half, 0, 1))
    both = Reshape(Concat((column, row)), (2, rows * columns, half))
    return Reshape(reordered(both, (1, 0, 2)), (rows * columns, width))


@dataclass(frozen=True)
class Ternary(_Unary):
    """The nearest of -s, 0 and s, where s is the mean magnitude of the tensor."""

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "ternary", "of": self.of.to_json(leaf_of)}


@dataclass(frozen=True)
class Reshape(_Unary):
    """The same elements in the same order under another shape."""

    to: Shape

    def __post_init__(self) -> None:
        if math.prod(self.to) != math.prod(self.of.shape):
            raise ValueError(f"shape {self.of.shape} cannot become {self.to}")

    @property
    def shape(self) -> Shape:
        return self.to

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "reshape", "of": self.of.to_json(leaf_of), "shape": list(self.to)}


@dataclass(frozen=True)
class PadRows(_Unary):
    """Rows of `value` are appended until there are `rows` rows."""

    rows: int
    value: float = 0.0

    @property
    def shape(self) -> Shape:
        return (self.rows, *self.of.shape[1:])

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {"op": "pad_rows", "of": self.of.to_json(leaf_of), "rows": self.rows, "value": self.value}


@dataclass(frozen=True)
class View(_Unary):
    """Element (i, j, ...) of the result is element ``offset + i * strides[0] + j * strides[1] + ...`` of the part.

    `taken` and `reordered` make the views that families use.
    """

    to: Shape
    strides: Shape
    offset: int = 0

    @property
    def shape(self) -> Shape:
        return self.to

    def to_json(self, leaf_of: Leaf = source) -> Json:
        return {
            "op": "view",
            "of": self.of.to_json(leaf_of),
            "shape": list(self.to),
            "strides": list(self.strides),
            "offset": self.offset,
        }


def _as_view(of: Transform) -> View:
    """Return `of` as a view that changes nothing; a view is returned as it is, so that views do not pile up."""
    if isinstance(of, View):
        return of
    strides = [1] * len(of.shape)
    for axis in range(len(of.shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * of.shape[axis]
    return View(of, of.shape, tuple(strides))


def taken(of: Transform, axis: int, start: int, count: int, step: int = 1) -> View:
    """Return `count` slices along an axis, every `step`-th from `start` on. Raises ValueError if there are not as
    many."""
    size = of.shape[axis]
    if start < 0 or count < 1 or step < 1 or start + (count - 1) * step >= size:
        raise ValueError(f"axis {axis} has {size} entries, but {count} from {start} by {step} are asked for")
    view = _as_view(of)
    axis %= len(view.to)
    shape = (*view.to[:axis], count, *view.to[axis + 1 :])
    strides = (*view.strides[:axis], view.strides[axis] * step, *view.strides[axis + 1 :])
    return View(view.of, shape, strides, view.offset + start * view.strides[axis])


def reordered(of: Transform, axes: Sequence[int]) -> View:
    """Return `of` with its axes in another order."""
    if sorted(axes) != list(range(len(of.shape))):
        raise ValueError(f"{list(axes)} is no order of {len(of.shape)} axes")
    view = _as_view(of)
    return View(view.of, tuple(view.to[a] for a in axes), tuple(view.strides[a] for a in axes), view.offset)
