"""`ggprune eval`: perplexity and the distance from another model, choice tasks, generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggprune.cli.options import (
    AsJson,
    BatchSize,
    Chunks,
    Flash,
    FlashAttention,
    Force,
    GpuLayers,
    TextFile,
    Threads,
    UBatchSize,
    compute_options,
    text_option,
)
from ggprune.cli.progress import Bar
from ggprune.errors import UsageError

if TYPE_CHECKING:
    from ggprune.report.blocks import Block
    from ggprune.runtime.session import Compute

CTX, TASKS_CTX = 512, 2048


def _file(option: str, what: str) -> Any:
    return typer.Option(option, metavar="FILE", show_default=False, help=what)


def _count(option: str, what: str, default: str = "all") -> Any:
    return typer.Option(option, metavar="N", min=1, show_default=default, help=what)


def evaluate_command(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN.gguf...", show_default=False, help="The models; any shard of a split one."
        ),
    ],
    base: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Compare with this model: KL divergence and more."),
    ] = None,
    file: TextFile = None,
    base_logits: Annotated[
        Path | None,
        _file("--kl-divergence-base", "Compare with the logits in this file, on its tokens."),
    ] = None,
    save_logits: Annotated[
        Path | None,
        typer.Option(
            "--save-logits",
            "--save-all-logits",
            metavar="FILE",
            show_default=False,
            help="Write the model's logits for --kl-divergence-base, here and in llama-perplexity.",
        ),
    ] = None,
    force: Force = False,
    stride: Annotated[
        int | None, _count("--ppl-stride", "Perplexity of windows that move on by N.", "none")
    ] = None,
    hellaswag: Annotated[
        Path | None, _file("--hellaswag", "HellaSwag tasks, six lines each.")
    ] = None,
    hellaswag_tasks: Annotated[
        int | None, _count("--hellaswag-tasks", "So many of them, drawn as there.", "400")
    ] = None,
    winogrande: Annotated[
        Path | None, _file("--winogrande", "Winogrande tasks, a CSV file.")
    ] = None,
    winogrande_tasks: Annotated[
        int | None, _count("--winogrande-tasks", "So many of them, drawn as there.")
    ] = None,
    multiple_choice: Annotated[
        Path | None,
        _file("--multiple-choice", "Multiple-choice tasks, llama-perplexity's binary file."),
    ] = None,
    multiple_choice_tasks: Annotated[
        int | None, _count("--multiple-choice-tasks", "So many of them, drawn as there.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            show_default=False,
            help="lm-eval's tasks: hellaswag,arc_easy; or YAML files; or commonsense, the seven of "
            "Shortened LLaMA and their mean.",
        ),
    ] = None,
    limit: Annotated[int | None, _count("--limit", "The first N documents of each task.")] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Let the models write, and look at the texts.")
    ] = False,
    prompts: Annotated[
        Path | None, _file("--prompts", "With --generate: a prompt per line, not the shipped ones.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Write everything down, texts whole (.json or .md)."),
    ] = None,
    n_predict: Annotated[
        int, typer.Option("-n", "--predict", min=1, max=65536, help="Tokens behind each prompt.")
    ] = 64,
    n_ctx: Annotated[
        int | None,
        typer.Option(
            "-c", "--ctx-size", min=8, max=1 << 24,
            show_default="512, 2048 for --tasks, or the file's",
            help="Tokens per chunk, BOS included; for tasks, of a text.",
        ),
    ] = None,
    n_chunk: Chunks = None,
    n_batch: BatchSize = 2048,
    n_ubatch: UBatchSize = 512,
    threads: Threads = None,
    n_gpu_layers: GpuLayers = -1,
    flash_attn: Flash = FlashAttention.AUTO,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Perplexity as llama-perplexity computes it; with --base also its KL divergence statistics.

    Or one of its choice tasks, lm-eval's tasks, or what the models write. Several models share what
    is computed for the base.

    Example: ggprune eval pruned.gguf --base original.gguf -f wiki.test.raw
    """
    from ggprune.files.documents import to_text
    from ggprune.files.outputs import check_outputs
    from ggprune.files.pending import write_text
    from ggprune.model import open_model
    from ggprune.report.evaluation import document
    from ggprune.report.evaluation import report as report_blocks
    from ggprune.report.health import blocks as health_blocks
    from ggprune.report.reportfile import check_report, report_text
    from ggprune.report.terminal import terminal

    _check_together(
        {"--hellaswag": hellaswag, "--winogrande": winogrande, "--tasks": tasks,
         "--multiple-choice": multiple_choice, "--generate": generate, "--ppl-stride": stride,
         "--kl-divergence-base": base_logits, "--save-logits": save_logits}
    )  # fmt: skip
    _check_needed({
        "--hellaswag-tasks": (hellaswag_tasks, hellaswag, "--hellaswag"),
        "--winogrande-tasks": (winogrande_tasks, winogrande, "--winogrande"),
        "--multiple-choice-tasks": (multiple_choice_tasks, multiple_choice, "--multiple-choice"),
        "--limit": (limit, tasks, "--tasks"), "--prompts": (prompts, generate, "--generate"),
    })  # fmt: skip
    # a damaged file gets a better message here than from llama.cpp
    paths = [open_model(source).path for source in sources]
    base_path = open_model(base).path if base is not None else None
    if report is not None:
        check_report(report)
        check_outputs([report, save_logits], [*paths, base_path, file, prompts], force=force)
    compute = compute_options(threads, n_gpu_layers, flash_attn, n_batch, n_ubatch)
    given = (
        ("hellaswag", hellaswag, hellaswag_tasks),
        ("winogrande", winogrande, winogrande_tasks),
        ("multiple-choice", multiple_choice, multiple_choice_tasks),
    )
    chosen = [(name, path, n) for name, path, n in given if path is not None]
    results: Sequence[Any]
    if tasks is not None:
        results, shown = _tasks(_with_base(paths, base_path), tasks, limit, n_ctx, compute)
    elif generate:
        results, shown = _health(paths, base_path, prompts, n_predict, compute)
    elif chosen:
        ((name, choice, n_task),) = chosen
        models = _with_base(paths, base_path)
        results, shown = _choices(models, name, choice, n_task, n_ctx, compute)
    elif stride is not None:
        if base_path is not None:
            raise UsageError("--ppl-stride or --base, not both")
        results, shown = _strided(paths, file, stride, n_ctx, n_chunk, compute)
    else:
        if save_logits is not None and (len(paths) > 1 or base_path is not None):
            raise UsageError("--save-logits writes the logits of one model, without --base")
        if base_logits is not None and (file is not None or base_path is not None):
            raise UsageError("--kl-divergence-base has its own text and base: no -f, no --base")
        results, shown = _perplexity(
            paths, file, base_path, base_logits, save_logits, force, n_ctx, n_chunk, compute
        )
    print(to_text(document(results)) if as_json else terminal(shown), end="")
    if report is not None:
        whole = health_blocks(results, whole=True) if generate else shown
        title = ", ".join(path.name for path in paths)
        body = report_blocks(results, title, whole)
        write_text(report, report_text(document(results), body, report), force=force)


