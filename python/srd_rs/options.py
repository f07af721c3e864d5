"""The options of a conversion: names, defaults and help, stated once.

`srd_rs.convert`, `srd_rs.plan`, the command line and the native module all take them from `ConvertOptions`. The field
metadata holds what a command line needs: ``help`` (full sentences), ``metavar`` and ``group``.

    options = ConvertOptions(quant="Q5_K_M", threads=4)
    srd_rs.plan("path/to/model", options=options)
"""

# ruff: noqa: RUF009 (`_option` is `dataclasses.field` with the metadata in a fixed form)

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Final, TypeVar

from srd_rs import _core
from srd_rs.errors import UsageError, message
from srd_rs.text import size_bytes

StrPath = str | os.PathLike[str]

_Function = TypeVar("_Function", bound=Callable[..., Any])


EFFORTS: Final = ("fast", "srd", "max")
READS: Final = ("auto", "map", "pread")
MIXES: Final[dict[str, int]] = dict(_core.MIXES)
"""Name of a mix -> `general.file_type` of its GGUFs."""


def mix_of(file_type: object) -> str | None:
    """The name of the mix that `general.file_type` states; None for a number of no mix of srd-rs."""
    return next((name for name, number in MIXES.items() if number == file_type), None)


def _option(default: Any, group: str, help: str, metavar: str | None = None) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar, "group": group})


@dataclass(frozen=True)
class SrdOptions:
    """What effort ``"srd"`` does beyond the search for scales. The defaults are those that measured best.

    feedback: Diffuse the residual of each quantized weight into the weights that are not yet quantized.
    descent_rounds: Number of rounds of coordinate descent, on the scales and then on the codes of each sub-block.
    beam_width: Number of candidate roundings kept for each row: 1, 2, 4 or 8. Every few columns each candidate extends
        itself without noise, with the noise added and with the noise subtracted, and the best candidates are kept.
        1 uses no noise.
    dither: Amplitude of the noise in quantization steps. None chooses the amplitude for each tensor, and may choose 0.
    dither_layers: First and last layer that get `beam_width` candidates, as shares of the depth (0 to 1). The other
        layers get one candidate. None means all layers.
    """

    feedback: bool = True
    descent_rounds: int = 2
    beam_width: int = 4
    dither: float | None = None
    dither_layers: tuple[float, float] | None = None


_Number = TypeVar("_Number", int, float)


