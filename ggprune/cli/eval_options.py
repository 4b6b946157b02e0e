"""The options of `ggprune eval`, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.cli.measuring import Computing
from ggprune.cli.options import AsJson, Chunks, Force, TextFile
from ggprune.errors import UsageError
from ggprune.evaluation.choices import ChoiceKind
from ggprune.runtime.session import Compute


def _file(option: str, text: str) -> object:
    return Option(option, metavar="FILE", help=text)


def _count(option: str, text: str, default: str = "all") -> object:
    return Option(option, metavar="N", min=1, show_default=default, help=text)


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that can be asked about some models; one kind of question at a time."""

    base: Annotated[
        Path | None, Option(help="Compare with this model: KL divergence and more.")
    ] = None
    file: TextFile = None
    base_logits: Annotated[
        Path | None,
        _file("--kl-divergence-base", "Compare with the logits in this file, on its tokens."),
    ] = None
    save_logits: Annotated[
        Path | None,
        Option(
            "--save-logits",
            "--save-all-logits",
            metavar="FILE",
            help="Write the model's logits for --kl-divergence-base, here and in llama-perplexity.",
        ),
    ] = None
    force: Force = False
    stride: Annotated[
        int | None, _count("--ppl-stride", "Perplexity of windows that move on by N.", "none")
    ] = None
    hellaswag: Annotated[Path | None, _file("--hellaswag", "HellaSwag tasks, six lines each.")] = (
        None
    )
    hellaswag_tasks: Annotated[
        int | None, _count("--hellaswag-tasks", "So many of them, drawn as there.", "400")
    ] = None
    winogrande: Annotated[Path | None, _file("--winogrande", "Winogrande tasks, a CSV file.")] = (
        None
    )
    winogrande_tasks: Annotated[
        int | None, _count("--winogrande-tasks", "So many of them, drawn as there.")
    ] = None
    multiple_choice: Annotated[
        Path | None,
        _file("--multiple-choice", "Multiple-choice tasks, llama-perplexity's binary file."),
    ] = None
    multiple_choice_tasks: Annotated[
        int | None, _count("--multiple-choice-tasks", "So many of them, drawn as there.")
    ] = None

    tasks: Annotated[
        str | None,
        Option(
            metavar="NAMES",
            help="lm-eval's tasks: hellaswag,arc_easy; or YAML files; or commonsense, the seven of "
            "Shortened LLaMA and their mean.",
        ),
    ] = None
    limit: Annotated[int | None, _count("--limit", "The first N documents of each task.")] = None

    generate: Annotated[
        bool, Option("--generate", help="Let the models write, and look at the texts.")
    ] = False
    prompts: Annotated[
        Path | None, _file("--prompts", "With --generate: a prompt per line, not the shipped ones.")
    ] = None
    report: Annotated[
        Path | None, Option(help="Write everything down, texts whole (.json or .md).")
    ] = None
    n_predict: Annotated[
        int, Option("-n", "--predict", min=1, max=65536, help="Tokens behind each prompt.")
    ] = 64
    n_ctx: Annotated[
        int | None,
        Option(
            "-c", "--ctx-size", min=8, max=1 << 24,
            show_default="512, 2048 for --tasks, or the file's",
            help="Tokens per chunk, BOS included; for tasks, of a text.",
        ),
    ] = None  # fmt: skip
    n_chunk: Chunks = None
    n_batch: Annotated[
        int, Option("-b", "--batch-size", min=1, max=1 << 24, help="Logical batch size.")
    ] = 2048
    n_ubatch: Annotated[
        int, Option("-ub", "--ubatch-size", min=1, max=1 << 24, help="Physical batch size.")
    ] = 512
    computing: Computing
    as_json: AsJson = False

    def compute(self) -> Compute:
        return self.computing.compute(self.n_batch, self.n_ubatch)

    def choice_tasks(self, kind: ChoiceKind) -> tuple[Path | None, int | None]:
        """The file, and how many tasks of it."""
        return {
            ChoiceKind.HELLASWAG: (self.hellaswag, self.hellaswag_tasks),
            ChoiceKind.WINOGRANDE: (self.winogrande, self.winogrande_tasks),
            ChoiceKind.MULTIPLE_CHOICE: (self.multiple_choice, self.multiple_choice_tasks),
        }[kind]

    def task_names(self) -> list[str]:
        return [name.strip() for name in (self.tasks or "").split(",") if name.strip()]

    def mode(self) -> str:
        """The option that says what kind of question it is."""
        if self.tasks is not None:
            return "--tasks"
        if self.generate:
            return "--generate"
        chosen = (kind for kind in ChoiceKind if self.choice_tasks(kind)[0] is not None)
        if (kind := next(chosen, None)) is not None:
            return f"--{kind.value}"
        return "--ppl-stride" if self.stride is not None else "--file"

    def check(self) -> None:
        """Raises UsageError for options of which one excludes, or misses, another."""
        _check_together({
            "--hellaswag": self.hellaswag, "--winogrande": self.winogrande,
            "--tasks": self.tasks, "--multiple-choice": self.multiple_choice,
            "--generate": self.generate, "--ppl-stride": self.stride,
            "--kl-divergence-base": self.base_logits, "--save-logits": self.save_logits,
        })  # fmt: skip
        _check_needed({
            ("--hellaswag-tasks", "--hellaswag"): (self.hellaswag_tasks, self.hellaswag),
            ("--winogrande-tasks", "--winogrande"): (self.winogrande_tasks, self.winogrande),
            ("--multiple-choice-tasks", "--multiple-choice"): (
                self.multiple_choice_tasks, self.multiple_choice,
            ),
            ("--limit", "--tasks"): (self.limit, self.tasks),
            ("--prompts", "--generate"): (self.prompts, self.generate),
        })  # fmt: skip


def _check_together(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise UsageError(f"{given[0]} or {given[1]}, not both")


def _check_needed(options: Mapping[tuple[str, str], tuple[object, object]]) -> None:
    for (name, needed), (value, owner) in options.items():
        if value is not None and not owner:
            raise UsageError(f"{name} belongs to {needed}, which is not given")
