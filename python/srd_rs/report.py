"""What a conversion will write, what it wrote, and how far it is: plain frozen data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, Protocol

from srd_rs import _core
from srd_rs._core import PlannedContainer, PlannedFile, PlannedTensor, SealedContainer, Verification
from srd_rs.memory import Memory
from srd_rs.text import bytes_text, count_text, html_table, printable

__all__ = [
    "ChosenType",
    "ConvertReport",
    "EffortCheck",
    "Measurements",
    "MixCheck",
    "Plan",
    "PlannedContainer",
    "PlannedFile",
    "PlannedTensor",
    "Progress",
    "SealedContainer",
    "TypeTotals",
    "Verification",
    "totals_by_type",
    "type_rows",
]


@dataclass(frozen=True)
class Progress:
    """State of a running operation.

    `done` and `total` are bytes of tensor data, tokens in the phase ``"calibrate"``, tensors in the phase
    ``"measure"``, or passes in the phase ``"sensitivity"``; `tensor` is the tensor that is being written or measured.
    """

    done: int
    total: int
    tensor: str = ""
    phase: str = "convert"


class TypeTotals(NamedTuple):
    """Number of tensors of one type, their weights and their bytes."""

    tensors: int
    weights: int
    bytes: int


class _Sized(Protocol):
    @property
    def type(self) -> str: ...
    @property
    def n_weights(self) -> int: ...
    @property
    def bytes(self) -> int: ...


def totals_by_type(tensors: Iterable[_Sized]) -> dict[str, TypeTotals]:
    """Type name -> totals over `tensors`; the type with most bytes comes first."""
    sums: dict[str, TypeTotals] = {}
    for t in tensors:
        n, weights, size = sums.get(t.type, (0, 0, 0))
        sums[t.type] = TypeTotals(n + 1, weights + t.n_weights, size + t.bytes)
    return dict(sorted(sums.items(), key=lambda item: -item[1].bytes))


class ChosenType(NamedTuple):
    """The type that was chosen for a tensor within a budget.

    error: What the type adds to the energy of the output of the matrix, as a share of this energy. cost: The estimate
    of what this adds to the KLD. gain: The most that one MiB more for this tensor would take off the cost.
    """

    name: str
    type: str
    bytes: int
    error: float
    cost: float
    gain: float
    n_weights: int


@dataclass(frozen=True)
class MixCheck:
    """How the types that were chosen within a budget compare with a mix of at most the same bytes.

    The model was run on `tokens` tokens as it is and with the types of both. Where the matrix that makes the logits has
    a quarter of the weights or more, the model was run with two choices, and the better one counts. `mix_kld` and
    `choice_kld` are the KLDs, in nats, with matrices quantized as the conversion writes them, but with one candidate
    for each row. Where there is no calibration, or both differ in experts or in tables that are only looked up, the
    errors in the weights have the direction of a plain rounding and the size that the conversion leaves.
    `expected_ratio` is the cost of the choice over that of the mix by the errors of the single matrices.
    `held_out` says whether the calibration has not seen the tokens. `written` is ``"choice"`` or ``"mix"``: the choice
    where `choice_kld` is at most 0.95 of `mix_kld`, or 0.85 of a `mix_kld` below 0.001.
    """

    mix: str
    mix_bytes: int
    mix_kld: float
    choice_kld: float
    expected_ratio: float
    tokens: int
    held_out: bool
    written: str


@dataclass(frozen=True)
class EffortCheck:
    """How the matrices that effort max corrects compare with those of effort srd.

    The model was run on `tokens` tokens as it is and with both. `srd_kld` and `max_kld` are the KLDs, in nats, that
    these matrices cause, quantized as the conversion writes them; all other matrices stay as they are. An encoder has
    no logits: there they are the means of 1 - cos between the last states of each token. `held_out` says whether the
    calibration has not seen the tokens. `written` is the effort with the lower value: ``"max"`` or ``"srd"``.
    """

    srd_kld: float
    max_kld: float
    tokens: int
    held_out: bool
    written: str


def type_rows(types: dict[str, TypeTotals]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of a table of the types."""
    rows = [(name, str(t.tensors), count_text(t.weights), bytes_text(t.bytes)) for name, t in types.items()]
    return ("type", "tensors", "weights", "size"), [tuple(row) for row in rows]


