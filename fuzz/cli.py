"""Structure-aware fuzzing of the commands: small valid inputs are changed where their formats have meaning, and each
command must end with a result or with one line, in bounded time and memory.

    python fuzz/cli.py                        # 20 seconds for each command
    python fuzz/cli.py convert met -s 600     # two commands, ten minutes each

A case runs in a process that was forked from one with the package loaded. A case fails if the process ends by a
signal, prints a traceback, "internal error" or more than one line for a failure, ends with an unknown exit code, takes
more than `MAX_SECONDS` of CPU time or `MAX_BYTES` of memory beyond that of the process it was forked from. The inputs
of a failed case are kept. `--seed N --only` runs one case again. `tests/test_fuzz_cli.py` runs each command for a
moment.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Where the package is installed, the installed one is used: the folder of the sources may lack the native module.
sys.path.insert(0, str(ROOT / "tests"))
sys.path.append(str(ROOT / "python"))

MAX_SECONDS = 20
MAX_BYTES = 1 << 30
SIGNS = ("Traceback", "panicked", "internal error", "PanicException")
NUMBERS = (
    -(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 255, 256, 257, 4096, 65535, 65536, 2**31 - 1, 2**31,
    2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**30,
)  # fmt: skip
TEXTS = (
    "", "x", "\0", "\n", "é", "\U0001f600", "\ud800", "../x", "/etc/passwd", "a" * 70, "a" * 5000, "true", "1", "NaN",
    "%s%n", "<0x41>", "<0x-1>", "<s>", "{{ x }}", "\x1b[31m", "BF16", "I64", "float32", "llama", "bert", "gemma3",
    "mixtral",
)  # fmt: skip


class Mutator:
    """Changes values, JSON trees, GGUFs, safetensors files, containers and bytes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, old: Any) -> Any:
        """Another value: of the same kind, or of any other."""
        r = self.random
        if isinstance(old, bool):
            return r.choice([not old, None, 0, "x", []])
        if isinstance(old, int) and r.random() < 0.7:
            return r.choice([*NUMBERS, old + 1, old - 1, old * 2, old // 2, -old])
        if isinstance(old, float) and r.random() < 0.7:
            return r.choice([0.0, -1.0, 1e-300, 1e300, float("inf"), float("nan"), old * 2, -old])
        if isinstance(old, str) and r.random() < 0.7:
            return r.choice([*TEXTS, old[:-1], old + old, old.upper()])
        return r.choice(
            [None, True, False, 0, -1, 2**40, 0.5, "", "x", [], {}, [[]], [0], {"a": 1}, [None] * 20]
        )

    def tree(self, root: Any, changes: int | None = None) -> Any:
        """A JSON value with a few changes anywhere."""
        r = self.random
        box = {"root": json.loads(json.dumps(root))}
        for _ in range(changes or r.choice([1, 1, 1, 2, 3])):
            places: list[tuple[Any, Any]] = []
            stack: list[Any] = [box]
            while stack:
                node = stack.pop()
                keys = list(node) if isinstance(node, dict) else range(len(node))
                for key in keys:
                    places.append((node, key))
                    if isinstance(node[key], (dict, list)):
                        stack.append(node[key])
            # Long lists, such as vocabularies, would hide everything else.
            shallow = [place for place in places if not isinstance(place[0], list) or len(place[0]) < 20]
            node, key = r.choice(shallow if shallow and r.random() < 0.7 else places)
            action = r.random()
            if action < 0.55:
                node[key] = self.value(node[key])
            elif action < 0.7 and node is not box:
                del node[key]
            elif action < 0.8 and isinstance(node, dict) and node is not box:
                node[r.choice(TEXTS) or "k"] = node.pop(key)
            elif action < 0.9 and isinstance(node, list):
                node.extend([node[key]] * r.choice([1, 2, 300]))
            else:
                other, name = r.choice(places)
                if other is not box and node is not box:
                    node[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else 0
        return box["root"]

    def raw(self, data: bytes) -> bytes:
        """Bytes with a few of them changed, cut off or repeated."""
        r, out = self.random, bytearray(data)
        for _ in range(r.choice([1, 1, 2, 4])):
            if not out:
                break
            at = r.randrange(len(out)) if r.random() < 0.5 else r.randrange(min(len(out), 512))
            kind = r.randrange(6)
            if kind == 0:
                out[at] ^= 1 << r.randrange(8)
            elif kind == 1:
                out[at : at + 4] = struct.pack("<I", r.choice(NUMBERS) & 0xFFFFFFFF)
            elif kind == 2:
                out[at : at + 8] = struct.pack("<Q", r.choice(NUMBERS) & (2**64 - 1))
            elif kind == 3:
                del out[at:]
            elif kind == 4:
                out[at:at] = out[at : at + r.choice([1, 8, 100])]
            else:
                out += bytes(r.choice([1, 31, 4096]))
        return bytes(out)

    def json_file(self, path: Path) -> None:
        tree = self.tree(json.loads(path.read_text()))
        text = json.dumps(tree, ensure_ascii=True)
        if self.random.random() < 0.05:
            text = text.replace("{", '{"a": 1, "a": 2, ', 1)
        path.write_text(text)

    def text_file(self, path: Path) -> None:
        lines = path.read_bytes().split(b"\n")
        r = self.random
        for _ in range(r.choice([1, 2, 3])):
            at = r.randrange(len(lines))
            lines[at] = r.choice(
                [b"", lines[at] * 3, lines[at][:3], b"\xff", b"a" * 5000, lines[r.randrange(len(lines))]]
            )
        path.write_bytes(b"\n".join(lines))

    def safetensors(self, path: Path) -> None:
        """Another header over the same data."""
        data = path.read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        r = self.random
        if r.random() < 0.3:
            names = [name for name in header if name != "__metadata__"]
            name = r.choice(names)
            if r.random() < 0.5:
                header[r.choice(["model." + name, "_orig_mod." + name, name + "x", name[6:] or "x"])] = (
                    header.pop(name)
                )
            else:
                header[name]["dtype"] = r.choice(
                    ["F64", "F32", "F16", "BF16", "I8", "U8", "F8_E4M3", "I64", "BOOL", "X"]
                )
                if r.random() < 0.7:
                    header, body = _fitting(header, body, name)
        else:
            header = self.tree(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)

    def gguf(self, path: Path) -> None:
        parts = Gguf.read(path.read_bytes())
        r = self.random
        for _ in range(r.choice([1, 1, 2, 3])):
            if r.random() < 0.6 and parts.values:
                self._gguf_value(parts)
            elif parts.tensors:
                self._gguf_tensor(parts)
        path.write_bytes(parts.encode())

    def _gguf_value(self, parts: Gguf) -> None:
        r = self.random
        at = r.randrange(len(parts.values))
        key, kind, value = parts.values[at]
        action = r.random()
        if action < 0.15:
            del parts.values[at]
        elif action < 0.2:
            parts.values.append((key, kind, value))
        elif action < 0.3:
            parts.values[at] = (
                r.choice([*TEXTS, key + "x", "split.count", "general.alignment"]),
                kind,
                value,
            )
        elif action < 0.45:
            other = r.choice([0, 4, 5, 6, 7, 8, 10, 12])
            parts.values[at] = (key, other, "x" if other == 8 else r.choice([0, 1, 7]))
        elif kind == 9:
            element, items = value
            items = list(items)
            what = r.randrange(5)
            if what == 0:
                items = items[: r.randrange(len(items) + 1)]
            elif what == 1:
                items += items[:1] * r.choice([1, 5])
            elif items and element == 8:
                items[r.randrange(len(items))] = r.choice([t for t in TEXTS if t != "\ud800"])
            elif items:
                items[r.randrange(len(items))] = _fits(r.choice(NUMBERS), element)
            parts.values[at] = (key, kind, (element, items))
        elif kind == 8:
            parts.values[at] = (key, kind, r.choice([t for t in TEXTS if t != "\ud800"]))
        else:
            parts.values[at] = (key, kind, _fits(r.choice([*NUMBERS, 2, 3, 5]), kind))

    def _gguf_tensor(self, parts: Gguf) -> None:
        r = self.random
        tensor = r.choice(parts.tensors)
        action = r.randrange(7)
        if action == 0:
            tensor.name = r.choice(
                ["x", "", "blk.9.x", tensor.name + "x", r.choice(parts.tensors).name, "a" * 64]
            )
        elif action == 1:
            tensor.ne[r.randrange(len(tensor.ne))] = r.choice(NUMBERS) & (2**64 - 1)
        elif action == 2:
            tensor.kind = r.choice([0, 1, 2, 8, 12, 14, 30, 31, 39, 2**32 - 1])
        elif action == 3:
            tensor.ne = r.choice([tensor.ne[::-1], [*tensor.ne, 1], tensor.ne[:1], [1] * 5, []])
        elif action == 4:
            parts.tensors.remove(tensor)
        elif action == 5:
            tensor.offset += r.choice([-32, 1, 32, 2**40])
        else:
            parts.fitting = True
            tensor.ne = [max(1, n // 2) for n in tensor.ne]

    def container(self, path: Path) -> None:
        """A container with another header, shard or manifest; all hashes are made right as often as not."""
        import axm_tools

        data, r = path.read_bytes(), self.random
        if r.random() < 0.3:
            path.write_bytes(self.raw(data))
            return
        size = axm_tools.numbers(data)[0]
        if r.random() < 0.7:
            header = json.loads(data[256 : 256 + size])
            text = json.dumps(self.tree(header), separators=(",", ":"), sort_keys=True, ensure_ascii=False)
            new = text.encode("utf-8", "replace")
            # The layout stands: the new header must have the length of the old one.
            new = new[:size] if len(new) > size else new[:-1] + b" " * (size - len(new)) + new[-1:]
            out = data[:256] + new + data[256 + size :]
        else:
            at = r.randrange(len(data))
            out = data[:at] + bytes([data[at] ^ (1 << r.randrange(8))]) + data[at + 1 :]
        with contextlib.suppress(Exception):
            out = axm_tools.resealed(out, axm_tools.KEY if r.random() < 0.5 else None)
        path.write_bytes(out)

    def special(self, path: Path) -> None:
        """Something that is no regular file of the model."""
        r = self.random
        path.unlink(missing_ok=True)
        match r.randrange(6):
            case 0:
                path.symlink_to("/dev/zero")
            case 1:
                path.symlink_to("/etc/passwd")
            case 2:
                os.mkfifo(path)
            case 3:
                path.mkdir()
            case 4:
                path.symlink_to(path.name)
            case _:
                path.write_bytes(b"")

    def file(self, path: Path) -> None:
        """A change that suits the file."""
        r = self.random
        if r.random() < 0.03:
            return self.special(path)
        if r.random() < 0.1:
            path.write_bytes(self.raw(path.read_bytes()))
            return None
        change: dict[str, Callable[[Path], None]] = {
            ".json": self.json_file,
            ".gguf": self.gguf,
            ".safetensors": self.safetensors,
            ".axm": self.container,
            ".txt": self.text_file,
            ".md": self.text_file,
        }
        own = change.get(path.suffix)
        if own is None:
            path.write_bytes(self.raw(path.read_bytes()))
        else:
            own(path)
        return None


def _keys(node: Any) -> Any:
    return node if isinstance(node, dict) else range(len(node))


def _fits(number: int, kind: int) -> Any:
    """A number as a GGUF type can hold it."""
    bits = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 32, 10: 64, 11: 64}.get(kind)
    if bits is None:
        return bool(number & 1) if kind == 7 else float(number % 10**9)
    number &= 2**bits - 1
    return number - 2**bits if kind in (1, 3, 5, 11) and number >> (bits - 1) else number


def _fitting(header: dict[str, Any], body: bytes, changed: str) -> tuple[dict[str, Any], bytes]:
    """The tensors one after another, the changed one with as many bytes as its type has."""
    sizes = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2}
    out = b""
    for name, entry in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [0])[0]):
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        part = body[begin:end]
        if name == changed:
            size = sizes.get(entry["dtype"], 1)
            for n in entry["shape"]:
                size *= n
            part = (part * (size // max(len(part), 1) + 1))[:size]
        entry["data_offsets"] = [len(out), len(out) + len(part)]
        out += part
    return header, out


@dataclass
class TensorInfo:
    name: str
    ne: list[int]
    kind: int
    offset: int


#: The form of a value of each GGUF type, as `struct` writes the forms.
FORMATS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


@dataclass
class Gguf:
    """A GGUF in parts that can be written back wrong."""

    values: list[tuple[str, int, Any]] = field(default_factory=list)
    tensors: list[TensorInfo] = field(default_factory=list)
    data: bytes = b""
    fitting: bool = False

    @classmethod
    def read(cls, raw: bytes) -> Gguf:
        at = 24
        n_tensors, n_values = struct.unpack_from("<QQ", raw, 8)

        def take(form: str) -> Any:
            nonlocal at
            (value,) = struct.unpack_from(form, raw, at)
            at += struct.calcsize(form)
            return value

        def text() -> str:
            nonlocal at
            size = take("<Q")
            at += size
            return raw[at - size : at].decode()

        def value(kind: int) -> Any:
            if kind == 8:
                return text()
            if kind == 9:
                element, count = take("<I"), take("<Q")
                return element, [value(element) for _ in range(count)]
            return take("<" + FORMATS[kind])

        out = cls()
        for _ in range(n_values):
            key, kind = text(), take("<I")
            out.values.append((key, kind, value(kind)))
        for _ in range(n_tensors):
            name, dims = text(), take("<I")
            ne = [take("<Q") for _ in range(dims)]
            out.tensors.append(TensorInfo(name, ne, take("<I"), take("<Q")))
        out.data = raw[-(-at // 32) * 32 :]
        return out

    def encode(self) -> bytes:
        def text(value: str) -> bytes:
            data = value.encode("utf-8", "surrogatepass")
            return struct.pack("<Q", len(data)) + data

        def value(kind: int, content: Any) -> bytes:
            if kind == 8:
                return text(content)
            if kind == 9:
                element, items = content
                return struct.pack("<IQ", element, len(items)) + b"".join(
                    value(element, item) for item in items
                )
            return struct.pack("<" + FORMATS[kind], content)

        out = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.values))
        for key, kind, content in self.values:
            out += text(key) + struct.pack("<I", kind) + value(kind, content)
        at = 0
        for tensor in self.tensors:
            if self.fitting:
                # As if the file had been written so: no gap, sizes of plain types alone.
                size = {0: 4, 1: 2, 30: 2}.get(tensor.kind, 1)
                for n in tensor.ne:
                    size *= n
                tensor.offset = at
                at += -(-size // 32) * 32
            out += text(tensor.name) + struct.pack("<I", len(tensor.ne))
            out += b"".join(struct.pack("<Q", n) for n in tensor.ne)
            out += struct.pack("<IQ", tensor.kind, tensor.offset & (2**64 - 1))
        return out + bytes(-len(out) % 32) + self.data


# The inputs.


def make_seeds(folder: Path) -> None:
    """Valid inputs of every kind, as small as they can be."""
    import numpy as np
    from safetensors.numpy import save_file

    import axm_tools
    import srd_rs
    from test_hub import bert
    from vocab_tools import added, byte_bpe, byte_vocabulary

    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "llama"
    model.mkdir()
    vocab, merges = byte_vocabulary(("h", "e"), ("l", "l"))
    tokens = [added(len(vocab), "<s>", special=True), added(len(vocab) + 1, "</s>", special=True)]
    size = len(vocab) + 2
    tokenizer = byte_bpe(vocab, merges, added_tokens=tokens)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": size, "head_dim": 16,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": size - 2,
        "eos_token_id": size - 1, "tie_word_embeddings": False, "torch_dtype": "float32", "hidden_act": "silu",
    }  # fmt: skip
    files: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [size - 1]},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": "{{ messages }}",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokens},
        },
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
    }
    for name, content in files.items():
        (model / name).write_text(json.dumps(content))
    (model / "README.md").write_text("---\nlicense: mit\ntags: [a, b]\nbase_model: org/base\n---\n# Model\n")
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (size, 64),
        "model.norm.weight": (64,),
        "lm_head.weight": (size, 64),
    }
    for layer in range(2):
        front = f"model.layers.{layer}."
        for part, shape in {
            "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
            "self_attn.o_proj": (64, 64), "mlp.gate_proj": (256, 64), "mlp.up_proj": (256, 64),
            "mlp.down_proj": (64, 256), "input_layernorm": (64,), "post_attention_layernorm": (64,),
        }.items():  # fmt: skip
            shapes[f"{front}{part}.weight"] = shape
    rng = np.random.default_rng(0)
    save_file(
        {n: (rng.normal(size=s) * 0.05).astype(np.float32) for n, s in shapes.items()},
        model / "model.safetensors",
    )
    bert(folder / "bert")
    key = axm_tools.key_file(folder)
    options: dict[str, Any] = {"met": False, "axm": False, "effort": "fast"}
    srd_rs.convert(model, folder / "base.gguf", quant="F16", **options)
    report = srd_rs.convert(
        model, folder / "m.gguf", quant="Q4_K_S", axm=True, met=True, key_file=key, effort="fast"
    )
    assert report.sidecar is not None
    (folder / "fingerprint").write_text(report.container.fingerprint if report.container else "")
    srd_rs.verify(folder / "m.axm", key_file=key, manifest=folder / "m.manifest")
    srd_rs.calibrate(
        model, folder / "c.safetensors", text="random", tokens=64, imatrix=folder / "imatrix.gguf", threads=1
    )
    entry = b"blk.0.ffn_down.weight"
    body = struct.pack("<i", 1) + struct.pack("<i", len(entry)) + entry + struct.pack("<ii", 1, 256)
    (folder / "imatrix.dat").write_bytes(body + np.ones(256, np.float32).tobytes())
    text = "The river runs through the old town, where the church was built long ago. " * 20
    (folder / "text.txt").write_text(text)


