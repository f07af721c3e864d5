"""The divergence of tiny models of many architectures from themselves in F32: plain conversion against SRD.

    python scripts/kld_of_families.py --quant Q4_0 gpt-oss qwen35-text deepseek-v3

The models are those of scripts/family_cases with random weights. They are calibrated on random tokens, and llama.cpp
computes the divergence on other random tokens. Real models gain more or less than these; the numbers show that the
statistics of an architecture are those of its matrices.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import srd_rs
from srd_rs import ConvertOptions, _core

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from forward_tools import families, log_probabilities, plan_variant
from llama_reference import Float32Llama

TOKENS = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", help="goldens of tests/data/families")
    parser.add_argument("--quant", default="Q4_0")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the calibration")
    arguments = parser.parse_args()
    cases = families(_core.forward_architectures())
    print(f"{'architecture':16} {'model':32} {'plain':>10} {'SRD':>10} {'ratio':>6}")
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            plain, srd = divergences(cases[name], Path(folder), arguments.quant, arguments.tokens)
        print(f"{cases[name]['arch']:16} {name:32} {plain:10.6f} {srd:10.6f} {srd / plain:6.2f}", flush=True)


def divergences(case: dict[str, object], folder: Path, quant: str, tokens: int) -> tuple[float, float]:
    original = folder / "f32.gguf"
    plan_variant(case, folder, original).run(ConvertOptions(quant="F32"))
    outputs = {"fast": folder / "plain.gguf", "srd": folder / "srd.gguf"}
    for effort, output in outputs.items():
        chosen = (
            {"calibrate": "random", "calibrate_tokens": tokens, "cache": False} if effort == "srd" else {}
        )
        srd_rs.convert(original, output, quant=quant, effort=effort, provenance=False, met=False, **chosen)
    expected = probabilities(original)
    plain, srd = (
        float(np.mean(np.sum(np.exp(expected) * (expected - probabilities(path)), -1)))
        for path in outputs.values()
    )
    return plain, srd


def probabilities(model: Path) -> np.ndarray:
    with Float32Llama(model, n_ctx=TOKENS) as loaded:
        # Other tokens than those of the calibration.
        tokens = np.random.default_rng(7).integers(3, loaded.n_vocab, size=TOKENS).astype(np.int32)
        return log_probabilities(loaded.logits(tokens))


if __name__ == "__main__":
    main()
