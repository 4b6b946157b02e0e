"""Choosing for what comes after healing: the best set of layers before it is often not the best.

The lowest sets of a search, and the best runs, are healed briefly and compared on chunks that
nothing was fitted to.
"""

from __future__ import annotations

from dataclasses import replace

from ggprune.files.passing import passing_folder
from ggprune.healing import heal as healing_of
from ggprune.healing.heal import Patient, Workplace
from ggprune.healing.result import ASIDE, ROWS_PER_INPUT, HealOptions
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.names import Role, roles_of
from ggprune.progress import SILENT, Progress
from ggprune.runtime.isolate import isolated
from ggprune.scoring.choice import Strategy, Trial
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.ranking import Ranking

MIN_CHUNKS = 24  # of a brief healing; more where matrices are wide
ENOUGH = 1.5  # times as many tokens as it takes at least


def healing(measuring: MeasureOptions) -> HealOptions:
    """As layers were measured."""
    return HealOptions(n_ctx=measuring.n_ctx, compute=measuring.compute, cache=measuring.cache)


def settled(
    model: Model, text: Text, ranking: Ranking, options: HealOptions | None,
    progress: Progress = SILENT,
) -> Ranking:  # fmt: skip
    """A ranking whose choice is made: where it was left to healing, candidates are healed.

    Raises DataError if the text is too short for that, ArchitectureError if the model cannot be
    healed.
    """
    choice = ranking.chosen
    if choice is None or choice.strategy is not Strategy.HEALED:
        return ranking
    options = replace(options or HealOptions(n_ctx=ranking.calibration.n_ctx), cache=None)
    options = replace(options, n_chunk=_n_chunk(model, options))
    trials = []
    for n, point in enumerate(choice.candidates):
        part = progress.part(f"heal {n + 1} of {len(choice.candidates)}")
        trials.append(_trial(model, point.drop, text, options, part))
    trials.sort(key=lambda trial: trial.after.value)
    best = next(p for p in choice.candidates if p.drop == trials[0].drop)
    front = (*choice.front[:-1], best)
    chosen = replace(choice, best=best, front=front, trials=tuple(trials), candidates=())
    return replace(ranking, chosen=chosen)


def _n_chunk(model: Model, options: HealOptions) -> int:
    """As few as the widest matrix allows, and some more."""
    widths = [
        tensor.shape[0]
        for tensor in model.tensors
        if (roles := roles_of(tensor.name)) & Role.WRITER and not roles & Role.EXPERTS
    ]
    fitted = ENOUGH * ROWS_PER_INPUT * max(widths, default=0) / options.n_ctx
    return max(MIN_CHUNKS, int(fitted * ASIDE / (ASIDE - 1)) + 1)


def _trial(model: Model, drop: Cut, text: Text, options: HealOptions, progress: Progress) -> Trial:
    with passing_folder() as folder:
        patch = folder / "patch"
        patch.touch()
        place = Workplace(patch, patch)
        patient = Patient(model, drop.remaining(model.n_layer))
        result = isolated(healing_of.heal, patient, text, options, place, progress)
    return Trial(
        drop=drop, before=result.before.kld, after=result.after.kld, n_fitted=result.n_fitted,
        time_s=result.time_s,
    )  # fmt: skip
