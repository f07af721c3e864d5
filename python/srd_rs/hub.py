"""Where a model or a file is: a path as it stands, or a download from the Hugging Face hub.

`MODEL_FILES` is the one list of the small files that a conversion reads: the download fetches them, and the digest of
the source covers them. A test compares the list with what the readers open.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, pickled, storage
from srd_rs.checkpoint import has_usual_name, modules_of
from srd_rs.errors import (
    ModelError,
    SrdError,
    SrdFileNotFoundError,
    SrdIOError,
    UsageError,
    VerificationError,
    message,
)
from srd_rs.reading import MAX_CONFIG_BYTES, MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES, load_json

MODEL_FILES: Final = (
    "config.json",
    "params.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v*",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "tiktoken.model",
    "*.tiktoken",
    "tokenizer.jsonl",
    "rwkv_vocab_v20230424.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "*[Pp]ool*/config.json",
    "1_Dense/config.json",
    "mask_embedding.pt",
    "README.md",
)
"""Files of a model folder that a conversion reads beside the weights, with the files of the modules that modules.json
names. No `.bin`, `.pt` or `.py`, which can run code: `mask_embedding.pt` is never opened, and a model that has this
file is refused."""
WEIGHT_FILES: Final = ("*.safetensors",)
NEVER_WANTED: Final = ("*/*.safetensors", "adapter*")
"""What other tools keep in sub-folders, and adapters."""
UNWANTED: Final = (
    *NEVER_WANTED,
    "consolidated*",
    *(f"*.{variant}.*" for variant in _core.WEIGHT_VARIANTS),
    *(f"*.{variant}-*" for variant in _core.WEIGHT_VARIANTS),
)
"""These, and second copies of the weights: Mistral's own layout and variants. Where there are no other weights,
the second copies count."""
_LIMITS: Final = (
    ("model.safetensors.index.json", _core.MAX_INDEX_BYTES),
    ("*.jinja", MAX_TEMPLATE_BYTES),
    *(
        (f"*{name}", MAX_CONFIG_BYTES)
        for name in ("config.json", "params.json", "map.json", "added_tokens.json")
    ),
    *((f"{name}.json", MAX_CONFIG_BYTES) for name in ("chat_template", "modules")),
)
"""Pattern -> the most bytes of such a file. Tokenizers may be larger; a model card that is larger than its reader takes
is left out by its reader."""
_MAX_MODULES: Final = 32
"""So many modules of a sentence-transformers model are looked at; published models have up to four."""
_CONFIGURATIONS: Final = ("config.json", "params.json")
"""The hub's client warns where no file matches, so one that is there is asked for again."""
_ADDRESS: Final = r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)"
_REPO: Final = r"(?P<org>[\w.-]+)/(?P<name>[\w.-]+?)"
_HUB_ID: Final = re.compile(
    rf"{_ADDRESS}?{_REPO}(?:(?:@|/tree/)(?P<revision>[\w./-]+))?/?(?:[?#].*)?", re.ASCII
)
_HUB_FILE: Final = re.compile(
    rf"{_ADDRESS}{_REPO}(?:@(?P<at>[\w.-]+)|/(?:blob|resolve)/(?P<revision>[\w.-]+))?"
    r"/(?P<file>[\w./ -]+\.(?:gguf|axm|safetensors|dat))(?:[?#].*)?",
    re.ASCII,
)
_SPLIT: Final = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_REMOTE: Final = re.compile(r"\w+://.*")

#: The cache of the hub keeps each version of a model in a folder that has the name of its commit.
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True)
class Source:
    """A model on disk. `name` is what the hub calls the model, `repo` is its `ORG/NAME`, and `revision` is
    `ORG/NAME@COMMIT`. All are None for a path of the user's own. `remote` are the weight files, if they stay on the hub
    and `path` holds only the small files; `weights` are then their names, sizes and the SHA-256 that the hub states, or
    None."""

    path: Path
    name: str | None = None
    repo: str | None = None
    revision: str | None = None
    remote: _core.RemoteFiles | None = None
    beside: tuple[str, ...] = ()
    """The names of the files on the hub or in the bucket, as far as they were listed."""
    weights: tuple[tuple[str, int, str | None], ...] = ()

    @property
    def stem(self) -> str:
        """What output files are named after."""
        if self.name is not None:
            return self.name
        return self.path.resolve().name if self.path.is_dir() else self.path.stem


