"""Small files of a model folder that take all memory or hours, block, or point elsewhere: one clear line each, within
150 MB and 2 seconds of CPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srd_rs.errors import ModelError
from srd_rs.families import describe
from srd_rs.vocab.tokenizer import from_metadata
from support import EXAMPLE, Run, srd
from test_family_goldens import GOLDENS, opened
from test_hub import bert

MAX_RSS = 150 * 10**6
MAX_CPU = 2.0
EMPTY_LISTS = "[" + "[]," * 5_000_000 + "[]]"


def dry_run(folder: Path) -> Run:
    run = srd(
        "convert",
        "--fast",
        folder,
        "-o",
        folder / "out.gguf",
        "--dry-run",
        "--no-axm",
        "--no-met",
        timeout=30,
    )
    assert run.peak_rss <= MAX_RSS, run.peak_rss
    assert run.cpu_s <= MAX_CPU, run.cpu_s
    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(EXAMPLE, folder)
    return folder


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refused(run: Run, *words: str) -> None:
    assert run.code == 1, run.stderr
    assert "internal" not in run.stderr and "Traceback" not in run.stderr
    assert all(word in run.stderr for word in words), run.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"global_head_dim": 2147483646},
        {"global_head_dim": 65536},
        {"head_dim": 2147483646},
        {"head_dim": 32768},
    ],
    ids=str,
)
def test_head_sizes_are_checked_before_tables_are_made(model: Path, change: dict[str, int]) -> None:
    edited(model / "config.json", lambda config: config.update(change))
    refused(dry_run(model))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_flood_of_lists_is_counted_before_it_is_parsed(model: Path, name: str) -> None:
    (model / name).write_text('{"a": ' + EMPTY_LISTS + "}")
    refused(dry_run(model), name, "values")


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
@pytest.mark.parametrize("value", ["x", 5, [1]], ids=str)
def test_rope_parameters_of_a_layer_type_are_an_object(model: Path, kind: str, value: Any) -> None:
    edited(model / "config.json", lambda config: config["rope_parameters"].update({kind: value}))
    refused(dry_run(model), "config.json", kind)


def test_a_subword_prefix_is_text(model: Path) -> None:
    edited(model / "tokenizer.json", lambda file: file["model"].update(continuing_subword_prefix=5))
    refused(dry_run(model), "tokenizer.json", "continuing_subword_prefix")


def test_many_ids_without_row_are_one_line(model: Path) -> None:
    ids = {f"<{i}>": 1_000_000 + i for i in range(150_000)}
    (model / "added_tokens.json").write_text(json.dumps(ids))
    run = dry_run(model)
    assert run.code == 0, run.stderr
    assert run.stderr.count("added_tokens") + run.stderr.count("added tokens") <= 2
    assert "150000" in run.stderr and len(run.stderr) < 2000


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_more_added_tokens_than_any_model_has_are_refused(model: Path, name: str) -> None:
    ids = range(1_000_000, 1_160_000)
    if name == "added_tokens.json":
        (model / name).write_text(json.dumps({f"<{i}>": i for i in ids}))
    elif name == "tokenizer.json":
        tokens = [{"id": i, "content": f"<{i}>"} for i in ids]
        edited(model / name, lambda config: config["added_tokens"].extend(tokens))
    else:
        tokens = {str(i): {"content": f"<{i}>"} for i in ids}
        edited(model / name, lambda config: config.update(added_tokens_decoder=tokens))
    refused(dry_run(model), name, "added tokens, and at most 150000 are read")


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "additional"])
def test_a_template_longer_than_any_is_refused(model: Path, place: str) -> None:
    """Published templates have up to 100 kB. A limit of 1 MiB leaves room, and one of 100 kB is taken."""
    (model / "chat_template.jinja").unlink(missing_ok=True)
    long = "{% if x %}" * 1_500_000
    if place == "chat_template.jinja":
        (model / place).write_text(long)
    elif place == "additional":
        (model / "additional_chat_templates").mkdir()
        for number in range(3):
            (model / "additional_chat_templates" / f"t{number}.jinja").write_text(long[:400_000])
    else:
        edited(model / place, lambda config: config.update(chat_template=long[:2_000_000]))
    words = ("larger than 1048576 bytes",) if place.endswith("jinja") else ("characters, more than 1048576",)
    refused(dry_run(model), *words)
    shutil.rmtree(model / "additional_chat_templates", ignore_errors=True)
    (model / "chat_template.jinja").write_text("{% if x %}x{% endif %}" * 5000)
    assert dry_run(model).code == 0


@pytest.mark.parametrize(
    "front",
    [
        "tags: [" + "'" * 1_000_000,
        "tags: [" + "a," * 500_000 + "]",
        "tags: " + "[" * 1_000_000,
        "a: &a [x]\n" + "".join(f"b{i}: [*a, *a]\n" for i in range(2000)),
        "license: \x00\x01",
        "- no\n- mapping",
        "license: mit\n" + "model-index:\n" + "- name: x\n" * 80_000,
    ],
    ids=lambda text: str(text)[:12],
)
def test_a_model_card_never_stops_a_conversion(model: Path, front: str) -> None:
    (model / "README.md").write_text(f"---\n{front}\n---\n# Title\n")
    run = dry_run(model)
    assert run.code == 0, run.stderr


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "config.json"])
def test_links_out_of_the_folder_are_not_followed(model: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text((model / name).read_text() if (model / name).exists() else "SECRET")
    for target in (secret, Path("/proc/self/environ"), Path("../secret")):
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(target)
        refused(dry_run(model), name, "link")


def _chain(model: Path, name: str, secret: Path) -> None:
    (model / "a").symlink_to(secret)
    (model / "b").symlink_to("a")
    (model / name).symlink_to("b")


def _folder(model: Path, name: str, secret: Path) -> None:
    (secret.parent / "there").mkdir()
    shutil.copy(secret, secret.parent / "there" / name)
    (model / "inside").symlink_to(secret.parent / "there")
    (model / name).symlink_to(f"inside/{name}")


def _blobs(model: Path, name: str, secret: Path) -> None:
    """A link into a folder that has the name of the cache's, but is not above the model."""
    (secret.parent / "far" / "blobs").mkdir(parents=True)
    shutil.copy(secret, secret.parent / "far" / "blobs" / name)
    (model / name).symlink_to(secret.parent / "far" / "blobs" / name)


