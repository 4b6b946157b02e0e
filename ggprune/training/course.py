"""Which rows every step trains on. Follows from the options alone, so that a run can go on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggprune.training.options import FEW, MANY, MAX_JUDGED, TrainOptions


@dataclass(frozen=True)
class Course:
    """The steps of one run."""

    n_row: int  # to train on
    n_step: int
    per_step: int  # rows
    seed: int
    n_evaluation: int

    def rows(self, step: int) -> NDArray[np.intp]:
        """(per_step,) rows of a step: all of them in random order, then in another one, ..."""
        places = np.arange(step * self.per_step, (step + 1) * self.per_step)
        epochs = places // self.n_row
        orders = {
            int(e): np.random.default_rng((self.seed, int(e))).permutation(self.n_row)
            for e in np.unique(epochs)
        }
        return np.array(
            [orders[int(e)][p % self.n_row] for e, p in zip(epochs, places, strict=True)], np.intp
        )

    def is_evaluated(self, done: int) -> bool:
        """Is the model looked at behind so many steps?"""
        return done == self.n_step or done % max(1, self.n_step // self.n_evaluation) == 0


def plan_course(options: TrainOptions, n_row: int, n_aside: int, seed: int) -> Course:
    """At least one step; no more time for evaluations than a third of that for steps, or so."""
    n_token = options.n_token or n_row * options.n_ctx * options.n_epoch
    n_step = max(1, round(n_token / (options.rows_per_step * options.n_ctx)))
    n_judged = min(n_aside, MAX_JUDGED) * options.n_ctx
    n_evaluation = min(max(round(n_token / (2 * n_judged)), FEW), MANY)
    return Course(n_row, n_step, options.rows_per_step, seed, n_evaluation)
