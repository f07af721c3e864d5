"""Types of the native module. Weights stay in the native module; names, shapes and metadata cross the border.

Paths are `str` or `os.PathLike[str]`. Where a parameter is an object of the package, only its attributes are read.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

from srd_rs.calibration import Request
from srd_rs.cluster import Part
from srd_rs.families.base import ModelFacts
from srd_rs.options import Checks, ConvertOptions, SrdOptions

__all__ = [
    "DEFAULT_CALIBRATION_MEMORY",
    "DEFAULT_MAX_MEMORY",
    "DEFAULT_MIX",
    "FEEDBACK_TYPES",
    "INTENTS",
    "MAX_INDEX_BYTES",
    "MAX_WEIGHED_CHUNK",
    "MIXES",
    "PARTS",
    "PER_LAYER_TABLE",
    "ROPE_SCALINGS",
    "TABLES",
    "WEIGHED_TYPES",
    "WEIGHING_BATCHES",
    "WEIGHING_PASSES",
    "WEIGHT_VARIANTS",
    "CalibratedTensor",
    "Calibration",
    "CalibrationParts",
    "Candidate",
    "Container",
    "ContainerHeader",
    "ContainerTensor",
    "FormatError",
    "Handover",
    "Hydration",
    "Hydrator",
    "InternalError",
    "ModelError",
    "NonFiniteError",
    "Plan",
    "PlannedContainer",
    "PlannedFile",
    "PlannedTensor",
    "RemoteFiles",
    "Residency",
    "RunReport",
    "SealedContainer",
    "SharedOutput",
    "SrdError",
    "SrdFileNotFoundError",
    "SrdIOError",
    "UsageError",
    "Verification",
    "VerificationError",
    "Written",
    "__version__",
    "calibrate",
    "calibrate_and_quantize",
    "calibrate_part",
    "check_gguf_model",
    "choose_within_budget",
    "content_digest",
    "cpus",
    "dequantize",
    "file_identity",
    "file_sha256",
    "first_part",
    "forget_journal",
    "forward_architectures",
    "forward_logits",
    "instruction_sets",
    "is_calibration",
    "journal_path",
    "make_master_key",
    "make_sign_key",
    "met_check",
    "met_sidecar",
    "mix_of_type",
    "open_calibration",
    "open_container",
    "panic_for_tests",
    "part_path",
    "plan_checkpoint",
    "plan_gguf",
    "quantizable_types",
    "quantize",
    "quantize_calibrated",
    "random_tokens",
    "read_checkpoint_layout",
    "read_gguf",
    "read_small_tensors",
    "readable_types",
    "runs_of_chunks",
    "sidecar_path",
    "weigh_part",
    "write_file",
    "written_divergences",
]

_Path: TypeAlias = str | PathLike[str]

__version__: str
MIXES: tuple[tuple[str, int], ...]
DEFAULT_MIX: str
FEEDBACK_TYPES: tuple[str, ...]
WEIGHED_TYPES: tuple[str, ...]
INTENTS: tuple[str, ...]
PARTS: tuple[str, ...]
PER_LAYER_TABLE: str
TABLES: tuple[str, ...]
WEIGHT_VARIANTS: tuple[str, ...]
MAX_INDEX_BYTES: int
MAX_WEIGHED_CHUNK: int
"""Largest number of tokens of a chunk whose tokens can be weighed."""
WEIGHING_BATCHES: int
"""Largest number of batches in which tokens are weighed."""
WEIGHING_PASSES: int
"""What weighing a token costs, in passes of the calibration."""
ROPE_SCALINGS: tuple[str, ...]
DEFAULT_MAX_MEMORY: int
DEFAULT_CALIBRATION_MEMORY: int

class SrdError(Exception):
    file: str | None
    tensor: str | None
    offset: int | None

class FormatError(SrdError, ValueError): ...
class ModelError(SrdError, ValueError): ...
class NonFiniteError(SrdError, ValueError): ...
class UsageError(SrdError, ValueError): ...
class VerificationError(SrdError, ValueError): ...
class SrdIOError(SrdError, OSError): ...
class SrdFileNotFoundError(SrdIOError, FileNotFoundError): ...
class InternalError(SrdError, RuntimeError): ...

@type_check_only
class GgufHeader(TypedDict):
    version: int
    alignment: int
    data_offset: int
    file_size: int
    metadata: list[tuple[str, str, Any]]
    lengths: dict[str, int]
    tensors: list[tuple[str, tuple[int, ...], str, int, int]]
    parts: list[tuple[Path, int]]

@type_check_only
class _Record:
    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    def to_dict(self) -> dict[str, Any]: ...

@final
class PlannedTensor(_Record):
    name: Final[str]
    shape: Final[tuple[int, ...]]
    type: Final[str]
    source_types: Final[tuple[str, ...]]
    file: Final[int]
    offset: Final[int]
    bytes: Final[int]
    n_weights: Final[int]

@final
class Candidate(_Record):
    type: Final[str]
    bytes: Final[int]
    error: Final[float]
    energy: Final[float]
    rounding: Final[float]

@final
class PlannedFile(_Record):
    path: Final[Path]
    bytes: Final[int]
    header_bytes: Final[int]
    def at(self, path: _Path) -> PlannedFile: ...

@final
class PlannedContainer(_Record):
    path: Final[Path]
    bytes: Final[int]
    id: Final[str]
    residual_bytes: Final[int]

@final
class SealedContainer(_Record):
    path: Final[Path]
    bytes: Final[int]
    fingerprint: Final[str]
    id: Final[str]
    key_id: Final[str]
    signed: Final[bool]
    key_made: Final[Path | None]

@final
class RunReport(_Record):
    seconds: Final[float]
    cpu_seconds: Final[float]
    peak_rss_bytes: Final[int]
    replaced: Final[int]
    resumed_bytes: Final[int]
    threads: Final[int]
    container: Final[SealedContainer | None]
    errors: Final[list[float | None]]

@final
class SharedOutput:
    @property
    def identity(self) -> str: ...
    @property
    def pending(self) -> list[tuple[int, int]]: ...
    @property
    def resumed_bytes(self) -> int: ...
    def add(self, records: Sequence[str]) -> None: ...
    def close(self, failed: bool = False) -> None: ...

@final
class Written: ...

@final
class Plan:
    @property
    def arch(self) -> str: ...
    @property
    def quant(self) -> str: ...
    @property
    def files(self) -> tuple[PlannedFile, ...]: ...
    @property
    def tensors(self) -> tuple[PlannedTensor, ...]: ...
    @property
    def container(self) -> PlannedContainer | None: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def tensor_bytes(self) -> int: ...
    @property
    def source_bytes(self) -> int: ...
    @property
    def n_weights(self) -> int: ...
    @property
    def bpw(self) -> float: ...
    @property
    def without_importance(self) -> list[str]: ...
    @property
    def unseen_experts(self) -> list[tuple[str, int]]: ...
    @property
    def source_digest(self) -> str | None: ...
    def check_runnable(self) -> None: ...
    def has_two_streams(self) -> bool: ...
    def has_gradient(self) -> bool: ...
    @property
    def corrected(self) -> list[str]: ...
    def metadata(self) -> list[tuple[str, str, Any]]: ...
    def measure(
        self,
        types: Sequence[str],
        small_blocks: Sequence[str],
        options: ConvertOptions,
        tokens: Sequence[Sequence[int]],
        progress: Callable[[int, int, str], None] | None = None,
    ) -> dict[str, tuple[tuple[Candidate, ...], float | None, float | None]]: ...
    def sensitivity(
        self,
        groups: Sequence[Mapping[str, tuple[str | None, float]]],
        tokens: Sequence[Sequence[int]],
        threads: int,
        max_memory: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[float]: ...
    def check_resume(
        self, options: ConvertOptions, gguf: bool = True, resume: tuple[str, str] | None = None
    ) -> None: ...
    def discard(self, gguf: bool) -> None: ...
    def share(self, options: ConvertOptions, resume: tuple[str, str]) -> SharedOutput: ...
    def convert_units(
        self, options: ConvertOptions, resume: tuple[str, str], identity: str, numbers: Sequence[int]
    ) -> list[str]: ...
    def run(
        self,
        options: ConvertOptions,
        gguf: bool = True,
        progress: Callable[[int, int, str], None] | None = None,
        against: _Path | None = None,
        resume: tuple[str, str] | None = None,
        handover: Handover | None = None,
        written: Written | None = None,
    ) -> RunReport: ...

@final
class Hydration(_Record):
    intent: Final[str]
    wanted_bytes: Final[int]
    hydrated_bytes: Final[int]
    read_bytes: Final[int]
    locked_bytes: Final[int]
    seconds: Final[float]

@final
class Residency(_Record):
    slot: Final[str]
    bytes: Final[int]
    resident_bytes: Final[int | None]

@final
class RemoteFiles:
    def __new__(
        cls,
        label: str,
        files: Sequence[tuple[str, str, int, str | None]],
        token: str | None = None,
        commit: str | None = None,
    ) -> RemoteFiles: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def received(self) -> int: ...

@final
class Handover:
    def __new__(cls) -> Handover: ...
    def next(self) -> Path | None: ...
    def give_back(self, path: _Path) -> None: ...
    def fail(self, why: str) -> None: ...
    def close(self) -> None: ...

@final
class Hydrator:
    def __new__(cls, path: _Path, sidecar: _Path | None = None) -> Hydrator: ...
    def sidecar(self) -> str: ...
    def hydrate(
        self,
        intent: str,
        budget: int | None = None,
        lock: bool = False,
        evict_others: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Hydration: ...
    def evict(self, slots: Sequence[str]) -> None: ...
    def residency(self) -> list[Residency]: ...
    def locked_bytes(self) -> int: ...
    def close(self) -> None: ...

def sidecar_path(gguf: _Path) -> Path: ...
def met_check(path: _Path, sidecar: _Path | None = None) -> None: ...
def met_sidecar(
    path: _Path,
    output: _Path | None = None,
    slots: str | None = None,
    fingerprint: str | None = None,
    digest: bool = True,
    overwrite: bool = False,
    projector: _Path | None = None,
    known: str | None = None,
) -> str: ...

@final
class Verification(_Record):
    path: Final[Path]
    verified: Final[bool]
    fingerprint: Final[str]
    id: Final[str]
    key_id: Final[str]
    authentic: Final[bool]
    public_key: Final[str | None]
    public_key_checked: Final[bool]
    fingerprint_checked: Final[bool]
    model: Final[str | None]
    quant: Final[str]
    files: Final[tuple[str, ...]]
    sources: Final[tuple[str, ...]]
    source_digest: Final[str]
    revision: Final[str | None]
    bytes: Final[int]
    seconds: Final[float]

@final
class ContainerHeader(_Record):
    arch: Final[str]
    id: Final[str]
    fingerprint: Final[str]
    key_id: Final[str]
    public_key: Final[str | None]
    tool: Final[str]
    method: Final[str]
    quant: Final[str]
    seed: Final[int]
    source_digest: Final[str]
    revision: Final[str | None]
    files: Final[tuple[str, ...]]
    n_shards: Final[int]
    file_bytes: Final[int]

@final
class ContainerTensor(_Record):
    name: Final[str]
    shape: Final[tuple[int, ...]]
    type: Final[str]
    bytes: Final[int]
    residual_bits: Final[int]
    residual_bytes: Final[int]
    offset: Final[int]
    shard_weights: Final[int]

@final
class Container:
    @property
    def header(self) -> ContainerHeader: ...
    @property
    def tensors(self) -> list[ContainerTensor]: ...
    def verify(
        self,
        checks: Checks,
        paths: Sequence[_Path],
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verification: ...
    def plan_extract(
        self,
        output: _Path,
        quant: str | None = None,
        alpha: float | None = None,
        safetensors: bool = False,
        tensor_types: Sequence[str] | None = None,
    ) -> Plan: ...
    def resign(
        self,
        checks: Checks,
        output: _Path,
        key_file: _Path | None = None,
        sign_key: _Path | None = None,
        threads: int | None = None,
        overwrite: bool = False,
        drop_signature: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> SealedContainer: ...
    def detach(self, output: _Path, overwrite: bool = False) -> None: ...
    def attest(
        self,
        paths: Sequence[_Path],
        verified: Verification,
        sign_key: _Path | None,
        output: _Path,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None: ...

@final
class CalibratedTensor(_Record):
    name: Final[str]
    input: Final[str]
    n: Final[int]
    block: Final[int]
    tokens: Final[list[int]]

@final
class Calibration:
    @property
    def path(self) -> Path: ...
    @property
    def digest(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def chunks(self) -> int: ...
    @property
    def weighed(self) -> bool: ...
    @property
    def source_digest(self) -> str: ...
    @property
    def tensors(self) -> list[CalibratedTensor]: ...
    def write_imatrix(self, path: _Path, overwrite: bool) -> None: ...
    def copy_to(self, path: _Path, overwrite: bool) -> None: ...

@final
class CalibrationParts:
    def __new__(cls, plan: Plan, request: Request) -> CalibrationParts: ...
    @property
    def steps(self) -> int: ...
    def take(self, sums: _Path) -> None: ...
    def failed(self) -> None: ...
    def finish(self) -> Calibration: ...

def calibrate(
    plan: Plan,
    request: Request,
    progress: Callable[[int, int], None] | None = None,
    options: ConvertOptions | None = None,
) -> Calibration: ...
def calibrate_and_quantize(
    plan: Plan,
    request: Request,
    options: ConvertOptions,
    resume: tuple[str, str],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Calibration, Written]: ...
def calibrate_part(plan: Plan, request: Request, part: Part) -> None: ...
def weigh_part(plan: Plan, request: Request, first: int, longest: int, to: _Path) -> None: ...
def choose_within_budget(
    items: Sequence[Sequence[tuple[int, float]]], budget: int
) -> tuple[list[int] | None, int]: ...
def mix_of_type(type: str) -> str: ...
def content_digest(paths: Sequence[_Path]) -> str: ...
def file_identity(path: _Path) -> str | None: ...
def file_sha256(path: _Path) -> tuple[int, str]: ...
def cpus() -> int: ...
def panic_for_tests(threaded: bool) -> None: ...
def check_gguf_model(path: _Path) -> None: ...
def first_part(path: _Path) -> Path: ...
def part_path(whole: _Path, index: int, count: int) -> Path: ...
def open_calibration(path: _Path, kept: bool = False) -> Calibration: ...
def is_calibration(path: _Path) -> bool: ...
def random_tokens(ids: Sequence[int], count: int, seed: int) -> list[int]: ...
def runs_of_chunks(lengths: Sequence[int], most: int) -> list[tuple[int, int]]: ...
def open_container(path: _Path) -> Container: ...
def make_master_key(path: _Path | None = None) -> tuple[Path, str]: ...
def make_sign_key(private: _Path, public: _Path) -> str: ...
def plan_checkpoint(
    path: _Path,
    metadata: Iterable[tuple[str, str, object]],
    tensors: str,
    facts: ModelFacts,
    output: _Path,
    options: ConvertOptions,
    files: Sequence[_Path],
    calibration: Calibration | None = None,
    calibration_text: str | None = None,
    listed: Sequence[tuple[str, str, Sequence[int], str, int]] | None = None,
    revision: str | None = None,
    adapters: Sequence[_Path] = ...,
    remote: RemoteFiles | None = None,
) -> Plan: ...
def plan_gguf(
    path: _Path,
    output: _Path,
    options: ConvertOptions,
    calibration: Calibration | None = None,
    calibration_text: str | None = None,
    replaced: Sequence[tuple[str, str, object]] | None = None,
) -> Plan: ...
def written_divergences(
    runs: Sequence[tuple[Plan, Collection[str]]],
    options: ConvertOptions,
    tokens: list[list[int]],
    progress: Callable[[int, int], object] | None = None,
) -> list[list[float]]: ...
def journal_path(target: _Path) -> Path: ...
def forget_journal(target: _Path) -> None: ...
def write_file(path: _Path, data: bytes, overwrite: bool = False) -> None: ...
def forward_architectures() -> list[str]: ...
def forward_logits(
    plan: Plan, tokens: Sequence[Sequence[int]], threads: int, max_memory: int = 4294967296
) -> tuple[NDArray[np.float32], list[tuple[list[str], int | None, int, int, float]]]: ...
def read_checkpoint_layout(
    path: _Path, remote: RemoteFiles | None = None
) -> list[tuple[str, str, tuple[int, ...], str, int, int]]: ...
def read_gguf(path: _Path, max_items: int | None = None) -> GgufHeader: ...
def read_small_tensors(
    path: _Path, names: Sequence[str], most: int, remote: RemoteFiles | None = None
) -> dict[str, bytes]: ...
def instruction_sets() -> list[str]: ...
def quantizable_types() -> list[str]: ...
def readable_types() -> list[str]: ...
def quantize(
    weights: NDArray[np.float32], type: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]: ...
def quantize_calibrated(
    weights: NDArray[np.float32], type: str, moments: NDArray[np.float32], options: SrdOptions, seed: int
) -> tuple[NDArray[np.uint8], float]: ...
def dequantize(blocks: NDArray[np.uint8], type: str) -> NDArray[np.float32]: ...
