"""Sharing the prefix changes the work, not the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggprune.ablation.ablator import Ablator
from ggprune.ablation.graph import Graph, graph_of
from ggprune.ablation.taps import ablation_taps
from ggprune.arch.architecture import architecture_of
from ggprune.errors import LlamaError
from ggprune.model.model import Model
from ggprune.runtime.compute import Compute
from ggprune.runtime.session import LlamaModel, Session
from tests.arch.families import FAMILIES
from tests.helpers import ONE_GRAPH, logits_of, random_tokens

N_TOKEN, N_OUTPUT = 96, 48
# Plain layers, windows, shared keys, hybrids, recurrent ones, shared indexers, several streams.
NAMES = (
    "xverse", "gemma3", "gemma3n", "gemma4 shared KV", "jamba", "mamba", "rwkv7", "glm-dsa",
    "deepseek4", "qwen4exp", "nemotron_h", "step35", "qwen35moe with MTP",
)  # fmt: skip


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return next(f for f in FAMILIES if f.name == request.param).make(tmp_path)


@pytest.fixture
def session(model: Model) -> Iterator[Session]:
    with (
        LlamaModel(model.path, ONE_GRAPH) as loaded,
        Session(loaded, N_TOKEN, compute=ONE_GRAPH, tapped=True) as session,
    ):
        yield session


def test_the_same_bits_for_half_of_the_work(model: Model, session: Session) -> None:
    arch = architecture_of(model)
    ablator = Ablator(session, arch.places)
    tokens = random_tokens(128, N_TOKEN)
    chunk, last = tokens[0], arch.n_trunk - 1
    base, stream = ablator.record(chunk, N_OUTPUT)
    base = base.copy()
    first = 1 if not arch.row.residual_in else 0
    sets = [(first,), (3,), (last,), (3, 6), (first, 2, last), (4, 5, 6)]
    for drop in sets:
        found = ablator.without(chunk, N_OUTPUT, drop, stream).copy()
        session.tap(ablation_taps(arch.places, drop))
        plain = session.chunk_logits(tokens, N_OUTPUT)[0].copy()
        assert np.array_equal(found, plain), drop
    again, _ = ablator.record(chunk, N_OUTPUT)
    assert np.array_equal(again, base)  # nothing stays left out
    shares = [ablator.share_computed((n,), n) for n in range(first, last + 1)]
    assert np.mean(shares) < (0.85 if "gemma" in model.arch else 0.7)


def test_layers_on_top_of_layers(model: Model, session: Session) -> None:
    """As a greedy search needs it: what is gone already stays gone."""
    arch, tokens = architecture_of(model), random_tokens(128, N_TOKEN)
    ablator = Ablator(session, arch.places)
    ablator.record(tokens[0], N_OUTPUT)
    gone = (1, 8)
    _, stream = ablator.record(tokens[0], N_OUTPUT, gone)
    for layer in (2, 3, 9):
        found = ablator.without(tokens[0], N_OUTPUT, (layer,), stream).copy()
        session.tap(ablation_taps(arch.places, sorted((*gone, layer))))
        assert np.array_equal(found, session.chunk_logits(tokens, N_OUTPUT)[0]), layer


def test_without_the_shortcut_the_numbers_are_the_same(tiny: Model) -> None:
    tokens = random_tokens(1024, 64)
    results = []
    for share in (True, False):
        with (
            LlamaModel(tiny.path) as loaded,
            Session(loaded, 64, compute=Compute(n_batch=64, n_ubatch=64), tapped=True) as session,
        ):
            ablator = Ablator(session, architecture_of(tiny).places, share_prefix=share)
            _, stream = ablator.record(tokens[0], 32)
            results.append(ablator.without(tokens[0], 32, (4,), stream).copy())
            assert (ablator.share_computed((4,), 4) < 0.6) == share
    assert np.array_equal(*results)
    assert not np.array_equal(results[0], logits_of(tiny.path, tokens, 32))


def test_a_graph_that_changed_is_noticed(tiny: Model) -> None:
    """Other tokens, another graph: the whole is computed instead, and it is right."""
    compute = Compute(n_batch=64, n_ubatch=64)
    with (
        LlamaModel(tiny.path) as loaded,
        Session(loaded, 64, compute=compute, tapped=True) as session,
    ):
        ablator = Ablator(session, architecture_of(tiny).places)
        long, short = random_tokens(1024, 64), random_tokens(1024, 40)
        _, stream = ablator.record(short[0], 20)
        ablator.record(long[0], 32)
        found = ablator.without(short[0], 20, (4,), stream).copy()
        session.tap(ablation_taps(architecture_of(tiny).places, (4,)))
        assert np.array_equal(found, session.chunk_logits(short, 20)[0])


def test_what_is_needed_is_what_is_reached() -> None:
    #         0  1   2   3     4  5: 5 reads 4 and 1, 4 reads 3, 3 reads 2, 2 reads 0
    graph = Graph(
        pointers=tuple(range(6)), names=(b"",) * 6, ops=("ADD",) * 6, factors=(b"",) * 6,
        reads=((), (), (0,), (2,), (3,), (4, 1)),
    )  # fmt: skip
    mask, reached = graph.live([(2, 3)])
    assert mask.tolist() == [False, True, False, False, True, True]
    assert reached == frozenset()
    mask, reached = graph.live([(2, 4)], supplied=[1])
    assert mask.tolist() == [False, False, False, False, False, True]
    assert reached == {1}
    with pytest.raises(LlamaError, match="no node named l_out-3 or x"):
        graph.find(["l_out-3", "x"])
    assert graph_of([]).pointers == ()


def test_a_backend_that_computes_left_out_nodes_wrongly_is_not_trusted(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here one node too many is left out."""
    right = Graph.live

    def wrong(self: Graph, *args: Any) -> Any:
        mask, reached = right(self, *args)
        mask[np.flatnonzero(mask)[-5]] = False
        return mask, reached

    monkeypatch.setattr(Graph, "live", wrong)
    tokens, compute = random_tokens(1024, 64), Compute(n_batch=64, n_ubatch=64)
    with (
        LlamaModel(tiny.path) as loaded,
        Session(loaded, 64, compute=compute, tapped=True) as session,
    ):
        ablator = Ablator(session, architecture_of(tiny).places)
        _, stream = ablator.record(tokens[0], 32)
        found = ablator.without(tokens[0], 32, (4,), stream).copy()
        assert not ablator.share_prefix
        session.tap(ablation_taps(architecture_of(tiny).places, (4,)))
        assert np.array_equal(found, session.chunk_logits(tokens, 32)[0])
