"""How published tokenizer.json files split text for byte-level BPE, and llama.cpp's names for it."""

from __future__ import annotations

import unicodedata
from itertools import groupby
from typing import Any

from vocab_tools import LLAMA3, QWEN2, byte_level, digits, sequence, split

CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
TEKKEN = CASED % ("", "", r"\p{N}")
GPT4O = CASED % (ENDINGS, ENDINGS, r"\p{N}{1,3}")
DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
BAILING = CL100K.replace("{1,3}", "")
RAW = byte_level(False)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED = QWEN2.replace(r"\p{N}|", r"\p{N}{1}|").replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+")
EXAONE_MOE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
JAIS2 = LLAMA3.removesuffix(r"|\s+(?!\S)|\s+") + "".join(
    [*(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)), r"|\s{1,2}(?!\S)|\s{1}"]
)
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
SPARK = DEEPSEEK3.replace("\\p{S}]+[\r\n]*|\\s*[\r\n]+", "\\p{S}]+|[\r\n]")
AFMOE = (
    r"\p{Nd}{1,510}(?=(?>\p{Nd}{510})*(?:\P{Nd}|$))|\G\p{Nd}{510}",
    r"\A\p{Nd}{1,2}(?=\p{Nd}{3}+\z)",
    r"\A\p{Nd}{3}|\G\p{Nd}{3}",
    r"(?:[\u4E00-\u9FFF\u3040-\u309F\u30A0-\u30FF\u3400-\u4DBF\uf900-\uFAFF\uFF65-\uFF9F\u2F00-\u2FDF]+"
    r"|[\u0E00-\u0E7F]+|[\u0E80-\u0EFF]+|[\u1780-\u17FF]+|[\u1000-\u109F\uAA60-\uAA7F\uA9E0-\uA9FF]+"
    r"|[\uAC00-\uD7AF\u1100-\u11FF]+)",
)
YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+",
    "[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+",
    "[\u3105-\u312f]+",
    KANA,
)
CHAMELEON = ("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\t\n]|    |  )")
PUNCTUATION = {"type": "Punctuation", "behavior": "Isolated"}


def merged_with_next(regex: str) -> dict[str, Any]:
    return split(regex) | {"behavior": "MergedWithNext"}


def cased_letters() -> str:
    """The letters with a case, without those of mathematics, as ranges of a class of characters."""
    kinds = ("Lu", "Ll", "Lt")
    letters = [
        i for i in range(0x1FFFF) if unicodedata.category(chr(i)) in kinds and not 0x1D400 <= i <= 0x1D7FF
    ]
    runs = (
        [letter for _, letter in run]
        for _, run in groupby(enumerate(letters), lambda pair: pair[1] - pair[0])
    )
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" if len(run) > 1 else chr(run[0]) for run in runs)


NAMES = [
    (byte_level(), False, "gpt-2"),
    (sequence(digits(True), byte_level()), False, "starcoder"),
    (sequence(split(LLAMA3), RAW), True, "llama-bpe"),
    (sequence(split(LLAMA3), RAW), False, "dbrx"),
    (sequence(split(CL100K), RAW), True, "llama-bpe"),
    (sequence(split(QWEN2), RAW), False, "qwen2"),
    (sequence(split(TEKKEN), RAW), True, "tekken"),
    (sequence(split(GPT4O), RAW), False, "gpt-4o"),
    (sequence(split(r"\p{N}{1,3}"), split(KANA), split(DEEPSEEK3), RAW), False, "deepseek-v3"),
    (
        sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(HANGUL), digits(True), RAW),
        False,
        "deepseek-coder",
    ),
    (
        sequence(
            split("[\r\n]"),
            split(rf"\s?[{cased_letters()}]+"),
            split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
            split(r"\s+$"),
            split(HANGUL),
            digits(True),
            RAW,
        ),
        False,
        "deepseek-llm",
    ),
    (
        sequence(
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(),
            digits(False),
            split("[0-9][0-9][0-9]"),
        ),
        False,
        "falcon",
    ),
    (sequence(split(BAILING), RAW), False, "bailingmoe"),
    (sequence(split(QWEN35), RAW), False, "qwen35"),
    (sequence(split(GPT4O), RAW), True, "granite-embed-multi-97m"),
    (sequence(split(r"\p{N}{1,3}"), split(QWEN2.replace(r"|\p{N}|", r"|\p{N}+|")), RAW), True, "minicpm5"),
    (sequence(split(SEED), RAW), False, "seed-coder"),
    (sequence(split(QWEN2.split("|", 7)[-1]), RAW), False, "ufakzeka"),
    (sequence(split(EXAONE_MOE), RAW), False, "exaone-moe"),
    (sequence(split(JAIS2), RAW), False, "jais-2"),
    (sequence(split(r"\d{1,3}(?=(?:\d{3})*\b)"), split(GPT4O), RAW), False, "tiny_aya"),
    (sequence(split(BLOOM), RAW), False, "bloom"),
    (sequence(split(BLOOM), digits(True), RAW), False, "viking"),
    (sequence(merged_with_next(r"(?:\r?\n)+(?!\r?\n)"), split(QWEN2), RAW), False, "laguna"),
    (sequence(*map(split, AFMOE), split(DEEPSEEK3), RAW), False, "afmoe"),
    (sequence(*map(split, YOUTU), split(GPT4O.replace("{1,3}", "")), RAW), True, "youtu"),
    (sequence(split("|".join(YOUTU)), split(GPT4O.replace("{1,3}", "")), RAW), True, "youtu"),
    (sequence(split(r"\p{N}{1,3}"), split(KANA), split(SPARK), digits(True), RAW), False, "spark2_5"),
    (sequence(digits(False), split(r"(?=(\d{3})+(?!\d))"), RAW), False, "superbpe"),
    (sequence(*map(split, CHAMELEON), digits(True), PUNCTUATION, byte_level()), False, "chameleon"),
]
"""How tokenizer.json describes the splitting, its ``ignore_merges``, and the name."""
