"""The list of mistakes in scripts/mutations.py fits the source. The script itself runs the tests, which takes long."""

from __future__ import annotations

import sys

import pytest

from support import REPO

sys.path.insert(0, str(REPO / "scripts"))
import mutations


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_mistake_can_be_made(mutation: mutations.Mutation) -> None:
    source = (REPO / mutations.PACKAGE / mutation.file).read_text()
    assert source.count(mutation.old) == 1 and mutation.new != mutation.old
    for path, _, test in (word.partition("[")[0].partition("::") for word in mutation.tests):
        assert f"\ndef {test}(" in (REPO / path).read_text()


def test_the_list_is_as_long_as_the_review_asked_for() -> None:
    assert len(mutations.MUTATIONS) >= 29
    assert len({mutation.name for mutation in mutations.MUTATIONS}) == len(mutations.MUTATIONS)
