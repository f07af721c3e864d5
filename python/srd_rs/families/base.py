"""This module holds what the families share: the skeleton of a decoder as rows of a table, the names of tensors,
and the metadata that every decoder has.

A family is a subclass of `Family`. The subclass states the class names that it serves, the defaults of its
configuration class, and its rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

from srd_rs.checkpoint import Checkpoint, SourceTensor, modules_of, text_part
from srd_rs.errors import FormatError, ModelError, message
from srd_rs.families import names
from srd_rs.families import rope as ropes
from srd_rs.families.activations import check_activation
from srd_rs.families.aliases import others_of
from srd_rs.families.config import Config, normalize
from srd_rs.families.general import Size, write_general
from srd_rs.families.lora import merged
from srd_rs.families.quantized import plain
from srd_rs.families.table import Table, TensorSpec, count, some
from srd_rs.metadata import Metadata
from srd_rs.reading import load_json, shown
from srd_rs.transforms import Generated, Source, Transform, taken
from srd_rs.vocab.rules import FILES_DECIDE, VocabularyRules

log = logging.getLogger("srd_rs.families")

MAX_HEAD_DIM: Final = 1 << 16
"""An attention head has at most this many values. Heads of published models have up to 512."""


@dataclass(frozen=True)
class ModelFacts:
    """The mixes of types need these facts. `n_head_kv` is one number, or a list with one number per layer.
    `tied` says that the model has no output matrix of its own."""

    arch: str
    n_layer: int
    n_expert: int
    n_head: int
    n_head_kv: int | list[int]
    tied: bool


@dataclass(frozen=True)
class ModelSpec:
    """This is a model as the conversion sees it. The metadata lack the tokenizer, `general.file_type` and
    `general.quantization_version`."""

    arch: str
    metadata: Metadata
    tensors: list[TensorSpec]
    hparams: ModelFacts
    vocabulary: VocabularyRules = FILES_DECIDE
    drafts: int | None = None
    """Number of tokens of a model that drafts for another model, and gets its tokenizer; None for other models."""


@dataclass(frozen=True)
class Row:
    """A row declares one tensor of the skeleton. `source` and `target` are names without the prefix of the layer
    and without the suffix. `dims` names the sizes of the tensor, rows first: ``"q d"`` is query width by model
    width.
    """

    source: str
    target: str
    dims: str
    needed: bool = True
    suffix: str = ".weight"
    target_suffix: str = ".weight"


_POOLING: Final = (
    ("pooling_mode_mean_tokens", 1),
    ("pooling_mode_cls_token", 2),
    ("pooling_mode_lasttoken", 3),
)
_POOLING_NAMES: Final = {"mean": 1, "cls": 2, "lasttoken": 3}

_NORM_EPS: Final = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
_GATING_KEYS: Final = (
    "score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func",
    "expert_selection_fn",
)  # fmt: skip
GATING: Final = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}
"""GGUF's numbers for the functions that turn the scores of experts into weights."""

GATED_FFN: Final = (
    Row("mlp.gate_proj", "ffn_gate", "f d"),
    Row("mlp.up_proj", "ffn_up", "f d"),
    Row("mlp.down_proj", "ffn_down", "d f"),
)

HEAD_NORMS: Final = (
    Row("self_attn.q_norm", "attn_q_norm", "h"),
    Row("self_attn.k_norm", "attn_k_norm", "h"),
)


