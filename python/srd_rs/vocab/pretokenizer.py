"""This module says which of llama.cpp's pre-tokenizers (``tokenizer.ggml.pre``) a tokenizer.json has.

llama.cpp's converter encodes a sample text and looks up the hash of the ids. So a tokenizer with one more token
in a common word, or with one added token that begins every text, is unknown to that converter. What matters is
how text is split before the merges, and tokenizer.json says so by the regular expressions of its
``pre_tokenizer``. These expressions are brought into a common form and looked up here. Where llama.cpp has
several names for one way of splitting, the name follows ``ignore_merges``, which is part of the name there, and
then a token by which the converter's hash would have known the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from srd_rs.errors import UsageError, message
from srd_rs.reading import shown
from srd_rs.vocab.files import TokenizerJson, log, refuse

_NAMES: Final = """
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
    deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon
    falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling
    granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de
    jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna
    lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5
    minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe
    seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2 starcoder superbpe talkie tekken tiny_aya
    trillion ufakzeka viking whitespace youtu
"""
KNOWN: Final = frozenset(_NAMES.split())
"""llama.cpp accepts these names for byte-level BPE."""

_ENDINGS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|%s"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_ASCII_SYMBOL: Final = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]"

GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3: Final = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2: Final = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35: Final = (
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_BAILING: Final = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_TEKKEN: Final = _CASED % ("", "", r"\p{N}")
_GPT4O: Final = _CASED % (f"{_ENDINGS}?", f"{_ENDINGS}?", r"\p{N}{1,3}")
_SEED_CODER: Final = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_MINICPM5: Final = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"
_UFAKZEKA: Final = rf"{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_EXAONE_MOE: Final = (
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_JAIS2: Final = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|" + "".join(
    [*(rf"\s{{{n}}}(?!\S)|" for n in (512, 256, 128, 64, 32, 16, 8, 4)), r"\s{1,2}(?!\S)|\s{1}"]
)
_DEEPSEEK3: Final = (
    rf"{_ASCII_SYMBOL}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_SPARK: Final = (
    rf"{_ASCII_SYMBOL}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
)
_CASED_DIGITS: Final = _CASED % (f"{_ENDINGS}?", f"{_ENDINGS}?", r"\p{N}")
_KIMI_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_KIMI_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_KIMI: Final = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{_KIMI_UPPER}*{_KIMI_LOWER}+{_ENDINGS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_KIMI_UPPER}+{_KIMI_LOWER}*{_ENDINGS}?|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
)
_KIMI_IN_LLAMA_CPP: Final = (
    rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}&&[^\p{{Han}}]]+{_ENDINGS}?"
    rf"|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
)
_NEWLINES_FIRST: Final = r"Split MergedWithNext (?:\r?\n)+(?!\r?\n)"
_LINES: Final = r"[^\n]+|[\n]+"
_DIGITS_AFMOE: Final = (
    r"\p{Nd}{1,510}(?=(?>\p{Nd}{510})*(?:\P{Nd}|$))|\G\p{Nd}{510}",
    r"\A\p{Nd}{1,2}(?=\p{Nd}{3}+\z)",
    r"\A\p{Nd}{3}|\G\p{Nd}{3}",
)
_SCRIPTS: Final = (
    "\u4e00-\u9fff\u3040-\u309f\u30a0-\u30ff\u3400-\u4dbf\uf900-\ufaff\uff65-\uff9f\u2f00-\u2fdf",
    "\u0e00-\u0e7f",
    "\u0e80-\u0eff",
    "\u1780-\u17ff",
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff",
    "\uac00-\ud7af\u1100-\u11ff",
)
_SCRIPTS_AFMOE: Final = f"(?:{'|'.join(f'[{script}]+' for script in _SCRIPTS)})"
_YOUTU_SCRIPTS: Final = (
    "[\uac00-\ud7a3\u3131-\u318e]+",
    "[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+",
    "[\u3105-\u312f]+",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
)
_SUPERBPE: Final = (r"\p{N}+", r"(?=(\d{3})+(?!\d))")
_CHAMELEON: Final = (
    "<sentinel:[0-9]+>",
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r"([\t\n]|    |  )",
    r"\p{N}",
)
_WORDS: Final = r"\S+"
_CJK_KANA: Final = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CJK_HANGUL: Final = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_BLOOM: Final = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
_DEEPSEEK_PUNCTUATION: Final = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_ESCAPED: Final = re.compile(r"\\u(?![dD][89a-fA-F])([0-9a-fA-F]{4})")
_DEEPSEEK_LETTERS: Final = re.compile(r"\\s\?\[A-Za-z\u00b5\u00c0-\u00d6.*\]\+")


@dataclass(frozen=True)
class Splitting:
    """The names of one way of splitting: the plain name, the name with ``ignore_merges``, and names by a token
    that the model is known by."""

    plain: str
    ignoring: str | None = None
    marked: tuple[tuple[str, str], ...] = ()
    clean: str | None = None
    """This is the name if clean_up_tokenization_spaces is false, where the plain name makes llama.cpp clean up."""
    differs: str | None = None
    """What llama.cpp does in another way for this name."""


_GPT2_SPLITTING: Final = Splitting("gpt-2")
_DIGITS_SPLITTING: Final = Splitting(
    "starcoder",
    marked=(
        ("<|START_OF_TURN_TOKEN|>", "command-r"),
        ("<fim_prefix>", "starcoder"),
        ("[|endofturn|]", "exaone"),
    ),
    clean="smollm",
)
_LLAMA3_SPLITTING: Final = Splitting(
    "dbrx",
    "llama-bpe",
    (("[gMASK]", "glm4"), ("<|begin_of_text|>", "smaug-bpe")),
)
_QWEN2_SPLITTING: Final = Splitting(
    "qwen2",
    marked=(("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "deepseek-r1-qwen"), ("<|reg0|>", "stablelm2")),
)

SPLITTINGS: Final[tuple[tuple[tuple[str, ...], Splitting], ...]] = (
    ((GPT2,), _GPT2_SPLITTING),
    ((r"\p{N}", GPT2), _DIGITS_SPLITTING),
    ((GPT2, r"\p{N}"), _DIGITS_SPLITTING),
    ((_LLAMA3,), _LLAMA3_SPLITTING),
    ((_QWEN2,), _QWEN2_SPLITTING),
    ((_QWEN35,), Splitting("qwen35")),
    ((_BAILING,), Splitting("bailingmoe")),
    ((_TEKKEN,), Splitting("tekken", "tekken")),
    ((_GPT4O,), Splitting("gpt-4o", "granite-embed-multi-97m", (("<|begin_of_text|>", "llama4"),))),
    ((_SEED_CODER,), Splitting("seed-coder")),
    ((r"\p{N}{1,3}", _MINICPM5), Splitting("minicpm5", "minicpm5")),
    ((_UFAKZEKA,), Splitting("ufakzeka")),
    ((_EXAONE_MOE,), Splitting("exaone-moe")),
    ((_JAIS2,), Splitting("jais-2")),
    ((r"\p{N}{1,3}", _CJK_KANA, _DEEPSEEK3), Splitting("deepseek-v3")),
    ((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, r"\p{N}"), Splitting("deepseek-coder")),
    (
        (r"[\r\n]", "deepseek letters", _DEEPSEEK_PUNCTUATION, r"\s+$", _CJK_HANGUL, r"\p{N}"),
        Splitting("deepseek-llm"),
    ),
    (("punctuation contiguous", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), Splitting("falcon")),
    ((_BLOOM,), Splitting("bloom", clean="poro-chat")),
    ((_KIMI,), Splitting("kimi-k2", differs="it keeps words such as CamelCase whole")),
    ((_NEWLINES_FIRST, _QWEN2), Splitting("laguna")),
    ((_LINES, _QWEN2), Splitting("laguna")),
    ((*_DIGITS_AFMOE, _SCRIPTS_AFMOE, _DEEPSEEK3), Splitting("afmoe")),
    ((*_YOUTU_SCRIPTS, _CASED_DIGITS), Splitting("youtu", "youtu")),
    (("|".join(_YOUTU_SCRIPTS), _CASED_DIGITS), Splitting("youtu", "youtu")),
    (
        (_CASED_DIGITS,),
        Splitting("falcon-h1", "falcon-h1", differs="it cuts digits and capital letters otherwise"),
    ),
    ((r"\p{N}{1,3}", _CJK_KANA, _SPARK, r"\p{N}"), Splitting("spark2_5")),
    (_SUPERBPE, Splitting("superbpe")),
    ((*_CHAMELEON, "punctuation isolated", GPT2), Splitting("chameleon")),
    (("Whitespace",), Splitting("whitespace")),
    (("WhitespaceSplit",), Splitting("whitespace")),
    ((_BLOOM, r"\p{N}"), Splitting("viking")),
    ((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O), Splitting("tiny_aya")),
)
"""Each entry has the steps of a splitting in order, each as one regular expression, and what llama.cpp calls the
splitting (facts of its vocabulary code)."""

_SLOW_CLASSES: Final = {
    "GPT2Tokenizer": "gpt-2",
    "CodeGenTokenizer": "phi-2",
    "GPTNeoXTokenizer": "olmo",
    "RobertaTokenizer": "roberta-bpe",
    "Qwen2Tokenizer": "qwen2",
}


def checked_override(pre: str) -> str:
    """Return a name given by the user if llama.cpp knows the name."""
    if pre not in KNOWN:
        raise UsageError(
            message(
                "--pre-tokenizer", f"llama.cpp knows no '{pre}'", f"Use one of: {', '.join(sorted(KNOWN))}"
            )
        )
    return pre


def recognize(file: TokenizerJson, config: dict[str, Any]) -> str:
    """Return the name for a tokenizer.json of byte-level BPE. `config` is tokenizer_config.json. Raises
    ModelError if there is no name."""
    steps = _steps(file.section("pre_tokenizer"))
    splitting = lookup(steps)
    if splitting is None:
        found = " then ".join(f"'{step[:300]}'" for step in steps[:8]) or "none"
        what = f"llama.cpp has no pre-tokenizer that splits as this one: {found}"
        refuse(
            file.path,
            what,
            "Name one that comes close with --pre-tokenizer (llama.cpp's names, such as llama-bpe)",
        )
    if splitting.differs is not None:
        log.warning(
            "%s: llama.cpp knows this splitting as %s, but %s", file.path, splitting.plain, splitting.differs
        )
    texts = {token.content for token in file.added}
    normalizer = file.section("normalizer") or {}
    processor = file.section("post_processor") or {}
    marked = [name for token, name in splitting.marked if token in texts]
    if splitting is _GPT2_SPLITTING:
        return _gpt2_name(normalizer, processor)
    if file.model().get("ignore_merges") is True and splitting.ignoring:
        return "glm4" if "glm4" in marked else splitting.ignoring
    if "glm4" in marked:
        return "chatglm-bpe"
    if marked:
        return marked[0]
    return (
        splitting.clean
        if splitting.clean and config.get("clean_up_tokenization_spaces") is False
        else splitting.plain
    )


def _gpt2_name(normalizer: dict[str, Any], processor: dict[str, Any]) -> str:
    if processor.get("type") == "RobertaProcessing":
        return "roberta-bpe"
    return "olmo" if normalizer.get("type") == "NFC" else "gpt-2"


def for_pattern(pattern: str, place: Path, *, ignore_merges: bool) -> str:
    """Return the name for a single regular expression, for files that state nothing else of the splitting."""
    splitting = lookup((pattern,))
    if splitting is None:
        what = f"llama.cpp has no pre-tokenizer that splits by '{pattern[:300]}'"
        refuse(
            place, what, "Name one that comes close with --pre-tokenizer (llama.cpp's names, such as tekken)"
        )
    return splitting.ignoring if ignore_merges and splitting.ignoring else splitting.plain


def for_slow_files(folder: Path, config: dict[str, Any]) -> str:
    """Return the name for vocab.json and merges.txt, which say nothing of splitting. The class of the tokenizer
    decides."""
    name = config.get("tokenizer_class")
    if isinstance(name, str) and name.removesuffix("Fast") in _SLOW_CLASSES:
        return _SLOW_CLASSES[name.removesuffix("Fast")]
    what = f"no tokenizer.json, and the tokenizer class {shown(name)} does not say how text is split"
    refuse(
        folder / "tokenizer_config.json",
        what,
        "Add tokenizer.json, or name the splitting with --pre-tokenizer",
    )


def lookup(steps: tuple[str, ...]) -> Splitting | None:
    """Return the splitting of these steps: as they are written, else in the form without differences that change
    nothing."""
    for form in (_spelled, _loosened):
        wanted = tuple(form(step) for step in steps)
        for known, splitting in SPLITTINGS:
            if tuple(form(step) for step in known) == wanted:
                return splitting
    return None


def _steps(section: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the steps of a pre-tokenizer, each as the regular expression that it splits by. The step to bytes
    is left out."""
    if section is None:
        return ()
    if section.get("type") == "Sequence":
        parts = section.get("pretokenizers")
        inner = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        return tuple(step for part in inner for step in _steps(part))
    return tuple(_step(section))


