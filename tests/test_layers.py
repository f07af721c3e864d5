"""The modules of the package lie in layers that only look down, as the table of docs/architecture.md has them.

The crate has the same test in tests/layers.rs. Imports inside functions count: they only make the start quicker.
"""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from support import REPO

PACKAGE = REPO / "python" / "srd_rs"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """The nodes of `if TYPE_CHECKING:` blocks, which no program runs."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {node for block in blocks for part in block.body for node in ast.walk(part)}


def imports_of(module: str) -> set[str]:
    """The modules of the package that a module imports, or names in `import_module`."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    skipped = type_checking_only(tree)
    named: list[str] = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import; name the module in full"
            named += [f"{node.module}.{alias.name}" for alias in node.names]
    found = set()
    for name in named:
        if name != "srd_rs" and not name.startswith("srd_rs."):
            continue
        path = name.removeprefix("srd_rs").strip(".").split(".")
        while ".".join(path) not in MODULES and path[:1] != ["_core"]:
            path.pop()
        if path[:1] != ["_core"]:
            found.add(".".join(path))
    # A package's own names, and a package's parts seen from the package, are one thing.
    return {
        n
        for n in found
        if n and n != module and not module.startswith(n + ".") and not n.startswith(module + ".")
    }


def layers() -> dict[str, int]:
    """Module or package -> the number of its layer, from the document's table."""
    text = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split("## Layers of the package", 1)[1].split("\n## ", 1)[0]
    found = {}
    for number, names in re.findall(r"^\| (\d+) \| ([^|]*) \|", section, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", names):
            found[name] = int(number)
    return found


def layer_of(module: str, table: dict[str, int]) -> int | None:
    """The layer of a module, or of the nearest package around it."""
    parts = module.split(".")
    return next(
        (table[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in table), None
    )


#: These two are the package as users see it, and its command line's entry: they lie above all layers.
ENTRIES = ("", "__main__")


def test_no_circle() -> None:
    graph = {module: imports_of(module) for module in MODULES if module not in ENTRIES}
    assert sum(map(len, graph.values())) > 100, "the test sees hardly any import"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' -> '.join(error.args[1])}") from None


def test_imports_look_down() -> None:
    table = layers()
    up = []
    for module in MODULES:
        if module in ENTRIES:
            continue
        own = layer_of(module, table)
        assert own is not None, f"{module} stands in no row of docs/architecture.md"
        print(f"{own}  {module:<28} uses {' '.join(sorted(imports_of(module)))}")
        up += [
            f"{module} (layer {own}) uses {used}"
            for used in sorted(imports_of(module))
            if (layer_of(used, table) or 0) > own
        ]
    assert up == []


def test_the_table_names_what_is_there() -> None:
    assert sorted(name for name in layers() if name not in MODULES) == []
