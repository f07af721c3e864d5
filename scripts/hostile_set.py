#!/usr/bin/env python3
"""Run every hostile input through every command, and print how the runs ended and what they cost.

    python scripts/hostile_set.py                 # everything
    python scripts/hostile_set.py --part made     # the inputs that this script makes
    python scripts/hostile_set.py --only tokenizer --commands convert,plan

The inputs are `fixtures/bad` and `fixtures/bugs` of the shared folder (where it is there), the corpora of the fuzz
targets, and those that this script makes: small files with large numbers, floods of values, links, pipes, devices,
sockets. Each input takes each place that an input has on the command line: the model, the GGUF, the container, and the
file of each option, beside sound files in the other places.

A run is a fork of a process with the package loaded. It is a fault if it ends by a signal, prints a traceback, a panic
or an internal error, ends with an unknown code, does not end with one line of error, or takes more than 150 MB beyond
the process that it was forked from or more than 2 seconds of CPU time. The exit code is 1 if there is a fault.

Two inputs are sparse files of 8 GB and 1 TB: their bytes are read or hashed as any others, so their runs take as long
as files of that size, and the limit of time does not hold for them. Such runs are printed as SLOW.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.path.append(str(ROOT / "python"))

MAX_BYTES, MAX_SECONDS, MAX_WALL = 150 * 10**6, 2.0, 30
PARTS = ("bad", "bugs", "corpus", "made")
#: Inputs that are sparse files, by how their names end.
SPARSE = ("made/folder: sparse weights", "made/sparse.gguf")


# The commands.


def commands(path: Path, box: Path, out: Path) -> Iterator[tuple[str, list[object]]]:
    """Each place of each command for an input, with sound files of `box` in the other places."""
    key, oms = ["--key-file", box / "0001.key"], ["--oms-key", box / "oms.pem"]
    quiet = ["--threads", "1", "-f"]
    model, gguf, axm, base = box / "llama", box / "m.gguf", box / "m.axm", box / "base.gguf"
    to = ["-o", out / "x"]
    convert = ["convert", "--fast", *to, *quiet, "--no-met"]
    yield "convert", [*convert, path]
    yield "convert --axm", ["convert", "--fast", *to, *quiet, "--axm", *key, path, "--allow-requantize"]
    yield (
        "convert --effort srd",
        [
            "convert",
            *to,
            *quiet,
            "--effort",
            "srd",
            "--calibrate",
            "random",
            "--calibrate-tokens",
            "32",
            path,
        ],
    )
    yield "convert --lora", [*convert, model, "--lora", path]
    yield "convert --imatrix", [*convert, model, "--imatrix", path]
    yield "convert --calibrate", ["convert", *to, *quiet, "--effort", "srd", "--calibrate", path, model]
    yield "convert --recipe", [*convert, model, "--recipe", path]
    yield "convert --sign-key", [*convert, model, "--axm", *key, "--sign-key", path]
    yield "convert --target-bpw", [*convert, path, "--target-bpw", "5"]
    yield "plan", ["plan", path, "--fast", "--rates", box / "rates.json"]
    yield "plan --rates", ["plan", model, "--fast", "--rates", path]
    yield "pack", ["pack", path, "--fast", *to, *quiet, *key]
    yield "lora", ["lora", path, "--base", model, *to, "-f"]
    yield "lora --base", ["lora", box / "adapter", "--base", path, *to, "-f"]
    yield "calibrate", ["calibrate", path, *to, "--text", "random", "--tokens", "32", *quiet]
    yield "calibrate --text", ["calibrate", base, *to, "--text", path, "--tokens", "32", *quiet]
    yield "inspect", ["inspect", path, "--metadata", "--tensors"]
    yield "inspect --json", ["inspect", path, "--json"]
    text = ["--ctx", "16", "--chunks", "1", "--threads", "1"]
    yield "eval", ["eval", path, "-f", box / "text.txt", *text]
    yield "eval --text", ["eval", base, "-f", path, *text]
    yield "met", ["met", path, *to]
    yield "met --check", ["met", path, "--check"]
    yield "hydrate", ["hydrate", path, "--intent", "INFORM"]
    yield "hydrate --sidecar", ["hydrate", gguf, "--intent", "INFORM", "--sidecar", path]
    yield "verify", ["verify", path, *key]
    yield "verify --no-key", ["verify", path, "--no-key", "--json"]
    yield "verify GGUF --axm", ["verify", gguf, "--axm", path, *key]
    yield "verify PATH --axm", ["verify", path, "--axm", axm, *key]
    yield "verify --public-key", ["verify", axm, "--public-key", path]
    yield "verify --key-file", ["verify", axm, "--key-file", path]
    yield "verify --trust-root", ["verify", box / "model.sig", "--trust-root", path]
    yield "verify --rebuild", ["verify", "--rebuild", path, "--from", model]
    yield "verify --from", ["verify", "--rebuild", gguf, "--from", path]
    yield "extract", ["extract", path, *to, *key, *quiet]
    yield "extract --quant", ["extract", path, *to, "--no-key", "-q", "Q8_0", *quiet]
    yield "extract --safetensors", ["extract", path, *to, "--no-key", "--safetensors", *quiet]
    yield "resign", ["resign", path, *to, *key, "--no-old-key", "--drop-signature", *quiet]
    yield "sign", ["sign", path, *oms, *to, "-f"]
    yield "sign --oms-key", ["sign", gguf, *to, "--oms-key", path, "-f"]
    yield "card", ["card", path, *to]
    yield "card --report", ["card", gguf, *to, "--report", path]
    yield "modelfile", ["modelfile", path, *to]
    yield "modelfile --mmproj", ["modelfile", gguf, *to, "--mmproj", path]
    yield "bom", ["bom", path, *to]
    yield "bom --from", ["bom", gguf, *to, "--from", path]


def sound_files(fuzz: ModuleType, box: Path) -> None:
    """The files for the other places."""
    import numpy as np
    from safetensors.numpy import save_file

    import srd_rs
    from support import RATES

    fuzz.make_seeds(box)
    types = (*srd_rs.options.MIXES, "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q5_0", "Q4_0", "F16", "F32")
    rates = {**RATES, "search": dict.fromkeys(types, 1e-8)}
    (box / "rates.json").write_text(json.dumps(rates))
    adapter = box / "adapter"
    adapter.mkdir()
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "org/base",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (2, 64), "B": (64, 2)}
    save_file(
        {name.format(k): np.ones(s, np.float32) for k, s in shapes.items()},
        adapter / "adapter_model.safetensors",
    )
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    except ImportError:
        return
    private = ec.generate_private_key(ec.SECP256R1())
    (box / "oms.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (box / "oms.pem").chmod(0o600)
    srd_rs.sign([box / "m.gguf"], box / "model.sig", key=box / "oms.pem")


# The inputs.


@dataclass(frozen=True)
class Input:
    name: str
    path: Path


class Chosen:
    """The inputs of this run: those with a text in their name, of which one in `count` is taken."""

    def __init__(self, only: str, number: int, count: int) -> None:
        self.only, self.number, self.count, self.seen = only, number, count, 0

    def __call__(self, name: str) -> bool:
        self.seen += 1
        return self.only in name and self.seen % self.count == self.number % self.count


def inputs(part: str, scratch: Path, box: Path, is_chosen: Chosen) -> Iterator[Input]:
    """The chosen inputs of a part."""
    shared = Path(os.environ.get("SRD_SHARED", ROOT.parent / "shared")) / "fixtures"
    if part == "bad" and (shared / "bad" / "MANIFEST.json").exists():
        for case in json.loads((shared / "bad" / "MANIFEST.json").read_text()):
            if is_chosen(f"bad/{case['file']}"):
                yield Input(f"bad/{case['file']}", shared / "bad" / case["file"])
    elif part == "bugs" and (shared / "bugs" / "bugs.tar.xz").exists():
        from support import unpacked

        for path in sorted(unpacked(shared / "bugs" / "bugs.tar.xz").iterdir()):
            if is_chosen(f"bugs/{path.name}"):
                yield Input(f"bugs/{path.name}", path)
    elif part == "corpus":
        for path in sorted((ROOT / "fuzz" / "corpus").rglob("*")):
            if path.is_file() and is_chosen(f"corpus/{path.parent.name}/{path.name}"):
                yield Input(f"corpus/{path.parent.name}/{path.name}", path)
    elif part == "made":
        yield from made(scratch, box, is_chosen)


FLOOD = "[" + "[]," * 5_000_000 + "[]]"
Change = Callable[[Path], object]


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        value = json.loads((folder / "tokenizer.json").read_text())
        change(value)
        (folder / "tokenizer.json").write_text(json.dumps(value))

    return apply


def text(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def link(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def safetensors(change: Callable[[dict[str, Any]], object], size: int | None = None) -> Change:
    """Another header over the same weights; with `size` a sparse file of so many bytes."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8 : 8 + length])
        change(header)
        data = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(data)) + data + raw[8 + length :])
        if size is not None:
            os.truncate(path, size)

    return apply