class Family:
    """A family is one architecture of GGUF with the Hugging Face classes that become this architecture."""

    arch: str
    classes: ClassVar[tuple[str, ...]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    """These are the defaults of the configuration class in transformers. A raw config.json may leave them out."""
    class_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """These defaults differ between the classes of the family."""
    spellings: ClassVar[Mapping[str, Sequence[str]]] = {}
    rope_theta: ClassVar[float | None] = 10_000.0
    rope_theta_sliding: ClassVar[float | None] = None
    square_output: ClassVar[bool] = False
    """llama.cpp loads the architecture only where all heads together are as wide as the model."""
    drafts: ClassVar[bool] = False
    """The model drafts tokens for another model."""
    vocabulary: ClassVar[VocabularyRules] = FILES_DECIDE
    """This says what the family knows of its vocabulary beyond the files."""

    top_rows: ClassVar[tuple[Row, ...]] = (
        Row("model.embed_tokens", "token_embd", "v d"),
        Row("model.norm", "output_norm", "d"),
    )
    output_row: ClassVar[Row | None] = Row("lm_head", "output", "v d")
    layer_prefix: ClassVar[str] = "model.layers"
    embedding: ClassVar[str] = "model.embed_tokens.weight"

    def __init__(self, checkpoint: Checkpoint, class_name: str) -> None:
        self.checkpoint = checkpoint
        self.class_name = class_name
        defaults = {**self.defaults, **self.class_defaults.get(class_name, {})}
        self.file = checkpoint.config_file
        self.config: Config = normalize(checkpoint.config, defaults, self.file, self.spellings)
        self.headless = False
        self.mtp: bool | None = None
        self.with_projector = False

    def variant(self) -> type[Family] | None:
        """Return the family that this checkpoint has instead, where a class has several architectures of GGUF."""
        return None

    # What the configuration says

    @cached_property
    def n_layer(self) -> int:
        return self.stated_layers()

    def stated_layers(self) -> int:
        """Return the number of layers. The number is held against the tensors that are there before anything is
        done per layer."""
        count = self.config.count("num_hidden_layers")
        present = self.checkpoint.most_tensors
        if count > present:
            what = f"num_hidden_layers is {count}, but the checkpoint has only {present} tensors"
            raise self.config.error(what, "Correct num_hidden_layers, or download the missing shards")
        return count

    @property
    def n_run(self) -> int:
        """Return the number of layers that a forward pass runs. It may run the same weights several times."""
        return self.n_layer

    @cached_property
    def n_embd(self) -> int:
        return self.config.count("hidden_size")

    @cached_property
    def n_head(self) -> int:
        return self.config.count("num_attention_heads")

    @cached_property
    def n_head_kv(self) -> int:
        return self.stated_heads_kv()

    def stated_heads_kv(self) -> int:
        """Return the number of key-value heads by config.json. A value of null means as many as query heads, where a
        missing value means the default of the class."""
        count = (
            None
            if self._is_null("num_key_value_heads")
            else self.config.optional_count("num_key_value_heads")
        )
        count = self.n_head if count is None else count
        if self.n_head % count:
            what = f"num_attention_heads {self.n_head} is no multiple of num_key_value_heads {count}"
            raise self.config.error(what)
        return count

    def _is_null(self, key: str) -> bool:
        """Say whether config.json states null, and no other spelling of the key states a value."""
        part = text_part(self.checkpoint.config)
        config = part if key in part else self.checkpoint.config
        return key in config and config[key] is None and not self.config.stated(key)

    @cached_property
    def head_dim(self) -> int:
        stated = None if self._is_null("head_dim") else self.config.optional_count("head_dim")
        if stated is not None:
            return self.check_head_dim("head_dim", stated)
        if self.n_embd % self.n_head:
            what = f"hidden_size {self.n_embd} is no multiple of num_attention_heads {self.n_head}"
            raise self.config.error(what, "Correct them, or add head_dim")
        return self.check_head_dim("hidden_size / num_attention_heads", self.n_embd // self.n_head)

    def check_head_dim(self, key: str, size: int) -> int:
        """Return `size` if a head can be that large. Tables of this length are made before weights are read."""
        if size > MAX_HEAD_DIM:
            raise self.config.error(f"{key} is {size}, a head has at most {MAX_HEAD_DIM} values")
        return size

    @cached_property
    def n_ff(self) -> int:
        return self.config.count("intermediate_size")

    @cached_property
    def n_vocab(self) -> int:
        return self.config.count("vocab_size")

    @cached_property
    def n_expert(self) -> int:
        return 0

    @cached_property
    def n_mtp(self) -> int:
        """Return the number of blocks behind the last layer that predict further tokens."""
        return 0

    @cached_property
    def rope(self) -> ropes.Rope:
        return ropes.read(
            self.config,
            theta=self.rope_theta,
            theta_sliding=self.rope_theta_sliding,
        )

    @property
    def tied(self) -> bool:
        """Say whether the checkpoint may lack an output matrix: the matrix is the embedding, or was left out
        with the head. In a multimodal checkpoint the head belongs to the whole model, and transformers ties the
        head where the top level of config.json or the text part says so. Names without the prefix of the class are
        those of a model that was saved without its head, whatever class config.json names."""
        if self.class_name.endswith("Model") or self.headless:
            return True
        whole, text = self.checkpoint.config, text_part(self.checkpoint.config)
        if isinstance(whole.get("tie_word_embeddings"), bool):
            return whole["tie_word_embeddings"] or text.get("tie_word_embeddings") is True
        return self.config.flag("tie_word_embeddings", True)

    def head_counts_kv(self) -> int | list[int]:
        return self.n_head_kv

    # Names of the checkpoint

    def canonical(self, name: str) -> str:
        """Return the name under which the table knows a tensor of the text model."""
        return name.replace("language_model.", "").replace("model.text_model.", "model.")

    def left_out(self, name: str) -> str | None:
        """Return the reason why a tensor is not written, as the warning gives it; None for a tensor of the text
        model."""
        return names.left_out(name, others_of(self.checkpoint.config))

    def keeps(self, name: str) -> bool:
        """Say whether a tensor belongs to the model, though its name looks like that of another part."""
        return False

    @cached_property
    def text_tensors(self) -> dict[str, SourceTensor]:
        """Return the tensors of the text model by canonical name, in the order in which llama.cpp reads: shard
        by shard, sorted by name.

        A note says which prefixes were taken off or put before all names. A warning names the tensors that are
        left out.
        """
        tensors = self.checkpoint.tensors
        short, wrappers = names.unwrapped(tensors)
        if wrappers:
            self._note("the names of all tensors are read without %s", " and ".join(map(repr, wrappers)))
        refuse_adapter(self.checkpoint.folder, [name for name in tensors if not self.keeps(name)])
        extra_layers = names.prediction_layers(short.values(), self.n_layer)

        def why_not(name: str) -> str | None:
            why = self.left_out(name)
            return names.MTP if why is None and names.layer_of(name) in extra_layers else why

        kept, dropped = self.sorted_out(short, why_not)
        if self.with_projector:
            dropped.pop(names.OTHER_MODALITY, None)
        self.note_dropped("left out, as they are not part of the text model", dropped)
        return self._with_embedding(self._with_prefix(kept))

    def sorted_out(
        self, short: Mapping[str, str], why_not: Callable[[str], str | None]
    ) -> tuple[dict[str, SourceTensor], dict[str, list[str]]]:
        """Return the tensors by canonical name, and the names of those that are left out by reason.

        `short` are the names of all tensors that are looked at, each without the prefixes of wrappers. `why_not` gives
        the reason why a tensor is left out. The order is shard by shard, sorted by name.
        """
        tensors = self.checkpoint.tensors
        kept: dict[str, SourceTensor] = {}
        dropped: dict[str, list[str]] = {}
        shards = {tensor.shard: None for tensor in tensors.values()}
        order = {shard: index for index, shard in enumerate(shards)}
        for tensor in sorted((tensors[name] for name in short), key=lambda t: (order[t.shard], t.name)):
            name = short[tensor.name]
            why = why_not(name)
            if why is not None:
                dropped.setdefault(why, []).append(tensor.name)
                continue
            name = self.canonical(name)
            if name in kept:
                what = f"'{kept[name].name}' and '{tensor.name}' both stand for {name}"
                raise ModelError(message(self.checkpoint.folder, what, "Remove one of them"))
            kept[name] = tensor
        return kept, dropped

    def note_dropped(self, what: str, dropped: Mapping[str, list[str]]) -> None:
        """Warn of tensors that are left out, group by group."""
        if dropped:
            groups = (
                f"{count(len(found), 'tensor')} {why} ({some(found)})" for why, found in dropped.items()
            )
            self._note(f"{what}: %s", "; ".join(groups))

    def _with_prefix(self, tensors: dict[str, SourceTensor]) -> dict[str, SourceTensor]:
        """Put the prefix of the class, ``model.``, before the names of a model that was saved without the
        prefix."""
        prefix, _, bare = self.embedding.partition(".")
        if self.embedding in tensors or bare not in tensors:
            return tensors
        if not self.class_name.endswith("Model"):
            self._note("the names of the tensors lack the prefix %r, which is put before them", f"{prefix}.")
            self.headless = True
        head = f"{self.output_row.source}." if self.output_row is not None else prefix
        return {
            name if name.startswith((f"{prefix}.", head)) else f"{prefix}.{name}": tensor
            for name, tensor in tensors.items()
        }

    def _with_embedding(self, tensors: dict[str, SourceTensor]) -> dict[str, SourceTensor]:
        """Take the output matrix of a tied model as the embedding that the checkpoint lacks: writers keep one of the
        two names, and `save_model` of safetensors keeps the first in the alphabet."""
        head = f"{self.output_row.source}.weight" if self.output_row is not None else ""
        if self.embedding in tensors or head not in tensors:
            return tensors
        if not self.config.flag("tie_word_embeddings", False):
            return tensors
        self._note("the model is tied and lacks %r, so %r is read in its place", self.embedding, head)
        return {self.embedding if name == head else name: tensor for name, tensor in tensors.items()}

    def _note(self, what: str, *values: object) -> None:
        log.warning("%s: " + what, self.checkpoint.folder, *values)

    # Tensors

    def sizes(self, layer: int) -> dict[str, int]:
        """Return the sizes that rows name: d is the model width, q and k are the widths of queries and keys, h
        is a head, f the feed-forward width, v the vocabulary, e the number of experts."""
        return {
            "d": self.n_embd,
            "q": self.n_head * self.head_dim,
            "k": self.n_head_kv * self.head_dim,
            "h": self.head_dim,
            "f": self.n_ff,
            "v": self.n_vocab,
            "1": 1,
            "e": self.n_expert,
        }

    def rows(self, layer: int) -> Iterable[Row]:
        """Return the rows of a layer."""
        raise NotImplementedError

    def generated(self) -> dict[str, tuple[float, ...]]:
        """Return the values of tensors that are computed from the configuration."""
        return {}

    def token_ids(self) -> dict[str, list[int]]:
        """Return the values of tensors that hold ids of tokens and are computed."""
        return {}

    def table(self, present: Mapping[str, SourceTensor]) -> Table:
        """Declare every tensor of the model. `present` decides between layouts that published checkpoints have."""
        table = Table()
        sizes = self.sizes(0)
        for row in self.top_rows:
            self._add_row(table, "", "", row, sizes)
        if self.output_row is not None:
            self._add_row(table, "", "", self.output_row, sizes, needed=not self.tied)
        for layer in range(self.n_layer):
            source, target = f"{self.layer_prefix}.{layer}.", f"blk.{layer}."
            sizes = self.sizes(layer)
            for row in self.rows(layer):
                self._add_row(table, source, target, row, sizes)
        return table

    def _add_row(
        self, table: Table, source: str, target: str, row: Row, sizes: Mapping[str, int], needed: bool = True
    ) -> None:
        shape = tuple(sizes[dim] for dim in row.dims.split())
        weight = Source(f"{source}{row.source}{row.suffix}", shape)
        table.add(f"{target}{row.target}{row.target_suffix}", weight, needed=needed and row.needed)

    # Metadata

    def write_metadata(self, metadata: Metadata) -> None:
        """Write the keys of the architecture."""
        self.write_standard(metadata)

    def write_standard(self, metadata: Metadata) -> None:
        """Write the keys of most decoders, in the order of llama.cpp's converter."""
        config = self.config

        def put(key: str, kind: str, value: Callable[[], Any]) -> None:
            self.put(metadata, f"{self.arch}.{key}", kind, value)

        put("block_count", "UINT32", lambda: self.n_layer)
        put("context_length", "UINT32", lambda: config.count("max_position_embeddings"))
        put("embedding_length", "UINT32", lambda: self.n_embd)
        put("feed_forward_length", "UINT32", self.feed_forward_lengths)
        put("attention.head_count", "UINT32", self.head_counts)
        put(
            "attention.head_count_kv",
            "UINT32",
            self.head_counts_kv,
        )
        put("attention.causal", "BOOL", lambda: None if config.flag("is_causal", True) else False)
        self.write_rope(metadata)
        put(
            "attention.layer_norm_rms_epsilon", "FLOAT32", lambda: self._number_of("rms_norm_eps", "norm_eps")
        )
        put("attention.layer_norm_epsilon", "FLOAT32", lambda: self._number_of(*_NORM_EPS))
        put("expert_count", "UINT32", lambda: self.n_expert or None)
        put("expert_used_count", "UINT32", lambda: self.n_expert_used if self.n_expert else None)
        groups, groups_used = self.expert_groups()
        put("expert_group_count", "UINT32", lambda: groups)
        put("expert_group_used_count", "UINT32", lambda: groups_used)
        put("expert_gating_func", "UINT32", self.expert_gating)
        put("attention.key_length", "UINT32", self.written_head_dim)
        put("attention.value_length", "UINT32", self.written_head_dim)

    def put(self, metadata: Metadata, key: str, kind: str, value: Callable[[], Any]) -> None:
        """Write a standard key. A value of None writes nothing; a list of numbers has one for each layer."""
        found = value()
        if found is not None:
            metadata.add(key, "ARRAY[INT32]" if isinstance(found, list) else kind, found)

    def head_counts(self) -> int | list[int] | None:
        """Return the number of heads, one per layer if the layers differ."""
        return self.n_head

    def feed_forward_lengths(self) -> int | list[int] | None:
        """Return the width of the feed-forward part, one per layer if the layers differ."""
        return self.n_ff

    def _number_of(self, *keys: str) -> float | None:
        """Return the first of these numbers that config.json or the class has."""
        found = (self.config.optional_number(key) for key in keys)
        return next((number for number in found if number is not None), None)

    def expert_groups(self) -> tuple[int | None, int | None]:
        """Return the number of groups of experts, and the number of groups from which a token takes its experts.
        llama.cpp ends its process with groups of one expert or of different sizes. llama.cpp does so as well where a
        token may use every group, which is the same as one group."""
        count, used = (self.config.optional_count(key, least=0) for key in ("n_group", "topk_group"))
        if self.n_expert <= 1:
            return None, None
        if count is None or count <= 1:
            return count, used
        if self.n_expert % count or self.n_expert < 2 * count:
            raise self.config.error(
                f"{self.n_expert} experts are not {count} groups of two or more experts (n_group)"
            )
        if used is None or not 1 <= used <= count:
            raise self.config.error(
                f"a token cannot use {used} of {count} groups of experts (topk_group, n_group)"
            )
        return (count, used) if used < count else (1, 1)

    def expert_gating(self) -> int | None:
        """Return GGUF's number for the function that turns the scores of the experts into weights, where config.json
        names one."""
        name = next((self.config.get(key) for key in _GATING_KEYS if self.config.get(key) is not None), None)
        if name is None:
            return None
        if not isinstance(name, str) or name not in GATING:
            known = ", ".join(GATING)
            raise self.config.error(f"the gating function of experts {shown(name)} is not one of {known}")
        return GATING[name]

    def write_rope(self, metadata: Metadata) -> None:
        if self.rope.kind == "proportional" and "rope_freqs.weight" not in self.generated():
            raise self.config.error(
                "proportional RoPE is known for Gemma 4 only", "Convert it with a newer version"
            )
        self._check_rope_factors()
        ropes.write_scaling(self.rope, self.arch, metadata)
        fast, slow = (self.rope.full.get(key) for key in ("beta_fast", "beta_slow"))
        if self.rope.kind == "yarn" and self.arch != "mistral3" and (fast or 32, slow or 1) != (32, 1):
            self._note(
                "beta_fast and beta_slow of YaRN are %s and %s, but llama.cpp takes 32 and 1 in this architecture,"
                " so its answers are not those of the model",
                shown(fast),
                shown(slow),
            )
        exact = self.rope.kind == "yarn" and self.rope.full.get("truncate") is False
        if exact and ropes.has_fractional_limits(self.rope, self.head_dim):
            self._note(
                "truncate of YaRN is false, but llama.cpp rounds the limits between the frequencies that are scaled and"
                " the others, so its answers are near those of the model, and not the same"
            )
        if (sections := ropes.sections(self.config, self.rope)) is not None:
            metadata.int32s(f"{self.arch}.rope.dimension_sections", sections)
        if self.rope.full["rope_theta"] is not None:
            metadata.float32(f"{self.arch}.rope.freq_base", self.rope.full["rope_theta"])
        if self.rope.sliding is not None:
            metadata.float32(f"{self.arch}.rope.freq_base_swa", self.rope.sliding["rope_theta"])

    def _check_rope_factors(self) -> None:
        """Refuse a scaling whose factors are a tensor, where the architecture has no such tensor."""
        name = next(iter(ropes.LONG_FACTORS)) if self.rope.is_longrope else None
        name = "rope_freqs.weight" if self.rope.kind == "llama3" else name
        if name is not None and name not in self.generated():
            what = f"llama.cpp's {self.arch} has no RoPE scaling of type {self.rope.kind}"
            raise self.config.error(what, "The model cannot be converted")

    def written_head_dim(self) -> int | None:
        """Return the head size if the configuration or its class states one."""
        return None if self._is_null("head_dim") else self.config.optional_count("head_dim")

    @cached_property
    def n_expert_used(self) -> int:
        used = self.config.count("num_experts_per_tok")
        if used > self.n_expert:
            raise self.config.error(f"{used} experts per token are more than the {self.n_expert} there are")
        return used

    def write_pooling(self, metadata: Metadata) -> None:
        """Write `pooling_type` of a sentence-transformers model. The file modules.json names the folder of the
        pooling module."""
        folder = self.checkpoint.folder
        if not (folder / "modules.json").is_file():
            return
        modules = modules_of(folder)
        dense = [path for kind, path in modules if kind.endswith("Dense")]
        if dense:
            what = "the dense layers behind the model (%s) are not read: the embeddings are those before these layers"
            self._note(what, ", ".join(map(shown, dense[:4])))
        path = _pooling_folder(folder, modules)
        if path is None:
            return
        pooling = load_json(path / "config.json", root=folder)
        for key, kind in _POOLING:
            if pooling.get(key) is True:
                metadata.uint32(f"{self.arch}.pooling_type", kind)
                return
        mode = pooling.get("pooling_mode")
        if not isinstance(mode, str) or mode not in _POOLING_NAMES:
            fix = "Use a model with mean, cls or last-token pooling"
            raise ModelError(message(path / "config.json", "GGUF has no such kind of pooling", fix))
        metadata.uint32(f"{self.arch}.pooling_type", _POOLING_NAMES[mode])

    # All together

    def check(self) -> None:
        """Refuse what shapes alone do not show."""

    def describe(self, name: str | None) -> ModelSpec:
        """Return everything that the conversion needs. Raises ModelError."""
        if not self.checkpoint.tensors:
            folder = self.checkpoint.folder
            raise ModelError(
                message(folder, "no weights in this folder", "Download the *.safetensors files as well")
            )
        self.checkpoint = merged(plain(self.checkpoint, self.config), self.checkpoint.adapters)
        _ = self.n_layer
        if self.mtp and not self.n_mtp:
            raise self.config.error(
                "the model has no blocks that predict further tokens", "Convert it without the option --mtp"
            )
        self.check()
        check_activation(self.arch, self.config)
        present = self.text_tensors
        self._check_vocabulary(present)
        table = self.table(present)
        table.check(present, self.checkpoint.folder)
        self._note_missing_head(present)
        for key, values in self.generated().items():  # after the check: their length is that of a head
            table.add(key, Generated(values))
        for key, ids in self.token_ids().items():
            table.add(key, Generated(tuple(map(float, ids))), i64=True)
        specs = table.resolve(present, self.checkpoint.folder)
        self._check_output(specs)
        metadata = Metadata()
        metadata.string("general.architecture", self.arch)
        size = Size.of((spec.name, spec.shape) for spec in specs)
        write_general(
            metadata,
            self.checkpoint.folder,
            self.checkpoint.stem,
            self.config.values,
            self.checkpoint.generation_config,
            size,
            name,
        )
        self.write_metadata(metadata)
        tied = not any(spec.name == "output.weight" for spec in specs)
        facts = ModelFacts(self.arch, self.n_run, self.n_expert, self.n_head, self.head_counts_kv(), tied)
        drafts = self.n_vocab if self.drafts else None
        return ModelSpec(self.arch, metadata, specs, facts, self.vocabulary, drafts)

    def _note_missing_head(self, present: Mapping[str, SourceTensor]) -> None:
        """Warn of an output matrix that config.json calls another than the embedding, and that is not there."""
        if self.output_row is None or self.class_name.endswith("Model") or self.headless:
            return
        parts = (self.checkpoint.config, text_part(self.checkpoint.config))
        untied = any(part.get("tie_word_embeddings") is False for part in parts)
        if untied and not any(name.startswith(f"{self.output_row.source}.") for name in present):
            self._note(names.NO_HEAD)

    def _check_output(self, specs: Iterable[TensorSpec]) -> None:
        """Refuse heads that together are not as wide as the model, where llama.cpp does not load such a file."""
        if not self.square_output:
            return
        for spec in specs:
            if spec.name.endswith(".attn_output.weight") and spec.shape[-1] != self.n_embd:
                what = (
                    f"all heads together have {spec.shape[-1]} values (head_dim), and llama.cpp loads {self.arch} only"
                    f" where they have hidden_size ({self.n_embd}) values"
                )
                raise self.config.error(what, "The model cannot be converted")

    def _check_vocabulary(self, present: Mapping[str, SourceTensor]) -> None:
        """Hold vocab_size against the rows of the embedding. The two often differ after tokens were added."""
        tensor = present.get(self.embedding)
        if tensor is None or len(tensor.shape) != 2:
            return  # the table says what is wrong
        rows, columns = tensor.shape
        for key, wanted, found in (("vocab_size", self.n_vocab, rows), ("hidden_size", self.n_embd, columns)):
            if wanted != found:
                origin = (
                    "" if self.config.stated(key) else " (the default of the class, config.json has none)"
                )
                side = "rows" if key == "vocab_size" else "columns"
                what = f"{key} is {wanted}{origin}, but '{tensor.name}' has {found} {side}"
                raise self.config.error(what, f"Set {key} to {found} if the weights are right")


def fused_expert_halves(
    source: str, count: int, width: int, model: int, present: Mapping[str, SourceTensor], family: Family
) -> tuple[Transform, Transform, Transform] | None:
    """Return the gate, up and down matrices of experts from ``{source}.gate_up_proj`` [e, 2 x, d] and
    ``{source}.down_proj`` [e, d, x], as transformers 5 saves them. Returns None if there are no such tensors."""
    fused = f"{source}.gate_up_proj"
    suffix = next((end for end in ("", ".weight") if fused + end in present), None)
    if suffix is None:
        return None
    both = Source(fused + suffix, (count, 2 * width, model))
    _check_source_shape(both, present, family.checkpoint.folder)
    down = Source(f"{source}.down_proj{suffix}", (count, model, width))
    return taken(both, 1, 0, width), taken(both, 1, width, width), down


def _check_source_shape(source: Source, present: Mapping[str, SourceTensor], folder: Path) -> None:
    tensor = present[source.tensor]
    if tensor.shape != source.shape:
        what = f"has shape {shown(tensor.shape)}, the configuration asks for {source.shape}"
        place = f"{folder / tensor.shard}: tensor '{tensor.name}'"
        raise ModelError(message(place, what, "Correct the number of experts or their size in config.json"))


def _pooling_folder(folder: Path, modules: Sequence[tuple[str, str]]) -> Path | None:
    """Return the folder of the pooling module, which must lie inside the folder of the model; None if there is
    none."""
    file = folder / "modules.json"
    for kind, path in modules:
        if kind.endswith("Pooling"):
            inside = (folder / path.replace("\0", "\ufffd")).resolve()
            if not inside.is_relative_to(folder.resolve()):
                raise FormatError(
                    message(file, f"path {shown(path)} leaves the folder", "Correct modules.json")
                )
            return inside
    return None


def refuse_adapter(folder: Path, tensor_names: Collection[str]) -> None:
    """Refuse a model with LoRA matrices beside its weights, which would have to be added to the weights, and a model
    that was saved inside the wrappers of PEFT."""
    lora = next((name for name in tensor_names if ".lora_A." in name or ".lora_B." in name), None)
    peft = next((name for name in tensor_names if any(part in name for part in _PEFT_PARTS)), None)
    if lora is not None or peft is not None:
        what = f"the checkpoint holds LoRA matrices that are not merged ('{lora}')"
        if lora is None:
            what = f"the checkpoint was saved with the wrappers of a PEFT adapter ('{peft}')"
        raise ModelError(
            message(folder, what, "Merge them into the model (peft: merge_and_unload), then convert")
        )


_PEFT_PARTS: Final = (
    *(".lora_embedding_", ".lora_magnitude_vector", ".base_layer.", ".modules_to_save.", ".original_module."),
    *(".ia3_l", ".oft_r", ".boft_", ".hada_w", ".lokr_w", ".vera_lambda_", ".trainable_tokens_"),
)
