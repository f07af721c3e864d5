"""What a step of a table does to an update of low rank.

A matrix ``W`` of the checkpoint gets the update ``B A``, and the GGUF holds ``T(W)`` for some transform ``T``. An
adapter in GGUF needs two matrices whose product is ``T(B A)``. Steps that act on rows act on ``B``, steps that act on
columns act on ``A``, and a transposed matrix exchanges the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from srd_rs.transforms import (
    Affine,
    Concat,
    PadRows,
    PermuteHeads,
    Reshape,
    Shape,
    Source,
    Transform,
    Transpose,
    View,
    reordered,
)


@dataclass(frozen=True)
class Factors:
    """An update. `down` (A) has the shape ``(rank, *columns)``, `up` (B) has the shape ``(*rows, rank)``. The update of
    stacked experts has one more dimension before the others, in both."""

    down: Transform
    up: Transform
    rows: Shape
    columns: Shape
    stacked: bool = False

    @property
    def rank(self) -> int:
        return self.up.shape[-1]


class NoFactorsError(ValueError):
    """The step has no equal for the matrices of an update."""


def factored(transform: Transform, source: Callable[[str], Factors]) -> Factors:
    """Return the update of a tensor of the GGUF. `source` gives the update of a tensor of the checkpoint. Raises
    NoFactorsError."""
    match transform:
        case Source():
            return source(transform.tensor)
        case Concat():
            return _concatenated(transform, [factored(part, source) for part in transform.of])
        case Affine() | PermuteHeads() | PadRows() | Reshape() | View() | Transpose():
            of = factored(transform.of, source)
            if of.stacked:
                raise NoFactorsError("a step follows the stacking of the experts")
            return _done(transform, of)
    raise NoFactorsError(f"the step {type(transform).__name__} is not linear")


def _done(step: Affine | PermuteHeads | PadRows | Reshape | View | Transpose, of: Factors) -> Factors:
    match step:
        case Affine():  # a summand belongs to the weight, and not to its update
            return of if step.mul == 1.0 else replace(of, up=Affine(of.up, step.mul))
        case PermuteHeads():
            return replace(of, up=PermuteHeads(of.up, step.heads))
        case PadRows():
            up = PadRows(of.up, step.rows)
            return replace(of, up=up, rows=(step.rows, *of.rows[1:]))
        case Reshape():
            return _reshaped(of, step.to)
        case Transpose():
            if step.slices != 1 or len(of.rows) != 1 or len(of.columns) != 1:
                raise NoFactorsError("the matrices of a stack are transposed")
            return Factors(Transpose(of.up), Transpose(of.down), of.columns, of.rows)
        case View():
            return _viewed(of, step)


def _reshaped(of: Factors, shape: Shape) -> Factors:
    """Rows stay rows, and columns stay columns."""
    count = math.prod(of.rows)
    for split in range(len(shape) + 1):
        rows, columns = shape[:split], shape[split:]
        if math.prod(rows) == count and math.prod(columns) == math.prod(of.columns):
            down, up = Reshape(of.down, (of.rank, *columns)), Reshape(of.up, (*rows, of.rank))
            return Factors(down, up, rows, columns)
    raise NoFactorsError("rows and columns are mixed")


def _viewed(of: Factors, view: View) -> Factors:
    """The axes of a view that go from row to row, and those that stay in a row."""
    width = math.prod(of.columns)
    first_row, first_column = divmod(view.offset, width)
    axes = list(zip(view.to, view.strides, strict=True))
    row_axes = [(size, stride // width) for size, stride in axes if not stride % width and stride]
    column_axes = [(size, stride) for size, stride in axes if stride % width]
    last = first_column + sum((size - 1) * stride for size, stride in column_axes)
    if len(row_axes) + len(column_axes) != len(axes) or last >= width:
        raise NoFactorsError("rows and columns are mixed")
    rows, columns = tuple(size for size, _ in row_axes), tuple(size for size, _ in column_axes)
    up_strides = (*(stride * of.rank for _, stride in row_axes), 1)
    up = View(of.up, (*rows, of.rank), up_strides, first_row * of.rank)
    down_strides = (width, *(stride for _, stride in column_axes))
    down = View(of.down, (of.rank, *columns), down_strides, first_column)
    found = Factors(_plain(down, of.down), _plain(up, of.up), rows, columns)
    if axes == [(size, stride * width) for size, stride in row_axes] + column_axes:
        return found
    if axes == column_axes + [(size, stride * width) for size, stride in row_axes]:
        turned_down = reordered(found.up, (len(rows), *range(len(rows))))
        turned_up = reordered(found.down, (*range(1, len(columns) + 1), 0))
        return Factors(turned_down, turned_up, columns, rows)
    raise NoFactorsError("rows and columns are mixed")


def _plain(view: View, of: Transform) -> Transform:
    """Return what the view is of where the view changes nothing."""
    strides = [math.prod(of.shape[axis + 1 :]) for axis in range(len(of.shape))]
    same = view.to == of.shape and list(view.strides) == strides and not view.offset
    return of if same else view


def _concatenated(concat: Concat, parts: list[Factors]) -> Factors:
    first = parts[0]
    if any(part.stacked for part in parts):
        raise NoFactorsError("stacked experts are put together")
    if concat.stack:
        if len({(part.rank, part.rows, part.columns) for part in parts}) != 1:
            raise NoFactorsError("the updates of the experts have several ranks")
        downs, ups = tuple(part.down for part in parts), tuple(part.up for part in parts)
        return replace(first, down=Concat(downs, stack=True), up=Concat(ups, stack=True), stacked=True)
    if any(part.down != first.down for part in parts):
        raise NoFactorsError("several updated matrices become one")
    if not first.rows or any(part.rows[1:] != first.rows[1:] for part in parts):
        raise NoFactorsError("columns are put together")
    rows = (sum(part.rows[0] for part in parts), *first.rows[1:])
    return replace(first, up=Concat(tuple(part.up for part in parts)), rows=rows)
