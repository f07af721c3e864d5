# A Windows 10 of its own for the scripts that source this file, in a folder that is removed at their end. Needs wine and
# mingw-w64. wine 8 lacks the library from which programs made by Rust take random numbers: this one takes them from wine.
made=$(mktemp -d)
export WINEDEBUG=-all WINEPREFIX="$made/wine"
trap 'wineserver -k || true; rm -rf "$made"' EXIT
wine winecfg -v win10
if [ ! -e "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" ]; then
    cat > "$made/random.c" <<'END'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T n) { return SystemFunction036(bytes, (ULONG)n); }
END
    x86_64-w64-mingw32-gcc -shared -o "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" "$made/random.c" -ladvapi32
fi
