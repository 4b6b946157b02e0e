"""Calibration text to chunks, metrics, per-layer scores."""

from ggprune.scoring.choose import Choice, Strategy
from ggprune.scoring.metrics import Estimate
from ggprune.scoring.rank import LayerScore, Metric, Ranking, load_chosen, load_order, rank
from ggprune.scoring.text import CALIBRATION, EVALUATION, Text, read_text, shipped_text

__all__ = [
    "CALIBRATION",
    "EVALUATION",
    "Choice",
    "Estimate",
    "LayerScore",
    "Metric",
    "Ranking",
    "Strategy",
    "Text",
    "load_chosen",
    "load_order",
    "rank",
    "read_text",
    "shipped_text",
]
