"""`met --for`: the arguments fit the memory of the machine, and the memory is that which llama.cpp takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import srd_rs
from srd_rs import placement
from srd_rs.errors import ModelError, UsageError
from support import EXAMPLE, srd, write_projector

NAMES = ("llama", "qwen3moe", "gemma2", "gemma3", "gemma4_e2b", "mixtral")
FAST = {"ram_bandwidth": 50e9, "vram_bandwidth": 500e9}


@pytest.fixture(scope="module")
def made(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placement")
    for name in NAMES:
        srd_rs.convert(fixtures / name, folder / f"{name}.gguf", quant="Q8_0", effort="fast", mmproj=False)
    srd_rs.convert(EXAMPLE, folder / "example.gguf", quant="Q4_K_M", effort="fast")
    return folder


@pytest.fixture
def no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "VRAM_MARGIN", 0)


def tensors(path: Path) -> dict[str, int]:
    return {t.name: t.bytes for t in srd_rs.inspect(path).tensors}


@pytest.mark.parametrize("name", [*NAMES, "example"])
def test_access_classes_cover_all_tensors(made: Path, name: str) -> None:
    path = made / f"{name}.gguf"
    found = srd_rs.place(path, ram=64 << 30, **FAST)
    sizes = tensors(path)
    assert sum(a.bytes for a in found.access.values()) == sum(sizes.values())
    assert sum(a.tensors for a in found.access.values()) == len(sizes)
    assert found.cpu.weights == sum(sizes.values()) and found.gpu.total == 0
    assert found.cpu.token_bytes == sum(a.token_bytes for a in found.access.values())
    experts = found.access["experts"]
    metadata = srd_rs.open(path).metadata
    arch = metadata["general.architecture"]
    if name in ("qwen3moe", "mixtral"):
        share = metadata[f"{arch}.expert_used_count"] / metadata[f"{arch}.expert_count"]
        assert experts.bytes == sum(size for n, size in sizes.items() if "_exps." in n)
        assert experts.token_bytes == pytest.approx(experts.bytes * share, rel=1e-3)
    else:
        assert experts.tensors == 0
    rows = {n for n in ("per_layer_token_embd.weight",) if n in sizes}
    rows |= {"token_embd.weight"} if "output.weight" in sizes else set()
    assert found.access["rows"].bytes == sum(sizes[n] for n in rows)
    empty, full = found.tokens_per_second  # type: ignore[misc]
    assert empty == pytest.approx(50e9 / found.cpu.token_bytes) and full < empty


LOADER = """
import json, sys
from llama_cpp import Llama
Llama(**json.loads(sys.argv[1]), verbose=True, n_threads=1)
"""


@pytest.mark.parametrize("ctx", [1024, 4096])
@pytest.mark.parametrize("name", [*NAMES, "example"])
def test_the_memory_is_that_of_llama_cpp(made: Path, name: str, ctx: int) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: no memory was compared")
    path = made / f"{name}.gguf"
    found = srd_rs.place(path, engine="llama-cpp-python", ram=64 << 30, ctx=ctx, **FAST)
    words = json.dumps(dict(found.keywords))
    command = [sys.executable, "-c", LOADER, words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    mib = [float(n) for n in re.findall(r"KV buffer size = +([\d.]+) MiB", done.stderr)]
    assert found.cpu.kv_cache / 2**20 == pytest.approx(sum(mib), abs=0.02)
    (compute,) = re.findall(r"sched_reserve: +CPU compute buffer size = +([\d.]+) MiB", done.stderr)
    assert 0.75 * float(compute) <= found.cpu.compute / 2**20 <= 1.6 * float(compute), compute
    assert found.keywords["n_gpu_layers"] == 0


@pytest.mark.usefixtures("no_margin")
@pytest.mark.parametrize("name", ["llama", "qwen3moe", "gemma4_e2b"])
def test_no_more_fits_on_the_gpu(made: Path, name: str) -> None:
    """More memory of the GPU never gives it less, what it gets fits, and one layer more would not fit."""
    path = made / f"{name}.gguf"
    whole = srd_rs.place(path, ram=64 << 30, vram=64 << 30, ctx=512, **FAST)
    assert whole.gpu_layers == whole.layers + 1 and whole.arguments[-4:] == ("-ngl", "all", "--fit", "off")
    before, kinds = -1, set()
    around = whole.gpu.kv_cache + whole.gpu.compute
    for vram in [around // 2, *(around + whole.gpu.weights * part // 40 for part in range(41))]:
        found = srd_rs.place(path, ram=64 << 30, vram=vram, ctx=512, **FAST)
        assert found.gpu.total <= vram and found.gpu.weights >= before, vram
        before = found.gpu.weights
        kinds.add((found.gpu_layers > 0, found.cpu_moe_layers > 0))
        model = placement._Model(path, 512, "llama-server")
        if 0 < found.gpu_layers <= found.layers:
            more = placement._devices(model, found.gpu_layers + 1, frozenset(found.cpu_moe), lazy=False)[1]
            assert more.total > vram
        if found.cpu_moe_layers > 0 and found.gpu_layers > found.layers:
            less = frozenset(range(found.cpu_moe_layers - 1))
            fewer = placement._devices(model, found.gpu_layers, less, lazy=False)[1]
            assert fewer.total > vram
            words = " ".join(found.arguments)
            every = found.cpu_moe_layers == found.layers
            assert ("--cpu-moe" if every else f"--n-cpu-moe {found.cpu_moe_layers}") in words
    assert ((True, True) in kinds) == (name == "qwen3moe") and (False, False) in kinds
    # A byte too few, and one layer goes.
    short = srd_rs.place(path, ram=64 << 30, vram=whole.gpu.total - 1, ctx=512, **FAST)
    assert short.gpu.weights < whole.gpu.weights


def test_per_layer_embeddings_stay_on_the_disk_where_memory_is_short(made: Path) -> None:
    path = made / "gemma4_e2b.gguf"
    table = tensors(path)["per_layer_token_embd.weight"]
    roomy = srd_rs.place(path, ram=64 << 30, ctx=512, **FAST)
    assert roomy.lazy == 0 and "--lazy-mode" not in roomy.arguments and roomy.fits
    short = srd_rs.place(path, ram=roomy.cpu.total - 1, ctx=512, **FAST)
    assert short.lazy == table and short.fits and short.cpu.total == roomy.cpu.total - table
    at = short.arguments.index("--lazy-mode")
    assert short.arguments[at + 1] == "on"
    # The other engines have no such argument, and say that the memory is short.
    other = srd_rs.place(path, engine="llama-cpp-python", ram=roomy.cpu.total - 1, ctx=512, **FAST)
    assert other.lazy == 0 and not other.fits and other.tokens_per_second is None
    assert any("--lazy-mode" in note for note in other.notes) and any("more memory" in n for n in other.notes)


@pytest.fixture(scope="module")
def hot(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A mixture of experts with the use of its experts in the sidecar, which is changed to be uneven and known."""
    path = tmp_path_factory.mktemp("hot") / "m.gguf"
    options = {"effort": "srd", "calibrate": "random", "calibrate_tokens": 64, "calibrate_block": 256}
    srd_rs.convert(fixtures / "qwen3moe", path, quant="Q8_0", axm=False, **options)
    sidecar = json.loads(path.with_suffix(".met.json").read_text())
    heat, used = sidecar["expert_heat"], sidecar["moe"]["experts_per_token"]
    experts, tokens = sidecar["moe"]["num_experts"], 1000
    heat["tokens"] = tokens
    for layer in heat["layers"]:
        counts = [0] * experts
        if layer == "0":  # all are used equally
            counts = [tokens * used // experts] * experts
        else:  # few take nearly all
            counts[-used:] = [tokens - 10] * used
            counts[:used] = [10] * used
        heat["layers"][layer] = counts
    path.with_suffix(".met.json").write_text(json.dumps(sidecar))
    return path, sidecar


def test_the_hottest_experts_are_kept_where_memory_is_short(hot: tuple[Path, dict[str, Any]]) -> None:
    path, sidecar = hot
    used, experts = sidecar["moe"]["experts_per_token"], sidecar["moe"]["num_experts"]
    sizes = [t["bytes"] for t in sidecar["tensors"].values() if t["access"] == "experts"]
    layers = len(sidecar["expert_heat"]["layers"])
    each = sum(sizes) // layers // experts
    roomy = srd_rs.place(path, ram=64 << 30, ctx=256, **FAST)
    assert roomy.experts is None and roomy.fits
    rest = roomy.cpu.total - sum(sizes)
    # Room for the hot experts of all layers but the first, and not for one more.
    room = (layers - 1) * used * each
    short = srd_rs.place(path, ram=rest + room, ctx=256, disk_bandwidth=1e9, **FAST)
    found = short.experts
    assert not short.fits and found is not None and found.measured
    assert (found.bytes, found.held_bytes) == (sum(sizes), room)
    assert found.missed_bytes == pytest.approx((used + (layers - 1) * used * 0.01) * each, rel=1e-3)
    assert found.held_share == pytest.approx((layers - 1) * used * 0.99 / (layers * used), rel=1e-3)
    assert found.budget == rest + room - short.cpu.kv_cache - short.cpu.compute
    empty, _ = short.tokens_per_second  # type: ignore[misc]
    assert empty == pytest.approx(1 / (short.cpu.token_bytes / 50e9 + found.read_bytes[0] / 1e9), rel=1e-6)
    note = next(n for n in short.notes if "--lock" in n)
    assert f"--budget {found.budget}" in note and "by the calibration" in note
    # What the budget holds is what is said to be held.
    with srd_rs.Hydrator(path) as hydrator:
        hydrator.evict()
        held = hydrator.hydrate("HARM", budget=found.budget).hydrated_bytes
    pages = 2 * os.sysconf("SC_PAGESIZE") * (3 * used * layers + len(sidecar["tensors"]))
    assert abs(held - (short.cpu.weights - found.bytes + room)) <= pages
    # Without the sidecar all experts count the same.
    other = path.with_name("other.gguf")
    other.write_bytes(path.read_bytes())
    blind = srd_rs.place(other, ram=rest + room, ctx=256, **FAST)
    assert blind.experts is not None and not blind.experts.measured and blind.tokens_per_second is None
    assert blind.experts.held_share == pytest.approx(room / sum(sizes), rel=1e-6)
    # Around a missing page the system reads more, and text that uses all experts equally misses more.
    exact = srd_rs.place(path, ram=rest + room, ctx=256, read_ahead=0, **FAST).experts
    wide = srd_rs.place(path, ram=rest + room, ctx=256, read_ahead=1 << 20, **FAST).experts
    assert exact is not None and wide is not None
    even = used * layers * (sum(sizes) - room) / layers * (1 / experts)
    assert exact.read_bytes == pytest.approx((found.missed_bytes, even), rel=1e-3)
    missed = found.missed_bytes / each * 3
    more = (1 - room / sum(sizes)) * ((1 << 20) - each / 3)
    assert wide.read_bytes[0] == pytest.approx(found.missed_bytes + missed * more, rel=1e-2)
    assert wide.read_bytes[1] > wide.read_bytes[0] > exact.read_bytes[0]
    # Not even what every token reads has room.
    assert srd_rs.place(path, ram=rest - 1, ctx=256, **FAST).experts is None
    run = srd("met", path, "--for", "llama-server", "--ram", rest + room, "--ctx", 256, "--json",
              "--ram-bandwidth", "50GB", "--disk-bandwidth", "1GB")  # fmt: skip
    assert run.json["experts"]["missed_bytes"] == found.missed_bytes, run.stderr


@pytest.mark.usefixtures("no_margin")
def test_the_gpu_gets_the_experts_that_are_used_evenly(hot: tuple[Path, dict[str, Any]]) -> None:
    """Where both memories are short, the layers stay with the CPU whose hottest experts serve the most tokens."""
    path, sidecar = hot
    layers = sidecar["model"]["n_layer"]
    whole = srd_rs.place(path, ram=64 << 30, vram=64 << 30, ctx=256, **FAST)
    stack = sum(t["bytes"] for t in sidecar["tensors"].values() if t["access"] == "experts") // layers
    vram = whole.gpu.total - (layers - 1) * stack
    roomy = srd_rs.place(path, ram=64 << 30, vram=vram, ctx=256, **FAST)
    assert roomy.cpu_moe == tuple(range(layers - 1)) and "--n-cpu-moe" in roomy.arguments
    short = srd_rs.place(path, ram=roomy.cpu.total - stack // 2, vram=vram, ctx=256, **FAST)
    assert short.cpu_moe == tuple(range(1, layers)) and short.gpu.total <= vram
    pattern = short.arguments[short.arguments.index("-ot") + 1]
    rule, _, device = pattern.rpartition("=")
    moved = {int(t.split(".")[1]) for t in sidecar["tensors"] if re.search(rule, t)}
    assert device == "CPU" and moved == set(short.cpu_moe)
    assert short.experts is not None and short.experts.held_share > 0.95


def test_the_command(made: Path) -> None:
    path = made / "qwen3moe.gguf"
    common = ("met", path, "--ram", "4GiB", "--vram", "8GiB", "--ctx", 2048, "--ram-bandwidth", "50GB")
    shown = srd(*common, "--for", "llama-server", "--vram-bandwidth", "500GB")
    assert shown.code == 0 and shown.stdout.splitlines()[-1].startswith("llama-server -m ")
    assert "-c 2048" in shown.stdout and "tokens/s" in shown.stdout and "experts" in shown.stdout
    data = srd(*common, "--for", "llama-server", "--json").json
    assert data["tokens_per_second"] is None and any("--vram-bandwidth" in n for n in data["notes"])
    assert data["access"]["experts"]["bytes"] > data["access"]["experts"]["token_bytes"]
    data = srd(*common, "--for", "llama-cpp-python", "--json").json
    assert data["keywords"]["n_gpu_layers"] == -1 and data["arguments"] == []
    assert "Llama(model_path=" in srd(*common, "--for", "llama-cpp-python").stdout
    data = srd(*common, "--for", "ollama", "--json").json
    assert data["arguments"][0] == "FROM ./qwen3moe.gguf" and "PARAMETER num_ctx 2048" in data["arguments"]
    assert not path.with_suffix(".other").exists()
    for wrong in (
        ("met", path, "--ram", "4GiB"),
        ("met", path, "--for", "llama-server"),
        ("met", path, "--for", "vllm", "--ram", "4GiB"),
        (*common, "--for", "ollama", "--check"),
        (*common, "--for", "ollama", "--plot", "x.png"),
    ):
        assert srd(*wrong).code == 2, wrong


def test_what_is_not_used_is_said(made: Path, tmp_path: Path) -> None:
    path = made / "llama.gguf"
    small = srd_rs.place(path, ram="4GiB", vram="1GiB", ctx=512, **FAST)
    assert small.gpu_layers == 0 and any("The GPU is not used" in note for note in small.notes)
    roomy = srd_rs.place(path, ram="4GiB", ctx=512, disk_bandwidth="1GB", **FAST)
    assert roomy.fits and any("the disk does not count" in note for note in roomy.notes)
    # A dense model that does not fit reads what has no room for each token. A row of the table of tokens has room.
    table, missing = roomy.access["rows"].bytes - roomy.access["rows"].token_bytes, 1 << 16
    ram = roomy.cpu.total - table - missing
    short = srd_rs.place(path, ram=ram, ctx=512, disk_bandwidth="1GB", **FAST)
    assert table > 0 and not short.fits and short.tokens_per_second is not None
    wanted = 1 / (short.cpu.token_bytes / 50e9 + missing / 1e9)
    assert short.tokens_per_second[0] == pytest.approx(wanted, rel=1e-6)
    # A table that has room needs no argument, and no word about one.
    tables = srd_rs.place(made / "gemma4_e2b.gguf", engine="llama-cpp-python", ram="4GiB", ctx=512, **FAST)
    assert tables.notes == ()
    shown = srd("met", path, "--for", "llama-server", "--ram", "4GiB", "--ram-bandwidth", "1000GB")
    assert re.search(r"at most [\d.]+ k tokens/s, and [\d.]+ k tokens/s with a full context", shown.stdout)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_weights_are_not_copied_where_the_copies_have_no_room(
    machine: str, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp copies matrices of some types into another order. Copies cannot be dropped and read again."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    for quant, copies in (("Q4_0", True), ("Q8_0", machine == "aarch64")):
        path = tmp_path / f"{quant}.gguf"
        srd_rs.convert(fixtures / "llama", path, quant=quant, effort="fast")
        copied = sum(
            t.bytes for t in srd_rs.inspect(path).tensors if t.type == quant and t.name.startswith("blk.")
        )
        roomy = srd_rs.place(path, ram=1 << 40, ctx=256, **FAST)
        other = roomy.cpu.kv_cache + roomy.cpu.compute
        for ram, wanted in ((1 << 40, False), (other + copied, False), (other + copied - 1, copies)):
            found = srd_rs.place(path, ram=ram, ctx=256, **FAST)
            assert ("--no-repack" in found.arguments) == wanted, (quant, ram)
            assert any("--no-repack" in note and "--lock" in note for note in found.notes) == wanted
            python = srd_rs.place(path, engine="llama-cpp-python", ram=ram, ctx=256, **FAST)
            assert any("the system may end it" in note for note in python.notes) == wanted


def test_a_projector_beside_the_file_is_named(made: Path, tmp_path: Path) -> None:
    model = shutil.copy(made / "llama.gguf", tmp_path / "see-Q8_0.gguf")
    write_projector(tmp_path / "mmproj-see-F16.gguf")
    found = srd_rs.place(model, ram="4GiB", ctx=512, **FAST)
    assert any("--mmproj mmproj-see-F16.gguf" in note for note in found.notes)


def test_what_has_no_layers_and_what_is_unknown(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vllm"):
        srd_rs.place(made / "llama.gguf", engine="vllm", ram=1)
    with pytest.raises(UsageError, match="--ctx"):
        srd_rs.place(made / "llama.gguf", ram=1, ctx=0)
    srd_rs.calibrate(EXAMPLE, tmp_path / "c", text="random", tokens=64, imatrix=tmp_path / "i.gguf")
    with pytest.raises((ModelError, UsageError)):
        srd_rs.place(tmp_path / "i.gguf", ram=1 << 30)
    assert json.loads(json.dumps(dict(srd_rs.place(made / "llama.gguf", ram=1 << 30, **FAST).keywords))) == {}


def test_the_bandwidth_is_measured() -> None:
    """Between a slow memory card and the fastest accelerator."""
    measured: Any = placement.measure_bandwidth(0.1)
    assert 10e6 < measured < 10e12