def _step(section: dict[str, Any]) -> list[str]:
    kind = section.get("type")
    if kind == "ByteLevel":
        return [GPT2] if section.get("use_regex", True) else []
    if kind == "Digits":
        return [r"\p{N}" if section.get("individual_digits") else r"\p{N}+"]
    if kind == "Punctuation":
        return [f"punctuation {str(section.get('behavior', 'Isolated')).lower()}"]
    if kind != "Split":
        return [str(kind)]
    pattern = section.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    behaviour, invert = section.get("behavior"), section.get("invert") is True
    kept = behaviour == "Isolated" or (behaviour == "Removed" and invert)
    if not isinstance(regex, str):
        return [f"Split {behaviour} {str(pattern)[:300]}"]
    if not kept:
        return [f"Split {behaviour} {regex}"]
    return ["deepseek letters" if _DEEPSEEK_LETTERS.fullmatch(regex) else regex]


def _spelled(regex: str) -> str:
    """Return a pattern with control characters as escapes and other characters as themselves, however JSON gave
    them."""
    regex = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), regex)
    return regex.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")


def _loosened(regex: str) -> str:
    """Return a pattern without differences that split no text differently: the spelling of contractions,
    possessive quantifiers where what follows cannot match what they hold, and repeated newlines after a run of
    spaces that holds newlines already."""
    regex = _spelled(regex)
    for spelling in ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "'(?i:[sdmt]|ll|ve|re)"):
        regex = regex.replace(spelling, _ENDINGS)
    regex = regex.replace("'(?:[sdmt]|ll|ve|re)", "'s|'t|'re|'ve|'m|'ll|'d")
    regex = re.sub(r"(?<!\\)([?+*])\+", r"\1", regex)
    return regex.replace(r"\s*[\r\n]+|", r"\s*[\r\n]|").replace(r"\p{N}{1}|", r"\p{N}|")


