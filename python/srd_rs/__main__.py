"""`python -m srd_rs` is `srd-rs`."""

from srd_rs.cli import main

if __name__ == "__main__":
    main()
