"""The command `srd-rs`, and `python -m srd_rs`. Ctrl-C is one line even while the modules are loaded."""

import sys


def main() -> None:
    """Entry point of the script `srd-rs`."""
    try:
        from srd_rs.cli import start
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    start()


if __name__ == "__main__":
    main()
