"""The MET sidecar of a GGUF, which says which bytes belong to which slot, and hydration, which loads the bytes.

`docs/met.md` describes the sidecar's fields, `docs/met.schema.json` is their JSON Schema.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from srd_rs import _core, effects, hub, sniff
from srd_rs._core import Hydration, Residency
from srd_rs.errors import FormatError, ModelError, io_error
from srd_rs.options import bytes_of
from srd_rs.reading import load_json
from srd_rs.report import Measurements
from srd_rs.text import printable

__all__ = ["INTENTS", "PARTS", "Hydration", "Hydrator", "Residency", "check", "met", "sidecar_path"]

log = logging.getLogger("srd_rs.hydration")

INTENTS: Final = _core.INTENTS
"""The intents of requests. `hydration_policy` of the sidecar says which slots each intent needs."""

PARTS: Final = _core.PARTS
"""The parts of a file: the embedding part, which belongs to no layer, the tables of which a token reads one row each,
and the slots of depth."""


def part_of(sidecar: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return what a sidecar says of a part: ``byte_ranges``, ``bytes``, ``tensors``, and of a slot ``layers``.

    A sidecar of version 1 has no tables: they belong to its embedding part.
    """
    if part == "tables":
        found: dict[str, Any] = sidecar.get("tables") or {"tensors": 0, "bytes": 0, "byte_ranges": []}
    else:
        found = sidecar["embedding_slot"] if part == "embedding" else sidecar["slots"][part]
    return found


def sidecar_path(gguf: str | os.PathLike[str]) -> Path:
    """Return the name of the sidecar of a GGUF: ``name.met.json`` for ``name.gguf``.

    All parts of a split GGUF have one sidecar, which has the name of the first part.
    """
    return _core.sidecar_path(gguf)


def described_file(path: Path) -> str | None:
    """Return the name of the GGUF that the sidecar at `path` describes; None for a link and for what is no sidecar."""
    if path.is_symlink() or not path.is_file() or sniff.identify(path).kind != "met":
        return None
    try:
        facts = load_json(path).get("file")
    except FormatError:
        return None
    name = facts.get("name") if isinstance(facts, dict) else None
    return name if isinstance(name, str) else None


def remove_stale(gguf: Path) -> None:
    """Remove the sidecar beside a GGUF that was just replaced, if the sidecar describes another file.

    Such a sidecar describes bytes that are gone. Nothing else is removed.
    """
    path = sidecar_path(gguf)
    # Beside model.bin, model.met.json may be the sidecar of model.gguf.
    if gguf.suffix != ".gguf" or described_file(path) is None:
        return
    try:
        _core.Hydrator(gguf, path).close()
    except (FormatError, ModelError):
        try:
            path.unlink()
        except OSError as error:
            raise io_error(path, "remove", error, "Remove the file: it describes another GGUF") from None
        log.warning("%s: removed, because the sidecar described another file than %s", path, gguf.name)


def met(
    gguf: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    slots: str | None = None,
    fingerprint: str | None = None,
    digest: bool = True,
    overwrite: bool = False,
    known: Measurements | None = None,
) -> dict[str, Any]:
    """Measure a GGUF, or the GGUF that a signed container (.axm) holds, and return its sidecar.

    output: write it there as well, as JSON.
    slots: layers of the slots, ``"early=0-5,factual=6-11,reasoning=12-22,governance=23-29"``; by default
        20/20/37/23 % of the depth.
    fingerprint: of the signed container that the GGUF came from; a container has its own.
    digest: read the whole file for its SHA-256; without, and for a container, `file.sha256` is None and only the
        header is read.
    overwrite: replace an existing output.
    known: what the conversion has measured (`ConvertReport.measured`), which no GGUF says. By default, what the sidecar
        beside the GGUF says of the importance of tensors and of the use of experts is kept, if that sidecar fits.

    A split GGUF is measured as a whole, whichever part is named. A projector that lies beside the GGUF under its usual
    name is listed.

    Raises SrdIOError, FormatError for a broken GGUF, ModelError for one without layers or with missing parts,
    UsageError for slots that do not fit.

        >>> sidecar = srd_rs.met("path/to/model-Q4_K_M.gguf")
        >>> list(sidecar["slots"])[:2]
        ['early', 'factual']
    """
    gguf = hub.file(gguf)
    thing = sniff.check_gguf(gguf, or_container=True)
    effects.refuse(
        (
            thing.kind == "axm" and fingerprint is not None,
            "--fingerprint",
            "a container has its own fingerprint",
        ),
        (overwrite and output is None, "--overwrite", "no file is written"),
    )
    if output is not None:
        sniff.check_output(Path(output))
    projector = sniff.projector_beside(Path(gguf)) if thing.kind == "gguf" else None
    facts = None if known is None else known.to_json()
    text = _core.met_sidecar(gguf, output, slots, fingerprint, digest, overwrite, projector, facts)
    result: dict[str, Any] = json.loads(text)
    return result


