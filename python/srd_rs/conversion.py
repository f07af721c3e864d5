"""From a checkpoint folder or a GGUF to a GGUF: what `srd-rs convert` does, for Python.

Only names, shapes and metadata pass through Python; weights stay in Rust.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from srd_rs import (
    _core,
    budget,
    cache,
    calibration,
    costs,
    effects,
    hydration,
    materials,
    publishing,
    recipe,
    signing,
    sniff,
    uploading,
)
from srd_rs.encoders import is_encoder
from srd_rs.errors import (
    FormatError,
    ModelError,
    SrdFileNotFoundError,
    UsageError,
    VerificationError,
    io_error,
    message,
)
from srd_rs.hub import Source, glance, locate, model_files
from srd_rs.options import ConvertOptions, StrPath, changed, takes_options
from srd_rs.planning import (
    NativeModel,
    Planner,
    calibration_file,
    calibration_text,
    is_folder,
    make_folder,
    named,
    projector_name,
    projector_options,
    projector_plan,
)
from srd_rs.progress import Wanted, showing
from srd_rs.reading import shown
from srd_rs.report import ConvertReport, EffortCheck, Measurements, Plan, Progress

log = logging.getLogger("srd_rs.conversion")


@takes_options
def convert(
    model: StrPath,
    output: StrPath | None = None,
    options: ConvertOptions | None = None,
    *,
    progress: Wanted = None,
    on_plan: Callable[[Plan], None] | None = None,
    **changes: Any,
) -> ConvertReport:
    """Convert a model to a GGUF.

    model: Folder with config.json, tokenizer files and safetensors files; or a GGUF file; or a model id on the hub
        (``ORG/NAME`` or ``ORG/NAME@REVISION``), which is downloaded.
    output: The GGUF to write, or a folder for the GGUF. The default is ``<model name>-<quant>.gguf`` in the current
        folder. ``hf://ORG/NAME`` uploads the output to a repository of the hub, which is made (private) where it is
        missing: each file leaves the disk when it is complete, and one commit at the end names them all. A folder or a
        file in the repository is ``hf://ORG/NAME/FOLDER/`` or ``hf://ORG/NAME/FILE.gguf``.
    options: All options in one object. Options that are given by name replace those of `options`.
    on_plan: Called once with what will be written: before a weight is read, or within a budget when the types are
        chosen.
    progress: True shows a bar, or in a notebook a widget. A function is called about 20 times a second with a
        `Progress`; an exception that the function raises stops the conversion. Ctrl-C stops a conversion that runs in
        the main thread, as Python tells no other thread of Ctrl-C.

    The output has its name only when the output is complete. With `resume`, a conversion that is interrupted or killed
    keeps what is complete, and the same call goes on from there. Raises SrdIOError, FormatError, ModelError,
    NonFiniteError or UsageError (see `srd_rs.errors`).

        >>> report = srd_rs.convert("path/to/model", "out/", quant="Q5_K_M", effort="fast")
        >>> report.output.name, report.method
        ('model-Q5_K_M.gguf', 'search')
    """
    chosen = changed(options, changes)
    target = uploading.target(output)
    if target is None:
        return _converted(model, output, chosen, progress, on_plan)
    chosen = uploading.checked(chosen)
    with uploading.Upload(target, chosen) as upload:
        told = upload.told(on_plan)
        return upload.complete(_converted(model, upload.output, chosen, progress, told, upload))


def _converted(
    model: StrPath,
    output: StrPath | None,
    chosen: ConvertOptions,
    progress: Wanted,
    on_plan: Callable[[Plan], None] | None,
    upload: uploading.Upload | None = None,
) -> ConvertReport:
    """Convert, and write what belongs beside the GGUF."""
    source = locate(model, stream=chosen.stream)
    with showing(progress) as tell:
        if chosen.mmproj_only:
            return _projector_alone(source, output, chosen, tell, on_plan)
        report = run(source, output, chosen, progress=tell, on_plan=on_plan, upload=upload)
    clock = _Clock()
    sidecar = _write_sidecar(report) if chosen.met else None
    if sidecar is None:
        hydration.remove_stale(report.output)
    report = replace(report, sidecar=sidecar)
    seen = report.mmproj or sniff.projector_beside(report.output)
    if chosen.modelfile:
        text = publishing.modelfile(report.output, mmproj=seen)
        report = replace(report, modelfile=_write_beside(report.output, ".Modelfile", text))
    if chosen.card:
        files = [report.output, *((seen,) if seen is not None else ())]
        text = publishing.card(files, base_model=source.repo)
        report = replace(report, card=_write_beside(report.output, ".md", text))
    if chosen.bom:
        given = calibration_file(chosen) is None and chosen.calibrate not in (None, "builtin", "random")
        text = materials.bom_text(
            materials.bom(
                report.output, source, calibrate=chosen.calibrate if given else None, lora=chosen.lora
            )
        )
        report = replace(report, bom=_write_beside(report.output, materials.SUFFIX, text))
    if chosen.oms_key is not None:
        report = replace(report, signature=_sign(report, chosen.oms_key))
    _core.forget_journal(report.output)
    return clock.added_to(report)


def _projector_alone(
    source: Source,
    output: StrPath | None,
    options: ConvertOptions,
    progress: Callable[[Progress], None] | None,
    on_plan: Callable[[Plan], None] | None,
) -> ConvertReport:
    """Write the projector and no text model."""
    clock = _Clock()
    native = _projector_plan(source, output, options)
    if output is not None and is_folder(output):
        make_folder(Path(output))
    planned = Plan.of(native)
    if on_plan is not None:
        on_plan(planned)
    report = run_plan(native, projector_options(options), planned, progress=progress)
    return clock.set_in(report)


def _projector_plan(source: Source, output: StrPath | None, options: ConvertOptions) -> _core.Plan:
    """The plan of the projector alone. `output` names its file, or the folder of the file."""
    if options.metadata is not None:
        raise effects.without_effect("metadata", "the keys of a projector describe its tensors")
    name = projector_name(source, options)
    native = projector_plan(source, Path(name) if output is None else named(output, name, ".gguf"), options)
    if native is None:
        raise UsageError(message("mmproj_only", "there is nothing to write", "Leave out --no-mmproj"))
    return native


@takes_options
def plan(
    model: StrPath, output: StrPath | None = None, options: ConvertOptions | None = None, **changes: Any
) -> Plan:
    """What `srd_rs.convert` with the same arguments would write. Reads headers, and no weight unless there is a budget.

    With a budget the weights are measured, and a calibration that the options ask for is made, because the types follow
    from both. `recipe_out` is written.

    Raises the errors of `srd_rs.convert`, except those that only weights can cause.

        >>> plan = srd_rs.plan("path/to/model", quant="Q8_0", effort="fast")
        >>> plan.types["Q8_0"].tensors, plan.files[0].path.name
        (50, 'model-Q8_0.gguf')
    """
    given = changed(options, changes)
    target = uploading.target(output)
    if target is not None:
        return target.renamed(plan(model, target.file, uploading.checked(given)))
    weighs = given.budget is not None or given.recipe_out is not None
    source = locate(model, stream=given.stream) if weighs or given.stream else glance(model)
    if given.mmproj_only:
        return Plan.of(_projector_plan(source, output, given))
    planner = Planner(source, output, given)
    native = planner.plan()
    projector = projector_plan(source, _beside(planner), planner.options)
    chosen, compared = budget.Choice(), None
    if planner.options.budget is not None or planner.options.recipe_out is not None:
        native, chosen, _, _, compared = prepared(planner, native, None)
    effects.warn_of_plan(native, planner.options)
    mmproj = projector and Plan.of(projector)
    return replace(_described(planner, native, chosen), mmproj=mmproj, effort_check=compared)


def _described(planner: Planner, native: _core.Plan, chosen: budget.Choice) -> Plan:
    """A native plan as plain data, with the choice of the types."""
    return replace(
        planner.describe(native, chosen.types),
        check=chosen.check,
        memory=budget.memory_of(planner.options, native),
    )


def _write_beside(gguf: Path, suffix: str, text: str) -> Path:
    """Write a text under the name of the GGUF. What was there belonged to an earlier GGUF of this name: see `run`."""
    path = gguf.with_suffix(suffix)
    _core.write_file(path, text.encode(), True)
    return path


def _sign(report: ConvertReport, key: StrPath) -> Path:
    """Sign all files that were written, in one signature under the name of the GGUF."""
    container = report.container.path if report.container else None
    sees = report.mmproj_container.path if report.mmproj_container else None
    beside = (report.mmproj, report.sidecar, report.card, report.modelfile, report.bom, container, sees)
    files = [*report.outputs, *(path for path in beside if path is not None)]
    return signing.sign(files, report.output.with_suffix(".sig"), key=key, overwrite=True).path


def _check_beside(gguf: Path, options: ConvertOptions, *, is_resumed: bool) -> None:
    """Refuse before the long work to replace a text that is there, unless an interrupted conversion has written it."""
    if options.oms_key is not None:
        signing.check_key(options.oms_key)
    if is_resumed:
        return
    for path in _texts_beside(gguf, options):
        if not options.overwrite and path.exists():
            fix = "Choose another name, or replace the file with --overwrite"
            raise UsageError(message(path, "the file exists already", fix))


def _texts_beside(gguf: Path, options: ConvertOptions) -> list[Path]:
    """The texts and the signature that are written under the name of the GGUF."""
    suffixes = (
        (options.card, ".md"),
        (options.modelfile, ".Modelfile"),
        (options.bom, materials.SUFFIX),
        (options.oms_key is not None, ".sig"),
    )
    return [gguf.with_suffix(suffix) for wanted, suffix in suffixes if wanted]


class _Clock:
    """Wall time and CPU time of this process and its children since the clock was made, in seconds."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), sum(os.times()[:4])

    def set_in(self, report: ConvertReport) -> ConvertReport:
        """`report` with the cost since the clock was made."""
        wall, cpu = time.perf_counter() - self._wall, sum(os.times()[:4]) - self._cpu
        return replace(report, seconds=wall, cpu_seconds=cpu)

    def added_to(self, report: ConvertReport) -> ConvertReport:
        """`report` with the cost since the clock was made added."""
        more = self.set_in(report)
        return replace(
            more,
            seconds=report.seconds + more.seconds,
            cpu_seconds=report.cpu_seconds + more.cpu_seconds,
        )