@dataclass(frozen=True)
class Case:
    """One run: the arguments, and the files that may be changed."""

    args: list[str]
    change: list[Path]


def small_files(model: Path) -> list[Path]:
    return [path for path in sorted(model.rglob("*")) if path.is_file()]


def cases_of(command: str, box: Path, r: random.Random) -> Case:
    """A run of `command` on the copies of the seeds in `box`."""
    model = box / r.choice(["llama", "llama", "llama", "bert"])
    key = ["--key-file", str(box / "0001.key")]
    out, quiet = str(box / "out.gguf"), ["--no-axm", "--no-met"]
    gguf, axm, common = box / "m.gguf", box / "m.axm", ["--threads", "1"]
    as_json = ["--json"] if r.random() < 0.3 else []
    if command == "convert":
        mix = r.choice(["Q4_K_M", "Q8_0", "BF16", "F32", "Q4_K_S"])
        args = [
            "--fast",
            "-q",
            mix,
            "-o",
            out,
            *common,
            *as_json,
            *(quiet if r.random() < 0.7 else [*key, "--axm"]),
        ]
        kind = r.random()
        if kind < 0.65:
            return Case(["convert", str(model), *args], small_files(model))
        if kind < 0.85:
            return Case(["convert", str(box / "base.gguf"), *args], [box / "base.gguf"])
        if kind < 0.9:
            return Case(["convert", str(gguf), *args, "--allow-requantize"], [gguf])
        given = r.choice(["imatrix.gguf", "imatrix.dat"])
        if kind < 0.96:
            return Case(
                [
                    "convert",
                    str(box / "llama"),
                    "-q",
                    "Q4_K_M",
                    "-o",
                    out,
                    *quiet,
                    "--imatrix",
                    str(box / given),
                ],
                [box / given],
            )
        srd = ["--effort", "srd", "--calibrate", str(box / "c.safetensors"), "-q", "Q4_K_S", *quiet]
        return Case(["convert", str(box / "llama"), "-o", out, *srd], [box / "c.safetensors"])
    if command == "inspect":
        path = r.choice(
            [
                gguf,
                box / "base.gguf",
                axm,
                model,
                model / "model.safetensors",
                box / "c.safetensors",
                box / "imatrix.gguf",
            ]
        )
        flags = [flag for flag in ("--metadata", "--tensors", "--json") if r.random() < 0.4]
        return Case(["inspect", str(path), *flags], small_files(path) if path.is_dir() else [path])
    if command == "verify":
        anchor = r.choice(
            [key, ["--no-key"], ["--no-key", "--fingerprint", (box / "fingerprint").read_text()]]
        )
        attest = ["--attest", str(box / "a.json")] if r.random() < 0.3 else []
        kind = r.random()
        if kind < 0.5:
            return Case(["verify", str(axm), *anchor, *attest, *common, *as_json], [axm])
        holder = r.choice([axm, box / "m.manifest"])
        return Case(["verify", str(gguf), "--axm", str(holder), *anchor, *attest, *as_json], [gguf, holder])
    if command == "extract":
        kind = r.choice([[], ["--quant", "Q8_0"], ["--safetensors"], ["--quant", "BF16", "--alpha", "0.5"]])
        anchor = r.choice([key, ["--no-key"]])
        return Case(["extract", str(axm), "-o", str(box / "x.out"), *kind, *anchor, *common, *as_json], [axm])
    if command == "met":
        path = r.choice([gguf, axm, box / "base.gguf"])
        if r.random() < 0.3:
            return Case(["met", str(gguf), "--check", *as_json], [gguf, box / "m.met.json"])
        digest = ["--no-digest"] if r.random() < 0.5 else []
        return Case(["met", str(path), "-o", str(box / "new.json"), *digest, *as_json], [path])
    if command == "hydrate":
        intent = ["--intent", r.choice(["INFORM", "HARM"])] if r.random() < 0.7 else []
        extra = r.choice([[], ["--evict-others"], ["--budget", "8192"]]) if intent else []
        changed = r.choice([[gguf], [box / "m.met.json"], [gguf, box / "m.met.json"]])
        return Case(["hydrate", str(gguf), *intent, *extra, *as_json], changed)
    if command == "calibrate":
        path = r.choice([model, model, box / "base.gguf", gguf])
        args = ["--text", "random", "--tokens", "32", *common, "--max-memory", "64MiB", *as_json]
        files = small_files(path) if path.is_dir() else [path]
        return Case(["calibrate", str(path), "-o", str(box / "out.safetensors"), *args], files)
    path = r.choice([gguf, box / "base.gguf"])
    args = ["-f", str(box / "text.txt"), "--ctx", "16", "--chunks", "1", "--threads", "1", *as_json]
    base = ["--base", str(box / "base.gguf")] if r.random() < 0.3 else []
    return Case(["eval", str(path), *args, *base], [path, path, box / "text.txt"])


