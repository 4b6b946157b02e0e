"""The report of the whole job is read as what it was written from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.arch.footprint import Footprint
from ggprune.errors import DataError
from ggprune.files.documents import encode_fields, to_text
from ggprune.metrics.estimates import Estimate
from ggprune.model.cut import Cut
from ggprune.pipeline.result import (
    AutoResult,
    FrontRow,
    JudgedText,
    PlannedCut,
    Row,
    Verdict,
    read_report,
)
from ggprune.scoring.choice import Alternative, Choice, Point, Step, Strategy
from ggprune.scoring.ranking import CalibrationInfo, LayerScore, Metric, ModelInfo, OrderBy, Ranking
from ggprune.scoring.target import Goal, Target
from tests.files.test_round_trips import MACHINE, MEASURED, RATIO, SPEED, TEXT, VERSIONS

COUNTED = Estimate(0.5, 0.25, 765)
SCORE = LayerScore(
    layer=1, ppl=COUNTED, kld=COUNTED, same_top_p=COUNTED, rms_delta_p=COUNTED, bi=MEASURED,
    relative_magnitude=MEASURED, angular=MEASURED, kld_99=1.5,
)  # fmt: skip
POINT = Point(
    drop=Cut.of((1, 2)), kld=MEASURED, ppl=MEASURED, ppl_ratio=MEASURED,
    footprint=Footprint(1, 2, 3), speedup=1.25,
)  # fmt: skip
CHOICE = Choice(
    strategy=Strategy.GREEDY, best=POINT, front=(POINT,),
    others=(Alternative(Strategy.ONESHOT, POINT),),
    steps=(Step(what="one", drop=Cut.of((1,)), kld=MEASURED, n_set=3, n_pass=4, time_s=0.5),),
)  # fmt: skip
RANKING = Ranking(
    model=ModelInfo(path="a.gguf", fingerprint="f", arch="llama", n_layer=4, size_bytes=9),
    calibration=CalibrationInfo(
        source="a.txt", sha256="s", n_ctx=512, n_chunk=3, n_token=765, n_chunk_limit=5
    ),
    base_ppl=MEASURED, by=OrderBy(Metric.ANGULAR, plus=True), layers=(SCORE,), order=(1,),
    undecided=((1, 2),), windows=np.array([[0, 0.25], [0, 0]]), chosen=CHOICE, versions=VERSIONS,
)  # fmt: skip
ROW = Row(
    name="base", n_layer=4, size_bytes=9, bits_per_weight=4.5, ppl=MEASURED, kld=None,
    same_top_p=None, pp=SPEED, tg=None,
)  # fmt: skip
VERDICT = Verdict(
    rival="Q3_K_S", kld=MEASURED, rival_kld=MEASURED, speedup=RATIO, predicted_speedup=1.25
)
RESULT = AutoResult(
    out=Path("b.gguf"), target=Target(Goal.PERCENT, 50.0), plan=PlannedCut(Cut.of((1, 2)), 4),
    ranking=RANKING, evaluation_text=JudgedText(**vars(TEXT), n_chunk_whole=5), verdict=VERDICT,
    rows=(ROW, replace(ROW, kld=MEASURED, speedup=RATIO, predicted_speedup=1.25)),
    front=(FrontRow(POINT, SPEED, RATIO), FrontRow(POINT, None, None)), health=None,
    machine=MACHINE, versions=VERSIONS,
)  # fmt: skip


def test_a_report_is_read_as_the_result(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_text(RESULT), "utf-8")
    read = read_report(path)
    assert read == RESULT
    assert np.array_equal(read.ranking.windows, RANKING.windows)
    assert to_text(read) == to_text(RESULT)


def test_what_is_no_report_says_why(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    document = encode_fields(RESULT)
    cases = {
        "[": "not a report made by ggprune auto: Expecting value",
        "[]": "expected an object, found a list",
        to_text(RANKING): "not a report made by ggprune auto: model: is not known",
        to_text(document | {"plan": {"drop": [1, 2]}}): "plan.n_layer: is missing",
        to_text(document | {"target": "--drop"}): "target: not enough values",
        to_text(document | {"target": "--more 2"}): "target: '--more'",
    }
    for text, message in cases.items():
        path.write_text(text, "utf-8")
        with pytest.raises(DataError, match=message):
            read_report(path)
