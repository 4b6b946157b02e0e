"""`ggprune bench`: how fast, how soon, in how much memory, and what would the bandwidth allow?"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggprune.cli.options import AsJson
from ggprune.cli.progress import Bar
from ggprune.errors import UsageError

if TYPE_CHECKING:
    from ggprune.bench import Grid
    from ggprune.bench.latency import Requests

SPEED, REQUESTS, MORE = "llama-bench's tests", "Latency of whole requests", "More than speed"


# Fields of the grid: the option, and the smallest and largest number it takes.
OPTIONS: dict[str, tuple[str, tuple[int, int] | None]] = {
    "n_prompt": ("--n-prompt", (0, 1 << 24)),
    "n_gen": ("--n-gen", (0, 1 << 24)),
    "prompt_gen": ("-pg", None),
    "n_depth": ("--n-depth", (0, 1 << 24)),
    "n_batch": ("--batch-size", (1, 1 << 24)),
    "n_ubatch": ("--ubatch-size", (1, 1 << 24)),
    "type_k": ("--cache-type-k", None),
    "type_v": ("--cache-type-v", None),
    "n_threads": ("--threads", (1, 512)),
    "n_gpu_layers": ("--n-gpu-layers", (-100_000, 100_000)),
    "flash_attn": ("--flash-attn", None),
}


class Output(str, Enum):
    """llama-bench's formats."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    MD = "md"
    SQL = "sql"


