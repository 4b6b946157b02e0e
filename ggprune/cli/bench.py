"""`ggprune bench`: how fast, how soon, in how much memory, and what would the bandwidth allow?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ggprune.bench import Grid
from ggprune.bench.latency import LatencyReport, Requests
from ggprune.cli.bench_options import SPEED, GridOptions, given_ranges, listed
from ggprune.cli.options import AsJson
from ggprune.cli.output import show, show_text
from ggprune.cli.progress import TerminalProgress
from ggprune.errors import UsageError
from ggprune.model import open_model
from ggprune.pipeline.bench import run_suite
from ggprune.pipeline.safe import measure_latency
from ggprune.report import bench as bench_report
from ggprune.report import latency as latency_report
from ggprune.report.llamabench import render_rows

REQUESTS, MORE = "Latency of whole requests", "More than speed"


class Output(str, Enum):
    """llama-bench's formats."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    MD = "md"
    SQL = "sql"


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Whole requests instead of llama-bench's tests."""

    latency: Annotated[
        bool,
        Option(
            "--latency", rich_help_panel=REQUESTS,
            help="Sequences answered together, in place of pp and tg (Shortened LLaMA).",
        ),
    ] = False  # fmt: skip
    n_parallel: Annotated[
        list[str] | None, listed("-npl", default="1", panel=REQUESTS, text="Sequences at once.")
    ] = None
    n_input: Annotated[
        int,
        Option("-npp", min=1, max=1 << 20, rich_help_panel=REQUESTS, help="Input tokens of each."),
    ] = 12
    n_output: Annotated[
        list[str] | None,
        listed("-ntg", default="128", panel=REQUESTS, text="Output tokens of each."),
    ] = None
    n_warmup: Annotated[
        int, Option("--warmups", min=0, rich_help_panel=REQUESTS, help="Runs that do not count.")
    ] = 10
    n_run: Annotated[
        int, Option("--runs", min=1, rich_help_panel=REQUESTS, help="Runs that do.")
    ] = 20

    def requests(self) -> Requests:
        return Requests(
            n_input=self.n_input,
            n_seq=given_ranges(self.n_parallel, "-npl", (1, 1 << 20)) or (1,),
            n_output=given_ranges(self.n_output, "-ntg", (1, 1 << 20)) or (128,),
            n_warmup=self.n_warmup,
            n_run=self.n_run,
        )


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, how often, and how it is told."""

    grid: GridOptions
    n_repeat: Annotated[
        int, Option("-r", "--repetitions", min=1, rich_help_panel=SPEED, help="Repetitions.")
    ] = 5
    no_warmup: Annotated[
        bool, Option("--no-warmup", rich_help_panel=SPEED, help="No run that does not count.")
    ] = False
    output: Annotated[
        Output | None,
        Option(
            "-o", "--output", rich_help_panel=SPEED,
            help="Exactly llama-bench's output, without comparisons.",
        ),
    ] = None  # fmt: skip
    requests: RequestOptions
    memory: Annotated[
        bool,
        Option(
            "--memory", rich_help_panel=MORE,
            help="Also what llama.cpp allocates, each model in a process of its own.",
        ),
    ] = False  # fmt: skip
    roofline: Annotated[
        bool,
        Option(
            "--roofline", rich_help_panel=MORE,
            help="Also the speed that the memory's bandwidth allows for the bytes read.",
        ),
    ] = False  # fmt: skip
    as_json: AsJson = False


def command(
    sources: Annotated[list[Path], Argument(metavar="A.gguf [B.gguf ...]", help="Models to time.")],
    options: Options,
) -> None:
    """Prompt (pp) and generation (tg) speed as llama-bench measures it, models taking turns.

    Lists and ranges as llama-bench's: 512,1024 or 0-4096+1024 or 64-512*2. Every combination is
    measured. With several models: how many times as fast as the first one each is.

    Example: ggprune bench original.gguf pruned.gguf -p 512 -n 128 --memory --roofline
    """
    grid, requests, output = options.grid.grid(), options.requests, options.output
    memory, roofline, as_json = options.memory, options.roofline, options.as_json
    if output is not None and (as_json or memory or roofline or requests.latency):
        raise UsageError("-o prints llama-bench's rows alone; leave it out, or use --json")
    models = [open_model(path) for path in sources]
    if requests.latency:
        if memory or roofline or options.grid.has_tests():
            raise UsageError("--latency goes with -npl, -npp, -ntg, --warmups and --runs")
        report = _latency([model.path for model in models], requests.requests(), grid)
        show(report, latency_report.blocks, as_json=as_json)
        return
    suite = run_suite(
        models,
        grid.cases(),
        n_repeat=options.n_repeat,
        warmup=not options.no_warmup,
        memory=memory,
        roofline=roofline,
        progress=TerminalProgress("benchmark"),
    )
    if output is not None:
        show_text(render_rows(suite.speed, output.value))
    else:
        show(suite, bench_report.blocks, as_json=as_json)


def _latency(paths: list[Path], requests: Requests, grid: Grid) -> LatencyReport:
    computes = grid.computes()
    if len(computes) > 1:
        raise UsageError("--latency takes one value of -b, -ub, -ctk, -ctv, -t, -ngl and -fa")
    requests.pairs()  # says what is wrong with them before anything is loaded
    return measure_latency(
        paths, requests, compute=computes[0], progress=TerminalProgress("latency")
    )
