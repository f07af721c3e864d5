"""Count the classes of llama.cpp's converter that srd-rs converts, and name those that it does not.

    python scripts/count_classes.py --llama-cpp vendor/llama.cpp

The folder of llama.cpp is in the source distribution of llama-cpp-python. Nothing of it is run: the script reads the
two tables of classes in conversion/__init__.py.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with conversion/")
    options = parser.parse_args()
    source = (options.llama_cpp / "conversion" / "__init__.py").read_text(encoding="utf-8")
    known = {"TEXT_MODEL_MAP": set(known_classes()), "MMPROJ_MODEL_MAP": set(with_projector())}
    for table, wanted in classes_of(source).items():
        missing = sorted(wanted - known[table])
        print(f"{HALVES[table]}: {len(wanted) - len(missing)} of {len(wanted)}")
        print("".join(f"  missing: {name}\n" for name in missing), end="")


if __name__ == "__main__":
    main()
