"""This module evaluates the small expressions of family tables, such as ``n_head * v_head_dim`` or ``layer < 3``.

An expression is part of this package, but the values that it names come from config.json, which is hostile. So an
expression has no loops, no calls, no attributes and no powers: evaluating it takes as many steps as it has signs.
A list of config.json has one value per layer, and ``layer_types[layer]`` takes the value of one layer. Numbers are
bounded, and whatever goes wrong is a `ModelError` of the configuration.

    >>> evaluate("2 * width if tied == 1 else width", {"width": 4, "tied": 1}.get, ValueError)
    8
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

MAX_NUMBER: Final = 2**53
"""Numbers that an expression yields stay below this bound, as sizes and counts do."""

_BINARY: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_COMPARE: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

Names = Callable[[str], Any]
"""The value of a name; None stands for absent."""


@cache
def parsed(text: str) -> ast.expr:
    """Parse an expression. Raises ValueError if the expression uses more than the language has."""
    known: list[type[ast.AST]] = [ast.Name, ast.Load, ast.BinOp, ast.Compare, ast.BoolOp, ast.And, ast.Or]
    known += [ast.IfExp, ast.UnaryOp, ast.Not, ast.USub, ast.Subscript, *_BINARY, *_COMPARE]
    tree = ast.parse(text, mode="eval").body
    for node in ast.walk(tree):
        constant = isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None)))
        if not constant and not isinstance(node, tuple(known)):
            raise ValueError(f"{text}: {type(node).__name__} is not part of the language of tables")
    return tree


def names_in(text: str) -> set[str]:
    """Return the names that an expression uses."""
    return {node.id for node in ast.walk(parsed(text)) if isinstance(node, ast.Name)}


def evaluate(text: str, names: Names, fail: Callable[[str], Exception]) -> Any:
    """Return the value of an expression. `fail` makes the exception for values that do not go together."""
    try:
        value = _value(parsed(text), names)
    except (TypeError, ZeroDivisionError, OverflowError, IndexError) as error:
        raise fail(f"{text} cannot be computed: {error}") from None
    if isinstance(value, (int, float)) and not -MAX_NUMBER < value < MAX_NUMBER:
        raise fail(f"{text} is out of range")
    return value


def _value(node: ast.expr, names: Names) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            return names(name)
        case ast.BinOp(left, sign, right):
            numbers = _number(left, names), _number(right, names)
            return _bounded(_BINARY[type(sign)](*numbers))
        case ast.Compare(left, [sign], [right]):
            return _COMPARE[type(sign)](_value(left, names), _value(right, names))
        case ast.BoolOp(sign, parts):
            test = all if isinstance(sign, ast.And) else any
            return test(_value(part, names) for part in parts)
        case ast.IfExp(test, yes, no):
            return _value(yes if _value(test, names) else no, names)
        case ast.Subscript(ast.Name(name), index):
            values = names(name)
            if not isinstance(values, list):
                raise TypeError(f"{name} is no list")
            return values[int(_number(index, names))]
        case ast.UnaryOp(ast.Not(), operand):
            return not _value(operand, names)
        case ast.UnaryOp(ast.USub(), operand):
            return -_number(operand, names)
    raise TypeError(f"{ast.unparse(node)} is not one comparison")


def _number(node: ast.expr, names: Names) -> int | float:
    value = _value(node, names)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{ast.unparse(node)} is {str(value)[:40]!r}, a number is expected")
    return value


def _bounded(value: int | float) -> int | float:
    if not -MAX_NUMBER < value < MAX_NUMBER:
        raise OverflowError("a number is out of range")
    return value