def bench_command(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="A.gguf [B.gguf ...]", show_default=False, help="Models to time."),
    ],
    n_prompt: Annotated[
        list[str] | None,
        typer.Option("-p", "--n-prompt", metavar="N,...", show_default="512", rich_help_panel=SPEED,
                     help="Tokens of the pp test; 0: no such test."),
    ] = None,
    n_gen: Annotated[
        list[str] | None,
        typer.Option("-n", "--n-gen", metavar="N,...", show_default="128", rich_help_panel=SPEED,
                     help="Tokens of the tg test; 0: no such test."),
    ] = None,
    prompt_gen: Annotated[
        list[str] | None,
        typer.Option("-pg", metavar="PP,TG", show_default=False, rich_help_panel=SPEED,
                     help="A prompt and what follows, as one test; may be repeated."),
    ] = None,
    n_depth: Annotated[
        list[str] | None,
        typer.Option("-d", "--n-depth", metavar="N,...", show_default="0", rich_help_panel=SPEED,
                     help="Tokens in the context before a test starts."),
    ] = None,
    n_batch: Annotated[
        list[str] | None,
        typer.Option("-b", "--batch-size", metavar="N,...", show_default="2048",
                     rich_help_panel=SPEED, help="Logical batch size."),
    ] = None,
    n_ubatch: Annotated[
        list[str] | None,
        typer.Option("-ub", "--ubatch-size", metavar="N,...", show_default="512",
                     rich_help_panel=SPEED, help="Physical batch size."),
    ] = None,
    type_k: Annotated[
        list[str] | None,
        typer.Option("-ctk", "--cache-type-k", metavar="TYPE,...", show_default="f16",
                     rich_help_panel=SPEED, help="Type of the cached keys."),
    ] = None,
    type_v: Annotated[
        list[str] | None,
        typer.Option("-ctv", "--cache-type-v", metavar="TYPE,...", show_default="f16",
                     rich_help_panel=SPEED, help="... and values."),
    ] = None,
    threads: Annotated[
        list[str] | None,
        typer.Option("-t", "--threads", metavar="N,...", show_default="physical cores",
                     rich_help_panel=SPEED, help="CPU threads."),
    ] = None,
    n_gpu_layers: Annotated[
        list[str] | None,
        typer.Option("-ngl", "--n-gpu-layers", metavar="N,...", show_default="-1: all",
                     rich_help_panel=SPEED, help="Layers to keep on the GPU (GPU builds only)."),
    ] = None,
    flash_attn: Annotated[
        list[str] | None,
        typer.Option("-fa", "--flash-attn", metavar="on|off|auto,...", show_default="auto",
                     rich_help_panel=SPEED, help="Flash attention."),
    ] = None,
    n_repeat: Annotated[
        int, typer.Option("-r", "--repetitions", min=1, rich_help_panel=SPEED, help="Repetitions.")
    ] = 5,
    no_warmup: Annotated[
        bool,
        typer.Option("--no-warmup", rich_help_panel=SPEED, help="No run that does not count."),
    ] = False,
    output: Annotated[
        Output | None,
        typer.Option("-o", "--output", show_default=False, rich_help_panel=SPEED,
                     help="Exactly llama-bench's output, without comparisons."),
    ] = None,
    latency: Annotated[
        bool,
        typer.Option("--latency", rich_help_panel=REQUESTS,
                     help="Sequences answered together, in place of pp and tg (Shortened LLaMA)."),
    ] = False,
    n_parallel: Annotated[
        list[str] | None,
        typer.Option("-npl", metavar="N,...", show_default="1", rich_help_panel=REQUESTS,
                     help="Sequences at once."),
    ] = None,
    n_input: Annotated[
        int, typer.Option("-npp", min=1, max=1 << 20, rich_help_panel=REQUESTS,
                          help="Input tokens of each.")
    ] = 12,
    n_output: Annotated[
        list[str] | None,
        typer.Option("-ntg", metavar="N,...", show_default="128", rich_help_panel=REQUESTS,
                     help="Output tokens of each."),
    ] = None,
    n_warmup: Annotated[
        int, typer.Option("--warmups", min=0, rich_help_panel=REQUESTS,
                          help="Runs that do not count.")
    ] = 10,
    n_run: Annotated[
        int, typer.Option("--runs", min=1, rich_help_panel=REQUESTS, help="Runs that do.")
    ] = 20,
    memory: Annotated[
        bool,
        typer.Option("--memory", rich_help_panel=MORE,
                     help="Also what llama.cpp allocates, each model in a process of its own."),
    ] = False,
    roofline: Annotated[
        bool,
        typer.Option("--roofline", rich_help_panel=MORE,
                     help="Also the speed that the memory's bandwidth allows for the bytes read."),
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Prompt (pp) and generation (tg) speed as llama-bench measures it, models taking turns.

    Lists and ranges as llama-bench's: 512,1024 or 0-4096+1024 or 64-512*2. Every combination is
    measured. With several models: how many times as fast as the first one each is.

    Example: ggprune bench original.gguf pruned.gguf -p 512 -n 128 --memory --roofline
    """
    from ggprune.bench.latency import Requests
    from ggprune.bench.suite import run_suite
    from ggprune.files.documents import to_text
    from ggprune.model import open_model
    from ggprune.report.bench import blocks
    from ggprune.report.llamabench import render_rows
    from ggprune.report.terminal import terminal

    grid = _grid(
        n_prompt=n_prompt,
        n_gen=n_gen,
        prompt_gen=prompt_gen,
        n_depth=n_depth,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        type_k=type_k,
        type_v=type_v,
        n_threads=threads,
        n_gpu_layers=n_gpu_layers,
        flash_attn=flash_attn,
    )
    _check_formats(output, as_json=as_json, more=memory or roofline or latency)
    models = [open_model(path) for path in sources]
    if latency:
        if memory or roofline or n_prompt or n_gen or prompt_gen or n_depth:
            raise UsageError("--latency goes with -npl, -npp, -ntg, --warmups and --runs")
        requests = Requests(
            n_input=n_input,
            n_seq=_numbers(n_parallel, "-npl", 1),
            n_output=_numbers(n_output, "-ntg", 128),
            n_warmup=n_warmup,
            n_run=n_run,
        )
        text = _latency([model.path for model in models], requests, grid, as_json=as_json)
        print(text, end="")
        return
    suite = run_suite(
        models,
        grid.cases(),
        n_repeat=n_repeat,
        warmup=not no_warmup,
        memory=memory,
        roofline=roofline,
        progress=Bar("benchmark"),
    )
    if output is not None:
        print(render_rows(suite.speed, output.value), end="")
    else:
        print(to_text(suite) if as_json else terminal(blocks(suite)), end="")


def _grid(**values: list[str] | None) -> Grid:
    """What the options say; those that were not given keep their defaults."""
    from ggprune.bench import Grid
    from ggprune.bench.cases import parse_flash, parse_pairs, parse_ranges, parse_types

    given = {name: value for name, value in values.items() if value}
    parsed: dict[str, Any] = {}
    for name, value in given.items():
        option, limits = OPTIONS[name]
        if limits is not None:
            parsed[name] = parse_ranges(value, option, *limits)
        elif name == "prompt_gen":
            parsed[name] = parse_pairs(value)
        elif name == "flash_attn":
            parsed[name] = parse_flash(value)
        else:
            parsed[name] = parse_types(value, option)
    return Grid(**parsed)


def _numbers(values: list[str] | None, option: str, default: int) -> tuple[int, ...]:
    from ggprune.bench.cases import parse_ranges

    return parse_ranges(values, option, 1, 1 << 20) if values else (default,)


def _check_formats(output: Output | None, *, as_json: bool, more: bool) -> None:
    if output is not None and (as_json or more):
        raise UsageError("-o prints llama-bench's rows alone; leave it out, or use --json")


def _latency(paths: list[Path], requests: Requests, grid: Grid, *, as_json: bool) -> str:
    from ggprune.bench.latency import measure_latency
    from ggprune.files.documents import to_text
    from ggprune.report.latency import blocks
    from ggprune.report.terminal import terminal
    from ggprune.runtime.isolate import isolated

    computes = grid.computes()
    if len(computes) > 1:
        raise UsageError("--latency takes one value of -b, -ub, -ctk, -ctv, -t, -ngl and -fa")
    requests.pairs()  # says what is wrong with them before anything is loaded
    bar = Bar("latency")
    report = isolated(measure_latency, paths, requests, compute=computes[0], progress=bar)
    return to_text(report) if as_json else terminal(blocks(report))
