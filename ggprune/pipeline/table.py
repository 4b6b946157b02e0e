"""All models of the final table side by side: judged, timed, made to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggprune.bench.ratio import Wanted
from ggprune.bench.speed import Benchmark
from ggprune.cluster.members import Workforce
from ggprune.evaluation.health import Health, read_prompts
from ggprune.evaluation.perplexity import Evaluation
from ggprune.metrics.text import Text
from ggprune.pipeline.bench import benchmark
from ggprune.pipeline.candidate import Candidate
from ggprune.pipeline.evaluate import check_health, evaluate
from ggprune.pipeline.options import AutoOptions
from ggprune.pipeline.spread import helpers_here
from ggprune.progress import Progress

if TYPE_CHECKING:
    from distributed import Client


def evaluate_all(
    candidates: Sequence[Candidate], text: Text, options: AutoOptions, progress: Progress,
    client: Client | Workforce | None = None,
) -> dict[Path, Evaluation]:  # fmt: skip
    """All candidates against the first, the base; by workers of this machine, which see them."""
    base, *others = (candidate.path for candidate in candidates)
    evaluations = evaluate(
        others, text, base=base, n_ctx=options.n_ctx, n_chunk=options.eval_limit,
        compute=options.compute, progress=progress.part("evaluate"), client=helpers_here(client),
    )  # fmt: skip
    return dict(zip(others, evaluations, strict=True))


def time_all(
    candidates: Sequence[Candidate], more: Sequence[Path], options: AutoOptions, progress: Progress
) -> Benchmark:
    """All candidates and some more, taking turns until is known how each of the candidates compares
    with the first and the last one, the base and the result.
    """
    last = len(candidates) - 1
    pairs = [(n, 0) for n in range(1, last + 1)] + [(last, n) for n in range(1, last)]
    return benchmark(
        [*(candidate.path for candidate in candidates), *more], n_prompt=options.n_prompt,
        n_gen=options.n_gen, n_repeat=options.n_repeat, wanted=Wanted(pairs=tuple(pairs)),
        compute=options.compute, progress=progress.part("benchmark"),
    )  # fmt: skip


def let_write(
    candidates: Sequence[Candidate], options: AutoOptions, progress: Progress
) -> tuple[Health, ...]:
    """What all candidates write beside the first, the base, under their names."""
    base, *others = candidates
    written = check_health(
        [candidate.path for candidate in others], read_prompts(None), base=base.path,
        compute=options.compute, progress=progress.part("write"),
    )  # fmt: skip
    names = {str(candidate.path): candidate.name for candidate in others}
    return tuple(replace(health, path=names[health.path]) for health in written)
