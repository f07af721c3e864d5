"""Calibration: measures the inputs of the matrices of a model on a few thousand tokens.

`srd_rs.calibrate` writes a calibration file. `srd_rs.convert` takes such a file, or makes a calibration for itself.

    srd_rs.calibrate("path/to/model", "model.calib", tokens=8192)
    srd_rs.convert("path/to/model", calibrate="model.calib", effort="srd")
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import signal
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeAlias

from srd_rs import _core, cache, effects, sniff
from srd_rs.checkpoint import layout
from srd_rs.costs import Size
from srd_rs.encoders import is_encoder
from srd_rs.errors import FormatError, ModelError, SrdError, SrdIOError, UsageError, message
from srd_rs.hub import locate, model_files
from srd_rs.options import ConvertOptions, bytes_of
from srd_rs.planning import NativeModel, native_model
from srd_rs.progress import counting
from srd_rs.reading import shown

log = logging.getLogger("srd_rs.calibration")

DEFAULT_CTX: Final = 512
"""Default number of tokens of a chunk. Encoders get chunks of `ENCODER_CTX` tokens, because encoders read short texts,
and the inputs of the matrices depend on the length."""
ENCODER_CTX: Final = 64
TOKENS: Final = (8192, 16384)
"""Smallest and largest default number of tokens."""
TOKENS_TIMES_WEIGHTS: Final = 10**13
"""The default number of tokens is this product divided by the weights, because the time of the forward pass grows with
both."""
WEIGHED_TOKENS: Final = 8192
"""Default number of tokens where they are weighed: half of the largest number, because they take four times as long."""
MOST_WEIGHTS: Final = 2_500_000_000
"""The tokens of larger models are weighed only when that is asked for: the calibration would take hours on a laptop."""
BLOCKS: Final = (256, 2048)
"""Smallest and largest default number of columns of a block of the second moments H."""
BLOCK_TIMES_WEIGHTS: Final = 8 * 10**12
"""The default block is this product divided by the weights, because the time of the solver and the bytes of the
calibration grow with both."""
MAX_LAYER_BYTES: Final = 512 << 20
"""The default block is so small that the sums of a layer take no more than this. Only mixtures of experts reach it."""
TOKENS_PER_SIDE: Final = 4
"""Least number of tokens for each column of a block: with fewer tokens H describes the tokens, not the text."""
EXCERPTS_BYTES: Final = 450_000
"""Bytes of a text that are tokenized, unless more tokens are asked for. The bundled text has fewer."""
BYTES_PER_TOKEN: Final = 16
"""Bytes of a text that are tokenized for each token that is asked for. English has about 4 bytes in a token."""
N_EXCERPTS: Final = 32
"""Number of the excerpts of a longer text."""
TOKENIZER_SECONDS: Final = 30
"""CPU time that a tokenizer.json gets for a short text."""
_BUILTIN: Final = "builtin.txt.gz"
_RANDOM_HINT: Final = "Use --calibrate random (srd-rs calibrate: --text random), which needs no tokenizer"
_SPECIAL_TYPES: Final = (2, 3, 5)
"""Values of `tokenizer.ggml.token_type` that random tokens leave out: unknown, control and unused."""
_READ_KEYS: Final = (".context_length", ".attention.causal")
"""The ends of the metadata keys beside those of the tokenizer that the choice of the tokens depends on."""
_BOS_KINDS: Final = ("llama", "gemma4")


@dataclass(frozen=True)
class CalibrationReport:
    """A written calibration file. `digest` identifies the contents; `tensors` counts the tensors with known inputs.
    `weighed` says whether tokens count by the length of their gradients."""

    path: Path
    digest: str
    text: str
    tokens: int
    chunks: int
    tensors: int
    weighed: bool
    imatrix: Path | None = None


@dataclass(frozen=True)
class Tokens:
    """Chunks of token ids, the name of the text that they come from, and the SHA-256 of the text."""

    chunks: list[list[int]]
    text: str
    sha256: str | None


def calibrate(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    text: str | os.PathLike[str] = "builtin",
    tokens: int | None = None,
    ctx: int | None = None,
    block: int | None = None,
    weigh_tokens: bool | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    max_memory: int | str = _core.DEFAULT_CALIBRATION_MEMORY,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | bool | None = None,
) -> CalibrationReport:
    """Run `model` on calibration tokens and write the second moments of its matrices' inputs to `output`.

    model: a checkpoint folder or a GGUF, as for `convert`.
    text: ``"builtin"`` (a bundled text in many languages), ``"random"`` (token ids) or the name of a UTF-8 file.
    tokens, ctx: how many tokens, in chunks of `ctx` that do not see each other, spread evenly over the text; of the
        bundled text, every beginning of which has all of its kinds, they are the first ones. By default
        8192 tokens where they are weighed, otherwise 8192 to 16384, the more the smaller the model, in chunks of 512,
        or of 64 for an encoder.
    block: side of the diagonal blocks of H, a multiple of 256; 0 for all of H. By default 256 to 2048, the larger the
        smaller the model.
    weigh_tokens: let a token count by how much errors at it change the model's answer (its gradient), which takes four
        times as long. By default the tokens of dense decoders of up to 2.5 G weights are weighed, whose derivatives are
        known.
    imatrix: also write the diagonals as a llama.cpp imatrix (GGUF).
    The calibration is kept in the cache as that of `convert` is: one that is interrupted goes on, and `output` is a
        copy of one that is there.
    seed: of random tokens, and of the tokens that the model draws to weigh tokens. threads: any number gives the same
        bytes. max_memory: bytes of weights and states alive.
    progress: True shows a bar. A function is called about 20 times a second with tokens done and to do; a layer
        counts its part of each token.

    Raises the errors of `convert`.

        >>> report = srd_rs.calibrate("path/to/model", "model.calib", text="random", tokens=64, ctx=64)
        >>> srd_rs.plan("path/to/model", calibrate=report.path).effort
        'srd'
    """
    sniff.check_output(Path(output), replaces=("calibration",))
    if imatrix is not None:
        sniff.check_output(Path(imatrix), replaces=("imatrix",))
    source = locate(model)
    folder = source.path
    inputs = model_files(folder) if folder.is_dir() else [folder]
    inputs += [] if text in ("builtin", "random") else [Path(text)]
    outputs = [Path(path) for path in (output, imatrix) if path is not None]
    sniff.check_new(outputs, inputs, overwrite)
    native = native_model(source, Path(output))
    drawn = text == "random" or weighs(native.plan, weigh_tokens, ctx or DEFAULT_CTX)
    effects.refuse((not drawn and seed != 0, "--seed", "only random and weighed tokens depend on the seed"))
    asked: dict[str, Any] = {
        "text": text, "tokens": tokens, "ctx": ctx, "block": block, "seed": seed, "threads": threads,
        "max_memory": bytes_of("max_memory", max_memory), "weigh_tokens": weigh_tokens,
    }  # fmt: skip
    with counting(progress) as tell:
        if cache.folder() is None:
            made = measure(native, Path(output), named=True, overwrite=overwrite, progress=tell, **asked)
        else:
            made, _ = measure_or_find(native, Path(output), progress=tell, **asked)
            made.copy_to(output, overwrite)
    if imatrix is not None:
        made.write_imatrix(imatrix, overwrite)
    return CalibrationReport(
        path=Path(output),
        digest=made.digest,
        text=made.text,
        tokens=made.tokens,
        chunks=made.chunks,
        tensors=len(made.tensors),
        weighed=made.weighed,
        imatrix=None if imatrix is None else Path(imatrix),
    )


@dataclass(frozen=True)
class Request:
    """What the native module is to measure: the tokens, where they come from, and where the result goes."""

    tokens: list[list[int]]
    text: str
    text_sha256: str | None
    seed: int
    ctx: int
    block: int
    source_digest: str
    output: Path
    named: bool
    kept: bool
    overwrite: bool
    threads: int | None
    max_memory: int
    weigh_tokens: bool

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.tokens))

    @property
    def size(self) -> Size:
        return Size(self.n_tokens, self.block, _batches(len(self.tokens)) if self.weigh_tokens else 0)


@dataclass
class Output:
    """An output whose matrices are quantized layer by layer while the calibration has their weights, so that weights
    which come over the network are read once. `written` is what was written of it."""

    options: ConvertOptions
    resume: tuple[str, str]
    written: _core.Written | None = None


Machines: TypeAlias = Callable[
    [NativeModel, Request, Callable[[int, int], None] | None], _core.Calibration | None
]
"""Makes a calibration on several machines; None where one machine is to make it."""


def measure(
    native: NativeModel,
    output: Path,
    *,
    named: bool,
    text: str | os.PathLike[str],
    tokens: int | None = None,
    ctx: int | None = None,
    block: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    max_memory: int = _core.DEFAULT_CALIBRATION_MEMORY,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    options: ConvertOptions | None = None,
    quantized: Output | None = None,
    machines: Machines | None = None,
    weigh_tokens: bool | None = None,
) -> _core.Calibration:
    """The native calibration of a planned model; without `named` it lies beside `output` without a name.

    With `options`, those of effort max, it also holds the matrices, quantized to the types of the plan. With
    `quantized` the matrices are quantized into this output of the plan. `machines` make it together.
    """
    request = requested(
        native, output, named=named, text=text, tokens=tokens, ctx=ctx, block=block, seed=seed, threads=threads,
        max_memory=max_memory, overwrite=overwrite, weigh_tokens=weigh_tokens if options is None else False,
    )  # fmt: skip
    tell = _in_tokens(progress, request.n_tokens)
    return _made(native, request, tell, options, quantized, machines)


def _made(
    native: NativeModel,
    request: Request,
    tell: Callable[[int, int], None] | None,
    options: ConvertOptions | None,
    quantized: Output | None,
    machines: Machines | None,
) -> _core.Calibration:
    """A new calibration."""
    if machines is not None and options is None and quantized is None:
        made = machines(native, request, tell)
        if made is not None:
            return made
    if quantized is None:
        return _core.calibrate(native.plan, request, tell, options)
    made, quantized.written = _core.calibrate_and_quantize(
        native.plan, request, quantized.options, quantized.resume, tell
    )
    return made


def measure_or_find(
    native: NativeModel,
    output: Path,
    *,
    text: str | os.PathLike[str],
    tokens: int | None,
    block: int | None,
    seed: int,
    threads: int | None,
    max_memory: int,
    progress: Callable[[int, int], None] | None,
    ctx: int | None = None,
    options: ConvertOptions | None = None,
    is_local: bool = True,
    stated: Sequence[Any] = (),
    quantized: Output | None = None,
    machines: Machines | None = None,
    weigh_tokens: bool | None = None,
) -> tuple[_core.Calibration, bool]:
    """The native calibration of a planned model, and whether it was found in the cache.

    A new one is kept in the cache; where that is not possible, it lies beside `output` without a name. It is found
    again by the contents of all files of the model, the tokens and the options, so a model that has changed in any bit
    is measured again. Where all weights come from the files of the model (`is_local`), the files are read for that
    once: while no file changes, a note in the cache says what was found. Of weights that stay on the hub, `stated` is
    what identifies them.
    """
    weigh_tokens = weigh_tokens if options is None else False
    asked = {
        "text": os.fspath(text), "tokens": tokens, "ctx": ctx, "block": block, "seed": seed, "weighed": weigh_tokens,
    }  # fmt: skip
    states = None
    if is_local and cache.folder() is not None:
        states = _states(native, text, asked, options)
    note = None if states is None else cache.remembered(states)
    if note is None:
        request = requested(
            native, output, named=False, text=text, tokens=tokens, ctx=ctx, block=block, seed=seed, threads=threads,
            max_memory=max_memory, overwrite=False, weigh_tokens=weigh_tokens,
        )  # fmt: skip
    else:
        request = Request(
            **note["request"], source_digest=native.source_digest or "", seed=seed, output=output, named=False,
            kept=False, overwrite=False, threads=threads, max_memory=max_memory,
        )  # fmt: skip
    tell = _in_tokens(progress, request.n_tokens)
    if cache.folder() is None:
        return _made(native, request, tell, options, quantized, machines), False
    key = cache.key(_facts(native, request, options, stated)) if note is None else note["key"]
    # A file that was changed meanwhile may have been read before or after the change.
    if note is None and states is not None and states == _states(native, text, asked, options):
        made_from = {name: getattr(request, name) for name in _NOTED}
        cache.remember(states, {"key": key, "request": made_from})
    found = cache.find(key)
    if found is not None:
        try:
            return _core.open_calibration(found, kept=True), True
        except SrdError:
            log.warning("%s: the kept calibration cannot be read and is made again", found)
    place = cache.place(key)
    if place is not None:
        try:
            kept = replace(request, output=place, named=True, kept=True, overwrite=True)
            made = _made(native, kept, tell, options, quantized, machines)
        except SrdIOError as error:
            if error.filename is None or Path(error.filename).parent != place.parent:
                raise
            log.warning("%s: the calibration cannot be kept: %s", place.parent, error.strerror or error)
        else:
            cache.trim()
            return made, False
    return _made(native, request, tell, options, quantized, machines), False


def _facts(
    native: NativeModel, request: Request, options: ConvertOptions | None, stated: Sequence[Any]
) -> dict[str, Any]:
    """All that a calibration depends on."""
    tokens = hashlib.sha256()
    for chunk in request.tokens:
        tokens.update(array("q", [len(chunk), *chunk]).tobytes())
    files = model_files(native.model) if stated else _files(native.model)
    return {
        "model": _core.content_digest(files),
        **({"stated": list(stated)} if stated else {}),
        "source": request.source_digest,
        "tokens": tokens.hexdigest(),
        "text": [request.text, request.text_sha256],
        "seed": request.seed,
        "ctx": request.ctx,
        "block": request.block,
        "weighed": request.weigh_tokens,
        **_facts_of_keys(native),
        **({} if options is None else _facts_of_max(native.plan, options)),
    }


def _facts_of_keys(native: NativeModel) -> dict[str, Any]:
    """The keys that the user states and that may change how the model runs."""
    keys = {k: v for k, v in (native.replaced or {}).items() if not k.startswith("general.")}
    return {"replaced": keys} if keys else {}


def _facts_of_max(plan: _core.Plan, options: ConvertOptions) -> dict[str, Any]:
    """What the quantized matrices depend on beside the inputs."""
    return {"types": [[t.name, t.type] for t in plan.tensors], "srd": asdict(options.srd)}


_NOTED: Final = ("tokens", "text", "text_sha256", "ctx", "block", "weigh_tokens")
"""The fields of a `Request` that the files of the model and the text decide."""


def _states(
    native: NativeModel,
    text: str | os.PathLike[str],
    asked: Mapping[str, Any],
    options: ConvertOptions | None,
) -> dict[str, Any] | None:
    """What decides a calibration, as `_facts`, but with the identities of the files in the place of their contents.

    None where a file has no identity that can be relied on.
    """
    texts = {"random": [], "builtin": [Path(__file__).with_name("data") / _BUILTIN]}
    files = [*_files(native.model), *texts.get(os.fspath(text), [Path(text)])]
    identities = [_core.file_identity(path) for path in files]
    if None in identities:
        return None
    read = [
        (key, value)
        for key, _, value in native.metadata()
        if key.startswith(("tokenizer.", "general.architecture")) or key.endswith(_READ_KEYS)
    ]
    return {
        **asked,
        "files": [[os.fspath(path.resolve()), found] for path, found in zip(files, identities, strict=True)],
        "source": native.source_digest,
        "metadata": hashlib.sha256(repr(read).encode()).hexdigest(),
        **_facts_of_keys(native),
        **({} if options is None else _facts_of_max(native.plan, options)),
    }


def _files(model: Path) -> list[Path]:
    """All files of a model."""
    if model.is_dir():
        shards = {tensor.shard for tensor in layout(model)}
        return [*model_files(model), *(model / shard for shard in sorted(shards))]
    return [Path(part) for part, _ in _core.read_gguf(model, 0)["parts"]]


def requested(
    native: NativeModel,
    output: Path,
    *,
    named: bool,
    text: str | os.PathLike[str],
    tokens: int | None,
    ctx: int | None,
    block: int | None,
    seed: int,
    threads: int | None,
    max_memory: int,
    overwrite: bool,
    weigh_tokens: bool | None,
) -> Request:
    """What is to be measured, with the defaults of the model."""
    native.plan.check_runnable()
    metadata = {key: value for key, _, value in native.metadata()}
    weights = _multiplied_weights(native.plan)
    ctx = _default_ctx(metadata) if ctx is None else ctx
    weighed = weighs(native.plan, weigh_tokens, ctx)
    tokens = _default_tokens(weights, weighed) if tokens is None else tokens
    block = _default_block(native.plan, weights, tokens) if block is None else block
    if tokens < 1 or ctx < 2 or block < 0:
        raise UsageError(message("calibration", "tokens, ctx and block must be positive", "Correct them"))
    made = choose_tokens(native.model, metadata, text, tokens, ctx, seed)
    return Request(
        tokens=made.chunks,
        text=made.text,
        text_sha256=made.sha256,
        seed=seed,
        ctx=ctx,
        block=block,
        source_digest=native.source_digest or "",
        output=output,
        named=named,
        kept=False,
        overwrite=overwrite,
        threads=threads,
        max_memory=max_memory,
        weigh_tokens=weighed,
    )


def expert_tokens(made: _core.Calibration) -> dict[int, tuple[int, ...]]:
    """For each layer with experts, the number of tokens that used each expert.

    The matrices of an expert see the same tokens, so one stack of each layer is enough.
    """
    found: dict[int, tuple[int, ...]] = {}
    for tensor in made.tensors:
        if "_exps." in tensor.name and len(tensor.tokens) > 1:
            found.setdefault(_block_of(tensor.name), tuple(tensor.tokens))
    return found


def _block_of(name: str) -> int:
    """The number of the layer in the name of a tensor of a layer, ``blk.<layer>.<rest>``."""
    return int(name.split(".")[1])


def weighs(plan: _core.Plan, asked: bool | None, ctx: int = DEFAULT_CTX) -> bool:
    """Whether the tokens of a calibration in chunks of `ctx` are weighed; `asked` is what the user says."""
    if asked is not None:
        return asked
    is_small = _multiplied_weights(plan) <= MOST_WEIGHTS and ctx <= _core.MAX_WEIGHED_CHUNK
    # Gemma 4 has gained nothing from weights of its tokens: decision 0020.
    gains = not any(tensor.name == _core.PER_LAYER_TABLE for tensor in plan.tensors)
    return is_small and gains and plan.has_gradient()


def default_size(plan: _core.Plan, options: ConvertOptions) -> Size:
    """What a calibration of the model takes by default."""
    weights = _multiplied_weights(plan)
    weighed = options.effort != "max" and weighs(plan, options.weigh_tokens)
    tokens = _default_tokens(weights, weighed)
    batches = _batches(-(-tokens // DEFAULT_CTX)) if weighed else 0
    return Size(tokens, _default_block(plan, weights, tokens), batches)


def _batches(chunks: int) -> int:
    """The number of batches in which the tokens of chunks are weighed."""
    return min(chunks, _core.WEIGHING_BATCHES)


def _multiplied_weights(plan: _core.Plan) -> int:
    """Weights of matrices that inputs are multiplied with: all but the tables that are looked up."""
    matrices = [t for t in plan.tensors if len(t.shape) > 1 and not t.name.endswith("_embd.weight")]
    return max(sum(t.n_weights for t in matrices), 1)


def _default_tokens(weights: int, weighed: bool) -> int:
    return WEIGHED_TOKENS if weighed else min(max(TOKENS_TIMES_WEIGHTS // weights, TOKENS[0]), TOKENS[1])


def _default_block(plan: _core.Plan, weights: int, tokens: int) -> int:
    of_layer = max(_inputs_of_layers(plan).values(), default=1)
    by_memory = MAX_LAYER_BYTES // (4 * of_layer)
    side = min(BLOCK_TIMES_WEIGHTS // weights, tokens // TOKENS_PER_SIDE, by_memory)
    return min(max(side // BLOCKS[0] * BLOCKS[0], BLOCKS[0]), BLOCKS[1])


def _inputs_of_layers(plan: _core.Plan) -> Counter[int]:
    """For each layer the number of values in the inputs of its matrices, every expert counted. Inputs that two
    matrices share count twice."""
    values: Counter[int] = Counter()
    for tensor in plan.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
            values[_block_of(tensor.name)] += tensor.shape[0] * experts
    return values


def _default_ctx(metadata: dict[str, Any]) -> int:
    return ENCODER_CTX if is_encoder(metadata) else DEFAULT_CTX


def _in_tokens(progress: Callable[[int, int], None] | None, tokens: int) -> Callable[[int, int], None] | None:
    """A function for the native pass, which counts layers of groups of chunks."""
    if progress is None:
        return None
    return lambda done, total: progress(tokens * done // max(total, 1), tokens)


def choose_tokens(
    model: Path, metadata: dict[str, Any], text: str | os.PathLike[str], count: int, ctx: int, seed: int
) -> Tokens:
    """About `count` tokens in chunks of `ctx` (of the model's context length, if that is less).

    Each begins with BOS where the vocabulary wants one; an encoder's are [CLS] ... [SEP].
    """
    ends = _ends(metadata)
    ctx = min(ctx, _context_length(metadata) or ctx)
    n_chunks = -(-count // ctx)
    if text == "random":
        ids = _random(metadata, n_chunks * ctx, seed)
        return Tokens(_framed([ids[i * ctx :][:ctx] for i in range(n_chunks)], ends), "random", None)
    name, excerpts, sha256 = _read_excerpts(text, n_chunks * ctx)
    ids = encode(model, metadata, excerpts)
    if (
        ends[0] is not None
    ):  # as llama-imatrix: it begins the text, and takes the place of each chunk's first token
        ids.insert(0, ends[0])
    if len(ids) < 16:
        raise UsageError(message(name, f"only {len(ids)} tokens", "Name a longer text"))
    ctx = min(ctx, len(ids))
    there = len(ids) // ctx
    n_chunks = min(n_chunks, there)
    starts = [place * ctx for place in _places(there, n_chunks, text)]
    chunks = _framed([ids[start : start + ctx] for start in starts], ends)
    return Tokens(chunks, name, sha256)


def other_tokens(
    model: Path, metadata: dict[str, Any], text: str | os.PathLike[str], used: int, counts: tuple[int, ...]
) -> tuple[list[list[int]], bool]:
    """Chunks of `counts` tokens of a text that a calibration of `used` tokens leaves out, and whether that is so.

    A text that the calibration uses whole gives tokens that the calibration has seen.
    """
    ends = _ends(metadata)
    ids = encode(model, metadata, _read_excerpts(text, used)[1])
    counts = tuple(min(n, _context_length(metadata) or n, len(ids)) for n in counts)
    size = max(*counts, _default_ctx(metadata))
    there = max(len(ids) // size, 1)
    taken = min(-(-used // size), there)
    seen = set(_places(there, taken, text))
    free = [i for i in range(there) if i not in seen]
    places = free if len(free) >= len(counts) else list(range(there))
    starts = [places[(2 * i + 1) * len(places) // (2 * len(counts))] * size for i in range(len(counts))]
    chunks = [ids[start : start + n] for start, n in zip(starts, counts, strict=True)]
    return _framed(chunks, ends), places is free


def _places(there: int, taken: int, text: str | os.PathLike[str]) -> list[int]:
    """Which of the chunks of a text are taken. They are spread evenly over the text, so that few tokens still see all
    of it. Every beginning of the bundled text has all of its kinds in their shares, so its first chunks are taken."""
    return list(range(taken)) if text == "builtin" else [i * there // taken for i in range(taken)]


def read_text(text: str | os.PathLike[str]) -> tuple[str, bytes]:
    """Name and bytes of the bundled text or of a UTF-8 file."""
    if text == "builtin":
        packed = resources.files("srd_rs").joinpath("data").joinpath(_BUILTIN).read_bytes()
        return "builtin", gzip.decompress(packed)
    path = Path(text)
    return path.name, sniff.read_text(path)


def _read_excerpts(text: str | os.PathLike[str], tokens: int) -> tuple[str, str, str]:
    """Name of a text, what is read of the text for about `tokens` tokens, and the SHA-256 of the whole text."""
    name, raw = read_text(text)
    return name, excerpts(raw, tokens), hashlib.sha256(raw).hexdigest()


def excerpts(raw: bytes, tokens: int) -> str:
    """The text, if the text is short. Of a long text, excerpts that are spread evenly over the text and have `tokens`
    tokens and more: to tokenize 1 MB takes a second and 250 MB of memory. An excerpt begins with a line, if there is
    one.
    """
    room = EXCERPTS_BYTES
    while room < BYTES_PER_TOKEN * tokens:
        room *= 2
    if len(raw) <= room:
        return raw.decode("utf-8")
    size, parts = room // N_EXCERPTS, []
    for i in range(N_EXCERPTS):
        start = len(raw) * i // N_EXCERPTS
        line = raw.find(b"\n", start, start + size // 2) + 1 if i else 0
        part = raw[max(start, line) : start + size]
        # An excerpt may cut a character at both ends; the text itself was checked.
        parts.append(part[: part.rfind(b"\n", len(part) // 2) + 1 or len(part)].decode("utf-8", "ignore"))
    return "".join(parts)


def encode(model: Path, metadata: dict[str, Any], text: str) -> list[int]:
    """Token ids of a text: by the checkpoint's own tokenizer.json, else by the vocabulary that a GGUF has or will have.

    Special tokens in the text count as text.
    """
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        fix = f"pip install 'tokenizers>=0.20'. {_RANDOM_HINT}"
        raise UsageError(message(model, "reading a text needs the package tokenizers", fix)) from None
    file = model / "tokenizer.json"
    if file.is_file():
        return _encode_apart(file, text)
    ids: list[int] = _from_vocabulary(model, metadata).encode(text, add_special_tokens=False).ids
    return ids


def _encode_apart(file: Path, text: str) -> list[int]:
    """Token ids by a tokenizer.json, in a process of its own: see `tokenizing`."""
    program = Path(__file__).with_name("tokenizing.py")
    child = subprocess.Popen(
        [sys.executable, os.fspath(program), os.fspath(file), str(TOKENIZER_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    # Where the system limits no CPU time, the process gets more than that of wall time, as all cores may be busy.
    seconds = None if hasattr(signal, "SIGXCPU") else 10 * (TOKENIZER_SECONDS + len(text) // 100_000)
    is_late = False
    try:
        out, said = child.communicate(text.encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        out, said, is_late = b"", b"", True
    finally:
        child.kill()
        child.wait()
    if is_late or child.returncode == -getattr(signal, "SIGXCPU", 0) < 0:
        what = "the tokenizer takes too long for this text; one of its regular expressions may never end"
        raise FormatError(message(file, what, _RANDOM_HINT))
    if child.returncode < 0:
        what = "the tokenizer ended the process that ran it, which has a limit of memory"
        raise FormatError(message(file, what, _RANDOM_HINT))
    if child.returncode:
        lines = said.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise FormatError(message(file, f"not a tokenizer that can be run: {shown(lines[-1])}", _RANDOM_HINT))
    ids = array("I", out)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


def _from_vocabulary(model: Path, metadata: dict[str, Any]) -> Any:
    from srd_rs.vocab.tokenizer import from_metadata

    if "tokenizer.ggml.tokens" not in metadata:
        raise ModelError(message(model, "no tokenizer to read a text with", _RANDOM_HINT))
    return from_metadata(metadata, model, _RANDOM_HINT)


def _random(metadata: dict[str, Any], count: int, seed: int) -> list[int]:
    types = metadata.get("tokenizer.ggml.token_type")
    if types is None:
        types = [1] * len(metadata.get("tokenizer.ggml.tokens", ()))
    ids = [i for i, kind in enumerate(types) if kind not in _SPECIAL_TYPES]
    return _core.random_tokens(ids, count, seed)


def _ends(metadata: dict[str, Any]) -> tuple[int | None, int | None]:
    """The tokens before and behind every chunk, None where the vocabulary wants none. llama.cpp's defaults by kind."""

    from srd_rs.vocab import pretokenizer

    def get(key: str, default: Any = None) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}", default)

    kind, pre = get("model"), get("pre")
    begins = kind in _BOS_KINDS or pre in pretokenizer.WITH_BOS
    if kind == "t5":
        begin = get("bos_token_id") if get("add_bos_token", False) else None
        return begin, get("eos_token_id", 1) if get("add_eos_token", True) else None
    if kind != "bert" and pre not in pretokenizer.ENCODERS and not is_encoder(metadata):
        return get("bos_token_id") if get("add_bos_token", begins) else None, None
    first = get("bos_token_id", get("cls_token_id", _named(get("tokens", []), "[CLS]")))
    last = get("seperator_token_id", get("eos_token_id", _named(get("tokens", []), "[SEP]")))
    closed = get("add_sep_token", True) or get("add_eos_token", False)
    return first if get("add_bos_token", True) else None, last if closed else None


def _named(tokens: list[str], text: str) -> int | None:
    return tokens.index(text) if text in tokens else None


def _context_length(metadata: dict[str, Any]) -> int | None:
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return length if isinstance(length, int) and length > 1 else None


def _framed(chunks: list[list[int]], ends: tuple[int | None, int | None]) -> list[list[int]]:
    """The chunks with their first and last tokens replaced."""
    first, last = ends
    heads = [] if first is None else [first]
    tails = [] if last is None else [last]
    return [[*heads, *chunk[len(heads) : len(chunk) - len(tails)], *tails] for chunk in chunks]
