"""A family as data: what a table says, and a check that the table says it in the right form.

A row is one string, ``source > target | sizes | flags``. Source and target are names without the prefix of the layer
and without ``.weight``; a ``!`` behind the source says that its name has no such suffix, and ``=.bias`` behind the
target is the suffix that the target has. Sizes are those of the source, rows first. ``a + b > target`` puts the rows
of several sources one after another. Flags are ``bias``, ``bias?`` (where present), ``?`` (the tensor may be missing),
``f32`` (never quantized), ``i32`` (integers, which are copied), ``auto`` (the mix decides, though the name
looks like one that is never quantized), and the steps of `STEPS`, which are done from left to right. ``steps + steps``
puts the results of several lists of steps one after another: of the one source, or of each source its own.

A line of metadata is one string, ``type key = expression``; ``~`` stands for the architecture and a dot. A value of
None writes nothing. Expressions are those of `srd_rs.families.expressions`, over the values of config.json and the
names of `srd_rs.families.interpreter.NAMES`.

`docs/adding-a-model.md` shows a complete table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from srd_rs.families.expressions import names_in, parsed
from srd_rs.vocab.rules import FILES_DECIDE, VocabularyRules

KINDS: Final = {
    "u32": "UINT32",
    "i32": "INT32",
    "u64": "UINT64",
    "f32": "FLOAT32",
    "bool": "BOOL",
    "str": "STRING",
    "u32s": "ARRAY[UINT32]",
    "i32s": "ARRAY[INT32]",
    "i64s": "ARRAY[INT64]",
    "u64s": "ARRAY[UINT64]",
    "f32s": "ARRAY[FLOAT32]",
    "bools": "ARRAY[BOOL]",
    "strs": "ARRAY[STRING]",
}
"""The types of metadata and what GGUF calls them. An array whose expression names ``layer`` has one value per layer;
any other expression of an array is a list."""

STEPS: Final[Mapping[str, tuple[int, int]]] = {
    "plus_one": (0, 0),
    "affine": (2, 2),
    "neg_exp": (0, 0),
    "softplus": (0, 0),
    "norm_factor": (1, 1),
    "norm_summand": (1, 1),
    "permute": (1, 1),
    "permute_q": (0, 0),
    "permute_neox": (2, 2),
    "permute_k": (0, 0),
    "transpose": (0, 0),
    "squeeze": (0, 0),
    "reshape": (1, 6),
    "axes": (2, 6),
    "slice": (3, 4),
    "every": (2, 3),
    "rows": (2, 2),
    "cols": (2, 2),
    "pad_rows": (1, 2),
    "bilinear": (4, 4),
    "sum": (1, 1),
    "stack": (1, 1),
    "product": (0, 0),
    "parts": (1, 1),
    "by_kind": (3, 6),
    "half_negative": (1, 1),
    "pair_axes": (1, 1),
    "zero_first": (0, 0),
    "ternary": (0, 0),
}
"""The steps of a row: name -> fewest and most arguments. `srd_rs.families.interpreter.apply` does them."""

SCALAR: Final = "scalar"
"""Stands for the sizes of a tensor of no dimension, which holds one number."""

_STEP: Final = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
_NESTED: Final = re.compile(r"[*+}]\)[*+{]")


@dataclass(frozen=True)
class Step:
    """One change of a tensor: a name of `STEPS` with expressions as arguments."""

    name: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A row, taken apart. Each source has a name, the suffix of the name and its sizes. With several lists of
    steps, there is a source for each, and the results stand one after another."""

    sources: tuple[tuple[str, str, tuple[str, ...]], ...]
    target: str
    steps: tuple[tuple[Step, ...], ...] = ((),)
    bias: str = "no"
    needed: bool = True
    f32: bool | None = None
    """True: never quantized. False: the mix decides, whatever the name says. None: the name decides."""
    target_suffix: str = ".weight"
    i32: bool = False
    """The tensor holds integers, which are copied."""
    f16: bool = False
    """The tensor of a projector is F16, whatever the type of the others."""


@dataclass(frozen=True)
class Rows:
    """Rows of a layer (or of the top), which are there if the condition holds. The name ``layer`` is the number of the
    layer."""

    rows: tuple[str, ...]
    when: str = "1"


