"""What every layer is worth: the model without it, measured against the model with it.

One model load and no files: layers are left out in memory, which gives the very logits of the file
that would be written. Chunk by chunk: the whole model first, then once without each layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.arch import legal_drop, n_trunk
from ggprune.errors import DataError, UsageError
from ggprune.model import Model
from ggprune.runtime.library import versions
from ggprune.runtime.session import Compute
from ggprune.scoring.choose import Choice, Strategy, choose_set
from ggprune.scoring.measure import BaseRows, Effort, Measurer, Rows
from ggprune.scoring.metrics import (
    Estimate,
    Float64,
    mean_estimate,
    ppl_estimate,
    rms_estimate,
    share_estimate,
)
from ggprune.scoring.race import survivors, undecided_pairs
from ggprune.scoring.text import Text, describe_text

Progress = Callable[[int, int], object]  # done, total


class Metric(str, Enum):
    """What a layer is ranked by; lower is less important, except for same_top_p."""

    KLD = "kld"
    PPL = "ppl"
    SAME_TOP_P = "same_top_p"
    RMS_DELTA_P = "rms_delta_p"
    BI = "bi"
    ANGULAR = "angular"
    RELATIVE_MAGNITUDE = "relative_magnitude"


def parse_metric(name: str) -> Metric:
    """Raises UsageError for an unknown name."""
    try:
        return Metric(name)
    except ValueError as e:
        raise UsageError(f"--metric {name}: one of {', '.join(m.value for m in Metric)}") from e


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

    def value(self, metric: Metric) -> float:
        """The importance by a metric: higher is worth more."""
        found: Estimate = getattr(self, metric.value)
        return -found.value if metric is Metric.SAME_TOP_P else found.value

    def to_json(self) -> dict[str, Any]:
        names = ("ppl", "kld", "same_top_p", "rms_delta_p", "bi", "relative_magnitude", "angular")
        estimates = {name: getattr(self, name).to_json() for name in names}
        return {
            "layer": self.layer,
            **estimates,
            "kld_99": self.kld_99,
            "n_token": self.kld.n,
            "removable": self.removable,
        }


@dataclass(frozen=True)
class Ranking:
    """Scores of all layers of one model on one text, and all that is needed to repeat them."""

    model: dict[str, Any]
    calibration: dict[str, Any]
    base_ppl: Estimate
    layers: tuple[LayerScore, ...]
    versions: dict[str, str]
    metric: Metric = Metric.KLD
    undecided: tuple[tuple[int, int], ...] = ()  # at the border, not told apart by the text
    windows: Float64 = field(default_factory=lambda: np.zeros((0, 0)), compare=False)
    effort: Effort = field(default_factory=Effort, compare=False)
    chosen: Choice | None = None  # a set of layers, where one was asked for

    @property
    def order(self) -> tuple[int, ...]:
        """Layers by the metric, least important first."""
        by_metric = sorted(self.layers, key=lambda s: (s.value(self.metric), s.layer))
        return tuple(s.layer for s in by_metric)

    def to_json(self) -> dict[str, Any]:
        """The document of docs/formats.md."""
        return {
            "model": self.model,
            "calibration": self.calibration,
            "base": {"ppl": self.base_ppl.to_json()},
            "metric": self.metric.value,
            "layers": [score.to_json() for score in self.layers],
            "order": list(self.order),
            "undecided": [list(pair) for pair in self.undecided],
            "windows": [[round(float(x), 6) for x in row] for row in self.windows],
            "effort": vars(self.effort),
            "chosen": self.chosen.to_json() if self.chosen is not None else None,
            "versions": self.versions,
        }


def rank(
    model: Model,
    text: Text,
    *,
    n_ctx: int = 512,
    n_chunk: int | None = None,
    compute: Compute | None = None,
    metric: Metric = Metric.KLD,
    n_decide: int | None = None,
    confidence: float = 0.95,
    cache: Path | None = None,
    share_prefix: bool = True,
    n_drop: int | None = None,
    strategy: Strategy = Strategy.SEARCH,
    protect: Iterable[int] = (),
    progress: Progress | None = None,
    narrate: Callable[[str], object] | None = None,
) -> Ranking:
    """Score every layer of the model on the text.

    With `n_decide`, layers race: one that is surely among the `n_decide` least important, or surely
    not, gets no more chunks. `cache` is a folder for finished
    measurements. With `n_drop`, the set of so many layers that costs the least is searched for as
    well (`choose_set`); `narrate` is told what is being tried.

    Raises ArchitectureError if layers of this model cannot be left out exactly, DataError if the
    text is too short, LlamaError if llama.cpp cannot load or compute the model.
    """
    with Measurer(
        model, text, n_ctx=n_ctx, n_chunk=n_chunk, compute=compute, cache=cache,
        share_prefix=share_prefix,
    ) as measurer:  # fmt: skip
        race = _Race(measurer, n_decide, confidence)
        n_layer, n_chunk = measurer.arch.n_trunk, measurer.n_chunk
        for i in range(n_chunk):
            for n_pass in race.run(i):
                if progress is not None:
                    progress(i * (n_layer + 1) + n_pass, n_chunk * (n_layer + 1))
            if not race.active:
                break
        if progress is not None and not race.active:  # over before its end
            progress(n_chunk * (n_layer + 1), n_chunk * (n_layer + 1))
        chosen = None
        if n_drop is not None:
            chosen = choose_set(
                measurer, n_drop, strategy, protect=protect, confidence=confidence, progress=narrate
            )
    return Ranking(
        model=describe_model(model),
        calibration=describe_text(text, n_ctx, len(race.base)),
        base_ppl=ppl_estimate(np.concatenate([base.nll for base in race.base])),
        layers=tuple(_score(model, layer, race) for layer in range(n_layer)),
        versions=versions(),
        metric=metric,
        undecided=race.undecided(),
        windows=np.mean([base.angular for base in race.base], axis=0),
        effort=measurer.effort,
        chosen=chosen,
    )


class _Race:
    """Rows of every layer and chunk so far, and the layers that get more."""

    def __init__(self, measurer: Measurer, n_decide: int | None, confidence: float) -> None:
        self.measurer, self.n_decide, self.confidence = measurer, n_decide, confidence
        self.active = list(range(measurer.arch.n_trunk))
        self.base: list[BaseRows] = []
        self.rows: dict[int, list[Rows]] = {layer: [] for layer in self.active}

    def run(self, i: int) -> Iterator[int]:
        """One chunk; yields the number of passes through the model."""
        self.base.append(self.measurer.base(i))
        n_pass = 1
        yield n_pass
        for j in range(i + 1):  # one that comes back catches up
            for layer in (n for n in self.active if len(self.rows[n]) == j):
                self.rows[layer] += self.measurer.measure(j, [(layer,)])
                n_pass += j == i
                yield n_pass
        if self.n_decide is not None:
            seen, n_chunk = self._seen(), self.measurer.n_chunk
            self.active = survivors(seen, self.n_decide, self.confidence, n_chunk)

    def undecided(self) -> tuple[tuple[int, int], ...]:
        """Pairs across the border of the layers to be decided that all of the text left open."""
        k, n_chunk = self.n_decide or len(self.rows) - 1, self.measurer.n_chunk
        if len(self.rows) < 2:
            return ()
        pairs = undecided_pairs(self._seen(), k, self.confidence)
        return tuple(p for p in pairs if all(len(self.rows[n]) == n_chunk for n in p))

    def _seen(self) -> dict[int, Sequence[Float64]]:
        return {layer: [row.kld for row in rows] for layer, rows in self.rows.items()}


def _score(model: Model, layer: int, race: _Race) -> LayerScore:
    rows = race.rows[layer]
    kld = np.concatenate([row.kld for row in rows])
    delta_p = np.concatenate([row.delta_p for row in rows])
    return LayerScore(
        layer=layer,
        ppl=ppl_estimate(np.concatenate([row.nll for row in rows])),
        kld=mean_estimate(kld),
        kld_99=float(np.percentile(kld, 99)),
        same_top_p=share_estimate(np.concatenate([row.same_top for row in rows])),
        rms_delta_p=rms_estimate(delta_p),
        bi=mean_estimate(np.concatenate([base.bi[layer] for base in race.base])),
        relative_magnitude=mean_estimate(
            np.concatenate([base.magnitude[layer] for base in race.base])
        ),
        angular=mean_estimate(np.array([base.angular[layer, layer + 1] for base in race.base])),
        removable=legal_drop(model, (layer,)),
    )


def describe_model(model: Model) -> dict[str, Any]:
    return {
        "path": str(model.path),
        "fingerprint": model.fingerprint,
        "arch": model.arch,
        "n_layer": model.n_layer,
        "size_bytes": model.size_bytes,
    }


def load_chosen(path: Path, model: Model, n_drop: int) -> tuple[int, ...] | None:
    """The set of so many layers that a ranking has chosen, None if it has none of that size.

    Raises DataError as `load_order`.
    """
    load_order(path, model)
    chosen = json.loads(path.read_text("utf-8")).get("chosen")
    if not isinstance(chosen, dict) or not isinstance(chosen.get("drop"), list):
        return None
    drop = tuple(chosen["drop"])
    return drop if len(drop) == n_drop and all(type(n) is int for n in drop) else None


def load_order(path: Path, model: Model) -> tuple[int, ...]:
    """The order of a finished ranking, least important first.

    Raises DataError if the file is not a ranking of this model.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        fingerprint, order = data["model"]["fingerprint"], data["order"]
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, TypeError, KeyError) as e:
        raise DataError(f"{path}: not a ranking made by ggprune rank") from e
    if fingerprint != model.fingerprint:
        raise DataError(f"{path}: ranks another model than {model.path}")
    if sorted(order) != list(range(n_trunk(model))):
        raise DataError(f"{path}: its order does not name every layer once")
    return tuple(order)
