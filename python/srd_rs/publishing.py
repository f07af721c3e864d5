"""What goes out with a GGUF: a model card, a Modelfile for Ollama, and the upload to the hub.

Everything is read from the metadata of the GGUF, so it can be made for any file at any time.

    >>> import srd_rs
    >>> print(srd_rs.card("path/to/model-Q4_K_M.gguf").splitlines()[8])
    # Wiki Gemma4 GGUF
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, hub, sniff
from srd_rs.errors import FormatError, SrdError, UsageError, message
from srd_rs.files import Gguf
from srd_rs.options import StrPath, mix_of
from srd_rs.text import bytes_text, count_text, printable
from srd_rs.turns import recognized

__all__ = ["card", "modelfile", "push"]

#: Key of the metadata behind `general.sampling.` -> the parameter of Ollama.
_PARAMETERS: Final = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


def modelfile(gguf: StrPath, *, mmproj: StrPath | None = None) -> str:
    """The Modelfile with which Ollama takes over a GGUF: ``ollama create NAME -f FILE``.

    mmproj: The projector of a model that sees or hears, which Ollama takes over as well. The default is the one that
    lies beside the GGUF under its usual name.

    The Modelfile is to lie beside the files. It has the sampling that the model recommends (generation_config.json),
    the token that ends a turn, and a TEMPLATE with the turns of the chat, which are recognized in the chat template of
    the GGUF (see `srd_rs.turns`). Tools and thinking are left out. Where the turns are not recognized, a comment says
    so: then Ollama takes the template if it is one that it knows by heart, and sends the text as it is otherwise.

        >>> print(srd_rs.modelfile("path/to/model-Q4_K_M.gguf").splitlines()[1])
        FROM ./model-Q4_K_M.gguf

    Raises UsageError for a file that is no GGUF, and for a split one, which Ollama does not take.
    """
    file = _gguf(gguf)
    metadata = file.metadata
    if len({t.file for t in file.values()}) > 1:
        raise UsageError(message(file.path, "Ollama takes no split GGUF", "Convert without --split-max-size"))
    lines = [
        f"# ollama create {ollama_name(file.path)} -f {file.path.stem}.Modelfile",
        f"FROM ./{file.path.name}",
    ]
    projector = _projector(file.path, mmproj)
    if projector is not None:
        lines.append(f"FROM ./{projector.path.name}")
    for key, name in _PARAMETERS.items():
        value = metadata.get(f"general.sampling.{key}")
        if isinstance(value, (int, float)):
            lines.append(f"PARAMETER {name} {value:.6g}")
    tokens = metadata.get("tokenizer.ggml.tokens")
    turn, end = (metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eos"))
    if isinstance(turn, int) and turn != end and isinstance(tokens, list) and turn < len(tokens):
        lines.append(f"PARAMETER stop {json.dumps(tokens[turn], ensure_ascii=False)}")
    template = metadata.get("tokenizer.chat_template")
    turns = recognized(template) if isinstance(template, str) else None
    if template is not None and turns is None:
        lines += [
            "# The turns of the chat template of this model were not recognized. Unless Ollama knows the template by",
            "# heart, it sends the text as it is: then write a TEMPLATE here (ollama's docs/template.md).",
        ]
    text = "\n".join([*(printable(line) for line in lines), ""])
    return text if turns is None else f'{text}TEMPLATE """{turns.go_template()}"""\n'


def card(
    ggufs: Sequence[StrPath] | StrPath, *, base_model: str | None = None, report: StrPath | None = None
) -> str:
    """A model card (README.md for the hub) of one or more GGUFs of one model.

    base_model: The model on the hub that the files were made from, ``ORG/NAME``.
    report: A folder that ``srd-rs eval --report`` wrote, or its report.json: its scores become a table.

    A projector (mmproj-*.gguf) among the files, or beside the first under its usual name, is listed with its command.
    The card has front matter, sizes, how the weights were quantized, the commands that run a file (those of Ollama
    where a Modelfile lies beside it), and the fingerprint of a container that lies beside a GGUF.

    Raises UsageError without files, for a file that is no GGUF and for a report of other files.

        >>> text = srd_rs.card("path/to/model-Q4_K_M.gguf", base_model="org/name")
        >>> text.splitlines()[1]
        'base_model: org/name'
    """
    paths = [ggufs] if isinstance(ggufs, (str, os.PathLike)) else list(ggufs)
    if not paths:
        raise UsageError(message("card", "there are no files", "Name one GGUF or more"))
    opened = [_gguf(path) for path in paths]
    files = [file for file in opened if not _is_projector(file)]
    if not files:
        what = "this is a projector, and a card is about a model"
        raise UsageError(message(paths[0], what, "Name the GGUF of the model as well"))
    projector = next(filter(_is_projector, opened), None) or _projector(files[0].path, None)
    parts = [_front_matter(files[0].metadata, base_model), _heading(files[0], base_model)]
    parts.append(_sizes(files, projector))
    if report is not None:
        parts.append(_quality(files, Path(report)))
    parts += [_commands(files[0], projector), _origin(files)]
    return "\n".join(parts)


def _projector(gguf: Path, named: StrPath | None) -> Gguf | None:
    """The projector that is named, or else the one that lies beside the GGUF."""
    path = sniff.projector_beside(gguf) if named is None else Path(named)
    if path is None:
        return None
    if sniff.identify(path).kind != "mmproj":
        raise UsageError(message(path, "this is no projector", "Name the file mmproj-*.gguf of the model"))
    return _gguf(path)


def _gguf(path: StrPath) -> Gguf:
    found = hub.locate(path).path
    thing = sniff.check_inspectable(found)
    if thing.kind not in sniff.GGUFS:
        raise UsageError(message(path, f"this is {thing.what}, not a GGUF", "Name a GGUF"))
    return Gguf(found)


def _is_projector(file: Gguf) -> bool:
    return file.architecture == "clip"


def senses(metadata: Mapping[str, Any]) -> str:
    """What a projector adds to a model: ``pictures``, ``sound`` or both."""
    kinds = (("vision", "pictures"), ("audio", "sound"))
    return " and ".join(name for key, name in kinds if metadata.get(f"clip.has_{key}_encoder"))


def ollama_name(gguf: Path) -> str:
    """The name of a GGUF for Ollama: small letters, digits, dots and dashes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else "-" for c in gguf.stem.lower())


