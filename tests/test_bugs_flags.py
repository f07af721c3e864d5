"""Flags of added tokens: where llama.cpp reads a text otherwise than the tokenizers library, a warning says so."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import ModelError
from srd_rs.vocab import FILES_DECIDE, VocabularyRules, load
from srd_rs.vocab.rules import ENCODER
from test_vocab_chat import word_pieces
from vocab_tools import LlamaVocab, byte_bpe, byte_vocabulary, rules_of, write_folder

TOKEN = "<Tool>"
TEXTS = (
    *("a<Tool>b", "a <Tool> b", " <Tool> ", "<Tool>", "a  <Tool>\n b", "<Tool><Tool>", "a<Tool> <Tool>b", "x<tool>y"),
    *("x <TOOL> y", "one <Tool>two", "one<Tool> two", "<Tool> x", "x <Tool>", "no token", "a_<Tool>_b"),
    *("<Tool>s", "1<Tool>2"),
)  # fmt: skip
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
NFC: dict[str, Any] = {"type": "NFC"}
LOWER: dict[str, Any] = {"type": "Lowercase"}
PREPEND: dict[str, Any] = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ],
}


def entry(token_id: int, text: str, **flags: bool) -> dict[str, Any]:
    return {"id": token_id, "content": text, "special": False, **dict.fromkeys(FLAGS, False), **flags}


def check(
    folder: Path,
    file: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    rules: VocabularyRules = FILES_DECIDE,
    name: str = "x",
    texts: tuple[str, ...] = TEXTS,
) -> tuple[list[str], str]:
    """The texts that llama.cpp reads otherwise, and the warning."""
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    write_folder(folder, tokenizer_json=file)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    metadata = load(folder, config={}, n_vocab=theirs.get_vocab_size(), rules=rules, name=name)
    metadata.string("general.name", name)
    ours = LlamaVocab(metadata, folder / "vocab.gguf")
    encoded = {text: theirs.encode(text, add_special_tokens=False).ids for text in texts}
    different = [text for text, ids in encoded.items() if ours.encode(text, special=True) != ids]
    ours.close()
    lines = [line for line in caplog.messages if "added token" in line]
    assert len(lines) <= 1
    return different, "".join(lines)


def byte_file(normalizer: dict[str, Any] | None, *, special: bool = False, **flags: bool) -> dict[str, Any]:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [{**entry(257, TOKEN, **flags), "special": special}]
    return byte_bpe(vocab, merges, added_tokens=tokens, normalizer=normalizer)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("flag", ["", *FLAGS])
@pytest.mark.parametrize("normalizer", [None, NFC])
def test_flags_of_byte_level_bpe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, normalizer: Any, flag: str, special: bool
) -> None:
    file = byte_file(normalizer, special=special, **({flag: True} if flag else {}))
    different, warning = check(tmp_path, file, caplog)
    assert bool(different) == bool(warning) == (flag in ("lstrip", "rstrip", "single_word")), different
    if warning:
        assert f"'{TOKEN}' (id 257: {flag})" in warning


@pytest.mark.parametrize("normalized", [False, True])
def test_a_normalizer_of_letters(tmp_path: Path, caplog: pytest.LogCaptureFixture, normalized: bool) -> None:
    """With the flag, the token is found in the text of small letters; without, as it is written."""
    word_pieces(tmp_path)
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    file["added_tokens"].append(entry(len(file["model"]["vocab"]), TOKEN, normalized=normalized))
    different, warning = check(tmp_path, file, caplog, ENCODER)
    assert bool(different) == bool(warning) == normalized, different


@pytest.mark.parametrize("normalized", [False, True])
def test_a_normalizer_that_prepends(
    fixtures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, normalized: bool
) -> None:
    """As `add_tokens` of transformers 4 writes a token beside a Llama 2 tokenizer."""
    file = json.loads((fixtures / "mistral" / "tokenizer.json").read_text())
    for name in ("tokenizer_config.json", "config.json"):
        shutil.copy(fixtures / "mistral" / name, tmp_path)
    first = max(*file["model"]["vocab"].values(), *(token["id"] for token in file["added_tokens"])) + 1
    file["normalizer"], file["pre_tokenizer"] = PREPEND, None
    for token in file["added_tokens"]:
        token["normalized"] = False
    file["added_tokens"].append(entry(first, TOKEN, normalized=normalized))
    different, warning = check(tmp_path, file, caplog, rules_of("llama"))
    assert bool(different) >= normalized
    assert bool(warning) == normalized


@pytest.mark.parametrize("flags", [{"lstrip": True, "rstrip": True}, {"rstrip": True, "single_word": True}])
def test_all_flags_of_a_token_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, flags: dict[str, bool]
) -> None:
    _, warning = check(tmp_path, byte_file(None, **flags), caplog)
    assert f"(id 257: {', '.join(flags)})" in warning


@pytest.mark.parametrize("text", ["<Caf\u00e9>", "<Cafe\u0301>", "<\ufb01>", "<\uff34>", "<x y>", "\u2581"])
@pytest.mark.parametrize("form", ["NFC", "NFKC", "NFD"])
def test_texts_that_a_form_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str, text: str
) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [entry(257, text, normalized=True)]
    file = byte_bpe(vocab, merges, added_tokens=tokens, normalizer={"type": form})
    different, warning = check(tmp_path, file, caplog, texts=(text, f"a{text}b", f"a {text} b"))
    assert bool(different) <= bool(warning)


@pytest.mark.parametrize("normalized", [(True, False), (False, True), (True, True), (False, False)], ids=str)
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("<s>[INST]", "<s>"),
        ("\n\n", "\n"),
        ("a<s>", "<s>"),
        ("<s><s>", "<s>"),
        ("<ss>", "<s>"),
        ("    ", "  "),
    ],
)
def test_a_token_within_a_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, outer: str, inner: str, normalized: tuple[bool, bool]
) -> None:
    """The library finds tokens that are not normalized first, and llama.cpp the longest."""
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [entry(257 + i, text, normalized=normalized[i]) for i, text in enumerate((outer, inner))]
    texts = (outer, inner, f"x{outer}y", f"{inner}{outer}", f"{outer}{inner}x", outer * 3)
    different, warning = check(tmp_path, byte_bpe(vocab, merges, added_tokens=tokens), caplog, texts=texts)
    within = inner in outer and normalized == (True, False)
    assert bool(different) == within and ("a token within it is not" in warning) == within, different


@pytest.mark.parametrize("rstrip", [False, True])
@pytest.mark.parametrize("name", ["Phi-3 tuned", "my phi3", "Phi 3", "x"])
def test_what_llama_cpp_knows_by_the_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, rstrip: bool
) -> None:
    """llama.cpp strips the spaces behind the tokens of a model that is named Phi-3."""
    vocab, merges = byte_vocabulary(("t", "h"))
    texts = ("</s>", "<unk>", "<s>", "<|endoftext|>")
    tokens = [
        {**entry(257 + i, text, rstrip=text == "</s>"), "special": True} for i, text in enumerate(texts)
    ]
    tokens.append(entry(261, TOKEN, rstrip=rstrip))
    different, warning = check(tmp_path, byte_bpe(vocab, merges, added_tokens=tokens), caplog, name=name)
    known = name in ("Phi-3 tuned", "my phi3")
    assert bool(different) == (rstrip is not known), different
    assert (TOKEN in warning) == (rstrip is not known)
    assert bool(warning) == (not known or not rstrip)


@pytest.mark.parametrize("missing", [None, "</s>", "<unk>", "<s>", "<|endoftext|>"])
@pytest.mark.parametrize("name", ["Phi-3 tuned", "my-PHI3.5", "phi-3", "Phi 3", "Phi-4", "phi_3"])
def test_a_name_that_stops_llama_cpp_is_refused(tmp_path: Path, name: str, missing: str | None) -> None:
    """llama.cpp does not load a model with 'phi-3' in its name whose vocabulary lacks a token of Phi-3."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    vocab, merges = byte_vocabulary(("t", "h"))
    texts = [text for text in ("</s>", "<unk>", "<s>", "<|endoftext|>") if text != missing]
    tokens = [{**entry(257 + i, text), "special": True} for i, text in enumerate(texts)]
    write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, merges, added_tokens=tokens))
    known = "phi-3" in name.lower() or "phi3" in name.lower()
    if known and missing:
        with pytest.raises(ModelError, match=re.escape(repr(missing))):
            load(tmp_path, config={}, n_vocab=270, name=name)
    metadata = load(tmp_path, config={}, n_vocab=270, name="x" if known and missing else name)
    metadata.string("general.name", name)
    if known and missing:
        with pytest.raises(AssertionError, match="refused"):
            LlamaVocab(metadata, tmp_path / "vocab.gguf")
    else:
        LlamaVocab(metadata, tmp_path / "vocab.gguf").close()


def test_many_tokens_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [entry(257 + i, f"<{i}>", lstrip=True) for i in range(5000)]
    _, warning = check(tmp_path, byte_bpe(vocab, merges, added_tokens=tokens), caplog, texts=())
    assert "5000 added tokens" in warning and len(warning) < 600


@pytest.mark.parametrize("value", [None, 1, "true", [], {}])
def test_flags_that_are_no_flags_count_as_unset(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [{**entry(257, TOKEN), "lstrip": value, "single_word": value}]
    folder = write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, merges, added_tokens=tokens))
    load(folder, config={}, n_vocab=258)
    assert "added token" not in caplog.text


def test_flags_of_tokenizer_config_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    folder = write_folder(
        tmp_path,
        tokenizer_json=byte_bpe(vocab, merges),
        tokenizer_config_json={"added_tokens_decoder": {"257": entry(257, TOKEN, lstrip=True)}},
    )
    load(folder, config={}, n_vocab=258)
    assert f"'{TOKEN}' (id 257: lstrip)" in caplog.text
