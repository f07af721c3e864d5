"""The attacks of docs/security.md that no other test tries: small files with large numbers, pipes, limits of files."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import pytest

import srd_rs
from axm_tools import KEY, key_file, tiny_model
from support import EXAMPLE, REPO, Run, bugs_folder, srd

MAX_RSS = 300 * 10**6
"""The README promises a few hundred megabytes for everything but calibrations."""


def one_line(run: Run, *words: str) -> None:
    lines = [line for line in run.stderr.splitlines() if not line.startswith("warning: ")]
    assert run.code in (1, 2) and lines[-1].startswith("error: "), run
    assert not any(sign in run.stderr for sign in ("Traceback", "panicked", "internal error")), run.stderr
    assert all(word in run.stderr for word in words), run.stderr


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "small.gguf")


def patched(path: Path, key: str, value: int, target: Path) -> Path:
    """`path` with another value of a UINT32 key."""
    data = bytearray(path.read_bytes())
    at = data.index(key.encode()) + len(key) + 4
    data[at : at + 4] = struct.pack("<I", value)
    target.write_bytes(data)
    return target


# M3: numbers of the metadata that become sizes.


@pytest.mark.parametrize("count", [2**32 - 1, 10**8, 513, 0])
def test_a_number_of_layers_takes_no_memory(small: Path, tmp_path: Path, count: int) -> None:
    model = patched(small, "llama.block_count", count, tmp_path / "m.gguf")
    out = tmp_path / "out"
    for command in (
        ("calibrate", model, "--text", "random", "--tokens", "32", "-o", out),
        ("convert", model, "--effort", "srd", "--calibrate", "random", "-o", out),
        ("convert", model, "--fast", "-o", out),
    ):
        run = srd(*command, timeout=30)
        one_line(run, "block_count")
        assert run.peak_rss <= MAX_RSS and not out.exists()


# Low: pipes and endless devices.


def test_pipes_and_devices_do_not_block(small: Path, tmp_path: Path) -> None:
    """As a sidecar that is found by itself, an imatrix, a calibration file, a text, a container and a GGUF."""
    for name in ("small.met.json", "pipe.dat", "pipe.gguf", "pipe.axm", "pipe.txt"):
        os.mkfifo(tmp_path / name)
    out = tmp_path / "out.gguf"
    commands: list[tuple[object, ...]] = [("hydrate", small)]
    for path in (tmp_path / "pipe.dat", tmp_path / "pipe.gguf", Path("/dev/zero")):
        commands.append(("convert", small, "--fast", "-o", out, "--no-met", "--imatrix", path))
    for path in (tmp_path / "pipe.txt", Path("/dev/zero"), Path("/dev/stdin")):
        commands.append(("calibrate", small, "--text", path, "-o", tmp_path / "c"))
        commands.append(("eval", small, "-f", path))
    for path in (tmp_path / "pipe.gguf", Path("/dev/zero")):
        commands += [("inspect", path), ("met", path), ("hydrate", path), ("convert", path, "-o", out)]
    for path in (tmp_path / "pipe.axm", Path("/dev/zero")):
        commands += [("verify", path), ("extract", path, "-o", out), ("verify", small, "--axm", path)]
    for command in commands:
        run = srd(*command, timeout=20)
        assert run.wall_s < 15 and run.peak_rss < MAX_RSS, (command, run)
        one_line(run)


# Low: small files that take much memory.


def header_of(path: Path, n_keys: int, n_tensors: int) -> Path:
    """A GGUF with many keys of one byte, or many tensors of one weight."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys))
    for i in range(n_keys):
        key = b"%x" % i
        out += struct.pack("<Q", len(key)) + key + struct.pack("<IB", 0, 1)
    for i in range(n_tensors):
        name = b"%x" % i
        out += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 1, 0, 32 * i)
    out += bytes(-len(out) % 32) + bytes(32 * n_tensors)
    path.write_bytes(out)
    return path


