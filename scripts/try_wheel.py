"""Try a wheel as a user would: install it where nothing else is, convert, verify, use it from Python. Times each step.

    python scripts/try_wheel.py dist/               # the wheel in the folder that fits this system
    python scripts/try_wheel.py --python PYTHON     # an interpreter that has srd-rs installed; nothing is installed

The steps run without Rust on the PATH. Two conversions of the example, one by search and one with SRD, must have the
bytes that tests/data/golden_bytes.json pins for every system. The exit code is 1 if a step fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Final

REPO: Final = Path(__file__).resolve().parent.parent
EXAMPLE: Final = REPO / "examples" / "wiki-gemma4"
GOLDENS: Final = REPO / "tests" / "data" / "golden_bytes.json"
#: The conversions that scripts/make_golden_bytes.py makes, as options of the command line.
CONVERSIONS: Final = {
    "fast": ("--effort", "fast"),
    "srd": ("--effort", "srd", "--calibrate-tokens", "256", "--calibrate-block", "256"),
}
SESSION: Final = """
import srd_rs
with srd_rs.open("fast.gguf") as file:
    rows = file["token_embd.weight"].numpy(rows=slice(0, 4))
    print(file.metadata["general.architecture"], len(file), "tensors, rows of", rows.shape)
print(srd_rs.plan({example!r}, quant="Q5_K_M").total_bytes, "bytes would be written as Q5_K_M")
"""


def without_rust() -> dict[str, str]:
    """The environment less the folders of the PATH that have a compiler of Rust, and less this checkout."""

    def has_rust(folder: str) -> bool:
        return any((Path(folder) / name).exists() for name in ("cargo", "rustc", "cargo.exe"))

    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    folders = clean.get("PATH", "").split(os.pathsep)
    return {**clean, "PATH": os.pathsep.join(f for f in folders if not has_rust(f))}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", nargs="?", type=Path, default=REPO / "dist", help="folder of the wheels")
    parser.add_argument("--python", type=Path, help="an interpreter that has srd-rs")
    chosen = parser.parse_args()
    goldens = json.loads(GOLDENS.read_text())["conversions"]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        environment = {**without_rust(), "SRD_CACHE": str(folder / "cache")}
        environment["SRD_MASTER_KEY"] = "5d" * 32

        def step(name: str, *command: str | Path) -> None:
            begin = time.perf_counter()
            done = subprocess.run(
                [str(c) for c in command],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            print(f"{time.perf_counter() - begin:7.1f} s  {name}", flush=True)
            if done.returncode:
                sys.exit(f"{done.stdout}{done.stderr}")
            if name == "Python session":
                print("           " + done.stdout.strip().replace("\n", "\n           "))

        python = chosen.python and chosen.python.absolute()
        if python is None:
            begin = time.perf_counter()
            venv.create(folder / "venv", with_pip=True)
            print(f"{time.perf_counter() - begin:7.1f} s  empty environment")
            python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
            pip = (python, "-m", "pip", "install", "-q", "--find-links", chosen.wheels.resolve())
            # The wheel of this folder, and not one of an index; then what it needs, ready-made.
            step("the wheel is installed", *pip, "--no-index", "--no-deps", "srd-rs")
            step("what it needs is installed", *pip, "--only-binary", ":all:", "srd-rs")
        command = (python, "-m", "srd_rs")
        step("srd-rs --version", *command, "--version")
        differs = False
        for effort, options in CONVERSIONS.items():
            output = f"{effort}.gguf"
            plain = ("-q", "Q4_K_M", "--no-provenance", "--no-met", "--no-axm", "--name", "golden")
            step(f"convert --effort {effort}", *command, "convert", EXAMPLE, "-o", output, *plain, *options)
            found = hashlib.sha256((folder / output).read_bytes()).hexdigest()
            same = found == goldens[effort]["file"]
            differs |= not same
            print(
                f"           SHA-256 {found[:16]}: {'as everywhere' if same else 'OTHER BYTES'}", flush=True
            )
        step("convert with a container", *command, "convert", EXAMPLE, "-o", "signed.gguf", "--fast", "--axm")
        step("verify", *command, "verify", "signed.axm")
        step("Python session", python, "-c", SESSION.format(example=str(EXAMPLE)))
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
