"""The site is built without warnings, and its reference pages have every command and every name."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import srd_rs
from srd_rs.cli import COMMANDS
from support import REPO

site = importlib.util.spec_from_file_location("site_pages", REPO / "scripts" / "site_pages.py")
assert site is not None and site.loader is not None
pages = importlib.util.module_from_spec(site)
site.loader.exec_module(pages)


def test_the_reference_has_every_command_and_option() -> None:
    text = pages.commands_page()
    for names in COMMANDS.values():
        for name in names:
            assert f"\n### {name}\n" in text
    assert "--calibrate-tokens N" in text and "--max-memory SIZE" in text


def test_the_reference_has_every_name() -> None:
    text = pages.python_page()
    for name in srd_rs.__all__:
        if name not in ("__version__", "errors"):
            assert f"\n### {name}\n" in text, name
    assert "SrdIOError" in text and "```pycon" in text and "- **output**: " in text


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: the site was not built")
    pytest.importorskip("material", reason="mkdocs-material is not installed: the site was not built")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    for page in ("index.html", "tutorial/index.html", "reference/cli/index.html", "contributing/index.html"):
        assert (tmp_path / page).is_file(), page
    assert "Signed containers" in (tmp_path / "reference" / "cli" / "index.html").read_text()
