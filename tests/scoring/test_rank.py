from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.arch.hparams import n_trunk
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.files.documents import encode_fields, to_text
from ggprune.metrics.chunks import Chunks
from ggprune.metrics.text import read_text, shipped_text
from ggprune.model.imatrix import Imatrix
from ggprune.model.model import Model, open_model
from ggprune.model.unit import Unit
from ggprune.pipeline.job import Job, write
from ggprune.report.blocks import terminal
from ggprune.report.ranking import blocks
from ggprune.scoring.choice import Strategy
from ggprune.scoring.ranking import Ranking, check_ranking, parse_metric, ranked_text, read_ranking
from ggprune.scoring.target import DropRequest, Goal, Target
from ggprune.surgery.plan import make_plan
from tests.arch.families import FAMILIES
from tests.conftest import CALIBRATION, EVALUATION, TINY
from tests.gguf_files import build, kv_str, kv_u32, layer_tensors
from tests.helpers import Steps, logits_of, random_tokens
from tests.scoring.ranked import ranked


@pytest.fixture(scope="module")
def ranking(tiny: Model) -> Ranking:
    return ranked(tiny, read_text(CALIBRATION), n_chunk=6)


def test_the_dead_layer_is_worth_nothing(dead: Model, tmp_path: Path) -> None:
    scores = ranked(dead, read_text(CALIBRATION), n_ctx=256, n_chunk=4)
    assert scores.order[0] == 4
    worst = scores.layers[4]
    assert worst.kld.value < 1e-6
    assert worst.bi.value == pytest.approx(0, abs=1e-9)
    assert worst.same_top_p.value == 1
    assert worst.ppl.value == pytest.approx(scores.base_ppl.value, rel=1e-9)
    assert all(s.kld.value > 1e-3 for s in scores.layers if s.layer != 4)
    out = tmp_path / "out.gguf"
    write(Job(model=dead, plan=make_plan(dead, (4,)), out=out, check_load=False))
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
    from ggprune.evaluation.perplexity import evaluate
    from ggprune.runtime.compute import Compute

    compute = Compute(n_batch=512)
    for layer in (0, 2, 8):
        out = tmp_path / f"{layer}.gguf"
        write(Job(model=tiny, plan=make_plan(tiny, (layer,)), out=out, check_load=False))
        (result,) = evaluate([out], read_text(CALIBRATION), base=TINY, n_chunk=6, compute=compute)
        assert result.divergence is not None
        score = ranking.layers[layer]
        assert score.ppl.value == pytest.approx(result.ppl.value, rel=1e-12)
        assert score.kld.value == pytest.approx(result.divergence.kld.mean.value, rel=1e-9)
        assert score.same_top_p == result.divergence.same_top_p


def test_the_document_has_the_documented_shape(ranking: Ranking, tiny: Model) -> None:
    document = json.loads(to_text(ranking))
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
        "angular", "magnitude", "taylor", "imatrix", "n_token", "removable",
    }  # fmt: skip
    assert document["order"] == list(ranking.order)


