"""Vocabularies by ranks: llama.cpp on our vocabulary gives the ids of tiktoken and of mistral-common."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import FormatError, ModelError
from srd_rs.metadata import Metadata
from srd_rs.vocab import FILES_DECIDE, load
from srd_rs.vocab.ranks import all_merges, checked, last_merges
from srd_rs.vocab.rules import LLAMA, VocabularyRules
from vocab_tools import (
    KIMI,
    LLAMA3,
    QWEN2,
    TEKKEN,
    LlamaVocab,
    byte_ranks,
    chat_texts,
    many_texts,
    proto_piece,
    write_folder,
)

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
KEY = "tokenizer.ggml."
TEXTS = many_texts(1000)


@pytest.fixture(scope="session")
def ranks() -> dict[bytes, int]:
    """The ranks of a small vocabulary that the tokenizers library trained."""
    return byte_ranks(QWEN2)


def tiktoken_file(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def read(folder: Path, rows: int, rules: VocabularyRules = FILES_DECIDE, **more: Any) -> Metadata:
    return load(folder, config=more.pop("config", {}), rules=rules, n_vocab=rows, **more)


def encoding(pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> Any:
    tiktoken = pytest.importorskip(
        "tiktoken", reason="tiktoken is not installed: nothing was compared with it"
    )
    return tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def differences(metadata: Metadata, folder: Path, ids: Any, texts: list[str], **options: Any) -> list[str]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    ours = LlamaVocab(metadata, folder / "vocab.gguf")
    different = [text for text in texts if ours.encode(text, **options) != ids(text)]
    ours.close()
    return different


def slots(metadata: Metadata, first: int) -> list[tuple[str, int]]:
    return list(zip(metadata.get(f"{KEY}tokens"), metadata.get(f"{KEY}token_type"), strict=True))[first:]


EXTRAS = tuple(f"<|extra_{i}|>" for i in range(205))
DECODER = ("[gMASK]", "<|endoftext|>", "<|user|>")
TIKTOKEN = {
    "qwen.tiktoken": (
        "QWenTokenizer",
        QWEN2,
        "qwen2",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *EXTRAS),
    ),
    "hy.tiktoken": (
        "HYTokenizer",
        QWEN2,
        "hunyuan",
        ("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", *EXTRAS),
    ),
    "tokenizer.model": ("ChatGLM4Tokenizer", LLAMA3, "chatglm-bpe", DECODER),
    "arcade100k.tiktoken": ("Arcade100kTokenizer", QWEN2, "stablelm2", DECODER),
}


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("name", TIKTOKEN)
def test_tiktoken(tmp_path: Path, ranks: dict[bytes, int], name: str, by_class: bool) -> None:
    kind, pattern, pre, special = TIKTOKEN[name]
    ids = {text: len(ranks) + i for i, text in enumerate(special)}
    config: dict[str, Any] = {"tokenizer_class": kind} if by_class or name == "tokenizer.model" else {}
    if special is DECODER:
        decoder = {str(i): {"content": text, "special": True} for text, i in ids.items()}
        config["added_tokens_decoder"] = decoder
    (tmp_path / name).write_bytes(tiktoken_file(ranks))
    write_folder(tmp_path, tokenizer_config_json=config)
    rows = len(ranks) + len(special) + 4
    metadata = read(tmp_path, rows)
    assert metadata.get(f"{KEY}model") == "gpt2" and metadata.get(f"{KEY}pre") == pre
    expected = [(text, CONTROL) for text in special]
    expected += [(f"[PAD{i}]", UNUSED) for i in range(rows - 4, rows)]
    assert slots(metadata, len(ranks)) == expected
    theirs = encoding(pattern, ranks, ids)
    assert differences(metadata, tmp_path, theirs.encode_ordinary, TEXTS) == []
    chats = chat_texts(list(special[:3]), 200)
    every = {"special": True}
    assert (
        differences(metadata, tmp_path, lambda t: theirs.encode(t, allowed_special="all"), chats, **every)
        == []
    )


def test_kimi(tmp_path: Path) -> None:
    """llama.cpp does not cut words of Kimi between a small and a large letter, and not before combining marks."""
    ranks = byte_ranks(QWEN2)
    config = {"added_tokens_decoder": {str(len(ranks) + 1): {"content": "[EOS]", "special": True}}}
    (tmp_path / "tiktoken.model").write_bytes(tiktoken_file(ranks))
    write_folder(tmp_path, tokenizer_config_json=config)
    first = len(ranks)
    metadata = read(tmp_path, first + 3)
    assert metadata.get(f"{KEY}pre") == "kimi-k2"
    reserved = [(f"<|reserved_token_{first + i}|>", CONTROL) for i in (0, 2)]
    assert slots(metadata, first) == [reserved[0], ("[EOS]", CONTROL), reserved[1]]
    theirs = encoding(KIMI, ranks, {})
    texts = [text for text in TEXTS if text == text.lower() and text.isascii()]
    assert len(texts) > 200
    assert differences(metadata, tmp_path, theirs.encode_ordinary, texts) == []


def test_roles_of_published_models(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    first = len(ranks)
    (tmp_path / "qwen.tiktoken").write_bytes(tiktoken_file(ranks))
    metadata = read(tmp_path, first + 10)
    assert [metadata.get(f"{KEY}{role}_token_id") for role in ("bos", "eos", "unknown")] == [first] * 3
    (tmp_path / "qwen.tiktoken").rename(tmp_path / "hy.tiktoken")
    write_folder(tmp_path, config_json={"bos_token_id": 1, "eos_token_id": first + 3})
    assert read(tmp_path, first + 10).get(f"{KEY}bos_token_id") == first + 1
    large = VocabularyRules(corrected={"bos": "<|bos|>"})
    metadata = read(tmp_path, first + 10, large)
    assert metadata.get(f"{KEY}bos_token_id") == first + 2 and metadata.get(f"{KEY}eos_token_id") == first + 3


def test_special_tokens_that_only_code_has_are_refused(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_file(ranks))
    with pytest.raises(ModelError, match="--pre-tokenizer"):
        read(tmp_path, len(ranks) + 5)
    with pytest.raises(ModelError, match="Python code"):
        read(tmp_path, len(ranks) + 5, pre="llama-bpe")
    (tmp_path / "tokenizer.model").rename(tmp_path / "arcade100k.tiktoken")
    with pytest.raises(ModelError, match="Python code"):
        read(tmp_path, len(ranks) + 5)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"IQ== x\n", "line 1"),
        (b"IQ== 0\n!!== 1\n", "line 2"),
        (b"IQ== 0\nIg== 5\n", "count from 0"),
        (b"IQ== 0\n= 1\n", "line 2"),
        (b"IQ== 0\n", "byte 0"),
    ],
)
def test_broken_ranks(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(data)
    with pytest.raises(FormatError, match=what) as caught:
        read(tmp_path, 300)
    assert "qwen.tiktoken" in str(caught.value)


def test_more_ranks_than_rows_are_refused(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(tiktoken_file(ranks))
    with pytest.raises(ModelError, match="the model has 300"):
        read(tmp_path, 300)


def byte_table() -> dict[bytes, int]:
    return {bytes((byte,)): byte for byte in range(256)}


def test_merges_of_ranks(tmp_path: Path) -> None:
    more = (b"ab", b"bc", b"abc", b"xyz", b"aa", b"aaa")
    table = checked(byte_table() | {token: 256 + i for i, token in enumerate(more)}, tmp_path)
    assert list(last_merges(table, tmp_path)) == ["a b", "b c", "ab c", "a a", "aa a"]
    del table[b"xyz"]
    assert list(all_merges(table, tmp_path)) == ["a b", "b c", "a bc", "ab c", "a a", "a aa", "aa a"]
    with pytest.raises(ModelError, match="no two tokens"):
        list(all_merges(table | {b"xyz": 999}, tmp_path))
    with pytest.raises(ModelError, match="bytes"):
        list(last_merges(table | {b"x" * 30_000: 999}, tmp_path))


# tekken.json


def tekken(ranks: dict[bytes, int], special: list[str] | None, slots: int, **changes: Any) -> dict[str, Any]:
    config = {
        "pattern": TEKKEN,
        "num_vocab_tokens": len(ranks),
        "default_vocab_size": len(ranks) + slots,
        "default_num_special_tokens": slots,
        "version": "v3" if special is None else "v13",
    }
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for token, rank in ranks.items()
    ]
    file: dict[str, Any] = {"config": config, "vocab": vocab}
    if special is not None:
        tokens = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special)]
        file["special_tokens"] = tokens
    file["config"].update(changes.pop("config", {}))
    return {**file, **changes}


@pytest.mark.parametrize("special", [None, ["<unk>", "<s>", "</s>", "[THINK]"]])
def test_tekken(tmp_path: Path, special: list[str] | None) -> None:
    tekkenizer = pytest.importorskip(
        "mistral_common.tokens.tokenizers.tekken",
        reason="mistral-common is not installed: nothing was compared with it",
    ).Tekkenizer
    ranks = byte_ranks(TEKKEN)
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(tekken(ranks, special, 30)))
    metadata = read(tmp_path, len(ranks) + 30, LLAMA)
    theirs = tekkenizer.from_file(path)
    assert metadata.get(f"{KEY}pre") == "tekken"
    assert metadata.get(f"{KEY}tokens")[:30] == [theirs.id_to_piece(i) for i in range(30)]
    assert set(metadata.get(f"{KEY}token_type")[:30]) == {CONTROL}
    roles = [metadata.get(f"{KEY}{role}_token_id") for role in ("bos", "eos", "unknown", "padding")]
    assert roles == [1, 2, 0, 2 if special else 11]
    assert metadata.get(f"{KEY}add_bos_token") is True and metadata.get(f"{KEY}add_eos_token") is False
    wanted = None if special else "mistral-v3-tekken"
    assert metadata.get("tokenizer.chat_template") == wanted
    assert differences(metadata, tmp_path, lambda t: theirs.encode(t, bos=False, eos=False), TEXTS) == []


def test_the_folders_own_chat_template_counts(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("own")
    ranks = byte_table() | {b"ab": 256}
    write_folder(tmp_path, tekken_json=tekken(ranks, None, 30, config={"pattern": "x+"}))
    with pytest.raises(ModelError, match="splits by"):
        read(tmp_path, 287)
    metadata = read(tmp_path, 287, pre="tekken")
    assert metadata.get("tokenizer.chat_template") == "own"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tekken_240718.json", "tekken_240911.json"])
def test_tekken_of_published_models(tmp_path: Path, name: str) -> None:
    package = pytest.importorskip(
        "mistral_common", reason="mistral-common is not installed: its vocabularies were not read"
    )
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    source = Path(package.__file__).parent / "data" / name
    if not source.is_file():
        pytest.skip(f"this mistral-common has no {name}")
    (tmp_path / "tekken.json").write_bytes(source.read_bytes())
    metadata = read(tmp_path, 131072, LLAMA)
    theirs = Tekkenizer.from_file(source)
    assert differences(metadata, tmp_path, lambda t: theirs.encode(t, bos=False, eos=False), TEXTS) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"config": None}, "config"),
        ({"config": {"pattern": 5}}, "pattern"),
        ({"config": {"default_vocab_size": -1}}, "default_vocab_size"),
        ({"config": {"default_vocab_size": 999}}, "999 tokens"),
        ({"config": {"version": "v13"}}, "special_tokens"),
        ({"special_tokens": {}}, "not a list"),
        ({"special_tokens": [{"rank": 99, "token_str": "<x>"}]}, "id of its own"),
        ({"special_tokens": [{"rank": 0}]}, "id of its own"),
        ({"vocab": []}, "at least 256"),
        ({"vocab": [5] * 256}, "not a token"),
        ({"vocab": [{"rank": 0, "token_bytes": "!"}] * 256}, "base64"),
        ({"vocab": [{"rank": 0, "token_bytes": "IQ=="}] * 256}, "byte 0"),
    ],
)
def test_broken_tekken(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    file = tekken(byte_table(), None, 30)
    config = changes.get("config", {})
    file = {**file, **changes, "config": None if config is None else {**file["config"], **config}}
    write_folder(tmp_path, tekken_json=file)
    with pytest.raises((FormatError, ModelError), match=what):
        read(tmp_path, 286)


@pytest.mark.parametrize(("version", "template"), [("v3", "mistral-v3"), ("v99", None)])
def test_a_sentencepiece_model_of_mistrals_format(tmp_path: Path, version: str, template: str | None) -> None:
    pieces = [proto_piece("<unk>", 0.0, 2), proto_piece("<s>", 0.0, 3), proto_piece("</s>", 0.0, 3)]
    (tmp_path / f"tokenizer.model.{version}").write_bytes(b"".join((*pieces, proto_piece("a", -1.0))))
    metadata = read(tmp_path, 4)
    assert metadata.get(f"{KEY}model") == "llama"
    assert metadata.get("tokenizer.chat_template") == template
