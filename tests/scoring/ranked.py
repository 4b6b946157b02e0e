"""Rankings with all options beside each other, and who listens to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ggprune.arch.footprint import Footprint
from ggprune.metrics.estimates import Estimate
from ggprune.metrics.text import CALIBRATION, Text, shipped_text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.scoring.choice import Choice, Point, Strategy
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.rank import RankOptions, rank
from ggprune.scoring.ranking import CalibrationInfo, LayerScore, ModelInfo, Ranking

MEASURING = MeasureOptions.__dataclass_fields__


def ranked(model: Model, text: Text, *, progress: Progress = SILENT, **options: Any) -> Ranking:
    """`rank` with the options of `RankOptions` and `MeasureOptions`."""
    measuring = {name: options.pop(name) for name in list(options) if name in MEASURING}
    measure = MeasureOptions(**measuring)
    return rank(model, text, RankOptions(measuring=measure, **options), progress)


def made_ranking(fingerprint: str, n_layer: int) -> Ranking:
    """Of a llama that need not be there, on the text that is shipped."""
    text, one = shipped_text(CALIBRATION), Estimate(0.1, 0.01)
    scores = tuple(
        LayerScore(
            layer=i, ppl=one, kld=replace(one, n=500), same_top_p=one, rms_delta_p=one, bi=one,
            relative_magnitude=one, angular=one, kld_99=1.0,
        )
        for i in range(n_layer)
    )  # fmt: skip
    point = Point(
        drop=Cut.of((1, 3)), kld=one, ppl=one, ppl_ratio=one, footprint=Footprint(100, 10, 50),
        speedup=1.5,
    )  # fmt: skip
    return Ranking(
        model=ModelInfo(path="m.gguf", fingerprint=fingerprint, arch="llama", n_layer=n_layer,
                        size_bytes=500),
        calibration=CalibrationInfo(source=text.source, sha256=text.sha256, n_ctx=512, n_chunk=2,
                                    n_token=500, n_chunk_limit=2),
        base_ppl=one, layers=scores, order=(3, 1, 2, 4, 0, 5), undecided=((3, 1),),
        windows=np.full((n_layer + 1, n_layer + 1), 0.25),
        chosen=Choice(strategy=Strategy.SEARCH, best=point, front=(point,), others=(), steps=()),
        versions={"ggprune": "1"},
    )  # fmt: skip
