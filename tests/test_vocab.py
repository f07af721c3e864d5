"""Tokenizers built in the tests: every kind, the special tokens, and files that break their format."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srd_rs.errors import FormatError, ModelError, SrdError
from srd_rs.metadata import Metadata
from srd_rs.vocab import files, load
from srd_rs.vocab.files import TokenizerJson
from srd_rs.vocab.rules import ENCODER, GEMMA4, LLAMA, PHI3, VocabularyRules
from srd_rs.vocab.sentencepiece import read_model
from srd_rs.vocab.vocabulary import read_merges
from vocab_tools import added, byte_bpe, byte_vocabulary, proto_piece, split, write_folder

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
TOKENS, TYPES, SCORES, MERGES = (
    f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges")
)


def read(folder: Path, rows: int, rules: VocabularyRules = LLAMA, **config: Any) -> Metadata:
    return load(folder, config={"vocab_size": rows, **config}, rules=rules, n_vocab=rows)


def slot(metadata: Metadata, token_id: int) -> tuple[str, int]:
    return metadata.get(TOKENS)[token_id], metadata.get(TYPES)[token_id]


# Byte-level BPE


def test_merges_in_both_spellings(tmp_path: Path) -> None:
    vocab, merges = byte_vocabulary(("t", "h"), ("th", "e"))
    pairs = write_folder(tmp_path / "pairs", tokenizer_json=byte_bpe(vocab, merges))
    texts = write_folder(tmp_path / "texts", tokenizer_json=byte_bpe(vocab, ["t h", "th e"]))
    assert read(pairs, 258).get(MERGES) == read(texts, 258).get(MERGES) == ["t h", "th e"]


def test_a_space_inside_a_merge_is_written_as_its_byte_character(tmp_path: Path) -> None:
    vocab, _ = byte_vocabulary()
    vocab |= {" ": 256, "a b": 257, " b": 258}
    folder = write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, [[" ", "b"], ["a", " b"]]))
    assert read(folder, 259).get(MERGES) == ["\u0120 b", "a \u0120b"]


NASTY = [
    "],[",
    '","',
    '"],["',
    '\\"',
    "[",
    "]",
    "]}}",
    '], ["',
    "\\",
    '" , "',
    '"merges":[',
    "\U0001f680",
    "\u00e9",
]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("style", [list, " ".join])
def test_merges_read_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, style: Any
) -> None:
    """Whatever the tokens hold that looks like a boundary between merges."""
    parts = [text.replace(" ", "") for text in NASTY]
    pairs = [(left, right) for left in parts for right in parts]
    vocab = {text: i for i, text in enumerate(dict.fromkeys([*parts, *(a + b for a, b in pairs)]))}
    file = byte_bpe(vocab, [style(list(pair)) if style is not list else list(pair) for pair in pairs])
    for ascii_only in (False, True):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(file, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
        for size in (1, 7, 50, 1 << 18):
            monkeypatch.setattr(files, "_MERGES_CHUNK", size)
            opened = TokenizerJson.open(path)
            assert opened is not None
            assert read_merges(opened, vocab) == [" ".join(pair) for pair in pairs]


def test_types_of_added_tokens(tmp_path: Path) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [
        added(257, "<s>", special=True),
        added(258, "plain"),
        added(259, "<|looks special|>"),
        added(260, "\u2581\u2581x", normalized=True),
        added(261, "\u0120y"),
        added(262, "\u0120y2", normalized=True),
        added(263, "\u00e9\u00e9"),
    ]
    folder = write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, merges, added_tokens=tokens))
    metadata = read(folder, 270)
    assert metadata.get("tokenizer.ggml.model") == "gpt2"
    assert slot(metadata, 256) == ("th", NORMAL)
    assert slot(metadata, 257) == ("<s>", CONTROL)
    assert slot(metadata, 258) == ("plain", USER_DEFINED)
    assert slot(metadata, 259) == ("<|looks special|>", CONTROL)
    # Byte-level BPE has its own letter for a space: this one is a character of the text.
    assert slot(metadata, 260) == ("\u2581\u2581x", USER_DEFINED)
    assert slot(metadata, 261) == (" y", USER_DEFINED)  # what the decoder prints for it
    assert slot(metadata, 262) == ("\u0120y2", USER_DEFINED)
    assert slot(metadata, 263) == ("\u00e9\u00e9", USER_DEFINED)  # as bytes it would be no UTF-8
    assert slot(metadata, 264) == ("[PAD264]", UNUSED)


def test_added_tokens_of_the_configuration(tmp_path: Path) -> None:
    """added_tokens_decoder fills in what tokenizer.json lacks; a named token is special."""
    vocab, merges = byte_vocabulary(("t", "h"))
    config = {
        "added_tokens_decoder": {"257": {"content": "<new>", "special": True}},
        "additional_special_tokens": ["th"],
    }
    folder = write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, merges), tokenizer_config_json=config)
    metadata = read(folder, 258)
    assert slot(metadata, 257) == ("<new>", CONTROL)
    assert slot(metadata, 256) == ("th", CONTROL)


def test_a_token_is_special_if_any_file_marks_it_so(tmp_path: Path) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [added(257 + i, f"<{name}>", special=name == "b") for i, name in enumerate("abcde")]
    decoder = {str(t["id"]): {"content": t["content"], "special": not t["special"]} for t in tokens[:2]}
    decoder["259"] = {"content": "<c>", "special": False}
    config = {
        "added_tokens_decoder": decoder,
        "mask_token": "<c>",
        "additional_special_tokens": ["<d>"],
    }
    file = byte_bpe(vocab, merges, added_tokens=tokens)
    metadata = read(write_folder(tmp_path, tokenizer_json=file, tokenizer_config_json=config), 262)
    assert metadata.get(TYPES)[257:] == [CONTROL, CONTROL, CONTROL, CONTROL, USER_DEFINED]


def test_vocab_json_with_merges_txt(tmp_path: Path) -> None:
    vocab, _ = byte_vocabulary(("t", "h"), ("th", "e"))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>"}
    folder = write_folder(
        tmp_path,
        vocab_json=vocab,
        merges_txt="#version: 0.2\nt h\nth e\n",
        added_tokens_json={"<|endoftext|>": 258},
        tokenizer_config_json=config,
    )
    metadata = read(folder, 259)
    assert metadata.get("tokenizer.ggml.pre") == "gpt-2"
    assert metadata.get(MERGES) == ["t h", "th e"]
    assert slot(metadata, 258) == ("<|endoftext|>", CONTROL)
    assert metadata.get("tokenizer.ggml.bos_token_id") == 258


def test_slow_files_of_an_unknown_class_need_a_name(tmp_path: Path) -> None:
    vocab, _ = byte_vocabulary(("t", "h"))
    folder = write_folder(tmp_path, vocab_json=vocab, merges_txt="t h\n")
    with pytest.raises(ModelError, match="--pre-tokenizer"):
        read(folder, 257)
    metadata = load(folder, config={}, n_vocab=257, pre="gpt-2")
    assert metadata.get("tokenizer.ggml.pre") == "gpt-2"


# SentencePiece

PIECES = [
    proto_piece("<unk>", 0.0, UNKNOWN),
    proto_piece("<s>", 0.0, CONTROL),
    proto_piece("<0x0A>", 0.0, BYTE),
    proto_piece("\u2581the", -1.5),
    proto_piece("\u2581\u2581", -2.0, USER_DEFINED),
    proto_piece("unused", 0.0, UNUSED),
]


def test_tokenizer_model(tmp_path: Path) -> None:
    trainer_spec = b"\x12\x04\x18\x02\x20\x08"  # a field that is skipped
    folder = write_folder(tmp_path, tokenizer_model=b"".join(PIECES) + trainer_spec)
    metadata = read(folder, 8)
    assert metadata.get("tokenizer.ggml.model") == "llama"
    assert metadata.get("tokenizer.ggml.pre") == "default"
    assert metadata.get(TOKENS) == [
        "<unk>", "<s>", "<0x0A>", "\u2581the", "\u2581\u2581", "unused", "[PAD6]", "[PAD7]",
    ]  # fmt: skip
    assert metadata.get(TYPES) == [UNKNOWN, CONTROL, BYTE, NORMAL, NORMAL, UNUSED, UNUSED, UNUSED]
    assert metadata.get(SCORES) == [0.0, 0.0, 0.0, -1.5, -2.0, 0.0, -10000.0, -10000.0]


def test_added_tokens_of_a_tokenizer_model(tmp_path: Path) -> None:
    decoder = {
        "4": {"content": "\u2581\u2581", "special": False},
        "7": {"content": "<|im_end|>", "special": False},
        "9": {"content": "beyond", "special": True},
    }
    folder = write_folder(
        tmp_path,
        tokenizer_model=b"".join(PIECES),
        added_tokens_json={"<extra>": 6, "<|im_end|>": 7},
        tokenizer_config_json={"added_tokens_decoder": decoder, "add_prefix_space": False},
    )
    metadata = read(folder, 8)
    assert slot(metadata, 4) == ("  ", USER_DEFINED)
    assert slot(metadata, 6) == ("<extra>", USER_DEFINED)
    assert slot(metadata, 7) == ("<|im_end|>", CONTROL)
    assert metadata.get(SCORES)[4:] == [-1000.0, 0.0, -1000.0, -1000.0]
    assert next(iter(metadata)) == "tokenizer.ggml.add_space_prefix"
    phi3 = read(folder, 8, rules=PHI3)
    assert slot(phi3, 4) == ("\u2581\u2581", USER_DEFINED)
    assert slot(phi3, 7) == ("<|im_end|>", USER_DEFINED)


def test_tiktokens_file_of_the_same_name_is_passed_over(tmp_path: Path) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    folder = write_folder(
        tmp_path, tokenizer_model="IQ== 0\nIg== 1\n", tokenizer_json=byte_bpe(vocab, merges)
    )
    assert read(folder, 257).get("tokenizer.ggml.model") == "gpt2"


def spm_json(vocab: dict[str, int], merges: list[list[str]], **more: Any) -> dict[str, Any]:
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": merges}
    return {"added_tokens": [], "normalizer": None, "pre_tokenizer": None, **more, "model": model}


def test_scores_from_merges(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "<0x41>": 1, "abc": 2, "ab": 3, "bc": 4, "a": 5, "b": 6, "c": 7}
    merges = [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]]
    folder = write_folder(
        tmp_path, tokenizer_json=spm_json(vocab, merges), tokenizer_config_json={"unk_token": "<unk>"}
    )
    metadata = read(folder, 8)
    assert metadata.get("tokenizer.ggml.model") == "llama"
    assert metadata.get(TYPES) == [CONTROL, BYTE, *[NORMAL] * 6]
    assert metadata.get(SCORES) == [-1000.0, 0.0, -2.0, 0.0, -1.0, -3.0, -4.0, -5.0]
    assert MERGES not in metadata


PREPEND = {"type": "Prepend", "prepend": "\u2581"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "split": False}


@pytest.mark.parametrize(
    ("sections", "prefix"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}}, None),
        ({"normalizer": REPLACE}, False),
        ({"pre_tokenizer": METASPACE | {"prepend_scheme": "first"}}, None),
        ({"pre_tokenizer": METASPACE | {"prepend_scheme": "never"}}, False),
        ({"pre_tokenizer": METASPACE | {"add_prefix_space": False}}, False),
    ],
)
def test_space_before_the_text(tmp_path: Path, sections: dict[str, Any], prefix: bool | None) -> None:
    """llama.cpp puts one there unless told otherwise."""
    folder = write_folder(
        tmp_path, tokenizer_json=spm_json({"a": 0, "b": 1, "ab": 2}, [["a", "b"]], **sections)
    )
    assert read(folder, 3).get("tokenizer.ggml.add_space_prefix") is prefix


def test_gemma4_keeps_merges_and_shows_its_chat_tokens(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "ab": 1, "a": 2, "b": 3, "<|channel>": 4, "<|think|>": 5}
    file = spm_json(vocab, [["a", "b"]], added_tokens=[added(4, "<|channel>", special=True)])
    config = {"unk_token": "<unk>", "extra_special_tokens": ["<|think|>", "<|channel>"]}
    folder = write_folder(tmp_path, tokenizer_json=file, tokenizer_config_json=config)
    metadata = read(folder, 6, rules=GEMMA4)
    assert metadata.get("tokenizer.ggml.model") == "gemma4"
    assert "tokenizer.ggml.pre" not in metadata
    assert metadata.get(SCORES) == [-1000.0] * 6
    assert metadata.get(TYPES) == [CONTROL, NORMAL, NORMAL, NORMAL, USER_DEFINED, CONTROL]
    assert metadata.get(MERGES) == ["a b"]
    assert metadata.get("tokenizer.ggml.add_bos_token") is True


# WordPiece


def wordpiece() -> dict[str, Any]:
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "the": 4, "##re": 5}
    return {
        "added_tokens": [added(i, text, special=True) for text, i in vocab.items() if text.startswith("[")],
        "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
        "post_processor": template("[CLS]", "[SEP]"),
        "model": {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": vocab},
    }


def template(first: str | None, last: str | None, between: tuple[str, ...] = ()) -> dict[str, Any]:
    def special(text: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": 0}}

    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    head, tail = [special(first)] if first else [], [special(last)] if last else []
    middle = [special(text) for text in between]
    single = [*head, a, *tail]
    return {"type": "TemplateProcessing", "single": single, "pair": [*head, a, *middle, b, *tail]}


def test_wordpiece(tmp_path: Path) -> None:
    config = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    folder = write_folder(tmp_path, tokenizer_json=wordpiece(), tokenizer_config_json=config)
    metadata = read(folder, 7, rules=ENCODER, type_vocab_size=2)
    assert list(metadata)[:2] == ["tokenizer.ggml.token_type_count", "tokenizer.ggml.model"]
    assert metadata.get("tokenizer.ggml.token_type_count") == 2
    assert metadata.get("tokenizer.ggml.model") == "bert"
    assert metadata.get(TOKENS) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581the", "re", "\u2581[PAD6]"]
    assert metadata.get(TYPES) == [CONTROL] * 4 + [NORMAL, NORMAL, UNUSED]
    assert metadata.get("tokenizer.ggml.bos_token_id") == 2
    assert metadata.get("tokenizer.ggml.eos_token_id") == 3
    assert metadata.get("tokenizer.ggml.add_eos_token") is True
    assert metadata.get("tokenizer.ggml.normalizer.lowercase") is True
    assert "tokenizer.ggml.normalizer.strip_accents" not in metadata


def test_vocab_txt(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, vocab_txt="[PAD]\n[UNK]\nthe\n##re\n")
    metadata = read(folder, 4, rules=ENCODER)
    assert metadata.get(TOKENS) == ["[PAD]", "[UNK]", "\u2581the", "re"]


# Special tokens and chat templates


def special(
    tmp_path: Path, config: dict[str, Any] | None, model: dict[str, Any], **file: Any
) -> dict[str, Any]:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [added(257 + i, text, special=True) for i, text in enumerate(("<s>", "</s>", "<end>", "<pad>"))]
    json_file = byte_bpe(vocab, merges, added_tokens=tokens, **file)
    folder = write_folder(tmp_path, tokenizer_json=json_file, config_json=model)
    if config is not None:
        write_folder(folder, tokenizer_config_json=config)
    metadata = read(folder, 261)
    wanted = [key for key in metadata if key.endswith(("_token_id", "_token"))]
    return {key.removeprefix("tokenizer.ggml."): metadata.get(key) for key in wanted}


def test_the_tokenizers_configuration_wins_over_the_models(tmp_path: Path) -> None:
    found = special(
        tmp_path,
        {"bos_token": None, "eos_token": {"content": "</s>", "__type": "AddedToken"}, "pad_token": "absent"},
        {"bos_token_id": 257, "eos_token_id": [258, 259], "pad_token_id": 260},
        post_processor=None,
    )
    wanted = {"eos_token_id": 258, "bos_token_id": 257, "padding_token_id": 260, "eot_token_id": 259}
    assert found == wanted


def test_ids_beyond_the_vocabulary_are_left_out_and_negative_ones_mean_none(tmp_path: Path) -> None:
    assert special(tmp_path, None, {"pad_token_id": 2**40}, post_processor=None) == {}
    assert special(tmp_path, None, {"pad_token_id": -1, "eos_token_id": [-1]}, post_processor=None) == {}


def test_the_text_model_of_a_larger_one_gives_ids(tmp_path: Path) -> None:
    found = special(tmp_path, {}, {"text_config": {"bos_token_id": 257}}, post_processor=None)
    assert found == {"bos_token_id": 257}


def test_special_tokens_map_fills_in(tmp_path: Path) -> None:
    write_folder(tmp_path, special_tokens_map_json={"bos_token": "<s>", "eos_token": "<end>"})
    found = special(tmp_path, {"eos_token": "</s>", "added_tokens_decoder": {}}, {}, post_processor=None)
    assert found == {"bos_token_id": 257, "eos_token_id": 258}
    # As in transformers, the map counts more than a configuration that is as old as the map.
    found = special(tmp_path, {"eos_token": "</s>"}, {}, post_processor=None)
    assert found == {"bos_token_id": 257, "eos_token_id": 259}


@pytest.mark.parametrize(
    ("processor", "config", "wanted"),
    [
        (template("<s>", None), {"bos_token": "<s>"}, {"bos": True, "sep": None, "eos": None}),
        (template("<s>", "</s>"), {"bos_token": "<s>", "eos_token": "</s>"}, {"bos": True, "eos": True}),
        (template(None, None), {"add_bos_token": True, "add_eos_token": False}, {"bos": True, "eos": False}),
        (template("<s>", None), {"bos_token": "<s>", "add_bos_token": False}, {"bos": True}),
        (template("<end>", None), {"bos_token": "<s>", "cls_token": "<pad>"}, {"bos": False}),
        (
            template("<s>", None, ("</s>", "</s>")),
            {"bos_token": "<s>", "eos_token": "</s>"},
            {"bos": True, "sep": True},
        ),
        ({"type": "ByteLevel"}, {}, {"bos": False, "eos": False}),
        (
            {"type": "RobertaProcessing", "sep": ["</s>", 258], "cls": ["<s>", 257]},
            {},
            {"bos": True, "eos": True, "sep": True},
        ),
        (None, {"add_bos_token": True}, {"bos": True, "eos": None}),
    ],
)
def test_what_is_added_to_a_text(
    tmp_path: Path, processor: Any, config: dict[str, Any], wanted: dict[str, bool | None]
) -> None:
    found = special(tmp_path, config, {}, post_processor=processor)
    assert {role: found.get(f"add_{role}_token") for role in wanted} == wanted


def test_another_closing_token_makes_the_named_one_end_of_turn(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": "<end>"}
    found = special(tmp_path, config, {}, post_processor=template("<s>", "</s>"))
    assert (found["eos_token_id"], found["eot_token_id"]) == (258, 259)


def templates(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    vocab, merges = byte_vocabulary(("t", "h"))
    write_folder(folder, tokenizer_json=byte_bpe(vocab, merges), tokenizer_config_json=config)
    metadata = read(folder, 257)
    return {key: metadata.get(key) for key in metadata if "chat_template" in key}


def test_chat_templates(tmp_path: Path) -> None:
    assert templates(tmp_path, {}) == {}
    write_folder(tmp_path, chat_template_json={"chat_template": "from json"})
    assert templates(tmp_path, {}) == {"tokenizer.chat_template": "from json"}
    (tmp_path / "chat_template.jinja").write_text("{{ 1/0 }}")
    assert templates(tmp_path, {}) == {"tokenizer.chat_template": "{{ 1/0 }}"}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool use.jinja").write_text("tools")
    assert templates(tmp_path, {}) == {
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template": "{{ 1/0 }}",
    }
    assert templates(tmp_path, {"chat_template": "own"})["tokenizer.chat_template"] == "{{ 1/0 }}"
    (tmp_path / "chat_template.jinja").unlink()
    assert "tokenizer.chat_template" not in templates(tmp_path, {"chat_template": "own"})
    (tmp_path / "additional_chat_templates" / "tool use.jinja").unlink()
    assert templates(tmp_path, {"chat_template": "own"}) == {"tokenizer.chat_template": "own"}
    assert templates(tmp_path, {"chat_template": None}) == {"tokenizer.chat_template": "from json"}
    named = [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}, {"name": "x"}]
    assert templates(tmp_path, {"chat_template": named}) == {
        "tokenizer.chat_template.rag": "R",
        "tokenizer.chat_templates": ["rag"],
        "tokenizer.chat_template": "D",
    }
    by_name = {"chat_template": {"default": "D", "rag": "R"}}
    assert templates(tmp_path, by_name) == templates(tmp_path, {"chat_template": named})
    assert templates(tmp_path, {"chat_template": 5}) == {}


# Files that break their format


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"vocab": []}, "vocab"),
        ({"vocab": {"a": "1"}}, "not an integer"),
        ({"vocab": {"a": True}}, "not an integer"),
        ({"vocab": {"a": -1}}, "-1"),
        ({"vocab": {"a": 2**40}}, "1099511627776"),
        ({"vocab": {"a": 5, "b": 5}}, "same id 5"),
        ({"merges": {}}, "merges"),
        ({"merges": []}, "without merges"),
        ({"merges": [["a", "b", "c"]]}, "not a pair"),
        ({"merges": [["a", 1]]}, "not a pair"),
        ({"merges": ["a b c"]}, "not a pair"),
        ({"merges": ["ab"]}, "not a pair"),
        ({"merges": [5]}, "not a pair"),
        ({"merges": [["qq", "b"]]}, "not in the vocabulary"),
        ({"type": "Unigram"}, "not a list"),
        ({"type": "WordLevel"}, "WordLevel"),
        ({"continuing_subword_prefix": 5}, "continuing_subword_prefix"),
    ],
)
def test_broken_models(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    folder = write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, merges, model=change))
    with pytest.raises((FormatError, ModelError), match=what) as caught:
        read(folder, 257)
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize(
    "tokens",
    [
        5,
        [5],
        [{"id": 257}],
        [added(-1, "xx")],
        [{"content": "xx", "id": "257"}],
        [added(2**40, "xx")],
        [added(3, "xx")],
        [added(257, "xx"), added(257, "yy")],
    ],
)
def test_broken_added_tokens(tmp_path: Path, tokens: Any) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    folder = write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, merges, added_tokens=tokens))
    with pytest.raises((FormatError, ModelError), match=r"tokenizer\.json"):
        read(folder, 260)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"model": {"vocab": {"a": ' + "9" * 5000 + "}}}",
        b"\xff\xfe{}",
        '{"added_tokens": [], "model": {"merges": [' + "[" * 100_000 + "]}}",
    ],
)
@pytest.mark.parametrize("name", ["tokenizer_json", "tokenizer_config_json"])
def test_what_is_not_json(tmp_path: Path, name: str, text: str | bytes) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, merges))
    write_folder(tmp_path, **{name: text})
    with pytest.raises((FormatError, ModelError)):
        read(tmp_path, 257)


def test_a_huge_vocabulary_is_refused_before_it_is_built(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tokenizer_model=b"".join(PIECES))
    tracemalloc.start()
    with pytest.raises(ModelError):
        load(folder, config={}, n_vocab=2**40)
    with pytest.raises(ModelError, match="vocab_size"):
        load(folder, config={"vocab_size": 10**12}, n_vocab=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        read(tmp_path, 8)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        read(tmp_path, 8, rules=GEMMA4)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_pieces_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = b"".join(PIECES)
    cut = data.draw(st.integers(0, len(good)))
    junk = data.draw(st.binary(max_size=24))
    path = tmp_path_factory.getbasetemp() / "fuzzed.model"
    path.write_bytes(good[:cut] + junk + good[cut + data.draw(st.integers(0, 8)) :])
    try:
        assert read_model(path).pieces
    except SrdError as error:
        assert "fuzzed.model" in str(error)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_json_is_a_tokenizer_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """One value of a good tokenizer.json replaced by anything."""
    vocab, merges = byte_vocabulary(("t", "h"))
    file = byte_bpe(vocab, merges, added_tokens=[added(257, "<s>", special=True)])
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        max_leaves=6,
    )
    target: Any = file
    for _ in range(data.draw(st.integers(0, 3))):
        inside = [value for value in (target.values() if isinstance(target, dict) else target)]
        inside = [
            value for value in inside if isinstance(value, (dict, list)) and value and value is not vocab
        ]
        target = data.draw(st.sampled_from(inside)) if inside else target
    places = list(target) if isinstance(target, dict) else range(len(target))
    target[data.draw(st.sampled_from(places))] = data.draw(anything)
    folder = write_folder(tmp_path_factory.getbasetemp() / "any", tokenizer_json=file)
    try:
        assert len(read(folder, 258).get(TOKENS)) == 258
    except SrdError as error:
        assert "any" in str(error)


KEYS = [
    "type",
    "id",
    "content",
    "pattern",
    "Regex",
    "behavior",
    "processors",
    "single",
    "pair",
    "SpecialToken",
    "vocab",
]


def test_a_split_pattern_is_not_run(tmp_path: Path) -> None:
    """A pattern that would take for ever is only compared."""
    vocab, merges = byte_vocabulary(("t", "h"))
    folder = write_folder(
        tmp_path, tokenizer_json=byte_bpe(vocab, merges, pre_tokenizer=split("(a+)+$" * 50))
    )
    with pytest.raises(ModelError, match="splits as this one"):
        read(folder, 257)
