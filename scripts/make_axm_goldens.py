"""Write the golden containers of tests/data/axm, and expected.json, which says what a reader must find in them.

    python scripts/make_axm_goldens.py

The script ran for version 1 of the format as docs/axm-format.md has it. After the first release of version 1, never run
the script to make a failing test pass: containers of version 1 must stay readable.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from gguf import GGUFReader
from gguf.quants import dequantize

import srd_rs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from axm_tools import KEY, key_file, tiny_model  # noqa: E402

FOLDER = ROOT / "tests" / "data" / "axm"


def expected(container: Path, key: Path, scratch: Path) -> dict[str, object]:
    found = srd_rs.verify(container, key_file=key)
    srd_rs.extract(container, scratch / "packed.gguf", key_file=key, overwrite=True)
    srd_rs.extract(container, scratch / "full.gguf", quant="F32", key_file=key, overwrite=True)
    full = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(scratch / "full.gguf").tensors}
    return {
        "fingerprint": found.fingerprint,
        "public_key": found.public_key,
        "gguf_sha256": hashlib.sha256((scratch / "packed.gguf").read_bytes()).hexdigest(),
        "weights_sha256": {name: hashlib.sha256(w.tobytes()).hexdigest() for name, w in full.items()},
    }


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    facts = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        key, model = key_file(scratch, KEY), tiny_model(scratch / "tiny.gguf", rows=32)
        srd_rs.keygen(scratch / "sign", ed25519=True)
        for name, bits, sign in (("v1-2bit", 2, None), ("v1-3bit-ed25519", 3, scratch / "sign")):
            path = FOLDER / f"{name}.axm"
            srd_rs.pack(
                model, path, residual_bits=bits, seed=bits, key_file=key, sign_key=sign, effort="fast"
            )
            facts[name] = expected(path, key, scratch)
    (FOLDER / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
