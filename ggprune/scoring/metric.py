"""What the layers of a ranking are ordered by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ggprune.errors import UsageError


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
