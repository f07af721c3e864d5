"""llama.cpp in float32 throughout: what the forward pass is held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srd_rs.eval.llama import LlamaModel

_F32 = 0  # GGML_TYPE_F32
_FLASH_ATTENTION_OFF = 0


#: Threads of llama.cpp spin while they wait, so more than one would take the CPU from other tests.
THREADS = 1


class Float32Llama(LlamaModel):
    """Keys and values are kept in F32, and attention is computed without the flash kernels, which use F16."""

    def __init__(self, gguf: Path, *, n_ctx: int, embeddings: bool = False) -> None:
        self._embeddings = embeddings
        super().__init__(gguf, n_ctx=n_ctx, threads=THREADS)

    def _context_params(self, threads: int | None, eval_callback: Any, mean_pooling: bool) -> Any:
        params = super()._context_params(threads, eval_callback, mean_pooling)
        params.type_k = params.type_v = _F32
        params.flash_attn_type = _FLASH_ATTENTION_OFF
        params.embeddings = self._embeddings
        if self._embeddings:
            params.pooling_type = 0  # LLAMA_POOLING_TYPE_NONE: an embedding for each token
        return params

    def states(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """The last layer's state of every token of an encoder: [tokens, hidden size]."""
        batch, n = self._batch, len(tokens)
        batch.n_tokens = n
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
            batch.seq_id[i][0] = 0
        assert self._lib.llama_encode(self._context, batch) == 0
        width = self._lib.llama_model_n_embd(self._model)
        rows = [
            np.ctypeslib.as_array(self._lib.llama_get_embeddings_ith(self._context, i), shape=(width,)).copy()
            for i in range(n)
        ]
        return np.array(rows)