def _check_neighbours(gguf: Path, options: ConvertOptions) -> None:
    """Refuse, before hours of work, an output whose neighbours would no longer fit, or are no outputs at all.

    A container of the GGUF that is replaced is refused and not removed, because it holds weights that may be nowhere
    else.
    """
    container, sidecar = gguf.with_suffix(".axm"), hydration.sidecar_path(gguf)
    if options.met and os.path.lexists(sidecar):
        described, fix = (
            hydration.described_file(sidecar),
            "Choose another name for the GGUF, or write no sidecar",
        )
        if described is None:
            what = "the sidecar of the GGUF would replace this, which is no MET sidecar"
            raise UsageError(message(sidecar, what, fix))
        if described != gguf.name and not options.overwrite:
            what = (
                f"this is the sidecar of {shown(described)}, which the sidecar of the new GGUF would replace"
            )
            raise UsageError(message(sidecar, what, fix))
    written = Path(options.axm_output or container) if options.axm else None
    if gguf.is_file() and container != written and gguf.name in _container_of(container):
        what = f"the container belongs to {gguf.name}, and it would not belong to the new one"
        fix = "Remove the container or move it away, write a new container as well, or choose another name"
        raise UsageError(message(container, what, fix))


def _check_outputs(planner: Planner, native: _core.Plan, beside: Plan | None, *, gguf: bool) -> None:
    """Refuse, before hours of work, outputs that would replace an input, a key, weights of another kind or each other,
    and outputs whose folder is not there.

    The native module compares the GGUF and the container with what it reads. Here all outputs are compared.
    """
    options, model = planner.options, planner.source.path
    models = [*_written(native, gguf), *(_written(beside, gguf) if beside is not None else [])]
    containers = {plan.container.path for plan in (native, beside) if plan is not None and plan.container}
    first = native.files[0].path
    texts = [Path(options.recipe_out)] if options.recipe_out is not None else []
    if gguf:
        texts += _texts_beside(first, options)
        texts += [hydration.sidecar_path(first)] if options.met else []
    seen: dict[tuple[str, str], Path] = {}
    for path in (*models, *texts):
        if not path.parent.is_dir():
            fix = f"Make it, or name a folder that is made: -o {path.parent}{os.sep}"
            raise SrdFileNotFoundError(message(path.parent, "the folder of the output is not there", fix))
        if seen.setdefault((os.path.realpath(path.parent), path.name), path) is not path:
            raise UsageError(message(path, "two outputs would have this name", "Give them different names"))
    read = [path for path in (options.calibrate, options.imatrix, options.recipe) if path is not None]
    read += [path for path in (options.key_file, options.sign_key, options.oms_key) if path is not None]
    inputs = [*model_files(model), *model.glob("*.safetensors")] if model.is_dir() else [model]
    inputs += [Path(path) for path in read if path not in ("builtin", "random")]
    # What the native module does not read itself.
    others = [Path(path) for path in (options.recipe, options.calibrate, options.oms_key) if path is not None]
    others += [file for adapter in options.lora for file in Path(adapter).glob("*") if file.is_file()]
    for path in filter(Path.is_file, models):
        if not any(other.exists() and path.samefile(other) for other in set(inputs) - set(others)):
            sniff.check_output(path, replaces=("axm",) if path in containers else sniff.GGUFS, inputs=others)
    for path in texts:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            what = "this is a link, a folder or a device, and an output replaces files alone"
            raise UsageError(message(path, what, "Choose another name, or remove what is there"))
        sniff.check_output(path, inputs=inputs)


