#!/usr/bin/env bash
# Run the tests of the crate as Windows code under wine. Needs `rustup target add x86_64-pc-windows-gnu`, mingw-w64 and wine
# (Debian: gcc-mingw-w64-x86-64, wine). Arguments select tests. wine shows the files of Linux as a drive, so the tests find theirs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/wine.sh
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
cargo test --profile quick --target x86_64-pc-windows-gnu -- "$@" < /dev/null