def model_files(folder: Path) -> list[Path]:
    """The files of `MODEL_FILES` that are in a model folder, sorted."""
    found = {p for pattern in MODEL_FILES for p in folder.glob(pattern)}
    return sorted(p for p in found | {folder / name for name in _module_files(folder)} if p.is_file())


def _module_files(folder: Path) -> list[str]:
    """The configurations of the modules that modules.json names, if it can be read."""
    try:
        modules = modules_of(folder)
    except SrdError:
        return []
    return [f"{path}/config.json" for _, path in modules[:_MAX_MODULES] if _is_inside(path)]


def _shards(folder: Path) -> list[str]:
    """The files that the index of the weights names, where the index counts and can be read."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.is_file():
        return []
    try:
        shards = load_json(index, _core.MAX_INDEX_BYTES).get("weight_map")
    except SrdError:
        return []
    names = {name for name in shards.values() if isinstance(name, str)} if isinstance(shards, dict) else set()
    return sorted(name for name in names if name.endswith(".safetensors") and _is_inside(name))


def _is_inside(path: str) -> bool:
    """Whether a path of a file of the model lies below the folder by its name."""
    return bool(path) and "\\" not in path and not {"", ".", ".."} & set(path.split("/"))


def locate(model: str | os.PathLike[str], *, stream: bool = False) -> Source:
    """The model called `model`: an existing path, or a model on the hub. With `stream` the weights on the hub are not
    downloaded: they are read by HTTP ranges.

    A model on the hub is `ORG/NAME` or `ORG/NAME@REVISION`, with `hf://` or the address of the hub in front if wanted.
    A name whose first part is a folder here is a path. One file of a model on the hub, such as a GGUF, is what `file`
    takes. Raises `SrdIOError` if the download fails, and `UsageError` if there is nothing to stream.
    """
    source = _located(model, stream)
    if stream and source.remote is None:
        what = "only a model on the hub or in a bucket with safetensors files can be streamed"
        fix = "Name ORG/NAME, hf://ORG/NAME or s3://BUCKET/FOLDER/, or leave out --stream"
        raise UsageError(message(model, what, fix))
    return source


def headers(model: str | os.PathLike[str]) -> Source:
    """The model called `model`, for a look at its small files and at the headers of its weights, which are read over
    the network if the model is on the hub."""
    return _located(model, stream=True)


def glance(model: str | os.PathLike[str]) -> Source:
    """The model called `model`, for a look before a conversion: like `locate`, but the weights of a model on the hub
    stay there, and only their headers are read.

    Without a network a copy that was downloaded before is taken. PyTorch pickles are downloaded: no header says what
    is in them.
    """
    hub_id = _HUB_ID.fullmatch(model) if isinstance(model, str) else None
    if not isinstance(model, str) or hub_id is None or _HUB_FILE.fullmatch(model):
        return locate(model)
    try:
        return headers(model)
    except ModelError:
        return locate(model)
    except SrdFileNotFoundError:
        raise
    except SrdIOError:
        from huggingface_hub import constants, try_to_load_from_cache

        repo = f"{hub_id['org']}/{hub_id['name']}"
        kept = try_to_load_from_cache(repo, "config.json", revision=hub_id["revision"])
        if constants.HF_HUB_OFFLINE or isinstance(kept, str):
            return locate(model)
        raise


def _located(model: str | os.PathLike[str], stream: bool) -> Source:
    if isinstance(model, str) and storage.is_address(model):
        return _in_bucket(model, stream)
    path = Path(model)
    if isinstance(model, str) and not stream and _HUB_FILE.fullmatch(model):
        return Source(file(model))
    hub_id = _HUB_ID.fullmatch(model) if isinstance(model, str) else None
    if isinstance(model, str) and not hub_id and not path.exists() and _REMOTE.fullmatch(model):
        what = "srd-rs reads no such address"
        fix = "Name a path, ORG/NAME, hf://ORG/NAME, an address of huggingface.co, or one of s3://, gs:// and az://"
        raise UsageError(message(model, what, fix))
    if path.exists() or not hub_id or {hub_id["org"], hub_id["name"]} & {".", ".."}:
        return Source(path)
    if "://" not in hub_id[0] and Path(hub_id["org"]).is_dir():
        return Source(path)
    if stream:
        return _streamed(hub_id)
    folder, repo = _download(hub_id), f"{hub_id['org']}/{hub_id['name']}"
    commit = folder.name if _COMMIT.fullmatch(folder.name) else hub_id["revision"]
    revision = f"{repo}@{commit}" if commit else None
    return Source(folder, hub_id["name"], repo, revision, beside=_listed(folder, repo))


def _in_bucket(address: str, stream: bool) -> Source:
    """A model in a bucket of an object store, whose weights are read over the network."""
    if not stream:
        what = "a model in a bucket is read over the network, and not downloaded"
        raise UsageError(message(address, what, "Add --stream"))
    found = storage.open(address, _limit_of, _weights_among)
    return Source(found.folder, found.name, remote=found.remote, beside=found.listed, weights=found.weights)


def _limit_of(name: str) -> int:
    """The most bytes that a small file of a model has, as its reader counts them; 0 for a file that is not read."""
    if not _matches(name, MODEL_FILES) or _matches(name, UNWANTED):
        return 0
    return next((limit for pattern, limit in _LIMITS if fnmatch(name, pattern)), MAX_TOKENIZER_BYTES)


def _weights_among(names: Iterable[str], folder: Path) -> list[str]:
    """The weight files among the names of remote files, of which the small ones are in `folder`."""
    names, named = [name for name in names if not name.startswith(".")], set(_shards(folder))
    wanted = [
        name
        for name in names
        if name in named or (_matches(name, WEIGHT_FILES) and not _matches(name, UNWANTED))
    ]
    return wanted or [
        name for name in names if _matches(name, WEIGHT_FILES) and not _matches(name, NEVER_WANTED)
    ]


def file(path: str | os.PathLike[str]) -> Path:
    """The file called `path`: a path as it stands, or one file of a model on the hub, which is downloaded.

    A file on the hub is `hf://ORG/NAME/FILE`, or its address on huggingface.co. Raises `SrdIOError` if the download
    fails, and `UsageError` for the address of something else.
    """
    found = _HUB_FILE.fullmatch(path) if isinstance(path, str) else None
    if found is None:
        if isinstance(path, str) and _REMOTE.fullmatch(path):
            what = "this address names no file"
            raise UsageError(message(path, what, "Name the file: hf://ORG/NAME/FILE.gguf"))
        return Path(path)
    from huggingface_hub import hf_hub_download

    repo, revision = f"{found['org']}/{found['name']}", found["at"] or found["revision"]
    try:
        # Of a split GGUF all parts are downloaded, because one part alone is no model.
        for part in _parts(found["file"]):
            hf_hub_download(repo, part, revision=revision)
        return Path(hf_hub_download(repo, found["file"], revision=revision))
    except Exception as error:  # huggingface_hub raises its HTTP library's errors as well as its own
        raise _failure(str(path), repo, revision, error) from error


def _parts(name: str) -> list[str]:
    """The names of the parts of a split GGUF that `name` is one of; none for any other name."""
    split = _SPLIT.fullmatch(name)
    if split is None:
        return []
    return [f"{split['stem']}-{i:05}-of-{split['count']}.gguf" for i in range(1, int(split["count"]) + 1)]


def is_id(text: str) -> bool:
    """Whether a text is the plain name of a repository, `ORG/NAME`."""
    found = _HUB_ID.fullmatch(text)
    return found is not None and text == f"{found['org']}/{found['name']}"


def upload(repo: str, files: Mapping[str, Path], *, private: bool, note: str | None) -> str:
    """Upload files under the names that are the keys, in one commit to a repository that is made where it is missing.

    Returns the address of the commit. Raises `SrdIOError` if that fails.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(repo, added, commit_message=note or "Upload GGUF files of srd-rs")
    except Exception as error:  # huggingface_hub raises its HTTP library's errors as well as its own
        raise upload_failure(repo, error) from error
    return str(commit.commit_url)