def _container_of(path: Path) -> tuple[str, ...]:
    """The names of the GGUF files that the container at `path` holds; none for anything else."""
    if not path.is_file() or sniff.identify(path).kind != "axm":
        return ()
    try:
        return _core.open_container(path).header.files
    except (FormatError, VerificationError):
        return ()


def run(
    source: Source,
    output: StrPath | None,
    options: ConvertOptions,
    *,
    gguf: bool = True,
    progress: Callable[[Progress], None] | None,
    on_plan: Callable[[Plan], None] | None = None,
    upload: uploading.Upload | None = None,
) -> ConvertReport:
    """Plan and convert; False as `gguf` writes the container alone. The cost includes the calibration.

    `upload` takes the files of the model when they are complete."""
    with ExitStack() as ends:
        return _run(
            source, output, options, ends, gguf=gguf, progress=progress, on_plan=on_plan, upload=upload
        )


def _run(
    source: Source,
    output: StrPath | None,
    options: ConvertOptions,
    ends: ExitStack,
    *,
    gguf: bool,
    progress: Callable[[Progress], None] | None,
    on_plan: Callable[[Plan], None] | None,
    upload: uploading.Upload | None,
) -> ConvertReport:
    """As `run`. What `ends` gets is ended with the conversion."""
    if options.threads is not None and options.threads < 1:
        raise UsageError(message("threads", f"{options.threads} is no number of workers", "Pass 1 or more"))
    clock = _Clock()
    planner = Planner(source, output, options)
    _check_cluster(planner.options, is_uploaded=upload is not None)
    if gguf:
        _check_neighbours(planner.gguf, options)
    if output is not None and is_folder(output):
        make_folder(Path(output))
    # A plan comes before the long pass over the tokens, so that a mistake in the options shows first.
    native = planner.plan()
    kept = _resume(planner.options)
    if planner.options.resume is False:
        native.discard(gguf)
    native.check_resume(planner.options, gguf, kept)
    is_resumed = _core.journal_path(_first_output(native, gguf)).exists()
    _check_beside(native.files[0].path, planner.options, is_resumed=is_resumed)
    projector = projector_plan(source, _beside(planner), planner.options)
    beside = projector and Plan.of(projector)
    if beside is not None:
        there = next((path for path in _written(beside, gguf) if path.exists()), None)
        if there is not None and not options.overwrite:
            if options.mmproj and not is_resumed:
                fix = "Replace the file with --overwrite, or leave the projector out with --no-mmproj"
                raise UsageError(message(there, "the file exists already", fix))
            # Every mix of a model has the same projector, so a second mix finds the file of the first.
            what = f"no projector was {'written' if gguf else 'packed'}"
            log.warning("%s: the file exists already and is kept: %s", there, what)
            projector = beside = None
        elif gguf:
            _check_neighbours(beside.output, projector_options(planner.options))
    _check_outputs(planner, native, beside, gguf=gguf)
    # Within a budget the sizes are known only when the types are chosen.
    budgeted = planner.options.budget is not None
    if on_plan is not None and not budgeted:
        on_plan(replace(planner.describe(native), mmproj=beside))
    together = None
    if kept is not None and gguf and upload is None and not is_resumed and reads_once(planner, native):
        together = calibration.Output(planner.options, kept)
    if planner.options.ray is not None:
        from srd_rs import cluster

        ends.enter_context(cluster.connected(planner.options.ray))
    native, chosen, made, found, compared = prepared(planner, native, progress, together)
    effects.warn_of_plan(native, planner.options)
    planned = replace(_described(planner, native, chosen), mmproj=beside, effort_check=compared)
    if on_plan is not None and budgeted:
        on_plan(planned)
    before: int | None = None
    try:
        if planner.options.ray is not None:
            before = _on_cluster(planner, native, made, kept, progress)
        planner.forget()
        report = run_plan(
            native, planner.options, planned, gguf=gguf, resume=kept, progress=progress, upload=upload,
            written=None if together is None else together.written,
        )  # fmt: skip
    except KeyboardInterrupt:
        if kept is None or not _core.journal_path(_first_output(native, gguf)).exists():
            raise
        raise KeyboardInterrupt(KEPT) from None
    if together is not None:
        before = 0
    if before is not None:
        # What the machines or the calibration wrote is not what an interrupted conversion had written.
        report = replace(report, resumed_bytes=before)
    if not gguf and report.container is not None:
        _core.forget_journal(report.container.path)
    if projector is not None:
        made_beside = projector.run(projector_options(planner.options), gguf, None)
        report = replace(
            report,
            mmproj=None if beside is None or not gguf else beside.output,
            mmproj_container=made_beside.to_dict()["container"],
        )
    possible = planner.options.effort == "fast" and planner.srd_is_possible(native)
    # What would have been chosen without --fast.
    best = "max" if possible and planner.prefers_max(native) else "srd"
    size = calibration.default_size(native, replace(planner.options, effort=best)) if possible else None
    longer = None
    is_plain = report.container is None and report.resumed_bytes == 0 and planner.options.ray is None
    if size is not None and is_plain:
        # The CPU time of the conversion alone says how fast the machine is.
        longer = costs.cost_of_srd(native, size, report.cpu_seconds, report.threads, is_max=best == "max")
    return clock.set_in(
        replace(
            report,
            measured=_measurements(report.measured, made, chosen),
            calibration_tokens=None if made is None else made.tokens,
            calibration_weighed=made is not None and made.weighed,
            calibration_found=found,
            srd_tokens=None if size is None else size.tokens,
            srd_seconds=longer,
            srd_effort=best if possible else None,
        )
    )


