#!/usr/bin/env python3
"""Convert the tiny checkpoints of `tests/fp4_cases.py` with llama.cpp's own converter and keep hashes of the files.

    python scripts/make_fp4_goldens.py --llama-cpp vendor/llama.cpp

The folder of llama.cpp is in the source distribution of llama-cpp-python. The script needs torch, transformers and
llama-cpp-python; the tests need none of them. It writes ``tests/data/fp4.json``: for each case the metadata without
the tokenizer's, ``general.file_type``, for each tensor its shape, its type and the first 16 digits of the SHA-256
of its bytes, and the 16 tokens that llama.cpp generates with the file (of smaller weights).
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]

from fp4_cases import cases, write_checkpoint  # noqa: E402
from generation import SCALE, generated, with_vocabulary  # noqa: E402
from make_family_goldens import convert, lines, written  # noqa: E402

GOLDENS = REPO / "tests" / "data" / "fp4.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with conversion/ and gguf-py/")
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp), str(options.llama_cpp / "gguf-py")]
    logging.disable(logging.WARNING)
    import gguf

    goldens = {}
    for case in cases():
        with tempfile.TemporaryDirectory() as scratch:
            folder, output = Path(scratch) / case.name, Path(scratch) / "out.gguf"
            write_checkpoint(case, folder)
            convert(folder, output, False, True)
            metadata, tensors = written(output)
            kind = gguf.GGUFReader(output).fields["general.file_type"].contents()
            (Path(scratch) / "small").mkdir()
            write_checkpoint(case, Path(scratch) / "small" / case.name, SCALE)
            convert(Path(scratch) / "small" / case.name, output, False, True)
            with_vocabulary(output, Path(scratch) / "text.gguf")
            tokens = generated([(Path(scratch) / "text.gguf", None)])[0]
        goldens[case.name] = {
            "file_type": kind,
            "metadata": metadata,
            "tensors": tensors,
            "generated": tokens,
        }
        print(f"{case.name}: {len(tensors)} tensors", flush=True)
    GOLDENS.write_text("".join(lines(goldens, 4)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
