"""The reader of the package `gguf` without an array of numpy for each token, which takes seconds for many tokens."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType


class Reader(GGUFReader):
    """The reader, except for the arrays of the metadata, which are read here."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, count = struct.unpack_from("<IQ", self.data, orig_offs)
        begin = offset = orig_offs + 12
        element = GGUFValueType(kind)
        view = memoryview(self.data)
        parts: list[Any] = []
        if element == GGUFValueType.STRING:
            for _ in range(count):
                (length,) = struct.unpack_from("<Q", view, offset)
                assert length <= len(view) - offset - 8
                parts.append(view[offset + 8 : offset + 8 + length])
                offset += 8 + length
        else:
            dtype = np.dtype(self.gguf_scalar_to_np[element])
            offset += count * dtype.itemsize
            parts.append(np.frombuffer(view, dtype, count, begin))
        types = [GGUFValueType.ARRAY, element] if count else [GGUFValueType.ARRAY]
        return offset - orig_offs, parts, list(range(len(parts))), types
