"""llama.cpp on our vocabulary gives the ids of the tokenizer's own library: every kind and every way of splitting.

`scripts/compare_tokens.py` does the same with more texts, and with every name that llama.cpp has for a splitting.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from srd_rs.vocab import pretokenizer
from token_cases import Case, cases, compare
from token_texts import token_texts

TEXTS = 250


def once() -> list[Case]:
    """The cases without further names of a splitting, and without the vocabularies of published models, which are
    large."""
    found = {}
    for case in cases():
        if not case.name.startswith("tekken_"):
            same = pretokenizer.steps_named(case.name), case.name in pretokenizer.WHOLE_WORDS
            found.setdefault(same if case.make_crossing else (case.kind, case.name), case)
    return list(found.values())


@pytest.mark.parametrize("case", once(), ids=lambda case: f"{case.kind} {case.name}")
def test_llama_cpp_reads_as_the_library(tmp_path: Path, case: Case) -> None:
    for package in ("llama_cpp", "tokenizers", "sentencepiece", "tiktoken", "mistral_common"):
        pytest.importorskip(package, reason=f"{package} is not installed: nothing was compared with it")
    found = compare(case, tmp_path, TEXTS)
    assert found.unexplained == ()
    assert case.differs or found.different == ()


def test_every_name_has_a_case() -> None:
    names = {case.name for case in cases()}
    assert names >= pretokenizer.KNOWN - pretokenizer.UNCUT - {"whitespace"}


def test_the_texts_are_many_and_of_many_scripts() -> None:
    texts = token_texts(1000)
    assert len(set(texts)) > 990
    names = [unicodedata.name(character, "").partition(" ")[0] for character in set("".join(texts))]
    assert sum(count > 5 for count in Counter(names).values()) > 40
