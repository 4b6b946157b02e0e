"""One matrix's fit: what its product should be, how good it is on chunks set aside, storing it.

Everything here is about chunks of rows; where they come from is the walk's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError
from ggprune.healing.leastsquares import Moments, relative_weights
from ggprune.healing.result import FIRST_RIDGE, RIDGES
from ggprune.healing.sites import Factor, Norm, Site, Sum
from ggprune.metrics.estimates import Float32, Float64
from ggprune.model.gguf import Tensor
from ggprune.model.types import TensorType
from ggprune.runtime.convert import Dequantizer, encode_rows

SMALL_GAIN = 0.05  # of the root mean square: outputs that a norm all but removes stay as they are


@dataclass(frozen=True)
class Rows:
    """What one chunk says about a matrix: (n_token, ...) each."""

    inputs: Float32  # (n_token, n_in)
    addends: Mapping[int, Float32]  # by node, (n_token, n_out)
    target: Float32  # the original's stream at the site's target, (n_token, n_out)


@dataclass(frozen=True, eq=False)
class Stored:
    """A matrix as a file holds it."""

    matrix: Float32  # what the bytes mean, (n_out, n_in)
    raw: NDArray[np.uint8]
    type: TensorType


def read_stored(tensor: Tensor) -> Stored:
    """Raises DataError if it cannot be read or converted."""
    raw = np.fromfile(tensor.path, np.uint8, tensor.size_bytes, offset=tensor.offset)
    if len(raw) != tensor.size_bytes:
        raise DataError(f"{tensor.path}: {tensor.name} cannot be read")
    return Stored(_floats(raw, tensor.type, tensor.shape), raw, tensor.type)


def store(matrix: Float32, kind: TensorType, importance: Float32) -> Stored:
    """As ggml's quantizers make it, errors of important columns counting more."""
    raw = encode_rows(matrix, kind, importance).reshape(-1)
    return Stored(_floats(raw, kind, (matrix.shape[1], matrix.shape[0])), raw, kind)


def _floats(raw: NDArray[np.uint8], kind: TensorType, shape: tuple[int, ...]) -> Float32:
    floats = np.empty(math.prod(shape), np.float32)
    Dequantizer(kind)(raw, floats)
    return floats.reshape(-1, shape[0])  # the rows of all experts behind each other


def add_rows(moments: Moments, site: Site, matrix: Float32, rows: Rows) -> None:
    """Sum up what the product of the matrix should be."""
    weights = relative_weights(rows.target)
    target, scale = _product_wanted(site, matrix, rows)
    moments.add(rows.inputs, target, weights * scale)


def _product_wanted(site: Site, matrix: Float32, rows: Rows) -> tuple[Float32, Float64]:
    """What would become the target, (n_token, n_out), and how much a squared error of it counts.

    Behind a norm only the direction matters: the length stays what it is, and so do outputs that
    the norm's gain all but removes.
    """
    wanted, scale = rows.target, np.ones(len(rows.inputs))
    for n in range(len(site.steps) - 1, -1, -1):
        step = site.steps[n]
        if isinstance(step, Sum):
            wanted = np.subtract(wanted, _added(step, rows))
        elif isinstance(step, Factor):
            wanted = np.divide(wanted, step.value, dtype=np.float32)
            scale = scale * step.value**2
        else:
            entering = _forward(site.steps[:n], rows.inputs @ matrix.T, rows)
            size = _rms(entering)
            small = np.abs(step.gain) < SMALL_GAIN * np.sqrt(np.mean(np.square(step.gain)))
            direction = np.divide(wanted, np.where(small, np.float32(1), step.gain))
            direction *= size / np.maximum(
                _rms(np.where(small, np.float32(0), direction)), np.float32(1e-20)
            )
            wanted = np.where(small, entering, direction).astype(np.float32)
            square = np.square(size[:, 0].astype(np.float64))
            inverse = np.divide(1, square, out=np.zeros_like(square), where=square > 0)
            scale = scale * float(np.mean(np.square(step.gain))) * inverse
    return wanted, scale


def error_of(site: Site, matrix: Float32, rows: Rows) -> float:
    """sum_t w_t |stream - target|^2 of the chunk's tokens, w_t one over the target's square."""
    stream = _forward(site.steps, rows.inputs @ matrix.T, rows)
    squares = np.square(stream - rows.target).sum(axis=1, dtype=np.float64)
    total = np.sum(squares * relative_weights(rows.target), dtype=np.float64)
    return float(total / rows.target.shape[1])


def _forward(steps: Sequence[Sum | Factor | Norm], product: Float32, rows: Rows) -> Float32:
    for step in steps:
        if isinstance(step, Sum):
            product = product + _added(step, rows)
        elif isinstance(step, Factor):
            product = product * np.float32(step.value)
        else:
            product = product / np.maximum(_rms(product), np.float32(1e-20)) * step.gain
    return product


def _added(step: Sum, rows: Rows) -> Float32:
    if step.values is not None:
        return step.values
    assert step.node is not None
    return rows.addends[step.node]


def _rms(values: Float32) -> Float32:
    """(n_token, 1)."""
    mean = np.mean(np.square(values), axis=1, keepdims=True, dtype=np.float64)
    return np.sqrt(mean).astype(np.float32)


def fit(
    moments: Moments, matrix: Float32, ridge: float | None, error: Callable[[Float32], float]
) -> tuple[Float32, float]:
    """The fitted matrix and its ridge: the one given, or the best by `error` on chunks set aside.

    Raises LlamaError if it cannot be solved for.
    """
    if ridge is not None:
        return moments.solve(matrix, ridge), ridge
    fitted, errors = dict[int, Float32](), dict[int, float]()

    def try_out(n: int) -> float:
        if n not in errors:
            fitted[n] = moments.solve(matrix, RIDGES[n])
            errors[n] = error(fitted[n])
        return errors[n]

    best = FIRST_RIDGE
    for step in (1, -1):  # each solution takes long: go on as long as it becomes better
        while 0 <= best + step < len(RIDGES) and try_out(best + step) < try_out(best):
            fitted.pop(best)
            best += step
    return fitted[best], RIDGES[best]