def reads_once(planner: Planner, native: _core.Plan) -> bool:
    """Whether the weights come over the network, and can be quantized while the calibration is made."""
    options = planner.options
    is_plain = options.effort == "srd" and options.budget is None and native.container is None
    # Without the digest the model is planned again for its calibration.
    is_known = native.source_digest is not None
    return is_plain and is_known and planner.source.remote is not None and options.ray is None


def _shared_calibration(gguf: Path) -> Path:
    """Where the machines of a cluster find the calibration, until the conversion ends."""
    return gguf.with_name(f".{gguf.name}.calibration")


def _check_cluster(options: ConvertOptions, *, is_uploaded: bool) -> None:
    """Refuse, before hours of work, what several machines cannot do together."""
    if options.ray is None:
        return
    if is_uploaded:
        what = "several machines write one file, and an upload takes the parts of a file away while it is written"
        raise UsageError(message("--ray", what, "Convert to a folder, and upload with srd-rs push"))
    if options.resume is False:
        what = "a conversion on several machines goes on from what they have written"
        raise UsageError(message("--no-resume", what, "Leave out --no-resume"))
    if options.axm:
        what = "a signed container is written by one machine"
        fix = "Leave out --axm (--no-axm), and make the container with srd-rs pack"
        raise UsageError(message("--ray", what, fix))


