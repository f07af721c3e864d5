"""The interface of the package: what is exported, that it is documented, and that the examples of docstrings run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest

import srd_rs
from srd_rs import conversion, planning
from srd_rs.errors import UsageError
from support import EXAMPLE, write_adapter

#: Modules whose docstrings have examples.
WITH_EXAMPLES = (
    "srd_rs",
    "srd_rs.adapters",
    "srd_rs.calibration",
    "srd_rs.container",
    "srd_rs.conversion",
    "srd_rs.estimating",
    "srd_rs.eval.evaluation",
    "srd_rs.files",
    "srd_rs.hydration",
    "srd_rs.inspection",
    "srd_rs.materials",
    "srd_rs.options",
    "srd_rs.placement",
    "srd_rs.publishing",
    "srd_rs.rebuilding",
    "srd_rs.signing",
    "srd_rs.tensors",
    "srd_rs.turns",
)


def test_everything_that_is_exported_is_there() -> None:
    assert dir(srd_rs) == sorted(srd_rs.__all__) and len(set(srd_rs.__all__)) == len(srd_rs.__all__)
    for name in srd_rs.__all__:
        assert getattr(srd_rs, name) is not None, name
    assert srd_rs.errors.UsageError is UsageError and srd_rs.__version__.count(".") == 2
    with pytest.raises(AttributeError):
        srd_rs.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_everything_that_is_exported_is_documented() -> None:
    for name in srd_rs.__all__:
        value = getattr(srd_rs, name)
        if callable(value):
            assert inspect.getdoc(value), name


def test_every_function_has_an_example_and_says_what_it_raises() -> None:
    for name in srd_rs.__all__:
        function = getattr(srd_rs, name)
        if inspect.isfunction(function):
            text = inspect.getdoc(function) or ""
            assert ">>> " in text or name == "convert", name
            assert "Raises" in text, name
            assert function.__module__ in WITH_EXAMPLES, "the examples of this module are not run"


def test_public_methods_are_documented() -> None:
    """Of the exported classes, all that a user can call."""
    for name in srd_rs.__all__:
        value = getattr(srd_rs, name)
        for part, method in vars(value).items() if inspect.isclass(value) else ():
            if not part.startswith("_") and inspect.isfunction(method):
                assert inspect.getdoc(method), (name, part)


def test_what_functions_return_is_exported() -> None:
    """A class that a public function returns or hands to a callback can be named."""
    for name in srd_rs.__all__:
        function = getattr(srd_rs, name)
        if not inspect.isfunction(function):
            continue
        returned = str(inspect.get_annotations(function).get("return", ""))
        for word in returned.replace("|", " ").replace("[", " ").replace("]", " ").replace(",", " ").split():
            if word[0].isupper() and word not in ("None", "Any", "NDArray", "Self"):
                assert word in srd_rs.__all__, (name, word)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example_q4_k_m: Path
) -> None:
    for package, needed in (("srd_rs.eval.evaluation", "llama_cpp"), ("srd_rs.signing", "cryptography")):
        if name == package:
            pytest.importorskip(
                needed, reason=f"{needed} is not installed: the examples of {name} were not run"
            )
    shutil.copytree(EXAMPLE, tmp_path / "path" / "to" / "model")
    shutil.copy(example_q4_k_m, tmp_path / "path" / "to" / "model-Q4_K_M.gguf")
    monkeypatch.chdir(tmp_path)
    if name == "srd_rs.container":
        srd_rs.keygen("master.key")
        srd_rs.pack("path/to/model", "path/to/model-Q4_K_M.axm", effort="fast", key_file="master.key")
    Path("text.txt").write_text("The history of the town is the history of its river. " * 40)
    if name == "srd_rs.adapters":
        write_adapter(Path("path/to/adapter"))
    if name == "srd_rs.signing":
        write_key(Path("key.pem"))
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    tried = 0
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(module, name, globs={"srd_rs": srd_rs}):
        tried += len(test.examples)
        runner.run(test)
    assert tried > 0 and runner.summarize(verbose=False).failed == 0


def write_key(path: Path) -> None:
    """A private key on an elliptic curve, which only its owner may read."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    encoded = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(encoded)


def test_short_texts(tmp_path: Path) -> None:
    plan = srd_rs.plan(EXAMPLE, tmp_path / "m.gguf", effort="fast")
    report = srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", effort="fast", met=False)
    found = srd_rs.inspect(report.output)
    for value in (plan, report, found):
        text = repr(value)
        assert len(text) < 300 and "m.gguf" in text and text.startswith(f"<{type(value).__name__} ")
        html = value._repr_html_()
        assert html.startswith("<table>") and "<td>Q4_K</td>" in html and "<caption>" in html


def test_short_texts_of_options_and_of_what_is_found(tmp_path: Path) -> None:
    options = srd_rs.ConvertOptions(effort="fast", max_memory="1GiB")
    assert repr(options) == "ConvertOptions(effort='fast', max_memory=1073741824)"
    assert repr(srd_rs.ConvertOptions()) == "ConvertOptions()"
    report = srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", options, met=False)
    placed = srd_rs.place(report.output, ram="8GiB", vram="1.5GB", ram_bandwidth="20GB")
    assert placed == srd_rs.place(report.output, ram=8 << 30, vram=1_500_000_000, ram_bandwidth=20e9)
    with srd_rs.Hydrator(report.output) as hydrator:
        found = hydrator.hydrate("INFORM", budget="64KiB")
        assert found.hydrated_bytes == hydrator.hydrate("INFORM", budget=64 << 10).hydrated_bytes
        values = (placed, hydrator, srd_rs.rebuild(report.output, EXAMPLE))
        for value in values:
            assert len(repr(value)) < 600 and "m.gguf" in repr(value), repr(value)
    srd_rs.pack(EXAMPLE, tmp_path / "m.axm", effort="fast", key_file=srd_rs.keygen(tmp_path / "key").path)
    checked = repr(srd_rs.verify(tmp_path / "m.axm", key_file=tmp_path / "key"))
    assert checked.startswith("Verification(path=") and "authentic=True" in checked and len(checked) < 250
    with pytest.raises(UsageError, match="ram: '8G' is no size"):
        srd_rs.place(report.output, ram="8G")