@dataclass(frozen=True)
class StackedExperts:
    """Expert matrices that are stacked: ``{source}.{i}.{part}.weight``. `parts` are ``part target sizes``, and a fourth
    word ``bias`` or ``bias?`` stacks the biases too.

    A checkpoint may have the stacks that transformers 5 saves instead: ``{source}.gate_up_proj`` [e, 2 x, d] and
    ``{source}.down_proj`` [e, d, x].
    """

    source: str
    count: str
    used: str
    parts: tuple[str, ...]
    when: str = "1"


@dataclass(frozen=True)
class Stack:
    """A second stack of layers, such as the encoder of T5: ``{source}.{layer}.`` becomes ``{target}.{layer}.``, where
    the numbers of the target begin at `offset`."""

    source: str
    target: str
    count: str
    layer: tuple[Rows, ...]
    offset: str = "0"
    number: str | None = None
    """The number of the target of each layer, where it does not follow from `offset`."""


@dataclass(frozen=True)
class Mtp:
    """Blocks behind the last layer that predict further tokens (multi-token prediction, NextN).

    `count` is their number by config.json. `source` is the prefix under which the checkpoint has them, without the
    prefix of the layers; they are read as if they were layers ``n_layer``, ``n_layer + 1``, ... An empty `source` says
    that the checkpoint itself numbers them so. `renames` maps other names, such as ``mtp.fc.``, to names of the first
    block. Rows of a block are those of `layer` for which ``layer >= n_layer`` holds. With `default` False, the
    blocks are left out unless they are asked for.
    """

    count: str
    source: str = ""
    renames: Mapping[str, str] = field(default_factory=dict)
    default: bool = True
    key: str = "~nextn_predict_layers"


@dataclass(frozen=True)
class Refusal:
    """A condition under which llama.cpp cannot run a model of the family, with the sentence that says so. With `warns`
    llama.cpp runs the model and computes something near to it, so that the sentence is a warning."""

    when: str
    what: str
    fix: str = "llama.cpp cannot run such a model"
    per_layer: bool = False
    warns: bool = False


