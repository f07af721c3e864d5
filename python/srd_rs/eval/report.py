"""Writes an evaluation as Markdown, JSON and plots into a folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from srd_rs import _core
from srd_rs.errors import SrdError, SrdIOError, UsageError, message
from srd_rs.eval.evaluation import Evaluation, FileScore
from srd_rs.eval.statistics import Estimate, Quantile
from srd_rs.text import html_table

FILES: Final = ("report.md", "report.html", "report.json", "bpw.png", "percentiles.png")

Row = tuple[str, ...]


def with_error(found: Estimate, digits: int) -> str:
    return f"{found.value:.{digits}f} ± {found.error:.{digits}f}"


def with_interval(found: Quantile, digits: int) -> str:
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def percent(found: Estimate, digits: int = 2) -> str:
    return with_error(found.times(100), digits) + " %"


def score_table(found: Evaluation) -> tuple[Row, list[Row]]:
    """Head and rows of the main table: a row for each file, the base first."""
    files = [*([found.base] if found.base else []), *found.files]
    if found.base is None:
        return ("file", "bpw", "PPL"), [_first_cells(f) for f in files]
    head = ("file", "bpw", "PPL", "KLD", "99 % KLD", "ln PPL ratio", "RMS Δp", "same top")
    return head, [_first_cells(f) + _divergence_cells(f) for f in files]


def _first_cells(file: FileScore) -> Row:
    return file.name, f"{file.bpw:.3f}", with_error(file.perplexity, 3)


def _divergence_cells(file: FileScore) -> Row:
    d = file.divergence
    if d is None:
        return ("base", "-", "-", "-", "-")
    kld, tail = with_error(d.kld, 6), with_interval(d.quantile(0.99), 5)
    return kld, tail, with_error(d.ln_ppl_ratio, 5), percent(d.rms_p_diff, 3), percent(d.same_top)


def tail_table(found: Evaluation) -> tuple[Row, list[Row]]:
    """Head and rows of the table of the distributions of KLD and Δp over tokens, which needs a base."""
    head = ("file", "median", "90 %", "95 %", "99 %", "99.9 %", "maximum", "mean Δp", "mean abs Δp")
    rows = []
    for file in found.files:
        d = file.divergence
        if d is None:
            continue
        quantiles = (f"{q.value:.5f}" for q in d.kld_quantiles)
        differences = percent(d.p_diff, 3), percent(d.abs_p_diff, 3)
        rows.append((file.name, *quantiles, f"{d.kld_max:.5f}", *differences))
    return head, rows


def paired_table(found: Evaluation) -> tuple[Row, list[Row]]:
    """Head and rows of the table that compares every further file with the first, token by token."""
    with_kld = found.base is not None
    head = ("against the first", "ln PPL ratio", *(("KLD difference", "KLD ratio") if with_kld else ()))
    rows = []
    for file in found.files:
        p = file.paired
        if p is None:
            continue
        cells = [file.name, with_error(p.ln_ppl_ratio, 5)]
        if p.kld_difference and p.kld_ratio:
            cells += [with_error(p.kld_difference, 6), with_error(p.kld_ratio, 4)]
        rows.append(tuple(cells))
    return head, rows


def markdown_table(head: Row, rows: list[Row]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def conditions(found: Evaluation) -> str:
    """One line that names the text, the chunks, the protocol and the number of tokens."""
    return (
        f"{found.text.name}: {found.n_chunks} {found.protocol}, {found.n_tokens} tokens;"
        " ± is a standard error over tokens, [ ] a 95 % interval"
    )


def markdown(found: Evaluation) -> str:
    """The report as Markdown: the conditions, the tables, and links to the plots beside the report."""
    parts = ["# Evaluation", conditions(found), markdown_table(*score_table(found))]
    if found.base:
        parts += ["Distribution of KLD over tokens:", markdown_table(*tail_table(found))]
    if len(found.files) > 1:
        parts.append(markdown_table(*paired_table(found)))
    parts.append("![against bits per weight](bpw.png)")
    if found.base:
        parts.append("![percentiles of KLD](percentiles.png)")
    return "\n\n".join(parts) + "\n"


STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;font-weight:600;padding:.3rem 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.3rem .7rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def page(found: Evaluation, pictures: Sequence[Path]) -> str:
    """The report as one HTML page that needs no other file: the pictures are inside."""
    parts = [html_table("Scores", *score_table(found))]
    if found.base:
        parts.append(html_table("Distribution of KLD over tokens", *tail_table(found)))
    if len(found.files) > 1:
        parts.append(html_table("Against the first file, token by token", *paired_table(found)))
    for picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        parts.append(f'<p><img alt="{escape(picture.stem)}" src="data:image/png;base64,{data}"></p>')
    title = f"Evaluation on {escape(found.text.name)}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{escape(conditions(found))}</p>"
        f"{''.join(parts)}</body></html>\n"
    )


def prepare(folder: Path, *, overwrite: bool) -> None:
    """Check before the long work that matplotlib is installed and that no file would be overwritten."""
    from srd_rs.eval.plots import figure_class

    figure_class()
    check_folder(folder, FILES, "--report", overwrite=overwrite)


def check_folder(folder: Path, files: Iterable[str], option: str, *, overwrite: bool) -> None:
    """Check before the long work that `files` can be written into the folder that `option` names."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(message(folder, "it is a file", f"Name a folder for {option}"))
    taken = [name for name in files if (folder / name).exists()]
    if taken and not overwrite:
        what = f"{', '.join(taken)} would be overwritten"
        raise UsageError(message(folder, what, "Name another folder or pass --overwrite"))


def write(found: Evaluation, folder: Path) -> list[Path]:
    """Write the files of the report into `folder`, which is made if the folder is missing. Returns their paths."""
    from srd_rs.eval import plots

    files = {
        "report.md": markdown(found).encode(),
        "report.json": (json.dumps(found.to_json(), indent=1) + "\n").encode(),
        "bpw.png": plots.against_bpw(found),
    }
    if found.base:
        files["percentiles.png"] = plots.percentiles(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [_complete(folder / name, data) for name, data in files.items()]
        pictures = [path for path in written if path.suffix == ".png"]
        return [*written, _complete(folder / "report.html", page(found, pictures).encode())]
    except SrdError:
        raise
    except OSError as error:
        raise SrdIOError(message(folder, str(error), "Choose a folder that can be written")) from error


def _complete(path: Path, data: bytes) -> Path:
    """The file gets its name when it is whole and on the disk."""
    _core.write_file(path, data, True)
    return path
