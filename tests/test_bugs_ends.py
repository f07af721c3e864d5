"""Ends of text as files state them, held against llama.cpp: the tokens at which llama.cpp ends its turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import ModelError, SrdError
from srd_rs.metadata import Metadata
from srd_rs.vocab import load
from test_vocab_special import BOS, EOS, EXTRA, IM_END, ROWS, TEXTS, TOOL, TURN, ends, read
from vocab_tools import LlamaVocab, added, byte_bpe, byte_vocabulary, proto_piece, write_folder

LAST = ROWS - 1

#: Name -> config.json, tokenizer_config.json, generation_config.json, the ids at which the turn must end, and words of
#: the warnings, one for each line that is expected.
CASES: dict[str, tuple[Any, Any, Any, set[int], tuple[str, ...]]] = {
    "text in both": ({"eos_token_id": EOS}, {"eos_token": "</s>"}, {"eos_token_id": EOS}, {EOS}, ()),
    "object of an added token": (
        None,
        {
            "eos_token": {
                "__type": "AddedToken",
                "content": "<turn_end>",
                "lstrip": False,
                "normalized": True,
            }
        },
        None,
        {TURN},
        (),
    ),
    "null in both": (
        {"eos_token_id": None},
        {"eos_token": None},
        {"eos_token_id": None},
        {11},
        ("will stop at the token 11",),
    ),
    "null beside a list": (
        {"eos_token_id": None},
        {"eos_token": None},
        {"eos_token_id": [TURN, TOOL]},
        {TURN, TOOL},
        (),
    ),
    "list of one": ({"eos_token_id": [TURN]}, None, {"eos_token_id": [TURN]}, {TURN}, ()),
    "list with one twice": ({"eos_token_id": [TURN, TURN, EOS]}, None, None, {TURN, EOS}, ()),
    "list of lists": ({"eos_token_id": [[EOS]]}, None, None, {11}, ("will stop at the token 11",)),
    "text in place of an id": ({"eos_token_id": "257"}, None, None, {11}, ("will stop at the token 11",)),
    "object in place of an id": (
        {"eos_token_id": {"a": 1}},
        None,
        None,
        {11},
        ("will stop at the token 11",),
    ),
    "no number": ({"eos_token_id": 257.5}, {"eos_token": "</s>"}, None, {EOS}, ()),
    "the first token": ({"eos_token_id": 0}, None, None, {0}, ()),
    "equal to pad and bos": (
        {"eos_token_id": EOS, "pad_token_id": EOS, "bos_token_id": EOS},
        {"pad_token": "</s>"},
        None,
        {EOS},
        (),
    ),
    "top level before the text part": (
        {"eos_token_id": TURN, "text_config": {"eos_token_id": TOOL}},
        None,
        None,
        {TURN},
        (),
    ),
    "null over the text part": (
        {"eos_token_id": None, "text_config": {"eos_token_id": [TOOL, TURN]}},
        None,
        None,
        {TOOL, TURN},
        (),
    ),
    "text part of the thinker": (
        {"thinker_config": {"text_config": {"eos_token_id": TURN}}},
        None,
        None,
        {TURN},
        (),
    ),
    "text part of another name": ({"language_config": {"eos_token_id": TOOL}}, None, None, {TOOL}, ()),
    "generation before the text part": (
        {"text_config": {"eos_token_id": EOS}},
        None,
        {"eos_token_id": [TURN, TOOL]},
        {TURN, TOOL},
        (),
    ),
    "generation of other keys": ({"eos_token_id": TURN}, None, {"temperature": 0.6}, {TURN}, ()),
    "generation with a number below zero": ({"eos_token_id": TURN}, None, {"eos_token_id": -1}, {TURN}, ()),
    "one end in the tokenizer, another in generation": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>"},
        {"eos_token_id": TURN},
        {EOS, TURN},
        (),
    ),
    "three ends, one known by its text": (
        {"eos_token_id": [IM_END, TURN, TOOL]},
        {"eos_token": "</s>"},
        None,
        {EOS, IM_END, TURN, TOOL},
        (),
    ),
    "four ends": (
        {"eos_token_id": [EOS, TURN, TOOL, EXTRA]},
        None,
        None,
        {EOS, TURN, TOOL},
        ("no key for 1 more",),
    ),
    "a token of the vocabulary": ({"eos_token_id": [EOS, 256]}, None, None, {EOS, 256}, ()),
    "named token that is nowhere": (
        {"eos_token_id": EOS},
        {"eos_token": "<nowhere>"},
        None,
        {EOS, 257 + len(TEXTS)},
        ("'<nowhere>' (id 263)",),
    ),
    "two beyond the vocabulary": (
        {"eos_token_id": [ROWS, ROWS + 1, TURN]},
        None,
        None,
        {TURN},
        ("2 ids of eos tokens are beyond",),
    ),
    "ten thousand beyond the vocabulary": (
        {"eos_token_id": [EOS, *range(ROWS, ROWS + 10_000)]},
        None,
        None,
        {EOS},
        ("10000 ids of eos tokens are beyond",),
    ),
    "all tokens are ends": (
        {"eos_token_id": list(range(263))},
        {"eos_token": "</s>"},
        None,
        {EOS, 0, 1, IM_END},
        ("no key for 25",),
    ),
    "pad beyond the vocabulary": (
        {"eos_token_id": EOS, "pad_token_id": ROWS},
        None,
        None,
        {EOS},
        ("pad token's id 270 is beyond",),
    ),
    "bos beyond the vocabulary": (
        {"eos_token_id": EOS, "bos_token_id": 10**30},
        None,
        None,
        {EOS},
        ("bos token's id a huge integer is beyond",),
    ),
    "a role of the model's own": (
        {"eos_token_id": EOS},
        {"eot_token": "<turn_end>", "eom_token": "<tool_end>"},
        None,
        {EOS},
        (),
    ),
}


DECODER = {"added_tokens_decoder": {str(TURN): {"content": "<turn_end>", "special": True}}}
OBJECT = {"content": "<turn_end>", "lstrip": False}
#: Name -> config.json, tokenizer_config.json, generation_config.json, special_tokens_map.json, the eos, and the ids at
#: which the turn must end. The eos is that of the tokenizer of transformers 5.24.
WITH_MAP: dict[str, tuple[Any, Any, Any, Any, int, set[int]]] = {
    "map over the configuration": (
        None,
        {"eos_token": "</s>"},
        None,
        {"eos_token": "<turn_end>"},
        TURN,
        {TURN},
    ),
    "map of an object": (None, {"eos_token": "</s>"}, None, {"eos_token": OBJECT}, TURN, {TURN}),
    "map alone": (None, {}, None, {"eos_token": "<turn_end>"}, TURN, {TURN}),
    "map beside the list of added tokens": (
        None,
        {**DECODER, "eos_token": "</s>"},
        None,
        {"eos_token": "<turn_end>"},
        EOS,
        {EOS},
    ),
    "map beside an id": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>"},
        None,
        {"eos_token": "<turn_end>"},
        TURN,
        {TURN, EOS},
    ),
    "map beside ids": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>"},
        {"eos_token_id": [EOS, TOOL]},
        {"eos_token": "<turn_end>"},
        TURN,
        {TURN, EOS, TOOL},
    ),
    "null in the map": (None, {"eos_token": "</s>"}, None, {"eos_token": None}, EOS, {EOS}),
    "map of other roles": (None, {"eos_token": "</s>"}, None, {"pad_token": "<s>"}, EOS, {EOS}),
}
FORMS: dict[str, tuple[Any, Any, Any, tuple[Any, ...]]] = {
    "id in the configuration of the tokenizer": (None, {"eos_token_id": TURN}, None, (None, None, None)),
    "empty list": ({"eos_token_id": EOS}, {"eos_token": "</s>"}, {"eos_token_id": []}, (EOS, None, None)),
    "a fraction": ({"eos_token_id": EOS}, None, {"eos_token_id": 258.0}, (EOS, None, None)),
    "digits as text": ({"eos_token_id": EOS}, None, {"eos_token_id": "259"}, (EOS, None, None)),
    "texts to stop at": (
        {"eos_token_id": EOS},
        None,
        {"eos_token_id": EOS, "stop_strings": ["<turn_end>"]},
        (EOS, None, None),
    ),
    "a forced end": ({"eos_token_id": EOS}, None, {"forced_eos_token_id": TURN}, (EOS, None, None)),
    "made from config.json": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>"},
        {"_from_model_config": True, "eos_token_id": TURN},
        (EOS, TURN, None),
    ),
    "a truth value": ({"eos_token_id": EOS}, None, {"eos_token_id": True}, (EOS, None, None)),
    "generation inside config.json": (
        {"eos_token_id": EOS, "generation_config": {"eos_token_id": TURN}},
        None,
        None,
        (EOS, None, None),
    ),
    "another id than the text's": ({"eos_token_id": 2}, {"eos_token": "</s>"}, None, (EOS, 2, None)),
    "ChatML as a list": (
        {"eos_token_id": EOS},
        {"eos_token": "<|im_end|>"},
        {"eos_token_id": [IM_END, EOS]},
        (IM_END, EOS, None),
    ),
    "a plain token": (None, {"eos_token": "th"}, None, (256, None, None)),
    "a role as further special token": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>", "extra_special_tokens": {"eot_token": "<turn_end>"}},
        None,
        (EOS, None, None),
    ),
    "further special tokens": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>", "additional_special_tokens": ["<turn_end>"]},
        None,
        (EOS, None, None),
    ),
    "the token that begins": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>", "bos_token": "</s>"},
        None,
        (EOS, None, None),
    ),
    "other ends in another order": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>"},
        {"eos_token_id": [TOOL, TURN]},
        (EOS, TOOL, TURN),
    ),
    "bos among the ends": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>", "bos_token": "<s>"},
        {"eos_token_id": [BOS, EOS]},
        (EOS, BOS, None),
    ),
    "the first token among the ends": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>"},
        {"eos_token_id": [0, EOS]},
        (EOS, 0, None),
    ),
    "a list in a list": ({"eos_token_id": EOS}, None, {"eos_token_id": [[TURN]]}, (EOS, None, None)),
    "an object": ({"eos_token_id": EOS}, None, {"eos_token_id": {"0": TURN}}, (EOS, None, None)),
    "below zero in a list": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>"},
        {"eos_token_id": [-1, TURN]},
        (EOS, TURN, None),
    ),
    "pad that is an end": (
        {"eos_token_id": EOS},
        {"eos_token": "</s>"},
        {"eos_token_id": TURN, "pad_token_id": EOS},
        (EOS, TURN, None),
    ),
}


@pytest.mark.parametrize("name", WITH_MAP)
def test_the_map_of_special_tokens_counts_as_in_transformers(tmp_path: Path, name: str) -> None:
    """transformers reads special_tokens_map.json after a tokenizer_config.json that has no list of added tokens, and
    instead of nothing where there is such a list."""
    model, tokenizer, generation, mapping, eos, wanted = WITH_MAP[name]
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(mapping))
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer}
    metadata = read(tmp_path, model, tokenizer, generation)
    assert ends(metadata)[0] == eos
    assert {end for end in ends(metadata) if end is not None} == wanted
    if name == "null in the map":
        return  # transformers drops the eos, and then the model has none
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **(model or {})}))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).eos_token_id == eos


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_ends(tmp_path: Path, name: str) -> None:
    model, tokenizer, generation, wanted = FORMS[name]
    assert ends(read(tmp_path, model, tokenizer, generation)) == wanted


def vocabulary(metadata: Metadata, path: Path) -> set[int]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    llama = LlamaVocab(metadata, path)
    found = llama.ends()
    llama.close()
    return found


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_ends_its_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    model, tokenizer, generation, wanted, words = CASES[name]
    metadata = read(tmp_path, model, tokenizer, generation)
    assert len(caplog.messages) == len(words), caplog.messages
    assert all(word in line for word, line in zip(words, caplog.messages, strict=True))
    #: llama.cpp ends at these two by their text, whatever the files say.
    by_text = {EOS, IM_END}
    assert vocabulary(metadata, tmp_path / "vocab.gguf") - by_text == wanted - by_text
    assert wanted <= vocabulary(metadata, tmp_path / "vocab.gguf")


@pytest.mark.parametrize("name", CASES)
def test_transformers_stops_at_the_same(tmp_path: Path, name: str) -> None:
    """Where generation_config.json or config.json name ends, transformers stops at no others."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, tokenizer, generation, wanted, words = CASES[name]
    if words or not (model or generation) or "text part" in name or name == "no number":
        pytest.skip("transformers has no answer, or an error")
    read(tmp_path, model, tokenizer, generation)
    try:
        found = transformers.GenerationConfig.from_pretrained(tmp_path)
    except OSError:
        config = transformers.LlamaConfig.from_pretrained(tmp_path)
        found = transformers.GenerationConfig.from_model_config(config)
    stops = found.eos_token_id
    if isinstance(stops, (int, list)):
        assert {*([stops] if isinstance(stops, int) else stops)} - {-1} <= wanted


