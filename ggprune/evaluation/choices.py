"""Choice tasks scored as llama-perplexity scores them: HellaSwag, Winogrande, multiple choice.

The answer whose tokens are the most likely on average is the model's. Files are read by
task_files; probabilities come from trees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np

from ggprune.evaluation import task_files
from ggprune.evaluation.task_files import Blank, ChoiceTask
from ggprune.evaluation.trees import Query, answer, ask_branches, tree_of
from ggprune.files.keys import Key, written
from ggprune.files.reading import TextErrors, name_of
from ggprune.metrics.estimates import Estimate, share_estimate
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import versions
from ggprune.runtime.sequences import MAX_SEQ, SharedSession
from ggprune.runtime.session import LlamaModel, Tokens

CELLS_PER_CTX = 4  # llama-perplexity makes room for four sequences of n_ctx tokens
N_SEQ = 32  # at once; more cost memory in recurrent models
Z_95 = 1.95996398454  # as perplexity.cpp has it
MIN_TRAILING = 3  # perplexity.cpp: k_min_trailing_ctx


class ChoiceKind(str, Enum):
    """Named as llama-perplexity's options."""

    HELLASWAG = "hellaswag"
    WINOGRANDE = "winogrande"
    MULTIPLE_CHOICE = "multiple-choice"


Reader = Callable[[Path, int | None, TextErrors], Sequence[ChoiceTask | Blank]]
READERS: dict[ChoiceKind, Reader] = {
    ChoiceKind.HELLASWAG: task_files.read_hellaswag,
    ChoiceKind.WINOGRANDE: task_files.read_winogrande,
    ChoiceKind.MULTIPLE_CHOICE: task_files.read_multiple_choice,
}


@dataclass(frozen=True)
class Questions:
    """What a file of tasks asks, in the order in which its tasks were drawn."""

    benchmark: ChoiceKind
    source: str  # the file
    tasks: tuple[ChoiceTask | Blank, ...]


@dataclass(frozen=True, kw_only=True)
class ChoiceScore:
    """A model's answers to the tasks of a file, in the order in which they were drawn."""

    path: Annotated[str, Key(name="model.path")]
    benchmark: ChoiceKind
    source: Annotated[str, "the file of tasks"]
    n_task: int
    accuracy: Annotated[Estimate, "share of right answers"]
    chance: Annotated[float, Key(name="random_chance"), "what guessing gives"]
    answers: Annotated[tuple[int, ...], "numbers of the choices, from 0"]
    is_right: Annotated[tuple[bool, ...], Key(name="right")]
    versions: dict[str, str]

    @property
    @written("interval_95", before="chance")
    def interval(self) -> Annotated[tuple[float, float], "Wilson score interval"]:
        return wilson(self.accuracy.value, self.n_task)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The interval llama-perplexity prints beside HellaSwag scores."""
    z = Z_95**2 / n
    half = z * math.sqrt(n * (4 * share * (1 - share) + z)) / (2 * Z_95)
    return (share + z / 2 - half) / (1 + z), (share + z / 2 + half) / (1 + z)


def read_questions(
    benchmark: ChoiceKind,
    file: Path,
    n_task: int | None = None,
    errors: TextErrors = TextErrors.STRICT,
) -> Questions:
    """`n_task` of the tasks in a file, None for llama-perplexity's default.

    Raises DataError if the file is none of the kind.
    """
    tasks = READERS[benchmark](file, n_task, errors)
    return Questions(benchmark, name_of(file), tuple(tasks))


def score_choices(
    paths: Sequence[Path],
    questions: Questions,
    *,
    n_ctx: int = 512,
    compute: Compute | None = None,
    progress: Progress = SILENT,
) -> tuple[ChoiceScore, ...]:
    """Every model on the same tasks. Raises DataError if one does not fit into 4 n_ctx tokens."""
    tasks, scores = questions.tasks, []
    for i, path in enumerate(paths):
        with LlamaModel(path, compute) as model:
            queries = [_ask(task, model.tokenize) for task in tasks]
            n_choice = [len(query.tree.branches) for query in queries]
            n_seq, n_cell = min(MAX_SEQ, max(N_SEQ, *n_choice)), CELLS_PER_CTX * n_ctx
            with SharedSession(model, n_cell, n_seq=n_seq, compute=compute) as session:
                said = answer(session, queries, _Share(progress, i, len(paths)))
        log_p = [query.by_branch(a.log_p) for query, a in zip(queries, said, strict=True)]
        answers = [int(np.argmax([np.mean(p) for p in own])) for own in log_p]  # first of equals
        is_right = [a in task.right for a, task in zip(answers, tasks, strict=True)]
        scores.append(
            ChoiceScore(
                path=str(path), benchmark=questions.benchmark, source=questions.source,
                n_task=len(tasks), accuracy=share_estimate(np.array(is_right)),
                chance=len(tasks) / sum(n_choice), answers=tuple(answers),
                is_right=tuple(is_right), versions=versions(),
            )
        )  # fmt: skip
    return tuple(scores)


class _Share(Progress):
    """The steps of one model, as a share of those of all models."""

    def __init__(self, whole: Progress, i: int, n_model: int) -> None:
        self.whole, self.i, self.n_model = whole, i, n_model

    def step(self, done: int, total: int) -> None:
        self.whole.step(self.i * total + done, self.n_model * total)


def _ask(task: ChoiceTask | Blank, tokenize: Callable[[str], Tokens]) -> Query:
    """For what the choices do not share, or what follows the blank: their means are compared."""
    if isinstance(task, Blank):
        return _ask_blank(task, tokenize)
    return ask_branches(tree_of([tokenize(f"{task.context} {choice}") for choice in task.choices]))


def _ask_blank(task: Blank, tokenize: Callable[[str], Tokens]) -> Query:
    """For what follows the word, without the last token (the full stop).

    Where less than four tokens differ, the word itself counts too. Then llama-perplexity reads the
    second word's first token from the row behind the first sentence, not from the one before the
    word, as its source remarks; that is followed, because its numbers are the ones people compare.
    """
    tree = tree_of([tokenize(task.before + choice + task.after) for choice in task.choices])
    n_prefix = len(tree.prefix)
    skip = min(map(len, tree.branches)) > MIN_TRAILING
    rows, targets = [], []
    for i, (choice, branch) in enumerate(zip(task.choices, tree.branches, strict=True)):
        known = len(tokenize(task.before + choice)) if skip else n_prefix
        start = known - n_prefix if n_prefix < known < n_prefix + len(branch) else 0
        scored = branch[start : len(branch) - 1] if len(branch) - start > 1 else branch[start:]
        places = [tree.row(i, n_prefix + start + j - 1) for j in range(len(scored))]
        if i == 1 and start == 0:
            places[0] = len(tree.branches[0])
        rows += places
        targets.append(scored)
    return Query(tree, np.array(rows, np.int64), tuple(targets))
