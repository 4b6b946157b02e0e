"""What training did: before and after, run by run, and what it took."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from ggprune.files.keys import INLINE, Key
from ggprune.healing.result import Healing
from ggprune.pipeline.adapter import AdapterFile
from ggprune.pipeline.train import Training
from ggprune.report.blocks import Block, Table, Text, table_of
from ggprune.report.heal import healing_blocks
from ggprune.report.units import count, estimate, number, size
from ggprune.report.written import PrunedModel
from ggprune.report.written import blocks as written_blocks
from ggprune.training.options import Run


@dataclass(frozen=True)
class TrainedModel:
    """A pruned model that was trained back."""

    model: Annotated[PrunedModel, INLINE]
    healing: Annotated[
        Healing | None, Key(optional=True), "what was fitted before, without --no-refit"
    ]
    training: Annotated[Training, "what was trained, and what that gained"]
    lora: Annotated[AdapterFile | None, Key(optional=True), "with --lora-out"] = None


def blocks(result: TrainedModel) -> tuple[Block, ...]:
    """What was fitted, the runs, what was gained, the file."""
    fitted = healing_blocks(result.healing) if result.healing is not None else ()
    lines = [*_gain(result.training), *_took(result)]
    table = _runs(result.training.trained.runs)
    return (*fitted, table, Text(tuple(lines)), *written_blocks(result.model))


def _runs(runs: tuple[Run, ...]) -> Table:
    rows = [(run, point) for run in runs for point in run.points]
    return table_of(
        rows, ("seed", lambda row: row[0].seed), ("step", lambda row: row[1].step),
        ("tokens", lambda row: row[1].n_token),
        ("loss", lambda row: number(row[1].loss) if row[1].loss is not None else ""),
        ("KLD", lambda row: number(row[1].kld)), ("PPL", lambda row: number(row[1].ppl)),
        ("tok/s", lambda row: f"{row[1].tok_per_s:.0f}" if row[1].tok_per_s else ""),
        ("", lambda row: "best" if row[1] == row[0].best else ""), left=(7,),
        spare=("tok/s", "loss", "tokens", "PPL"),
    )  # fmt: skip


def _gain(training: Training) -> Iterator[str]:
    before, after, trained = training.before, training.after, training.trained
    ratio = after.kld.value / before.kld.value if before.kld.value > 0 else 1.0
    yield f"KLD      {estimate(before.kld)} -> {estimate(after.kld)}  ({ratio:.2f}x)"
    yield f"PPL      {estimate(before.ppl)} -> {estimate(after.ppl)}"
    best = trained.best.best
    yield (
        f"torch    KLD {number(best.kld)} before it was stored; proved against llama.cpp: "
        f"{trained.proof.original:.2g} nats (original), {trained.proof.pruned:.2g} (pruned)"
    )
    if len(trained.runs) > 1:
        klds, ppls = ([getattr(r.best, key) for r in trained.runs] for key in ("kld", "ppl"))
        yield (
            f"seeds    {len(trained.runs)}: KLD {number(statistics.mean(klds))} ± "
            f"{number(statistics.stdev(klds))}, PPL {number(statistics.mean(ppls))} ± "
            f"{number(statistics.stdev(ppls))}; seed {trained.best.seed} was taken"
        )
    if any(run.is_early for run in trained.runs):
        yield "note     ended early: nothing was gained on rows set aside any more"


def _took(result: TrainedModel) -> Iterator[str]:
    trained = result.training.trained
    gpu = f", {size(trained.peak_bytes)} on the GPU" if trained.peak_bytes else ""
    yield (
        f"train    {count(trained.n_trainable)} parameters, {trained.n_train_row} rows of text, "
        f"{trained.n_aside_row} set aside, {trained.time_s:.0f} s{gpu}"
    )
    if result.lora is not None:
        yield (
            f"adapter  {size(result.lora.size_bytes)}: {result.lora.path}, for the model as it was "
            "before training; merged it costs no speed, loaded it does"
        )
