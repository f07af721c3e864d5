"""A smoke answer of llama.cpp with our two files: the model and its projector."""

from __future__ import annotations

import json
import math
import struct
import wave
import zlib
from pathlib import Path

import pytest

import srd_rs
from patterns import write_shards
from srd_rs.errors import UsageError
from support import srd
from test_family_goldens import opened
from test_projectors import GOLDEN
from vocab_tools import byte_bpe, byte_vocabulary

pytest.importorskip("llama_cpp")


def model(name: str, tmp_path: Path) -> Path:
    """Convert a tiny model with small weights and a tokenizer; return its GGUF, beside which the projector lies."""
    golden = json.loads((GOLDEN.parent / f"{name}.json").read_text())
    folder = opened(golden, tmp_path).folder
    sources = {key: [kind, shape, "model.safetensors"] for key, (kind, shape) in golden["sources"].items()}
    write_shards(sources, folder, 2**-10)
    vocab, merges = byte_vocabulary(("a", "b"))
    letters = dict(list(vocab.items())[:95])
    letters["ab"] = len(letters)
    (folder / "tokenizer.json").write_text(json.dumps(byte_bpe(letters, merges)))
    report = srd_rs.convert(folder, f"{tmp_path}/out/", effort="fast", quant="BF16", axm=False)
    assert report.mmproj is not None and report.mmproj.exists()
    return report.output


def picture(path: Path, side: int = 64) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"".join(bytes((x * 4 % 256, y * 4 % 256, 128)) for x in range(side)) for y in range(side))
    raw = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", raw) + chunk(b"IEND", b""))
    return path


def sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        waves = (int(9000 * math.sin(i / 20)) for i in range(16000))
        file.writeframes(b"".join(struct.pack("<h", value) for value in waves))
    return path


def test_a_model_answers_a_picture(tmp_path: Path) -> None:
    gguf = model("qwen2.5-vl-vision", tmp_path)
    shown = picture(tmp_path / "p.png")
    asked = ("--prompt", "abab", "--predict", 3, "--threads", 1)
    found = srd("eval", gguf, "--image", shown, *asked, "--json").json
    # A picture of 64 x 64 becomes 84 x 84: 6 x 6 patches, of which four each become one token.
    assert found["media_tokens"] == 9 and 1 <= found["answer_tokens"] <= 3
    assert Path(found["mmproj"]).name == "mmproj-qwen2.5-vl-vision-F16.gguf"
    twice = srd("eval", gguf, "--image", shown, "--image", shown, *asked, "--json").json
    assert twice["media_tokens"] == 18
    run = srd("eval", gguf, "--image", shown, *asked, "--mmproj", found["mmproj"])
    assert run.code == 0 and f"9 of {found['prompt_tokens']} tokens" in run.stdout


def test_a_model_answers_a_sound(tmp_path: Path) -> None:
    gguf = model("qwen3-asr", tmp_path)
    found = srd("eval", gguf, "--audio", sound(tmp_path / "s.wav"), "--predict", 2, "--json").json
    assert found["media_tokens"] > 0 and found["answer_tokens"] == 2
    deaf = srd("eval", gguf, "--image", picture(tmp_path / "p.png"))
    assert deaf.code != 0 and "cannot see pictures" in deaf.stderr


def test_mistakes_of_a_smoke_answer(tmp_path: Path) -> None:
    gguf = model("qwen2.5-vl-vision", tmp_path)
    shown, text = picture(tmp_path / "p.png"), tmp_path / "t.txt"
    text.write_text("This is no picture.")
    for arguments, said in (
        ((gguf,), "nothing to score"),
        ((gguf, "-f", text, "--image", shown), "--text"),
        ((gguf, "-f", text, "--prompt", "x"), "--prompt"),
        ((gguf, gguf, "--image", shown), "one model answers at a time"),
        ((gguf, "--image", text), "cannot read this picture"),
        ((gguf, "--image", tmp_path / "absent.png"), "there is no such file"),
        ((gguf, "--audio", sound(tmp_path / "s.wav")), "cannot hear sounds"),
        ((gguf, "--image", shown, "--ctx", 16), "Raise --ctx"),
        ((gguf, "--image", shown, "--mmproj", gguf), "this is no projector"),
    ):
        run = srd("eval", *arguments)
        assert run.code != 0 and said in run.stderr, run.stderr
    projector = next(gguf.parent.glob("mmproj-*.gguf"))
    projector.unlink()
    with pytest.raises(UsageError, match="no projector lies beside"):
        from srd_rs.eval.senses import answer

        answer(gguf, images=[shown])
