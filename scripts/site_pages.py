"""Pages of the site that are made from the source: the commands, the Python interface, and files outside docs/.

mkdocs calls `on_files` and `on_page_markdown` (see `hooks` in mkdocs.yml). The package must be importable, but the
functions of the native module are not called.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPO = Path(__file__).resolve().parent.parent
#: Files outside docs/ that are pages of the site: the name in the repository -> the page.
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    pages = {"reference/cli.md": commands_page(), "reference/python.md": python_page()}
    for name, page in OUTSIDE.items():
        pages[page] = (REPO / name).read_text(encoding="utf-8")
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that lead out of docs/ into links to pages, and links to source files into their names."""
    depth = page.file.src_uri.count("/")

    def link(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        path, _, anchor = target.partition("#")
        if path in ("", page.file.src_uri) or "://" in target or target.startswith("mailto:"):
            return found[0]
        origin = REPO if page.file.src_uri in OUTSIDE.values() else (REPO / "docs" / page.file.src_uri).parent
        try:
            inside = (origin / path).resolve().relative_to(REPO).as_posix()
        except ValueError:
            return text
        goal = OUTSIDE.get(inside) or (inside.removeprefix("docs/") if inside.startswith("docs/") else None)
        if goal is None or files.get_file_from_path(goal) is None:
            return text
        return f"[{text}]({'../' * depth}{goal}{'#' + anchor if anchor else ''})"

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", link, markdown)


def commands_page() -> str:
    """The help of every command, as the terminal shows it."""
    import click

    from srd_rs.cli import COMMANDS, cli

    top = click.Context(cli, info_name="srd-rs", max_content_width=100)
    parts = ["# Command line", "", "```text", cli.get_help(top), "```", ""]
    for heading, names in COMMANDS.items():
        parts += [f"## {heading}", ""]
        for name in names:
            command = cli.get_command(top, name)
            if command is None:
                raise ValueError(f"no command {name}")
            text = command.get_help(click.Context(command, info_name=name, parent=top, max_content_width=100))
            parts += [f"### {name}", "", "```text", text, "```", ""]
    return "\n".join(parts)


def python_page() -> str:
    """Signature and docstring of everything that the package exports."""
    import srd_rs

    parts = ["# Python", "", _prose(inspect.getdoc(srd_rs) or ""), ""]
    functions = [name for name in srd_rs.__all__ if inspect.isroutine(getattr(srd_rs, name))]
    classes = [name for name in srd_rs.__all__ if inspect.isclass(getattr(srd_rs, name))]
    for heading, names in (("Functions", functions), ("Classes", classes)):
        parts += [f"## {heading}", ""]
        for name in names:
            value = getattr(srd_rs, name)
            parts += [f"### {name}", "", *_signature(name, value), _prose(inspect.getdoc(value) or ""), ""]
            if inspect.isclass(value):
                parts += _members(value)
    parts += ["## Errors", "", _prose(inspect.getdoc(srd_rs.errors) or ""), ""]
    return "\n".join(parts)


def _signature(name: str, value: Any) -> list[str]:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    # Options of a conversion are listed in the text; in the signature they would fill a screen.
    shown = [p for p in parameters if p.name != "self"]
    words = [str(p).split(":")[0].split("=")[0].strip() + _default(p) for p in shown]
    if len(words) > 16:
        words = [*words[:5], "..."]
    return ["```text", f"{name}({', '.join(words)})", "```", ""]


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return ""
    text = repr(parameter.default)
    return f"={text}" if len(text) < 40 else "=..."


def _members(value: type) -> list[str]:
    """The public methods and properties of a class that have a docstring."""
    parts = []
    for name, member in inspect.getmembers(value):
        text = inspect.getdoc(member)
        public = not name.startswith("_") and name in {n for c in value.__mro__[:-1] for n in vars(c)}
        if not public or not text or not (inspect.isroutine(member) or isinstance(member, property)):
            continue
        if getattr(dict, name, None) is not None and "D." in text:  # methods of Mapping
            continue
        parts.append(f"- **{name}**: {' '.join(text.split(chr(10) * 2)[0].split())}")
    return [*parts, ""] if parts else []


def _prose(text: str) -> str:
    """A docstring as Markdown: `name: what` becomes a list, and examples become blocks."""
    lines: list[str] = []
    code: list[str] = []
    for line in [*text.splitlines(), ""]:
        stripped = line.strip()
        if line.startswith("    ") and (stripped.startswith(">>>") or code):
            code.append(line[4:])
            continue
        if code:
            lines += ["```pycon", *code, "```", ""]
            code = []
        named = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if named:
            lines.append(f"- **{named[1]}**: {named[2]}")
        elif re.match(r"    (\w+): ", line):
            name, _, rest = stripped.partition(": ")
            lines.append(f"- **{name}**: {rest}")
        else:
            lines.append(line)
    joined = re.sub(r"(?<!`)``(?!`)", "`", "\n".join(lines))
    return re.sub(r"(?m)^(?!- |\s|```)(.+)\n(?=- )", r"\1\n\n", joined)
