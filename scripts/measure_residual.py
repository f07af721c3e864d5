"""Print the KLD against BF16 of the weights of a container, at several alphas, beside mixes of the checkpoint.

    python scripts/measure_residual.py MODEL TEXT [--chunks 40] [--effort fast,srd]

MODEL is a checkpoint folder. Each case is one line: the mean KLD in nats and its standard error, over the second half
of chunks of 512 tokens, as llama-perplexity scores. The mixes are made by llama-quantize and by the plain search of
srd-rs. Containers are made with each effort; their weights are scored as F32, and quantized again. Needs srd-
rs[eval].
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
from pathlib import Path

import srd_rs
from srd_rs.eval.evaluation import evaluate
from srd_rs.eval.quantizer import quantize


class Case:
    """Where files are made and how they are scored."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.model, self.text, self.chunks = args.model, args.text, args.chunks
        self.made = folder / "x.gguf"
        self.base = folder / "bf16.gguf"
        self.key = folder / "key"
        self.key.write_text(secrets.token_hex(32))
        self.key.chmod(0o600)
        srd_rs.convert(self.model, self.base, quant="BF16", met=False)

    def report(self, label: str) -> None:
        (file,) = evaluate([self.made], self.text, base=self.base, n_chunks=self.chunks).files
        assert file.divergence is not None
        kld = file.divergence.kld
        print(f"{label:40} {kld.value:.6f} +- {kld.error:.6f}", flush=True)
        self.made.unlink()

    def mixes(self) -> None:
        for quant in ("Q4_K_M", "Q5_K_M", "Q6_K"):
            quantize(self.base, self.made, quant)
            self.report(f"{quant}, llama-quantize")
            srd_rs.convert(self.model, self.made, quant=quant, met=False, effort="fast")
            self.report(f"{quant}, srd-rs fast")

    def container(self, effort: str, bits: int) -> None:
        axm = self.made.with_suffix(".axm")
        srd_rs.convert(
            self.model, self.made, effort=effort, axm=True, residual_bits=bits, key_file=self.key, met=False,
            axm_output=axm,
        )  # fmt: skip
        self.made.unlink()
        for alpha in (0, 0.25, 0.5, 0.75, 1) if bits == 2 else (1,):
            srd_rs.extract(axm, self.made, quant="F32", alpha=alpha, key_file=self.key)
            self.report(f"base {effort}, {bits} bits, alpha {alpha}, F32")
        quant = "Q5_K_M" if bits == 2 else "Q6_K"
        srd_rs.extract(axm, self.made, quant=quant, key_file=self.key)
        self.report(f"base {effort}, {bits} bits, alpha 1, {quant}")
        axm.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--effort", default="fast,srd")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        case = Case(Path(name), args)
        case.mixes()
        for effort in args.effort.split(","):
            for bits in (2, 3):
                case.container(effort, bits)


if __name__ == "__main__":
    main()
