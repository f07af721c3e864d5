"""This module evaluates the small expressions of family tables, such as ``n_head * v_head_dim`` or ``layer < 3``.

An expression is part of this package, but the values that it names come from config.json, which is hostile. So an
expression has no attributes and no powers, calls only the functions of `FUNCTIONS`, and loops only over one list of
bounded length. Numbers are bounded, and whatever goes wrong is a `ModelError` of the configuration.

``layer_types[layer]`` takes one value of a list, ``rope['factor']`` one value of an object. A value that an object
does not have is None, and so is any value of None. ``has('lm_head.weight')`` says whether the checkpoint has a tensor,
``layer_has('mlp.gate.weight')`` whether the layer has one. ``value('gain')`` and ``layer_value('mlp.act_fn.beta')`` are
the numbers of tensors that hold one number, such as settings of an activation that become metadata. ``rows_of('x')`` is
the number of rows of a tensor, and ``integers('x')`` are the values of a small tensor of integers. ``token('yes')`` is
the id of a token of the tokenizer. ``named('x')`` says whether the name of the model, its class or a heading of its
card has a text in any case.
``stored('x')`` is ``has('x')`` for the conditions of `FamilyTable.skip`, which are asked before it is known what the
model has; the name is that of the file. ``file('x')`` says whether the folder has a file, and ``states('x')`` whether
config.json has a key, be it with the value null.

    >>> evaluate("2 * width if tied == 1 else width", {"width": 4, "tied": 1}.get, ValueError)
    8
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from statistics import NormalDist, StatisticsError
from typing import Any, Final

from srd_rs.errors import SrdError

MAX_NUMBER: Final = 2**53
"""Numbers that an expression yields stay below this bound, as sizes and counts do."""

MAX_LIST: Final = 1 << 16
"""A list that an expression makes, or goes through, has at most this many values."""

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
    ast.In: lambda value, values: value in _listed(values),
    ast.NotIn: lambda value, values: value not in _listed(values),
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def _listed(values: Any) -> Any:
    if not isinstance(values, (list, dict)):
        raise TypeError(f"{str(values)[:40]!r} is no list")
    return values


def _first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def _fill(value: Any, count: Any) -> list[Any]:
    """Return a list of `count` equal values."""
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_LIST:
        raise TypeError(f"a list cannot have {str(count)[:40]} values")
    return [value] * count


def _joined(*lists: Any) -> list[Any]:
    """Return one list after another."""
    return [value for values in lists for value in _listed(values)]


def _padded(values: Any, count: int, value: Any) -> list[Any]:
    """Return the first `count` values of a list, with `value` where the list is shorter."""
    return [*_listed(values)[:count], *_fill(value, max(0, count - len(values)))]


def _numbers(text: Any, separator: str = ",") -> list[int]:
    """Return the numbers of a text such as ``3,4,5``."""
    if not isinstance(text, str) or len(text) > MAX_LIST:
        raise TypeError(f"{str(text)[:40]!r} is no text with numbers")
    return [int(part) for part in text.split(separator) if part.strip()]


def _ordered(values: Any, keys: Any) -> list[Any]:
    """Return values in the order of their keys, which are numbers; equal keys keep their order."""
    pairs = zip(_listed(keys), _listed(values), strict=True)
    return [value for _, value in sorted(pairs, key=lambda pair: float(pair[0]))]


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*values: Any) -> Any:
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{str(value)[:40]!r} is no number")
        return function(*values)

    return checked


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "int": _of_numbers(int),
    "float": _of_numbers(float),
    "min": _of_numbers(min),
    "max": _of_numbers(max),
    "abs": _of_numbers(abs),
    "ceil": _of_numbers(math.ceil),
    "sqrt": _of_numbers(math.sqrt),
    "pow": _of_numbers(math.pow),
    "log": _of_numbers(math.log),
    "icdf": _of_numbers(lambda share: NormalDist().inv_cdf(share) if share else -math.inf),
    "len": lambda values: len(values if isinstance(values, str) else _listed(values)),
    "count": lambda values, value: sum(part == value for part in _listed(values)),
    "first": _first,
    "fill": _fill,
    "join": _joined,
    "pad": _padded,
    "numbers": _numbers,
    "ordered": _ordered,
    "plus_index": lambda values: [value + index for index, value in enumerate(_listed(values))],
    "flat": lambda lists: _joined(*_listed(lists)),
    "is_list": lambda value: isinstance(value, list),
    "is_text": lambda value: isinstance(value, str),
}
"""What an expression may call, beside the functions that look at tensors. ``icdf`` is the inverse of the cumulative
normal distribution; ``count`` counts how often a list has a value."""
_OF_TENSORS: Final = (
    "has",
    "layer_has",
    "value",
    "layer_value",
    "rows_of",
    "integers",
    "token",
    "named",
    "stored",
    "file",
    "states",
)

Names = Callable[[str], Any]
"""The value of a name; None stands for absent. For ``has('x')`` the name is ``has x``."""


@cache
def parsed(text: str) -> ast.expr:
    """Parse an expression. Raises ValueError if the expression uses more than the language has."""
    known: list[type[ast.AST]] = [ast.Name, ast.Load, ast.BinOp, ast.Compare, ast.BoolOp, ast.And, ast.Or]
    known += [ast.IfExp, ast.UnaryOp, ast.Not, ast.USub, ast.Subscript, ast.List, *_BINARY, *_COMPARE]
    known += [ast.Call, ast.ListComp, ast.comprehension, ast.Store]
    tree = ast.parse(text.strip(), mode="eval").body
    for node in ast.walk(tree):
        constant = isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None)))
        if not (constant or isinstance(node, tuple(known))) or not _allowed(node):
            raise ValueError(f"{text}: {type(node).__name__} is not part of the language of tables")
    return tree


def _allowed(node: ast.AST) -> bool:
    """Say whether calls and loops are those of the language: known functions, and one loop over one list."""
    match node:
        case ast.Call(ast.Name(name), arguments, []):
            return name in FUNCTIONS or (name in _OF_TENSORS and len(arguments) == 1)
        case ast.ListComp(_, [ast.comprehension(ast.Name(), _, [], 0)]):
            return sum(isinstance(part, ast.ListComp) for part in ast.walk(node)) == 1
        case ast.Call() | ast.ListComp():
            return False
    return True


@cache
def names_in(text: str) -> frozenset[str]:
    """Return the names of values that an expression uses. ``layer_has`` and
    ``layer_value`` use ``layer``."""
    nodes = list(ast.walk(parsed(text)))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    names = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called}
    uses = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return frozenset(names | ({"layer"} if {"layer_has", "layer_value"} & uses else set()))


def evaluate(text: str, names: Names, fail: Callable[[str], Exception]) -> Any:
    """Return the value of an expression. `fail` makes the exception for values that do not go together."""
    try:
        value = _value(parsed(text), names)
    except SrdError:  # a value of config.json that is wrong, and whose message says so
        raise
    except (
        ArithmeticError, IndexError, KeyError, RecursionError, StatisticsError, TypeError, ValueError
    ) as error:  # fmt: skip
        raise fail(f"{text} cannot be computed: {error}") from None
    if _is_too_large(value):
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
        case ast.Subscript(of, index):
            return _entry(of, _value(of, names), _value(index, names))
        case ast.List(parts):
            return [_value(part, names) for part in parts]
        case ast.Call(ast.Name(name), [ast.expr() as part]) if name in _OF_TENSORS:
            return names(f"{name} {_value(part, names)}")
        case ast.Call(ast.Name(name), parts):
            return _bounded(FUNCTIONS[name](*(_value(part, names) for part in parts)))
        case ast.ListComp(part, [ast.comprehension(ast.Name(name), source)]):
            values = _listed(_value(source, names))
            if len(values) > MAX_LIST:
                raise TypeError(f"{ast.unparse(source)} has more than {MAX_LIST} values")
            return [
                _value(part, lambda asked, value=value: value if asked == name else names(asked))  # type: ignore[misc]
                for value in values
            ]
        case ast.UnaryOp(ast.Not(), operand):
            return not _value(operand, names)
        case ast.UnaryOp(ast.USub(), operand):
            return -_number(operand, names)
    raise TypeError(f"{ast.unparse(node)} is not one comparison")


def _entry(node: ast.expr, values: Any, index: Any) -> Any:
    """Return one value of a list, an object, or None."""
    if isinstance(index, str):
        if values is None:
            return None
        if not isinstance(values, dict):
            raise TypeError(f"{ast.unparse(node)} is no object")
        return values.get(index)
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"{str(index)[:40]!r} is no index")
    if not isinstance(values, (list, str)):
        raise TypeError(f"{ast.unparse(node)} is no list")
    return values[index]


def _number(node: ast.expr, names: Names) -> int | float:
    value = _value(node, names)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{ast.unparse(node)} is {str(value)[:40]!r}, a number is expected")
    return value


def _is_too_large(value: Any) -> bool:
    """Say whether a number is out of range. Minus infinity, which ``icdf(0)`` is, is a value of its own."""
    return isinstance(value, (int, float)) and not -MAX_NUMBER < value < MAX_NUMBER and value != -math.inf


def _bounded(value: Any) -> Any:
    if _is_too_large(value):
        raise OverflowError("a number is out of range")
    if isinstance(value, list) and len(value) > MAX_LIST:
        raise OverflowError(f"a list has more than {MAX_LIST} values")
    return value
