"""What a family says of its vocabulary beyond the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import ModelError
from srd_rs.metadata import Metadata
from srd_rs.vocab import load
from srd_rs.vocab.rules import LLAMA, VocabularyRules
from vocab_tools import added, byte_bpe, byte_vocabulary, proto_piece, write_folder

CONTROL, USER_DEFINED = 3, 4
KEY = "tokenizer.ggml."


def read(folder: Path, rules: VocabularyRules, rows: int = 260, **config: Any) -> Metadata:
    vocab, merges = byte_vocabulary(("t", "h"))
    tokens = [added(257, "<end>", special=True), added(258, "<turn>"), added(259, "<s>", special=True)]
    write_folder(folder, tokenizer_json=byte_bpe(vocab, merges, added_tokens=tokens, post_processor=None))
    write_folder(folder, config_json=config)
    return load(folder, config=config, rules=rules, n_vocab=rows)


def test_roles_that_the_files_leave_open(tmp_path: Path) -> None:
    rules = VocabularyRules(
        tokens={"eos": "<turn>", "eot": "<turn>", "bos": 259, "unk": "<none>", "pad": 900}
    )
    metadata = read(tmp_path, rules, eos_token_id=257)
    found = {role: metadata.get(f"{KEY}{role}_token_id") for role in ("eos", "eot", "bos")}
    assert found == {"eos": 257, "eot": 258, "bos": 259}
    assert f"{KEY}unknown_token_id" not in metadata and f"{KEY}padding_token_id" not in metadata


def test_a_correction_counts_before_the_files(tmp_path: Path) -> None:
    metadata = read(tmp_path, VocabularyRules(corrected={"bos": "<s>"}), bos_token_id=1)
    assert metadata.get(f"{KEY}bos_token_id") == 259


def test_another_key_for_the_end_of_a_text(tmp_path: Path) -> None:
    metadata = read(tmp_path, VocabularyRules(end_key="eod_token_id"), eos_token_id=258, eod_token_id=257)
    assert metadata.get(f"{KEY}eos_token_id") == 257
    assert read(tmp_path, VocabularyRules(end_key="none"), eos_token_id=258).get(f"{KEY}eos_token_id") == 258


def test_a_control_token_that_no_file_marks(tmp_path: Path) -> None:
    metadata = read(tmp_path, VocabularyRules(control=("<turn>", "<none>")))
    assert metadata.get(f"{KEY}token_type")[257:] == [CONTROL, CONTROL, CONTROL]


def test_what_is_added_to_a_text(tmp_path: Path) -> None:
    metadata = read(tmp_path, VocabularyRules(add={"bos": True, "sep": False}))
    assert metadata.get(f"{KEY}add_bos_token") is True and metadata.get(f"{KEY}add_sep_token") is False


def test_what_is_added_where_no_file_says_so(tmp_path: Path) -> None:
    rules = VocabularyRules(add_if_open={"bos": True, "sep": True})
    assert read(tmp_path, rules).get(f"{KEY}add_bos_token") is True
    write_folder(tmp_path, tokenizer_config_json={"add_bos_token": False})
    metadata = read(tmp_path, rules)
    assert metadata.get(f"{KEY}add_bos_token") is False and metadata.get(f"{KEY}add_sep_token") is True


def test_rows_that_a_family_rounds_up(tmp_path: Path) -> None:
    metadata = read(tmp_path, VocabularyRules(padded=True), rows=264, vocab_size=260)
    assert metadata.get(f"{KEY}tokens")[260:] == [f"[PAD{i}]" for i in range(260, 264)]
    with pytest.raises(ModelError, match="vocab_size"):
        read(tmp_path, VocabularyRules(), rows=264, vocab_size=260)
    with pytest.raises(ModelError, match="vocab_size"):
        read(tmp_path, VocabularyRules(padded=True), rows=264, vocab_size=265)


def test_rules_by_size(tmp_path: Path) -> None:
    rules = VocabularyRules(by_size={260: {"tokens": {"eot": 258}}})
    assert read(tmp_path, rules).get(f"{KEY}eot_token_id") == 258
    assert f"{KEY}eot_token_id" not in read(tmp_path, rules, rows=261)


@pytest.mark.parametrize(("rows", "eot"), [(32016, 32010), (32015, None)])
def test_the_end_of_turn_of_codellama_is_known_by_the_size(
    tmp_path: Path, rows: int, eot: int | None
) -> None:
    pieces = [proto_piece("<unk>", 0.0, 2), proto_piece("<s>", 0.0, 3), proto_piece("</s>", 0.0, 3)]
    pieces += [proto_piece(f"p{i}", -float(i)) for i in range(32016 - 3)]
    folder = write_folder(tmp_path, tokenizer_model=b"".join(pieces), config_json={"eos_token_id": 2})
    assert load(folder, config={}, rules=LLAMA, n_vocab=rows).get(f"{KEY}eot_token_id") == eot


def test_the_space_prefix(tmp_path: Path) -> None:
    write_folder(tmp_path, tokenizer_config_json={"add_prefix_space": True})
    assert read(tmp_path, LLAMA).get(f"{KEY}add_space_prefix") is True
    assert read(tmp_path, VocabularyRules(space_prefix=False)).get(f"{KEY}add_space_prefix") is False
    assert f"{KEY}add_space_prefix" not in read(tmp_path, VocabularyRules())


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    metadata = load(tmp_path, config={}, rules=VocabularyRules(kind="none"), n_vocab=5)
    assert metadata.entries() == [(f"{KEY}model", "STRING", "none")]


def test_rules_are_checked() -> None:
    with pytest.raises(ValueError, match="kind"):
        VocabularyRules(kind="kind")
    with pytest.raises(ValueError, match="boss"):
        VocabularyRules(by_size={5: {"tokens": {"boss": 1}}})
