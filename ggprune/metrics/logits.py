"""From logits to numbers per token: negative log-likelihood, KL divergence, agreement.

All formulas and error bars are llama-perplexity's (tools/perplexity/perplexity.cpp) unless said
otherwise; sums run in float64. Logarithms are natural, so everything is in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import NonFiniteError
from ggprune.metrics.chunks import Tokens
from ggprune.metrics.estimates import Float32, Float64

NOT_FINITE = "its logits are not finite (NaN or infinity)"
Fill = Callable[[slice, Float32], None]  # which rows, and memory to compute in
BLOCK_VALUES = 1 << 19  # logits handled at once by one thread: 2 MiB stay in the cache


@dataclass(frozen=True)
class TokenScores:
    """What the model says about each scored token."""

    nll: Float64  # (n_token,) nats
    top: NDArray[np.int64]  # (n_token,) the most likely token
    log_sum_exp: Float64  # (n_token,) of the logits; 0 where these are log-probabilities

    @property
    def p(self) -> Float64:
        """Probability of the token that came, (n_token,)."""
        return np.exp(-self.nll)


@dataclass(frozen=True)
class Comparison:
    """A changed model beside the base, token by token."""

    scores: TokenScores
    base: TokenScores
    kld: Float64  # (n_token,) KL(base || changed), nats

    @property
    def delta_p(self) -> Float64:
        return self.scores.p - self.base.p  # (n_token,)

    @property
    def same_top(self) -> NDArray[np.bool_]:
        return np.equal(self.scores.top, self.base.top)  # (n_token,)


@dataclass(frozen=True)
class BaseLogits:
    """Logits of the unpruned model on some tokens, ready to be compared with."""

    logits: Float32  # (n_token, n_vocab)
    scores: TokenScores

    def compare(self, logits: Float32, targets: Tokens, n_threads: int = 1) -> Comparison:
        """KL divergence over the whole vocabulary: sum of p_base (log p_base - log p).

        Written as the difference of logits, so that equal logits give exactly zero.
        """
        scores, kld = score_tokens(logits, targets, n_threads), np.empty(len(logits))
        base, lse = self.scores.log_sum_exp, scores.log_sum_exp

        def fill(rows: slice, scratch: Float32) -> None:
            p, difference = scratch
            np.subtract(self.logits[rows], base[rows, None].astype(np.float32), out=p)
            np.exp(p, out=p)  # (n_row, n_vocab)
            p *= np.subtract(self.logits[rows], logits[rows], out=difference)
            kld[rows] = p.sum(axis=1, dtype=np.float64) - base[rows] + lse[rows]

        for_blocks(fill, logits.shape, n_threads, n_scratch=2)
        if not np.isfinite(kld).all():
            raise NonFiniteError("the KL divergence is not finite: a logit is minus infinity")
        return Comparison(scores, self.scores, kld)


def base_logits(logits: Float32, targets: Tokens, n_threads: int = 1) -> BaseLogits:
    """As `score_tokens`, keeping a copy of the logits to compare with."""
    kept = logits.copy()
    return BaseLogits(kept, score_tokens(kept, targets, n_threads))


def score_tokens(logits: Float32, targets: Tokens, n_threads: int = 1) -> TokenScores:
    """logits: (n_token, n_vocab), targets: (n_token,) the tokens that came.

    Raises NonFiniteError if a logit is not finite.
    """
    lse, top = log_sum_exp(logits, n_threads)
    chosen = logits[np.arange(len(logits)), targets].astype(np.float64)
    return TokenScores(lse - chosen, top, lse)


def log_sum_exp(logits: Float32, n_threads: int) -> tuple[Float64, NDArray[np.int64]]:
    """(n_token,) log of the summed exponentials and (n_token,) index of the largest logit."""
    lse, top = np.empty(len(logits)), np.empty(len(logits), np.int64)

    def fill(rows: slice, scratch: Float32) -> None:
        block, p = logits[rows], scratch[0]
        top[rows] = block.argmax(axis=1)
        largest = np.take_along_axis(block, top[rows, None], axis=1)  # (n_row, 1)
        with np.errstate(invalid="ignore"):  # infinities are reported below
            np.exp(np.subtract(block, largest, out=p), out=p)
            total = p.sum(axis=1, dtype=np.float64)
        lse[rows] = largest[:, 0] + np.log(total)

    for_blocks(fill, logits.shape, n_threads)
    if not np.isfinite(lse).all():
        raise NonFiniteError(NOT_FINITE)
    return lse, top


def for_blocks(fill: Fill, shape: tuple[int, ...], n_threads: int, n_scratch: int = 1) -> None:
    """Call `fill` for slices of rows; numpy lets go of the interpreter lock meanwhile.

    It is given arrays to compute in, (n_scratch, n_row, n_column): new memory for every block takes
    longer to get than the arithmetic.
    """
    n_row, n_column = shape
    step = max(1, min(n_row, BLOCK_VALUES // n_column))
    starts = iter(range(0, n_row, step))  # shared: whoever is done takes the next one

    def work(_: int) -> None:
        scratch = np.empty((n_scratch, step, n_column), np.float32)
        for start in starts:
            rows = slice(start, min(start + step, n_row))
            fill(rows, scratch[:, : rows.stop - start])

    n_worker = min(n_threads, -(-n_row // step))
    if n_worker <= 1:
        work(0)
        return
    with ThreadPoolExecutor(n_worker) as pool:
        list(pool.map(work, range(n_worker)))
