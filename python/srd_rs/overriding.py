"""Keys of the metadata that the user states, as `srd-rs convert --metadata` and `--override-kv` take them.

A key that describes the tensors, or that the conversion itself writes, is refused: the file would not be what it says.
A key that the model has keeps its type, because llama.cpp loads no file in which a key has another type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from srd_rs import _core
from srd_rs.errors import FormatError, ModelError, UsageError, message
from srd_rs.metadata import Metadata
from srd_rs.reading import parse_object, read_limited, shown
from srd_rs.vocab.chat import MAX_TEMPLATE_BYTES
from srd_rs.vocab.pretokenizer import KNOWN

Entry = tuple[str, str, object]
"""Key, kind and value of a key."""

_KEY: Final = re.compile(r"[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_MAX_KEY: Final = 127
_WORDS: Final = {"true": True, "false": False}
#: What follows the key in ``KEY=TYPE:VALUE`` -> how the value is read. The types are those of llama-quantize.
_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "int": int,
    "float": float,
    "bool": lambda text: _WORDS[text.lower()],
    "str": str,
}
#: Keys that the conversion writes, and keys of files of other kinds.
_OWN: Final = ("split.", "srd.", "quantize.", "clip.", "adapter.", "imatrix.")
_OWN_NAMES: Final = frozenset(
    f"general.{name}" for name in ("architecture", "alignment", "file_type", "quantization_version", "type")
)
#: Keys of `general` that are texts. llama.cpp loads no file in which general.name is something else.
_TEXTS: Final = frozenset(
    f"general.{name}"
    for name in (
        "name", "author", "version", "organization", "finetune", "basename", "description", "quantized_by",
        "size_label", "license", "license.name", "license.link", "url", "repo_url", "doi", "uuid",
    )
)  # fmt: skip


def _any(value: Any) -> bool:
    return True


def _positive(value: Any) -> bool:
    return bool(value > 0)


#: What follows the architecture in a key that may be replaced -> its kind, and what its value must be.
_OF_MODEL: Final[Mapping[str, tuple[str, Callable[[Any], bool], str]]] = {
    "context_length": ("UINT32", _positive, "above 0"),
    "expert_used_count": ("UINT32", _positive, "above 0"),
    "expert_weights_norm": ("BOOL", _any, ""),
    "expert_weights_scale": ("FLOAT32", _any, ""),
    "pooling_type": ("UINT32", lambda n: n <= 3, "0 (none), 1 (mean), 2 (cls) or 3 (last)"),
    "logit_scale": ("FLOAT32", _any, ""),
    "final_logit_softcapping": ("FLOAT32", _any, ""),
    "attn_logit_softcapping": ("FLOAT32", _any, ""),
    "attention.scale": ("FLOAT32", _any, ""),
    "attention.sliding_window": ("UINT32", _positive, "above 0"),
    "attention.layer_norm_epsilon": ("FLOAT32", _positive, "above 0"),
    "attention.layer_norm_rms_epsilon": ("FLOAT32", _positive, "above 0"),
    "rope.freq_base": ("FLOAT32", _positive, "above 0"),
    "rope.freq_base_swa": ("FLOAT32", _positive, "above 0"),
    "rope.scaling.type": (
        "STRING",
        _core.ROPE_SCALINGS.__contains__,
        f"one of {', '.join(_core.ROPE_SCALINGS)}",
    ),
    "rope.scaling.factor": ("FLOAT32", _positive, "above 0"),
    "rope.scaling.attn_factor": ("FLOAT32", _positive, "above 0"),
    "rope.scaling.original_context_length": ("UINT32", _positive, "above 0"),
    "rope.scaling.yarn_ext_factor": ("FLOAT32", _any, ""),
    "rope.scaling.yarn_attn_factor": ("FLOAT32", _any, ""),
    "rope.scaling.yarn_beta_fast": ("FLOAT32", _any, ""),
    "rope.scaling.yarn_beta_slow": ("FLOAT32", _any, ""),
}
_FLAGS: Final = frozenset(
    f"tokenizer.ggml.{name}"
    for name in (
        "add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces",
    )
)  # fmt: skip
_TOKEN_ID: Final = re.compile(r"tokenizer\.ggml\.\w+_token_id")
_TEMPLATE: Final = "tokenizer.chat_template"


def parsed(text: str) -> tuple[str, Any]:
    """Key and value of ``KEY=TYPE:VALUE``, as llama-quantize takes them. Raises ValueError with what is wrong."""
    key, equals, stated = text.partition("=")
    kind, colon, value = stated.partition(":")
    if not (key and equals and colon and kind in _READERS):
        what = "is not of the form KEY=TYPE:VALUE with int, float, bool or str as the type"
        raise ValueError(f"{shown(text)} {what}, for example general.author=str:me")
    try:
        return key, _READERS[kind](value)
    except (ValueError, KeyError):
        raise ValueError(f"{shown(value)} of {key} is no {kind}") from None


def read(path: Path) -> dict[str, Any]:
    """The keys in a JSON file, an object of keys and values."""
    try:
        # The file is the user's own, so that a link may lead anywhere.
        return dict(parse_object(read_limited(path, root=Path(path.resolve().anchor)), path))
    except FormatError:
        what = "this is no JSON object of keys and values"
        fix = 'Write one, such as {"general.author": "me"}'
        raise UsageError(message(path, what, fix)) from None


def replaced(given: Mapping[str, Any], entries: Iterable[Entry], tokens: int) -> Metadata:
    """The keys `given` in their order, with the kinds that they have in a model with the metadata `entries` and so many
    `tokens`.

    Raises UsageError for a key that cannot be replaced, and for a value that does not fit.
    """
    kinds, values = {}, {}
    for key, kind, value in entries:
        if key in given or key == "general.architecture" or key.endswith(".expert_count"):
            kinds[key], values[key] = kind, value
    arch = str(values.get("general.architecture"))
    found = Metadata()
    for key, value in given.items():
        kind, fits, wanted = _rule(key, value, arch, kinds, tokens)
        try:
            found.add(key, kind, value)
        except ModelError:
            what = f"the key has the type {kind}, which {shown(value)} does not fit"
            raise _error(key, what, "Write a value of this type") from None
        if not fits(value):
            raise _error(key, f"the value {shown(value)} is not {wanted}", "Write such a value")
        if key == f"{arch}.expert_used_count":
            experts = values.get(f"{arch}.expert_count", 0)
            if value > experts:
                fix = f"Write 1 to {experts}" if experts else "Leave the key out"
                raise _error(key, f"the model has {experts} experts", fix)
    return found


def _rule(
    key: str, value: Any, arch: str, kinds: Mapping[str, str], tokens: int
) -> tuple[str, Callable[[Any], bool], str]:
    """The kind of a key, and what its value must be."""
    if not _KEY.fullmatch(key) or len(key) > _MAX_KEY:
        what = f"a key has words with dots between them, and at most {_MAX_KEY} characters"
        raise _error(key, what, "Write a key such as general.author")
    head, _, tail = key.partition(".")
    if key.startswith(_OWN) or key in _OWN_NAMES:
        raise _error(key, "srd-rs writes this key itself", "Leave the key out")
    if head == arch:
        if tail not in _OF_MODEL:
            known = ", ".join(_OF_MODEL)
            what = "the key describes the tensors, or it is not known"
            raise _error(key, what, f"Behind {arch}. these keys can be replaced: {known}")
        kind, fits, wanted = _OF_MODEL[tail]
        return kinds.get(key, kind), fits, wanted
    if tail in _OF_MODEL:
        raise _error(key, f"the architecture of the model is {arch}", f"Write {arch}.{tail}")
    if head == "tokenizer":
        return _rule_of_tokenizer(key, kinds, tokens)
    return kinds.get(key, "STRING" if key in _TEXTS else _kind_of(value)), _any, ""


def _rule_of_tokenizer(
    key: str, kinds: Mapping[str, str], tokens: int
) -> tuple[str, Callable[[Any], bool], str]:
    if key in _FLAGS:
        return "BOOL", _any, ""
    if _TOKEN_ID.fullmatch(key):
        return kinds.get(key, "UINT32"), lambda n: 0 <= n < tokens, f"one of the {tokens} tokens"
    if key == "tokenizer.ggml.pre" and key in kinds:
        return "STRING", KNOWN.__contains__, "a name that llama.cpp knows"
    if key == _TEMPLATE or (key.startswith(f"{_TEMPLATE}.") and key in kinds):
        wanted = f"a template of at most {MAX_TEMPLATE_BYTES} bytes"
        return "STRING", lambda text: len(text.encode(errors="replace")) <= MAX_TEMPLATE_BYTES, wanted
    fix = "Of the tokenizer, ids of tokens, flags (add_bos_token, ...), pre and chat_template can be replaced"
    raise _error(key, "the key describes the tokens, or it is not known", fix)


def _kind_of(value: Any) -> str:
    """The kind of a new key. An integer is UINT32, as in llama-quantize, where it fits."""
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, int):
        signs = ("UINT32", "UINT64") if value >= 0 else ("INT32", "INT64")
        return signs[0] if -(1 << 31) <= value < 1 << 32 else signs[1]
    if isinstance(value, float):
        return "FLOAT32"
    return "STRING" if isinstance(value, str) else "ARRAY[STRING]"


def _error(key: str, what: str, fix: str) -> UsageError:
    return UsageError(message(f"metadata key {shown(key)}", what, fix))
