#!/usr/bin/env python3
"""Print time, CPU time and peak memory of srd-rs and of llama.cpp's quantizer on the same weights.

    python scripts/peer_e2b.py [--checkpoint FOLDER] [--repeat 5] [--srd]

The checkpoint has the shapes of Gemma 4 E2B and random weights (9.3 GB); the script makes it if FOLDER has none. The
runs:

  srd-rs               checkpoint -> Q4_K_M GGUF
  srd-rs, 768 MB       the same with RLIMIT_DATA at 768 MB
  srd-rs and .axm      the same with the signed container beside the GGUF
  srd-rs, effort srd   with --srd: checkpoint -> Q4_K_M GGUF with the defaults of `srd-rs convert`
  llama.cpp quantizer  BF16 GGUF (made by srd-rs before) -> Q4_K_M GGUF, `llama_model_quantize`

Each run is a process of its own. Its peak memory is VmHWM, which includes mapped pages. With --repeat the runs take
turns and the medians are printed. The conversion from the checkpoint to the BF16 GGUF, which llama.cpp needs as well,
is not timed. Needs the extra `srd-rs[eval]` and about 23 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
MEASURE = Path(__file__).resolve().parent / "measure.py"
RLIMIT_DATA = 768 << 20
TIMEOUT_S = 3600

PEER = "import sys; from srd_rs.eval.quantizer import quantize; quantize(*sys.argv[1:4], threads=int(sys.argv[4]))"


def measured(command: list[str], folder: Path, *, rlimit_data: int = 0) -> dict[str, float]:
    """Run `command`; its wall and CPU seconds and peak RSS in bytes. Ends this program if it fails."""
    result = folder / "figures.json"
    env = dict(os.environ)
    if rlimit_data:
        env["MEASURE_RLIMIT_DATA"] = str(rlimit_data)
    launcher = [sys.executable, "-S", "-E", str(MEASURE), str(result), str(TIMEOUT_S)]
    done = subprocess.run([*launcher, *command], env=env, capture_output=True, text=True, check=False)
    figures: dict[str, float] = json.loads(result.read_text())
    if figures["code"] != 0:
        sys.exit(f"error: {' '.join(command)}: exit code {figures['code']}: {done.stderr[-2000:]}")
    return figures


def srd(
    model: Path, quant: str, output: Path, threads: int, *, axm: bool = False, effort: str = "fast"
) -> list[str]:
    options = ["-q", quant, "-o", str(output), "-f", "--threads", str(threads), "--json", "--no-met"]
    options.append("--axm" if axm else "--no-axm")
    # A calibration that was kept would cost nothing.
    options += ["--effort", effort, *(["--no-cache"] if effort == "srd" else [])]
    return [sys.executable, "-m", "srd_rs", "convert", str(model), *options]


def make_checkpoint(folder: Path, shared: Path, layers: int | None) -> None:
    if (folder / "config.json").exists():
        return
    script, shapes = shared / "tools" / "make_checkpoint.py", shared / "checkpoints" / "gemma-4-E2B"
    if not script.exists():
        sys.exit(f"error: {folder}: no checkpoint, and {script} is missing. Use --checkpoint or --shared")
    extra = ["--layers", str(layers)] if layers else []
    subprocess.run([sys.executable, str(script), str(shapes), str(folder), *extra], check=True)


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in ("wall_s", "cpu_s", "peak_rss")}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All runs, `--repeat` times in turn; name -> medians."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    make_checkpoint(args.checkpoint, args.shared, args.layers)
    bf16, ours, theirs = work / "bf16.gguf", work / "srd-rs.gguf", work / "llama.gguf"
    try:
        measured(srd(args.checkpoint, "BF16", bf16, args.threads), work)
        convert = srd(args.checkpoint, args.quant, ours, args.threads)
        measuring = srd(args.checkpoint, args.quant, ours, args.threads, effort="srd")
        peer = [sys.executable, "-c", PEER, str(bf16), str(theirs), args.quant, str(args.threads)]
        runs: dict[str, list[dict[str, float]]] = {}
        for i in range(args.repeat):
            for name, command, limit in (
                ("srd-rs", convert, 0),
                ("srd-rs, 768 MB", convert, RLIMIT_DATA),
                ("srd-rs and .axm", srd(args.checkpoint, args.quant, ours, args.threads, axm=True), 0),
                *([("srd-rs, effort srd", measuring, 0)] if args.srd else []),
                ("llama.cpp quantizer", peer, 0),
            ):
                print(f"{i + 1}/{args.repeat} {name}", file=sys.stderr)
                runs.setdefault(name, []).append(measured(command, work, rlimit_data=limit))
                # A container whose GGUF would be replaced alone is a refusal.
                ours.with_suffix(".axm").unlink(missing_ok=True)
        sizes = {"srd-rs": ours.stat().st_size, "llama.cpp quantizer": theirs.stat().st_size}
    finally:
        for path in (bf16, ours, ours.with_suffix(".axm"), theirs, work / "figures.json"):
            path.unlink(missing_ok=True)
    return {"medians": {name: median_of(found) for name, found in runs.items()}, "sizes": sizes}


def show(result: dict[str, Any]) -> None:
    medians, sizes = result["medians"], result["sizes"]
    peer = medians["llama.cpp quantizer"]
    print(
        f"{'':22}{'wall':>9}{'CPU':>9}{'peak RSS':>11}{'size':>10}   share of the quantizer's time, CPU, memory"
    )
    for name, m in medians.items():
        ratios = ", ".join(f"1/{peer[key] / m[key]:.1f}" for key in ("wall_s", "cpu_s", "peak_rss"))
        size = f"{sizes[name] / 1e9:8.2f} G" if name in sizes else ""
        figures = f"{m['wall_s']:7.1f} s{m['cpu_s']:7.1f} s{m['peak_rss'] / 1e6:8.0f} MB{size:>10}"
        print(f"{name:22}{figures}   {ratios}")


def main() -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "srd-rs-tests"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=cache / "e2b", help="made there where it is missing"
    )
    parser.add_argument(
        "--shared", type=Path, default=Path(os.environ.get("SRD_SHARED", REPO.parent / "shared"))
    )
    parser.add_argument(
        "--work", type=Path, default=cache / "peer", help="folder for the outputs, removed again"
    )
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--layers", type=int, help="a smaller checkpoint: 15 or 35 layers")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--srd", action="store_true", help="measure effort srd with its defaults as well")
    parser.add_argument("--json", action="store_true", help="print the medians as JSON instead")
    args = parser.parse_args()
    result = compare(args)
    print(json.dumps(result)) if args.json else show(result)


if __name__ == "__main__":
    main()
