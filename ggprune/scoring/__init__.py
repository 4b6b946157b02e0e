"""Calibration text to chunks, metrics, per-layer scores."""

from ggprune.scoring.choice import Choice, Point, Strategy
from ggprune.scoring.choose import Wanted, choose_set
from ggprune.scoring.rank import rank
from ggprune.scoring.ranking import (
    LayerScore,
    Metric,
    OrderBy,
    Ranking,
    parse_metric,
)
from ggprune.scoring.scores import Scores, check_scores, read_scores
from ggprune.scoring.target import Goal, Limits, Target

__all__ = [
    "Choice",
    "Goal",
    "LayerScore",
    "Limits",
    "Metric",
    "OrderBy",
    "Point",
    "Ranking",
    "Scores",
    "Strategy",
    "Target",
    "Wanted",
    "check_scores",
    "choose_set",
    "parse_metric",
    "rank",
    "read_scores",
]
