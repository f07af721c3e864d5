"""Keys of the metadata that the user states: `--metadata` and `--override-kv`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from srd_rs import _core, overriding
from srd_rs.errors import UsageError
from support import EXAMPLE, srd

#: The key of the context in the example, which has 8192 tokens there.
CONTEXT = "gemma4.context_length"
ADDED = {"general.author": "me", "general.tags": ["a", "b"], "my.count": 3, "my.share": 0.5, "my.flag": True}
CHANGED = {CONTEXT: 4096, "gemma4.rope.freq_base": 20000, "tokenizer.ggml.add_bos_token": False}


def entries(path: Path) -> dict[str, tuple[str, Any]]:
    return {key: (kind, value) for key, kind, value in _core.read_gguf(path)["metadata"]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "model.gguf"
    srd_rs.convert(EXAMPLE, path, quant="F16", met=False)
    return path


@pytest.mark.parametrize("source", ["checkpoint", "gguf"])
def test_keys_are_replaced_and_added(plain: Path, tmp_path: Path, source: str) -> None:
    """A replaced key keeps its kind and its place, and no other key changes."""
    model = EXAMPLE if source == "checkpoint" else plain
    srd_rs.convert(model, tmp_path / "before.gguf", quant="Q8_0", effort="fast")
    srd_rs.convert(model, tmp_path / "after.gguf", quant="Q8_0", effort="fast", metadata={**ADDED, **CHANGED})
    before, after = entries(tmp_path / "before.gguf"), entries(tmp_path / "after.gguf")
    assert after["general.author"] == ("STRING", "me") and after["general.tags"][0] == "ARRAY[STRING]"
    assert list(after["general.tags"][1]) == ["a", "b"]
    kinds = [after[key][0] for key in ("my.count", "my.share", "my.flag")]
    assert kinds == ["UINT32", "FLOAT32", "BOOL"]
    assert after[CONTEXT] == ("UINT32", 4096) != before[CONTEXT]
    assert after["gemma4.rope.freq_base"] == ("FLOAT32", 20000.0) != before["gemma4.rope.freq_base"]
    assert after["tokenizer.ggml.add_bos_token"] == ("BOOL", False)
    others = [key for key in before if key not in (*ADDED, *CHANGED, "srd.options")]
    assert all(after[key] == before[key] for key in others)
    assert [key for key in after if key in before] == [key for key in before if key in after]


@pytest.mark.parametrize("source", ["checkpoint", "gguf"])
def test_verify_makes_the_file_again(plain: Path, tmp_path: Path, source: str) -> None:
    """The keys are recorded, so that the GGUF is made again; also where it is renamed, and its name is a stated one."""
    model, path = EXAMPLE if source == "checkpoint" else plain, tmp_path / "made.gguf"
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({**ADDED, "general.name": "Another"}), encoding="utf-8")
    stated = ("--metadata", keys, "--override-kv", f"{CONTEXT}=int:4096", "--override-kv", "my.count=int:4")
    done = srd("convert", model, "-o", path, "-q", "Q8_0", "--fast", *stated)
    assert done.code == 0, done.stderr
    found = entries(path)
    assert found["general.name"] == ("STRING", "Another") and found["my.count"] == ("UINT32", 4)
    assert json.loads(found["srd.options"][1])["metadata"][CONTEXT] == 4096
    again = srd("verify", "--rebuild", path, "--from", model, "--json")
    assert again.code == 0 and again.json["equal"] is True, again.stdout
    srd_rs.convert(model, tmp_path / "other.gguf", quant="Q8_0", effort="fast", metadata=ADDED)
    assert (tmp_path / "other.gguf").read_bytes() != path.read_bytes()


REFUSED = {
    "general.architecture=str:llama": "srd-rs writes this key itself",
    "general.file_type=int:1": "srd-rs writes this key itself",
    "srd.seed=int:1": "srd-rs writes this key itself",
    "gemma4.block_count=int:3": "describes the tensors",
    "gemma4.attention.head_count=int:3": "describes the tensors",
    "llama.context_length=int:4096": "Write gemma4.context_length",
    "tokenizer.ggml.model=str:gpt2": "describes the tokens",
    "tokenizer.ggml.bos_token_id=int:100000000": "one of the",
    "tokenizer.ggml.pre=str:nonsense": "describes the tokens",
    "gemma4.context_length=str:4096": "has the type UINT32",
    "gemma4.context_length=float:4096.5": "has the type UINT32",
    "gemma4.context_length=int:-1": "has the type UINT32",
    "gemma4.context_length=int:0": "above 0",
    "gemma4.rope.freq_base=float:nan": "finite number",
    "gemma4.rope.freq_base=float:1e39": "has the type FLOAT32",
    "gemma4.rope.scaling.type=str:dynamic": "one of none, linear, yarn, longrope",
    "general.name=int:5": "has the type STRING",
    "general.author=int:5": "has the type STRING",
    "gemma4.attention.sliding_window=int:0": "above 0",
    "gemma4.pooling_type=int:4": "0 (none)",
    "gemma4.expert_used_count=int:2": "the model has 0 experts",
    "my.count=int:18446744073709551616": "does not fit",
    "tokenizer.ggml.tokens=str:a": "describes the tokens",
    "general.name=me": "is not of the form KEY=TYPE:VALUE",
    "general.name": "is not of the form KEY=TYPE:VALUE",
    "my.count=int:1.5": "is no int",
    "my.flag=bool:yes": "is no bool",
    "nodots=int:1": "a key has words with dots",
    "Any Key.x=int:1": "a key has words with dots",
}


def test_objects_are_refused_and_their_values_have_keys() -> None:
    """The base models that llama.cpp's converter takes as a list of objects are keys of a GGUF."""
    for value in ([{"name": "Base"}], {"name": "Base"}):
        with pytest.raises(
            UsageError, match=r"An object has a key for each value, such as general\.base_model\.0\.name"
        ):
            srd_rs.plan(EXAMPLE, effort="fast", metadata={"general.base_models": value})
    keys = {"general.base_model.count": 1, "general.base_model.0.name": "Base"}
    srd_rs.plan(EXAMPLE, effort="fast", metadata=keys)


