"""Change the configurations of the tiny checkpoints at random and compare our file with that of llama.cpp's converter.

    python -O scripts/compare_variants.py --llama-cpp vendor/llama.cpp [--each 20] [--seed 1] [NAME ...]

Three kinds of changes are made. `values` changes some values, such as numbers of heads, biases and kinds of RoPE
scaling; transformers then says which tensors such a model has. Where transformers lacks the class, our table says it.
`absent` leaves out a key of config.json, or makes it null, and keeps the tensors. `published` makes the changes of
`scripts/published_changes.py`, which published configurations have. A variant is counted as

- equal: metadata, names, shapes, types and bytes agree,
- different: they do not,
- declined: only we refuse the variant,
- impossible: the converter or transformers cannot make it.

`scripts/compare_metadata.py` compares metadata only, and is much faster.

Beside the cases of `family_cases`, those of ``tests/data/model_variants.jsonl.gz`` are changed.
Differences that are on purpose (docs/differences.md) are known by the golden of the case. The bytes are those of the
numpy interpreter of `tests/interpreter.py`, which the tests hold against Rust.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import hashlib
import json
import logging
import multiprocessing
import os
import random
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]
sys.path.append(str(REPO / "python"))

from family_cases import Case, all_cases  # noqa: E402
from interpreter import run, to_bf16  # noqa: E402
from make_family_goldens import convert, shapes_of, write_checkpoint, written  # noqa: E402
from mtmd import ADDED, FOLDED, RENAMED, ROUNDED  # noqa: E402
from patterns import pattern  # noqa: E402
from published_changes import ABSENT, GENERAL, Change, changes_of  # noqa: E402

YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}
LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 1024,
}
SCALINGS: list[Any] = [
    None,
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "yarn", **YARN},
    {"type": "yarn", **YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    {"rope_type": "yarn", **YARN, "attention_factor": 1.3},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "llama3", **LLAMA3},
]
FLAGS = [True, False]
VALUES: Mapping[str, list[Any]] = {
    "attention_bias": FLAGS,
    "attention_out_bias": FLAGS,
    "bias": FLAGS,
    "mlp_bias": FLAGS,
    "projector_bias": FLAGS,
    "multimodal_projector_bias": FLAGS,
    "projector_use_layernorm": FLAGS,
    "qkv_bias": FLAGS,
    "use_bias": FLAGS,
    "use_qkv_bias": FLAGS,
    "use_mean_pooling": FLAGS,
    "use_qk_norm": FLAGS,
    "use_sliding_window": FLAGS,
    "norm_topk_prob": FLAGS,
    "tie_word_embeddings": FLAGS,
    "use_sinusoidal": FLAGS,
    "head_dim": [16, 24, 32, 48, None],
    "hidden_size": [32, 48, 64, 96],
    "embed_dim": [32, 64],
    "depth": [1, 2, 3],
    "num_hidden_layers": [1, 2, 3, 5],
    "num_attention_heads": [1, 2, 4],
    "num_heads": [1, 2, 4],
    "num_key_value_heads": [1, 2, 4, None],
    "intermediate_size": [40, 64, 96, 160],
    "moe_intermediate_size": [16, 32, 48],
    "shared_expert_intermediate_size": [32, 64],
    "decoder_sparse_step": [1, 2],
    "mlp_only_layers": [[], [0]],
    "num_experts": [2, 4, 8],
    "n_routed_experts": [2, 4, 8],
    "num_local_experts": [2, 4, 8],
    "num_experts_per_tok": [1, 2],
    "n_shared_experts": [1, 2],
    "first_k_dense_replace": [0, 1],
    "q_lora_rank": [None, 32],
    "routed_scaling_factor": [1.0, 2.5],
    "patch_size": [8, 14, 16],
    "image_size": [28, 56, 64, 112],
    "hidden_act": ["gelu", "silu", "gelu_pytorch_tanh", "quick_gelu"],
    "projector_hidden_act": ["gelu", "silu"],
    "layer_norm_eps": [1e-5, 1e-6, 1e-12],
    "layer_norm_epsilon": [1e-5, 1e-6],
    "rms_norm_eps": [1e-5, 1e-6],
    "norm_eps": [1e-5, 1e-6],
    "rope_theta": [10000, 1e6, 500000.0],
    "rope_scaling": SCALINGS,
    "partial_rotary_factor": [0.25, 0.5, 1.0],
    "rotary_pct": [0.25, 0.5, 1.0],
    "max_position_embeddings": [128, 4096],
    "sliding_window": [None, 64, 4096],
    "max_window_layers": [0, 1, 28],
    "spatial_merge_size": [1, 2, 4],
    "temporal_patch_size": [2],
    "downsample_ratio": [0.5, 0.25],
    "downsample_factor": [1, 2],
    "scale_factor": [1, 2, 4],
    "vision_feature_layer": [-1, -2, [-2, -1]],
    "vision_feature_select_strategy": ["default", "full"],
    "deepstack_visual_indexes": [[], [0], [0, 1]],
    "fullatt_block_indexes": [[1], [0, 1], [1, 3]],
    "pixel_shuffle_ratio": [0.5],
    "encoder_layers": [1, 2, 3],
    "encoder_attention_heads": [1, 2, 4],
    "encoder_ffn_dim": [48, 96],
    "d_model": [32, 64],
    "num_mel_bins": [64, 80, 128],
    "downsample_hidden_size": [8, 16],
    "max_source_positions": [50, 100],
    "final_logit_softcapping": [None, 30.0],
    "attn_logit_softcapping": [None, 50.0],
    "query_pre_attn_scalar": [16, 64, 256],
    "logits_scaling": [1.0, 8.0],
    "residual_multiplier": [1.0, 0.5],
    "embedding_multiplier": [1.0, 12.0],
    "attention_multiplier": [1.0, 0.125],
    "clip_qkv": [None, 8.0],
    "vocab_size": [96, 80],
}
"""What the values of keys are changed to. Only keys that a configuration has are changed."""
AS_PUBLISHED = (
    (r"^model\.(vision_tower|multi_modal_projector|vision_model|audio_tower)\.", r"\1."),
    (r"^(vision_tower)\.(?!vision_model\.)", r"\1.vision_model."),
    (r"^(model\.vision_tower)\.(?!vision_model\.)", r"\1.vision_model."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.language_model\.", "model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(visual|vision_model)\.", r"\1."),
)
"""What turns names of transformers into those of published files, where that makes more of them equal."""
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
"""The numbers of layers and experts in the name of a tensor."""
DECLINED = "only we refuse it: "
NO_PATTERN = ("cohere2", "gemma-embedding", "gemma2", "gemma3", "gpt-oss")
"""Architectures for which the converter writes no pattern of layers with a sliding window."""
NO_BASE = (
    "cohere2",
    "command-r",
    "falcon",
    "falcon-h1",
    "gemma",
    "gemma2",
    "gptneox",
    "minicpm3",
    "phi2",
    "stablelm",
)
"""Architectures for which the converter leaves out the base and the scaling of RoPE; see docs/differences.md."""
MOST_WEIGHTS = 2_000_000
_NUMPY = {"F32": "<f4", "F16": "<f2"}
TEXT_PARTS = ("text_config", "llm_config", "language_config")
PARTS = ("text_config", "vision_config", "audio_config", "llm_config", "thinker_config", "encoder_config")


def on_purpose(key: str, theirs: Mapping[str, Any]) -> bool:
    """Say whether we write a key that the converter has not, for the reason that docs/differences.md gives."""
    arch, _, rest = key.partition(".")
    if rest == "attention.sliding_window_pattern":
        return arch in NO_PATTERN and key not in theirs
    if key == "gemma4.final_logit_softcapping" or rest == "rope.scaling.attn_factor":
        return key not in theirs
    scaled = rest.startswith(("rope.freq_base", "rope.scaling."))
    return arch in NO_BASE and scaled and theirs.get(key) in (None, "none", ["STRING", "none"])


def places(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield config.json and its parts, which the caller may change."""
    yield config
    for part in PARTS:
        if isinstance(config.get(part), dict):
            yield from places(config[part])


