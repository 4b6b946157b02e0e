"""Fitting the output matrices of routed experts: each from the tokens that were sent to it.

What is missing in the stream behind the layer is shared out to a token's experts by the square of
their gates, the smallest change of all that makes up for it: with gates g_k and a residual r,
expert k's product is to change by r g_k / sum g^2. The change of each matrix is then a fit of its
own. Experts with too few tokens stay; so do all of them where the stream that llama.cpp computes
with the new ones is no nearer to the original's on chunks set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ggprune.healing.leastsquares import Moments, relative_weights
from ggprune.healing.matrix import Stored, fit, store
from ggprune.healing.result import ROWS_PER_INPUT
from ggprune.metrics.estimates import Float32, Float64
from ggprune.model.types import TensorType


@dataclass(frozen=True)
class ExpertRows:
    """One chunk: which experts a token was sent to, and what is missing behind the layer."""

    inputs: Float32  # (n_token * n_used, n_in), those of a token one behind the other
    gates: Float32  # (n_token * n_used, 1)
    experts: Float32  # (n_token, n_used) numbers
    residual: Float32  # (n_token, n_out)
    target: Float32  # (n_token, n_out) the original's stream

    def of(self, expert: int) -> tuple[Float32, Float32, Float64]:
        """Inputs of an expert, how its products should change, and how much that counts."""
        gates = self.gates.reshape(self.experts.shape).astype(np.float64)
        token, place = np.nonzero(self.experts == expert)
        inputs = self.inputs.reshape(*self.experts.shape, -1)[token, place]
        gate = gates[token, place]
        whole = np.maximum(np.square(gates).sum(axis=1)[token], 1e-30)
        wanted = self.residual[token] * (gate / whole)[:, None].astype(np.float32)
        return inputs, wanted, relative_weights(self.target)[token] * np.square(gate)


ReadChunks = Callable[[bool], Iterator[ExpertRows]]  # those set aside, or those to fit


def fit_experts(
    old: Stored, n_expert: int, kind: TensorType, ridge: float | None, read: ReadChunks
) -> tuple[Stored, list[float]]:
    """All experts' matrices, (n_expert * n_out, n_in), and the ridges of those that were fitted."""
    n_in = old.matrix.shape[1]
    parts: list[Stored] = []
    ridges: list[float] = []
    for expert, matrix in enumerate(np.split(old.matrix, n_expert)):
        moments = Moments(n_in, len(matrix))
        for rows in read(False):
            moments.add(*rows.of(expert))
        if moments.n_token < ROWS_PER_INPUT * n_in or moments.is_empty:
            parts.append(_unchanged(old, expert, n_expert, kind))
            continue
        importance = moments.importance
        aside = [rows.of(expert) for rows in read(True)]
        change, chosen = fit(moments, np.zeros_like(matrix), ridge, partial(_error, aside))
        parts.append(store(matrix + change, kind, importance))
        ridges.append(chosen)
    floats = np.concatenate([part.matrix for part in parts])
    return Stored(floats, np.concatenate([part.raw for part in parts]), kind), ridges


def _unchanged(old: Stored, expert: int, n_expert: int, kind: TensorType) -> Stored:
    matrix = np.split(old.matrix, n_expert)[expert]
    if kind == old.type:
        return Stored(matrix, np.split(old.raw, n_expert)[expert], kind)
    return store(matrix, kind, np.ones(matrix.shape[1], np.float32))


def _error(aside: list[tuple[Float32, Float32, Float64]], change: Float32) -> float:
    total = 0.0
    for inputs, wanted, weights in aside:
        squares = np.square(inputs @ change.T - wanted).sum(axis=1, dtype=np.float64)
        total += float(np.dot(squares, weights))
    return total
