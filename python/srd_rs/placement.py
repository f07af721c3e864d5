"""Where the tensors of a GGUF go on a machine: the arguments for an engine, the memory, and the speed to expect.

    placed = srd_rs.place("model.gguf", engine="llama-server", ram=16 << 30, vram=8 << 30)
    placed.arguments     # ('-m', 'model.gguf', '-c', '8192', '-ngl', 'all', '--n-cpu-moe', '21')

Each tensor has an access class, which says how many of its bytes one token reads:

* ``every_token``: all of them (attention, norms, dense matrices, routers, shared experts, the output matrix);
* ``rows``: one row of a table that is looked up (token embeddings, per-layer embeddings);
* ``experts``: the experts that a token uses out of a stack (`expert_used_count` of `expert_count`).

The tensors of a layer, its keys and values lie on one device; llama.cpp gives the last layers to the GPU, and the table
of the token embeddings always stays with the CPU. The rules are those of llama.cpp (`common/arg.cpp`,
`src/llama-model.cpp`).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, hub, memory, sniff
from srd_rs.errors import ModelError, SrdError, UsageError, message
from srd_rs.options import StrPath, bytes_of
from srd_rs.text import bytes_text, printable

log = logging.getLogger("srd_rs.placement")

ENGINES: Final = ("llama-server", "llama-cpp-python", "ollama")
ACCESS: Final = ("every_token", "rows", "experts")
VRAM_MARGIN: Final = 1 << 30
"""Bytes of the GPU that are left to others: the target of ``--fit`` of llama.cpp."""
_EXPERTS: Final = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
"""The tensors that ``--n-cpu-moe`` moves."""
_TABLES: Final = _core.TABLES
"""The tables of which a token reads one row each. The first one is the output matrix too if a model has no other."""
_LAZY: Final = (_core.PER_LAYER_TABLE,)
"""Tables whose rows llama.cpp can read from the disk when a token needs them (``--lazy-mode``)."""
_LAZY_ARCHITECTURES: Final = ("gemma4",)
_REPACKED: Final = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K"})
"""Types whose matrices llama.cpp copies into another order for its kernels, on x86 and on ARM."""
_REPACKED_BY_ARM: Final = frozenset({"Q5_K", "Q6_K", "Q8_0"})
READ_AHEAD: Final = 128 << 10
"""Bytes that a system reads around a missing page of a mapped file, where the system does not say: Linux's default."""
_LAZY_UNASKED: Final = 4 << 30
"""A table that is larger is read in this way without an argument."""


@dataclass(frozen=True)
class Access:
    """The bytes of an access class, and how many of them one token reads."""

    tensors: int
    bytes: int
    token_bytes: int


@dataclass(frozen=True)
class Device:
    """What lies on a device, in bytes. `token_bytes` are the bytes of weights that one token reads."""

    weights: int
    kv_cache: int
    compute: int
    token_bytes: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True)
class Experts:
    """Which of the experts on the CPU its memory holds, where it cannot hold all of them.

    bytes: All of the experts on the CPU. held_bytes: Those for which there is memory, the hottest ones.
    held_share: The share of what tokens read of experts that lies in memory then. By the use of the experts in the
        calibration (`expert_heat` of the sidecar) where it is `measured`, and else as if all were used equally.
    missed_bytes: The weights that one token needs of the other experts.
    read_bytes: What the system reads from the disk for these weights: around each missing page it reads more. The first
        number is for text that uses the experts as the calibration does, and the second one for text that uses all of
        them equally. Other text lies between.
    budget: The budget of `srd-rs hydrate` that holds the hottest experts, and all that every token reads.
    """

    bytes: int
    held_bytes: int
    held_share: float
    missed_bytes: int
    read_bytes: tuple[int, int]
    budget: int
    measured: bool