def test_a_ranking_can_be_used_again(
    ranking: Ranking, tiny: Model, dead: Model, tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(to_text(ranking))
    read = read_ranking(path)
    assert read.order == ranking.order
    assert read.chosen is None
    assert Path(read.model.path) == tiny.path
    assert ranked_text(path, read).sha256 == read_text(CALIBRATION).sha256
    check_ranking(path, read, tiny)
    with pytest.raises(DataError, match="another model"):
        check_ranking(path, read, dead)
    with pytest.raises(DataError, match="not the text"):
        ranked_text(path, read, EVALUATION)


def test_a_text_may_lie_in_a_folder_of_our_name(
    ranking: Ranking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path("ggprune", "calibration.txt")  # named as the one that ships
    place.parent.mkdir()
    place.write_bytes(EVALUATION.read_bytes())
    texts = [read_text(place), shipped_text("calibration.txt")]
    assert len({text.source for text in texts}) == 1
    for text in texts:
        calibration = replace(ranking.calibration, source=text.source, sha256=text.sha256)
        assert ranked_text(Path("s"), replace(ranking, calibration=calibration)) == text
    gone = replace(ranking.calibration, source="stdin")
    with pytest.raises(DataError, match="s was made with this text: -f says where it is now"):
        ranked_text(Path("s"), replace(ranking, calibration=gone))


def test_a_ranking_that_was_read_is_the_one_that_was_written(
    ranking: Ranking, tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(to_text(ranking))
    read = read_ranking(path)
    assert to_text(read) == to_text(ranking)
    assert [s.kld for s in read.layers] == [s.kld for s in ranking.layers]
    assert read.layers[0].ppl.n == ranking.layers[0].ppl.n == 6 * 255
    assert read.windows == pytest.approx(ranking.windows, abs=1e-6)
    without = {k: v for k, v in encode_fields(ranking).items() if k not in ("unit", "undecided")}
    path.write_text(to_text(without))  # as of a version that did not know them
    assert read_ranking(path).order == ranking.order


@pytest.mark.parametrize(
    "change",
    [{"order": [1, 1]}, {"order": ["1"]}, {"metric": 3}, {"metric": "best"}, {"model": None},
     {"chosen": 4}, {"chosen": {"drop": 4}}, {"calibration": {}}],
)  # fmt: skip
def test_what_is_no_ranking_is_refused(
    ranking: Ranking, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(to_text({**encode_fields(ranking), **change}))
    with pytest.raises((DataError, UsageError), match=r"not a ranking|--metric best"):
        read_ranking(path)


def test_scores_of_other_things_are_refused(ranking: Ranking, tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="not a ranking"):
        read_ranking(path)
    path.write_text(to_text({**encode_fields(ranking), "order": [99]}))
    with pytest.raises(DataError, match="does not have"):
        check_ranking(path, read_ranking(path), tiny)


def test_progress_is_told_to_the_end(tiny: Model) -> None:
    listener = Steps()
    ranked(tiny, read_text(EVALUATION), n_ctx=64, n_chunk=2, progress=listener)
    assert listener.seen == [(i + 1, 20) for i in range(20)]


def test_what_cannot_be_pruned_is_not_ranked(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    kvs = [kv_str("general.architecture", "kimi-k3"), kv_u32("kimi-k3.block_count", 2)]
    path.write_bytes(build(kvs, layer_tensors(2)))
    with pytest.raises(ArchitectureError):
        ranked(open_model(path), read_text(CALIBRATION))


def test_modules_are_scored_on_their_own(tiny: Model) -> None:
    text = read_text(CALIBRATION)
    found = {u: ranked(tiny, text, n_ctx=128, n_chunk=3, unit=u) for u in (Unit.ATTN, Unit.FFN)}
    whole = ranked(tiny, text, n_ctx=128, n_chunk=3)
    for unit, of_modules in found.items():
        assert of_modules.base_ppl == whole.base_ppl
        assert len(of_modules.layers) == 9
        assert all(score.removable for score in of_modules.layers)
        assert encode_fields(of_modules)["unit"] == unit.value
        assert of_modules.windows.size == 0
    assert found[Unit.ATTN].layers[4].kld != found[Unit.FFN].layers[4].kld
    with pytest.raises(UsageError, match="--strategy units: of layers, not of --unit ffn"):
        request = DropRequest(Target(Goal.LAYERS, 1), Strategy.UNITS)
        ranked(tiny, text, unit=Unit.FFN, request=request)
    with pytest.raises(UsageError, match="of whole layers only"):
        ranked(tiny, text, unit=Unit.FFN, by=parse_metric("magnitude"))


def test_metrics_order_the_layers(tiny: Model, dead: Model) -> None:
    text = read_text(CALIBRATION)
    for name in ("ppl", "same_top_p", "rms_delta_p", "bi", "relative_magnitude"):
        dead_first = ranked(dead, text, n_ctx=128, n_chunk=4, n_decide=1, by=parse_metric(name))
        assert dead_first.by.metric.value == name
        if name != "ppl":  # another layer may do harm: less than nothing
            assert dead_first.order[0] == 4, name
    by_weights = ranked(tiny, text, n_ctx=128, n_chunk=2, by=parse_metric("magnitude+"))
    sums = {s.layer: s.magnitude or 0.0 for s in by_weights.layers}
    assert by_weights.order[:3] == tuple(sorted((4, 5, 6), key=sums.__getitem__))
    assert encode_fields(by_weights)["metric"] == "magnitude+"
    given = tuple(map(float, reversed(range(9))))
    by_loss = ranked(tiny, text, n_ctx=128, n_chunk=2, by=parse_metric("taylor"), taylor=given)
    assert by_loss.order == tuple(reversed(range(9)))
    assert [s.taylor for s in by_loss.layers] == list(given)
    with pytest.raises(UsageError, match="needs the sums that torch finds"):
        ranked(tiny, text, by=parse_metric("taylor"))
    with pytest.raises(UsageError, match="needs an importance matrix"):
        ranked(tiny, text, by=parse_metric("imatrix"))
    with pytest.raises(UsageError, match="one of kld, ppl"):
        parse_metric("best")


def test_an_importance_matrix_orders_the_layers(tiny: Model) -> None:
    """Energies that fall with depth; every matrix of a layer has the same."""
    entries = {
        t.name: np.full(t.shape[0], 10.0 - n, np.float32)
        for n, tensors in enumerate(tiny.layers) for t in tensors if len(t.shape) == 2
    }  # fmt: skip
    imatrix = Imatrix(path=Path("made.gguf"), entries=entries, dataset="a text", n_chunk=1)
    ranking = ranked(
        tiny, read_text(CALIBRATION), n_ctx=128, n_chunk=2, by=parse_metric("imatrix"),
        imatrix=imatrix,
    )  # fmt: skip
    assert ranking.order == tuple(reversed(range(9)))
    document = json.loads(to_text(ranking))["layers"]
    assert document[0]["imatrix"]["cosine"] is None
    assert document[1]["imatrix"]["cosine"] == pytest.approx(1)
    assert "imatrix energy" in terminal(blocks(ranking))


def test_mtp_blocks_do_not_count_as_the_last_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next(f for f in FAMILIES if f.name == "qwen35moe with MTP").make(tmp_path)
    chunks = Chunks(np.array([[i * 37 % 128 for i in range(64)]] * 2, np.int32))
    monkeypatch.setattr("ggprune.scoring.measure.make_chunks", lambda *_: chunks)
    ranking = ranked(model, read_text(CALIBRATION), n_ctx=64, by=parse_metric("kld+"))
    assert n_trunk(model) == 11 < model.n_layer
    assert ranking.by.protected(n_trunk(model)) == (0, 1, 2, 3, 9, 10)
    assert set(ranking.order[:5]) == {4, 5, 6, 7, 8}
