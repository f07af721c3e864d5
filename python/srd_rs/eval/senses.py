"""A smoke answer of a model that sees or hears: llama.cpp's mtmd reads pictures and sounds with the projector, and the
model goes on from there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np

from srd_rs import sniff
from srd_rs._core import cpus
from srd_rs.errors import UsageError, message
from srd_rs.eval.library import failure, forget_errors, log_to_here
from srd_rs.eval.llama import LlamaModel
from srd_rs.options import StrPath

#: All tokens of a picture are computed at once in models that look at all of it.
_N_UBATCH: Final = 2048
_PROMPT: Final = "Describe this in one sentence."


@dataclass(frozen=True)
class Answer:
    """What a model says of pictures and sounds. `prompt_tokens` counts the tokens of the whole prompt, `media_tokens`
    those that stand for pictures and sounds, and `answer_tokens` those that the model has added."""

    path: Path
    mmproj: Path
    media: tuple[Path, ...]
    prompt: str
    text: str
    prompt_tokens: int
    media_tokens: int
    answer_tokens: int

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "mmproj": str(self.mmproj),
            "media": [str(path) for path in self.media],
            "prompt": self.prompt,
            "answer": self.text,
            "prompt_tokens": self.prompt_tokens,
            "media_tokens": self.media_tokens,
            "answer_tokens": self.answer_tokens,
        }


def answer(
    gguf: StrPath,
    *,
    images: Sequence[StrPath] = (),
    sounds: Sequence[StrPath] = (),
    mmproj: StrPath | None = None,
    prompt: str = _PROMPT,
    n_predict: int = 64,
    n_ctx: int = 4096,
    threads: int | None = None,
) -> Answer:
    """Show pictures and sounds to a model and return how it answers, by greedy choice of tokens.

    gguf: The model.
    images, sounds: Files that llama.cpp reads: JPEG, PNG, BMP and GIF; WAV, MP3 and FLAC.
    mmproj: The projector of the model. The default is the one that lies beside the GGUF under its usual name.
    prompt: What is asked.
    n_predict: Number of tokens of the answer at most.
    n_ctx: Number of tokens that the prompt, the pictures and the answer may have together.

    It shows that the two files belong together and can be used; it is no measure of quality. Raises UsageError for
    files of other kinds and for pictures that the projector cannot see, ModelError if llama.cpp does not load a file.
    """
    path = Path(gguf)
    found = sniff.projector_beside(path) if mmproj is None else Path(mmproj)
    if found is None:
        what = "no projector lies beside this file (mmproj-NAME-*.gguf)"
        raise UsageError(message(path, what, "Name it with --mmproj"))
    if sniff.identify(found).kind != "mmproj":
        raise UsageError(message(found, "this is no projector", "Name the file mmproj-*.gguf of the model"))
    media = [*map(Path, images), *map(Path, sounds)]
    if not media:
        raise UsageError(message("answer", "there are no pictures and no sounds", "Name a file to show"))
    for file in media:
        if not file.is_file():
            raise UsageError(message(file, "there is no such file", "Check the path"))
    with _SensingModel(path, found, n_ctx=n_ctx, threads=threads) as model:
        for kind, asked in (("vision", images), ("audio", sounds)):
            if asked and not model.supports(kind):
                sense = {"vision": "see pictures", "audio": "hear sounds"}[kind]
                raise UsageError(message(found, f"this projector cannot {sense}", "Name another file"))
        text, counts = model.answer(media, prompt, n_predict)
    return Answer(path, found, tuple(media), prompt, text, *counts)


class _SensingModel(LlamaModel):
    """A model with its projector, loaded by llama.cpp."""

    def __init__(self, gguf: Path, mmproj: Path, *, n_ctx: int, threads: int | None) -> None:
        super().__init__(gguf, n_ctx=n_ctx, threads=threads)
        from llama_cpp import mtmd_cpp

        self._mtmd: Any = mtmd_cpp
        log_to_here(mtmd_cpp.mtmd_log_set)
        log_to_here(mtmd_cpp.mtmd_helper_log_set)
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu = params.print_timings = params.warmup = False
        params.n_threads = threads or cpus()
        forget_errors()
        self._mmproj = mtmd_cpp.mtmd_init_from_file(os.fsencode(mmproj), self._model, params)
        if not self._mmproj:
            super().__exit__(None, None, None)
            fix = "Name the projector that was made from the same model"
            raise failure(mmproj, "llama.cpp does not load this projector with the model", fix)

    def __enter__(self) -> _SensingModel:
        return self

    def _context_params(self, threads: int | None, eval_callback: Any, mean_pooling: bool) -> Any:
        params = super()._context_params(threads, eval_callback, mean_pooling)
        params.n_ubatch = min(self.n_ctx, _N_UBATCH)
        return params

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mtmd.mtmd_free(self._mmproj)
        super().__exit__(kind, error, trace)

    def supports(self, kind: str) -> bool:
        """Whether the projector has an encoder of the kind ``vision`` or ``audio``."""
        return bool(getattr(self._mtmd, f"mtmd_support_{kind}")(self._mmproj))

    def answer(self, media: Sequence[Path], prompt: str, n_predict: int) -> tuple[str, tuple[int, int, int]]:
        """The answer, and the numbers of tokens of the prompt, of the media in it, and of the answer."""
        mtmd = self._mtmd
        marker = mtmd.mtmd_default_marker().decode()
        text = self._asked("".join(f"{marker}\n" for _ in media) + prompt)
        bitmaps: list[Any] = []
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            for path in media:
                bitmap = mtmd.mtmd_helper_bitmap_init_from_file(self._mmproj, os.fsencode(path), False)
                if not bitmap:
                    what = "llama.cpp cannot read this picture or sound"
                    raise failure(path, what, "Save it as PNG or JPEG, or as WAV")
                bitmaps.append(bitmap)
            raw = text.encode()
            said = mtmd.mtmd_input_text(raw, len(raw), True, True)
            array = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
            if mtmd.mtmd_tokenize(self._mmproj, chunks, ctypes.byref(said), array, len(bitmaps)) != 0:
                raise failure(media[0], "llama.cpp cannot prepare it for the model", "Try a smaller file")
            total, own = self._counted(chunks)
            if total + n_predict > self.n_ctx:
                what = (
                    f"{total} tokens of the prompt and {n_predict} of the answer are more than {self.n_ctx}"
                )
                raise UsageError(message("--ctx", what, "Raise --ctx, or show a smaller picture"))
            return self._answered(chunks, n_predict, total, own)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)

    def _asked(self, content: str) -> str:
        """The prompt in the form of the chat template, if llama.cpp knows the template."""
        template = self._lib.llama_model_chat_template(self._model, None)
        if not template:
            return content
        raw = content.encode()
        turn = (self._lib.llama_chat_message * 1)(self._lib.llama_chat_message(b"user", raw))
        buffer = ctypes.create_string_buffer(2 * len(raw) + 4096)
        n = self._lib.llama_chat_apply_template(template, turn, 1, True, buffer, len(buffer))
        return buffer.raw[:n].decode(errors="replace") if 0 < n <= len(buffer) else content

    def _counted(self, chunks: Any) -> tuple[int, int]:
        """The number of all tokens, and of those that stand for media."""
        mtmd, total, own = self._mtmd, 0, 0
        for index in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            n = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            total += n
            own += n if mtmd.mtmd_input_chunk_get_type(chunk) != mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT else 0
        return total, own

    def _answered(
        self, chunks: Any, n_predict: int, total: int, own: int
    ) -> tuple[str, tuple[int, int, int]]:
        self.clear()
        position = self._lib.llama_pos(0)
        done = self._mtmd.mtmd_helper_eval_chunks(
            self._mmproj, self._context, chunks, 0, 0, self.n_ctx, True, ctypes.byref(position)
        )
        if done != 0:
            raise failure(self.path, "llama.cpp cannot compute the picture or sound", "Check both files")
        pieces: list[bytes] = []
        buffer = ctypes.create_string_buffer(1024)
        for step in range(n_predict):
            scores = self._output(1)[0]
            if not np.isfinite(scores).all():
                fix = "Convert both files again, and check the checkpoint"
                raise failure(self.path, "the model gives scores that are no numbers", fix)
            token = int(scores.argmax())
            if self._lib.llama_vocab_is_eog(self._vocab, token):
                break
            n = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            pieces.append(buffer.raw[: max(n, 0)])
            if step + 1 < n_predict:
                self.decode(np.array([token], np.int32), position.value + step, 0)
        return b"".join(pieces).decode(errors="replace"), (total, own, len(pieces))
