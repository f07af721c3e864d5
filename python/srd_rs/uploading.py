"""The output of a conversion goes to the hub: each file is uploaded and leaves the disk as soon as it is complete.

The files are made in a hidden folder in the current folder. A file that is complete is sent to the storage of the
hub, where it has no name yet; then only its header stays on the disk. One commit at the end gives all files
their names, so the repository has either the whole output or nothing of it.
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
from typing import Any, Final

from srd_rs import _core, hub
from srd_rs.effects import check_container, given
from srd_rs.errors import SrdError, SrdIOError, UsageError, io_error, message
from srd_rs.options import ConvertOptions, StrPath
from srd_rs.report import ConvertReport, Plan

_TARGET: Final = re.compile(r"hf://(?P<org>[\w.-]+)/(?P<name>[\w.-]+)(?:/(?P<path>.*))?", re.ASCII)
_REMOTE: Final = re.compile(r"[a-z][a-z0-9+]*://.*", re.DOTALL)
_TRIES: Final = 4
"""Number of times that an upload is tried. ``SRD_HTTP_TRIES`` is another number."""
_CARD: Final = "README.md"


@dataclass(frozen=True)
class Target:
    """A place on the hub: the repository, a folder in it ("" for the top), and the name of the GGUF, None for the
    usual name."""

    repo: str
    folder: str
    file: str | None

    @property
    def address(self) -> str:
        return f"hf://{self.repo}"

    def name(self, path: Path) -> Path:
        """What a file of the output is called in the repository."""
        return Path(self.folder) / path.name

    def renamed(self, plan: Plan) -> Plan:
        """A plan whose files have the names of the repository."""
        files = tuple(file.at(self.name(file.path)) for file in plan.files)
        return replace(plan, files=files, mmproj=plan.mmproj and self.renamed(plan.mmproj))


def target(output: StrPath | None) -> Target | None:
    """The place on the hub that an output names: ``hf://ORG/NAME``, ``hf://ORG/NAME/FOLDER/`` or
    ``hf://ORG/NAME/FILE.gguf``. None for a path. Raises UsageError for another address."""
    if not isinstance(output, str) or not _REMOTE.fullmatch(output):
        return None
    found = _TARGET.fullmatch(output)
    names = [] if found is None else (found["path"] or "").split("/")
    if found is None or not hub.is_id(f"{found['org']}/{found['name']}") or {".", ".."} & set(names):
        what, fix = "no output can be written to this address", "Write it as hf://ORG/NAME, or name a path"
        raise UsageError(message(output, what, fix))
    file = names.pop() if names and names[-1].endswith(".gguf") else None
    return Target(f"{found['org']}/{found['name']}", "/".join(filter(None, names)), file)


def checked(options: ConvertOptions) -> ConvertOptions:
    """The options of a conversion whose output is uploaded. Raises UsageError for those that need the files."""
    why = "its files leave the disk while they are written"
    for name in ("axm", "bom", "oms_key", "resume"):
        if getattr(options, name):
            what = f"--{name.replace('_', '-')} is not possible with an output on the hub, because {why}"
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
    _sent: list[Any] = field(default_factory=list)
    """The operations of the commit."""
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
        """Make the repository, and refuse to replace files, before hours of work."""
        paths = [file.path for file in (*plan.files, *(plan.mmproj.files if plan.mmproj else ()))]
        paths += [_core.sidecar_path(plan.output)] if self.options.met else []
        paths += [plan.output.with_suffix(".Modelfile")] if self.options.modelfile else []
        names = [self.target.name(path).as_posix() for path in paths]
        self._planned = len(plan.files)
        self._check_names([*names, _CARD] if self.options.card else names)
        threading.Thread(target=self._send_all, name="upload", daemon=True).start()

    def _check_names(self, names: Sequence[str]) -> None:
        from huggingface_hub import HfApi

        api = HfApi()
        try:
            api.create_repo(self.target.repo, private=True, exist_ok=True)
            there = set(api.list_repo_files(self.target.repo))
        except Exception as error:  # huggingface_hub raises its HTTP library's errors as well as its own
            raise hub.upload_failure(self.target.repo, error) from error
        twice = next((name for name in names if name in there), None)
        if twice is not None and not self.options.overwrite:
            fix = "Choose another name, or replace the file with --overwrite"
            raise UsageError(message(f"{self.target.address}/{twice}", "the file exists already", fix))

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
        """Send a file to the storage of the hub. It has no name there until the commit."""
        from huggingface_hub import CommitOperationAdd, HfApi

        operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
        self._tried(name, lambda: HfApi().preupload_lfs_files(self.target.repo, [operation]))
        if getattr(operation, "_should_ignore", False):
            what = "the file .gitignore of the repository leaves this file out"
            raise UsageError(message(f"{self.target.address}/{name}", what, "Change .gitignore, or the name"))
        if operation.path_or_fileobj != b"":  # a small file, which the commit itself brings
            operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=path.read_bytes())
        self._sent.append(operation)

    def complete(self, report: ConvertReport) -> ConvertReport:
        """Send what is left, and name all files in one commit. The report has the names of the repository."""
        named = self._named(report)
        sent = {operation.path_in_repo for operation in self._sent}
        made = {name.as_posix(): path for name, path in named.items()}
        extra = [name for name in made if name not in sent]
        for name in extra:
            self._send(made[name], name)
        missing = [name for name in made if name not in {operation.path_in_repo for operation in self._sent}]
        if missing or len(self._sent) != len(made):
            what = f"{len(self._sent)} files were sent, but the conversion wrote {len(made)}"
            raise SrdIOError(message(self.target.address, what, "This is a mistake in srd-rs: report it"))
        from huggingface_hub import HfApi

        note = f"Upload {self.target.name(report.output).name} of srd-rs"
        commit = self._tried(
            "the commit",
            lambda: HfApi().create_commit(self.target.repo, self._sent, commit_message=note),
        )
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
            commit=str(commit.commit_url),
        )

    def _named(self, report: ConvertReport) -> dict[Path, Path]:
        """Name in the repository -> file, of everything that a conversion has written."""
        beside = (report.mmproj, report.sidecar, report.modelfile)
        paths = [*report.outputs, *(path for path in beside if path is not None)]
        named = {self.target.name(path): path for path in paths}
        return named if report.card is None else {**named, Path(_CARD): report.card}

    def _tried(self, what: str, send: Callable[[], Any]) -> Any:
        """Try to send something, again where the reason passes. The error says what is where."""
        tries = int(os.environ.get("SRD_HTTP_TRIES") or _TRIES)
        for number in range(1, tries + 1):
            try:
                return send()
            except Exception as error:  # huggingface_hub raises its HTTP library's errors as well as its own
                cause = error
                while isinstance(cause, RuntimeError) and isinstance(cause.__cause__, Exception):
                    cause = cause.__cause__
                if number == tries or not _passes(cause):
                    raise self._failure(what, cause) from error
            time.sleep(min(2.0 ** (number - 1), 30.0))
        raise AssertionError("the last try returns or raises")

    def _failure(self, what: str, error: Exception) -> SrdIOError:
        sent = f"{len(self._sent)} of {max(self._planned, len(self._sent))} files were sent"
        state = (
            f"{sent} and have no name there, the repository is as it was, and nothing is left on this disk"
        )
        return hub.upload_failure(self.target.repo, error, what=f"{what}: ", state=f"; {state}")


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed later: the network failed, or the server is busy."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status in (408, 425, 429) or status >= 500
