"""Sets of layers, on a model small enough to try all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ggprune.arch.footprint import footprints_of
from ggprune.arch.legal import legal_drop
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.evaluation.perplexity import evaluate
from ggprune.files.documents import to_text
from ggprune.metrics.chunks import Chunks
from ggprune.metrics.text import read_text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import HALVES, Unit
from ggprune.scoring import search
from ggprune.scoring.choice import Choice, Strategy, parse_strategy
from ggprune.scoring.choose import ChooseOptions, choose, choose_set
from ggprune.scoring.measure import MeasuredRows, MeasureOptions
from ggprune.scoring.rank import RankOptions, rank
from ggprune.scoring.ranking import Ranking, parse_metric, read_ranking
from ggprune.scoring.remembered import open_rows
from ggprune.scoring.rows import NOTHING, Rows
from ggprune.scoring.target import DropRequest, Goal, Limits, Target
from tests.arch.families import FAMILIES
from tests.conftest import CALIBRATION
from tests.helpers import Steps, pruned_copy

N_CTX, N_CHUNK = 256, 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scores")


def layers(n: int) -> Target:
    return Target(Goal.LAYERS, n)


def chosen(model: Model, request: DropRequest, cache: Path) -> Choice:
    with open_rows(model, read_text(CALIBRATION), measuring(cache)) as source:
        return choose_set(model, source, request)


def measuring(cache: Path) -> MeasureOptions:
    return MeasureOptions(n_ctx=N_CTX, n_chunk=N_CHUNK, cache=cache)


@pytest.mark.parametrize("k", [2, 3])
def test_search_finds_the_best_of_all_sets(tiny: Model, cache: Path, k: int) -> None:
    found = {s: chosen(tiny, DropRequest(layers(k), s), cache) for s in Strategy}
    best = found[Strategy.EXHAUSTIVE].best.kld.value
    assert found[Strategy.EXHAUSTIVE].n_set == len(list(combinations(range(9), k)))
    assert found[Strategy.SEARCH].best.kld.value <= 1.05 * best
    assert found[Strategy.SEARCH].n_set < found[Strategy.EXHAUSTIVE].n_set
    assert all(c.drop.depth == k and c.best.kld.value >= best / 1.001 for c in found.values())
    assert found[Strategy.SEARCH].best.kld.value <= found[Strategy.ONESHOT].best.kld.value


def test_protected_layers_stay(tiny: Model, cache: Path) -> None:
    free = chosen(tiny, DropRequest(layers(2), Strategy.GREEDY), cache)
    other = chosen(tiny, DropRequest(layers(2), Strategy.GREEDY, protect=free.drop.layers), cache)
    assert not set(other.drop.layers) & set(free.drop.layers)
    assert other.best.kld.value > free.best.kld.value


def test_only_legal_sets_are_tried(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next(f for f in FAMILIES if f.name == "afmoe").make(tmp_path)
    tokens = [[int(i * 37 + j * 11) % 128 for j in range(64)] for i in range(3)]
    monkeypatch.setattr("ggprune.scoring.measure.make_chunks", lambda *_: _array(tokens))
    tried: list[Cut] = []
    right = MeasuredRows.rows

    def rows(
        self: MeasuredRows, number: int, cuts: Sequence[Cut], within: Cut = NOTHING
    ) -> Iterator[Rows]:
        tried.extend(cuts)
        return right(self, number, cuts, within)

    monkeypatch.setattr(MeasuredRows, "rows", rows)
    with open_rows(model, read_text(CALIBRATION), MeasureOptions(n_ctx=64)) as source:
        drop = choose_set(model, source, DropRequest(layers(4))).drop
        assert legal_drop(model, drop.whole_layers)
        assert tried
        assert [s for s in tried if not legal_drop(model, s.whole_layers)] == []
        with pytest.raises(ArchitectureError, match="no set of 3 layers"):
            request = DropRequest(layers(3), Strategy.WINDOW, protect=(9, 10, 11))
            choose_set(model, source, request)


def _array(tokens: list[list[int]]) -> Chunks:
    return Chunks(np.array(tokens, np.int32))


def test_too_many_sets(tiny: Model, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_SETS", 10)
    with pytest.raises(UsageError, match="36 sets are too many"):
        chosen(tiny, DropRequest(layers(2), Strategy.EXHAUSTIVE), cache)
    with pytest.raises(UsageError, match="one of oneshot, greedy"):
        parse_strategy("best")


def test_a_choice_is_kept_with_the_ranking(tiny: Model, cache: Path, tmp_path: Path) -> None:
    listener = Steps()
    options = RankOptions(measuring=measuring(cache), request=DropRequest(layers(2)))
    ranking = rank(tiny, read_text(CALIBRATION), options, listener)
    assert ranking.chosen is not None
    assert listener.told
    path = tmp_path / "scores.json"
    path.write_text(to_text(ranking))
    read = read_ranking(path)
    assert read.chosen is not None
    assert read.chosen.drop == ranking.chosen.drop
    assert read.order == ranking.order
    assert to_text(read) == to_text(ranking)
    assert [len(point.drop) for point in ranking.chosen.front] == [0, 1, 2]
    assert ranking.chosen.front[0].kld.value == 0


def test_simpler_choices_stand_beside(tiny: Model, cache: Path) -> None:
    choice = chosen(tiny, DropRequest(layers(3)), cache)
    beside = {other.strategy: other.point for other in choice.others}
    for strategy in (Strategy.ONESHOT, Strategy.GREEDY):
        direct = chosen(tiny, DropRequest(layers(3), strategy), cache)
        assert beside[strategy].drop == direct.drop
        assert beside[strategy].kld == direct.best.kld


def test_targets_take_as_few_layers_as_they_need(tiny: Model, cache: Path) -> None:
    size = tiny.size_bytes
    greedy = Strategy.GREEDY
    by_size = chosen(tiny, DropRequest(Target(Goal.SIZE, 0.8 * size), greedy), cache)
    assert by_size.best.footprint.size_bytes <= 0.8 * size < by_size.front[-2].footprint.size_bytes
    faster = chosen(tiny, DropRequest(Target(Goal.SPEEDUP, 1.2), greedy), cache)
    assert faster.best.speedup >= 1.2 > faster.front[-2].speedup
    fewer = chosen(tiny, DropRequest(Target(Goal.PARAMS, 0.8 * tiny.n_param), greedy), cache)
    assert fewer.best.footprint.n_param <= 0.8 * tiny.n_param
    percent = chosen(tiny, DropRequest(Target(Goal.PERCENT, 20), greedy), cache)
    assert len(percent.drop) == 2  # of 9
    with pytest.raises(UsageError, match="not reached with 8 of 9 layers"):
        chosen(tiny, DropRequest(Target(Goal.SIZE, 1000)), cache)
    with pytest.raises(UsageError, match="reached already"):
        chosen(tiny, DropRequest(Target(Goal.SIZE, 2 * size)), cache)


def test_limits_alone_take_as_many_layers_as_they_allow(tiny: Model, cache: Path) -> None:
    path = chosen(tiny, DropRequest(layers(4), Strategy.GREEDY), cache).front
    limit = (path[2].kld.value + path[3].kld.value) / 2
    within = chosen(tiny, DropRequest(None, Strategy.GREEDY, Limits(kld=limit)), cache)
    assert within.drop == path[2].drop
    ratio = (path[1].ppl_ratio.value + path[2].ppl_ratio.value) / 2
    within = chosen(tiny, DropRequest(None, Strategy.GREEDY, Limits(ppl_ratio=ratio)), cache)
    assert within.drop == path[1].drop
    with pytest.raises(DataError, match="more than --max-kld"):
        chosen(tiny, DropRequest(layers(4), Strategy.GREEDY, Limits(kld=limit)), cache)
    with pytest.raises(DataError, match="more than --max-kld 1e-09"):
        chosen(tiny, DropRequest(None, Strategy.GREEDY, Limits(kld=1e-9)), cache)
    with pytest.raises(UsageError, match="say how many"):
        chosen(tiny, DropRequest(None), cache)


def test_a_large_search_tries_a_part_of_the_exchanges(
    tiny: Model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_EXCHANGES", 6)
    choice = chosen(tiny, DropRequest(layers(3)), cache)
    assert max(step.n_set for step in choice.steps if "exchange" in step.what) == 7
    beside = {other.strategy: other.point for other in choice.others}
    assert choice.best.kld.value <= beside[Strategy.GREEDY].kld.value


def test_metrics_lead_simple_strategies(tiny: Model, cache: Path) -> None:
    """Oneshot takes the metric's order; the similarity of runs replaces the race of windows."""
    text = read_text(CALIBRATION)

    def ranked(metric: str, request: DropRequest) -> Ranking:
        options = RankOptions(measuring=measuring(cache), by=parse_metric(metric), request=request)
        return rank(tiny, text, options)

    by_bi = ranked("bi", DropRequest(layers(2), Strategy.ONESHOT))
    assert by_bi.chosen is not None
    assert by_bi.chosen.drop == Cut.of(by_bi.order[:2])
    runs = ranked("angular", DropRequest(layers(3), Strategy.WINDOW, whole=True))
    assert runs.chosen is not None
    first = min(range(7), key=lambda n: runs.windows[n, n + 3])
    assert runs.chosen.drop == Cut.of((first, first + 1, first + 2))
    assert runs.chosen.steps == ()
    plus = ranked("kld+", DropRequest(layers(2)))
    assert plus.chosen is not None
    assert set(plus.chosen.drop.layers) <= {4, 5, 6}
    assert set(plus.order[:3]) == {4, 5, 6}


