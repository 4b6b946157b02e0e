"""Calibration text to chunks, metrics, per-layer scores."""

from ggprune.scoring.choice import Choice, Point, Strategy
from ggprune.scoring.choose import Wanted, choose_set
from ggprune.scoring.metrics import Estimate
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
from ggprune.scoring.text import CALIBRATION, EVALUATION, Text, read_text, shipped_text

__all__ = [
    "CALIBRATION",
    "EVALUATION",
    "Choice",
    "Estimate",
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
    "Text",
    "Wanted",
    "check_scores",
    "choose_set",
    "parse_metric",
    "rank",
    "read_scores",
    "read_text",
    "shipped_text",
]
