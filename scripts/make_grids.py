#!/usr/bin/env python3
"""Write src/quant/grids/*.bin: the grids of IQ1_S, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S, as gguf has them.

    python scripts/make_grids.py

A point of a grid is one little-endian word of 16 bits: the numbers of its levels, from the low bits up. IQ3 has four
levels of 3 bits, IQ1 and IQ2 eight levels of 2 bits. The grid of IQ1_S is that of IQ1_M too.
"""

from __future__ import annotations

from pathlib import Path

import gguf.quants
import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "src" / "quant" / "grids"


def main() -> None:
    for name, bits in (
        ("IQ1_S", 2),
        ("IQ2_XXS", 2),
        ("IQ2_XS", 2),
        ("IQ2_S", 2),
        ("IQ3_XXS", 3),
        ("IQ3_S", 3),
    ):
        kind = getattr(gguf.quants, name)
        kind.init_grid()
        levels = np.array(kind.grid_map)
        numbers = np.searchsorted(levels, kind.grid.reshape(kind.grid_shape))
        shifts = bits * np.arange(numbers.shape[1])
        words = (numbers.astype(np.uint32) << shifts).sum(axis=1).astype("<u2")
        (FOLDER / f"{name.lower()}.bin").write_bytes(words.tobytes())
        print(f"{name}: {len(words)} points")


if __name__ == "__main__":
    main()
