"""Sets of layers, on a model small enough to try all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from ggprune.arch import legal_drop
from ggprune.errors import ArchitectureError, UsageError
from ggprune.model import Model
from ggprune.report.jsontext import to_json
from ggprune.scoring import choose as choosing
from ggprune.scoring import load_chosen, load_order, rank, read_text
from ggprune.scoring.choose import Choice, Strategy, choose_set, parse_strategy
from ggprune.scoring.measure import Layers, Measurer, Rows
from tests.arch.families import FAMILIES
from tests.conftest import CALIBRATION

N_CTX, N_CHUNK = 256, 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scores")


def chosen(model: Model, k: int, strategy: Strategy, cache: Path, **options: object) -> Choice:
    with Measurer(
        model, read_text(CALIBRATION), n_ctx=N_CTX, n_chunk=N_CHUNK, cache=cache
    ) as measurer:
        return choose_set(measurer, k, strategy, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [2, 3])
def test_search_finds_the_best_of_all_sets(tiny: Model, cache: Path, k: int) -> None:
    found = {strategy: chosen(tiny, k, strategy, cache) for strategy in Strategy}
    best = found[Strategy.EXHAUSTIVE].kld.value
    assert found[Strategy.EXHAUSTIVE].n_set == len(list(combinations(range(9), k)))
    assert found[Strategy.SEARCH].kld.value <= 1.05 * best
    assert found[Strategy.SEARCH].n_set < found[Strategy.EXHAUSTIVE].n_set
    assert all(len(c.drop) == k and c.kld.value >= best / 1.001 for c in found.values())
    assert found[Strategy.SEARCH].kld.value <= found[Strategy.ONESHOT].kld.value


def test_protected_layers_stay(tiny: Model, cache: Path) -> None:
    free = chosen(tiny, 2, Strategy.GREEDY, cache)
    other = chosen(tiny, 2, Strategy.GREEDY, cache, protect=free.drop)
    assert not set(other.drop) & set(free.drop)
    assert other.kld.value > free.kld.value


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
        drop = choose_set(measurer, 4, Strategy.SEARCH).drop
        assert legal_drop(model, drop)
        assert [s for s in tried if not legal_drop(model, s)] == []
        with pytest.raises(ArchitectureError, match="no set of 3 layers"):
            choose_set(measurer, 3, Strategy.WINDOW, protect=(9, 10, 11))


def _array(tokens: list[list[int]]) -> object:
    import numpy as np

    return np.array(tokens, np.int32)


def test_too_many_sets(tiny: Model, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MAX_SETS", 10)
    with pytest.raises(UsageError, match="36 sets are too many"):
        chosen(tiny, 2, Strategy.EXHAUSTIVE, cache)
    with pytest.raises(UsageError, match="one of oneshot, greedy"):
        parse_strategy("best")


def test_a_choice_is_kept_with_the_ranking(tiny: Model, cache: Path, tmp_path: Path) -> None:
    told: list[str] = []
    ranking = rank(
        tiny, read_text(CALIBRATION), n_ctx=N_CTX, n_chunk=N_CHUNK, n_drop=2, cache=cache,
        narrate=told.append,
    )  # fmt: skip
    assert ranking.chosen is not None
    assert told
    path = tmp_path / "scores.json"
    path.write_text(to_json(ranking.to_json()))
    assert load_chosen(path, tiny, 2) == ranking.chosen.drop
    assert load_chosen(path, tiny, 3) is None
    assert load_order(path, tiny) == ranking.order
