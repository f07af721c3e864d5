"""Does the test suite see a mistake? One deliberate mistake at a time is made in a copy of the Python package, and the
tests named beside it must fail.

    python scripts/mutations.py              # all mistakes, a table, exit code 1 if one is not seen
    python scripts/mutations.py seconds      # those whose name contains a word

The first nine are those that a review made and that no test saw then. A mistake whose text is no longer in the source
is an error: correct the text, so that the list does not shrink by itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPO: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = "python/srd_rs"


@dataclass(frozen=True)
class Mutation:
    """A mistake: in `file` the text `old`, which occurs once, becomes `new`. `tests` are the
    tests that see the mistake."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def tests(*names: str) -> tuple[str, ...]:
    """``cli::sizes`` is the test `test_sizes` of tests/test_cli.py. Single tests are named, because whole files take an
    hour."""
    return tuple("tests/test_{}.py::test_{}".format(*name.split("::")) for name in names)


MUTATIONS: Final = (
    Mutation(
        "hub download forgets the tokenizer and the index",
        "hub.py",
        '    "model.safetensors.index.json",\n    "tokenizer.json",\n',
        "",
        tests("hub::a_download_gives_the_bytes_of_the_folder"),
    ),
    Mutation(
        "pooling type off by one", "families/base.py", '"pooling_mode_mean_tokens", 1', '"pooling_mode_mean_tokens", 2',
        tests("family_goldens::golden[camembert]"),
    ),
    Mutation(
        "output name of a hub model ignored",
        "hub.py",
        "        if self.name is not None:\n            return self.name\n",
        "",
        tests("hub::output_is_named_after_the_id"),
    ),
    Mutation(
        "beam width and dither layers dropped",
        "cli/convert.py",
        "srd = SrdOptions(beam_width=int(beam_width or SrdOptions().beam_width), dither_layers=dither_layers)",
        "srd = SrdOptions()",
        tests("every_option::what_srd_does_more_or_less_of"),
    ),
    Mutation("old key file dropped", "cli/resign.py", "old_key_file=old_key_file,", "old_key_file=None,",
             tests("axm::keygen_and_resign")),
    Mutation("keygen --ed25519 makes a master key", "cli/keygen.py", "ed25519=ed25519)", "ed25519=False)",
             tests("axm::keygen_and_resign")),
    Mutation("verify --no-key ignored", "cli/verify.py", "use_key=not no_key", "use_key=True",
             tests("verify::no_key_checks_integrity_and_says_so")),
    Mutation("seconds always 0", "cli/convert.py", '"seconds": report.seconds', '"seconds": 0.0',
             tests("cli::the_cost_is_that_of_the_whole_run")),
    Mutation(
        "alpha ignored",
        "cli/extract.py",
        "report = extract(container,",
        'options["alpha"] = None\n        report = extract(container,',
        tests("axm::what_extract_is_told_on_the_command_line"),
    ),
    Mutation("a special token becomes an ordinary one", "vocab/added.py", "known.special or token.special",
             "known.special", tests("vocab_special::a_token_is_special_if_one_of_the_files_says_so")),
    Mutation(
        "only the first end of text counts",
        "vocab/special.py",
        "list(dict.fromkeys(_stop_ids(folder, model)))",
        "list(dict.fromkeys(_stop_ids(folder, model)))[:1]",
        tests("vocab_special::ends_of_text"),
    ),
    Mutation(
        "the end of generation_config.json is not read",
        "vocab/special.py",
        "    if not stops:\n        return named",
        "    if named:\n        return named",
        tests("vocab_special::ends_of_text"),
    ),
    Mutation("an added token beyond the embedding goes through without a word", "vocab/added.py",
             "    if beyond:\n", "    if False:\n",
             tests("vocab_special::tokens_without_a_row_are_left_out_with_one_warning")),
    Mutation(
        "an output that is an input is replaced",
        "sniff.py",
        "output.exists() and path.exists() and output.samefile(path)",
        "False and output.samefile(path)",
        tests("verify::no_output_replaces_an_input"),
    ),
    Mutation("a card that exists is replaced", "conversion.py",
             "        if not options.overwrite and path.exists():\n", "        if False:\n",
             tests("publishing::a_conversion_writes_card_and_modelfile")),
    Mutation(
        "a stale sidecar stays",
        "hydration.py",
        "            path.unlink()\n",
        "            pass\n",
        tests("inputs_outputs::a_stale_sidecar_does_not_stay"),
    ),
    Mutation("an imatrix beside srd has no effect", "effects.py",
             "    if options.is_measured and options.imatrix is not None and not measured:", "    if False:",
             tests("options::srd_with_an_imatrix_is_refused")),
    Mutation(
        "a seed without effect is taken",
        "effects.py",
        '(not (recorded or seeded), ("seed",), "nothing is random, and the seed is not recorded"),',
        "",
        tests("options::an_option_without_effect_is_an_error"),
    ),
    Mutation("tensors that an imatrix lacks are not named", "effects.py", "    if unknown:\n", "    if False:\n",
             tests("imatrix::tensors_that_an_imatrix_lacks_are_named")),
    Mutation("a requantized tensor is not named", "effects.py", "    if again:\n", "    if False:\n",
             tests("api::what_is_quantized_again_is_named")),
    Mutation(
        "a missing part of a container's GGUF is no error",
        "container.py",
        "        if not part.exists():\n",
        "        if False:\n",
        tests("axm::a_part_that_is_missing_is_named"),
    ),
    Mutation("an adapter is taken for a model", "sniff.py", '    if "adapter_config.json" in names:\n',
             "    if False:\n", tests("sniff::what_a_conversion_says")),
    Mutation("a Git LFS pointer is not recognized", "sniff.py", "if head is not None and head.startswith(_LFS",
             "if head is not None and head.startswith(b'x' + _LFS", tests("sniff::every_kind_is_recognized")),
    Mutation("binary and decimal units are the same", "text.py", "1024 ** (i + 1)", "1000 ** (i + 1)",
             tests("cli::sizes")),
    Mutation("percent of the depth read as shares", "cli/options.py", "float(first) / 100, float(last) / 100",
             "float(first) / 100, float(last) / 101", tests("cli::layers_are_shares_of_the_depth")),
    Mutation("the error of a ratio ignores that both come from the same tokens", "eval/statistics.py",
             "mean(above - value * below).error", "mean(above).error", tests("eval::intervals_cover_the_truth")),
    Mutation("a quantile one rank too low", "eval/statistics.py", "int(np.ceil(n * fraction + half))",
             "int(np.ceil(n * fraction - half))", tests("eval::intervals_cover_the_truth")),
    Mutation(
        "the cache gives back a calibration of other tokens",
        "calibration.py",
        '        "tokens": tokens.hexdigest(),\n',
        "",
        tests("cache::other_options_are_measured_again"),
    ),
    Mutation("the cache grows without limit", "cache.py", "        if total <= limit:\n", "        if True:\n",
             tests("cache::the_least_used_go_first")),
    Mutation("the cache deletes a calibration that is being made", "cache.py", "> INTERRUPTED:", "> 0:",
             tests("cache::the_least_used_go_first")),
    Mutation("a model that has changed is not read", "calibration.py",
             "identities = [_core.file_identity(path) for path in files]", 'identities = ["" for path in files]',
             tests("cache::a_model_that_has_changed_in_one_bit_is_measured_again")),
    Mutation("a file that changes while it is read is noted", "calibration.py",
             "if note is None and states is not None and states == _states(native, text, asked, options):",
             "if note is None and states is not None:",
             tests("cache::a_file_that_changes_while_it_is_read_is_not_noted")),
    Mutation("a damaged note is taken", "cache.py",
             "if hashlib.sha256(text).hexdigest().encode() != digest:", "if not text:",
             tests("cache::a_note_that_is_damaged_or_names_nothing_is_not_taken")),
    Mutation("the parts of a kept calibration are not verified where they are used", "calibration.py",
             "_core.open_calibration(found, kept=True)", "_core.open_calibration(found)",
             tests("cache::data_that_change_in_the_cache_are_found_where_they_are_used")),
    Mutation("a killed calibration begins afresh", "calibration.py", "named=True, kept=True, overwrite=True",
             "named=True, overwrite=True", tests("resume::a_killed_calibration_goes_on_behind_a_layer")),
    Mutation("a conversion goes on with another seed", "conversion.py", '"resume", "sign_key",',
             '"resume", "seed", "sign_key",', tests("resume::other_options_that_decide_bytes_are_told_apart")),
    Mutation("rows of a slice are shifted", "files.py", "            blocks = blocks[rows]\n",
             "            blocks = blocks[rows.start : rows.stop + 1]\n", tests("files::rows")),
    Mutation("a recipe loses its types", "recipe.py", "exact_types=(*pairs, *options.exact_types)",
             "exact_types=options.exact_types", tests("budget::a_recipe_file_gives_the_same_file_and_can_be_edited")),
    Mutation("the exit code of a failed verification is that of any failure", "cli/failures.py",
             "EXIT_UNVERIFIED = 3", "EXIT_UNVERIFIED = 1", tests("axm::exit_codes")),
)  # fmt: skip


