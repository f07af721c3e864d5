#!/usr/bin/env python3
"""Print the KLD of mixes beside that of types chosen within the bytes of each mix (`--like`), both by effort srd.

    python scripts/compare_budget.py MODEL TEXT --calibration FILE [--mixes Q4_K_M,IQ4_XS,Q3_K_M,Q5_K_M] [--chunks 10]

MODEL is a GGUF or a checkpoint folder; TEXT is a text file, for example wiki.test.raw; FILE is a calibration file that
`srd-rs calibrate` wrote from another text. The output is a Markdown table. Needs srd-rs[eval].
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import srd_rs
from srd_rs.eval.evaluation import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--mixes", default="Q4_K_M,IQ4_XS,Q3_K_M,Q5_K_M")
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    options: dict[str, Any] = {"effort": "srd", "calibrate": args.calibration, "threads": args.threads}
    print(
        "| size of | bytes of the mix | bytes of the choice | KLD of the mix | KLD of the choice | ratio | seconds |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "bf16.gguf"
        srd_rs.convert(args.model, base, quant="BF16", met=False)
        for mix in args.mixes.split(","):
            seconds = []
            for output, types in (("mix", {"quant": mix}), ("choice", {"like": mix})):
                start = time.monotonic()
                srd_rs.convert(
                    args.model, folder / f"{output}.gguf", met=False, overwrite=True, **options, **types
                )
                seconds.append(time.monotonic() - start)
            files = [folder / "mix.gguf", folder / "choice.gguf"]
            found = evaluate(files, args.text, base=base, n_chunks=args.chunks, threads=args.threads).files
            klds = [file.divergence.kld for file in found if file.divergence is not None]
            cells = [mix, *(str(file.file_bytes) for file in found)]
            cells += [f"{kld.value:.6f} ± {kld.error:.6f}" for kld in klds]
            cells += [f"{klds[1].value / klds[0].value:.3f}", f"{seconds[0]:.0f}, {seconds[1]:.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