def test_a_misspelt_option_and_an_error_elsewhere_are_named() -> None:
    with pytest.raises(TypeError, match="unknown option 'effrt'; did you mean effort"):
        srd_rs.convert(EXAMPLE, effrt="fast")  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match=r"srd_rs\.errors\.UsageError"):
        srd_rs.UsageError  # type: ignore[attr-defined]  # noqa: B018


def test_html_is_escaped() -> None:
    from srd_rs.text import html_table

    assert "<script>" not in html_table("<script>", ("<script>",), [("<script>",)])


@pytest.mark.parametrize(
    "bad", [[[1.0] * 256], np.ones((1, 256)), np.ones(256, np.float32), np.ones((1, 256), np.int32)]
)
def test_arrays_that_do_not_fit_are_usage_errors(bad: object) -> None:
    with pytest.raises(UsageError, match="float32 with 2 dimensions"):
        srd_rs.quantize(bad, "Q4_K")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="uint8 with 2 dimensions"):
        srd_rs.dequantize(bad, "Q4_K")  # type: ignore[arg-type]


def test_moments_make_a_matrix_better_under_them() -> None:
    random = np.random.default_rng(5)
    mixing = random.normal(size=(256, 256)) / 16
    x = (random.normal(size=(2000, 256)) @ mixing).astype(np.float32)
    w = random.normal(size=(32, 256)).astype(np.float32)
    moments = x.T @ x / len(x)

    def cost(blocks: np.ndarray) -> float:
        error = srd_rs.dequantize(blocks, "Q4_K") - w
        return float(np.einsum("ri,ij,rj->", error, moments, error))

    assert cost(srd_rs.quantize(w, "Q4_K", moments=moments)) < 0.8 * cost(srd_rs.quantize(w, "Q4_K"))


def test_progress_true_shows_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from srd_rs import progress

    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", effort="fast", met=False, progress=True)
    assert "writing: 100%" in capfd.readouterr().err
    srd_rs.convert(EXAMPLE, tmp_path / "n.gguf", effort="fast", met=False, progress=False)
    assert capfd.readouterr().err == ""


def test_sizes_may_be_texts(tmp_path: Path) -> None:
    options = srd_rs.ConvertOptions(max_memory="512MiB", split_max_size="4MB", target_size="1.5GB")  # type: ignore[arg-type]
    assert (options.max_memory, options.split_max_size, options.target_size) == (
        1 << 29,
        4_000_000,
        1_500_000_000,
    )
    plan = srd_rs.plan(EXAMPLE, tmp_path / "m.gguf", effort="fast", split_max_size="4MB", max_memory="64MiB")
    assert len(plan.files) > 1
    with pytest.raises(UsageError, match="max_memory: '4G' is no size: write 512MiB"):
        srd_rs.plan(EXAMPLE, max_memory="4G")
    with pytest.raises(UsageError, match="max_memory: 'x' is no size"):
        srd_rs.calibrate(EXAMPLE, tmp_path / "c.calib", max_memory="x")


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("threads", "4", "type int"),
        ("threads", True, "type int"),
        ("quant", 4, "type str"),
        ("pure", "yes", "type bool"),
        ("max_memory", 1.5, "type int"),
        ("target_bpw", "5", "type float"),
        ("tensor_types", "ffn=Q6_K", "Pass a list"),
    ],
)
def test_a_value_of_another_type_is_a_usage_error(option: str, value: object, wanted: str) -> None:
    with pytest.raises(UsageError, match=f"{option}: .*{wanted}"):
        srd_rs.plan(EXAMPLE, **{option: value})
    numbers = srd_rs.plan(EXAMPLE, effort="fast", threads=np.int64(2), target_bpw=np.float32(6.2))
    assert numbers.n_weights > 0


def test_what_is_quantized_again_is_named(
    tmp_path: Path, example_q4_k_m: Path, caplog: pytest.LogCaptureFixture
) -> None:
    srd_rs.plan(example_q4_k_m, tmp_path / "o.gguf", quant="Q5_K_M", effort="fast", allow_requantize=True)
    (line,) = (message for message in caplog.messages if "quantized again" in message)
    assert "blk.0.attn_k.weight" in line or "..." in line


def test_the_vocabulary_is_not_in_memory_while_the_weights_are_quantized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vocabulary of 262,144 tokens takes 90 MB in the interpreter."""
    planners: list[planning.Planner] = []
    described: list[bool] = []
    run_plan, describe = conversion.run_plan, planning.Planner.plan

    def plan(self: planning.Planner, *args: object) -> object:
        planners.append(self)
        return describe(self, *args)  # type: ignore[arg-type]

    def run(*args: object, **options: object) -> object:
        described.extend(planner._description is not None for planner in planners)
        return run_plan(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(planning.Planner, "plan", plan)
    monkeypatch.setattr(conversion, "run_plan", run)
    srd_rs.convert(EXAMPLE, tmp_path / "m.gguf", effort="fast", met=False)
    assert described == [False]
