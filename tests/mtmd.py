"""Show a picture, or play a sound, to llama.cpp's mtmd and print what mtmd makes of the input, as JSON.

    python tests/mtmd.py MODEL.gguf MMPROJ.gguf [vision | audio | server]

The default is `vision`. With `server`, the picture stands in a question to the server of xllamacpp.

`prepared` makes the folder of a golden convertible. The rest is a program of its own because llama.cpp ends the process
where it meets what it does not expect. The picture and the sound are made from formulas, so that two projectors can be
compared.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import struct
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from patterns import write_shards
from vocab_tools import byte_bpe, byte_vocabulary

_TEXT_PARTS = ("text_config", "llm_config", "language_config", "lm_config", "lfm")
WIDTH, HEIGHT = 72, 56
SECONDS = 2
STAND_INS = {
    "kimi-vl-vision": "llama.cpp takes a deepseek2 without a query rank only with certain numbers of layers",
    "glm-5.3-flash-vision": "llama.cpp does not load this tiny text half, nor that of its own converter",
    "dots3-note-senses": "llama.cpp does not load the tiny text half: its indexer has other sizes",
    "meralion-2": "the case has no text half that is converted",
}
"""Projectors that are tried beside another text model of the same width."""
BESIDE = "dots-ocr-vision"
RENAMED = {
    "llama4-scout": (".attn_post_norm.", ".ln2."),
    "granite-speech": (".conv_norm_var.", ".conv_norm."),
    "granite-speech-plus": (".conv_norm_var.", ".conv_norm."),
}
"""Names of tensors of a projector that differ on purpose: a part of the reference's name, and what stands instead."""
ROUNDED = ("a.position_embd.weight", ".per_dim_scale.weight", ".per_dim_k_scale.weight")
"""Tensors of projectors whose sines and logarithms are rounded correctly; see docs/differences.md."""
FOLDED = (".conv_norm.weight", ".conv_norm.bias")
"""Norms with a square root that is rounded correctly."""
ADDED = {"mistral3-vision": {"v.token_embd.img_break": "language_model.model.embed_tokens.weight"}}
"""Tensors of a projector that the reference leaves out though llama.cpp needs them, with what they are rows of."""


def stand_in(golden: Mapping[str, Any]) -> str | None:
    """Return the golden whose text model stands beside the projector, or None where the text model is its own."""
    own = golden["name"] not in STAND_INS and any("embed_tokens" in name for name in golden["sources"])
    return None if own else BESIDE


def prepared(golden: Mapping[str, Any], folder: Path) -> Path:
    """Write the checkpoint of a golden with a tokenizer and with weights so small that all numbers stay in bounds."""
    folder = folder / golden["name"]
    folder.mkdir(parents=True)
    config = golden["config"]
    own = "architectures" not in config  # Mistral's own format
    (folder / ("params.json" if own else "config.json")).write_text(json.dumps(config))
    for name, value in golden.get("files", {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    shard = "consolidated.safetensors" if own else "model.safetensors"
    sources = {name: [kind, shape, shard] for name, (kind, shape) in golden["sources"].items()}
    write_shards(sources, folder, scale=1 / 1024)
    thinker = config.get("thinker_config") or {}
    parts = (config, *(whole.get(part) or {} for whole in (config, thinker) for part in _TEXT_PARTS))
    size = next((part["vocab_size"] for part in reversed(parts) if part.get("vocab_size")), None)
    if size is None:
        return folder
    vocab, merges = byte_vocabulary(("a", "b"))
    letters = {letter: index for letter, index in vocab.items() if index < size - 1}
    named = golden.get("files", {}).get("tokenizer_config.json", {}).get("added_tokens_decoder", {})
    names = {int(index): token["content"] for index, token in named.items()}
    letters = {names.get(index, letter): index for letter, index in letters.items()}
    letters["ab"] = size - 1
    (folder / "tokenizer.json").write_text(json.dumps(byte_bpe(letters, merges)))
    return folder


def picture() -> np.ndarray:
    """A picture of slopes of red, green and blue, [height, width, 3]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 3 % 256, y * 4 % 256, (x * y) % 251], axis=2).astype(np.uint8)


def sound(rate: int) -> np.ndarray:
    """A tone that rises and falls in pitch and in loudness, `SECONDS` long: samples between -1 and 1."""
    time = np.arange(rate * SECONDS) / rate
    return (np.sin(2000 * time + 300 * np.sin(5 * time)) * (0.6 + 0.3 * np.sin(9 * time))).astype(np.float32)


def encoded(model_path: str, projector_path: str, sense: str) -> np.ndarray:
    """Return what the projector gives to the model for the picture (`vision`) or the sound (`audio`), one value after
    another."""
    import llama_cpp
    from llama_cpp import mtmd_cpp

    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    options.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), options)
    if not model:
        raise SystemExit(f"llama.cpp does not load {model_path}")
    parameters = mtmd_cpp.mtmd_context_params_default()
    parameters.use_gpu, parameters.warmup, parameters.print_timings, parameters.n_threads = (
        False,
        False,
        False,
        1,
    )
    context = mtmd_cpp.mtmd_init_from_file(projector_path.encode(), model, parameters)
    if not context:
        raise SystemExit(f"mtmd does not load {projector_path}")
    if sense == "audio":
        samples = sound(mtmd_cpp.mtmd_get_audio_sample_rate(context))
        data = samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        bitmap = mtmd_cpp.mtmd_bitmap_init_from_audio(samples.size, data)
    else:
        pixels = np.ascontiguousarray(picture())
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd_cpp.mtmd_bitmap_init(WIDTH, HEIGHT, data)
    text = mtmd_cpp.mtmd_input_text()
    text.text = mtmd_cpp.mtmd_default_marker()
    text.text_len = len(text.text)
    text.add_special, text.parse_special = False, True
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
    if mtmd_cpp.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1):
        raise SystemExit("mtmd does not prepare the input")
    width = llama_cpp.llama_model_n_embd_inp(model)
    found = []
    for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
        chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, index)
        if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
            continue
        if mtmd_cpp.mtmd_encode_chunk(context, chunk):
            raise SystemExit("mtmd does not encode the input")
        count = mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk) * width
        values = mtmd_cpp.mtmd_get_output_embd(context)
        found.append(np.ctypeslib.as_array(values, (count,)).copy())
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def png(pixels: np.ndarray) -> bytes:
    """Return a picture as a PNG file."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    )


def answered(model_path: str, projector_path: str) -> dict[str, int]:
    """Return the numbers of tokens when xllamacpp is asked about a letter, without and with the picture."""
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path, options.mmproj.path = model_path, projector_path
    options.n_ctx, options.n_parallel, options.warmup = 2048, 1, False
    options.cpuparams.n_threads = 1
    server = xllamacpp.Server(options)
    url = "data:image/png;base64," + base64.b64encode(png(picture())).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    text = {"type": "text", "text": "a"}
    found = {}
    for name, content in (("without", [text]), ("with", [image, text])):
        question = {"max_tokens": 2, "temperature": 0, "messages": [{"role": "user", "content": content}]}
        found[name] = int(server.handle_chat_completions(question)["usage"]["prompt_tokens"])
    return found


def main() -> None:
    if sys.argv[3:] == ["server"]:
        print(json.dumps(answered(*sys.argv[1:3])), flush=True)
        return
    values = encoded(*sys.argv[1:3], *(sys.argv[3:] or ["vision"]))
    answer = {
        "values": values.size,
        "finite": bool(np.isfinite(values).all()),
        "different": int(np.unique(values).size),
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
