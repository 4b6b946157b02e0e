"""The whole job: rank -> choose -> prune -> requantize -> verify -> evaluate -> benchmark.

The result stands beside what the same bytes or the same type would have given without pruning,
because a smaller quantization often loses less.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggprune.arch import architecture_of, check_scored, choose_legal, mtp_blocks, n_trunk
from ggprune.bench import Benchmark, Speed, benchmark
from ggprune.errors import ArchitectureError, UsageError
from ggprune.evaluation import Divergence, Evaluation, evaluate
from ggprune.model import Model, open_model
from ggprune.model.imatrix import Imatrix
from ggprune.pipeline.prune import (
    QUANTIZER_ALIGNMENT,
    Bars,
    disk_errors,
    file_size,
    no_bars,
    prune,
    pruned_size,
    quantize_into,
)
from ggprune.runtime.isolate import isolated
from ggprune.runtime.library import versions
from ggprune.runtime.quantize import QuantizeOptions, dry_runs
from ggprune.runtime.session import Compute, LlamaModel
from ggprune.scoring import Estimate, Metric, Ranking, Strategy, Text, rank
from ggprune.scoring.text import make_chunks
from ggprune.surgery import PrunePlan, make_plan
from ggprune.surgery.output import PendingFile, check_output

# Types for the comparison at equal bytes, largest first; all work without an imatrix.
LADDER = (
    "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip


@dataclass(frozen=True)
class AutoOptions:
    """What to drop and how to measure it."""

    n_drop: int
    drop_mtp: bool = False  # and all multi-token-prediction blocks
    quantize: QuantizeOptions | None = None
    n_ctx: int = 512
    n_chunk: int | None = None
    n_prompt: int = 512
    n_gen: int = 128
    n_repeat: int = 5
    compute: Compute | None = None
    cache: Path | None = None  # folder for finished measurements
    strategy: Strategy = Strategy.SEARCH
    protect: tuple[int, ...] = ()  # layers that stay


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
            "ppl": self.ppl.to_json(),
            "kld": divergence.kld.mean.to_json() if divergence else None,
            "same_top_p": divergence.same_top_p.to_json() if divergence else None,
            "pp": self.pp.to_json() if self.pp else None,
            "tg": self.tg.to_json() if self.tg else None,
        }


@dataclass(frozen=True)
class AutoReport:
    """What was done and what came of it. The first row is the base, the last one the result."""

    ranking: Ranking
    plan: PrunePlan
    out: Path
    rows: tuple[Row, ...]
    evaluation_text: dict[str, Any]
    machine: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "plan": {"drop": list(self.plan.drop), "n_layer": self.plan.n_layer},
            "ranking": self.ranking.to_json(),
            "evaluation": self.evaluation_text,
            "rows": [row.to_json() for row in self.rows],
            "machine": self.machine,
            "versions": versions(),
        }


def auto(
    model: Model,
    out: Path,
    options: AutoOptions,
    *,
    calibration: Text,
    evaluation: Text,
    imatrix: Imatrix | None = None,
    force: bool = False,
    bars: Bars = no_bars,
    narrate: Callable[[str], object] | None = None,
) -> AutoReport:
    """Drop the least important layers and prove what that gained and lost.

    Raises UsageError, OutputError or ArchitectureError before any work if the job is impossible.
    """
    _check(model, out, options, calibration, evaluation, imatrix, force=force)
    ranking = _rank(model, calibration, options, bars, narrate)
    assert ranking.chosen is not None
    plan = make_plan(model, _with_mtp(model, ranking.chosen.drop, options))
    prune(model, plan, out, options=options.quantize, imatrix=imatrix, force=force, bars=bars)
    with disk_errors(out), contextlib.ExitStack() as stack:
        candidates = [("base", model.path)]
        for quantization in _rivals(model, out, options.quantize, imatrix):
            pending = stack.enter_context(PendingFile(out))
            quantize_into(model, pending, quantization, imatrix, bars)
            candidates.append((f"{quantization.type}, nothing pruned", pending.path))
        candidates.append((_result_name(plan, options), out))
        evaluations, speeds = _measure(candidates, evaluation, options, bars)
        rows = _rows(candidates, evaluations, speeds)
    return AutoReport(ranking, plan, out, rows, evaluations[0].text, speeds.machine)


def _check(
    model: Model,
    out: Path,
    options: AutoOptions,
    calibration: Text,
    evaluation: Text,
    imatrix: Imatrix | None,
    *,
    force: bool,
) -> None:
    n_layer = n_trunk(model)
    if not 1 <= options.n_drop < n_layer:
        raise UsageError(
            f"--drop {options.n_drop}: the model has {n_layer} layers, "
            f"1 to {n_layer - 1} can be dropped"
        )
    if calibration.sha256 == evaluation.sha256:
        raise UsageError(
            "the layers would be judged by the very text they were chosen with: "
            "give different texts to -f and --eval-file"
        )
    check_scored(architecture_of(model))
    free = [n for n in range(n_layer) if n not in options.protect]
    drop = _with_mtp(model, choose(model, free, options.n_drop), options)
    check_output(out, [file.path for file in model.files], force=force)
    if options.quantize is not None:
        pruned_size(model, make_plan(model, drop), options.quantize, imatrix)
    for text, n_chunk in ((calibration, options.n_chunk), (evaluation, None)):
        isolated(check_text, model.path, text, options.n_ctx, n_chunk)


def check_text(path: Path, text: Text, n_ctx: int, n_chunk: int | None) -> None:
    """Raises DataError if the text is too short for the model. Loads the vocabulary alone."""
    with LlamaModel(path, vocab_only=True) as model:
        make_chunks(text, model.tokenize, n_ctx, n_chunk)


def choose(model: Model, order: Sequence[int], n_drop: int) -> tuple[int, ...]:
    """The first layers of the order, or the first that can be removed together.

    Raises ArchitectureError if no set of that many layers can be removed exactly.
    """
    drop = choose_legal(model, order, n_drop)
    if drop is None:
        raise ArchitectureError(
            f"{model.path}: no set of {n_drop} layers of {model.arch} can be removed exactly; "
            "ggprune inspect shows which layers can"
        )
    return drop


def _with_mtp(model: Model, drop: tuple[int, ...], options: AutoOptions) -> tuple[int, ...]:
    return (*drop, *mtp_blocks(model)) if options.drop_mtp else drop


def _rank(
    model: Model,
    text: Text,
    options: AutoOptions,
    bars: Bars,
    narrate: Callable[[str], object] | None,
) -> Ranking:
    return isolated(
        rank_path,
        model.path,
        text,
        n_ctx=options.n_ctx,
        n_chunk=options.n_chunk,
        compute=options.compute,
        bar=bars("rank"),
        n_decide=options.n_drop,
        n_drop=options.n_drop,
        strategy=options.strategy,
        protect=options.protect,
        narrate=narrate,
        cache=options.cache,
    )


def rank_path(
    path: Path,
    text: Text,
    *,
    n_ctx: int,
    n_chunk: int | None,
    compute: Compute | None,
    bar: Any,
    metric: Metric = Metric.KLD,
    n_decide: int | None = None,
    confidence: float = 0.95,
    cache: Path | None = None,
    n_drop: int | None = None,
    strategy: Strategy = Strategy.SEARCH,
    protect: tuple[int, ...] = (),
    narrate: Any = None,
) -> Ranking:
    """`rank` with arguments that can be sent to a child process."""
    return rank(
        open_model(path), text, n_ctx=n_ctx, n_chunk=n_chunk, compute=compute, progress=bar,
        metric=metric, n_decide=n_decide, confidence=confidence, cache=cache,
        n_drop=n_drop, strategy=strategy, protect=protect, narrate=narrate,
    )  # fmt: skip


def _rivals(
    model: Model, out: Path, chosen: QuantizeOptions | None, imatrix: Imatrix | None
) -> list[QuantizeOptions]:
    """Quantizations without pruning: the chosen type, and the best one that is no larger."""
    if model.alignment != QUANTIZER_ALIGNMENT:
        return []
    rivals = [chosen] if chosen else []
    n_threads = chosen.n_threads if chosen else None
    ladder = [QuantizeOptions(t, allow_requantize=True, n_threads=n_threads) for t in LADDER]
    outcomes = isolated(dry_runs, model.path, model.tensors, ladder, imatrix)
    sizes = {
        options: file_size(model, outcome, imatrix)
        for options, outcome in zip(ladder, outcomes, strict=True)
        if outcome is not None
    }
    fitting = [options for options, size in sizes.items() if size <= out.stat().st_size]
    best = max(fitting, key=lambda options: sizes[options], default=None)
    if best is None or (chosen is not None and chosen.type == best.type):
        return rivals
    return [*rivals, best]


def _result_name(plan: PrunePlan, options: AutoOptions) -> str:
    kept = f"{len(plan.drop)} layer{'s' if len(plan.drop) > 1 else ''} pruned"
    return f"{options.quantize.type}, {kept}" if options.quantize else kept


def _measure(
    candidates: Sequence[tuple[str, Path]], text: Text, options: AutoOptions, bars: Bars
) -> tuple[tuple[Evaluation, ...], Benchmark]:
    """Evaluate all candidates against the first, the base, and time all of them."""
    paths = [path for _, path in candidates]
    evaluations = isolated(
        evaluate,
        paths[1:],
        text,
        base=paths[0],
        n_ctx=options.n_ctx,
        compute=options.compute,
        progress=bars("evaluate"),
    )
    speeds = isolated(
        benchmark,
        paths,
        n_prompt=options.n_prompt,
        n_gen=options.n_gen,
        n_repeat=options.n_repeat,
        compute=options.compute,
        progress=bars("benchmark"),
    )
    return evaluations, speeds


def _rows(
    candidates: Sequence[tuple[str, Path]], evaluations: Sequence[Evaluation], speeds: Benchmark
) -> tuple[Row, ...]:
    divergences = [evaluation.divergence for evaluation in evaluations]
    assert divergences[0] is not None
    qualities = [(divergences[0].base_ppl, None), *((e.ppl, e.divergence) for e in evaluations)]
    rows = []
    for (name, path), quality, speed in zip(candidates, qualities, speeds.models, strict=True):
        model = open_model(path)
        size, bpw = model.size_bytes, model.bits_per_weight
        pp, tg = speed.speed("pp"), speed.speed("tg")
        rows.append(Row(name, model.n_layer, size, bpw, *quality, pp, tg))
    return tuple(rows)