def test_what_a_ranking_protects_stays_when_it_is_chosen_from(
    tiny: Model, cache: Path, tmp_path: Path
) -> None:
    text, path = read_text(CALIBRATION), tmp_path / "scores.json"
    options = RankOptions(measuring=measuring(cache), by=parse_metric("kld+"))
    path.write_text(to_text(rank(tiny, text, options)))
    request = DropRequest(layers(2), Strategy.GREEDY)
    choice = choose(tiny, text, read_ranking(path), request, ChooseOptions(cache=cache))
    assert set(choice.drop.layers) <= {4, 5, 6}


def test_runs_of_units_are_searched_for(tiny: Model, cache: Path, tmp_path: Path) -> None:
    """What is chosen is no worse than whole layers, and what was measured is the file."""
    request = DropRequest(layers(1))
    with open_rows(tiny, read_text(CALIBRATION), replace(measuring(cache), halves=True)) as source:
        assert source.divided == frozenset(range(9))
        choice = choose_set(tiny, source, request)
        pairs = [Cut.of_units((n, n + 1)) for n in range(17)]
        klds = {
            cut: float(np.mean([next(source.rows(i, [cut])).kld.mean() for i in range(N_CHUNK)]))
            for cut in pairs
        }
    others = {each.strategy: each.point.kld.value for each in choice.others}
    assert choice.best.kld.value <= others[Strategy.WHOLE]
    assert choice.best.kld.value <= 1.03 * min(klds.values())
    shifted = min((cut for cut in pairs if not cut.is_whole), key=klds.__getitem__)
    written = pruned_copy(tiny, shifted, tmp_path / "out.gguf")
    (row,) = evaluate(
        [written.path], read_text(CALIBRATION), base=tiny.path, n_ctx=N_CTX, n_chunk=N_CHUNK
    )
    assert row.divergence is not None
    assert row.divergence.kld.mean.value == pytest.approx(klds[shifted], rel=1e-6)


