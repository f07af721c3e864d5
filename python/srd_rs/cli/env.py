"""`srd-rs env`: the machine and the programs around srd-rs, for reports and for oneself."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import click

from srd_rs import _core
from srd_rs.cli.options import GroupedCommand, json_option
from srd_rs.cli.output import show
from srd_rs.text import bytes_text, printable

#: Packages that srd-rs uses, always or for single commands.
PACKAGES: Final = (
    "click", "numpy", "rich", "tokenizers", "huggingface_hub", "llama_cpp_python", "matplotlib",
)  # fmt: skip
#: Programs that run or measure a GGUF.
ENGINES: Final = ("llama-cli", "llama-server", "llama-quantize", "ollama", "lms")
#: Variables that change what srd-rs does, besides SRD_RS_COMMAND_OPTION. Of those that may hold a secret only whether
#: they are set is shown.
VARIABLES: Final = (
    *("SRD_CACHE", "SRD_MAX_ISA", "SRD_FORCE_SCALAR", "SRD_DEBUG", "SRD_HTTP_TRIES", "SRD_HTTP_CONNECTIONS"),
    *("XDG_CONFIG_HOME", "SSL_CERT_FILE", "NO_PROXY", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
)
SECRETS: Final = ("SRD_MASTER_KEY", "HF_TOKEN", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
EXAMPLES = """\b
Examples:
  srd-rs env
  srd-rs env --json
"""


@click.command(
    "env", cls=GroupedCommand, short_help="Show the machine, versions and engines.", epilog=EXAMPLES
)
@json_option()
def command(as_json: bool) -> None:
    """Show what srd-rs finds: the CPU and the code that srd-rs uses on it, memory, disk, versions and engines.

    Add this to a bug report. A key or a token is not shown, only whether it is set.
    """
    facts = found()
    show(lambda: facts, lambda: text(facts), as_json=as_json)


def found() -> dict[str, Any]:
    """The facts, as `--json` prints them."""
    sets = _core.instruction_sets()
    total, available = memory()
    defaults = sorted(name for name in os.environ if name.startswith("SRD_RS_"))
    return {
        "srd_rs": _core.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpus": _core.cpus(),
        "instruction_sets": sets,
        "used_instruction_set": used_set(sets),
        "memory_bytes": total,
        "available_memory_bytes": available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "packages": {name: version(name) for name in PACKAGES},
        "engines": {name: shutil.which(name) for name in ENGINES},
        "variables": {name: os.environ.get(name) for name in [*VARIABLES, *defaults]},
        "secrets_set": {name: bool(os.environ.get(name)) for name in SECRETS},
    }


def used_set(sets: list[str]) -> str:
    """The widest instruction set that the variables allow."""
    if os.environ.get("SRD_FORCE_SCALAR") == "1":
        return sets[0]
    widest = os.environ.get("SRD_MAX_ISA", "")
    return widest if widest in sets else sets[-1]


def cpu_name() -> str:
    """The name of the CPU as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory, and those that are available; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    return values.get("MemTotal"), values.get("MemAvailable")


def version(package: str) -> str | None:
    """The version of an installed package; None where the package is missing. Nothing is imported."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def text(facts: dict[str, Any]) -> str:
    """The facts as two columns."""
    lines = [
        ("srd-rs", f"{facts['srd_rs']}, Python {facts['python']} ({sys.executable})"),
        ("system", facts["system"]),
        ("CPU", f"{facts['cpu']}, {facts['cpus']} usable"),
        ("code path", f"{facts['used_instruction_set']} (of {', '.join(facts['instruction_sets'])})"),
        ("memory", f"{_size(facts['memory_bytes'])}, {_size(facts['available_memory_bytes'])} available"),
        ("disk", f"{_size(facts['disk_free_bytes'])} free in {Path.cwd()}"),
        ("packages", ", ".join(f"{name} {found or 'missing'}" for name, found in facts["packages"].items())),
        ("engines", ", ".join(path for path in facts["engines"].values() if path) or "none on the PATH"),
        ("variables", _set_variables(facts)),
    ]
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label.ljust(width)}  {printable(value)}" for label, value in lines)


def _size(n: int | None) -> str:
    return "unknown" if n is None else bytes_text(n)


def _set_variables(facts: dict[str, Any]) -> str:
    shown = [f"{name}={value}" for name, value in facts["variables"].items() if value is not None]
    shown += [f"{name} (set)" for name, is_set in facts["secrets_set"].items() if is_set]
    return ", ".join(shown) or "none set"
