"""Rankings with all options beside each other, and who listens to them."""

from __future__ import annotations

from typing import Any

from ggprune.metrics.text import Text
from ggprune.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.scoring import MeasureOptions, Ranking, RankOptions, rank

MEASURING = MeasureOptions.__dataclass_fields__


def ranked(model: Model, text: Text, *, progress: Progress = SILENT, **options: Any) -> Ranking:
    """`rank` with the options of `RankOptions` and `MeasureOptions`."""
    measuring = {name: options.pop(name) for name in list(options) if name in MEASURING}
    measure = MeasureOptions(**measuring)
    return rank(model, text, RankOptions(measuring=measure, **options), progress)
