"""Which tokens begin, end, pad ... a text, and whether they are added to it.

The order of precedence is llama.cpp's converter's: tokenizer_config.json names tokens by text (ids come
from the added tokens of tokenizer.json); config.json's ``*_token_id`` fill what is still open. A list of
ids there is not used. What the post-processor of tokenizer.json does decides over ``add_bos_token`` and
``add_eos_token``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srd_rs.metadata import Metadata
from srd_rs.vocab.files import TokenizerJson, fail, log, read_json, shown

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
_ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ADD_KEYS: Final = ("bos", "eos", "sep")


@dataclass
class SpecialTokens:
    """Roles (``bos``, ``eos``, ...) with their ids, and whether a role's token is added to a text; in order
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


def token_text(entry: object) -> str | None:
    """The text of a special token: written as text or as an object with ``content``."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def role_tokens(config: dict[str, Any]) -> set[str]:
    """The texts that tokenizer_config.json gives to roles: ``bos_token`` and the like, or a model's own."""
    texts = (token_text(value) for key, value in config.items() if key.endswith("_token"))
    return {text for text in texts if text}


def named_tokens(config: dict[str, Any]) -> set[str]:
    """The texts that tokenizer_config.json names as special: those of the roles, and the additional ones."""
    texts = role_tokens(config)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key)
        if isinstance(more, dict):
            more = list(more.values())
        if isinstance(more, list):
            texts.update(text for entry in more if (text := token_text(entry)))
    return texts


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; roles it does not mention come from special_tokens_map.json, which older
    folders have."""
    config = read_json(folder / "tokenizer_config.json") or {}
    for key, value in (read_json(folder / "special_tokens_map.json") or {}).items():
        config.setdefault(key, value)
    return config


class _Finder:
    """One pass over the files; see `find`."""

    def __init__(self, config: dict[str, Any], size: int | None) -> None:
        self.config = dict(config)
        self.size = size
        self.roles = list(_ROLES)
        self.found = SpecialTokens()
        self.text = {
            role: token_text(config.get(f"{role}_token")) or None for role in ("bos", "eos", "cls", "sep")
        }

    def set_id(self, role: str, token_id: object, place: Path) -> None:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or role in self.found.ids:
            return
        if token_id < 0:
            fail(place, f"the {role} token has the id {shown(token_id)}", "Correct the file")
        if self.size is not None and token_id >= self.size:
            log.warning(
                "%s: the %s token's id %s is beyond the vocabulary of %d; left out",
                place,
                role,
                shown(token_id),
                self.size,
            )
            return
        self.found.ids[role] = token_id

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
        """What stands around one text, and between two. Only simple templates are understood."""
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
        """A closing token other than the named end: that one becomes end of turn, then end of message."""
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
    size: int | None,
) -> SpecialTokens:
    """The special tokens of a folder.

    `config` is tokenizer_config.json as `read_config` gives it; `fallback` is used where there is no
    config.json; ids of `size` and more are left out (None: whatever they are).
    """
    finder = _Finder(config, size)
    if file is not None:
        _look_into(finder, file)
    place = folder / "tokenizer_config.json"
    added = {token.content: token.id for token in reversed(file.added)} if file else {}
    for role in finder.roles if config else ():
        flag = finder.config.get(f"add_{role}_token")
        if isinstance(flag, bool):
            finder.found.add.setdefault(role, flag)
        text = token_text(finder.config.get(f"{role}_token"))
        if text is not None:
            finder.set_id(role, added.get(text), place)
    _from_model_config(finder, folder, fallback)
    return finder.found


def _look_into(finder: _Finder, file: TokenizerJson) -> None:
    normalizer, post_processor = file.section("normalizer"), file.section("post_processor")
    if normalizer:
        finder.normalizer(normalizer)
    for role, other in (("bos", "cls"), ("eos", "sep")):
        if not finder.text[role] and finder.text[other]:
            finder.rename(role, finder.text[other])
    if post_processor:
        finder.post_processor(post_processor)


def _from_model_config(finder: _Finder, folder: Path, fallback: dict[str, Any]) -> None:
    path = folder / "config.json"
    model = read_json(path) or fallback
    text_config = model.get("text_config")
    for role in finder.roles:
        token_id = model.get(f"{role}_token_id")
        if token_id is None and isinstance(text_config, dict):
            token_id = text_config.get(f"{role}_token_id")
        finder.set_id(role, token_id, path)


def fill_from_vocabulary(found: SpecialTokens, config: dict[str, Any], tokens: list[str]) -> None:
    """Give roles that are still without an id the one of the token of that text: folders without
    tokenizer.json."""
    wanted = {role: token_text(config.get(f"{role}_token")) for role in _ROLES if role not in found.ids}
    texts = {text for text in wanted.values() if text}
    ids = {text: token_id for token_id, text in enumerate(tokens) if text in texts} if texts else {}
    for role, text in wanted.items():
        if text in ids:
            found.ids[role] = ids[text]


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