@dataclass(frozen=True)
class FamilyTable:
    """One architecture of GGUF, and the Hugging Face classes that become this architecture."""

    arch: str
    classes: tuple[str, ...]
    layer: tuple[Rows, ...]
    variants: tuple[tuple[str, FamilyTable], ...] = ()
    """Tables that are used instead where their condition holds, for classes that become several architectures. Such a
    table has no classes of its own."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    class_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The usual name of a value of config.json -> other names that the family uses. The first that is there counts."""
    sizes: Mapping[str, str] = field(default_factory=dict)
    """Names for expressions. Rows, steps and lines may use them, and later sizes may use earlier ones."""
    top: tuple[str | Rows, ...] = (
        "model.embed_tokens > token_embd | v d",
        "model.norm > output_norm | d",
    )
    output: str | None = "lm_head > output | v d"
    output_needed: bool = False
    """llama.cpp does not take the embedding for an output matrix that is missing, so that a tied model gets the
    embedding twice."""
    square_output: bool = False
    """llama.cpp loads the architecture only where all heads together are as wide as the model."""
    layer_prefix: str = "model.layers"
    layer_target: str = "blk"
    embedding: str = "model.embed_tokens.weight"
    stacks: tuple[Stack, ...] = ()
    experts: StackedExperts | tuple[StackedExperts, ...] | None = None
    n_expert: str | None = None
    """The number of experts where no `experts` say it, because the checkpoint has them in one tensor."""
    n_expert_used: str | None = None
    n_layer: str | None = None
    n_run: str | None = None
    """The number of layers that a forward pass runs, where it runs the same weights several times. llama.cpp chooses
    the types of a mix by this number."""
    n_head: str | None = None
    n_head_kv: str | None = None
    """Expressions for the numbers of layers, heads and key-value heads, where config.json does not state them by the
    usual names. One that names ``layer`` is written as an array. A head count may be 0."""
    n_ff: str | None = None
    """The same for the width of the feed-forward part. None writes nothing."""
    mtp: Mtp | None = None
    metadata: tuple[str, ...] = ()
    """Lines. A line with a key of `Family.write_standard` replaces that key in its place."""
    without: tuple[str, ...] = ()
    """Standard keys that are not written."""
    generated: tuple[str, ...] = ()
    """Tensors that are computed from the configuration: ``name = expression``, whose value is a list of numbers. A name
    with ``{layer}`` stands for one tensor in each layer."""
    token_ids: tuple[str, ...] = ()
    """Tables of ids of tokens that are computed, and written as I64: ``name = expression``, whose value is a list of
    ids, or None where there is no such table."""
    as_stored: tuple[tuple[str, str], ...] = ()
    """Regular expressions of whole names, with the name that each becomes. Such a tensor is written with the shape
    that it has, because the layout of its layers is not in config.json."""
    sinusoids: tuple[str, ...] = ()
    """Tables of positions that are computed: ``name = [positions, width]``, or ``name = [rows, columns, width]`` for
    those of a grid."""
    renames: tuple[tuple[str, str], ...] = ()
    """Regular expressions over names of the checkpoint, with what each match becomes."""
    skip: tuple[tuple[str, ...], ...] = ()
    """Regular expressions of names that are left out, each with the reason, such as "of buffers, which are computed
    anew", and where it needs one, with a condition."""
    beyond: str | None = None
    """The reason why layers behind the last one that is counted are left out, such as "of layers that are not run".
    None where the checkpoint has no such layers."""
    keep: tuple[str, ...] = ()
    """Regular expressions of names that belong to the model though they look like those of another part."""
    refusals: tuple[Refusal, ...] = ()
    rope_theta: float | None = 10_000.0
    rope_theta_sliding: float | None = None
    head_dim: str | None = None
    """The expression of the head size that is written; None for what config.json states."""
    tied: str | None = None
    """A condition that says whether the checkpoint may lack an output matrix."""
    symmetric_window: bool = False
    """The sliding window of the architecture in llama.cpp reaches forward as well. Elsewhere, attention that is not
    causal sees all later tokens."""
    order: tuple[str, ...] = ()
    """Keys of the architecture that are written before its other keys, in this order, as llama.cpp's converter has
    them."""
    pooling: bool = False
    drafts: bool = False
    """The model drafts tokens for another model, the target, and its GGUF gets the tokenizer of the target."""
    vocabulary: VocabularyRules = FILES_DECIDE
    llama3_rope: bool | str = False
    """llama3 scaling becomes the tensor ``rope_freqs.weight``, which the graph of the architecture reads. An expression
    gives the number of dimensions that are turned, where these are not all of a head."""
    longrope: bool = False
    """The factors of LongRoPE become two tensors, which the graph of the architecture reads, beside the context that
    the model was first trained with and the temperature of attention."""

    def __post_init__(self) -> None:
        groups = (*self.layer, *(g for stack in self.stacks for g in stack.layer))
        tops = (row for part in self.top for row in (part.rows if isinstance(part, Rows) else (part,)))
        for row in (*tops, *(row for group in groups for row in group.rows), *filter(None, (self.output,))):
            row_of(row)
        if self.output_needed and self.output is None:
            raise ValueError(f"{self.arch} needs an output matrix, but the table has no row of one")
        for expression in self._expressions():
            parsed(expression)
        for line in self.metadata:
            metadata_line(line)
        for line in (*self.generated, *self.token_ids, *self.sinusoids):
            generated_line(line)
        for pattern, *_ in (*self.renames, *self.skip, *((p,) for p in self.keep), *self.as_stored):
            checked_pattern(pattern)
        for index, (name, expression) in enumerate(self.sizes.items()):
            later = names_in(expression) & set(list(self.sizes)[index:])
            if later:
                raise ValueError(f"size {name} of {self.arch} uses {sorted(later)}, which are declared later")

    @property
    def all_experts(self) -> tuple[StackedExperts, ...]:
        if self.experts is None:
            return ()
        return self.experts if isinstance(self.experts, tuple) else (self.experts,)

    def _expressions(self) -> Iterator[str]:
        yield from self.sizes.values()
        yield from (when for when, _ in self.variants)
        yield from (part.when for part in self.top if isinstance(part, Rows))
        yield from (group.when for group in self.layer)
        yield from (refusal.when for refusal in self.refusals)
        yield from (condition for _, _, *conditions in self.skip for condition in conditions)
        for stack in self.stacks:
            yield from filter(None, (stack.count, stack.offset, stack.number))
            yield from (group.when for group in stack.layer)
        for experts in self.all_experts:
            yield from (experts.count, experts.used, experts.when)
        counts = (
            self.n_layer,
            self.n_run,
            self.n_head,
            self.n_head_kv,
            self.n_ff,
            self.n_expert,
            self.n_expert_used,
        )
        yield from filter(None, (*counts, self.head_dim, self.tied))
        if self.mtp is not None:
            yield self.mtp.count