def test_runs_of_units_stay_away_from_protected_layers(tiny: Model, cache: Path) -> None:
    request = DropRequest(layers(2), Strategy.WINDOW, protect=(0, 1, 2, 3, 8))
    with open_rows(tiny, read_text(CALIBRATION), replace(measuring(cache), halves=True)) as source:
        choice = choose_set(tiny, source, request)
    assert set(choice.drop.layers) <= {4, 5, 6, 7}
    assert choice.drop.depth == 2


def test_a_search_without_halves_has_whole_layers() -> None:
    assert DropRequest(layers(1)).halves
    assert not DropRequest(layers(1), whole=True).halves
    assert not DropRequest(layers(1), Strategy.WHOLE).halves


@pytest.mark.parametrize("half", HALVES)
def test_attentions_and_ffns_alone_are_searched_for(
    half: Unit, tiny: Model, cache: Path, tmp_path: Path
) -> None:
    """As layers are; what is chosen is as good as the best of all sets, and what the file gives."""
    text = read_text(CALIBRATION)
    options = replace(measuring(cache), unit=half)
    found = {}
    for strategy in (Strategy.SEARCH, Strategy.WINDOW, Strategy.EXHAUSTIVE):
        request = DropRequest(layers(2), strategy)
        ranking = rank(tiny, text, RankOptions(measuring=options, request=request))
        assert ranking.chosen is not None
        found[strategy] = ranking.chosen.best
        assert {piece.unit for piece in ranking.chosen.drop} == {half}
        assert ranking.chosen.best.n_drop == 2
    best = found[Strategy.EXHAUSTIVE]
    assert found[Strategy.SEARCH].kld.value <= 1.05 * best.kld.value
    written = pruned_copy(tiny, best.drop, tmp_path / "out.gguf")
    (row,) = evaluate([written.path], text, base=tiny.path, n_ctx=N_CTX, n_chunk=N_CHUNK)
    assert row.divergence is not None
    assert row.divergence.kld.mean.value == pytest.approx(best.kld.value, rel=1e-6)
    assert footprints_of(written).without(()).token_bytes == best.footprint.token_bytes

    path = tmp_path / "scores.json"
    path.write_text(to_text(ranking))
    chosen_then = choose(tiny, text, read_ranking(path), request, ChooseOptions(cache=cache))
    assert chosen_then.drop == best.drop