@pytest.mark.parametrize(("n_keys", "n_tensors"), [(65_000, 0), (0, 65_000)])
def test_many_keys_and_many_tensors_take_little_memory(tmp_path: Path, n_keys: int, n_tensors: int) -> None:
    path = header_of(tmp_path / "m.gguf", n_keys, n_tensors)
    for command in ("inspect", "met", "convert"):
        extra = ("-o", tmp_path / "out") if command != "inspect" else ()
        run = srd(command, path, *extra, timeout=60)
        assert run.peak_rss <= 3 * MAX_RSS and run.cpu_s < 20, (command, run.peak_rss, run.cpu_s)
        assert "Traceback" not in run.stderr and "internal error" not in run.stderr, run.stderr


@pytest.mark.parametrize(("n_keys", "n_tensors"), [(70_000, 1), (1, 70_000), (400_000, 0), (0, 300_000)])
def test_more_keys_and_tensors_than_any_gguf_has_are_refused(
    tmp_path: Path, n_keys: int, n_tensors: int
) -> None:
    path = header_of(tmp_path / "m.gguf", n_keys, n_tensors)
    for command in ("inspect", "met", "convert"):
        extra = ("-o", tmp_path / "out") if command != "inspect" else ()
        run = srd(command, path, *extra, timeout=60)
        one_line(run, "at most 65536 and 65536 are read")
        assert run.peak_rss <= 150 * 10**6 and run.cpu_s < 2, (command, run.peak_rss, run.cpu_s)


