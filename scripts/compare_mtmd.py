"""Show one picture to llama.cpp's mtmd with our projector and with that of llama.cpp's converter, for each tiny model.

    python -O scripts/compare_mtmd.py --llama-cpp vendor/llama.cpp [NAME ...]

Both are encoded beside our text model, and the outputs must be equal to the bit. The script needs what
`make_family_goldens.py` needs. `-O` leaves out the assertions with which the converter allows only the published sizes
of some models.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests"), str(REPO / "python")]

from family_cases import all_cases  # noqa: E402
from make_family_goldens import GOLDENS, convert  # noqa: E402
from mtmd import BESIDE, STAND_INS, prepared  # noqa: E402


def seen(model: Path, projector: Path) -> dict[str, Any] | str:
    """Return what mtmd makes of the picture, or what it says if it stops."""
    program = REPO / "tests" / "mtmd.py"
    paths = {"PYTHONPATH": os.pathsep.join((str(REPO / "python"), str(REPO / "tests")))}
    command = [sys.executable, program, model, projector]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **paths})
    if run.returncode:
        return next((line for line in reversed(run.stderr.splitlines()) if line.strip()), "stopped")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def compared(golden: dict[str, Any], raw: bool, folder: Path) -> str:
    """Return one line about the two files of a model."""
    import srd_rs

    source = prepared(golden, folder)
    ours = srd_rs.convert(source, folder / "mmproj.gguf", mmproj_only=True).output
    beside = (
        prepared(json.loads((GOLDENS / f"{BESIDE}.json").read_text()), folder)
        if golden["name"] in STAND_INS
        else source
    )
    model = srd_rs.convert(
        beside, folder / "model.gguf", quant="BF16", effort="fast", axm=False, mmproj=False
    ).output
    reference = folder / "reference.gguf"
    convert(source, reference, True, raw)
    answers = [seen(model, file) for file in (ours, reference)]
    for whose, answer in zip(("ours", "the reference"), answers, strict=True):
        if isinstance(answer, str):
            return f"not seen with {whose}: {answer[:120]}"
        if not answer["finite"]:
            return f"not finite with {whose}"
    first, second = answers
    assert isinstance(first, dict) and isinstance(second, dict)
    return f"{'equal' if first['sha256'] == second['sha256'] else 'DIFFERENT'}, {first['values']} values"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", help="goldens to compare; all that have a projector if none is named"
    )
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with conversion/ and gguf-py/")
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp), str(options.llama_cpp / "gguf-py")]
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    cases = all_cases()
    for name in options.names or [name for name, case in cases.items() if case.mmproj]:
        golden = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            try:
                line = compared(golden, cases[name].raw_config, Path(folder))
            except Exception as error:
                line = f"stopped: {error}"
        print(f"{name}: {line}", flush=True)


if __name__ == "__main__":
    main()