def mutated(mutation: Mutation, folder: Path) -> None:
    """Copy the package into `folder` and make the mistake there. Raises SystemExit if its text is not there once."""
    package = folder / "srd_rs"
    shutil.copytree(REPO / PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    import srd_rs._core

    native = Path(srd_rs._core.__file__)
    if not (package / native.name).exists():
        shutil.copy(native, package)
    path = package / mutation.file
    source = path.read_text()
    if source.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.name}: {mutation.file} holds the text {source.count(mutation.old)} times, not once"
        )
    path.write_text(source.replace(mutation.old, mutation.new))


def run_tests(folder: Path, *names: str) -> int:
    """Exit code of pytest over the package in `folder`: 1 if a test fails."""
    paths = [str(folder), str(REPO / "tests"), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *names]
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=REPO, env=there, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest did not run {' '.join(names)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="words of the names of the mistakes to make")
    words = parser.parse_args().words
    chosen = [m for m in MUTATIONS if all(word in m.name for word in words)]
    if not chosen:
        parser.error(f"no mistake has a name with {' and '.join(words)}")
    unseen = []
    # A test that fails without a mistake sees nothing.
    if run_tests(REPO / "python", *sorted({test for mutation in chosen for test in mutation.tests})):
        raise SystemExit("a test fails without a mistake: repair it first")
    for mutation in chosen:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            mutated(mutation, Path(name))
            seen = run_tests(Path(name), *mutation.tests) == 1
        print(
            f"{'seen' if seen else 'NOT SEEN':9} {time.monotonic() - began:5.0f} s  {mutation.name}",
            flush=True,
        )
        if not seen:
            unseen.append(mutation.name)
    print(f"{len(chosen) - len(unseen)} of {len(chosen)} mistakes are seen by the tests")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