def _on_cluster(
    planner: Planner,
    native: _core.Plan,
    made: _core.Calibration | None,
    kept: tuple[str, str] | None,
    progress: Callable[[Progress], None] | None,
) -> int:
    """Convert on the machines of a cluster all but the last step, which checks and names the output. Returns the bytes
    that an interrupted conversion had written."""
    from srd_rs import cluster

    assert kept is not None
    if made is None or calibration_file(planner.options) is not None:
        return cluster.convert(native, planner, made, kept, progress)
    # The cache may be a folder of this machine alone; the folder of the output is shared.
    shared = _shared_calibration(planner.gguf)
    try:
        if made.path != shared:
            shutil.copyfile(made.path, shared)
        return cluster.convert(native, planner, _core.open_calibration(shared), kept, progress)
    except OSError as error:
        raise io_error(shared, "copy the calibration to", error, "Check the disk and the cache") from None
    finally:
        shared.unlink(missing_ok=True)


_NOT_RESUMED: Final = (
    "allow_nonfinite", "axm_output", "bom", "cache", "card", "key_file", "max_memory", "met", "mmproj", "mmproj_only",
    "mmproj_type", "modelfile", "oms_key", "overwrite", "ray", "read", "recipe_out", "resume", "sign_key", "threads",
)  # fmt: skip
"""The options that may differ between an interrupted conversion and the one that goes on: those that decide no byte,
and those whose effect the native module compares."""


