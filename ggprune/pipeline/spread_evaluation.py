"""Evaluation by workers: what they are asked, and what comes of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggprune.cluster.evaluate import EvalSetup, evaluate_groups
from ggprune.cluster.members import Workforce
from ggprune.cluster.work import files_of
from ggprune.evaluation.perplexity import Evaluation, evaluations_of, text_chunks
from ggprune.metrics.chunks import Chunks, TextInfo
from ggprune.metrics.text import Text
from ggprune.model.model import open_model
from ggprune.pipeline.spread import crew_of, workforce_of
from ggprune.progress import Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import build_commit
from ggprune.runtime.isolate import isolated
from ggprune.runtime.session import LlamaModel
from ggprune.version import __version__

if TYPE_CHECKING:
    from distributed import Client


def evaluate_by(
    client: Client | Workforce, paths: Sequence[Path], text: Text, base: Path | None, n_ctx: int,
    n_chunk: int | None, compute: Compute, progress: Progress,
) -> tuple[Evaluation, ...]:  # fmt: skip
    """As `pipeline.evaluate.evaluate`."""
    force = workforce_of(client)
    assert force is not None
    models = [open_model(path) for path in (*paths, *([base] if base is not None else []))]
    for model in models:
        model.read_fingerprint(progress.part("read"))
    chunks, info, build = isolated(_prepare, paths, base, text, n_ctx, n_chunk)
    setup = EvalSetup(
        ggprune=__version__, build=build, models=tuple(map(files_of, models)),
        has_base=base is not None, n_ctx=n_ctx, compute=replace(compute, n_threads=None, rpc=()),
        sample=chunks[0].tokens.tobytes(),
    )  # fmt: skip
    with crew_of(force, setup, progress) as crew:
        scored, kinds = evaluate_groups(crew, chunks, setup, progress)
        evaluations = evaluations_of(paths, info, scored)
        workers = crew.infos()
    return tuple(replace(each, workers=workers, kinds=kinds or None) for each in evaluations)


def _prepare(
    paths: Sequence[Path], base: Path | None, text: Text, n_ctx: int, n_chunk: int | None
) -> tuple[Chunks, TextInfo, str]:
    """The text's tokens, and which llama.cpp this is."""
    subjects = [LlamaModel(path, vocab_only=True) for path in paths]
    first = LlamaModel(base, vocab_only=True) if base is not None else subjects[0]
    return *text_chunks(text, first, subjects, n_ctx, n_chunk), build_commit()
