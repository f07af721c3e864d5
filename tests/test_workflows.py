"""The workflow files name scripts, extras and systems that are there."""

from __future__ import annotations

import importlib.util
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
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')" and publish["needs"] == "try"
    assert publish["permissions"] == {"id-token": "write"} and "secrets." not in str(data)
    # Nothing is published that was not tried, on every system that there is a wheel for.
    assert data["jobs"]["try"]["needs"] == "wheels"
    tried = {m["runner"] for m in data["jobs"]["try"]["strategy"]["matrix"]["include"]}
    assert tried == {"ubuntu-24.04", "ubuntu-24.04-arm", "macos-14", "macos-15-intel", "windows-2022"}


def test_the_wheels_are_those_of_all_systems() -> None:
    spec = importlib.util.spec_from_file_location("wheels", REPO / "scripts" / "wheels.py")
    assert spec is not None and spec.loader is not None
    wheels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wheels)
    linux = {f"{cpu}-unknown-linux-{libc}" for cpu in ("x86_64", "aarch64") for libc in ("gnu", "musl")}
    others = {"aarch64-apple-darwin", "x86_64-apple-darwin", "x86_64-pc-windows-gnu"}
    assert set(wheels.TARGETS) == linux | others and wheels.MAX_BYTES <= 10_000_000
    data = yaml.safe_load((REPO / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8"))
    jobs = data["jobs"]["wheels"]["steps"]
    [targets] = [step["with"]["targets"] for step in jobs if "targets" in step.get("with", {})]
    assert set(targets.replace(" ", "").split(",")) == set(wheels.TARGETS)