@pytest.mark.parametrize(
    "broken", ["{", "[]", "\ufeff{}", '{"eos_token_id": 1, "eos_token_id": 2}', "null", "\x00"]
)
def test_a_broken_generation_config_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    (tmp_path / "generation_config.json").write_text(broken)
    assert ends(read(tmp_path, {"eos_token_id": TURN})) == (TURN, None, None)
    assert len(caplog.messages) == 1 and "passed over" in caplog.text and "generation_config" in caplog.text


@pytest.mark.parametrize("where", ["list", "generation", "text part"])
def test_one_end_of_several_without_a_token_is_refused(tmp_path: Path, where: str) -> None:
    listed = {"eos_token_id": [EOS, TURN, LAST]}
    files = {
        "list": (listed, None, None),
        "generation": ({"eos_token_id": EOS}, None, listed),
        "text part": ({"text_config": listed}, None, None),
    }
    with pytest.raises(ModelError, match=str(LAST)):
        read(tmp_path, *files[where])


HARMONY = ("<|return|>", "<|call|>", "<|end|>")
FLUSH = ("<|calls|>", "<|flush|>", "<|end|>")


@pytest.mark.parametrize(
    ("texts", "end"), [(HARMONY, 2), (FLUSH, 2), (("<|tool_response>", "<eos>", "</s>"), 2), (HARMONY[1:], 1)]
)
def test_an_end_that_llama_cpp_does_not_take_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, texts: tuple[str, ...], end: int
) -> None:
    tokens = [added(257 + i, text, special=True) for i, text in enumerate(texts)]
    metadata = read(tmp_path, {"eos_token_id": 257 + end}, tokens=tokens)
    stops = 257 + end in vocabulary(metadata, tmp_path / "vocab.gguf")
    assert stops == (len(texts) == 2)
    assert ("does not stop at" in caplog.text) is not stops


