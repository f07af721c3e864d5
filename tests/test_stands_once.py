"""The same knowledge stands once: a pattern of the code that states it is found in one file of crate and package."""

from __future__ import annotations

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
