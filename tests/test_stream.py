"""`convert --stream`: the weights of a model on the hub are read over the network. The output is that of the folder."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_hub import Faults, Hub, serving
from support import EXAMPLE, Run, srd, user_process

FAST = ("--fast", "-q", "Q4_K_M", "--no-met", "--no-axm")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a run that uses a hub which redirects to a content network."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: nothing was streamed")
    with serving(tmp_path / "hf", network=True) as env:
        Hub.folders["org/model"] = sharded(tmp_path / "model")
        yield {**env, "SRD_HTTP_TRIES": "4"}


def sharded(folder: Path) -> Path:
    """The example model in three shards with an index."""
    shutil.copytree(EXAMPLE, folder)
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(_raw(file))
        file.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number in range(3):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        part = {name: tensors[name] for name in names[number::3]}
        weight_map.update(dict.fromkeys(part, file))
        _write(folder / file, part)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _raw(file: Path) -> dict[str, tuple[str, list[int], bytes]]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    start = 8 + length
    return {
        name: (t["dtype"], t["shape"], data[start + t["data_offsets"][0] : start + t["data_offsets"][1]])
        for name, t in header.items()
        if name != "__metadata__"
    }


def _write(file: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def streamed(output: Path, env: dict[str, str], *options: object) -> bytes:
    """The bytes of a streamed conversion."""
    output.parent.mkdir(exist_ok=True)
    run = srd("convert", "hf://org/model", "--stream", "-o", output, *(options or FAST), env=env)
    assert run.code == 0, run.stderr
    return output.read_bytes()


@pytest.fixture
def local(hub: dict[str, str], tmp_path: Path) -> bytes:
    """The bytes of the conversion of the folder."""
    run = srd("convert", Hub.folders["org/model"], "-o", tmp_path / "local.gguf", *FAST)
    assert run.code == 0, run.stderr
    return (tmp_path / "local.gguf").read_bytes()


def only_line(run: Run) -> str:
    """The line of the error, which is the last one, behind the line of the plan."""
    before, error = run.stderr.splitlines()[:-1], run.stderr.splitlines()[-1]
    assert error.startswith("error: ") and not any(line.startswith("error: ") for line in before), run.stderr
    return error


def weights_in(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix == ".safetensors"]


def test_the_bytes_are_those_of_the_folder(hub: dict[str, str], local: bytes, tmp_path: Path) -> None:
    """No weight lies on the disk afterwards, and each byte of the weights came once."""
    assert streamed(tmp_path / "out" / "m.gguf", hub) == local
    assert not weights_in(tmp_path / "hf")
    size = sum(p.stat().st_size for p in Hub.folders["org/model"].glob("*.safetensors"))
    # The first 128 KiB of each file come with the header.
    assert size <= Hub.sent <= size + 3 * (1 << 17) + (1 << 16), (size, Hub.sent)
    assert not {name for name in Hub.fetched if name.endswith(".safetensors")}


def test_threads_and_memory_change_nothing(hub: dict[str, str], local: bytes, tmp_path: Path) -> None:
    for number, (threads, memory) in enumerate((("1", "1MiB"), ("7", "16MiB"), ("2", "2GiB"))):
        options = (*FAST, "--threads", threads, "--max-memory", memory)
        assert streamed(tmp_path / f"{number}.gguf", hub, *options) == local


def test_every_form_of_the_name(hub: dict[str, str], tmp_path: Path) -> None:
    for form in ("org/model", "org/model@main", "https://huggingface.co/org/model/tree/main"):
        run = srd("convert", form, "--stream", "--dry-run", "--json", *FAST, env=hub, cwd=tmp_path)
        assert run.code == 0 and run.json["output"] == "model-Q4_K_M.gguf", run.stderr


@pytest.mark.parametrize("effort", ["srd", "max"])
def test_srd_is_the_same_too(hub: dict[str, str], fixtures: Path, tmp_path: Path, effort: str) -> None:
    options = ("-q", "Q4_K_M", "--no-met", "--no-axm", "--effort", effort, "--calibrate-tokens", "512")
    if effort == "max":  # on a smaller model, because it takes many times as long
        Hub.folders["org/model"] = fixtures / "llama"
        options += ("--name", "same")
    run = srd("convert", Hub.folders["org/model"], "-o", tmp_path / "local.gguf", *options)
    assert run.code == 0, run.stderr
    assert streamed(tmp_path / "far.gguf", hub, *options) == (tmp_path / "local.gguf").read_bytes()
    assert not weights_in(tmp_path / "hf")


@pytest.mark.parametrize("more", [("srd",), ("max",), ("srd", "--target-bpw", "5")])
def test_a_calibration_of_the_network_is_found_again(
    hub: dict[str, str], fixtures: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """As users have it, with the cache: the commit and what the hub states of the weights tell them from others."""
    Hub.folders["org/model"] = _copy(fixtures / "llama", tmp_path / "copy")
    options = ("--no-met", "--no-axm", "--calibrate-tokens", "512", "--name", "same", "--effort", *more)
    run = srd("convert", Hub.folders["org/model"], "-o", tmp_path / "near.gguf", *options)
    assert run.code == 0, run.stderr
    near = (tmp_path / "near.gguf").read_bytes()
    env = {**hub, "SRD_CACHE": str(tmp_path / "kept")}
    found = []
    for number in range(3):
        if number == 2:  # other weights of the same size
            file = next(Hub.folders["org/model"].glob("*.safetensors"))
            data = bytearray(file.read_bytes())
            data[-2] ^= 1
            file.write_bytes(data)
        output = tmp_path / f"{number}.gguf"
        run = srd("convert", "org/model", "--stream", "--json", "-o", output, *options, env=env)
        assert run.code == 0, run.stderr
        assert (output.read_bytes() == near) == (number < 2)
        found.append(run.json["calibration_found"])
    assert found == [False, True, False]


def _copy(folder: Path, to: Path) -> Path:
    """A copy of a model, whose files may be changed."""
    shutil.copytree(folder, to)
    for path in to.rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)
    return to


SRD = ("-q", "Q4_K_M", "--no-axm", "--effort", "srd", "--calibrate-tokens", "2048")


@pytest.mark.parametrize("memory", ["256MiB", "32MiB"])
def test_srd_reads_the_layers_once(hub: dict[str, str], tmp_path: Path, memory: str) -> None:
    """A calibration whose tokens do not fit into memory goes through each layer again and again, and the quantizer
    reads it once more. All of that is one read of the network."""
    near, far = (_in(tmp_path / name / "m.gguf") for name in ("near", "far"))
    run = srd("convert", Hub.folders["org/model"], "-o", near, *SRD)
    assert run.code == 0, run.stderr
    run = srd("convert", "org/model", "--stream", "-o", far, "--json", "--max-memory", memory, *SRD, env=hub)
    assert run.code == 0 and run.json["resumed_bytes"] == 0, run.stderr
    assert sorted(p.name for p in far.parent.iterdir()) == ["m.gguf", "m.met.json"]
    for name in ("m.gguf", "m.met.json"):
        assert (far.parent / name).read_bytes() == (near.parent / name).read_bytes()
    of_layers, fetched = _layers()
    # Blocks at the borders of tensors come a second time. With more memory the blocks are larger.
    assert 0.8 * of_layers < fetched <= (1.3 if memory == "256MiB" else 1.05) * of_layers, (
        fetched,
        of_layers,
    )


def test_tokens_of_a_streamed_decoder_are_weighed(
    hub: dict[str, str], fixtures: Path, tmp_path: Path
) -> None:
    """The way to the output and back is the same over the network, in one batch."""
    Hub.folders["org/model"] = fixtures / "llama"
    options = ("--no-met", "--no-axm", "--effort", "srd", "--calibrate-tokens", "2048", "--name", "same")
    near = tmp_path / "near.gguf"
    run = srd("convert", fixtures / "llama", "-o", near, "--json", *options)
    assert run.code == 0 and run.json["calibration_weighed"] is True, run.stderr
    assert streamed(tmp_path / "far.gguf", hub, *options) == near.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.suffix not in ("", ".gguf")]


# With little memory, the table of embeddings of a model without another output matrix is fetched again and again, and a
# part of the layers comes once more: 4.9 to 5.2 times in three runs.
@pytest.mark.parametrize(("memory", "times"), [("256MiB", 4.2), ("32MiB", 6.5)])
def test_a_budget_runs_the_model_and_fetches_the_layers_about_four_times(
    hub: dict[str, str], tmp_path: Path, memory: str, times: float
) -> None:
    """For the calibration, for what the errors of matrices cost, there and back, for what those of the embeddings for
    each layer cost, for the check of the choice, and for the quantizer. Each of the passes once went over the network,
    which were seventeen."""
    near, far = (_in(tmp_path / name / "m.gguf") for name in ("near", "far"))
    budget = ("--no-axm", "--no-met", "--effort", "srd", "--calibrate-tokens", "512", "--target-bpw", "4.6")
    run = srd("convert", Hub.folders["org/model"], "-o", near, *budget)
    assert run.code == 0, run.stderr
    options = (*budget, "--max-memory", memory)
    run = srd("convert", "org/model", "--stream", "-o", far, *options, env=hub)
    assert run.code == 0 and "fetches the weights up to six times" in run.stderr, run.stderr
    assert far.read_bytes() == near.read_bytes()
    assert [p.name for p in far.parent.iterdir()] == ["m.gguf"]
    of_layers, fetched = _layers()
    assert 3 * of_layers < fetched <= times * of_layers, fetched / of_layers
    size = sum(p.stat().st_size for p in Hub.folders["org/model"].glob("*.safetensors"))
    # The sample of the rows whose errors are measured comes on top.
    assert memory == "32MiB" or 3 * size < Hub.sent <= 5.25 * size, Hub.sent / size


def _layers() -> tuple[int, int]:
    """The bytes of the layers of the model on the hub, and how many were fetched of them. A block that holds the end of
    a table is fetched as often as the table is read, which depends on time, and is not counted."""
    of_layers, fetched = 0, 0
    for shard in Hub.folders["org/model"].glob("*.safetensors"):
        tables = _places(shard, "embed_tokens")
        ranges = [
            (start, end)
            for name, start, end in Hub.ranges
            if name == shard.name and not any(start < last and first < end for first, last in tables)
        ]
        for first, last in _places(shard, "layers."):
            of_layers += last - first
            fetched += sum(max(min(last, end) - max(first, start), 0) for start, end in ranges)
    return of_layers, fetched


def _places(shard: Path, part: str) -> list[tuple[int, int]]:
    """Where the tensors of a shard lie whose names contain `part`."""
    data = shard.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = json.loads(data[8 : 8 + length]).items()
    return [tuple(8 + length + at for at in t["data_offsets"]) for name, t in tensors if part in name]


def _in(path: Path) -> Path:
    path.parent.mkdir()
    return path


@pytest.mark.parametrize("stop_after", [6, 12])
def test_a_calibration_that_fails_leaves_nothing(
    hub: dict[str, str], tmp_path: Path, stop_after: int
) -> None:
    Hub.faults = Faults(stop_after=stop_after)
    output = _in(tmp_path / "out" / "m.gguf")
    run = srd(
        "convert", "org/model", "--stream", "-o", output, *SRD, env={**hub, "SRD_HTTP_CONNECTIONS": "2"}
    )
    assert run.code == 1 and "answers 503" in run.stderr, run.stderr
    assert not list(output.parent.iterdir())


def test_the_token_goes_to_the_hub_alone(hub: dict[str, str], local: bytes, tmp_path: Path) -> None:
    Hub.faults = Faults(token="hf_secret")
    assert streamed(tmp_path / "m.gguf", {**hub, "HF_TOKEN": "hf_secret"}) == local
    assert Hub.tokens == {"hub": {"Bearer hf_secret"}, "network": {""}}
    run = srd("convert", "org/model", "--stream", "-o", tmp_path / "n.gguf", *FAST, env=hub)
    assert run.code == 1 and "hf auth login" in run.stderr and "hf_secret" not in run.stderr


def test_passing_failures_are_passed(hub: dict[str, str], local: bytes, tmp_path: Path) -> None:
    """Busy servers, cut connections and addresses that expire: the read goes on from the byte where it ended."""
    faults = (
        Faults(statuses={0: 429, 3: 503, 4: 500, 7: 429, 9: 502}, retry_after="0"),
        Faults(statuses={2: 503}),
        Faults(cut_every=300_001),
        Faults(expire_every=3),
        Faults(rate=4e6, cut_every=2_000_000),
    )
    for number, fault in enumerate(faults):
        Hub.requests, Hub.faults = 0, fault
        assert streamed(tmp_path / f"{number}.gguf", hub) == local, fault


def test_a_server_may_ask_to_wait(hub: dict[str, str], tmp_path: Path) -> None:
    Hub.faults = Faults(statuses={0: 429}, retry_after="1")
    begun = time.monotonic()
    streamed(tmp_path / "m.gguf", hub)
    assert time.monotonic() - begun > 1
    Hub.requests, Hub.faults = 0, Faults(statuses=dict.fromkeys(range(99), 429), retry_after="86400")
    run = srd("convert", "org/model", "--stream", "-o", tmp_path / "n.gguf", *FAST, env=hub)
    assert run.code == 1 and "asks to wait 86400 seconds" in only_line(run)


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(stop_after=5), "answers 503 (4 times)"),
        (Faults(change_after=5), "the file changed while it was read"),
        (Faults(move_after=5), "the revision changed while it was read"),
        (Faults(no_ranges=True), "does not send parts of a file"),
        (Faults(statuses=dict.fromkeys(range(4, 100), 418)), "answers 418"),
    ],
)
def test_what_does_not_pass_is_one_line_and_leaves_nothing(
    hub: dict[str, str], tmp_path: Path, faults: Faults, said: str
) -> None:
    Hub.faults = faults
    output = tmp_path / "out" / "m.gguf"
    output.parent.mkdir()
    run = srd(
        "convert", "org/model", "--stream", "-o", output, *FAST, env={**hub, "SRD_HTTP_CONNECTIONS": "2"}
    )
    assert run.code == 1 and said in run.stderr, run.stderr
    assert "hf://org/model/model-0" in only_line(run)
    assert not list(output.parent.iterdir()) and not weights_in(tmp_path / "hf")


def test_the_whole_files_of_a_container_have_the_hash_of_the_hub(hub: dict[str, str], tmp_path: Path) -> None:
    options = ("--fast", "-q", "Q8_0", "--no-met", "--axm")
    for name, model in (("far", "org/model"), ("near", Hub.folders["org/model"])):
        extra = ("--stream",) if name == "far" else ()
        (tmp_path / name).mkdir()
        run = srd("convert", model, *extra, "-o", tmp_path / name / "m.gguf", *options, env=hub)
        assert run.code == 0, run.stderr
    near, far = ((tmp_path / name / "m.gguf").read_bytes() for name in ("near", "far"))
    assert near == far
    far_run = srd("verify", tmp_path / "far" / "m.axm", "--json")
    assert far_run.code == 0 and far_run.json["revision"].startswith("org/model@"), far_run.stderr
    Hub.faults = Faults(wrong_sha256=True)
    run = srd("convert", "org/model", "--stream", "-o", tmp_path / "bad.gguf", *options, env=hub)
    assert run.code == 3 and "but the hub names 0000" in only_line(run)
    assert not (tmp_path / "bad.gguf").exists() and not (tmp_path / "bad.axm").exists()


def test_hostile_headers_are_refused_as_in_a_folder(hub: dict[str, str], tmp_path: Path) -> None:
    folder = Hub.folders["org/model"]
    shard = folder / "model-00002-of-00003.safetensors"
    good = shard.read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    bad = (
        struct.pack("<Q", 1 << 62) + good[8:],
        struct.pack("<Q", 99_000_000) + good[8:],
        good[:8] + b"x" + good[9:],
        good[:-1],
        good[: 8 + length],
        b"",
    )
    for data in bad:
        shard.write_bytes(data)
        run = srd("convert", folder, "--dry-run", *FAST)
        far = srd("convert", "org/model", "--stream", "--dry-run", *FAST, env=hub, cwd=tmp_path)
        assert (run.code, far.code) == (1, 1)
        assert far.stderr.replace("hf://org/model", str(folder)) == run.stderr
        assert far.peak_rss < 300e6


def test_there_must_be_something_to_stream(hub: dict[str, str], tmp_path: Path) -> None:
    for model in (EXAMPLE, tmp_path / "nothing"):
        run = srd("convert", model, "--stream", "--dry-run", *FAST, env=hub)
        assert run.code == 2 and "--stream" in run.stderr and run.stderr.count("\n") == 1, run.stderr
    for file in Hub.folders["org/model"].glob("*.safetensors"):
        file.unlink()
    run = srd("convert", "org/model", "--stream", "--dry-run", *FAST, env=hub)
    assert run.code == 1 and "no safetensors files to stream" in run.stderr


def test_ctrl_c_ends_a_slow_read(
    hub: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub.faults = Faults(rate=50_000)
    for name, value in hub.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "out" / "m.gguf"
    output.parent.mkdir()
    command = [sys.executable, "-m", "srd_rs", "convert", "org/model", "--stream", "-o", str(output), *FAST]
    process = user_process(command)
    deadline = time.monotonic() + 60
    while Hub.requests < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - begun < 5
    assert not list(output.parent.iterdir())


def test_experts_are_read_out_of_the_order_of_the_file(
    hub: dict[str, str], fixtures: Path, tmp_path: Path
) -> None:
    """The forward pass of a mixture reads one expert after another."""
    Hub.folders["org/moe"] = fixtures / "qwen3moe"
    calibrated = (
        "-q",
        "Q4_0",
        "--name",
        "M",
        "--effort",
        "srd",
        "--calibrate",
        "random",
        "--calibrate-tokens",
        "64",
    )
    options = (*calibrated, "--no-met", "--no-axm")
    near, far = tmp_path / "near.gguf", tmp_path / "far.gguf"
    run = srd("convert", Hub.folders["org/moe"], "-o", near, *options)
    assert run.code == 0, run.stderr
    run = srd("convert", "org/moe", "--stream", "-o", far, *options, env=hub)
    assert run.code == 0, run.stderr
    assert near.read_bytes() == far.read_bytes()
