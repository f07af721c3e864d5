"""The MET sidecar of a GGUF, and hydration: which bytes belong to which slot, and bringing them into memory.

`docs/met.md` describes the sidecar's fields, `docs/met.schema.json` is their JSON Schema.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

INTENTS: Final = ("INFORM", "CLARIFY", "REFUSE", "UNCERTAIN", "HARM", "DECEIVE")
"""What a request can be about; the sidecar's `hydration_policy` says which slots each needs."""

PARTS: Final = ("embedding", "early", "factual", "reasoning", "governance")
"""The parts of a file: what belongs to no layer, and the slots of depth."""


def sidecar_path(gguf: str | os.PathLike[str]) -> Path:
    """Where the sidecar of a GGUF lies: ``name.gguf`` -> ``name.met.json``."""
    return Path(gguf).with_suffix(".met.json")


def met(
    gguf: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    slots: str | None = None,
    fingerprint: str | None = None,
    digest: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure a GGUF, or the GGUF that a signed container (.axm) holds, and return its sidecar.

    output: write it there as well, as JSON.
    slots: layers of the slots, ``"early=0-5,factual=6-11,reasoning=12-22,governance=23-29"``; by default
        20/20/37/23 % of the depth.
    fingerprint: of the signed container that the GGUF came from; a container has its own.
    digest: read the whole file for its SHA-256; without, and for a container, `file.sha256` is None and only the
        header is read.
    overwrite: replace an existing output.

    Raises SrdIOError, FormatError for a broken GGUF, ModelError for one without layers or one part of a split
    model, UsageError for slots that do not fit.
    """
    from srd_rs import _core

    out = None if output is None else os.fspath(output)
    text = _core.met_sidecar(os.fspath(gguf), out, slots, fingerprint, digest, overwrite)
    result: dict[str, Any] = json.loads(text)
    return result


def check(gguf: str | os.PathLike[str], sidecar: str | os.PathLike[str] | None = None) -> None:
    """Check that a sidecar (by default the one beside the GGUF) is that of the GGUF, its weights included.

    Reads the whole file for its SHA-256. Raises ModelError that says what differs, or that the sidecar holds no
    digest, FormatError for what is no sidecar or no GGUF.
    """
    from srd_rs import _core

    _core.met_check(os.fspath(gguf), None if sidecar is None else os.fspath(sidecar))


@dataclass(frozen=True)
class Hydration:
    """What a hydration did, in bytes of whole pages.

    `wanted_bytes` is what the intent needs, `hydrated_bytes` what of it the budget allowed (all in memory at
    the end), `read_bytes` what of that was not in memory before, `locked_bytes` what is locked now.
    """

    intent: str
    wanted_bytes: int
    hydrated_bytes: int
    read_bytes: int
    locked_bytes: int
    seconds: float


@dataclass(frozen=True)
class Residency:
    """A part of a file and how many of its bytes are in memory.

    `resident_bytes` is None where the kernel does not tell: it does so only for files that one owns or may
    write.
    """

    slot: str
    bytes: int
    resident_bytes: int | None


class Hydrator:
    """Brings the bytes of a GGUF that an intent needs into the page cache, and takes others out.

    To be used beside an engine that maps the file, such as llama-cpp-python (`use_mmap=True`, its default):
    the engine then finds those pages in memory. Works in this process and for others alike.

        with Hydrator("model.gguf") as hydrator:
            hydrator.hydrate("INFORM")
            llm = Llama("model.gguf")

    The sidecar is the given one, or the one beside the file (``model.met.json``), or, where there is none,
    made on the fly. It must fit the file: size, header and everything measured are compared.

    Raises SrdIOError, FormatError for a broken GGUF or sidecar, ModelError for a sidecar of another file.
    """

    def __init__(self, gguf: str | os.PathLike[str], sidecar: str | os.PathLike[str] | None = None) -> None:
        from srd_rs import _core

        self._native = _core.Hydrator(os.fspath(gguf), None if sidecar is None else os.fspath(sidecar))
        self.path = Path(gguf)
        self.sidecar: dict[str, Any] = json.loads(self._native.sidecar())

    def hydrate(
        self,
        intent: str,
        *,
        budget: int | None = None,
        lock: bool = False,
        evict_others: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Hydration:
        """Bring in what `intent` needs: the embedding part, then its slots by depth. Returns when done.

        budget: most bytes, in whole pages; what does not fit is left out from the end.
        lock: keep these pages in memory until `close`, `evict` or the next `hydrate`. Needs a limit of locked
            memory (`ulimit -l`) that is large enough.
        evict_others: take the rest of the file out of memory first.
        progress: called with (done, total) bytes; an exception it raises ends the hydration.
        """
        return Hydration(**json.loads(self._native.hydrate(intent, budget, lock, evict_others, progress)))

    def evict(self, slots: Sequence[str] = PARTS) -> None:
        """Take parts ("embedding", "early", ...; by default all) out of memory and release their locks.

        As far as the kernel lets go: pages that another process has mapped stay. See `residency`.
        """
        self._native.evict(list(slots))

    def residency(self) -> tuple[Residency, ...]:
        """How much of each part is in memory."""
        return tuple(Residency(**part) for part in json.loads(self._native.residency()))

    @property
    def locked_bytes(self) -> int:
        """Bytes of locked pages."""
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