@dataclass(frozen=True, repr=False)
class Placement:
    """The arguments of an engine and what they lead to.

    arguments: For llama-server, words of its command line; for Ollama, the lines of a Modelfile.
    keywords: For llama-cpp-python, the keyword arguments of `Llama`.
    cpu_moe: The layers whose experts stay with the CPU although the layers are on the GPU.
    experts: Which experts the memory holds; None where it holds all of them, and where it does not even hold the rest.
    lazy: Bytes of tables of which rows are read from the disk when a token needs them.
    tokens_per_second: The most that the memory allows with an empty context and with a full one; None where the
        bandwidth of a device that is used is not known.
    notes: What else is to be known, in sentences.
    """

    path: Path
    engine: str
    ctx: int
    arguments: tuple[str, ...]
    keywords: Mapping[str, Any]
    access: Mapping[str, Access]
    gpu_layers: int
    layers: int
    cpu_moe_layers: int
    cpu_moe: tuple[int, ...]
    experts: Experts | None
    cpu: Device
    gpu: Device
    lazy: int
    fits: bool
    bandwidth: Mapping[str, float | None]
    tokens_per_second: tuple[float, float] | None
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        where = f"{self.gpu_layers} of {self.layers} layers on the GPU"
        room = "fits" if self.fits else "does not fit"
        memory = f"{bytes_text(self.cpu.total)} of memory, {bytes_text(self.gpu.total)} of the GPU's"
        return f"<Placement {printable(str(self.path))} for {self.engine}: {where}, {memory}, {room}>"


def place(
    gguf: StrPath,
    *,
    engine: str = "llama-server",
    ram: int | str,
    vram: int | str = 0,
    ctx: int = 8192,
    ram_bandwidth: float | str | None = None,
    vram_bandwidth: float | str | None = None,
    disk_bandwidth: float | str | None = None,
    read_ahead: int | None = None,
) -> Placement:
    """Choose where the tensors of a GGUF go. Reads the header and the sidecar beside the GGUF, and no weight.

    ram, vram: Bytes that the engine may use, as numbers or as texts such as ``"16GiB"``. `VRAM_MARGIN` bytes of the GPU
        are left free.
    ctx: Tokens of the context, whose keys and values are counted.
    ram_bandwidth, vram_bandwidth: Bytes per second. That of the memory is measured here if it is not given (about a
        second); that of a GPU is not.
    disk_bandwidth: Bytes per second of the disk, for the speed of a model that does not fit.
    read_ahead: Bytes that the system reads around a missing page. If it is not given, that of the disk of the GGUF.

    Raises UsageError for an engine that is not known, ModelError for a GGUF without layers.

        >>> placed = srd_rs.place("path/to/model-Q4_K_M.gguf", ram=8 << 30, ram_bandwidth=20e9)
        >>> placed.engine, placed.ctx
        ('llama-server', 8192)
    """
    if engine not in ENGINES:
        raise UsageError(message("--for", f"the engine '{engine}' is not known", f"Use {', '.join(ENGINES)}"))
    if ctx < 1:
        raise UsageError(message("--ctx", f"{ctx} is no number of tokens", "Pass 1 or more"))
    ram, vram = bytes_of("ram", ram), bytes_of("vram", vram)
    ram_rate, vram_rate, disk_rate = (
        None if rate is None else bytes_of(name, rate)
        for name, rate in (
            ("ram_bandwidth", ram_bandwidth),
            ("vram_bandwidth", vram_bandwidth),
            ("disk_bandwidth", disk_bandwidth),
        )
    )
    path = hub.file(gguf)
    sniff.check_gguf(path)
    model = _Model(path, ctx, engine)
    layers, n_cpu_moe = _chosen(model, ram, vram)
    cpu_moe = frozenset(range(n_cpu_moe))
    cpu, gpu, lazy = _devices(model, layers, cpu_moe, lazy=False)
    lazily = False
    if cpu.total > ram and model.can_be_lazy:
        lazily = True
        cpu, gpu, lazy = _devices(model, layers, cpu_moe, lazy=True)
    elif model.lazy_unasked:
        cpu, gpu, lazy = _devices(model, layers, cpu_moe, lazy=True)
    fits = cpu.total <= ram
    experts = None
    if not fits and model.has_experts:
        cpu_moe = _coldest_reads(model, layers, cpu_moe, ram, vram, lazy=lazily)
        cpu, gpu, lazy = _devices(model, layers, cpu_moe, lazy=lazily or model.lazy_unasked)
        around = read_ahead_of(path) if read_ahead is None else read_ahead
        experts = _experts(model, layers, cpu_moe, cpu, ram, around)
    measured = measure_bandwidth() if ram_rate is None else ram_rate
    used = {"ram": measured, "vram": vram_rate if gpu.token_bytes else None, "disk": disk_rate}
    missed = None
    if disk_rate is not None and experts is not None:
        missed = experts.read_bytes[0] / disk_rate
    elif disk_rate is not None and not fits and not model.has_experts:
        # What has no room is read for each token. Of tables that are looked up a token reads a row.
        missed = max(cpu.token_bytes - (ram - cpu.kv_cache - cpu.compute), 0) / disk_rate
    speed = _speed(cpu, gpu, measured, vram_rate, missed or 0.0) if fits or missed is not None else None
    copied = _copied(model, layers, cpu_moe)
    # The system can drop what is mapped and read it again, and copies it cannot. Those of a model that does not fit
    # are what stays in memory of it, as long as there is room for them; beside a lock of the weights there is not.
    no_copies = not fits and copied > 0 and (experts is not None or copied > ram - cpu.kv_cache - cpu.compute)
    arguments, keywords = _arguments(model, layers, cpu_moe, lazily=lazily, copies=no_copies)
    return Placement(
        path=path,
        engine=engine,
        ctx=ctx,
        arguments=arguments,
        keywords=keywords,
        access=model.access(),
        gpu_layers=layers,
        layers=model.n_layer,
        cpu_moe_layers=len(cpu_moe),
        cpu_moe=tuple(sorted(cpu_moe)),
        experts=experts,
        cpu=cpu,
        gpu=gpu,
        lazy=lazy,
        fits=fits,
        bandwidth=used,
        tokens_per_second=speed,
        notes=(
            *_notes(model, cpu, gpu, ram, vram, vram_rate, fits, experts),
            *_hints(path, engine, layers, vram, fits, disk_rate),
            *_copies(model, cpu, ram, copied, no_copies=no_copies, locks=experts is not None),
        ),
    )


