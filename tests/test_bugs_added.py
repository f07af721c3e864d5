"""Added tokens where the files of a fine-tune do not fit each other: the ids and tokens are those of the library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import FormatError, ModelError
from srd_rs.vocab import load
from support import bugs_folder
from test_vocab_chat import word_pieces
from vocab_tools import LlamaVocab, added, byte_bpe, byte_vocabulary, chat_texts, rules_of, write_folder

ROWS = 4200
File = dict[str, Any]
TOKENS = ("<|im_start|>", "<|im_end|>", "<tool>", "<pad>", "[INST]", "<|more|>")


def token(file: File, text: str, offset: int = 0, **flags: bool) -> None:
    """Add a token whose id is `offset` above the next one."""
    ids = [*file["model"]["vocab"].values(), *(entry["id"] for entry in file["added_tokens"])]
    file["added_tokens"].append(added(max(ids) + 1 + offset, text, **flags))


def renamed(file: File, old: str, new: str) -> None:
    vocab = file["model"]["vocab"]
    vocab[new] = vocab.pop(old)
    file["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))


def unmade(file: File) -> str:
    """A piece that no merge makes or takes, which has no other name in the vocabulary."""
    used = {
        part
        for pair in file["model"]["merges"]
        for part in (pair if isinstance(pair, list) else pair.split(" "))
    }
    names = {entry["content"] for entry in file["added_tokens"]}
    free = [text for text in file["model"]["vocab"] if text not in used | names and not text.startswith("<")]
    return next(text for text in free if len(text) == 1)


#: What was done to tokenizer.json, beside the tokenizer.model of the base: name -> change, and words of the warning.
CHANGES: dict[str, tuple[Callable[[File], object], str]] = {
    "nothing": (lambda f: None, ""),
    "a token more": (lambda f: token(f, "<|im_end|>", special=True), ""),
    "a gap": (lambda f: token(f, "<|im_end|>", 7, special=True), "(id 4096, not 4103)"),
    "two gaps": (
        lambda f: (token(f, "<|im_start|>", 3, special=True), token(f, "<tool>", 5)),
        "'<|im_start|>' (id 4096, not 4099), '<tool>' (id 4097, not 4105)",
    ),
    "in another order": (
        lambda f: f["added_tokens"].extend([added(4097, "<tool>"), added(4096, "<|im_end|>", special=True)]),
        "'<tool>' (id 4096, not 4097)",
    ),
    "a piece is renamed": (lambda f: renamed(f, unmade(f), "\u0166"), "'\u0166' in place of"),
    "a piece is renamed, and a token more": (
        lambda f: (renamed(f, unmade(f), "\u0166"), token(f, "<tool>")),
        "'\u0166' in place of",
    ),
    "a piece is gone": (lambda f: f["model"]["vocab"].pop(list(f["model"]["vocab"])[-1]), "None in place of"),
    "a piece more": (lambda f: f["model"]["vocab"].update({"\u0166": 4096}), "'\u0166' in place of None"),
    "the vocabulary grew under an added token": (
        lambda f: (f["model"]["vocab"].update({"\u0166": 4096, "\u0167": 4097}), token(f, "<tool>")),
        "2 other tokens",
    ),
    "a special token is renamed": (
        lambda f: (f["added_tokens"][-1].update(content="<|im_end|>"), renamed(f, "</s>", "<|im_end|>")),
        "",
    ),
    "a piece is an added token": (
        lambda f: f["added_tokens"].append(added(900, list(f["model"]["vocab"])[900])),
        "",
    ),
}


@pytest.mark.parametrize("beside", [True, False], ids=["beside tokenizer.model", "alone"])
@pytest.mark.parametrize("name", CHANGES)
def test_the_ids_are_those_of_the_library(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, beside: bool
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    change, words = CHANGES[name]
    base = bugs_folder() / "plain"
    file = json.loads((base / "tokenizer.json").read_text())
    change(file)
    write_folder(tmp_path, tokenizer_json=file, config_json={"eos_token_id": 2})
    if beside:
        shutil.copy(base / "tokenizer.model", tmp_path)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    metadata = load(tmp_path, config={}, n_vocab=ROWS, rules=rules_of("llama"))
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    texts = [*chat_texts([*TOKENS, "<s>", "</s>"], 200), "\u0166 a\u0166 \u0167", "a<tool>b<|im_end|> c"]
    wanted = [theirs.encode(text, add_special_tokens=False).ids for text in texts]
    assert [t for t, ids in zip(texts, wanted, strict=True) if ours.encode(t, special=True) != ids] == []
    ours.close()
    assert "id" in words or "place" in words or "other" in words or not words
    if words and (beside or "(id" in words):
        assert words in caplog.text
    elif not words:
        assert not [line for line in caplog.messages if "library" in line or "instead" in line]


def kind_file(kind: str, folder: Path) -> File:
    """A tokenizer.json of a kind."""
    if kind == "words":
        word_pieces(folder)
        (folder / "vocab.txt").unlink(missing_ok=True)
        made: File = json.loads((folder / "tokenizer.json").read_text())
        return made
    vocab, merges = byte_vocabulary(("t", "h"))
    file = byte_bpe(vocab, merges)
    if kind == "unigram":
        entries = [["<unk>", 0.0], *([text, -1.0] for text in "\u2581abc")]
        file["model"] = {"type": "Unigram", "unk_id": 0, "vocab": entries}
        file |= dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return file


@pytest.mark.parametrize("kind", ["bytes", "words", "unigram"])
@pytest.mark.parametrize("offsets", [(0,), (3,), (3, 0), (0, 3), (5, 2), (40,)], ids=str)
def test_ids_of_every_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, offsets: tuple[int, ...]
) -> None:
    """Stated ids leave gaps. A token that the file puts beyond the embedding is left out."""
    tokenizers = pytest.importorskip("tokenizers")
    file = kind_file(kind, tmp_path)
    first = tokenizers.Tokenizer.from_str(json.dumps(file)).get_vocab_size()
    stated = []
    for number, offset in enumerate(offsets):
        stated.append(max(stated, default=first - 1) + 1 + offset)
        file["added_tokens"].append(added(stated[-1], f"<new{number}>"))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    write_folder(tmp_path, tokenizer_json=file, config_json={"eos_token_id": 0})
    tokens = load(tmp_path, config={}, n_vocab=first + 20).get("tokenizer.ggml.tokens")
    for number, token_id in enumerate(stated):
        text = f"<new{number}>"
        if token_id < first + 20:
            assert tokens.index(text) == theirs.token_to_id(text)
        else:
            assert text not in tokens and "left out" in caplog.text
    assert ("library" in caplog.text) == (any(offsets) and 40 not in offsets)


@pytest.mark.parametrize("beside", [True, False], ids=["beside tokenizer.model", "alone"])
@pytest.mark.parametrize(
    ("config", "mapped", "order"),
    [
        ({"eos_token": "<|im_end|>"}, {}, ["<|im_end|>"]),
        ({"pad_token": "[PAD]", "eos_token": "<|im_end|>"}, {}, ["<|im_end|>", "[PAD]"]),
        ({"additional_special_tokens": ["<a>", "<b>"], "pad_token": "[PAD]"}, {}, ["[PAD]", "<a>", "<b>"]),
        ({"extra_special_tokens": {"image_token": "<image>"}}, {}, ["<image>"]),
        ({"extra_special_tokens": ["<a>", "<a>", "</s>"]}, {}, ["<a>"]),
        ({"image_token": "<image>", "mask_token": "<mask>"}, {}, ["<mask>", "<image>"]),
        ({}, {"pad_token": {"content": "[PAD]", "lstrip": False}}, ["[PAD]"]),
        ({}, {"additional_special_tokens": ["<a>"], "eos_token": "<|im_end|>"}, ["<|im_end|>", "<a>"]),
        ({"pad_token": "<unk>", "eos_token": "</s>"}, {}, []),
        ({"pad_token": ""}, {}, []),
    ],
    ids=str,
)
def test_special_tokens_that_are_only_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    config: File,
    mapped: File,
    order: list[str],
    beside: bool,
) -> None:
    """transformers adds them behind the others; where it is installed, it is asked."""
    base = bugs_folder() / "plain"
    for name in ("tokenizer.json", *(["tokenizer.model"] if beside else [])):
        shutil.copy(base / name, tmp_path)
    files = {"tokenizer_config_json": {"tokenizer_class": "PreTrainedTokenizerFast", **config}}
    write_folder(tmp_path, **files, config_json={"eos_token_id": 2, "model_type": "llama"})
    if mapped:
        write_folder(tmp_path, special_tokens_map_json=mapped)
    metadata = load(tmp_path, config={}, n_vocab=ROWS, rules=rules_of("llama"))
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    assert tokens[4096 : 4096 + len(order)] == order and set(types[4096 : 4096 + len(order)]) <= {3}
    assert tokens[4096 + len(order)] == f"[PAD{4096 + len(order)}]"
    if "eos_token" in {**config, **mapped}:
        assert tokens[metadata.get("tokenizer.ggml.eos_token_id")] == {**config, **mapped}["eos_token"]
    assert ("that no file lists" in caplog.text) == bool(order)
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs.convert_ids_to_tokens(4096 + i) for i in range(len(order))] == order


@pytest.mark.parametrize(
    "config", [{"pad_token": "[PAD]"}, {"additional_special_tokens": ["<a>", "<b>"]}], ids=str
)
def test_a_named_token_without_a_row_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: File
) -> None:
    shutil.copy(bugs_folder() / "plain" / "tokenizer.json", tmp_path)
    write_folder(tmp_path, tokenizer_config_json=config, config_json={"eos_token_id": 2})
    metadata = load(tmp_path, config={}, n_vocab=4096, rules=rules_of("llama"))
    assert len(metadata.get("tokenizer.ggml.tokens")) == 4096
    assert "left out" in caplog.text and "4096 rows" in caplog.text
    assert "tokenizer.ggml.padding_token_id" not in metadata


@pytest.mark.parametrize("ids", [(257, 257), (3, 258), (300, 300)], ids=str)
def test_one_id_for_two_texts_is_refused(tmp_path: Path, ids: tuple[int, int]) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [added(token_id, f"<{place}>") for place, token_id in enumerate(ids)]
    write_folder(tmp_path, tokenizer_json=byte_bpe(vocab, merges, added_tokens=tokens))
    with pytest.raises(FormatError, match=r"tokenizer\.json.*has the id"):
        load(tmp_path, config={}, n_vocab=310)


def test_an_id_of_the_library_that_is_taken_is_refused(tmp_path: Path) -> None:
    """The library counts the entries of a vocabulary, and a trimmed vocabulary has ids above their number."""
    vocab, merges = byte_vocabulary(("t", "h"))
    trimmed = {text: i + (i >= 256) * 2 for text, i in vocab.items()}  # the last token has the id 258
    tokens = [added(260, "<a>"), added(261, "<b>")]
    write_folder(tmp_path, tokenizer_json=byte_bpe(trimmed, merges, added_tokens=tokens))
    with pytest.raises(
        ModelError, match=r"'<b>' has the id 261.*library gives it the id 258, which 'th' has"
    ):
        load(tmp_path, config={}, n_vocab=270)


def test_user_defined_pieces_of_a_model_without_tokenizer_json(tmp_path: Path) -> None:
    """The turns of Gemma: SentencePiece finds such pieces first, and llama.cpp cannot merge them."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    shutil.copy(bugs_folder() / "gemma3_tf5_config" / "tokenizer.model", tmp_path)
    write_folder(tmp_path, config_json={"eos_token_id": 1})
    metadata = load(tmp_path, config={}, n_vocab=ROWS, rules=rules_of("gemma3"))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    texts = chat_texts(["<start_of_turn>", "<end_of_turn>", "\n", "  "], 200)
    assert [text for text in texts if ours.encode(text, special=True) != theirs.encode(text)] == []
    ours.close()