def upload_failure(repo: str, error: Exception, *, what: str = "", state: str = "") -> SrdIOError:
    """The error of an upload that failed. `what` names what was sent, and `state` says how the repository is now."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = str(error).strip().split("\n")[0]
    if status in (401, 403):
        said, fix = "the hub refuses the upload", "Run: hf auth login, with a token that may write to it"
    else:
        said, fix = f"the upload failed ({type(error).__name__}: {said})", "Check the network, and try again"
    return SrdIOError(message(repo, f"{what}{said}{state}", fix))


def _download(hub_id: re.Match[str]) -> Path:
    from huggingface_hub import snapshot_download

    repo = f"{hub_id['org']}/{hub_id['name']}"

    def download(files: Sequence[str], unwanted: Sequence[str] = UNWANTED) -> Path:
        wanted = [*MODEL_FILES, *files]
        kept = snapshot_download(
            repo, revision=hub_id["revision"], allow_patterns=wanted, ignore_patterns=list(unwanted)
        )
        return Path(kept)

    def complete(folder: Path) -> None:
        """Download what the files of the folder name: modules, and parts that an index names."""
        named = [name for name in (*_module_files(folder), *_shards(folder)) if not (folder / name).exists()]
        if named:
            wanted = [*_CONFIGURATIONS, *map(escape, named)]
            snapshot_download(repo, revision=folder.name, allow_patterns=wanted)

    try:
        folder = download(WEIGHT_FILES)
        if not any(folder.glob("*.safetensors")):
            folder = download(WEIGHT_FILES, NEVER_WANTED)
        if not any(folder.glob("*.safetensors")):
            folder = download(pickled.FILES)  # a model that was never saved as safetensors
        complete(folder)
    except Exception as error:  # huggingface_hub raises its HTTP library's errors as well as its own
        raise _failure(hub_id[0], repo, hub_id["revision"], error) from error
    return folder


def _listed(folder: Path, repo: str) -> tuple[str, ...]:
    """The names of the files of a downloaded model on the hub, where they count: files of weights that were not
    downloaded are named where the weights have a free name. Without a network there is no list."""
    names = [path.name for path in folder.glob("*.safetensors")]
    if not names or any(map(has_usual_name, names)):
        return ()
    from huggingface_hub import HfApi

    with suppress(Exception):  # the model is complete without the list
        return tuple(HfApi().list_repo_files(repo, revision=folder.name))
    return ()


def _streamed(hub_id: re.Match[str]) -> Source:
    """A model whose small files are downloaded, and whose weight files are listed."""
    from huggingface_hub import HfApi, constants, get_token, hf_hub_url, snapshot_download

    repo = f"{hub_id['org']}/{hub_id['name']}"
    try:
        info = HfApi().model_info(repo, revision=hub_id["revision"], files_metadata=True)
        commit = str(info.sha)
        kept = snapshot_download(
            repo, revision=commit, allow_patterns=list(MODEL_FILES), ignore_patterns=list(UNWANTED)
        )
        folder = Path(kept)
        modules = [escape(name) for name in _module_files(folder) if not (folder / name).exists()]
        if modules:
            snapshot_download(repo, revision=commit, allow_patterns=[*_CONFIGURATIONS, *modules])
    except Exception as error:  # huggingface_hub raises its HTTP library's errors as well as its own
        raise _failure(hub_id[0], repo, hub_id["revision"], error) from error
    files = {file.rfilename: file for file in info.siblings or ()}
    for name, file in files.items():
        _check_small(folder / name, file)
    listed = [
        (name, hf_hub_url(repo, name, revision=commit), files[name].size or 0, _sha256(files[name]))
        for name in _weights_among(files, folder)
    ]
    if not listed:
        fix = "Leave out --stream to download the model"
        raise ModelError(message(hub_id[0], "the model has no safetensors files to stream", fix))
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    remote = _core.RemoteFiles(f"hf://{repo}", listed, token, commit)
    weights = tuple((name, size, digest) for name, _, size, digest in listed)
    return Source(folder, hub_id["name"], repo, f"{repo}@{commit}", remote, tuple(files), weights)


def _matches(name: str, patterns: Collection[str]) -> bool:
    """Say whether one of the patterns fits, as for `snapshot_download`."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def _sha256(file: Any) -> str | None:
    """The SHA-256 that the hub names for a large file; None for a file that it keeps in git."""
    return None if file.lfs is None else str(file.lfs.sha256)


