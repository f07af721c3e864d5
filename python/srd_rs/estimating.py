"""What a conversion will cost: time, memory, disk, network and money for several numbers of machines.

`estimate` reads headers and no weight. It plans the conversion, counts the work of each kind, and divides the work by
rates: by those of this machine, which it measures with made-up weights in a few seconds, or by those of another
machine, which were measured there.

    found = srd_rs.estimate("org/name", effort="srd", nodes=(1, 4), cost_per_hour=2.5)
    for node in found.nodes:
        print(node.nodes, node.seconds, node.cost)

`srd_rs.costs` counts the work. What is left out is named in `Estimate.assumed`.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from srd_rs import _core, calibration, conversion, effects, hub, sniff
from srd_rs.costs import (
    LONGEST_ROW,
    MAX_CALIBRATIONS,
    NETWORK,
    SHARED_INPUTS,
    SUPER_BLOCK,
    Rates,
    Work,
    count,
)
from srd_rs.errors import FormatError, UsageError, message
from srd_rs.options import ConvertOptions, StrPath, bytes_of, changed
from srd_rs.planning import NativeModel, Planner, calibration_file, calibration_text, native_plan
from srd_rs.text import bytes_text, count_text, duration_text, printable

NODES: Final = (1, 4, 16)
"""The numbers of machines that are planned by default."""
_ROWS: Final = (16, 144)
"""Rows that are quantized to measure SRD: the difference is the cost of the rows, the rest that of the matrix."""
_DIRECTIONS: Final = 64
"""Directions that explain most of made-up inputs."""
_DISK_PROBE: Final = 64 << 20
_TOKENS: Final = (32, 512)
"""Tokens of the two calibrations that are measured: the difference is the cost of the tokens, the rest that of the
weights."""
_PROBE_WIDTHS: Final = (256, 1024)
"""The smallest and the largest width of the made-up model: small matrices are less efficient than large ones."""
_PROBE_LAYERS: Final = 2
_BIGGEST_HEADER: Final = 1 << 30


@dataclass(frozen=True)
class NodeEstimate:
    """What the conversion takes on a number of machines. `cost` is None where no price was given."""

    nodes: int
    seconds: float
    download_seconds: float
    calibrate_seconds: float
    convert_seconds: float
    cost: float | None


@dataclass(frozen=True, repr=False)
class Estimate:
    """What a conversion will cost. `memory_bytes` is the most that each machine needs. `measured` and `assumed` are
    sentences that say where the numbers come from."""

    arch: str
    quant: str
    effort: str
    n_weights: int
    source_bytes: int
    output_bytes: int
    tokens: int
    block: int
    calibration_bytes: int
    memory_bytes: int
    disk_bytes: int
    network_bytes: int
    cpu_seconds: float
    planning_seconds: float
    nodes: tuple[NodeEstimate, ...]
    rates: Rates
    measured: tuple[str, ...]
    assumed: tuple[str, ...]

    def __repr__(self) -> str:
        times = ", ".join(f"{duration_text(n.seconds)} on {n.nodes}" for n in self.nodes)
        size = f"{count_text(self.n_weights)} weights, {bytes_text(self.output_bytes)}"
        what = f"{printable(self.arch)}, {printable(self.quant)} by effort {self.effort}, {size}"
        return f"<Estimate {what}: {times}>"

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


def estimate(
    model: StrPath,
    output: StrPath | None = None,
    options: ConvertOptions | None = None,
    *,
    nodes: Sequence[int] = NODES,
    cost_per_hour: float | None = None,
    rates: Rates | None = None,
    network: float | str | None = None,
    disk: float | str | None = None,
    **changes: Any,
) -> Estimate:
    """What `srd_rs.convert` with the same arguments will cost. Reads headers, and no weight.

    model: as for `convert`; a model on the hub is not downloaded. The safetensors files of a folder may be cut off
        behind their headers.
    nodes: numbers of machines. The machines are alike, and share a file system.
    cost_per_hour: the price of one machine.
    rates: what a machine does, as `rates_from` reads it. The default is to measure this machine, which writes a file of
        64 MB into the folder of the output and removes it.
    network, disk: bytes a second of one machine (numbers, or texts such as ``"125MB"``), instead of those of the rates.

    Raises the errors of `srd_rs.plan`, and UsageError where the rates were measured for other types.

        >>> cost = srd_rs.estimate("path/to/model", effort="fast", nodes=[1, 4])
        >>> cost.output_bytes, [node.nodes for node in cost.nodes]
        (10192864, [1, 4])
    """
    chosen = changed(options, changes)
    if not nodes or min(nodes) < 1:
        raise UsageError(message("nodes", "a conversion needs one machine or more", "Pass 1 or more"))
    if calibration_file(chosen) is not None or chosen.budget is not None:
        what = "the cost of a budget and of a calibration file is not estimated"
        fix = "Leave the option out; a budget costs about as much as a conversion"
        raise UsageError(message("plan", what, fix))
    begin, cpu = time.perf_counter(), sum(os.times()[:4])
    source = hub.headers(model)
    local = source.remote is None
    effects.refuse(
        (local and network is not None, "--network-rate", "the model is on this machine"),
        (local and chosen.stream, "--stream", "the model is on this machine"),
    )
    with _whole_files(source) as whole:
        planner = Planner(whole, output, chosen)
        native = planner.plan()
        request = None
        weigh_tokens = False if planner.options.effort == "max" else chosen.weigh_tokens
        if (text := calibration_text(planner.options)) is not None:
            request = calibration.requested(
                NativeModel(whole.path, native), planner.gguf, named=False, text=text,
                tokens=chosen.calibrate_tokens, ctx=None, block=chosen.calibrate_block, seed=chosen.seed,
                weigh_tokens=weigh_tokens, threads=chosen.threads, max_memory=chosen.max_memory, overwrite=False,
            )  # fmt: skip
        work = count(native, None if request is None else request.size)
        base = _resident_bytes()
    planning = time.perf_counter() - begin, sum(os.times()[:4]) - cpu
    measured: list[str] = []
    if rates is None:
        rates = measure_rates(work, planner.options, request, planner.gguf.parent, measured)
    else:
        _check_rates(rates, work, planner.options, request)
        measured.append("The rates were given: they were measured on another machine, or by an earlier run.")
    if network is not None:
        rates = replace(rates, network=bytes_of("network", network) or rates.network)
    if disk is not None:
        rate = bytes_of("disk", disk)
        rates = replace(rates, disk_read=rate, disk_write=rate)
    if min(rates.disk_read, rates.disk_write, rates.network) <= 0:
        what = "the disk or the network has a rate of 0, so that the conversion never ends"
        raise UsageError(message("rates", what, "State the rates with --disk-rate and --network-rate"))
    return _estimate(planner, native, source, request, work, rates, nodes, cost_per_hour, base, planning, measured,
                     given=(network is not None, disk is not None))  # fmt: skip


def rates_from(path: StrPath) -> Rates:
    """The rates in a JSON file: what `srd-rs plan --json` printed, or its object `rates`."""
    fix = "Name what srd-rs plan --json has printed"
    found = sniff.read_object(Path(path), "a file of rates", fix)
    found = found.get("rates", found)
    try:
        rates = Rates(**found)
        numbers = [rates.threads, rates.copy, rates.product, rates.decode, rates.disk_read, rates.disk_write]
        numbers += [rates.network, *rates.search.values(), *rates.rows.values(), *rates.columns.values()]
        is_sound = 1 <= rates.threads <= 1 << 20 and all(
            isinstance(n, (int, float)) and 0 <= n <= 1e30 for n in numbers
        )
    except (TypeError, AttributeError):
        is_sound = False
    if not is_sound:
        raise FormatError(message(path, "these are no rates", fix))
    return rates


def _estimate(
    planner: Planner,
    native: _core.Plan,
    source: hub.Source,
    request: calibration.Request | None,
    work: Work,
    rates: Rates,
    nodes: Sequence[int],
    cost_per_hour: float | None,
    base: int,
    planning: tuple[float, float],
    measured: list[str],
    *,
    given: tuple[bool, bool],
) -> Estimate:
    options = planner.options
    threads = options.threads or rates.threads
    is_max = options.effort == "max"
    calibrating, converting = (
        work.calibrating(rates) * (MAX_CALIBRATIONS if is_max else 1),
        work.converting(rates),
    )
    read = native.source_bytes
    written = native.total_bytes + (native.container.bytes if native.container else 0)
    is_remote = source.remote is not None
    streamed = is_remote and options.stream
    # What is read a second time, after the calibration.
    again = read
    if request is not None and conversion.reads_once(planner, native):
        again = read * _table_weights(native) // native.n_weights
    # Tokens are weighed on the way to the output and back.
    calibrates = 0 if request is None else MAX_CALIBRATIONS if is_max else 1 + 2 * request.weigh_tokens
    passes = calibrates * read + again + (read if native.container is not None else 0)
    network = 0 if not is_remote else passes if streamed else read
    reading_rate = rates.network if streamed else rates.disk_read
    download = read / rates.network if is_remote and not streamed else 0.0
    kept = work.calibration_bytes if request else 0
    disk = written + kept + (read if is_remote and not streamed else 0)
    found = []
    for n in nodes:
        share = 1.0
        if request is not None and not is_max:
            share = _share(native, min(n, len(request.tokens)), streamed=streamed)
        calibrate = max(share * calibrating / threads, calibrates * read / reading_rate)
        shares = (n * reading_rate, n * rates.disk_write)
        moved = (
            max(again / shares[0], written / shares[1])
            if streamed
            else read / shares[0] + written / shares[1]
        )
        convert = max(converting / (threads * n), moved)
        seconds = planning[0] + download + calibrate + convert
        cost = None if cost_per_hour is None else cost_per_hour * n * seconds / 3600
        found.append(NodeEstimate(n, seconds, download, calibrate, convert, cost))
    return Estimate(
        arch=native.arch,
        quant=native.quant,
        effort=options.effort or "fast",
        n_weights=native.n_weights,
        source_bytes=read,
        output_bytes=written,
        tokens=request.n_tokens if request else 0,
        block=request.block if request else 0,
        calibration_bytes=kept,
        memory_bytes=base + options.max_memory + (work.layer_bytes + _FACTORS if request else 0),
        disk_bytes=disk,
        network_bytes=network,
        cpu_seconds=planning[1] + calibrating + converting,
        planning_seconds=planning[0],
        nodes=tuple(found),
        rates=rates,
        measured=tuple(measured),
        assumed=tuple(
            _assumptions(rates, threads, is_remote, bool(request), max(nodes), given, is_max=is_max)
        ),
    )


def _share(native: _core.Plan, machines: int, *, streamed: bool) -> float:
    """The share of the time of one machine that `machines` take for a calibration. Each machine is a layer behind the
    machine before it, see `srd_rs.cluster`."""
    if streamed and any(t.name == _core.PER_LAYER_TABLE for t in native.tensors):
        return 1.0
    steps = 1 + len({t.name.split(".")[1] for t in native.tensors if t.name.startswith("blk.")})
    return (steps + machines - 1) / (steps * machines)


def _table_weights(native: _core.Plan) -> int:
    """The weights of tensors outside of the layers that are no output matrix: the tables of tokens."""
    tables = (t for t in native.tensors if not t.name.startswith("blk.") and t.name != "output.weight")
    return sum(t.n_weights for t in tables)


_FACTORS: Final = 256 << 20
"""Bytes of factorized moments that effort srd keeps."""


def _assumptions(
    rates: Rates,
    threads: int,
    is_remote: bool,
    calibrates: bool,
    most: int,
    given: tuple[bool, bool],
    *,
    is_max: bool,
) -> Iterator[str]:
    network, disk = given
    if is_remote and not network and rates.network == NETWORK:
        yield "The network brings 1 Gbit/s to each machine (--network-rate says another rate)."
    if disk:
        yield "The disk reads and writes at the rate that was given."
    if threads != rates.threads:
        yield f"The speed grows with the threads: the rates are those of {rates.threads}, the plan is for {threads}."
    if most > 1:
        yield "The machines are alike, and the file system that they share serves all of them at full speed."
        if is_max:
            yield "One machine calibrates alone, as effort max asks."
        elif calibrates:
            yield "The machines calibrate together: each computes a layer when the machine before it has computed it."
    yield "Nothing else runs on the machine. The memory is a limit from above; the conversion may need less."
    if is_max:
        yield f"Effort max costs {MAX_CALIBRATIONS} times the calibration of effort srd, which is one of them."
    if calibrates:
        yield "Experts cost what dense matrices cost, for the tokens that reach them."


def _check_rates(
    rates: Rates, work: Work, options: ConvertOptions, request: calibration.Request | None
) -> None:
    fix = "Measure on that machine with the same model and options: srd-rs plan --json"
    missing = [name for name in work.search if name not in rates.search]
    missing += [name for name in work.rows if not (name in rates.rows and name in rates.columns)]
    if missing:
        raise UsageError(message("rates", f"the rates know no {', '.join(sorted(set(missing)))}", fix))
    wanted = (request.block, options.srd.beam_width) if request else None
    if wanted is not None and wanted != (rates.block, rates.beam_width):
        what = f"the rates are for blocks of {rates.block} and a beam of {rates.beam_width}, not for {wanted}"
        raise UsageError(message("rates", what, fix))


def measure_rates(
    work: Work,
    options: ConvertOptions,
    request: calibration.Request | None,
    folder: Path,
    measured: list[str],
) -> Rates:
    """The rates of this machine, for the kinds of work that there are."""
    begin = time.perf_counter()
    threads = options.threads or _core.cpus()
    random = np.random.default_rng(0)
    # Rows of whole super-blocks can have every type of the plan.
    n = -(-min(work.row_length, LONGEST_ROW) // SUPER_BLOCK) * SUPER_BLOCK
    weights = (random.standard_normal((max(_ROWS), n)) * 0.02).astype(np.float32)
    values = random.standard_normal((64, LONGEST_ROW)).astype(np.float32) * 0.02
    search = {
        name: _cpu(partial(_core.quantize, values, name), threads) / values.size for name in work.search
    }
    rows: dict[str, float] = {}
    columns: dict[str, float] = {}
    product = decode = 0.0
    if request is not None:
        moments = _moments(n, min(request.block or n, n))
        for name in work.rows:
            few, many = (
                _cpu(partial(_core.quantize_calibrated, weights[:r], name, moments, options.srd, 0), threads)
                for r in _ROWS
            )
            each = max((many - few) / (_ROWS[1] - _ROWS[0]) / n, 1e-12)
            rows[name], columns[name] = each, max(few / n - _ROWS[0] * each, 0.0)
        product, decode = _calibration_rates(work.width, request, threads)
    source = values.astype(np.float16)
    copy = _cpu(source.copy, threads) / source.size
    disk_read, disk_write = _disk_rates(folder)
    seconds = time.perf_counter() - begin
    measured.append(
        f"The CPU was measured on this machine with {threads} thread{'s' * (threads != 1)} and made-up weights of the"
        f" types of the plan, the disk in the folder of the output; that took {seconds:.1f} s."
    )
    return Rates(
        threads=threads,
        search=search,
        rows=rows,
        columns=columns,
        block=request.block if request else None,
        beam_width=options.srd.beam_width if request else None,
        copy=copy,
        product=product,
        decode=decode,
        disk_read=disk_read,
        disk_write=disk_write,
    )


def _cpu(work: Callable[[], object], threads: int, least: float = 0.05) -> float:
    """CPU seconds of one call while all threads are busy with the same. The best of two, because others may run."""
    work()
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(2):
            calls, begin = 0, time.process_time()
            while calls == 0 or time.process_time() - begin < least:
                list(pool.map(lambda _: work(), range(threads)))
                calls += threads
            found.append((time.process_time() - begin) / calls)
    return min(found)


def _moments(n: int, block: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Second moments of made-up inputs, in diagonal blocks. A few directions explain most of the inputs, as in a model:
    inputs that do not correlate would cost a quarter of the time, because noise gains nothing there."""
    random = np.random.default_rng(1)
    strengths = np.arange(1, _DIRECTIONS + 1) ** -0.5
    tokens = 8 * _DIRECTIONS
    inputs = (random.standard_normal((tokens, _DIRECTIONS)) * strengths) @ random.standard_normal(
        (_DIRECTIONS, n)
    )
    inputs += 0.1 * random.standard_normal((tokens, n))
    made = []
    for start in range(0, n, block):
        part = inputs[:, start : start + block]
        square = part.T @ part / tokens + 1e-4 * np.eye(part.shape[1])
        made.append(np.pad(square, ((0, 0), (0, block - square.shape[1]))))
    joined: np.ndarray[Any, np.dtype[np.float32]] = np.concatenate(made).astype(np.float32)
    return joined


