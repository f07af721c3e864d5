"""The workflow files name scripts, extras and systems that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import REPO

FILES = sorted((REPO / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_workflow_runs_what_is_there(path: Path) -> None:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert data["permissions"] == {"contents": "read"} and {"name", "jobs"} <= set(data)
    for step in steps(path):
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", step["uses"]), step
    text = path.read_text(encoding="utf-8")
    for name in re.findall(
        r"(?:^|\s)((?:\.ci|scripts|examples)/[\w./-]+)", text.replace("$GITHUB_WORKSPACE/", " ")
    ):
        assert (REPO / name).exists(), name
    extras = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\.\[(\w+)\]", text):
        assert re.search(rf"^{extra} = \[", extras, re.MULTILINE), extra


def test_wheels_are_published_without_a_token_and_from_tags_alone() -> None:
    data = yaml.safe_load((REPO / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8"))
    publish = data["jobs"]["publish"]
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')" and set(publish["needs"]) == {
        "wheel",
        "sdist",
    }
    assert publish["permissions"] == {"id-token": "write"} and "secrets." not in str(data)
    built = {(m["target"], m["libc"]) for m in data["jobs"]["wheel"]["strategy"]["matrix"]["include"]}
    systems = ("manylinux2014", "musllinux_1_2", "macos")
    assert built == {(t, c) for t in ("x86_64", "aarch64") for c in systems} | {("x86_64", "windows")}
