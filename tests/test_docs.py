"""The commands and the Python of README.md and docs/ do what they say: they are run, on the model that comes along.

Every line of a fenced `sh` or `console` block, or of an indented block, that begins with `srd-rs` is run in one folder,
file by file in the order of the text. In that folder `path/to/model` is the example model, and the files that a text
takes for granted are there.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from srd_rs import calibration
from support import EXAMPLE, REPO, srd

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
#: Part of a command -> why the command is not run.
NOT_RUN = {
    "org/name": "it fetches a model from the hub",
    "google/gemma": "it fetches a model from the hub",
    "s3://": "it reads a bucket; tests/test_storage.py runs it",
    "--slots early=0-5,factual=6-11,reasoning=12-22": "it is for a model of 30 layers",
    "--image": "the example cannot see; tests/test_senses.py runs it",
    "--audio": "the example cannot hear; tests/test_senses.py runs it",
    "--lock": "it waits for Ctrl-C; tests/test_met.py runs it",
}
#: Part of a command -> a file or folder that must be there afterwards.
WRITES = {
    "-q Q5_K_M -o models/": "models/model-Q5_K_M.gguf",
    "--report report/": "report/report.md",
    "srd-rs extract model-Q4_K_M.axm": "model-Q4_K_M-Q5_K_M.gguf",
    "-o model.calib": "model.calib",
}
#: Letters of the texts that the commands score: a few chunks of 512 tokens, and two windows of 2304.
TEXT_LETTERS = 13_500
#: Tokens of the calibrations: the commands and the code name no number, and the default is 16384 for the example.
TOKENS = 1024


@dataclass(frozen=True)
class Command:
    """A line of a document."""

    page: str
    line: str


def commands() -> list[Command]:
    found = []
    for page in PAGES:
        if not page.exists():
            continue
        text = page.read_text(encoding="utf-8")
        blocks = [body for language, body in FENCE.findall(text) if language in ("sh", "console")]
        indented = [
            line.strip() for line in FENCE.sub("", text).splitlines() if line.startswith("    srd-rs ")
        ]
        for body in [*blocks, "\n".join(indented)]:
            for line in body.replace("\\\n", " ").splitlines():
                for part in line.split(" && "):
                    words = part.strip().removeprefix("$ ").removesuffix(" &&")
                    if words.startswith("srd-rs "):
                        found.append(Command(page.name, words.split(" #")[0].strip()))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "path" / "to").mkdir(parents=True)
    # A copy, because outputs are named after the folder.
    shutil.copytree(EXAMPLE, folder / "path" / "to" / "model")
    (folder / "examples").mkdir()
    (folder / "examples" / "wiki-gemma4").symlink_to(EXAMPLE)
    (folder / "models").mkdir()
    (folder / "MODEL").symlink_to(EXAMPLE)
    run = srd("convert", "--fast", EXAMPLE, "-o", folder / "model.gguf", "--no-axm")
    assert run.code == 0, run.stderr
    for quant in ("BF16", "Q4_K_M", "Q5_K_M"):
        gguf = folder / f"model-{quant}.gguf"
        run = srd("convert", "--fast", EXAMPLE, "-q", quant, "-o", gguf, "--no-axm", "--no-met")
        assert run.code == 0, run.stderr
    text = gzip.decompress((REPO / "python" / "srd_rs" / "data" / "builtin.txt.gz").read_bytes()).decode()
    for name in ("TEXT", "wiki.test.raw"):
        (folder / name).write_text(text[:TEXT_LETTERS], encoding="utf-8")
    return folder


def parameters() -> list[object]:
    """Each line once: several pages show the same commands."""
    once = {command.line: command for command in reversed(commands())}
    return [
        pytest.param(c, id=f"{c.page}: {c.line}", marks=pytest.mark.xdist_group("docs"))
        for c in commands()
        if once[c.line] == c
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", parameters())
def test_a_documented_command_works(command: Command, folder: Path) -> None:
    for part, reason in NOT_RUN.items():
        if part in command.line:
            pytest.skip(f"not run: {reason}")
    words = shlex.split(command.line)[1:]
    needed = {"eval": ["llama_cpp", "matplotlib"], "quality": ["llama_cpp"]}.get(words[0], [])
    needed = needed or (["matplotlib"] if "--plot" in words else [])
    for module in needed:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed, so this documented command was not run")
    if words[0] in ("eval", "quality"):
        words += ["--threads", "1"]
    writes = (
        words[0] in ("convert", "extract", "pack", "calibrate", "card", "modelfile", "quality")
        or "--report" in words
    )
    if writes and "--dry-run" not in words:
        # The lines of a document share names on purpose; here they run in one folder.
        words += ["--overwrite"]
        if words[0] == "convert" and "--axm" not in words:
            # A container whose GGUF would be replaced alone is a refusal.
            for container in folder.glob("*.axm"):
                container.unlink()
    for word in words:
        if word.endswith(".axm") and words[0] != "convert" and not (folder / word).exists():
            made = srd("convert", "--fast", "path/to/model", "--axm", "--overwrite", cwd=folder)
            assert made.code == 0, made.stderr
    # One calibration serves all lines with the same model and text.
    run = srd(*words, cwd=folder, timeout=240, env={"SRD_CACHE": str(folder / "kept")}, tokens=TOKENS)
    assert run.code == 0, run.stderr
    for part, name in WRITES.items():
        if part in command.line:
            assert (folder / name).is_file(), sorted(p.name for p in folder.iterdir())


def python_blocks() -> list[object]:
    found = []
    for page in PAGES:
        if not page.exists():
            continue
        blocks = FENCE.findall(page.read_text(encoding="utf-8"))
        code = [body for language, body in blocks if language == "python"]
        found += [pytest.param(body, id=f"{page.name} {i}") for i, body in enumerate(code)]
    return found


@pytest.mark.parametrize("code", python_blocks())
def test_documented_python_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example_q4_k_m: Path
) -> None:
    if "llama_cpp" in code:
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: this block was not run")
        (tmp_path / "model-Q4_K_M.gguf").symlink_to(example_q4_k_m)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "TOKENS", (TOKENS, TOKENS))
    exec(compile(code, "a document", "exec"), {})


def test_links_lead_to_files() -> None:
    """Links and paths in backticks name files that are there. A superseded page keeps the names of its time."""
    link, path = (
        re.compile(r"\]\(([^)#]+)[^)]*\)"),
        re.compile(r"`((?:src|tests|scripts|benches|docs|fuzz)/[\w./-]+)`"),
    )
    missing = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = [page.parent / target for target in link.findall(text) if "://" not in target]
        if "**Superseded" not in text:
            named += [REPO / target for target in path.findall(text) if not re.search("NAME|VENDOR", target)]
        missing += [
            f"{page.name}: {os.path.relpath(target, page.parent)}" for target in named if not target.exists()
        ]
    # scripts/site_pages.py makes these pages from the source.
    made = {"index.md: reference/cli.md", "index.md: reference/python.md"}
    assert set(missing) <= made


def test_the_documents_have_commands() -> None:
    """A change of the documents' form must not leave this file with nothing to run."""
    pages = {command.page for command in commands()}
    assert {"README.md", "eval.md"} <= pages and len(commands()) >= 12


#: Scripts that measure, and that read no arguments or build the crate before they do.
WITHOUT_HELP = ("scripts/share_by_use.py", "scripts/make_fuzz_corpus.py", "benches/kernels.py")
SCRIPT = re.compile(r"(?:scripts|benches)/\w+\.py")


def documented_scripts() -> list[str]:
    texts = [page.read_text(encoding="utf-8") for page in PAGES if page.exists()]
    return sorted({name for text in texts for name in SCRIPT.findall(text)} - set(WITHOUT_HELP))


@pytest.mark.slow
@pytest.mark.parametrize("name", documented_scripts())
def test_a_documented_script_starts(name: str, tmp_path: Path) -> None:
    """What a page says was printed by a script can be printed again: the script is there and finds what it imports."""
    done = subprocess.run(
        [sys.executable, str(REPO / name), "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    missing = re.search(r"No module named '(\w+)'", done.stderr)
    ours = (
        "srd_rs",
        *(path.stem for folder in ("tests", "scripts") for path in (REPO / folder).glob("*.py")),
    )
    if missing and missing[1] not in ours:
        pytest.skip(f"{missing[1]} is not installed: this documented script was not started")
    assert done.returncode == 0, done.stderr
