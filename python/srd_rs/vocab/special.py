"""This module finds the tokens that begin, end or pad a text, and whether they are added to a text.

tokenizer_config.json names tokens by text; the ids come from the added tokens and the vocabulary. Roles that are
still open take their ids from config.json (``*_token_id``). The end of text is where transformers stops: the
``eos_token_id`` of generation_config.json, else of config.json, which may hold several ids. Ids that llama.cpp
does not know by their text become ``eot`` and ``eom``. What the post-processor of tokenizer.json does decides
over ``add_bos_token`` and ``add_eos_token``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from srd_rs.checkpoint import text_part
from srd_rs.errors import FormatError
from srd_rs.metadata import Metadata
from srd_rs.reading import shown
from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.config import token_text
from srd_rs.vocab.files import TokenizerJson, log, read_json, refuse
from srd_rs.vocab.rules import VocabularyRules
from srd_rs.vocab.vocabulary import Vocabulary

_ID_KEYS: Final = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # the spelling is GGUF's
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
}
_NAMED_IF_MISSING: Final = ("bos", "eos")
_ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ADD_KEYS: Final = ("bos", "eos", "sep")
_FURTHER_ENDS: Final = ("eot", "eom")
_KNOWN_ENDS: Final = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>"),
        *("<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
        *("<|end_of_text|>", "<end_of_utterance>", "<turn|>", "<|tool_response>"),
    )
)
"""llama.cpp ends its turn at these texts without being told."""
_DEFAULT_ENDS: Final = {"gpt2": 11, "whitespace": 11, "llama": 2, "plamo2": 2, "t5": 1}
"""Model of a tokenizer to the id at which llama.cpp ends a text where the GGUF names none."""
_OPEN_ENDS: Final = (
    ("<|end|>", tuple({a, b} for a in ("<|return|>", "<|flush|>") for b in ("<|call|>", "<|calls|>"))),
    ("</s>", ({"<|tool_response>"}, {"<|plamo:eos|>"})),
)
"""llama.cpp does not end at these texts, even where files name them as ends, if it ends at all texts of one of the
sets."""
_LISTED: Final = 4
_LIBRARY: Final = "tokenizers"
"""transformers 5 names the library that tokenizes as the backend. It leaves out ``add_bos_token``, because
tokenizer.json alone decides there. Where nothing is stated, llama.cpp adds the token that begins a text."""


@dataclass
class SpecialTokens:
    """Roles (``bos``, ``eos``, ...) with their ids, and whether the token of a role is added to a text, in order
    of finding."""

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    lowercase: bool | None = None
    strip_accents: bool | None = None

    def write_ids(self, metadata: Metadata) -> None:
        """Add the ids and the ``add_*_token`` flags."""
        for role, token_id in self.ids.items():
            if role in _ID_KEYS:
                metadata.uint32(f"tokenizer.ggml.{_ID_KEYS[role]}", token_id)
        for role, value in self.add.items():
            if role in _ADD_KEYS:
                metadata.boolean(f"tokenizer.ggml.add_{role}_token", value)

    def write_normalizer(self, metadata: Metadata) -> None:
        """Add what the normalizer does to letters, where it says so."""
        if self.lowercase is not None:
            metadata.boolean("tokenizer.ggml.normalizer.lowercase", self.lowercase)
        if self.strip_accents is not None:
            metadata.boolean("tokenizer.ggml.normalizer.strip_accents", self.strip_accents)


class _Finder:
    """A finder goes over the files once; see `find`."""

    def __init__(self, config: dict[str, Any], added: AddedTokens, vocabulary: Vocabulary) -> None:
        self.config = dict(config)
        self.added = added
        self.vocabulary = vocabulary
        self.roles = list(_ROLES)
        self.found = SpecialTokens()
        self.text = {
            role: token_text(config.get(f"{role}_token")) or None for role in ("bos", "eos", "cls", "sep")
        }

    def set_id(self, role: str, token_id: int, place: Path) -> None:
        """Give a role an id, unless the role has one. Raises ModelError if no token has this id."""
        if role not in self.found.ids and self.has_token(role, token_id, place):
            self.found.ids[role] = token_id

    def has_token(self, role: str, token_id: int, place: Path) -> bool:
        """Say whether the vocabulary has a slot of this id. Raises ModelError if no token fills the slot."""
        return bool(self.with_tokens(role, [token_id], place))

    def with_tokens(self, role: str, token_ids: list[int], place: Path) -> list[int]:
        """Return the ids that have a slot in the vocabulary. Raises ModelError if no token fills a slot. One
        warning names the ids beyond the vocabulary."""
        size = self.vocabulary.size
        beyond = [token_id for token_id in token_ids if token_id >= size]
        if len(beyond) == 1:
            what = "%s: the %s token's id %s is beyond the vocabulary of %d tokens and is left out"
            log.warning(what, place, role, shown(beyond[0]), size)
        elif beyond:
            what = "%s: %d ids of %s tokens are beyond the vocabulary of %d tokens and are left out: %s"
            log.warning(what, place, len(beyond), role, size, _some(map(shown, beyond)))
        inside = [token_id for token_id in token_ids if token_id < size]
        for token_id in inside:
            self.check_filled(role, token_id, place)
        return inside

    def check_filled(self, role: str, token_id: int, place: Path) -> None:
        if not self.vocabulary.filled[token_id]:
            what = f"the {role} token has the id {token_id}, and no tokenizer file has a token of that id"
            refuse(place, what, "Add the tokenizer files that belong to the weights, or correct the id")

    def set_by_text(self, place: Path) -> None:
        """Give roles the ids of the texts that tokenizer_config.json names."""
        wanted = {role: token_text(self.config.get(f"{role}_token")) for role in self.roles}
        texts = {text for text in wanted.values() if text}
        ids = {text: i for i, text in enumerate(self.vocabulary.tokens) if text in texts}
        for role, text in wanted.items():
            if text:
                token_id = ids.get(text, self.added.id_of(text))
                if token_id is not None:
                    self.set_id(role, token_id, place)
                elif role in _NAMED_IF_MISSING and role not in self.found.ids:
                    what = "%s: the vocabulary lacks the token %s that the file names as %s"
                    log.warning(what, place, shown(text), role)

    def set_from_rules(self, tokens: Mapping[str, str | int], place: Path) -> None:
        """Give roles the tokens that the family names, by text or by id. The vocabulary may lack such a token."""
        for role, token in tokens.items():
            token_id = self.vocabulary.id_of(token) if isinstance(token, str) else token
            if token_id is not None and token_id < self.vocabulary.size and self.vocabulary.filled[token_id]:
                self.set_id(role, token_id, place)

    def rename(self, role: str, text: str | None) -> None:
        """Take `text` as the token of a role from here on."""
        self.config[f"{role}_token"] = text
        self.text[role] = text

    def normalizer(self, section: dict[str, Any]) -> None:
        kind = section.get("type")
        if kind == "Lowercase":
            self.found.lowercase = True
        elif kind == "StripAccents":
            self.found.strip_accents = True
        elif kind == "BertNormalizer":
            lowercase, strip = section.get("lowercase"), section.get("strip_accents")
            self.found.lowercase = lowercase if isinstance(lowercase, bool) else self.found.lowercase
            self.found.strip_accents = strip if isinstance(strip, bool) else self.found.strip_accents
        elif kind == "Sequence":
            for part in _objects(section.get("normalizers")):
                self.normalizer(part)

    def post_processor(self, section: dict[str, Any]) -> None:
        for part in _objects(section.get("processors", [section])):
            kind = part.get("type")
            if kind == "ByteLevel":
                self.found.add.setdefault("bos", False)
                self.found.add.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self.roberta(part)
            elif kind == "BertProcessing":
                continue
            elif kind == "TemplateProcessing":
                self.template(_objects(part.get("single")), _objects(part.get("pair")))

    def roberta(self, part: dict[str, Any]) -> None:
        self.found.add.update(bos=True, eos=True, sep=True)
        for role, fallback in (("cls", "bos"), ("sep", "eos")):
            given = part.get(role)
            first = given[0] if isinstance(given, list) and given else self.text[fallback]
            if not self.text[role] and isinstance(first, str):
                self.rename(role, first)

    def template(self, single: list[dict[str, Any]], pair: list[dict[str, Any]]) -> None:
        """Read what stands around one text and between two texts. Only simple templates are understood."""
        first = _special(single[0]) if len(single) > 1 else None
        last = _special(single[-1]) if len(single) > 1 else None
        if first:
            self.leading(first)
        if last:
            self.trailing(last)
        if pair:
            self.between(pair, first, last)

    def leading(self, first: str) -> None:
        if first not in (self.text["bos"], self.text["cls"]):
            for role in ("bos", "cls"):
                if not self.text[role]:
                    self.rename(role, first)
        self.found.add["bos"] = first in (self.text["bos"], self.text["cls"])

    def trailing(self, last: str) -> None:
        """Take a closing token other than the named end as eos. The named end becomes end of turn, then end of
        message."""
        if last != self.text["eos"]:
            for role in ("eot", "eom"):
                if role not in self.roles:
                    self.roles.append(role)
                    self.config[f"{role}_token"] = self.text["eos"]
                    break
            self.rename("eos", last)
        self.found.add["eos"] = True

    def between(self, pair: list[dict[str, Any]], first: str | None, last: str | None) -> None:
        start = 1 if first and _special(pair[0]) == first else 0
        stop = len(pair) - 1 if last and _special(pair[-1]) == last else len(pair)
        inner = pair[start:stop]
        if len(inner) < 3 or _sequence(inner[0]) != "A" or _sequence(inner[-1]) != "B":
            return
        separators = [_special(part) for part in inner[1:-1]]
        ends = tuple(text for text in (self.text["sep"], self.text["eos"]) if text)
        add = bool(separators[0]) and separators[0] in ends and not last
        add = add or (len(separators) == 2 and separators[1] in ends)
        self.found.add["sep"] = add
        if add and not self.text["sep"]:
            self.config["sep_token"] = self.text["eos"]


def find(
    file: TokenizerJson | None,
    config: dict[str, Any],
    folder: Path,
    fallback: dict[str, Any],
    added: AddedTokens,
    vocabulary: Vocabulary,
    rules: VocabularyRules,
    kind: str,
) -> SpecialTokens:
    """Return the special tokens of a folder.

    `config` is tokenizer_config.json as `read_config` gives it; `fallback` is used where there is no
    config.json. `kind` is the value of ``tokenizer.ggml.model``. Raises ModelError for an id that no token has.
    """
    finder = _Finder(config, added, vocabulary)
    finder.set_from_rules(rules.corrected, folder)
    if file is not None:
        _look_into(finder, file)
    for role in finder.roles if config else ():
        # A flag of tokenizer_config.json counts where the post-processor says nothing.
        flag = finder.config.get(f"add_{role}_token")
        if isinstance(flag, bool):
            finder.found.add.setdefault(role, flag)
    for role, value in rules.add_if_open.items():
        finder.found.add.setdefault(role, value)
    if kind == "llama" and file is not None and config.get("backend") == _LIBRARY and _adds_nothing(file):
        finder.found.add.setdefault("bos", False)
    finder.set_by_text(folder / "tokenizer_config.json")
    path = folder / "config.json"
    model = read_json(path) or fallback
    if rules.end_key is not None:
        model = {**model, "eos_token_id": fallback.get(rules.end_key, model.get("eos_token_id"))}
    ends = finder.with_tokens("eos", list(dict.fromkeys(_stop_ids(folder, model))), path)
    for role in finder.roles:
        for token_id in _ids_of(role, model) if role != "eos" else ends:
            finder.set_id(role, token_id, path)
    finder.set_from_rules(rules.tokens, folder)
    if "eos" not in finder.found.ids:
        _warn_of_no_end(vocabulary, kind, path)
    _set_further_ends(finder, ends, path)
    _warn_of_open_ends(finder, ends, path)
    finder.found.add.update(rules.add)
    return finder.found


def _adds_nothing(file: TokenizerJson) -> bool:
    """Say whether the library adds no token to a text."""
    section = file.section("post_processor") or {}
    parts = _objects(section.get("processors", [section] if section else []))
    if any(part.get("type") not in ("TemplateProcessing", "ByteLevel") for part in parts):
        return False
    singles = [_objects(part.get("single")) for part in parts]
    return not any(_special(piece) for single in singles for piece in single)


def _ids_of(role: str, model: dict[str, Any]) -> list[int]:
    """Return the ids that a configuration gives to a role, by one number or a list. Negative numbers stand for
    none."""
    key = f"{role}_token_id"
    value = model.get(key)
    if value is None:
        value = text_part(model).get(key)
    values = value if isinstance(value, list) else [value]
    return [
        entry for entry in values if isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
    ]


def _stop_ids(folder: Path, model: dict[str, Any]) -> list[int]:
    """Return the ids at which transformers stops. If config.json names one of them, that id comes first."""
    generation: dict[str, Any] = {}
    try:  # this file only holds advice, and published ones are not always valid
        generation = read_json(folder / "generation_config.json") or {}
    except FormatError as error:
        log.warning("the file is passed over, as transformers does: %s", error)
    named = _ids_of("eos", model)
    stops = _ids_of("eos", generation)
    if not stops:
        return named
    return sorted(dict.fromkeys(stops), key=lambda token_id: token_id not in named[:1])


def _warn_of_no_end(vocabulary: Vocabulary, kind: str, place: Path) -> None:
    """Say at which token llama.cpp ends a text that no file names an end for."""
    default = _DEFAULT_ENDS.get(kind, vocabulary.size)
    if default >= vocabulary.size:
        what = "%s: no file names an end-of-text token, so llama.cpp will not know when to stop"
        log.warning(what, place)
    else:
        what = "%s: no file names an end-of-text token, so llama.cpp will stop at the token %d, which is %s"
        log.warning(what, place, default, shown(vocabulary.tokens[default]))


def _set_further_ends(finder: _Finder, ends: list[int], place: Path) -> None:
    """Write the ends besides eos that llama.cpp does not know by their text as eot and eom."""
    found, tokens = finder.found, finder.vocabulary.tokens
    left: list[int] = []
    for token_id in ends:
        roles = (found.ids.get(role) for role in ("eos", *_FURTHER_ENDS))
        if token_id in roles or tokens[token_id] in _KNOWN_ENDS:
            continue
        free = [role for role in _FURTHER_ENDS if role not in found.ids]
        if free:
            found.ids[free[0]] = token_id
        else:
            left.append(token_id)
    if left:
        what = "%s: GGUF has no key for %d more end-of-text token%s: left out %s"
        names = _some(f"{shown(tokens[i])} (id {i})" for i in left)
        log.warning(what, place, len(left), "" if len(left) == 1 else "s", names)


def _warn_of_open_ends(finder: _Finder, ends: list[int], place: Path) -> None:
    """Name an end that llama.cpp takes for no end, because the vocabulary has other tokens."""
    tokens, eos = finder.vocabulary.tokens, finder.found.ids.get("eos")
    texts = {tokens[i] for i in (*ends, *([] if eos is None else [eos]))}
    known = set(tokens)
    for text, sets in _OPEN_ENDS:
        if text in texts and any(others <= known for others in sets):
            what = "%s: llama.cpp does not stop at %s in a vocabulary that has %s too"
            others = next(others for others in sets if others <= known)
            log.warning(what, place, shown(text), ", ".join(map(shown, sorted(others))))


def _some(names: Iterable[str]) -> str:
    first = [*islice(names, _LISTED + 1)]
    return ", ".join(first[:_LISTED]) + (", ..." if len(first) > _LISTED else "")


def _look_into(finder: _Finder, file: TokenizerJson) -> None:
    normalizer, post_processor = file.section("normalizer"), file.section("post_processor")
    if normalizer:
        finder.normalizer(normalizer)
    for role, other in (("bos", "cls"), ("eos", "sep")):
        if not finder.text[role] and finder.text[other]:
            finder.rename(role, finder.text[other])
    if post_processor:
        finder.post_processor(post_processor)


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _special(part: dict[str, Any]) -> str | None:
    return _id_of(part, "SpecialToken")


def _sequence(part: dict[str, Any]) -> str | None:
    return _id_of(part, "Sequence")


def _id_of(part: dict[str, Any], key: str) -> str | None:
    inner = part.get(key)
    name = inner.get("id") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None