@dataclass(frozen=True)
class _Tensor:
    name: str
    layer: int | None
    access: str
    bytes: int
    token_bytes: int
    experts: bool
    type: str


def _layer(name: str) -> int | None:
    """The layer of a tensor; None for a tensor outside the layers."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if first == "blk" and number.isdecimal() and len(number) < 10 else None


class _Model:
    """What a GGUF says of its tensors and of its context."""

    def __init__(self, path: Path, ctx: int, engine: str) -> None:
        header = _core.read_gguf(path, 4096)
        self.path, self.ctx, self.engine = path, ctx, engine
        self.metadata = {key: value for key, _, value in header["metadata"]}
        self.arch = str(self.metadata.get("general.architecture", ""))
        names = {name for name, *_ in header["tensors"]}
        numbers = [layer for name in names if (layer := _layer(name)) is not None]
        if not numbers:
            fix = "Name a GGUF of a language model (tensors blk.N.*)"
            raise ModelError(message(path, "the GGUF has no layers", fix))
        self.n_layer = max(self.number("block_count", 0), max(numbers) + 1)
        if self.n_layer > len(names):
            what = f"the GGUF states {self.n_layer} layers, and has {len(names)} tensors"
            raise ModelError(message(path, what, "The metadata is wrong: convert the model again"))
        self.tied = "output.weight" not in names
        experts, used = self.number("expert_count", 0), self.number("expert_used_count", 0)
        self.share = used / experts if 0 < used <= experts else 1.0
        self.n_vocab = next(
            (ne[1] for name, ne, *_ in header["tensors"] if name == _TABLES[0] and len(ne) > 1), 0
        )
        self.tensors = [self._tensor(name, ne, size, kind) for name, ne, kind, _, size in header["tensors"]]
        self.has_experts = any(t.experts for t in self.tensors)
        self.heat = _heat(path) if self.has_experts else {}
        self.n_experts, self.n_used = experts, used
        needed = memory.needed(self.metadata, ctx, self.n_vocab)
        caches = memory.caches(self.metadata, ctx)
        # Blocks that predict further tokens have no cache in this context.
        self.caches = caches + [0] * (self.n_layer - len(caches))
        self.compute = needed.compute

    def number(self, key: str, default: int) -> int:
        """A number of the metadata; of a list the first entry."""
        value = self.metadata.get(f"{self.arch}.{key}", default)
        if isinstance(value, (list, tuple)):
            value = value[0] if value else default
        known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
        return int(value) if known else default

    def _tensor(self, name: str, ne: Sequence[int], size: int, kind: str) -> _Tensor:
        layer = _layer(name)
        if _EXPERTS.search(name):
            return _Tensor(name, layer, "experts", size, round(size * self.share), True, kind)
        # The output matrix of a tied model is the table of the embeddings.
        if name in _TABLES and not (name == _TABLES[0] and self.tied):
            rows = ne[1] if len(ne) > 1 else 1
            return _Tensor(name, layer, "rows", size, size // max(rows, 1), False, kind)
        return _Tensor(name, layer, "every_token", size, size, False, kind)

    @property
    def can_be_lazy(self) -> bool:
        return self.engine == "llama-server" and self.arch in _LAZY_ARCHITECTURES and self.lazy_bytes > 0

    @property
    def lazy_bytes(self) -> int:
        return sum(t.bytes for t in self.tensors if t.name in _LAZY)

    @property
    def lazy_unasked(self) -> bool:
        return self.arch in _LAZY_ARCHITECTURES and self.lazy_bytes > _LAZY_UNASKED

    def access(self) -> dict[str, Access]:
        found = {}
        for name in ACCESS:
            tensors = [t for t in self.tensors if t.access == name]
            total = sum(t.bytes for t in tensors)
            found[name] = Access(len(tensors), total, sum(t.token_bytes for t in tensors))
        return found


def _heat(path: Path) -> dict[int, list[float]]:
    """For each layer the share of the tokens that used each expert, from the sidecar beside the GGUF.

    Empty without a sidecar, with one that does not fit the GGUF, and where no calibration was run.
    """
    if not _core.sidecar_path(path).is_file():
        return {}
    try:
        hydrator = _core.Hydrator(path, None)
    except SrdError as error:
        log.warning("%s", error)
        return {}
    facts = json.loads(hydrator.sidecar())
    hydrator.close()
    heat = facts.get("expert_heat") or {"tokens": 1, "layers": {}}
    tokens = max(heat["tokens"], 1)
    return {int(layer): [n / tokens for n in counts] for layer, counts in heat["layers"].items()}


def read_ahead_of(path: Path) -> int:
    """Bytes that the system reads around a missing page of a mapped file."""
    try:
        device = path.stat().st_dev
        base = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    except (OSError, AttributeError):
        return READ_AHEAD
    for queue in (base / "queue", base.parent / "queue"):
        try:
            return int((queue / "read_ahead_kb").read_text()) << 10
        except (OSError, ValueError):
            continue
    return READ_AHEAD


def _reads(model: _Model, layer: int, size: int) -> list[tuple[float, float]]:
    """For each expert of a layer the share of the tokens that use it, and its bytes; `size` are those of the stacks."""
    counts = model.heat.get(layer) or [model.share] * model.n_experts
    return [(share, size / model.n_experts) for share in counts]


def _from_disk(matrix: float, around: int, missing: float) -> float:
    """What the system reads of the disk for a matrix of an expert that is not in memory.

    At the first missing page the system reads `around` bytes with the page in their middle. When the matrix reaches
    beyond their third quarter, the system reads as much once more. `missing` is the share of what lies there that is
    not in memory already.
    """
    more = around if matrix > around / 4 else around - matrix
    return matrix + missing * more


def _stacks(model: _Model) -> dict[int, int]:
    """The bytes of the experts of each layer."""
    found: dict[int, int] = {}
    for tensor in model.tensors:
        if tensor.experts and tensor.layer is not None:
            found[tensor.layer] = found.get(tensor.layer, 0) + tensor.bytes
    return found


def _experts(
    model: _Model, gpu_layers: int, cpu_moe: frozenset[int], cpu: Device, ram: int, around: int
) -> Experts | None:
    """What the memory holds of the experts on the CPU, if the hottest ones stay in memory."""
    first = max(model.n_layer + 1 - gpu_layers, 0)
    on_cpu = {n: size for n, size in _stacks(model).items() if n < first or n in cpu_moe}
    total = sum(on_cpu.values())
    room = ram - (cpu.total - total)
    if room < 0 or total <= room or not model.n_experts:
        return None
    reads = [(*read, layer) for layer, size in on_cpu.items() for read in _reads(model, layer, size)]
    held, missed = 0.0, []
    for share, size, layer in sorted(reads, reverse=True):
        if held + size <= room:
            held += size
        else:
            missed.append((share, size, layer))
    every, left = (
        sum(share * size for share, size, _ in reads),
        sum(share * size for share, size, _ in missed),
    )
    matrices = {
        n: [t.bytes / model.n_experts for t in model.tensors if t.experts and t.layer == n] for n in on_cpu
    }
    from_disk = {
        n: sum(_from_disk(matrix, around, 1 - held / total) for matrix in found)
        for n, found in matrices.items()
    }
    return Experts(
        bytes=total,
        held_bytes=round(held),
        held_share=1 - left / every if every else 1.0,
        missed_bytes=round(left),
        read_bytes=(
            round(sum(share * from_disk[layer] for share, _, layer in missed)),
            round(sum(model.share * from_disk[layer] for _, _, layer in missed)),
        ),
        budget=ram - cpu.kv_cache - cpu.compute,
        measured=bool(model.heat),
    )


def _coldest_reads(
    model: _Model, gpu_layers: int, cpu_moe: frozenset[int], ram: int, vram: int, *, lazy: bool
) -> frozenset[int]:
    """The layers whose experts stay with the CPU, where its memory does not hold all of them.

    As many as before; but those stay of which the hottest experts serve the most tokens, so the disk is read least.
    """
    count = len(cpu_moe)
    if not model.heat or not 0 < count < model.n_layer:
        return cpu_moe
    sizes = _stacks(model)
    cpu = _devices(model, gpu_layers, cpu_moe, lazy=lazy)[0]
    held = max(ram - (cpu.total - sum(sizes.get(n, 0) for n in cpu_moe)), 0) / max(count, 1)

    def missed(layer: int) -> float:
        """What a token reads of a layer from the disk, if each layer gets the same memory."""
        size = sizes.get(layer, 0)
        reads = sorted(_reads(model, layer, size), reverse=True)
        kept = int(held / (size / model.n_experts)) if size else 0
        return sum(share * each for share, each in reads[kept:])

    chosen = frozenset(sorted(range(model.n_layer), key=missed)[:count])
    fits = _devices(model, gpu_layers, chosen, lazy=lazy)[1].total <= vram - VRAM_MARGIN
    return chosen if fits else cpu_moe


def _devices(
    model: _Model, gpu_layers: int, cpu_moe: frozenset[int], *, lazy: bool
) -> tuple[Device, Device, int]:
    """What lies on the CPU and on the GPU, and the bytes of tables that stay on the disk.

    The last `gpu_layers` of the layers and the output lie on the GPU, but for the experts of the layers `cpu_moe`.
    """
    first = max(model.n_layer + 1 - gpu_layers, 0)
    weights, tokens, left = [0, 0], [0, 0], 0
    for tensor in model.tensors:
        if lazy and tensor.name in _LAZY:
            left += tensor.bytes
            tokens[0] += tensor.token_bytes
            continue
        if tensor.name in _TABLES:
            # A tied output matrix is a copy of the table on the GPU, and the table stays with the CPU.
            weights[0] += tensor.bytes
            if tensor.access != "every_token":
                tokens[0] += tensor.token_bytes
            elif gpu_layers:
                weights[1] += tensor.bytes
                tokens[1] += tensor.token_bytes
            else:
                tokens[0] += tensor.token_bytes
            continue
        layer = model.n_layer if tensor.layer is None else tensor.layer
        on_gpu = layer >= first and not (tensor.experts and layer in cpu_moe)
        weights[on_gpu] += tensor.bytes
        tokens[on_gpu] += tensor.token_bytes
    kv = [0, 0]
    for layer in range(model.n_layer):
        kv[layer >= first] += model.caches[layer]
    compute = model.compute
    cpu = Device(weights[0], kv[0], compute, tokens[0])
    gpu = Device(weights[1], kv[1], compute if gpu_layers else 0, tokens[1])
    return cpu, gpu, left


def _chosen(model: _Model, ram: int, vram: int) -> tuple[int, int]:
    """The layers on the GPU (the output counts as one) and the layers whose experts stay with the CPU."""
    room, every = vram - VRAM_MARGIN, model.n_layer + 1

    def fits(layers: int, experts: int) -> bool:
        return _devices(model, layers, frozenset(range(experts)), lazy=False)[1].total <= room

    if room <= 0:
        return 0, 0
    if fits(every, 0):
        return every, 0
    if model.has_experts and model.engine == "llama-server" and fits(every, model.n_layer):
        # The fewest layers whose experts have to stay with the CPU.
        return every, next(n for n in range(1, model.n_layer + 1) if fits(every, n))
    aside = model.n_layer if model.has_experts and model.engine == "llama-server" else 0
    layers = next((n for n in range(every, 0, -1) if fits(n, aside)), 0)
    return layers, aside if layers else 0


def _speed(
    cpu: Device, gpu: Device, ram: float, vram: float | None, missed: float
) -> tuple[float, float] | None:
    """Tokens per second with an empty and with a full context: the bytes that a token reads, over the bandwidth.

    missed: Seconds that a token waits for the disk.
    """
    if gpu.token_bytes and vram is None:
        return None
    both = ((cpu, ram), (gpu, vram or 1.0))
    empty = sum(device.token_bytes / speed for device, speed in both)
    full = sum((device.token_bytes + device.kv_cache) / speed for device, speed in both)
    return 1 / max(empty + missed, 1e-9), 1 / max(full + missed, 1e-9)


def _copied(model: _Model, gpu_layers: int, cpu_moe: frozenset[int]) -> int:
    """The bytes of the weights on the CPU that llama.cpp copies into another order when it loads them."""
    first = max(model.n_layer + 1 - gpu_layers, 0)
    kinds = _REPACKED | (_REPACKED_BY_ARM if platform.machine().lower() in ("arm64", "aarch64") else set())
    return sum(
        t.bytes
        for t in model.tensors
        if t.type in kinds and t.layer is not None and (t.layer < first or (t.experts and t.layer in cpu_moe))
    )


def _arguments(
    model: _Model, layers: int, cpu_moe: frozenset[int], *, lazily: bool, copies: bool
) -> tuple[tuple[str, ...], dict[str, Any]]:
    every = layers > model.n_layer
    if model.engine == "llama-cpp-python":
        keywords = {
            "model_path": str(model.path),
            "n_ctx": model.ctx,
            "n_gpu_layers": -1 if every else layers,
            # With these two Llama keeps as little of the context as llama-server does.
            "flash_attn": True,
            "swa_full": False,
        }
        return (), keywords
    if model.engine == "ollama":
        lines = [f"FROM ./{model.path.name}", f"PARAMETER num_ctx {model.ctx}", f"PARAMETER num_gpu {layers}"]
        return tuple(lines), {}
    words = ["-m", str(model.path), "-c", str(model.ctx), "-np", "1", "-ngl", "all" if every else str(layers)]
    if len(cpu_moe) == model.n_layer:
        words.append("--cpu-moe")
    elif cpu_moe == frozenset(range(len(cpu_moe))):
        words += ["--n-cpu-moe", str(len(cpu_moe))] if cpu_moe else []
    else:
        numbers = "|".join(map(str, sorted(cpu_moe)))
        words += ["-ot", rf"blk\.({numbers}){_EXPERTS.pattern}=CPU"]
    if lazily:
        words += ["--lazy-mode", "on"]
    if copies:
        words.append("--no-repack")
    # What is placed here is not to be placed again.
    return (*words, "--fit", "off"), {}


def _notes(
    model: _Model,
    cpu: Device,
    gpu: Device,
    ram: int,
    vram: int,
    vram_bandwidth: float | None,
    fits: bool,
    experts: Experts | None,
) -> list[str]:
    notes = []
    if experts is not None:
        known = "by the calibration" if experts.measured else "if all are used equally"
        notes.append(
            f"The memory holds {bytes_text(experts.held_bytes)} of {bytes_text(experts.bytes)} of experts:"
            f" {100 * experts.held_share:.0f} % of what tokens read of them ({known}). The rest,"
            f" {bytes_text(experts.missed_bytes)} for a token, comes from the disk, which reads"
            f" {bytes_text(experts.read_bytes[0])} for it, and up to {bytes_text(experts.read_bytes[1])} with text that"
            " uses all experts equally. Keep the hottest in memory:"
            f" srd-rs hydrate {model.path.name} --intent HARM --budget {experts.budget} --lock"
        )
    elif not fits:
        notes.append(
            f"{bytes_text(cpu.total - ram)} more memory is needed: llama.cpp will read weights from the disk again"
            " and again, at the speed of the disk. Use a smaller mix or a shorter context."
        )
    if (
        model.has_experts
        and model.engine != "llama-server"
        and 0 < vram - VRAM_MARGIN < gpu.total + cpu.weights
    ):
        notes.append(f"{model.engine} has no argument that keeps experts with the CPU; llama-server has one.")
    is_lazy = model.lazy_bytes > 0 and model.arch in _LAZY_ARCHITECTURES
    if is_lazy and model.engine == "llama-cpp-python" and (cpu.total > ram or model.lazy_unasked):
        notes.append(
            "Llama has no argument for --lazy-mode: tables of more than 4 GiB are read row by row unasked."
        )
    if gpu.token_bytes and vram_bandwidth is None:
        notes.append("Name --vram-bandwidth for the speed: the memory of a GPU is not measured here.")
    return notes


def _hints(path: Path, engine: str, layers: int, vram: int, fits: bool, disk: float | None) -> Iterator[str]:
    """What was named and is not used, and what is used and was not named."""
    if vram and not layers:
        left = f"{bytes_text(VRAM_MARGIN)} of its {bytes_text(vram)} are left to others"
        yield f"The GPU is not used: {left}, and no layer fits into the rest."
    if disk is not None and fits:
        yield "Everything fits into memory, so the speed of the disk does not count."
    projector = sniff.projector_beside(path)
    if projector is not None and engine == "llama-server":
        size = bytes_text(projector.stat().st_size)
        yield f"For pictures and sounds add --mmproj {projector.name}, which takes {size} and its buffers on top."


def _copies(
    model: _Model, cpu: Device, ram: int, copied: int, *, no_copies: bool, locks: bool
) -> Iterator[str]:
    """What the copies of weights do that llama.cpp makes for its kernels, where they have no room."""
    if not no_copies:
        return
    what = f"llama.cpp copies {bytes_text(copied)} of the weights into another order"
    if model.engine != "llama-server":
        fix = (
            "llama-server has --no-repack" if model.engine == "ollama" else "Llama has no argument against it"
        )
        yield f"{what}, for which there is no memory, and the system may end it: {fix}."
    elif locks:
        yield f"{what}, for which there is no memory beside what is locked. --no-repack leaves them where they are."
    else:
        budget = ram - cpu.kv_cache - cpu.compute
        yield (
            f"{what}, for which there is no memory, so the system would end it. --no-repack leaves them where they"
            " are, and each token reads them from the disk. Keep a part in memory:"
            f" srd-rs hydrate {model.path.name} --intent HARM --budget {budget} --lock"
        )


def measure_bandwidth(seconds: float = 0.5, threads: int | None = None) -> float:
    """Bytes per second that so many threads together read from memory, measured on buffers larger than the caches. If
    `threads` is not given, as many as there are CPUs."""
    import numpy as np

    threads = max(threads or _core.cpus(), 1)
    size = max((256 << 20) // threads, 32 << 20) // 8
    buffers = [np.ones(size) for _ in range(threads)]
    counts = [0] * threads
    stop = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < stop:
            buffers[number].max()
            counts[number] += 1

    start = time.perf_counter()
    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) * size * 8 / (time.perf_counter() - start)
