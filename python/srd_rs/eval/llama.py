"""A model in llama.cpp, through the low-level API of llama-cpp-python: tokenize, decode, embed."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from srd_rs import sniff
from srd_rs._core import check_gguf_model, cpus, first_part
from srd_rs.errors import ModelError, UsageError, message
from srd_rs.eval.library import failure, forget_errors, library

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]

#: Tokens of a batch that llama.cpp computes at a time; llama-perplexity's and llama-imatrix's default.
N_UBATCH: Final = 512
#: Bytes of logits that one decoding may give. With 256 k tokens in the vocabulary the scored half of a
#: chunk would fill 270 MB for each model otherwise.
LOGITS_BYTES: Final = 64 << 20
#: Most bytes of a text that llama.cpp tokenizes at once.
PIECE_BYTES: Final = 1 << 20
_LINE_END: Final = re.compile(rb"\n(?=[^\s])")


def check_before_loading(gguf: Path) -> None:
    """Read the headers with our own reader, because llama.cpp trusts a file more than srd-rs does."""
    sniff.check_gguf(gguf)
    check_gguf_model(gguf)


class LlamaModel:
    """A GGUF loaded by llama.cpp for scoring chunks of up to `n_ctx` tokens. Use it in a `with` statement.

    threads: by default one per CPU. eval_callback: a `ggml_backend_sched_eval_callback`, asked about every
    node of the graph. mean_pooling: for embeddings of whole texts instead of logits.
    """

    def __init__(
        self,
        gguf: str | Path,
        *,
        n_ctx: int = 512,
        threads: int | None = None,
        eval_callback: Any = None,
        mean_pooling: bool = False,
    ) -> None:
        """Raises the errors of `srd_rs.inspect`, and `ModelError` if llama.cpp does not load the file."""
        self._lib = library()
        # llama.cpp opens a split GGUF by its first part.
        self.path = first_part(gguf)
        self.n_ctx = n_ctx
        check_before_loading(self.path)
        forget_errors()
        self._lib.llama_backend_init()
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._model:
            fix = f"Check it with: srd-rs inspect {gguf}"
            raise failure(gguf, "llama.cpp does not load it", fix)
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = self._lib.llama_vocab_n_tokens(self._vocab)
        self._context = self._lib.llama_init_from_model(
            self._model, self._context_params(threads, eval_callback, mean_pooling)
        )
        if not self._context:
            self._lib.llama_model_free(self._model)
            raise failure(gguf, f"llama.cpp makes no context of {n_ctx} tokens", "Lower --ctx")
        self._batch = self._lib.llama_batch_init(n_ctx, 0, 1)

    def _context_params(self, threads: int | None, eval_callback: Any, mean_pooling: bool) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = self.n_ctx
        params.n_ubatch = min(self.n_ctx, N_UBATCH)
        params.n_threads = params.n_threads_batch = threads or cpus()
        if eval_callback is not None:
            params.cb_eval = eval_callback
        if mean_pooling:
            params.embeddings = True
            params.pooling_type = self._lib.LLAMA_POOLING_TYPE_MEAN
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
        """The token that each chunk starts with; None if the vocabulary asks for none."""
        if not self._lib.llama_vocab_get_add_bos(self._vocab):
            return None
        return int(self._lib.llama_vocab_bos(self._vocab))

    def tokenize(self, text: str | bytes, most: int = 0) -> Tokens:
        """Token ids of `text`, with the special tokens that the vocabulary adds at both ends.

        A text of more than `PIECE_BYTES` is cut behind the ends of lines, because llama.cpp takes 100 times the memory
        of a text. The pieces have the tokens of the whole. With `most`, no more pieces are read than have so many
        tokens.
        """
        raw = text.encode() if isinstance(text, str) else text
        if len(raw) <= PIECE_BYTES:
            return self._tokens(raw, special=True)
        alone, around = self._tokens(b"a", special=False), self._tokens(b"a", special=True)
        at = next((i for i in range(len(around)) if np.array_equal(around[i:][: len(alone)], alone)), 0)
        found, count, is_line = [around[:at]], at, False
        for piece in pieces(raw):
            tokens = self._next_tokens(piece) if is_line else self._tokens(piece, special=False)
            is_line = piece.endswith(b"\n")
            found.append(tokens)
            count += len(tokens)
            if most and count >= most:
                break
        return np.concatenate([*found, around[at + len(alone) :]])

    def _next_tokens(self, line: bytes) -> Tokens:
        """Token ids of text behind the end of a line: some vocabularies put a space before the first word of a text."""
        end, both = self._tokens(b"\n", special=False), self._tokens(b"\n" + line, special=False)
        follows = np.array_equal(both[: len(end)], end)
        return both[len(end) :] if follows else self._tokens(line, special=False)

    def _tokens(self, raw: bytes, *, special: bool) -> Tokens:
        room = len(raw) + 16
        tokens = (ctypes.c_int32 * room)()
        n = self._lib.llama_tokenize(self._vocab, raw, len(raw), tokens, room, special, False)
        if n < 0:
            raise ModelError(f"tokenizer: {-n} tokens for {len(raw)} bytes of text. Check the vocabulary")
        return np.ctypeslib.as_array(tokens)[:n].astype(np.int32)

    def logits(self, tokens: Tokens, first: int = 0) -> Logits:
        """Logits after the positions `first`.. of one chunk, from an empty context: [len - first, n_vocab].

        The array is llama.cpp's own and changes with the next call.
        """
        self._check(tokens, first)
        self.clear()
        self.decode(tokens, 0, first)
        return self._output(len(tokens) - first)

    def logit_blocks(self, tokens: Tokens, first: int) -> Iterator[Logits]:
        """Yield the same logits in runs of positions, each of at most `LOGITS_BYTES` bytes.

        How the runs are cut depends on `n_vocab` and the lengths alone, so that two models of one vocabulary
        can be walked side by side. An array changes with the next step.
        """
        self._check(tokens, first)
        n = len(tokens)
        step = max(1, LOGITS_BYTES // (4 * self.n_vocab))
        if n - first <= step:
            yield self.logits(tokens, first)
            return
        self.clear()
        if first:
            self.decode(tokens[:first], 0, first)
        for start in range(first, n, step):
            part = tokens[start : start + step]
            self.decode(part, start, 0)
            yield self._output(len(part))

    def embed(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """The mean-pooled embedding [n_embd] of one text. The model must be made with `mean_pooling`."""
        self._check(tokens, 0)
        self.clear()
        self.decode(tokens, 0, 0)
        pointer = self._lib.llama_get_embeddings_seq(self._context, 0)
        if not pointer:
            raise failure(self.path, "llama.cpp gives no pooled embedding", "Name an embedding model")
        width = self._lib.llama_model_n_embd(self._model)
        return np.array(np.ctypeslib.as_array(pointer, shape=(width,)), np.float32)

    def _check(self, tokens: Tokens, first: int) -> None:
        n = len(tokens)
        if not 0 <= first < n <= self.n_ctx:
            raise UsageError(
                f"chunk of {n} tokens scored from {first} on: the context holds {self.n_ctx}. Cut it"
            )

    def clear(self) -> None:
        """Clear the context. An encoder has no memory, so nothing happens."""
        memory = self._lib.llama_get_memory(self._context)
        if memory:
            self._lib.llama_memory_clear(memory, True)

    def decode(self, tokens: Tokens, position: int, first_output: int) -> None:
        """Decode `tokens` from `position` on. The outputs of the token `first_output` and later ones are kept."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens.tolist()):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i >= first_output
        if self._lib.llama_decode(self._context, batch) != 0:
            raise failure(self.path, "llama.cpp cannot decode", f"Check it with: srd-rs inspect {self.path}")

    def _output(self, n: int) -> Logits:
        rows = self._lib.llama_get_logits(self._context)
        if not rows:
            raise failure(self.path, "the model gives no logits", "Name a language model, no encoder")
        return np.ctypeslib.as_array(rows, shape=(n, self.n_vocab))


