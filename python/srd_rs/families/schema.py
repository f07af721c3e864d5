"""A family as data: what a table says, and a check that the table says it in the right form.

A row is one string, ``source > target | sizes | flags``. Source and target are names without the prefix of the layer
and without ``.weight``; a ``!`` behind the source says that its name has no such suffix, and ``=.bias`` behind the
target is the suffix that the target has. Sizes are names of sizes, rows first. Flags are ``bias``, ``bias?`` (where
present), ``?`` (the tensor may be missing) and the name of a transform.

A line of metadata is one string, ``type key = expression``; ``~`` stands for the architecture and a dot. A value of
None writes nothing. Expressions are those of `srd_rs.families.expressions`, over the values of config.json and the
names of `srd_rs.families.interpreter.NAMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from srd_rs.families.base import Row
from srd_rs.families.expressions import parsed
from srd_rs.vocab.rules import FILES_DECIDE, VocabularyRules

KINDS: Final = ("u32", "f32", "bool", "str", "bools", "i32s")
"""Types of metadata. Those that end in ``s`` are arrays with one value per layer."""
_TRANSFORMS: Final = ("plus_one", "permute_q", "permute_k", "transpose")


@dataclass(frozen=True)
class Rows:
    """Rows of a layer, which are there if the condition holds. The name ``layer`` is the number of the layer."""

    rows: tuple[str, ...]
    when: str = "1"


@dataclass(frozen=True)
class StackedExperts:
    """Expert matrices that are stacked: ``{source}.{i}.{part}.weight``. `parts` are ``part target sizes``."""

    source: str
    count: str
    used: str
    parts: tuple[str, ...]
    when: str = "1"


@dataclass(frozen=True)
class Refusal:
    """A condition under which llama.cpp cannot run a model of the family, with the sentence that says so."""

    when: str
    what: str
    fix: str = "llama.cpp cannot run such a model"
    per_layer: bool = False


@dataclass(frozen=True)
class FamilyTable:
    """One architecture of GGUF, and the Hugging Face classes that become this architecture."""

    arch: str
    classes: tuple[str, ...]
    layer: tuple[Rows, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    class_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)
    top: tuple[str, ...] = ("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d")
    output: str | None = "lm_head > output | v d"
    experts: StackedExperts | None = None
    metadata: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    rope_theta: float = 10_000.0
    rope_theta_sliding: float | None = None
    head_dim: str | None = None
    """The expression of the head size that is written; None for what config.json states."""
    pooling: bool = False
    vocabulary: VocabularyRules = FILES_DECIDE
    llama3_rope: bool = False
    """llama3 scaling becomes the tensor ``rope_freqs.weight``, which the graph of the architecture reads."""

    def __post_init__(self) -> None:
        for row in (*self.top, *(row for group in self.layer for row in group.rows)):
            row_of(row)
        for expression in self._expressions():
            parsed(expression)
        for line in self.metadata:
            metadata_line(line)

    def _expressions(self) -> list[str]:
        texts = [
            *self.sizes.values(),
            *(group.when for group in self.layer),
            *(r.when for r in self.refusals),
        ]
        if self.experts is not None:
            texts += [self.experts.count, self.experts.used, self.experts.when]
        return texts + ([self.head_dim] if self.head_dim is not None else [])


def row_of(text: str) -> Row:
    """Parse a row. Raises ValueError."""
    names, _, rest = text.partition("|")
    sizes, _, flags = rest.partition("|")
    source, arrow, target = names.partition(">")
    if not arrow or not sizes.strip():
        raise ValueError(f"{text!r} is not 'source > target | sizes'")
    source, target = source.strip(), target.strip()
    suffix = "" if source.endswith("!") else ".weight"
    target, equals, target_suffix = target.partition("=")
    how, bias, needed = "copy", "no", True
    for flag in flags.split():
        if flag in ("bias", "bias?"):
            bias = "yes" if flag == "bias" else "maybe"
        elif flag == "?":
            needed = False
        elif flag in _TRANSFORMS:
            how = flag
        else:
            raise ValueError(f"{text!r} has the unknown flag {flag!r}")
    return Row(
        source.removesuffix("!"),
        target,
        sizes.strip(),
        how=how,
        bias=bias,
        needed=needed,
        suffix=suffix,
        target_suffix=target_suffix if equals else ".weight",
    )


def metadata_line(text: str) -> tuple[str, str, str]:
    """Parse a line of metadata into type, key and expression. Raises ValueError."""
    left, equals, expression = text.partition(" = ")
    kind, _, key = left.partition(" ")
    if not equals or kind not in KINDS or not key:
        raise ValueError(f"{text!r} is not 'type key = expression' with a type of {', '.join(KINDS)}")
    parsed(expression)
    return kind, key, expression
