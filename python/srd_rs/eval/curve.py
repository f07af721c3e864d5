"""KLD over size: a model in several mixes and budgets, by srd-rs and by llama-quantize, judged by llama.cpp.

    found = curve("path/to/model", "wiki.test.raw", mixes=("Q3_K_M", "Q4_K_M"), n_chunks=10)
    print(found.below())

There are four files for each mix: SRD in the mix, SRD with types chosen within the bytes of the mix, and llama-quantize
with and without an importance matrix, which is made from the tokens of the calibration. The files of one mix are
written into a temporary folder, scored, and removed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from srd_rs import calibration, conversion, hub
from srd_rs.errors import ModelError, UsageError, message
from srd_rs.eval.evaluation import FileScore, evaluate
from srd_rs.eval.quantizer import quantize
from srd_rs.eval.statistics import Estimate
from srd_rs.options import MIXES, StrPath
from srd_rs.report import ChosenType, ConvertReport

#: The mixes from 2.5 to 8.5 bits per weight that llama-quantize offers for all models.
DEFAULT_MIXES: Final = (
    "Q2_K", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip
#: Name of a method -> what it is. The first two are of srd-rs.
METHODS: Final = {
    "chosen": "srd-rs, types chosen within the bytes of the mix",
    "srd": "srd-rs, the mix",
    "peer-imatrix": "llama-quantize with an importance matrix",
    "peer": "llama-quantize",
}


@dataclass(frozen=True)
class Point:
    """One file. `name` is its mix, or its budget; `chosen` says what each tensor got where types were chosen."""

    method: str
    name: str
    file_bytes: int
    bpw: float
    kld: Estimate
    chosen: tuple[ChosenType, ...] = ()


@dataclass(frozen=True)
class Curve:
    """The points of a model, with the conditions under which they were measured."""

    model: str
    text: str
    n_chunks: int
    n_ctx: int
    n_tokens: int
    calibration: str
    points: tuple[Point, ...]

    def of(self, method: str) -> list[Point]:
        """The points of a method, the smallest file first."""
        return sorted((p for p in self.points if p.method == method), key=lambda p: p.bpw)

    def below(self, method: str = "peer-imatrix") -> list[Point]:
        """The points of a method whose KLD is less than that of the chosen types at the same size, or smaller."""
        ours = self.of("chosen")
        return [p for p in self.of(method) if (limit := _at(ours, p.bpw)) is not None and p.kld.value < limit]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; estimates as ``{"value", "error"}``."""
        data = asdict(self)
        for point, plain in zip(self.points, data["points"], strict=True):
            plain["chosen"] = [c._asdict() for c in point.chosen]
        data["below"] = [{"name": p.name, "bpw": p.bpw} for p in self.below()]
        return data


def _at(points: Sequence[Point], bpw: float) -> float | None:
    """The KLD at a size, by interpolation of its logarithm; None outside of the points."""
    for left, right in pairwise(points):
        if left.bpw <= bpw <= right.bpw:
            share = (bpw - left.bpw) / max(right.bpw - left.bpw, 1e-9)
            low, high = (math.log(max(p.kld.value, 1e-12)) for p in (left, right))
            return math.exp(low + share * (high - low))
    return None


