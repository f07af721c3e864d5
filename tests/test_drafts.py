"""Drafts (DFlash, DSpark, EAGLE-3): a draft gets the tokenizer of its target, which `--target` names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

import srd_rs
from local_hub import Hub, serving
from patterns import write_config, write_shards
from support import EXAMPLE, srd

GOLDENS = Path(__file__).parent / "data" / "families"
DRAFTS = (
    "dflash",
    "dflash-swa",
    "dflash-2",
    "dspark",
    "dspark-speculator",
    "dspark-own-vocabulary",
    "deepseek-v4-dspark",
    "eagle-3",
    "eagle-3-1",
    "gemma-4-dspark",
    "muse-glimmer-assistant",
)
MASK = 3


def draft_of(name: str, folder: Path, vocab_size: int) -> Path:
    """The checkpoint of a golden with a vocabulary of another size."""
    golden = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    text = json.dumps(golden["config"]).replace('"vocab_size": 96', f'"vocab_size": {vocab_size}')
    for key in ("mask_token_id", "dspark_noise_token_id"):
        text = text.replace(f'"{key}": 95', f'"{key}": {MASK}')
    config = json.loads(text)
    if config.get("draft_vocab_size") == 96:
        config["draft_vocab_size"] = vocab_size
    of_tokens = ("markov_w", "codebook", "embed_tokens", "lm_head")
    if "norm_before_fc" in config:
        config["target_hidden_size"] = 64  # the case leaves it to its own target
    sources = {}
    for tensor, (kind, shape) in golden["sources"].items():
        of_all = shape[0] == 96 and any(part in tensor for part in of_tokens)
        sources[tensor] = [kind, [vocab_size, *shape[1:]] if of_all else shape]
    path = folder / name
    path.mkdir()
    write_config(config, path)
    write_shards({t: [*source, "model.safetensors"] for t, source in sources.items()}, path)
    return path


@pytest.fixture(scope="module")
def tokens_of_target(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    path = tmp_path_factory.mktemp("target") / "target.gguf"
    made = srd("convert", EXAMPLE, "--fast", "-o", path)
    assert made.code == 0, made.stderr
    return of_tokenizer(path)


def of_tokenizer(path: Path) -> dict[str, object]:
    found = srd_rs.open(path).metadata
    return {key: found[key] for key in found if key.startswith("tokenizer.")}


def size_of_target() -> int:
    config = json.loads((EXAMPLE / "config.json").read_text())
    return int(config.get("text_config", config)["vocab_size"])


@pytest.mark.parametrize("name", DRAFTS)
def test_a_draft_gets_the_tokenizer_of_its_target(
    name: str, tmp_path: Path, tokens_of_target: dict[str, object]
) -> None:
    draft = draft_of(name, tmp_path, size_of_target())
    output = tmp_path / "draft.gguf"
    made = srd("convert", draft, "--target", EXAMPLE, "-o", output)
    assert made.code == 0, made.stderr
    found = of_tokenizer(output)
    wanted = dict(tokens_of_target)
    if not name.startswith("eagle"):
        wanted["tokenizer.ggml.mask_token_id"] = MASK
    assert {key: str(value) for key, value in found.items()} == {
        key: str(value) for key, value in wanted.items()
    }


@pytest.mark.parametrize("name", DRAFTS)
def test_llama_cpp_loads_a_draft(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: no draft was loaded"
    )
    output = tmp_path / "draft.gguf"
    srd_rs.convert(draft_of(name, tmp_path, size_of_target()), output, target=EXAMPLE, effort="fast")
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(bytes(output), parameters)
    assert model
    llama_cpp.llama_model_free(model)


def test_the_draft_beside_a_whole_model_is_written_for_a_target(tmp_path: Path) -> None:
    """A folder of DeepSeek V4 holds the model and the draft, and its config.json names the class of the model."""
    draft = draft_of("deepseek-v4-dspark", tmp_path, size_of_target())
    config = json.loads((draft / "config.json").read_text())
    write_config({**config, "architectures": ["DeepseekV4ForCausalLM"]}, draft)
    output = tmp_path / "draft.gguf"
    srd_rs.convert(draft, output, target=EXAMPLE, effort="fast")
    assert srd_rs.open(output).metadata["general.architecture"] == "dflash"


def test_a_draft_asks_for_its_target(tmp_path: Path) -> None:
    draft = draft_of("dflash", tmp_path, size_of_target())
    run = srd("convert", draft, "-o", tmp_path / "draft.gguf")
    assert run.code == 1 and "--target MODEL" in run.stderr and not (tmp_path / "draft.gguf").exists()


def test_a_target_without_a_draft_is_a_mistake(tmp_path: Path) -> None:
    run = srd("convert", EXAMPLE, "--fast", "--target", EXAMPLE, "-o", tmp_path / "x.gguf")
    assert run.code == 2 and "--target" in run.stderr and "does not draft" in run.stderr, run.stderr
    made = tmp_path / "draft.gguf"
    assert srd("convert", EXAMPLE, "--fast", "-q", "BF16", "-o", made).code == 0
    run = srd("convert", made, "--fast", "--target", EXAMPLE, "-o", tmp_path / "x.gguf")
    assert run.code == 2 and "a GGUF has its tokenizer" in run.stderr, run.stderr
    draft = draft_of("dflash", tmp_path, size_of_target())
    run = srd("convert", draft, "--target", made, "-o", tmp_path / "x.gguf")
    assert run.code == 2 and "this is a GGUF" in run.stderr, run.stderr


def test_a_target_with_more_tokens_is_refused(tmp_path: Path) -> None:
    draft = draft_of("dflash", tmp_path, 96)
    run = srd("convert", draft, "--target", EXAMPLE, "-o", tmp_path / "x.gguf")
    assert run.code == 1 and not (tmp_path / "x.gguf").exists(), run.stderr


@pytest.mark.parametrize("name", ["dspark-own-vocabulary", "eagle-3"])
def test_the_ids_of_the_target_are_written(name: str, tmp_path: Path) -> None:
    output = tmp_path / "draft.gguf"
    assert (
        srd("convert", draft_of(name, tmp_path, size_of_target()), "--target", EXAMPLE, "-o", output).code
        == 0
    )
    table = next(t for t in gguf.GGUFReader(output).tensors if t.name == "d2t")
    # The pattern of the table is the id of the draft, to which that id is added.
    assert table.tensor_type.name == "I64" and table.data.tolist() == [2 * i for i in range(48)]


def test_the_ids_come_out_of_a_container_and_of_a_gguf(tmp_path: Path) -> None:
    """A table of ids is copied: by `extract`, in a mix of its own, and when the GGUF of the draft is converted."""
    draft, packed = draft_of("eagle-3", tmp_path, size_of_target()), tmp_path / "draft.gguf"
    assert srd("convert", draft, "--target", EXAMPLE, "-q", "BF16", "--axm", "-o", packed).code == 0
    made = [tmp_path / f"{name}.gguf" for name in ("copy", "mix", "again")]
    container = packed.with_suffix(".axm")
    for command in (
        ("extract", container, "-o", made[0]),
        ("extract", container, "-q", "Q8_0", "-o", made[1]),
        ("convert", packed, "-q", "Q8_0", "-o", made[2]),
    ):
        run = srd(*command)
        assert run.code == 0, run.stderr
    assert made[0].read_bytes() == packed.read_bytes()
    for path in made:
        table = next(t for t in gguf.GGUFReader(path).tensors if t.name == "d2t")
        assert table.tensor_type.name == "I64" and table.data.tolist() == [2 * i for i in range(48)]


@pytest.mark.parametrize("name", ["dflash", "eagle-3"])
def test_a_draft_is_made_again_with_its_target(name: str, tmp_path: Path) -> None:
    draft, output = draft_of(name, tmp_path, size_of_target()), tmp_path / "draft.gguf"
    made = srd_rs.convert(draft, output, target=EXAMPLE, quant="Q8_0", effort="fast")
    run = srd("verify", "--rebuild", output, "--from", draft, "--target", EXAMPLE, "--json")
    assert run.code == 0 and run.json["equal"] and run.json["bytes"] == made.file_bytes, run.stderr
    run = srd("verify", "--rebuild", output, "--from", draft)
    assert run.code == 1 and "--target MODEL" in run.stderr, run.stderr
    other = Path(shutil.copytree(EXAMPLE, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokens = tokenizer["model"]["vocab"]
    (first, a), (second, b) = list(tokens.items())[-2:]
    tokens[first], tokens[second] = b, a
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    run = srd("verify", "--rebuild", output, "--from", draft, "--target", other)
    assert run.code == 3 and "tokenizer.ggml.tokens" in run.stderr, run.stderr
    plain = srd_rs.convert(EXAMPLE, tmp_path / "p.gguf", quant="Q8_0", effort="fast").output
    run = srd("verify", "--rebuild", plain, "--from", EXAMPLE, "--target", EXAMPLE)
    assert run.code == 2 and "--target" in run.stderr, run.stderr


def test_some_drafts_are_called_llama(tmp_path: Path) -> None:
    draft = draft_of("eagle-3", tmp_path, size_of_target())
    tensors = []
    for number, architecture in enumerate(("LlamaForCausalLMEagle3", "LlamaForCausalLM")):
        config = json.loads((draft / "config.json").read_text())
        write_config({**config, "architectures": [architecture]}, draft)
        output = tmp_path / f"{number}.gguf"
        assert srd("convert", draft, "--target", EXAMPLE, "-o", output).code == 0
        found = srd_rs.open(output)
        assert found.metadata["general.architecture"] == "eagle3"
        tensors.append({name: tensor.raw.tobytes() for name, tensor in found.items()})
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize("name", ["dspark-speculator", "dspark-own-vocabulary", "eagle-3"])
def test_a_table_of_another_size_is_refused(name: str, tmp_path: Path) -> None:
    draft = draft_of(name, tmp_path, size_of_target())
    config = json.loads((draft / "config.json").read_text())
    write_config({**config, "draft_vocab_size": 50}, draft)
    run = srd("convert", draft, "--target", EXAMPLE, "-o", tmp_path / "x.gguf")
    assert run.code == 1 and "draft_vocab_size" in run.stderr, run.stderr


@pytest.mark.parametrize(("ids", "what"), [([5] * 48, ""), ([-1] * 48, "ids of"), ([1] + [0] * 47, "twice")])
def test_a_table_that_names_no_token_or_one_twice_is_refused(
    ids: list[int], what: str, tmp_path: Path
) -> None:
    draft = draft_of("eagle-3", tmp_path, size_of_target())
    weights = draft / "model.safetensors"
    data = bytearray(weights.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start = 8 + length + json.loads(data[8 : 8 + length])["d2t"]["data_offsets"][0]
    data[start : start + 8 * 48] = np.array(ids, dtype="<i8").tobytes()
    weights.write_bytes(data)
    run = srd("convert", draft, "--target", EXAMPLE, "-o", tmp_path / "x.gguf")
    assert run.code == (1 if what else 0) and what in run.stderr, run.stderr


def test_a_target_on_the_hub_is_the_folder(tmp_path: Path) -> None:
    """Its small files are fetched, its weights are not."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: no target was fetched")
    draft = draft_of("eagle-3", tmp_path, size_of_target())
    digests = []
    with serving(tmp_path / "hf", network=False) as env:
        Hub.folders["org/target"] = EXAMPLE
        for number, target in enumerate((EXAMPLE, "org/target")):
            output = tmp_path / f"{number}.gguf"
            run = srd("convert", draft, "--target", target, "-o", output, env=env)
            assert run.code == 0, run.stderr
            digests.append(output.read_bytes())
        assert not [name for name in Hub.fetched if name.endswith(".safetensors")], Hub.fetched
    assert digests[0] == digests[1]
