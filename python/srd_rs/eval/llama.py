"""A thin hold on llama.cpp through llama-cpp-python's low-level API: tokenise, decode chunks, quantise."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from srd_rs.errors import ModelError, SrdIOError, UsageError

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]


_GGML_LOG_LEVEL_ERROR = 4
_log_callback: list[Any] = []  # kept alive: llama.cpp holds only the address


def _log_errors(level: int, text: bytes, _user: object) -> None:
    if level == _GGML_LOG_LEVEL_ERROR:
        sys.stderr.write(text.decode(errors="replace"))


def library() -> Any:
    """The module `llama_cpp`, which logs errors only. `UsageError` if it is not installed."""
    try:
        import llama_cpp
    except ImportError as error:
        raise UsageError(
            "this needs llama-cpp-python, which is not installed. Run: pip install 'srd-rs[eval]'"
        ) from error
    if not _log_callback:
        _log_callback.append(llama_cpp.llama_log_callback(_log_errors))
        llama_cpp.llama_log_set(_log_callback[0], ctypes.c_void_p(0))
    return llama_cpp


class LlamaModel:
    """A GGUF loaded by llama.cpp for scoring chunks of `n_ctx` tokens. Use it in a `with` statement."""

    def __init__(self, gguf: str | Path, *, n_ctx: int = 512, threads: int | None = None) -> None:
        """Raises `SrdIOError` if `gguf` is no file, `ModelError` if llama.cpp does not load it."""
        self._lib = library()
        self.n_ctx = n_ctx
        if not Path(gguf).is_file():
            raise SrdIOError(f"{gguf}: no such file. Check the path")
        self._lib.llama_backend_init()
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(str(gguf).encode(), params)
        if not self._model:
            raise ModelError(f"{gguf}: llama.cpp does not load it. Check it with: srd-rs inspect {gguf}")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = self._lib.llama_vocab_n_tokens(self._vocab)
        self._context = self._lib.llama_init_from_model(self._model, self._context_params(threads))
        if not self._context:
            self._lib.llama_model_free(self._model)
            raise ModelError(f"{gguf}: llama.cpp makes no context of {n_ctx} tokens. Lower --ctx")
        self._batch = self._lib.llama_batch_init(n_ctx, 0, 1)

    def _context_params(self, threads: int | None) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self.n_ctx
        if threads:
            params.n_threads = params.n_threads_batch = threads
        return params

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    @property
    def bos(self) -> int | None:
        """The token that each chunk starts with, None if the vocabulary asks for none."""
        if not self._lib.llama_vocab_get_add_bos(self._vocab):
            return None
        return int(self._lib.llama_vocab_bos(self._vocab))

    def tokenize(self, text: str) -> Tokens:
        """`text` as token ids, with the special tokens that the vocabulary adds in front and behind."""
        raw = text.encode()
        room = len(raw) + 16
        tokens = (ctypes.c_int32 * room)()
        n = self._lib.llama_tokenize(self._vocab, raw, len(raw), tokens, room, True, False)
        if n < 0:
            raise ModelError(f"tokeniser: {-n} tokens for {len(raw)} bytes of text. Check the vocabulary")
        return np.array(tokens[:n], np.int32)

    def logits(self, tokens: Tokens, first: int = 0) -> Logits:
        """Logits after the positions `first`.. of one chunk, from an empty context: [len - first, n_vocab].

        The array is llama.cpp's own and changes with the next call.
        """
        n = len(tokens)
        if not 0 <= first < n <= self.n_ctx:
            raise UsageError(
                f"chunk of {n} tokens scored from {first} on: the context holds {self.n_ctx}. Cut it"
            )
        batch = self._batch
        batch.n_tokens = n
        for i, token in enumerate(tokens.tolist()):
            batch.token[i] = token
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i >= first
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        if self._lib.llama_decode(self._context, batch) != 0:
            raise ModelError("llama.cpp: decoding failed. Check the GGUF with: srd-rs inspect")
        rows = self._lib.llama_get_logits(self._context)
        return np.ctypeslib.as_array(rows, shape=(n - first, self.n_vocab))


def chunks_of(text: Path, model: LlamaModel, n_chunks: int = 0) -> list[Tokens]:
    """The first `n_chunks` (0: all) chunks of `n_ctx` tokens of a text file, cut as llama-perplexity does.

    The whole text is tokenised at once; then the first token of every chunk is replaced by BOS where the
    vocabulary wants one.
    """
    tokens = model.tokenize(text.read_text(encoding="utf-8"))
    n = len(tokens) // model.n_ctx
    if n < 2:
        raise UsageError(f"{text}: {len(tokens)} tokens are fewer than two chunks. Take a longer text")
    chunks = [tokens[i * model.n_ctx :][: model.n_ctx].copy() for i in range(min(n_chunks or n, n))]
    if model.bos is not None:
        for chunk in chunks:
            chunk[0] = model.bos
    return chunks


def quantize(source: str | Path, output: str | Path, ftype: str = "Q4_K_M", *, threads: int = 0) -> None:
    """llama.cpp's own quantiser, `llama_model_quantize`: what llama-quantize runs."""
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{ftype}")
    params.nthread = threads
    if lib.llama_model_quantize(str(source).encode(), str(output).encode(), params) != 0:
        raise ModelError(
            f"{source}: llama.cpp does not quantise it to {ftype}. Check it with: srd-rs inspect"
        )
