"""Peak memory and time of the conversion of a projector, beside those of a text model of about the same size.

    python scripts/projector_memory.py [DEPTH ...]

The model is a Qwen2.5-VL whose encoder has the published widths and DEPTH layers (default: 2 and 16), with weights that
are zero. Both halves are written in F16. If a projector were held as a whole, its peak would grow with its size.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "tests"), str(REPO / "python")]

from large_projector import large  # noqa: E402
from support import srd  # noqa: E402

HALVES = {"projector": ("--mmproj-only",), "text": ("-q", "F16", "--no-mmproj", "--no-met")}


def main() -> None:
    for depth in map(int, sys.argv[1:] or ["2", "16"]):
        with tempfile.TemporaryDirectory() as scratch:
            model = large(Path(scratch) / "model", depth)
            for half, options in HALVES.items():
                output = Path(scratch) / f"{half}.gguf"
                run = srd("convert", model, "--fast", "--no-axm", "-o", output, *options)
                if run.code:
                    raise SystemExit(run.stderr)
                size = output.stat().st_size
                print(
                    f"{depth} layers, {half}: {size / 1e6:.0f} MB written, peak {run.peak_rss / 1e6:.0f} MB,"
                    f" {run.wall_s:.1f} s, {run.cpu_s:.1f} s of CPU time",
                    flush=True,
                )
                output.unlink()


if __name__ == "__main__":
    main()