METHODS: Final = {"srd": "srd", "max": "srd-max", "fast": "search"}
"""Effort -> `srd.method` of the output."""
KEPT: Final = "what is complete is kept beside the output"
"""What the `KeyboardInterrupt` says of a conversion that the same call goes on with."""


def _first_output(native: _core.Plan, gguf: bool) -> Path:
    """The output that the journal lies beside."""
    return native.files[0].path if gguf or native.container is None else native.container.path


def _resume(options: ConvertOptions) -> tuple[str, str] | None:
    """The program and the options, as an interrupted conversion must have had them; None to keep nothing."""
    is_kept = options.is_measured or options.ray is not None
    if not (is_kept if options.resume is None else options.resume):
        return None
    asked = {f.name: str(getattr(options, f.name)) for f in fields(options) if f.name not in _NOT_RESUMED}
    return " ".join(map(str, cache.program())), json.dumps(asked, sort_keys=True)


def _beside(planner: Planner) -> Path:
    """The file of the projector, beside the GGUF of the model."""
    return planner.gguf.with_name(projector_name(planner.source, planner.options))


def _written(planned: Plan | _core.Plan, gguf: bool) -> list[Path]:
    """The files that a plan writes; False as `gguf` for the container alone."""
    files = [file.path for file in planned.files] if gguf else []
    return files if planned.container is None else [*files, planned.container.path]


