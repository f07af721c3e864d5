"""`srd-rs eval`: how good a GGUF is, measured by llama.cpp."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from srd_rs import effects
from srd_rs.cli.options import GroupedCommand, convert_option, json_option, option, path_option
from srd_rs.cli.output import print_json, say
from srd_rs.text import printable, table

if TYPE_CHECKING:
    from srd_rs.eval.evaluation import Evaluation


EXAMPLES = """\b
Examples:
  srd-rs eval model-Q4_K_M.gguf --base model-BF16.gguf -f wiki.test.raw --chunks 40
  srd-rs eval model-Q4_K_M.gguf -f wiki.test.raw --ctx 2048 --stride 512 --chunks 100
"""


@click.command("eval", cls=GroupedCommand, short_help="Measure perplexity and KLD of GGUFs.", epilog=EXAMPLES)
@click.argument("ggufs", metavar="GGUF...", nargs=-1, required=True)
@path_option(
    "-f",
    "--text",
    group="What is measured",
    required=True,
    metavar="TEXT",
    help="The text to score, in UTF-8: for example wiki.test.raw of WikiText-2.",
)
@option(
    "--base",
    group="What is measured",
    metavar="BASE",
    help="The GGUF that was quantised (BF16 or F32): measures how far each file is from it.",
)
@option(
    "--ctx",
    "n_ctx",
    group="What is measured",
    type=click.IntRange(4, 1 << 20),
    metavar="N",
    default=512,
    show_default=True,
    help="Number of tokens of a chunk (the context).",
)
@option(
    "--stride",
    group="What is measured",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score windows of CTX + N/2 tokens that begin N tokens apart, the last N tokens of each. The default is chunks"
    " of CTX tokens, of which the second half is scored.",
)
@option(
    "--chunks",
    "n_chunks",
    group="What is measured",
    type=click.IntRange(min=1),
    metavar="N",
    default=None,
    help="Score only this number of chunks (or windows) from the start of the text. The default is all of them.",
)
@convert_option("threads", help="Number of threads of llama.cpp. The default is one per CPU.")
@path_option(
    "--report",
    "folder",
    group="Output",
    metavar="FOLDER",
    help="Write report.html, report.md, report.json and plots to this folder (needs the extra srd-rs[plot]).",
)
@option("--overwrite", group="Output", is_flag=True, help="Replace the report in FOLDER if there is one.")
@json_option()
def command(
    ggufs: tuple[str, ...],
    text: Path,
    base: str | None,
    n_ctx: int,
    stride: int | None,
    n_chunks: int | None,
    threads: int | None,
    folder: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score each GGUF on a text as llama-perplexity does: perplexity, and with --base the KL divergence.

    Of several files each is also compared with the first, token by token. Needs the extra srd-rs[eval]
    (llama-cpp-python). A file's bits per weight count its tensors' bytes.
    """
    from srd_rs.eval import report
    from srd_rs.eval.evaluation import evaluate

    effects.refuse((folder is None and overwrite, "--overwrite", "no report is written"))
    if folder is not None:
        report.prepare(folder, overwrite=overwrite)
    with _chunk_bar(wanted=not as_json) as progress:
        found = evaluate(
            ggufs,
            text,
            base=base,
            n_ctx=n_ctx,
            stride=stride,
            n_chunks=n_chunks or 0,
            threads=threads,
            progress=progress,
        )
    written = report.write(found, folder) if folder is not None else []
    if as_json:
        print_json({**found.to_json(), "report": [str(p) for p in written]})
        return
    say("\n".join([evaluation_text(found), *(printable(str(path)) for path in written)]))


def evaluation_text(found: Evaluation) -> str:
    """The tables of an evaluation for a terminal."""
    from srd_rs.eval import report

    tables = [report.score_table(found)]
    if found.base:
        tables.append(report.tail_table(found))
    if len(found.files) > 1:
        tables.append(report.paired_table(found))
    parts = [table([*head], [[printable(cell) for cell in row] for row in rows]) for head, rows in tables]
    return "\n\n".join([*parts, printable(report.conditions(found))])


@contextmanager
def _chunk_bar(*, wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """On a terminal a bar over the chunks, else nothing."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("chunks", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
