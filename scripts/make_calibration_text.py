"""Composes python/srd_rs/data/builtin.txt.gz, the bundled calibration text, from public-domain works.

    python scripts/make_calibration_text.py FOLDER [--output FILE]

FOLDER holds the files of `SOURCES`, under these names, from GitHub at these commits. Prose in English, German and
French, C, HTML, tables, and one declaration in 13 languages alternate, so that chunks spread over the text see all of
them. The same inputs give the same bytes (the compressor's, with one version of zlib); the text's SHA-256 is checked.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
import sys
import zipfile
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "python" / "srd_rs" / "data" / "builtin.txt.gz"
TEXT_SHA256 = "2ffdc310952f063ca6a5dcf1c226dd82907bc825e915b588dbd7f7ef649a9504"
#: File: (repository and commit, path in it, SHA-256).
TZ = "eggert/tz b9bc7a87bb7f21576b43541dea9f298462c23bd5"
NLTK = "nltk/nltk_data 5db857e6f7df11eabb5e5665836db9ec8df07e28"
SOURCES = {
    "alice.txt": (
        "GITenberg/Alice-s-Adventures-in-Wonderland_11 7f18748e114b994d5d9454d5793581bc0b9cf9d7",
        "11-0.txt",
        "49a0b2726606e1290ac03a63978fa1dd1bd38a8d805704d98265f393533ea094",
    ),
    "verwandlung.txt": (
        "GITenberg/Die-Verwandlung_22367 dd2beec59176851bfb071689539d6091b3d95d11",
        "22367-8.txt",
        "fe91c871104780ce5a8fe3e12e79b757f6fb5ffa28ed83d6186e618fb3bf344a",
    ),
    "entrenous.txt": (
        "GITenberg/Entre-Nous--13-Lectures-fran-aises---l-usage-des--coles-primaires---I_44157"
        " 7dfce74b27d6741b0e8834a99681037c85e51186",
        "44157-0.txt",
        "cb67691fbabb829415ff5ab76518b9b125dde65e0c3cae04e7871e0062a1c59b",
    ),
    "zic.c": (TZ, "zic.c", "54ed43756e70eeffde578b6a3277d75fc808cc06d088093b3243713194fc08d5"),
    "localtime.c": (TZ, "localtime.c", "e362fcc65b89034b0ed2ee54f213a52a860b044055b62103c983b662133b307d"),
    "asia": (TZ, "asia", "cd12fe2bd64a02d808fd34abb92f08f19e5da20133a1c6c347d11171c00d9e1c"),
    "theory.html": (TZ, "theory.html", "88fb142cca79196eb804c3eb3b7511f6f366fef36d3e53bd2640f3c24d1d127e"),
    "inaugural.zip": (
        NLTK,
        "packages/corpora/inaugural.zip",
        "7c5fb5793e31fbeae12bf1aa0ffda5336468f07cedb50654c6d31ca384e2046b",
    ),
    "udhr.zip": (
        NLTK,
        "packages/corpora/udhr.zip",
        "97e4c9dfa4a402f243d60b03d511afb04cf63f92f9ad1be9108b511448c329fa",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    raw = composed(Works(arguments.folder)).encode()
    if hashlib.sha256(raw).hexdigest() != TEXT_SHA256:
        sys.exit("the text is not the published one: its recipe has changed")
    arguments.output.write_bytes(gzip.compress(raw, 9, mtime=0))
    print(f"{arguments.output}: {len(raw)} bytes of text, SHA-256 {TEXT_SHA256}")


class Works:
    """The inputs, checked when they are read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, name: str) -> Path:
        source, path, digest = SOURCES[name]
        file = self._folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            sys.exit(f"{file}: not there, or not {path} of github.com/{source} (SHA-256 {digest})")
        return file

    def text(self, name: str, encoding: str = "utf-8") -> str:
        return self._file(name).read_text(encoding=encoding, errors="ignore")

    def book(self, name: str, skip: int, encoding: str = "utf-8") -> str:
        """A Project Gutenberg transcription without its header, footer and name, from paragraph `skip` on."""
        text = self.text(name, encoding).lstrip("\ufeff")
        body = text.split("*** START OF", 1)[1].split("***", 1)[1].split("*** END OF", 1)[0]
        boilerplate = ("Gutenberg", "GUTENBERG", "pgdp", "Produced by")
        paragraphs = (part.strip() for part in re.split(r"\n\s*\n", body))
        kept = [part for part in paragraphs if part and not any(word in part for word in boilerplate)]
        return "\n\n".join(kept[skip:])

    def packed(self, archive: str, member: str, encoding: str = "utf-8") -> str:
        with zipfile.ZipFile(self._file(archive)) as opened:
            text = opened.read(f"{archive.removesuffix('.zip')}/{member}").decode(encoding, errors="ignore")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def address(self, name: str) -> str:
        """An inaugural address."""
        return self.packed("inaugural.zip", f"{name}.txt")

    def declaration(self, language: str) -> str:
        """The beginning of the Universal Declaration of Human Rights."""
        return cut(self.packed("udhr.zip", f"{language}-UTF8"), 5000)

    def latin1_declaration(self, language: str) -> str:
        return cut(self.packed("udhr.zip", f"{language}-Latin1", "latin-1"), 8000)


def cut(text: str, length: int) -> str:
    """At most `length` characters, whole lines."""
    return text[:length].rsplit("\n", 1)[0]


def composed(works: Works) -> str:
    alice = works.book("alice.txt", 8)
    parts = [
        cut(alice, 70000),
        cut(works.text("zic.c")[8000:], 30000),
        cut(works.address("1801-Jefferson"), 9000),
        works.latin1_declaration("Spanish_Espanol"),
        cut(works.book("verwandlung.txt", 6, "latin-1"), 30000),
        cut(works.text("theory.html")[4000:], 25000),
        works.address("1865-Lincoln"),
        works.declaration("Chinese_Mandarin"),
        works.declaration("Russian_Russky"),
        cut(works.book("entrenous.txt", 12), 30000),
        cut(works.text("localtime.c")[6000:], 20000),
        works.address("1933-Roosevelt"),
        works.latin1_declaration("Portuguese_Portugues"),
        works.declaration("Japanese_Nihongo"),
        cut(works.text("asia")[20000:], 15000),
        works.address("1961-Kennedy"),
        works.latin1_declaration("Italian_Italiano"),
        works.declaration("Korean_Hankuko"),
        works.declaration("Hindi"),
        works.declaration("Vietnamese"),
        works.declaration("Turkish_Turkce"),
        works.declaration("Greek_Ellinika"),
        works.declaration("Hebrew_Ivrit"),
        works.declaration("Ukrainian"),
        works.address("2009-Obama"),
        cut(alice[70000:], 60000),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    main()
