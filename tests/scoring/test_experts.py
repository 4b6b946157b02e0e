"""What experts are worth: known answers, and the very file that dropping them gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ggprune.arch.experts import Routing
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.evaluation.perplexity import evaluate
from ggprune.files.documents import to_text
from ggprune.metrics.chunks import make_chunks
from ggprune.metrics.text import read_text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.runtime.compute import Compute
from ggprune.runtime.nodes import StreamNode, read_indices, tensor_name
from ggprune.runtime.session import LlamaModel, Session
from ggprune.scoring.experts import (
    ExpertLayer,
    ExpertMetric,
    ExpertScores,
    ExpertsOptions,
    choose_experts,
    expert_cut,
    read_expert_scores,
    score_experts,
)
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.remembered import open_rows
from ggprune.scoring.target import parse_drop
from tests.conftest import CALIBRATION
from tests.helpers import ONE_GRAPH, pruned_copy

ALONE = Compute(n_threads=1, n_batch=128, n_ubatch=128)  # a chunk at a time
MEASURING = MeasureOptions(n_ctx=128, n_chunk=3, compute=ONE_GRAPH)


@pytest.fixture(scope="module")
def scores(tiny_moe: Model) -> ExpertScores:
    options = ExpertsOptions(measuring=MEASURING, drop="25%", n_exact=16)
    return score_experts(tiny_moe, read_text(CALIBRATION), options)


class Watcher:
    """Gates and unweighted outputs of layer 1, from other nodes than those that are scored."""

    def __init__(self) -> None:
        self.chosen: list[NDArray[Any]] = []
        self.gates: list[NDArray[Any]] = []
        self.outputs: list[NDArray[Any]] = []

    def ask(self, pointer: int) -> bool:
        return tensor_name(pointer) in (
            b"ffn_moe_topk-1", b"ffn_moe_probs-1", b"ffn_moe_down-1",
        )  # fmt: skip

    def computed(self, pointer: int) -> None:
        match tensor_name(pointer):
            case b"ffn_moe_topk-1":
                self.chosen.append(read_indices(pointer).astype(int))
            case b"ffn_moe_probs-1":
                self.gates.append(StreamNode(pointer).read())
            case _:
                self.outputs.append(StreamNode(pointer).read())


def test_scores_are_what_the_router_does(tiny_moe: Model, scores: ExpertScores) -> None:
    watcher = Watcher()
    with LlamaModel(tiny_moe.path, ONE_GRAPH) as loaded:
        chunks = make_chunks(read_text(CALIBRATION), loaded.tokenize, 128, 3)
        with Session(loaded, 128, compute=ONE_GRAPH, tapped=True) as session:
            session.run(watcher)
            for chunk in chunks:
                session.chunk_logits(chunk.tokens[None, :], 128)
    chosen = np.concatenate(watcher.chosen)
    shares = np.take_along_axis(np.concatenate(watcher.gates), chosen, axis=1)
    gates = shares / shares.sum(axis=1, keepdims=True)
    norms = np.linalg.norm(np.concatenate(watcher.outputs), axis=1).reshape(chosen.shape)
    layer = scores.layers[1]
    for expert in range(16):
        sent = chosen == expert
        assert layer.frequency[expert] == pytest.approx(sent.any(axis=1).mean())
        assert layer.gate[expert] == pytest.approx(gates[sent].mean(), rel=1e-5)
        assert layer.reap[expert] == pytest.approx((gates * norms)[sent].mean(), rel=1e-5)


def test_every_token_is_sent_to_as_many(scores: ExpertScores) -> None:
    assert (scores.n_expert, scores.n_used, len(scores.layers)) == (16, 4, 4)
    for layer in scores.layers:
        assert sum(layer.frequency) == pytest.approx(4)


def test_sets_lose_what_their_files_lose(
    tiny_moe: Model, scores: ExpertScores, tmp_path: Path
) -> None:
    """By all four metrics; the first is the one that was asked for."""
    assert [s.by.value for s in scores.sets] == ["reap", "frequency", "gate", "kld"]
    text = read_text(CALIBRATION)
    for found in scores.sets[:2]:
        written = pruned_copy(tiny_moe, found.drop, tmp_path / "out.gguf")
        assert abs(written.size_bytes - found.size_bytes) < 2048  # the header
        (result,) = evaluate(
            [written.path], text, base=tiny_moe.path, n_ctx=128, n_chunk=3, compute=ALONE
        )
        assert result.ppl.value == pytest.approx(found.ppl.value, rel=1e-12)
        assert result.divergence is not None
        assert result.divergence.kld.mean.value == pytest.approx(found.kld.value, rel=1e-12)
        written.path.unlink()
    with open_rows(tiny_moe, text, MEASURING) as source:
        for found in scores.sets:
            rows = [next(source.rows(i, [found.drop])).kld for i in range(3)]
            assert np.concatenate(rows).mean() == found.kld.value


def test_one_by_one_is_exact(tiny_moe: Model, scores: ExpertScores) -> None:
    with open_rows(tiny_moe, read_text(CALIBRATION), MEASURING) as source:
        cut = Cut.of_experts({2: (5,)})
        rows = [next(source.rows(i, [cut])).kld for i in range(3)]
    assert scores.layers[2].kld[5] == np.concatenate(rows).mean()


def test_with_and_without_shared_prefixes(tiny_moe: Model) -> None:
    """Experts beside layers, and inside of a cut that is known."""
    text = read_text(CALIBRATION)
    experts = Cut.of_experts({1: (2, 3), 3: (0, 7)})
    plain = MeasureOptions(n_ctx=128, n_chunk=2, compute=ONE_GRAPH, share_prefix=False)
    both = MeasureOptions(n_ctx=128, n_chunk=2, compute=ONE_GRAPH)
    cuts = [experts, *(experts | Cut.of([n]) for n in (0, 2, 3))]  # experts of 3 go with it
    with open_rows(tiny_moe, text, plain) as slow, open_rows(tiny_moe, text, both) as fast:
        for i in range(2):
            for within in (Cut(), experts):
                pairs = zip(slow.rows(i, cuts), fast.rows(i, cuts, within), strict=True)
                assert all(np.array_equal(a.kld, b.kld) for a, b in pairs)


def test_the_document(tiny_moe: Model, scores: ExpertScores, tmp_path: Path) -> None:
    path = tmp_path / "experts.json"
    path.write_text(to_text(scores))
    again = read_expert_scores(path, tiny_moe)
    assert again.layers == scores.layers
    assert [s.drop for s in again.sets] == [s.drop for s in scores.sets]
    assert expert_cut(tiny_moe, again, "25%", Cut()) == scores.sets[0].drop
    assert expert_cut(tiny_moe, again, "4", Cut.of([2])).layers == (0, 1, 3)
    document = json.loads(path.read_text())
    document["layers"][0]["reap"] = [1.0]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="not made by ggprune experts"):
        read_expert_scores(path, tiny_moe)
    document["model"]["fingerprint"] = "0"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="scores the experts of another model"):
        read_expert_scores(path, tiny_moe)


@pytest.mark.parametrize(
    ("text", "n_expert", "n_used", "n_drop"),
    [("25%", 128, 8, 32), ("25%", 16, 4, 4), ("30%", 16, 4, 4), ("50%", 60, 4, 28),
     ("99%", 64, 6, 56), ("7", 64, 6, 7), ("37.5%", 8, 2, 4)],
)  # fmt: skip
def test_how_many_are_to_leave(text: str, n_expert: int, n_used: int, n_drop: int) -> None:
    assert parse_drop(text, Routing(n_expert, n_used, 1, (0,))) == n_drop


@pytest.mark.parametrize("text", ["0", "13", "x", "", "5%", "-3", "25", "1e3", "%"])
def test_what_cannot_leave(text: str) -> None:
    with pytest.raises(UsageError, match=f"--drop-experts {text}"):
        parse_drop(text, Routing(16, 4, 1, (0,)))


def test_shares_leave_groups_alike() -> None:
    grouped = Routing(256, 8, 8, (0,))
    assert (parse_drop("25%", grouped), parse_drop("99%", grouped)) == (64, 240)
    assert parse_drop("20%", Routing(96, 4, 12, (0,))) == 24  # 72 are a multiple of 4 and of 12
    with pytest.raises(UsageError, match="as many must leave each: write a multiple of 8"):
        parse_drop("12", grouped)
    with pytest.raises(UsageError, match="so that 1 to 240 can leave"):  # two stay in each
        parse_drop("248", grouped)


def test_a_layer_without_a_router_is_not_left_alone_in_silence(tiny: Model) -> None:
    text, cut = read_text(CALIBRATION), Cut.of_experts({2: (1,)})
    with (
        open_rows(tiny, text, MEASURING) as source,
        pytest.raises(ArchitectureError, match="layer 2: the graph does not show its router"),
    ):
        next(source.rows(0, [cut]))


def test_groups_are_chosen_from_evenly(scores: ExpertScores) -> None:
    layer = ExpertLayer(
        layer=0, reap=(0.1, 0.2, 0.3, 0.4, 5, 6, 7, 8), frequency=(0.5,) * 8, gate=(0.5,) * 8,
        kld=(None,) * 8,
    )  # fmt: skip
    one = ExpertScores(**{**vars(scores), "layers": (layer,), "n_expert": 8, "sets": ()})
    grouped = Routing(8, 2, 2, (0,))
    assert choose_experts(one, grouped, ExpertMetric.REAP, 2, [0]) == {0: (0, 4)}
    assert choose_experts(one, Routing(8, 2, 1, (0,)), ExpertMetric.REAP, 2, [0]) == {0: (0, 1)}
    with pytest.raises(UsageError, match="3 experts of 2 groups"):
        choose_experts(one, grouped, ExpertMetric.REAP, 3, [0])
    with pytest.raises(UsageError, match="--exact 8 measures all of them"):
        choose_experts(one, grouped, ExpertMetric.KLD, 2, [0])
    with pytest.raises(ArchitectureError, match="layer 1 has experts that do not compute"):
        choose_experts(one, grouped, ExpertMetric.REAP, 2, [0, 1])


def test_a_dense_model_has_none(tiny: Model) -> None:
    with pytest.raises(ArchitectureError, match=r"no experts of it can be dropped: it has no"):
        score_experts(tiny, read_text(CALIBRATION), ExpertsOptions(measuring=MEASURING))
