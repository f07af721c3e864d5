"""What a file or folder is: the one place that recognizes things, in front of every reader.

A reader can only say that a thing breaks its own format. A user who names the wrong thing needs to hear what the thing
is: "this is a LoRA adapter", "this is a master key file". The functions `check_...` raise an error that says so.

    sniff.identify(Path("adapter/")).what   # 'a LoRA adapter for org/base'
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NoReturn

from srd_rs import _core, pickled
from srd_rs.errors import (
    FormatError,
    ModelError,
    SrdError,
    SrdFileNotFoundError,
    SrdIOError,
    UsageError,
    io_error,
    message,
    not_found,
)
from srd_rs.reading import load_json, open_without_waiting, shown

_HEAD_BYTES: Final = 4096
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_AXM: Final = b"\x89AXM\r\n\x1a\n"
_MANIFEST: Final = b"AXMMANI1"
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER_WEIGHTS: Final = {".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX", ".npz": "MLX or numpy"}
#: First bytes -> what such a file is, and what to do.
_MAGICS: Final = (
    (b"PK\x03\x04", "archive", "an archive (zip)"),
    (b"\x1f\x8b", "archive", "a compressed file (gzip)"),
    (b"\x28\xb5\x2f\xfd", "archive", "a compressed file (zstd)"),
    (b"\xfd7zXZ\0", "archive", "a compressed file (xz)"),
    (b"BZh", "archive", "a compressed file (bzip2)"),
    (b"7z\xbc\xaf\x27\x1c", "archive", "an archive (7z)"),
    (b"Rar!\x1a\x07", "archive", "an archive (rar)"),
    (b"\x89HDF\r\n\x1a\n", "other", "a file of TensorFlow or Keras weights (HDF5)"),
    (b"lmgg", "old", "a model in the format ggml, which came before GGUF"),
    (b"fmgg", "old", "a model in the format ggmf, which came before GGUF"),
    (b"tjgg", "old", "a model in the format ggjt, which came before GGUF"),
    (b"algg", "old", "a LoRA adapter in the format ggla, which came before GGUF"),
    (b"# xet version", "lfs", "a pointer of Xet, not the file itself"),
)
_FIXES: Final = {
    "archive": "Unpack it, and name the folder or the file that is in it",
    "old": "Convert the original checkpoint, or download the model as a GGUF",
    "page": "Download the file itself, not the page that shows it",
    "zeros": "The download or the copy was not finished: download or write it again",
    "lfs": "Download the file itself (hf download)",
}
_TAR: Final = (257, b"ustar")
_MODEL: Final = "Name a folder with config.json and safetensors files, or a GGUF"
_KEY: Final = re.compile(rb"\s*[0-9a-fA-F]{64}\s*")


@dataclass(frozen=True)
class Thing:
    """`kind` is one word for the program, `what` says it with an article, `fix` is what a user can do with it."""

    kind: str
    what: str
    fix: str = ""

    @property
    def is_secret(self) -> bool:
        """Whether the thing is a key that only its owner may read."""
        return self.kind == "key" and "public" not in self.what


def identify(path: Path) -> Thing:
    """What lies at `path`. Raises SrdFileNotFoundError where nothing does."""
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise not_found(path)
    head = _head(path)
    if head is None:
        return Thing("special", "a pipe, a socket or a device")
    return _file(path, head)


def _head(path: Path) -> bytes | None:
    """The first bytes of a file; None for a folder, a pipe, a socket or a device."""
    try:
        descriptor = open_without_waiting(path)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_HEAD_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError as error:
        raise io_error(path, "read", error, "Check the path and the permissions") from None


def _file(path: Path, head: bytes) -> Thing:
    if head.startswith(b"GGUF"):
        return _gguf(path)
    if head.startswith(_AXM):
        return Thing("axm", "an .axm container", "srd-rs extract writes a GGUF from it")
    if head.startswith(_MANIFEST):
        return Thing("manifest", "the manifest file of a container", "srd-rs verify GGUF --axm takes it")
    if head.startswith(_LFS_POINTER):
        return Thing("lfs", "a Git LFS pointer, not the file itself", "Run: git lfs pull")
    if _is_safetensors(path, head):
        if _core.is_calibration(path):
            return Thing("calibration", "a calibration file", "srd-rs convert --calibrate takes it")
        return Thing(
            "safetensors", "a safetensors file", "Name the folder that holds it, with config.json beside it"
        )
    if _KEY.fullmatch(head):
        return Thing("key", "a master key file", "Options such as --key-file take it")
    if head.startswith(b"-----BEGIN"):
        private = b"PRIVATE KEY" in head
        fix = "--sign-key takes it" if private else "--public-key takes it"
        return Thing("key", f"a {'private' if private else 'public'} key (PEM)", fix)
    if (head.startswith(b"PK\x03\x04") and path.suffix in _PICKLES) or head[:2] in (b"\x80\x02", b"\x80\x04"):
        return Thing("pickle", "a PyTorch pickle, which can run code when it is loaded", _PICKLE_FIX)
    if path.suffix in _OTHER_WEIGHTS and not head.startswith(_PLAIN_TEXT):
        return Thing("other", f"a file of {_OTHER_WEIGHTS[path.suffix]} weights", _MODEL)
    return _no_file_of_a_model(head) or _part_of_a_file(path) or _text(path, head)


_CUT: Final = re.compile(
    r"(?P<whole>.+\.gguf)(\.part\d+of\d+|[-.]split-[a-z]{1,3}|\.part[-._]?\w{1,4}|\.\d{2,3})", re.I
)
"""Names of the pieces into which large files were cut for the hub, before GGUFs could be split."""


def _part_of_a_file(path: Path) -> Thing | None:
    """What a file is that is not whole by its name: a piece of a GGUF, or what a download has begun."""
    if path.name.endswith(_BEGUN):
        return Thing("incomplete", "a download that was not finished", _FINISH)
    cut = _CUT.fullmatch(path.name)
    if cut is None:
        return None
    fix = f"Join all pieces in their order, such as: cat {cut['whole']}* > whole.gguf"
    return Thing("piece", "a piece of a GGUF that was cut, and no part of a split GGUF", fix)


_PLAIN_TEXT: Final = (b"{", b"<")


def _no_file_of_a_model(head: bytes) -> Thing | None:
    """What lies under the name of a model after a download that went wrong, and what needs another step first."""
    start = head[:64].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return Thing("page", "a web page (HTML), not the file itself", _FIXES["page"])
    if head[_TAR[0] :].startswith(_TAR[1]):
        return Thing("archive", "an archive (tar)", _FIXES["archive"])
    for magic, kind, what in _MAGICS:
        if head.startswith(magic):
            return Thing(kind, what, _FIXES.get(kind, _MODEL))
    if len(head) > 64 and not any(head):
        return Thing("zeros", "a file that begins with zeros alone", _FIXES["zeros"])
    return None


def _text(path: Path, head: bytes) -> Thing:
    if not head:
        return Thing("empty", "an empty file", "Download or write it again")
    start = head.lstrip()
    if start.startswith((b"{", b"[")):
        if b'"met_version"' in head:
            return Thing("met", "a MET sidecar", "srd-rs hydrate --sidecar takes it")
        if b'"payloadType"' in head:
            return Thing("attestation", "an attestation (DSSE envelope)")
        return Thing(
            "json", "a JSON file", "Name the folder that holds it" if path.name == "config.json" else ""
        )
    if b"\0" in head:
        return Thing("unknown", "a file of no format that srd-rs knows")
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < _HEAD_BYTES or error.start < len(head) - 3:  # else the head ends within a character
            return Thing("unknown", "a file of no format that srd-rs knows")
    return Thing("text", "a text file")


def _is_safetensors(path: Path, head: bytes) -> bool:
    if len(head) < 10 or head[8:9] != b"{":
        return False
    return path.suffix == ".safetensors" or int.from_bytes(head[:8], "little") < path.stat().st_size


def _gguf(path: Path) -> Thing:
    """A GGUF by what its metadata says; one that cannot be read is still a GGUF, and its reader says what is wrong."""
    try:
        metadata = {key: value for key, _, value in _core.read_gguf(path, 0)["metadata"]}
    except SrdError:
        return _part_of_a_file(path) or Thing("gguf", "a GGUF")
    kind = metadata.get("general.type")
    if kind == "imatrix":
        return Thing("imatrix", "an importance matrix of llama.cpp", "srd-rs convert --imatrix takes it")
    if kind == "mmproj" or metadata.get("general.architecture") == "clip":
        return Thing(
            "mmproj",
            "a vision or audio projector (mmproj), not a language model",
            "Name the model's own GGUF",
        )
    if kind == "adapter":
        return Thing("gguf-adapter", "a LoRA adapter (GGUF), not a model", _ADAPTER_FIX)
    return Thing("gguf", "a GGUF")


_PICKLE_FIX: Final = (
    "Download the safetensors files of the model, or save it with save_pretrained(safe_serialization=True)"
)
_ADAPTER_FIX: Final = "Merge it into its base model first (peft: merge_and_unload, then save_pretrained)"
_LORA_FIX: Final = (
    "Merge it into its base model (srd-rs convert BASE --lora ADAPTER) or convert it (srd-rs lora)"
)


def _folder(folder: Path, remote: Collection[str] = ()) -> Thing:
    """What a folder is. The weight files `remote` belong to the folder and lie elsewhere."""
    names = sorted({entry.name for entry in folder.iterdir()}.union(remote))
    tensors = [n for n in names if n.endswith(".safetensors")]
    weights = [n for n in tensors if not n.startswith(("adapter", "consolidated"))]
    if not weights and "model.safetensors.index.json" in names:
        # The index may name parts of another name, or in a sub-folder.
        inside = (name for name in _parts(folder / "model.safetensors.index.json") if _is_inside(name))
        weights = sorted(name for name in inside if name in remote or os.path.isfile(folder / name))  # noqa: PTH113
    if weights and "config.json" in names:
        return _checkpoint(folder, weights, remote)
    if "adapter_config.json" in names:
        return _adapter(folder)
    if any(n.startswith("adapter_model.") for n in names):
        what = "a folder with the weights of an adapter, but without adapter_config.json"
        return Thing("adapter", what, "Download adapter_config.json as well")
    if (training := _of_training(folder, names)) is not None:
        return training
    own = [n for n in tensors if n.startswith("consolidated")]
    if own and "params.json" in names and "config.json" not in names:
        return _checkpoint(folder, own, remote)
    if "params.json" in names or any(n.startswith("consolidated") for n in names):
        what = (
            "a checkpoint in Mistral's own format, or in that of Meta (params.json, consolidated weights), not in that"
            " of Hugging Face"
        )
        return Thing(
            "mistral",
            what,
            "Download the files of the transformers format: config.json and model*.safetensors",
        )
    if weights:
        return Thing(
            "weights",
            "a folder with safetensors files but no config.json",
            "Add config.json and the tokenizer",
        )
    if "config.json" in names and pickled.is_pickled(folder):
        return _checkpoint(folder, [n for n in names if n.endswith(".bin")])
    if any(n.endswith(_PICKLES) for n in names):
        return Thing(
            "pickle", "a checkpoint of PyTorch pickles, which can run code when they are loaded", _PICKLE_FIX
        )
    if any(n.endswith(".gguf") for n in names):
        ggufs = [n for n in names if n.endswith(".gguf")]
        return Thing(
            "ggufs", f"a folder with {len(ggufs)} GGUF files", f"Name one of them, such as {ggufs[0]}"
        )
    for suffix, framework in _OTHER_WEIGHTS.items():
        if any(n.endswith(suffix) for n in names):
            return Thing("other", f"a checkpoint with {framework} weights", _MODEL)
    if (begun := next((n for n in names if n.endswith(_BEGUN)), None)) is not None:
        return Thing(
            "incomplete", f"a folder with a download that was not finished ({shown(begun)})", _FINISH
        )
    if "config.json" in names:
        return Thing(
            "incomplete", "a model folder without weights", "Download the *.safetensors files as well"
        )
    what = "a folder, but not a Hugging Face checkpoint: it has no config.json"
    return Thing("folder", what, _inner(folder, names) or _MODEL)


_BEGUN: Final = (".incomplete", ".crdownload", ".aria2", ".part", ".partial", ".download", ".!ut")
_FINISH: Final = "Download the files again"
_SAVE: Final = "save the model with save_pretrained, and name that folder"
#: What a name in a folder ends with -> what the folder is, and what to do. Frameworks of training and of engines.
_TRAINING: Final = (
    (
        ("zero_to_fp32.py", "_model_states.pt"),
        "a checkpoint that DeepSpeed saved while training",
        f"Run its zero_to_fp32.py, {_SAVE}",
    ),
    (
        (".distcp",),
        "a distributed checkpoint of PyTorch (.distcp)",
        f"Join its parts (accelerate merge-weights), {_SAVE}",
    ),
    (
        ("latest_checkpointed_iteration.txt", ".nemo"),
        "a checkpoint of Megatron or NeMo",
        "Export it in the format of Hugging Face with the scripts of that framework",
    ),
    (("model_index.json",), "a Diffusers model, which makes pictures, not a language model", _MODEL),
    (("openvino_model.xml",), "a checkpoint with OpenVINO weights", _MODEL),
    (("model.onnx",), "a checkpoint with ONNX weights", _MODEL),
    ((".tflite", ".task"), "a checkpoint with TensorFlow Lite weights", _MODEL),
    ((".mlpackage", ".mlmodel"), "a checkpoint with Core ML weights", _MODEL),
)


def _of_training(folder: Path, names: list[str]) -> Thing | None:
    """What other frameworks leave: in the folder itself, or in a folder in it, as sharded training does."""
    inner = [n for name in names[:_MOST_INNER] if (folder / name).is_dir() for n in _names(folder / name)]
    own = "config.json" in names and any(n.endswith(".bin") for n in names if n.startswith("pytorch_model"))
    for signs, what, fix in _TRAINING:
        if not own and any(n.endswith(signs) for n in (*names, *inner)):
            return Thing("other", what, fix)
    return None


_MOST_INNER: Final = 64
"""So many folders in a folder are looked into."""


def _names(folder: Path) -> list[str]:
    """The first names in a folder; none if the folder may not be read."""
    try:
        return sorted(entry.name for entry in islice(folder.iterdir(), 1000))
    except OSError:
        return []


def _inner(folder: Path, names: list[str]) -> str | None:
    """Name a folder in a folder that is a model or an adapter, such as what a training saved last."""
    found = [n for n in names[:_MOST_INNER] if (folder / n).is_dir() and not (folder / n).is_symlink()]
    for name in sorted(found, key=_number_of, reverse=True):
        inner = _names(folder / name)
        if "adapter_config.json" in inner or ("config.json" in inner and any(map(_is_weights, inner))):
            return f"Name the folder {shown(name)} that is in it"
    return None


def _number_of(name: str) -> tuple[int, str]:
    """The number that a name ends with: of checkpoint-1000 and checkpoint-500, the first is the later one."""
    digits = re.search(r"\d{1,12}$", name)
    return (int(digits[0]) if digits else -1, name)


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", *_PICKLES))


def _adapter(folder: Path) -> Thing:
    try:
        config = load_json(folder / "adapter_config.json")
    except (FormatError, SrdIOError):
        config = {}
    of_mlx = bool(config.keys() & {"lora_parameters", "fine_tune_type"})
    base = config.get("model" if of_mlx else "base_model_name_or_path")
    whose = f" for {shown(base)}" if isinstance(base, str) and base else ""
    if of_mlx:
        return Thing("adapter", f"an adapter of MLX{whose}, not a model", "Merge it first (mlx_lm.fuse)")
    kind = config.get("peft_type", "LORA")
    if kind == "LORA":
        return Thing("adapter", f"a LoRA adapter{whose}, not a model", _LORA_FIX)
    return Thing("adapter", f"an adapter of the kind {shown(kind)}{whose}, not a model", _ADAPTER_FIX)


def _checkpoint(folder: Path, weights: list[str], remote: Collection[str] = ()) -> Thing:
    for name in weights:
        if name in remote:
            continue
        head = _head(folder / name)
        if head is not None and head.startswith(_LFS_POINTER):
            return Thing(
                "lfs", f"a checkpoint whose {name} is a Git LFS pointer, not the weights", "Run: git lfs pull"
            )
        found = _no_file_of_a_model(head) if head is not None and name.endswith(".safetensors") else None
        if found is not None:
            return Thing(found.kind, f"a checkpoint whose {name} is {found.what}", found.fix)
    index = folder / "model.safetensors.index.json"
    # A file of the whole model counts before an index, which an earlier save may have left behind.
    whole = "model.safetensors" in weights
    missing = sorted(_parts(index) - set(weights)) if index.is_file() and not whole else []
    missing = [name for name in missing if name not in remote and not os.path.isfile(folder / name)]  # noqa: PTH113 (a NUL is no error)
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        what = f"a checkpoint that lacks {len(missing)} of its weight files: {listed}"
        return Thing("parts", what, "Download the missing files")
    return Thing("checkpoint", "a Hugging Face checkpoint")


def _parts(index: Path) -> set[str]:
    """File names in an index; an index that breaks its format is left to its reader."""
    try:
        mapping: Any = load_json(index).get("weight_map")
    except (FormatError, SrdIOError):
        return set()
    return {v for v in mapping.values() if isinstance(v, str)} if isinstance(mapping, dict) else set()


def _is_inside(name: str) -> bool:
    """Whether a name of an index is that of a file of weights below the folder."""
    path = Path(name)
    return name.endswith(".safetensors") and not path.is_absolute() and ".." not in path.parts


MAX_TEXT_BYTES: Final = 64 << 20
"""A text to calibrate on or to score has at most this many bytes."""
_DECODED_BYTES: Final = 1 << 20


def read_text(path: Path) -> bytes:
    """Return the bytes of a UTF-8 text that the user names. Raises UsageError for what is no text."""
    thing = identify(path)
    fix = "Name a UTF-8 text file"
    if thing.kind not in ("text", "json"):
        raise UsageError(message(path, f"this is {thing.what}, not a UTF-8 text", fix))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise io_error(path, "read", error, "Check the path and the permissions") from None
    if len(raw) > MAX_TEXT_BYTES:
        raise UsageError(
            message(path, f"the text is longer than {MAX_TEXT_BYTES} bytes", "Name a shorter text")
        )
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, max(len(raw), 1), _DECODED_BYTES):
        kept = len(decoder.getstate()[0])
        try:
            decoder.decode(raw[start : start + _DECODED_BYTES], start + _DECODED_BYTES >= len(raw))
        except UnicodeDecodeError as error:
            at = start - kept + error.start
            raise UsageError(message(path, f"byte {at} is not UTF-8", fix)) from None
    return raw


#: Kinds of things in the format GGUF.
GGUFS: Final = ("gguf", "mmproj", "imatrix", "gguf-adapter")
#: What a file can become whose first bytes are damaged: the reader says what is wrong.
_DAMAGED: Final = ("unknown", "empty")
#: Kinds that look like models to a user: that they cannot be converted is no mistake of the call.
_UNFIT_MODELS: Final = frozenset(
    {
        "adapter",
        "lfs",
        "mistral",
        "pickle",
        "mmproj",
        "parts",
        "incomplete",
        "piece",
        "weights",
        "other",
        "safetensors",
        "archive",
        "old",
        "page",
        "zeros",
    }
)


def _refuse(path: Path, thing: Thing, wanted: str) -> NoReturn:
    fix = thing.fix or wanted
    if thing.kind in _DAMAGED:
        raise FormatError(message(path, f"this is {thing.what}", fix))
    kind = ModelError if thing.kind in _UNFIT_MODELS else UsageError
    raise kind(message(path, f"this is {thing.what}", fix))


def read_object(path: Path, wanted: str, fix: str) -> dict[str, Any]:
    """Return the JSON object in a file that an option names, which is to be `wanted`, such as "a recipe". Raises an
    error that says what the file is where it is no JSON."""
    thing = identify(path)
    if thing.kind != "json":
        raise UsageError(message(path, f"this is {thing.what}, not {wanted}", fix))
    return load_json(path)


def read_report(report: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path and the JSON object of a report: a folder that ``srd-rs eval --report`` wrote, or its file."""
    path = report / "report.json" if report.is_dir() else report
    return path, read_object(path, "a report of scores", "Name a folder that srd-rs eval --report wrote")


