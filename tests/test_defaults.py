"""What a conversion does when nothing is said: SRD where that is possible, no container, the same on both doors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import srd_rs
from srd_rs.errors import ModelError
from support import EXAMPLE, srd

SMALL = ("--calibrate", "random", "--calibrate-tokens", "256", "--calibrate-block", "256")


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """A GGUF of an architecture that the forward pass does not know."""
    import gguf

    path = tmp_path / "unknown.gguf"
    writer = gguf.GGUFWriter(path, "unheard-of")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(256)])
    writer.add_token_merges(["t 1"])
    writer.add_tensor("token_embd.weight", np.ones((256, 256), np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", np.ones((256, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("options", "effort"),
    [
        ({}, "srd"),
        ({"quant": "Q5_K_S"}, "srd"),
        ({"calibrate": "random"}, "srd"),
        ({"quant": "F16"}, "fast"),
        ({"quant": "BF16", "tensor_types": ["ffn_down=Q6_K"]}, "srd"),
        ({"effort": "fast"}, "fast"),
    ],
)
def test_srd_is_the_default_where_it_has_something_to_do(options: dict[str, object], effort: str) -> None:
    planned = srd_rs.plan(EXAMPLE, **options)  # type: ignore[arg-type]
    assert planned.effort == effort and planned.why_fast is None
    assert (planned.text is not None) == (effort == "srd")


def test_a_quantized_gguf_that_is_copied_is_not_calibrated(example_q4_k_m: Path) -> None:
    planned = srd_rs.plan(example_q4_k_m)
    assert planned.effort == "fast" and planned.why_fast is None


def test_an_unknown_architecture_is_searched_and_told(unknown: Path, tmp_path: Path) -> None:
    run = srd("convert", unknown, "-o", tmp_path / "o.gguf", "--no-axm")
    assert run.code == 0, run.stderr
    last = run.stdout.splitlines()[-1]
    assert "'unheard-of'" in last and "the data-free search was used instead of SRD" in last
    as_json = srd("convert", unknown, "-o", tmp_path / "j.gguf", "--no-axm", "--json").json
    assert as_json["method"] == "search" and "unheard-of" in as_json["why_fast"]
    quiet = srd("convert", "--fast", unknown, "-o", tmp_path / "f.gguf", "--no-axm")
    assert "SRD" not in quiet.stdout
    for extra in (("--effort", "srd"), ("--calibrate", "random")):
        refused = srd("convert", unknown, "-o", tmp_path / "s.gguf", *extra)
        assert refused.code == 1 and "unheard-of" in refused.stderr and not (tmp_path / "s.gguf").exists()
    with pytest.raises(ModelError, match="unheard-of"):
        srd_rs.convert(unknown, tmp_path / "p.gguf", effort="srd")


def test_a_model_without_a_tokenizer_is_searched_and_told(unknown: Path, tmp_path: Path) -> None:
    from test_calibration_tokens import without_tokenizer

    bare = without_tokenizer(tmp_path)
    planned = srd_rs.plan(bare)
    assert planned.effort == "fast" and "the tokenizer of this model" in (planned.why_fast or "")
    assert srd_rs.plan(bare, calibrate="random").effort == "srd"


def test_an_imatrix_takes_the_place_of_srd(tmp_path: Path) -> None:
    imatrix = tmp_path / "i.gguf"
    srd_rs.calibrate(EXAMPLE, tmp_path / "c.calib", text="random", tokens=64, ctx=64, imatrix=imatrix)
    planned = srd_rs.plan(EXAMPLE, imatrix=imatrix)
    assert planned.effort == "fast" and "imatrix" in (planned.why_fast or "")


def test_a_fast_run_ends_with_what_srd_would_do(tmp_path: Path) -> None:
    fast = srd("convert", EXAMPLE, "-o", tmp_path / "f.gguf", "--fast", "--no-axm")
    last = fast.stdout.splitlines()[-1]
    assert fast.code == 0 and max(map(len, fast.stdout.replace(str(tmp_path), "").splitlines())) <= 90
    time = re.fullmatch(
        r"Without --fast, SRD takes about (\d+ s|\d+ min) longer here, for half .* \(README\)\.", last
    )
    assert time, last
    # A container costs time of its own, so the run does not tell how fast the machine searches.
    sealed = srd("convert", EXAMPLE, "-o", tmp_path / "a.gguf", "--fast", "--axm")
    assert sealed.stdout.splitlines()[-1].endswith("srd-rs plan MODEL says the time.")
    assert "Q4_K_M by search" in fast.stdout
    made = srd("convert", EXAMPLE, "-o", tmp_path / "s.gguf", *SMALL)
    assert made.code == 0, made.stderr
    assert "Without --fast" not in made.stdout
    assert "Q4_K_M by SRD, calibrated on 512 tokens of random" in made.stdout
    plain = srd("convert", EXAMPLE, "-o", tmp_path / "p.gguf", "-q", "F16", "--fast")
    assert plain.code == 0 and "SRD" not in plain.stdout


def test_fast_and_effort(tmp_path: Path) -> None:
    both = srd("convert", EXAMPLE, "-o", tmp_path / "o.gguf", "--fast", "--effort", "srd")
    assert both.code == 2 and "contradict" in both.stderr
    short = srd("convert", EXAMPLE, "-o", tmp_path / "a.gguf", "--fast", "--json")
    long = srd("convert", EXAMPLE, "-o", tmp_path / "b.gguf", "--effort", "fast", "--json")
    assert short.json["effort"] == long.json["effort"] == "fast"
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_command_line_and_python_write_the_same(tmp_path: Path) -> None:
    line = srd("convert", EXAMPLE, "-o", tmp_path / "line.gguf", *SMALL, env={"SRD_MASTER_KEY": ""})
    assert line.code == 0, line.stderr
    report = srd_rs.convert(
        EXAMPLE, tmp_path / "python.gguf", calibrate="random", calibrate_tokens=256, calibrate_block=256
    )
    assert report.method == "srd" and report.calibration_tokens == 512 and report.srd_tokens is None
    assert (tmp_path / "line.gguf").read_bytes() == (tmp_path / "python.gguf").read_bytes()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["line.gguf", "line.met.json", "python.gguf", "python.met.json"]


def test_no_secret_is_made_unasked(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = {"SRD_MASTER_KEY": "", "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    run = srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "m.gguf", env=env)
    assert run.code == 0 and "fingerprint" not in run.stdout
    assert not (tmp_path / "m.axm").exists() and list(home.iterdir()) == []


def test_the_container_is_written_where_a_key_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    srd_rs.keygen(key)
    none = {"SRD_MASTER_KEY": ""}
    assert srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "env.gguf").code == 0
    assert srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "off.gguf", "--no-axm").code == 0
    named = srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "key.gguf", "--key-file", key, env=none)
    assert named.code == 0, named.stderr
    assert {p.name for p in tmp_path.glob("*.axm")} == {"env.axm", "key.axm"}
    signed = srd("convert", "--fast", EXAMPLE, "-o", tmp_path / "x.gguf", "--sign-key", key, env=none)
    assert signed.code == 2 and "--axm" in signed.stderr
    monkeypatch.delenv("SRD_MASTER_KEY", raising=False)
    assert srd_rs.plan(EXAMPLE, effort="fast").container is None
    assert srd_rs.plan(EXAMPLE, effort="fast", key_file=key).container is not None
    monkeypatch.setenv("SRD_MASTER_KEY", "5d" * 32)
    assert srd_rs.plan(EXAMPLE, effort="fast").container is not None
    assert srd_rs.plan(EXAMPLE, effort="fast", axm=False).container is None


def test_pack_has_the_same_default(tmp_path: Path) -> None:
    key = tmp_path / "key"
    srd_rs.keygen(key)
    common = ("--key-file", key, "--calibrate", "random", "--calibrate-tokens", "256")
    assert srd("pack", EXAMPLE, "-o", tmp_path / "p.axm", *common).code == 0
    assert srd("pack", EXAMPLE, "-o", tmp_path / "f.axm", "--fast", "--key-file", key).code == 0
    methods = {n: _method(tmp_path / f"{n}.axm") for n in ("p", "f")}
    assert methods == {"p": "srd", "f": "search"}


def _method(container: Path) -> object:
    return srd_rs.inspect(container).metadata["axm.method"]


def test_the_default_of_alpha_follows_the_method(tmp_path: Path) -> None:
    """Decision 0006: over an SRD base, 0.75 of a residual of 2 bits comes nearest to the original."""
    key = tmp_path / "key"
    srd_rs.keygen(key)
    small = {"calibrate": "random", "calibrate_tokens": 64}
    srd_rs.pack(EXAMPLE, tmp_path / "srd.axm", key_file=key, **small)  # type: ignore[arg-type]
    srd_rs.pack(EXAMPLE, tmp_path / "fast.axm", key_file=key, effort="fast")
    srd_rs.pack(EXAMPLE, tmp_path / "three.axm", key_file=key, residual_bits=3, **small)  # type: ignore[arg-type]

    def extracted(name: str, alpha: float | None) -> bytes:
        output = tmp_path / "out.gguf"
        srd_rs.extract(
            tmp_path / f"{name}.axm", output, quant="F32", alpha=alpha, key_file=key, overwrite=True
        )
        return output.read_bytes()

    for name, alpha in (("srd", 0.75), ("fast", 1.0), ("three", 1.0)):
        assert extracted(name, None) == extracted(name, alpha)
    assert extracted("srd", None) != extracted("srd", 1.0)
    # The packed mix is a copy, in whatever letters it is written.
    report = srd_rs.extract(tmp_path / "srd.axm", tmp_path / "c.gguf", quant="q4_k_m", key_file=key)
    assert report.plan.quant == "Q4_K_M"
