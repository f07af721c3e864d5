"""Unigram vocabularies: llama.cpp on our vocabulary gives the ids of SentencePiece and of the tokenizers library."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import FormatError, ModelError
from srd_rs.metadata import Metadata
from srd_rs.vocab import FILES_DECIDE, load
from srd_rs.vocab.rules import ENCODER, T5, VocabularyRules
from srd_rs.vocab.sentencepiece import read_model
from srd_rs.vocab.tokenizer import from_metadata
from vocab_tools import LlamaVocab, added, corpus, many_texts, proto_piece, varint, write_folder

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KEY = "tokenizer.ggml."
TEXTS = many_texts(1000)


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    """SentencePiece models by what is special in them."""
    trainer = pytest.importorskip(
        "sentencepiece", reason="sentencepiece is not installed: nothing was compared with it"
    ).SentencePieceTrainer

    def trained(**options: Any) -> bytes:
        out = io.BytesIO()
        trainer.train(
            sentence_iterator=iter(corpus()),
            model_writer=out,
            vocab_size=900,
            character_coverage=0.99,
            minloglevel=2,
            num_threads=1,
            **options,
        )
        return out.getvalue()

    t5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    return {
        "plain": trained(model_type="unigram"),
        "t5": trained(model_type="unigram", **t5),
        "identity": trained(
            model_type="unigram", normalization_rule_name="identity", remove_extra_whitespaces=False
        ),
        "no prefix": trained(model_type="unigram", add_dummy_prefix=False),
        "bytes": trained(model_type="unigram", byte_fallback=True),
        "bpe": trained(model_type="bpe", byte_fallback=True),
        "user": trained(model_type="unigram", user_defined_symbols=["<sep>", "<cls>"]),
    }


def read(folder: Path, rows: int = 900, rules: VocabularyRules = FILES_DECIDE, **config: Any) -> Metadata:
    return load(folder, config=config, rules=rules, n_vocab=rows)


def differences(metadata: Metadata, folder: Path, ids: Any, texts: list[str] = TEXTS) -> list[str]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    ours = LlamaVocab(metadata, folder / "vocab.gguf")
    different = [text for text in texts if ours.encode(text) != ids(text)]
    ours.close()
    return different


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("t5", "spiece.model"),
        ("plain", "tokenizer.model"),
        ("user", "tokenizer.model"),
    ],
)
def test_a_sentencepiece_model(tmp_path: Path, models: dict[str, bytes], model: str, name: str) -> None:
    import sentencepiece

    (tmp_path / name).write_bytes(models[model])
    metadata = read(tmp_path)
    assert metadata.get(f"{KEY}model") == "t5" and metadata.get(f"{KEY}pre") == "default"
    assert metadata.get(f"{KEY}add_space_prefix") is metadata.get(f"{KEY}remove_extra_whitespaces") is True
    theirs = sentencepiece.SentencePieceProcessor(model_proto=models[model])
    assert metadata.get(f"{KEY}scores") == [theirs.get_score(i) for i in range(900)]
    assert differences(metadata, tmp_path, theirs.encode) == []


@pytest.mark.parametrize("model", ["identity", "no prefix"])
def test_what_llama_cpp_does_with_spaces_in_another_way(
    tmp_path: Path, models: dict[str, bytes], model: str
) -> None:
    """llama.cpp puts the first space behind other spaces, and merges spaces only where it puts one before a text."""
    import sentencepiece

    (tmp_path / "spiece.model").write_bytes(models[model])
    metadata = read(tmp_path)
    assert metadata.get(f"{KEY}add_space_prefix") is (model == "identity")
    assert metadata.get(f"{KEY}remove_extra_whitespaces") is False
    assert (f"{KEY}precompiled_charsmap" in metadata) is (model != "identity")
    theirs = sentencepiece.SentencePieceProcessor(model_proto=models[model])
    texts = [text for text in TEXTS if not text.startswith(" ") and "a" * 50 not in text]  # equal scores
    if model == "no prefix":
        texts = [" ".join(text.replace("\u200b", " ").replace("\u200d", " ").split()) for text in texts]
    assert len(texts) > 700
    assert differences(metadata, tmp_path, theirs.encode, texts) == []


def test_the_ids_of_xlm_roberta(tmp_path: Path, models: dict[str, bytes]) -> None:
    import sentencepiece

    (tmp_path / "sentencepiece.bpe.model").write_bytes(models["plain"])
    metadata = read(tmp_path, 902, ENCODER, type_vocab_size=1)
    tokens, types = metadata.get(f"{KEY}tokens"), metadata.get(f"{KEY}token_type")
    assert tokens[:4] == ["<s>", "<pad>", "</s>", "<unk>"] and tokens[-1] == "<mask>"
    assert types[:4] == [CONTROL, CONTROL, CONTROL, UNKNOWN] and types[-1] == CONTROL
    assert metadata.get(f"{KEY}add_bos_token") is metadata.get(f"{KEY}add_eos_token") is True
    assert metadata.get(f"{KEY}token_type_count") == 1
    theirs = sentencepiece.SentencePieceProcessor(model_proto=models["plain"])
    shifted = {0: 3}
    assert (
        differences(metadata, tmp_path, lambda text: [shifted.get(i, i + 1) for i in theirs.encode(text)])
        == []
    )


def unigram_json(model: bytes, path: Path, *, newer: bool = False, **changes: Any) -> dict[str, Any]:
    """A tokenizer.json as transformers makes it from a SentencePiece model, in the form before or after 4.40."""
    path.write_bytes(model)
    read_in = read_model(path)
    path.unlink()
    precompiled = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(read_in.charsmap).decode()}
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    metaspace = {
        "type": "Metaspace",
        "replacement": "\u2581",
        "add_prefix_space": True,
        "prepend_scheme": "always",
    }
    split = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
    pieces = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    pieces += [[piece.text, piece.score] for piece in read_in.pieces[3:]]
    special = [added(i, text, special=True) for i, (text, _) in enumerate(pieces[:4])]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [*special, added(len(pieces), "<mask>", special=True)],
        "normalizer": {"type": "Sequence", "normalizers": [precompiled, strip, spaces]}
        if newer
        else precompiled,
        "pre_tokenizer": metaspace if newer else split,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {
                text: {"id": text, "ids": [i], "tokens": [text]} for i, text in ((0, "<s>"), (2, "</s>"))
            },
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": [*pieces, ["<mask>", 0.0]],
            "byte_fallback": False,
        },
        **changes,
    }


ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("beside", [None, "sentencepiece.bpe.model"])
def test_a_tokenizer_json(tmp_path: Path, models: dict[str, bytes], newer: bool, beside: str | None) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    file = unigram_json(models["plain"], tmp_path / "model", newer=newer)
    config = {**ROLES, "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    write_folder(tmp_path, tokenizer_json=file, tokenizer_config_json=config)
    if beside:
        (tmp_path / beside).write_bytes(models["plain"])
    metadata = read(tmp_path, 905, ENCODER)
    assert metadata.get(f"{KEY}model") == "t5"
    assert metadata.get(f"{KEY}add_space_prefix") is metadata.get(f"{KEY}remove_extra_whitespaces") is True
    assert metadata.get(f"{KEY}token_type")[:5] == [CONTROL, CONTROL, CONTROL, UNKNOWN, NORMAL]
    assert metadata.get(f"{KEY}token_type")[901:] == [CONTROL, UNUSED, UNUSED, UNUSED]
    ids = ("bos", "eos", "unknown", "seperator", "padding", "mask")
    assert [metadata.get(f"{KEY}{role}_token_id") for role in ids] == [0, 2, 3, 2, 1, 901]
    assert metadata.get(f"{KEY}add_bos_token") is metadata.get(f"{KEY}add_eos_token") is True
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    assert (
        differences(metadata, tmp_path, lambda text: theirs.encode(text, add_special_tokens=False).ids) == []
    )


def test_special_tokens_in_the_text(tmp_path: Path, models: dict[str, bytes]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    from vocab_tools import chat_texts

    file = unigram_json(models["plain"], tmp_path / "model")
    file["added_tokens"] += [added(902, "<turn>", special=True), added(903, "<tool>")]
    write_folder(tmp_path, tokenizer_json=file, tokenizer_config_json=ROLES)
    metadata = read(tmp_path, 904)
    assert metadata.get(f"{KEY}token_type")[902:] == [CONTROL, USER_DEFINED]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")
    texts = chat_texts(["<turn>", "<tool>", "</s>"], 300)
    different = [
        t for t in texts if ours.encode(t, special=True) != theirs.encode(t, add_special_tokens=False).ids
    ]
    ours.close()
    assert different == []


@pytest.mark.parametrize("model", ["t5", "user", "no prefix", "identity"])
def test_a_tokenizer_from_the_metadata(tmp_path: Path, models: dict[str, bytes], model: str) -> None:
    """What reads a calibration text for a GGUF gives the ids of llama.cpp."""
    pytest.importorskip("tokenizers")
    (tmp_path / "spiece.model").write_bytes(models[model])
    metadata = read(tmp_path)
    values = {key: metadata.get(key) for key in metadata}
    theirs = from_metadata(values, tmp_path, "hint")
    texts = [text for text in TEXTS if model != "identity" or not text.startswith(" ")]
    if model == "no prefix":  # the tokenizers library makes one space of a carriage return with a newline
        texts = [text for text in texts if "\r\n" not in text]
    assert len(texts) > 700
    assert differences(metadata, tmp_path, lambda text: theirs.encode(text).ids, texts) == []


def test_bytes_for_unknown_characters(
    tmp_path: Path, models: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(models["bytes"])
    metadata = read(tmp_path)
    assert metadata.get(f"{KEY}model") == "llama" and "Unigram with bytes" in caplog.text
    metadata = read(tmp_path, rules=T5)
    assert metadata.get(f"{KEY}model") == "t5"
    assert metadata.get(f"{KEY}token_type").count(BYTE) == 256


def test_bpe_stays_bpe(tmp_path: Path, models: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spiece.model").write_bytes(models["bpe"])
    assert read(tmp_path).get(f"{KEY}model") == "llama"
    assert "normalizes text, which llama.cpp does not do" in caplog.text


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "!"}}, "base64"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": 5}}, "precompiled_charsmap"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////fwA="}}, "cut off"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "ByteLevel"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}, "_"),
        ({"model": {"type": "Unigram", "vocab": {}}}, "not a list"),
        ({"model": {"type": "Unigram", "vocab": [["a"]]}}, "token 0"),
        ({"model": {"type": "Unigram", "vocab": [["a", "1"]]}}, "score"),
        ({"model": {"type": "Unigram", "vocab": [["a", 1e300]]}}, "score"),
        ({"model": {"type": "Unigram", "vocab": [["a", 1], ["a", 2]]}}, "same text"),
        ({"model": {"type": "Unigram", "vocab": [["a", 1]], "unk_id": 5}}, "unk_id"),
        ({"model": {"type": "Unigram", "vocab": [["a", 1], ["b", 2]]}}, "the model has 1 tokens"),
    ],
)
def test_broken_files(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    file = {"added_tokens": [], "model": {"type": "Unigram", "vocab": [["a", 1.0]]}, **change}
    write_folder(tmp_path, tokenizer_json=file)
    with pytest.raises((FormatError, ModelError), match=what):
        read(tmp_path, 1)


def test_spaces_behind_words_are_refused(tmp_path: Path) -> None:
    spec = b"\xc0\x01\x01"  # field 24, treat_whitespace_as_suffix
    (tmp_path / "spiece.model").write_bytes(
        proto_piece("<unk>", 0.0, UNKNOWN) + b"\x12" + varint(len(spec)) + spec
    )
    with pytest.raises(ModelError, match="behind"):
        read(tmp_path, 1)
