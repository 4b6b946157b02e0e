"""Choosing as a job that can run in a child process: models come as paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ggprune.arch import n_trunk
from ggprune.metrics.text import Text
from ggprune.model import open_model
from ggprune.runtime.session import Compute
from ggprune.scoring import Choice, Scores, Wanted, choose_set
from ggprune.scoring.measure import Measurer


def choose_path(
    path: Path,
    text: Text,
    scores: Scores,
    wanted: Wanted,
    *,
    n_chunk: int | None = None,
    compute: Compute | None = None,
    cache: Path | None = None,
    confidence: float = 0.95,
    narrate: Callable[[str], object] | None = None,
) -> Choice:
    """A set of layers on top of a finished ranking, as `scoring.choose_set`.

    On the chunks the ranking had, unless `n_chunk` says how many; what it protected stays.
    """
    model = open_model(path)
    protected = scores.by.protected(n_trunk(model))
    wanted = replace(wanted, protect=(*wanted.protect, *protected))
    with Measurer(
        model, text, n_ctx=scores.n_ctx, n_chunk=n_chunk or scores.n_chunk, compute=compute,
        cache=cache,
    ) as measurer:  # fmt: skip
        return choose_set(
            measurer,
            wanted,
            confidence=confidence,
            order=scores.order,
            windows=scores.windows,
            progress=narrate,
        )
