"""What was found out about the layers of a model: their scores, their order, a chosen set."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from ggprune.ablation.units import Unit
from ggprune.errors import DataError, UsageError
from ggprune.files.documents import encode
from ggprune.metrics.estimates import Estimate, Float64
from ggprune.scoring.activations import LayerActivations
from ggprune.scoring.choice import Choice
from ggprune.scoring.measure import Effort


class Metric(str, Enum):
    """What a layer is ranked by; lower is less important, except for same_top_p.

    The first four are measured without the layer, the others say something of the whole model.
    """

    KLD = "kld"
    PPL = "ppl"
    SAME_TOP_P = "same_top_p"
    RMS_DELTA_P = "rms_delta_p"
    BI = "bi"
    ANGULAR = "angular"
    RELATIVE_MAGNITUDE = "relative_magnitude"
    MAGNITUDE = "magnitude"  # of the weights
    IMATRIX = "imatrix"  # energy of what enters the weights


# Shortened LLaMA (Kim et al. 2024): the "+" variants leave the first four and last two layers.
PLUS_FIRST, PLUS_LAST = 4, 2


@dataclass(frozen=True)
class OrderBy:
    """What the order of a ranking follows."""

    metric: Metric = Metric.KLD
    plus: bool = False  # the first and the last layers come last

    def __str__(self) -> str:
        return self.metric.value + "+" * self.plus

    def protected(self, n_layer: int) -> tuple[int, ...]:
        """Of `n_layer` layers that compute: MTP blocks behind them do not count."""
        if not self.plus:
            return ()
        return tuple(n for n in range(n_layer) if n < PLUS_FIRST or n >= n_layer - PLUS_LAST)


BY_KLD = OrderBy()


def parse_metric(name: str) -> OrderBy:
    """`kld`, or `kld+` with the first and the last layers protected.

    Raises UsageError for an unknown name.
    """
    try:
        return OrderBy(Metric(name.removesuffix("+")), name.endswith("+"))
    except ValueError as e:
        names = ", ".join(m.value for m in Metric)
        raise UsageError(f"--metric {name}: one of {names}, or one of them with a +") from e


@dataclass(frozen=True)
class LayerScore:
    """The model without one layer. Higher ppl, kld and bi, lower same_top_p: worth more."""

    layer: int
    ppl: Estimate
    kld: Estimate  # nats, KL(base || without the layer)
    kld_99: float  # 99 % of the tokens have less
    same_top_p: Estimate
    rms_delta_p: Estimate  # change of the probability of the token that came
    bi: Estimate  # Block Influence, 1 - mean cos(x_l, x_{l+1}) (ShortGPT), of the whole model
    relative_magnitude: Estimate  # |x_{l+1} - x_l| / |x_{l+1}|, of the whole model
    angular: Estimate  # arccos(cos(x_l, x_{l+1})) / pi, of the whole model, over the chunks
    removable: bool = True  # can a file without this layer alone be written?
    magnitude: float | None = None  # summed |W| of its matrices, if it was asked for
    activations: LayerActivations | None = None  # if there is an importance matrix

    def value(self, metric: Metric) -> float:
        """The importance by a metric: higher is worth more. Raises DataError if it is missing."""
        if metric is Metric.MAGNITUDE and self.magnitude is not None:
            return self.magnitude
        if metric is Metric.IMATRIX and self.activations is not None:
            return self.activations.energy
        found: Estimate | None = getattr(self, metric.value, None)
        if not isinstance(found, Estimate):
            raise DataError(f"--metric {metric.value}: not measured in this ranking")
        return -found.value if metric is Metric.SAME_TOP_P else found.value

    def to_json(self) -> dict[str, Any]:
        names = ("ppl", "kld", "same_top_p", "rms_delta_p", "bi", "relative_magnitude", "angular")
        estimates = {name: encode(getattr(self, name)) for name in names}
        return {
            "layer": self.layer,
            **estimates,
            "kld_99": self.kld_99,
            "magnitude": self.magnitude,
            "imatrix": vars(self.activations) if self.activations is not None else None,
            "n_token": self.kld.n,
            "removable": self.removable,
        }


@dataclass(frozen=True)
class Ranking:
    """Scores of all layers of one model on one text, and all that is needed to repeat them.

    With a `unit` other than layers, of their attention or FFN; `layers` has those that have one.
    """

    model: dict[str, Any]
    calibration: dict[str, Any]
    base_ppl: Estimate
    layers: tuple[LayerScore, ...]
    versions: dict[str, str]
    by: OrderBy = BY_KLD
    unit: Unit = Unit.LAYER
    protected: tuple[int, ...] = ()  # layers that come last, whatever their score
    undecided: tuple[tuple[int, int], ...] = ()  # at the border, not told apart by the text
    windows: Float64 = field(default_factory=lambda: np.zeros((0, 0)), compare=False)
    effort: Effort = field(default_factory=Effort, compare=False)
    chosen: Choice | None = None  # a set of layers, where one was asked for

    @property
    def order(self) -> tuple[int, ...]:
        """Layers by the metric, least important first; protected ones come last."""
        last = set(self.protected)
        metric = self.by.metric
        by_metric = sorted(self.layers, key=lambda s: (s.layer in last, s.value(metric), s.layer))
        return tuple(s.layer for s in by_metric)

    def to_json(self) -> dict[str, Any]:
        """The document of docs/formats.md."""
        return {
            "model": self.model,
            "calibration": self.calibration,
            "base": {"ppl": encode(self.base_ppl)},
            "metric": str(self.by),
            "unit": self.unit.value,
            "layers": [score.to_json() for score in self.layers],
            "order": list(self.order),
            "undecided": [list(pair) for pair in self.undecided],
            "windows": encode([[round(float(x), 6) for x in row] for row in self.windows]),
            "effort": vars(self.effort),
            "chosen": self.chosen.to_json() if self.chosen is not None else None,
            "versions": self.versions,
        }