@dataclass(frozen=True)
class Plan:
    """What a conversion will write, known before a weight is read.

    `total_bytes` is the exact size of all output files; `bpw` is the number of bits per weight over all tensors.
    `effort` is ``"srd"``, ``"max"`` or ``"fast"``; `why_fast` is a sentence where `effort` is ``"fast"`` although
    nobody asked for that, and None otherwise; `text` names the calibration text, None without calibration;
    `calibrates` says whether the model is run on that text first, which it is not where a calibration file is named.
    `chosen` says what was measured of each tensor whose type was chosen within a budget.
    `mmproj` is the plan of the projector that is written beside the model, None without one. `check` compares the
    choice with a mix, None where the model was not run for that. `effort_check` compares effort max with effort srd,
    None where effort max was not asked for or the model was not run for that. `memory` is what llama.cpp needs beside
    the weights, where the budget is `ConvertOptions.fit`.
    """

    arch: str
    quant: str
    files: tuple[PlannedFile, ...]
    tensors: tuple[PlannedTensor, ...] = field(repr=False)
    total_bytes: int
    tensor_bytes: int
    source_bytes: int
    n_weights: int
    bpw: float
    container: PlannedContainer | None
    effort: str = "fast"
    why_fast: str | None = None
    text: str | None = None
    calibrates: bool = False
    chosen: tuple[ChosenType, ...] = field(default=(), repr=False)
    mmproj: Plan | None = field(default=None, repr=False)
    check: MixCheck | None = field(default=None, repr=False)
    effort_check: EffortCheck | None = field(default=None, repr=False)
    memory: Memory | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        native: _core.Plan,
        effort: str = "fast",
        why_fast: str | None = None,
        text: str | None = None,
        calibrates: bool = False,
        chosen: tuple[ChosenType, ...] = (),
    ) -> Plan:
        """A native plan as plain data: it holds no file open."""
        facts = {f.name: getattr(native, f.name) for f in fields(cls) if hasattr(native, f.name)}
        more = {"why_fast": why_fast, "text": text, "calibrates": calibrates, "chosen": chosen}
        return cls(**facts, effort=effort, **more)  # type: ignore[arg-type]

    @property
    def output(self) -> Path:
        """The GGUF, or the first of its parts."""
        return self.files[0].path

    def _summary(self) -> str:
        size = f"{bytes_text(self.total_bytes)}, {self.bpw:.2f} bits per weight"
        return f"{printable(str(self.output))}: {printable(self.arch)}, {self.quant} by effort {self.effort}, {size}"

    def __repr__(self) -> str:
        return f"<Plan {self._summary()}>"

    def _repr_html_(self) -> str:
        return html_table(f"Plan {self._summary()}", *type_rows(self.types))

    @property
    def types(self) -> dict[str, TypeTotals]:
        """GGUF type -> number of tensors, weights and bytes; the largest comes first."""
        return totals_by_type(self.tensors)


@dataclass(frozen=True)
class Measurements:
    """What a conversion has measured of the tensors; nothing where no calibration was used.

    errors: The energy that rounding adds to the output of a matrix, as a share of the energy of the output, by the name
        of the tensor.
    klds: The estimate of what rounding adds to the KLD of the model, in nats, where the types were chosen within a
        budget and the model was run.
    expert_tokens: For each layer with experts, the number of calibration tokens that used each expert.
    tokens: The number of calibration tokens.
    """

    errors: Mapping[str, float] = field(default_factory=dict)
    klds: Mapping[str, float] = field(default_factory=dict)
    expert_tokens: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    tokens: int = 0

    def to_json(self) -> str:
        """The form in which the native module takes what a sidecar cannot measure."""
        layers = {str(layer): list(counts) for layer, counts in self.expert_tokens.items()}
        heat = {"tokens": self.tokens, "layers": layers} if layers else None
        return json.dumps({"errors": dict(self.errors), "klds": dict(self.klds), "expert_heat": heat})


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion wrote and what the conversion cost.

    `seconds` is wall time, `cpu_seconds` is user and system time, `peak_rss_bytes` is the peak memory of the process
    (VmHWM, mapped pages included); `method` is ``"search"`` or ``"srd"``; `replaced` counts weights that
    `allow_nonfinite` made finite; `resumed_bytes` are the bytes of tensor data that an interrupted run had written;
    `sidecar` is the MET sidecar beside the GGUF, `card` the model card and `modelfile`
    the Modelfile for Ollama, `mmproj` the GGUF of the projector, `mmproj_container` its container, `bom` the CycloneDX
    document, `signature` the signature of all files, each None where none was written;
    `commit` is the address of the commit where the output is on the hub; all paths are then names in the repository;
    `calibration_tokens` is the number of tokens of the calibration, None without calibration, and
    `calibration_weighed` says whether they were weighed; `calibration_found` says whether a kept calibration was found
    in the cache; `srd_effort` is the effort that would have been chosen without ``fast`` where the conversion was fast
    although another effort was possible, None otherwise; `srd_tokens` is the number of tokens that this effort would
    have used, and `srd_seconds` estimates how much more wall time it would have taken on this machine, None where this
    run does not tell, as after an interruption or with a container;
    `measured` is what the sidecar says of the importance of the tensors and of the use of the experts.
    """

    plan: Plan
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    replaced: int
    threads: int
    container: SealedContainer | None
    method: str = "search"
    sidecar: Path | None = None
    card: Path | None = None
    modelfile: Path | None = None
    calibration_tokens: int | None = None
    calibration_weighed: bool = False
    calibration_found: bool = False
    srd_tokens: int | None = None
    srd_seconds: float | None = None
    srd_effort: str | None = None
    mmproj: Path | None = None
    mmproj_container: SealedContainer | None = None
    bom: Path | None = None
    signature: Path | None = None
    resumed_bytes: int = 0
    commit: str | None = None
    measured: Measurements = field(default=Measurements(), repr=False)

    def _summary(self) -> str:
        size = f"{bytes_text(self.file_bytes)}, {self.plan.bpw:.2f} bits per weight"
        place = printable(str(self.output))
        return f"{place}: {printable(self.plan.arch)}, {self.plan.quant} by {self.method}, {size}, {self.seconds:.1f} s"

    def __repr__(self) -> str:
        return f"<ConvertReport {self._summary()}>"

    def _repr_html_(self) -> str:
        return html_table(f"ConvertReport {self._summary()}", *type_rows(self.plan.types))

    @property
    def output(self) -> Path:
        return self.plan.output

    @property
    def outputs(self) -> tuple[Path, ...]:
        return tuple(f.path for f in self.plan.files)

    @property
    def file_bytes(self) -> int:
        return self.plan.total_bytes
