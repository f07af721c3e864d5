"""`srd-rs hydrate`: the bytes of a GGUF that an intent needs, in memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srd_rs import _core
from srd_rs.cli.met import layers_text
from srd_rs.cli.options import GroupedCommand, json_option, parse_size, path_option
from srd_rs.cli.output import say, show
from srd_rs.progress import progress_bar
from srd_rs.text import bytes_text, duration_text, table

if TYPE_CHECKING:
    from srd_rs.hydration import Hydration, Hydrator, Residency


EXAMPLES = """\b
Examples:
  srd-rs hydrate model-Q4_K_M.gguf
  srd-rs hydrate model-Q4_K_M.gguf --intent INFORM
  srd-rs hydrate model-Q4_K_M.gguf --intent INFORM --budget 2GiB
"""


@click.command(
    "hydrate",
    cls=GroupedCommand,
    short_help="Bring the bytes that an intent needs into memory.",
    epilog=EXAMPLES,
)
@click.argument("gguf")
@click.option(
    "--intent",
    metavar="INTENT",
    help=f"What the request is about: {', '.join(_core.INTENTS)}. Without it, only show what is in memory.",
)
@click.option(
    "--budget",
    type=parse_size,
    metavar="SIZE",
    help="Bring in at most this number of bytes. What does not fit is left out, the deepest slots first.",
)
@click.option("--lock", is_flag=True, help="Lock the bytes in memory, and stay until interrupted (Ctrl-C).")
@click.option("--evict-others", is_flag=True, help="Take the rest of the file out of memory first.")
@path_option(
    "--sidecar",
    help="The sidecar of the GGUF. The default is NAME.met.json beside the GGUF; where there is none, the slots are"
    " measured now.",
)
@json_option()
def command(
    gguf: str,
    intent: str | None,
    budget: int | None,
    lock: bool,
    evict_others: bool,
    sidecar: Path | None,
    as_json: bool,
) -> None:
    """Bring the bytes of GGUF that INTENT needs into the page cache, where an engine that maps the file
    finds them, and show what is in memory per slot before and after."""
    import srd_rs

    if intent is None and (budget is not None or lock or evict_others):
        raise click.UsageError("--budget, --lock and --evict-others need --intent")
    with srd_rs.Hydrator(gguf, sidecar) as hydrator:
        before = hydrator.residency()
        done = None
        if intent is not None:
            done = _hydrate(hydrator, intent, budget, lock, evict_others, as_json=as_json)
        after = hydrator.residency()
        result = as_dict(before, after, done)
        show(lambda: result, lambda: text(hydrator.sidecar, before, after, done), as_json=as_json)
        if lock:
            _stay(quiet=as_json)


def _hydrate(
    hydrator: Hydrator, intent: str, budget: int | None, lock: bool, evict_others: bool, *, as_json: bool
) -> Hydration:
    from srd_rs.report import Progress

    with progress_bar(as_json=as_json) as show:
        return hydrator.hydrate(
            intent,
            budget=budget,
            lock=lock,
            evict_others=evict_others,
            progress=lambda done, total: show(Progress(done, total, intent, "read")),
        )


def _stay(*, quiet: bool) -> None:
    """Locks end with the process: wait for Ctrl-C."""
    if not quiet:
        say("locked until interrupted (Ctrl-C)")
    sys.stdout.flush()
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def text(
    sidecar: dict[str, Any], before: Sequence[Residency], after: Sequence[Residency], done: Hydration | None
) -> str:
    """The table of the slots and a line on what was done."""
    rows = [
        (a.slot, layers_text(sidecar, a.slot), bytes_text(a.bytes), _share(b), _share(a))
        for b, a in zip(before, after, strict=True)
    ]
    if done is None:
        return table(("slot", "layers", "size", "resident"), [row[:4] for row in rows], left=2)
    lines = [table(("slot", "layers", "size", "before", "after"), rows, left=2), ""]
    rate = bytes_text(round(done.read_bytes / done.seconds)) if done.seconds > 0 else "-"
    lines.append(
        f"{done.intent}: {bytes_text(done.hydrated_bytes)} in memory, {bytes_text(done.read_bytes)} of it"
        f" read in {duration_text(done.seconds)} ({rate}/s)"
    )
    if done.hydrated_bytes < done.wanted_bytes:
        lines.append(f"the budget left out {bytes_text(done.wanted_bytes - done.hydrated_bytes)}")
    if done.locked_bytes:
        lines.append(f"{bytes_text(done.locked_bytes)} locked")
    return "\n".join(lines)


def _share(part: Residency) -> str:
    if part.resident_bytes is None:
        return "unknown"
    return f"{100 * part.resident_bytes / part.bytes:.1f} %" if part.bytes else "-"


def as_dict(
    before: Sequence[Residency], after: Sequence[Residency], done: Hydration | None
) -> dict[str, Any]:
    slots = [
        {
            "slot": a.slot,
            "bytes": a.bytes,
            "resident_before": b.resident_bytes,
            "resident_after": a.resident_bytes,
        }
        for b, a in zip(before, after, strict=True)
    ]
    return {"slots": slots, "hydration": None if done is None else done.to_dict()}