def test_the_default_of_each_model_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A GGUF cannot say that a model has no end: llama.cpp takes an id of its own."""
    base = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((c, -1.0, 1) for c in "abcdefghijkl")]
    model = b"".join(proto_piece(*piece) for piece in base)
    metadata = load(write_folder(tmp_path / "spm", tokenizer_model=model), config={}, n_vocab=len(base))
    assert "stop at the token 2, which is '</s>'" in caplog.text
    assert vocabulary(metadata, tmp_path / "a.gguf") == {2}
    caplog.clear()
    vocab, merges = byte_vocabulary(("t", "h"))
    folder = write_folder(tmp_path / "bpe", tokenizer_json=byte_bpe(vocab, merges))
    metadata = load(folder, config={}, n_vocab=257)
    assert "stop at the token 11" in caplog.text
    assert vocabulary(metadata, tmp_path / "b.gguf") == {11}


@pytest.mark.parametrize("value", [{"content": 5}, {"content": ""}, {}, [], 5, True, "", ["</s>"]])
def test_an_end_that_is_no_text_is_open(tmp_path: Path, value: Any) -> None:
    assert ends(read(tmp_path, {"eos_token_id": TURN}, {"eos_token": value})) == (TURN, None, None)


@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", [10**400, -(10**400), 1e400, [1e400], [None], [[]], {"0": 0}, "\ud800"])
def test_odd_ids_are_one_line_or_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, value: Any
) -> None:
    config = {"eos_token_id": EOS, key: value} if key != "eos_token_id" else {key: [value, EOS]}
    try:
        found = ends(read(tmp_path, json.loads(json.dumps(config))))
    except SrdError as error:
        assert "\n" not in str(error)
    else:
        assert found[0] == EOS and len(caplog.messages) <= 1