def _front_matter(metadata: Mapping[str, Any], base_model: str | None) -> str:
    import yaml

    facts: dict[str, Any] = {}
    if base_model is not None:
        facts |= {"base_model": base_model, "base_model_relation": "quantized"}
    facts["library_name"] = "gguf"
    for key, name in (("general.license", "license"), ("general.languages", "language")):
        if value := metadata.get(key):
            facts[name] = value
    facts["tags"] = ["gguf", "llama.cpp", "srd-rs"]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n"


def _title(file: Gguf) -> str:
    return printable(str(file.metadata.get("general.name") or file.path.stem))


def _heading(file: Gguf, base_model: str | None) -> str:
    origin = ""
    if base_model is not None:
        origin = f" made from [{base_model}](https://huggingface.co/{base_model})"
    counts = f"{count_text(file.n_weights)} weights, architecture {printable(file.architecture)}"
    return f"# {_title(file)} GGUF\n\nGGUF files for llama.cpp{origin}: {counts}.\n"


def _sizes(files: Sequence[Gguf], projector: Gguf | None = None) -> str:
    rows = ["| file | mix | size | bits per weight | quantized by |", "| --- | --- | ---: | ---: | --- |"]
    listed = [*files] if projector is None else [*files, projector]
    for file in listed:
        bpw = file.nbytes * 8 / max(file.n_weights, 1)
        size = sum(path.stat().st_size for path in {t.file for t in file.values()})
        method = f"projector for {senses(file.metadata)}" if file is projector else _method(file)
        cells = (printable(file.path.name), _mix(file), bytes_text(size), f"{bpw:.2f}", method)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, ""])


def _mix(file: Gguf) -> str:
    return mix_of(file.metadata.get("general.file_type")) or "unknown"


def _method(file: Gguf) -> str:
    metadata = file.metadata
    method = metadata.get("srd.method")
    if method is None:
        return "not recorded"
    text = metadata.get("srd.calibration.text")
    tokens = metadata.get("srd.calibration.tokens")
    calibrated = f", calibrated on {tokens} tokens of {printable(str(text))}" if text and tokens else ""
    srd = "SRD (Stochastic Residual Dithering)"
    names = {"srd": srd, "srd-max": f"{srd}, effort max", "search": "search of the scales"}
    return f"{names.get(str(method), printable(str(method)))}{calibrated}"


