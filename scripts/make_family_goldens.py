"""Convert the tiny checkpoints of `family_cases` with llama.cpp's own converter and keep what it wrote as hashes.

    python scripts/make_family_goldens.py --llama-cpp vendor/llama.cpp [NAME ...]

The folder of llama.cpp is in the source distribution of llama-cpp-python. The script needs torch, transformers and
llama-cpp-python; the tests that read the goldens need none of them. Each golden is a file of its own,
``tests/data/families/NAME.json``, with the configuration, the names and shapes of the sources, the metadata without
the tokenizer's, and for each tensor its shape, its type in the BF16 file, the first 16 digits of the SHA-256 of its
bytes, and the type that llama-quantize gives it in Q4_K_M. Last come the 16 tokens that llama.cpp generates with the
file, or the embedding of an encoder.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]

import llama_cpp  # noqa: E402

from family_cases import TARGET, Case, all_cases  # noqa: E402
from generation import SCALE, generated, with_vocabulary  # noqa: E402
from patterns import write_config, write_shards  # noqa: E402

GOLDENS = REPO / "tests" / "data" / "families"
NOT_COMPARED = ("tokenizer.", "general.file_type", "general.quantization_version", "GGUF.")


def shapes_of(case: Case) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the checkpoint by name, as the case or as transformers has it."""
    if case.tensors is not None:
        return {name: tuple(shape) for name, shape in case.tensors.items()}
    import torch
    import transformers
    from safetensors import safe_open

    config = transformers.AutoConfig.for_model(**case.config)
    model = getattr(transformers, case.config["architectures"][0])(config).to(torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", framework="np") as file:
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return saved | {name: tuple(shape) for name, shape in case.more.items()}


def write_checkpoint(
    case: Case, shapes: dict[str, tuple[int, ...]], folder: Path, scale: float = 1.0
) -> None:
    """Write the files of the checkpoint. Each weight follows from the name of its tensor."""
    folder.mkdir()
    write_config(case.config, folder)
    for name, value in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    shard = "model.safetensors" if "architectures" in case.config else "consolidated.safetensors"
    sources = {name: [case.dtypes.get(name, "BF16"), list(s), shard] for name, s in shapes.items()}
    write_shards(sources, folder, scale)


@cache
def names_of_llama_cpp() -> Any:
    """Return llama.cpp's names of tensors as they are before any conversion."""
    import gguf

    return dict(gguf.TensorNameMap.block_mappings_cfg)


def convert(
    folder: Path,
    output: Path,
    mmproj: bool,
    raw_config: bool,
    constants: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Run llama.cpp's converter without its tokenizer. With `raw_config`, config.json does not go through
    transformers. `constants` are attributes that its class gets."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    # Making the names of Arctic changes the names of every architecture that comes later.
    gguf.TensorNameMap.block_mappings_cfg = dict(names_of_llama_cpp())
    kind = ModelType.MMPROJ if mmproj else ModelType.TEXT
    own_format = (folder / "params.json").is_file()
    with without_transformers() if raw_config else contextlib.nullcontext():
        hparams = ModelBase.load_hparams(folder, own_format)
    if own_format:
        from conversion.mistral import MistralModel
        from conversion.pixtral import PixtralModel

        model_class = PixtralModel if mmproj else MistralModel
    else:
        model_class = get_model_class(get_model_architecture(hparams, kind), mmproj=mmproj)

    without_vocabulary(ModelBase)
    for name, value in constants.items():
        setattr(model_class, name, value)
    getattr(model_class, "lerp_weights", {}).clear()  # RWKV keeps weights of the last model in its class
    with torch.inference_mode():
        written_type = gguf.LlamaFileType.MOSTLY_F16 if mmproj else gguf.LlamaFileType.MOSTLY_BF16
        target = folder / TARGET
        target_model = {"target_model_dir": target} if target.is_dir() else {}
        model_class(folder, written_type, output, hparams=hparams, **target_model).write()


@contextlib.contextmanager
def without_transformers() -> Iterator[None]:
    """Let the converter read config.json itself."""
    from conversion import base

    auto_config, base.AutoConfig = base.AutoConfig, None
    try:
        yield
    finally:
        base.AutoConfig = auto_config


def without_vocabulary(model_class: type) -> None:
    """Make a class of the converter, and all classes made from it, leave the tokenizer alone."""
    for name in ("set_vocab", "_get_suppress_tokens"):  # MiniMax-Text-01 looks for unused tokens
        if name in vars(model_class):
            setattr(model_class, name, lambda self: None)
    for subclass in model_class.__subclasses__():
        without_vocabulary(subclass)


def written(path: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the metadata, ``key: [kind, value]``, and the tensors, ``name: [shape, type, digest]``, of a GGUF."""
    import gguf

    reader = gguf.GGUFReader(path)
    metadata = {}
    for key, field in reader.fields.items():
        if not key.startswith(NOT_COMPARED):
            kinds = [kind.name for kind in field.types]
            metadata[key] = [f"ARRAY[{kinds[-1]}]" if kinds[0] == "ARRAY" else kinds[0], field.contents()]
    tensors = {
        t.name: [
            t.shape.tolist()[::-1],
            t.tensor_type.name,
            hashlib.sha256(t.data.tobytes()).hexdigest()[:16],
        ]
        for t in reader.tensors
    }
    return metadata, tensors


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    """Print nothing."""


def quantized_types(source: Path, output: Path) -> dict[str, str] | str:
    """Return the type of each tensor after llama-quantize to Q4_K_M, or what llama.cpp says if it cannot."""
    import gguf

    llama_cpp.llama_log_set(_quiet, None)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    parameters.nthread = 1
    if llama_cpp.llama_model_quantize(bytes(source), bytes(output), parameters):
        return "llama.cpp cannot quantize this file"
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(output).tensors}


def golden_of(case: Case) -> dict[str, Any]:
    shapes = shapes_of(case)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / case.name
        write_checkpoint(case, shapes, folder)
        result: dict[str, Any] = {"name": case.name, "config": case.config}
        if case.files:
            result["files"] = case.files
        result["sources"] = {name: [case.dtypes.get(name, "BF16"), list(s)] for name, s in shapes.items()}
        for part in [part for part in ("text", "mmproj") if getattr(case, part)]:
            output = Path(scratch) / f"{part}.gguf"
            constants = case.constants if part == "mmproj" else {}
            convert(folder, output, part == "mmproj", case.raw_config, constants)
            metadata, tensors = written(output)
            if part == "text":
                types = quantized_types(output, Path(scratch) / "q4.gguf")
                if isinstance(types, str):
                    result["q4_k_m"] = types
                else:
                    for name, row in tensors.items():
                        row.append(types[name])
            result[part] = {"metadata": metadata, "tensors": tensors}
        if case.text and not case.drafts:
            result["generated"] = generated_of(case, shapes, Path(scratch) / "generated")
    return result


def golden_or_error(case: Case, old: Path | None) -> dict[str, Any] | str:
    """Return a golden, or what went wrong. Of the golden `old`, all but what llama.cpp generates is kept."""
    try:
        if old is None:
            return golden_of(case)
        golden: dict[str, Any] = json.loads(old.read_text(encoding="utf-8"))
        shapes = {name: tuple(shape) for name, (_, shape) in golden["sources"].items()}
        with tempfile.TemporaryDirectory() as scratch:
            return golden | {"generated": generated_of(case, shapes, Path(scratch) / "generated")}
    except Exception:
        return traceback.format_exc()


def generated_of(case: Case, shapes: dict[str, tuple[int, ...]], scratch: Path) -> dict[str, Any]:
    """Return what llama.cpp computes with the file of its own converter. The weights are small here."""
    scratch.mkdir()
    write_checkpoint(case, shapes, scratch / case.name, SCALE)
    convert(scratch / case.name, scratch / "bare.gguf", False, case.raw_config)
    with_vocabulary(scratch / "bare.gguf", scratch / "text.gguf")
    return generated([(scratch / "text.gguf", None)])[0]


def lines(value: Any, depth: int = 3) -> Iterator[str]:
    """JSON with one line for each entry of the outer mappings, so that differences can be read."""
    if depth and isinstance(value, dict) and value:
        yield "{\n"
        last = len(value) - 1
        for index, (key, part) in enumerate(value.items()):
            yield f"{json.dumps(key)}: "
            yield from lines(part, depth - 1)
            yield ",\n" if index < last else "\n"
        yield "}"
    else:
        yield json.dumps(value, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="cases to convert; all of them if none is named")
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with conversion/ and gguf-py/")
    parser.add_argument("--generated", action="store_true", help="renew only what llama.cpp generates")
    parser.add_argument("--verbose", action="store_true", help="show what the converter prints")
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp), str(options.llama_cpp / "gguf-py")]
    if not options.verbose:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["TQDM_DISABLE"] = "1"
        logging.disable(logging.WARNING)
    cases = all_cases()
    GOLDENS.mkdir(exist_ok=True)
    failed = []
    import conversion  # noqa: F401
    import transformers  # noqa: F401

    # The converter and transformers change their own tables while they run, so each case gets a process of its own.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for name in options.names or cases:
            old = GOLDENS / f"{name}.json" if options.generated else None
            golden = pool.apply(golden_or_error, (cases[name], old))
            if isinstance(golden, str):
                print(golden, file=sys.stderr)
                failed.append(name)
                continue
            (GOLDENS / f"{name}.json").write_text("".join(lines(golden)) + "\n", encoding="utf-8")
            halves = (
                f"{len(golden[half]['tensors'])} tensors of {half}"
                for half in ("text", "mmproj")
                if half in golden
            )
            print(f"{name}: {', '.join(halves)}", flush=True)
    if failed:
        raise SystemExit(f"not converted: {', '.join(failed)}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
