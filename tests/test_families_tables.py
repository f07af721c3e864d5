"""Families as tables: the language of expressions, rows and lines, and classes that stand for others."""

from __future__ import annotations

from typing import Any

import pytest

from srd_rs.errors import ModelError
from srd_rs.families import describe, supported
from srd_rs.families.expressions import evaluate, names_in, parsed
from srd_rs.families.schema import FamilyTable, Rows, Step, metadata_line, row_of
from srd_rs.families.tables import names, tables
from test_models import LLAMA, checkpoint, llama_tensors

VALUES: dict[str, Any] = {
    "a": 6,
    "b": 4,
    "none": None,
    "text": "x",
    "big": 2**52,
    "zero": 0,
    "list": [1],
    "object": {"x": 3},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a * b + 1", 25), ("a // b", 1), ("a % b", 2), ("a / b", 1.5), ("-a", -6), ("a - b", 2),
        ("none == None", True), ("a if none == None else b", 6), ("a < b or b < a", True), ("not zero", True),
        ("text == 'x' and a >= 6", True), ("a != 6", False), ("list", [1]), ("list[0] + 1", 2), ("list[zero]", 1),
        ("object['x']", 3), ("object['y']", None), ("none['x']['y']", None), ("first(none, a)", 6),
        ("[part + 1 for part in list]", [2]), ("join(list, fill(0, 2))", [1, 0, 0]), ("pad(list, 3, 7)", [1, 7, 7]),
        ("1 in list", True), ("count(list, 1)", 1), ("min(a, b)", 4), ("int(a * 0.25)", 1), ("ceil(a / b)", 2),
        ("[a, b]", [6, 4]), ("pow(a, 2)", 36.0), ("numbers('3, 4,')", [3, 4]),
        ("'x' in ['x', 'y']", True), ("has('x') or layer_has('x')", False), ("len(list)", 1),
        ("text[0]", "x"),
    ],
)  # fmt: skip
def test_expressions(text: str, value: Any) -> None:
    assert evaluate(text, VALUES.get, ModelError) == value


@pytest.mark.parametrize(
    "text",
    [
        "a // zero",
        "a % zero",
        "a + none",
        "a * text",
        "big * big",
        "a < none",
        "list + a",
        "-text",
        "big + big",
        "list[a]",
        "text[1]",
        "numbers(a)",
        "numbers(text)",
        "pow(big, big)",
        "list['x']",
        "fill(0, big)",
        "min(a, text)",
        "int(1e999)",
        "sqrt(-a)",
        "a in text",
        "icdf(a)",
    ],
)
def test_values_that_do_not_go_together_are_errors(text: str) -> None:
    with pytest.raises(ModelError):
        evaluate(text, VALUES.get, ModelError)


@pytest.mark.parametrize(
    "text",
    [
        "a ** b",
        "f(a)",
        "a.b",
        "a[0:1]",
        "[b for b in [c for c in a]]",
        "[b for b in a if b]",
        "a(b)(c)",
        "min(a, *b)",
        "int(a, base=2)",
        "lambda: a",
        "a << b",
        "a if b else c for c in d",
        "{}",
        "(a := b)",
    ],
)
def test_more_than_the_language_has_is_refused(text: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        parsed(text)


def test_names_of_expressions() -> None:
    assert names_in("a * b if c == 'd' else 2") == {"a", "b", "c"}


@pytest.mark.parametrize("text", ["a > b", "a b | d", "a > b | d | strange", "> | "])
def test_rows_in_the_wrong_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|flag"):
        row_of(text)


ROW = "proj > a | d 2 x | "


@pytest.mark.parametrize(
    "flags",
    [
        "rows(1)",
        "cols(1, 2, 3)",
        "reshape()",
        "rows(f(1), 2)",
        "transpose(1)",
        "slice(0, 1",
    ],
)
def test_steps_in_the_wrong_form_are_refused(flags: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        row_of(ROW + flags)


def test_a_row_is_taken_apart() -> None:
    row = row_of("a + b! > c=.bias | q d + k d | rows(0, n_head * 2) squeeze bias? ? f32")
    assert row.sources == (("a", ".weight", ("q", "d")), ("b", "", ("k", "d")))
    assert (row.target, row.target_suffix, row.bias, row.needed, row.f32) == (
        "c",
        ".bias",
        "maybe",
        False,
        True,
    )
    assert row.steps == ((Step("rows", ("0", "n_head * 2")), Step("squeeze")),)
    parts = row_of("a > b | q d | rows(0, h) + rows(h, h) squeeze")
    assert [name for name, _, _ in parts.sources] == ["a", "a"] and [len(s) for s in parts.steps] == [1, 2]


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a*)*", "(", "(a+){2}"])
def test_patterns_that_may_take_long_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"repeats|regular"):
        FamilyTable(arch="x", classes=("X",), layer=(), renames=((pattern, "b"),))


def test_sizes_use_earlier_sizes_alone() -> None:
    with pytest.raises(ValueError, match="declared later"):
        FamilyTable(arch="x", classes=("X",), layer=(), sizes={"a": "b + 1", "b": "2"})


@pytest.mark.parametrize("text", ["u32 key", "i7 key = 1", "u32 key = f(1)"])
def test_lines_in_the_wrong_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not"):
        metadata_line(text)


def test_a_table_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="flag"):
        FamilyTable(arch="x", classes=("X",), layer=(Rows(("a > b | d | odd",)),))
    with pytest.raises(ValueError, match="needs an output matrix"):
        FamilyTable(arch="x", classes=("X",), layer=(), output=None, output_needed=True)


@pytest.mark.parametrize("name", names().spellings)
def test_other_spellings_stand_for_classes_that_are_known(name: str) -> None:
    assert names().spellings[name] in supported()


@pytest.mark.parametrize("kind", names().model_types)
def test_model_types_stand_for_classes_that_are_known(kind: str) -> None:
    assert names().model_types[kind] in supported()


def test_every_table_serves_classes_that_no_other_table_has() -> None:
    classes = [name for table in tables() for name in table.classes]
    assert len(classes) > 10 and len(set(classes)) == len(classes) and set(classes) <= set(supported())


@pytest.mark.parametrize("name", sorted(names().composites))
@pytest.mark.parametrize(
    ("part", "prefix"),
    [("text_config", "language_model."), ("llm_config", "language_model."), ("text_config", "nested")],
)
def test_the_text_model_of_a_composite(name: str, part: str, prefix: str) -> None:
    text = {**{k: v for k, v in LLAMA.items() if k != "architectures"}, "model_type": "llama"}
    shapes = llama_tensors()
    if prefix == "nested":
        named = {n.replace("model.", "model.text_model.", 1): shape for n, shape in shapes.items()}
    else:
        named = {prefix + n: shape for n, shape in shapes.items()}
    named["vision_tower.patch.weight"] = (8, 8)
    found = describe(checkpoint({"architectures": [name], part: text}, named))
    plain = describe(checkpoint(LLAMA, shapes))
    assert found.metadata.entries() == plain.metadata.entries()
    assert sorted((t.name, t.shape) for t in found.tensors) == sorted(
        (t.name, t.shape) for t in plain.tensors
    )