def with_other_values(case: Case, dice: random.Random) -> tuple[Case, str]:
    """Return the case with some values changed, and what was changed."""
    config: dict[str, Any] = copy.deepcopy(dict(case.config))
    choices = [(place, key) for place in places(config) for key in place if key in VALUES]
    changed = []
    for place, key in dice.sample(choices, min(len(choices), dice.randint(1, 4))):
        place[key] = copy.deepcopy(dice.choice(VALUES[key]))
        changed.append(f"{key}={place[key]!r}")
    text, vision = (config.get(part) or {} for part in ("text_config", "vision_config"))
    if "out_hidden_size" in vision:  # that of the text model, whatever becomes of it
        vision["out_hidden_size"] = text.get("hidden_size", config.get("hidden_size"))
    if dice.random() < 0.3:
        for place in places(config):
            if "rope_theta" in place and "rope_parameters" not in place:
                scaling = place.pop("rope_scaling", None) or {"rope_type": "default"}
                theta = {"rope_theta": place.pop("rope_theta")}
                place["rope_parameters"] = {"rope_type": scaling.get("type", "default"), **scaling, **theta}
                changed.append("rope_parameters")
    return replace(case, config=config, tensors=None, more={}), ", ".join(changed)


def resized(case: Case, other: Case) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the changed case `other` as our table asks for them. A tensor that the case lacks is named
    like the same tensor of another layer or expert."""
    from srd_rs.checkpoint import Checkpoint
    from srd_rs.families import opened

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / case.name
        write_checkpoint(other, shapes_of(case), folder)
        family = opened(Checkpoint.open(folder))
        present = family.text_tensors
        table = family.table(present)
    like = {NUMBER.sub("{}", name): tensor.name for name, tensor in present.items()}
    used = {tensor.name for tensor in present.values()}
    shapes = {name: shape for name, shape in shapes_of(case).items() if name not in used}
    for entry in table.entries.values():
        sources = {source.tensor: source.shape for source in entry.transform.sources()}
        if entry.needed or all(NUMBER.sub("{}", name) in like for name in sources):
            for name, shape in sources.items():
                stored = NUMBER.sub("{}", like.get(NUMBER.sub("{}", name), name))
                own = present[name].name if name in present else stored.format(*NUMBER.findall(name))
                shapes[own] = tuple(shape)
    return shapes


def with_absent_keys(case: Case) -> Iterator[tuple[Case, str]]:
    """Yield the case without each of its keys, and with each key null."""
    for index, place in enumerate(places(copy.deepcopy(dict(case.config)))):
        for key in place:
            if key in ("architectures", "model_type", *PARTS):
                continue
            for null in (False, True):
                config = copy.deepcopy(dict(case.config))
                other = list(places(config))[index]
                if null:
                    other[key] = None
                else:
                    del other[key]
                where = "" if index == 0 else f"part {index}: "
                yield replace(case, config=config), f"{where}{key} {'null' if null else 'absent'}"


def cases_of_tests(tensors: bool = False) -> dict[str, Case]:
    """Return the cases of tests/test_models_variants.py, which has the classes that `family_cases` lacks. With
    `tensors`, those that transformers makes are listed as well."""
    import transformers

    lines = gzip.decompress((REPO / "tests" / "data" / "model_variants.jsonl.gz").read_bytes()).decode()
    found = {}
    for row in map(json.loads, lines.splitlines()):
        if "name" in row:
            known = hasattr(transformers, row["config"]["architectures"][0])
            shapes = {name: tuple(shape) for name, (_, shape, _) in row["sources"].items()}
            # the converter counts the tokens of Gemma 3 and 4
            tokens = {"model": {"vocab": {str(token): token for token in range(96)}}, "added_tokens": []}
            files = (
                {"tokenizer.json": tokens}
                if row["config"].get("model_type", "").startswith(("gemma3", "gemma4"))
                else {}
            )
            found[row["name"]] = Case(
                row["name"], row["config"], None if known and not tensors else shapes, files
            )
    return found


def with_published_changes(case: Case) -> Iterator[tuple[Case, str, Change]]:
    """Yield the case with each of the changes that `published_changes` has for its kind of model."""
    part = next((part for part in TEXT_PARTS if isinstance(case.config.get(part), dict)), None)
    for change in changes_of((case.config[part] if part else case.config).get("model_type", "")):
        config: dict[str, Any] = copy.deepcopy(dict(case.config))
        place = config[part] if part else config
        for key, value in change.values.items():
            where = config if key == "architectures" else place
            if value is ABSENT:
                where.pop(key, None)
            else:
                where[key] = copy.deepcopy(value)
        if config != case.config or replace(change, what="", values={}) != Change(""):
            yield replace(case, config=config), change.what, change


def changed_shapes(case: Case, before: Case, change: Change) -> dict[str, Any]:
    """Return the tensors of a changed case: those of transformers, if it knows the class and accepts the values, else
    those of the case `before`."""
    shapes: dict[str, Any] = {}
    if not change.same_tensors:
        with contextlib.suppress(Exception):
            bare = replace(case, tensors=None, more={})
            shapes = named_as(shapes_of(bare), before.tensors) if is_small(bare) else {}
    shapes = shapes or shapes_of(before)
    for name, keys in change.more.items():
        sizes = {key: value for place in places(dict(case.config)) for key, value in place.items()}
        shapes[name] = tuple(sizes[key] for key in keys)
    return {
        re.sub(*change.renames, name): shape
        for name, shape in shapes.items()
        if not re.search(change.without, name)
    }


def is_known(case: Case) -> bool:
    """Say whether transformers has the class of a case. Processes are forked meanwhile, so only one of them asks."""
    import transformers

    return hasattr(transformers, case.config["architectures"][0])


def is_small(case: Case) -> bool:
    """Say whether the model of a case has few weights: a part that a configuration leaves out has its full size."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**case.config)
    with torch.device("meta"):
        model = getattr(transformers, case.config["architectures"][0])(config)
    return sum(weight.numel() for weight in model.parameters()) < MOST_WEIGHTS


