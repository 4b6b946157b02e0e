"""Changes of low rank, against answers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from ggprune.healing.lowrank import low_rank
from ggprune.metrics.estimates import Float64

N_OUT, N_IN = 12, 20


def random_matrix(*shape: int, seed: int = 0) -> Float64:
    values: Float64 = np.random.default_rng(seed).standard_normal(shape)
    return values


def second_moments(seed: int = 1) -> Float64:
    """Of inputs whose columns are of different sizes, (N_IN, N_IN)."""
    inputs = random_matrix(200, N_IN, seed=seed) * np.geomspace(0.1, 10, N_IN)
    return np.asarray(inputs.T @ inputs)


def approximation(change: Float64, gram: Float64, rank: int, ridge: float = 0.0) -> Float64:
    a, b = low_rank(change, gram, rank, ridge=ridge)
    return b.astype(np.float64) @ a


def squared_error(difference: Float64, metric: Float64) -> float:
    return float(np.trace(difference @ metric @ difference.T))


def test_a_change_of_that_rank_is_found_again() -> None:
    change = random_matrix(N_OUT, 3) @ random_matrix(3, N_IN, seed=2)
    found = approximation(change, second_moments(), 3)
    np.testing.assert_allclose(found, change, atol=1e-5 * np.abs(change).max())


def test_shapes_and_a_rank_that_is_larger_than_the_matrix() -> None:
    change = random_matrix(N_OUT, N_IN)
    a, b = low_rank(change, second_moments(), 5)
    assert (a.shape, b.shape) == ((5, N_IN), (N_OUT, 5))
    assert a.dtype == b.dtype == np.float32
    a, b = low_rank(change, second_moments(), 100)
    assert (a.shape, b.shape) == ((N_OUT, N_IN), (N_OUT, N_OUT))
    np.testing.assert_allclose(b @ a, change, atol=1e-5)
    a, b = low_rank(change.T, np.eye(N_OUT), 100)  # fewer inputs than outputs
    assert (a.shape, b.shape) == ((N_OUT, N_OUT), (N_IN, N_OUT))
    np.testing.assert_allclose(b @ a, change.T, atol=1e-5)


def test_of_even_inputs_it_is_the_plain_svd() -> None:
    change = random_matrix(N_OUT, N_IN)
    u, s, vt = np.linalg.svd(change, full_matrices=False)
    found = approximation(change, 7 * np.eye(N_IN), 4)
    np.testing.assert_allclose(found, u[:, :4] * s[:4] @ vt[:4], atol=1e-5)
    a, b = low_rank(change, np.eye(N_IN), 4)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1) ** 2, s[:4], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(b, axis=0) ** 2, s[:4], rtol=1e-5)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_what_is_lost_are_the_singular_values_that_are_left_out(ridge: float) -> None:
    change, gram = random_matrix(N_OUT, N_IN), second_moments()
    metric = gram + ridge * np.mean(np.diag(gram)) * np.eye(N_IN)
    dropped = np.linalg.svd(change @ np.linalg.cholesky(metric), compute_uv=False)[4:]
    lost = squared_error(change - approximation(change, gram, 4, ridge), metric)
    assert lost == pytest.approx(np.sum(dropped**2), rel=1e-5)


def test_what_inputs_have_much_of_is_kept() -> None:
    """Output 0 changes little, by an input that is large; output 1 much, by one that is small."""
    change = np.zeros((N_OUT, N_IN))
    change[0, 0], change[1, 1] = 0.1, 1.0
    gram = np.eye(N_IN)
    gram[0, 0] = 1e4
    found = approximation(change, gram, 1)
    assert found[0, 0] == pytest.approx(0.1)
    assert np.abs(found[1:]).max() < 1e-6
    assert approximation(change, np.eye(N_IN), 1)[1, 1] == pytest.approx(1.0)


def test_inputs_that_never_come_need_no_metric_of_full_rank() -> None:
    change, seen = random_matrix(N_OUT, N_IN), random_matrix(6, N_IN, seed=3)
    found = approximation(change, seen.T @ seen, 6)
    np.testing.assert_allclose(found @ seen.T, change @ seen.T, atol=1e-4)


def test_no_change_is_no_adapter() -> None:
    a, b = low_rank(np.zeros((N_OUT, N_IN)), second_moments(), 3)
    assert not a.any()
    assert not b.any()
