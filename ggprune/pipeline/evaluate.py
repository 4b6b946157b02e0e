"""Evaluations, each in a child process, or by workers: no bad file ends the caller's.

What they do is written where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ggprune.errors import UsageError
from ggprune.evaluation import choices, health, perplexity, tasks
from ggprune.evaluation.perplexity import N_CTX, Evaluation, SaveLogits
from ggprune.metrics.text import EVALUATION, Text, shipped_text
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import in_child, isolated

if TYPE_CHECKING:
    from distributed import Client

    from ggprune.cluster.members import Workforce

evaluate_strided = in_child(perplexity.evaluate_strided)
score_choices = in_child(choices.score_choices)
run_tasks = in_child(tasks.run_tasks)
check_health = in_child(health.check_health)


def evaluate(
    paths: Sequence[Path],
    text: Text | None = None,
    *,
    base: Path | None = None,
    base_logits: Path | None = None,
    save_logits: SaveLogits | None = None,
    n_ctx: int | None = None,
    n_chunk: int | None = None,
    compute: Compute | None = None,
    progress: Progress = SILENT,
    client: Client | Workforce | None = None,
) -> tuple[Evaluation, ...]:
    """As `evaluation.perplexity.evaluate`; by the workers of a Dask `client`, if there is one.

    The numbers are the same, to the bit. Raises DataError if no worker can take part, UsageError
    for files of logits, which stay here.
    """
    if client is None:
        return isolated(
            perplexity.evaluate, paths, text, base=base, base_logits=base_logits,
            save_logits=save_logits, n_ctx=n_ctx, n_chunk=n_chunk, compute=compute,
            progress=progress,
        )  # fmt: skip
    if base_logits is not None or save_logits is not None:
        option = "--kl-divergence-base" if base_logits is not None else "--save-logits"
        raise UsageError(f"{option} does not go with --workers or --scheduler: logits stay here")
    from ggprune.pipeline.spread_evaluation import evaluate_by  # and all that measures

    return evaluate_by(
        client, paths, text or shipped_text(EVALUATION), base, n_ctx or N_CTX, n_chunk,
        compute or Compute(), progress,
    )  # fmt: skip
