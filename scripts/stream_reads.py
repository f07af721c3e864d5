"""Print how often `convert --stream` fetches the weights of a model, by the options of the conversion.

    python scripts/stream_reads.py [MODEL] [--calibrate-tokens N]

A hub on this machine serves the model (the example by default) and counts the bytes of the weight files that it sends.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from local_hub import Hub, serving
from support import EXAMPLE

OPTIONS = (
    ("--fast",),
    ("--fast", "--axm"),
    ("--effort", "srd"),
    ("--effort", "srd", "--axm"),
    ("--fast", "--target-size", "{size}"),
    ("--effort", "srd", "--target-size", "{size}"),
    ("--effort", "max"),
)
SIZE = 0.35
"""The target size as a share of the checkpoint."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=EXAMPLE)
    parser.add_argument("--calibrate-tokens", default="2048")
    args = parser.parse_args()
    weights = sum(file.stat().st_size for file in args.model.glob("*.safetensors"))
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch) / "hf", network=True) as env:
        Hub.folders["org/m"] = args.model
        environment = {**os.environ, **env, "SRD_CACHE": "off"}
        for options in OPTIONS:
            asked = [option.format(size=int(SIZE * weights)) for option in options]
            asked += [] if "--axm" in asked else ["--no-axm"]
            asked += [] if "--fast" in asked else ["--calibrate-tokens", args.calibrate_tokens]
            Hub.sent = 0
            folder = tempfile.mkdtemp(dir=scratch)
            command = [
                sys.executable,
                "-m",
                "srd_rs",
                "convert",
                "org/m",
                "--stream",
                "--overwrite",
                "--no-met",
            ]
            command += ["-o", str(Path(folder) / "m.gguf"), "--quiet", *asked]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                sys.exit(done.stderr)
            name = " ".join(option.format(size="...") for option in options)
            print(
                f"{name:32} {Hub.sent / weights:5.2f} times the {weights / 1e6:.0f} MB of weights", flush=True
            )


if __name__ == "__main__":
    main()
