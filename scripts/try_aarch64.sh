#!/usr/bin/env bash
# Run the aarch64 wheel under qemu-user, which has NEON: a conversion by search and one with SRD must have the bytes of
# x86-64. Needs qemu-aarch64 (Debian: qemu-user), ziglang and maturin (PyPI), `rustup target add aarch64-unknown-linux-gnu`,
# and an aarch64 CPython: ROOT is a folder with Debian's arm64 packages of python3.11 and its libraries, unpacked
# (`apt-get download PACKAGE:arm64`, `dpkg -x PACKAGE.deb ROOT`).
#
#   scripts/try_aarch64.sh ROOT [WHEEL]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(realpath "$1")
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
wheel=${2:-}
if [ -z "$wheel" ]; then
    python3 scripts/wheels.py --profile quick --out "$made" aarch64-unknown-linux-gnu
    wheel=$(echo "$made"/*.whl)
fi
interpreter=$(echo "$root"/usr/bin/python3.??)
version=${interpreter##*python}
# All that the wheel needs, for the other processor. pip of this machine fetches it.
python3 -m pip install -q --target "$made/site" --only-binary :all: --python-version "$version" --implementation cp \
    --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 "$wheel"
# Python starts processes of its own by this name.
cat > "$made/python" <<END
#!/usr/bin/env bash
PYTHONHOME=$root/usr PYTHONPATH=$made/site exec qemu-aarch64 -0 $made/python -L $root $interpreter "\$@"
END
chmod +x "$made/python"
python3 scripts/try_wheel.py --python "$made/python"
