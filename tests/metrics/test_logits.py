from __future__ import annotations

import math

import numpy as np
import pytest

from ggprune.errors import LlamaError
from ggprune.files.documents import encode
from ggprune.metrics.estimates import mean_estimate, ppl_estimate, share_estimate
from ggprune.metrics.logits import base_logits, log_sum_exp, score_tokens
from ggprune.metrics.similarity import cosine


def random_logits(n_token: int = 40, n_vocab: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 4, (n_token, n_vocab)).astype(np.float32)


def targets(n_token: int = 40, n_vocab: int = 300) -> np.ndarray:
    return np.random.default_rng(9).integers(0, n_vocab, n_token, dtype=np.int32)


def test_uniform_logits_have_the_perplexity_of_the_vocabulary() -> None:
    scores = score_tokens(np.full((40, 300), 3.5, np.float32), targets())
    ppl = ppl_estimate(scores.nll)
    assert ppl.value == pytest.approx(300)
    assert ppl.se == pytest.approx(0, abs=1e-6)
    assert np.allclose(scores.p, 1 / 300)


def test_equal_logits_have_no_divergence_at_all() -> None:
    logits = random_logits()
    result = base_logits(logits, targets()).compare(logits, targets())
    assert (result.kld == 0).all()
    assert result.same_top.all()


def test_two_outcomes_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    base = np.log(np.array([[0.75, 0.25]], np.float32))
    other = np.zeros((1, 2), np.float32)
    came = np.array([1], np.int32)
    result = base_logits(base, came).compare(other, came)
    assert result.kld[0] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert result.scores.nll[0] == pytest.approx(math.log(2))
    assert result.same_top[0]  # a tie goes to the first token, as in llama.cpp


def test_the_divergence_is_that_of_float64_arithmetic() -> None:
    a, b = random_logits(seed=1), random_logits(seed=2)
    result = base_logits(a, targets()).compare(b, targets())
    p, q = (x.astype(np.float64) for x in (a, b))
    log_p = p - np.log(np.exp(p).sum(1, keepdims=True))
    log_q = q - np.log(np.exp(q).sum(1, keepdims=True))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(1)
    assert np.allclose(result.kld, expected, rtol=1e-5)
    assert np.allclose(result.scores.nll, -log_q[np.arange(40), targets()], rtol=1e-6)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_large_vocabularies_are_worked_in_blocks(n_threads: int) -> None:
    shape = (50, 100_000)
    a = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    b = a + np.float32(0.25)  # the same probabilities
    came = targets(50, 100_000)
    result = base_logits(a, came, n_threads).compare(b, came, n_threads)
    assert np.abs(result.kld).max() < 1e-5
    assert result.same_top.all()


def test_the_base_keeps_its_own_copy() -> None:
    logits = random_logits()
    base = base_logits(logits, targets())
    logits[:] = 0
    assert np.array_equal(base.logits, random_logits())


def test_numbers_that_are_none_are_errors() -> None:
    for bad in (np.nan, np.inf):
        logits = random_logits()
        logits[3, 7] = bad
        with pytest.raises(LlamaError, match="not finite"):
            score_tokens(logits, targets())


def test_estimates_by_hand() -> None:
    mean = mean_estimate(np.array([1.0, 2.0, 3.0]))
    assert (mean.value, mean.n) == (2.0, 3)
    assert mean.se == pytest.approx(math.sqrt((2 / 3) / 2))
    ppl = ppl_estimate(np.array([1.0, 2.0, 3.0]))
    assert ppl.value == pytest.approx(math.exp(2))
    assert ppl.se == pytest.approx(math.exp(2) * mean.se)
    share = share_estimate(np.array([True, True, False, True]))
    assert share.value == 0.75
    assert share.se == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert mean_estimate(np.array([5.0])).se == 0


def test_a_perplexity_beyond_all_numbers_is_infinite_and_null_in_json() -> None:
    assert encode(ppl_estimate(np.array([800.0, 900.0]))) == {"value": None, "se": None}


def test_cosine() -> None:
    a = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    b = np.array([[0, 2], [2, 2], [1, 0]], np.float32)
    assert cosine(a, b) == pytest.approx([0, 1, 1])  # nothing in, nothing changed


def test_no_rows_have_no_scores() -> None:
    for n_threads in (1, 2):
        lse, top = log_sum_exp(np.empty((0, 7), np.float32), n_threads)
        assert (lse.shape, top.shape) == ((0,), (0,))
