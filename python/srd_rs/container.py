"""Signed containers (.axm): pack, verify, extract, resign, and the keys.

`docs/axm-format.md` is the format. HMAC is symmetric: whoever has the master key could have signed. A third party
needs the fingerprint from a trusted place, or the Ed25519 signature.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from srd_rs import _core, effects, hub, hydration, sniff
from srd_rs.conversion import run, run_plan
from srd_rs.errors import ModelError, UsageError, message
from srd_rs.hub import locate
from srd_rs.inspection import inspect
from srd_rs.options import DEFAULTS, FLOAT_TYPES, Checks, ConvertOptions, StrPath, bytes_of, mix_of
from srd_rs.planning import named, output_path
from srd_rs.progress import Wanted, showing
from srd_rs.report import ConvertReport, Progress, SealedContainer, Verification


@dataclass(frozen=True)
class KeyFile:
    """A key that was made: its file and its id (of an Ed25519 key: the public key in hex, and its file)."""

    path: Path
    id: str
    public: Path | None = None


def _found_mix(model: Path) -> tuple[str, list[str]]:
    """The mix to pack `model` in, and the types of tensors that are to be kept, as `tensor_types` has them."""
    if sniff.identify(model).kind != "gguf":
        return DEFAULTS.quant, []
    found = inspect(model)
    if all(tensor.type in FLOAT_TYPES for tensor in found.tensors):
        return DEFAULTS.quant, []
    file_type = found.metadata.get("general.file_type")
    mix = mix_of(file_type)
    if mix is None or mix in FLOAT_TYPES:
        what = f"it is quantized, with the file type {file_type}, which is no mix of srd-rs"
        raise UsageError(message(model, what, "Name a mix to quantize it again to, or pack the checkpoint"))
    kept = [f"^{re.escape(tensor.name)}$={tensor.type}" for tensor in found.tensors]
    return mix, kept


def pack(
    model: StrPath,
    output: StrPath | None = None,
    *,
    quant: str | None = None,
    effort: str | None = None,
    calibrate: StrPath | None = None,
    calibrate_tokens: int | None = None,
    residual_bits: int | None = DEFAULTS.residual_bits,
    tensor_types: Sequence[str] = (),
    seed: int = 0,
    mmproj: bool | None = None,
    mmproj_type: str = DEFAULTS.mmproj_type,
    key_file: StrPath | None = None,
    sign_key: StrPath | None = None,
    threads: int | None = None,
    max_memory: int | str = DEFAULTS.max_memory,
    overwrite: bool = False,
    progress: Wanted = None,
) -> ConvertReport:
    """Convert `model` to a container alone: what `srd_rs.convert` with ``axm=True`` writes, without the GGUF.

    quant: the mix. By default Q4_K_M, or what it is for a GGUF that is quantized already: its blocks are packed as they
        are, without residuals. UsageError if that is no mix that srd-rs makes.
    output: the .axm, or a folder for it; by default ``<model name>-<quant>.axm`` in the current folder. The other
    arguments are those of `srd_rs.convert`. The GGUF comes out of it with `extract`. The projector of a multimodal
    model gets a container of its own beside it, ``mmproj-<model name>-F16.axm``.

    Raises the errors of `srd_rs.convert`.

        >>> packed = srd_rs.pack("path/to/model", "new.axm", effort="fast", key_file="master.key")
        >>> packed.container.path.name, packed.plan.quant
        ('new.axm', 'Q4_K_M')
    """
    source = locate(model)
    if quant is None:
        quant, kept = _found_mix(source.path)
        tensor_types = [*tensor_types, *kept]
    path = output_path(source, output, quant, ".axm")
    options = ConvertOptions(
        quant=quant,
        effort=effort,
        calibrate=calibrate,
        calibrate_tokens=calibrate_tokens,
        tensor_types=tensor_types,
        seed=seed,
        mmproj=mmproj,
        mmproj_type=mmproj_type,
        axm=True,
        axm_output=path,
        residual_bits=residual_bits,
        threads=threads,
        max_memory=bytes_of("max_memory", max_memory),
        overwrite=overwrite,
        key_file=key_file,
        sign_key=sign_key,
    )
    with showing(progress) as tell:
        return run(source, path.with_suffix(".gguf"), options, gguf=False, progress=tell)


def verify(
    path: StrPath,
    *,
    container: StrPath | None = None,
    key_file: StrPath | None = None,
    use_key: bool = True,
    public_key: StrPath | None = None,
    fingerprint: str | None = None,
    expect_name: str | None = None,
    attest: StrPath | None = None,
    sign_key: StrPath | None = None,
    manifest: StrPath | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Wanted = None,
) -> Verification:
    """Check that an .axm, or a GGUF made with it, is what was signed.

    path: the .axm; or the GGUF (of several parts the first), with the .axm or its manifest file as `container`.
    key_file: the master key. By default the key is found as `srd_rs.convert` finds it, but it is never made.
    use_key: False checks integrity alone, if there is no public key and no fingerprint. Otherwise a container is
        refused when there is neither a master key nor a public key nor a fingerprint to hold it against.
    public_key: PEM file of the Ed25519 key that must have signed. It is enough without the master key.
    fingerprint: the 64 hexadecimal digits that were published. They are enough without the master key.
    expect_name: the name of the model (`general.name`) or of its GGUF that the container must have.
    attest: write an in-toto statement in a DSSE envelope to this file. `sign_key` signs the statement.
    manifest: write the manifest file of the container to this file.
    overwrite: replace `attest` and `manifest` if they exist.

    Raises VerificationError naming the first shard that is not the signed one.

    Raises SrdIOError for a file that cannot be read and UsageError for one that is no container.

        >>> srd_rs.verify("path/to/model-Q4_K_M.axm", key_file="master.key").authentic
        True
    """
    path, container = hub.file(path), None if container is None else hub.file(container)
    sniff.check_container(path if container is None else container, or_manifest=container is not None)
    if container is not None:
        sniff.check_gguf(path)
    effects.refuse(
        (not use_key and key_file is not None, "--key-file", "--no-key says that no key is used"),
        (attest is None and sign_key is not None, "--sign-key", "no attestation is written"),
        (
            sign_key is not None and not use_key and public_key is None and fingerprint is None,
            "--sign-key",
            "a statement is not signed for a container that is held against nothing",
        ),
        (attest is None and manifest is None and overwrite, "--overwrite", "no file is written"),
    )
    opened = _core.open_container(path if container is None else container)
    files = [] if container is None else gguf_parts(path, len(opened.header.files))
    outputs = [Path(output) for output in (attest, manifest) if output is not None]
    sniff.check_new(outputs, [path, *files, *_given(container, key_file, public_key, sign_key)], overwrite)
    if attest is not None:
        sniff.check_output(Path(attest))
    if manifest is not None:
        sniff.check_output(Path(manifest), replaces=("manifest",))
    checks = Checks(key_file, use_key, public_key, fingerprint, expect_name)
    with showing(progress) as tell:
        found = opened.verify(checks, files, threads, _forward(tell))
        if attest is not None:
            opened.attest(files, found, sign_key, attest, overwrite, _forward(tell))
    if manifest is not None:
        opened.detach(manifest, overwrite)
    return found


def _given(*paths: StrPath | None) -> list[StrPath]:
    return [path for path in paths if path is not None]


def gguf_parts(named: Path, count: int) -> list[Path]:
    """Return the files of the GGUF that `named` is one part of: `count` files, in order. A missing part is an error."""
    if count == 1:
        return [named]
    first, end = _core.first_part(named), f"-00001-of-{count:05}.gguf"
    if not first.name.endswith(end):
        what = f"the container is of a GGUF in {count} parts, whose names end in {end} and so on"
        raise UsageError(message(named, what, "Name one of the parts"))
    whole = first.with_name(first.name.removesuffix(end) + ".gguf")
    parts = [_core.part_path(whole, index, count) for index in range(count)]
    for number, part in enumerate(parts, 1):
        if not part.exists():
            what = f"part {number} of {count} of the split GGUF is missing"
            raise ModelError(message(part, what, "Put all parts of the split GGUF into one folder"))
    return parts


def extract(
    container: StrPath,
    output: StrPath | None = None,
    *,
    quant: str | None = None,
    alpha: float | None = None,
    safetensors: bool = False,
    tensor_types: Sequence[str] = (),
    key_file: StrPath | None = None,
    use_key: bool = True,
    public_key: StrPath | None = None,
    fingerprint: str | None = None,
    expect_name: str | None = None,
    threads: int | None = None,
    max_memory: int | str = DEFAULTS.max_memory,
    overwrite: bool = False,
    progress: Wanted = None,
) -> ConvertReport:
    """Write a GGUF or a safetensors file from a container, which is verified first.

    The bytes that are written are checked once more while they are copied, so that a container that changes after its
    verification is refused.

    output: the file, or a folder for it; by default ``<container name>-<quant>.gguf`` (for the packed mix
        ``<container name>.gguf``) in the current folder.
    quant: by default the packed mix, a copy of the very GGUF that `srd_rs.convert` wrote; another mix is made from
        base + `alpha` * residual. For safetensors BF16 (the default), F16 or F32.
    alpha: 0 (the base) to 1 (all of the residual). The default is what measured best: 1, or 0.75 for residuals of 2
        bits over an SRD base.
    safetensors: a safetensors file with GGUF's tensor names.
    key_file, use_key, public_key, fingerprint, expect_name: as in `verify`.

    Raises VerificationError, and writes nothing, if the container is not what was signed; UsageError for options
    without effect; SrdIOError for files that cannot be read or written.

        >>> container = "path/to/model-Q4_K_M.axm"
        >>> made = srd_rs.extract(container, "made.gguf", quant="Q5_K_M", key_file="master.key")
        >>> made.plan.quant, made.output.name
        ('Q5_K_M', 'made.gguf')
    """
    container = hub.file(container)
    sniff.check_container(container)
    opened = _core.open_container(container)
    effects.refuse(
        (not use_key and key_file is not None, "--key-file", "--no-key says that no key is used"),
        (
            opened.header.arch == "clip" and not safetensors and not _is_copy(quant, opened, (), False),
            "--quant",
            f"the container holds a projector, which comes out as {opened.header.quant}, the type that it was packed in"
            " (--mmproj-type)",
        ),
        (
            safetensors and bool(tensor_types),
            "--tensor-type",
            "all tensors of a safetensors file have one type",
        ),
        (alpha is not None and not any(t.residual_bits for t in opened.tensors), "--alpha", _NO_RESIDUALS),
        (alpha is not None and _is_copy(quant, opened, tensor_types, safetensors), "--alpha", _COPIED),
    )
    if alpha is None and not _is_copy(quant, opened, tensor_types, safetensors):
        alpha = _default_alpha(opened)
    target = _extract_path(container, output, quant, opened.header.quant, safetensors)
    sniff.check_new([target], [container, *_given(key_file, public_key)], overwrite)
    sniff.check_output(target, replaces=("safetensors",) if safetensors else sniff.GGUFS)
    planned = opened.plan_extract(target, quant, alpha, safetensors, list(tensor_types))
    checks = Checks(key_file, use_key, public_key, fingerprint, expect_name)
    # What was packed with weights that are not finite comes out with them.
    run_options = ConvertOptions(
        effort="fast",
        threads=threads,
        max_memory=bytes_of("max_memory", max_memory),
        allow_nonfinite=True,
        overwrite=overwrite,
    )
    with showing(progress) as tell:
        opened.verify(checks, [], threads, _forward(tell))
        report = run_plan(planned, run_options, progress=tell)
    if not safetensors:
        hydration.remove_stale(report.output)
    return report


def _default_alpha(opened: _core.Container) -> float | None:
    """The share of the residual that comes nearest to the original (decision 0006); None where that is the default
    of the format, 1.

    The errors of an SRD base cancel each other in the output of a layer, and a residual of 2 bits takes them away
    only in part.
    """
    bits = max((t.residual_bits for t in opened.tensors), default=0)
    return SRD_ALPHA if bits == 2 and opened.header.method in ("srd", "srd-max") else None


SRD_ALPHA: Final = 0.75
"""Default of `alpha` for a container with an SRD base and residuals of 2 bits."""
_NO_RESIDUALS: Final = "the container holds no residuals"
_COPIED: Final = "the packed mix is copied byte for byte. --quant names another mix"


def _is_copy(
    quant: str | None, opened: _core.Container, tensor_types: Sequence[str], safetensors: bool
) -> bool:
    return not safetensors and not tensor_types and (quant is None or quant.upper() == opened.header.quant)


def _extract_path(
    container: Path, output: StrPath | None, quant: str | None, packed: str, safetensors: bool
) -> Path:
    suffix = ".safetensors" if safetensors else ".gguf"
    other = quant is not None and quant.upper() != packed
    name = f"{container.stem}-{quant.upper()}" if other and quant else container.stem
    if output is None:
        return Path(name + suffix)
    return named(output, name + suffix, suffix)


def resign(
    container: StrPath,
    output: StrPath,
    *,
    key_file: StrPath | None = None,
    old_key_file: StrPath | None = None,
    use_old_key: bool = True,
    sign_key: StrPath | None = None,
    drop_signature: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Wanted = None,
) -> SealedContainer:
    """Copy a container, signed with another key. The weights are copied and checked, not converted again.

    key_file, sign_key: the new keys, as in `srd_rs.convert`.
    old_key_file: the key that the container was signed with. By default the key is found as `verify` finds it. Without
        the old key the container is refused.
    use_old_key: False checks integrity alone, for a container whose key is lost.
    drop_signature: allow that the Ed25519 signature of the container is lost, because there is no `sign_key`.

    Raises VerificationError if the container is not what was signed, UsageError if an Ed25519 signature would be lost.

        >>> key = srd_rs.keygen("new.key")
        >>> old = {"old_key_file": "master.key"}
        >>> signed = srd_rs.resign("path/to/model-Q4_K_M.axm", "signed.axm", key_file="new.key", **old)
        >>> signed.key_id == key.id
        True
    """
    container = hub.file(container)
    sniff.check_container(container)
    effects.refuse(
        (
            not use_old_key and old_key_file is not None,
            "--old-key-file",
            "--no-old-key says that the key is lost",
        ),
        (drop_signature and sign_key is not None, "--drop-signature", "--sign-key makes a new signature"),
    )
    opened = _core.open_container(container)
    sniff.check_new([Path(output)], [container, *_given(key_file, old_key_file, sign_key)], overwrite)
    sniff.check_output(Path(output), replaces=("axm",))
    checks = Checks(old_key_file, use_old_key)
    with showing(progress) as tell:
        forward = _forward(tell)
        return opened.resign(checks, output, key_file, sign_key, threads, overwrite, drop_signature, forward)


def write_manifest(container: StrPath, output: StrPath) -> None:
    """Write the manifest file of a container: what `verify` needs to check a GGUF without the container.

    Raises SrdIOError if the file exists, FormatError for a container that breaks its format.

        >>> srd_rs.write_manifest("path/to/model-Q4_K_M.axm", "model.manifest")
    """
    container = hub.file(container)
    sniff.check_container(container)
    _core.open_container(container).detach(output)


def keygen(path: StrPath | None = None, *, ed25519: bool = False) -> KeyFile:
    """Make a master key in a new file with mode 0600, by default the default key file.

    ed25519: make an Ed25519 key pair instead, the private key as `path`, the public one with ``.pub`` behind.

    Raises SrdIOError if the file exists: a key is never overwritten. Raises UsageError for a key pair without a name.

        >>> srd_rs.keygen("another.key").path.name
        'another.key'
        >>> srd_rs.keygen("private.pem", ed25519=True).public.name
        'private.pem.pub'
    """
    if not ed25519:
        return KeyFile(*_core.make_master_key(path))
    if path is None:
        raise UsageError(message("keygen", "an Ed25519 key pair needs a name", "Name its file"))
    public = Path(f"{os.fspath(path)}.pub")
    return KeyFile(Path(path), _core.make_sign_key(path, public), public)


def _forward(progress: Callable[[Progress], None] | None) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(Progress(done, total, "", "verify"))
