"""Ends of text, ids without a token, texts of two ids, tokens without a row: what the files say in many ways."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import FormatError, ModelError
from srd_rs.metadata import Metadata
from srd_rs.vocab import load
from vocab_tools import added, byte_bpe, byte_vocabulary, proto_piece, write_folder

TEXTS = ("<s>", "</s>", "<turn_end>", "<tool_end>", "<extra_end>", "<|im_end|>")
BOS, EOS, TURN, TOOL, EXTRA, IM_END = range(257, 263)
ROWS = 270


def read(
    folder: Path,
    model: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    tokens: list[dict[str, Any]] | None = None,
) -> Metadata:
    vocab, merges = byte_vocabulary(("t", "h"))
    listed = (
        [added(257 + i, text, special=True) for i, text in enumerate(TEXTS)] if tokens is None else tokens
    )
    write_folder(
        folder,
        tokenizer_json=byte_bpe(vocab, merges, added_tokens=listed, post_processor=None),
        tokenizer_config_json=tokenizer or {},
        config_json=model or {},
    )
    if generation is not None:
        write_folder(folder, generation_config_json=generation)
    return load(folder, config={"vocab_size": ROWS}, n_vocab=ROWS)


def ends(metadata: Metadata) -> tuple[Any, ...]:
    keys = (f"tokenizer.ggml.{role}_token_id" for role in ("eos", "eot", "eom"))
    return tuple(metadata.get(key) if key in metadata else None for key in keys)


@pytest.mark.parametrize(
    ("model", "tokenizer", "generation", "wanted"),
    [
        ({"eos_token_id": EOS}, None, None, (EOS, None, None)),
        ({"eos_token_id": [EOS, TURN]}, None, None, (EOS, TURN, None)),
        ({"eos_token_id": [EOS, TURN, TOOL]}, None, None, (EOS, TURN, TOOL)),
        ({"eos_token_id": [EOS, IM_END]}, None, None, (EOS, None, None)),
        ({"eos_token_id": [EOS, IM_END, TOOL]}, None, None, (EOS, TOOL, None)),
        ({"text_config": {"eos_token_id": [EOS, TURN]}}, None, None, (EOS, TURN, None)),
        ({"llm_config": {"eos_token_id": EOS}}, None, None, (EOS, None, None)),
        (None, None, {"eos_token_id": TURN}, (TURN, None, None)),
        (None, None, {"eos_token_id": [TURN, EOS]}, (TURN, EOS, None)),
        ({"eos_token_id": EOS}, None, {"eos_token_id": [TURN, EOS]}, (EOS, TURN, None)),
        ({"eos_token_id": EOS}, None, {"eos_token_id": TURN}, (TURN, None, None)),
        ({"eos_token_id": EOS}, None, {"eos_token_id": None}, (EOS, None, None)),
        ({"eos_token_id": EOS}, {"eos_token": "<turn_end>"}, None, (TURN, EOS, None)),
        ({"eos_token_id": TURN}, {"eos_token": {"content": "<turn_end>"}}, None, (TURN, None, None)),
        (None, {"eos_token": "<turn_end>"}, {"eos_token_id": [TURN, TOOL]}, (TURN, TOOL, None)),
        ({"eos_token_id": [EOS, EOS, True, "x", -1]}, None, None, (EOS, None, None)),
        ({"eos_token_id": []}, None, {"eos_token_id": []}, (None, None, None)),
        ({"eos_token_id": -1}, None, None, (None, None, None)),
        ({"eos_token_id": [EOS, 2**40]}, None, None, (EOS, None, None)),
    ],
)
def test_ends_of_text(
    tmp_path: Path, model: Any, tokenizer: Any, generation: Any, wanted: tuple[Any, ...]
) -> None:
    assert ends(read(tmp_path, model, tokenizer, generation)) == wanted


def test_a_broken_generation_config_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    assert ends(read(tmp_path, {"eos_token_id": EOS})) == (EOS, None, None)


def test_an_end_beyond_the_vocabulary_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ends(read(tmp_path, {"eos_token_id": [EOS, 2**40]})) == (EOS, None, None)
    assert len(caplog.records) == 1


def test_a_listed_id_gives_way_to_that_of_the_vocabulary(tmp_path: Path) -> None:
    """As in the tokenizers library, which asks the vocabulary first."""
    tokens = [added(269, "th", special=True)]
    metadata = read(tmp_path, None, {"eos_token": "th"}, tokens=tokens)
    assert ends(metadata) == (256, None, None)
    assert metadata.get("tokenizer.ggml.token_type")[256] == 3


def test_more_ends_than_keys_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = ends(read(tmp_path, {"eos_token_id": [EOS, TURN, TOOL, EXTRA]}))
    assert found == (EOS, TURN, TOOL)
    assert "<extra_end>" in caplog.text


def test_no_end_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ends(read(tmp_path)) == (None, None, None)
    assert "end-of-text" in caplog.text


@pytest.mark.parametrize(
    ("role", "where"),
    [
        *((role, where) for role in ("bos", "eos", "pad") for where in ("config", "text")),
        ("eos", "generation"),
    ],
)
def test_an_id_that_no_token_has_is_an_error(tmp_path: Path, role: str, where: str) -> None:
    model: dict[str, Any] = {f"{role}_token_id": 269}
    model = {"text_config": model} if where == "text" else model
    with pytest.raises(ModelError, match=role) as caught:
        read(tmp_path, *((None, None, model) if where == "generation" else (model,)))
    assert "269" in str(caught.value)


def test_tokens_without_a_row_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = [added(257, "<s>", special=True), *(added(ROWS + i, f"<far{i}>") for i in range(50))]
    metadata = read(tmp_path, {"eos_token_id": 257}, tokens=tokens)
    assert "<far0>" not in metadata.get("tokenizer.ggml.tokens")
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1 and "50 added tokens" in caplog.text and "<far0>" in caplog.text


def test_a_token_without_a_row_in_the_vocabulary_too(tmp_path: Path) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    vocab["<far>"] = 900
    file = byte_bpe(vocab, merges, added_tokens=[added(900, "<far>")])
    folder = write_folder(tmp_path, tokenizer_json=file)
    assert len(load(folder, config={}, n_vocab=257).get("tokenizer.ggml.tokens")) == 257
    file["added_tokens"] = []
    write_folder(tmp_path, tokenizer_json=file)
    with pytest.raises(ModelError, match="<far>"):
        load(folder, config={}, n_vocab=257)


def pieces(*more: tuple[str, float, int]) -> bytes:
    base = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("\u2581", -1.0, 1), ("a", -2.0, 1)]
    return b"".join(proto_piece(*piece) for piece in (*base, *more))


def spm(folder: Path, rows: int, *more: tuple[str, float, int], **files: Any) -> Metadata:
    write_folder(folder, tokenizer_model=pieces(*more), config_json={"eos_token_id": 2}, **files)
    return load(folder, config={}, n_vocab=rows)


@pytest.mark.parametrize(
    ("more", "tokens", "wanted"),
    [
        ((("\u2581\u2581", -3.0, 1),), [(6, "  ")], ["\u2581\u2581", "  "]),
        ((("\u2581\u2581", 0.0, 4),), [(5, "\u2581\u2581"), (6, "  ")], ["\u2581\u2581", "  "]),
        ((), [(5, "\u2581x"), (6, " x")], ["\u2581x", " x"]),
        ((("[PAD6]", -3.0, 1),), [], ["[PAD6]", "[PAD6]_"]),
        ((("b", -3.0, 1), ("", -4.0, 1), ("", -5.0, 1)), [], ["b", ""]),
    ],
)
def test_texts_are_kept_apart(tmp_path: Path, more: Any, tokens: Any, wanted: list[str]) -> None:
    decoder = {str(i): {"content": text, "special": False} for i, text in tokens}
    metadata = spm(tmp_path, 8, *more, tokenizer_config_json={"added_tokens_decoder": decoder})
    assert metadata.get("tokenizer.ggml.tokens")[5:7] == wanted


def test_two_pieces_of_one_text_are_refused_with_both_ids(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokens 4 and 6 have the same text 'a'"):
        spm(tmp_path, 8, ("b", -3.0, 1), ("a", -4.0, 1))


def test_two_texts_of_one_id_are_refused(tmp_path: Path) -> None:
    vocab = {text: i for i, text in enumerate("abcde")}
    file = {"added_tokens": [added(5, "<x>")], "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    config = {"added_tokens_decoder": {"5": {"content": "<y>"}}}
    with pytest.raises(FormatError, match=r"<x>.*<y>"):
        spm(tmp_path, 8, tokenizer_json=file, tokenizer_config_json=config)


def test_an_old_list_gives_way_to_newer_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = {"added_tokens_decoder": {"5": {"content": "<|im_end|>", "special": True}}}
    files = {"tokenizer_config_json": config, "added_tokens_json": {"<pad>": 5, "<more>": 6}}
    metadata = spm(tmp_path, 8, **files)
    assert metadata.get("tokenizer.ggml.tokens")[5:7] == ["<|im_end|>", "<more>"]
    assert "<pad>" in caplog.text


@pytest.mark.parametrize(("listed", "decoder"), [(True, False), (False, True)])
def test_a_token_is_special_if_one_of_the_files_says_so(tmp_path: Path, listed: bool, decoder: bool) -> None:
    tokens = [added(257, "<s>", special=listed), added(258, "</s>", special=False)]
    config = {
        "added_tokens_decoder": {str(t["id"]): {**t, "special": decoder and t["id"] == 257} for t in tokens}
    }
    types = read(tmp_path, {"eos_token_id": 1}, config, tokens=tokens).get("tokenizer.ggml.token_type")
    assert types[257:259] == [3, 4]  # control, user-defined


def test_a_vocabulary_that_only_tokenizer_json_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fine-tune with new words keeps the base model's tokenizer.model."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3, "a": 4, "\u2581a": 5, "aa": 6}
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": [["\u2581", "a"], ["a", "a"]]}
    special = [added(i, text, special=True) for i, text in enumerate(("<unk>", "<s>", "</s>"))]
    metadata = spm(tmp_path, 7, tokenizer_json={"added_tokens": special, "model": model})
    assert metadata.get("tokenizer.ggml.tokens")[5:] == ["\u2581a", "aa"]
    assert metadata.get("tokenizer.ggml.scores")[5:] == [0.0, -1.0]
    assert "tokenizer.json is read instead" in caplog.text


def test_role_tokens_of_the_vocabulary_need_no_list(tmp_path: Path) -> None:
    vocab, merges = byte_vocabulary(("t", "h"))
    vocab["<end>"] = 257
    folder = write_folder(
        tmp_path,
        tokenizer_json=byte_bpe(vocab, merges, post_processor=None),
        tokenizer_config_json={"eos_token": "<end>"},
        config_json={"eos_token_id": 3},
    )
    metadata = load(folder, config={}, n_vocab=258)
    assert ends(metadata)[0] == 257
    assert metadata.get("tokenizer.ggml.token_type")[257] == 3


def test_many_added_tokens_of_an_old_list_are_read(tmp_path: Path) -> None:
    ids = {f"<{i}>": 5 + i for i in range(3)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(ids))
    metadata = spm(tmp_path, 8)
    assert metadata.get("tokenizer.ggml.tokens")[5:] == list(ids)
