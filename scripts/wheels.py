"""Make the wheels of all systems on one Linux machine. zig links them, so no other compiler is needed.

    pip install 'maturin>=1.9,<2' ziglang && rustup target add TARGET...
    python scripts/wheels.py                       # all, into dist/
    python scripts/wheels.py windows musl          # those whose target contains one of the words
    python scripts/wheels.py --profile quick       # not optimized as a whole: links sooner, for tests

Prints the size of each wheel and the SHA-256 of the extension in it. The exit code is 1 if a wheel is not made, or has
more bytes than a wheel may have.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Final

REPO: Final = Path(__file__).resolve().parent.parent
#: Targets of Rust, with the system that the wheel is for.
TARGETS: Final = {
    "x86_64-unknown-linux-gnu": "manylinux2014",
    "aarch64-unknown-linux-gnu": "manylinux2014",
    "x86_64-unknown-linux-musl": "musllinux_1_2",
    "aarch64-unknown-linux-musl": "musllinux_1_2",
    "aarch64-apple-darwin": "",
    "x86_64-apple-darwin": "",
    "x86_64-pc-windows-gnu": "",
}
MAX_BYTES: Final = 10_000_000
#: For Windows, maturin 1.16 names the exported function after the whole name of the module: `PyInit_srd_rs._core`. The
#: linker does not find it. This module stands for ziglang: it corrects the list of exports, and becomes zig.
ZIGLANG: Final = """
import os, pathlib, re, sys
for path in pathlib.Path({folder!r}, "maturin").glob("*.def"):
    path.write_text(re.sub(r"PyInit_[\\w.]*[.]", "PyInit_", path.read_text()))
os.execv({zig!r}, [{zig!r}, *sys.argv[1:]])
"""


def zig() -> Path:
    """The program that the package ziglang brings."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        sys.exit("ziglang is missing: pip install ziglang")
    return Path(spec.origin).with_name("zig")


def build(target: str, profile: str, out: Path) -> Path | None:
    """Make one wheel. Returns None if that fails; the compiler has then said why."""
    folder = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    command = [sys.executable, "-m", "maturin", "build", "--zig", "--profile", profile, "--target", target]
    command += ["--interpreter", sys.executable, "--out", str(out)]
    if TARGETS[target]:
        command += ["--compatibility", TARGETS[target]]
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as made:
        if "windows" in target:
            stand_in = Path(made) / "ziglang" / "__main__.py"
            stand_in.parent.mkdir()
            (stand_in.parent / "__init__.py").touch()
            stand_in.write_text(ZIGLANG.format(folder=str(folder), zig=str(zig())))
            environment["PYTHONPATH"] = made
        before = set(out.glob("*.whl"))
        begin = time.time()
        done = subprocess.run(command, cwd=REPO, env=environment, check=False)
    wheels = [w for w in out.glob("*.whl") if w not in before or w.stat().st_mtime >= begin]
    return wheels[0] if done.returncode == 0 and wheels else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="parts of the names of targets")
    parser.add_argument("--profile", default="release", help="profile of cargo (default: release)")
    parser.add_argument("--out", type=Path, default=REPO / "dist", help="folder of the wheels")
    chosen = parser.parse_args()
    out = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    lines, failed = [], False
    for target in TARGETS:
        if chosen.words and not any(word in target for word in chosen.words):
            continue
        wheel = build(target, chosen.profile, out)
        if wheel is None:
            lines.append(f"{target:28} FAILED")
            failed = True
            continue
        size = wheel.stat().st_size
        failed |= size > MAX_BYTES
        with zipfile.ZipFile(wheel) as archive:
            [name] = [
                n for n in archive.namelist() if n.startswith("srd_rs/_core.") and not n.endswith(".pyi")
            ]
            digest = hashlib.sha256(archive.read(name)).hexdigest()
        verdict = "TOO LARGE" if size > MAX_BYTES else ""
        lines.append(f"{target:28} {size / 1e6:5.2f} MB  {wheel.name}  {digest[:16]} {verdict}".rstrip())
    print("\n".join(lines))
    return 1 if failed or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
