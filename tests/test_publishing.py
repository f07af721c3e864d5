"""Model cards, Modelfiles and uploads: from the metadata of the files, with the command line on top."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import yaml

import srd_rs
from srd_rs import hub
from srd_rs.errors import FormatError, SrdIOError, UsageError
from support import EXAMPLE, srd


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A GGUF of a chat model: sampling, a token that ends a turn, license and languages."""
    path = tmp_path / "My Chat-Q8_0.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("My Chat")
    writer.add_license("apache-2.0")
    writer.add_languages(["en", "de"])
    writer.add_block_count(1)
    writer.add_file_type(7)
    writer.add_token_list(["<eos>", '<turn "x">', "a"])
    writer.add_eos_token_id(0)
    writer.add_eot_token_id(1)
    writer.add_float32("general.sampling.temp", 0.7)
    writer.add_int32("general.sampling.top_k", 64)
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_modelfile(chat: Path) -> None:
    assert srd_rs.modelfile(chat).splitlines() == [
        "# ollama create my-chat-q8_0 -f My Chat-Q8_0.Modelfile",
        "FROM ./My Chat-Q8_0.gguf",
        "PARAMETER temperature 0.7",
        "PARAMETER top_k 64",
        'PARAMETER stop "<turn \\"x\\">"',
    ]
    run = srd("modelfile", chat)
    written = chat.with_suffix(".Modelfile")
    assert run.code == 0 and written.read_text() == srd_rs.modelfile(chat) and str(written) in run.stdout
    again = srd("modelfile", chat)
    assert again.code == 2 and "--overwrite" in again.stderr
    assert srd("modelfile", chat, "-f", "--json").json["output"] == str(written)
    other = chat.with_name("x.Modelfile")
    assert srd("modelfile", chat, "-o", other).code == 0 and other.exists()


@pytest.mark.parametrize("template", ["<|im_start|>{{ m.role }}<|im_end|>", "### {{ m.role }}"])
def test_the_turns_in_a_modelfile(tmp_path: Path, template: str) -> None:
    """Ollama runs no Jinja, so the turns are written as its own template, or it is said that they are missing."""
    writer = gguf.GGUFWriter(tmp_path / "c.gguf", "llama")
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    text = srd_rs.modelfile(tmp_path / "c.gguf")
    if "im_start" in template:
        assert text.endswith('{{ end }}\n{{- end }}<|im_start|>assistant\n"""\n')
        assert 'TEMPLATE """{{- range .Messages }}\n{{- if eq .Role "system" }}<|im_start|>system\n' in text
    else:
        assert "TEMPLATE " not in text.replace("a TEMPLATE here", "") and "were not recognized" in text
    assert srd("modelfile", tmp_path / "c.gguf").code == 0
    assert (tmp_path / "c.Modelfile").read_text() == text


def test_no_modelfile_of_a_split_gguf(tmp_path: Path, example_q4_k_m: Path) -> None:
    srd_rs.convert(example_q4_k_m, tmp_path / "m.gguf", effort="fast", split_max_size=4_000_000, met=False)
    with pytest.raises(UsageError, match="split"):
        srd_rs.modelfile(next(iter(sorted(tmp_path.glob("*.gguf")))))


def front_matter(card: str) -> dict[str, Any]:
    _, text, _ = card.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_a_card(chat: Path, example_q4_k_m: Path) -> None:
    card = srd_rs.card(chat, base_model="org/name")
    assert front_matter(card) == {
        "base_model": "org/name", "base_model_relation": "quantized", "library_name": "gguf",
        "license": "apache-2.0", "language": ["en", "de"], "tags": ["gguf", "llama.cpp", "srd-rs"],
    }  # fmt: skip
    assert "# My Chat GGUF" in card and "| My Chat-Q8_0.gguf | Q8_0 |" in card and "not recorded" in card
    assert "## Quality" not in card and "llama-cli -m My Chat-Q8_0.gguf" in card
    with pytest.raises(UsageError, match="no files"):
        srd_rs.card([])


def test_a_card_says_how_the_weights_were_made(tmp_path: Path, example_bf16: Path) -> None:
    key = tmp_path / "key"
    srd_rs.keygen(key)
    report = srd_rs.convert(
        example_bf16, tmp_path / "m.gguf", calibrate="random", calibrate_tokens=64, axm=True, key_file=key
    )
    assert report.container is not None
    card = srd_rs.card(report.output)
    assert "SRD (Stochastic Residual Dithering), calibrated on 512 tokens of random" in card
    assert f"| m.gguf | Q4_K_M | {report.file_bytes / 1e6:.2f} MB | {report.plan.bpw:.2f} |" in card
    assert report.container.fingerprint in card and "base_model" not in card


def test_a_card_with_quality(tmp_path: Path, chat: Path) -> None:
    score = {"value": 12.5, "error": 0.25}
    entry = {"path": str(chat), "perplexity": score, "divergence": {"kld": score, "same_top": score}}
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.json").write_text(
        json.dumps({"files": [entry], "n_chunks": 40, "text": "wiki.test.raw"})
    )
    card = srd_rs.card(chat, report=report)
    assert "| My Chat-Q8_0.gguf | 12.5 ± 0.25 | 12.5 ± 0.25 | 12.5 ± 0.25 |" in card
    assert "40 chunks of wiki.test.raw" in card
    other = chat.with_name("other.gguf")
    shutil.copy(chat, other)
    with pytest.raises(UsageError, match=r"no scores of other\.gguf"):
        srd_rs.card([chat, other], report=report)
    (report / "report.json").write_text("{}")
    with pytest.raises(FormatError, match="no report"):
        srd_rs.card(chat, report=report)


