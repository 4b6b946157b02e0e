"""The whole job: rank -> choose -> prune -> requantize -> verify -> evaluate -> benchmark.

The result stands beside what the same bytes or the same type would have given without pruning,
because a smaller quantization often loses less.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.arch import architecture_of, check_scored, first_legal, mtp_blocks, n_trunk
from ggprune.bench import Benchmark
from ggprune.errors import ArchitectureError, UsageError
from ggprune.evaluation import Evaluation
from ggprune.evaluation.health import Health, read_prompts
from ggprune.files.outputs import PendingFile, check_output, disk_errors
from ggprune.healing.result import Healing, HealOptions
from ggprune.metrics.chunks import make_chunks
from ggprune.metrics.text import Text
from ggprune.model import Model
from ggprune.model.cut import Cut
from ggprune.model.imatrix import Imatrix
from ggprune.pipeline.heal import HealJob, heal
from ggprune.pipeline.heal import outline as heal_outline
from ggprune.pipeline.job import Job, planned, write, write_into
from ggprune.pipeline.result import (
    AutoResult,
    Candidate,
    PlannedCut,
    front_of,
    healed_name,
    result_name,
    rival_name,
    rows_of,
)
from ggprune.pipeline.safe import benchmark, check_health, evaluate, rank
from ggprune.progress import SILENT, Progress
from ggprune.quantize.checks import QUANTIZER_ALIGNMENT, select_entries
from ggprune.quantize.forecast import forecast_each, quantized_contents
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.isolate import isolated
from ggprune.runtime.library import versions
from ggprune.runtime.session import Compute, LlamaModel
from ggprune.scoring import DropRequest, Goal, MeasureOptions, RankOptions, Target
from ggprune.scoring.target import sizes_to_try
from ggprune.surgery import PrunePlan, make_plan
from ggprune.surgery.contents import unchanged_contents
from ggprune.surgery.layout import lay_out

N_DECIDE = 4  # layers that the ranking settles where the number to drop is not known before

# Types for the comparison at equal bytes, largest first; all work without an imatrix.
LADDER = (
    "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AutoOptions:
    """What to drop and how to measure it."""

    request: DropRequest
    drop_mtp: bool = False  # and all multi-token-prediction blocks
    quantize: QuantizeOptions | None = None
    n_ctx: int = 512
    n_chunk: int | None = None
    n_prompt: int = 512
    n_gen: int = 128
    n_repeat: int = 5
    compute: Compute | None = None
    cache: Path | None = None  # folder for finished measurements
    measure_front: bool = False  # time a file for every number of layers up to the chosen one
    generate: bool = False  # let the models write, and look at the texts
    heal: HealOptions | None = None  # repair the result

    @property
    def ranking(self) -> RankOptions:
        measuring = MeasureOptions(
            n_ctx=self.n_ctx, n_chunk=self.n_chunk, compute=self.compute, cache=self.cache
        )
        return RankOptions(measuring=measuring, n_decide=N_DECIDE, request=self.request)


def auto(
    model: Model,
    out: Path,
    options: AutoOptions,
    *,
    calibration: Text,
    evaluation: Text,
    healing: Text | None = None,
    imatrix: Imatrix | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> AutoResult:
    """Drop the least important layers and prove what that gained and lost.

    A result that is healed is fitted to the text `healing`, or else to `calibration`. Raises
    UsageError, OutputError or ArchitectureError before any work if the job is impossible.
    """
    target = options.request.target
    if options.quantize is not None:
        imatrix = select_entries(imatrix, options.quantize, model)
    job = Job(model=model, out=out, quantize=options.quantize, imatrix=imatrix, force=force)
    options = replace(options, request=_counted(job, options))
    healing = healing or calibration
    _check(job, options, calibration, evaluation, healing)
    ranking = rank(model, calibration, options.ranking, progress.part("rank"))
    assert ranking.chosen is not None
    plan = _plan(model, ranking.chosen.drop, options)
    job = replace(job, plan=plan)
    healed = _write(job, options, healing, progress)
    with disk_errors(out), contextlib.ExitStack() as stack:

        def aside(other: Job) -> Path:
            """A file beside the output that is gone in the end."""
            pending = stack.enter_context(PendingFile(out))
            write_into(other, pending, progress)
            return pending.path

        rivals = [
            Candidate(rival_name(rival), aside(replace(job, plan=None, quantize=rival)))
            for rival in _rivals(job)
        ]
        name = result_name(plan, options.quantize)
        if healed is not None and healed.is_better:
            rivals.append(Candidate(name, aside(job)))
            name = healed_name(name)
        candidates = [Candidate("base", model.path), *rivals, Candidate(name, out)]
        smaller = {
            len(point.drop): aside(replace(job, plan=_plan(model, point.drop, options)))
            for point in (ranking.chosen.front[1:-1] if options.measure_front else ())
        }
        evaluations = _evaluate(candidates, evaluation, options, progress)
        timed = _time(candidates, list(smaller.values()), options, progress)
        speeds = {Path(speed.path): speed for speed in timed.models}
        health = _let_write(candidates, options, progress) if options.generate else None
        rows = rows_of(candidates, evaluations, speeds)
    known = {n_drop: speeds[path].speed("tg") for n_drop, path in smaller.items()}
    return AutoResult(
        out=out, target=target, plan=PlannedCut(plan.cut, plan.n_layer), ranking=ranking,
        rows=rows, front=front_of(ranking.chosen, rows, known, options.quantize),
        evaluation_text=evaluations[out].text, machine=timed.hardware, health=health,
        versions=versions(), healing=healed,
    )  # fmt: skip


def _write(job: Job, options: AutoOptions, text: Text, progress: Progress) -> Healing | None:
    """The result under its name; healed, if that is wanted and gains something."""
    if options.heal is None:
        write(job, progress)
        return None
    healing = HealJob(
        base=job.model, out=job.out, plan=job.plan, text=text, options=options.heal,
        quantize=job.quantize, imatrix=job.imatrix, force=job.force, or_plain=True,
    )  # fmt: skip
    return heal(healing, progress).healing


def _counted(job: Job, options: AutoOptions) -> DropRequest:
    """With a size for a requantized file turned into the number of layers that reaches it."""
    model, request, target = job.model, options.request, options.request.target
    if target is None or target.goal is not Goal.SIZE or job.quantize is None:
        return request

    def is_reached(drop: tuple[int, ...]) -> bool:
        plan = _plan(model, Cut.of(drop), options)
        return planned(replace(job, plan=plan)).size_bytes <= target.value

    free = [n for n in range(n_trunk(model)) if n not in request.protect]
    drops = (first_legal(model, free, n) for n in range(1, min(len(free), n_trunk(model) - 1) + 1))
    legal = [drop for drop in drops if drop is not None]
    first = bisect.bisect_left(legal, True, key=is_reached)
    if first == len(legal):
        raise UsageError(f"{target}: not reached as {job.quantize.type}, whatever is dropped")
    return replace(request, target=Target(Goal.LAYERS, len(legal[first])))


def _check(
    job: Job, options: AutoOptions, calibration: Text, evaluation: Text, healing: Text
) -> None:
    if evaluation.sha256 in (calibration.sha256, healing.sha256):
        raise UsageError(
            "the layers would be judged by the very text they were chosen with: "
            "give different texts to -f and --eval-file"
        )
    model = job.model
    check_scored(architecture_of(model))
    free = [n for n in range(n_trunk(model)) if n not in options.request.protect]
    sizes = sizes_to_try(model, options.request.target, min(len(free), n_trunk(model) - 1))
    sets = (first_legal(model, free, n) for n in sizes)
    any_set = next((drop for drop in sets if drop), None) or choose_first(model, free, sizes[0])
    plan = _plan(model, Cut.of(any_set), options)
    check_output(job.out, [file.path for file in model.files], force=job.force)
    if job.quantize is not None:
        planned(replace(job, plan=plan))
    for text, n_chunk in ((calibration, options.n_chunk), (evaluation, None)):
        isolated(check_text, model.path, text, options.n_ctx, n_chunk)
    if options.heal is not None:
        heal_outline(HealJob(base=model, out=job.out, plan=plan, text=healing,
                             options=options.heal, force=job.force))  # fmt: skip


def check_text(path: Path, text: Text, n_ctx: int, n_chunk: int | None) -> None:
    """Raises DataError if the text is too short for the model. Loads the vocabulary alone."""
    with LlamaModel(path, vocab_only=True) as model:
        make_chunks(text, model.tokenize, n_ctx, n_chunk)


def choose_first(model: Model, order: Sequence[int], n_drop: int) -> tuple[int, ...]:
    """The first layers of the order, or the first that can be removed together.

    Raises ArchitectureError if no set of that many layers can be removed exactly.
    """
    drop = first_legal(model, order, n_drop)
    if drop is None:
        raise ArchitectureError(
            f"{model.path}: no set of {n_drop} layers of {model.arch} can be removed exactly; "
            "ggprune inspect shows which layers can"
        )
    return drop


def _plan(model: Model, drop: Cut, options: AutoOptions) -> PrunePlan:
    return make_plan(model, drop | Cut.of(mtp_blocks(model)) if options.drop_mtp else drop)


def _rivals(job: Job) -> list[QuantizeOptions]:
    """Quantizations without pruning: the chosen type, and the best one that is no larger."""
    model, chosen = job.model, job.quantize
    if model.alignment != QUANTIZER_ALIGNMENT:
        return []
    rivals = [chosen] if chosen else []
    n_threads = chosen.n_threads if chosen else None
    ladder = [QuantizeOptions(t, allow_requantize=True, n_threads=n_threads) for t in LADDER]
    forecasts = isolated(forecast_each, model, ladder, job.imatrix)
    whole = unchanged_contents(model)
    sizes = {
        expected.options: lay_out(model, quantized_contents(whole, expected)).size_bytes
        for expected in forecasts
        if expected is not None
    }
    fitting = [options for options, size in sizes.items() if size <= job.out.stat().st_size]
    best = max(fitting, key=lambda options: sizes[options], default=None)
    if best is None or (chosen is not None and chosen.type == best.type):
        return rivals
    return [*rivals, best]


def _evaluate(
    candidates: Sequence[Candidate], text: Text, options: AutoOptions, progress: Progress
) -> dict[Path, Evaluation]:
    """All candidates against the first, the base."""
    base, *others = (candidate.path for candidate in candidates)
    evaluations = evaluate(
        others, text, base=base, n_ctx=options.n_ctx, compute=options.compute,
        progress=progress.part("evaluate"),
    )  # fmt: skip
    return dict(zip(others, evaluations, strict=True))


def _time(
    candidates: Sequence[Candidate], more: Sequence[Path], options: AutoOptions, progress: Progress
) -> Benchmark:
    """All candidates and some more, taking turns."""
    return benchmark(
        [*(candidate.path for candidate in candidates), *more], n_prompt=options.n_prompt,
        n_gen=options.n_gen, n_repeat=options.n_repeat, compute=options.compute,
        progress=progress.part("benchmark"),
    )  # fmt: skip


def _let_write(
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
