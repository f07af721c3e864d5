"""Recipe files, which hold the type of every tensor, and the options that state a budget or name a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from srd_rs import _core, effects, sniff
from srd_rs.errors import UsageError, message
from srd_rs.options import DEFAULTS, FLOAT_TYPES, ConvertOptions, StrPath
from srd_rs.report import ChosenType

_FORMAT: Final = "srd-rs recipe"
_FIX: Final = "Name a file that --recipe-out wrote"


def resolved(options: ConvertOptions) -> ConvertOptions:
    """The options with what the recipe file says, and with the mix whose size is the budget."""
    check(options)
    if options.recipe is not None:
        options = read(options.recipe, options)
    return replace(options, quant=options.like or options.quant)


def label(options: ConvertOptions) -> str:
    """What the default name of an output says of the types."""
    if options.like is not None:
        return f"like-{options.like.upper()}"
    if options.target_size is not None:
        return f"{options.target_size / 1e9:.4g}GB"
    if options.target_bpw is not None:
        return f"{options.target_bpw:g}bpw"
    if options.fit is not None:
        return f"fit-{options.fit / 1e9:.4g}GB"
    return f"{options.quant.upper()}-recipe" if options.exact_types else options.quant.upper()


def check(options: ConvertOptions) -> None:
    """Raise UsageError for options that contradict each other."""
    budgets = [n for n in ("target_size", "target_bpw", "like", "fit") if getattr(options, n) is not None]
    if len(budgets) > 1:
        what = f"{flag(budgets[0])} states a budget already"
        raise UsageError(message(flag(budgets[1]), what, "State one budget"))
    chosen = options.budget is not None
    if options.recipe is not None and chosen:
        what = "a recipe gives the types, so there is nothing to choose within a budget"
        raise UsageError(message("--recipe", what, f"Leave out --recipe or {flag(budgets[0])}"))
    given = chosen or options.recipe is not None
    why = "the budget or the recipe gives the types"
    effects.refuse(
        (given and options.quant != DEFAULTS.quant, "--quant", why),
        (given and options.pure, "--pure", why),
        (bool(options.types) and not chosen, "--types", "no budget is stated, so no type is chosen"),
        (options.ctx is not None and options.fit is None, "--ctx", "only --fit makes room for a context"),
    )


def flag(option: str | None) -> str:
    """The option as the command line has it."""
    return "--" + (option or "").replace("_", "-")


def read(path: StrPath, options: ConvertOptions) -> ConvertOptions:
    """The options with the mix and the types of a recipe file."""
    file = Path(path)
    recipe = sniff.read_object(file, "a recipe", _FIX)
    tensors = recipe.get("tensors")
    if recipe.get("format") != _FORMAT or not isinstance(tensors, dict):
        raise UsageError(message(file, "the file is no recipe", _FIX))
    pairs = []
    for name, entry in tensors.items():
        kind = entry.get("type") if isinstance(entry, dict) else entry
        if not isinstance(kind, str):
            what = f"the tensor '{name}' has no type"
            raise UsageError(message(file, what, 'Write, for example, "type": "Q4_K"'))
        if not (name.isascii() and kind.isascii()):
            what = f"the tensor {name!r} of the type {kind!r} is none of a GGUF, whose names are ASCII"
            raise UsageError(message(file, what, _FIX))
        pairs.append((name, kind))
    quant = recipe.get("mix", options.quant)
    if not isinstance(quant, str):
        raise UsageError(message(file, "the mix is no text", 'Write, for example, "mix": "Q4_K_M"'))
    return replace(options, quant=quant, exact_types=(*pairs, *options.exact_types))


def write(path: StrPath, plan: _core.Plan, chosen: Iterable[ChosenType], *, overwrite: bool) -> None:
    """Write the mix and the types of the quantized tensors of a plan, one line for each tensor."""
    measured = {c.name: c._asdict() for c in chosen}
    lines = []
    for t in plan.tensors:
        if t.type not in FLOAT_TYPES or t.name in measured:
            entry: dict[str, Any] = {"type": t.type, "bytes": t.bytes}
            if t.name in measured:
                entry |= {key: float(f"{measured[t.name][key]:.4g}") for key in ("error", "cost")}
            lines.append(f"  {json.dumps(t.name)}: {json.dumps(entry)}")
    head = {"format": _FORMAT, "version": 1, "mix": plan.quant, "total_bytes": plan.total_bytes}
    text = json.dumps(head, indent=1)[:-2] + ',\n "tensors": {\n' + ",\n".join(lines) + "\n }\n}\n"
    _core.write_file(Path(path), text.encode(), overwrite)
