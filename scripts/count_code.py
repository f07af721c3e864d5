#!/usr/bin/env python3
"""Print how large the crate is without its tests, and how many places are unsafe, for git revisions.

    python scripts/count_code.py [REVISION...]

Without arguments the working tree is counted. Test code is a `#[cfg(test)]` module, or a file or folder that the crate
includes only for tests (tests.rs, *_tests.rs, testing.rs, oracle/). `lines` are all other lines, `code`
those that are neither blank nor a comment. An unsafe place is an `unsafe` block, function, impl or extern.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TEST_FILE = re.compile(r"(^|/)(tests|testing|\w+_tests)\.rs$|/(oracle|tests)/")
UNSAFE = re.compile(r"\bunsafe\s*(\{|fn\b|impl\b|extern\b)")


def sources(revision: str | None) -> Iterator[tuple[str, str]]:
    """Path and text of every Rust file below src/."""
    if revision is None:
        for path in sorted((REPO / "src").rglob("*.rs")):
            yield str(path.relative_to(REPO)), path.read_text(encoding="utf-8")
        return
    names = ["git", "ls-tree", "-r", "--name-only", revision, "src"]
    for name in subprocess.run(
        names, cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if name.endswith(".rs"):
            show = ["git", "show", f"{revision}:{name}"]
            yield name, subprocess.run(show, cwd=REPO, capture_output=True, text=True, check=True).stdout


def without_tests(text: str) -> str:
    """The text of a file without the modules that are compiled for tests alone."""
    kept: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip() != "#[cfg(test)]":
            kept.append(line)
            continue
        depth, body = 0, []
        for inner in lines:
            body.append(inner)
            depth += inner.count("{") - inner.count("}")
            if depth <= 0 and (inner.rstrip().endswith((";", "}")) or inner.strip() == "}"):
                break
        # Attributes of the same item stand before it.
        while kept and kept[-1].strip().startswith("#["):
            kept.pop()
    return "\n".join(kept)


def is_code(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("//")


def count(revision: str | None) -> dict[str, int]:
    totals = dict.fromkeys(("files", "lines", "code", "unsafe"), 0)
    for name, text in sources(revision):
        if TEST_FILE.search(name):
            continue
        kept = without_tests(text).splitlines()
        code = [line for line in kept if is_code(line)]
        totals["files"] += 1
        totals["lines"] += len(kept)
        totals["code"] += len(code)
        totals["unsafe"] += sum(len(UNSAFE.findall(line.split("//")[0])) for line in code)
    return totals


def main() -> None:
    print("| revision | files | lines | code | unsafe |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for revision in sys.argv[1:] or [None]:
        totals = count(revision)
        print(f"| {revision or 'working tree'} | " + " | ".join(f"{n:,}" for n in totals.values()) + " |")


if __name__ == "__main__":
    main()
