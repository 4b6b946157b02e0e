"""The softmax of rows by ggml itself: the very numbers that it gives while a model computes.

ggml computes a row in steps as wide as the processor's registers, and what is left over in another
way, so that the last bits of a result depend on the length of the row.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import LlamaError
from ggprune.runtime.library import declare, ggml


class InitParams(ctypes.Structure):
    """`struct ggml_init_params` of ggml/include/ggml.h."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool),
    )  # fmt: skip


SPARE = 64 << 10  # bytes for what ggml keeps beside tensors and graphs


def softmax(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of every row, (n_row, n) -> (n_row, n), on the CPU. Raises LlamaError without memory."""
    base, cpu = _functions()
    n_row, n = rows.shape
    size = 4 * rows.nbytes + 4 * base.ggml_tensor_overhead() + base.ggml_graph_overhead() + SPARE
    context = base.ggml_init(InitParams(size, None, False))
    if not context:
        raise LlamaError(f"no memory for the softmax of {n_row} rows")
    try:
        given = base.ggml_new_tensor_2d(context, 0, n, n_row)
        result, graph = base.ggml_soft_max(context, given), base.ggml_new_graph(context)
        base.ggml_build_forward_expand(graph, result)
        data = np.ascontiguousarray(rows, np.float32)
        ctypes.memmove(base.ggml_get_data(given), data.ctypes.data, data.nbytes)
        if cpu.ggml_graph_compute_with_ctx(context, graph, 1):
            raise LlamaError("ggml could not compute a softmax")
        values = np.empty_like(data)
        ctypes.memmove(values.ctypes.data, base.ggml_get_data(result), values.nbytes)
        return values
    finally:
        base.ggml_free(context)


@cache
def _functions() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    base = declare(ggml(), {
        "ggml_init": (pointer, InitParams),
        "ggml_free": (None, pointer),
        "ggml_tensor_overhead": (size,),
        "ggml_graph_overhead": (size,),
        "ggml_new_tensor_2d": (pointer, pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
        "ggml_soft_max": (pointer, pointer, pointer),
        "ggml_new_graph": (pointer, pointer),
        "ggml_build_forward_expand": (None, pointer, pointer),
        "ggml_get_data": (pointer, pointer),
    })  # fmt: skip
    cpu = ggml("ggml-cpu")
    return base, declare(cpu, {
        "ggml_graph_compute_with_ctx": (ctypes.c_int, pointer, pointer, ctypes.c_int),
    })  # fmt: skip
