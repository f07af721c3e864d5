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

import srd_rs
from srd_rs.eval.evaluation import evaluate


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
        base = folder / "bf16.gguf"

        def report(label: str, gguf: Path) -> None:
            (file,) = evaluate([gguf], args.text, base=base, n_chunks=args.chunks).files
            assert file.divergence is not None
            kld = file.divergence.kld
            print(f"{label:32} {kld.value:.6f} +- {kld.error:.6f}", flush=True)
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
