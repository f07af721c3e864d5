"""A program of its own: the tokens of a text by a tokenizer.json, within limits of memory and time.

A tokenizer.json is a program: its regular expressions can take hours, its replacements can make gigabytes out of a
line, and the library can panic. So the file is run in a process that can be ended, by `srd_rs.calibration`.

    python tokenizing.py TOKENIZER_JSON SECONDS < TEXT > IDS

reads UTF-8 and writes the ids as 32-bit numbers, little-endian. Special tokens in the text count as text.
"""

import sys
from array import array
from contextlib import nullcontext, suppress

MEMORY_BYTES = 4 << 30
"""Most address space of the process."""
BYTES_PER_SECOND = 100_000
"""Length of text that gets another second of CPU time beyond SECONDS."""


def limit(seconds: int) -> None:
    """Limit the CPU time and the memory of the process. Windows has no such limits; there the parent process waits."""
    try:
        import resource
    except ImportError:
        return
    limits = (
        ("RLIMIT_CORE", (0, 0)),
        ("RLIMIT_CPU", (seconds, seconds + 1)),
        ("RLIMIT_AS", (MEMORY_BYTES,) * 2),
    )
    for name, values in limits:
        with suppress(ValueError, OSError) if sys.platform == "darwin" else nullcontext():
            # macOS refuses to limit the address space.
            resource.setrlimit(getattr(resource, name), values)


def main() -> None:
    # The folder of the package comes first on the path, and its modules must not hide others.
    del sys.path[0]
    text = sys.stdin.buffer.read()
    seconds = int(sys.argv[2]) + len(text) // BYTES_PER_SECOND
    limit(seconds)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(sys.argv[1])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    ids = array("I", tokenizer.encode(text.decode("utf-8"), add_special_tokens=False).ids)
    if len(ids) > 4 * len(text) + 1024:
        sys.exit("there are many more tokens than the text has bytes")
    if sys.byteorder == "big":
        ids.byteswap()
    sys.stdout.buffer.write(ids.tobytes())


if __name__ == "__main__":
    main()
