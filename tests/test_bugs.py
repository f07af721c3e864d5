"""Checkpoints as people really have them: every input of fixtures/bugs ends as its README says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from support import Run, bugs_folder, srd
from vocab_tools import LlamaVocab, chat_texts

CONTROL, USER_DEFINED = 3, 4


@pytest.fixture(scope="module")
def bugs() -> Path:
    return bugs_folder()


def convert(folder: Path, output: Path, *options: object) -> Run:
    return srd("convert", "--fast", folder, "-q", "BF16", "-o", output, "--no-axm", "--no-met", *options)


def converted(folder: Path, tmp_path: Path) -> tuple[Path, Run]:
    output = tmp_path / f"{folder.name}.gguf"
    run = convert(folder, output)
    assert run.code == 0, run.stderr
    return output, run


def values(gguf: Path) -> dict[str, Any]:
    reader = GGUFReader(gguf)
    return {
        key.removeprefix("tokenizer.ggml."): field.contents()
        for key, field in reader.fields.items()
        if key.startswith("tokenizer.")
    }


def in_llama_cpp(gguf: Path) -> LlamaVocab:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install '.[eval]')")
    return LlamaVocab(None, gguf)


def same_as_tokenizers(folder: Path, gguf: Path, tokens: list[str]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = in_llama_cpp(gguf)
    texts = chat_texts(tokens, 200)
    different = [
        text
        for text in texts
        if ours.encode(text, special=True) != theirs.encode(text, add_special_tokens=False).ids
    ]
    ours.close()
    assert different == []


def test_plain(bugs: Path, tmp_path: Path) -> None:
    gguf, run = converted(bugs / "plain", tmp_path)
    assert "left out" not in run.stderr
    same_as_tokenizers(bugs / "plain", gguf, ["<s>", "</s>", "[INST]"])


def test_special_tokens_that_tokenizer_json_alone_marks(bugs: Path, tmp_path: Path) -> None:
    folder = bugs / "gemma3_tf5_config"
    gguf, _ = converted(folder, tmp_path)
    types = values(gguf)["token_type"]
    assert [types[i] for i in range(7)] == [CONTROL] * 7
    llama = in_llama_cpp(gguf)
    prompt = "<start_of_turn>user\nHi<end_of_turn>\n"
    assert llama.encode(prompt, special=True) == [5, 356, 275, 7, 4022, 3989, 6, 7]
    assert {1, 6} <= llama.ends()
    llama.close()
    same_as_tokenizers(folder, gguf, ["<start_of_turn>", "<end_of_turn>", "<bos>"])


def test_added_tokens_beside_a_base_tokenizer_model(bugs: Path, tmp_path: Path) -> None:
    folder = bugs / "added_tokens_lost"
    gguf, _ = converted(folder, tmp_path)
    found = values(gguf)
    assert found["tokens"][4096:4099] == ["<|im_start|>", "<|im_end|>", "SECTION5A"]
    assert found["token_type"][4096:4099] == [CONTROL, CONTROL, USER_DEFINED]
    assert found["eos_token_id"] == 4097
    llama = in_llama_cpp(gguf)
    text = "<|im_start|>user SECTION5A<|im_end|>"
    assert llama.encode(text, special=True) == [4096, 630, 263, 3984, 4098, 4097]
    assert 4097 in llama.ends()
    llama.close()
    same_as_tokenizers(folder, gguf, ["<|im_start|>", "<|im_end|>", "SECTION5A", "<s>"])


def test_texts_of_two_ids_are_kept_apart(bugs: Path, tmp_path: Path) -> None:
    gguf, _ = converted(bugs / "duplicate_token_text", tmp_path)
    tokens = values(gguf)["tokens"]
    assert len(set(tokens)) == len(tokens)
    assert (tokens[11], tokens[4096]) == ("\u2581\u2581", "  ")
    llama = in_llama_cpp(gguf)
    assert llama.encode("a  b", special=True)[1:2] == [4096]
    llama.close()


def test_the_file_of_the_chat_template_wins(bugs: Path, tmp_path: Path) -> None:
    gguf, _ = converted(bugs / "chat_template_stale", tmp_path)
    assert values(gguf)["tokenizer.chat_template"] == "NEW {{ messages }}"


def test_a_configuration_of_bitsandbytes_that_was_left_over(bugs: Path, tmp_path: Path) -> None:
    _, run = converted(bugs / "bnb_config_left", tmp_path)
    assert "bitsandbytes" in run.stderr


def test_a_warning_of_calibration_and_conversion_is_shown_once(bugs: Path, tmp_path: Path) -> None:
    options = ("--effort", "srd", "-q", "Q8_0", "--calibrate", "random", "--calibrate-tokens", 64)
    output = ("-o", tmp_path / "out.gguf", "--no-axm", "--no-met")
    run = srd("convert", bugs / "bnb_config_left", *output, *options)
    assert run.code == 0, run.stderr
    assert run.stderr.count("bitsandbytes") == 1
    as_json = convert(bugs / "bnb_config_left", tmp_path / "json.gguf", "--json")
    assert sum("bitsandbytes" in text for text in as_json.json["warnings"]) == 1


@pytest.mark.parametrize(
    ("key", "name", "dtype"),
    [
        ("U8 codes", "model.layers.0.mlp.up_proj.weight", "U8"),
        ("scales", "model.layers.0.mlp.up_proj.weight.absmax", None),
        ("quant_state", "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", None),
        ("SCB", "model.layers.0.mlp.up_proj.SCB", None),
    ],
)
def test_a_model_that_bitsandbytes_did_quantize_is_refused(
    bugs: Path, tmp_path: Path, key: str, name: str, dtype: str | None
) -> None:
    del key
    folder = tmp_path / "model"
    shutil.copytree(bugs / "bnb_config_left", folder)
    rewrite(folder, lambda tensors: change(tensors, name, dtype))
    run = convert(folder, tmp_path / "out.gguf")
    assert run.code == 1 and "quant" in run.stderr and not (tmp_path / "out.gguf").exists()


def change(tensors: dict[str, Any], name: str, dtype: str | None) -> dict[str, Any]:
    """`tensors` with one of other type, or with a small F32 tensor more."""
    import numpy as np

    extra = np.zeros(4, np.float32) if dtype is None else np.zeros((64, 32), np.uint8)
    return {**tensors, name: extra}


def rewrite(folder: Path, edit: Any) -> None:
    """Put the tensors of a model folder, as F32 arrays, through `edit` and write them back."""
    import numpy as np
    from safetensors.numpy import save_file

    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16"
        first, last = (8 + size + offset for offset in entry["data_offsets"])
        halves = np.frombuffer(raw[first:last], np.uint16).astype(np.uint32) << 16
        tensors[name] = halves.view(np.float32).reshape(entry["shape"])
    save_file(edit(tensors), folder / "model.safetensors")


def test_names_without_model(bugs: Path, tmp_path: Path) -> None:
    _, run = converted(bugs / "no_model_prefix", tmp_path)
    assert "'model.'" in run.stderr


def test_names_behind_the_prefix_of_torch_compile(bugs: Path, tmp_path: Path) -> None:
    _, run = converted(bugs / "prefix_orig_mod", tmp_path)
    assert "'_orig_mod.'" in run.stderr


@pytest.mark.parametrize("name", ["adapter_only", "adapter_with_config"])
def test_an_adapter_is_refused_with_its_base(bugs: Path, tmp_path: Path, name: str) -> None:
    run = convert(bugs / name, tmp_path / "out.gguf")
    assert run.code == 1
    assert "LoRA adapter for 'meta-llama/Llama-2-7b-hf'" in run.stderr
    assert "--lora ADAPTER" in run.stderr


def test_a_git_lfs_pointer_is_named(bugs: Path, tmp_path: Path) -> None:
    run = convert(bugs / "lfs_weights", tmp_path / "out.gguf")
    assert run.code == 1
    assert "Git LFS pointer" in run.stderr and "git lfs pull" in run.stderr


def test_f64_converts(bugs: Path, tmp_path: Path) -> None:
    gguf, run = converted(bugs / "f64", tmp_path)
    assert "quantized already" not in run.stderr
    raw = (bugs / "f64" / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    import numpy as np

    first, last = json.loads(raw[8 : 8 + size])["model.norm.weight"]["data_offsets"]
    wanted = np.frombuffer(raw[8 + size + first : 8 + size + last], np.float64).astype(np.float32)
    found = next(t.data for t in GGUFReader(gguf).tensors if t.name == "output_norm.weight")
    assert np.array_equal(found, wanted)


def test_fp8_with_block_scales_is_decoded(bugs: Path, tmp_path: Path) -> None:
    """Each weight is its code times the scale of its block."""
    import numpy as np
    from gguf import GGUFReader

    run = convert(bugs / "fp8_block", tmp_path / "out.gguf", "-q", "F32")
    assert run.code == 0 and "FP8 with scales" in run.stderr
    raw = (bugs / "fp8_block" / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])

    def part(name: str, kind: str) -> np.ndarray:
        begin, end = header[name]["data_offsets"]
        return np.frombuffer(raw[8 + size + begin : 8 + size + end], kind).reshape(header[name]["shape"])

    name = "model.layers.0.mlp.down_proj.weight"
    assert header[f"{name}_scale_inv"]["dtype"] == "BF16"
    codes = part(name, "u1")
    scale = (part(f"{name}_scale_inv", "<u2").astype(np.uint32) << 16).view(np.float32)
    exponent, fraction = (codes >> 3 & 15).astype(np.int32), (codes & 7) / np.float32(8)
    size_of = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7.0))
    values = np.where(codes > 127, -size_of, size_of).astype(np.float32)
    config = json.loads((bugs / "fp8_block" / "config.json").read_text())
    height, width = config["quantization_config"]["weight_block_size"]
    whole = scale.repeat(height, 0).repeat(width, 1)[: codes.shape[0], : codes.shape[1]]
    found = {t.name: t.data for t in GGUFReader(tmp_path / "out.gguf").tensors}
    assert np.array_equal(found["blk.0.ffn_down.weight"], values * whole)


def test_an_imatrix_of_another_model_is_an_error(bugs: Path, tmp_path: Path) -> None:
    run = convert(
        bugs / "plain", tmp_path / "out.gguf", "--imatrix", bugs / "imatrix_other_model.gguf", "-q", "Q4_K_M"
    )
    assert run.code == 1
    assert "no tensor of the model" in run.stderr
