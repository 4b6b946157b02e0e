from __future__ import annotations

import numpy as np
import pytest

from ggprune.scoring.race import is_worse, ranked, survivors, undecided_pairs


def chunks(mean: float, n: int = 4, noise: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [mean + noise * rng.normal(size=100) for _ in range(n)]


def test_what_is_clear_leaves_and_what_is_open_stays() -> None:
    seen = {"a": chunks(1), "b": chunks(2), "c": chunks(3.0, noise=1, seed=1),
            "d": chunks(3.01, noise=1, seed=2), "e": chunks(9)}  # fmt: skip
    assert ranked(seen)[:2] == ["a", "b"]
    assert survivors(seen, 2, 0.95, 40) == []
    assert set(survivors(seen, 3, 0.95, 40)) == {"c", "d"}


def test_one_chunk_decides_little() -> None:
    far = {"a": chunks(1, 1, noise=1), "b": chunks(9, 1, noise=1, seed=1)}
    assert survivors(far, 1, 0.95, 40) == []
    near = {"a": chunks(1, 1, noise=1), "b": chunks(1.5, 1, noise=1, seed=1)}
    assert survivors(near, 1, 0.95, 40) == ["a", "b"]


def test_all_of_the_text_decides() -> None:
    """For this text; for others of its kind the order stays open."""
    seen = {"a": chunks(1, 6, noise=1), "b": chunks(1.01, 6, noise=1, seed=0)}
    seen["b"][0] = seen["b"][0] + 0.02
    seen["b"][1] = seen["b"][1] - 0.06
    assert sorted(survivors(seen, 1, 0.95, 7)) == ["a", "b"]
    assert survivors(seen, 1, 0.95, 6) == []
    assert len(undecided_pairs(seen, 1, 0.95)) == 1


def test_noise_that_both_share_does_not_matter() -> None:
    shared = chunks(0, noise=10)
    a, b = [x + 1 for x in shared], [x + 1.01 for x in shared]
    assert is_worse(b, a, 3)
    assert not is_worse(chunks(1.01, noise=10, seed=5), chunks(1, noise=10, seed=6), 3)


def test_chunks_that_disagree_widen_the_error() -> None:
    zero = [np.zeros(1000)] * 8
    up_and_down = [np.full(1000, x) for x in (1.0, -0.9) * 4]
    assert not is_worse(up_and_down, zero, 2)


@pytest.mark.parametrize("seed", range(20))
def test_a_wrong_decision_is_rare(seed: int) -> None:
    """Twenty races of layers that differ: the same lowest three as with all of the data."""
    rng = np.random.default_rng(seed)
    means = np.array([0.1, 0.15, 0.2, 0.5, 0.6, 0.8, 1.2])
    text = [rng.gamma(1.0, 1.0, 200) for _ in range(40)]  # hard and easy tokens hit all alike
    data = {i: [m * t * rng.gamma(4.0, 0.25, 200) for t in text] for i, m in enumerate(means)}
    seen: dict[int, list[np.ndarray]] = {i: [] for i in data}
    active, used = list(data), 0
    for chunk in range(40):
        for i in active:
            used += chunk + 1 - len(seen[i])
            seen[i] = data[i][: chunk + 1]
        active = survivors(seen, 3, 0.95, 40)
        if not active:
            break
    assert ranked(seen)[:3] == ranked(data)[:3]
    assert used <= 40 * len(data) / 3
    assert undecided_pairs(seen, 3, 0.9) == []