def bytes_of(name: str, value: _Number | str) -> _Number | int:
    """A number of bytes, or a text such as ``"4GiB"``, as bytes. Raises UsageError, which names the argument."""
    if not isinstance(value, str):
        return value
    try:
        return size_bytes(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def _keys(given: object) -> dict[str, Any] | None:
    """Keys of the metadata and their values; None where there is none."""
    if not isinstance(given, Mapping):
        what = f"{given!r:.40} is of the type {type(given).__name__}"
        raise UsageError(message("metadata", what, "Pass a dictionary of keys and values"))
    for key, value in given.items():
        texts = value if isinstance(value, (list, tuple)) and value else [value]
        numeric = isinstance(value, (int, float)) and math.isfinite(value)
        if not isinstance(key, str) or not (numeric or all(isinstance(text, str) for text in texts)):
            what = (
                f"{value!r:.40}, the value of {key!r:.40}, is no text, finite number, bool or list of texts"
            )
            fix = "Pass such a value. An object has a key for each value, such as general.base_model.0.name"
            raise UsageError(message("metadata", what, fix))
    return {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(given.items())} or None


#: Words in the annotation of a field -> what its value must be.
_KINDS: Final = {"int": Integral, "float": Real, "str": str, "bool": bool}


@dataclass(frozen=True, kw_only=True, repr=False)
class ConvertOptions:
    """All options of `srd_rs.convert` and `srd_rs.plan`.

    A size is a number of bytes, or a text such as ``"4GiB"`` or ``"1.5GB"``. Raises UsageError for a value of another
    type than its option has.

        >>> srd_rs.ConvertOptions(max_memory="1GiB").max_memory
        1073741824
    """

    lora: Sequence[StrPath] = _option(
        (),
        "Input",
        "Merge this LoRA adapter (a folder that PEFT wrote) into the weights. The option may be repeated; the updates"
        " are added one after another.",
        "FOLDER",
    )
    target: StrPath | None = _option(
        None,
        "Input",
        "The model that a draft model (EAGLE-3, DFlash, DSpark) drafts tokens for: a folder, or a model on the hub"
        " (ORG/NAME). Its tokenizer and its config.json are read, its weights are not.",
        "MODEL",
    )
    stream: bool = _option(
        False,
        "Input",
        "Do not download the weights of a model on the hub: read them over the network while they are converted. The"
        " output has the same bytes. With effort srd each layer is fetched once, and the table of tokens twice.",
    )
    quant: str = _option(
        _core.DEFAULT_MIX,
        "Quality",
        "Mix of tensor types, as llama-quantize names the mixes.",
        "MIX",
    )
    effort: str | None = _option(
        None,
        "Quality",
        "srd measures the inputs of each matrix on a short text and diffuses each rounding error into the weights that"
        " are not yet quantized; fast only searches the scales of each block; max is srd for the inputs that the"
        " quantized model gives each matrix, and makes good for a part of the errors of the matrices before, in two to"
        " four times the CPU time. The default is srd, for encoders max, or fast where srd has nothing to do or cannot"
        " run the model.",
    )
    tensor_types: Sequence[str] = _option(
        (),
        "Quality",
        "Use TYPE for the tensors whose GGUF name the regular expression finds. The first expression that matches"
        " counts. The option may be repeated.",
        "REGEX=TYPE",
    )
    token_embedding_type: str | None = _option(
        None, "Quality", "Use this type for the token embedding table.", "TYPE"
    )
    output_tensor_type: str | None = _option(None, "Quality", "Use this type for the output matrix.", "TYPE")
    pure: bool = _option(False, "Quality", "Use one type for all matrices instead of the mix.")
    scale_channels: bool = _option(
        False,
        "Quality",
        "Scale the channels between the matrices of each layer, so that the columns of a matrix are alike in size and"
        " rounding costs less, with --fast and where tokens are not weighed. The model computes the same, but its"
        " weights are others: adapters (LoRA) that were trained on the model do not fit the file. The channels of dense"
        " decoders are known.",
    )
    target_size: int | None = _option(
        None,
        "Size",
        "Choose the type of each matrix so that the GGUF has at most this size and the error is least. The error of"
        " each matrix in each type is measured on a sample of its rows.",
        "SIZE",
    )
    target_bpw: float | None = _option(
        None, "Size", "The same for this number of bits per weight over all tensors.", "BITS"
    )
    like: str | None = _option(None, "Size", "The same for the size that this mix would have.", "MIX")
    fit: int | None = _option(
        None,
        "Size",
        "The same for a model that llama.cpp can run in this memory: the file, the cache for --ctx tokens and the"
        " compute buffers together have at most this size.",
        "SIZE",
    )
    ctx: int | None = _option(
        None, "Size", "Number of tokens of the context that --fit makes room for. The default is 8192.", "N"
    )
    types: Sequence[str] = _option(
        (),
        "Size",
        "Types to choose from, separated by commas. The default is Q2_K, Q3_K, IQ4_XS, Q4_K, Q5_K, Q6_K and Q8_0, and"
        " types with blocks of 32 weights for rows that are no whole blocks of 256. For less than 3.5 bits per weight"
        " IQ2_XXS and IQ2_XS are added.",
        "TYPES",
    )
    recipe: StrPath | None = _option(
        None, "Size", "Take the types of the tensors from this file, which --recipe-out wrote.", "FILE"
    )
    recipe_out: StrPath | None = _option(
        None, "Size", "Write the types of the tensors to this file (JSON, one line for each tensor).", "FILE"
    )
    exact_types: Sequence[tuple[str, str]] = _option(
        (), "Size", "Pairs of the GGUF name of a tensor and its type. They count before all other options."
    )
    imatrix: StrPath | None = _option(
        None,
        "Quality",
        "Importance matrix of llama.cpp (GGUF or .dat): the mean square of each input weighs the errors.",
        "FILE",
    )
    calibrate: StrPath | None = _option(
        None,
        "Calibration",
        "Text to measure the inputs of each matrix on: builtin (a bundled text), random (random tokens), a UTF-8 text"
        " file, or a calibration file that srd-rs calibrate wrote. The default is builtin with effort srd, and no"
        " calibration with effort fast.",
        "TEXT",
    )
    calibrate_tokens: int | None = _option(
        None,
        "Calibration",
        "Number of tokens of the calibration. The default is 8192, or up to 16384 for small models whose tokens are not"
        " weighed.",
        "N",
    )
    calibrate_block: int | None = _option(
        None,
        "Calibration",
        "Number of columns of each block of the second moments; 0 keeps the whole matrix. The default is 256 to 2048;"
        " small models get more.",
        "N",
    )
    weigh_tokens: bool | None = _option(
        None,
        "Calibration",
        "Let a token of the calibration count by how much errors at it change the model's answer (its gradient), which"
        " makes the calibration of a token take four times as long. The default is to weigh the tokens of dense"
        " decoders of up to 2.5 G weights with effort srd.",
    )
    cache: bool = _option(
        True,
        "Calibration",
        "Keep the calibration in the cache folder, and use a calibration that is kept there for the same model, text"
        " and options. The variable SRD_CACHE names another folder.",
    )
    srd: SrdOptions = _option(SrdOptions(), "Calibration", "Details of effort srd; see `srd_rs.SrdOptions`.")
    seed: int = _option(
        0,
        "Calibration",
        "Seed of all noise, of random calibration tokens, and of the tokens that the model draws where tokens are"
        " weighed. The seed is recorded in the output.",
        "N",
    )
    split_max_size: int | None = _option(
        None, "Output", "Split the output into files of at most this size: NAME-00001-of-0000N.gguf.", "SIZE"
    )
    name: str | None = _option(
        None,
        "Output",
        "Name of the model (general.name). The default comes from the model card or the folder.",
        "NAME",
    )
    metadata: Mapping[str, Any] | None = _option(
        None,
        "Output",
        'Keys of the metadata and their values, such as {"general.author": "me"}: a JSON file, or in Python a'
        " dictionary. A key that the model has gets the value, and other keys are added. Keys that describe the tensors"
        " are refused.",
        "FILE",
    )
    mtp: bool | None = _option(
        None,
        "Output",
        "Write the blocks that predict further tokens (multi-token prediction) alone, with the embedding and the output"
        " matrix, as a draft model for speculative decoding; or leave the blocks out. Without this option they are"
        " written behind the last layer where the checkpoint has them and llama.cpp can run them.",
    )
    mmproj: bool | None = _option(
        None,
        "Output",
        "Write the projector of a multimodal model (the encoder of pictures, mmproj-NAME-F16.gguf beside the GGUF), or"
        " leave the projector out. Without this option the projector is written where srd-rs knows it.",
    )
    mmproj_only: bool = _option(False, "Output", "Write the projector alone.")
    mmproj_type: str = _option(
        "F16", "Output", "Type of the matrices of the projector: F16, BF16, F32 or Q8_0.", "TYPE"
    )
    pre_tokenizer: str | None = _option(
        None, "Output", "Value of tokenizer.ggml.pre for a tokenizer that srd-rs does not recognize.", "NAME"
    )
    provenance: bool = _option(
        True, "Output", "Write the srd.* keys: version, method, seed and digest of the source."
    )
    axm: bool | None = _option(
        None,
        "Container",
        "Write the signed container (.axm) beside the GGUF as well. Without this option the container is written only"
        " where a key is named, by the variable SRD_MASTER_KEY or by --key-file.",
    )
    axm_output: StrPath | None = _option(
        None,
        "Container",
        "Name of the container. The default is the name of the GGUF with the suffix .axm.",
        "FILE",
    )
    residual_bits: int | None = _option(
        2,
        "Container",
        "Extra bits per weight (2, 3 or 4), stored in the container to restore precision later.",
        "BITS",
    )
    key_file: StrPath | None = _option(
        None,
        "Container",
        "Master key to sign with. The default is the variable SRD_MASTER_KEY, or the default key file, which --axm"
        " makes on first use.",
        "FILE",
    )
    sign_key: StrPath | None = _option(
        None, "Container", "Ed25519 private key (PEM): sign the container for third parties as well.", "FILE"
    )
    threads: int | None = _option(
        None,
        "Running",
        "Number of worker threads. The default is one per CPU. Any number gives the same bytes.",
        "N",
    )
    max_memory: int = _option(
        _core.DEFAULT_MAX_MEMORY, "Running", "Bytes of weights that are in memory at any time.", "SIZE"
    )
    ray: str | None = _option(
        None,
        "Running",
        "Convert on the machines of this Ray cluster: HOST:PORT, auto for the cluster of this machine, or local for one"
        " that is started here and ends with the conversion. All machines must share the files of the model and the"
        " folder of the output. The output has the same bytes. Needs the package ray (srd-rs[ray]).",
        "ADDRESS",
    )
    read: str = _option(
        "auto",
        "Running",
        "How local safetensors files are read: pread reads them at offsets, map reads them through maps of the files,"
        " and auto takes what measured best: pread. The output has the same bytes.",
    )
    resume: bool | None = _option(
        None,
        "Running",
        "Keep what is complete when the conversion is interrupted or killed, as .NAME.partial and .NAME.journal beside"
        " the output, so that the same command goes on from there; or start afresh and keep nothing. The default is to"
        " resume with effort srd, and to keep nothing with effort fast, which is done sooner.",
    )
    allow_nonfinite: bool = _option(
        False,
        "Running",
        "Replace NaN by 0, and replace infinite and too large weights by the largest value that fits, instead of"
        " failing.",
    )
    allow_requantize: bool = _option(
        False,
        "Quality",
        "Quantize tensors of a GGUF that are quantized already. The result is worse than one from the original weights,"
        " and the output records that this was done.",
    )
    overwrite: bool = _option(False, "Output", "Replace the output if the output exists.")
    met: bool = _option(
        True,
        "Output",
        "Write the MET sidecar NAME.met.json beside the GGUF, which says which bytes belong to which layers. A split"
        " output has one sidecar, beside its first part. A GGUF without layers gets none.",
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value, words = getattr(self, option.name), str(option.type).split(" | ")
            if option.metadata["metavar"] == "SIZE" and isinstance(value, str):
                object.__setattr__(self, option.name, bytes_of(option.name, value))
            elif isinstance(value, str) and option.type.startswith("Sequence"):
                raise UsageError(message(option.name, f"{value!r:.40} is one text", "Pass a list"))
            elif value is not None and all(word in _KINDS or word == "None" for word in words):
                kinds = tuple(_KINDS[word] for word in words if word in _KINDS)
                if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                    what = f"{value!r:.40} is of the type {type(value).__name__}"
                    raise UsageError(message(option.name, what, f"Pass a value of the type {option.type}"))
        if self.metadata is not None:
            object.__setattr__(self, "metadata", _keys(self.metadata))

    def __repr__(self) -> str:
        """The options that differ from their defaults."""
        set_here = [
            f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default
        ]
        return f"ConvertOptions({', '.join(set_here)})"

    @property
    def is_measured(self) -> bool:
        """Whether the effort is one that runs the model: srd or max."""
        return self.effort in ("srd", "max")

    @property
    def budget(self) -> str | None:
        """The name of the option that states a budget, None without a budget."""
        names = ("target_size", "target_bpw", "like", "fit")
        return next((name for name in names if getattr(self, name) is not None), None)

    @property
    def recorded(self) -> str | None:
        """What the key ``srd.options`` of the output says, as JSON: the options of `RECORDED` that differ from their
        defaults. None where none differs."""
        found: dict[str, Any] = {}
        for name in RECORDED:
            value, default = getattr(self, name), getattr(DEFAULTS, name)
            if value != default:
                found[name] = asdict(value) if name == "srd" else value
        return json.dumps(found, sort_keys=True) if found else None

    card: bool = _option(
        False,
        "Output",
        "Write a model card for the hub, NAME.md beside the GGUF (see srd-rs card).",
    )
    modelfile: bool = _option(
        False,
        "Output",
        "Write a Modelfile for Ollama, NAME.Modelfile beside the GGUF.",
    )
    bom: bool = _option(
        False,
        "Output",
        "Write a CycloneDX ML-BOM, NAME.cdx.json beside the GGUF: the model, its files and how they were made, with"
        " their SHA-256 (see srd-rs bom). The files of the model are read once more for their hashes.",
    )
    oms_key: StrPath | None = _option(
        None,
        "Output",
        "Private key (PEM, elliptic curve): sign all files that are written in one signature, NAME.sig, which others"
        " verify, too (OpenSSF Model Signing, see srd-rs sign).",
        "FILE",
    )


DEFAULTS: Final = ConvertOptions()
FLOAT_TYPES: Final = frozenset(("F32", "F16", "BF16"))
"""The types in which nothing is quantized. The mixes of these names have them for all matrices."""
INTEGER_TYPES: Final = frozenset(("I8", "I16", "I32", "I64"))
"""The types of tables of ids, which are copied."""
RECORDED: Final = (
    *("allow_nonfinite", "allow_requantize", "calibrate_block", "calibrate_tokens", "metadata", "mtp"),
    *("name", "pre_tokenizer", "residual_bits", "scale_channels", "split_max_size", "srd", "weigh_tokens"),
)
"""The options that change the bytes of a GGUF and that the GGUF does not show otherwise. Its tensors show their types,
and other keys show the mix, the method, the seed and the calibration."""


def writes_container(options: ConvertOptions) -> bool:
    """Whether a container is written: where that is asked for, or where a key is named and nothing is said."""
    if options.axm is not None:
        return options.axm
    return options.key_file is not None or bool(os.environ.get("SRD_MASTER_KEY"))


@dataclass(frozen=True)
class Checks:
    """What a container is held against; see `srd_rs.verify`."""

    key_file: StrPath | None = None
    use_key: bool = True
    public_key: StrPath | None = None
    fingerprint: str | None = None
    name: str | None = None


def changed(options: ConvertOptions | None, changes: Mapping[str, Any]) -> ConvertOptions:
    """`options` (by default `DEFAULTS`) with single options replaced. Raises TypeError for an unknown name."""
    known = {f.name for f in fields(ConvertOptions)}
    unknown = sorted(set(changes) - known)
    if unknown:
        near = [name for option in unknown for name in get_close_matches(option, known, n=1, cutoff=0.7)]
        meant = f"did you mean {', '.join(near)}? " if near else ""
        raise TypeError(
            f"unknown option {', '.join(map(repr, unknown))}; {meant}known are {', '.join(sorted(known))}"
        )
    return replace(options or DEFAULTS, **changes)


def takes_options(function: _Function) -> _Function:
    """Show every field of `ConvertOptions` in the signature and the docstring of a function of ``**changes``."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    shown = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(ConvertOptions)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
    lines = [f"    {f.name}: {f.metadata['help']}" for f in fields(ConvertOptions)]
    function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])
    return function
