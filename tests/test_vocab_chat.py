"""Fine-tunes that add tokens for a chat: every kind of tokenizer, every file that can list the tokens.

llama.cpp on our vocabulary must read chats as the tokenizers library does with the same added tokens.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from srd_rs.vocab import load
from vocab_tools import LlamaVocab, added, chat_texts, rules_of

CONTROL, USER_DEFINED = 3, 4
TURN, END, TOOL = "<|turn|>", "<|turn_end|>", "<tool>"
FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "config.json", "added_tokens.json"),
    *("vocab.txt", "generation_config.json"),
)
#: Kind of tokenizer -> reference checkpoint, architecture, file that is left out.
KINDS = {
    "byte-level BPE": ("qwen2", "qwen2", ""),
    "SentencePiece model": ("llama", "llama", ""),
    "SentencePiece model of Gemma": ("gemma3", "gemma3", ""),
    "SentencePiece model of Phi-3": ("phi3", "phi3", ""),
    "SentencePiece as merges": ("mistral", "llama", ""),
    "SentencePiece of Gemma as merges": ("gemma3", "gemma3", "tokenizer.model"),
    "SentencePiece model with a first space": ("llama", "llama", ""),
    "SentencePiece as merges with a first space": ("mistral", "llama", ""),
    "Gemma 4": ("gemma4_e2b", "gemma4", ""),
    "WordPiece": ("", "bert", ""),
}
#: Runs of spaces are user-defined tokens here, as the reference converter has it, and llama.cpp looks for the longest
#: first. The tokenizer makes them by merges, which gives other pieces for the longest runs.
RESPELLED = ("SentencePiece model of Gemma",)
PLACES = (
    "tokenizer.json",
    "added_tokens_decoder",
    "special_tokens_map.json",
    "additional_special_tokens",
    "all",
)


def word_pieces(folder: Path) -> None:
    """A WordPiece tokenizer of single characters and a few words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?()[]{}<>|/\\'\"=+-*&%#_"
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *letters,
        *(f"##{c}" for c in letters),
        "hello",
        "the",
        "##ing",
    ]
    file = {
        "added_tokens": [added(i, pieces[i], special=True) for i in range(4)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {piece: i for i, piece in enumerate(pieces)}},
    }  # fmt: skip
    config = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text("{}")


def fine_tuned(fixtures: Path, folder: Path, kind: str, place: str) -> tuple[int, dict[str, int]]:
    """A tokenizer with three more tokens, listed at `place`. Returns the rows of the embedding and the new ids."""
    name, _, left_out = KINDS[kind]
    folder.mkdir()
    if name:
        for file in FILES:
            if file != left_out and (fixtures / name / file).exists():
                shutil.copy(fixtures / name / file, folder)
    else:
        word_pieces(folder)
    file = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if kind.endswith("a first space"):  # as transformers 5 writes it
        file["normalizer"] = None
        file["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "first",
            "split": False,
        }
        assert config["chat_template"]
    vocab = file["model"]["vocab"]
    first = max(*vocab.values(), *(entry["id"] for entry in file["added_tokens"])) + 1
    ids = {TURN: first, END: first + 1, TOOL: first + 2}
    entries = [added(i, text, special=text != TOOL) for text, i in ids.items()]
    if place in ("tokenizer.json", "all"):
        file["added_tokens"] += entries
    elif place == "added_tokens_decoder":
        config.setdefault("added_tokens_decoder", {}).update({str(e["id"]): e for e in entries})
    else:
        file["added_tokens"] += [{**entry, "special": False} for entry in entries]
    special = [TURN, END]
    if place in ("special_tokens_map.json", "all"):
        extra = [{"content": TURN, "special": True}, END]
        (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": extra}))
    if place in ("additional_special_tokens", "all"):
        config["additional_special_tokens"] = special
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return max(*vocab.values(), *ids.values()) + 5, ids


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_of_a_fine_tune(fixtures: Path, tmp_path: Path, kind: str, place: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    folder = tmp_path / "model"
    rows, ids = fine_tuned(fixtures, folder, kind, place)
    metadata = load(folder, config={"vocab_size": rows}, rules=rules_of(KINDS[kind][1]), n_vocab=rows)
    types: list[int] = metadata.get("tokenizer.ggml.token_type")
    assert [types[i] for i in ids.values()] == [CONTROL, CONTROL, USER_DEFINED]
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    decoder = json.loads((folder / "tokenizer_config.json").read_text()).get("added_tokens_decoder", {})
    for entry in decoder.values():  # as transformers adds them
        theirs.add_tokens([tokenizers.AddedToken(entry["content"], normalized=False)])
    assert all(theirs.token_to_id(text) == i for text, i in ids.items())
    texts = [text for text in chat_texts([*ids], 220) if kind not in RESPELLED or " " * 5 not in text][:200]
    assert len(texts) == 200
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    different = [t for t in texts if ours.encode(t, special=True) != encoded(theirs, t)]
    ours.close()
    assert different == []


def encoded(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