def check(gguf: str | os.PathLike[str], sidecar: str | os.PathLike[str] | None = None) -> None:
    """Check that a sidecar (by default the one beside the GGUF) is that of the GGUF, its weights included.

    Reads the whole file for its SHA-256. Raises ModelError that says what differs, or that the sidecar holds no
    digest, FormatError for what is no sidecar or no GGUF.
    """
    gguf = hub.file(gguf)
    sniff.check_gguf(gguf)
    _core.met_check(gguf, sidecar)


class Hydrator:
    """Brings the bytes of a GGUF that an intent needs into the page cache, and takes others out.

    Use a hydrator beside an engine that maps the file, such as llama-cpp-python (`use_mmap=True`, the default): the
    engine then finds those pages in memory. The pages are in memory for this process and for others alike.

        with Hydrator("model.gguf") as hydrator:
            hydrator.hydrate("INFORM")
            llm = Llama("model.gguf")

    The sidecar is the given one, or the one beside the file (``model.met.json``), or, where there is none,
    made on the fly. It must fit the file: size, header and everything measured are compared.

    Raises SrdIOError, FormatError for a broken GGUF or sidecar, ModelError for a sidecar of another file.
    """

    def __init__(self, gguf: str | os.PathLike[str], sidecar: str | os.PathLike[str] | None = None) -> None:
        gguf = hub.file(gguf)
        sniff.check_gguf(gguf)
        self._native = _core.Hydrator(gguf, sidecar)
        self.path = gguf
        self.sidecar: dict[str, Any] = json.loads(self._native.sidecar())

    def __repr__(self) -> str:
        return f"<Hydrator {printable(str(self.path))}>"

    def hydrate(
        self,
        intent: str,
        *,
        budget: int | str | None = None,
        lock: bool = False,
        evict_others: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Hydration:
        """Bring in what `intent` needs. Returns when done.

        The embedding part comes first, then what every token reads of the slots, by depth, and then the experts of the
        slots, those first that the calibration used most.

        The tables are not brought in, because a token reads one row of each.

        budget: most bytes (a number, or a text such as ``"2GiB"``), in whole pages; what does not fit is left out from
            the end.
        lock: keep these pages in memory until `close`, `evict` or the next `hydrate`. Needs a limit of locked
            memory (`ulimit -l`) that is large enough.
        evict_others: take the rest of the file out of memory first.
        progress: called with (done, total) bytes; an exception it raises ends the hydration.
        """
        most = None if budget is None else bytes_of("budget", budget)
        return self._native.hydrate(intent, most, lock, evict_others, progress)

    def evict(self, slots: Sequence[str] = PARTS) -> None:
        """Take parts ("embedding", "early", ...; by default all) out of memory and release their locks.

        As far as the kernel lets go: pages that another process has mapped stay. See `residency`.
        """
        self._native.evict(list(slots))

    def residency(self) -> tuple[Residency, ...]:
        """Tell how many bytes of each part are in memory."""
        return tuple(self._native.residency())

    @property
    def locked_bytes(self) -> int:
        """Number of bytes of locked pages."""
        return self._native.locked_bytes()

    def close(self) -> None:
        """Release the locks and the file. Pages stay in memory as long as the kernel sees fit."""
        self._native.close()

    def __enter__(self) -> Hydrator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