def test_the_command_card(tmp_path: Path, chat: Path) -> None:
    run = srd("card", chat, "--base-model", "org/name", cwd=tmp_path)
    assert run.code == 0 and (tmp_path / "README.md").read_text() == srd_rs.card(chat, base_model="org/name")
    assert srd("card", chat, cwd=tmp_path).code == 2
    assert srd("card", chat, "-f", "-o", "card.md", "--json", cwd=tmp_path).json["output"] == "card.md"
    assert srd("card", chat, "--report", tmp_path / "nothing", "-f", cwd=tmp_path).code == 1
    assert srd("card", tmp_path / "README.md", cwd=tmp_path).code == 2


class Api:
    """Stands for the hub: keeps what is uploaded."""

    seen: list[Any]
    failure: Exception | None = None

    def __init__(self) -> None:
        Api.seen = []

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        if Api.failure is not None:
            raise Api.failure
        Api.seen.append((repo, private, exist_ok))

    def create_commit(self, repo: str, operations: list[Any], *, commit_message: str) -> Any:
        Api.seen.append((repo, {o.path_in_repo: Path(o.path_or_fileobj) for o in operations}, commit_message))
        return type("Commit", (), {"commit_url": "https://huggingface.co/org/name/commit/1"})


def test_push(monkeypatch: pytest.MonkeyPatch, chat: Path, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "failure", None)
    card = tmp_path / "card.md"
    card.write_text("card")
    address = srd_rs.push("org/name", [chat], card=card, private=True, message="hello")
    assert address.endswith("/commit/1")
    assert Api.seen == [
        ("org/name", True, True),
        ("org/name", {chat.name: chat, "README.md": card}, "hello"),
    ]
    for repo, files in (
        ("name", [chat]),
        ("hf://org/name", [chat]),
        ("org/name", []),
        ("org/name", [chat, chat]),
    ):
        with pytest.raises(UsageError):
            srd_rs.push(repo, files)
    with pytest.raises(UsageError, match="no such file"):
        srd_rs.push("org/name", [tmp_path / "nothing"])
    monkeypatch.setattr(Api, "failure", OSError("the cable is loose"))
    with pytest.raises(SrdIOError, match="the cable is loose"):
        srd_rs.push("org/name", [chat])


def test_push_on_the_command_line(tmp_path: Path, chat: Path) -> None:
    """Without a hub the command ends with one line; every option is taken."""
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_x"}
    card = tmp_path / "card.md"
    card.write_text("card")
    run = srd("push", "org/name", chat, "--card", card, "--private", "--message", "x", "--json", env=env)
    assert run.code == 1 and "the upload failed" in run.json["error"]["message"]
    run = srd("push", "name", chat, env=env)
    assert run.code == 2 and "ORG/NAME" in run.stderr and run.stderr.count("\n") == 1


def test_names_of_repositories() -> None:
    assert hub.is_id("org/name.v2-GGUF") and not any(
        map(hub.is_id, ("org", "org/name@main", "hf://org/name", "a/b/c"))
    )


def test_a_conversion_writes_card_and_modelfile(tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    run = srd("convert", "--fast", EXAMPLE, "-o", output, "--card", "--modelfile", "--no-axm")
    assert run.code == 0, run.stderr
    assert (tmp_path / "m.md").read_text() == srd_rs.card(output)
    assert (tmp_path / "m.Modelfile").read_text() == srd_rs.modelfile(output)
    assert "ollama create m -f m.Modelfile" in (tmp_path / "m.md").read_text()
    (tmp_path / "m.Modelfile").rename(tmp_path / "elsewhere")
    assert "ollama" not in srd_rs.card(output) and "llama-cli -m m.gguf" in srd_rs.card(output)
    (tmp_path / "elsewhere").rename(tmp_path / "m.Modelfile")
    assert (
        f"ollama create m -f {tmp_path / 'm.Modelfile'}" in run.stdout
        and str(tmp_path / "m.md") in run.stdout
    )
    output.unlink()
    refused = srd("convert", "--fast", EXAMPLE, "-o", output, "--card", "--no-axm")
    assert refused.code == 2 and "m.md" in refused.stderr and not output.exists()
    again = srd("convert", "--fast", EXAMPLE, "-o", output, "--card", "-f", "--no-axm", "--json").json
    assert again["card"] == str(tmp_path / "m.md") and again["modelfile"] is None
    split = srd(
        "convert", "--fast", EXAMPLE, "-o", tmp_path / "s.gguf", "--split-max-size", "4MB", "--modelfile"
    )
    assert split.code == 2 and "split" in split.stderr
    report = srd_rs.convert(EXAMPLE, tmp_path / "p.gguf", effort="fast", card=True, modelfile=True)
    assert report.card == tmp_path / "p.md" and report.modelfile == tmp_path / "p.Modelfile"
