"""The whole job: rank -> choose -> prune -> requantize -> verify -> evaluate -> benchmark.

The result stands beside what the same bytes or the same type would have given without pruning,
because a smaller quantization often loses less.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ggprune.arch.architecture import architecture_of, check_scored
from ggprune.arch.hparams import mtp_blocks, n_trunk
from ggprune.arch.legal import first_cut, first_legal
from ggprune.errors import UsageError
from ggprune.files.outputs import PendingFile, check_output, disk_errors
from ggprune.files.passing import passing_folder
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.imatrix import Imatrix
from ggprune.model.model import Model, open_model
from ggprune.pipeline.ahead import Ahead, look_ahead
from ggprune.pipeline.candidate import Candidate, rival_name
from ggprune.pipeline.heal import HealJob
from ggprune.pipeline.heal import outline as heal_outline
from ggprune.pipeline.healed import settled
from ggprune.pipeline.job import Job, planned, write_into
from ggprune.pipeline.launch import look
from ggprune.pipeline.options import AutoOptions
from ggprune.pipeline.rank import rank
from ggprune.pipeline.recovery import (
    Means,
    Round,
    all_dropped,
    earlier_rounds,
    recover,
    shares,
    stages_of,
)
from ggprune.pipeline.result import (
    AutoResult,
    JudgedText,
    PlannedCut,
    described,
    front_of,
    rows_of,
    verdict_of,
)
from ggprune.pipeline.rivals import rivals_of
from ggprune.pipeline.table import evaluate_all, let_write, time_all
from ggprune.progress import SILENT, Progress
from ggprune.quantize.checks import select_entries
from ggprune.runtime.isolate import isolated
from ggprune.runtime.library import versions
from ggprune.scoring.choice import Choice
from ggprune.scoring.ranking import Ranking
from ggprune.scoring.target import DropRequest, Goal, Target, check_units, sizes_to_try
from ggprune.surgery.plan import PrunePlan, make_plan
from ggprune.training.memory import check_memory

if TYPE_CHECKING:
    from distributed import Client

    from ggprune.cluster.members import Workforce


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
    client: Client | Workforce | None = None,
) -> AutoResult:
    """Drop the least important layers and prove what that gained and lost.

    A result that is healed is fitted to the text `healing`, or else to `calibration`. Workers of a
    Dask `client` rank and choose; those of this machine evaluate as well. Raises UsageError,
    OutputError or ArchitectureError before any work if the job is impossible.
    """
    target, ranked = options.request.target, partial(_rank, client=client)
    if options.quantize is not None:
        imatrix = select_entries(imatrix, options.quantize, model)
    whole = Job(model=model, out=out, quantize=options.quantize, imatrix=imatrix, force=force)
    options = replace(options, request=_counted(whole, options))
    means = Means(heal=options.heal, train=options.train, text=healing or calibration)
    ahead = _check(whole, options, calibration, evaluation, means.text)
    _announce(ahead, whole, options, evaluation, progress)
    with disk_errors(out), contextlib.ExitStack() as stack:
        folder = stack.enter_context(_room(out, options))
        rounds = _earlier_rounds(whole, options, calibration, means, folder, progress, ranked)
        options = _last_round(model, options, rounds)
        start = open_model(rounds[-1].path) if rounds else model
        ranking = ranked(start, calibration, options, progress)
        assert ranking.chosen is not None
        plan = _told(_plan(start, ranking.chosen.drop, options), progress)
        job = replace(whole, model=start, plan=plan)
        progress.part("write").begin(f"{out.name}, without layers {plan.cut}", of_parts=True)
        recovery = recover(job, model, means, folder, progress)

        def aside(other: Job) -> Path:
            """A file beside the output that is gone in the end."""
            pending = stack.enter_context(PendingFile(out))
            write_into(other, pending, progress)
            return pending.path

        candidates = _whole_models(whole, aside, progress)
        candidates += stages_of(job, recovery, rounds, aside)
        smaller = _smaller(job, ranking.chosen, options, aside)
        evaluations = evaluate_all(candidates, evaluation, options, progress, client)
        timed = time_all(candidates, list(smaller.values()), options, progress)
        health = let_write(candidates, options, progress) if options.generate else None
        rows = rows_of(candidates, evaluations, timed)
    return AutoResult(
        out=out, target=target, ranking=ranking, rows=rows,
        plan=PlannedCut(all_dropped(model, plan.cut, rounds), model.n_layer),
        front=front_of(ranking.chosen, rows, smaller, timed, options.quantize),
        evaluation_text=JudgedText(**vars(evaluations[out].text), n_chunk_whole=ahead.n_whole),
        verdict=verdict_of(rows), machine=timed.hardware, health=health,
        versions=versions(), healing=recovery.healing, training=recovery.training,
        rounds=described(rounds, recovery, rows) if options.train is not None else None,
    )  # fmt: skip


def _smaller(
    job: Job, choice: Choice, options: AutoOptions, aside: Callable[[Job], Path]
) -> dict[int, Path]:
    """With --measure-front: files with fewer layers gone, by their number."""
    points = choice.front[1:-1] if options.measure_front else ()
    plans = {point.drop.count: _plan(job.model, point.drop, options) for point in points}
    return {n: aside(replace(job, plan=plan)) for n, plan in plans.items()}


def _whole_models(whole: Job, aside: Callable[[Job], Path], progress: Progress) -> list[Candidate]:
    """What the pruned models stand beside; the first is the base."""
    ahead = "writing what is not pruned, to stand beside the result"
    progress.part("compare").begin(ahead, of_parts=True)
    rivals = [
        Candidate(rival_name(rival), aside(replace(whole, quantize=rival)))
        for rival in rivals_of(whole)
    ]
    return [Candidate("base", whole.model.path), *rivals]


@contextlib.contextmanager
def _room(out: Path, options: AutoOptions) -> Iterator[Path]:
    """A folder for files between the stages, beside the output."""
    if options.train is None and options.n_round == 1:
        yield out.parent  # there are none
        return
    with passing_folder(out.parent) as folder:
        yield folder


def _earlier_rounds(
    whole: Job, options: AutoOptions, text: Text, means: Means, folder: Path, progress: Progress,
    ranked: Callable[..., Ranking],
) -> tuple[Round, ...]:  # fmt: skip
    """All rounds but the last one, each with a ranking of its own."""
    if options.n_round == 1:
        return ()
    n_drops = shares(_n_drop(whole.model, options), options.n_round)[:-1]

    def choose(model: Model, n_drop: int, protect: frozenset[int]) -> tuple[int, ...]:
        target = Target(Goal.LAYERS, n_drop)
        request = replace(options.request, target=target, protect=tuple(sorted(protect)))
        ranking = ranked(model, text, replace(options, request=request), progress)
        assert ranking.chosen is not None
        return ranking.chosen.drop.whole_layers

    def plan_of(model: Model, cut: Cut) -> Job:
        return Job(model=model, out=whole.out, plan=make_plan(model, cut))

    protect = frozenset(options.request.protect)
    return earlier_rounds(whole.model, n_drops, protect, means, plan_of, choose, folder, progress)


def _n_drop(model: Model, options: AutoOptions) -> int:
    """Raises UsageError where the number is found on the way."""
    target = options.request.target
    n_drop = target.n_drop(model) if target is not None else None
    if n_drop is None:
        raise UsageError("--rounds takes a number of layers: --drop or --drop-percent")
    return n_drop


def _last_round(model: Model, options: AutoOptions, rounds: Sequence[Round]) -> AutoOptions:
    """With what is left to drop, and protected layers by the numbers that they have by now."""
    if not rounds:
        return options
    gone = rounds[-1].drop
    left = [n for n in range(model.n_layer) if n not in gone]
    target = Target(Goal.LAYERS, _n_drop(model, options) - len(gone))
    protect = tuple(i for i, n in enumerate(left) if n in options.request.protect)
    return replace(options, request=replace(options.request, target=target, protect=protect))


def _rank(
    model: Model, text: Text, options: AutoOptions, progress: Progress,
    client: Client | Workforce | None,
) -> Ranking:  # fmt: skip
    """With the chosen set, healed candidates compared if that is how it is chosen."""
    ranking = rank(model, text, options.ranking, progress.part("rank"), client=client)
    return settled(model, text, ranking, options.heal, progress)


def _counted(job: Job, options: AutoOptions) -> DropRequest:
    """With a size for a requantized file turned into the number of layers that reaches it."""
    model, request, target = job.model, options.request, options.request.target
    if options.train is not None or options.n_round > 1:  # which take whole layers
        request = replace(request, whole=True)
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
) -> Ahead:
    """Raises what makes the job impossible."""
    _check_rounds(job, options)
    if evaluation.sha256 in (calibration.sha256, healing.sha256):
        raise UsageError(
            "the layers would be judged by the very text they were chosen with: "
            "give different texts to -f and --eval-file"
        )
    model = job.model
    check_scored(architecture_of(model))
    free = [n for n in range(n_trunk(model)) if n not in options.request.protect]
    check_units(model, options.request)
    sizes = sizes_to_try(model, options.request.target, min(len(free), n_trunk(model) - 1))
    sets = (Cut.of(drop) for n in sizes if (drop := first_legal(model, free, n)))
    any_set = next(sets, None) or first_cut(model, free, sizes[0])
    plan = _plan(model, any_set, options)
    check_output(job.out, [file.path for file in model.files], force=job.force)
    if job.quantize is not None:
        planned(replace(job, plan=plan))
    if options.train is not None:
        check_memory(look(model, plan.keep, options.train), force=job.force)
    if options.heal is not None:
        heal_outline(HealJob(base=model, out=job.out, plan=plan, text=healing,
                             options=options.heal, force=job.force))  # fmt: skip
    return isolated(look_ahead, model.path, calibration, evaluation, options)


def _check_rounds(job: Job, options: AutoOptions) -> None:
    if options.n_round == 1:
        return
    if job.imatrix is not None:
        raise UsageError("--rounds does not go with --imatrix: it is of the unpruned model")
    if options.heal is None:
        raise UsageError("--rounds ranks what is repaired: add --heal")
    _n_drop(job.model, options)


def _announce(
    ahead: Ahead, whole: Job, options: AutoOptions, evaluation: Text, progress: Progress
) -> None:
    """Say how long it takes, and what is left out."""
    rivals = 2 if options.quantize is not None else 1
    stages = (options.heal is not None) + (options.train is not None) + options.n_round - 1
    n_model = 2 + rivals + stages  # what gains nothing, or has no rival, is not evaluated
    progress.part("auto").begin(ahead.told(whole.model.n_layer, n_model), of_parts=True)
    left_out = ahead.left_out(evaluation.source, n_model)
    if options.n_eval_chunk is None and left_out is not None:
        progress.note(left_out)


def _told(plan: PrunePlan, progress: Progress) -> PrunePlan:
    """Before it is carried out: what a user must know about the result."""
    for note in plan.notes:
        progress.note(note)
    return plan


def _plan(model: Model, drop: Cut, options: AutoOptions) -> PrunePlan:
    return make_plan(model, drop | Cut.of(mtp_blocks(model)) if options.drop_mtp else drop)
