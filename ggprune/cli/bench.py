"""`ggprune bench`: how fast, how soon, in how much memory, and what would the bandwidth allow?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ggprune.bench.cases import CACHE_TYPES, FLASH, Grid, parse_pairs, parse_ranges, parse_words
from ggprune.bench.latency import LatencyReport, Requests
from ggprune.cli.completion import one_of
from ggprune.cli.options import Showing
from ggprune.cli.output import show
from ggprune.cli.progress import TerminalProgress
from ggprune.cli.streams import stdout_encoding
from ggprune.errors import UsageError
from ggprune.model.model import open_model
from ggprune.pipeline.bench import measure_latency, run_suite
from ggprune.report.bench import blocks, latency_blocks
from ggprune.report.llamabench import render_rows

TOKENS, BATCH = (0, 1 << 24), (1, 1 << 24)  # the smallest and the largest number
THREADS, LAYERS, COUNTS = (1, 512), (-100_000, 100_000), (1, 1 << 20)

Values = list[str] | None  # lists of values: an option may be repeated
Output = Enum(
    "Output", {"CSV": "csv", "JSON": "json", "JSONL": "jsonl", "MD": "md", "SQL": "sql"}, type=str
)  # llama-bench's formats


def _listed(
    names: str, default: str | bool, text: str, metavar: str = "N,...",
    values: Collection[str] | None = None,
) -> object:  # fmt: skip
    complete = one_of(values, listed=True) if values is not None else None
    return Option(
        *names.split(), metavar=metavar, show_default=default, help=text, autocompletion=complete
    )


def _ranges(values: Values, option: str, limits: tuple[int, int]) -> tuple[int, ...] | None:
    """All numbers that are meant, None if the option was not given."""
    return parse_ranges(values, option, *limits) if values else None


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """llama-bench's options: values of every parameter of a test."""

    # fmt: off
    n_prompt: Annotated[Values, _listed(
        "-p --n-prompt", "512", "Tokens of the pp test; 0: no such test.")] = None
    n_gen: Annotated[Values, _listed(
        "-n --n-gen", "128", "Tokens of the tg test; 0: no such test.")] = None
    prompt_gen: Annotated[Values, _listed(
        "-pg", False, "A prompt and what follows, as one test; may be repeated.", "PP,TG")] = None
    n_depth: Annotated[Values, _listed(
        "-d --n-depth", "0", "Tokens in the context before a test starts.")] = None
    n_batch: Annotated[Values, _listed("-b --batch-size", "2048", "Logical batch size.")] = None
    n_ubatch: Annotated[Values, _listed("-ub --ubatch-size", "512", "Physical batch size.")] = None
    type_k: Annotated[Values, _listed(
        "-ctk --cache-type-k", "f16", "Type of the cached keys.", "TYPE,...", CACHE_TYPES)] = None
    type_v: Annotated[Values, _listed(
        "-ctv --cache-type-v", "f16", "... and values.", "TYPE,...", CACHE_TYPES)] = None
    threads: Annotated[Values, _listed("-t --threads", "physical cores", "CPU threads.")] = None
    n_gpu_layers: Annotated[Values, _listed(
        "-ngl --n-gpu-layers", "-1: all", "Layers to keep on the GPU (GPU builds only).")] = None
    flash_attn: Annotated[Values, _listed(
        "-fa --flash-attn", "auto", "Flash attention: on, off or auto.", "NAME,...",
        [*FLASH][:3])] = None
    # fmt: on

    def has_tests(self) -> bool:
        return bool(self.n_prompt or self.n_gen or self.prompt_gen or self.n_depth)

    def grid(self) -> Grid:
        """Raises UsageError for what is no list of values."""
        usual = Grid()
        return Grid(
            n_prompt=_ranges(self.n_prompt, "--n-prompt", TOKENS) or usual.n_prompt,
            n_gen=_ranges(self.n_gen, "--n-gen", TOKENS) or usual.n_gen,
            prompt_gen=parse_pairs(self.prompt_gen or ()),
            n_depth=_ranges(self.n_depth, "--n-depth", TOKENS) or usual.n_depth,
            n_batch=_ranges(self.n_batch, "--batch-size", BATCH) or usual.n_batch,
            n_ubatch=_ranges(self.n_ubatch, "--ubatch-size", BATCH) or usual.n_ubatch,
            type_k=parse_words(self.type_k or usual.type_k, "--cache-type-k", CACHE_TYPES),
            type_v=parse_words(self.type_v or usual.type_v, "--cache-type-v", CACHE_TYPES),
            n_threads=_ranges(self.threads, "--threads", THREADS) or usual.n_threads,
            n_gpu_layers=_ranges(self.n_gpu_layers, "--n-gpu-layers", LAYERS) or usual.n_gpu_layers,
            flash_attn=parse_words(self.flash_attn or ("auto",), "--flash-attn", FLASH),
        )


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Whole requests instead of llama-bench's tests."""

    # fmt: off
    latency: Annotated[bool, Option(
        "--latency",
        help="Sequences answered together, in place of pp and tg (Shortened LLaMA).")] = False
    n_parallel: Annotated[Values, _listed(
        "-npl", "1", "Sequences at once.")] = None
    n_input: Annotated[int, Option(
        "-npp", min=1, max=1 << 20, help="Input tokens of each.")] = 12
    n_output: Annotated[Values, _listed(
        "-ntg", "128", "Output tokens of each.")] = None
    n_warmup: Annotated[int, Option(
        "--warmups", min=0, help="Runs that do not count.")] = 10
    n_run: Annotated[int, Option(
        "--runs", min=1, help="Runs that do.")] = 20
    # fmt: on

    def requests(self) -> Requests:
        n_seq = _ranges(self.n_parallel, "-npl", COUNTS) or (1,)
        n_output = _ranges(self.n_output, "-ntg", COUNTS) or (128,)
        return Requests(
            n_input=self.n_input, n_seq=n_seq, n_output=n_output, n_warmup=self.n_warmup,
            n_run=self.n_run,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, how often, and how it is told."""

    # fmt: off
    model: Annotated[Values, Option(
        "-m", "--model", metavar="FILE,...", help="A model, as llama-bench has it.")] = None
    grid: GridOptions
    n_repeat: Annotated[int, Option(
        "-r", "--repetitions", min=1, help="Repetitions.")] = 5
    no_warmup: Annotated[bool, Option(
        "--no-warmup", help="No run that does not count.")] = False
    output: Annotated[Output | None, Option(
        "-o", "--output", metavar="FORMAT",
        help="Exactly llama-bench's output, without comparisons: csv, json, jsonl, md or sql."
    )] = None
    requests: RequestOptions
    memory: Annotated[bool, Option(
        "--memory",
        help="Also what llama.cpp allocates, each model in a process of its own.")] = False
    roofline: Annotated[bool, Option(
        "--roofline",
        help="Also the speed that the memory's bandwidth allows for the bytes read.")] = False
    showing: Showing
    # fmt: on

    def named(self) -> list[Path]:
        """The models of -m; a comma stands between two of them."""
        return [Path(name) for names in self.model or () for name in names.split(",")]


def command(
    options: Options,
    sources: Annotated[
        list[Path] | None, Argument(metavar="A.gguf [B.gguf ...]", help="Models to time.")
    ] = None,
) -> None:
    """Prompt (pp) and generation (tg) speed as llama-bench measures it, models taking turns.

    Lists and ranges as llama-bench's: 512,1024 or 0-4096+1024 or 64-512*2. Every combination is
    measured. With several models: how many times as fast as the first one each is.

    Example: ggprune bench original.gguf pruned.gguf -p 512 -n 128 --memory --roofline
    """
    grid, requests, output = options.grid.grid(), options.requests, options.output
    memory, roofline, showing = options.memory, options.roofline, options.showing
    if output is not None and (showing.as_json or memory or roofline or requests.latency):
        raise UsageError("-o prints llama-bench's rows alone; leave it out, or use --json")
    models = [open_model(path) for path in [*(sources or ()), *options.named()]]
    if not models:
        raise UsageError("say which models: ggprune bench A.gguf B.gguf")
    if requests.latency:
        if memory or roofline or options.grid.has_tests():
            raise UsageError("--latency goes with -npl, -npp, -ntg, --warmups and --runs")
        report = _latency([model.path for model in models], requests.requests(), grid)
        show(report, latency_blocks, showing)
        return
    suite = run_suite(
        models, grid.cases(), n_repeat=options.n_repeat, warmup=not options.no_warmup,
        memory=memory, roofline=roofline, progress=TerminalProgress("benchmark"),
    )  # fmt: skip
    if output is not None:
        print(render_rows(suite.speed, output.value, stdout_encoding()), end="")
    else:
        show(suite, blocks, showing)


def _latency(paths: list[Path], requests: Requests, grid: Grid) -> LatencyReport:
    computes = grid.computes()
    if len(computes) > 1:
        raise UsageError("--latency takes one value of -b, -ub, -ctk, -ctv, -t, -ngl and -fa")
    requests.pairs()  # says what is wrong with them before anything is loaded
    progress = TerminalProgress("latency")
    return measure_latency(paths, requests, compute=computes[0], progress=progress)