def front(content: str) -> Change:
    return text("README.md", f"---\n{content}\n---\n# Title\n")


SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
GROW = {
    "type": "Sequence",
    "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}] * 9,
}
#: What is wrong with a model folder -> how it is made from a sound one.
FOLDERS: dict[str, Change] = {
    **{
        f"{key} {value}": config(**{key: value})
        for key, value in {
            "head_dim": 2147483646,
            "num_hidden_layers": 2**31 - 1,
            "vocab_size": 2**40,
            "hidden_size": 10**30,
            "num_attention_heads": 2**31,
            "max_position_embeddings": 2**63,
            "rope_theta": -1.0,
            "rms_norm_eps": "NaN",
            "eos_token_id": [10**400],
            "intermediate_size": 0,
            "num_key_value_heads": -1,
            "architectures": ["x" * 10**6],
        }.items()
    },
    "llama3 factors": config(
        head_dim=2147483646,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "longrope": config(
        rope_scaling={
            "rope_type": "longrope",
            "short_factor": [1.0] * 500_000,
            "long_factor": [1.0] * 500_000,
        }
    ),
    "quantized": config(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}),
    "auto_map": config(auto_map={"AutoConfig": "../../evil.Config"}, architectures=["Evil"]),
    **{
        f"flood in {name}": text(name, FLOOD)
        for name in (
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
        )
    },
    "deep JSON": text("config.json", "[" * 1_000_000),
    "long number": text("config.json", '{"a": ' + "9" * 100_000 + "}"),
    "deep object": text("tokenizer_config.json", '{"a":' * 100_000 + "1" + "}" * 100_000),
    "no UTF-8": text("tokenizer_config.json", b"\xff\xfe{}"),
    "surrogate": text("tokenizer_config.json", '{"chat_template": "\\ud800"}'),
    "a long template": text("chat_template.jinja", "{% if x %}" * 1_600_000),
    "escapes": text("chat_template.jinja", "\x1b[2J\x07"),
    "many added tokens": text("added_tokens.json", json.dumps({f"<{i}>": 10**6 + i for i in range(200_000)})),
    "card quotes": front("tags: [" + "'" * 900_000),
    "card brackets": front("tags: " + "[" * 900_000),
    "card aliases": front("a: &a [x]\n" + "".join(f"b{i}: [*a, *a]\n" for i in range(2000))),
    "card commas": front("tags: [" + "a," * 450_000 + "]"),
    "card bytes": text("README.md", bytes(range(256)) * 4000),
    **{
        f"{name} -> {target}": link(name, target)
        for name in ("config.json", "chat_template.jinja", "tokenizer.json", "README.md", "model.safetensors")
        for target in ("/proc/self/environ", "/dev/zero", "../../secret", "/proc/self/mem")
    },
    **{
        f"{name} is a circle": link(name, name)
        for name in ("config.json", "tokenizer.json", "model.safetensors")
    },
    **{
        f"{name} is a pipe": pipe(name)
        for name in (
            "config.json",
            "tokenizer.json",
            "README.md",
            "chat_template.jinja",
            "model.safetensors",
            "generation_config.json",
            "model.safetensors.index.json",
        )
    },
    "regex that hangs": tokenizer(lambda t: t.update(pre_tokenizer=SPLIT | {"pattern": {"Regex": "(a+)+$"}})),
    "regex of a megabyte": tokenizer(
        lambda t: t.update(pre_tokenizer=SPLIT | {"pattern": {"Regex": "(a|b)" * 200_000}})
    ),
    "growing normalizer": tokenizer(lambda t: t.update(normalizer=GROW)),
    "charsmap": tokenizer(
        lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "////"})
    ),
    "long tokens": tokenizer(lambda t: t["model"]["vocab"].update({"a" * 300_000: 5, "b" * 1_000_000: 6})),
    "ids far away": tokenizer(lambda t: t["model"]["vocab"].update({"x": 2**62, "y": -1})),
    "merges of nothing": tokenizer(lambda t: t["model"].update(merges=[["zz", "yy"]] * 100_000)),
    "merges that are numbers": tokenizer(lambda t: t["model"].update(merges=[1, None, {}])),
    "prefix 5": tokenizer(lambda t: t["model"].update(continuing_subword_prefix=5)),
    "a vocabulary of lists": tokenizer(
        lambda t: t["model"].update(vocab=[["a", "x"]] * 1000, type="Unigram")
    ),
    "no model": tokenizer(lambda t: t.pop("model")),
    "model null": tokenizer(lambda t: t.update(model=None)),
    "sparse weights": safetensors(lambda h: _sparse(h, 1 << 24), 8 << 30),
    "a million tensors": safetensors(
        lambda h: h.update(
            {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)}
        )
    ),
    "long names": safetensors(lambda h: h.update({"a" * 5_000_000: h.pop("model.norm.weight")})),
    "metadata flood": safetensors(lambda h: h.update(__metadata__={str(i): "x" for i in range(300_000)})),
    "tokenizer.model of zeros": text("tokenizer.model", bytes(1 << 20)),
    "tokenizer.model that lies": text("tokenizer.model", b"\x0a\xff\xff\xff\xff\x7f" * 1000),
    "tekken.json": text("tekken.json", '{"config": {"default_vocab_size": 1e99}, "vocab": [{}]}'),
    "index to /etc": text(
        "model.safetensors.index.json", '{"weight_map": {"a": "/etc/passwd", "b": "../x.safetensors"}}'
    ),
    "index flood": text(
        "model.safetensors.index.json",
        json.dumps({"weight_map": {f"t{i}": "model.safetensors" for i in range(300_000)}}),
    ),
}


