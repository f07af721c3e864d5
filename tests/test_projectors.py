"""The projector beside the model: which file is written, of which types, and when."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import pytest

import srd_rs
from large_projector import large
from srd_rs.errors import ModelError, UsageError
from srd_rs.families import projectors
from support import EXAMPLE, srd
from test_family_goldens import opened
from vocab_tools import byte_bpe, byte_vocabulary

GOLDEN = Path(__file__).parent / "data" / "families" / "qwen2.5-vl-vision.json"
WRITTEN = "mmproj-qwen2.5-vl-vision-F16.gguf"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model that sees, with a tokenizer."""
    folder = opened(json.loads(GOLDEN.read_text()), tmp_path).folder
    config = json.loads((folder / "config.json").read_text())
    vocab, merges = byte_vocabulary(("a", "b"))
    letters = dict(list(vocab.items())[: config["vocab_size"] - 1])
    letters["ab"] = len(letters)
    assert len(letters) == config["vocab_size"] and merges == [["a", "b"]]
    (folder / "tokenizer.json").write_text(json.dumps(byte_bpe(letters, merges)))
    return folder


def types(path: Path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def test_the_projector_is_written_beside_the_model(model: Path, tmp_path: Path) -> None:
    run = srd("convert", model, "--fast", "-q", "Q8_0", "--no-axm", "-o", f"{tmp_path}/out/", "--json")
    assert run.code == 0, run.stderr
    assert not any("of vision, audio" in warning for warning in run.json.get("warnings", []))
    written = Path(run.json["mmproj"])
    assert written == tmp_path / "out" / WRITTEN
    assert (tmp_path / "out" / "qwen2.5-vl-vision-Q8_0.gguf").exists()
    names = json.loads(GOLDEN.read_text())["mmproj"]["tensors"]
    assert types(written) == {name: row[1] for name, row in names.items()}


@pytest.mark.parametrize(
    ("kind", "matrix", "patch"), [("BF16", "BF16", "F32"), ("F32", "F32", "F32"), ("q8_0", "Q8_0", "F32")]
)
def test_types_of_the_projector(kind: str, matrix: str, patch: str, model: Path, tmp_path: Path) -> None:
    report = srd_rs.convert(model, f"{tmp_path}/out/", mmproj_only=True, mmproj_type=kind)
    assert report.output.name == f"mmproj-qwen2.5-vl-vision-{kind.upper()}.gguf"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [report.output.name]
    found = types(report.output)
    assert (found["v.blk.0.attn_q.weight"], found["v.patch_embd.weight"]) == (matrix, patch)
    assert found["v.patch_embd.weight.1"] == patch and found["v.blk.0.ln1.weight"] == "F32"


def test_the_projector_alone_has_the_name_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    report = srd_rs.convert(model, tmp_path / "eyes.gguf", mmproj_only=True)
    assert report.output == tmp_path / "eyes.gguf" and report.output.exists()


def test_the_projector_gets_a_container_of_its_own(model: Path, tmp_path: Path) -> None:
    """`convert --axm` packs both files, and the container of the projector is verified and extracted as any other."""
    key = ("--key-file", tmp_path / "master.key")
    assert srd("keygen", key[1]).code == 0
    out = tmp_path / "out"
    convert = ("convert", model, "--fast", "-q", "Q8_0", "--axm", *key, "-o", f"{out}/")
    planned = srd(*convert, "--dry-run", "--json").json["mmproj"]
    run = srd(*convert, "--json")
    packed = out / "mmproj-qwen2.5-vl-vision-F16.axm"
    assert run.json["mmproj_container"]["path"] == str(packed)
    assert planned["container"]["bytes"] == packed.stat().st_size == run.json["mmproj_container"]["bytes"]
    assert srd("verify", packed, *key).code == 0
    assert srd("verify", out / WRITTEN, "--axm", packed, *key).code == 0
    assert srd("inspect", packed).stdout.count("a projector") == 1
    assert srd("extract", packed, *key, "-o", tmp_path / "again.gguf").code == 0
    assert (tmp_path / "again.gguf").read_bytes() == (out / WRITTEN).read_bytes()
    other = srd("extract", packed, *key, "-q", "Q8_0", "-o", tmp_path / "other.gguf")
    assert other.code != 0 and "--mmproj-type" in other.stderr

    with (out / WRITTEN).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert srd("verify", out / WRITTEN, "--axm", packed, *key).code == 3
    # The container would not belong to another projector of the same name.
    fresh = srd(*convert[:5], "--no-axm", "--mmproj-only", "-o", f"{out}/", "--overwrite")
    assert fresh.code == 0, fresh.stderr
    (out / "qwen2.5-vl-vision-Q8_0.axm").unlink()
    kept = srd(*convert[:5], "--no-axm", "-o", f"{out}/", "--overwrite")
    assert kept.code != 0 and "the container belongs to" in kept.stderr


def test_pack_packs_the_projector(model: Path, tmp_path: Path) -> None:
    key = ("--key-file", tmp_path / "master.key")
    assert srd("keygen", key[1]).code == 0
    run = srd("pack", model, "--fast", "-q", "Q8_0", "-o", tmp_path / "m.axm", *key, "--json")
    packed = tmp_path / "mmproj-qwen2.5-vl-vision-F16.axm"
    assert run.json["mmproj_container"]["path"] == str(packed) and "left out" not in run.stderr
    assert len(list(tmp_path.glob("*.axm"))) == 2 and not list(tmp_path.glob("*.gguf"))
    assert srd("extract", packed, *key, "-o", tmp_path / "eyes.gguf").code == 0
    assert set(types(tmp_path / "eyes.gguf").values()) == {"F16", "F32"}
    again = srd("pack", model, "--fast", "-q", "Q4_0", "-o", tmp_path / "n.axm", *key)
    assert again.code == 0 and "no projector was packed" in again.stderr
    bare = srd("pack", model, "--fast", "-q", "Q8_0", "-o", tmp_path / "b.axm", *key, "--no-mmproj", "--json")
    assert bare.json["mmproj_container"] is None
    assert any("of vision, audio or a projector" in warning for warning in bare.json["warnings"])


def test_the_projector_is_left_out(model: Path, tmp_path: Path) -> None:
    run = srd(
        "convert",
        model,
        "--fast",
        "-q",
        "Q8_0",
        "--no-axm",
        "-o",
        f"{tmp_path}/out/",
        "--no-mmproj",
        "--no-met",
    )
    assert run.code == 0 and "of vision, audio or a projector" in run.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["qwen2.5-vl-vision-Q8_0.gguf"]


def test_a_dry_run_names_the_projector(model: Path, tmp_path: Path) -> None:
    run = srd(
        "convert", model, "--fast", "-q", "Q8_0", "--no-axm", "-o", f"{tmp_path}/out/", "--dry-run", "--json"
    )
    said: dict[str, Any] = run.json["mmproj"]
    assert Path(said["path"]).name == WRITTEN
    assert srd("convert", model, "--fast", "-q", "Q8_0", "--no-axm", "-o", f"{tmp_path}/out/").code == 0
    assert (tmp_path / "out" / WRITTEN).stat().st_size == said["bytes"]


@pytest.mark.parametrize("options", [{"mmproj": True}, {"mmproj_only": True}])
def test_a_model_without_projector(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no projector that can be written"):
        srd_rs.convert(EXAMPLE, tmp_path / "o.gguf", effort="fast", **options)
    assert not list(tmp_path.iterdir())


def test_mistakes_of_the_call(model: Path, tmp_path: Path) -> None:
    for options in ({"mmproj_type": "Q4_K"}, {"mmproj": False, "mmproj_type": "BF16"}):
        with pytest.raises(UsageError):
            srd_rs.convert(model, f"{tmp_path}/out/", effort="fast", **options)


def test_the_output_of_an_earlier_run_is_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / WRITTEN).write_text("mine")
    run = srd("convert", model, "--fast", "-q", "Q8_0", "--no-axm", "-o", f"{tmp_path}/out/")
    assert run.code == 0 and "is kept" in run.stderr
    assert (tmp_path / "out" / WRITTEN).read_text() == "mine"
    run = srd("convert", model, "--fast", "-q", "BF16", "--no-axm", "-o", f"{tmp_path}/out/", "--mmproj")
    assert run.code != 0 and not (tmp_path / "out" / "qwen2.5-vl-vision-BF16.gguf").exists()


def checkpoint_of(name: str, folder: Path) -> Any:
    return opened(json.loads((GOLDEN.parent / f"{name}.json").read_text()), folder)


def test_both_encoders_of_a_model_that_sees_and_hears_are_written(tmp_path: Path) -> None:
    spec = projectors.describe(checkpoint_of("gemma4-audio", tmp_path))
    assert {t.name.partition(".")[0] for t in spec.tensors} == {"a", "mm", "v"}
    said = [spec.metadata.get(f"clip.{kind}.projector_type") for kind in ("vision", "audio")]
    assert said == ["gemma4v", "gemma4a"]


def test_a_projector_that_does_not_fit_leaves_the_model_convertible(model: Path, tmp_path: Path) -> None:
    """A tensor that the table does not know: the text model is written with a warning, and --mmproj says why."""
    config = json.loads((model / "config.json").read_text())
    config["vision_config"]["intermediate_size"] += 1
    (model / "config.json").write_text(json.dumps(config))
    command = ("convert", model, "--fast", "-q", "Q8_0", "--no-axm", "-o", f"{tmp_path}/out/")
    asked = srd(*command, "--mmproj")
    assert asked.code == 1 and "visual.blocks.0.mlp" in asked.stderr
    assert not list((tmp_path / "out").iterdir())
    run = srd(*command)
    assert run.code == 0 and "will answer text only" in run.stderr
    assert (tmp_path / "out" / "qwen2.5-vl-vision-Q8_0.gguf").exists()


def test_names_of_published_omni_models(tmp_path: Path) -> None:
    """Qwen3-Omni is published with a prefix that llama.cpp's converter does not know."""
    golden = json.loads((GOLDEN.parent / "qwen3-omni.json").read_text())
    written = projectors.describe(opened(golden, tmp_path))
    golden["sources"] = {
        f"thinker.{name}" if name.startswith("visual.") else name: source
        for name, source in golden["sources"].items()
    }
    golden["name"] = "published"
    published = projectors.describe(opened(golden, tmp_path), name="qwen3-omni")
    shapes = {t.name: (t.shape, t.store) for t in published.tensors}
    assert shapes == {t.name: (t.shape, t.store) for t in written.tensors}
    assert published.metadata.get("clip.audio.projector_type") == "qwen3a"


def test_qwen3_asr_as_transformers_5_saves_it(tmp_path: Path) -> None:
    """Without `thinker_config`, and with a projector behind the encoder. llama.cpp's converter reads the files of the
    authors only."""
    golden = json.loads((GOLDEN.parent / "qwen3-asr.json").read_text())
    expected = opened(golden, tmp_path)
    thinker = golden["config"].pop("thinker_config")
    golden["config"] |= {part: thinker[part] for part in ("audio_config", "text_config")}
    renames = (
        (r"^thinker\.", ""),
        (r"^audio_tower\.proj([12])\.", r"model.multi_modal_projector.linear_\1."),
        (r"^audio_tower\.", "model.audio_tower."),
        (r"^model\.(layers|embed_tokens|norm)\b", r"model.language_model.\1"),
    )
    for pattern, replacement in renames:
        sources = golden["sources"].items()
        golden["sources"] = {re.sub(pattern, replacement, name): source for name, source in sources}
    golden["name"] = "new"
    found = opened(golden, tmp_path)
    for half in (projectors.describe, srd_rs.families.describe):
        one, other = ({t.name: (t.shape, t.store) for t in half(each).tensors} for each in (expected, found))
        assert one == other


@pytest.mark.parametrize(
    ("name", "renames"),
    [
        ("qwen2-audio", [(r"^(audio_tower|multi_modal_projector)\.", r"model.\1.")]),
        ("voxtral", [(r"^(audio_tower|multi_modal_projector)\.", r"model.\1.")]),
        ("qwen2-vl-vision", [(r"^visual\.", "model.visual.")]),
        ("qwen2.5-vl-vision", [(r"^visual\.", "model.visual.")]),
        ("qwen3-vl-vision", [(r"^model\.visual\.", "visual.")]),
        (
            "gemma3-vision",
            [(r"^vision_tower\.vision_model\.", "model.vision_tower."), (r"^multi", "model.multi")],
        ),
        ("gemma4-unified", [(r"^model\.vision_embedder\.", "model.embed_vision.")]),
        ("mistral3-vision", [(r"^(vision_tower|multi_modal_projector)\.", r"model.\1.")]),
        ("internvl3-hf-vision", [(r"^model\.(vision_tower|multi_modal_projector)\.", r"\1.")]),
        ("llama4-scout", [(r"^(vision_model|multi_modal_projector)\.", r"model.\1.")]),
    ],
)
def test_names_of_other_versions_of_transformers(
    name: str, renames: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Files that other versions of transformers saved. llama.cpp's converter writes empty files for some of them."""
    golden = json.loads((GOLDEN.parent / f"{name}.json").read_text())
    expected = projectors.describe(opened(golden, tmp_path))
    names = list(golden["sources"])
    for pattern, replacement in renames:
        names = [re.sub(pattern, replacement, each) for each in names]
    assert names != list(golden["sources"])
    golden["sources"] = dict(zip(names, golden["sources"].values(), strict=True))
    golden["name"] = "renamed"
    found = projectors.describe(opened(golden, tmp_path), name=expected.metadata.get("general.name"))
    assert {t.name: (t.shape, t.store) for t in found.tensors} == {
        t.name: (t.shape, t.store) for t in expected.tensors
    }
    assert found.metadata.get("general.size_label") == expected.metadata.get("general.size_label")


def test_the_windows_of_qwen_may_be_absent(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    vision = golden["config"]["vision_config"]
    del vision["fullatt_block_indexes"], vision["window_size"]
    golden["name"] = "absent"
    spec = projectors.describe(opened(golden, tmp_path))
    assert spec.metadata.get("clip.vision.n_wa_pattern") == 8  # as transformers fills [7, 15, 23, 31] in
    vision["fullatt_block_indexes"], golden["name"] = [0, 3], "uneven"
    with pytest.raises(ModelError, match="equal distances"):
        projectors.describe(opened(golden, tmp_path))


@pytest.mark.parametrize(
    "name", ["dots-ocr-vision", "exaone4-5-vision", "hunyuan-ocr-vision", "paddleocr-vl-vision"]
)
def test_the_numbers_of_pixels_in_both_spellings(name: str, tmp_path: Path) -> None:
    """transformers 5 saves them as `size`. Without them llama.cpp would take numbers of its own, or load nothing."""
    golden = json.loads((GOLDEN.parent / f"{name}.json").read_text())
    expected = projectors.describe(opened(golden, tmp_path), name="model")
    stated = golden["files"]["preprocessor_config.json"]
    size = {"shortest_edge": stated.pop("min_pixels"), "longest_edge": stated.pop("max_pixels")}
    golden["name"] = "absent"
    with pytest.raises(ModelError, match="lacks min_pixels or max_pixels"):
        projectors.describe(opened(golden, tmp_path))
    stated |= {"size": size, "min_pixels": None, "max_pixels": None}
    golden["name"] = "new"
    found = projectors.describe(opened(golden, tmp_path), name="model")
    said, wanted = (
        [row for row in spec.metadata.entries() if "clip." in row[0]] for spec in (found, expected)
    )
    assert said == wanted


def test_the_width_of_the_text_model_may_be_absent(tmp_path: Path) -> None:
    """Qwen2-Audio is published without it: it is that of the class."""
    golden = json.loads((GOLDEN.parent / "qwen2-audio.json").read_text())
    del golden["config"]["text_config"]["hidden_size"]
    golden["sources"]["multi_modal_projector.linear.weight"][1] = [4096, 32]
    golden["sources"]["multi_modal_projector.linear.bias"][1] = [4096]
    spec = projectors.describe(opened(golden, tmp_path))
    assert spec.metadata.get("clip.audio.projection_dim") == 4096


def test_a_large_projector_is_not_held_as_a_whole(tmp_path: Path) -> None:
    """`scripts/projector_memory.py` prints peaks and times of more sizes, and of the text half."""
    model = large(tmp_path / "model", depth=4)
    run = srd("convert", model, "--mmproj-only", "--no-axm", "-o", tmp_path / "eyes.gguf")
    assert run.code == 0, run.stderr
    assert (tmp_path / "eyes.gguf").stat().st_size > 200e6 and run.peak_rss < 80e6


def test_norms_of_convolutions_over_sound_of_gemma_3n(tmp_path: Path) -> None:
    """Published files have them; llama.cpp's converter has no name for them."""
    golden = json.loads((GOLDEN.parent / "gemma3n-vision-audio.json").read_text())
    prefix = "model.audio_tower.subsample_conv_projection"
    golden["sources"] |= {
        f"{prefix}.conv_0.norm.weight": ["BF16", [16]],
        f"{prefix}.conv_1.norm.weight": ["BF16", [8]],
    }
    spec = projectors.describe(opened(golden, tmp_path))
    shapes = {t.name: t.shape for t in spec.tensors}
    assert shapes["a.conv1d.0.norm.weight"] == (16,) and shapes["a.conv1d.1.norm.weight"] == (8,)


@pytest.mark.parametrize("kind", ["BF16", "F32", "Q8_0"])
@pytest.mark.parametrize(
    ("name", "halves"),
    [
        ("qwen3-asr", {f"a.{part}.weight" for part in ("conv2d.1", "conv2d.2", "conv2d.3", "conv_out")}),
        ("qwen2-audio", {"a.conv1d.1.weight", "a.conv1d.2.weight"}),
        ("audio-flamingo-3", set()),
        ("gemma3-vision", {"mm.input_projection.weight"}),
    ],
)
def test_tensors_that_are_f16_in_every_type(name: str, halves: set[str], kind: str, tmp_path: Path) -> None:
    """llama.cpp's converter has the same list. With blocks of Q8_0, the projection of Gemma 3 gave no numbers."""
    folder = checkpoint_of(name, tmp_path).folder
    report = srd_rs.convert(folder, tmp_path / "mmproj.gguf", mmproj_only=True, mmproj_type=kind)
    tensors = gguf.GGUFReader(report.output).tensors
    half = {t.name: int(t.shape[0]) for t in tensors if t.tensor_type.name == "F16"}
    assert halves <= half.keys()
    # Rows that blocks of 32 weights do not divide are F16 in Q8_0.
    assert all(tensor in halves or (kind == "Q8_0" and row % 32) for tensor, row in half.items())


@pytest.mark.parametrize("name", ["nemotron-nano-omni", "lfm2-audio", "gemma4-audio", "smolvlm-vision"])
def test_tensors_that_a_table_keeps_in_f32(name: str, tmp_path: Path) -> None:
    """Blocks of Q8_0 are for matrices only: llama.cpp ended the process at a convolution that had them."""
    checkpoint = checkpoint_of(name, tmp_path)
    report = srd_rs.convert(checkpoint.folder, tmp_path / "m.gguf", mmproj_only=True, mmproj_type="Q8_0")
    found = {t.name: (t.tensor_type.name, int(t.shape[0])) for t in gguf.GGUFReader(report.output).tensors}
    for tensor in projectors.describe(checkpoint, kind="Q8_0").tensors:
        stored, row = found[tensor.name]
        plain = tensor.store == "f32" or len(tensor.shape) < 2
        assert stored == ("F32" if plain else "F16" if row % 32 else "Q8_0"), tensor.name


def test_llava_with_an_unknown_encoder_has_no_projector(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("mistral3-vision", tmp_path)
    assert projectors.has_projector(checkpoint)
    checkpoint.config["architectures"] = ["LlavaForConditionalGeneration"]
    assert projectors.has_projector(checkpoint)
    checkpoint.config["vision_config"]["model_type"] = "clip_vision_model"
    assert projectors.has_projector(checkpoint)
    checkpoint.config["vision_config"]["model_type"] = "dinov2"
    assert not projectors.has_projector(checkpoint)


def converted(model: Path, tmp_path: Path, *options: str) -> Path:
    run = srd(
        "convert", model, "--fast", "-q", "Q8_0", "--no-axm", "-o", f"{tmp_path}/out/", *options, "--json"
    )
    assert run.code == 0, run.stderr
    return tmp_path / "out"


def test_inspect_shows_what_a_projector_is(model: Path, tmp_path: Path) -> None:
    out = converted(model, tmp_path)
    run = srd("inspect", out / WRITTEN)
    assert "qwen2.5vl_merger" in run.stdout and "a projector: it reads pictures" in run.stdout
    assert "--mmproj" in run.stdout
    assert srd("inspect", out / WRITTEN, "--json").json["projector"] == {"vision": "qwen2.5vl_merger"}
    assert "projector" not in srd("inspect", out / "qwen2.5-vl-vision-Q8_0.gguf", "--json").json


def test_card_and_modelfile_name_the_projector(model: Path, tmp_path: Path) -> None:
    out = converted(model, tmp_path, "--card", "--modelfile")
    gguf = out / "qwen2.5-vl-vision-Q8_0.gguf"
    card, modelfile = gguf.with_suffix(".md").read_text(), gguf.with_suffix(".Modelfile").read_text()
    assert f"| {WRITTEN} | F16 |" in card and "projector for pictures" in card
    assert f"llama-mtmd-cli -m {gguf.name} --mmproj {WRITTEN} --image picture.png" in card
    assert modelfile.splitlines()[1:3] == [f"FROM ./{gguf.name}", f"FROM ./{WRITTEN}"]
    assert srd_rs.card([gguf, out / WRITTEN]) == srd_rs.card(gguf) == card
    assert srd_rs.modelfile(gguf, mmproj=out / WRITTEN) == modelfile
    (out / WRITTEN).rename(out / "mmproj-other-F16.gguf")
    assert "mmproj" not in srd_rs.card(gguf) and "mmproj" not in srd_rs.modelfile(gguf)
    with pytest.raises(UsageError, match="a card is about a model"):
        srd_rs.card(out / "mmproj-other-F16.gguf")
    with pytest.raises(UsageError, match="this is no projector"):
        srd_rs.modelfile(gguf, mmproj=gguf)


def test_the_sidecar_lists_the_projector(model: Path, tmp_path: Path) -> None:
    out = converted(model, tmp_path)
    gguf = out / "qwen2.5-vl-vision-Q8_0.gguf"
    sidecar = json.loads((out / "qwen2.5-vl-vision-Q8_0.met.json").read_text())
    facts = sidecar["projector"]
    assert facts["name"] == WRITTEN and facts["bytes"] == (out / WRITTEN).stat().st_size
    assert srd("met", gguf).code == 0 and srd("met", gguf, "--check").code == 0
    (out / WRITTEN).unlink()
    assert srd("met", gguf, "--check").code == 0  # the sidecar is about the GGUF
    assert "projector" not in srd_rs.met(gguf, digest=False)