def chunks_of(text: str | Path, model: LlamaModel, n_chunks: int = 0) -> list[Tokens]:
    """The first `n_chunks` (0: all) chunks of `n_ctx` tokens of a text file, cut as llama-perplexity does.

    The whole text is tokenized at once; then the first token of every chunk is replaced by BOS where the
    vocabulary wants one.
    """
    tokens = model.tokenize(sniff.read_text(Path(text)), most_tokens(model.n_ctx, n_chunks))
    return cut(tokens, model.n_ctx, model.bos, n_chunks, text)


def most_tokens(n_ctx: int, n_chunks: int) -> int:
    """Number of tokens that the first `n_chunks` chunks of a text need; 0 where all tokens are needed."""
    return n_ctx * max(n_chunks, 2) if n_chunks else 0


def pieces(raw: bytes) -> Iterator[bytes]:
    """Cut a text into pieces of at most `PIECE_BYTES`: behind the end of a line where the next line begins with no
    space, otherwise between two characters."""
    start = 0
    while len(raw) - start > PIECE_BYTES:
        window = raw[start : start + PIECE_BYTES + 1]
        end = max(
            (found.end() for found in _LINE_END.finditer(window, PIECE_BYTES // 2)), default=PIECE_BYTES
        )
        while window[end] & 0xC0 == 0x80:
            end -= 1
        yield window[:end]
        start += end
    yield raw[start:]


def cut(tokens: Tokens, n_ctx: int, bos: int | None, n_chunks: int, place: object) -> list[Tokens]:
    """Cut tokens as `chunks_of` does. `place` names the text in errors."""
    n = len(tokens) // n_ctx
    if n < 2:
        what = f"{len(tokens)} tokens are fewer than two chunks of {n_ctx}"
        raise UsageError(message(place, what, "Take a longer text or a smaller context"))
    chunks = [tokens[i * n_ctx :][:n_ctx].copy() for i in range(min(n_chunks or n, n))]
    if bos is not None:
        for chunk in chunks:
            chunk[0] = bos
    return chunks
