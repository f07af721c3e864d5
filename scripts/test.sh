#!/usr/bin/env bash
# Install srd-rs into .venv and run all tests: pytest on every CPU, then cargo. Arguments go to pytest, for example
# -m 'not slow' for the quick part. Every skipped test is listed with what it did not test.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels="${SRD_SHARED:-../shared}/wheels"
if [ -d "$wheels" ]; then
    PIP_FIND_LINKS="${PIP_FIND_LINKS:+$PIP_FIND_LINKS }$(cd "$wheels" && pwd)"
    export PIP_FIND_LINKS
fi
[ -x .venv/bin/python ] || python3 -m venv .venv
python=.venv/bin/python
# The profile `quick` has the code of a release without link-time optimization. cargo test below shares the
# compiled dependencies.
export MATURIN_PEP517_ARGS="${MATURIN_PEP517_ARGS:---profile quick}"

# llama-cpp-python (the extra `eval`) takes many minutes to compile, so it is taken only where it lies ready made.
if ! "$python" -m pip install --quiet --only-binary=llama-cpp-python '.[test,dev,docs,eval,plot]'; then
    echo "No ready-made llama-cpp-python: the tests that need it will say so and skip." >&2
    "$python" -m pip install --quiet '.[test,dev,docs,plot]'
fi

# Both halves run, so that one failure does not hide another.
status=0
"$python" -m pytest -n auto "$@" || status=$?
# The tests of the crate take a few seconds, and minutes to compile. The unit tests compute, so they have some
# optimizations; the others read and write small files.
crate() {
    cargo test --profile quick --config "profile.quick.package.srd-rs.opt-level=$1" --no-fail-fast "${@:2}" || status=$?
}
crate 1 --lib
crate 0 --test '*'
crate 0 --doc
exit "$status"
