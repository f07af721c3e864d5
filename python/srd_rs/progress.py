"""How far a command or a call is, on stderr: a bar on a terminal, else a line every ten seconds, or with `--json`
objects.

A conversion begins with a line that says what will be written. An object of `--json` is ``{"plan": {...}}`` or
``{"progress": {"phase", "done", "total", "tensor"}}``, one a line.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from srd_rs.text import bytes_text, count_text, duration_text, printable, shortened

if TYPE_CHECKING:
    from srd_rs.report import Plan, Progress

PLAIN_SECONDS: Final = 10.0
"""Seconds between two lines without a terminal."""
JSON_SECONDS: Final = 1.0
"""Seconds between two objects of `--json`."""
BAR_CELLS: Final = 20
_DOING: Final = {
    "calibrate": "calibrating",
    "sensitivity": "measuring what errors cost",
    "measure": "measuring errors",
    "convert": "writing",
    "read": "reading",
    "verify": "checking",
}
Show = Callable[["Progress"], None]


@contextmanager
def progress_bar(*, as_json: bool = False, phases: tuple[str, ...] = ()) -> Iterator[Show]:
    """Yields what `srd_rs.convert` takes as `progress`.

    phases: the phases that come, in their order, to be counted in what is shown; see `Phases`.
    """
    with Phases(as_json=as_json) as shown:
        shown.expect(phases)
        yield shown.update


Wanted = Callable[["Progress"], None] | bool | None
"""What the functions of the package take as `progress`: a function, or True to see how far the call is."""


@contextmanager
def showing(progress: Wanted) -> Iterator[Show | None]:
    """The function that tells how far a call is: the caller's own, or for True one that shows a bar."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    with Phases(as_json=False, notebook=True) as shown:
        yield shown.update


@contextmanager
def counting(
    progress: Callable[[int, int], None] | bool | None,
) -> Iterator[Callable[[int, int], None] | None]:
    """As `showing`, for a function of two numbers, done and total."""
    if not isinstance(progress, bool):
        yield progress
        return
    with showing(progress) as show:
        from srd_rs.report import Progress

        yield None if show is None else lambda done, total: show(Progress(done, total, "", "calibrate"))


@contextmanager
def token_bar(*, as_json: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yields what `srd_rs.calibrate` takes as `progress`."""
    from srd_rs.report import Progress

    with Phases(as_json=as_json) as shown:
        yield lambda done, total: shown.update(Progress(done, total, "", "calibrate"))


class Phases:
    """Shows a run of one or more phases. `plan` shows what will be written, `update` how far the run is."""

    def __init__(self, *, as_json: bool, notebook: bool = False) -> None:
        self._as_json = as_json
        terminal = (_is_terminal() or (notebook and "ipykernel" in sys.modules)) and not as_json
        self._bar: Any = _bar() if terminal else None
        self._tasks: dict[str, Any] = {}
        self._expected: tuple[str, ...] = ()
        self._began = self._shown = time.monotonic()
        self._phase = ""

    def __enter__(self) -> Phases:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, phases: tuple[str, ...]) -> None:
        """Name the phases of the run, in their order."""
        self._expected = phases

    def plan(self, plan: Plan) -> None:
        """Show what will be written, before the work begins."""
        if self._as_json:
            facts = {
                "arch": plan.arch,
                "quant": plan.quant,
                "n_weights": plan.n_weights,
                "effort": plan.effort,
            }
            files = {"output": str(plan.output), "total_bytes": plan.total_bytes}
            self._say_json({"plan": {**facts, **files}})
            return
        line = plan_line(plan)
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            _say(line)

    def update(self, step: Progress) -> None:
        """Show how far the run is."""
        if step.phase != self._phase:
            self._phase, self._began = step.phase, time.monotonic()
        if self._bar is not None:
            self._update_bar(step)
            return
        now = time.monotonic()
        if now - self._shown < (JSON_SECONDS if self._as_json else PLAIN_SECONDS):
            return
        self._shown = now
        if self._as_json:
            state = {"phase": step.phase, "done": step.done, "total": step.total, "tensor": step.tensor}
            self._say_json({"progress": state})
        else:
            _say(self._plain_line(step, now - self._began))

    def _update_bar(self, step: Progress) -> None:
        bar = self._bar
        if step.phase not in self._tasks:
            for ended in self._tasks.values():
                bar.update(ended, visible=False)
            doing = f"{self._number(step.phase)}{_DOING.get(step.phase, step.phase)}"
            self._tasks[step.phase] = bar.add_task(doing, total=None, amount="", tensor="")
        task = self._tasks[step.phase]
        bar.update(task, completed=step.done, total=step.total)
        (speed,) = (t.speed for t in bar.tasks if t.id == task)
        bar.update(task, amount=_amount(step, speed), tensor=shortened(printable(step.tensor), 32))

    def _plain_line(self, step: Progress, seconds: float) -> str:
        speed = step.done / seconds if seconds > 0 else 0.0
        left = duration_text((step.total - step.done) / speed) if speed else "unknown"
        share = step.done / step.total if step.total else 0.0
        doing = f"{self._number(step.phase)}{_DOING.get(step.phase, step.phase)}"
        return f"{doing}: {share:.0%}, {_amount(step, speed)}, {left} left"

    def _number(self, phase: str) -> str:
        """`1/2 ` before the name of a phase, where there are several."""
        if len(self._expected) < 2 or phase not in self._expected:
            return ""
        return f"{self._expected.index(phase) + 1}/{len(self._expected)} "

    @staticmethod
    def _say_json(data: dict[str, Any]) -> None:
        _say(json.dumps(data))


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _say(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


def plan_line(plan: Plan) -> str:
    """The first line of a conversion: what becomes what, the exact size, and the room on the disk."""
    total = plan.total_bytes + (plan.container.bytes if plan.container else 0)
    container = " and container" if plan.container else ""
    try:
        room = f", {bytes_text(shutil.disk_usage(plan.output.parent).free)} free on the disk"
    except OSError:  # the folder of the output is not there: the conversion says so
        room = ""
    return (
        f"{printable(plan.arch)}, {count_text(plan.n_weights)} weights"
        f" -> {printable(str(_short(plan.output)))}{container}, {bytes_text(total)}{room}"
    )


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _bar() -> Any:
    """A bar whose columns keep their width, so that nothing moves but what changes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR_CELLS),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[tensor]}", style="dim", markup=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _amount(step: Progress, speed: float | None) -> str:
    """The amount that is done, and the speed once the speed is known."""
    if step.phase == "calibrate":
        rate = f" {count_text(round(speed))} tokens/s" if speed else ""
        return f"{step.done}/{step.total} tokens{rate}"
    if step.phase in ("measure", "sensitivity"):
        return f"{step.done}/{step.total} {'tensors' if step.phase == 'measure' else 'passes'}"
    rate = f" {bytes_text(round(speed))}/s" if speed else ""
    return f"{bytes_text(step.done)}/{bytes_text(step.total)}{rate}"
