"""A ranking by Taylor: torch finds what it follows, once it is proved to compute the same model."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from ggprune.files.passing import passing_folder
from ggprune.metrics.estimates import Float64
from ggprune.metrics.text import Text
from ggprune.model.model import Model
from ggprune.pipeline.job import one_file
from ggprune.pipeline.launch import by_torch, check_extra
from ggprune.pipeline.proof import exact_logits
from ggprune.progress import Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated
from ggprune.scoring.rank import RankOptions
from ggprune.scoring.ranking import Metric
from ggprune.training.rowsfile import read_chunks


def with_taylor(model: Model, text: Text, options: RankOptions, progress: Progress) -> RankOptions:
    """The options, with the sum of every layer if layers are to be ordered by it.

    Raises MissingExtraError without torch, DataError if the text is too short, ArchitectureError if
    torch does not compute what llama.cpp does, LlamaError if a sum is not finite.
    """
    if options.by.metric is not Metric.TAYLOR or options.taylor is not None:
        return options
    check_extra()
    measuring = options.measuring
    compute = measuring.compute or Compute()
    chunks = isolated(read_chunks, model.path, text, measuring.n_ctx, measuring.n_chunk)
    with passing_folder() as folder:
        beside = folder / model.path.name
        known = exact_logits(model, chunks[0], compute, beside, progress)
        with one_file(model, beside, progress) as whole:
            sums = isolated(
                by_torch, "taylor", "measure", whole, chunks, known, compute.n_threads,
                progress.part("taylor"),
            )  # fmt: skip
    return replace(options, taylor=tuple(cast(Float64, sums).tolist()))
