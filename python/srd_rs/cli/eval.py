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
from srd_rs.errors import UsageError, message
from srd_rs.text import printable, table

if TYPE_CHECKING:
    from srd_rs.eval.evaluation import Evaluation


EXAMPLES = """\b
Examples:
  srd-rs eval model-Q4_K_M.gguf --base model-BF16.gguf -f wiki.test.raw --chunks 40
  srd-rs eval model-Q4_K_M.gguf -f wiki.test.raw --ctx 2048 --stride 512 --chunks 100
  srd-rs eval model-Q4_K_M.gguf --image picture.png --prompt "What is this?"
"""


@click.command("eval", cls=GroupedCommand, short_help="Measure perplexity and KLD of GGUFs.", epilog=EXAMPLES)
@click.argument("ggufs", metavar="GGUF...", nargs=-1, required=True)
@path_option(
    "-f",
    "--text",
    group="What is measured",
    metavar="TEXT",
    help="The text to score, in UTF-8: for example wiki.test.raw of WikiText-2.",
)
@option(
    "--base",
    group="What is measured",
    metavar="BASE",
    help="The GGUF that was quantized (BF16 or F32): measures how far each file is from it.",
)
@option(
    "--ctx",
    "n_ctx",
    group="What is measured",
    type=click.IntRange(4, 1 << 20),
    metavar="N",
    default=None,
    help="Number of tokens of a chunk (the context). The default is 512, and 4096 for a picture or a sound.",
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
@path_option(
    "--image",
    "images",
    group="Pictures and sounds",
    metavar="PICTURE",
    multiple=True,
    help="Show this picture to the model, with its projector, and print what it answers. The option may be repeated.",
)
@path_option(
    "--audio",
    "sounds",
    group="Pictures and sounds",
    metavar="SOUND",
    multiple=True,
    help="Play this sound to the model. The option may be repeated.",
)
@path_option(
    "--mmproj",
    group="Pictures and sounds",
    help="The projector of the model. The default is the file mmproj-NAME-*.gguf beside the GGUF.",
)
@option(
    "--prompt",
    group="Pictures and sounds",
    metavar="QUESTION",
    help='What is asked. The default is "Describe this in one sentence.".',
)
@option(
    "--predict",
    "n_predict",
    group="Pictures and sounds",
    type=click.IntRange(1, 4096),
    metavar="N",
    default=None,
    help="Number of tokens of the answer at most. The default is 64.",
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
    text: Path | None,
    base: str | None,
    n_ctx: int | None,
    stride: int | None,
    n_chunks: int | None,
    images: tuple[Path, ...],
    sounds: tuple[Path, ...],
    mmproj: Path | None,
    prompt: str | None,
    n_predict: int | None,
    threads: int | None,
    folder: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score each GGUF on a text as llama-perplexity does: perplexity, and with --base the KL divergence.

    If there are several files, each is also compared with the first one, token by token. Needs the extra srd-rs[eval]
    (llama-cpp-python). A file's bits per weight count its tensors' bytes.

    With --image or --audio, a model that sees or hears answers once instead: a check that GGUF and projector work
    together.
    """
    if images or sounds:
        why = "an answer about a picture or a sound measures nothing"
        effects.refuse(
            (text is not None, "--text", why),
            (base is not None, "--base", why),
            (stride is not None, "--stride", why),
            (n_chunks is not None, "--chunks", why),
            (folder is not None, "--report", why),
            (overwrite, "--overwrite", why),
        )
        _answer(ggufs, images, sounds, mmproj, prompt, n_predict, n_ctx, threads, as_json)
        return
    for value, flag in ((mmproj, "--mmproj"), (prompt, "--prompt"), (n_predict, "--predict")):
        effects.refuse((value is not None, flag, "no picture and no sound is shown"))
    if text is None:
        what = "there is nothing to score"
        raise UsageError(message("--text", what, "Name a text, or a picture with --image"))
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
            n_ctx=n_ctx or 512,
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


def _answer(
    ggufs: tuple[str, ...],
    images: tuple[Path, ...],
    sounds: tuple[Path, ...],
    mmproj: Path | None,
    prompt: str | None,
    n_predict: int | None,
    n_ctx: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    from srd_rs.eval.senses import answer

    if len(ggufs) != 1:
        raise UsageError(message(ggufs[1], "one model answers at a time", "Name one GGUF"))
    given = {"prompt": prompt, "n_predict": n_predict, "n_ctx": n_ctx}
    found = answer(
        ggufs[0],
        images=images,
        sounds=sounds,
        mmproj=mmproj,
        threads=threads,
        **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    if as_json:
        print_json(found.to_json())
        return
    counts = f"{found.media_tokens} of {found.prompt_tokens} tokens of the prompt are pictures or sounds"
    say(f"{printable(found.text.strip())}\n\n{counts}; the answer has {found.answer_tokens} tokens")


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
