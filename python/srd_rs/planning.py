"""Plans: from a model folder or a GGUF to what a conversion would write. Only headers are read, no weight.

This module is not called ``plan``, and the conversion not ``convert``, because importing a submodule
``srd_rs.plan`` would replace the function `srd_rs.plan` of the package by the module.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from srd_rs import _core, effects, recipe, sniff
from srd_rs.encoders import is_encoder
from srd_rs.errors import ModelError, UsageError, io_error, message
from srd_rs.hub import Source, headers, model_files
from srd_rs.options import DEFAULTS, EFFORTS, ConvertOptions, StrPath, writes_container
from srd_rs.reading import shown
from srd_rs.report import ChosenType, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from srd_rs.checkpoint import Checkpoint
    from srd_rs.families.base import ModelFacts, ModelSpec
    from srd_rs.metadata import Metadata

PROJECTOR_TYPES = ("F16", "BF16", "F32", "Q8_0")
"""The types that the matrices of a projector can have."""
MOST_ENCODER_WEIGHTS: Final = 1_000_000_000
"""Encoders with more weights get effort srd by default, because effort max takes several times as long, and its gain
was measured on small encoders only (decision 0016)."""


log = logging.getLogger("srd_rs.planning")


@dataclass(frozen=True)
class NativeModel:
    """A planned model whose weights can be run: what a calibration needs."""

    model: Path
    plan: _core.Plan
    replaced: Mapping[str, Any] | None = None
    """The keys of the metadata that the user states."""

    def metadata(self) -> list[tuple[str, str, Any]]:
        return self.plan.metadata()

    @property
    def source_digest(self) -> str | None:
        return self.plan.source_digest


def native_model(
    source: Source,
    beside: Path = Path("model.gguf"),
    lora: Sequence[StrPath] = (),
    replaced: Mapping[str, Any] | None = None,
) -> NativeModel:
    """A model folder or GGUF, to be run. States that do not fit into memory go into the folder of `beside`."""
    options = ConvertOptions(quant="F32", lora=lora, metadata=replaced)
    return NativeModel(source.path, native_plan(source, beside, options), options.metadata)


def calibration_file(options: ConvertOptions) -> StrPath | None:
    """The calibration file that was named, as `calibrate` or as `imatrix`."""
    for path in (options.calibrate, options.imatrix):
        if path not in (None, "builtin", "random") and _core.is_calibration(os.fspath(path)):
            return path
    return None


def calibration_text(options: ConvertOptions) -> StrPath | None:
    """The text to calibrate on, None for no calibration. An imatrix takes its place."""
    if options.calibrate is not None or options.imatrix is not None:
        return options.calibrate
    return "builtin" if options.is_measured else None


class Planner:
    """The plans of one model and one set of options. What config and tokenizer say is read once.

    `options` are the options with the defaults chosen that depend on the model: `effort` and `axm`. `why_fast` says why
    the effort is fast where nobody asked for that, and srd would have something to do.
    """

    def __init__(self, source: Source, output: StrPath | None, options: ConvertOptions) -> None:
        if options.effort not in (*EFFORTS, None):
            what = f"effort '{options.effort}' is not known"
            raise UsageError(message("effort", what, "Use 'srd', 'max' or 'fast'"))
        sniff.check_model(source.path, () if source.remote is None else source.remote.names)
        options = recipe.resolved(options)
        self.source = source
        self.gguf = output_path(source, output, recipe.label(options))
        self.options = replace(options, axm=writes_container(options), effort=options.effort or "fast")
        self.why_fast: str | None = None
        self._description: _Description | None = None
        if options.effort is None:
            self._choose()

    @property
    def from_gguf(self) -> bool:
        return self.source.path.is_file()

    def plan(
        self, calibration: _core.Calibration | None = None, options: ConvertOptions | None = None
    ) -> _core.Plan:
        """The native plan. `calibration` is the native calibration, where one was made already; `options` are others
        than those of the planner."""
        options = options or self.options
        planned = self._native(options, calibration)
        effects.check_plan(options, planned)
        if options.effort == "max" and not planned.has_two_streams():
            model = f"this model of the architecture {shown(planned.arch)}"
            what = f"effort max cannot run {model} in two streams of tokens"
            raise ModelError(message(self.source.path, what, "Use --effort srd"))
        return planned

    def describe(self, native: _core.Plan, chosen: tuple[ChosenType, ...] = ()) -> Plan:
        """A native plan as plain data, with what was measured of the tensors whose type was chosen."""
        effort, text = self.options.effort or "fast", _text_name(self.options)
        calibrates = text is not None and calibration_file(self.options) is None
        return Plan.of(native, effort, self.why_fast, text, calibrates, chosen)

    def forget(self) -> None:
        """Drop what config and tokenizer say, which takes 90 MB for a vocabulary of 262,144 tokens. A later plan reads
        both again."""
        self._description = None

    def srd_is_possible(self, native: _core.Plan) -> bool:
        """Whether effort srd could have been chosen for a plan of the effort fast."""
        return _has_srd_types(native) and self._obstacle(native) is None

    def _choose(self) -> None:
        """Choose the effort: srd where a tensor is quantized that srd quantizes, and where the model can be run; for
        encoders max."""
        options = self.options
        native = self._native(replace(options, calibrate=None, imatrix=None), check=False)
        if not _has_srd_types(native):
            return
        if options.calibrate is None and options.imatrix is not None:
            self.why_fast = (
                "The imatrix weighs the errors, so SRD, which measures the inputs itself, was left out."
            )
            return
        # A calibration that was asked for is made or fails: it is not left out quietly.
        if options.calibrate is None and (obstacle := self._obstacle(native)):
            self.why_fast = f"{obstacle}, so the data-free search was used instead of SRD."
            return
        # A calibration file is one of effort srd.
        is_max = calibration_file(options) is None and self.prefers_max(native)
        self.options = replace(options, effort="max" if is_max else "srd")

    def _obstacle(self, native: _core.Plan) -> str | None:
        """Why no calibration can be made on the bundled text; None where it can."""
        try:
            native.check_runnable()
        except ModelError:
            return f"srd-rs cannot run this model of the architecture {shown(native.arch)} to calibrate it"
        return (
            None if self._reads_text(native) else "srd-rs cannot read a text with the tokenizer of this model"
        )

    def prefers_max(self, native: _core.Plan) -> bool:
        """Whether effort max is the default: for encoders, where it gains most (decision 0016)."""
        is_small = native.n_weights <= MOST_ENCODER_WEIGHTS
        return (
            is_small
            and is_encoder(self._metadata(native))
            and bool(native.corrected)
            and native.has_two_streams()
        )

    def _metadata(self, native: _core.Plan) -> dict[str, Any]:
        """The metadata of a plan. The vocabulary is copied only where nothing was read of config and tokenizer."""
        listed = native.metadata() if self._description is None else self._description[0]
        return {key: value for key, _, value in listed}

    def _reads_text(self, native: _core.Plan) -> bool:
        """Whether the calibration text can become tokens: by tokenizer.json, or by the vocabulary of the metadata."""
        if (self.source.path / "tokenizer.json").is_file():
            return True
        from srd_rs.vocab.tokenizer import from_metadata

        try:
            from_metadata(self._metadata(native), self.source.path, "")
        except (ModelError, ImportError):
            return False
        return True

    def _native(
        self, options: ConvertOptions, calibration: _core.Calibration | None = None, *, check: bool = True
    ) -> _core.Plan:
        file, text = calibration_file(options), calibration_text(options)
        if check:
            names = effects.given(options)
            made = text is not None and file is None
            effects.check(options, names, from_gguf=self.from_gguf, text=made, measured=file is not None)
        if file is not None and calibration is None:
            calibration = _core.open_calibration(file)
        name = _text_name(options) if file is None else None
        if self.from_gguf:
            keys = _keys_of_gguf(self.source.path, options)
            return _core.plan_gguf(self.source.path, self.gguf, options, calibration, name, keys)
        from srd_rs.families import lora

        if self._description is None:
            self._description = _described(self.source, options)
        metadata, tensors, facts, files, listed = self._description
        return _core.plan_checkpoint(
            self.source.path,
            metadata,
            tensors,
            facts,
            self.gguf,
            options,
            files,
            calibration,
            name,
            listed,
            self.source.revision,
            [folder / lora.WEIGHTS for folder in _adapters(options)],
            self.source.remote,
        )


def projector_name(source: Source, options: ConvertOptions) -> str:
    """The usual name of the file of a projector."""
    return f"mmproj-{source.stem}-{options.mmproj_type.upper()}.gguf"


def projector_options(options: ConvertOptions) -> ConvertOptions:
    """The options with which a projector is planned and written: those that say how, none that says what."""
    return ConvertOptions(
        quant=options.mmproj_type.upper(),
        effort="fast",
        name=options.name,
        provenance=options.provenance,
        axm=writes_container(options),
        residual_bits=options.residual_bits,
        key_file=options.key_file,
        sign_key=options.sign_key,
        met=False,
        threads=options.threads,
        max_memory=options.max_memory,
        allow_nonfinite=options.allow_nonfinite,
        overwrite=options.overwrite,
    )


def projector_plan(source: Source, output: Path, options: ConvertOptions) -> _core.Plan | None:
    """The native plan of the projector of a model, whose file is `output`; None where there is none to write.

    Raises UsageError if a projector was asked for and the model has none that can be written.
    """
    if options.mmproj_type.upper() not in PROJECTOR_TYPES:
        what = f"the type '{options.mmproj_type[:40]}' is not known"
        raise UsageError(message("mmproj_type", what, f"Use one of {', '.join(PROJECTOR_TYPES)}"))
    asked = options.mmproj or options.mmproj_only
    if options.mmproj is False and not options.mmproj_only:
        return None
    if source.path.is_file():
        if asked:
            raise UsageError(
                message(source.path, "a GGUF holds no projector", "Name the folder of the model")
            )
        return None
    from srd_rs.checkpoint import Checkpoint
    from srd_rs.families import lora, projectors

    checkpoint = replace(
        Checkpoint.open(source.path, source.name, source.remote, beside=source.beside),
        adapters=_adapters(options),
    )
    if not projectors.has_projector(checkpoint):
        if asked:
            fix = "Leave out the option, or see srd-rs models for the classes that have one"
            raise UsageError(message(source.path, "the model has no projector that can be written", fix))
        return None
    chosen = projector_options(options)
    if options.axm_output is not None:
        # The container of the projector lies beside that of the model.
        beside = Path(options.axm_output).with_name(output.with_suffix(".axm").name)
        chosen = replace(chosen, axm_output=options.axm_output if options.mmproj_only else beside)
    try:
        spec = projectors.describe(checkpoint, name=options.name, kind=chosen.quant)
    except ModelError as error:
        if asked:
            raise
        log.warning("the projector is not written, so the model will answer text only: %s", error)
        return None
    chosen = replace(chosen, tensor_types=projectors.own_types(spec, chosen.quant))
    tensors = json.dumps([t.to_json() for t in spec.tensors])
    files, listed = [*model_files(checkpoint.folder), *lora.files(checkpoint.adapters)], _listed(checkpoint)
    metadata = list(spec.metadata.entries())
    adapters = [folder / lora.WEIGHTS for folder in checkpoint.adapters]
    return _core.plan_checkpoint(
        source.path,
        metadata,
        tensors,
        spec.hparams,
        output,
        chosen,
        files,
        listed=listed,
        adapters=adapters,
        remote=source.remote,
    )


def native_plan(source: Source, output: StrPath | None, options: ConvertOptions) -> _core.Plan:
    """The native plan of a conversion."""
    return Planner(source, output, options).plan()


def _has_srd_types(native: _core.Plan) -> bool:
    """Whether a tensor gets a type that effort srd quantizes, and has another type now."""
    return any(t.type in _core.FEEDBACK_TYPES and t.type not in t.source_types for t in native.tensors)


def _text_name(options: ConvertOptions) -> str | None:
    """What the output calls the text of the calibration; None without calibration."""
    text = calibration_text(options)
    if text is None:
        return None
    return os.fspath(text) if text in ("builtin", "random") else Path(text).name


_Listed = tuple[str, str, tuple[int, ...], str, int]
_Description = tuple[list[tuple[str, str, object]], str, "ModelFacts", list[Path], list[_Listed] | None]
"""Metadata, tensors as JSON, facts for the mixes, the files that were read, and where the tensors lie if the files are
not safetensors."""


def _keys_of_gguf(path: Path, options: ConvertOptions) -> list[tuple[str, str, object]] | None:
    """The keys that get another value than the GGUF has."""
    if options.metadata is None:
        return None
    from srd_rs import overriding

    header = _core.read_gguf(path, 0)
    tokens = header["lengths"].get("tokenizer.ggml.tokens", 0)
    return overriding.replaced(options.metadata, header["metadata"], tokens).entries()


def described(source: Source, options: ConvertOptions) -> list[tuple[str, str, object]]:
    """The metadata of a model without those of its tokenizer."""
    found = _specified(source, options)[1].metadata
    _replace(found, {k: v for k, v in (options.metadata or {}).items() if k.startswith("general.")})
    return list(found.entries())


def _replace(metadata: Metadata, given: Mapping[str, Any] | None) -> None:
    """Replace the keys that the user states."""
    if given:
        from srd_rs import overriding

        tokens = len(metadata.get("tokenizer.ggml.tokens", ()))
        metadata.update(overriding.replaced(given, metadata.entries(), tokens))


def _specified(source: Source, options: ConvertOptions) -> tuple[Checkpoint, ModelSpec]:
    """A model folder, and what its configuration says."""
    from srd_rs import families
    from srd_rs.checkpoint import Checkpoint
    from srd_rs.families import nvfp4, projectors

    checkpoint = replace(
        Checkpoint.open(source.path, source.name, source.remote, beside=source.beside),
        adapters=_adapters(options),
        target=_target(options),
    )
    has_projector = projectors.has_projector(checkpoint)
    if not has_projector and options.mmproj_type != DEFAULTS.mmproj_type:
        raise effects.without_effect("mmproj_type", "the model has no projector that can be written")
    seen = options.mmproj is not False and has_projector
    spec = families.describe(checkpoint, name=options.name, mtp=options.mtp, with_projector=seen)
    if options.quant.upper() == nvfp4.MIX:
        spec = nvfp4.kept(spec, checkpoint)
    return checkpoint, spec


def _described(source: Source, options: ConvertOptions) -> _Description:
    from srd_rs.families import lora

    checkpoint, spec = _specified(source, options)
    metadata = spec.metadata
    metadata.update(_tokens(checkpoint, spec, options))
    if options.pre_tokenizer is not None and metadata.get("tokenizer.ggml.pre") != options.pre_tokenizer:
        raise effects.without_effect("pre_tokenizer", "the vocabulary of the model has no pre-tokenizer")
    _replace(metadata, options.metadata)
    tensors = json.dumps([t.to_json() for t in spec.tensors])
    if checkpoint.adapters and options.provenance:
        metadata.strings("srd.lora", [folder.resolve().name for folder in checkpoint.adapters])
    files, listed = [*model_files(checkpoint.folder), *lora.files(checkpoint.adapters)], _listed(checkpoint)
    if checkpoint.target is not None:
        files += model_files(checkpoint.target.folder)
    return list(metadata.entries()), tensors, spec.hparams, files, listed


def without_weights(model: StrPath, wanted: str) -> Source:
    """The model that an option names beside the one that is converted, and that is `wanted`, such as "a base model".
    Its weights need not be there."""
    source = headers(model)
    if source.remote is None:
        sniff.check_folder(source.path, wanted)
    return source


def _target(options: ConvertOptions) -> Checkpoint | None:
    """The model that a draft drafts for."""
    from srd_rs.checkpoint import Checkpoint

    if options.target is None:
        return None
    source = without_weights(options.target, "a target model")
    return Checkpoint.open(source.path, source.name, bare=True)


def _tokens(checkpoint: Checkpoint, spec: ModelSpec, options: ConvertOptions) -> Metadata:
    """The tokenizer of the model. A draft has that of its target, with as many tokens as the draft has, and the tokens
    that the draft adds."""
    from srd_rs import families, vocab
    from srd_rs.checkpoint import flatten

    owner, rules, stated = checkpoint, spec.vocabulary, flatten(checkpoint.config)
    name, arch = (str(spec.metadata.get(f"general.{key}")) for key in ("name", "architecture"))
    if checkpoint.target is not None:
        if spec.drafts is None:
            raise effects.without_effect("target", "the model does not draft tokens for another model")
        owner, family = checkpoint.target, families.opened(checkpoint.target)
        rules, name, arch = family.vocabulary, owner.stem, family.arch
        stated = {**flatten(owner.config), "vocab_size": spec.drafts}
    n_vocab = _embedding_rows(spec, checkpoint.folder) if spec.drafts is None else spec.drafts
    tokens = vocab.load(
        owner.folder,
        config=stated,
        n_vocab=n_vocab,
        rules=rules,
        pre=options.pre_tokenizer,
        name=name,
        arch=arch,
    )
    for key in [key for key, _, _ in tokens.entries() if key in spec.metadata and spec.drafts is not None]:
        tokens.remove(key)
    return tokens


def _adapters(options: ConvertOptions) -> tuple[Path, ...]:
    """The folders of the adapters that are merged."""
    return tuple(map(Path, options.lora))


def _listed(checkpoint: Checkpoint) -> list[_Listed] | None:
    """Where the tensors lie, if the files are not safetensors."""
    if not checkpoint.pickled:
        return None
    return [(t.name, t.dtype, t.shape, t.shard, t.offset) for t in checkpoint.tensors.values()]


def _embedding_rows(spec: ModelSpec, model: Path) -> int:
    for tensor in spec.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[0]
    raise ModelError(message(model, "the model has no token embedding", "Convert a complete checkpoint"))


def output_path(source: Source, output: StrPath | None, quant: str, suffix: str = ".gguf") -> Path:
    """Name of the output: `output`, or the default name in the folder `output` or in the current folder."""
    default = f"{source.stem}-{quant.upper()}{suffix}"
    return _checked_name(Path(default) if output is None else named(output, default, suffix))


MAX_NAME: Final = 240
"""The name of an output has at most this many bytes: systems allow 255, and names of files beside it are longer."""


def _checked_name(path: Path) -> Path:
    size = len(os.fsencode(path.name))
    if size > MAX_NAME:
        what = f"the name of the output has {size} bytes, and at most {MAX_NAME} are possible"
        raise UsageError(message(shown(path.name), what, "Choose a shorter name with -o"))
    return path


def named(output: StrPath, default: str, suffix: str) -> Path:
    """`output`, with `suffix` where the name has none, or the name `default` in the folder `output`."""
    path = _checked_name(Path(output))
    if os.fspath(output) == "-":
        what = "an output is a file, because its parts are not written in order"
        raise UsageError(message("-", what, "Name a file, or ./- for a file of this name"))
    if is_folder(output):
        return path / default
    # The end of a name such as Qwen2.5-7B is no suffix.
    if path.is_symlink() or path.exists() or re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):
        return path
    return path.with_name(path.name + suffix)


def make_folder(folder: Path) -> None:
    """Make the folder that an output goes into, with its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise io_error(folder, "create the folder", error, "Check the path of the output") from None


def is_folder(output: StrPath) -> bool:
    """Whether an output names a folder: an existing one, or any name that ends in a slash."""
    return Path(output).is_dir() or os.fspath(output).endswith(os.sep)