_BLOOM_IN_LLAMA_CPP: Final = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_PUNCTUATION: Final = r"[\p{P}\$\+<=>\^~\|`]+"
_WITH_DIGITS: Final = (r"\p{N}", GPT2)
_SPLITS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code"
        " roberta-bpe mpt olmo jais exaone4 trillion granite-docling",
        (GPT2,),
    ),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", _WITH_DIGITS),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe chatglm-bpe"
        " glm4 glm5",
        (_LLAMA3,),
    ),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2", (_QWEN2,)),
    ("qwen35", (_QWEN35,)),
    ("bailingmoe bailingmoe2 llada-moe", (_BAILING,)),
    ("tekken", (_TEKKEN,)),
    ("gpt-4o llama4 kanana2 talkie granite-embed-multi-97m minimax-m2", (_GPT4O,)),
    ("seed-coder", (_SEED_CODER,)),
    ("minicpm5", (r"\p{N}{1,3}", _MINICPM5)),
    ("ufakzeka", (_UFAKZEKA,)),
    ("exaone-moe", (_EXAONE_MOE,)),
    ("jais-2", (_JAIS2,)),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", (r"\p{N}{1,3}", _CJK_KANA, _DEEPSEEK3)),
    ("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, r"\p{N}")),
    ("falcon", (_PUNCTUATION, GPT2, "[0-9][0-9][0-9]")),
    ("default", (_PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ("tiny_aya cohere2moe", (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    ("laguna", (_LINES, _QWEN2)),
    ("gemma4 granite-embed-multi-311m sarvam-moe", (_LINES,)),
    ("bloom gpt3-finnish poro-chat", (_BLOOM_IN_LLAMA_CPP,)),
    ("viking", (_BLOOM_IN_LLAMA_CPP, r"\p{N}")),
    ("kimi-k2", (_KIMI_IN_LLAMA_CPP,)),
    ("afmoe", (r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", f"[{''.join(_SCRIPTS)}]+", _DEEPSEEK3)),
    ("youtu", ("|".join(_YOUTU_SCRIPTS), _CASED_DIGITS)),
    ("spark2_5", (r"\p{N}{1,3}", _CJK_KANA, _SPARK, r"\p{N}")),
    ("superbpe", _SUPERBPE),
    ("chameleon", (*_CHAMELEON, r"[\p{P}!-/:-@\[-`{-~]", GPT2)),
    ("whitespace", (_WORDS,)),
)
_STEPS: Final = {name: steps for names, steps in _SPLITS for name in names.split()}
UNCUT: Final = frozenset(("gemma4", "granite-embed-multi-311m", "sarvam-moe"))
"""These names belong to BPE on raw text, with visible spaces instead of GPT-2's alphabet."""
_LLAMA3_NAMES: Final = frozenset(
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano")
)
WHOLE_WORDS: Final = _LLAMA3_NAMES | {
    "minicpm5",
    "glm4",
    "glm5",
    "tekken",
    "granite-embed-multi-97m",
    "youtu",
}
"""These names have ``ignore_merges``: a word that is a token is not put together by merges."""
WITH_BOS: Final = _LLAMA3_NAMES | {"tekken", "chameleon"}
"""Texts of these names begin with BOS unless the metadata say otherwise."""
ENCODERS: Final = frozenset(("roberta-bpe", "jina-v1-en", "jina-v2-code"))
"""Texts of these names stand between two special tokens, as BERT's do."""


def steps_named(name: str) -> tuple[str, ...] | None:
    """Return the regular expressions by which llama.cpp's `name` splits text, one after the other; None if they
    are not known here."""
    return _STEPS.get(name)
