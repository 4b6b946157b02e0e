"""All models of the final table side by side: judged, timed, made to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ggprune.bench import Benchmark
from ggprune.evaluation import Evaluation
from ggprune.evaluation.health import Health, read_prompts
from ggprune.metrics.text import Text
from ggprune.pipeline.candidate import Candidate
from ggprune.pipeline.options import AutoOptions
from ggprune.pipeline.safe import benchmark, check_health, evaluate
from ggprune.progress import Progress


def evaluate_all(
    candidates: Sequence[Candidate], text: Text, options: AutoOptions, progress: Progress
) -> dict[Path, Evaluation]:
    """All candidates against the first, the base."""
    base, *others = (candidate.path for candidate in candidates)
    evaluations = evaluate(
        others, text, base=base, n_ctx=options.n_ctx, compute=options.compute,
        progress=progress.part("evaluate"),
    )  # fmt: skip
    return dict(zip(others, evaluations, strict=True))


def time_all(
    candidates: Sequence[Candidate], more: Sequence[Path], options: AutoOptions, progress: Progress
) -> Benchmark:
    """All candidates and some more, taking turns."""
    return benchmark(
        [*(candidate.path for candidate in candidates), *more], n_prompt=options.n_prompt,
        n_gen=options.n_gen, n_repeat=options.n_repeat, compute=options.compute,
        progress=progress.part("benchmark"),
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