@pytest.mark.parametrize("shards", [1, 3])
def test_more_tensors_than_a_small_checkpoint_has_are_refused(tmp_path: Path, shards: int) -> None:
    """A list of 200 000 tensors took 3 seconds and 230 MB. A checkpoint of 1 T weights has as many, in 600 GB."""
    model = tmp_path / "model"
    shutil.copytree(EXAMPLE, model)
    (model / "model.safetensors").unlink()
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for shard in range(shards):
        header = json.dumps({f"x{shard}.{i}": empty for i in range(200_000 // (shards + 1))}).encode()
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        (model / name).write_bytes(struct.pack("<Q", len(header)) + header)
    out = tmp_path / "out"
    for command in (("inspect", model), ("convert", model, "--fast", "-o", out), ("plan", model)):
        run = srd(*command, timeout=60)
        one_line(run, "tensors")
        assert "65536" in run.stderr, run.stderr
        assert run.peak_rss <= 150 * 10**6 and run.cpu_s < 2, (command, run.peak_rss, run.cpu_s)


@pytest.mark.parametrize("keys", [300_000, 65_536])
def test_keys_of_metadata_take_no_time(tmp_path: Path, keys: int) -> None:
    """300 000 keys took 2.2 seconds in `verify --from`. No published file has more than one for each tensor."""
    model, made = tmp_path / "model", tmp_path / "m.gguf"
    shutil.copytree(bugs_folder() / "plain", model)
    srd_rs.convert(model, made, quant="Q8_0", effort="fast", met=False)
    path = next(model.glob("*.safetensors"))
    raw = path.read_bytes()
    length = 8 + struct.unpack_from("<Q", raw)[0]
    notes = {"__metadata__": {str(i): "x" for i in range(keys)}}
    header = json.dumps(json.loads(raw[8:length]) | notes).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[length:])
    rebuild = ("verify", "--rebuild", made, "--from", model)
    for command in (("inspect", path), ("convert", model, "--fast", "--dry-run"), rebuild):
        run = srd(*command, timeout=60)
        assert run.peak_rss <= 150 * 10**6 and run.cpu_s < 2, (command, run.peak_rss, run.cpu_s)
        if keys > 65_536:
            one_line(run, "more than 65536 keys of __metadata__", "save the file again without these keys")
        else:
            assert "__metadata__" not in run.stderr, run.stderr


def test_a_checkpoint_of_a_thousand_experts_is_read(tmp_path: Path) -> None:
    """DeepSeek V3 and Kimi K2 have 90 000 to 280 000 tensors with their scales, in hundreds of GB: here, 140 000 in two
    sparse files of 70 000, of which each has 8 KB or four bytes."""
    model = tmp_path / "model"
    shutil.copytree(EXAMPLE, model)
    (model / "model.safetensors").unlink()
    weight_map, count = {}, 35_000
    for shard in range(2):
        header: dict[str, object] = {}
        for i in range(count):
            name, at = f"model.layers.{shard}.mlp.experts.{i}.up_proj.weight", 8196 * i
            header[name] = {"dtype": "BF16", "shape": [64, 64], "data_offsets": [at, at + 8192]}
            scale = {"dtype": "F32", "shape": [1], "data_offsets": [at + 8192, at + 8196]}
            header[name + "_scale_inv"] = scale
        text = json.dumps(header).encode()
        file = f"model-{shard + 1:05}-of-00002.safetensors"
        weight_map |= dict.fromkeys(header, file)
        with (model / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + 8196 * count)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    run = srd("inspect", model, "--json", timeout=120)
    assert run.code == 0, run.stderr
    assert run.json["n_tensors"] == 4 * count


def test_many_tensors_of_an_imatrix_take_no_square_of_their_number(small: Path, tmp_path: Path) -> None:
    out = bytearray(struct.pack("<i", 60_000))
    for i in range(60_000):
        name = b"blk.%d.x.weight" % i
        out += struct.pack("<i", len(name)) + name + struct.pack("<iif", 1, 1, 1.0)
    (tmp_path / "i.dat").write_bytes(out)
    run = srd("convert", small, "--fast", "--imatrix", tmp_path / "i.dat", "-o", tmp_path / "out", timeout=30)
    one_line(run, "i.dat")
    assert run.cpu_s < 2


def test_a_sparse_checkpoint_takes_little_memory(tmp_path: Path) -> None:
    """A model folder with a table of 2^24 rows, of which the disk has nothing."""
    model = tmp_path / "model"
    shutil.copytree(EXAMPLE, model)
    raw = (model / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    end = max(entry["data_offsets"][1] for entry in header.values())
    table = next(name for name in header if name.endswith("embed_tokens.weight"))
    rows, width = 1 << 24, header[table]["shape"][1]
    header[table] = {**header[table], "shape": [rows, width], "data_offsets": [end, end + 2 * rows * width]}
    config = json.loads((model / "config.json").read_text())
    for part in (config, config.get("text_config") or {}):
        if "vocab_size" in part:
            part["vocab_size"] = rows
    (model / "config.json").write_text(json.dumps(config))
    text = json.dumps(header).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + raw[8 + size :])
        file.truncate(8 + len(text) + end + 2 * rows * width)
    run = srd("convert", model, "--fast", "-o", tmp_path / "out.gguf", "--dry-run", timeout=60)
    assert run.peak_rss <= 600 * 10**6 and run.cpu_s < 20, (run.peak_rss, run.cpu_s)
    assert "Traceback" not in run.stderr and "internal error" not in run.stderr, run.stderr


# Low: what is written is complete or is not there.


@pytest.fixture
def sealed(small: Path, tmp_path: Path) -> Path:
    srd_rs.convert(small, tmp_path / "m.gguf", effort="fast", axm=True, key_file=key_file(tmp_path, KEY))
    return tmp_path / "m.axm"


def limited(*args: object, limit: int = 64) -> subprocess.CompletedProcess[str]:
    """The command line where a file may have `limit` bytes only."""
    return subprocess.run(
        [sys.executable, "-m", "srd_rs", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def test_nothing_is_left_of_a_file_that_could_not_be_written(
    sealed: Path, small: Path, tmp_path: Path
) -> None:
    key = ("--key-file", tmp_path / "0001.key")
    before = {path.name for path in tmp_path.iterdir()}
    for command in (
        ("verify", sealed, *key, "--write-manifest", tmp_path / "x.manifest"),
        ("verify", sealed, *key, "--attest", tmp_path / "x.json"),
        ("keygen", tmp_path / "x.key"),
        ("keygen", "--ed25519", tmp_path / "x"),
        ("met", small, "-o", tmp_path / "x.met.json"),
        ("convert", small, "--fast", "-o", tmp_path / "x.gguf", "--no-met"),
        ("extract", sealed, *key, "-o", tmp_path / "x.gguf"),
        ("resign", sealed, "-o", tmp_path / "x.axm", "--old-key-file", key[1], *key),
        ("calibrate", small, "--text", "random", "--tokens", "32", "-o", tmp_path / "x.safetensors"),
    ):
        done = limited(*command)
        assert done.returncode == 1, (command, done)
        assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
        assert {path.name for path in tmp_path.iterdir()} == before, command


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its container and sidecar, an adapter, and keys."""
    box = tmp_path_factory.mktemp("box")
    tiny_model(box / "in.gguf")
    shutil.copytree(bugs_folder() / "plain", box / "model")
    key = key_file(box)
    for source, out in (("in.gguf", "m.gguf"), ("model", "n.gguf")):
        run = srd("convert", box / source, "--fast", "-o", box / out, "--axm", "--key-file", key)
        assert run.code == 0, run.stderr
    oms = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        capture_output=True, check=False,
    )  # fmt: skip
    (box / "oms.pem").write_bytes(oms.stdout)
    (box / "oms.pem").chmod(0o600)
    return box


#: What writes: arguments, in which {box} and {out} are folders -> the names of the outputs.
WRITERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "convert": ("convert {box}/in.gguf --fast -o {out}/x.gguf --no-met", ("x.gguf",)),
    "convert with everything": (
        "convert {box}/model --fast -o {out}/x.gguf --axm --key-file {key} --card --bom --modelfile"
        " --recipe-out {out}/recipe.json",
        ("x.gguf", "x.axm", "x.met.json", "x.md", "x.cdx.json", "x.Modelfile", "recipe.json"),
    ),
    "in parts": (
        "convert {box}/in.gguf --fast -q F32 -o {out}/x.gguf --no-met --split-max-size 300kB",
        ("x-00001-of-00003.gguf", "x-00003-of-00003.gguf"),
    ),
    "pack": ("pack {box}/in.gguf --fast -o {out}/x.axm --key-file {key}", ("x.axm",)),
    "extract": ("extract {box}/m.axm -o {out}/x.gguf --key-file {key}", ("x.gguf",)),
    "safetensors": (
        "extract {box}/m.axm -o {out}/x.safetensors --key-file {key} --safetensors",
        ("x.safetensors",),
    ),
    "resign": ("resign {box}/m.axm -o {out}/x.axm --old-key-file {key} --key-file {key}", ("x.axm",)),
    "attest": ("verify {box}/m.axm --key-file {key} --attest {out}/a.json", ("a.json",)),
    "manifest": ("verify {box}/m.axm --key-file {key} --write-manifest {out}/m.manifest", ("m.manifest",)),
    "calibrate": (
        "calibrate {box}/model --text random --tokens 32 -o {out}/c.safetensors",
        ("c.safetensors",),
    ),
    "met": ("met {box}/m.gguf -o {out}/x.met.json", ("x.met.json",)),
    "a picture": ("met {box}/m.gguf -o {out}/x.met.json --plot {out}/p.png", ("x.met.json", "p.png")),
    "card": ("card {box}/n.gguf -o {out}/card.md", ("card.md",)),
    "bom": ("bom {box}/n.gguf -o {out}/bom.json", ("bom.json",)),
    "modelfile": ("modelfile {box}/n.gguf -o {out}/Modelfile", ("Modelfile",)),
    "sign": ("sign {box}/m.gguf --oms-key {box}/oms.pem -o {out}/m.sig", ("m.sig",)),
    "keygen": ("keygen {out}/new.key", ("new.key",)),
    "key pair": ("keygen --ed25519 {out}/k.pem", ("k.pem", "k.pem.pub")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_is_on_the_disk_before_it_has_its_name(written: Path, tmp_path: Path, name: str) -> None:
    """Each output of each command: the file is synced before it has its name, and then the folder is."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed, so the order of the system calls was not seen")
    command, outputs = WRITERS[name]
    if name == "a picture":
        pytest.importorskip("matplotlib", reason="matplotlib is not installed: the plot was not drawn")
    log, out = tmp_path / "log", tmp_path / "out"
    out.mkdir()
    filled = command.format(box=written, out=out, key=next(written.glob("*.key")))
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "300", "-o", log, "-e",
         "trace=fsync,fdatasync,linkat,link,rename,renameat,renameat2",
         sys.executable, "-m", "srd_rs", *filled.split()],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "SRD_CACHE": "off"},
    )  # fmt: skip
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("this system forbids ptrace, so the order of the system calls was not seen")
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    syncs = re.compile(r"\bf(?:data)?sync\(")
    for output in outputs:
        assert (out / output).exists(), (output, sorted(out.iterdir()))
        gives = re.compile(rf"\b(?:link|rename)\w*\(.*/{re.escape(output)}\"")
        named = next((i for i, line in enumerate(lines) if gives.search(line)), None)
        assert named is not None, (output, lines)
        assert any(syncs.search(line) for line in lines[:named]), (output, lines)
        assert any(syncs.search(line) and f"<{out}" in line for line in lines[named:]), (output, lines)