@pytest.mark.parametrize("prefix", [True, False])
def test_a_model_without_tokenizer_json_says_whether_a_space_comes_first(
    tmp_path: Path, prefix: bool
) -> None:
    data = (bugs_folder() / "plain" / "tokenizer.model").read_bytes()
    normalizer = b"\x1a\x02\x18" + bytes([prefix])  # the last message of a kind counts
    (tmp_path / "tokenizer.model").write_bytes(data + normalizer)
    write_folder(tmp_path, config_json={"eos_token_id": 2})
    metadata = load(tmp_path, config={}, n_vocab=ROWS, rules=rules_of("llama"))
    key = "tokenizer.ggml.add_space_prefix"
    assert (metadata.get(key) if key in metadata else True) is prefix
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    assert all(ours.encode(text) == theirs.encode(text) for text in ("Hello world", "the river", "a"))
    ours.close()


@pytest.mark.parametrize("unmade", [(), ("aaa",), ("bb",), ("aaa", "bb", "ba"), ("zzz",), ("z",)], ids=str)
def test_tokens_that_no_merge_makes_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unmade: tuple[str, ...]
) -> None:
    """A GGUF of this kind has scores and no merges, so llama.cpp makes every token whose parts are tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "\u2581",
        "a",
        "b",
        "\u2581a",
        "aa",
        *unmade,
        *(f"<0x{i:02X}>" for i in range(256)),
    ]
    model = {
        "type": "BPE",
        "byte_fallback": True,
        "unk_token": "<unk>",
        "vocab": {text: i for i, text in enumerate(pieces)},
        "merges": [["\u2581", "a"], ["a", "a"]],
    }
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    special = [added(i, text, special=True) for i, text in enumerate(pieces[:3])]
    file = {"version": "1.0", "added_tokens": special, "normalizer": replace, "model": model}
    write_folder(tmp_path, tokenizer_json=file, config_json={"eos_token_id": 2})
    metadata = load(tmp_path, config={}, n_vocab=len(pieces), rules=rules_of("gemma3"))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    texts = ["aaa", "bb", "ba", "a b ab", "aaaa", "bbb aab", "zzz z"]
    different = [t for t in texts if ours.encode(t) != theirs.encode(t, add_special_tokens=False).ids]
    ours.close()
    wrong = {"aaa", "bb", "ba"} & {*unmade}
    assert bool(different) == bool(wrong), different
    assert ("no merge makes" in caplog.text) == bool(wrong)
    assert all(f"'{text}'" in caplog.text for text in wrong)
