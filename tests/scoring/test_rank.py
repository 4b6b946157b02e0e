from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ggprune.ablation.units import Unit
from ggprune.arch import n_trunk
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.files.documents import to_text as to_json
from ggprune.metrics.text import read_text
from ggprune.model import Model, open_model
from ggprune.model.imatrix import Imatrix
from ggprune.pipeline import prune
from ggprune.report.ranking import blocks
from ggprune.report.terminal import terminal
from ggprune.scoring import (
    Goal,
    Ranking,
    Target,
    Wanted,
    check_scores,
    parse_metric,
    rank,
    read_scores,
)
from ggprune.surgery import make_plan
from tests.arch.families import FAMILIES
from tests.conftest import CALIBRATION, EVALUATION, TINY
from tests.gguf_files import build, kv_str, kv_u32, layer_tensors
from tests.helpers import logits_of, random_tokens


@pytest.fixture(scope="module")
def ranking(tiny: Model) -> Ranking:
    return rank(tiny, read_text(CALIBRATION), n_chunk=6)


def test_the_dead_layer_is_worth_nothing(dead: Model, tmp_path: Path) -> None:
    scores = rank(dead, read_text(CALIBRATION), n_ctx=256, n_chunk=4)
    assert scores.order[0] == 4
    worst = scores.layers[4]
    assert worst.kld.value < 1e-6
    assert worst.bi.value == pytest.approx(0, abs=1e-9)
    assert worst.same_top_p.value == 1
    assert worst.ppl.value == pytest.approx(scores.base_ppl.value, rel=1e-9)
    assert all(s.kld.value > 1e-3 for s in scores.layers if s.layer != 4)
    out = tmp_path / "out.gguf"
    prune(dead, make_plan(dead, (4,)), out, check_load=False)
    tokens = random_tokens(1024, 256)
    assert np.array_equal(logits_of(dead.path, tokens, 256), logits_of(out, tokens, 256))


def test_layers_of_the_trained_model_differ_widely(ranking: Ranking) -> None:
    values = [score.kld.value for score in ranking.layers]
    assert max(values) > 10 * min(values)
    assert ranking.order[-1] == 0
    assert ranking.base_ppl.value < 4
    assert all(s.kld.n == 6 * 255 and s.kld.se > 0 for s in ranking.layers)
    assert all(0 < s.bi.value < 1 for s in ranking.layers)


def test_scores_are_those_of_the_written_files(
    ranking: Ranking, tiny: Model, tmp_path: Path
) -> None:
    from ggprune.evaluation import evaluate
    from ggprune.runtime.session import Compute

    compute = Compute(n_batch=512)
    for layer in (0, 2, 8):
        out = tmp_path / f"{layer}.gguf"
        prune(tiny, make_plan(tiny, (layer,)), out, check_load=False)
        (result,) = evaluate([out], read_text(CALIBRATION), base=TINY, n_chunk=6, compute=compute)
        assert result.divergence is not None
        score = ranking.layers[layer]
        assert score.ppl.value == pytest.approx(result.ppl.value, rel=1e-12)
        assert score.kld.value == pytest.approx(result.divergence.kld.mean.value, rel=1e-9)
        assert score.same_top_p == result.divergence.same_top_p


def test_the_document_has_the_documented_shape(ranking: Ranking, tiny: Model) -> None:
    document = json.loads(to_json(ranking.to_json()))
    assert set(document) == {
        "model", "calibration", "base", "metric", "layers", "order", "undecided", "windows",
        "effort", "chosen", "unit", "versions",
    }  # fmt: skip
    assert document["model"] == {
        "path": str(TINY), "fingerprint": tiny.fingerprint, "arch": "llama", "n_layer": 9,
        "size_bytes": TINY.stat().st_size,
    }  # fmt: skip
    calibration = document["calibration"]
    assert (calibration["n_ctx"], calibration["n_chunk"]) == (512, 6)
    assert calibration["n_token"] == 6 * 255
    assert [layer["layer"] for layer in document["layers"]] == list(range(9))
    assert set(document["layers"][0]) == {
        "layer", "ppl", "kld", "kld_99", "same_top_p", "rms_delta_p", "bi", "relative_magnitude",
        "angular", "magnitude", "imatrix", "n_token", "removable",
    }  # fmt: skip
    assert document["order"] == list(ranking.order)


