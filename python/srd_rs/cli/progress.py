"""The progress bar: on a terminal only, on stderr, gone when the work is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from srd_rs.cli.text import printable, shortened

if TYPE_CHECKING:
    from srd_rs.conversion import Progress


@contextmanager
def progress_bar(*, wanted: bool = True) -> Iterator[Callable[[Progress], None] | None]:
    """Yields what `srd_rs.convert` takes as `progress`: a function, or None when nobody is looking."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[tensor]}", style="dim", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("convert", total=None, tensor="")

        def update(step: Progress) -> None:
            name = shortened(printable(step.tensor), 40)
            bar.update(task, completed=step.done_bytes, total=step.total_bytes, tensor=name)

        yield update
