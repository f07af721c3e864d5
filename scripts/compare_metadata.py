"""Compare the metadata of changed configurations with those of llama.cpp's converter, many in a second.

    python -O scripts/compare_metadata.py --llama-cpp vendor/llama.cpp [--changes absent] [NAME ...]

The changes are those of `scripts/compare_variants.py`, which compares tensors and bytes as well and takes far longer.
The tensors stay those of the golden. Compared are the keys of the architecture, and the names and sizes of the factors
of RoPE. A variant is counted as

- equal, different, declined (only we refuse it) or impossible (the converter cannot make it),
- other tensors: the change asks for tensors of other sizes, so that only `compare_variants.py` can compare it.

Keys that differ on purpose are known by the golden, or by the list of `compare_variants.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from compare_variants import (
    DECLINED,
    REPO,
    cases_of_tests,
    on_purpose,
    with_absent_keys,
    with_published_changes,
)
from family_cases import Case, all_cases
from make_family_goldens import without_transformers, write_checkpoint
from patterns import write_config
from published_changes import Change

OTHER_TENSORS = ("has shape", "missing from the checkpoint", "that the architecture does not have")
"""What messages say where the tensors do not fit the changed configuration."""


def golden_cases() -> dict[str, Case]:
    """Return the cases with the tensors of their goldens."""
    found = cases_of_tests(tensors=True)
    for name, case in all_cases().items():
        file = REPO / "tests" / "data" / "families" / f"{name}.json"
        if case.text and file.is_file() and "architectures" in case.config:
            sources = json.loads(file.read_text(encoding="utf-8"))["sources"]
            found[name] = replace(case, tensors={key: tuple(shape) for key, (_, shape) in sources.items()})
    return found


def of_converter(folder: Path, raw_config: bool) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return the metadata that the converter writes, and the sizes of the tensors that it computes."""
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    with without_transformers() if raw_config else contextlib.nullcontext():
        hparams = ModelBase.load_hparams(folder, False)
        model_class = get_model_class(get_model_architecture(hparams, ModelType.TEXT), mmproj=False)
        model = model_class(folder, gguf.LlamaFileType.MOSTLY_BF16, folder / "out.gguf", hparams=hparams)
    model = getattr(model, "impl", model)
    model.set_gguf_parameters()
    computed = {name: list(tensor.shape) for name, tensor in model.generate_extra_tensors()}
    values = {key: row.value for part in model.gguf_writer.kv_data for key, row in part.items()}
    return {key: plain(value) for key, value in values.items()}, computed


def plain(value: Any) -> Any:
    """Return numbers with the precision that a file has."""
    import numpy as np

    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return float(np.float32(value)) if isinstance(value, float) else value


def compared(folder: Path, case: Case, known: set[str]) -> tuple[str, str]:
    """Return the verdict on one changed configuration, and a line."""
    from srd_rs.checkpoint import Checkpoint
    from srd_rs.errors import SrdError
    from srd_rs.families import describe

    refused, spec = "", None
    try:
        spec = describe(Checkpoint.open(folder))
    except SrdError as error:
        refused = str(error).replace(str(folder), "")
        if any(part in refused for part in OTHER_TENSORS):
            return "other tensors", ""
    try:
        theirs, computed = of_converter(folder, case.raw_config)
    except Exception as error:
        return "impossible", f"{type(error).__name__}: {error}"
    if spec is None:
        return "declined", f"{DECLINED}{refused}"
    ours = {key: plain(value) for key, _, value in spec.metadata.entries()}
    parts = []
    for key in sorted({*ours, *theirs} - known):
        inside = key.startswith(f"{spec.arch}.") and not on_purpose(key, theirs)
        if inside and ours.get(key) != theirs.get(key):
            parts.append(f"{key}: {ours.get(key)}, the converter has {theirs.get(key)}")
    factors = {t.name: list(t.shape) for t in spec.tensors if t.name.startswith("rope_")}
    if factors != {name: shape for name, shape in computed.items() if name.startswith("rope_")}:
        parts.append(f"factors {factors}, the converter has {computed}")
    return ("different", "; ".join(parts[:6])) if parts else ("equal", "")


def changed(case: Case, changes: str) -> Iterator[tuple[Case, str]]:
    """Yield the changed cases whose tensors are those of the case."""
    if changes == "absent":
        yield from with_absent_keys(case)
        return
    plain_change = Change("")
    for other, what, change in with_published_changes(case):
        if replace(change, what="", values={}, same_tensors=False) == plain_change:
            yield other, what


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="cases to change; all of them if none is named")
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with conversion/ and gguf-py/")
    parser.add_argument("--changes", choices=("published", "absent"), default="published")
    parser.add_argument("--quiet", action="store_true", help="only count")
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp), str(options.llama_cpp / "gguf-py")]
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    from test_family_goldens import DIFFERENCES

    cases, total = golden_cases(), Counter[str]()
    for name in options.names or cases:
        case, counts = cases[name], Counter[str]()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            write_checkpoint(case, dict(case.tensors or {}), folder)
            for other, what in changed(case, options.changes):
                write_config(other.config, folder)
                verdict, line = compared(folder, other, set(DIFFERENCES.get(name, {})))
                counts[verdict] += 1
                if line and verdict != "impossible" and not options.quiet:
                    print(f"{verdict}: {name}, {what}: {line[:400]}")
        print(name, json.dumps(counts), flush=True)
        total += counts
    print(json.dumps(total))


if __name__ == "__main__":
    main()
