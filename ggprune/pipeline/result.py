"""What came of the whole job: one row per model, and what every number of layers gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.bench import ModelSpeed, Speed
from ggprune.bench.speed import Machine
from ggprune.evaluation import Evaluation
from ggprune.evaluation.health import Health
from ggprune.files.documents import INLINE, Key, read_document
from ggprune.healing.result import Healing
from ggprune.metrics.chunks import TextInfo
from ggprune.metrics.estimates import Estimate
from ggprune.model import open_model
from ggprune.model.cut import Cut
from ggprune.quantize.options import QuantizeOptions
from ggprune.scoring import Choice, Point, Ranking, Target
from ggprune.scoring.target import OPTIONS
from ggprune.surgery import PrunePlan


@dataclass(frozen=True)
class Candidate:
    """A model of the final table, by whose path evaluations and speeds are joined."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of the final table; all rows come from one evaluation and one benchmark run."""

    name: str
    n_layer: int
    size_bytes: int
    bits_per_weight: float
    ppl: Estimate
    kld: Annotated[Estimate | None, "from the base; null for the base itself"]
    same_top_p: Annotated[Estimate | None, "as the base; null for the base itself"]
    pp: Speed | None
    tg: Speed | None


@dataclass(frozen=True)
class FrontRow:
    """A number of layers: what dropping them costs and gives, as far as it was measured."""

    point: Annotated[Point, INLINE]
    tg: Annotated[Speed | None, "where a file was timed"]
    speedup: Annotated[
        float | None, Key(name="measured_speedup"), "over the same type without pruning"
    ]


@dataclass(frozen=True)
class PlannedCut:
    """What was taken out of how many layers."""

    cut: Annotated[Cut, Key(name="drop")]
    n_layer: int

    @property
    def drop(self) -> tuple[int, ...]:
        return self.cut.whole_layers


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
    evaluation_text: Annotated[TextInfo, Key(name="evaluation"), "what the models were judged on"]
    rows: Annotated[
        tuple[Row, ...],
        "the base, rivals that are not pruned, with --heal what is not healed, the result",
    ]
    front: tuple[FrontRow, ...]
    health: Annotated[tuple[Health, ...] | None, "of all rows but the first, with --generate"]
    machine: Machine
    versions: dict[str, str]
    healing: Annotated[Healing | None, Key(optional=True), "with --heal"] = None


def read_report(path: Path) -> AutoResult:
    """What `ggprune auto --report` wrote as JSON. Raises DataError if the file is none of it."""
    return read_document(path, AutoResult, "a report made by ggprune auto")


def rival_name(options: QuantizeOptions) -> str:
    return f"{options.type}, nothing pruned"


def result_name(plan: PrunePlan, quantize: QuantizeOptions | None) -> str:
    kept = f"{len(plan.drop)} layer{'s' if len(plan.drop) > 1 else ''} pruned"
    return f"{quantize.type}, {kept}" if quantize else kept


def healed_name(name: str) -> str:
    return f"{name}, healed"


def rows_of(
    candidates: Sequence[Candidate],
    evaluations: Mapping[Path, Evaluation],
    speeds: Mapping[Path, ModelSpeed],
) -> tuple[Row, ...]:
    """One row for each candidate. The first is the base, which the others were compared with."""
    rows = []
    compared = next(iter(evaluations.values())).divergence
    assert compared is not None
    for candidate in candidates:
        model, speed = open_model(candidate.path), speeds[candidate.path]
        own = evaluations.get(candidate.path)  # none of the base
        divergence = own.divergence if own else None
        row = Row(
            name=candidate.name, n_layer=model.n_layer, size_bytes=model.size_bytes,
            bits_per_weight=model.bits_per_weight, ppl=own.ppl if own else compared.base_ppl,
            kld=divergence.kld.mean if divergence else None,
            same_top_p=divergence.same_top_p if divergence else None,
            pp=speed.speed("pp"), tg=speed.speed("tg"),
        )  # fmt: skip
        rows.append(row)
    return tuple(rows)


def front_of(
    choice: Choice,
    rows: Sequence[Row],
    known: Mapping[int, Speed | None],
    quantize: QuantizeOptions | None,
) -> tuple[FrontRow, ...]:
    """Every number of layers, with the speeds that were measured in the one benchmark run."""
    name = rival_name(quantize) if quantize is not None else None
    # the row that differs from the result by the pruning alone
    whole = next((row for row in rows[1:-1] if row.name == name), rows[0]).tg
    known = {0: whole, **known, len(choice.drop): rows[-1].tg}
    front = []
    for point in choice.front:
        tg = known.get(len(point.drop))
        speedup = tg.mean / whole.mean if tg and whole else None
        front.append(FrontRow(point, tg, speedup))
    return tuple(front)