@pytest.mark.parametrize("target", [layers(1), Target(Goal.SPEEDUP, 1.1), Target(Goal.SIZE, 7e6)])
def test_units_take_as_much_as_layers_and_lose_less(
    target: Target, tiny: Model, cache: Path
) -> None:
    """Beside every set of one or two units that takes enough."""
    request = DropRequest(target, Strategy.UNITS)
    with open_rows(tiny, read_text(CALIBRATION), replace(measuring(cache), halves=True)) as source:
        choice = choose_set(tiny, source, request)
        others = {each.strategy: each.point for each in choice.others}
        footprints = footprints_of(tiny)
        whole, best = footprints.without(()), choice.best
        assert target.is_reached(whole, best.footprint)
        base = others[Strategy.SEARCH]
        needed = base.footprint.token_bytes if target.goal is Goal.LAYERS else whole.token_bytes
        assert best.footprint.token_bytes <= needed
        assert best.kld.value <= 1.03 * base.kld.value
        sets = [
            cut for n in (1, 2) for cut in map(Cut.of_units, combinations(range(18), n))
            if target.is_reached(whole, footprints.without(cut))
            and footprints.without(cut).token_bytes <= needed
        ]  # fmt: skip
        first = [next(source.rows(0, [cut])).kld for cut in sets]
        few = [sets[i] for i in np.argsort([row.mean() for row in first])[:10]]
        klds = [
            float(np.mean([next(source.rows(i, [cut])).kld.mean() for i in range(N_CHUNK)]))
            for cut in few
        ]
    assert best.kld.value <= 1.06 * min(klds)


def test_units_without_a_way_to_leave_alone(tmp_path: Path, cache: Path) -> None:
    model = next(f for f in FAMILIES if f.name == "granite").make(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 128, (3, 64), dtype=np.int32)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ArchitectureError, match="--strategy units: layers of granite cannot keep"),
    ):
        patch.setattr("ggprune.scoring.measure.make_chunks", lambda *_: Chunks(tokens))
        options = MeasureOptions(n_ctx=64, halves=True)
        with open_rows(model, read_text(CALIBRATION), options) as source:
            choose_set(model, source, DropRequest(layers(1), Strategy.UNITS))