def curve(
    model: StrPath,
    text: StrPath,
    *,
    mixes: Sequence[str] = DEFAULT_MIXES,
    budgets: Sequence[float] = (),
    peers: bool = True,
    calibrate: StrPath = "builtin",
    calibrate_tokens: int | None = None,
    n_chunks: int = 10,
    n_ctx: int = 512,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Curve:
    """Write and score the files of `mixes` and of `budgets` (bits per weight).

    peers: whether llama-quantize is measured too. progress: called with what is made, and (done, total) files.

    Raises the errors of `srd_rs.convert` and of `evaluate`.
    """
    unknown = [mix for mix in mixes if mix.upper() not in MIXES]
    if unknown:
        raise UsageError(
            message("--mixes", f"the mix '{unknown[0]}' is not known", "See srd-rs convert --help")
        )
    if not mixes and not budgets:
        raise UsageError(message("quality", "neither a mix nor a budget is named", "Name at least one"))
    source = hub.locate(model)
    total = len(mixes) * (4 if peers else 2) + len(budgets)
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(what, done, total)
        done += 1

    points: list[Point] = []
    conditions = None
    with tempfile.TemporaryDirectory(prefix="srd-rs-") as name:
        files = _Files(source, Path(name), calibrate, calibrate_tokens, threads)
        for mix in mixes:
            made = files.of_mix(mix.upper(), peers=peers, tell=tell)
            conditions = _score(made, files.base, Path(text), n_chunks, n_ctx, threads, points)
        for bpw in budgets:
            tell(f"{bpw:g} bits per weight")
            made = [files.convert("chosen", f"{bpw:g} bpw", target_bpw=bpw)]
            conditions = _score(made, files.base, Path(text), n_chunks, n_ctx, threads, points)
    assert conditions is not None
    chunks, tokens = conditions
    return Curve(source.stem, Path(text).name, chunks, n_ctx, tokens, Path(calibrate).name, tuple(points))


_Made = tuple[str, str, Path, tuple[ChosenType, ...]]


class _Files:
    """The base, the calibration and the importance matrix of a model, and the files that are made with them."""

    def __init__(
        self, source: hub.Source, folder: Path, calibrate: StrPath, tokens: int | None, threads: int | None
    ) -> None:
        self.source, self.folder, self.threads = source, folder, threads
        self.base, self.moments, self.imatrix = (
            folder / name for name in ("base.gguf", "moments.safetensors", "imatrix.gguf")
        )
        self._write(self.base, quant="BF16", effort="fast")
        calibration.calibrate(
            source.path, self.moments, text=calibrate, tokens=tokens, imatrix=self.imatrix, threads=threads
        )

    def _write(self, output: Path, **options: Any) -> ConvertReport:
        return conversion.convert(
            self.source.path, output, met=False, axm=False, mmproj=False, threads=self.threads, **options
        )

    def convert(self, method: str, name: str, **options: Any) -> _Made:
        output = self.folder / f"{method}.gguf"
        report = self._write(output, calibrate=self.moments, overwrite=True, **options)
        return method, name, output, report.plan.chosen

    def of_mix(self, mix: str, *, peers: bool, tell: Callable[[str], None]) -> list[_Made]:
        tell(f"{mix}, {METHODS['chosen']}")
        made = [self.convert("chosen", mix, like=mix)]
        tell(f"{mix}, {METHODS['srd']}")
        made.append(self.convert("srd", mix, quant=mix))
        for method, imatrix in (("peer-imatrix", self.imatrix), ("peer", None)) if peers else ():
            tell(f"{mix}, {METHODS[method]}")
            output = self.folder / f"{method}.gguf"
            output.unlink(missing_ok=True)
            try:
                quantize(self.base, output, mix, imatrix=imatrix, threads=self.threads or 0)
            except ModelError:
                # llama-quantize writes the smallest mixes only with an importance matrix.
                if imatrix is not None:
                    raise
                continue
            made.append((method, mix, output, ()))
        return made


def _score(
    made: list[_Made],
    base: Path,
    text: Path,
    n_chunks: int,
    n_ctx: int,
    threads: int | None,
    points: list[Point],
) -> tuple[int, int]:
    """Append the points of some files. Returns the numbers of chunks and of tokens that were scored."""
    paths = [output for _, _, output, _ in made]
    found = evaluate(paths, text, base=base, n_ctx=n_ctx, n_chunks=n_chunks, threads=threads)
    for (method, name, _, chosen), file in zip(made, found.files, strict=True):
        points.append(_point(method, name, file, chosen))
    return found.n_chunks, found.n_tokens


def _point(method: str, name: str, file: FileScore, chosen: tuple[ChosenType, ...]) -> Point:
    assert file.divergence is not None
    return Point(method, name, file.file_bytes, file.bpw, file.divergence.kld, chosen)
