"""Count the classes of llama.cpp's converter that srd-rs converts, and name those that it does not.

    python scripts/count_classes.py --llama-cpp vendor/llama.cpp
    python scripts/count_classes.py --lines

The folder of llama.cpp is in the source distribution of llama-cpp-python. Nothing of it is run: the script reads the
two tables of classes in conversion/__init__.py. With `--lines`, the lines of the tables are counted instead: the lines
of a table are shared out among its classes, and rows that several tables share are not counted.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from statistics import median

from srd_rs.families import known_classes
from srd_rs.families.projectors import supported as with_projector

HALVES = {"TEXT_MODEL_MAP": "text and embeddings", "MMPROJ_MODEL_MAP": "projectors"}


def classes_of(source: str) -> dict[str, set[str]]:
    """Return the names of the classes in each table of the converter."""
    found = {}
    for node in ast.parse(source).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id in HALVES and node.value is not None:
            found[target.id] = set(ast.literal_eval(node.value))
    return found


def lines_of(folder: Path) -> tuple[list[int], list[float]]:
    """Return the number of lines of each table of a folder, and of each class its share of its table."""
    tables, shares = [], []
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.value, ast.Call):
                continue
            classes = [part.value for part in node.value.keywords if part.arg == "classes"]
            classes += [part for part in node.value.args if isinstance(part, ast.Tuple)][:1]
            if classes and isinstance(classes[0], ast.Tuple) and classes[0].elts and node.end_lineno:
                count = node.end_lineno - node.lineno + 1
                tables.append(count)
                shares += [count / len(classes[0].elts)] * len(classes[0].elts)
    return tables, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--llama-cpp", type=Path, help="folder with conversion/")
    what.add_argument("--lines", action="store_true", help="count the lines of the tables")
    options = parser.parse_args()
    if options.lines:
        families = Path(__file__).resolve().parent.parent / "python" / "srd_rs" / "families"
        for name, folder in (
            ("text", families / "tables"),
            ("projectors", families / "projectors" / "tables"),
        ):
            tables, shares = lines_of(folder)
            print(
                f"{name}: {len(tables)} tables, median {median(tables):g} lines; {len(shares)} classes, median"
                f" {median(shares):g} lines each"
            )
        return
    source = (options.llama_cpp / "conversion" / "__init__.py").read_text(encoding="utf-8")
    known = {"TEXT_MODEL_MAP": set(known_classes()), "MMPROJ_MODEL_MAP": set(with_projector())}
    for table, wanted in classes_of(source).items():
        missing = sorted(wanted - known[table])
        print(f"{HALVES[table]}: {len(wanted) - len(missing)} of {len(wanted)}")
        print("".join(f"  missing: {name}\n" for name in missing), end="")


if __name__ == "__main__":
    main()