COMMANDS = ("convert", "inspect", "verify", "extract", "met", "hydrate", "calibrate", "eval")


# Running the cases.


def prepare(command: str, seed: int, seeds: Path, box: Path) -> list[str]:
    """Copy the seeds into `box` and change them as `seed` says; the arguments of the run."""
    shutil.copytree(seeds, box)
    mutator = Mutator(seed)
    case = cases_of(command, box, mutator.random)
    for _ in range(mutator.random.choice([1, 1, 1, 2])):
        path = mutator.random.choice(case.change)
        # A file that an earlier change replaced by a pipe or a link stays so.
        if path.is_file() and not path.is_symlink():
            mutator.file(path)
    return case.args


def load() -> None:
    """Import what the commands import, so that each forked process does not."""
    from importlib import import_module

    import srd_rs.cli  # noqa: F401
    from srd_rs import conversion, families, vocab  # noqa: F401

    for command in COMMANDS:
        import_module(f"srd_rs.cli.{command}")
    import_module("srd_rs.vocab.tokenizer")
    with contextlib.suppress(ImportError):
        import_module("srd_rs.eval.evaluation")
        import_module("srd_rs.eval.library").library()


def run_here(args: list[str]) -> tuple[int, str, str]:
    """Run the command line in this process."""
    from srd_rs import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(args)
    return code, out.getvalue(), err.getvalue()


