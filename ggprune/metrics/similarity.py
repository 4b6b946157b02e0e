"""How much the residual stream changes between layers: nothing but one pass is needed.

Streams are lists of (n_token, n_embd) arrays: in front of every layer, and behind the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from ggprune.metrics.estimates import Float32, Float64


def influences(stream: Sequence[Float32]) -> Float64:
    """Block Influence, 1 - cos(input, output) per layer and token (ShortGPT)."""
    return np.stack([1 - cosine(a, b) for a, b in pairwise(stream)])


def relative_magnitudes(stream: Sequence[Float32]) -> Float64:
    """|output - input| / |output| per layer and token (Samragh et al.)."""
    rows = []
    for a, b in pairwise(x.astype(np.float64) for x in stream):
        change, size = np.linalg.norm(b - a, axis=1), np.linalg.norm(b, axis=1)
        rows.append(np.divide(change, size, out=np.zeros_like(change), where=size != 0))
    return np.stack(rows)


def angular_distances(stream: Sequence[Float32]) -> Float64:
    """arccos(cos(x_l, x_m)) / pi for all l < m, mean over the tokens (Gromov et al., eq. 7).

    Entry (l, m) belongs to the window of layers l..m-1.
    """
    distances, units = np.zeros((len(stream), len(stream))), []
    for x in stream:
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        units.append(np.divide(x, norms, out=np.zeros_like(x), where=norms != 0))
    for i, j in combinations(range(len(stream)), 2):
        dots = np.einsum("td,td->t", units[i], units[j], dtype=np.float32)
        distances[i, j] = np.mean(np.arccos(np.clip(dots, -1, 1), dtype=np.float64)) / np.pi
    return distances


def cosine(a: Float32, b: Float32) -> Float64:
    """Row-wise cosine of two residual streams, (n_token, n_embd) each."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    dots: Float64 = (x * y).sum(axis=1)
    ratio: Float64 = np.divide(dots, norms, out=np.ones_like(dots), where=norms != 0)
    return ratio