@pytest.mark.parametrize("stated", REFUSED)
def test_keys_that_would_make_a_wrong_file_are_refused(tmp_path: Path, stated: str) -> None:
    done = srd("convert", EXAMPLE, "-o", tmp_path / "o.gguf", "--fast", "--override-kv", stated)
    assert done.code == 2 and REFUSED[stated] in done.stderr, done.stderr
    assert done.stderr.count("\n") <= 3 and not list(tmp_path.iterdir())


WRONG_FILES = {
    "[1]": "no JSON object of keys",
    "{": "no JSON object of keys",
    '{"general.author": null}': "general.author",
    '{"general.author": {"a": 1}}': "general.author",
    '{"general.tags": []}': "general.tags",
    '{"general.tags": [1]}': "general.tags",
}


@pytest.mark.parametrize("text", WRONG_FILES)
def test_files_of_keys_that_are_wrong(tmp_path: Path, text: str) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(text, encoding="utf-8")
    done = srd("convert", EXAMPLE, "-o", tmp_path / "o.gguf", "--fast", "--metadata", keys)
    assert done.code == 2 and WRONG_FILES[text] in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "o.gguf").exists()


def test_a_file_of_keys_that_is_not_there(tmp_path: Path) -> None:
    done = srd("convert", EXAMPLE, "--fast", "--metadata", "nowhere.json", cwd=tmp_path)
    assert done.code in (1, 2) and done.stderr.startswith("error: ") and "nowhere.json" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_the_file_of_keys_may_be_a_link_and_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    (tmp_path / "far" / "keys.json").write_text('{"general.author": "me"}')
    link, pipe = tmp_path / "near" / "keys.json", tmp_path / "near" / "pipe"
    link.symlink_to(tmp_path / "far" / "keys.json")
    os.mkfifo(pipe)
    done = srd("convert", EXAMPLE, "--fast", "--dry-run", "--metadata", link)
    assert done.code == 0, done.stderr
    done = srd("convert", EXAMPLE, "--fast", "--dry-run", "--metadata", pipe)
    assert done.code == 2 and "this is no JSON object of keys and values" in done.stderr


def test_a_stated_key_and_the_option_for_it_contradict_each_other(tmp_path: Path) -> None:
    done = srd(
        "convert", EXAMPLE, "--fast", "--name", "x", "--override-kv", "general.name=str:y", cwd=tmp_path
    )
    assert done.code == 2 and "--name" in done.stderr
    with pytest.raises(UsageError, match="dictionary"):
        srd_rs.ConvertOptions(metadata=["general.name"])  # type: ignore[arg-type]
    assert srd_rs.ConvertOptions(metadata={}).metadata is None


def test_number_of_experts() -> None:
    """No more experts can be used than there are."""
    model = [("general.architecture", "STRING", "qwen3moe"), ("qwen3moe.expert_count", "UINT32", 8)]
    found = overriding.replaced({"qwen3moe.expert_used_count": 8}, model, 10)
    assert found.entries() == [("qwen3moe.expert_used_count", "UINT32", 8)]
    with pytest.raises(UsageError, match="has 8 experts"):
        overriding.replaced({"qwen3moe.expert_used_count": 9}, model, 10)
    with pytest.raises(UsageError, match="has 0 experts"):
        overriding.replaced({"qwen3moe.expert_used_count": 1}, model[:1], 10)


def test_a_calibration_with_other_keys_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that changes how the model runs makes a calibration of its own; the name of the author does not."""
    monkeypatch.setenv("SRD_CACHE", str(tmp_path / "cache"))
    how: dict[str, Any] = {"calibrate": "random", "calibrate_tokens": 64, "calibrate_block": 256}

    def made(name: str, **keys: Any) -> tuple[bool, str]:
        path = tmp_path / f"{name}.gguf"
        report = srd_rs.convert(EXAMPLE, path, metadata=keys, met=False, **how)
        return report.calibration_found, entries(path)["srd.calibration.digest"][1]

    first = made("plain")
    assert not first[0]
    assert made("named", **{"general.author": "me"}) == (True, first[1])
    found, digest = made("run", **{"gemma4.rope.freq_base": 500.0})
    assert not found and digest != first[1]
