"""Single tensors: numpy arrays to GGUF blocks and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def quantize(
    weights: NDArray[np.float32], type: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Blocks of a GGUF type for the rows of a matrix.

    weights: float32 ``[rows, n]``, C-contiguous, n a multiple of the type's block. type: such as ``"Q4_K"``.
    importance: float32 ``[n]``, the weight of each column's squared error (an imatrix: the mean squares of the
    inputs). Returns uint8 ``[rows, bytes of a row]``.

    Raises UsageError for shapes and types that do not fit, NonFiniteError for a weight the type cannot hold.
    """
    from srd_rs import _core

    return _core.quantize(weights, type, importance)


def dequantize(blocks: NDArray[np.uint8], type: str) -> NDArray[np.float32]:
    """The weights float32 ``[rows, n]`` of uint8 blocks ``[rows, bytes of a row]`` of a GGUF type.

    Raises UsageError for a type that cannot be read, or rows that are no whole blocks.
    """
    from srd_rs import _core

    return _core.dequantize(blocks, type)
