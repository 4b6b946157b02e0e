"""`ggprune choose`: which layers, on top of a finished ranking?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ggprune.cli.choosing import Search, Targets
from ggprune.cli.measuring import Computing, cache_folder
from ggprune.cli.options import Confidence, Errors, Force, Showing, UseCache
from ggprune.cli.output import deliver, show
from ggprune.cli.progress import READ, TerminalProgress
from ggprune.cli.spreading import Spreading
from ggprune.files.documents import to_text
from ggprune.files.outputs import check_outputs, write_text
from ggprune.files.reading import TextErrors
from ggprune.healing.result import HealOptions
from ggprune.model.model import open_model
from ggprune.pipeline.healed import settled
from ggprune.pipeline.rank import choose
from ggprune.report.plot import check_plot, choice_figure, write_figure
from ggprune.report.ranking import choice_blocks
from ggprune.scoring.choose import ChooseOptions
from ggprune.scoring.ranking import check_ranking, ranked_text, read_ranking


@dataclass(frozen=True, kw_only=True)
class Options:
    """A finished ranking, where its model and its text are now, and what is chosen from it."""

    # fmt: off
    scores_file: Annotated[Path, Argument(metavar="SCORES.json", help="From ggprune rank -o.")]
    model_path: Annotated[Path | None, Option(
        "--model", "-m", show_default="the ranked one", help="The model's new place.")] = None
    file: Annotated[Path | None, Option(
        "-f", "--file", show_default="the ranking's", help="The calibration text's new place."
    )] = None
    errors: Errors = TextErrors.STRICT
    targets: Targets
    search: Search
    n_chunk: Annotated[int | None, Option(
        "--chunks", min=1, show_default="the ranking's", help="Measure on the first N chunks."
    )] = None
    confidence: Confidence = 0.95
    out: Annotated[Path | None, Option(
        "-o", "--output", help="Write the scores with the choice as JSON.")] = None
    plot: Annotated[Path | None, Option(help="Draw loss against speed (.png, .svg, .pdf).")] = None
    cache: UseCache = True
    force: Force = False
    computing: Computing
    spreading: Spreading
    showing: Showing
    # fmt: on


def command(options: Options) -> None:
    """Choose the layers to drop together, on top of a finished ranking.

    Sets of layers are measured on the ranking's text; what the ranking has measured is taken from
    the cache. Prints every race, what each number of layers costs and gives, and what simpler
    strategies would have chosen. ggprune prune --scores takes the result.

    Example: ggprune choose scores.json --target-speedup 1.2 -o chosen.json
    """
    if options.plot is not None:
        check_plot(options.plot)
    ranking = read_ranking(options.scores_file)
    model = open_model(options.model_path or Path(ranking.model.path))
    model.read_fingerprint(TerminalProgress(READ))
    check_ranking(options.scores_file, ranking, model)
    request = options.targets.required(model, options.search)
    inputs = [*(file.path for file in model.files), options.scores_file, options.file]
    check_outputs([options.out, options.plot], inputs, force=options.force)
    text = ranked_text(options.scores_file, ranking, options.file, options.errors)
    measuring = ChooseOptions(
        n_chunk=options.n_chunk, compute=options.computing.compute(),
        cache=cache_folder(options.cache), confidence=options.confidence,
        keep_bytes=options.spreading.keep_bytes,
    )  # fmt: skip
    with options.spreading.workforce(options.computing.compute()) as helpers:
        progress = TerminalProgress(at_once=True)
        choice = choose(model, text, ranking, request, measuring, progress, client=helpers)
    heal_options = HealOptions(
        n_ctx=ranking.calibration.n_ctx, compute=measuring.compute, cache=measuring.cache
    )
    document = replace(ranking, chosen=choice)
    document = settled(model, text, document, heal_options, TerminalProgress(at_once=True))
    assert document.chosen is not None
    choice, force = document.chosen, options.force
    deliver(
        lambda: show(document, lambda _: choice_blocks(choice), options.showing),
        (options.out, lambda path: write_text(path, to_text(document), force=force)),
        (options.plot, lambda path: write_figure(choice_figure(choice), path, force=force)),
    )
