#!/usr/bin/env bash
# Format, lint and types of both languages. `scripts/check.sh --fix` formats instead of complaining.
# Needs the extra `dev`: pip install '.[dev]'. All checks run, so that one failure does not hide another.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

failed=()
check() {
    echo "== $*"
    "$@" || failed+=("$*")
}

if [ "${1:-}" = --fix ]; then
    check cargo fmt
    check ruff format .
    check ruff check --fix .
else
    check cargo fmt --check
    check ruff format --check .
    check ruff check .
fi
# The alias is in .cargo/config.toml: clippy on all targets, warnings denied.
check cargo lint
check mypy
check python -m mypy.stubtest srd_rs._core
# Known weaknesses and licences of what the crate depends on. It takes minutes to install: cargo install cargo-deny
if command -v cargo-deny >/dev/null; then
    check cargo deny --log-level error check
else
    echo "== cargo deny: not installed, so dependencies were not checked (cargo install --locked cargo-deny)"
fi

if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "All checks passed."
