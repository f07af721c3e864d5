"""Composes python/srd_rs/data/builtin.txt.gz, the bundled calibration text, from works that may be shipped.

    python scripts/make_calibration_text.py FOLDER [--output FILE]

FOLDER holds the files of `FILES` and the folders of `FOLDERS`, under these names, from GitHub at these commits. The two
texts in scripts/calibration_texts were written for srd-rs. Short pieces of all kinds alternate, so that any beginning
of the text has every kind in its share (`SHARES`): a calibration takes as many tokens from the beginning as it needs.
The same inputs give the same bytes (the compressor's, with one version of zlib); the text's SHA-256 is checked.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import json
import re
import sys
import zipfile
from collections.abc import Iterable
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

REPO = Path(__file__).parent.parent
OUTPUT = REPO / "python" / "srd_rs" / "data" / "builtin.txt.gz"
WRITTEN = REPO / "scripts" / "calibration_texts"
TEXT_SHA256 = "981b586bb168433a30a830da338d94b1c2166a5be388c07af19c6a5fe052fa85"
#: Repository and commit.
TZ = "eggert/tz b9bc7a87bb7f21576b43541dea9f298462c23bd5"
NLTK = "nltk/nltk_data 5db857e6f7df11eabb5e5665836db9ec8df07e28"
OWN = "this repository, 683e63bc6fa6632d36b3852a90d8750c9f590b01"
#: File: (repository and commit, path in it, SHA-256).
FILES = {
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
    "calibration.py": (
        OWN,
        "python/srd_rs/calibration.py",
        "02b21667effc2a9312b3ad53acc1741733eb86ec7919b375f76c83ec0df0cd0a",
    ),
    "attention.rs": (
        OWN,
        "src/forward/attention.rs",
        "87e09b2b0b83db8bd4d5ee5e5d838606697d8ec8fdc7973d05a1869cf4f82efc",
    ),
}
#: Folder: (repository and commit, folder in it). The check of the whole text covers the files.
FOLDERS = {
    "factbook": ("factbook/factbook.json 8662a8b17a784841ab4528631b04090eb2f183eb", "."),
    "posts": ("18F/18f.gsa.gov 0a55c75e6d9bc71c80136a3867dac52356177443", "content/posts"),
}
ADDRESSES = ("1961-Kennedy", "1933-Roosevelt", "1865-Lincoln", "2009-Obama", "1801-Jefferson")
DECLARATIONS = (
    "Spanish_Espanol-Latin1",
    "Chinese_Mandarin-UTF8",
    "Japanese_Nihongo-UTF8",
    "Italian_Italiano-Latin1",
    "Russian_Russky-UTF8",
    "Korean_Hankuko-UTF8",
    "Portuguese_Portugues-Latin1",
    "Hindi-UTF8",
    "Ukrainian-UTF8",
    "Turkish_Turkce-UTF8",
    "Vietnamese-UTF8",
    "Greek_Ellinika-UTF8",
    "Hebrew_Ivrit-UTF8",
)
#: What is told of a country: keys in its file.
OF_COUNTRY = (
    ("Introduction", "Background"),
    ("Space", "Space program overview"),
    ("Military and Security", "Military - note"),
    ("Government", "National anthem(s)", "history"),
    ("Government", "Country name", "etymology"),
)
#: The bytes of each kind, in hundredths of the text.
SHARES = {
    "articles": 20.0,
    "countries": 17.0,
    "posts": 7.0,
    "story": 4.5,
    "speeches": 3.5,
    "conversations": 5.0,
    "C": 8.0,
    "Python": 8.0,
    "Rust": 4.0,
    "HTML": 2.0,
    "table": 1.0,
    "German": 5.0,
    "French": 4.0,
    "declarations": 11.0,
}
PIECE = 600
"""Bytes of a piece, which ends behind a paragraph."""
TEXT = 430_000
"""Bytes of the text."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    raw = composed(kinds(Works(arguments.folder))).encode()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != TEXT_SHA256:
        sys.exit(f"the text is not the published one, its SHA-256 is {digest}: its recipe has changed")
    arguments.output.write_bytes(gzip.compress(raw, 9, mtime=0))
    print(f"{arguments.output}: {len(raw)} bytes of text, SHA-256 {TEXT_SHA256}")


