#!/usr/bin/env bash
# The crate's unit tests as aarch64 code under qemu-user: the NEON shells against the scalar reference.
# Needs `rustup target add aarch64-unknown-linux-gnu`, an aarch64 gcc and qemu-aarch64 (Debian: gcc-aarch64-linux-gnu,
# libc6-dev-arm64-cross, qemu-user). Arguments go to the tests, by default those of what has vector code.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
[ $# -gt 0 ] || set -- quant:: srd:: linalg:: formats::decode simd_level
exec cargo test --lib --target aarch64-unknown-linux-gnu -- "$@"
