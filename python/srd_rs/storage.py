"""Models in the buckets of object stores: Amazon S3 and what speaks its language, Google Cloud Storage, Azure.

This module lists the files of a bucket, fetches the small ones and signs addresses for the weights. The native
module reads the weights from the signed addresses, by ranges, so no weight passes through Python. The package obstore
does all this; it finds the credentials where the tools of the store keep them (``AWS_ACCESS_KEY_ID`` and so on).
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Final

from srd_rs import _core
from srd_rs.errors import FormatError, ModelError, SrdFileNotFoundError, SrdIOError, UsageError, message

VALID: Final = timedelta(days=7)
"""How long a signed address is valid: the longest time that S3 and Google allow."""
_PIECE: Final = 16 << 20
_SMALL_PIECE: Final = 1 << 20
_MAX_PIECES: Final = 9000
"""A file is sent in at most so many pieces: S3 takes 10000."""
_ADDRESS: Final = re.compile(r"(?:s3|gs|az|abfss)://[^/?#\s]+(?:/[^?#]*)?", re.ASCII)


@dataclass(frozen=True)
class Bucket:
    """A model in a bucket: the folder with its small files, its name, and its weight files, of which `weights` has the
    names and sizes (no store states a SHA-256)."""

    folder: Path
    name: str
    remote: _core.RemoteFiles
    listed: tuple[str, ...]
    """The names of all files under the address."""
    weights: tuple[tuple[str, int, None], ...]


def is_address(text: object) -> bool:
    """Whether a text is the address of a folder in a bucket: ``s3://``, ``gs://``, ``az://`` or ``abfss://``."""
    return isinstance(text, str) and _ADDRESS.fullmatch(text) is not None


def store_of(address: str) -> Any:
    """The object store of an address, whose keys begin at the folder that the address names."""
    try:
        from obstore.store import from_url
    except ImportError:
        fix = "Install it: pip install 'srd-rs[storage]'"
        raise UsageError(message(address, "buckets are read with the package obstore", fix)) from None
    try:
        return from_url(address)
    except Exception as error:  # obstore raises its own errors and ValueError
        raise failure(address, error) from error


def open(
    address: str, limit_of: Callable[[str], int], weights: Callable[[Iterable[str], Path], list[str]]
) -> Bucket:
    """List a model in a bucket, and fetch its small files into a folder that is removed when Python ends.

    `limit_of` gives the most bytes that a file may have which is fetched, and 0 for a file that is not. `weights`
    chooses the weight files, by the names of all files and by the small files in a folder. Raises `SrdIOError` if the
    store refuses, `FormatError` if a small file is too large, and `ModelError` if there are no weights.
    """
    import obstore

    store = store_of(address)
    try:
        found = {meta["path"]: meta["size"] for page in obstore.list(store) for meta in page}
        if not found:
            what = "there are no files under this address"
            raise SrdFileNotFoundError(
                message(address, what, "Check the address, and the name of the bucket")
            )
        folder = Path(tempfile.mkdtemp(prefix="srd-rs-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for name in filter(limit_of, found):
            if ".." in PurePosixPath(name).parts:
                raise ModelError(message(address, f"the name {name!r} leaves the folder", "Rename the file"))
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(store, f"{address.rstrip('/')}/{name}", name, path, limit_of(name))
        names = sorted(weights(found, folder))
        if not names:
            fix = "Name the folder that holds config.json and the safetensors files"
            raise ModelError(message(address, "the model has no safetensors files to stream", fix))
        urls = obstore.sign(store, "GET", names, VALID)
    except (FormatError, ModelError, SrdFileNotFoundError):
        raise
    except Exception as error:  # obstore raises its own errors and those of the system
        raise failure(address, error) from error
    listed = [(name, url, found[name], None) for name, url in zip(names, urls, strict=True)]
    base = address.rstrip("/")
    remote = _core.RemoteFiles(base, listed, None, None)
    sizes = tuple((name, found[name], None) for name in names)
    return Bucket(folder, base.rpartition("/")[2], remote, tuple(found), sizes)


def _fetch(store: Any, address: str, name: str, path: Path, limit: int) -> None:
    """Fetch a small file of at most `limit` bytes, whatever the listing said."""
    import obstore

    size = 0
    with path.open("wb") as file:
        for piece in obstore.get(store, name).stream(min_chunk_size=_SMALL_PIECE):
            size += len(piece)
            if size > limit:
                what = f"the file is larger than {limit} bytes"
                raise FormatError(message(address, what, "Replace it by the file of the model"))
            file.write(piece)


class Deposit:
    """Files on their way into a bucket. Each is sent in pieces (a multipart upload); `name_all` gives them names."""

    def __init__(self, address: str) -> None:
        self.address, self._store = address, store_of(address)
        self._open: dict[str, Any] = {}

    def there(self, names: Iterable[str]) -> set[str]:
        """Those of the names that the bucket has."""
        import obstore

        found = set()
        for name in names:
            with suppress(FileNotFoundError):
                obstore.head(self._store, name)
                found.add(name)
        return found

    def send(self, path: Path, name: str) -> None:
        """Send a file. It has no name in the bucket yet."""
        import obstore

        piece = max(_PIECE, path.stat().st_size // _MAX_PIECES + 1)
        writer = obstore.open_writer(self._store, name, buffer_size=piece, max_concurrency=2)
        writer.__enter__()
        try:
            with path.open("rb") as file:
                while data := file.read(_PIECE):
                    writer.write(data)
        except BaseException as error:
            with suppress(Exception):
                writer.__exit__(type(error), error, None)
            raise
        self._open[name] = writer

    def name_all(self) -> None:
        """Give all files their names, the first one last. Where that fails, those that have theirs are removed, and
        `SrdIOError` is raised."""
        import obstore

        named = []
        try:
            while self._open:
                name, writer = self._open.popitem()
                writer.close()
                named.append(name)
        except Exception as error:
            for name in named:
                with suppress(Exception):
                    obstore.delete(self._store, name)
            state = "; the files that had their names were removed, and nothing is left on this disk"
            raise failure(self.address, error, what=f"{name}: ", state=state) from error

    def abandon(self) -> None:
        """Tell the store to forget what was sent and has no name."""
        error = RuntimeError("the upload was given up")
        while self._open:
            _, writer = self._open.popitem()
            with suppress(Exception):
                writer.__exit__(type(error), error, None)


def failure(address: str, error: Exception, *, what: str = "", state: str = "") -> SrdIOError:
    """The error of a store that does not do what it was asked. `what` names what was sent, and `state` says what is
    where."""
    said = re.sub(r"\s+", " ", str(error)).strip()[:300]
    what = f"{what}the object store refuses ({type(error).__name__}: {said}){state}"
    fix = "Check the address, the region and the credentials (AWS_ACCESS_KEY_ID, AWS_REGION and so on)"
    return SrdIOError(message(address, what, fix))
