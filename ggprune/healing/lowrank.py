"""The best approximation of a fitted matrix's change by one of low rank.

What the fit has minimized, the weighted squares and the ridge, grows by tr((D - B A) M (D - B A)^T)
where B A takes the place of its change D, with M = G + r I and G = sum w z z^T. With M = L L^T the
least of that is the truncated SVD of D L = U S V^T, thus B A L = U_k U_k^T D L (reduced-rank
regression). U are the eigenvectors of D M D^T and A = U_k^T D, so that no root of M is needed.
Knows nothing of models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from ggprune.metrics.estimates import Float32, Float64


def low_rank(
    change: NDArray[np.floating], gram: Float64, rank: int, *, ridge: float = 0.0
) -> tuple[Float32, Float32]:
    """A, (k, n_in), and B, (n_out, k), with B A near the change, (n_out, n_in).

    k is the rank, or less where the matrix is smaller. Row i of A is as long as column i of B, and
    the first count most. `gram`: (n_in, n_in); `ridge`: as a share of the mean of its diagonal.
    """
    wide = np.asarray(change, np.float64)
    n_out, n_in = wide.shape
    k = min(rank, n_out, n_in)
    strength = ridge * float(np.mean(np.diag(gram)))
    seen = (wide @ gram) @ wide.T + strength * (wide @ wide.T)
    _, vectors = eigh((seen + seen.T) / 2, subset_by_index=(n_out - k, n_out - 1))
    left = vectors[:, ::-1]  # (n_out, k), the strongest first
    right = left.T @ wide  # (k, n_in)
    balance = np.sqrt(np.linalg.norm(right, axis=1))
    right /= np.where(balance > 0, balance, 1)[:, None]
    return right.astype(np.float32), (left * balance).astype(np.float32)