def _sparse(header: dict[str, Any], rows: int) -> None:
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    entry = header["model.embed_tokens.weight"]
    width = entry["shape"][1]
    entry.update(shape=[rows, width], data_offsets=[end, end + 4 * rows * width])


def gguf_with(
    *keys: tuple[str, int, Any], tensors: list[tuple[str, list[int], int]] | None = None, extra: bytes = b""
) -> bytes:
    """A GGUF of metadata keys and tensor infos. The data of the tensors is as long as `extra`."""

    def string(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors or []), len(keys)))
    for key, kind, value in keys:
        out += string(key) + struct.pack("<I", kind)
        out += (
            string(value)
            if kind == 8
            else value
            if isinstance(value, bytes)
            else struct.pack({4: "<I", 10: "<Q", 6: "<f"}[kind], value)
        )
    for name, ne, kind in tensors or []:
        out += (
            string(name)
            + struct.pack("<I", len(ne))
            + b"".join(struct.pack("<Q", n) for n in ne)
            + struct.pack("<IQ", kind, 0)
        )
    return bytes(out + bytes(-len(out) % 32) + extra)


LLAMA = ("general.architecture", 8, "llama")


def files(box: Path) -> Iterator[tuple[str, bytes]]:
    """Hostile files by name."""
    base = (box / "base.gguf").read_bytes()
    for key, width in (
        ("llama.block_count", 4),
        ("llama.embedding_length", 4),
        ("llama.attention.head_count", 4),
        ("llama.feed_forward_length", 4),
        ("llama.context_length", 4),
    ):
        at = base.index(key.encode()) + len(key) + 4
        for value in (2**32 - 1, 10**8, 0, 513):
            yield f"{key} {value}.gguf", base[:at] + struct.pack("<I", value) + base[at + width :]
    keys = [(f"k{i}", 4, 1) for i in range(100_000)]
    yield "many keys.gguf", gguf_with(LLAMA, *keys)
    yield (
        "many tensors.gguf",
        gguf_with(LLAMA, tensors=[(f"t{i}", [1], 0) for i in range(60_000)], extra=bytes(64)),
    )
    yield "one key twice.gguf", gguf_with(LLAMA, LLAMA)
    yield "an array of 2^61.gguf", gguf_with(LLAMA, ("x", 9, struct.pack("<IQ", 8, 2**61)))
    yield "arrays of arrays.gguf", gguf_with(LLAMA, ("x", 9, struct.pack("<IQ", 9, 1) * 100_000))
    yield "a text of 2^63.gguf", gguf_with(LLAMA, ("x", 8, "x"))[:-40] + struct.pack("<Q", 2**63) * 3
    yield "a tensor of 2^63.gguf", gguf_with(LLAMA, tensors=[("t", [2**63, 2**63, 4, 4], 0)])
    yield "alignment 0.gguf", gguf_with(LLAMA, ("general.alignment", 4, 0))
    yield "alignment 2^31.gguf", gguf_with(LLAMA, ("general.alignment", 4, 2**31), tensors=[("t", [1], 0)])
    yield "split of 65535.gguf", gguf_with(LLAMA, ("split.count", 4, 65535), ("split.no", 4, 0))
    yield "x-00001-of-00002.gguf", gguf_with(LLAMA, ("split.count", 4, 2), ("split.no", 4, 0))
    yield (
        "escapes.gguf",
        gguf_with(("general.architecture", 8, "\x1b[31mllama"), ("general.name", 8, "\x1b]0;x\x07")),
    )
    yield (
        "wide matrix.gguf",
        gguf_with(
            LLAMA,
            ("llama.block_count", 4, 1),
            tensors=[("blk.0.ffn_down.weight", [2, 65536], 0)],
            extra=bytes(2 * 65536 * 4),
        ),
    )
    yield "version 4.gguf", base[:4] + struct.pack("<I", 4) + base[8:]
    yield "big endian.gguf", base[:4] + struct.pack(">I", 3) + base[8:]
    entry = bytearray(struct.pack("<i", 60_000))
    for i in range(60_000):
        name = b"blk.%d.x.weight" % i
        entry += struct.pack("<i", len(name)) + name + struct.pack("<iif", 1, 1, 1.0)
    yield "many entries.dat", bytes(entry)
    yield "2^31 values.dat", struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 2**31 - 1)
    yield "a name of 2^31.dat", struct.pack("<ii", 1, 2**31 - 1)
    shards, header = (1 << 32) - 1, 400
    numbers = (header, 1 << 16, 1 << 16, 64 + 104 * shards, (1 << 16) + 64 + 104 * shards + 192, shards)
    yield (
        "2^32 shards.axm",
        (b"\x89AXM\r\n\x1a\n" + struct.pack("<II6Q", 1, 1, *numbers)).ljust(70_000, b"\0"),
    )
    axm = (box / "m.axm").read_bytes()
    yield "cut off.axm", axm[:-1]
    yield "a changed header.axm", axm[:300] + b"9" + axm[301:]
    yield "zeros", bytes(1 << 20)
    yield "empty", b""
    yield "a key", b"5d" * 32
    yield (
        "an attestation",
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "", "signatures": []}',
    )
    yield "flood.met.json", b'{"met_version": 1, "slots": ' + FLOOD.encode() + b"}"
    yield (
        "numbers.met.json",
        b'{"met_version": 1, "file": {"bytes": 1e999, "sha256": []}, "slots": [' + b"0," * 10**5 + b"0]}",
    )
    bundle = (
        json.loads((box / "model.sig").read_text()) if (box / "model.sig").exists() else {"mediaType": ""}
    )
    yield (
        "payload flood.sig",
        json.dumps(
            {
                **bundle,
                "dsseEnvelope": {"payload": "A" * 10**6, "payloadType": "x", "signatures": [{}] * 10**5},
            }
        ).encode(),
    )
    yield (
        "no envelope.sig",
        json.dumps({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}).encode(),
    )
    yield (
        "report.json",
        json.dumps(
            {
                "files": [
                    {"path": "m.gguf", "perplexity": {"value": "x", "error": 10**400}, "divergence": 5}
                ],
                "n_chunks": {},
                "text": 5,
            }
        ).encode(),
    )
    yield (
        "recipe.json",
        json.dumps(
            {
                "format": "srd-rs recipe",
                "mix": "Q4_K_M",
                "tensors": {f"\ud800{i}": "Q9" for i in range(10**5)},
            }
        ).encode(),
    )
    yield "text.txt", b"a" * (65 << 20)
    yield "no spaces.txt", b"(" * 3_000_000
    yield "weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(1000)
    yield "page.html", b"<!DOCTYPE html><html>" + b"x" * 1000
    yield "cert.pem", b"-----BEGIN CERTIFICATE-----\n" + b"A" * 100_000 + b"\n-----END CERTIFICATE-----\n"
    yield "private.pem", b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"


