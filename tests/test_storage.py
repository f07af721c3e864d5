"""Object stores: a model in a bucket is converted without a copy of its weights. A store of S3 runs on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Run, srd
from test_stream import sharded

FAST = ("--fast", "-q", "Q4_K_M", "--no-met", "--no-axm")
BUCKET = "models"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """The environment of a run that uses a store of S3."""
    pytest.importorskip("obstore", reason="obstore is not installed: no bucket was read")
    moto = pytest.importorskip("moto.server", reason="moto is not installed: no bucket was read")
    started = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "SRD_HTTP_TRIES": "2",
    }
    started.stop()


def client(server: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=server["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )


@pytest.fixture
def bucket(server: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """The folder of a model that lies in the bucket as well, as `team/model/`."""
    folder = sharded(tmp_path / "model")
    s3 = client(server)
    s3.create_bucket(Bucket=BUCKET)
    for path in folder.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), BUCKET, f"team/model/{path.relative_to(folder).as_posix()}")
    yield folder
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for found in page.get("Contents", ()):
            s3.delete_object(Bucket=BUCKET, Key=found["Key"])
    s3.delete_bucket(Bucket=BUCKET)


def convert(
    server: dict[str, str], output: Path, *options: object, model: str = f"s3://{BUCKET}/team/model/"
) -> Run:
    env = {**server, "TMPDIR": str(output.parent)}
    return srd("convert", model, "--stream", "-o", output, *(options or FAST), env=env)


def test_the_bytes_are_those_of_the_folder(server: dict[str, str], bucket: Path, tmp_path: Path) -> None:
    """Weights and small files come from the bucket, and nothing but the output is left."""
    out = tmp_path / "out"
    out.mkdir()
    local = srd("convert", bucket, "-o", tmp_path / "local.gguf", *FAST)
    assert local.code == 0, local.stderr
    run = convert(server, out / "m.gguf")
    assert run.code == 0, run.stderr
    assert (out / "m.gguf").read_bytes() == (tmp_path / "local.gguf").read_bytes()
    assert [path.name for path in out.iterdir()] == ["m.gguf"]


def test_effort_srd_reads_a_bucket_as_well(server: dict[str, str], bucket: Path, tmp_path: Path) -> None:
    options = ("-q", "Q4_K_M", "--no-met", "--no-axm", "--effort", "srd", "--calibrate-tokens", "512")
    assert srd("convert", bucket, "-o", tmp_path / "local.gguf", *options).code == 0
    kept = tmp_path / "kept"
    run = convert({**server, "SRD_CACHE": str(kept)}, tmp_path / "far.gguf", *options)
    assert run.code == 0, run.stderr
    assert (tmp_path / "far.gguf").read_bytes() == (tmp_path / "local.gguf").read_bytes()
    # A store does not say what the weights are, so a calibration of them could not be told from another one.
    assert not kept.exists()


def test_the_default_name(server: dict[str, str], bucket: Path, tmp_path: Path) -> None:
    run = srd(
        "convert",
        f"s3://{BUCKET}/team/model",
        "--stream",
        "--dry-run",
        "--json",
        *FAST,
        env=server,
        cwd=tmp_path,
    )
    assert run.code == 0 and run.json["output"] == "model-Q4_K_M.gguf", run.stderr


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("config.json", 16 << 20),
        ("tokenizer.json", 64 << 20),
        ("chat_template.jinja", 1 << 20),
        ("generation_config.json", 16 << 20),
    ],
)
def test_a_small_file_that_is_too_large(
    server: dict[str, str], bucket: Path, tmp_path: Path, name: str, limit: int
) -> None:
    """The limits are those of a folder, in the same words, and no more than the limit is kept."""
    (tmp_path / "out").mkdir()
    client(server).put_object(Bucket=BUCKET, Key=f"team/model/{name}", Body=b" " * (limit + 1))
    run = convert(server, tmp_path / "out" / "m.gguf")
    assert run.code == 1 and run.stderr.count("\n") == 1, run.stderr
    assert f"{name}: the file is larger than {limit} bytes" in run.stderr
    assert not list((tmp_path / "out").iterdir())


def test_weights_of_mistral_alone_are_refused_as_in_a_folder(
    server: dict[str, str], bucket: Path, tmp_path: Path
) -> None:
    s3 = client(server)
    for path in [*bucket.glob("*.safetensors"), bucket / "model.safetensors.index.json"]:
        s3.delete_object(Bucket=BUCKET, Key=f"team/model/{path.name}")
    s3.put_object(Bucket=BUCKET, Key="team/model/consolidated.safetensors", Body=b"x" * 64)
    run = convert(server, tmp_path / "m.gguf")
    assert run.code == 1 and "Mistral's own format" in run.stderr, run.stderr


def test_what_is_not_there_is_one_line(server: dict[str, str], bucket: Path, tmp_path: Path) -> None:
    cases = (
        (f"s3://{BUCKET}/team/nothing/", 1, "there are no files under this address"),
        (f"s3://{BUCKET}/team/", 1, "the model has no safetensors files to stream"),
        ("s3://no-such-bucket/model/", 1, "the object store refuses"),
    )
    for model, code, said in cases:
        run = convert(server, tmp_path / "m.gguf", *FAST, model=model)
        assert run.code == code and said in run.stderr and run.stderr.count("\n") == 1, run.stderr
    run = srd("convert", f"s3://{BUCKET}/team/model/", "-o", tmp_path / "m.gguf", *FAST, env=server)
    assert run.code == 2 and "Add --stream" in run.stderr


def test_a_file_that_changes_ends_the_conversion(
    server: dict[str, str], bucket: Path, tmp_path: Path
) -> None:
    """The listing names a size, and the server a version: what is read is of one version."""
    s3, out = client(server), tmp_path / "out"
    out.mkdir()
    name = "team/model/model-00002-of-00003.safetensors"
    data = (bucket / "model-00002-of-00003.safetensors").read_bytes()
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            s3.put_object(Bucket=BUCKET, Key=name, Body=data[:-8] + number.to_bytes(8, "little"))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        run = convert(server, out / "m.gguf")
    finally:
        stop.set()
        thread.join()
    assert run.code == 1 and "the file changed while it was read" in run.stderr, run.stderr
    assert not list(out.iterdir())


def keys(server: dict[str, str], prefix: str = "") -> dict[str, bytes]:
    """The objects of the bucket below a prefix."""
    s3 = client(server)
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {o["Key"]: s3.get_object(Bucket=BUCKET, Key=o["Key"])["Body"].read() for o in found}


def unfinished(server: dict[str, str]) -> list[Any]:
    """The uploads to the bucket that were begun and neither completed nor given up."""
    return list(client(server).list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))


def test_from_a_bucket_to_a_bucket(server: dict[str, str], bucket: Path, tmp_path: Path) -> None:
    """The parts are those of a local conversion, and the disk is empty afterwards."""
    split = ("--split-max-size", "4MB")
    run = srd("convert", bucket, "-o", f"{tmp_path}/local/", *FAST, *split)
    assert run.code == 0, run.stderr
    work = tmp_path / "work"
    work.mkdir()
    options = ("--stream", "--fast", "-q", "Q4_K_M", *split, "--card", "--json")
    model, made = f"s3://{BUCKET}/team/model/", f"s3://{BUCKET}/made/4 bits/"
    run = srd("convert", model, "-o", made, *options, env=server, cwd=work)
    assert run.code == 0, run.stderr
    found = keys(server, "made/")
    parts = {f"made/4 bits/{p.name}": p.read_bytes() for p in (tmp_path / "local").iterdir()}
    assert {name: data for name, data in found.items() if name.endswith(".gguf")} == parts and len(parts) >= 4
    first = min(parts).removesuffix(".gguf")
    assert set(found) - set(parts) == {f"{first}.met.json", f"{first}.md"}
    assert run.json["commit"] == f"s3://{BUCKET}" and run.json["output"] == f"{first}.gguf"
    assert not list(work.iterdir()) and not unfinished(server)
    again = srd("convert", model, "-o", made, *options, env=server, cwd=work)
    assert again.code == 2 and "the file exists already" in again.json["error"]["message"]
    again = srd("convert", model, "-o", made, *options, "--overwrite", env=server, cwd=work)
    assert again.code == 0 and not list(work.iterdir()), again.stderr


def test_a_conversion_that_fails_leaves_nothing_in_the_bucket(
    server: dict[str, str], bucket: Path, tmp_path: Path
) -> None:
    """A weight that is not finite ends the conversion when some parts were sent already."""
    shard = bucket / "model-00003-of-00003.safetensors"
    data = bytearray(shard.read_bytes())
    data[-4:] = b"\x80\x7f\x80\x7f"  # infinity in BF16
    client(server).put_object(Bucket=BUCKET, Key=f"team/model/{shard.name}", Body=bytes(data))
    work = tmp_path / "work"
    work.mkdir()
    options = ("--stream", *FAST, "--split-max-size", "4MB")
    run = srd(
        "convert", f"s3://{BUCKET}/team/model/", "-o", f"s3://{BUCKET}/made/", *options, env=server, cwd=work
    )
    assert (run.code == 1 and "not finite" in run.stderr) or "inf" in run.stderr, run.stderr
    assert not keys(server, "made/") and not list(work.iterdir()) and not unfinished(server)


def test_a_bucket_that_is_not_there(server: dict[str, str], bucket: Path, tmp_path: Path) -> None:
    run = srd("convert", bucket, "-o", "s3://no-such-bucket/made/", *FAST, env=server, cwd=tmp_path)
    assert run.code == 1 and "the object store refuses" in run.stderr, run.stderr
    assert ".srd-rs-" not in " ".join(path.name for path in tmp_path.iterdir())
