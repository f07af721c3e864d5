"""From a checkpoint folder or a GGUF to a GGUF: what `srd-rs convert` does, for Python.

Only names, shapes and metadata pass through here; weights stay in Rust.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from srd_rs.errors import ModelError, UsageError, message

if TYPE_CHECKING:
    from srd_rs.families.base import ModelFacts, ModelSpec

DEFAULT_MAX_MEMORY: Final = 512 << 20
"""Bytes of weights alive at any time."""


@dataclass(frozen=True)
class Progress:
    """State of a running conversion, in bytes of output tensor data; in the phase "calibrate" before it, in tokens."""

    done_bytes: int
    total_bytes: int
    tensor: str
    phase: str = "convert"


@dataclass(frozen=True)
class PlannedTensor:
    """An output tensor. `shape` is GGUF's ne (row length first); `offset` counts from the start of its file."""

    name: str
    shape: tuple[int, ...]
    type: str
    source_types: tuple[str, ...]
    file: int
    offset: int
    bytes: int

    @property
    def n_weights(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n


@dataclass(frozen=True)
class PlannedFile:
    """An output file and its exact size; `header_bytes` is everything before the tensor data."""

    path: Path
    bytes: int
    header_bytes: int


@dataclass(frozen=True)
class PlannedContainer:
    """The .axm beside the GGUF: its exact size, its id, and the bytes of its residual planes."""

    path: Path
    bytes: int
    id: str
    residual_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a conversion will write, known before a weight is read.

    `total_bytes` is the exact size of all output files; `bpw` bits per weight over all tensors.
    """

    arch: str
    quant: str
    files: tuple[PlannedFile, ...]
    tensors: tuple[PlannedTensor, ...]
    total_bytes: int
    tensor_bytes: int
    source_bytes: int
    n_weights: int
    bpw: float
    container: PlannedContainer | None = None

    @property
    def output(self) -> Path:
        """The GGUF, or the first of its parts."""
        return self.files[0].path

    @property
    def types(self) -> dict[str, tuple[int, int, int]]:
        """GGUF type -> (tensors, weights, bytes), largest first."""
        sums: dict[str, tuple[int, int, int]] = {}
        for t in self.tensors:
            n, weights, size = sums.get(t.type, (0, 0, 0))
            sums[t.type] = (n + 1, weights + t.n_weights, size + t.bytes)
        return dict(sorted(sums.items(), key=lambda item: -item[1][2]))


@dataclass(frozen=True)
class SealedContainer:
    """A written .axm. `key_made` is the default key file if this run made it: back it up."""

    path: Path
    bytes: int
    fingerprint: str
    id: str
    key_id: str
    signed: bool
    key_made: Path | None


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion wrote and what it cost.

    `seconds` is wall time of the pass over the weights, `cpu_seconds` user + system time in it, `peak_rss_bytes` the
    process's VmHWM (mapped pages included); `replaced` counts weights that `allow_nonfinite` made finite;
    `sidecar` is the MET sidecar beside the GGUF, None where none was written.
    """

    plan: Plan
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    replaced: int
    threads: int
    sidecar: Path | None = None
    container: SealedContainer | None = None

    @property
    def output(self) -> Path:
        return self.plan.output

    @property
    def outputs(self) -> tuple[Path, ...]:
        return tuple(f.path for f in self.plan.files)

    @property
    def file_bytes(self) -> int:
        return self.plan.total_bytes


@dataclass(frozen=True)
class SrdOptions:
    """What effort ``"srd"`` does beyond the search for scales. The defaults are what measured best.

    feedback: diffuse the residual of each quantised weight into those to come.
    polish: rounds of coordinate descent, on the scales and then the codes of each sub-block.
    proposals: K, the partial solutions that go on side by side along a row. At every few columns each one proposes
        itself without noise and with it, added and taken off, and the best K survive. 1: no noise.
    tau: amplitude of the noise in steps; None chooses it for each tensor, and may choose none.
    select: False takes the noise as it comes: for the ablation only.
    dither_layers: from and to, as shares of depth: the layers that get K; the others get one. By default all.
    """

    feedback: bool = True
    polish: int = 2
    proposals: int = 4
    tau: float | None = None
    select: bool = True
    dither_layers: tuple[float, float] | None = None

    def to_json(self, seed: int) -> str:
        """For the native module."""
        steps = {"feedback": self.feedback, "polish": self.polish, "proposals": self.proposals}
        feedback = {**steps, "tau": self.tau, "unselected": not self.select}
        return json.dumps({"feedback": feedback, "seed": seed, "dither_layers": self.dither_layers})


@dataclass(frozen=True)
class _Options:
    """Keyword arguments that `plan` and `convert` share; see `convert`."""

    quant: str = "Q4_K_M"
    effort: str = "fast"
    tensor_types: Sequence[str] = ()
    token_embedding_type: str | None = None
    output_tensor_type: str | None = None
    pure: bool = False
    imatrix: str | os.PathLike[str] | None = None
    calibrate: str | os.PathLike[str] | None = None
    calibrate_tokens: int | None = None
    calibrate_block: int | None = None
    srd: SrdOptions = SrdOptions()
    seed: int = 0
    split_max_size: int | None = None
    name: str | None = None
    pre_tokenizer: str | None = None
    provenance: bool = True
    axm: bool = False
    axm_output: str | os.PathLike[str] | None = None
    residual_bits: int | None = 2


@dataclass(frozen=True)
class NativeModel:
    """A planned model whose weights can be run: what calibration needs of it."""

    model: Path
    plan: Any

    def metadata(self) -> list[tuple[str, str, Any]]:
        entries: list[tuple[str, str, Any]] = self.plan.metadata()
        return entries

    @property
    def source_digest(self) -> str | None:
        digest: str | None = self.plan.source_digest
        return digest


def native_model(model: Path, beside: Path = Path("model.gguf")) -> NativeModel:
    """A model folder or GGUF, to be run. States that do not fit into memory lie in the folder of `beside`."""
    return NativeModel(model, _native_plan(model, beside, _Options(quant="F32")))


def plan(model: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, **options: Any) -> Plan:
    """What `convert` with the same arguments would write. Reads headers, no weight.

    Raises the errors of `convert`, except those that only weights can cause.
    """
    return _plan_of(_native_plan(Path(model), output, _Options(**options)))


def convert(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    quant: str = "Q4_K_M",
    effort: str = "fast",
    tensor_types: Sequence[str] = (),
    token_embedding_type: str | None = None,
    output_tensor_type: str | None = None,
    pure: bool = False,
    imatrix: str | os.PathLike[str] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    calibrate_tokens: int | None = None,
    calibrate_block: int | None = None,
    srd: SrdOptions | None = None,
    seed: int = 0,
    split_max_size: int | None = None,
    name: str | None = None,
    pre_tokenizer: str | None = None,
    provenance: bool = True,
    axm: bool = False,
    axm_output: str | os.PathLike[str] | None = None,
    residual_bits: int | None = 2,
    key_file: str | os.PathLike[str] | None = None,
    sign_key: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    max_memory: int = DEFAULT_MAX_MEMORY,
    allow_nonfinite: bool = False,
    overwrite: bool = False,
    met: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> ConvertReport:
    """Convert a Hugging Face folder, a .safetensors folder's model or a GGUF to a GGUF.

    model: folder with config.json, tokenizer files and safetensors shards, or a GGUF file.
    output: the GGUF to write, or a folder for it; by default ``<model name>-<quant>.gguf`` in the current folder.
    quant: Q4_K_M, Q4_K_S, Q5_K_M, Q5_K_S, Q6_K, Q8_0, F16, BF16 or F32: the mix of types llama-quantize uses.
    effort: ``"fast"``: plain search for scales; ``"srd"``: with second moments of the inputs, from `calibrate`.
    tensor_types: ``"REGEX=TYPE"``, for tensors whose GGUF name the regex finds; the first that matches counts.
    token_embedding_type, output_tensor_type, pure: as the options of llama-quantize with these names.
    imatrix: importance matrix of llama.cpp (GGUF or .dat): the mean squares of each matrix's inputs weigh the errors.
    calibrate: ``"builtin"``, ``"random"``, a UTF-8 text file, or a calibration file of `srd_rs.calibrate`. With effort
        ``"srd"`` builtin by default. A calibration made here is never given a name.
    calibrate_tokens: tokens of such a calibration; by default 4096 to 16384, the more the smaller the model.
    calibrate_block: side of the diagonal blocks of H of such a calibration; see `srd_rs.calibrate`.
    srd: what effort ``"srd"`` does in detail.
    seed: recorded, and the source of all noise where the method uses some.
    split_max_size: bytes; cut the output into ``name-00001-of-0000N.gguf``.
    name: ``general.name``; by default from the model card or the folder.
    pre_tokenizer: ``tokenizer.ggml.pre`` for a tokenizer that is not recognised.
    provenance: write the ``srd.*`` keys (version, method, seed, source digest).
    axm: write the signed container too, as ``axm_output`` or under the GGUF's name with the suffix ``.axm``. The
        command line does so by default; a library call that makes keys does not.
    residual_bits: 2, 3 or 4 bits a weight for what quantising lost, or None.
    key_file: the master key; by default ``SRD_MASTER_KEY`` or the default key file, which is made on first use.
    sign_key: an Ed25519 private key (PEM) for a signature that third parties can check.
    threads: workers; by default one per CPU. Any number gives the same bytes.
    max_memory: bytes of weights alive at any time.
    allow_nonfinite: replace NaN by 0 and what does not fit by the largest value that does, instead of failing.
    overwrite: replace an existing output.
    met: write the MET sidecar, ``name.met.json`` beside ``name.gguf``, replacing an older one. It holds the
        SHA-256 of the header, not of the weights (`srd_rs.met` adds that). A split output or a GGUF without
        layers gets none.
    progress: called about 20 times a second; an exception it raises stops the conversion.

    The output has its name only when it is complete. Raises SrdIOError, FormatError, ModelError, NonFiniteError or
    UsageError (see `srd_rs.errors`).
    """
    options = _Options(
        quant=quant,
        effort=effort,
        tensor_types=tensor_types,
        token_embedding_type=token_embedding_type,
        output_tensor_type=output_tensor_type,
        pure=pure,
        imatrix=imatrix,
        calibrate=calibrate,
        calibrate_tokens=calibrate_tokens,
        calibrate_block=calibrate_block,
        srd=srd or SrdOptions(),
        seed=seed,
        split_max_size=split_max_size,
        name=name,
        pre_tokenizer=pre_tokenizer,
        provenance=provenance,
        axm=axm,
        axm_output=axm_output,
        residual_bits=residual_bits,
    )
    report = _run(
        model,
        output,
        options,
        signing=_signing(key_file, sign_key) if axm else None,
        gguf=True,
        threads=threads,
        max_memory=max_memory,
        allow_nonfinite=allow_nonfinite,
        overwrite=overwrite,
        progress=progress,
    )
    return replace(report, sidecar=_write_sidecar(report)) if met else report


def _signing(key_file: str | os.PathLike[str] | None, sign_key: str | os.PathLike[str] | None) -> str:
    """The names of the keys, for the native module."""
    names = {"key_file": key_file, "sign_key": sign_key}
    return json.dumps({k: None if path is None else os.fspath(path) for k, path in names.items()})


def _run(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    options: _Options,
    *,
    signing: str | None,
    gguf: bool,
    threads: int | None,
    max_memory: int,
    allow_nonfinite: bool,
    overwrite: bool,
    progress: Callable[[Progress], None] | None,
) -> ConvertReport:
    if threads is not None and threads < 1:
        raise UsageError(message("threads", f"{threads} is no number of workers", "Pass 1 or more"))
    calibration = _calibration(Path(model), output, options, threads, max_memory, progress)
    native = _native_plan(Path(model), output, options, calibration)
    return _run_plan(
        native,
        signing=signing,
        gguf=gguf,
        effort=options.srd.to_json(options.seed),
        threads=threads,
        max_memory=max_memory,
        allow_nonfinite=allow_nonfinite,
        overwrite=overwrite,
        progress=progress,
    )


def _run_plan(
    native: Any,
    *,
    signing: str | None,
    gguf: bool,
    threads: int | None,
    max_memory: int,
    allow_nonfinite: bool,
    overwrite: bool,
    progress: Callable[[Progress], None] | None,
    effort: str | None = None,
) -> ConvertReport:
    planned = _plan_of(native)
    forward = None if progress is None else lambda *state: progress(Progress(*state))
    report = json.loads(
        native.run(
            threads or cpus(), max(max_memory, 1), allow_nonfinite, overwrite, forward, signing, gguf, effort
        )
    )
    return ConvertReport(
        plan=planned,
        seconds=report["seconds"],
        cpu_seconds=report["cpu_seconds"],
        peak_rss_bytes=report["peak_rss_bytes"],
        replaced=report["replaced"],
        threads=report["threads"],
        container=_sealed(report["container"], report["key"]),
    )


def _sealed(sealed: dict[str, Any] | None, key: dict[str, Any] | None) -> SealedContainer | None:
    if sealed is None:
        return None
    made = key is not None and key["from"] == "made"
    return SealedContainer(
        path=Path(sealed["path"]),
        bytes=sealed["bytes"],
        fingerprint=sealed["fingerprint"],
        id=sealed["container"],
        key_id=sealed["key_id"],
        signed=sealed["signed"],
        key_made=Path(key["path"]) if made and key is not None else None,
    )


def _write_sidecar(report: ConvertReport) -> Path | None:
    """The sidecar is about one file: a split output gets none."""
    from srd_rs import hydration

    if len(report.outputs) > 1:
        return None
    path = hydration.sidecar_path(report.output)
    fingerprint = report.container.fingerprint if report.container else None
    try:
        hydration.met(report.output, path, fingerprint=fingerprint, digest=False, overwrite=True)
    except ModelError:
        # A GGUF without layers, converted from one: there is nothing to put into slots, and nothing failed.
        return None
    return path


def cpus() -> int:
    """CPUs this process may use, which in a container can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def _calibration(
    model: Path,
    output: str | os.PathLike[str] | None,
    options: _Options,
    threads: int | None,
    max_memory: int,
    progress: Callable[[Progress], None] | None,
) -> Any:
    """The native calibration that the options ask for: a file's, or one that is made now; None without."""
    from srd_rs import _core, calibration

    given = _calibration_file(options)
    if given is not None:
        return _core.open_calibration(os.fspath(given))
    text = _calibration_text(options)
    if text is None:
        return None
    gguf = output_path(model, output, options.quant)
    # Whatever is wrong with the options shows before the long pass.
    planned = NativeModel(model, _native_plan(model, output, options))
    return calibration.measure(
        native_model(model, gguf) if planned.source_digest is None else planned,
        gguf,
        named=False,
        text=text,
        tokens=options.calibrate_tokens,
        block=options.calibrate_block,
        seed=options.seed,
        threads=threads,
        max_memory=max_memory,
        progress=progress and (lambda done, total: progress(Progress(done, total, "", "calibrate"))),
    )


def _calibration_file(options: _Options) -> str | os.PathLike[str] | None:
    """The calibration file that was named, be it as `calibrate` or as `imatrix`."""
    from srd_rs import _core

    for path in (options.calibrate, options.imatrix):
        if path not in (None, "builtin", "random") and _core.is_calibration(os.fspath(path)):
            return path
    return None


def _calibration_text(options: _Options) -> str | os.PathLike[str] | None:
    """What to calibrate on, None for not at all. An imatrix alone serves both efforts."""
    if options.calibrate is not None or options.imatrix is not None:
        return options.calibrate
    return "builtin" if options.effort == "srd" else None


def _native_plan(
    model: Path, output: str | os.PathLike[str] | None, options: _Options, calibration: Any = None
) -> Any:
    from srd_rs import _core

    if options.effort not in ("fast", "srd"):
        what = f"effort '{options.effort}' is not known"
        raise UsageError(message("effort", what, "Use 'fast' or 'srd'"))
    if not model.exists():
        raise UsageError(message(model, "no such file or folder", "Name a model folder or a GGUF"))
    gguf = output_path(model, output, options.quant)
    native: dict[str, Any] = {
        "output": str(gguf),
        "quant": options.quant,
        "tensor_types": list(options.tensor_types),
        "token_embedding_type": options.token_embedding_type,
        "output_tensor_type": options.output_tensor_type,
        "pure": options.pure,
        "split_max_size": options.split_max_size,
        "imatrix": None,
        "feedback": options.effort == "srd",
    }
    file, text = _calibration_file(options), _calibration_text(options)
    if file is not None and calibration is None:
        calibration = _core.open_calibration(os.fspath(file))
    elif options.imatrix is not None and file is None:
        native["imatrix"] = os.fspath(options.imatrix)
    if text is not None and file is None:
        native["calibration_text"] = text if text in ("builtin", "random") else Path(text).name
    if options.axm:
        path = options.axm_output or gguf.with_suffix(".axm")
        native["container"] = {"path": os.fspath(path), "residual_bits": options.residual_bits}
    if options.provenance or options.axm:
        native["provenance"] = {
            "method": "srd" if options.effort == "srd" else "search",
            "seed": options.seed,
            "files": [],
            "keys": options.provenance,
        }
    if model.is_file() and model.suffix != ".safetensors":
        return _core.plan_gguf(str(model), json.dumps(native), calibration)
    return _plan_checkpoint(model, options, native, calibration)


def _plan_checkpoint(model: Path, options: _Options, native: dict[str, Any], calibration: Any) -> Any:
    from srd_rs import _core, families, vocab
    from srd_rs.checkpoint import Checkpoint

    if model.is_file():
        fix = "Name the folder that holds it, with config.json and the tokenizer beside it"
        raise ModelError(message(model, "a weight file alone is not a model", fix))
    checkpoint = Checkpoint.open(model)
    spec = families.describe(checkpoint, name=options.name)
    metadata = spec.metadata
    metadata.update(
        vocab.load(
            checkpoint.folder,
            config=_flat(checkpoint.config),
            arch=spec.arch,
            n_vocab=_embedding_rows(spec, model),
            pre=options.pre_tokenizer,
        )
    )
    if "provenance" in native:
        native["provenance"]["files"] = [str(p) for p in _described_by(checkpoint.folder)]
    tensors = json.dumps([t.to_json() for t in spec.tensors])
    facts = json.dumps(_facts(spec.hparams))
    return _core.plan_checkpoint(
        str(model), metadata.entries(), tensors, facts, json.dumps(native), calibration
    )


def _facts(facts: ModelFacts) -> dict[str, Any]:
    """What the mixes need, in the form of the native module."""
    kv = facts.n_head_kv
    return {
        "arch": facts.arch,
        "n_layer": facts.n_layer,
        "n_expert": facts.n_expert,
        "n_head": facts.n_head,
        "n_head_kv": kv if isinstance(kv, list) else [kv],
    }


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """A multimodal config with its text model's part on top."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _embedding_rows(spec: ModelSpec, model: Path) -> int:
    for tensor in spec.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[0]
    raise ModelError(message(model, "the model has no token embedding", "Convert a complete checkpoint"))


def _described_by(folder: Path) -> list[Path]:
    """The small files of a model folder that decide its metadata: what the source digest covers beside headers."""
    patterns = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "README.md")
    return sorted(p for pattern in patterns for p in folder.glob(pattern) if p.is_file())


def output_path(model: Path, output: str | os.PathLike[str] | None, quant: str) -> Path:
    """Where the GGUF goes: `output`, or the default name in the folder `output` or the current one."""
    stem = model.resolve().name if model.is_dir() else model.stem
    default = f"{stem}-{quant.upper()}.gguf"
    if output is None:
        return Path(default)
    path = Path(output)
    return path / default if path.is_dir() or os.fspath(output).endswith(os.sep) else path


def _plan_of(native: Any) -> Plan:
    data = json.loads(native.to_json())
    container = data["container"]
    files = tuple(PlannedFile(Path(f["path"]), f["bytes"], f["header_bytes"]) for f in data["files"])
    tensors = tuple(
        PlannedTensor(
            name=t["name"],
            shape=tuple(t["shape"]),
            type=t["type"],
            source_types=tuple(t["source_types"]),
            file=t["file"],
            offset=t["offset"],
            bytes=t["bytes"],
        )
        for t in data["tensors"]
    )
    return Plan(
        arch=data["arch"],
        quant=data["quant"],
        files=files,
        tensors=tensors,
        total_bytes=data["total_bytes"],
        tensor_bytes=data["tensor_bytes"],
        source_bytes=data["source_bytes"],
        n_weights=data["n_weights"],
        bpw=data["bpw"],
        container=container and PlannedContainer(**{**container, "path": Path(container["path"])}),
    )
