#!/usr/bin/env bash
# Format, lint and types of both languages. `scripts/check.sh --fix` formats instead of complaining.
# Needs the extra `dev`: pip install '.[dev]'.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

if [ "${1:-}" = --fix ]; then
    cargo fmt
    ruff format .
    ruff check --fix .
else
    cargo fmt --check
    ruff format --check .
    ruff check .
fi
cargo lint
mypy