def named_as(shapes: Mapping[str, Any], published: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the tensors with the names that published files have."""
    found = dict(shapes)
    for before, after in AS_PUBLISHED if published else ():
        other = {re.sub(before, after, name): shape for name, shape in found.items()}
        if len(other.keys() & (published or {}).keys()) > len(found.keys() & (published or {}).keys()):
            found = other
    return found


def ours(folder: Path, part: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return metadata and tensors as `written` does."""
    from srd_rs.checkpoint import Checkpoint
    from srd_rs.families import describe, projectors
    from test_family_goldens import metadata_of

    checkpoint = Checkpoint.open(folder)
    spec = projectors.describe(checkpoint) if part == "mmproj" else describe(checkpoint)
    metadata = {
        key: row
        for key, row in metadata_of(spec.metadata.entries()).items()
        if not key.startswith("tokenizer.")
    }
    half = "F16" if part == "mmproj" else "BF16"
    tensors: dict[str, list[Any]] = {}
    for tensor in spec.tensors:
        values = run(dict(tensor.transform), lambda name: pattern(name, checkpoint.tensors[name].shape))
        kind = "F32" if tensor.store == "f32" or len(tensor.shape) < 2 else half
        data = to_bf16(values) if kind == "BF16" else values.astype(_NUMPY[kind]).tobytes()
        digest = hashlib.sha256(data).hexdigest()[:16]
        tensors[tensor.name] = [list(tensor.shape), kind, digest]
    return metadata, tensors


def difference(
    case: Case,
    part: str,
    known: set[str],
    published: Mapping[str, Any] | None,
    before: Case | None = None,
    change: Change | None = None,
) -> str | None:
    """Return what differs for a case; None if nothing does. Raises what the converter raises."""
    if before is not None and change is not None:
        case = replace(case, tensors=changed_shapes(case, before, change))
    elif before is not None and not (before.tensors is None and is_known(case)):
        case = replace(case, tensors=resized(before, case))
    elif case.tensors is None and not is_small(case):
        raise ValueError(f"the model has more than {MOST_WEIGHTS} weights")
    with tempfile.TemporaryDirectory() as scratch:
        folder, output = Path(scratch) / case.name, Path(scratch) / "out.gguf"
        write_checkpoint(case, named_as(shapes_of(case), published), folder)
        convert(folder, output, part == "mmproj", case.raw_config, case.constants if part == "mmproj" else {})
        wanted = written(output)
        if not wanted[1]:
            raise ValueError("the converter writes no tensors")
        try:
            found = ours(folder, part)
        except Exception as error:
            return f"{DECLINED}{error}"
    before, after = RENAMED.get(case.name, ("\0", ""))
    tensors = {name.replace(before, after): row for name, row in wanted[1].items()}
    parts = []
    for ours_, theirs in ((found[0], wanted[0]), (found[1], tensors)):
        for key in sorted({*ours_, *theirs} - known):
            if key.endswith((*ROUNDED, *FOLDED, ".ssm_a")) and key in ours_ and key in theirs:
                continue
            if on_purpose(key, theirs):
                continue
            if ours_.get(key) != theirs.get(key):
                parts.append(f"{key}: {ours_.get(key)}, the converter has {theirs.get(key)}")
    return "; ".join(parts[:6]) + (f"; and {len(parts) - 6} more" if len(parts) > 6 else "") or None


def tried(
    case: Case,
    part: str,
    what: str,
    known: set[str],
    published: Mapping[str, Any] | None,
    before: Case | None = None,
    change: Change | None = None,
) -> tuple[str, str]:
    """Return "equal", "different", "declined" or "impossible", and a line."""
    try:
        with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
            found = difference(case, part, known, published, before, change)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            "impossible",
            f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})",
        )
    if found is None:
        return "equal", ""
    return "declined" if found.startswith(DECLINED) else "different", found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="cases to change; all of them if none is named")
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder with conversion/ and gguf-py/")
    parser.add_argument("--changes", choices=("values", "absent", "published"), default="values")
    parser.add_argument(
        "--each",
        type=int,
        default=20,
        help="variants of each case; of `published`, those that every family has",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mmproj", action="store_true", help="only the projectors")
    parser.add_argument("--refused", action="store_true", help="show why variants are impossible")
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp), str(options.llama_cpp / "gguf-py")]
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    import conversion  # noqa: F401
    import torch

    from srd_rs.families import known_classes
    from test_family_goldens import DIFFERENCES

    known_classes()  # loads the tables once, and not in each process
    torch.set_num_threads(1)
    cases = {**cases_of_tests(), **all_cases()}
    total: Counter[str] = Counter()
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for name in options.names or cases:
            case, dice = cases[name], random.Random(f"{options.seed} {name}")
            if "architectures" not in case.config:
                continue
            known = {*DIFFERENCES.get(name, {}), *ADDED.get(name, {})}
            known |= {"general.size_label"} if name in ADDED else set()
            counts: Counter[str] = Counter()
            jobs: list[Any] = [
                (variant, half, what, known, case.tensors, *more)
                for half in ("mmproj", "text")
                if getattr(case, half) and (half == "mmproj" or not options.mmproj)
                for variant, what, *more in variants_of(case, options, dice)
            ]
            for job, (verdict, line) in zip(jobs, pool.imap(_tried, jobs), strict=True):
                counts[verdict] += 1
                if verdict in ("different", "declined") or (options.refused and verdict == "impossible"):
                    print(f"{verdict}: {name} ({job[1]}), {job[2]}: {line}", flush=True)
            if jobs:
                print(name, json.dumps(counts), flush=True)
            total += counts
    print(json.dumps(total))


def variants_of(case: Case, options: argparse.Namespace, dice: random.Random) -> list[Any]:
    """Return the changed cases, each with what was changed; those of `published` also with the case before the change
    and the change."""
    if options.changes == "published":
        with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
            case = replace(case, tensors=shapes_of(case))
        variants = [(other, what, case, change) for other, what, change in with_published_changes(case)]
        general = [variant for variant in variants if variant[3] in GENERAL]
        chosen = dice.sample(general, min(options.each, len(general)))
        return [variant for variant in variants if variant[3] not in GENERAL or variant in chosen]
    if options.changes == "absent":
        variants = list(with_absent_keys(case))
        return dice.sample(variants, min(options.each, len(variants)))
    variants = [with_other_values(case, dice) for _ in range(options.each)]
    return [(other, what, case, None) for other, what in variants]


def _tried(job: Any) -> tuple[str, str]:
    return tried(*job)


if __name__ == "__main__":
    main()
