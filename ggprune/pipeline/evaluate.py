"""Evaluations, each in a child process, or by workers: no bad file ends the caller's.

What they do is written where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggprune.cluster.crew import Crew
from ggprune.cluster.evaluate import EvalSetup, evaluate_groups
from ggprune.cluster.members import Workforce
from ggprune.cluster.work import files_of
from ggprune.errors import UsageError
from ggprune.evaluation import choices, health, perplexity, tasks
from ggprune.evaluation.perplexity import N_CTX, Evaluation, SaveLogits, evaluations_of, text_chunks
from ggprune.metrics.chunks import Chunks, TextInfo
from ggprune.metrics.text import EVALUATION, Text, shipped_text
from ggprune.model.model import open_model
from ggprune.pipeline.spread import workforce_of
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import build_commit
from ggprune.runtime.isolate import in_child, isolated
from ggprune.runtime.session import LlamaModel
from ggprune.version import __version__

if TYPE_CHECKING:
    from distributed import Client

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
    force = workforce_of(client)
    if force is None:
        return isolated(
            perplexity.evaluate, paths, text, base=base, base_logits=base_logits,
            save_logits=save_logits, n_ctx=n_ctx, n_chunk=n_chunk, compute=compute,
            progress=progress,
        )  # fmt: skip
    if base_logits is not None or save_logits is not None:
        option = "--kl-divergence-base" if base_logits is not None else "--save-logits"
        raise UsageError(f"{option} does not go with --workers or --scheduler: logits stay here")
    return _spread(
        force, paths, text or shipped_text(EVALUATION), base, n_ctx or N_CTX, n_chunk,
        compute or Compute(), progress,
    )  # fmt: skip


def _spread(
    force: Workforce, paths: Sequence[Path], text: Text, base: Path | None, n_ctx: int,
    n_chunk: int | None, compute: Compute, progress: Progress,
) -> tuple[Evaluation, ...]:  # fmt: skip
    models = [open_model(path) for path in (*paths, *([base] if base is not None else []))]
    for model in models:
        model.read_fingerprint(progress.part("read"))
    chunks, info, build = isolated(_prepare, paths, base, text, n_ctx, n_chunk)
    setup = EvalSetup(
        ggprune=__version__, build=build, models=tuple(map(files_of, models)),
        has_base=base is not None, n_ctx=n_ctx, compute=replace(compute, n_threads=None, rpc=()),
        sample=chunks[0].tokens.tobytes(),
    )  # fmt: skip
    with Crew(force.client, setup, force.rules, progress) as crew:
        scored = evaluate_groups(crew, chunks, setup, progress)
        evaluations = evaluations_of(paths, info, scored)
        return tuple(replace(each, workers=crew.infos()) for each in evaluations)


def _prepare(
    paths: Sequence[Path], base: Path | None, text: Text, n_ctx: int, n_chunk: int | None
) -> tuple[Chunks, TextInfo, str]:
    """The text's tokens, and which llama.cpp this is."""
    subjects = [LlamaModel(path, vocab_only=True) for path in paths]
    first = LlamaModel(base, vocab_only=True) if base is not None else subjects[0]
    return *text_chunks(text, first, subjects, n_ctx, n_chunk), build_commit()
