"""The output of a conversion goes to the hub or to an object store: each file leaves the disk when it is complete.

The files are made in a hidden folder in the current folder. A file that is complete is sent to its place, where it has
no name yet; then only its header stays on the disk. At the end all files get their names: by one commit on the hub, and
in a bucket by completing their multipart uploads. So the place has either the whole output or nothing of it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from srd_rs import _core, hub, storage
from srd_rs.effects import check_container, given
from srd_rs.errors import SrdError, SrdIOError, UsageError, io_error, message
from srd_rs.options import ConvertOptions, StrPath
from srd_rs.report import ConvertReport, Plan

_HUB: Final = re.compile(r"(?P<base>hf://[\w.-]+/[\w.-]+)(?:/(?P<path>.*))?", re.ASCII)
_BUCKET: Final = re.compile(r"(?P<base>[a-z0-9]+://[^/]+)(?:/(?P<path>.*))?", re.ASCII)
_REMOTE: Final = re.compile(r"[a-z][a-z0-9+]*://.*", re.DOTALL)
_TRIES: Final = 4
"""Number of times that an upload is tried. ``SRD_HTTP_TRIES`` is another number."""
_CARD: Final = "README.md"


@dataclass(frozen=True)
class Target:
    """A place for an output: the address of the repository or bucket, a folder in it ("" for the top), and the name of
    the GGUF, None for the usual name."""

    address: str
    folder: str
    file: str | None

    def name(self, path: Path) -> Path:
        """What a file of the output is called there."""
        return Path(self.folder) / path.name

    @property
    def card(self) -> str | None:
        """What a model card is called there; None for its usual name."""
        return _CARD if self.address.startswith("hf://") else None

    def renamed(self, plan: Plan) -> Plan:
        """A plan whose files have the names of the place."""
        files = tuple(file.at(self.name(file.path)) for file in plan.files)
        return replace(plan, files=files, mmproj=plan.mmproj and self.renamed(plan.mmproj))


class _Place(Protocol):
    """Where files are sent. They have no names before `complete`."""

    def there(self, names: Sequence[str]) -> set[str]: ...
    def send(self, path: Path, name: str) -> None: ...
    def complete(self, note: str) -> str: ...
    def abandon(self) -> None: ...


class _Repository:
    """A repository of the hub, which is made, private, where it is missing."""

    def __init__(self, repo: str) -> None:
        self._repo = repo
        self._operations: list[Any] = []

    def there(self, names: Sequence[str]) -> set[str]:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(self._repo, private=True, exist_ok=True)
        return set(names) & set(api.list_repo_files(self._repo))

    def send(self, path: Path, name: str) -> None:
        from huggingface_hub import CommitOperationAdd, HfApi

        operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
        HfApi().preupload_lfs_files(self._repo, [operation])
        if getattr(operation, "_should_ignore", False):
            what = "the file .gitignore of the repository leaves this file out"
            raise UsageError(message(name, what, "Change .gitignore, or the name"))
        if operation.path_or_fileobj != b"":  # a small file, which the commit itself brings
            operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=path.read_bytes())
        self._operations.append(operation)

    def complete(self, note: str) -> str:
        from huggingface_hub import HfApi

        return str(HfApi().create_commit(self._repo, self._operations, commit_message=note).commit_url)

    def abandon(self) -> None:
        """What was sent has no name, and the hub removes it after a while."""


class _Bucket(storage.Deposit):
    """A bucket of an object store."""

    def complete(self, note: str) -> str:
        self.name_all()
        return self.address


def target(output: StrPath | None) -> Target | None:
    """The place that an output names: ``hf://ORG/NAME``, or a bucket such as ``s3://BUCKET``, with ``/FOLDER/`` or
    ``/FILE.gguf`` behind it if wanted. None for a path. Raises UsageError for another address."""
    if not isinstance(output, str) or not _REMOTE.fullmatch(output):
        return None
    found = _BUCKET.fullmatch(output) if storage.is_address(output) else _HUB.fullmatch(output)
    names = [] if found is None else (found["path"] or "").split("/")
    if found is None or {".", ".."} & set(names):
        what, fix = (
            "no output can be written to this address",
            "Write hf://ORG/NAME or s3://BUCKET/FOLDER/, or a path",
        )
        raise UsageError(message(output, what, fix))
    file = names.pop() if names and names[-1].endswith(".gguf") else None
    return Target(found["base"], "/".join(filter(None, names)), file)


def checked(options: ConvertOptions) -> ConvertOptions:
    """The options of a conversion whose output is uploaded. Raises UsageError for those that need the files."""
    why = "its files leave the disk while they are written"
    for name in ("axm", "bom", "oms_key", "resume"):
        if getattr(options, name):
            what = (
                f"--{name.replace('_', '-')} is not possible with an output that is uploaded, because {why}"
            )
            raise UsageError(
                message(what, "a file is needed as a whole", "Leave it out, or convert to a path")
            )
    check_container(given(options))
    return replace(options, axm=False, resume=False)


@dataclass
class Upload:
    """The upload of one conversion, as a context. What is on the disk is removed at its end, whatever happened."""

    target: Target
    options: ConvertOptions
    handover: _core.Handover = field(default_factory=_core.Handover)
    _place: _Place | None = None
    _sent: list[str] = field(default_factory=list)
    _error: Exception | None = None
    _folder: Path | None = None
    _planned: int = 0

    def __enter__(self) -> Upload:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=".srd-rs-", dir=Path.cwd()))
        except OSError as error:
            fix = "Run srd-rs in a folder that you may write to, on a disk with room for two files of the output"
            raise io_error(Path.cwd(), "create a folder", error, fix) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.handover.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._place is not None and error is not None:
            self._place.abandon()
        if self._error is not None and isinstance(error, SrdError):
            raise self._error from None

    @property
    def output(self) -> str:
        """Where the GGUF is made, in the form that a conversion takes."""
        assert self._folder is not None
        return f"{self._folder}{os.sep}{self.target.file or ''}"

    def told(self, on_plan: Callable[[Plan], None] | None) -> Callable[[Plan], None]:
        """What a conversion calls with its plan: the upload begins, and `on_plan` is called."""

        def begin(plan: Plan) -> None:
            self._begin(plan)
            if on_plan is not None:
                on_plan(self.target.renamed(plan))

        return begin

    def _begin(self, plan: Plan) -> None:
        """Open the place, and refuse to replace files, before hours of work."""
        paths = [file.path for file in (*plan.files, *(plan.mmproj.files if plan.mmproj else ()))]
        paths += [_core.sidecar_path(plan.output)] if self.options.met else []
        paths += [plan.output.with_suffix(".Modelfile")] if self.options.modelfile else []
        paths += [plan.output.with_suffix(".md")] if self.options.card and self.target.card is None else []
        names = [self.target.name(path).as_posix() for path in paths]
        names += [self.target.card] if self.options.card and self.target.card is not None else []
        self._planned = len(plan.files)
        address = self.target.address
        is_hub = address.startswith("hf://")
        try:
            self._place = _Repository(address.removeprefix("hf://")) if is_hub else _Bucket(address)
            there = self._place.there(names)
        except SrdError:
            raise
        except Exception as error:  # both libraries raise the errors of others as well as their own
            raise self._refused(error) from error
        twice = next((name for name in names if name in there), None)
        if twice is not None and not self.options.overwrite:
            fix = "Choose another name, or replace the file with --overwrite"
            raise UsageError(message(f"{address}/{twice}", "the file exists already", fix))
        threading.Thread(target=self._send_all, name="upload", daemon=True).start()

    def _send_all(self) -> None:
        """Send one file after another, on a thread of its own."""
        try:
            while (path := self.handover.next()) is not None:
                self._send(path, self.target.name(path).as_posix())
                self.handover.give_back(path)
        except Exception as error:
            self._error = error
            self.handover.fail(str(error))

    def _send(self, path: Path, name: str) -> None:
        assert self._place is not None
        place = self._place
        self._tried(name, lambda: place.send(path, name))
        self._sent.append(name)

    def complete(self, report: ConvertReport) -> ConvertReport:
        """Send what is left, and give all files their names. The report has the names of the place."""
        assert self._place is not None
        place, named = self._place, self._named(report)
        for name, path in named.items():
            if name.as_posix() not in self._sent:
                self._send(path, name.as_posix())
        if sorted(self._sent) != sorted(name.as_posix() for name in named):
            what = f"{len(self._sent)} files were sent, but the conversion wrote {len(named)}"
            raise SrdIOError(message(self.target.address, what, "This is a mistake in srd-rs: report it"))
        note = f"Upload {self.target.name(report.output).name} of srd-rs"
        commit = self._tried("giving the files their names", lambda: place.complete(note))
        back = {path: name for name, path in named.items()}

        def of(path: Path | None) -> Path | None:
            return None if path is None else back[path]

        return replace(
            report,
            plan=self.target.renamed(report.plan),
            sidecar=of(report.sidecar),
            card=of(report.card),
            modelfile=of(report.modelfile),
            mmproj=of(report.mmproj),
            commit=commit,
        )

    def _named(self, report: ConvertReport) -> dict[Path, Path]:
        """Name in the place -> file, of everything that a conversion has written."""
        beside = (report.mmproj, report.sidecar, report.modelfile, report.card)
        paths = [*report.outputs, *(path for path in beside if path is not None)]
        card = self.target.card
        return {
            Path(card) if card is not None and path == report.card else self.target.name(path): path
            for path in paths
        }

    def _tried(self, what: str, send: Callable[[], Any]) -> Any:
        """Try to send something, again where the reason passes. The error says what is where."""
        asked = os.environ.get("SRD_HTTP_TRIES", "")
        tries = max(int(asked), 1) if asked.isdecimal() else _TRIES
        for number in range(1, tries + 1):
            try:
                return send()
            except SrdError:
                raise
            except Exception as error:  # both libraries raise the errors of others as well as their own
                cause = error
                while isinstance(cause, RuntimeError) and isinstance(cause.__cause__, Exception):
                    cause = cause.__cause__
                if number == tries or not _passes(cause):
                    sent = f"{len(self._sent)} of {max(self._planned, len(self._sent))} files were sent"
                    state = f"; {sent} and have no name there, the place is as it was, and nothing is left on this disk"
                    raise self._refused(cause, f"{what}: ", state) from error
            time.sleep(min(2.0 ** (number - 1), 30.0))
        raise AssertionError("the last try returns or raises")

    def _refused(self, error: Exception, what: str = "", state: str = "") -> SrdIOError:
        address = self.target.address
        if address.startswith("hf://"):
            return hub.upload_failure(address.removeprefix("hf://"), error, what=what, state=state)
        return storage.failure(address, error, what=what, state=state)


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed later: the network failed, or the server is busy."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status in (408, 425, 429) or status >= 500
