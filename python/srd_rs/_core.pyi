"""Types of the native module. Weights stay in it; names, shapes and metadata cross the border."""

from collections.abc import Callable, Iterable
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

__version__: str

class SrdError(Exception):
    file: str | None
    tensor: str | None
    offset: int | None

class FormatError(SrdError, ValueError): ...
class ModelError(SrdError, ValueError): ...
class NonFiniteError(SrdError, ValueError): ...
class UsageError(SrdError, ValueError): ...
class SrdIOError(SrdError, OSError): ...

class GgufHeader(TypedDict):
    version: int
    alignment: int
    data_offset: int
    file_size: int
    metadata: list[tuple[str, str, Any]]
    lengths: dict[str, int]
    tensors: list[tuple[str, tuple[int, ...], str, int, int]]

class Plan:
    @property
    def total_bytes(self) -> int: ...
    def to_json(self) -> str: ...
    def run(
        self,
        threads: int,
        max_memory: int,
        allow_nonfinite: bool,
        overwrite: bool,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> str: ...

class Hydrator:
    def __init__(self, path: str, sidecar: str | None = None) -> None: ...
    def sidecar(self) -> str: ...
    def hydrate(
        self,
        intent: str,
        budget: int | None = None,
        lock: bool = False,
        evict_others: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> str: ...
    def evict(self, slots: list[str]) -> None: ...
    def residency(self) -> str: ...
    def locked_bytes(self) -> int: ...
    def close(self) -> None: ...

def met_sidecar(
    path: str,
    output: str | None = None,
    slots: str | None = None,
    fingerprint: str | None = None,
    digest: bool = True,
    overwrite: bool = False,
) -> str: ...
def plan_checkpoint(
    path: str, metadata: Iterable[tuple[str, str, object]], tensors: str, facts: str, options: str
) -> Plan: ...
def plan_gguf(path: str, options: str) -> Plan: ...
def read_checkpoint(path: str) -> list[tuple[str, str, tuple[int, ...], str]]: ...
def read_checkpoint_layout(path: str) -> list[tuple[str, str, tuple[int, ...], str, int, int]]: ...
def read_gguf(path: str, max_items: int | None = None) -> GgufHeader: ...
def quantize(
    weights: NDArray[np.float32], type: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]: ...
def dequantize(blocks: NDArray[np.uint8], type: str) -> NDArray[np.float32]: ...
