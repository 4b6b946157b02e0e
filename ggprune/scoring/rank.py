"""What every layer is worth: the model without it, measured against the model with it.

One model load and no files: layers are left out in memory, which gives the very logits of the file
that would be written. Chunk by chunk: the whole model first, then once without each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.ablation.units import Unit
from ggprune.arch import legal_drop
from ggprune.errors import UsageError
from ggprune.metrics.chunks import describe_text
from ggprune.metrics.estimates import (
    Float64,
    mean_estimate,
    ppl_estimate,
    rms_estimate,
    share_estimate,
)
from ggprune.metrics.text import Text
from ggprune.model import Model
from ggprune.model.imatrix import Imatrix
from ggprune.runtime.library import versions
from ggprune.runtime.session import Compute
from ggprune.scoring.activations import LayerActivations, activation_statistics
from ggprune.scoring.choose import Wanted, choose_set
from ggprune.scoring.measure import BaseRows, Measurer, Rows
from ggprune.scoring.race import survivors, undecided_pairs
from ggprune.scoring.ranking import BY_KLD, LayerScore, Metric, OrderBy, Ranking
from ggprune.scoring.target import sizes_to_try
from ggprune.scoring.weights import magnitudes

Progress = Callable[[int, int], object]  # done, total


def rank(
    model: Model,
    text: Text,
    *,
    n_ctx: int = 512,
    n_chunk: int | None = None,
    compute: Compute | None = None,
    by: OrderBy = BY_KLD,
    unit: Unit = Unit.LAYER,
    imatrix: Imatrix | None = None,
    n_decide: int | None = None,
    confidence: float = 0.95,
    cache: Path | None = None,
    share_prefix: bool = True,
    wanted: Wanted | None = None,
    progress: Progress | None = None,
    narrate: Callable[[str], object] | None = None,
) -> Ranking:
    """Score every layer of the model on the text, or its attention or FFN alone (`unit`).

    With `n_decide`, layers race: one that is surely among the `n_decide` least important, or surely
    not, gets no more chunks. `cache` is a folder for finished measurements. With `wanted`, a set of
    layers is chosen as well; `narrate` is told what is being tried.

    Raises ArchitectureError if layers of this model cannot be left out exactly, DataError if the
    text is too short or the importance matrix is of another model, LlamaError if llama.cpp cannot
    load or compute the model, and what `choose_set` raises.
    """
    if by.metric is Metric.IMATRIX and imatrix is None:
        raise UsageError("--metric imatrix needs an importance matrix: --imatrix FILE")
    if by.metric in (Metric.IMATRIX, Metric.MAGNITUDE) and unit is not Unit.LAYER:
        raise UsageError(f"--metric {by}: of whole layers only, not of --unit {unit.value}")
    if wanted is not None and unit is not Unit.LAYER:
        raise UsageError(f"--unit {unit.value}: modules are scored; only whole layers are dropped")
    weights = magnitudes(model) if by.metric is Metric.MAGNITUDE else None
    activations = activation_statistics(imatrix, model) if imatrix is not None else None
    with Measurer(
        model, text, n_ctx=n_ctx, n_chunk=n_chunk, compute=compute, unit=unit, cache=cache,
        share_prefix=share_prefix,
    ) as measurer:  # fmt: skip
        if wanted is not None and wanted.target is not None and n_decide is not None:
            n_decide = sizes_to_try(model, wanted.target, measurer.arch.n_trunk - 1)[0]
        race = _Race(measurer, by.metric, n_decide, confidence)
        race.run_all(progress)
        scores = tuple(_score(measurer, layer, race) for layer in measurer.layers)
        scores = tuple(_with_statics(s, weights, activations) for s in scores)
        ranking = Ranking(
            model=describe_model(model),
            calibration={
                **vars(describe_text(text, n_ctx, len(race.base))),
                "n_chunk_limit": measurer.n_chunk,
            },
            base_ppl=ppl_estimate(np.concatenate([base.nll for base in race.base])),
            layers=scores,
            versions=versions(),
            by=by,
            unit=unit,
            protected=by.protected(measurer.arch.n_trunk),
            undecided=race.undecided(),
            windows=race.windows() if unit is Unit.LAYER else np.zeros((0, 0)),
            effort=measurer.effort,
        )
        if wanted is None:
            return ranking
        windows = ranking.windows if by.metric is Metric.ANGULAR else None
        wanted = replace(wanted, protect=(*wanted.protect, *ranking.protected))
        chosen = choose_set(
            measurer, wanted, confidence=confidence, order=ranking.order, windows=windows,
            progress=narrate,
        )  # fmt: skip
    return replace(ranking, chosen=chosen)


def _with_statics(
    score: LayerScore,
    weights: Float64 | None,
    activations: Sequence[LayerActivations] | None,
) -> LayerScore:
    """With what the weights and an importance matrix say."""
    return replace(
        score,
        magnitude=float(weights[score.layer]) if weights is not None else None,
        activations=activations[score.layer] if activations is not None else None,
    )


class _Race:
    """Rows of every layer and chunk so far, and the layers that get more."""

    def __init__(
        self, measurer: Measurer, metric: Metric, n_decide: int | None, confidence: float
    ) -> None:
        self.measurer, self.n_decide, self.confidence = measurer, n_decide, confidence
        self.key = _RACED.get(metric, _RACED[Metric.KLD])
        self.active = list(measurer.layers)
        self.base: list[BaseRows] = []
        self.rows: dict[int, list[Rows]] = {layer: [] for layer in self.active}

    def run_all(self, progress: Progress | None) -> None:
        n_step, n_chunk = len(self.rows) + 1, self.measurer.n_chunk
        for i in range(n_chunk):
            for n_pass in self.run(i):
                if progress is not None:
                    progress(i * n_step + n_pass, n_chunk * n_step)
            if not self.active:
                break
        if progress is not None and not self.active:  # over before its end
            progress(n_chunk * n_step, n_chunk * n_step)

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

    def windows(self) -> Float64:
        """Angular distances between all places, mean over the chunks."""
        windows: Float64 = np.mean([base.angular for base in self.base], axis=0)
        return windows

    def _seen(self) -> dict[int, Sequence[Float64]]:
        return {layer: [self.key(row) for row in rows] for layer, rows in self.rows.items()}


# What layers are compared by, token by token, where a ranking follows one of these.
_RACED: dict[Metric, Callable[[Rows], Float64]] = {
    Metric.KLD: lambda row: row.kld,
    Metric.PPL: lambda row: row.nll,
    Metric.SAME_TOP_P: lambda row: (~row.same_top).astype(np.float64),
    Metric.RMS_DELTA_P: lambda row: np.square(row.delta_p),
}


def describe_model(model: Model) -> dict[str, Any]:
    return {
        "path": str(model.path),
        "fingerprint": model.fingerprint,
        "arch": model.arch,
        "n_layer": model.n_layer,
        "size_bytes": model.size_bytes,
    }


def _score(measurer: Measurer, layer: int, race: _Race) -> LayerScore:
    rows, part = race.rows[layer], measurer.parts.number[layer]
    kld = np.concatenate([row.kld for row in rows])
    delta_p = np.concatenate([row.delta_p for row in rows])
    return LayerScore(
        layer=layer,
        ppl=ppl_estimate(np.concatenate([row.nll for row in rows])),
        kld=mean_estimate(kld),
        kld_99=float(np.percentile(kld, 99)),
        same_top_p=share_estimate(np.concatenate([row.same_top for row in rows])),
        rms_delta_p=rms_estimate(delta_p),
        bi=mean_estimate(np.concatenate([base.bi[part] for base in race.base])),
        relative_magnitude=mean_estimate(
            np.concatenate([base.magnitude[part] for base in race.base])
        ),
        angular=mean_estimate(np.array([base.angular[part, part + 1] for base in race.base])),
        removable=measurer.unit is Unit.LAYER and legal_drop(measurer.model, (layer,)),
    )