def checked_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern for names of tensors. Names are hostile, so a repeated group may not repeat inside: such a
    pattern can take time that is exponential in the length of the name. Raises ValueError."""
    if _NESTED.search(pattern):
        raise ValueError(f"{pattern!r} repeats a group that ends in a repetition")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


def _outside(text: str, separator: str) -> Iterator[str]:
    """Split a text where the separator stands outside brackets."""
    depth, start = 0, 0
    for index, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if sign == separator and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def _step(flag: str, row: str) -> Step:
    match = _STEP.fullmatch(flag)
    name = match[1] if match else flag
    arguments = tuple(part.strip() for part in _outside(match[2], ",")) if match else ()
    if name not in STEPS:
        raise ValueError(f"{row!r} has the unknown flag {flag!r}")
    least, most = STEPS[name]
    if not least <= len(arguments) <= most:
        raise ValueError(f"{row!r}: the flag {name} takes {least} to {most} arguments")
    for argument in arguments:
        parsed(argument)
    return Step(name, arguments)


def row_of(text: str) -> TableRow:
    """Parse a row. Raises ValueError."""
    names, _, rest = text.partition("|")
    sizes, _, flags = rest.partition("|")
    left, arrow, target = names.partition(">")
    if not arrow or not sizes.strip():
        raise ValueError(f"{text!r} is not 'source > target | sizes'")
    target, equals, target_suffix = target.strip().partition("=")
    sources = [name.strip() for name in left.split(" + ")]
    dims = [tuple(part.replace(SCALAR, "").split()) for part in sizes.split(" + ")]
    if len(dims) not in (1, len(sources)):
        raise ValueError(f"{text!r} is not 'source > target | sizes': it has {len(sources)} sources")
    dims = dims * len(sources) if len(dims) == 1 else dims
    bias, needed, f32, i32, f16 = "no", True, None, False, False
    steps: list[list[Step]] = [[]]
    for flag in filter(None, (part.strip() for part in _outside(flags.strip(), " "))):
        if flag in ("bias", "bias?"):
            bias = "yes" if flag == "bias" else "maybe"
        elif flag == "?":
            needed = False
        elif flag == "f32":
            f32 = True
        elif flag == "auto":
            f32 = False
        elif flag == "i32":
            i32 = True
        elif flag == "f16":
            f16 = True
        elif flag == "+":
            steps.append([])
        else:
            steps[-1].append(_step(flag, text))
    if len(steps) > 1 and len(sources) not in (1, len(steps)):
        raise ValueError(f"{text!r} is not one list of steps for each source")
    if len(steps) > len(sources):
        sources, dims = sources * len(steps), dims * len(steps)
    return TableRow(
        tuple(
            (name.removesuffix("!"), "" if name.endswith("!") else ".weight", part)
            for name, part in zip(sources, dims, strict=True)
        ),
        target,
        tuple(map(tuple, steps)),
        bias,
        needed,
        f32,
        target_suffix if equals else ".weight",
        i32,
        f16,
    )


def metadata_line(text: str) -> tuple[str, str, str]:
    """Parse a line of metadata into type, key and expression. Raises ValueError."""
    left, equals, expression = text.partition(" = ")
    kind, _, key = left.partition(" ")
    if not equals or kind not in KINDS or not key:
        raise ValueError(f"{text!r} is not 'type key = expression' with a type of {', '.join(KINDS)}")
    parsed(expression)
    return kind, key, expression


def generated_line(text: str) -> tuple[str, str]:
    """Parse a line of `FamilyTable.generated` into name and expression. Raises ValueError."""
    name, equals, expression = text.partition(" = ")
    if not equals or not name.strip():
        raise ValueError(f"{text!r} is not 'name = expression'")
    parsed(expression)
    return name.strip(), expression


def flat(rows: Iterable[str | Rows]) -> Iterator[Rows]:
    """Return the rows of the top as groups."""
    return (row if isinstance(row, Rows) else Rows((row,)) for row in rows)