def prepared(
    planner: Planner,
    native: _core.Plan,
    progress: Callable[[Progress], None] | None,
    together: calibration.Output | None = None,
    *,
    compares: bool = True,
) -> tuple[_core.Plan, budget.Choice, _core.Calibration | None, bool, EffortCheck | None]:
    """Calibrate, choose the types within a budget, and plan again. Writes the recipe where one is asked for.

    `native` is the plan without calibration, and of the mix or of any mix where there is a budget. The fourth value
    says whether the calibration was found in the cache. Effort max gives way to effort srd where effort srd diverges
    less, unless `compares` is False. A new calibration quantizes the matrices of `native` into `together`.
    """
    is_max, budgeted = planner.options.effort == "max", planner.options.budget is not None
    if is_max:
        _say_what_max_leaves_out(planner, native)
    if budgeted and planner.options.is_measured and planner.source.remote is not None:
        what = "a budget runs the model, so --stream fetches the weights up to six times (more with little memory): %s"
        log.warning(what, "without --stream the model is downloaded once")
    # The types come before the calibration of effort max, which quantizes to them.
    first = not is_max or budgeted
    made, found = _calibration(planner, native, progress, together=together) if first else (None, False)
    chosen, compared = budget.Choice(), None
    if budgeted:
        chosen = budget.choose(planner, made, progress)
        made = None if chosen.whole else made
        native = planner.plan(made)
    if is_max and not chosen.whole:
        of_srd = made
        made, found = _calibration(planner, native, progress, quantizes=True)
        tokens = _tokens_to_compare(planner, native) if compares else None
        if tokens is not None:
            if of_srd is None:
                of_srd, _ = _calibration(planner, native, progress)
            compared = _compared(planner, (of_srd, made), tokens, progress)
            made = made if compared.written == "max" else of_srd
    if made is not None:
        native = planner.plan(made)
    path = planner.options.recipe_out
    if path is not None:
        folder = planner.source.path
        sniff.check_output(Path(path), inputs=model_files(folder) if folder.is_dir() else [folder])
        recipe.write(path, native, chosen.types, overwrite=planner.options.overwrite)
    return native, chosen, made, found, compared


_COMPARED: Final = 1024
"""The number of tokens that effort max and effort srd are compared on, in chunks as the calibration has them."""


