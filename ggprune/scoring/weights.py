"""What a layer's weights alone say about it: their summed magnitude. No text, no forward pass.

Magnitude of Shortened LLaMA (Kim et al. 2024, arXiv:2402.02834): the sum of |W| over the layer's
linear weight matrices W, all their outputs and all their inputs. The paper's formula is followed;
the authors' code (anal_block_sensitivity_magnitude.py) adds the norms' weights to it. A small sum
says that a layer's weights are small, not that the layer does little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO

import numpy as np
from numpy.typing import NDArray

from ggprune.arch.hparams import n_trunk
from ggprune.errors import DataError
from ggprune.metrics.estimates import Float32, Float64
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model
from ggprune.model.names import Role, block_of, roles_of
from ggprune.model.types import TensorType
from ggprune.progress import SILENT, Progress
from ggprune.runtime.convert import Dequantizer
from ggprune.runtime.library import default_threads

PIECE_BYTES = 16 << 20  # what one thread is given at a time
STEP_VALUES = 1 << 17  # floats that exist at once per thread: half a MiB stays in the cache

_SCALED_INPUTS = ".ffn_gate_inp"  # gemma4.cpp:320: its .scale belongs to the norm in front


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Values of one matrix that are read together: `n_value` of them from byte `offset` on."""

    layer: int
    tensor: Tensor
    offset: int
    n_value: int
    factor: float

    @property
    def size_bytes(self) -> int:
        return self.tensor.type.size_bytes((self.n_value,))


def magnitudes(
    model: Model, *, n_threads: int | None = None, progress: Progress = SILENT
) -> Float64:
    """Sum of |W| per trunk layer, (n_trunk,), in float64; higher is worth more.

    Matrices are the `.weight` tensors of two or more dimensions that a layer multiplies by: no
    norms, no biases. Those of all experts count, stored as one tensor (`_exps`) or apart, and the
    router's. Where a matrix has a `.scale` beside it (NVFP4, BitNet), their product counts.
    `progress` is told the bytes read and the bytes of all matrices. The result is the same for any
    number of threads. Raises DataError for a tensor that cannot be read or converted, or that is
    not finite.
    """
    pieces = tuple(_pieces(model))
    dequantizers = _dequantizers(pieces)
    total_bytes = sum(piece.size_bytes for piece in pieces)
    sums, done_bytes = np.zeros(n_trunk(model)), 0
    with ThreadPoolExecutor(n_threads or default_threads()) as pool:
        parts = pool.map(_magnitude, pieces, (dequantizers[p.tensor.type] for p in pieces))
        for piece, value in zip(pieces, parts, strict=True):
            sums[piece.layer] += value
            done_bytes += piece.size_bytes
            progress.step(done_bytes, total_bytes)
    return sums


def is_matrix(tensor: Tensor) -> bool:
    """Is it a matrix (or several) that a layer multiplies its inputs by?"""
    name = tensor.name
    is_weight = name.endswith(".weight") and block_of(name) is not None
    return is_weight and len(tensor.shape) > 1 and Role.POINTWISE not in roles_of(name)


def _pieces(model: Model) -> Iterator[_Piece]:
    for layer, tensors in enumerate(model.layers[: n_trunk(model)]):
        for tensor in filter(is_matrix, tensors):
            kind, factors = tensor.type, _factors(model, tensor)
            n_value = tensor.n_element // len(factors)
            step = PIECE_BYTES // kind.block_bytes * kind.block_size
            for i, factor in enumerate(factors):
                for first in range(0, n_value, step):
                    offset = tensor.offset + kind.size_bytes((i * n_value + first,))
                    n = min(step, n_value - first)
                    yield _Piece(
                        layer=layer, tensor=tensor, offset=offset, n_value=n, factor=float(factor)
                    )


def _factors(model: Model, tensor: Tensor) -> Float32:
    """What the matrix is multiplied by: one number for all of it, or one per expert."""
    stem = tensor.name.removesuffix(".weight")
    scale = model.by_name.get(f"{stem}.scale")
    if scale is None or stem.endswith(_SCALED_INPUTS):
        return np.ones(1, np.float32)
    n_matrix = tensor.n_element // (tensor.shape[0] * tensor.shape[1])
    if scale.n_element not in (1, n_matrix) or scale.type.name != "F32":
        raise DataError(
            f"{scale.path}: {scale.name} has {scale.n_element} values of {scale.type.name}, "
            f"expected 1 or {n_matrix} of F32"
        )
    factors = np.empty(scale.n_element, np.float32)
    with _reading(scale) as file:
        file.seek(scale.offset)
        _fill(file, factors.view(np.uint8))
    return factors


def _dequantizers(pieces: Sequence[_Piece]) -> dict[TensorType, Dequantizer]:
    """One per type, made before anything is read: a type that cannot be converted costs nothing."""
    by_type: dict[TensorType, Dequantizer] = {}
    for tensor in (piece.tensor for piece in pieces if piece.tensor.type not in by_type):
        try:
            by_type[tensor.type] = Dequantizer(tensor.type)
        except DataError as e:
            raise DataError(f"{tensor.path}: {tensor.name}: {e}") from e
    return by_type


def _magnitude(piece: _Piece, dequantize: Dequantizer) -> float:
    floats, total = np.empty(min(STEP_VALUES, piece.n_value), np.float32), 0.0
    raw = np.empty(piece.tensor.type.size_bytes(floats.shape), np.uint8)
    with _reading(piece.tensor) as file:
        file.seek(piece.offset)
        for first in range(0, piece.n_value, STEP_VALUES):
            values = floats[: piece.n_value - first]
            stored = raw[: piece.tensor.type.size_bytes(values.shape)]
            _fill(file, stored)
            dequantize(stored, values)
            total += float(np.abs(values, out=values).sum(dtype=np.float64))
    magnitude = total * abs(piece.factor)
    if not math.isfinite(magnitude):
        raise DataError(f"{piece.tensor.path}: {piece.tensor.name} has weights that are not finite")
    return magnitude


@contextmanager
def _reading(tensor: Tensor) -> Iterator[FileIO]:
    """The tensor's file. Errors of reading it become a DataError that names the tensor."""
    try:
        with FileIO(tensor.path) as file:
            yield file
    except OSError as e:
        raise DataError(f"{tensor.path}: {tensor.name} cannot be read: {e.strerror or e}") from e


def _fill(file: FileIO, buffer: NDArray[np.uint8]) -> None:
    """Read exactly as many bytes as fit. Raises OSError if the file ends before."""
    view, done = buffer.data, 0
    while done < len(view):
        n = file.readinto(view[done:])
        if not n:
            raise OSError("the file has become shorter")
        done += n
