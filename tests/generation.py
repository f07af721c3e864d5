"""What llama.cpp computes with a tiny GGUF: 16 greedy tokens, or the embedding of an encoder.

llama.cpp ends the process at files that it does not expect. So the files are loaded in a child process, which is
started again behind such a file:

    python generation.py < jobs

Each job is a line of JSON, ``[path, what is expected or null]``, and so is each answer. The module needs
llama-cpp-python and gguf alone, because `scripts/make_family_goldens.py` runs it without srd-rs.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

SCALE: Final = 1 / 256
"""The weights of `patterns` are whole numbers up to 127. With these times the scale, activations stay in range."""
PROMPT: Final = (1, 5, 9, 2, 17, 33, 8, 3)
N_TOKENS: Final = 16
CLOSE: Final = 1e-3
"""Two logits count as equal if they differ by less than this share of the largest, as processors add up in other
orders."""
N_SHOWN: Final = 8
"""So many values of an embedding, and so many logits behind the prompt, are kept."""
_CONTEXT: Final = 64
_F32: Final = 0  # GGML_TYPE_F32
_NO_FLASH_ATTENTION: Final = 0
ENDLESS: Final = "llama.cpp does not come to an end"
"""Stands by hand in the golden of a file that llama.cpp computes for ever."""
_CRASHED: Final = "llama.cpp ends the process"


def with_vocabulary(source: Path, output: Path) -> None:
    """Copy a GGUF that has no tokenizer, with the keys that let llama.cpp load it: as many tokens as there are rows."""
    import gguf

    reader = gguf.GGUFReader(source)
    rows = {tensor.name: tensor.shape.tolist()[-1] for tensor in reader.tensors}
    arch = reader.fields["general.architecture"].contents()
    entries = {
        "tokenizer.ggml.model": "none",
        "tokenizer.ggml.token_type_count": rows.get("token_types.weight", 1),
        f"{arch}.vocab_size": rows.get("token_embd.weight"),
    }
    added = b""
    entries = {k: v for k, v in entries.items() if k not in reader.fields and v is not None}
    for key, value in entries.items():
        added += _text(key)
        added += (
            struct.pack("<I", 8) + _text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
        )
    data = source.read_bytes()
    last = reader.tensors[-1].field
    end = last.offset + sum(part.nbytes for part in last.parts)
    count = struct.pack("<Q", struct.unpack_from("<Q", data, 16)[0] + len(entries))
    head = data[:16] + count + added + data[24:end]
    head += bytes(-len(head) % reader.alignment)
    output.write_bytes(head + data[reader.data_offset :])


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def generated(jobs: Sequence[tuple[Path, Any]]) -> list[dict[str, Any]]:
    """Return what llama.cpp computes with each file, in their order.

    An answer has ``tokens`` and the first ``logits``, an ``embedding``, or ``refused`` with what llama.cpp says. A
    token that is expected counts if its logit is as good as the best.
    """
    answers: list[dict[str, Any]] = []
    while len(answers) < len(jobs):
        lines = "".join(json.dumps([str(path), expected]) + "\n" for path, expected in jobs[len(answers) :])
        done = subprocess.run(
            [sys.executable, __file__], input=lines, capture_output=True, text=True, timeout=250, check=False
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        if len(found) + len(answers) < len(jobs):
            if done.returncode >= 0:
                raise RuntimeError(f"the child process ended early:\n{done.stderr}")
            found.append({"refused": f"{_CRASHED}: {_why(done.stderr)}"})
        answers += found
    return answers


def _why(text: str) -> str:
    """The assertion of llama.cpp, without the line number, which depends on the version."""
    found = re.search(r"GGML_ASSERT\((.*)\) failed|GGML_ABORT.*", text)
    return found[0] if found else "no reason is given"


class _Log:
    """What llama.cpp said last about an error."""

    def __init__(self) -> None:
        self.error = ""

    def keep(self, level: int, text: bytes, _: object) -> None:
        if level == 4 and text.strip():  # GGML_LOG_LEVEL_ERROR
            self.error = self.error or text.decode(errors="replace").strip()


def _answer(lib: Any, log: _Log, path: str, expected: dict[str, Any] | None) -> dict[str, Any]:
    log.error = ""
    parameters = lib.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        return {"refused": log.error.replace(path, "the file")}
    settings = lib.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = _CONTEXT
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = _F32
    settings.flash_attn_type = _NO_FLASH_ATTENTION
    arch = _metadata(lib, model, "general.architecture")
    encoder = "bert" in arch or _metadata(lib, model, f"{arch}.pooling_type") not in ("", "0")
    encoder = encoder or not lib.llama_model_has_decoder(model)
    settings.embeddings = encoder
    context = lib.llama_init_from_model(model, settings)
    if not context:
        lib.llama_model_free(model)
        return {"refused": log.error}
    try:
        run = _embedding if encoder else _tokens
        return run(lib, model, context, (expected or {}).get("tokens") or [])
    finally:
        lib.llama_free(context)
        lib.llama_model_free(model)


def _metadata(lib: Any, model: Any, key: str) -> str:
    import ctypes

    value = ctypes.create_string_buffer(64)
    lib.llama_model_meta_val_str(model, key.encode(), value, 64)
    return value.value.decode()


def _run(
    lib: Any, context: Any, tokens: Sequence[int], *, encode: bool = False, every: bool = False
) -> str | None:
    """Compute one sequence from an empty context. Returns what is wrong."""
    memory = lib.llama_get_memory(context)
    if memory and not encode:
        lib.llama_memory_clear(memory, True)
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = every or i == len(tokens) - 1
    status = (lib.llama_encode if encode else lib.llama_decode)(context, batch)
    lib.llama_batch_free(batch)
    return f"llama.cpp cannot compute it: {status}" if status else None


def _tokens(lib: Any, model: Any, context: Any, expected: list[int]) -> dict[str, Any]:
    n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    tokens = [token % n_vocab for token in PROMPT]
    if lib.llama_model_has_encoder(model):
        if wrong := _run(lib, context, tokens, encode=True):
            return {"refused": wrong}
        tokens = [0]
    start, shown = len(tokens), []
    for i in range(N_TOKENS):
        if wrong := _run(lib, context, tokens):
            return {"refused": wrong}
        logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), shape=(n_vocab,))
        if not np.isfinite(logits).all():
            return {"refused": "not every logit is a number"}
        shown = shown or _shown(logits)
        best = int(np.argmax(logits))
        least = logits[best] - CLOSE * np.abs(logits).max()
        if i < len(expected) and expected[i] < n_vocab and logits[expected[i]] >= least:
            best = expected[i]
        tokens.append(best)
    return {"tokens": tokens[start:], "logits": shown}


def _embedding(lib: Any, model: Any, context: Any, _: list[int]) -> dict[str, Any]:
    # A decoder whose states are pooled has a memory of keys, and an encoder has none.
    encode = lib.llama_model_has_encoder(model) or not lib.llama_get_memory(context)
    if wrong := _run(lib, context, PROMPT, encode=encode, every=True):
        return {"refused": wrong}
    pooling = lib.llama_pooling_type(context)
    width = lib.llama_model_n_embd(model)
    if pooling == 4:  # LLAMA_POOLING_TYPE_RANK
        width = lib.llama_model_n_cls_out(model)
    pointer = (
        lib.llama_get_embeddings_ith(context, len(PROMPT) - 1)
        if pooling == 0
        else lib.llama_get_embeddings_seq(context, 0)
    )
    values = np.ctypeslib.as_array(pointer, shape=(width,))
    if not np.isfinite(values).all():
        return {"refused": "not every value is a number"}
    return {"embedding": _shown(values)}


def _shown(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values[:N_SHOWN].astype(np.float64)]


def _answers(lines: Iterator[str]) -> None:
    import llama_cpp as lib

    # llama.cpp prints to the standard output too, so the answers get a file of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    log = _Log()
    callback = lib.llama_log_callback(log.keep)
    lib.llama_log_set(callback, None)
    lib.llama_backend_init()
    for line in lines:
        path, expected = json.loads(line)
        print(json.dumps(_answer(lib, log, path, expected)), file=answers, flush=True)


if __name__ == "__main__":
    _answers(iter(sys.stdin))
