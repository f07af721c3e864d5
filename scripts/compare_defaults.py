"""Compare what the tables take for keys that config.json leaves out with the defaults of transformers.

    python scripts/compare_defaults.py [CLASS ...]

Published files leave keys out, most of all in the text part of multimodal models, where some versions of transformers
save only what is not the default. Compared are the sizes and epsilons of `KEYS`, the base of RoPE and whether the
output matrix is the embedding, for each class that transformers has. Needs transformers, but no weights. Prints what
differs, and last the numbers of classes and of values that agree, differ, or are missing here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "python"))

from srd_rs.families import _families, supported
from srd_rs.families.base import Family
from srd_rs.families.config import normalize

KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "layer_norm_eps",
    "moe_intermediate_size",
    "num_experts",
    "num_experts_per_tok",
)


def model_types() -> dict[str, str]:
    """Return the `model_type` of each class of transformers."""
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for name, mapping in vars(modeling_auto).items():
        if name.endswith("MAPPING_NAMES"):
            for kind, classes in mapping.items():
                for one in (classes,) if isinstance(classes, str) else classes or ():
                    if one.lower().startswith(kind.replace("_", "")):
                        found[one] = kind
                    else:
                        found.setdefault(one, kind)
    return found


def of_transformers(kind: str, family: type[Family]) -> tuple[dict[str, Any], bool | None]:
    """Return the defaults of the text part of a configuration class, by the names that the families use, and whether
    the output matrix is the embedding."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]()
    text = config
    for part in ("thinker_config", "text_config"):
        text = getattr(text, part, None) or text
    stated = text.to_dict()
    for name, stands_for in type(text).attribute_map.items():
        stated.setdefault(name, stated.get(stands_for))
    ropes = stated.get("rope_parameters") or {}
    stated["rope_theta"] = ropes.get("full_attention", ropes).get("rope_theta")
    return normalize(stated, {}, Path("config.json"), family.spellings).values, getattr(
        config, "tie_word_embeddings", None
    )


def compared(name: str, family: type[Family], kind: str, counts: Counter[str]) -> list[str]:
    """Count the values of one class and return what differs."""
    wanted, tied = of_transformers(kind, family)
    found = {**family.defaults, **family.class_defaults.get(name, {})}
    ropes = found.get("rope_parameters") or {}
    base = ropes.get("full_attention", ropes).get("rope_theta", family.rope_theta)
    pairs = {key: (wanted.get(key), found.get(key)) for key in KEYS}
    pairs["rope_theta"] = wanted.get("rope_theta"), found.get("rope_theta", base)
    pairs["tie_word_embeddings"] = tied, found.get("tie_word_embeddings", True)
    if pairs["num_key_value_heads"] == (wanted.get("num_attention_heads"), None):
        del pairs["num_key_value_heads"]  # where the key is missing, there are as many as query heads
    lines = []
    for key, (theirs, ours) in pairs.items():
        if theirs is None or isinstance(theirs, list):
            continue
        counts["missing" if ours is None else "agree" if ours == theirs else "different"] += 1
        if ours is not None and ours != theirs:
            lines.append(f"{name}: {key} is {ours}, transformers has {theirs}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="classes to compare; all of them if none is named")
    options = parser.parse_args()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kinds, counts = model_types(), Counter[str]()
    for name in options.names or supported():
        if kinds.get(name) not in CONFIG_MAPPING:
            continue
        try:
            lines = compared(name, _families()[name], kinds[name], counts)
        except Exception as error:  # some configuration classes have defaults that they refuse themselves
            print(f"{name}: {type(error).__name__}: {str(error)[:100]}")
            continue
        counts["classes"] += 1
        print(*lines, sep="\n", end="\n" if lines else "")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
