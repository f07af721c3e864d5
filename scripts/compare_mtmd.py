"""Show a picture, and play a sound, to llama.cpp's mtmd with our projector and with that of llama.cpp's converter, for
each tiny model.

    python -O scripts/compare_mtmd.py --llama-cpp vendor/llama.cpp [NAME ...]

Both are encoded beside our text model, and the outputs must be equal to the bit. The last lines count the models for
which they are, for pictures and for sounds. The script needs what
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
# Where the package is installed, the installed one is used: the folder of the sources may lack the native module.
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]
sys.path.append(str(REPO / "python"))

from family_cases import Case, all_cases  # noqa: E402
from make_family_goldens import GOLDENS, convert  # noqa: E402
from mtmd import ADDED, FOLDED, RENAMED, ROUNDED, prepared, stand_in  # noqa: E402

SENSES = {"vision": "picture", "audio": "sound"}


def made_of(model: Path, projector: Path, sense: str) -> dict[str, Any] | str:
    """Return what mtmd makes of the picture or the sound, or what mtmd says if it stops."""
    program = REPO / "tests" / "mtmd.py"
    paths = {
        "GGML_NO_BACKTRACE": "1",
        "PYTHONPATH": os.pathsep.join((str(REPO / "python"), str(REPO / "tests"))),
    }
    command = [sys.executable, program, model, projector, sense]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **paths})
    if run.returncode:
        said = next((line for line in reversed(run.stderr.splitlines()) if line.strip()), "stopped")
        return said.rpartition("/")[2][:160]
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def compared(golden: dict[str, Any], case: Case, folder: Path) -> dict[str, str]:
    """Return for each sense of a model one line about what the two files make of the same input."""
    import srd_rs

    source = prepared(golden, folder)
    ours = srd_rs.convert(source, folder / "mmproj.gguf", mmproj_only=True).output
    other = stand_in(golden)
    text = source if other is None else prepared(json.loads((GOLDENS / f"{other}.json").read_text()), folder)
    model = srd_rs.convert(
        text, folder / "model.gguf", quant="BF16", effort="fast", axm=False, mmproj=False
    ).output
    reference = folder / "reference.gguf"
    convert(source, reference, True, case.raw_config, case.constants)
    name = golden["name"]
    if name in (*RENAMED, *ADDED):
        reference = rewritten(reference, ours, RENAMED.get(name), tuple(ADDED.get(name, ())))
    senses = [sense for sense in SENSES if f"clip.has_{sense}_encoder" in golden["mmproj"]["metadata"]]
    found = {sense: verdict([made_of(model, file, sense) for file in (ours, reference)]) for sense in senses}
    rounded = [key for key in golden["mmproj"]["tensors"] if key.endswith((*ROUNDED, *FOLDED))]
    if rounded and "DIFFERENT" in found.values():
        reference = rewritten(reference, ours, None, (*ROUNDED, *FOLDED))
        for sense in (sense for sense, line in found.items() if line == "DIFFERENT"):
            again = verdict([made_of(model, file, sense) for file in (ours, reference)])
            found[sense] = (
                f"{again}, with our rounding of {', '.join(sorted({key.split('.')[-2] for key in rounded}))}"
            )
    return found


def rewritten(reference: Path, ours: Path, names: tuple[str, str] | None, taken: tuple[str, ...]) -> Path:
    """Copy the reference's file, where docs/differences.md says what differs: with the names that llama.cpp reads, if
    its converter writes others, and with our tensors in place of, or beside, those whose names end with `taken`."""
    import gguf

    output = reference.with_name("rewritten.gguf" if names else "rounded.gguf")
    before, after = names or ("\0", "")
    reader = gguf.GGUFReader(reference)
    writer = gguf.GGUFWriter(output, "clip")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    of_ours = [t for t in gguf.GGUFReader(ours).tensors if taken and t.name.endswith(taken)]
    kept = [t for t in reader.tensors if not (taken and t.name.endswith(taken))]
    for tensor in [*kept, *of_ours]:
        writer.add_tensor(tensor.name.replace(before, after), tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output


def verdict(answers: list[dict[str, Any] | str]) -> str:
    """Return a line about the answers with our file and with the reference's."""
    if all(isinstance(answer, str) for answer in answers):
        return f"llama.cpp stops with both files: {answers[0]}"
    for whose, answer in zip(("our file", "the reference's"), answers, strict=True):
        if isinstance(answer, str):
            return f"llama.cpp stops with {whose} only: {answer}"
        if not answer["finite"]:
            return f"not finite with {whose}"
    first, second = answers
    assert isinstance(first, dict) and isinstance(second, dict)
    if first["sha256"] != second["sha256"]:
        return "DIFFERENT"
    return f"equal, {first['values']} values, {first['different']} different ones"


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
    counts = {sense: [0, 0] for sense in SENSES}
    for name in options.names or [name for name, case in cases.items() if case.mmproj]:
        golden = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = compared(golden, cases[name], Path(folder))
            except Exception as error:
                found = {sense: f"stopped: {error}" for sense in SENSES}
        for sense, line in found.items():
            counts[sense][0] += line.startswith("equal")
            counts[sense][1] += 1
            print(f"{name}, {SENSES[sense]}: {line}", flush=True)
    for sense, (equal, all_of_them) in counts.items():
        print(f"{SENSES[sense]}s: equal to the bit for {equal} of {all_of_them} models")


if __name__ == "__main__":
    main()
