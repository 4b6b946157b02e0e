"""What is written of a model that layers leave: pruned, healed, trained; once, or round by round.

The best set of layers changes when a model has recovered: with several rounds a part of the layers
leaves, the rest is healed, and the healed model is ranked anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.errors import UsageError
from ggprune.healing.result import Healing, HealOptions
from ggprune.metrics.text import Text
from ggprune.model.cut import Cut
from ggprune.model.model import Model, open_model
from ggprune.pipeline.candidate import (
    Candidate,
    healed_name,
    result_name,
    round_name,
    trained_name,
)
from ggprune.pipeline.heal import HealJob, heal
from ggprune.pipeline.job import Job, write
from ggprune.pipeline.train import Training, TrainJob, train
from ggprune.progress import SILENT, Progress
from ggprune.surgery.contents import contents_of
from ggprune.training.options import TrainOptions
from ggprune.training.samples import Corpus

PRUNED, HEALED = "pruned.gguf", "healed.gguf"
Choose = Callable[[Model, int, frozenset[int]], tuple[int, ...]]  # so many layers, not those


@dataclass(frozen=True, kw_only=True)
class Means:
    """How a pruned model is repaired."""

    heal: HealOptions | None = None
    train: TrainOptions | None = None  # behind healing
    text: Text  # that it is fitted to and trained on


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What repairing did. `healed` is there where training went on from it."""

    healing: Healing | None = None
    training: Training | None = None
    healed: Path | None = None


def recover(
    job: Job, base: Model, means: Means, folder: Path, progress: Progress = SILENT
) -> Recovery:
    """Write the job's result under its name, repaired as far as that gains something.

    base: the original, which job.model may have been pruned from before. `folder` has room for
    files that are not wanted in the end.
    """
    if means.heal is None:
        write(job, progress)
        return Recovery()
    healing = _heal_job(job, base, means, folder)
    if means.train is None:
        return Recovery(healing=heal(healing, progress).healing)
    aside = replace(
        healing, out=folder / HEALED, quantize=None, imatrix=None, force=True, check_load=False
    )
    healed = heal(aside, progress).healing
    imatrix = job.imatrix
    if imatrix is not None and job.plan is not None:
        imatrix = contents_of(job.model, job.plan).followed(imatrix)
    own = replace(
        healing, plan=None, pruned=open_model(folder / HEALED), quantize=job.quantize,
        imatrix=imatrix,
    )  # fmt: skip
    training = TrainJob(heal=own, corpus=Corpus(means.text), options=means.train, refit=False)
    done = train(training, progress)
    return Recovery(healing=healed, training=done.training, healed=folder / HEALED)


def _heal_job(job: Job, base: Model, means: Means, folder: Path) -> HealJob:
    """In later rounds by way of a file, as the original is another model then."""
    assert means.heal is not None
    plan, pruned = job.plan, None
    if job.model is not base:
        target = folder / PRUNED
        write(Job(model=job.model, plan=plan, out=target, check_load=False, force=True))
        plan, pruned = None, open_model(target)
    return HealJob(
        base=base, out=job.out, plan=plan, pruned=pruned, text=means.text, options=means.heal,
        quantize=job.quantize, imatrix=job.imatrix, force=job.force, check_load=job.check_load,
        or_plain=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Round:
    """A model that lacks a part of the layers, repaired; the next round begins with it."""

    path: Path
    drop: tuple[int, ...]  # so far, by the original's numbers
    recovery: Recovery


def shares(n_drop: int, n_round: int) -> tuple[int, ...]:
    """How many layers leave in each round. Raises UsageError for more rounds than layers."""
    if n_round > n_drop:
        raise UsageError(f"--rounds {n_round}: there are {n_drop} layers to drop")
    return tuple(
        (n_drop + n_round - 1 - n) // n_round for n in range(n_round)
    )  # the first ones drop one more where it does not come out even


def earlier_rounds(
    model: Model, n_drops: tuple[int, ...], protect: frozenset[int], means: Means,
    plan_of: Callable[[Model, Cut], Job], choose: Choose, folder: Path, progress: Progress,
) -> tuple[Round, ...]:  # fmt: skip
    """All rounds but the last. `plan_of` makes a job of a model and what leaves it."""
    rounds = list[Round]()
    current, numbers = model, list(range(model.n_layer))
    for n, n_drop in enumerate(n_drops):
        kept = frozenset(i for i, number in enumerate(numbers) if number in protect)
        drop = choose(current, n_drop, kept)
        place = folder / f"round-{n + 1}"
        place.mkdir()
        job = replace(plan_of(current, Cut.of(drop)), out=place / "model.gguf", force=True)
        recovery = recover(job, model, means, place, progress)
        numbers = [number for i, number in enumerate(numbers) if i not in drop]
        gone = tuple(i for i in range(model.n_layer) if i not in numbers)
        current = open_model(job.out)
        rounds.append(Round(job.out, gone, recovery))
    return tuple(rounds)


def all_dropped(model: Model, last: Cut, rounds: Sequence[Round]) -> Cut:
    """What left in all rounds, by the original's numbers; `last` by those of the last round."""
    if not rounds:
        return last
    left = [n for n in range(model.n_layer) if n not in rounds[-1].drop]
    left_units = [unit for n in left for unit in (2 * n, 2 * n + 1)]
    return Cut.of(rounds[-1].drop) | Cut.of_units(left_units[unit] for unit in last.units)


def stages_of(
    job: Job, recovery: Recovery, rounds: Sequence[Round], aside: Callable[[Job], Path]
) -> list[Candidate]:
    """The models on the way to the result, which comes last."""
    assert job.plan is not None
    stages = [Candidate(round_name(n + 1), each.path) for n, each in enumerate(rounds)]
    n_drop = job.plan.cut.depth + (len(rounds[-1].drop) if rounds else 0)
    name = result_name(n_drop, job.quantize)
    healing, training = recovery.healing, recovery.training
    if healing is not None and healing.is_better:
        stages.append(Candidate(name, aside(job)))
        name = healed_name(name)
    if training is not None and training.is_better and recovery.healed is not None:
        if healing is not None and healing.is_better:
            healed = replace(job, model=open_model(recovery.healed), plan=None)
            stages.append(Candidate(name, aside(healed)))
        else:
            stages.append(Candidate(name, aside(job)))
        name = trained_name(name)
    return [*stages, Candidate(name, job.out)]
