"""What came of the whole job: one row per model, and what every number of layers gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.arch.footprint import footprints_of
from ggprune.bench.ratio import Ratio, paired_ratio
from ggprune.bench.roofline import make_roofline
from ggprune.bench.speed import Benchmark, Machine, Speed
from ggprune.evaluation.health import Health
from ggprune.evaluation.perplexity import Evaluation
from ggprune.files.documents import INLINE, Key, read_document
from ggprune.healing.result import Healing
from ggprune.metrics.chunks import TextInfo
from ggprune.metrics.estimates import Estimate
from ggprune.model.cut import Cut
from ggprune.model.model import open_model
from ggprune.pipeline.candidate import Candidate, rival_name, round_name
from ggprune.pipeline.recovery import Recovery, Round
from ggprune.pipeline.train import Training
from ggprune.quantize.options import QuantizeOptions
from ggprune.scoring.choice import Choice, Point
from ggprune.scoring.ranking import Ranking
from ggprune.scoring.target import OPTIONS, Target


@dataclass(frozen=True, kw_only=True)
class JudgedText(TextInfo):
    """Which text the models were judged on."""

    n_chunk_whole: Annotated[int, "chunks that the whole text gives"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of the final table; all rows come from one evaluation and one benchmark run."""

    name: str
    n_layer: int
    n_param: int = 0
    size_bytes: int
    bits_per_weight: float
    ppl: Estimate
    kld: Annotated[Estimate | None, "from the base; null for the base itself"]
    same_top_p: Annotated[Estimate | None, "as the base; null for the base itself"]
    pp: Speed | None
    tg: Speed | None
    speedup: Annotated[
        Ratio | None, "of generating tokens, over the base; null for the base itself"
    ] = None
    predicted_speedup: Annotated[float | None, "the same, by the bytes read for every token"] = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result beside what loses least of the models that are no larger and not pruned."""

    rival: Annotated[str, "its name"]
    kld: Annotated[Estimate, "the result's"]
    rival_kld: Estimate
    speedup: Annotated[Ratio | None, "of generating tokens, of the result over the rival"]
    predicted_speedup: Annotated[float | None, "the same, by the bytes read for every token"]


@dataclass(frozen=True)
class FrontRow:
    """A number of layers: what dropping them costs and gives, as far as it was measured."""

    point: Annotated[Point, INLINE]
    tg: Annotated[Speed | None, "where a file was timed"]
    speedup: Annotated[
        Ratio | None,
        Key(name="measured_speedup"),
        "over the same type without pruning; null for that itself",
    ]


@dataclass(frozen=True, kw_only=True)
class RoundRow:
    """The original, or a model that layers have left and that was trained back."""

    n_layer: int
    n_param: int
    ppl: Estimate
    ppl_ratio: Annotated[float, "over the original's"]
    speedup: Annotated[
        Ratio | None, "of generating tokens, over the original; null for the original itself"
    ]
    seed_ppls: Annotated[tuple[float, ...], "of every seed, on rows set aside"]


@dataclass(frozen=True)
class PlannedCut:
    """What was taken out of how many layers."""

    cut: Annotated[Cut, Key(name="drop")]
    n_layer: int


def _write_target(target: Target | None) -> str | None:
    return str(target) if target is not None else None


def _read_target(text: str | None) -> Target | None:
    if text is None:
        return None
    option, value = text.split()
    goals = {name: goal for goal, name in OPTIONS.items()}
    return Target(goals[option], float(value))


@dataclass(frozen=True, kw_only=True)
class AutoResult:
    """What was done and what came of it. The first row is the base, the last one the result."""

    out: Path
    target: Annotated[
        Target | None,
        Key(write=_write_target, read=_read_target),
        "the option that asked for it, or null",
    ]
    plan: PlannedCut
    ranking: Ranking
    evaluation_text: Annotated[JudgedText, Key(name="evaluation"), "what the models were judged on"]
    rows: Annotated[
        tuple[Row, ...],
        "the base, rivals that are not pruned, with --heal what is not healed, the result",
    ]
    verdict: Annotated[Verdict | None, "null where nothing that is not pruned is as small"]
    front: tuple[FrontRow, ...]
    health: Annotated[tuple[Health, ...] | None, "of all rows but the first, with --generate"]
    machine: Machine
    versions: dict[str, str]
    healing: Annotated[Healing | None, Key(optional=True), "with --heal"] = None
    training: Annotated[Training | None, Key(optional=True), "with --train"] = None
    rounds: Annotated[
        tuple[RoundRow, ...] | None, Key(optional=True), "with --train: the original, every round"
    ] = None


def read_report(path: Path) -> AutoResult:
    """What `ggprune auto --report` wrote as JSON. Raises DataError if the file is none of it."""
    return read_document(path, AutoResult, "a report made by ggprune auto")


def described(rounds: Sequence[Round], last: Recovery, rows: Sequence[Row]) -> tuple[RoundRow, ...]:
    """As the depth-first recipe prints it: the original, every round, the result."""
    base, result = rows[0], rows[-1]
    named = {row.name: row for row in rows}
    stages = [(named[round_name(n + 1)], each.recovery) for n, each in enumerate(rounds)]
    found = []
    for row, recovery in [(base, Recovery()), *stages, (result, last)]:
        runs = recovery.training.trained.runs if recovery.training is not None else ()
        found.append(RoundRow(
            n_layer=row.n_layer, n_param=row.n_param, ppl=row.ppl,
            ppl_ratio=row.ppl.value / base.ppl.value,
            speedup=row.speedup,
            seed_ppls=tuple(run.best.ppl for run in runs),
        ))  # fmt: skip
    return tuple(found)


def rows_of(
    candidates: Sequence[Candidate],
    evaluations: Mapping[Path, Evaluation],
    timed: Benchmark,
) -> tuple[Row, ...]:
    """One row for each candidate. The first is the base, which the others were compared with."""
    rows, base = list[Row](), timed.models[0].speed("tg")
    speeds = {Path(model.path): model for model in timed.models}
    predicted = _predicted(timed)
    compared = next(iter(evaluations.values())).divergence
    assert compared is not None
    for candidate in candidates:
        model, speed = open_model(candidate.path), speeds[candidate.path]
        own = evaluations.get(candidate.path)  # none of the base
        divergence = own.divergence if own else None
        row = Row(
            name=candidate.name, n_layer=model.n_layer, n_param=model.n_param,
            size_bytes=model.size_bytes,
            bits_per_weight=model.bits_per_weight, ppl=own.ppl if own else compared.base_ppl,
            kld=divergence.kld.mean if divergence else None,
            same_top_p=divergence.same_top_p if divergence else None,
            pp=speed.speed("pp"), tg=speed.speed("tg"),
            speedup=_ratio(speed.speed("tg"), base) if rows else None,
            predicted_speedup=predicted.get(candidate.path),
        )  # fmt: skip
        rows.append(row)
    return tuple(rows)


def _ratio(above: Speed | None, below: Speed | None) -> Ratio | None:
    """How many times as fast, by repetitions in which the models took turns."""
    if above is None or below is None or above is below:
        return None
    return paired_ratio(above.samples_tok_per_s, below.samples_tok_per_s)


def _predicted(timed: Benchmark) -> dict[Path, float]:
    """By the bytes that are read for a token: how many times as fast as the first model."""
    paths = [Path(model.path) for model in timed.models]
    read = [footprints_of(open_model(path)).without(()).token_bytes for path in paths]
    roofs = make_roofline(timed, read, None).roofs
    return {Path(roof.path): roof.predicted_speedup for roof in roofs}


def verdict_of(rows: Sequence[Row]) -> Verdict | None:
    """None where there is no rival of at most the result's size."""
    base, result = rows[0], rows[-1]
    rivals = {
        row.kld.value: row
        for row in rows[1:-1]
        if row.n_layer == base.n_layer and row.size_bytes <= result.size_bytes and row.kld
    }
    if not rivals or result.kld is None:
        return None
    rival = rivals[min(rivals)]
    assert rival.kld is not None
    predicted, of_rival = result.predicted_speedup, rival.predicted_speedup
    return Verdict(
        rival=rival.name, kld=result.kld, rival_kld=rival.kld, speedup=_ratio(result.tg, rival.tg),
        predicted_speedup=predicted / of_rival if predicted and of_rival else None,
    )  # fmt: skip


def front_of(
    choice: Choice,
    rows: Sequence[Row],
    smaller: Mapping[int, Path],
    timed: Benchmark,
    quantize: QuantizeOptions | None,
) -> tuple[FrontRow, ...]:
    """Every number of layers, with the speeds that were measured in the one benchmark run.

    `smaller` are files that lack fewer layers than the result, by how many they lack.
    """
    speeds = {Path(model.path): model.speed("tg") for model in timed.models}
    name = rival_name(quantize) if quantize is not None else None
    # the row that differs from the result by the pruning alone
    whole = next((row for row in rows[1:-1] if row.name == name), rows[0]).tg
    known = {n_drop: speeds[path] for n_drop, path in smaller.items()}
    known = {0: whole, **known, choice.drop.count: rows[-1].tg}
    front = []
    for point in choice.front:
        tg = known.get(point.drop.count)
        front.append(FrontRow(point, tg, _ratio(tg, whole)))
    return tuple(front)
