"""Single tensors: numpy arrays to GGUF blocks and back."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

from srd_rs import _core
from srd_rs.errors import UsageError, message
from srd_rs.options import SrdOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def quantize(
    weights: NDArray[np.float32],
    type: str,
    importance: NDArray[np.float32] | None = None,
    *,
    moments: NDArray[np.float32] | None = None,
    srd: SrdOptions | None = None,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Blocks of a GGUF type for the rows of a matrix.

    weights: float32 ``[rows, n]``, C-contiguous, n a multiple of the block length of the type.
    type: Such as ``"Q4_K"``.
    importance: float32 ``[n]``, the weight of the squared error of each column (an imatrix: the mean square of each
        input).
    moments: float32 ``[n, block]``, the second moments H = mean(x x^T) of the inputs x: all of H as ``[n, n]``, or its
        diagonal blocks below each other (block is then a multiple of 256). Each rounding error is diffused into the
        columns that are not yet quantized, as effort ``"srd"`` of `srd_rs.convert` does.
    srd, seed: Details of that, and the seed of the noise; only with `moments`.

    Returns uint8 ``[rows, bytes of a row]``. Raises UsageError for shapes and types that do not fit, NonFiniteError for
    a weight that the type cannot hold.

        >>> import numpy, srd_rs
        >>> rng = numpy.random.default_rng(0)
        >>> w, x = (rng.standard_normal(s, dtype=numpy.float32) for s in ((8, 256), (1000, 256)))
        >>> blocks = srd_rs.quantize(w, "Q4_K", moments=x.T @ x / len(x))
        >>> blocks.shape, srd_rs.dequantize(blocks, "Q4_K").shape
        ((8, 144), (8, 256))
    """
    weights = _checked("weights", weights, "float32", 2)
    if importance is not None:
        importance = _checked("importance", importance, "float32", 1)
    if moments is None:
        if srd is not None or seed:
            raise UsageError(
                message("quantize", "srd and seed have no effect without moments", "Pass moments")
            )
        return _core.quantize(weights, type, importance)
    if importance is not None:
        what = "importance has no effect beside moments, whose diagonal it is"
        raise UsageError(message("quantize", what, "Pass one of them"))
    moments = _checked("moments", moments, "float32", 2)
    return _core.quantize_calibrated(weights, type, moments, srd or SrdOptions(), seed)[0]


def dequantize(blocks: NDArray[np.uint8], type: str) -> NDArray[np.float32]:
    """The weights float32 ``[rows, n]`` of uint8 blocks ``[rows, bytes of a row]`` of a GGUF type.

    Raises UsageError for a type that cannot be read, or rows that are no whole blocks.

        >>> import numpy, srd_rs
        >>> blocks = srd_rs.quantize(numpy.ones((2, 256), numpy.float32), "Q8_0")
        >>> blocks.shape, srd_rs.dequantize(blocks, "Q8_0").shape
        ((2, 272), (2, 256))
    """
    return _core.dequantize(_checked("blocks", blocks, "uint8", 2), type)


def _checked(name: str, array: object, dtype: str, dimensions: int) -> NDArray[Any]:
    """`array`, if it is a numpy array of this type and number of dimensions; UsageError that says what it is."""
    import numpy as np

    what = f"{builtins.type(array).__name__} is no numpy array"
    if isinstance(array, np.ndarray):
        if array.dtype == dtype and array.ndim == dimensions:
            return array
        what = f"{array.dtype} with {array.ndim} dimensions does not fit"
    fix = f"Pass a numpy array of {dtype} with {dimensions} dimension{'s' if dimensions > 1 else ''}"
    raise UsageError(message(name, what, fix))
