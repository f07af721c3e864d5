"""Print the terminal captures of the documentation: what a person sees, in a real terminal of 110 columns.

    python scripts/captures.py            # all, into docs/img/
    python scripts/captures.py resume     # one

tmux runs the commands and types what a person types; rich makes a picture of the screen. Needs tmux (Debian: tmux).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

REPO: Final = Path(__file__).resolve().parent.parent
IMAGES: Final = REPO / "docs" / "img"
COLUMNS: Final = 110
PROMPT: Final = "$ "
#: Seconds that a command may take.
LIMIT: Final = 600


class Terminal:
    """A terminal in which a shell runs, in a folder with a copy of the example."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "tmux"
        shutil.copytree(REPO / "examples" / "wiki-gemma4", folder / "wiki-gemma4")
        command = folder / "bin" / "srd-rs"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m srd_rs "$@"\n')
        command.chmod(0o755)
        environment = {
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPO / "python"),
            "SRD_CACHE": str(folder / "cache"),
            "PS1": PROMPT,
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        self._tmux(
            "new-session",
            "-d",
            "-x",
            str(COLUMNS),
            "-y",
            "70",
            "env",
            *words,
            "bash",
            "--norc",
            "--noprofile",
        )
        self._tmux("set-option", "-g", "history-limit", "10000")
        self._until(lambda: self._is_ready())

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout

    def screen(self) -> str:
        """What the screen shows, with colours as escape sequences."""
        return self._tmux("capture-pane", "-p", "-e").rstrip("\n")

    def _plain(self) -> str:
        return self._tmux("capture-pane", "-p").rstrip("\n")

    def _is_ready(self) -> bool:
        return self._plain().split("\n")[-1].rstrip() == PROMPT.rstrip()

    def _until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not is_so():
            if time.monotonic() > end:
                sys.exit(f"the terminal does not show what it should:\n{self._plain()}")
            time.sleep(0.02)

    def type(self, line: str) -> None:
        """Type a line, and do not wait."""
        self._tmux("send-keys", line, "Enter")
        time.sleep(0.2)

    def run(self, line: str) -> None:
        """Type a line, and wait until the command is done."""
        self.type(line)
        self._until(self._is_ready)

    def interrupt(self, is_time: Callable[[], bool]) -> None:
        """Press Ctrl-C once it is time, and wait until the command is done."""
        self._until(lambda: is_time() or self._is_ready())
        self._tmux("send-keys", "C-c")
        self._until(self._is_ready)

    def wait_for(self, text: str) -> None:
        """Wait until the screen shows a text."""
        self._until(lambda: text in self._plain())

    def clear(self) -> None:
        self._tmux("send-keys", "clear", "Enter")
        self._until(lambda: self._plain().strip() == PROMPT.strip())

    def close(self) -> None:
        self._tmux("kill-server")


def help_(terminal: Terminal) -> str:
    terminal.run("srd-rs help")
    return terminal.screen()


def progress(terminal: Terminal) -> str:
    terminal.type("srd-rs convert wiki-gemma4")
    terminal.wait_for("tokens/s")
    shown = terminal.screen()
    terminal.interrupt(lambda: True)
    return shown


def conversion(terminal: Terminal) -> str:
    terminal.run("srd-rs convert wiki-gemma4 --overwrite")
    return terminal.screen()


def error(terminal: Terminal) -> str:
    terminal.run("srd-rs convert wiki-gemma4/config.json")
    terminal.run("srd-rs convert wiki-gemma4 --outfile model.gguf")
    terminal.run("srd-rs verify wiki-gemma4/model.safetensors")
    return terminal.screen()


def resume(terminal: Terminal) -> str:
    journal = terminal.folder / ".wiki-gemma4-Q5_K_M.gguf.journal"
    terminal.type("srd-rs convert wiki-gemma4 -q Q5_K_M")
    terminal.interrupt(lambda: journal.exists() and journal.read_text().count("\nunit ") > 40)
    terminal.run("srd-rs convert wiki-gemma4 -q Q5_K_M")
    return terminal.screen()


CAPTURES: Final = {
    "help": help_,
    "progress": progress,
    "conversion": conversion,
    "error": error,
    "resume": resume,
}


def picture(screen: str, title: str) -> str:
    """The screen as SVG. The picture names no font of another site."""
    rows = screen.split("\n")
    while rows and re.sub(r"\x1b\[[0-9;]*m", "", rows[-1]).strip() in ("", PROMPT.strip()):
        rows.pop()
    with Path(os.devnull).open("w") as nowhere:
        console = Console(
            record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        console.print(Text.from_ansi("\n".join(rows)), soft_wrap=True)
        svg = console.export_svg(title=title, unique_id=f"capture-{title}")
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[[], *CAPTURES], metavar="NAME")
    names = parser.parse_args().names or list(CAPTURES)
    with tempfile.TemporaryDirectory() as made:
        terminal = Terminal(Path(made))
        try:
            for name in names:
                terminal.clear()
                path = IMAGES / f"terminal-{name}.svg"
                shown = CAPTURES[name](terminal)
                if "internal error" in shown:
                    sys.exit(f"this is not for the documentation:\n{shown}")
                path.write_text(picture(shown, name))
                print(path.relative_to(REPO))
        finally:
            terminal.close()


if __name__ == "__main__":
    main()