class Works:
    """The inputs, checked when they are read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, name: str) -> Path:
        source, path, digest = FILES[name]
        file = self._folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            sys.exit(f"{file}: not there, or not {path} of {source} (SHA-256 {digest})")
        return file

    def files(self, name: str, pattern: str) -> list[Path]:
        """The files of a folder, in the order of their names."""
        source, path = FOLDERS[name]
        found = sorted((self._folder / name).glob(pattern))
        return found or sys.exit(f"{self._folder / name}: is not {path} of {source}")

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

    def declaration(self, name: str) -> str:
        """The Universal Declaration of Human Rights in one language."""
        return self.packed("udhr.zip", name, "latin-1" if name.endswith("Latin1") else "utf-8")

    def countries(self) -> Iterable[str]:
        """The history of each country. The codes are sorted by the last letter first: neighbours stand apart."""
        files = [file for file in self.files("factbook", "*/??.json")]
        for file in sorted(files, key=lambda file: file.stem[::-1]):
            facts = json.loads(file.read_text(encoding="utf-8"))
            name = told(facts, ("Government", "Country name", "conventional short form"))
            if name in ("none", ""):
                name = told(facts, ("Government", "Country name", "conventional long form")) or file.stem
            parts = [part for keys in OF_COUNTRY if len(part := told(facts, keys)) > 150]
            if parts:
                yield f"{name}\n\n" + "\n".join(parts)

    def posts(self) -> Iterable[str]:
        """Posts on the work of public offices with software."""
        for file in self.files("posts", "20*.md")[3::6]:
            head, body = file.read_text(encoding="utf-8").split("---", 2)[1:]
            title = re.search(r"title:\s*[\"']?(.*?)[\"']?\s*$", head, re.MULTILINE)
            body = re.sub(r"<[^>]+>", "", re.sub(r"\{%.*?%\}", "", body, flags=re.DOTALL))
            yield (f"# {title[1]}\n\n" if title else "") + body.strip()


def told(facts: Any, keys: tuple[str, ...]) -> str:
    """What a file on a country says under some keys, without markup."""
    for key in keys:
        facts = facts.get(key, {})
    text = re.sub(r"<(br|p|/p|li|/li)[^>]*>", "\n", facts.get("text", ""))
    text = html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\xa0", " ")
    return re.sub(r"\n\s*\n+", "\n\n", re.sub(r"[ \t]+", " ", text)).strip()


def kinds(works: Works) -> dict[str, list[str]]:
    """The pieces of each kind."""
    declarations = zip_longest(*(pieces(works.declaration(name), 250) for name in DECLARATIONS))
    texts = {
        "articles": (WRITTEN / "articles.txt").read_text(encoding="utf-8"),
        "countries": together(works.countries()),
        "posts": together(works.posts()),
        "story": works.book("alice.txt", 8),
        "speeches": together(works.packed("inaugural.zip", f"{name}.txt") for name in ADDRESSES),
        "conversations": (WRITTEN / "conversations.txt").read_text(encoding="utf-8"),
        "C": works.text("zic.c")[8000:] + works.text("localtime.c")[6000:],
        "Python": works.text("calibration.py"),
        "Rust": works.text("attention.rs"),
        "HTML": works.text("theory.html")[4000:],
        "table": works.text("asia")[20000:],
        "German": works.book("verwandlung.txt", 6, "latin-1"),
        "French": works.book("entrenous.txt", 12),
    }
    return {kind: pieces(text, PIECE) for kind, text in texts.items()} | {
        "declarations": [piece for piece in chain.from_iterable(declarations) if piece]
    }


def together(texts: Iterable[str]) -> str:
    return "\n\n".join(text.strip() for text in texts)


def pieces(text: str, size: int) -> list[str]:
    """Cuts a text behind paragraphs, or behind lines where a paragraph is long."""
    found, lines, length = [], [], 0
    for line in text.split("\n"):
        lines.append(line)
        length += len(line.encode()) + 1
        if length >= size and (not line.strip() or length > 1.5 * size):
            found.append("\n".join(lines).strip("\n"))
            lines, length = [], 0
    return [*found, "\n".join(lines).strip("\n")] if "".join(lines).strip() else found


def composed(of: dict[str, list[str]]) -> str:
    """Pieces of all kinds: each time one of the kind that has the least of its share. A kind may end early."""
    written, used = dict.fromkeys(of, 0), dict.fromkeys(of, 0)
    parts: list[str] = []
    while sum(written.values()) < TEXT:
        left = [kind for kind in of if used[kind] < len(of[kind])]
        kind = min(left, key=lambda kind: (written[kind] + PIECE / 2) / SHARES[kind])
        piece = of[kind][used[kind]]
        used[kind] += 1
        written[kind] += len(piece.encode()) + 2
        parts.append(piece)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
