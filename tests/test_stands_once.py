"""The same knowledge stands once: a pattern of the code that states it is found in one file of crate and package, and a
module of Python gives a name once."""

from __future__ import annotations

import ast
import re

import pytest

from support import REPO

#: Rust files that are compiled for tests alone.
TEST_FILE = re.compile(r"/(?:tests|testing|\w+_tests)\.rs$|/oracle/")
#: What must stand in one place -> (a pattern of the code that states it, the file where it stands).
ONCE = {
    "the list of mixes": (r'"Q4_K_S"', "src/quant/recipe/mixes.rs"),
    "the layer in the name of a GGUF tensor": (
        r'strip_prefix\("blk\.|r"\^?blk\\\.\(',
        "src/quant/recipe/names.rs",
    ),
    "the progress of a run": (r"\bstruct (?:Progress|Watch)\b", "src/progress.rs"),
    "an f16 codec": (r"0x477F_EFFF|\bhalf::f16::", "src/simd/f16.rs"),
    "the text part of a configuration": (r'"text_config"', "python/srd_rs/checkpoint.py"),
    "JSON of untrusted files": (r"object_pairs_hook", "python/srd_rs/reading.py"),
}


@pytest.mark.parametrize("what", ONCE)
def test_knowledge_stands_once(what: str) -> None:
    pattern, home = re.compile(ONCE[what][0]), ONCE[what][1]
    found = set()
    for path in [*(REPO / "src").rglob("*.rs"), *(REPO / "python" / "srd_rs").rglob("*.py")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        # The unit tests of a Rust file stand at its end.
        end = next((i for i, line in enumerate(lines) if line.strip() == "#[cfg(test)]"), len(lines))
        code = [line for line in lines[:end] if not line.lstrip().startswith(("//", "#"))]
        if not TEST_FILE.search(path.as_posix()) and any(pattern.search(line) for line in code):
            found.add(path.relative_to(REPO).as_posix())
    assert found == {home}


def names_in(*expressions: ast.expr) -> set[str]:
    """The names that stand in expressions."""
    return {node.id for e in expressions for node in ast.walk(e) if isinstance(node, ast.Name)}


def given_twice(source: str) -> list[str]:
    """The names that the top level of a module gives twice, where the second value is not made of the first."""
    given: set[str] = set()
    twice = []
    for statement in ast.parse(source).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names, used = {statement.name}, set()
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names, used = names_in(*targets), names_in(statement.value)
        else:
            continue
        twice += sorted((names & given) - used)
        given |= names
    return twice


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("CASES = 1\nCASES = 2\n", ["CASES"]),
        ("CASES: int = 1\nOTHER = CASES = 2\n", ["CASES"]),
        ("CASES = 1\ndef CASES(): ...\n", ["CASES"]),
        ("CASES = (1,)\nCASES = (*CASES, 2)\n", []),
        ("CASES: int\nCASES = 2\ndef f():\n    CASES = 3\n", []),
    ],
)
def test_what_a_second_value_hides_is_found(source: str, names: list[str]) -> None:
    assert given_twice(source) == names


@pytest.mark.parametrize("folder", ["benches", "fuzz", "python", "scripts", "tests"])
def test_a_module_gives_a_name_once(folder: str) -> None:
    """A second value hides the first without a word: cases of tests would never run."""
    files = sorted((REPO / folder).rglob("*.py"))
    assert files
    hidden = {
        file.relative_to(REPO).as_posix(): given_twice(file.read_text(encoding="utf-8")) for file in files
    }
    assert not {name: names for name, names in hidden.items() if names}
