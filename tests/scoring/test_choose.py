"""Sets of layers, on a model small enough to try all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from ggprune.arch import legal_drop
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.files.documents import to_text as to_json
from ggprune.metrics.text import read_text
from ggprune.model import Model
from ggprune.pipeline.rank import choose_path
from ggprune.scoring import (
    Choice,
    Goal,
    Limits,
    Strategy,
    Target,
    Wanted,
    choose_set,
    parse_metric,
    rank,
    read_scores,
    search,
)
from ggprune.scoring.choice import parse_strategy
from ggprune.scoring.measure import Layers, Measurer, Rows
from tests.arch.families import FAMILIES
from tests.conftest import CALIBRATION

N_CTX, N_CHUNK = 256, 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scores")


def layers(n: int) -> Target:
    return Target(Goal.LAYERS, n)


def chosen(model: Model, wanted: Wanted, cache: Path) -> Choice:
    with Measurer(
        model, read_text(CALIBRATION), n_ctx=N_CTX, n_chunk=N_CHUNK, cache=cache
    ) as measurer:
        return choose_set(measurer, wanted)


@pytest.mark.parametrize("k", [2, 3])
def test_search_finds_the_best_of_all_sets(tiny: Model, cache: Path, k: int) -> None:
    found = {s: chosen(tiny, Wanted(layers(k), s), cache) for s in Strategy}
    best = found[Strategy.EXHAUSTIVE].best.kld.value
    assert found[Strategy.EXHAUSTIVE].n_set == len(list(combinations(range(9), k)))
    assert found[Strategy.SEARCH].best.kld.value <= 1.05 * best
    assert found[Strategy.SEARCH].n_set < found[Strategy.EXHAUSTIVE].n_set
    assert all(len(c.drop) == k and c.best.kld.value >= best / 1.001 for c in found.values())
    assert found[Strategy.SEARCH].best.kld.value <= found[Strategy.ONESHOT].best.kld.value


def test_protected_layers_stay(tiny: Model, cache: Path) -> None:
    free = chosen(tiny, Wanted(layers(2), Strategy.GREEDY), cache)
    other = chosen(tiny, Wanted(layers(2), Strategy.GREEDY, protect=free.drop), cache)
    assert not set(other.drop) & set(free.drop)
    assert other.best.kld.value > free.best.kld.value


def test_only_legal_sets_are_tried(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next(f for f in FAMILIES if f.name == "afmoe").make(tmp_path)
    tokens = [[int(i * 37 + j * 11) % 128 for j in range(64)] for i in range(3)]
    monkeypatch.setattr("ggprune.scoring.measure.make_chunks", lambda *_: _array(tokens))
    tried: list[Layers] = []
    right = Measurer.measure

    def measure(self: Measurer, i: int, sets: Sequence[Layers], within: Layers = ()) -> list[Rows]:
        tried.extend(sets)
        return right(self, i, sets, within)

    monkeypatch.setattr(Measurer, "measure", measure)
    with Measurer(model, read_text(CALIBRATION), n_ctx=64) as measurer:
        drop = choose_set(measurer, Wanted(layers(4))).drop
        assert legal_drop(model, drop)
        assert [s for s in tried if not legal_drop(model, s)] == []
        with pytest.raises(ArchitectureError, match="no set of 3 layers"):
            choose_set(measurer, Wanted(layers(3), Strategy.WINDOW, protect=(9, 10, 11)))


def _array(tokens: list[list[int]]) -> object:
    import numpy as np

    return np.array(tokens, np.int32)


def test_too_many_sets(tiny: Model, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_SETS", 10)
    with pytest.raises(UsageError, match="36 sets are too many"):
        chosen(tiny, Wanted(layers(2), Strategy.EXHAUSTIVE), cache)
    with pytest.raises(UsageError, match="one of oneshot, greedy"):
        parse_strategy("best")


def test_a_choice_is_kept_with_the_ranking(tiny: Model, cache: Path, tmp_path: Path) -> None:
    told: list[str] = []
    ranking = rank(
        tiny, read_text(CALIBRATION), n_ctx=N_CTX, n_chunk=N_CHUNK, cache=cache,
        wanted=Wanted(layers(2)), narrate=told.append,
    )  # fmt: skip
    assert ranking.chosen is not None
    assert told
    path = tmp_path / "scores.json"
    path.write_text(to_json(ranking.to_json()))
    scores = read_scores(path)
    assert scores.chosen == ranking.chosen.drop
    assert scores.order == ranking.order
    assert [len(point.drop) for point in ranking.chosen.front] == [0, 1, 2]
    assert ranking.chosen.front[0].kld.value == 0


def test_simpler_choices_stand_beside(tiny: Model, cache: Path) -> None:
    choice = chosen(tiny, Wanted(layers(3)), cache)
    beside = dict(choice.others)
    for strategy in (Strategy.ONESHOT, Strategy.GREEDY):
        direct = chosen(tiny, Wanted(layers(3), strategy), cache)
        assert beside[strategy].drop == direct.drop
        assert beside[strategy].kld == direct.best.kld


def test_targets_take_as_few_layers_as_they_need(tiny: Model, cache: Path) -> None:
    size = tiny.size_bytes
    greedy = Strategy.GREEDY
    by_size = chosen(tiny, Wanted(Target(Goal.SIZE, 0.8 * size), greedy), cache)
    assert by_size.best.footprint.size_bytes <= 0.8 * size < by_size.front[-2].footprint.size_bytes
    faster = chosen(tiny, Wanted(Target(Goal.SPEEDUP, 1.2), greedy), cache)
    assert faster.best.speedup >= 1.2 > faster.front[-2].speedup
    fewer = chosen(tiny, Wanted(Target(Goal.PARAMS, 0.8 * tiny.n_param), greedy), cache)
    assert fewer.best.footprint.n_param <= 0.8 * tiny.n_param
    percent = chosen(tiny, Wanted(Target(Goal.PERCENT, 20), greedy), cache)
    assert len(percent.drop) == 2  # of 9
    with pytest.raises(UsageError, match="not reached with 8 of 9 layers"):
        chosen(tiny, Wanted(Target(Goal.SIZE, 1000)), cache)
    with pytest.raises(UsageError, match="reached already"):
        chosen(tiny, Wanted(Target(Goal.SIZE, 2 * size)), cache)


def test_limits_alone_take_as_many_layers_as_they_allow(tiny: Model, cache: Path) -> None:
    path = chosen(tiny, Wanted(layers(4), Strategy.GREEDY), cache).front
    limit = (path[2].kld.value + path[3].kld.value) / 2
    within = chosen(tiny, Wanted(None, Strategy.GREEDY, Limits(kld=limit)), cache)
    assert within.drop == path[2].drop
    ratio = (path[1].ppl_ratio.value + path[2].ppl_ratio.value) / 2
    within = chosen(tiny, Wanted(None, Strategy.GREEDY, Limits(ppl_ratio=ratio)), cache)
    assert within.drop == path[1].drop
    with pytest.raises(DataError, match="more than --max-kld"):
        chosen(tiny, Wanted(layers(4), Strategy.GREEDY, Limits(kld=limit)), cache)
    with pytest.raises(DataError, match="more than --max-kld 1e-09"):
        chosen(tiny, Wanted(None, Strategy.GREEDY, Limits(kld=1e-9)), cache)
    with pytest.raises(UsageError, match="say how many"):
        chosen(tiny, Wanted(None), cache)


def test_a_large_search_tries_a_part_of_the_exchanges(
    tiny: Model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_EXCHANGES", 6)
    choice = chosen(tiny, Wanted(layers(3)), cache)
    assert max(step.n_set for step in choice.steps if "exchange" in step.what) == 7
    assert choice.best.kld.value <= dict(choice.others)[Strategy.GREEDY].kld.value


def test_metrics_lead_simple_strategies(tiny: Model, cache: Path) -> None:
    """Oneshot takes the metric's order; the similarity of runs replaces the race of windows."""
    options = {"n_ctx": N_CTX, "n_chunk": N_CHUNK, "cache": cache}
    text = read_text(CALIBRATION)
    by_bi = rank(tiny, text, by=parse_metric("bi"), wanted=Wanted(layers(2), Strategy.ONESHOT),
                 **options)  # type: ignore[arg-type]  # fmt: skip
    assert by_bi.chosen is not None
    assert by_bi.chosen.drop == tuple(sorted(by_bi.order[:2]))
    runs = rank(tiny, text, by=parse_metric("angular"), wanted=Wanted(layers(3), Strategy.WINDOW),
                **options)  # type: ignore[arg-type]  # fmt: skip
    assert runs.chosen is not None
    first = min(range(7), key=lambda n: runs.windows[n, n + 3])
    assert runs.chosen.drop == (first, first + 1, first + 2)
    assert runs.chosen.steps == ()
    plus = rank(tiny, text, by=parse_metric("kld+"), wanted=Wanted(layers(2)), **options)  # type: ignore[arg-type]
    assert plus.chosen is not None
    assert set(plus.chosen.drop) <= {4, 5, 6}
    assert set(plus.order[:3]) == {4, 5, 6}


def test_what_a_ranking_protects_stays_when_it_is_chosen_from(
    tiny: Model, cache: Path, tmp_path: Path
) -> None:
    text, path = read_text(CALIBRATION), tmp_path / "scores.json"
    ranking = rank(tiny, text, n_ctx=N_CTX, n_chunk=N_CHUNK, cache=cache, by=parse_metric("kld+"))
    path.write_text(to_json(ranking.to_json()))
    wanted = Wanted(layers(2), Strategy.GREEDY)
    assert set(choose_path(tiny.path, text, read_scores(path), wanted, cache=cache).drop) <= {
        4,
        5,
        6,
    }
