"""The CycloneDX documents follow the schema of the specification, and say what the files are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from local_hub import COMMIT, Hub, serving
from srd_rs import _core, hub, materials
from srd_rs.errors import FormatError, UsageError
from support import EXAMPLE, srd, write_adapter

validation = pytest.importorskip(
    "cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed: no document was validated"
)
from cyclonedx.schema import SchemaVersion  # noqa: E402


def check(document: dict[str, Any]) -> None:
    """The schema, and that every reference names something."""
    error = validation.JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(document))
    assert error is None, error
    refs: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            refs.extend([value["bom-ref"]] if "bom-ref" in value else [])
            list(map(walk, value.values()))
        elif isinstance(value, list):
            list(map(walk, value))

    walk(document)
    assert len(refs) == len(set(refs))
    for entry in document["dependencies"]:
        assert {entry["ref"], *entry.get("dependsOn", [])} <= set(refs)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hash_of(component: dict[str, Any]) -> str:
    (found,) = component["hashes"]
    assert found["alg"] == "SHA-256"
    return str(found["content"])


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {p["name"]: p["value"] for p in component["properties"]}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bom") / "m.gguf"
    tokens = {"calibrate_tokens": 64, "calibrate_block": 256}
    report = srd_rs.convert(EXAMPLE, path, effort="srd", calibrate="builtin", seed=3, bom=True, **tokens)
    assert report.bom == path.with_name("m.cdx.json")
    return path


def test_a_conversion_writes_it(gguf: Path) -> None:
    document = json.loads(gguf.with_name("m.cdx.json").read_text())
    check(document)
    assert document == srd_rs.bom(gguf, EXAMPLE)
    component = document["metadata"]["component"]
    assert component["type"] == "machine-learning-model" and hash_of(component) == sha256(gguf)
    said = properties(component)
    metadata = srd_rs.open(gguf).metadata
    assert said["srd-rs:method"] == "srd" and said["srd-rs:seed"] == "3" and said["srd-rs:mix"] == "Q4_K_M"
    for key in ("source.digest", "calibration.digest", "calibration.tokens", "options"):
        assert said["srd-rs:" + key.replace(".", "-")] == str(metadata[f"srd.{key}"])
    (base,) = component["pedigree"]["ancestors"]
    files = {f["name"]: hash_of(f) for f in base["components"]}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(files)
    assert files == {name: sha256(EXAMPLE / name) for name in files}
    (text,) = document["components"]
    bundled = __import__("srd_rs.calibration").calibration.read_text("builtin")[1]
    assert text["name"] == "builtin" and hash_of(text) == hashlib.sha256(bundled).hexdigest()
    card = component["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": text["bom-ref"]}]
    types = {p["name"].rpartition(":")[2]: p["value"] for p in card["properties"]}
    assert set(types) == {t.type for t in srd_rs.inspect(gguf).tensors}
    tool = document["metadata"]["tools"]["components"][0]
    assert (tool["name"], tool["version"]) == ("srd-rs", srd_rs.__version__)


def test_other_files_give_another_document(gguf: Path, tmp_path: Path) -> None:
    one = srd_rs.bom(gguf)
    check(one)
    assert one == srd_rs.bom(gguf) and "pedigree" not in one["metadata"]["component"]
    other = srd_rs.convert(EXAMPLE, tmp_path / "o.gguf", quant="Q8_0", effort="fast").output
    two = srd_rs.bom(other, gguf)
    check(two)
    assert two["serialNumber"] != one["serialNumber"] and "components" not in two
    (base,) = two["metadata"]["component"]["pedigree"]["ancestors"]
    assert hash_of(base) == sha256(gguf)


def test_a_split_gguf(tmp_path: Path) -> None:
    report = srd_rs.convert(
        EXAMPLE, tmp_path / "s.gguf", quant="BF16", effort="fast", split_max_size=5 << 20, bom=True
    )
    document = json.loads(report.bom.read_text())  # type: ignore[union-attr]
    check(document)
    files = {f["name"]: hash_of(f) for f in document["metadata"]["component"]["components"]}
    assert files == {path.name: sha256(path) for path in report.outputs} and len(files) > 1


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ({"general.license": "apache-2.0"}, {"id": "Apache-2.0"}),
        ({"general.license": "cc-by-nc-4.0"}, {"id": "CC-BY-NC-4.0"}),
        ({"general.license": "llama3.2"}, {"name": "llama3.2"}),
        (
            {
                "general.license": "other",
                "general.license.name": "gemma terms",
                "general.license.link": "https://ai.google.dev/gemma/terms",
            },
            {"name": "gemma terms", "url": "https://ai.google.dev/gemma/terms"},
        ),
        ({"general.license": "other", "general.license.link": "LICENSE"}, {"name": "other"}),
        ({}, None),
    ],
)
def test_licences(gguf: Path, licence: dict[str, str], wanted: dict[str, str] | None) -> None:
    found = materials._licences(licence)
    assert found == ({} if wanted is None else {"licenses": [{"license": wanted}]})
    document = srd_rs.bom(gguf)
    document["metadata"]["component"] |= found
    check(document)


def test_every_known_licence_is_one_of_the_schema(gguf: Path) -> None:
    document = srd_rs.bom(gguf)
    for name in materials._LICENCES:
        document["metadata"]["component"] |= materials._licences({"general.license": name})
        check(document)


def test_a_model_of_the_hub_has_its_commit(gguf: Path) -> None:
    source = hub.Source(EXAMPLE, "name", "org/name", f"org/name@{'a' * 40}")
    document = srd_rs.bom(gguf, source)
    check(document)
    (base,) = document["metadata"]["component"]["pedigree"]["ancestors"]
    assert base["version"] == "a" * 40 and base["purl"] == f"pkg:huggingface/org/name@{'a' * 40}"


def test_a_streamed_model_has_the_hashes_that_the_hub_states(
    tmp_path: Path,
) -> None:
    args = ("convert", "org/streamed", "--stream", "--fast", "--bom", "-o", tmp_path / "m.gguf", "--no-met")
    with serving(tmp_path / "hf", network=True) as env:
        Hub.folders["org/streamed"] = EXAMPLE
        done = srd(*args, env=env, cwd=tmp_path)
    assert done.code == 0, done
    document = json.loads((tmp_path / "m.cdx.json").read_text())
    check(document)
    (base,) = document["metadata"]["component"]["pedigree"]["ancestors"]
    whole = srd_rs.bom(tmp_path / "m.gguf", EXAMPLE)["metadata"]["component"]["pedigree"]["ancestors"][0]
    assert base["name"] == "org/streamed" and base["version"] == COMMIT
    hashes = [{file["name"]: hash_of(file) for file in of["components"]} for of in (base, whole)]
    assert hashes[0] == hashes[1] and "model.safetensors" in hashes[0] and hash_of(base) == hash_of(whole)


def test_no_weights_are_downloaded_whose_hash_the_hub_states(gguf: Path, tmp_path: Path) -> None:
    """Small files of weights are in git, without a hash: such a file is downloaded."""
    (whole,) = srd_rs.bom(gguf, EXAMPLE)["metadata"]["component"]["pedigree"]["ancestors"]
    for number, in_git in enumerate([set[str](), {"model.safetensors"}]):
        with serving(tmp_path / str(number), network=True) as env:
            Hub.folders["org/model"], Hub.in_git = EXAMPLE, {*in_git}
            made = srd("bom", gguf, "--from", "org/model", "-o", tmp_path / f"{number}.json", env=env)
            fetched, sent = {*Hub.fetched}, Hub.sent
        assert made.code == 0, made
        size = (EXAMPLE / "model.safetensors").stat().st_size
        assert "config.json" in fetched and sent == (size if in_git else 0)
        document = json.loads((tmp_path / f"{number}.json").read_text())
        check(document)
        (base,) = document["metadata"]["component"]["pedigree"]["ancestors"]
        assert hash_of(base) == hash_of(whole) and base["version"] == COMMIT
        stated = {file["name"] for file in base["components"] if "srd-rs:hash" in properties(file)}
        assert stated == {"model.safetensors"} - in_git


def test_a_file_without_a_known_hash_has_none(tmp_path: Path, gguf: Path) -> None:
    weights = (("model.safetensors", 5, None),)
    remote = _core.RemoteFiles(
        "s3://b/m", [("model.safetensors", "http://127.0.0.1:9/x", 5, None)], None, None
    )
    document = srd_rs.bom(gguf, hub.Source(tmp_path, "m", remote=remote, weights=weights))
    check(document)
    (base,) = document["metadata"]["component"]["pedigree"]["ancestors"]
    (file,) = base["components"]
    assert "hashes" not in base and "hashes" not in file and file["name"] == "model.safetensors"


def test_merged_adapters_are_ancestors(tmp_path: Path) -> None:
    adapter = tmp_path / "mine"
    write_adapter(adapter)
    report = srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", effort="fast", lora=[adapter], bom=True, met=False)
    assert report.bom is not None
    document = json.loads(report.bom.read_text())
    check(document)
    component = document["metadata"]["component"]
    base, merged = component["pedigree"]["ancestors"]
    assert base["name"] == EXAMPLE.name and merged["name"] == "mine"
    wanted = {path.name: sha256(path) for path in adapter.iterdir()}
    assert {file["name"]: hash_of(file) for file in merged["components"]} == wanted
    assert properties(component)["srd-rs:lora"] == "mine"
    run = srd("bom", report.output, "--from", EXAMPLE, "--lora", adapter, "--json")
    assert json.loads(run.stdout) == document
    other = srd("bom", report.output, "--from", EXAMPLE, "--lora", EXAMPLE, "--json")
    assert other.code == 2 and "with the adapters 'mine'" in other.json["error"]["message"]


def test_scores_of_a_report(gguf: Path, tmp_path: Path) -> None:
    estimate = {"value": 12.5, "error": 0.25}
    entry = {"path": f"/somewhere/{gguf.name}", "perplexity": estimate, "divergence": None}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"n_chunks": 4, "text": "a/wiki.txt", "files": [entry]}))
    document = srd_rs.bom(gguf, report=report)
    check(document)
    (metric,) = document["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metric["type"] == "perplexity" and metric["value"] == "12.5"
    assert metric["confidenceInterval"] == {"lowerBound": "12.01", "upperBound": "12.99"}
    report.write_text(json.dumps({"n_chunks": 4, "text": "t", "files": []}))
    with pytest.raises(UsageError, match="no scores"):
        srd_rs.bom(gguf, report=report)
    report.write_text(json.dumps({"files": [{}]}))
    with pytest.raises(FormatError, match="no report"):
        srd_rs.bom(gguf, report=report)


def test_the_command(gguf: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.cdx.json"
    assert srd("bom", gguf, "--from", EXAMPLE, "-o", target).code == 0
    check(json.loads(target.read_text()))
    assert srd("bom", gguf, "-o", target).code == 2
    assert srd("bom", gguf, "-o", target, "--overwrite").code == 0
    shown = srd("bom", gguf, "--json").json
    check(shown)
    assert srd("bom", gguf, "--json", "-o", target).code == 2
    text = tmp_path / "other.txt"
    text.write_text("text")
    done = srd("bom", gguf, "--calibrate", text, "--json")
    assert done.code == 2 and "builtin" in done.json["error"]["message"]
    assert srd("bom", EXAMPLE / "config.json").code == 2
