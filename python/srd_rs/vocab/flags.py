"""This module names added tokens that llama.cpp finds in a text in another way than the tokenizers library.

An added token has flags: ``lstrip`` and ``rstrip`` take the spaces before and behind the token along, ``single_word``
keeps the token apart from letters beside it, and ``normalized`` finds the token in the text that the normalizer has
changed. A GGUF has no place for flags. llama.cpp knows a few of them by the name of a model or of its pre-tokenizer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from unicodedata import normalize

from srd_rs.reading import shown
from srd_rs.vocab.files import AddedToken, TokenizerJson, log, refuse

_MASK_BY_PRE: Final = ("jina-v2-de", "jina-v2-es", "jina-v2-code")
_MASK_BY_ARCH: Final = ("nomic-bert-moe", "jina-bert-v3")
_PHI_3: Final = ("phi-3", "phi3")
_NOT_STRIPPED: Final = ("<unk>", "<s>", "<|endoftext|>")
_PHI_3_TOKENS: Final = ("</s>", *_NOT_STRIPPED)
"""llama.cpp looks for these tokens in a model that is named Phi-3."""
_Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
_FORMS: Final[dict[str, _Form]] = {
    "NFC": "NFC",
    "NFD": "NFD",
    "NFKC": "NFKC",
    "NFKD": "NFKD",
    "Precompiled": "NFKC",
}
_LISTED: Final = 4
_MOST_COMPARED: Final = 256
"""Longer tokens, which nobody writes, are not compared with the others."""
_MOST_PARTS: Final = 1 << 21
"""Tokens with more parts are not compared, so that a hostile file takes no time."""


@dataclass(frozen=True)
class Known:
    """What llama.cpp goes by: ``general.name``, ``general.architecture`` and ``tokenizer.ggml.pre``."""

    name: str
    arch: str
    pre: str

    def strips_before(self, text: str) -> bool:
        """Say whether llama.cpp takes the spaces before a token along."""
        if self._mask():
            return text == "<mask>"
        return text == "[MASK]" and "modern-bert" in self.name.lower() and not self.is_phi_3()

    def strips_behind(self, text: str) -> bool:
        """Say whether llama.cpp takes the spaces behind a token along."""
        return self.is_phi_3() and text not in _NOT_STRIPPED

    def _mask(self) -> bool:
        by_pre = any(name in self.pre for name in _MASK_BY_PRE)
        return by_pre or any(name in self.arch for name in _MASK_BY_ARCH)

    def is_phi_3(self) -> bool:
        """Say whether llama.cpp takes the vocabulary for that of Phi-3."""
        return not self._mask() and any(sign in self.name.lower() for sign in _PHI_3)


def check_name(known: Known, texts: Collection[str], place: Path) -> None:
    """Refuse the name of a model by which llama.cpp takes the vocabulary for that of Phi-3, and then does not load it.
    Raises ModelError, which names the token that is missing."""
    missing = [text for text in _PHI_3_TOKENS if text not in texts]
    if missing and known.is_phi_3():
        what = (
            f"the name of the model is {shown(known.name)}. By 'phi-3' or 'phi3' in a name llama.cpp takes the"
            f" vocabulary for that of Phi-3, and it does not load one without the token {shown(missing[0])}"
        )
        refuse(place, what, "Give another name with --name")


def warn(tokens: Iterable[AddedToken], file: TokenizerJson | None, known: Known, place: Path) -> None:
    """Name the tokens with flags that matter and that llama.cpp does not know, in one line."""
    normalizer = file.section("normalizer") if file is not None else None
    listed = [token for token in tokens if token.content]
    first = {token.content for token in listed if not token.normalized}
    lengths = {len(text) for text in first if len(text) <= _MOST_COMPARED}
    if len(lengths) * sum(len(t.content) for t in listed if t.normalized) > _MOST_PARTS:
        lengths = set()
    found = [(t, reasons) for t in listed if (reasons := [*_reasons(t, normalizer, known, first, lengths)])]
    if not found:
        return
    names = ", ".join(f"{shown(t.content)} (id {t.id}: {', '.join(why)})" for t, why in found[:_LISTED])
    what = (
        "%s: llama.cpp finds %d added token%s in a text otherwise than the tokenizers library, which can give other"
        " tokens around: %s%s"
    )
    more = ", ..." if len(found) > _LISTED else ""
    log.warning(what, place, len(found), "" if len(found) == 1 else "s", names, more)


def _reasons(
    token: AddedToken,
    normalizer: dict[str, Any] | None,
    known: Known,
    first: Collection[str],
    lengths: Collection[int],
) -> Iterator[str]:
    before, behind = known.strips_before(token.content), known.strips_behind(token.content)
    if token.lstrip != before:
        yield "lstrip" if token.lstrip else "llama.cpp strips the spaces before it"
    if token.rstrip != behind:
        yield "rstrip" if token.rstrip else "llama.cpp strips the spaces behind it"
    if token.single_word:
        yield "single_word"
    if token.normalized and normalizer is not None and _changes(normalizer, token.content):
        yield "normalized"
    elif token.normalized and _holds(token.content, first, lengths):
        yield "normalized, and a token within it is not"


def _holds(text: str, parts: Collection[str], lengths: Collection[int]) -> bool:
    """Say whether one of the parts, which have these lengths, is in a text. Tokens that are not normalized are found
    before all others, and llama.cpp finds the longest first."""
    if len(text) > _MOST_COMPARED:
        return False
    shorter = [length for length in lengths if length < len(text)]
    return any(text[i : i + n] in parts for n in shorter for i in range(len(text) - n + 1))


def _changes(section: dict[str, Any], text: str) -> bool:
    """Say whether a normalizer changes where a token is found. A space that becomes a visible space does not."""
    kind = section.get("type")
    if kind == "Sequence":
        parts = section.get("normalizers")
        inner = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        return any(_changes(part, text) for part in inner)
    if kind == "Prepend":
        return bool(section.get("prepend"))
    if kind == "Lowercase" or (kind == "BertNormalizer" and section.get("lowercase") is True):
        return text.lower() != text.upper()
    if kind in ("BertNormalizer", "StripAccents", "Nmt"):
        return not text.isascii()
    if kind == "Strip":
        return text != text.strip()
    if kind == "Replace":
        return _replaces(section.get("pattern"), text)
    form = _FORMS.get(str(kind))
    return form is not None and normalize(form, text) != text


def _replaces(pattern: object, text: str) -> bool:
    """Say whether a pattern other than a space can be in a text. A regular expression is not run: it can take hours."""
    if not isinstance(pattern, dict):
        return False
    found = pattern.get("String")
    return isinstance(found, str) and found not in ("", " ") and found in text
