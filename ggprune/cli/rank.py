"""`ggprune rank`: what is every layer worth?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.ablation.units import SCORED, parse_unit
from ggprune.cli import options as shared
from ggprune.cli.choosing import Search, Targets
from ggprune.cli.completion import one_of
from ggprune.cli.help import MEASURE
from ggprune.cli.measuring import Computing, cache_folder, given_text, note_chunks
from ggprune.cli.output import deliver, show
from ggprune.cli.progress import TerminalProgress
from ggprune.cli.quantizing import given_imatrix
from ggprune.cli.spreading import Spreading
from ggprune.files.documents import to_text
from ggprune.files.outputs import check_outputs, write_text
from ggprune.files.reading import TextErrors
from ggprune.metrics.text import CALIBRATION
from ggprune.model.model import open_model
from ggprune.pipeline.healed import healing, settled
from ggprune.pipeline.rank import rank
from ggprune.report.plot import check_plot, ranking_figure, write_figure
from ggprune.report.ranking import blocks
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.rank import RankOptions
from ggprune.scoring.ranking import Metric, parse_metric


@dataclass(frozen=True, kw_only=True)
class AlsoDropped(Targets):
    """A set of layers, found behind the ranking."""

    drop: Annotated[int | None, Option(min=1, help="Also find the best N layers to drop.")] = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the layers are measured on, what they are ordered by, and how sure that has to be."""

    # fmt: off
    file: shared.TextFile = None
    errors: shared.Errors = TextErrors.STRICT
    n_ctx: shared.ContextSize = 512
    n_chunk: shared.Chunks = None
    out: Annotated[Path | None, Option("-o", "--output", help="Write the scores as JSON.")] = None
    plot: Annotated[Path | None, Option(help="Write a picture (.png, .svg, .pdf).")] = None
    metric: Annotated[str, Option(
        metavar="NAME", autocompletion=one_of([f"{m.value}{p}" for m in Metric for p in ("", "+")]),
        help="What the layers are ordered by: kld, ppl, same_top_p, rms_delta_p, bi, angular, "
        "relative_magnitude, magnitude, taylor (pip install 'ggprune[train]') or imatrix; with a "
        "+ behind it (ppl+) the first four and the last two come last.",
    )] = "kld"
    unit: Annotated[str, Option(
        metavar="NAME", autocompletion=one_of([each.value for each in SCORED]),
        help="What is left out: layer, attn or ffn.")] = "layer"
    imatrix: Annotated[Path | None, Option(
        rich_help_panel=MEASURE,
        help="Importance matrix (GGUF or .dat): its statistics by layer.")] = None
    decide: Annotated[int, Option(
        min=1,
        help="Race: settle which N layers matter least; as many as are to go, if some are.")] = 4
    targets: AlsoDropped
    search: Search
    exhaustive: Annotated[bool, Option(
        "--exhaustive", help="Score every layer on every chunk; no race.")] = False
    confidence: shared.Confidence = 0.95
    cache: shared.UseCache = True
    force: shared.Force = False
    computing: Computing
    spreading: Spreading
    showing: shared.Showing
    # fmt: on


def command(source: shared.ModelPath, options: Options) -> None:
    """Score every layer by what the model is like without it; the least important comes first.

    For each layer: perplexity and KL divergence (base || without it) of the very file that
    dropping it would give, how often the most likely token stays the same, and its Block
    Influence, 1 - cos(input, output). Nothing is written: layers are left out in memory.
    Without -f a text that ships with ggprune is used.

    Layers race: one that is surely among the --decide least important ones, or surely not, gets
    no more chunks; the column "tokens" tells.

    Example: ggprune rank model.gguf -f my-domain.txt --chunks 20 -o scores.json
    """
    by, unit = parse_metric(options.metric), parse_unit(options.unit)
    if options.plot is not None:
        check_plot(options.plot)
    model = open_model(source)
    request = options.targets.request(model, options.search)
    inputs = [*(file.path for file in model.files), options.file, options.imatrix]
    check_outputs([options.out, options.plot], inputs, force=options.force)
    measuring = MeasureOptions(
        n_ctx=options.n_ctx, n_chunk=options.n_chunk, compute=options.computing.compute(),
        unit=unit, cache=cache_folder(options.cache), keep_bytes=options.spreading.keep_bytes,
    )  # fmt: skip
    rank_options = RankOptions(
        measuring=measuring, by=by, confidence=options.confidence, request=request,
        imatrix=given_imatrix(options.imatrix),
        n_decide=None if options.exhaustive else options.decide,
    )  # fmt: skip
    text = given_text(options.file, CALIBRATION, options.errors)
    with options.spreading.workforce(options.computing.compute()) as force:
        progress = TerminalProgress("rank", at_once=True)
        ranking = rank(model, text, rank_options, progress, client=force)
    ranking = settled(model, text, ranking, healing(measuring), TerminalProgress(at_once=True))
    note_chunks(options.n_chunk, text.source, ranking.calibration.n_chunk_limit)
    overwrite = options.force
    deliver(
        lambda: show(ranking, blocks, options.showing),
        (options.out, lambda path: write_text(path, to_text(ranking), force=overwrite)),
        (options.plot, lambda path: write_figure(ranking_figure(ranking), path, force=overwrite)),
    )