def peak_bytes() -> int:
    """The most memory that this process has had. A forked process begins with the memory of its parent."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(args: list[str], report: Path) -> None:
    """Run a case with limits and write what came out of it."""
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20, 256 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.alarm(6 * MAX_SECONDS)  # what waits for ever uses no CPU time
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    log = os.open(report.with_suffix(".stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    inherited = peak_bytes()
    code, out, err = run_here(args)
    peak = peak_bytes() - inherited
    report.write_text(json.dumps({"code": code, "out": out[-20000:], "err": err[-20000:], "peak": peak}))
    os._exit(0)


def fault(args: list[str], status: int, report: Path) -> tuple[str | None, str]:
    """What is wrong with how a case ended, if anything, and how the case ended."""
    if status:
        code = os.waitstatus_to_exitcode(status)
        said = report.with_suffix(".stderr").read_text(errors="replace")[-500:]
        return f"ended with {code} {signal.Signals(-code).name if code < 0 else ''}: {said}", "crash"
    found = json.loads(report.read_text())
    code, everything = found["code"], found["out"] + found["err"]
    native = report.with_suffix(".stderr").read_text(errors="replace")
    if sign := next((sign for sign in SIGNS if sign in everything + native), None):
        return f"{sign}: {everything[-800:]}{native[-800:]}", "crash"
    if code not in (0, 1, 2, 3):
        return f"exit code {code}: {everything[-500:]}", "crash"
    if found["peak"] > MAX_BYTES:
        return f"{found['peak'] >> 20} MiB of memory", "memory"
    # A conversion says in its first line what it is going to do.
    lines = [line for line in found["err"].splitlines() if not line.startswith("warning: ")]
    errors = [line for line in lines if " weights -> " not in line]
    if code and "--json" not in args and (len(errors) != 1 or not errors[0].startswith("error: ")):
        return f"not one line: {errors[:5]}", "lines"
    if "\x1b" in everything:
        return "an escape sequence of the file reached the terminal", "escape"
    return None, str(code)


def fuzz(
    command: str, seconds: float, first: int, seeds: Path, keep: Path, count: int | None = None
) -> Counter[str]:
    """Run cases of one command; faults are printed, and their inputs are kept in `keep`."""
    ends: Counter[str] = Counter()
    start, seed = time.monotonic(), first
    scratch = Path(
        tempfile.mkdtemp(prefix=f"fuzz-{command}-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    )
    try:
        while time.monotonic() - start < seconds:
            box, report = scratch / "box", scratch / "report"
            report.unlink(missing_ok=True)
            try:
                args = prepare(command, seed, seeds, box)
            except Exception as error:  # a second change of a file may find no format any more
                ends[f"not prepared: {type(error).__name__}"] += 1
                args = []
            if args:
                pid = os.fork()
                if pid == 0:
                    try:
                        child(args, report)
                    finally:
                        os._exit(99)
                _, status = os.waitpid(pid, 0)
                wrong, how = fault(args, status, report)
                ends[how] += 1
                if wrong is not None:
                    ends["FAULTS"] += 1
                    kept = keep / f"{command}-{seed}"
                    shutil.rmtree(kept, ignore_errors=True)
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copytree(box, kept, symlinks=True, ignore=_no_pipes)
                    print(f"{command} seed {seed}: {wrong}\n    {' '.join(args)}", flush=True)
            shutil.rmtree(box, ignore_errors=True)
            seed += 1
            if seed - first == count:
                break
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    ends["RUNS"] = sum(n for name, n in ends.items() if name not in ("FAULTS", "RUNS"))
    return ends


def _no_pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_fifo()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commands", nargs="*", default=COMMANDS, choices=[*COMMANDS, []])
    parser.add_argument("-s", "--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="store_true", help="Run one case: the one of --seed.")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "srd-fuzz")
    chosen = parser.parse_args()
    os.environ.pop("SRD_DEBUG", None)
    load()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        make_seeds(seeds)
        for command in chosen.commands or COMMANDS:
            ends = fuzz(command, chosen.seconds, chosen.seed, seeds, chosen.keep, 1 if chosen.only else None)
            faults += ends["FAULTS"]
            listed = ", ".join(
                f"{name}: {n}" for name, n in sorted(ends.items()) if name not in ("RUNS", "FAULTS")
            )
            print(f"{command}: {ends['RUNS']} runs, {ends['FAULTS']} faults ({listed})", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
