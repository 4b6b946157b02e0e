"""`ggprune experts`: what is every expert of a MoE model worth?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.cli import options as shared
from ggprune.cli.completion import values_of
from ggprune.cli.measuring import Computing, cache_folder, given_text, note_chunks
from ggprune.cli.output import deliver, show
from ggprune.cli.progress import TerminalProgress
from ggprune.files.documents import to_text
from ggprune.files.outputs import check_outputs, write_text
from ggprune.files.reading import TextErrors
from ggprune.metrics.text import CALIBRATION
from ggprune.model.model import open_model
from ggprune.pipeline.rank import rank_experts
from ggprune.report.experts import blocks
from ggprune.scoring.experts import ExpertMetric, ExpertsOptions, parse_expert_metric
from ggprune.scoring.measure import MeasureOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """What experts are measured on, and what is asked of them."""

    # fmt: off
    file: shared.TextFile = None
    errors: shared.Errors = TextErrors.STRICT
    n_ctx: shared.ContextSize = 512
    n_chunk: shared.Chunks = None
    out: Annotated[Path | None, Option("-o", "--output", help="Write the scores as JSON.")] = None
    by: Annotated[str, Option(
        metavar="NAME", autocompletion=values_of(ExpertMetric),
        help="What experts are ordered by: reap (gate times norm of the output), frequency, gate, "
        "or kld, where --exact measures all of them.")] = "reap"
    drop_experts: shared.DropExperts = None
    exact: Annotated[int, Option(
        "--exact", min=0,
        help="Also measure the KLD without each of the N least important experts of every layer, "
        "one by one.")] = 0
    cache: shared.UseCache = True
    force: shared.Force = False
    computing: Computing
    showing: shared.Showing
    # fmt: on


def command(source: shared.ModelPath, options: Options) -> None:
    """Score every expert of a MoE model, in one pass over a text.

    For each expert: how often tokens are sent to it, its mean gate, and REAP, the mean of its gate
    times the norm of its output. With --drop-experts also what the model is like without the least
    important ones of every layer, by each of these; ggprune prune --drop-experts drops them.
    Without -f a text that ships with ggprune is used.

    Example: ggprune experts moe.gguf --drop-experts 25% -o experts.json
    """
    by = parse_expert_metric(options.by)
    model = open_model(source)
    inputs = [*(file.path for file in model.files), options.file]
    check_outputs([options.out], inputs, force=options.force)
    measuring = MeasureOptions(
        n_ctx=options.n_ctx, n_chunk=options.n_chunk, compute=options.computing.compute(),
        cache=cache_folder(options.cache),
    )  # fmt: skip
    text = given_text(options.file, CALIBRATION, options.errors)
    asked = ExpertsOptions(
        measuring=measuring, by=by, drop=options.drop_experts, n_exact=options.exact
    )
    scores = rank_experts(model, text, asked, TerminalProgress("experts", at_once=True))
    note_chunks(options.n_chunk, text.source, scores.calibration.n_chunk)
    force = options.force
    deliver(
        lambda: show(scores, blocks, options.showing),
        (options.out, lambda path: write_text(path, to_text(scores), force=force)),
    )