def pickles(trace: Path) -> dict[str, bytes]:
    """Pickles that run code, which would make the file `trace`, or that take all memory."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {trace}",)

    return {
        "code": pickle.dumps(Evil(), 2),
        "memo": b"\x80\x02}r\xff\xff\xff\x7f.",
        "long": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "deep": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        "digits": b"I" + b"9" * 100_000 + b"\n.",
    }


def made(scratch: Path, box: Path, is_chosen: Chosen) -> Iterator[Input]:
    """The inputs of this script, one at a time: each is removed behind its runs."""
    (scratch / "secret").write_text("{}")
    for name, change in FOLDERS.items():
        if not is_chosen(f"made/folder: {name}"):
            continue
        folder = scratch / "folder" / "model"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(box / "llama", folder)
        change(folder)
        yield Input(f"made/folder: {name}", folder)
    shutil.rmtree(scratch / "folder", ignore_errors=True)
    for name, data in pickles(scratch / "code was run").items():
        if not is_chosen(f"made/pickle: {name}"):
            continue
        folder = scratch / "pickle"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(box / "llama", folder, ignore=shutil.ignore_patterns("*.safetensors"))
        with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", data)
        yield Input(f"made/pickle: {name}", folder)
    for name, data in files(box):
        if not is_chosen(f"made/{name}"):
            continue
        path = scratch / name
        path.write_bytes(data)
        yield Input(f"made/{name}", path)
        path.unlink()
    (scratch / "is a folder").mkdir()
    os.mkfifo(scratch / "is a pipe")
    (scratch / "is a circle").symlink_to("is a circle")
    (scratch / "is a dangling link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(scratch / "is a socket"))
        for name in (
            "is a folder",
            "is a pipe",
            "is a circle",
            "is a dangling link",
            "is a socket",
            "is not there",
        ):
            if is_chosen(f"made/{name}"):
                yield Input(f"made/{name}", scratch / name)
    for device in (
        "/dev/null",
        "/dev/zero",
        "/dev/urandom",
        "/dev/stdin",
        "/proc/self/environ",
        "/proc/self/mem",
        "/",
        ".",
    ):
        if is_chosen(f"made/{device}"):
            yield Input(f"made/{device}", Path(device))
    with (scratch / "sparse.gguf").open("wb") as file:
        file.write((box / "base.gguf").read_bytes())
        file.truncate(1 << 40)
    if is_chosen("made/sparse.gguf"):
        yield Input("made/sparse.gguf", scratch / "sparse.gguf")


# The runs.


@dataclass(frozen=True)
class End:
    code: int
    fault: str | None
    bytes: int
    seconds: float
    late: bool = False


def run(fuzz: ModuleType, args: list[str], report: Path) -> End:
    """One run in a fork of this process."""
    report.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            _child(fuzz, args, report)
        finally:
            os._exit(99)
    _, status, usage = os.wait4(pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    if status:
        code = os.waitstatus_to_exitcode(status)
        late = -code in (signal.SIGXCPU, signal.SIGALRM)
        return End(code, f"ended by {signal.Signals(-code).name if code < 0 else code}", 0, seconds, late)
    found = json.loads(report.read_text())
    said = found["out"] + found["err"] + report.with_suffix(".stderr").read_text(errors="replace")
    wrong = next((sign for sign in (*fuzz.SIGNS, "\x1b") if sign in said), None)
    lines = [line for line in found["err"].splitlines() if line.startswith("error: ")]
    if wrong is None and found["code"] not in (0, 1, 2, 3):
        wrong = f"exit code {found['code']}"
    if wrong is None and found["code"] and "--json" not in args and len(lines) != 1:
        wrong = f"{len(lines)} lines of error"
    if wrong is None and found["peak"] > MAX_BYTES:
        wrong = f"{found['peak'] / 1e6:.0f} MB"
    late = wrong is None and seconds > MAX_SECONDS
    if late:
        wrong = f"{seconds:.1f} s of CPU time"
    if wrong is not None:
        wrong += f": {said.strip()[-300:]}"
    return End(found["code"], wrong, found["peak"], seconds, late)


def _child(fuzz: ModuleType, args: list[str], report: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (30, 31))
    signal.alarm(MAX_WALL)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    log = os.open(report.with_suffix(".stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    inherited = fuzz.peak_bytes()
    code, out, err = fuzz.run_here(args)
    # A child process, such as that of a tokenizer, counts as well: with what its interpreter takes.
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    peak = max(fuzz.peak_bytes(), children) - inherited
    report.write_text(json.dumps({"code": code, "out": out[-4000:], "err": err[-4000:], "peak": peak}))
    os._exit(0)


def all_runs(
    chosen: argparse.Namespace, part: str, scratch: Path, box: Path, out: Path
) -> Iterator[tuple[str, list[str]]]:
    """What is run on the inputs of a part: a name and the arguments."""
    wanted = [name for name in chosen.commands.split(",") if name]
    is_chosen = Chosen(chosen.only, *map(int, chosen.slice.split("/")))
    for item in inputs(part, scratch, box, is_chosen):
        for name, args in commands(item.path, box, out):
            if (not wanted or name in wanted) and name.split()[0] not in chosen.without.split(","):
                yield f"{name}, {item.name}", [str(arg) for arg in args]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="inputs to take; all by default")
    parser.add_argument("--only", default="", help="only inputs with this text in their name")
    parser.add_argument(
        "--commands", default="", help="only these commands, comma-separated: convert,verify --axm"
    )
    parser.add_argument("--slice", default="0/1", help="only one in so many inputs: 0/10, 1/10 and so on")
    parser.add_argument("--without", default="", help="leave these commands out, comma-separated: eval")
    parser.add_argument("--box", type=Path, help="keep the sound files in this folder for the next slice")
    chosen = parser.parse_args()
    os.environ.pop("SRD_DEBUG", None)
    from support import fuzzer

    fuzz = fuzzer()
    fuzz.load()
    ends: Counter[str] = Counter()
    dearest: list[tuple[float, str]] = []
    largest: list[tuple[int, str]] = []
    names: set[str] = set()
    stopped: list[bool] = []  # SIGTERM ends the run with what was found so far
    faults, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scratch, box, out = (Path(folder) / name for name in ("scratch", "box", "out"))
        scratch.mkdir()
        os.environ.update(
            XDG_CONFIG_HOME=str(Path(folder) / "home"),
            XDG_CACHE_HOME=str(Path(folder) / "cache"),
            SRD_CACHE="off",
        )
        os.environ.pop("SRD_MASTER_KEY", None)
        box = (chosen.box or box).absolute()
        if not box.exists():
            sound_files(fuzz, box)
        os.chdir(scratch)
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
        for part in chosen.part or PARTS:
            for what, args in all_runs(chosen, part, scratch, box, out):
                if stopped:
                    break
                names.add(what.partition(", ")[2])
                out.mkdir()
                end = run(fuzz, args, Path(folder) / "report")
                shutil.rmtree(out)
                ends[f"code {end.code}"] += 1
                dearest = sorted([*dearest, (end.seconds, what)], reverse=True)[:3]
                largest = sorted([*largest, (end.bytes, what)], reverse=True)[:3]
                if end.late and what.endswith(SPARSE):
                    print(f"SLOW {what}: {end.seconds:.1f} s of CPU time", flush=True)
                elif end.fault is not None:
                    faults += 1
                    print(f"FAULT {what}: {end.fault}", flush=True)
        if (scratch / "code was run").exists():
            faults += 1
            print("FAULT: the code of a pickle was run")
    runs = sum(ends.values())
    print(f"{len(names)} inputs, {runs} runs in {time.monotonic() - start:.0f} s, {faults} faults")
    print(", ".join(f"{name}: {count}" for name, count in sorted(ends.items())))
    for size, what in largest:
        print(f"memory: {size / 1e6:.0f} MB beyond the imports ({what})")
    for seconds, what in dearest:
        print(f"CPU time: {seconds:.2f} s ({what})")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
