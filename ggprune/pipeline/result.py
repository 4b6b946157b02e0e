"""What came of the whole job: one row per model, and what every number of layers gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggprune.bench import Benchmark, Speed
from ggprune.bench.speed import Machine
from ggprune.evaluation import Evaluation
from ggprune.evaluation.health import Health
from ggprune.files.documents import encode, encode_fields
from ggprune.metrics.chunks import TextInfo
from ggprune.metrics.divergence import Divergence
from ggprune.metrics.estimates import Estimate
from ggprune.model import open_model
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.library import versions
from ggprune.scoring import Choice, Point, Ranking, Target
from ggprune.surgery import PrunePlan


@dataclass(frozen=True)
class Row:
    """One model of the final table; all rows come from one evaluation and one benchmark run."""

    name: str
    n_layer: int
    size_bytes: int
    bits_per_weight: float
    ppl: Estimate
    divergence: Divergence | None  # from the base; None for the base itself
    pp: Speed | None
    tg: Speed | None

    def to_json(self) -> dict[str, Any]:
        divergence = self.divergence
        return {
            "name": self.name,
            "n_layer": self.n_layer,
            "size_bytes": self.size_bytes,
            "bits_per_weight": self.bits_per_weight,
            "ppl": encode(self.ppl),
            "kld": encode(divergence.kld.mean) if divergence else None,
            "same_top_p": encode(divergence.same_top_p) if divergence else None,
            "pp": encode(self.pp) if self.pp else None,
            "tg": encode(self.tg) if self.tg else None,
        }


@dataclass(frozen=True)
class FrontRow:
    """A number of layers: what dropping them costs and gives, as far as it was measured."""

    point: Point
    tg: Speed | None
    speedup: float | None  # measured, over the same type without pruning

    def to_json(self) -> dict[str, Any]:
        return {
            **encode_fields(self.point),
            "tg": encode(self.tg) if self.tg else None,
            "measured_speedup": self.speedup,
        }


@dataclass(frozen=True)
class AutoResult:
    """What was done and what came of it. The first row is the base, the last one the result."""

    ranking: Ranking
    target: Target | None
    plan: PrunePlan
    out: Path
    rows: tuple[Row, ...]
    front: tuple[FrontRow, ...]
    evaluation_text: TextInfo
    machine: Machine
    health: tuple[Health, ...] | None = None  # of all rows but the first, if it was asked for

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "target": str(self.target) if self.target is not None else None,
            "plan": {"drop": list(self.plan.drop), "n_layer": self.plan.n_layer},
            "ranking": encode(self.ranking),
            "evaluation": encode(self.evaluation_text),
            "rows": [row.to_json() for row in self.rows],
            "front": [row.to_json() for row in self.front],
            "health": [encode(one) for one in self.health] if self.health else None,
            "machine": encode(self.machine),
            "versions": versions(),
        }


def rival_name(options: QuantizeOptions) -> str:
    return f"{options.type}, nothing pruned"


def result_name(plan: PrunePlan, quantize: QuantizeOptions | None) -> str:
    kept = f"{len(plan.drop)} layer{'s' if len(plan.drop) > 1 else ''} pruned"
    return f"{quantize.type}, {kept}" if quantize else kept


def rows_of(
    candidates: Sequence[tuple[str, Path]], evaluations: Sequence[Evaluation], speeds: Benchmark
) -> tuple[Row, ...]:
    divergences = [evaluation.divergence for evaluation in evaluations]
    assert divergences[0] is not None
    qualities = [(divergences[0].base_ppl, None), *((e.ppl, e.divergence) for e in evaluations)]
    rows = []
    timed = speeds.models[: len(candidates)]
    for (name, path), quality, speed in zip(candidates, qualities, timed, strict=True):
        model = open_model(path)
        size, bpw = model.size_bytes, model.bits_per_weight
        pp, tg = speed.speed("pp"), speed.speed("tg")
        rows.append(Row(name, model.n_layer, size, bpw, *quality, pp, tg))
    return tuple(rows)


def same_type(rows: Sequence[Row], quantize: QuantizeOptions | None) -> Row:
    """The row that differs from the result by the pruning alone."""
    name = rival_name(quantize) if quantize is not None else None
    return next((row for row in rows[1:-1] if row.name == name), rows[0])


def front_of(
    choice: Choice,
    rows: Sequence[Row],
    known: Mapping[int, Speed | None],
    quantize: QuantizeOptions | None,
) -> tuple[FrontRow, ...]:
    """Every number of layers, with the speeds that were measured in the one benchmark run."""
    whole = same_type(rows, quantize).tg
    known = {0: whole, **known, len(choice.drop): rows[-1].tg}
    found = []
    for point in choice.front:
        tg = known.get(len(point.drop))
        speedup = tg.mean / whole.mean if tg and whole else None
        found.append(FrontRow(point, tg, speedup))
    return tuple(found)
