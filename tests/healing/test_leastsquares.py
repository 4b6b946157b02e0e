"""The fit of one matrix against a dense solution, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from ggprune.errors import LlamaError
from ggprune.healing.leastsquares import Moments, relative_weights
from ggprune.metrics.estimates import Float32, Float64


def dense(z: Float32, y: Float32, w: Float64, start: Float32, ridge: float) -> Float64:
    """The formula as it is written, all in float64."""
    inputs, targets = z.astype(np.float64), y.astype(np.float64)
    gram = (inputs * w[:, None]).T @ inputs
    strength = ridge * np.mean(np.diag(gram))
    right = (targets * w[:, None]).T @ inputs + strength * start
    return np.asarray(np.linalg.solve(gram + strength * np.eye(len(gram)), right.T).T)


def problem(n_token: int, n_in: int, n_out: int) -> tuple[Float32, Float32, Float64, Float32]:
    rng = np.random.default_rng(n_in)
    mixing = rng.normal(size=(n_in, n_in)) * np.geomspace(1, 0.01, n_in)
    z = (rng.normal(size=(n_token, n_in)) @ mixing).astype(np.float32)
    start = rng.normal(size=(n_out, n_in)).astype(np.float32)
    y = z @ (start + 0.1 * rng.normal(size=start.shape)).T
    y += rng.normal(size=y.shape)
    w = rng.uniform(0.1, 10, n_token)
    return z, y.astype(np.float32), w, start


@pytest.mark.parametrize(
    ("n_token", "n_in", "ridge", "tolerance"),
    # wide matrices are multiplied in 32-bit floats, which shows where little holds them back
    [(3000, 96, 0.003, 1e-6), (3000, 96, 0.3, 1e-6), (9000, 1280, 0.3, 1e-6),
     (9000, 1280, 0.003, 1e-5)],
)  # fmt: skip
def test_equals_the_dense_solution(n_token: int, n_in: int, ridge: float, tolerance: float) -> None:
    z, y, w, start = problem(n_token, n_in, 40)
    moments = Moments(n_in, 40)
    for rows in np.array_split(np.arange(n_token), 7):
        moments.add(z[rows], y[rows], w[rows])
    want = dense(z, y, w, start, ridge)
    got = moments.solve(start, ridge)
    assert np.linalg.norm(got - want) <= tolerance * np.linalg.norm(want)
    gram = moments.gram.copy()
    assert np.array_equal(got, moments.solve(start, ridge))  # the sums are still there
    assert np.array_equal(gram, moments.gram)
    assert np.array_equal(gram, gram.T)
    assert np.allclose(moments.importance, (w[:, None] * z**2).sum(0) / w.sum(), rtol=1e-5)


def test_recovers_the_matrix_that_made_the_targets() -> None:
    z, _, w, start = problem(2000, 32, 8)
    made = np.random.default_rng(1).normal(size=(8, 32)).astype(np.float32)
    moments = Moments(32, 8)
    moments.add(z, z @ made.T, w)
    assert np.allclose(moments.solve(start, 1e-10), made, atol=1e-3)


def test_a_strong_ridge_changes_nothing() -> None:
    z, y, w, start = problem(500, 32, 8)
    moments = Moments(32, 8)
    moments.add(z, y, w)
    assert np.allclose(moments.solve(start, 1e9), start, atol=1e-5)


def test_nothing_to_gain_changes_nothing() -> None:
    z, _, w, start = problem(500, 32, 8)
    moments = Moments(32, 8)
    moments.add(z, z @ start.T, w)
    assert np.allclose(moments.solve(start, 0.01), start, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_sums_that_are_not_finite_are_an_error(bad: float) -> None:
    z, y, w, start = problem(500, 32, 8)
    z[7, 3] = bad
    moments = Moments(32, 8)
    moments.add(z, y, w)
    with pytest.raises(LlamaError, match="not finite"):
        moments.solve(start, 0.3)


def test_weights_make_errors_relative() -> None:
    stream = np.array([[3.0, 4.0], [300.0, 400.0], [0.0, 0.0]], np.float32)
    weights = relative_weights(stream)
    assert weights[:2] == pytest.approx([1 / 12.5, 1 / 125000])
    assert np.isfinite(weights).all()
