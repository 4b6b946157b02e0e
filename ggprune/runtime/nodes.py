"""Nodes of llama.cpp's graph: how they lie in memory, and the function that it calls for each.

llama.cpp asks about every node before computing it (`cb_eval`); for those that a program names it
stops right behind them and lets it read or overwrite the values. The layout follows `struct
ggml_tensor` in ggml/include/ggml.h. It is not part of a stable interface, so it is checked against
the library's own accessors before it is relied on. Knows nothing of layers.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import LlamaError
from ggprune.model.types import TensorType
from ggprune.runtime.library import REMEDY, declare, ggml

MAX_DIMS, MAX_OP_PARAMS, MAX_SRC, MAX_NAME = 4, 64, 10, 64
TYPE_F32, TYPE_I32 = 0, 26
DEVICE_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
ALIGNMENT = 128  # of tensors in buffers, at least what any backend asks for


class TensorStruct(ctypes.Structure):
    """A tensor, or a node of the graph."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * MAX_DIMS),
        ("nb", ctypes.c_size_t * MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (MAX_OP_PARAMS // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * MAX_SRC),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * MAX_NAME),
        ("extra", ctypes.c_void_p),
    )


NAME_OFFSET: int = TensorStruct.name.offset
FLAGS_OFFSET: int = TensorStruct.flags.offset
COMPUTE = 16  # GGML_TENSOR_FLAG_COMPUTE, ggml.h: without it a backend skips the node


@cache
def accessors() -> ctypes.CDLL:
    """ggml's functions on tensors, typed."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    return declare(ggml(), {
        "ggml_get_name": (ctypes.c_char_p, pointer),
        "ggml_nbytes": (size, pointer),
        "ggml_nelements": (ctypes.c_int64, pointer),
        "ggml_op_name": (ctypes.c_char_p, ctypes.c_int),
        "ggml_backend_tensor_get": (None, pointer, pointer, size, size),
        "ggml_backend_tensor_set": (None, pointer, pointer, size, size),
        "ggml_backend_buft_get_device": (pointer, pointer),
        "ggml_backend_dev_type": (ctypes.c_int, pointer),
        "ggml_backend_buffer_get_type": (pointer, pointer),
        "ggml_backend_buffer_get_base": (pointer, pointer),
        "ggml_backend_buft_alloc_buffer": (pointer, pointer, size),
        "ggml_backend_cpu_buffer_type": (pointer,),
    })  # fmt: skip


def copy_of(pointer: int) -> TensorStruct:
    """A node as it is now: graphs are built anew in the same memory."""
    return TensorStruct.from_buffer_copy(ctypes.string_at(pointer, ctypes.sizeof(TensorStruct)))


def tensor_name(pointer: int) -> bytes:
    """Name of a graph node, read straight from memory: called for every node of every decode."""
    return ctypes.string_at(pointer + NAME_OFFSET, MAX_NAME).split(b"\0", 1)[0]


@cache
def op_name(op: int) -> str:
    """Name of an operation: MUL_MAT, VIEW..."""
    return str(accessors().ggml_op_name(op).decode())


def flags_of(pointer: int) -> ctypes.c_int32:
    """A node's flags where they are in memory; with COMPUTE ggml computes it."""
    return ctypes.c_int32.from_address(pointer + FLAGS_OFFSET)


def check_layout(pointer: int) -> None:
    """Raises LlamaError unless name and extents read through the struct are what ggml says."""
    lib, tensor = accessors(), TensorStruct.from_address(pointer)
    if tensor.name != lib.ggml_get_name(pointer) or prod(tensor.ne) != lib.ggml_nelements(pointer):
        raise LlamaError(f"this build of llama.cpp lays out its tensors differently; {REMEDY}")


class StreamNode:
    """A node of the residual stream while the graph is being computed: rows of n_embd floats."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
        struct = TensorStruct.from_address(pointer)
        n_row = int(struct.ne[1] * struct.ne[2] * struct.ne[3])  # several streams: several rows
        self.shape = (n_row, int(struct.ne[0]))  # (n_row, n_embd)
        if struct.type != TYPE_F32 or accessors().ggml_nbytes(pointer) != 4 * prod(self.shape):
            name = tensor_name(pointer).decode()
            raise LlamaError(f"graph node {name} is not a plain matrix of 32-bit floats")

    def read(self) -> NDArray[np.float32]:
        """A copy of the values, (n_row, n_embd)."""
        values = np.empty(self.shape, np.float32)
        accessors().ggml_backend_tensor_get(self.pointer, values.ctypes.data, 0, values.nbytes)
        return values

    def by_token(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What `read` gave with one row per token, (n_token, n_stream * n_embd).

        Where the model carries several streams per token, the shorter of the two axes counts them.
        """
        _, inner, outer, _ = (int(n) for n in TensorStruct.from_address(self.pointer).ne)
        if outer == 1:
            return values
        if inner < outer:
            return np.reshape(values, (outer, -1))
        by_token = np.swapaxes(values.reshape((outer, inner, -1)), 0, 1)
        return np.reshape(by_token, (inner, -1))

    def write(self, values: NDArray[np.float32]) -> None:
        """Overwrite the node. Raises LlamaError if the shape is another one."""
        if values.shape != self.shape:
            raise LlamaError(f"a residual of shape {values.shape} does not fit {self.shape}")
        data = np.ascontiguousarray(values)
        accessors().ggml_backend_tensor_set(self.pointer, data.ctypes.data, 0, data.nbytes)


def exchange_weights(pointer: int, raw: NDArray[np.uint8], kind: TensorType) -> None:
    """Overwrite a matrix of a loaded model that is not mapped: its bytes as a file has them.

    Where it is of another type now it gets memory of its own, which stays until the process ends.
    Raises LlamaError if the size is not that of the matrix, or there is no memory.
    """
    lib, struct = accessors(), TensorStruct.from_address(pointer)
    name = tensor_name(pointer).decode()
    if len(raw) != kind.size_bytes(tuple(int(n) for n in struct.ne)):
        raise LlamaError(f"{name}: {len(raw)} bytes are not a matrix like the loaded one")
    if struct.type != kind.id:
        source = lib.ggml_backend_buffer_get_type(struct.buffer)
        device = lib.ggml_backend_buft_get_device(source)
        if not device or lib.ggml_backend_dev_type(device) == DEVICE_CPU:
            source = lib.ggml_backend_cpu_buffer_type()  # one that repacks knows few types
        buffer = lib.ggml_backend_buft_alloc_buffer(source, len(raw) + ALIGNMENT)
        if not buffer:
            raise LlamaError(f"{name}: no memory for {len(raw)} bytes")
        struct.type, struct.buffer = kind.id, buffer
        start = lib.ggml_backend_buffer_get_base(buffer)
        struct.data = -(-start // ALIGNMENT) * ALIGNMENT
        struct.extra = None
        row = kind.size_bytes((int(struct.ne[0]),))
        matrix = row * int(struct.ne[1])
        struct.nb[:] = (kind.block_bytes, row, matrix, matrix * int(struct.ne[2]))
    lib.ggml_backend_tensor_set(pointer, raw.ctypes.data, 0, len(raw))


def read_indices(pointer: int) -> NDArray[np.float32]:
    """Whole numbers of a node, (n_row, n), as floats; rows may lie apart from each other.

    Raises LlamaError if it has others.
    """
    struct, lib = TensorStruct.from_address(pointer), accessors()
    if struct.type != TYPE_I32 or struct.ne[2] * struct.ne[3] != 1:
        raise LlamaError(f"graph node {tensor_name(pointer).decode()} is no matrix of indices")
    n, n_row, stride = int(struct.ne[0]), int(struct.ne[1]), int(struct.nb[1]) // 4
    values = np.zeros((n_row - 1) * stride + n, np.int32)
    lib.ggml_backend_tensor_get(pointer, values.ctypes.data, 0, values.nbytes)
    rows = np.lib.stride_tricks.as_strided(values, (n_row, n), (4 * stride, 4))
    return rows.astype(np.float32)


def leaf_values(pointer: int) -> NDArray[np.float32] | None:
    """A loaded vector of 32-bit floats, (n,); None if the tensor is something else."""
    struct = TensorStruct.from_address(pointer)
    n = int(struct.ne[0])
    if struct.type != TYPE_F32 or prod(struct.ne) != n:
        return None
    values = np.empty(n, np.float32)
    accessors().ggml_backend_tensor_get(pointer, values.ctypes.data, 0, values.nbytes)
    return values


Handler = Callable[[StreamNode], None]
Taps = Mapping[bytes, Handler]


class Program(Protocol):
    """What to do during one decode."""

    def ask(self, pointer: int) -> bool:
        """Called for every node in the order of computation, before it; True: stop behind it."""

    def computed(self, pointer: int) -> None:
        """Called for the nodes that `ask` said True to."""


class EvalCallback:
    """The function llama.cpp calls for every node. The program may be exchanged between decodes."""

    def __init__(self) -> None:
        self.program: Program = NamedTaps({})
        self.error: BaseException | None = None
        self.time_s = 0.0  # spent in it, with what the program does
        self._checked = False

    def __call__(self, pointer: int, ask: bool, _: object) -> bool:
        """What ctypes cannot raise is kept in `error` and stops the decode."""
        if self.error is not None:
            return False
        start = time.perf_counter()
        try:
            if not self._checked:
                check_layout(pointer)
                self._checked = True
            if ask:
                return self.program.ask(pointer)
            self.program.computed(pointer)
            return True
        except BaseException as e:
            self.error = e
            return False
        finally:
            self.time_s += time.perf_counter() - start


class NamedTaps:
    """Calls handlers for nodes by name, and computes everything."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps

    def ask(self, pointer: int) -> bool:
        flags_of(pointer).value |= COMPUTE  # an earlier program may have left it out
        return tensor_name(pointer) in self.taps

    def computed(self, pointer: int) -> None:
        self.taps[tensor_name(pointer)](StreamNode(pointer))
