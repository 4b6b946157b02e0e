from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from ggprune.metrics.text import read_text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.runtime.workers import KindInfo, WorkerInfo
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.race import Race, RaceRules, is_worse, ranked, survivors, undecided_pairs
from ggprune.scoring.remembered import open_rows
from ggprune.scoring.rows import NOTHING, BaseRows, Effort, Rows
from tests.conftest import CALIBRATION


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


@pytest.fixture(scope="module")
def measured(tiny: Model) -> dict[int, list[np.ndarray]]:
    """KL divergences of all tokens of the text, by layer and chunk."""
    with open_rows(tiny, read_text(CALIBRATION), MeasureOptions(n_ctx=512)) as source:
        layers = list(source.parts)
        cuts = [Cut.of((n,)) for n in layers]
        rows = [list(source.rows(i, cuts)) for i in range(source.n_chunk)]
    return {n: [chunk[j].kld for chunk in rows] for j, n in enumerate(layers)}


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_races_of_the_trained_model(measured: dict[int, list[np.ndarray]], k: int) -> None:
    """20 orders of its chunks: the same lowest k as with all of the text, with a third of it.

    The third and the fourth layer cost the same within half a percent: they may be exchanged, and
    take more text.
    """
    n_chunk, shares = len(measured[0]), []
    lowest = set(ranked(measured)[:k])
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(n_chunk)
        found, share = race({n: [chunks[i] for i in order] for n, chunks in measured.items()}, k)
        assert found == lowest or (k == 3 and found ^ lowest == {3, 4})
        shares.append(share)
    assert np.mean(shares) <= (0.55 if k == 3 else 1 / 3)


def race(data: dict[int, list[np.ndarray]], k: int) -> tuple[set[int], float]:
    """The lowest k, and the share of the tokens that they took."""
    n_chunk = len(data[0])
    race = run({Cut.of((n,)): chunks for n, chunks in data.items()}, RaceRules(n_lowest=k))
    lowest = {cut.layers[0] for cut in ranked(race.seen)[:k]}
    return lowest, sum(map(len, race.seen.values())) / (n_chunk * len(data))


def run(data: dict[Cut, list[np.ndarray]], rules: RaceRules) -> Race:
    race = Race(Known(data), list(data), rules)
    for lap in race.laps():
        race.lap(lap)
    return race


class Known:
    """A row source without a model, that writes down what it is asked for."""

    def __init__(self, data: dict[Cut, list[np.ndarray]]) -> None:
        self.data, self.n_chunk = data, len(next(iter(data.values())))
        self.parts, self.effort = dict[int, int](), Effort()
        self.divided = frozenset[int]()
        self.workers: tuple[WorkerInfo, ...] = ()
        self.kinds: tuple[KindInfo, ...] = ()
        self.expected: list[dict[Cut, int]] = []
        self.asked: list[tuple[int, list[Cut], Cut]] = []

    def expect(
        self, first: Mapping[Cut, int], within: Cut = NOTHING, *, is_sure: bool = False
    ) -> None:
        self.expected.append(dict(first))

    def base(self, number: int) -> BaseRows:
        raise NotImplementedError

    def rows(self, number: int, cuts: Sequence[Cut], within: Cut = NOTHING) -> Iterator[Rows]:
        self.asked.append((number, list(cuts), within))
        for cut in cuts:
            kld = self.data[cut][number]
            yield Rows(kld, 2 * kld, 3 * kld, kld > 1)


A, B, C = (Cut.of((n,)) for n in range(3))


def test_a_source_is_asked_for_all_cuts_of_a_chunk_at_once() -> None:
    source, within = Known({cut: chunks(1, 3) for cut in (A, B)}), Cut.of((7,), Unit.ATTN)
    race = Race(source, [A, B], RaceRules(n_lowest=None, by=lambda rows: rows.nll, within=within))
    taken: list[tuple[Cut, float]] = []
    assert list(race.laps()) == [0, 1, 2]  # without a decision nobody leaves
    for lap in race.laps():
        race.lap(lap, lambda cut, rows: taken.append((cut, float(rows.kld.mean()))))
    assert source.asked == [(n, [A, B], within) for n in range(3)]
    assert taken == [(cut, 1.0) for _ in range(3) for cut in (A, B)]
    assert [float(np.mean(race.seen[cut])) for cut in (A, B)] == [2, 2]


def test_one_that_comes_back_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stay = iter([[A, B], [A], [C, A], []])
    monkeypatch.setattr("ggprune.scoring.race.survivors", lambda *_: next(stay))
    source = Known({cut: chunks(1, 9) for cut in (A, B, C)})
    race = Race(source, [A, B, C], RaceRules(n_lowest=1))
    for lap in race.laps():
        race.lap(lap)
    asked = [(number, cuts) for number, cuts, _ in source.asked]
    assert asked[:3] == [(0, [A, B, C]), (1, [A, B]), (2, [A])]
    assert asked[3:] == [(1, [C]), (2, [C]), (3, [C, A])]
    assert source.expected == [{A: 0, B: 0, C: 0}, {A: 1, B: 1}, {A: 2}, {C: 1, A: 3}]
    assert {cut: len(seen) for cut, seen in race.seen.items()} == {A: 4, B: 2, C: 4}
