"""`srd_rs.rebuild`: makes a GGUF again from its checkpoint and compares the two, byte by byte.

A conversion gives the same bytes on every CPU, with any number of threads and any limit of memory. So anybody who has
the checkpoint can show that a published GGUF is what it says. No second file is written: what is converted is compared
with the GGUF while it streams.

The GGUF says how it was made: its tensors have the types, `general.file_type` is the mix, and the `srd.*` keys are the
version, the method, the seed, the digest of the source, the calibration and the options that differ from their
defaults.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, conversion, hub, sniff
from srd_rs.errors import FormatError, ModelError, UsageError, VerificationError, message
from srd_rs.hub import Source
from srd_rs.options import (
    DEFAULTS,
    FLOAT_TYPES,
    INTEGER_TYPES,
    MIXES,
    RECORDED,
    ConvertOptions,
    SrdOptions,
    StrPath,
    bytes_of,
    mix_of,
)
from srd_rs.planning import Planner, described, projector_plan
from srd_rs.progress import Wanted, showing
from srd_rs.reading import parse_object, shown
from srd_rs.report import Progress

_METHODS: Final = {method: effort for effort, method in conversion.METHODS.items()}
"""`srd.method` -> the effort that gives it."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1 << 20


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _are_shares(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _are_keys(value: object) -> bool:
    return isinstance(value, dict) and len(value) <= 1 << 10


#: What each option in ``srd.options`` can be, where it is not None.
_VALUES: Final[Mapping[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("calibrate_block", "calibrate_tokens", "residual_bits", "split_max_size"), _is_count),
    **dict.fromkeys(("descent_rounds", "beam_width"), _is_count),
    **dict.fromkeys(
        ("allow_nonfinite", "allow_requantize", "mtp", "feedback", "scale_channels", "weigh_tokens"), _is_flag
    ),
    **dict.fromkeys(("name", "pre_tokenizer"), _is_text),
    "metadata": _are_keys,
    "dither": _is_number,
    "dither_layers": _are_shares,
}


_OF_CALIBRATION: Final = ("srd", "calibrate_tokens", "calibrate_block", "weigh_tokens")
"""Options that have no effect without a calibration."""


@dataclass(frozen=True)
class Rebuilt:
    """A GGUF that is equal to what its checkpoint gives. `bytes` counts all of its files, and `options` are the options
    that it was made with."""

    path: Path
    model: Path
    bytes: int
    tensors: int
    quant: str
    method: str
    seed: int
    calibration: str | None
    source_digest: str
    options: ConvertOptions = field(repr=False)
    seconds: float


def rebuild(
    gguf: StrPath,
    model: StrPath,
    *,
    calibrate: StrPath | None = None,
    imatrix: StrPath | None = None,
    lora: Sequence[StrPath] = (),
    target: StrPath | None = None,
    threads: int | None = None,
    max_memory: int | str = DEFAULTS.max_memory,
    cache: bool = True,
    progress: Wanted = None,
) -> Rebuilt:
    """Make a GGUF again from the checkpoint `model` and compare the two. Nothing is written.

    gguf: the GGUF, or any part of a split GGUF, or the GGUF of a projector.
    model: what it was converted from: a folder, a GGUF, or a model on the hub.
    calibrate: the text or the calibration file of the conversion, unless it was ``builtin`` or ``random``.
    imatrix: the imatrix of the conversion, if there was one.
    lora: the adapters that the conversion merged, in their order.
    target: the model that a draft model drafts tokens for, as the conversion named it.
    cache: use a calibration that is kept in the cache folder, and keep a new one there.

    Raises VerificationError, which names the first tensor that differs and the offset of its first differing byte, or
    what else differs. Raises UsageError where the GGUF does not say how it was made, or where something is not given
    that it was made with; ModelError where another version of srd-rs made it.

        >>> made = srd_rs.convert("path/to/model", "again.gguf", effort="fast")
        >>> srd_rs.rebuild("again.gguf", "path/to/model").bytes == made.file_bytes
        True
    """
    path, source, start = hub.file(gguf), hub.locate(model), time.perf_counter()
    sniff.check_gguf(path)
    record = _Record.read(path)
    options = replace(record.options(calibrate, imatrix), lora=record.adapters(lora), target=target)
    calibrated = options.calibrate is not None
    options = replace(
        options, threads=threads, max_memory=bytes_of("max_memory", max_memory), cache=cache or not calibrated
    )
    with showing(progress) as tell, tempfile.TemporaryDirectory() as scratch:
        # The states of a calibration lie beside the output, and the folder of the GGUF need not be writable.
        beside = path.parent if os.access(path.parent, os.W_OK) else Path(scratch)
        native, options = _planned(record, source, beside / f".{path.stem}.rebuilt.gguf", options, tell)
        forward: Callable[..., None] | None = None if tell is None else lambda *state: tell(Progress(*state))
        native.run(options, True, forward, path)
    return Rebuilt(
        path=path,
        model=source.path,
        bytes=record.bytes,
        tensors=len(record.types),
        quant=options.quant,
        method=record.method,
        seed=options.seed,
        calibration=record.text,
        source_digest=record.digest,
        options=options,
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True)
class _Record:
    """What a GGUF says of its own conversion. `types` are the types of its tensors by name."""

    path: Path
    metadata: Mapping[str, Any]
    types: Mapping[str, str]
    bytes: int
    method: str
    seed: int
    digest: str

    @classmethod
    def read(cls, path: Path) -> _Record:
        header = _core.read_gguf(path, 64)
        metadata = {key: value for key, _, value in header["metadata"]}
        version, method, digest = (
            metadata.get(key) for key in ("srd.version", "srd.method", "srd.source.digest")
        )
        seed = metadata.get("srd.seed")
        known = isinstance(version, str) and isinstance(method, str) and isinstance(digest, str)
        if not known or not isinstance(seed, int) or method not in _METHODS:
            what = "the GGUF does not say how it was converted (srd.version, srd.method, srd.seed, srd.source.digest)"
            fix = "Name a GGUF that srd-rs convert made without --no-provenance"
            raise UsageError(message(path, what, fix))
        if version != _core.__version__:
            what = f"srd-rs {shown(version)} made the GGUF, and this is srd-rs {_core.__version__}"
            fix = "Only the same version makes the same bytes: install it and try again"
            raise ModelError(message(path, what, fix))
        types = {name: kind for name, _, kind, _, _ in header["tensors"]}
        return cls(path, metadata, types, header["file_size"], str(method), seed, str(digest))

    @property
    def text(self) -> str | None:
        """The name of the calibration text."""
        found = self.metadata.get("srd.calibration.text")
        return found if isinstance(found, str) else None

    @property
    def is_projector(self) -> bool:
        return bool(self.metadata.get("general.architecture") == "clip")

    def options(self, calibrate: StrPath | None, imatrix: StrPath | None) -> ConvertOptions:
        """The options of the conversion, but for the types of the tensors."""
        kind = self.metadata.get("general.file_type")
        mix = mix_of(kind)
        if mix is None:
            what = f"its file type {shown(kind)} is no mix of srd-rs"
            raise UsageError(message(self.path, what, "Name a GGUF that srd-rs convert made"))
        return replace(
            self._recorded(),
            quant=mix,
            # The GGUF has the id of its container, which is planned and not written.
            axm="srd.axm.id" in self.metadata,
            effort=_METHODS[self.method],
            seed=self.seed,
            calibrate=self._calibration(calibrate),
            imatrix=self._imatrix(imatrix),
        )

    def adapters(self, given: Sequence[StrPath]) -> tuple[StrPath, ...]:
        """The adapters, of which the GGUF has the names (`srd.lora`)."""
        found = self.metadata.get("srd.lora")
        names = list(found) if isinstance(found, (list, tuple)) else []
        if len(names) != len(given):
            listed = ", ".join(map(shown, names[:8])) or "none"
            what = f"the conversion merged {len(names)} adapters ({listed}), and {len(given)} are given"
            raise UsageError(message("--lora", what, "Name the adapters of the conversion in their order"))
        return tuple(given)

    def _recorded(self) -> ConvertOptions:
        """What ``srd.options`` says."""
        text = self.metadata.get("srd.options")
        if text is None:
            return DEFAULTS
        found = parse_object(str(text).encode(), self.path)
        known = {f.name for f in fields(SrdOptions)}
        detail = found.get("srd", {})
        fix = "Name a GGUF that srd-rs convert made"
        if not set(found) <= set(RECORDED) or not isinstance(detail, dict) or not set(detail) <= known:
            what = "the key srd.options holds options that srd-rs does not know"
            raise FormatError(message(self.path, what, fix))
        for name, value in (*found.items(), *detail.items()):
            if name != "srd" and value is not None and not _VALUES[name](value):
                what = f"the key srd.options has the value {shown(value)} for {name}, which no conversion has"
                raise FormatError(message(self.path, what, fix))
        if "srd" in found:
            layers = detail.get("dither_layers")
            detail = {**detail, "dither_layers": None if layers is None else tuple(layers)}
            found["srd"] = SrdOptions(**detail)
        return replace(DEFAULTS, **found)

    def _calibration(self, given: StrPath | None) -> StrPath | None:
        if self.text is None:
            if given is not None:
                what = "the GGUF was made without a calibration"
                raise UsageError(message("--calibrate", what, "Leave the option out"))
            return None
        if given is None and self.text not in ("builtin", "random"):
            what = f"the conversion was calibrated on the text {shown(self.text)}"
            fix = "Name the text, or the calibration file, with --calibrate"
            raise UsageError(message(self.path, what, fix))
        return self.text if given is None else given

    def _imatrix(self, given: StrPath | None) -> StrPath | None:
        name = self.metadata.get("quantize.imatrix.file")
        used = name is not None and self.text is None
        if used and given is None:
            what = f"the conversion used the imatrix {shown(name)}"
            raise UsageError(message(self.path, what, "Name the file with --imatrix"))
        if given is not None and not used:
            raise UsageError(
                message("--imatrix", "the GGUF was made without an imatrix", "Leave the option out")
            )
        return given


def _planned(
    record: _Record,
    source: Source,
    output: Path,
    options: ConvertOptions,
    progress: Callable[[Progress], None] | None,
) -> tuple[_core.Plan, ConvertOptions]:
    """The plan of the same conversion, and its options."""
    if record.is_projector:
        options = replace(options, mmproj_only=True, mmproj_type=options.quant)
        plan = partial(_projector, output=output, options=options)
        return _named(record, source, plan, lambda named: _general(_pairs(plan(named))))[1], options
    # Only the names of the tensors and what the folder is called are asked here, so nothing is calibrated.
    plain = replace(
        options, effort="fast", calibrate=None, imatrix=None, cache=True,
        **{name: getattr(DEFAULTS, name) for name in _OF_CALIBRATION},
    )  # fmt: skip
    source, native = _named(
        record,
        source,
        lambda named: Planner(named, output, plain).plan(),
        lambda named: _general((key, value) for key, _, value in described(named, plain)),
    )
    types = {
        t.name: found
        for t in native.tensors
        if (found := record.types.get(t.name)) is not None
        and found not in INTEGER_TYPES
        and (found not in FLOAT_TYPES or found != t.type)
    }
    planner = Planner(source, output, replace(options, exact_types=tuple(types.items())))
    # The effort that was written is known.
    native, _, made, *_ = conversion.prepared(planner, planner.plan(), progress, compares=False)
    if made is not None and made.digest != record.metadata.get("srd.calibration.digest"):
        what = "the calibration is not the one of the conversion: its digest is another one"
        fix = "Name the model that was converted, and with --calibrate the text or the calibration file"
        raise VerificationError(message(record.path, what, fix))
    return native, planner.options


def _projector(source: Source, output: Path, options: ConvertOptions) -> _core.Plan:
    native = projector_plan(source, output, options)
    if native is None:
        raise UsageError(message(source.path, "the model has no projector", "Name the model of the GGUF"))
    return native


def _named(
    record: _Record,
    source: Source,
    plan: Callable[[Source], _core.Plan],
    general: Callable[[Source], dict[str, Any]],
) -> tuple[Source, _core.Plan]:
    """The source and its plan, under the name that the folder of the model had at the conversion.

    The name of the folder becomes metadata (`general.name`, `general.basename` and others), and the folder may have
    another name today. So the names are tried that the GGUF and its file have. `general` gives these keys alone: for
    them no tokenizer is read.
    """
    first = plan(source)
    wanted = _general(record.metadata.items())
    if source.path.is_file() or _general(_pairs(first)) == wanted:
        return source, first
    name, stem = str(wanted.get("general.name", "")), record.path.stem
    label = next((mix for mix in MIXES if stem.upper().endswith(f"-{mix}")), None)
    stems = [stem[: -len(label) - 1].removeprefix("mmproj-")] if label else []
    names = (*stems, stem, name.replace(" ", "-"), name, name.replace(" ", "-").lower())
    for tried in dict.fromkeys(filter(None, names)):
        other = replace(source, name=tried)
        if general(other) == wanted:
            return other, plan(other)
    return source, first


def _pairs(plan: _core.Plan) -> list[tuple[str, Any]]:
    return [(key, value) for key, _, value in plan.metadata()]


def _general(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The keys that the name of a folder can become."""
    parts = ("name", "organization", "finetune", "basename", "size_label", "version")
    names = {f"general.{part}" for part in parts}
    return {key: value for key, value in pairs if key in names}