def _check_together(options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise UsageError(f"{given[0]} or {given[1]}, not both")


def _check_needed(options: dict[str, tuple[object, object, str]]) -> None:
    for name, (value, owner, needed) in options.items():
        if value is not None and not owner:
            raise UsageError(f"{name} belongs to {needed}, which is not given")


def _with_base(paths: Sequence[Path], base: Path | None) -> list[Path]:
    return [base, *paths] if base is not None else list(paths)


def _perplexity(
    paths: Sequence[Path],
    file: Path | None,
    base: Path | None,
    base_logits: Path | None,
    save_logits: Path | None,
    force: bool,
    n_ctx: int | None,
    n_chunk: int | None,
    compute: Compute,
) -> tuple[Sequence[Any], tuple[Block, ...]]:
    from ggprune.evaluation import SaveLogits, evaluate
    from ggprune.files.outputs import check_outputs
    from ggprune.metrics.text import EVALUATION
    from ggprune.report.evaluation import blocks
    from ggprune.runtime.isolate import isolated

    check_outputs([save_logits], [*paths, file], force=force)
    results = isolated(
        evaluate,
        paths,
        text_option(file, EVALUATION) if base_logits is None else None,
        base=base,
        base_logits=base_logits,
        save_logits=SaveLogits(save_logits, force) if save_logits is not None else None,
        n_ctx=n_ctx,
        n_chunk=n_chunk,
        compute=compute,
        progress=Bar("evaluate"),
    )
    return results, blocks(results)


def _strided(
    paths: Sequence[Path],
    file: Path | None,
    stride: int,
    n_ctx: int | None,
    n_chunk: int | None,
    compute: Compute,
) -> tuple[Sequence[Any], tuple[Block, ...]]:
    from ggprune.evaluation.strided import evaluate_strided
    from ggprune.metrics.text import EVALUATION
    from ggprune.report.evaluation import blocks
    from ggprune.runtime.isolate import isolated

    results = isolated(
        evaluate_strided, paths, text_option(file, EVALUATION), stride, n_ctx=n_ctx or CTX,
        n_chunk=n_chunk, compute=compute, progress=Bar("evaluate"),
    )  # fmt: skip
    return results, blocks(results)


def _choices(
    paths: Sequence[Path],
    name: str,
    file: Path,
    n_task: int | None,
    n_ctx: int | None,
    compute: Compute,
) -> tuple[Sequence[Any], tuple[Block, ...]]:
    from ggprune.evaluation.choices import ChoiceKind, score_choices
    from ggprune.report.choices import blocks
    from ggprune.runtime.isolate import isolated

    results = isolated(
        score_choices, paths, ChoiceKind(name), file, n_task=n_task, n_ctx=n_ctx or CTX,
        compute=compute, progress=Bar(name),
    )  # fmt: skip
    return results, blocks(results)


def _tasks(
    paths: Sequence[Path], names: str, limit: int | None, n_ctx: int | None, compute: Compute
) -> tuple[Sequence[Any], tuple[Block, ...]]:
    from ggprune.evaluation.tasks import check_tasks, run_tasks
    from ggprune.report.tasks import blocks
    from ggprune.runtime.isolate import isolated

    check_tasks()
    results = isolated(
        run_tasks, paths, [name.strip() for name in names.split(",") if name.strip()],
        limit=limit, n_ctx=n_ctx or TASKS_CTX, compute=compute, progress=Bar("tasks"),
    )  # fmt: skip
    return results, blocks(results)


def _health(
    paths: Sequence[Path],
    base: Path | None,
    prompts: Path | None,
    n_predict: int,
    compute: Compute,
) -> tuple[Sequence[Any], tuple[Block, ...]]:
    from ggprune.evaluation.health import check_health, read_prompts
    from ggprune.report.health import blocks
    from ggprune.runtime.isolate import isolated

    results = isolated(
        check_health, paths, read_prompts(prompts), base=base, n_predict=n_predict,
        compute=compute, progress=Bar("write"),
    )  # fmt: skip
    return results, blocks(results)
