"""Numbers to the bytes of a tensor type, by ggml's own conversions and quantizers."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ggprune.model.types import TensorType
from ggprune.runtime.library import ggml


def encode_rows(values: NDArray[np.float32], tensor_type: TensorType) -> NDArray[np.uint8]:
    """Rows (n_row, n) as bytes (n_row, row_bytes). `n` is a multiple of the type's block size.

    Types that cannot do without an importance matrix get one in which all columns are alike.
    """
    n_row, n = values.shape
    source = np.ascontiguousarray(values)
    rows = np.empty((n_row, tensor_type.size_bytes((n,))), np.uint8)
    alike = np.ones(n, np.float32)
    needed = _library().ggml_quantize_requires_imatrix(tensor_type.id)
    _library().ggml_quantize_chunk(
        tensor_type.id, source.ctypes.data, rows.ctypes.data, 0, n_row, n,
        alike.ctypes.data if needed else None,
    )  # fmt: skip
    return rows


@cache
def _library() -> ctypes.CDLL:
    """libggml-base with the two functions typed."""
    lib = ggml()
    lib.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    lib.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return lib
