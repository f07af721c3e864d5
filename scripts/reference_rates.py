"""Measure what SRD costs beside the search, for `srd_rs.costs.cost_of_srd`.

    python scripts/reference_rates.py            # prints the rates of this machine
    python scripts/reference_rates.py --write    # writes them to python/srd_rs/data/rates.json

The last line of a fast conversion says how long SRD would take. The conversion has shown how fast the machine is, so
only the ratios of these rates count: of the types, of the search and SRD, of the calibration. Run the script again when
a quantizer becomes faster or slower.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from srd_rs import _core, estimating
from srd_rs.calibration import Request
from srd_rs.costs import Work
from srd_rs.options import ConvertOptions

RATES: Final = Path(__file__).resolve().parent.parent / "python" / "srd_rs" / "data" / "rates.json"
BLOCKS: Final = (256, 512, 1024, 2048)
TOKENS: Final = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace python/srd_rs/data/rates.json")
    chosen = parser.parse_args()
    searched: Counter[str] = Counter(dict.fromkeys(_core.quantizable_types(), 1))
    by_srd: Counter[str] = Counter(dict.fromkeys(_core.FEEDBACK_TYPES, 1))
    found = []
    for block in BLOCKS:
        work = Work(searched, by_srd, by_srd, row_length=block, width=block, copied=1, multiplied=1, products=1,
                    calibration_bytes=0, layer_bytes=0)  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            request = Request(
                [[0] * TOKENS], "", None, 0, TOKENS, block, "", Path(folder), named=False, kept=False,
                overwrite=False, threads=None, max_memory=_core.DEFAULT_CALIBRATION_MEMORY, weigh_tokens=False,
            )  # fmt: skip
            rates = estimating.measure_rates(work, ConvertOptions(), request, Path(folder), [])
        # The disk and the network are those of the machine that is asked about.
        rates = replace(rates, disk_read=0.0, disk_write=0.0)
        found.append(json.dumps(rates.to_json(), default=float))
    text = "[\n" + ",\n".join(found) + "\n]\n"
    if chosen.write:
        RATES.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
