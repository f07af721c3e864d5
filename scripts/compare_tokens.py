"""The ids of llama.cpp on the vocabulary of srd-rs, and those of the tokenizer's own library, on many texts.

    python scripts/compare_tokens.py
    python scripts/compare_tokens.py --texts 200 --show 5 tekken gpt-4o

Every kind of tokenizer and every pre-tokenizer that srd-rs knows is trained with a seed (tests/token_cases.py),
converted, and loaded in llama.cpp. The texts (tests/token_texts.py) are sentences of many languages, code, numbers,
emoji, white space, random characters, and chats between special tokens. A line of the table has the number of texts
that differ, and of those the number for which docs/differences.md names no reason. The last column is about a stricter
vocabulary that no published model has: its merges cross every place where a text could be cut, so that a cut that
llama.cpp leaves out shows too.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from token_cases import cases, compare


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="cases or kinds; all if none is named")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument(
        "--show", type=int, default=0, help="print this many texts that differ, for each case"
    )
    arguments = parser.parse_args()
    logging.getLogger("srd_rs").setLevel(logging.ERROR)
    wanted = [
        case for case in cases() if not arguments.names or {case.name, case.kind} & set(arguments.names)
    ]
    print(
        f"{'kind':24} {'tokenizer':28} {'pre':24} {'texts':>6} {'differ':>7} {'no reason':>10} {'crossing':>9}"
    )
    unexplained = 0
    for case in wanted:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(case, Path(folder), arguments.texts)
            crossing = "-"
            if case.make_crossing:
                strict = compare(case, Path(folder), arguments.texts, crossing=True)
                crossing = str(len(strict.different))
        unexplained += len(found.unexplained)
        pre = f"{found.pre} (named)" if found.given else found.pre
        print(
            f"{case.kind:24} {case.name:28} {pre:24} {arguments.texts:6} {len(found.different):7}"
            f" {len(found.unexplained):10} {crossing:>9}",
            flush=True,
        )
        for text in found.unexplained[: arguments.show]:
            print(f"    {text!r}")
    print(f"{len(wanted)} tokenizers, {unexplained} texts without a reason")
    sys.exit(1 if unexplained else 0)


if __name__ == "__main__":
    main()