def _tokens_to_compare(planner: Planner, native: _core.Plan) -> tuple[list[list[int]], bool] | None:
    """The chunks to compare the efforts on, and whether the calibration has not seen them; None without a text."""
    options, path = planner.options, planner.source.path
    text, metadata = calibration_text(options), {key: value for key, _, value in native.metadata()}
    if text is None:
        return None
    length = calibration.ENCODER_CTX if is_encoder(metadata) else calibration.DEFAULT_CTX
    lengths = (length,) * (_COMPARED // length)
    if text == "random":
        seed = options.seed + 1
        return calibration.choose_tokens(path, metadata, text, _COMPARED, length, seed).chunks, True
    used = options.calibrate_tokens or calibration.default_size(native, options).tokens
    chunks, held_out = calibration.other_tokens(path, metadata, text, used, lengths)
    if not held_out and text != "builtin":
        # What the calibration fits is no measure of it.
        return calibration.other_tokens(path, metadata, "builtin", 0, lengths)
    return chunks, held_out


def _compared(
    planner: Planner,
    made: tuple[_core.Calibration | None, _core.Calibration | None],
    tokens: tuple[list[list[int]], bool],
    progress: Callable[[Progress], None] | None,
) -> EffortCheck:
    """Compare what the calibrations of effort srd and of effort max give, and give the planner the better effort."""
    chunks, held_out = tokens
    plans = map(planner.plan, made)
    runs = [(native, set(native.corrected)) for native in plans]
    srd, best = budget.written_divergences(runs, planner.options, chunks, progress)
    written = "max" if best <= srd else "srd"
    if written == "srd":
        what = (
            "effort srd is written, because effort max diverges more from the model (%.3e, and %.3e with srd)"
        )
        log.warning(what, best, srd)
        planner.options = replace(planner.options, effort="srd")
    return EffortCheck(srd, best, sum(map(len, chunks)), held_out, written)


def _say_what_max_leaves_out(planner: Planner, native: _core.Plan) -> None:
    """Say which tensors effort max quantizes as effort srd does, and what it costs to stream the weights."""
    rest = {t.name for t in native.tensors if t.type in _core.FEEDBACK_TYPES and t.type not in t.source_types}
    rest -= set(native.corrected)
    if rest:
        what = "tensors that effort max quantizes as effort srd does, because they are experts or looked up: %d (%s)"
        log.warning(what, len(rest), ", ".join(sorted(rest)[:4]) + (", ..." if len(rest) > 4 else ""))
    if planner.source.remote is not None:
        what = "effort max reads each matrix three times or more, and --stream fetches it each time: %s"
        log.warning(what, "without --stream the model is downloaded once")


def run_plan(
    native: _core.Plan,
    options: ConvertOptions,
    planned: Plan | None = None,
    *,
    gguf: bool = True,
    resume: tuple[str, str] | None = None,
    progress: Callable[[Progress], None] | None,
    upload: uploading.Upload | None = None,
    written: _core.Written | None = None,
) -> ConvertReport:
    """Convert what was planned. `resume` is what `_resume` returns; `upload` takes the files; `written` is what the
    calibration has written of the output."""
    forward = None if progress is None else lambda *state: progress(Progress(*state))
    method = METHODS[options.effort or "fast"]
    handover = None if upload is None else upload.handover
    report = native.run(options, gguf, forward, resume=resume, handover=handover, written=written).to_dict()
    shares = zip(native.tensors, report.pop("errors"), strict=True)
    measured = Measurements({tensor.name: share for tensor, share in shares if share is not None})
    return ConvertReport(plan=planned or Plan.of(native), method=method, measured=measured, **report)


def _measurements(
    measured: Measurements, made: _core.Calibration | None, chosen: budget.Choice
) -> Measurements:
    """What was measured of the tensors, with the costs of their types and with the use of the experts."""
    costs = {c.name: float(f"{c.cost:.3e}") for c in chosen.types} if chosen.costs_measured else {}
    if made is None:
        return replace(measured, klds=costs)
    return replace(measured, klds=costs, expert_tokens=calibration.expert_tokens(made), tokens=made.tokens)


def _write_sidecar(report: ConvertReport) -> Path | None:
    """Write the sidecar, one for all parts of a split output."""
    path = hydration.sidecar_path(report.output)
    fingerprint = report.container.fingerprint if report.container else None
    try:
        hydration.met(
            report.output, path, fingerprint=fingerprint, digest=False, overwrite=True, known=report.measured
        )
    except ModelError:
        # The input was a GGUF without layers: there is nothing to put into slots, and nothing failed.
        return None
    return path


def _calibration(
    planner: Planner,
    native: _core.Plan,
    progress: Callable[[Progress], None] | None,
    *,
    quantizes: bool = False,
    together: calibration.Output | None = None,
) -> tuple[_core.Calibration | None, bool]:
    """The native calibration that the options ask for: a file's, a kept one or one that is made now; None without.

    With `quantizes` it is that of effort max, which holds the matrices of `native`, quantized to their types. One that
    is made now quantizes the matrices of `native` into `together`.

    The second value says whether the calibration was found in the cache.
    """
    options = planner.options
    given = calibration_file(options)
    if given is not None:
        return _core.open_calibration(given), False
    text = calibration_text(options)
    if text is None:
        return None, False
    model = planner.source.path

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(done, total, "", "calibrate"))

    planned = NativeModel(model, native, options.metadata)
    if native.source_digest is None and not quantizes:
        recorded = planner.plan(None, replace(options, provenance=True))
        planned = NativeModel(model, recorded, options.metadata)
    asked: dict[str, Any] = {
        "text": text,
        "tokens": options.calibrate_tokens,
        "block": options.calibrate_block,
        "weigh_tokens": options.weigh_tokens,
        "seed": options.seed,
        "threads": options.threads,
        "max_memory": options.max_memory,
        "progress": progress and tell,
        "options": options if quantizes else None,
        "quantized": together,
        "machines": None,
    }
    if options.ray is not None and not quantizes:
        from srd_rs import cluster

        asked["machines"] = partial(cluster.calibrate, planner)
    # The weights of a remote model are not here, and merged weights depend on the files of the adapters as well.
    source = planner.source
    is_local = source.remote is None and not options.lora
    # No store states what the weights in a bucket are, so a calibration of them would not be known again.
    is_known = source.remote is None or source.revision is not None
    if options.cache and is_known and (options.ray is None or cache.folder() is not None):
        stated = () if source.remote is None else (source.revision, *source.weights)
        return calibration.measure_or_find(planned, planner.gguf, **asked, is_local=is_local, stated=stated)
    if options.ray is not None:
        path = _shared_calibration(planner.gguf)
        return calibration.measure(planned, path, named=True, overwrite=True, **asked), False
    return calibration.measure(planned, planner.gguf, named=False, **asked), False