def check_folder(path: Path, wanted: str) -> None:
    """`path` is the folder of `wanted`, such as "a base model"; its weights need not be there."""
    if not path.is_dir():
        what = f"this is {identify(path).what}, not the folder of {wanted}"
        raise UsageError(message(path, what, "Name the folder with its config.json, or its name on the hub"))


def check_model(path: Path, remote: Collection[str] = ()) -> None:
    """`path` is a checkpoint folder or the GGUF of a model: what a conversion takes. The weight files `remote` of a
    folder lie elsewhere."""
    thing = _folder(path, remote) if remote else identify(path)
    if thing.kind not in ("checkpoint", "gguf"):
        _refuse(path, thing, _MODEL)


def check_inspectable(path: Path) -> Thing:
    """`path` is what `srd_rs.inspect` takes."""
    thing = identify(path)
    if thing.kind not in (*GGUFS, "checkpoint", "axm", "safetensors", "weights"):
        wanted = "Name a GGUF, an .axm container, a safetensors file or a folder with safetensors files"
        _refuse(path, thing, wanted)
    return thing


def check_gguf(path: Path, *, or_container: bool = False) -> Thing:
    """`path` is a GGUF; with `or_container` an .axm container will do. See `_DAMAGED`."""
    thing = identify(path)
    wanted = ("gguf", "mmproj", "axm") if or_container else ("gguf", "mmproj")
    if thing.kind not in (*wanted, *_DAMAGED):
        _refuse(path, thing, "Name a GGUF or an .axm container" if or_container else "Name a GGUF")
    return thing


