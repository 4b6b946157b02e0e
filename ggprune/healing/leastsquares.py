"""Least squares for one matrix, from second moments that are summed up block by block.

W minimizes sum_t w_t |W z_t - y_t|^2 + r |W - W0|^2 with r = ridge * mean(diag(sum w z z^T)); it is
the solution of (W - W0) (G + r I) = C - W0 G, with G = sum w z z^T and C = sum w y z^T. Products
are made in 32-bit floats, block by block, and summed up in float64. Knows nothing of models.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from ggprune.errors import LlamaError
from ggprune.metrics.estimates import Float32, Float64

BLOCK_TOKENS = 2048  # of products that are made at once: adding them up costs as much as few rows
TILE = 512  # rows of the second moments that are made at once, as far as the diagonal
FLOAT64_WIDTH = 1024  # up to this many inputs products are made in float64: they cost little


class Moments:
    """Weighted second moments of what enters a matrix, and of that with what should leave it."""

    def __init__(self, n_in: int, n_out: int) -> None:
        self._gram = np.zeros((n_in, n_in))  # above the diagonal only where `gram` has been read
        self._is_half = False
        self.cross = np.zeros((n_in, n_out))  # sum w z y^T
        self.n_token = 0
        self.weight = 0.0
        self._dtype = np.float64 if n_in <= FLOAT64_WIDTH else np.float32
        self._waiting: list[tuple[Float32, Float32, Float64]] = []
        self._right: tuple[Float32, Float64] | None = None

    def add(self, inputs: Float32, targets: Float32, weights: Float64) -> None:
        """inputs: (n_token, n_in), targets: (n_token, n_out), weights: (n_token,)."""
        self._waiting.append((inputs, targets, weights))
        self.n_token += len(inputs)
        self.weight += float(weights.sum())
        if sum(len(rows) for rows, _, _ in self._waiting) >= BLOCK_TOKENS:
            self._sum_up()

    def solve(self, matrix: Float32, ridge: float) -> Float32:
        """The matrix that fits best, (n_out, n_in), near the one given.

        The sums serve as memory for the factor meanwhile. Raises LlamaError if they are not finite
        or cannot be solved for.
        """
        gram = self.gram
        diagonal = gram.diagonal().copy()
        strength = ridge * float(np.mean(diagonal))
        change = self._missing(matrix).copy()
        if not (np.isfinite(strength) and np.isfinite(change).all()):
            raise LlamaError("its inputs or targets are not finite")
        np.fill_diagonal(gram, diagonal + strength)
        try:  # above the diagonal, which is below it in the order of Fortran
            factor = cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
            change = cho_solve(factor, change, overwrite_b=True, check_finite=False)
        except LinAlgError as e:
            raise LlamaError(f"the least squares cannot be solved with a ridge of {ridge:g}") from e
        finally:
            _mirror(gram)
            np.fill_diagonal(gram, diagonal)
        return np.asarray(matrix + change.T, np.float32)

    def _missing(self, matrix: Float32) -> Float64:
        """C - W0 G, transposed, (n_in, n_out); kept for the next ridge that is tried."""
        if self._right is None or self._right[0] is not matrix:
            with np.errstate(invalid="ignore", over="ignore"):
                right = self.cross - self.gram @ matrix.T.astype(np.float64)
            self._right = matrix, right
        return self._right[1]

    @property
    def gram(self) -> Float64:
        """sum w z z^T, (n_in, n_in)."""
        self._sum_up()
        if self._is_half:
            _mirror(self._gram)
            self._is_half = False
        return self._gram

    @property
    def is_empty(self) -> bool:
        """Has nothing but zeros entered the matrix?"""
        self._sum_up()
        return not np.diag(self._gram).any()

    @property
    def importance(self) -> Float32:
        """Mean squared input of every column, (n_in,), for quantizing."""
        self._sum_up()
        return (np.diag(self._gram) / max(self.weight, 1e-300)).astype(np.float32)

    def _sum_up(self) -> None:
        if not self._waiting:
            return
        self._right = None
        inputs, targets, weights = (
            np.concatenate([part[i] for part in self._waiting], dtype=self._dtype) for i in range(3)
        )
        self._waiting.clear()
        inputs *= np.sqrt(weights)[:, None]
        targets *= np.sqrt(weights)[:, None]
        with np.errstate(invalid="ignore", over="ignore"):  # `solve` says what is wrong
            for start in range(0, len(self._gram), TILE):
                rows = inputs[:, start : start + TILE].T
                self._gram[start : start + TILE, : start + TILE] += rows @ inputs[:, : start + TILE]
                self.cross[start : start + TILE] += rows @ targets
        self._is_half = True


def relative_weights(stream: Float32) -> Float64:
    """One over the mean square of each token's vector, (n_token,).

    What follows in a model is a norm, so the relative error counts; and the first tokens of a
    chunk, hundreds of times as large as the others, would be all that is fitted.
    """
    mean_square = np.mean(np.square(stream, dtype=np.float64), axis=1)
    tiny = max(float(mean_square.max()) * 1e-12, 1e-300)
    return np.asarray(1 / np.maximum(mean_square, tiny), np.float64)


def weighted_error(matrix: Float32, inputs: Float32, targets: Float32, weights: Float64) -> float:
    """sum_t w_t |W z_t - y_t|^2."""
    squares = np.square(inputs @ matrix.T - targets).sum(axis=1, dtype=np.float64)
    return float(squares @ weights)


def _mirror(matrix: Float64) -> None:
    """Write what is below the diagonal above it, too, a few rows at a time."""
    for start in range(0, len(matrix), TILE):
        end = min(start + TILE, len(matrix))
        matrix[start:end, end:] = matrix[end:, start:end].T
        corner = np.tril(matrix[start:end, start:end])
        matrix[start:end, start:end] = corner + np.tril(corner, -1).T
