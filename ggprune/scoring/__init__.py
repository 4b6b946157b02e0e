"""Which layers a model can do without: scores of single layers, and sets that go together.

activations, weights   what an importance matrix, and the weights alone, say of a layer
rows, measure          what a model does without a cut, token by token; computing it
cache                  the same, measured once
race                   which cuts are the lowest, by as few chunks as that takes
rank                   scores of all layers -> ranking (the data, and its order)
target                 how many layers are to go
search, choose         the best set of them -> choice (the data)
"""

from ggprune.scoring.choice import Choice, Point, Strategy, Trial, parse_strategy
from ggprune.scoring.choose import ChooseOptions, choose, choose_set
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.rank import RankOptions, rank
from ggprune.scoring.ranking import (
    LayerScore,
    Metric,
    Ranking,
    check_ranking,
    parse_metric,
    ranked_text,
    read_ranking,
)
from ggprune.scoring.remembered import open_rows
from ggprune.scoring.target import DropRequest, Goal, Limits, Target

__all__ = [
    "Choice", "ChooseOptions", "DropRequest", "Goal", "LayerScore", "Limits", "MeasureOptions",
    "Metric", "Point", "RankOptions", "Ranking", "Strategy", "Target", "Trial",
    "check_ranking", "choose", "choose_set", "open_rows", "parse_metric", "parse_strategy", "rank",
    "ranked_text", "read_ranking",
]  # fmt: skip