#: What a text, a sidecar or an imatrix never replaces, even with --overwrite: weights and keys may be nowhere else.
_TREASURES: Final = frozenset(
    {*GGUFS, "axm", "safetensors", "calibration", "key", "pickle", "manifest", "piece"}
)


def check_output(output: Path, *, replaces: Collection[str] = (), inputs: Iterable[Path] = ()) -> None:
    """Raise UsageError if `output` is weights or a key, but for the kinds of `replaces`, or one of `inputs`."""
    if not output.is_file():
        return
    _refuse_input(output, inputs)
    thing = identify(output)
    if thing.kind in _TREASURES and thing.kind not in replaces:
        raise UsageError(
            message(output, f"this is {thing.what}, which is not replaced", "Choose another name")
        )


def _refuse_input(output: Path, inputs: Iterable[Path]) -> None:
    """Raise UsageError if `output` is one of `inputs`, through links too."""
    if any(output.exists() and path.exists() and output.samefile(path) for path in inputs):
        what = "the output is an input, and an input is never replaced"
        raise UsageError(message(output, what, "Choose another name"))


def check_new(outputs: Sequence[Path], inputs: Iterable[str | os.PathLike[str]], overwrite: bool) -> None:
    """Refuse, before hours of work are done for it, an output that is an input, through links too, that exists, whose
    folder is not there, or that has the name of another output."""
    read = [Path(path) for path in inputs]
    seen: set[str] = set()
    for output in outputs:
        if not output.parent.is_dir():
            what = "the folder of the output is not there"
            raise SrdFileNotFoundError(message(output.parent, what, "Make it, or choose another name"))
        name = os.path.realpath(output)
        if name in seen:
            raise UsageError(message(output, "two outputs would have this name", "Give them different names"))
        seen.add(name)
        if not os.path.lexists(output):
            continue
        _refuse_input(output, read)
        if not overwrite:
            fix = "Choose another name, or replace the file with --overwrite"
            raise UsageError(message(output, "the file exists already", fix))


