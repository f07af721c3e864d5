"""Where a model is: a path as it stands, or a download from the Hugging Face hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from srd_rs.errors import SrdIOError, UsageError

#: All that a conversion reads. No `.bin`, `.pt` or `.py`: those can run code when they are loaded.
SAFE_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
)
#: Second copies of the weights in other layouts (Mistral's), and everything in sub-folders.
UNWANTED_PATTERNS = ("consolidated*", "*/*")
_HUB_ID = re.compile(r"(?P<org>[\w.-]+)/(?P<name>[\w.-]+?)(?:@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A model on disk. `name` is what the hub calls it, None for a path of the user's own."""

    path: Path
    name: str | None = None

    @property
    def stem(self) -> str:
        """What output files are named after."""
        if self.name is not None:
            return self.name
        return self.path.resolve().name if self.path.is_dir() else self.path.stem


def locate(model: str | os.PathLike[str]) -> Source:
    """The model called `model`: an existing path, or `ORG/NAME` or `ORG/NAME@REVISION` on the hub.

    Raises `UsageError` if it must be fetched and `huggingface_hub` is missing, `SrdIOError` if that fails.
    """
    path = Path(model)
    hub_id = _HUB_ID.fullmatch(model) if isinstance(model, str) else None
    if path.exists() or not hub_id or hub_id["org"] in (".", "..") or hub_id["name"] in (".", ".."):
        return Source(path)
    return Source(_download(hub_id), hub_id["name"])


def _download(hub_id: re.Match[str]) -> Path:
    model = hub_id[0]
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError(
            f"{model}: no such file or folder, and to fetch it from the hub huggingface_hub is missing."
            " Check the path, or: pip install 'srd-rs[hub]'"
        ) from error
    try:
        folder = snapshot_download(
            f"{hub_id['org']}/{hub_id['name']}",
            revision=hub_id["revision"],
            allow_patterns=list(SAFE_PATTERNS),
            ignore_patterns=list(UNWANTED_PATTERNS),
        )
    except Exception as error:  # huggingface_hub raises its HTTP library's errors as well as its own
        what = str(error).strip().split("\n")[0]
        raise SrdIOError(
            f"{model}: no such file or folder here, and the hub does not give it: {what}."
            " Check the path or the id, the network and your access to the model"
        ) from error
    return Path(folder)
