"""GGUFs that are quantized already, wholly or in part: refused where a tensor would be rounded twice, else copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import srd_rs
from srd_rs.errors import ModelError

SHAPES = {
    "token_embd.weight": (32, 256),
    "output.weight": (32, 256),
    "output_norm.weight": (256,),
    "blk.0.attn_q.weight": (64, 256),
    "blk.0.ffn_up.weight": (64, 256),
    "blk.0.ffn_up_exps.weight": (4, 64, 256),
}
MATRICES = [name for name, shape in SHAPES.items() if len(shape) > 1]


def every(kind: str) -> dict[str, str]:
    return dict.fromkeys(MATRICES, kind)


def model(path: Path, types: dict[str, str], dense: str = "F16") -> Path:
    """A GGUF whose matrices have these types, the others `dense`."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    for name, shape in SHAPES.items():
        values = random.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType[types.get(name, dense) if name in MATRICES else "F32"]
        if kind.name == "F32":
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


UP, EMBEDDING, EXPERTS = "blk.0.ffn_up.weight", "token_embd.weight", "blk.0.ffn_up_exps.weight"

REFUSED: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    **{f"all {kind}": (every(kind), {}) for kind in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ2_0", "TQ1_0")},
    **{f"to {mix}": (every("Q8_0"), {"quant": mix}) for mix in ("F32", "F16", "BF16", "Q6_K", "IQ2_XXS")},
    "the mix of one type has a second": (every("Q4_0"), {"quant": "Q4_0"}),
    "one matrix": ({UP: "Q4_0"}, {}),
    "the embedding": ({EMBEDDING: "Q8_0"}, {}),
    "the experts": ({EXPERTS: "Q5_1"}, {}),
    "two types": ({UP: "Q8_0", EXPERTS: "Q4_0"}, {"quant": "Q8_0"}),
    "a size": (every("Q8_0"), {"target_size": 60_000}),
    "effort srd": (every("Q8_0"), {"effort": "srd", "calibrate": "random"}),
    "a rule for one": (every("Q8_0"), {"quant": "Q8_0", "tensor_types": ["ffn_up=Q4_K"]}),
    "in parts": (every("Q8_0"), {"split_max_size": 60_000}),
}  # fmt: skip

COPIED: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "equal to the mix": (every("Q8_0"), {"quant": "Q8_0"}),
    "equal and pure": (every("Q4_0"), {"quant": "Q4_0", "pure": True}),
    "one matrix of the type": ({UP: "Q8_0"}, {"quant": "Q8_0"}),
    "kept by a rule": ({UP: "Q4_0"}, {"tensor_types": ["ffn_up.weight=Q4_0"]}),
    "the experts of the type": ({EXPERTS: "Q8_0"}, {"quant": "Q8_0"}),
    "BF16": (every("BF16"), {}),
    "F32": (every("F32"), {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_second_rounding_is_refused(tmp_path: Path, name: str) -> None:
    types, options = REFUSED[name]
    path = model(tmp_path / "q.gguf", types)
    with pytest.raises(ModelError, match=r"is quantized already.*--allow-requantize"):
        srd_rs.convert(path, tmp_path / "o.gguf", met=False, **{"effort": "fast", **options})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", COPIED)
def test_blocks_of_the_type_are_copied(tmp_path: Path, name: str) -> None:
    types, options = COPIED[name]
    path = model(tmp_path / "q.gguf", types)
    output = tmp_path / "o.gguf"
    srd_rs.convert(path, output, met=False, effort="fast", **options)
    before, after = ({t.name: t for t in gguf.GGUFReader(p).tensors} for p in (path, output))
    for tensor, kind in types.items():
        if kind not in ("F32", "BF16"):
            assert after[tensor].tensor_type.name == kind
            assert np.array_equal(after[tensor].data, before[tensor].data)
    keys = set(srd_rs.inspect(output).metadata)
    assert "srd.requantized" not in keys


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ("effort srd", "in parts")])
def test_what_is_allowed_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """The number stays in conversions of the output, whatever their options."""
    types, options = REFUSED[name]
    path = model(tmp_path / "q.gguf", types)
    output = tmp_path / "o.gguf"
    srd_rs.convert(path, output, met=False, allow_requantize=True, provenance=False, effort="fast", **options)
    lines = [line for line in caplog.messages if "quantized again" in line]
    assert len(lines) == 1
    found = srd_rs.inspect(output).metadata
    assert 0 < found["srd.requantized"] <= len(types) and lines[0].startswith(f"{found['srd.requantized']} ")


@pytest.mark.parametrize("which", [0, 1, -1])
def test_one_quantized_part_of_several(tmp_path: Path, which: int) -> None:
    """A split GGUF of which one part alone has a quantized matrix."""
    matrix = MATRICES[which]
    whole = model(tmp_path / "w.gguf", {matrix: "Q8_0"})
    kept = {"tensor_types": [f"^{matrix.replace('.', '[.]')}$=Q8_0"]}
    parts = srd_rs.convert(
        whole, tmp_path / "m.gguf", quant="F16", met=False, split_max_size=60_000, effort="fast", **kept
    ).outputs
    assert len(parts) > 1
    for part in parts:
        with pytest.raises(ModelError, match=matrix):
            srd_rs.convert(part, tmp_path / "o.gguf", quant="Q6_K", effort="fast")