def check_container(path: Path, *, or_manifest: bool = False) -> None:
    """`path` is an .axm container; with `or_manifest` the manifest file of one will do. See `_DAMAGED`."""
    thing = identify(path)
    if thing.kind == "gguf":
        beside = path.with_suffix(".axm")
        here = beside.name if beside.exists() else "CONTAINER.axm"
        fix = f"Name the container, or check the GGUF against it: srd-rs verify {path.name} --axm {here}"
        raise UsageError(message(path, "this is a GGUF, which carries no signature of its own", fix))
    wanted = ("axm", "manifest") if or_manifest else ("axm",)
    # What is not known can be a container whose first bytes are damaged: the reader says so.
    if thing.kind not in (*wanted, *_DAMAGED, "zeros"):
        _refuse(path, thing, "Name an .axm container")


def projector_beside(gguf: Path) -> Path | None:
    """The projector that lies beside a GGUF under the usual name, such as ``mmproj-NAME-F16.gguf`` beside
    ``NAME-Q4_K_M.gguf``."""
    for path in sorted(gguf.parent.glob("mmproj-*.gguf")):
        name = path.stem.removeprefix("mmproj-").rpartition("-")[0]
        fits = name and (gguf.stem == name or gguf.stem.startswith(f"{name}-"))
        if fits and identify(path).kind == "mmproj":
            return path
    return None
