"""The whole job: rank -> choose -> prune -> requantize -> verify -> evaluate -> benchmark.

The result stands beside what the same bytes or the same type would have given without pruning,
because a smaller quantization often loses less.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.arch import architecture_of, check_scored, first_legal, mtp_blocks, n_trunk
from ggprune.bench import Benchmark, benchmark
from ggprune.errors import ArchitectureError, UsageError
from ggprune.evaluation import Evaluation, evaluate
from ggprune.evaluation.health import Health, check_health, read_prompts
from ggprune.model import Model
from ggprune.model.imatrix import Imatrix
from ggprune.pipeline.files import Bars, disk_errors, no_bars
from ggprune.pipeline.outcome import AutoReport, front_of, result_name, rival_name, rows_of
from ggprune.pipeline.prune import prune, prune_into, pruned_size, quantize_into
from ggprune.pipeline.quantization import QUANTIZER_ALIGNMENT, Quantization, file_size, filtered
from ggprune.pipeline.rank import rank_path
from ggprune.runtime.isolate import isolated
from ggprune.runtime.quantize import QuantizeOptions, dry_runs
from ggprune.runtime.session import Compute, LlamaModel
from ggprune.scoring import Goal, Ranking, Target, Text, Wanted
from ggprune.scoring.target import sizes_to_try
from ggprune.scoring.text import make_chunks
from ggprune.surgery import make_plan
from ggprune.surgery.output import PendingFile, check_output

N_DECIDE = 4  # layers that the ranking settles where the number to drop is not known before

# Types for the comparison at equal bytes, largest first; all work without an imatrix.
LADDER = (
    "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip


@dataclass(frozen=True)
class AutoOptions:
    """What to drop and how to measure it."""

    wanted: Wanted
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
    target = options.wanted.target
    if options.quantize is not None:
        imatrix = filtered(imatrix, options.quantize, model)
    options = replace(options, wanted=_counted(model, options, imatrix))
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
            candidates.append((rival_name(quantization), pending.path))
        candidates.append((result_name(plan, options.quantize), out))
        between = ranking.chosen.front[1:-1] if options.measure_front else ()
        smaller = []
        for point in between:
            pending = stack.enter_context(PendingFile(out))
            smaller_plan = make_plan(model, _with_mtp(model, point.drop, options))
            prune_into(model, smaller_plan, pending, options.quantize, imatrix, bars)
            smaller.append(pending.path)
        evaluations, speeds = _measure(candidates, smaller, evaluation, options, bars)
        health = _let_write(candidates, options, bars) if options.generate else None
        rows = rows_of(candidates, evaluations, speeds)
        timed = speeds.models[len(candidates) :]
    known = {len(p.drop): m.speed("tg") for p, m in zip(between, timed, strict=True)}
    front = front_of(ranking.chosen, rows, known, options.quantize)
    text = evaluations[0].text
    return AutoReport(ranking, target, plan, out, rows, front, text, speeds.machine, health)


def _counted(model: Model, options: AutoOptions, imatrix: Imatrix | None) -> Wanted:
    """With a size for a requantized file turned into the number of layers that reaches it."""
    wanted, quantize = options.wanted, options.quantize
    target = wanted.target
    if target is None or target.goal is not Goal.SIZE or quantize is None:
        return wanted

    def is_reached(drop: tuple[int, ...]) -> bool:
        return pruned_size(model, make_plan(model, drop), quantize, imatrix) <= target.value

    free = [n for n in range(n_trunk(model)) if n not in wanted.protect]
    drops = (first_legal(model, free, n) for n in range(1, min(len(free), n_trunk(model) - 1) + 1))
    legal = [drop for drop in drops if drop is not None]
    first = bisect.bisect_left(
        legal, True, key=lambda drop: is_reached(_with_mtp(model, drop, options))
    )
    if first == len(legal):
        raise UsageError(f"{target}: not reached as {quantize.type}, whatever is dropped")
    return replace(wanted, target=Target(Goal.LAYERS, len(legal[first])))


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
    if calibration.sha256 == evaluation.sha256:
        raise UsageError(
            "the layers would be judged by the very text they were chosen with: "
            "give different texts to -f and --eval-file"
        )
    check_scored(architecture_of(model))
    free = [n for n in range(n_trunk(model)) if n not in options.wanted.protect]
    sizes = sizes_to_try(model, options.wanted.target, min(len(free), n_trunk(model) - 1))
    drop = _with_mtp(model, _any_set(model, free, sizes), options)
    check_output(out, [file.path for file in model.files], force=force)
    if options.quantize is not None:
        pruned_size(model, make_plan(model, drop), options.quantize, imatrix)
    for text, n_chunk in ((calibration, options.n_chunk), (evaluation, None)):
        isolated(check_text, model.path, text, options.n_ctx, n_chunk)


def _any_set(model: Model, free: Sequence[int], sizes: range) -> tuple[int, ...]:
    """A set that can be removed, of the first size that has one. Raises as `choose`."""
    found = (first_legal(model, free, n) for n in sizes)
    return next((drop for drop in found if drop), None) or choose(model, free, sizes[0])


def check_text(path: Path, text: Text, n_ctx: int, n_chunk: int | None) -> None:
    """Raises DataError if the text is too short for the model. Loads the vocabulary alone."""
    with LlamaModel(path, vocab_only=True) as model:
        make_chunks(text, model.tokenize, n_ctx, n_chunk)


def choose(model: Model, order: Sequence[int], n_drop: int) -> tuple[int, ...]:
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
        n_decide=N_DECIDE,
        wanted=options.wanted,
        narrate=narrate,
        cache=options.cache,
    )


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
        options: file_size(model, Quantization(options, imatrix, outcome))
        for options, outcome in zip(ladder, outcomes, strict=True)
        if outcome is not None
    }
    fitting = [options for options, size in sizes.items() if size <= out.stat().st_size]
    best = max(fitting, key=lambda options: sizes[options], default=None)
    if best is None or (chosen is not None and chosen.type == best.type):
        return rivals
    return [*rivals, best]


def _measure(
    candidates: Sequence[tuple[str, Path]],
    timed_only: Sequence[Path],
    text: Text,
    options: AutoOptions,
    bars: Bars,
) -> tuple[tuple[Evaluation, ...], Benchmark]:
    """Evaluate all candidates against the first, the base, and time all of them and some more."""
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
        [*paths, *timed_only],
        n_prompt=options.n_prompt,
        n_gen=options.n_gen,
        n_repeat=options.n_repeat,
        compute=options.compute,
        progress=bars("benchmark"),
    )
    return evaluations, speeds


def _let_write(
    candidates: Sequence[tuple[str, Path]], options: AutoOptions, bars: Bars
) -> tuple[Health, ...]:
    """What all candidates write beside the first, the base, under their names."""
    found = isolated(
        check_health,
        [path for _, path in candidates[1:]],
        read_prompts(None),
        base=candidates[0][1],
        compute=options.compute,
        progress=bars("write"),
    )
    names = [name for name, _ in candidates[1:]]
    return tuple(replace(one, path=name) for one, name in zip(found, names, strict=True))
