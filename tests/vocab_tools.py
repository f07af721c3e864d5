"""Tiny tokenizers for the tests, and llama.cpp's tokenizer on a vocabulary-only GGUF."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from srd_rs.families import _families
from srd_rs.metadata import Metadata
from srd_rs.vocab.bpe import byte_alphabet
from srd_rs.vocab.rules import VocabularyRules


def rules_of(arch: str) -> VocabularyRules:
    """What the family of an architecture says of its vocabulary."""
    families = {family.arch: family.vocabulary for family in _families().values()}
    return families[arch]


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LETTERS_SYMBOLS = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = f"{CONTRACTIONS}|{LETTERS_SYMBOLS % chr(92)}".replace("\\|", r"\p{N}{1,3}|", 1)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
KIMI = "|".join(
    (
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex: bool = True) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def digits(individual: bool) -> dict[str, Any]:
    return {"type": "Digits", "individual_digits": individual}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(token_id: int, content: str, *, special: bool = False, normalized: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": token_id, "content": content, "special": special, "normalized": normalized, **flags}


def byte_vocabulary(*merged: tuple[str, str]) -> tuple[dict[str, int], list[list[str]]]:
    """The 256 byte tokens and one token for each merge."""
    vocab = {character: token_id for token_id, character in enumerate(byte_alphabet())}
    for left, right in merged:
        vocab.setdefault(left + right, len(vocab))
    return vocab, [list(pair) for pair in merged]


def byte_bpe(vocab: dict[str, int], merges: list[Any], **changes: Any) -> dict[str, Any]:
    """A tokenizer.json of byte-level BPE that splits as Llama 3 does."""
    model = {"type": "BPE", "byte_fallback": False, "ignore_merges": True, "vocab": vocab, "merges": merges}
    file: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": sequence(split(LLAMA3), byte_level(False)),
        "post_processor": byte_level(),
        "decoder": byte_level(),
        "model": model | changes.pop("model", {}),
    }
    return {
        **{key: changes.get(key, value) for key, value in file.items() if key != "model"},
        "model": file["model"],
    }


def write_folder(folder: Path, **files: Any) -> Path:
    """Write JSON values (or text, or bytes) as files; ``tokenizer_json=`` becomes tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        stem, _, ending = name.rpartition("_")
        path = folder / f"{stem}.{ending}"
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def proto_piece(text: str, score: float, kind: int = 1) -> bytes:
    """One piece of a SentencePiece model, as the field of ModelProto that it is."""
    raw = text.encode()
    body = b"\x0a" + varint(len(raw)) + raw + b"\x15" + struct.pack("<f", score)
    body += b"" if kind == 1 else b"\x18" + varint(kind)
    return b"\x0a" + varint(len(body)) + body


class LlamaVocab:
    """llama.cpp's tokenizer for some metadata, through a GGUF without tensors written to `path`; or, without
    metadata, for the GGUF at `path`, whose weights are loaded too."""

    def __init__(self, metadata: Metadata | None, path: Path) -> None:
        from srd_rs.eval.library import library

        # There is one log function for the process: another's own would leave it hanging when it is collected.
        self._cpp = library()
        params = self._cpp.llama_model_default_params()
        if metadata is not None:
            _write_gguf(path, metadata)
            params.vocab_only = True
        self._model = self._cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self._model, "llama.cpp refused the vocabulary"
        self._vocab = self._cpp.llama_model_get_vocab(self._model)

    def encode(self, text: str, *, special: bool = False, ends: bool = False) -> list[int]:
        """The ids of a text. With `special`, control tokens are found in the text. With `ends`, the tokens around a
        text are added."""
        raw = text.encode()
        room = len(raw) + 16
        out = (self._cpp.llama_token * room)()
        count = self._cpp.llama_tokenize(self._vocab, raw, len(raw), out, room, ends, special)
        assert count >= 0
        return list(out[:count])

    def ends(self) -> set[int]:
        """The ids at which llama.cpp ends its turn."""
        count = self._cpp.llama_vocab_n_tokens(self._vocab)
        return {i for i in range(count) if self._cpp.llama_vocab_is_eog(self._vocab, i)}

    def close(self) -> None:
        self._cpp.llama_model_free(self._model)


