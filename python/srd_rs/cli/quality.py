"""`srd-rs quality`: the curve of KLD over size of a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from srd_rs.cli.options import GroupedCommand, convert_option, json_option, option, path_option
from srd_rs.cli.output import print_json, say
from srd_rs.text import printable, table

if TYPE_CHECKING:
    from srd_rs.eval.curve import Curve

EXAMPLES = """\b
Examples:
  srd-rs quality path/to/model -f wiki.test.raw --chunks 10 -o quality/
  srd-rs quality path/to/model -f wiki.test.raw --mixes Q4_K_M,IQ4_XS --no-peers
"""


def _words(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(filter(None, (word.strip() for word in text.split(","))))


@click.command("quality", cls=GroupedCommand, short_help="Plot KLD over size of a model.", epilog=EXAMPLES)
@click.argument("model")
@path_option(
    "-f",
    "--text",
    group="What is measured",
    required=True,
    metavar="TEXT",
    help="The text to score, in UTF-8: for example wiki.test.raw of WikiText-2.",
)
@option(
    "--mixes",
    group="What is measured",
    metavar="MIXES",
    callback=_words,
    help="Mixes, separated by commas. The default is nine mixes from 2.6 to 8.5 bits per weight.",
)
@option(
    "--budgets",
    group="What is measured",
    metavar="BITS",
    callback=_words,
    help="More sizes, in bits per weight, separated by commas: types are chosen within each.",
)
@option(
    "--peers/--no-peers",
    group="What is measured",
    default=True,
    show_default=True,
    help="Measure the files of llama-quantize, with and without an importance matrix, as well.",
)
@option(
    "--chunks",
    "n_chunks",
    group="What is measured",
    type=click.IntRange(min=1),
    metavar="N",
    default=10,
    show_default=True,
    help="Number of chunks of the text that are scored.",
)
@option(
    "--ctx",
    "n_ctx",
    group="What is measured",
    type=click.IntRange(4, 1 << 20),
    metavar="N",
    default=512,
    show_default=True,
    help="Number of tokens of a chunk, of which the second half is scored.",
)
@convert_option(
    "calibrate",
    default="builtin",
    help="Text to calibrate on: builtin (a bundled text), random or a UTF-8 text file. The importance matrix of"
    " llama-quantize is made from the same tokens.",
)
@convert_option("calibrate_tokens")
@convert_option("threads")
@path_option(
    "-o",
    "--output",
    "folder",
    group="Output",
    metavar="FOLDER",
    help="Write quality.html (one page with plots, which loads nothing), quality.svg and quality.json to this folder.",
)
@option("--overwrite", group="Output", is_flag=True, help="Replace the files in FOLDER if there are any.")
@json_option()
def command(
    model: str,
    text: Path,
    mixes: tuple[str, ...] | None,
    budgets: tuple[str, ...] | None,
    peers: bool,
    n_chunks: int,
    n_ctx: int,
    calibrate: str,
    calibrate_tokens: int | None,
    threads: int | None,
    folder: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write MODEL in several mixes and budgets, score every file on a text, and show KLD over size.

    For each mix srd-rs writes a file in the mix, and one with types chosen within the bytes of the mix; llama-quantize
    writes files in the mix. The files go into a temporary folder and are removed. Needs the extra srd-rs[eval]
    (llama-cpp-python).
    """
    from srd_rs.eval.curve import DEFAULT_MIXES, curve
    from srd_rs.eval.report import check_folder

    try:
        sizes = tuple(float(word) for word in budgets or ())
    except ValueError:
        raise click.BadParameter("name numbers such as 3.5,4.5", param_hint="--budgets") from None
    if any(not 0 < size < 64 for size in sizes):
        raise click.BadParameter("a weight takes between 0 and 64 bits", param_hint="--budgets")
    if folder is not None:
        check_folder(folder, FILES, "--output", overwrite=overwrite)
    elif overwrite:
        raise click.UsageError("--overwrite has no effect without --output")

    def tell(what: str, done: int, total: int) -> None:
        if not as_json and sys.stderr.isatty():
            click.echo(f"{done + 1} of {total}: {what}", err=True)

    found = curve(
        model,
        text,
        mixes=(() if budgets else DEFAULT_MIXES) if mixes is None else mixes,
        budgets=sizes,
        peers=peers,
        calibrate=calibrate,
        calibrate_tokens=calibrate_tokens,
        n_chunks=n_chunks,
        n_ctx=n_ctx,
        threads=threads,
        progress=tell,
    )
    written = write(found, folder) if folder is not None else []
    if as_json:
        print_json({**found.to_json(), "report": [str(path) for path in written]})
        return
    say("\n".join([curve_text(found), *(printable(str(path)) for path in written)]))


FILES = ("quality.html", "quality.svg", "quality.json")


def write(found: Curve, folder: Path) -> list[Path]:
    """Write the report into a folder, which is made if it is missing."""
    import json

    from srd_rs import _core
    from srd_rs.eval import curve_page
    from srd_rs.planning import make_folder

    make_folder(folder)
    texts = (curve_page.page(found), curve_page.plot(found), json.dumps(found.to_json(), indent=1) + "\n")
    paths = [folder / name for name in FILES]
    for path, content in zip(paths, texts, strict=True):
        _core.write_file(path, content.encode(), True)
    return paths


def curve_text(found: Curve) -> str:
    """The table of a curve for a terminal."""
    from srd_rs.eval import curve_page

    head, rows = curve_page.points_table(found)
    cells = [[printable(cell) for cell in row] for row in rows]
    return "\n\n".join(
        [table(head, cells, left=2), curve_page.verdict(found), printable(curve_page.conditions(found))]
    )
