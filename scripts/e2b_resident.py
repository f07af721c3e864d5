#!/usr/bin/env python3
"""Print how much of Gemma 4 E2B lies in memory at the first token in llama-server, by default and with --lazy-mode on.

    python scripts/e2b_resident.py [--checkpoint FOLDER] [--work FOLDER] [--quant Q8_0] [--ctx 512]

The checkpoint has the shapes of Gemma 4 E2B and random weights (9.3 GB); the script makes it if FOLDER has none, as
peer_e2b.py does. The script converts it with effort fast and removes the GGUF again. No page of the GGUF is in memory
when the engine loads it, and no limit of memory is set. "needed" is what `srd_rs.place` counts for the memory of the
CPU. Needs xllamacpp, which is llama-server in a process, 16 GB of disk and 8 GB of memory.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import srd_rs
from peer_e2b import make_checkpoint
from placement_table import run

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "srd-rs-tests"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=cache / "e2b")
    parser.add_argument("--work", type=Path, default=cache / "resident")
    parser.add_argument("--quant", default="Q8_0")
    parser.add_argument("--ctx", type=int, default=512, help="tokens of the context")
    parser.add_argument(
        "--shared", type=Path, default=Path(os.environ.get("SRD_SHARED", REPO.parent / "shared"))
    )
    args = parser.parse_args()
    make_checkpoint(args.checkpoint, args.shared, None)
    args.work.mkdir(parents=True, exist_ok=True)
    model = args.work / "e2b.gguf"
    try:
        srd_rs.convert(
            args.checkpoint, model, quant=args.quant, effort="fast", axm=False, met=False, overwrite=True
        )
        roomy = srd_rs.place(model, ram=1 << 40, ctx=args.ctx, ram_bandwidth=1e9)
        lazy = srd_rs.place(model, ram=roomy.cpu.total - 1, ctx=args.ctx, ram_bandwidth=1e9)
        rows: list[tuple[str, srd_rs.Placement, dict[str, Any]]] = [
            ("llama-server, defaults", roomy, {}),
            ("llama-server, --lazy-mode on", lazy, {"lazy": True}),
        ]
        print(
            f"| {args.quant}, {model.stat().st_size / 1e6:.0f} MB | in memory at the first token, MB | needed, MB |"
        )
        print("| --- | ---: | ---: |")
        for name, placed, more in rows:
            how = {"engine": "llama-server", "lock": 0, "threads": os.cpu_count(), "fit": False, **more}
            found = run(model, how, None, args.ctx, 1)
            assert found is not None
            print(f"| {name} | {found[2] / 1e6:.0f} | {placed.cpu.weights / 1e6:.0f} |", flush=True)
    finally:
        model.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
