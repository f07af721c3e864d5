"""An independent reader of .axm containers, written from docs/axm-format.md alone: standard library only.

    python tests/axm_reader.py FILE [KEY_IN_HEX]

verifies FILE and prints its fingerprint. Shares no code with the package.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def hkdf(master: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256, at most 32 bytes: one block of output."""
    prk = hmac.new(salt, master, "sha256").digest()
    return hmac.new(prk, info + b"\x01", "sha256").digest()[:length]


class Container:
    """A container in memory; the constructor checks everything but the shards."""

    def __init__(self, data: bytes, master: bytes | None = None) -> None:
        assert data[:8] == b"\x89AXM\r\n\x1a\n" and struct.unpack("<II", data[8:16]) == (1, 1)
        header_bytes, data_at, manifest_at, manifest_bytes, file_bytes, n = struct.unpack("<6Q", data[16:64])
        assert len(data) == file_bytes == manifest_at + manifest_bytes + 192
        assert manifest_bytes == 64 + 104 * n and not any(data[144:256])
        text = data[256 : 256 + header_bytes]
        assert sha256(text) == data[64:96]
        self.data, self.header = data, json.loads(text)
        canonical = json.dumps(self.header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert canonical.encode() == text
        at = 256 + header_bytes
        for file in self.header["files"]:
            assert sha256(data[at : at + file["header_bytes"]]).hex() == file["header_sha256"]
            at += file["header_bytes"]
        assert not any(data[at:data_at])
        manifest, seal = data[manifest_at:-192], data[-192:]
        assert sha256(seal[:160]) == seal[160:]
        self.fingerprint = sha256(b"srd-axm v1 fingerprint\0", manifest)
        assert self.fingerprint == seal[:32]
        head = b"AXMMANI1" + struct.pack("<II", 1, 1) + sha256(data[:256]) + struct.pack("<Q", n)
        assert manifest[:64] == head.ljust(64, b"\0")
        self.shard_key = None
        if master is not None:
            assert hkdf(master, b"srd-axm v1 key id", b"srd-axm v1 key id", 16) == data[128:144]
            key = hkdf(master, data[96:128], b"srd-axm v1 manifest", 32)
            message = b"srd-axm v1 manifest\0" + self.fingerprint + seal[64:96]
            assert hmac.digest(key, message, "sha256") == seal[32:64]
            self.shard_key = hkdf(master, data[96:128], b"srd-axm v1 shard", 32)
        self.planes: dict[tuple[int, int], bytes] = {}
        end = data_at
        for i in range(n):
            entry = manifest[64 + 104 * i : 168 + 104 * i]
            end = self._check_shard(entry, end)
        assert end == manifest_at

    def _check_shard(self, entry: bytes, expected: int) -> int:
        tensor, plane, index, count, offset, length, zero = struct.unpack("<4I3Q", entry[:40])
        shard, end = self.data[offset : offset + length], (offset + length + 65535) // 65536 * 65536
        assert offset == expected and zero == 0 and sha256(shard) == entry[40:72]
        assert not any(self.data[offset + length : end])
        if self.shard_key is not None:
            name = self.header["tensors"][tensor]["name"].encode()
            place = b"srd-axm v1 shard\0" + bytes.fromhex(self.header["container"])
            place += struct.pack("<I", len(name)) + name
            place += struct.pack("<BIIQQ", plane, index, count, offset, length)
            assert hmac.digest(self.shard_key, place + sha256(shard), "sha256") == entry[72:104]
        self.planes[tensor, plane] = self.planes.get((tensor, plane), b"") + shard
        return end

    def gguf(self) -> bytes:
        """The GGUF of a container of one file."""
        (file,) = self.header["files"]
        start = 256 + struct.unpack("<Q", self.data[16:24])[0]
        out = bytearray(self.data[start : start + file["header_bytes"]].ljust(file["bytes"], b"\0"))
        for i, tensor in enumerate(self.header["tensors"]):
            out[tensor["offset"] : tensor["offset"] + tensor["base"]["bytes"]] = self.planes[i, 0]
        return bytes(out)

    def residual(self, number: int) -> list[float]:
        """What the Q4_K or Q5_K base of a tensor lost, as far as it was kept."""
        tensor = self.header["tensors"][number]
        bits, row = tensor["residual"]["bits"], tensor["ne"][0]
        block_bytes = {"Q4_K": 144, "Q5_K": 176}[tensor["type"]]
        name = tensor["name"].encode()
        key = sha256(b"srd residual noise v1\0", struct.pack("<Q", self.header["seed"]), name)
        plane, out = self.planes[number, 1], []
        for sub in range(len(plane) // (1 + 4 * bits)):
            block = self.planes[number, 0][sub // 8 * block_bytes :][:16]
            packed = plane[sub * (1 + 4 * bits) : (sub + 1) * (1 + 4 * bits)]
            step = base_step(block, sub % 8) * packed[0] / (32 << bits)
            codes = int.from_bytes(packed[1:], "little")
            at_row, column = divmod(sub * 32, row)
            noise = philox(key, column // 16, at_row) + philox(key, column // 16 + 1, at_row)
            for i in range(32):
                code = codes >> (bits * i) & ((1 << bits) - 1)
                u = (2 * noise[i] - 255) / 512
                out.append((code - ((1 << bits) - 1) / 2 - u) * step)
        return out


def base_step(block: bytes, j: int) -> float:
    """Step of sub-block j of a Q4_K or Q5_K super-block, from its first 16 bytes."""
    d, dmin = (abs(x) for x in struct.unpack("<2e", block[:4]))
    s = block[4:16]
    scale = s[j] & 63 if j < 4 else s[j + 4] & 15 | s[j - 4] >> 6 << 4
    return d * scale or d or dmin


def philox(key: bytes, group: int, row: int) -> bytes:
    """Philox4x32-10 as 16 bytes of noise."""
    k0, k1 = struct.unpack("<2I", key[:8])
    c = [group, row & 0xFFFFFFFF, row >> 32, 0]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return struct.pack("<4I", *c)


if __name__ == "__main__":
    master = bytes.fromhex(sys.argv[2]) if len(sys.argv) > 2 else None
    print(Container(Path(sys.argv[1]).read_bytes(), master).fingerprint.hex())
