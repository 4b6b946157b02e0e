"""Stored weights to floats and back, by ggml's own conversions and quantizers.

The conversions are reached through `struct ggml_type_traits` of ggml/include/ggml.h. It is not part
of a stable interface, so it is checked against the library's own accessors before it is relied on.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError, LlamaError
from ggprune.model.types import TensorType
from ggprune.runtime.library import REMEDY, declare, ggml, llama

TYPE_F32, TYPE_F16 = 0, 1

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class TypeTraits(ctypes.Structure):
    """A row of ggml's table of types."""

    _fields_ = (
        ("type_name", ctypes.c_void_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


class Dequantizer:
    """Converts stored values of one type to 32-bit floats.

    Raises DataError if ggml has no conversion for the type, LlamaError if its table of types is
    not as expected.
    """

    def __init__(self, tensor_type: TensorType) -> None:
        self.type = tensor_type
        self._to_float: Callable[[int, int, int], None] | None = None  # of F32
        if tensor_type.id == TYPE_F32:
            return
        check_layout()
        traits = _traits(tensor_type.id) if tensor_type.id < llama().GGML_TYPE_COUNT else None
        if traits is None or traits.to_float is None:
            raise DataError(f"ggml cannot convert {tensor_type.name} to floats")
        expected = (tensor_type.block_size, tensor_type.block_bytes)
        if (traits.blck_size, traits.type_size) != expected:
            raise LlamaError(
                f"this build of llama.cpp stores {traits.blck_size} values of {tensor_type.name} "
                f"in {traits.type_size} bytes, expected {expected[0]} in {expected[1]}; {REMEDY}"
            )
        self._to_float = _TO_FLOAT(traits.to_float)

    def __call__(self, raw: NDArray[np.uint8], floats: NDArray[np.float32]) -> None:
        """Fill `floats` from the bytes that hold as many values, whole blocks of them.

        Lets go of the interpreter lock meanwhile.
        """
        n_byte = self.type.size_bytes(floats.shape)
        if raw.shape != (n_byte,) or not (raw.flags.c_contiguous and floats.flags.c_contiguous):
            raise ValueError(f"{raw.shape} bytes for {floats.shape} values of {self.type.name}")
        if self._to_float is None:
            floats[:] = raw.view(np.float32)
        else:
            self._to_float(raw.ctypes.data, floats.ctypes.data, len(floats))


def encode_rows(
    values: NDArray[np.float32],
    tensor_type: TensorType,
    importance: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Rows (n_row, n) as bytes (n_row, row_bytes). `n` is a multiple of the type's block size.

    `importance`: how much the error of each column counts, (n,). Types that cannot do without get
    one in which all columns are alike.
    """
    n_row, n = values.shape
    source, given = np.ascontiguousarray(values), importance
    if given is None and _library().ggml_quantize_requires_imatrix(tensor_type.id):
        given = np.ones(n, np.float32)
    rows = np.empty((n_row, tensor_type.size_bytes((n,))), np.uint8)
    _library().ggml_quantize_chunk(
        tensor_type.id, source.ctypes.data, rows.ctypes.data, 0, n_row, n,
        None if given is None else np.ascontiguousarray(given, np.float32).ctypes.data,
    )  # fmt: skip
    return rows


@cache
def check_layout() -> None:
    """Raises LlamaError unless the table read through the struct is what ggml's functions say.

    F32 has no conversion and that of F16 is exported: so `to_float` is where it should be.
    """
    lib, f32, f16 = _library(), _traits(TYPE_F32), _traits(TYPE_F16)
    fits = all(
        (traits.type_name, traits.blck_size, traits.type_size)
        == (lib.ggml_type_name(i), lib.ggml_blck_size(i), lib.ggml_type_size(i))
        for i, traits in enumerate(map(_traits, range(llama().GGML_TYPE_COUNT)))
    )
    exported = ctypes.cast(lib.ggml_fp16_to_fp32_row, ctypes.c_void_p).value
    if not fits or f32.to_float is not None or f16.to_float != exported:
        raise LlamaError(
            f"this build of llama.cpp lays out its table of types differently; {REMEDY}"
        )


def _traits(type_id: int) -> TypeTraits:
    traits: TypeTraits = _library().ggml_get_type_traits(type_id).contents
    return traits


@cache
def _library() -> ctypes.CDLL:
    """ggml's functions on types; their names stay addresses, which are compared."""
    kind, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
    return declare(ggml(), {
        "ggml_get_type_traits": (ctypes.POINTER(TypeTraits), kind),
        "ggml_type_name": (pointer, kind),
        "ggml_blck_size": (size, kind),
        "ggml_type_size": (ctypes.c_size_t, kind),
        "ggml_quantize_requires_imatrix": (ctypes.c_bool, kind),
        "ggml_quantize_chunk": (
            ctypes.c_size_t, kind, pointer, pointer, size, size, size, pointer,
        ),
    })  # fmt: skip