def _calibration_rates(width: int, request: calibration.Request, threads: int) -> tuple[float, float]:
    """CPU seconds of a product and of a weight, from calibrations of a made-up model with few and with more tokens."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        smallest, largest = _PROBE_WIDTHS
        _write_probe(folder, min(max(width // 256 * 256, smallest), largest))
        options = ConvertOptions(quant="F32", pre_tokenizer="gpt-2", effort="fast")
        native = NativeModel(folder, native_plan(hub.Source(folder), folder / "probe.gguf", options))
        costs, block = [], request.block
        for tokens in _TOKENS:
            found = []
            for _ in range(2):
                begin = time.process_time()
                calibration.measure(
                    native, folder / "probe.gguf", named=False, text="random", tokens=tokens,
                    ctx=min(tokens, request.ctx), block=block, weigh_tokens=False, threads=threads,
                )  # fmt: skip
                found.append(time.process_time() - begin)
            costs.append(min(found))
        made = [t for t in native.plan.tensors if t.name.startswith("blk.") and len(t.shape) > 1]
        inputs = [t for t in made if not SHARED_INPUTS.search(t.name)]
        weights = sum(t.n_weights for t in made)
        squares = sum(t.shape[0] * min(block or t.shape[0], t.shape[0]) for t in inputs) / 2
    product = max((costs[1] - costs[0]) / (_TOKENS[1] - _TOKENS[0]) / (weights + squares), 1e-14)
    decode = max((costs[0] - product * _TOKENS[0] * (weights + squares)) / weights, 0.0)
    return product, decode


def _write_probe(folder: Path, width: int) -> None:
    """A made-up Llama model of a width, with a small vocabulary."""
    inner, layers = 3 * width, _PROBE_LAYERS
    vocab = {name: i for i, name in enumerate(["<s>", "</s>", *map(chr, range(33, 127)), "ab"])}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64, "rms_norm_eps": 1e-6, "vocab_size": len(vocab),
        "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    special = [
        {"id": vocab[name], "content": name, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for name in ("<s>", "</s>")
    ]  # fmt: skip
    tokenizer = {
        "version": "1.0", "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    shapes = {"model.embed_tokens.weight": (len(vocab), width), "model.norm.weight": (width,)}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        shapes |= {f"{block}.mlp.{part}_proj.weight": (inner, width) for part in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj.weight"] = (width, inner)
        shapes |= {f"{block}.{part}_layernorm.weight": (width,) for part in ("input", "post_attention")}
    random, header, data, at = np.random.default_rng(2), {}, [], 0
    for name, shape in shapes.items():
        made = random.standard_normal(shape, dtype=np.float32) * 0.02
        # The upper half of a float32 is the bfloat16 that is nearest towards zero.
        data.append((made.view(np.uint32) >> 16).astype("<u2").tobytes())
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(data[-1])]}
        at += len(data[-1])
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def _disk_rates(folder: Path) -> tuple[float, float]:
    """Bytes a second that the disk of a folder reads and writes. Where the system keeps what was written in memory and
    cannot be told to forget it, the rate of reading is that of writing."""
    data = np.random.default_rng(3).bytes(1 << 20)
    folder = folder if folder.is_dir() else Path.cwd()
    with tempfile.TemporaryFile(dir=folder) as file:
        begin = time.perf_counter()
        for _ in range(_DISK_PROBE // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        write = _DISK_PROBE / (time.perf_counter() - begin)
        if not hasattr(os, "posix_fadvise"):
            return write, write
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begin = time.perf_counter()
        while file.read(len(data)):
            pass
        return _DISK_PROBE / (time.perf_counter() - begin), write


def _resident_bytes() -> int:
    """The most memory that this process has had, 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def _whole_files(source: hub.Source) -> Iterator[hub.Source]:
    """The model, whose safetensors files may be cut off behind their headers: then a folder with the same small files,
    and with files that have the right sizes and take no space on the disk."""
    is_here = source.path.is_dir() and source.remote is None
    shards = sorted(source.path.glob("*.safetensors")) if is_here else []
    if not all(shard.is_file() for shard in shards):  # a pipe, whose reader says what it is
        shards = []
    sizes = {shard: _size_in_header(shard) for shard in shards}
    if all(size is None or shard.stat().st_size >= size for shard, size in sizes.items()):
        yield source
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / source.path.resolve().name
        folder.mkdir()
        for path in hub.model_files(source.path):
            copy = folder / path.relative_to(source.path)
            copy.parent.mkdir(exist_ok=True)
            # A link stays a link, which the reader refuses where it leaves the folder.
            shutil.copy(path, copy, follow_symlinks=False)
        for shard, size in sizes.items():
            with shard.open("rb") as from_, (folder / shard.name).open("wb") as to:
                if size is not None:
                    to.write(from_.read(8 + _header_length(shard)))
                    to.truncate(size)
        yield replace(source, path=folder)


def _header_length(shard: Path) -> int:
    with shard.open("rb") as file:
        start = file.read(8)
    return struct.unpack("<Q", start)[0] if len(start) == 8 else 0


def _size_in_header(shard: Path) -> int | None:
    """The size that a safetensors file must have, None where the header cannot be read: the reader says why."""
    length = _header_length(shard)
    if not 0 < length <= min(shard.stat().st_size, _BIGGEST_HEADER):
        return None
    with shard.open("rb") as file:
        file.seek(8)
        text = file.read(length)
    try:
        entries = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0) if all(isinstance(end, int) for end in ends) else None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
