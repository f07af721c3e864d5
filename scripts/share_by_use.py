"""Print the share of use whose models srd-rs reads: pulls of Ollama's models in the twelve months to July 2026.

    srd-rs models --json | python scripts/share_by_use.py

`share_by_use.tsv` has the growth of the pull counts of each model from 2025-07-06 to 2026-07-08, in millions (from
daily copies of the library that github.com/yuma-shintani/ollama-model-library keeps), whether the model is new since
July 2025, and what its conversion needs: classes of config.json, `mmproj:` projectors, `input:` kinds of weights,
`tokenizer:` kinds of tokenizers, and `bare:` classes whose weights lack the prefix of the class. `covered` stands for
classes that the first version converted, and `?` for models whose class is not known.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

LISTS = {"": "classes", "mmproj": "mmproj", "input": "inputs", "tokenizer": "tokenizers"}


def is_met(need: str, have: dict[str, Any]) -> bool:
    """Say whether `srd-rs models --json` lists what a model needs."""
    kind, _, what = need.rpartition(":")
    if kind == "bare":
        return "bare" in have["inputs"] and what in have["classes"]
    return what in have[LISTS[kind]]


def main() -> None:
    have = json.load(sys.stdin)
    with Path(__file__).with_suffix(".tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    new = [row for row in rows if row["new_since_2025_07"] == "1"]
    for label, chosen in (("all models", rows), ("models new since July 2025", new)):
        total = converted = 0.0
        missing = []
        for row in chosen:
            pulls = float(row["pulls_millions"])
            needs = [] if row["needs"] == "covered" else row["needs"].split()
            lacks = [need for need in needs if not is_met(need, have)]
            total += pulls
            if lacks:
                missing.append((pulls, row["model"], " ".join(lacks)))
            else:
                converted += pulls
        print(f"{label}: {converted / total:.1%} of {total:.0f} M pulls are of models that are read")
        for pulls, model, lacks in sorted(missing, reverse=True):
            print(f"  {pulls:.2f} M {model}: {lacks}")


if __name__ == "__main__":
    main()
