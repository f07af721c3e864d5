#!/usr/bin/env bash
# Run the crate's unit tests as aarch64 code under qemu-user: they compare NEON with the portable code.
# Needs `rustup target add aarch64-unknown-linux-gnu`, an aarch64 gcc and qemu-aarch64 (Debian: gcc-aarch64-linux-gnu,
# libc6-dev-arm64-cross, qemu-user). Arguments select tests; by default the modules with vector code are tested.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
[ $# -gt 0 ] || set -- simd:: quant:: feedback:: forward:: linalg:: noise:: formats::decode
exec cargo test --lib --target aarch64-unknown-linux-gnu -- "$@"
