"""This module turns the ranks of byte sequences into the vocabulary and the merges of byte-level BPE.

tiktoken and Mistral's tekken state a rank for each token and no merges: the two neighbours are joined whose joined
bytes have the lowest rank. GGUF states merges, which are pairs of tokens in order. Example::

    ranks = {b"a": 0, b"b": 1, b"ab": 2}
    spelled(b"ab"), list(last_merges(ranks, place))   # "ab", ["a b"]
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

from srd_rs.reading import read_limited, shown
from srd_rs.vocab.bpe import byte_alphabet
from srd_rs.vocab.files import MAX_TOKENIZER_BYTES, MAX_TOKENS, fail, refuse

_SPELLING: Final = str.maketrans({byte: character for character, byte in byte_alphabet().items()})
_MAX_WORK: Final = 1 << 29
"""Finding the merges looks at most at this many pairs of bytes. Published vocabularies need a hundredth."""
_REFETCH: Final = "Fetch the file again"


def read_tiktoken(path: Path) -> dict[bytes, int]:
    """Return the ranks of a file of tiktoken: on each line a token in base64 and its rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_limited(path, MAX_TOKENIZER_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        token, _, rank = line.strip().partition(b" ")
        if not rank.isdigit() or len(rank) > 9:
            fail(
                path,
                f"line {number} is {shown(line.decode('utf-8', 'replace'))}, not a token with its rank",
                _REFETCH,
            )
        ranks[from_base64(token, path, f"the token of line {number}")] = int(rank)
    return checked(ranks, path)


def from_base64(text: str | bytes, place: object, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        fail(place, f"{what} is not base64", _REFETCH)


def checked(ranks: dict[bytes, int], place: object) -> dict[bytes, int]:
    """Return ranks in their order, if they count from 0 on without a gap and every byte has one."""
    if not 0 < len(ranks) <= MAX_TOKENS:
        fail(place, f"{len(ranks)} tokens", _REFETCH)
    ordered = dict(sorted(ranks.items(), key=lambda entry: entry[1]))
    for number, (token, rank) in enumerate(ordered.items()):
        if rank != number or not token:
            fail(
                place, f"the ranks do not count from 0 on: {rank} stands where {number} is expected", _REFETCH
            )
    lacking = [byte for byte in range(256) if bytes((byte,)) not in ordered]
    if lacking:
        fail(place, f"no token for the byte {lacking[0]}", _REFETCH)
    return ordered


def spelled(token: bytes) -> str:
    """Return a token in GPT-2's alphabet."""
    return token.decode("latin-1").translate(_SPELLING)


def all_merges(ranks: Mapping[bytes, int], place: object) -> Iterator[str]:
    """Yield every pair that makes a token, tokens by rank, pairs by the ranks of their parts.

    Raises ModelError if a token longer than a byte has no pair.
    """
    _check_work(ranks, place)
    texts = {token: spelled(token) for token in ranks}
    for token in ranks:
        if len(token) == 1:
            continue
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(ranks[a], ranks[b], a, b) for a, b in cuts if a in ranks and b in ranks]
        if not pairs:
            refuse(
                place, f"no two tokens make the token {shown(spelled(token))}", "Use a complete vocabulary"
            )
        for _, _, a, b in sorted(pairs):
            yield f"{texts[a]} {texts[b]}"


def last_merges(ranks: Mapping[bytes, int], place: object) -> Iterator[str]:
    """Yield for each token the pair that is joined last when the token is put together, tokens by rank. A token that
    the merges of lower rank never make has no pair: no text becomes that token."""
    _check_work(ranks, place)
    texts = {token: spelled(token) for token in ranks}
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = _joined(token, rank, ranks)
            if len(parts) == 2:
                yield f"{texts[parts[0]]} {texts[parts[1]]}"


def _joined(token: bytes, limit: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return what is left of the bytes of a token after every merge of a rank below `limit`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    made = [ranks.get(a + b, limit) for a, b in pairwise(parts)]
    while made and (best := min(made)) < limit:
        at = made.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del made[at]
        if at > 0:
            made[at - 1] = ranks.get(parts[at - 1] + parts[at], limit)
        if at < len(made):
            made[at] = ranks.get(parts[at] + parts[at + 1], limit)
    return parts


def _check_work(ranks: Mapping[bytes, int], place: object) -> None:
    if sum(len(token) ** 2 for token in ranks) > _MAX_WORK:
        longest = max(map(len, ranks))
        refuse(
            place, f"tokens of up to {longest} bytes", "The merges of such a vocabulary are not searched for"
        )
