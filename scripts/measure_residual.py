"""KLD against BF16 of what a container gives at several alphas, beside the mixes made from the checkpoint.

    python scripts/measure_residual.py MODEL TEXT [--chunks 20]

MODEL: checkpoint folder. Needs srd-rs[eval]. Prints a line per case: mean KLD in nats and its standard error, over
the second half of chunks of 512 tokens, as llama-perplexity scores.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
from pathlib import Path

import numpy as np

import srd_rs
from srd_rs.eval.llama import LlamaModel, chunks_of

N_CTX = 512


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float32)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def log_probabilities(gguf: Path, text: Path, n_chunks: int) -> list[np.ndarray]:
    with LlamaModel(gguf, n_ctx=N_CTX, threads=2) as model:
        chunks = chunks_of(text, model, n_chunks)
        return [log_softmax(model.logits(chunk, N_CTX // 2)[:-1]) for chunk in chunks]


def kld(reference: list[np.ndarray], gguf: Path, text: Path) -> tuple[float, float]:
    """Mean over tokens of sum p (ln p - ln q), and its standard error."""
    rows = []
    with LlamaModel(gguf, n_ctx=N_CTX, threads=2) as model:
        for p, chunk in zip(reference, chunks_of(text, model, len(reference)), strict=True):
            q = log_softmax(model.logits(chunk, N_CTX // 2)[:-1])
            rows.append((np.exp(p) * (p - q)).sum(axis=1, dtype=np.float64))
    values = np.concatenate(rows)
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--chunks", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = folder / "key"
        key.write_text(secrets.token_hex(32))
        key.chmod(0o600)
        srd_rs.convert(args.model, folder / "bf16.gguf", quant="BF16")
        reference = log_probabilities(folder / "bf16.gguf", args.text, args.chunks)

        def report(label: str, gguf: Path) -> None:
            mean, error = kld(reference, gguf, args.text)
            print(f"{label:32} {mean:.6f} +- {error:.6f}", flush=True)
            gguf.unlink()

        for quant in ("Q4_K_M", "Q5_K_M", "Q6_K"):
            srd_rs.convert(args.model, folder / "x.gguf", quant=quant)
            report(f"{quant} from the checkpoint", folder / "x.gguf")
        for bits in (2, 3):
            axm = folder / f"{bits}.axm"
            srd_rs.pack(args.model, axm, residual_bits=bits, key_file=key)
            for alpha in (0, 0.25, 0.5, 0.75, 1) if bits == 2 else (1,):
                srd_rs.extract(axm, folder / "x.gguf", quant="F32", alpha=alpha, key_file=key)
                report(f"{bits} bits, alpha {alpha}, F32", folder / "x.gguf")
            quant = "Q5_K_M" if bits == 2 else "Q6_K"
            srd_rs.extract(axm, folder / "x.gguf", quant=quant, key_file=key)
            report(f"{bits} bits, alpha 1, {quant}", folder / "x.gguf")


if __name__ == "__main__":
    main()