def _blob(model: Path, name: str, secret: Path) -> None:
    """A link to a blob that is itself a link out of the cache."""
    (model.parent / "blobs").mkdir()
    (model.parent / "blobs" / name).symlink_to(secret)
    (model / name).symlink_to(f"../blobs/{name}")


FORMS: dict[str, Callable[[Path, str, Path], None]] = {
    "a chain of links": _chain,
    "a linked folder": _folder,
    "a detour": lambda model, name, secret: (model / name).symlink_to(f"../model/../{secret.name}"),
    "by /proc": lambda model, name, secret: (model / name).symlink_to(f"/proc/self/root{secret}"),
    "blobs elsewhere": _blobs,
    "a blob that is a link": _blob,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"])
def test_links_of_every_form_are_not_followed(model: Path, tmp_path: Path, name: str, form: str) -> None:
    if form == "by /proc" and not Path("/proc/self/root").exists():
        pytest.skip("this system has no /proc")
    secret = tmp_path / "secret"
    secret.write_text((model / name).read_text() if (model / name).exists() else "SECRET")
    (model / name).unlink(missing_ok=True)
    FORMS[form](model, name, secret)
    refused(dry_run(model), name, "link")


@pytest.mark.parametrize(
    ("name", "keys", "value", "words"),
    [
        ("jais-family", ["mup_embeddings_scale"], [], "embedding_scale is [], a number is expected"),
        ("llama-bidirectional", ["rope_scaling", "factor"], 1e308, "too large or too small for float32"),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, name: str, keys: list[str], value: object, words: str) -> None:
    """Each was an internal error. Every number of every golden was tried with 18 absurd values."""
    golden = json.loads((GOLDENS[0].parent / f"{name}.json").read_text(encoding="utf-8"))
    place = golden["config"]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(ModelError, match=re.escape(words)):
        describe(opened(golden, tmp_path))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "README.md"])
def test_a_link_to_itself_is_one_line(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(name)
    run = dry_run(model)
    assert run.code in (0, 1) and "internal" not in run.stderr and "Traceback" not in run.stderr, run.stderr


def test_a_link_of_additional_templates_is_not_followed(model: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.jinja").write_text("SECRET")
    (model / "additional_chat_templates").symlink_to(outside)
    refused(dry_run(model), "x.jinja", "link")


def test_the_card_behind_a_link_is_left_out(model: Path) -> None:
    (model / "README.md").unlink(missing_ok=True)
    (model / "README.md").symlink_to("/proc/self/environ")
    assert dry_run(model).code == 0


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--name"
    snapshot, blobs = repo / "snapshots" / "abc", repo / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, blobs / f"{path.name}-blob")
            (snapshot / path.name).symlink_to(f"../../blobs/{path.name}-blob")
    assert dry_run(snapshot).code == 0


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "README.md", "chat_template.jinja"])
def test_a_pipe_does_not_block(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    assert dry_run(model).code in (0, 1)


@pytest.mark.parametrize("path", ["1_Pooling\0", "\0", "../\0x", "a" * 5000])
def test_a_null_byte_in_a_path_is_one_line(tmp_path: Path, path: str) -> None:
    folder = bert(tmp_path / "bert")
    modules = [{"idx": 1, "type": "sentence_transformers.models.Pooling", "path": path}]
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(dry_run(folder))


def test_a_long_token_takes_no_square_of_its_length() -> None:
    tokens = ["<unk>", "a", "b", "ab", "a" * 300_000, "b" * 1_000_000]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 1, 1, 1, 1, 1],
        "tokenizer.ggml.scores": [0.0] * 6,
    }
    start = time.process_time()
    with pytest.raises(ModelError, match="1000000 characters"):
        from_metadata(metadata, "model", "Do something")
    assert time.process_time() - start < MAX_CPU