def _quality(files: Sequence[Gguf], report: Path) -> str:
    """The scores of a report, of the files of the card alone."""
    path, data = sniff.read_report(report)
    try:
        scored = {Path(entry["path"]).name: entry for entry in data["files"]}
        missing = [file.path.name for file in files if file.path.name not in scored]
        if missing:
            what = f"the report has no scores of {', '.join(missing)}"
            raise UsageError(message(path, what, "Name the report of these files"))
        rows = [
            "| file | perplexity | KL divergence from the original | same top token |",
            "| --- | ---: | ---: | ---: |",
        ]
        for file in files:
            entry = scored[file.path.name]
            divergence = entry["divergence"]
            cells = [printable(file.path.name), _estimate(entry["perplexity"])]
            cells += (
                ["-", "-"]
                if divergence is None
                else [_estimate(divergence["kld"]), _estimate(divergence["same_top"])]
            )
            rows.append(f"| {' | '.join(cells)} |")
        where = f"{data['n_chunks']} chunks of {printable(Path(data['text']).name)}"
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, SrdError):
            raise
        what = f"this is no report of srd-rs eval: {error!r}"
        raise FormatError(message(path, what, "Name the folder that srd-rs eval --report wrote")) from None
    return "\n".join(["## Quality", "", f"Measured by llama.cpp over {where}.", "", *rows, ""])


def _estimate(value: Mapping[str, float]) -> str:
    return f"{value['value']:.6g} ± {value['error']:.2g}"


def _commands(file: Gguf, projector: Gguf | None) -> str:
    name = printable(file.path.name)
    seen: list[str] = []
    if projector is not None:
        options = [
            option
            for key, option in (("vision", "--image picture.png"), ("audio", "--audio sound.wav"))
            if projector.metadata.get(f"clip.has_{key}_encoder")
        ]
        mmproj = printable(projector.path.name)
        seen = [f'llama-mtmd-cli -m {name} --mmproj {mmproj} {option} -p "What is it?"' for option in options]
    modelfile = file.path.with_suffix(".Modelfile")
    if modelfile.exists():
        called = ollama_name(file.path)
        seen += [f"ollama create {called} -f {printable(modelfile.name)}", f"ollama run {called}"]
    return "\n".join(["## Run", "", "```sh", f"llama-cli -m {name}", *seen, "```", ""])


def _origin(files: Sequence[Gguf]) -> str:
    metadata = files[0].metadata
    lines = ["## Origin", ""]
    if version := metadata.get("srd.version"):
        lines.append(f"- Converted by srd-rs {printable(str(version))}.")
    if digest := metadata.get("srd.source.digest"):
        lines.append(f"- Digest of the source: `{printable(str(digest))}`.")
    for file in files:
        container = file.path.with_suffix(".axm")
        if not container.exists():
            continue
        try:
            header = _core.open_container(container).header
        except SrdError:
            continue
        # The container of an earlier conversion may still lie there.
        if header.id == file.metadata.get("srd.axm.id"):
            name, fingerprint = printable(file.path.name), header.fingerprint
            lines.append(f"- Fingerprint of the signed container of {name}: `{fingerprint}`.")
    return "\n".join([*lines, ""])


def push(
    repo: str,
    files: Sequence[StrPath],
    *,
    card: StrPath | None = None,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Upload files to a model repository on the hub, in one commit. Returns the address of the commit.

    repo: ``ORG/NAME``; made if it is not there.
    files: They are uploaded under their own names.
    card: A model card; it becomes README.md of the repository.
    private: Make a new repository private.
    message: The message of the commit.

    The token is what ``hf auth login`` keeps, or the variable HF_TOKEN. Raises UsageError for names that do not fit,
    SrdIOError when the upload fails.

        >>> srd_rs.push("org/name-GGUF", ["model-Q4_K_M.gguf"], card="README.md")  # doctest: +SKIP
        'https://huggingface.co/org/name-GGUF/commit/...'
    """
    from srd_rs.errors import message as text

    if not hub.is_id(repo):
        raise UsageError(text(repo, "this is no name of a repository", "Write it as ORG/NAME"))
    paths = [Path(file) for file in files]
    for path in [*paths, *([Path(card)] if card is not None else [])]:
        if not path.is_file():
            raise UsageError(text(path, "there is no such file to upload", "Check the path"))
        if sniff.identify(path).is_secret:
            raise UsageError(text(path, "this is a secret key, which is not published", "Leave it out"))
    names = [path.name for path in paths] + (["README.md"] if card is not None else [])
    if not names:
        raise UsageError(text("push", "there are no files", "Name one file or more"))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(text(twice[0], "two files have this name in the repository", "Rename one of them"))
    sources = [*paths, *([Path(card)] if card is not None else [])]
    return hub.upload(repo, dict(zip(names, sources, strict=True)), private=private, note=message)
