"""What a family of models knows of its vocabulary beyond the files of a checkpoint, as data.

The files say nearly everything, so most families have no rules. A family states the kind of its vocabulary only where
the files of two kinds look alike, a flag only where no file has it, and a token of a role only where the files leave
the role open. Example::

    VocabularyRules(stated_space_prefix=True, add={"bos": False})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

KINDS: Final = ("gemma4", "t5", "none")
"""Kinds of vocabularies that no file states. ``gemma4`` is BPE on raw text, which looks like a SentencePiece model in a
tokenizer.json. ``t5`` is Unigram also where unknown characters become bytes, which llama.cpp's Unigram lacks. ``none``
is a model without a tokenizer. Every other kind follows from the files."""
ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "mask", "eot", "eom")


@dataclass(frozen=True)
class VocabularyRules:
    """The vocabulary of one family. Every default means: the files decide."""

    kind: str | None = None
    """One of `KINDS`; None for what the files say."""
    space_prefix: bool | None = None
    """Value of ``tokenizer.ggml.add_space_prefix``, whatever the files say."""
    stated_space_prefix: bool = False
    """Write ``add_prefix_space`` of tokenizer_config.json as ``tokenizer.ggml.add_space_prefix``, where it stands."""
    spaces_stay_visible: bool = False
    """User-defined tokens beside a tokenizer.model keep their visible spaces, and no token is special by its look."""
    token_types: bool = False
    """Write the number of token types (``type_vocab_size``), which encoders have."""
    add: Mapping[str, bool] = field(default_factory=dict)
    """Role to whether its token is added to a text, whatever the files say."""
    add_if_open: Mapping[str, bool] = field(default_factory=dict)
    """The same, where the files do not say so."""
    tokens: Mapping[str, str | int] = field(default_factory=dict)
    """Role to the text or id of its token, for roles that the files leave open, where the vocabulary has the token."""
    corrected: Mapping[str, str | int] = field(default_factory=dict)
    """As `tokens`, for roles for which published files name a wrong token."""
    end_key: str | None = None
    """The key of config.json that holds the id of the end of a text, if that is not ``eos_token_id``."""
    control: tuple[str, ...] = ()
    """Tokens that are control tokens although no file marks them special."""
    padded: bool = False
    """The embedding may have more rows than ``vocab_size`` says, because the family rounds the rows up."""
    by_size: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Number of tokens to the fields that differ for a vocabulary of that size."""

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is not one of {', '.join(KINDS)}")
        unknown = {*self.add, *self.add_if_open, *self.tokens, *self.corrected} - set(ROLES)
        if unknown:
            raise ValueError(f"{sorted(unknown)} are not roles")
        for size in self.by_size:
            self.sized(size)

    def sized(self, size: int) -> VocabularyRules:
        """Return the rules for a vocabulary of `size` tokens."""
        return replace(self, by_size={}, **self.by_size.get(size, {}))


FILES_DECIDE: Final = VocabularyRules()
LLAMA: Final = VocabularyRules(
    stated_space_prefix=True,
    by_size={
        32016: {"tokens": {"eot": 32010}},  # CodeLlama, which is known by its size
        49152: {"add": {"bos": False}},  # the small models of Granite
    },
)
"""Llama and its relatives (Mistral, Granite, SmolLM3, Arcee, ...)."""
GEMMA: Final = VocabularyRules(space_prefix=False, tokens={"eot": 107})
GEMMA_LATER: Final = VocabularyRules(space_prefix=False)
"""Gemma 2 and 3, and Gemma 3n."""
GEMMA4: Final = VocabularyRules(kind="gemma4", space_prefix=False, add={"bos": True})
PHI2: Final = VocabularyRules(add={"bos": False})
PHI3: Final = VocabularyRules(spaces_stay_visible=True)
STATED_SPACE: Final = VocabularyRules(stated_space_prefix=True)
"""ERNIE 4.5 and Pangu Embedded."""
INTERNLM: Final = VocabularyRules(stated_space_prefix=True, corrected={"eos": "<|im_end|>"})
T5: Final = VocabularyRules(kind="t5")
ENCODER: Final = VocabularyRules(token_types=True)
"""BERT and its relatives: WordPiece, byte-level BPE or Unigram, as the files say."""
MODERN_BERT: Final = VocabularyRules(add_if_open={"bos": True, "eos": True, "sep": True})
EUROBERT: Final = VocabularyRules(add_if_open={"bos": False})
CHATGLM: Final = VocabularyRules(
    add={"bos": False}, tokens={"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"}
)
GLM: Final = VocabularyRules(
    tokens={"bos": "[gMASK]", "eot": "<|user|>", "unk": "<|endoftext|>", "eom": "<|observation|>"}
)
"""GLM-4 and later, dense and MoE."""
GLM_EDGE: Final = VocabularyRules(
    tokens={"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>", "bos": "<|endoftext|>"}
)
SOLAR_OPEN: Final = VocabularyRules(
    tokens={"eos": "<|endoftext|>", "eot": "<|endoftext|>", "unk": "<unk>", "bos": "<|startoftext|>"}
)
HUNYUAN_MOE: Final = VocabularyRules(corrected={"bos": "<|bos|>"})
HUNYUAN_DENSE: Final = VocabularyRules(end_key="eod_token_id")
DOTS3: Final = VocabularyRules(tokens={"eot": "<|endofassistant|>"})
LAGUNA: Final = VocabularyRules(control=("</assistant>",))
MUSE_GLIMMER: Final = VocabularyRules(corrected={"eot": "<|eot|>"})
