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
DECODER = {"added_tokens_decoder": {"256": {"content": "th", "special": False}}}
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
    "map beside a text": ({**conf("a"), MAP: {"chat_template": "s"}}, {"default": "s"}, ""),
    "map beside null": ({**conf(None), MAP: {"chat_template": "s"}}, {"default": "s"}, ""),
    "map beside the list of added tokens": (
        {CONFIG: {**CLASS, "chat_template": "a", **DECODER}, MAP: {"chat_template": "s"}},
        {"default": "a"},
        "",
    ),
    "map with a list": (
        {CONFIG: CLASS, MAP: {"chat_template": named(("default", "s"), ("rag", "r"))}},
        {"default": "s", "rag": "r"},
        "",
    ),
    "folder of another name": ({**conf("a"), "chat_templates/rag.jinja": "r"}, {"default": "a"}, ""),
    "file of another suffix": ({**conf("a"), "chat_template.jinja2": "j"}, {"default": "a"}, ""),
    "suffix in capitals": ({**conf("a"), "chat_template.JINJA": "j"}, {"default": "a"}, ""),
    "further file in capitals": ({JINJA: "j", f"{MORE}rag.JINJA": "r"}, {"default": "j"}, ""),
    "entry with further keys": (
        conf([{"name": "default", "template": "a", "x": 1}]),
        {"default": "a"},
        "",
    ),
    "spaces alone": (conf("   "), {"default": "   "}, ""),
    "file of spaces": ({JINJA: "  \n"}, {"default": "  \n"}, ""),
    "file that ends with empty lines": ({JINJA: "a\n\n"}, {"default": "a\n\n"}, ""),
    "text that ends with a line": (conf("a\n"), {"default": "a\n"}, ""),
    "a file with the name of the folder": (
        {JINJA: "j", "additional_chat_templates": "x"},
        {"default": "j"},
        "",
    ),
    "name in capitals": (
        {JINJA: "j", f"{MORE}Tool_Use.jinja": "t"},
        {"default": "j", "Tool_Use": "t"},
        "",
    ),
    "list beside a further file": (
        {**conf(named(("default", "a"), ("tool_use", "b"))), f"{MORE}rag.jinja": "r"},
        {"rag": "r"},
        "takes ChatML",
    ),
    "key of old versions": ({CONFIG: {**CLASS, "default_chat_template": "d"}}, {}, ""),
    "in config.json": (
        {CONFIG: CLASS, "config.json": {"model_type": "llama", "chat_template": "c"}},
        {},
        "",
    ),
    "in generation_config.json": (
        {CONFIG: CLASS, "generation_config.json": {"chat_template": "c"}},
        {},
        "",
    ),
    "in the arguments of the class": ({CONFIG: {**CLASS, "init_kwargs": {"chat_template": "c"}}}, {}, ""),
    "of the image processor": (
        {CONFIG: CLASS, "preprocessor_config.json": {"chat_template": "p"}},
        {},
        "",
    ),
    "file beside a broken processor's": ({JINJA: "j", OLD: "{"}, {"default": "j"}, ""),
    "text beside a broken processor's": ({**conf("a"), OLD: "{"}, {"default": "a"}, ""),
    "default in two spellings": (
        conf(named(("default", "a"), ("Default", "b"))),
        {"default": "a", "Default": "b"},
        "",
    ),
    "name of 200 letters": (
        {JINJA: "j", f"{MORE}{'n' * 200}.jinja": "t"},
        {"default": "j", "n" * 200: "t"},
        "",
    ),
    "240 kB": ({JINJA: "{# x #}" * 30_000}, {"default": "{# x #}" * 30_000}, ""),
    "separators that are no line ends": (
        {JINJA: "a\u2028b\x85c\x0bd\x0ce"},
        {"default": "a\u2028b\x85c\x0bd\x0ce"},
        "",
    ),
    "separators in a text": (conf("a\u2028b\x85c\x0c\re"), {"default": "a\u2028b\x85c\x0c\re"}, ""),
    "marks for training": (
        {JINJA: "{% generation %}a{% endgeneration %}"},
        {"default": "{% generation %}a{% endgeneration %}"},
        "",
    ),
    "300 names without a default": (
        conf(named(*((f"n{i}", "t") for i in range(300)))),
        {f"n{i}": "t" for i in range(300)},
        "'n100', ...) is named",
    ),
    "text beside the processor's": ({**conf("a"), OLD: {"chat_template": "p"}}, {"default": "a"}, ""),
}

#: The same, where transformers resolves something that a GGUF cannot say, or its tokenizer alone finds nothing.
OURS: dict[str, tuple[Files, dict[str, str], str]] = {
    "empty text": (conf(""), {}, "is empty and is left out"),
    "empty file beside a text": ({**conf("a"), JINJA: ""}, {}, "is empty and is left out"),
    "name with a dot": ({JINJA: "j", f"{MORE}a.b.jinja": "h"}, {"default": "j", "a_b": "h"}, ""),
    "file beside the map": ({**conf("a"), MAP: {"chat_template": "s"}, JINJA: "j"}, {"default": "j"}, ""),
    "name with a space": ({JINJA: "j", f"{MORE}tool use.jinja": "t"}, {"default": "j", "tool_use": "t"}, ""),
    "name of other scripts": (
        {JINJA: "j", f"{MORE}\u5de5\u5177.jinja": "t"},
        {"default": "j", "__": "t"},
        "",
    ),
    "name with a path": (conf(named(("default", "a"), ("../x", "b"))), {"default": "a", "___x": "b"}, ""),
    "hidden file": ({JINJA: "j", f"{MORE}.rag.jinja": "r"}, {"default": "j", "_rag": "r"}, ""),
    "suffix twice": ({JINJA: "j", f"{MORE}rag.jinja.jinja": "r"}, {"default": "j", "rag_jinja": "r"}, ""),
    "empty further file": (
        {JINJA: "j", f"{MORE}rag.jinja": ""},
        {"default": "j"},
        "'rag' is empty and is left out",
    ),
    "truth": (conf(True), {}, "neither text nor a list"),
    "list of lists": (conf([["default", "a"]]), {}, "no name or no text"),
    "list of null": (conf([None]), {}, "no name or no text"),
    "name null": (conf([{"name": None, "template": "a"}]), {}, "no name or no text"),
    "number in an object": (conf({"default": 5}), {}, "no name or no text"),
    "processor's list": (
        {PROCESSOR: {"chat_template": named(("default", "q"))}},
        {"default": "q"},
        "",
    ),
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
    "two names of other scripts": (
        {JINJA: "j", f"{MORE}\u5de5.jinja": "t", f"{MORE}\u5177.jinja": "u"},
        ModelError,
        "the same key",
    ),
    "key twice": (
        {CONFIG: '{"chat_template": "a", "chat_template": "b"}'},
        FormatError,
        "'chat_template' occurs twice",
    ),
    "configuration with a byte order mark": ({CONFIG: "\ufeff{}"}, FormatError, "not JSON"),
    "configuration that is a list": ({CONFIG: ["a"]}, FormatError, "an object is expected"),
    "processor's file is a text": ({OLD: '"p"'}, FormatError, "an object is expected"),
    "processor's file is broken": ({OLD: "{"}, FormatError, "not JSON"),
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
