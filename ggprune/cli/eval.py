"""`ggprune eval`: perplexity and the distance from another model, choice tasks, generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from typer import Argument, Option

from ggprune.cli.measuring import Computing, given_text, note_chunks
from ggprune.cli.options import Chunks, Errors, Force, Showing, TextFile
from ggprune.cli.output import deliver, show
from ggprune.cli.progress import TerminalProgress
from ggprune.cli.spreading import Spreading
from ggprune.errors import UsageError
from ggprune.evaluation.choices import ChoiceKind, ChoiceScore, read_questions
from ggprune.evaluation.health import Health, read_prompts
from ggprune.evaluation.perplexity import Evaluation, SaveLogits
from ggprune.evaluation.tasks import TaskScores, check_tasks
from ggprune.files.outputs import check_outputs, write_text
from ggprune.files.reading import TextErrors, name_of, seekable
from ggprune.metrics.text import EVALUATION, Text
from ggprune.model.model import open_model
from ggprune.pipeline import evaluate
from ggprune.report import evaluation
from ggprune.report.blocks import Block
from ggprune.report.whole import check_report, report_text
from ggprune.runtime.compute import Compute

CTX, TASKS_CTX = 512, 2048
DRAWN = "So many of them, drawn as there."

T = TypeVar("T")


def _file(option: str, text: str) -> object:
    return Option(option, metavar="FILE", help=text)


def _count(option: str, text: str, default: str = "all") -> object:
    return Option(option, metavar="N", min=1, show_default=default, help=text)


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that can be asked about some models; one kind of question at a time."""

    # fmt: off
    base: Annotated[Path | None, Option(
        help="Compare with this model: KL divergence and more.")] = None
    file: TextFile = None
    errors: Errors = TextErrors.STRICT
    base_logits: Annotated[Path | None, _file(
        "--kl-divergence-base", "Compare with the logits in this file, on its tokens.")] = None
    save_logits: Annotated[Path | None, Option(
        "--save-logits", "--save-all-logits", metavar="FILE",
        help="Write the model's logits for --kl-divergence-base, here and in llama-perplexity.",
    )] = None
    force: Force = False
    stride: Annotated[int | None, _count(
        "--ppl-stride", "Perplexity of windows that move on by N.", "none")] = None
    hellaswag: Annotated[Path | None, _file(
        "--hellaswag", "HellaSwag tasks, six lines each.")] = None
    hellaswag_tasks: Annotated[int | None, _count("--hellaswag-tasks", DRAWN, "400")] = None
    winogrande: Annotated[Path | None, _file(
        "--winogrande", "Winogrande tasks, a CSV file.")] = None
    winogrande_tasks: Annotated[int | None, _count("--winogrande-tasks", DRAWN)] = None
    multiple_choice: Annotated[Path | None, _file(
        "--multiple-choice", "Multiple-choice tasks, llama-perplexity's binary file.")] = None
    multiple_choice_tasks: Annotated[int | None, _count("--multiple-choice-tasks", DRAWN)] = None

    tasks: Annotated[str | None, Option(
        metavar="NAMES",
        help="lm-eval's tasks: hellaswag,arc_easy; or YAML files; or commonsense, the seven of "
        "Shortened LLaMA and their mean.",
    )] = None
    limit: Annotated[int | None, _count("--limit", "The first N documents of each task.")] = None

    generate: Annotated[bool, Option(
        "--generate", help="Let the models write, and look at the texts.")] = False
    prompts: Annotated[Path | None, _file(
        "--prompts", "With --generate: a prompt per line, not the shipped ones.")] = None
    report: Annotated[Path | None, Option(
        help="Write everything down, texts whole (.html, .json, .md).")] = None
    n_predict: Annotated[int, Option(
        "-n", "--predict", min=1, max=65536, help="Tokens behind each prompt.")] = 64
    n_ctx: Annotated[int | None, Option(
        "-c", "--ctx-size", min=8, max=1 << 24, show_default="512, 2048 for --tasks, or the file's",
        help="Tokens per chunk, BOS included; for tasks, of a text.")] = None
    n_chunk: Chunks = None
    n_batch: Annotated[int, Option(
        "-b", "--batch-size", min=1, max=1 << 24, help="Logical batch size.")] = 2048
    n_ubatch: Annotated[int, Option(
        "-ub", "--ubatch-size", min=1, max=1 << 24, help="Physical batch size.")] = 512
    computing: Computing
    spreading: Spreading
    showing: Showing
    # fmt: on

    def compute(self) -> Compute:
        return self.computing.compute(self.n_batch, self.n_ubatch)

    def text(self) -> Text:
        return given_text(self.file, EVALUATION, self.errors)

    def choice_tasks(self, kind: ChoiceKind) -> tuple[Path | None, int | None]:
        """The file, and how many tasks of it."""
        return {
            ChoiceKind.HELLASWAG: (self.hellaswag, self.hellaswag_tasks),
            ChoiceKind.WINOGRANDE: (self.winogrande, self.winogrande_tasks),
            ChoiceKind.MULTIPLE_CHOICE: (self.multiple_choice, self.multiple_choice_tasks),
        }[kind]

    def check(self) -> None:
        """Raises UsageError for options of which one excludes, or misses, another."""
        exclusive = {
            "--hellaswag": self.hellaswag, "--winogrande": self.winogrande, "--tasks": self.tasks,
            "--multiple-choice": self.multiple_choice, "--generate": self.generate,
            "--ppl-stride": self.stride, "--kl-divergence-base": self.base_logits,
            "--save-logits": self.save_logits,
        }  # fmt: skip
        given = [option for option, value in exclusive.items() if value]
        if len(given) > 1:
            raise UsageError(f"{given[0]} or {given[1]}, not both")
        belonging = (
            ("--hellaswag-tasks", self.hellaswag_tasks, "--hellaswag"),
            ("--winogrande-tasks", self.winogrande_tasks, "--winogrande"),
            ("--multiple-choice-tasks", self.multiple_choice_tasks, "--multiple-choice"),
            ("--limit", self.limit, "--tasks"), ("--prompts", self.prompts, "--generate"),
        )  # fmt: skip
        for option, value, needed in belonging:
            if value is not None and not exclusive[needed]:
                raise UsageError(f"{option} belongs to {needed}, which is not given")


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
    """A kind of question: who asks it, how it is answered, and how the answers are shown."""

    is_asked: Callable[[Options], bool]
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
    given = seekable(base_logits) if base_logits is not None else nullcontext()
    with given as stored, options.spreading.workforce(options.compute()) as force:
        results: Sequence[Evaluation] = evaluate.evaluate(
            paths, options.text() if stored is None else None, base=base, base_logits=stored,
            save_logits=SaveLogits(save_logits, options.force) if save_logits is not None else None,
            n_ctx=options.n_ctx, n_chunk=options.n_chunk, compute=options.compute(),
            progress=TerminalProgress("evaluate"), client=force,
        )  # fmt: skip
    if base_logits is not None:
        source = name_of(base_logits)
        results = [replace(each, text=replace(each.text, source=source)) for each in results]
    return _noted(results, options)


