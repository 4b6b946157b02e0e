"""`ggprune eval`: perplexity and the distance from another model, choice tasks, generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from typer import Argument

from ggprune.cli.eval_options import Options
from ggprune.cli.measuring import given_text
from ggprune.cli.output import show
from ggprune.cli.progress import TerminalProgress
from ggprune.errors import UsageError
from ggprune.evaluation import Evaluation, SaveLogits
from ggprune.evaluation.choices import ChoiceKind, ChoiceScore
from ggprune.evaluation.health import Health, read_prompts
from ggprune.evaluation.tasks import TaskScores, check_tasks
from ggprune.files.outputs import check_outputs, write_text
from ggprune.metrics.text import EVALUATION
from ggprune.model import open_model
from ggprune.pipeline import safe
from ggprune.report import choices, evaluation, health, tasks
from ggprune.report.blocks import Block
from ggprune.report.reportfile import check_report, report_text

CTX, TASKS_CTX = 512, 2048

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """What is asked, about which models."""

    paths: tuple[Path, ...]
    base: Path | None
    options: Options

    @property
    def all_paths(self) -> tuple[Path, ...]:
        """The base like any other model, and first."""
        return (self.base, *self.paths) if self.base is not None else self.paths


@dataclass(frozen=True)
class Mode(Generic[T]):
    """A kind of question: how it is answered, and how the answers are shown."""

    run: Callable[[Question], Sequence[T]]
    blocks: Callable[[Sequence[T]], tuple[Block, ...]]
    whole: Callable[[Sequence[T]], tuple[Block, ...]] | None = None  # in a report, if there is more


def _perplexity(question: Question) -> Sequence[Evaluation]:
    paths, base, options = question.paths, question.base, question.options
    file, save_logits, base_logits = options.file, options.save_logits, options.base_logits
    if save_logits is not None and (len(paths) > 1 or base is not None):
        raise UsageError("--save-logits writes the logits of one model, without --base")
    if base_logits is not None and (file is not None or base is not None):
        raise UsageError("--kl-divergence-base has its own text and base: no -f, no --base")
    check_outputs([save_logits], [*paths, file], force=options.force)
    return safe.evaluate(
        paths,
        given_text(file, EVALUATION) if base_logits is None else None,
        base=base,
        base_logits=base_logits,
        save_logits=SaveLogits(save_logits, options.force) if save_logits is not None else None,
        n_ctx=options.n_ctx,
        n_chunk=options.n_chunk,
        compute=options.compute(),
        progress=TerminalProgress("evaluate"),
    )


def _strided(question: Question) -> Sequence[Evaluation]:
    options = question.options
    assert options.stride is not None
    if question.base is not None:
        raise UsageError("--ppl-stride or --base, not both")
    return safe.evaluate_strided(
        question.paths,
        given_text(options.file, EVALUATION),
        options.stride,
        n_ctx=options.n_ctx or CTX,
        n_chunk=options.n_chunk,
        compute=options.compute(),
        progress=TerminalProgress("evaluate"),
    )


def _choices(kind: ChoiceKind, question: Question) -> Sequence[ChoiceScore]:
    options = question.options
    file, n_task = options.choice_tasks(kind)
    assert file is not None
    return safe.score_choices(
        question.all_paths,
        kind,
        file,
        n_task=n_task,
        n_ctx=options.n_ctx or CTX,
        compute=options.compute(),
        progress=TerminalProgress(kind.value),
    )


def _tasks(question: Question) -> Sequence[TaskScores]:
    options = question.options
    check_tasks()
    return safe.run_tasks(
        question.all_paths,
        options.task_names(),
        limit=options.limit,
        n_ctx=options.n_ctx or TASKS_CTX,
        compute=options.compute(),
        progress=TerminalProgress("tasks"),
    )


def _generation(question: Question) -> Sequence[Health]:
    options = question.options
    return safe.check_health(
        question.paths,
        read_prompts(options.prompts),
        base=question.base,
        n_predict=options.n_predict,
        compute=options.compute(),
        progress=TerminalProgress("write"),
    )


MODES: dict[str, Mode[Any]] = {  # by the option that asks for it
    "--tasks": Mode(_tasks, tasks.blocks),
    "--generate": Mode(_generation, health.blocks, partial(health.blocks, whole=True)),
    **{f"--{kind.value}": Mode(partial(_choices, kind), choices.blocks) for kind in ChoiceKind},
    "--ppl-stride": Mode(_strided, evaluation.blocks),
    "--file": Mode(_perplexity, evaluation.blocks),
}


def command(
    sources: Annotated[
        list[Path], Argument(metavar="IN.gguf...", help="The models; any shard of a split one.")
    ],
    options: Options,
) -> None:
    """Perplexity as llama-perplexity computes it; with --base also its KL divergence statistics.

    Or one of its choice tasks, lm-eval's tasks, or what the models write. Several models share what
    is computed for the base.

    Example: ggprune eval pruned.gguf --base original.gguf -f wiki.test.raw
    """
    options.check()
    # a damaged file gets a better message here than from llama.cpp
    paths = tuple(open_model(source).path for source in sources)
    base = open_model(options.base).path if options.base is not None else None
    report, force = options.report, options.force
    if report is not None:
        check_report(report)
        inputs = [*paths, base, options.file, options.prompts]
        check_outputs([report, options.save_logits], inputs, force=force)
    mode = MODES[options.mode()]
    results = mode.run(Question(paths, base, options))
    document = evaluation.document(results)
    show(document, lambda _: mode.blocks(results), as_json=options.as_json)
    if report is not None:
        title = ", ".join(path.name for path in paths)
        whole = evaluation.report(results, title, (mode.whole or mode.blocks)(results))
        write_text(report, report_text(document, whole, report), force=force)
