"""Calibration: what a model's matrices are fed, measured on a few thousand tokens.

`srd_rs.calibrate` writes a calibration file; `convert` makes one for itself or takes a given one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from srd_rs.errors import FormatError, ModelError, SrdIOError, UsageError, message

DEFAULT_TOKENS: Final = 4096
DEFAULT_CTX: Final = 512
DEFAULT_BLOCK: Final = 256
DEFAULT_MAX_MEMORY: Final = 1 << 30
MAX_TEXT_BYTES: Final = 64 << 20
"""The longest text that is tokenised."""
_BUILTIN: Final = "builtin.txt.gz"
_RANDOM_HINT: Final = "Use --calibrate random (srd-rs calibrate: --text random), which needs no tokenizer"
_SPECIAL_TYPES: Final = (2, 3, 5)
"""`tokenizer.ggml.token_type`: unknown, control, unused."""


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration file. `digest` identifies its contents; `tensors` counts those whose inputs are known."""

    path: Path
    digest: str
    text: str
    tokens: int
    chunks: int
    tensors: int
    imatrix: Path | None = None


@dataclass(frozen=True)
class Tokens:
    """Chunks of token ids and what they were made of."""

    chunks: list[list[int]]
    text: str
    sha256: str | None


def calibrate(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    text: str | os.PathLike[str] = "builtin",
    tokens: int = DEFAULT_TOKENS,
    ctx: int = DEFAULT_CTX,
    block: int = DEFAULT_BLOCK,
    imatrix: str | os.PathLike[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationReport:
    """Run `model` on calibration tokens and write the second moments of its matrices' inputs to `output`.

    model: a checkpoint folder or a GGUF, as for `convert`.
    text: ``"builtin"`` (a bundled public-domain text), ``"random"`` (token ids) or the name of a UTF-8 file.
    tokens, ctx: how many tokens, in chunks of `ctx` that do not see each other, spread evenly over the text.
    block: side of the diagonal blocks of H, a multiple of 256; 0 for all of H.
    imatrix: also write the diagonals as a llama.cpp imatrix (GGUF).
    seed: of random tokens. threads: any number gives the same bytes. max_memory: bytes of weights and states alive.
    progress: called about 20 times a second with steps done and to do.

    Raises the errors of `convert`.
    """
    from srd_rs import conversion

    native = conversion.native_model(Path(model))
    made = measure(
        native, Path(output), named=True, text=text, tokens=tokens, ctx=ctx, block=block, seed=seed,
        threads=threads, max_memory=max_memory, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    if imatrix is not None:
        made.write_imatrix(os.fspath(imatrix), overwrite)
    facts = json.loads(made.to_json())
    return CalibrationReport(
        path=Path(output),
        digest=facts["digest"],
        text=facts["info"]["text"],
        tokens=facts["info"]["tokens"],
        chunks=facts["chunks"],
        tensors=len(facts["tensors"]),
        imatrix=None if imatrix is None else Path(imatrix),
    )


def measure(
    native: Any,
    output: Path,
    *,
    named: bool,
    text: str | os.PathLike[str],
    tokens: int,
    ctx: int = DEFAULT_CTX,
    block: int = DEFAULT_BLOCK,
    seed: int = 0,
    threads: int | None = None,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """The native calibration of a planned model; without `named` it lies beside `output` without a name."""
    from srd_rs import _core
    from srd_rs.conversion import cpus

    if tokens < 1 or ctx < 2 or block < 0:
        raise UsageError(message("calibration", "tokens, ctx and block must be positive", "Correct them"))
    metadata = {key: value for key, _, value in native.metadata()}
    made = choose_tokens(native.model, metadata, text, tokens, ctx, seed)
    info = {
        "text": made.text,
        "text_sha256": made.sha256,
        "seed": seed,
        "tokens": sum(map(len, made.chunks)),
        "ctx": ctx,
        "block": block,
        "source_digest": native.source_digest or "",
    }
    options = {
        "info": info,
        "output": os.fspath(output),
        "named": named,
        "overwrite": overwrite,
        "threads": threads or cpus(),
        "max_memory": max(max_memory, 1),
    }
    return _core.calibrate(native.plan, made.chunks, json.dumps(options), progress)


def choose_tokens(
    model: Path, metadata: dict[str, Any], text: str | os.PathLike[str], count: int, ctx: int, seed: int
) -> Tokens:
    """About `count` tokens in chunks of `ctx`, each beginning with BOS where the vocabulary wants one."""
    bos = _bos(metadata)
    n_chunks = -(-count // ctx)
    if text == "random":
        ids = _random(metadata, n_chunks * ctx, seed)
        return Tokens(_with_bos([ids[i * ctx :][:ctx] for i in range(n_chunks)], bos), "random", None)
    name, raw = read_text(text)
    ids = tokenizer(model).encode(raw.decode("utf-8"), add_special_tokens=False).ids
    if len(ids) < 16:
        raise UsageError(message(name, f"only {len(ids)} tokens", "Name a longer text"))
    ctx = min(ctx, len(ids))
    there = len(ids) // ctx
    n_chunks = min(n_chunks, there)
    # Spread over the text, so that few tokens still see all of its languages.
    starts = [i * there // n_chunks * ctx for i in range(n_chunks)]
    chunks = _with_bos([ids[start : start + ctx] for start in starts], bos)
    return Tokens(chunks, name, hashlib.sha256(raw).hexdigest())


def read_text(text: str | os.PathLike[str]) -> tuple[str, bytes]:
    """Name and bytes of the bundled text or of a UTF-8 file."""
    if text == "builtin":
        packed = resources.files("srd_rs").joinpath("data").joinpath(_BUILTIN).read_bytes()
        return "builtin", gzip.decompress(packed)
    path = Path(text)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        fix = "Name a UTF-8 text file, 'builtin' or 'random'"
        raise SrdIOError(message(path, f"cannot read: {error.strerror or error}", fix)) from None
    if len(raw) > MAX_TEXT_BYTES:
        raise UsageError(message(path, f"longer than {MAX_TEXT_BYTES} bytes", "Name a shorter text"))
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(message(path, f"not UTF-8 at byte {error.start}", "Convert it to UTF-8")) from None
    return path.name, raw


def tokenizer(model: Path) -> Any:
    """The checkpoint's own tokenizer, special tokens in the text taken as text."""
    file = model / "tokenizer.json"
    if not file.is_file():
        raise ModelError(message(model, "no tokenizer.json to read a text with", _RANDOM_HINT))
    try:
        from tokenizers import Tokenizer
    except ImportError:
        fix = f"pip install 'tokenizers>=0.20'. {_RANDOM_HINT}"
        raise UsageError(message(model, "reading a text needs the package tokenizers", fix)) from None
    try:
        loaded = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise FormatError(message(file, f"not a tokenizer: {error}", _RANDOM_HINT)) from None
    loaded.no_truncation()
    loaded.no_padding()
    loaded.encode_special_tokens = True
    return loaded


def _random(metadata: dict[str, Any], count: int, seed: int) -> list[int]:
    from srd_rs import _core

    types = metadata.get("tokenizer.ggml.token_type")
    if types is None:
        types = [1] * len(metadata.get("tokenizer.ggml.tokens", ()))
    ids = [i for i, kind in enumerate(types) if kind not in _SPECIAL_TYPES]
    return _core.random_tokens(ids, count, seed)


def _bos(metadata: dict[str, Any]) -> int | None:
    """The token in front of every chunk, None where the vocabulary wants none. llama.cpp's defaults by kind."""
    default = metadata.get("tokenizer.ggml.model") in ("llama", "bert", "gemma4")
    token = metadata.get("tokenizer.ggml.bos_token_id")
    if token is None and metadata.get("tokenizer.ggml.model") == "bert":
        token = metadata.get("tokenizer.ggml.cls_token_id")
    return token if metadata.get("tokenizer.ggml.add_bos_token", default) else None


def _with_bos(chunks: list[list[int]], bos: int | None) -> list[list[int]]:
    return chunks if bos is None else [[bos, *chunk[1:]] for chunk in chunks]
