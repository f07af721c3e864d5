"""The tokens around a text: llama.cpp on our vocabulary adds those that the tokenizer adds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from srd_rs.calibration import _ends
from srd_rs.metadata import Metadata
from srd_rs.vocab import FILES_DECIDE, load
from srd_rs.vocab.rules import ENCODER, LLAMA, MODERN_BERT, T5, VocabularyRules
from vocab_tools import LlamaVocab, byte_level, corpus, many_texts, sequence, write_folder

KEY = "tokenizer.ggml."
TEXTS = many_texts(1000)
ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def template(first: str | None, last: str | None, ids: dict[str, int]) -> dict[str, Any]:
    def special(text: str | None) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": text, "type_id": 0}}] if text else []

    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    named = {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in (first, last) if text}
    single = [*special(first), a, *special(last)]
    pair = [*single, *special(last), b, *special(last)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}


def trained_bpe(post_processor: dict[str, Any], **sections: Any) -> dict[str, Any]:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        show_progress=False,
        special_tokens=SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    file: dict[str, Any] = json.loads(tokenizer.to_str())
    return {**file, "post_processor": post_processor, "decoder": byte_level(), **sections}


def trained_word_pieces() -> dict[str, Any]:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=900, show_progress=False, special_tokens=special
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    ids = {text: i for i, text in enumerate(special)}
    file: dict[str, Any] = json.loads(tokenizer.to_str())
    return {**file, "post_processor": template("[CLS]", "[SEP]", ids)}


def check(
    folder: Path,
    file: dict[str, Any],
    config: dict[str, Any],
    rules: VocabularyRules,
    texts: list[str] = TEXTS,
) -> Metadata:
    import tokenizers

    write_folder(folder, tokenizer_json=file, tokenizer_config_json=config)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    metadata = load(folder, config={}, rules=rules, n_vocab=theirs.get_vocab_size() + 3)
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    ours = LlamaVocab(metadata, folder / "vocab.gguf")
    different = [text for text in texts if ours.encode(text, ends=True) != theirs.encode(text).ids]
    ours.close()
    assert different == []
    ids = theirs.encode("world").ids
    bare = theirs.encode("world", add_special_tokens=False).ids
    values = {key: metadata.get(key) for key in metadata}
    if rules is not FILES_DECIDE:
        values |= {"general.architecture": "bert", "bert.attention.causal": False}
    first, last = _ends(values)  # what calibration puts around a chunk
    assert [*([first] if first is not None else []), *bare, *([last] if last is not None else [])] == ids
    return metadata


def test_word_pieces(tmp_path: Path) -> None:
    config = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    texts = [
        text for text in TEXTS if "\uc548" not in text and "\ub155" not in text
    ]  # llama.cpp keeps syllables
    assert len(texts) > 800
    metadata = check(tmp_path, trained_word_pieces(), config, ENCODER, texts)
    assert metadata.get(f"{KEY}model") == "bert"


def test_roberta(tmp_path: Path) -> None:
    processor = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True,
                 "add_prefix_space": False}  # fmt: skip
    metadata = check(tmp_path, trained_bpe(processor), ROLES, ENCODER)
    assert metadata.get(f"{KEY}pre") == "roberta-bpe" and metadata.get(f"{KEY}token_type_count") == 1


def test_modern_bert(tmp_path: Path) -> None:
    special = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    ids = {"<s>": 0, "</s>": 2}
    check(tmp_path, trained_bpe(template("<s>", "</s>", ids)), special, MODERN_BERT)


def test_a_decoder_with_a_first_token(tmp_path: Path) -> None:
    processor = sequence(byte_level(), template("<s>", None, {"<s>": 0}))
    processor = {"type": "Sequence", "processors": processor["pretokenizers"]}
    metadata = check(
        tmp_path, trained_bpe(processor), {"bos_token": "<s>", "eos_token": "</s>"}, FILES_DECIDE
    )
    assert metadata.get(f"{KEY}add_bos_token") is True


def trained_unigram(**options: Any) -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=out,
        vocab_size=900,
        minloglevel=2,
        num_threads=1,
        **{"character_coverage": 0.99, "model_type": "unigram", **options},
    )
    return out.getvalue()


LLAMA_MODEL = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}


@pytest.mark.parametrize(
    ("name", "rules", "options", "ends"),
    [
        ("spiece.model", T5, {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, (None, 1)),
        ("sentencepiece.bpe.model", ENCODER, {}, (0, 2)),
        ("tokenizer.model", LLAMA, {}, (1, None)),
        ("tokenizer.model", LLAMA, LLAMA_MODEL, (1, None)),
    ],
)
def test_sentencepiece_models(
    tmp_path: Path,
    name: str,
    rules: VocabularyRules,
    options: dict[str, Any],
    ends: tuple[int | None, int | None],
) -> None:
    import sentencepiece

    model = trained_unigram(**options)
    (tmp_path / name).write_bytes(model)
    fairseq = name == "sentencepiece.bpe.model"
    first, last = ends
    names = {"bos_token": "<s>", "eos_token": "</s>"} if first is not None else {"eos_token": "</s>"}
    write_folder(tmp_path, tokenizer_config_json=names)
    metadata = load(tmp_path, config={}, rules=rules, n_vocab=904)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    ours = LlamaVocab(metadata, tmp_path / "vocab.gguf")

    def ids(text: str) -> list[int]:
        found = [3 if i == 0 else i + 1 for i in theirs.encode(text)] if fairseq else theirs.encode(text)
        return [*([] if first is None else [first]), *found, *([] if last is None else [last])]

    different = [text for text in TEXTS if ours.encode(text, ends=True) != ids(text)]
    ours.close()
    assert different == []
    assert _ends({key: metadata.get(key) for key in metadata}) == ends