def test_a_ranking_can_be_used_again(
    ranking: Ranking, tiny: Model, dead: Model, tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(to_json(ranking.to_json()))
    scores = read_scores(path)
    assert scores.order == ranking.order
    assert scores.chosen is None
    assert scores.model_path == tiny.path
    assert scores.text().sha256 == read_text(CALIBRATION).sha256
    check_scores(scores, tiny)
    with pytest.raises(DataError, match="another model"):
        check_scores(scores, dead)
    with pytest.raises(DataError, match="not the text"):
        scores.text(EVALUATION)


@pytest.mark.parametrize(
    "change",
    [{"order": [1, 1]}, {"order": ["1"]}, {"metric": 3}, {"metric": "best"}, {"model": None},
     {"chosen": 4}, {"chosen": {"drop": 4}}, {"calibration": {}}],
)  # fmt: skip
def test_what_is_no_ranking_is_refused(
    ranking: Ranking, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(to_json({**ranking.to_json(), **change}))
    with pytest.raises((DataError, UsageError), match=r"not a ranking|--metric best"):
        read_scores(path)


def test_scores_of_other_things_are_refused(ranking: Ranking, tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="not a ranking"):
        read_scores(path)
    path.write_text(to_json({**ranking.to_json(), "order": [99]}))
    with pytest.raises(DataError, match="does not have"):
        check_scores(read_scores(path), tiny)
    path.write_text(to_json({**ranking.to_json(), "unit": "ffn"}))
    with pytest.raises(DataError, match="scores ffn modules"):
        read_scores(path)


def test_progress_is_told_to_the_end(tiny: Model) -> None:
    seen: list[tuple[int, int]] = []
    text = read_text(EVALUATION)
    rank(tiny, text, n_ctx=64, n_chunk=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 20) for i in range(20)]


def test_what_cannot_be_pruned_is_not_ranked(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    kvs = [kv_str("general.architecture", "kimi-k3"), kv_u32("kimi-k3.block_count", 2)]
    path.write_bytes(build(kvs, layer_tensors(2)))
    with pytest.raises(ArchitectureError):
        rank(open_model(path), read_text(CALIBRATION))


def test_modules_are_scored_on_their_own(tiny: Model) -> None:
    text = read_text(CALIBRATION)
    found = {u: rank(tiny, text, n_ctx=128, n_chunk=3, unit=u) for u in (Unit.ATTN, Unit.FFN)}
    whole = rank(tiny, text, n_ctx=128, n_chunk=3)
    for unit, of_modules in found.items():
        assert of_modules.base_ppl == whole.base_ppl
        assert len(of_modules.layers) == 9
        assert not any(score.removable for score in of_modules.layers)
        assert of_modules.to_json()["unit"] == unit.value
        assert of_modules.windows.size == 0
    assert found[Unit.ATTN].layers[4].kld != found[Unit.FFN].layers[4].kld
    with pytest.raises(UsageError, match="only whole layers are dropped"):
        rank(tiny, text, unit=Unit.FFN, wanted=Wanted(Target(Goal.LAYERS, 1)))
    with pytest.raises(UsageError, match="of whole layers only"):
        rank(tiny, text, unit=Unit.FFN, by=parse_metric("magnitude"))


def test_metrics_order_the_layers(tiny: Model, dead: Model) -> None:
    text = read_text(CALIBRATION)
    for name in ("ppl", "same_top_p", "rms_delta_p", "bi", "relative_magnitude"):
        dead_first = rank(dead, text, n_ctx=128, n_chunk=4, n_decide=1, by=parse_metric(name))
        assert dead_first.by.metric.value == name
        if name != "ppl":  # another layer may do harm: less than nothing
            assert dead_first.order[0] == 4, name
    by_weights = rank(tiny, text, n_ctx=128, n_chunk=2, by=parse_metric("magnitude+"))
    sums = {s.layer: s.magnitude or 0.0 for s in by_weights.layers}
    assert by_weights.order[:3] == tuple(sorted((4, 5, 6), key=sums.__getitem__))
    assert by_weights.to_json()["metric"] == "magnitude+"
    with pytest.raises(UsageError, match="needs an importance matrix"):
        rank(tiny, text, by=parse_metric("imatrix"))
    with pytest.raises(UsageError, match="one of kld, ppl"):
        parse_metric("best")


def test_an_importance_matrix_orders_the_layers(tiny: Model) -> None:
    """Energies that fall with depth; every matrix of a layer has the same."""
    entries = {
        t.name: np.full(t.shape[0], 10.0 - n, np.float32)
        for n, tensors in enumerate(tiny.layers) for t in tensors if len(t.shape) == 2
    }  # fmt: skip
    imatrix = Imatrix(Path("made.gguf"), entries, "a text", 1)
    ranking = rank(
        tiny, read_text(CALIBRATION), n_ctx=128, n_chunk=2, by=parse_metric("imatrix"),
        imatrix=imatrix,
    )  # fmt: skip
    assert ranking.order == tuple(reversed(range(9)))
    document = ranking.to_json()["layers"]
    assert document[0]["imatrix"]["cosine"] is None
    assert document[1]["imatrix"]["cosine"] == pytest.approx(1)
    assert "imatrix energy" in terminal(blocks(ranking))


def test_mtp_blocks_do_not_count_as_the_last_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next(f for f in FAMILIES if f.name == "qwen35moe with MTP").make(tmp_path)
    tokens = np.array([[i * 37 % 128 for i in range(64)]] * 2, np.int32)
    monkeypatch.setattr("ggprune.scoring.measure.make_chunks", lambda *_: tokens)
    ranking = rank(model, read_text(CALIBRATION), n_ctx=64, by=parse_metric("kld+"))
    assert n_trunk(model) == 11 < model.n_layer
    assert ranking.protected == (0, 1, 2, 3, 9, 10)
    assert set(ranking.order[:5]) == {4, 5, 6, 7, 8}