def _write_gguf(path: Path, metadata: Metadata) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    for number in ("block_count", "context_length", "embedding_length", "feed_forward_length", "head_count"):
        getattr(writer, f"add_{number}")(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writers = {"STRING": writer.add_string, "BOOL": writer.add_bool, "UINT32": writer.add_uint32}
    for key, kind, value in metadata.entries():
        writers.get(kind, writer.add_array)(key, bytes(value) if kind == "ARRAY[UINT8]" else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


TEXTS = [
    "Hello world",
    "The history of the world",
    "  leading",
    "trailing  ",
    "a  b   c    d",
    "\n\n\tx\n \n",
    "x=1;y=2\nfor i in range(10):\n    print(i)\n",
    "if (a && b) { return c[0]; } // ok",
    "12345 67890 3.14159 1,000",
    "na\u00efve caf\u00e9 r\u00e9sum\u00e9",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u4f60\u597d,\u4e16\u754c",
    "\u3053\u3093\u306b\u3061\u306f",
    "\uc548\ub155",
    "\u0645\u0631\u062d\u0628\u0627",
    "\U0001f680\U0001f525 \U0001f469\u200d\U0001f467 test",
    "zero\u200bwidth",
    "\u00a0nbsp\u3000wide",
    "\r\n crlf\r",
    "I've we'll they'RE 'tis don't",
    "------====!!!???...",
    "a" * 50,
    " " * 17,
    "\n" * 9,
    "\t\t\t",
    "https://example.com/a?b=c&d=%20",
    '{"k": [1, 2, {"z": null}]}',
    "CamelCase snake_case kebab-case",
    "\ufb01 \u00bd \u00b2",
]
"""What tokenizers trip over: runs of spaces and newlines, digits, code, contractions, scripts, emoji."""


def many_texts(count: int) -> list[str]:
    """TEXTS and mixtures of their words and characters, always the same."""
    import random

    source = random.Random(5)
    words = " ".join(TEXTS).split(" ")
    letters = "".join(TEXTS)
    out = list(TEXTS)
    while len(out) < count:
        out.append(" ".join(source.choices(words, k=source.randint(1, 12))))
        out.append("".join(source.choices(letters, k=source.randint(1, 40))))
    return out[:count]


def byte_ranks(pattern: str, size: int = 1200) -> dict[bytes, int]:
    """The ranks of a vocabulary that the tokenizers library trains behind the splitting by `pattern`."""
    import pytest

    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(tokenizers.Regex(pattern), "isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = byte_alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=list(alphabet)
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    tokens = [bytes(alphabet[c] for c in text) for text, _ in ordered]
    return {token: rank for rank, token in enumerate([*sorted(tokens[:256]), *tokens[256:]])}


def corpus() -> list[str]:
    """Sentences to train a small tokenizer on: the calibration text of the package, and `many_texts`."""
    from srd_rs.calibration import read_text

    text = read_text("builtin")[1].decode()
    return [line for line in text.splitlines()[::20] if line.strip()] + many_texts(400)


def chat_texts(tokens: list[str], count: int) -> list[str]:
    """Texts shaped like chats: turns between `tokens`, with and without spaces and newlines around them, always the
    same."""
    import random

    source = random.Random(7)
    words = " ".join(TEXTS).split(" ")
    out = []
    while len(out) < count:
        parts = []
        for _ in range(source.randint(1, 5)):
            parts.append(source.choice(tokens))
            parts.append(source.choice(["", "", "user\n", "assistant\n", " ", "\n", "\n\n", "  "]))
            parts.append(" ".join(source.choices(words, k=source.randint(0, 8))))
            parts.append(source.choice(["", "\n", " ", "\n\n", "   "]))
        out.append("".join(parts))
    return out