def _noted(results: Sequence[Evaluation], options: Options) -> Sequence[Evaluation]:
    read = results[0].text
    note_chunks(options.n_chunk, read.source, read.n_chunk)
    return results


def _strided(question: Question) -> Sequence[Evaluation]:
    options = question.options
    assert options.stride is not None
    if question.base is not None:
        raise UsageError("--ppl-stride or --base, not both")
    results = evaluate.evaluate_strided(
        question.paths, options.text(), options.stride,
        n_ctx=options.n_ctx or CTX, n_chunk=options.n_chunk, compute=options.compute(),
        progress=TerminalProgress("evaluate"),
    )  # fmt: skip
    return _noted(results, options)


def _choices(kind: ChoiceKind, question: Question) -> Sequence[ChoiceScore]:
    options = question.options
    file, n_task = options.choice_tasks(kind)
    assert file is not None
    return evaluate.score_choices(
        question.all_paths, read_questions(kind, file, n_task, options.errors),
        n_ctx=options.n_ctx or CTX,
        compute=options.compute(), progress=TerminalProgress(kind.value),
    )  # fmt: skip


def _tasks(question: Question) -> Sequence[TaskScores]:
    options = question.options
    names = [name.strip() for name in (options.tasks or "").split(",") if name.strip()]
    check_tasks()
    return evaluate.run_tasks(
        question.all_paths, names, limit=options.limit, n_ctx=options.n_ctx or TASKS_CTX,
        compute=options.compute(), progress=TerminalProgress("tasks"),
    )  # fmt: skip


def _generation(question: Question) -> Sequence[Health]:
    options = question.options
    return evaluate.check_health(
        question.paths, read_prompts(options.prompts, options.errors), base=question.base,
        n_predict=options.n_predict, compute=options.compute(), progress=TerminalProgress("write"),
    )  # fmt: skip


def _choice_mode(kind: ChoiceKind) -> Mode[ChoiceScore]:
    return Mode(
        lambda options: options.choice_tasks(kind)[0] is not None,
        partial(_choices, kind), evaluation.choice_blocks,
    )  # fmt: skip


MODES: tuple[Mode[Any], ...] = (  # the first one that is asked for counts
    Mode(lambda options: options.tasks is not None, _tasks, evaluation.task_blocks),
    Mode(
        lambda options: options.generate, _generation, evaluation.text_blocks,
        partial(evaluation.text_blocks, whole=True),
    ),
    *map(_choice_mode, ChoiceKind),
    Mode(lambda options: options.stride is not None, _strided, evaluation.blocks),
    Mode(lambda _: True, _perplexity, evaluation.blocks),
)  # fmt: skip


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
    mode = next(mode for mode in MODES if mode.is_asked(options))
    if options.spreading.is_spread and mode is not MODES[-1]:
        raise UsageError("--workers and --scheduler are for perplexity and KL divergence alone")
    results = mode.run(Question(paths, base, options))
    document = evaluation.document(results)
    title = ", ".join(path.name for path in paths)

    def write_report(path: Path) -> None:
        whole = evaluation.report(results[0].versions, title, (mode.whole or mode.blocks)(results))
        write_text(path, report_text(document, whole, path), force=force)

    deliver(
        lambda: show(document, lambda _: mode.blocks(results), options.showing),
        (report, write_report),
    )
