"""Chat templates as folders hold them: what is written is what transformers resolves, with a line for what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import FormatError, ModelError, SrdError
from srd_rs.vocab import load
from vocab_tools import byte_bpe, byte_vocabulary

CONFIG, JINJA, MORE = "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/"
OLD, PROCESSOR, MAP = "chat_template.json", "processor_config.json", "special_tokens_map.json"
KEY = "tokenizer.chat_template"
CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
Files = dict[str, Any]


def conf(template: Any) -> Files:
    return {CONFIG: {**CLASS, "chat_template": template}}


def named(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "template": text} for name, text in pairs]


#: Name -> files, templates by name, and words of a warning. transformers 5.24 resolves the same ones.
SAME: dict[str, tuple[Files, dict[str, str], str]] = {
    "text": (conf("a"), {"default": "a"}, ""),
    "null": (conf(None), {}, ""),
    "no key": ({CONFIG: CLASS}, {}, ""),
    "no configuration": ({JINJA: "j"}, {"default": "j"}, ""),
    "file beside a stale text": ({**conf("a"), JINJA: "j"}, {"default": "j"}, ""),
    "file beside null": ({**conf(None), JINJA: "j"}, {"default": "j"}, ""),
    "file beside a stale list": (
        {**conf(named(("default", "a"), ("tool_use", "b"))), JINJA: "j"},
        {"default": "j"},
        "",
    ),
    "list": (conf(named(("default", "a"), ("tool_use", "b"))), {"default": "a", "tool_use": "b"}, ""),
    "list of one": (conf(named(("default", "a"))), {"default": "a"}, ""),
    "list without a default, with tools": (
        conf(named(("tool_use", "b"), ("rag", "c"))),
        {"tool_use": "b", "rag": "c"},
        "takes the one named 'tool_use'",
    ),
    "list without a default": (conf(named(("rag", "c"))), {"rag": "c"}, "takes ChatML"),
    "empty list": (conf([]), {}, "holds no template"),
    "name that occurs twice": (conf(named(("default", "a"), ("default", "b"))), {"default": "b"}, ""),
    "object": (conf({"default": "a", "tool_use": "b"}), {"default": "a", "tool_use": "b"}, ""),
    "file is a folder": ({**conf("a"), f"{JINJA}/x": "y"}, {"default": "a"}, ""),
    "file and further files": (
        {**conf("a"), JINJA: "j", f"{MORE}tool_use.jinja": "t", f"{MORE}rag.jinja": "r"},
        {"default": "j", "tool_use": "t", "rag": "r"},
        "",
    ),
    "further file beside a stale text": (
        {**conf("a"), f"{MORE}rag.jinja": "t"},
        {"rag": "t"},
        "takes ChatML",
    ),
    "further file named default": ({**conf("a"), f"{MORE}default.jinja": "d"}, {"default": "d"}, ""),
    "two defaults": ({JINJA: "j", f"{MORE}default.jinja": "d"}, {"default": "d"}, ""),
    "folder in the folder": ({JINJA: "j", f"{MORE}sub/x.jinja": "h"}, {"default": "j"}, ""),
    "further file of another kind": ({JINJA: "j", f"{MORE}x.txt": "h"}, {"default": "j"}, ""),
    "file with a BOM": ({JINJA: "\ufeffj"}, {"default": "\ufeffj"}, "byte order mark"),
    "file with line ends of Windows": ({JINJA: "a\r\nb\rc\n"}, {"default": "a\nb\nc\n"}, ""),
    "further file with line ends of Windows": (
        {JINJA: "j", f"{MORE}x.jinja": "a\r\n"},
        {"default": "j", "x": "a\n"},
        "",
    ),
    "text with line ends of Windows": (conf("a\r\nb"), {"default": "a\r\nb"}, ""),
    "text of other scripts": (
        conf("\u4f60 {{ x }} \U0001f680"),
        {"default": "\u4f60 {{ x }} \U0001f680"},
        "",
    ),
    "old map of special tokens": (
        {CONFIG: CLASS, MAP: {"chat_template": "s"}},
        {"default": "s"},
        "",
    ),
    "text beside the processor's": ({**conf("a"), OLD: {"chat_template": "p"}}, {"default": "a"}, ""),
}

#: The same, where transformers resolves something that a GGUF cannot say, or its tokenizer alone finds nothing.
OURS: dict[str, tuple[Files, dict[str, str], str]] = {
    "empty text": (conf(""), {}, "is empty and is left out"),
    "empty file beside a text": ({**conf("a"), JINJA: ""}, {}, "is empty and is left out"),
    "name with a dot": ({JINJA: "j", f"{MORE}a.b.jinja": "h"}, {"default": "j", "a_b": "h"}, ""),
    "no name": ({JINJA: "j", f"{MORE}.jinja": "h"}, {"default": "j"}, "without a name"),
    "null in an object": (conf({"default": None, "rag": "b"}), {"rag": "b"}, "takes ChatML"),
    "object with nothing": (conf({}), {}, "holds no template"),
    "object with null alone": (conf({"default": None}), {}, "holds no template"),
    "number": (conf(5), {}, "neither text nor a list"),
    "list of texts": (conf(["a"]), {}, "no name or no text"),
    "entry without text": (
        conf([*named(("default", "a")), {"name": "x"}]),
        {"default": "a"},
        "no name or no text",
    ),
    "processor's file": ({OLD: {"chat_template": "p"}}, {"default": "p"}, ""),
    "processor's file, null": ({OLD: {"chat_template": None}}, {}, ""),
    "processor's configuration": ({PROCESSOR: {"chat_template": "q"}}, {"default": "q"}, ""),
    "both of the processor": (
        {PROCESSOR: {"chat_template": "q"}, OLD: {"chat_template": "p"}},
        {"default": "q"},
        "",
    ),
    "processor's beside null": ({**conf(None), OLD: {"chat_template": "p"}}, {"default": "p"}, ""),
}

REFUSED: dict[str, tuple[Files, type[SrdError], str]] = {
    "two names of one key": (
        {JINJA: "j", f"{MORE}tool-use.jinja": "t", f"{MORE}tool_use.jinja": "u"},
        ModelError,
        "the same key",
    ),
    "null byte": (conf("a\0b"), FormatError, "null byte"),
    "null byte in a file": ({JINJA: "a\0b"}, FormatError, "null byte"),
    "half of a surrogate pair": (conf("\ud800"), ModelError, "surrogate"),
    "Latin-1": ({JINJA: b"caf\xe9"}, FormatError, "not UTF-8"),
    "UTF-16": ({JINJA: "j".encode("utf-16")}, FormatError, "not UTF-8"),
    "17 MB": ({JINJA: b"x" * (17 << 20)}, FormatError, "larger than"),
    "pointer": ({JINJA: b"version https://git-lfs.github.com/spec/v1\n"}, FormatError, "git lfs pull"),
}


def folder(path: Path, files: Files) -> Path:
    vocab, merges = byte_vocabulary(("t", "h"))
    common = {"tokenizer.json": byte_bpe(vocab, merges), "config.json": {"model_type": "llama"}}
    for name, value in {**common, **files}.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        text = value if isinstance(value, str) else json.dumps(value) if not isinstance(value, bytes) else ""
        file.write_bytes(value if isinstance(value, bytes) else text.encode())
    return path


def templates(path: Path) -> dict[str, str]:
    metadata = load(path, config={}, n_vocab=257)
    found = {key: metadata.get(key) for key in metadata if key == KEY or key.startswith(f"{KEY}.")}
    listed = metadata.get(f"{KEY}s") if f"{KEY}s" in metadata else []
    assert sorted(listed) == sorted(key.removeprefix(f"{KEY}.") for key in found if key != KEY)
    return {key.removeprefix(f"{KEY}.") if key != KEY else "default": text for key, text in found.items()}


@pytest.mark.parametrize("name", [*SAME, *OURS])
def test_the_template_is_the_one_of_transformers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    files, wanted, words = {**SAME, **OURS}[name]
    assert templates(folder(tmp_path, files)) == wanted
    lines = [line for line in caplog.messages if "end-of-text" not in line]
    assert len(lines) == bool(words) and words in "".join(lines)


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    files, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        templates(folder(tmp_path, files))


@pytest.mark.parametrize("name", SAME)
def test_transformers_resolves_the_same(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    files, wanted, _ = SAME[name]
    theirs = transformers.AutoTokenizer.from_pretrained(folder(tmp_path, files)).chat_template
    assert ({"default": theirs} if isinstance(theirs, str) else theirs or {}) == wanted
