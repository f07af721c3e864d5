"""The progress bar. The bar is shown on stderr, only on a terminal, and disappears when the work is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from srd_rs.cli.text import count_text, printable, shortened

if TYPE_CHECKING:
    from srd_rs.report import Progress


@contextmanager
def progress_bar(*, wanted: bool = True) -> Iterator[Callable[[Progress], None] | None]:
    """Yields what `srd_rs.convert` takes as `progress`: a function, or None where stderr is no terminal."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    bar = _bar()
    with bar:
        tasks: dict[str, Any] = {}

        def update(step: Progress) -> None:
            if step.phase not in tasks:
                for ended in tasks.values():
                    bar.update(ended, visible=False)
                tasks[step.phase] = bar.add_task(step.phase, total=None, amount="", doing="")
            task = tasks[step.phase]
            bar.update(task, completed=step.done, total=step.total)
            bar.update(task, amount=_amount(bar, task, step), doing=_doing(step))

        yield update


@contextmanager
def token_bar(*, wanted: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """Yields what `srd_rs.calibrate` takes as `progress`."""
    with progress_bar(wanted=wanted) as show:
        yield None if show is None else _in_steps(show)


def _in_steps(show: Callable[[Progress], None]) -> Callable[[int, int], None]:
    from srd_rs.report import Progress

    return lambda done, total: show(Progress(done, total, "", "calibrate"))


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[doing]}", style="dim", markup=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _amount(bar: Any, task: Any, step: Progress) -> str:
    """The amount that is done, and the speed once the speed is known."""
    from rich.filesize import decimal

    (speed,) = (t.speed for t in bar.tasks if t.id == task)
    if step.phase == "calibrate":
        rate = f" {count_text(round(speed))} tokens/s" if speed else ""
        return f"{step.done}/{step.total} tokens{rate}"
    rate = f" {decimal(int(speed))}/s" if speed else ""
    return f"{decimal(step.done)}/{decimal(step.total)}{rate}"


def _doing(step: Progress) -> str:
    return "calibrating" if step.phase == "calibrate" else shortened(printable(step.tensor), 40)