# Low: claims that anybody can write.


def test_the_claims_of_an_input_do_not_survive(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tiny_model(path)
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(tmp_path / "claims.gguf", "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    for key in (
        "srd.axm.id",
        "srd.calibration.digest",
        "srd.calibration.text",
        "srd.source.digest",
        "srd.x",
        "srd.version",
    ):
        writer.add_string(f"srd.{key}", "claimed")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for provenance in (True, False):
        out = tmp_path / f"{provenance}.gguf"
        srd_rs.convert(tmp_path / "claims.gguf", out, effort="fast", provenance=provenance, met=False)
        keys = {key: value for key, value in srd_rs.inspect(out).metadata.items() if key.startswith("srd.")}
        assert "claimed" not in keys.values()
        assert set(keys) == (
            {"srd.version", "srd.method", "srd.seed", "srd.source.digest"} if provenance else set()
        )


# Low: names that are not UTF-8.


def test_names_that_are_not_utf_8(small: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"m-\xff.gguf")
    small.rename(tmp_path / name)
    for command in (
        ("inspect", tmp_path / name),
        ("convert", tmp_path / name, "--fast", "-o", tmp_path / os.fsdecode(b"out-\xfe.gguf"), "--no-met"),
        ("met", tmp_path / name, "-o", tmp_path / "x.json"),
        ("hydrate", tmp_path / name),
    ):
        run = srd(*command)
        assert "Traceback" not in run.stderr and "internal" not in run.stderr, run.stderr
        assert run.code == 0 or run.stderr.count("\n") == 1, run


# The page that lists the attacks.


def test_every_test_that_the_page_names_exists() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (REPO / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (REPO / "docs" / "security.md").read_text(encoding="utf-8"))
    assert len(named) > 40
    assert [name for name in named if f"def {name}(" not in tests] == []


# Panics end as one line.


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_panic_in_the_core_is_one_line(small: Path, threaded: bool, as_json: bool) -> None:
    """Whatever panics in Rust is caught at the border, in the thread of the caller and in one of its own."""
    program = (
        "import sys, srd_rs.inspection, srd_rs._core as core\n"
        f"srd_rs.inspection.sniff.check_inspectable = lambda path: core.panic_for_tests({threaded})\n"
        "from srd_rs.cli import start\n"
        "sys.argv[0] = 'srd-rs'\nstart()\n"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("SRD_DEBUG", "RUST_BACKTRACE")}
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(small), *(["--json"] if as_json else [])],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert done.returncode == 1, done
    if as_json:
        error = json.loads(done.stdout)["error"]
        assert (
            error["kind"] == "internal" and "this panic is a test" in error["message"] and done.stderr == ""
        )
    else:
        assert done.stdout == "" and done.stderr.count("\n") == 1, done
        assert done.stderr.startswith("error: internal error: ") and "this panic is a test" in done.stderr
    debug = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(small)],
        capture_output=True,
        text=True,
        check=False,
        env={**env, "SRD_DEBUG": "1"},
    )
    assert debug.returncode == 1 and "Traceback" in debug.stderr


@pytest.fixture
def few_threads() -> Iterator[Callable[[], None]]:
    yield lambda: resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))


def test_a_system_without_memory_is_one_line(
    small: Path, tmp_path: Path, few_threads: Callable[[], None]
) -> None:
    """A thread that cannot be started, or memory that is refused, ends as a line and leaves nothing."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "srd_rs",
            "convert",
            str(small),
            "--fast",
            "--threads",
            "400",
            "-o",
            str(tmp_path / "x.gguf"),
        ],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=few_threads,
        timeout=60,
    )
    assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, done
    assert done.returncode == 0 or not (tmp_path / "x.gguf").exists()
