"""RWKV's and PLaMo's vocabularies: llama.cpp on our vocabulary takes the longest token, or the best segmentation."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import FormatError, ModelError
from srd_rs.metadata import Metadata
from srd_rs.vocab import FILES_DECIDE, load
from srd_rs.vocab.rules import VocabularyRules
from vocab_tools import LlamaVocab, corpus, many_texts, write_folder

NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6
KEY = "tokenizer.ggml."
RWKV = "rwkv_vocab_v20230424.txt"


def read(folder: Path, rows: int, rules: VocabularyRules = FILES_DECIDE) -> Metadata:
    return load(folder, config={}, rules=rules, n_vocab=rows)


def differences(metadata: Metadata, folder: Path, ids: Any) -> list[str]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    ours = LlamaVocab(metadata, folder / "vocab.gguf")
    different = [text for text in many_texts(1000) if ours.encode(text) != ids(text)]
    ours.close()
    return different


def pieces(count: int) -> list[str]:
    """Frequent pieces of the corpus, always the same."""
    source = random.Random(3)
    text = "\n".join(corpus())
    starts = (source.randrange(len(text)) for _ in range(20 * count))
    found = dict.fromkeys(text[start : start + source.randint(2, 7)] for start in starts)
    return list(found)[:count]


# RWKV


def rwkv_tokens() -> list[bytes]:
    more = ["\n\n", "'\"", "\\", "\\n", '"', *pieces(1500)]
    return list(dict.fromkeys([*(bytes((byte,)) for byte in range(256)), *(text.encode() for text in more)]))


def rwkv_file(tokens: list[bytes]) -> str:
    """The file as RWKV writes it: text where the token is UTF-8, else bytes."""
    lines = []
    for number, token in enumerate(tokens, 1):
        try:
            literal = repr(token.decode())
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{number} {literal} {len(token)}\n")
    return "".join(lines)


def rwkv_encoder(tokens: list[bytes]) -> Callable[[str], list[int]]:
    """Return what takes the longest token at each place of a text."""
    ids = {token: i for i, token in enumerate(tokens, 1)}
    longest = max(map(len, tokens))

    def encode(text: str) -> list[int]:
        raw, found = text.encode(), []
        while raw:
            size = next(n for n in range(longest, 0, -1) if len(raw) >= n and raw[:n] in ids)
            found.append(ids[raw[:size]])
            raw = raw[size:]
        return found

    return encode


def test_rwkv(tmp_path: Path) -> None:
    tokens = rwkv_tokens()
    (tmp_path / RWKV).write_text(rwkv_file(tokens), encoding="utf-8")
    rows = len(tokens) + 5
    metadata = read(tmp_path, rows)
    assert metadata.get(f"{KEY}model") == "rwkv" and f"{KEY}pre" not in metadata
    assert metadata.get(f"{KEY}tokens")[:2] == ["<s>", "\\x00"]
    assert metadata.get(f"{KEY}token_type") == [CONTROL, *[NORMAL] * len(tokens), *[UNUSED] * 4]
    roles = [metadata.get(f"{KEY}{role}_token_id") for role in ("bos", "eos", "eot")]
    assert roles == [0, 0, 261]
    assert metadata.get("tokenizer.chat_template") == "rwkv-world"
    assert differences(metadata, tmp_path, rwkv_encoder(tokens)) == []


def test_the_folders_own_template_and_the_familys_tokens_count(tmp_path: Path) -> None:
    (tmp_path / RWKV).write_text(rwkv_file(rwkv_tokens()), encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text("own")
    metadata = read(tmp_path, 2000, VocabularyRules(corrected={"eot": 5}))
    assert metadata.get("tokenizer.chat_template") == "own" and metadata.get(f"{KEY}eot_token_id") == 5


@pytest.mark.parametrize(
    "line",
    [
        "1 'a'",
        "2 'a' 1",
        "1 a 1",
        "1 'a' 2",
        "1 '' 0",
        "1 __import__('os').abort() 1",
        "1 'a'*9 9",
        "1 '\\ud800' 3",
        "1 '" + "(" * 9999 + " 5",
        "1 b'\\xzz' 1",
        "",
    ],
)
def test_broken_lines_of_rwkv(tmp_path: Path, line: str) -> None:
    (tmp_path / RWKV).write_text(f"{line}\n2 'b' 1\n", encoding="utf-8")
    with pytest.raises(FormatError, match="line 1") as caught:
        read(tmp_path, 10)
    assert RWKV in str(caught.value)


def test_more_tokens_of_rwkv_than_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / RWKV).write_text(rwkv_file(rwkv_tokens()), encoding="utf-8")
    with pytest.raises(ModelError, match="more than 299"):
        read(tmp_path, 300)


# PLaMo


PLAMO_ROLES = {"bos_token": "<|plamo:bos|>", "eos_token": "<|plamo:eos|>", "unk_token": "<|plamo:unk|>"}


def plamo_entries() -> list[list[Any]]:
    source = random.Random(4)
    special = [["<|plamo:unk|>", 0.0, "UNKNOWN"]]
    special += [[f"<|plamo:{name}|>", 0.0, "CONTROL"] for name in ("bos", "eos", "pad")]
    special += [["<|plamo:op|>", 0.0, "NORMAL"]]
    tokens = [[f"<0x{byte:02X}>", 0.0, "BYTE"] for byte in range(256)]
    letters = dict.fromkeys("".join(pieces(1500))[:400])
    found = [text for text in dict.fromkeys([*letters, *pieces(1500)]) if not text.startswith("<")]
    return [*special, *tokens, *([text, -source.uniform(2, 14), "NORMAL"] for text in found)]


def plamo_file(entries: list[list[Any]]) -> str:
    return "".join(json.dumps([*entry, None, None, None, None]) + "\n" for entry in entries)


def plamo_encoder(entries: list[list[Any]]) -> Callable[[str], list[int]]:
    """Return what finds the segmentation of a text with the least cost."""
    ids = {text: i for i, (text, _, _) in enumerate(entries)}
    cost = {text: -round(score * 1e4) for text, score, kind in entries[261:] if kind == "NORMAL"}
    longest = max(map(len, cost))

    def encode(text: str) -> list[int]:
        best: list[tuple[int, list[int]]] = [(0, [])]
        for start in range(len(text) - 1, -1, -1):
            unknown = [ids[f"<0x{byte:02X}>"] for byte in text[start].encode()]
            found = []
            for size in range(min(longest, len(text) - start), 0, -1):
                piece = text[start : start + size]
                rest = best[size - 1]
                if piece in cost:
                    found.append((cost[piece] + rest[0], [ids[piece], *rest[1]]))
            found.append((best[0][0] + 10_000_000, [*unknown, *best[0][1]]))
            best.insert(0, min(found, key=lambda entry: entry[0]))  # of equal costs the longest piece
        return best[0][1]

    return encode


def test_plamo(tmp_path: Path) -> None:
    entries = plamo_entries()
    write_folder(tmp_path, tokenizer_jsonl=plamo_file(entries), tokenizer_config_json=PLAMO_ROLES)
    metadata = read(tmp_path, len(entries) + 3)
    assert metadata.get(f"{KEY}model") == "plamo2" and metadata.get(f"{KEY}pre") == "default"
    assert metadata.get(f"{KEY}token_type")[:6] == [UNKNOWN, CONTROL, CONTROL, CONTROL, CONTROL, BYTE]
    assert metadata.get(f"{KEY}token_type")[-4:] == [NORMAL, UNUSED, UNUSED, UNUSED]
    roles = [metadata.get(f"{KEY}{role}_token_id") for role in ("bos", "eos", "unknown", "eot")]
    assert roles == [1, 2, 0, 4]
    assert metadata.get(f"{KEY}add_space_prefix") is False
    assert differences(metadata, tmp_path, plamo_encoder(entries)) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("[", "line 1"),
        ("[" * 9999, "line 1"),
        ('["a"]', "line 1"),
        ("[5, 1.0]", "line 1"),
        ('["a", "b"]', "score"),
        ('["a", NaN]', "score"),
        ('["a", 1.0]', "byte 0"),
    ],
)
def test_broken_lines_of_plamo(tmp_path: Path, line: str, what: str) -> None:
    write_folder(tmp_path, tokenizer_jsonl=line + "\n")
    with pytest.raises((FormatError, ModelError), match=what) as caught:
        read(tmp_path, 10)
    assert "tokenizer.jsonl" in str(caught.value)


def test_more_tokens_of_plamo_than_rows_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, tokenizer_jsonl=plamo_file(plamo_entries()))
    with pytest.raises(ModelError, match="the model has 300"):
        read(tmp_path, 300)


def test_tokens_that_only_code_makes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, tokenizer_config_json={"tokenizer_class": "HybridDNATokenizer"})
    with pytest.raises(ModelError, match="Python code"):
        read(tmp_path, 300)
