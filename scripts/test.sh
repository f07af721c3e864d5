#!/usr/bin/env bash
# Install into .venv and run all tests: pytest, then cargo. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels="${SRD_SHARED:-../shared}/wheels"
if [ -d "$wheels" ]; then
    PIP_FIND_LINKS="${PIP_FIND_LINKS:+$PIP_FIND_LINKS }$(cd "$wheels" && pwd)"
    export PIP_FIND_LINKS
fi
[ -x .venv/bin/python ] || python3 -m venv .venv
python=.venv/bin/python

# llama-cpp-python (the extra `eval`) takes many minutes to compile, so it is taken only where it lies ready made.
if ! "$python" -m pip install --only-binary=llama-cpp-python '.[test,eval,plot]'; then
    echo "No ready-made llama-cpp-python: the tests that need it will say so and skip." >&2
    "$python" -m pip install '.[test,plot]'
fi

# Both halves run, so that one failure does not hide another.
status=0
"$python" -m pytest "$@" || status=$?
cargo test --release || status=$?
exit "$status"