def _check_small(path: Path, file: Any) -> None:
    """Compare a downloaded file with the SHA-256 that the hub names for it."""
    expected = _sha256(file)
    if expected is None or not path.is_file():
        return
    if _core.file_sha256(path)[1] != expected:
        what = f"the file does not have the SHA-256 that the hub names, {expected}"
        raise VerificationError(message(path, what, "Remove the file from the cache, and run again"))


#: The classes of errors of a network that does not answer, in the libraries that huggingface_hub has used.
_NETWORK: Final = frozenset(("ConnectionError", "NetworkError", "ProxyError", "Timeout", "TimeoutException"))


def _unreached() -> tuple[str, str]:
    """What is wrong and what to do where a name is no path and the hub gave no answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        what = "no such file or folder here, and the variable HF_HUB_OFFLINE forbids to ask the hub"
        return what, "Check the path, or unset HF_HUB_OFFLINE"
    return "no such file or folder here, and the hub cannot be reached", "Check the path, or the network"


def _failure(asked: str, repo: str, revision: str | None, error: Exception) -> SrdIOError:
    """One sentence for each thing that goes wrong with a download."""
    from huggingface_hub import errors

    cases: tuple[tuple[Any, type[SrdIOError], str, str], ...] = (
        (
            errors.GatedRepoError,
            SrdIOError,
            "the model is gated",
            f"Accept its license at https://huggingface.co/{repo}, then run: hf auth login",
        ),
        (
            errors.RevisionNotFoundError,
            SrdFileNotFoundError,
            f"the model has no revision {revision}",
            "Check the revision",
        ),
        (
            errors.RepositoryNotFoundError,
            SrdFileNotFoundError,
            "no such file or folder here, and no such model on the hub",
            "Check the path or the id; for a private model run: hf auth login",
        ),
        (errors.LocalEntryNotFoundError, SrdIOError, *_unreached()),
        (
            errors.EntryNotFoundError,
            SrdFileNotFoundError,
            "the model on the hub has no such file",
            f"https://huggingface.co/{repo}/tree/main lists the files",
        ),
    )
    for kind, cls, what, fix in cases:
        if isinstance(error, kind):
            return cls(message(asked, what, fix))
    network = _NETWORK.intersection(cls.__name__ for cls in type(error).__mro__)
    if network or isinstance(error, errors.OfflineModeIsEnabled):
        return SrdIOError(message(asked, *_unreached()))
    said = str(error).strip().split("\n")[0]
    what = (
        f"no such file or folder here, and the download from the hub failed ({type(error).__name__}: {said})"
    )
    return SrdIOError(message(asked, what, "Check the path or the id, and the network"))
