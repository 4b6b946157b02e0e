"""Choice tasks scored as llama-perplexity scores them: HellaSwag, Winogrande, multiple choice.

The answer whose tokens are the most likely on average is the model's. Files are read by
task_files; probabilities come from trees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

from ggprune.evaluation.draw import draw_scaled, draw_uniform
from ggprune.evaluation.task_files import (
    Blank,
    ChoiceTask,
    read_hellaswag,
    read_multiple_choice,
    read_winogrande,
)
from ggprune.evaluation.trees import Query, answer, ask_branches, by_branch, tree_of
from ggprune.files.keys import Key, written
from ggprune.metrics.estimates import Estimate, Float64, share_estimate
from ggprune.progress import SILENT, Progress
from ggprune.runtime.library import versions
from ggprune.runtime.sequences import MAX_SEQ, SharedSession
from ggprune.runtime.session import Compute, LlamaModel, Tokens

CELLS_PER_CTX = 4  # llama-perplexity makes room for four sequences of n_ctx tokens
N_SEQ = 32  # at once; more cost memory in recurrent models
Z_95 = 1.95996398454  # as perplexity.cpp has it
MIN_TRAILING = 3  # perplexity.cpp: k_min_trailing_ctx
HELLASWAG_TASKS = 400  # llama-perplexity's default

Tokenize = Callable[[str], Tokens]


class ChoiceKind(str, Enum):
    """Named as llama-perplexity's options."""

    HELLASWAG = "hellaswag"
    WINOGRANDE = "winogrande"
    MULTIPLE_CHOICE = "multiple-choice"


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


@dataclass(frozen=True)
class Prepared:
    """A task as a question to the model: what to ask, and how its numbers become scores."""

    query: Query
    score: Callable[[Float64], list[float]]  # log-probabilities -> one number a choice
    right: frozenset[int]


def score_choices(
    paths: Sequence[Path],
    benchmark: ChoiceKind,
    file: Path,
    *,
    n_task: int | None = None,
    n_ctx: int = 512,
    compute: Compute | None = None,
    progress: Progress = SILENT,
) -> tuple[ChoiceScore, ...]:
    """Every model on the same tasks; `n_task` of them, None for llama-perplexity's default.

    Raises DataError if the file is none of the kind or a task does not fit into 4 n_ctx tokens.
    """
    read = {
        ChoiceKind.HELLASWAG: _hellaswag,
        ChoiceKind.WINOGRANDE: _winogrande,
        ChoiceKind.MULTIPLE_CHOICE: _multiple_choice,
    }[benchmark]
    prepare = read(file, n_task)
    scores = []
    for i, path in enumerate(paths):
        with LlamaModel(path, compute) as model:
            tasks = [task(model.tokenize) for task in prepare]
            answers = _answer(model, tasks, n_ctx, compute, _Share(progress, i, len(paths)))
        scores.append(_score(path, benchmark, file, tasks, answers))
    return tuple(scores)


class _Share(Progress):
    """The steps of one model, as a share of those of all models."""

    def __init__(self, whole: Progress, i: int, n_model: int) -> None:
        self.whole, self.i, self.n_model = whole, i, n_model

    def step(self, done: int, total: int) -> None:
        self.whole.step(self.i * total + done, self.n_model * total)


def _answer(
    model: LlamaModel,
    tasks: Sequence[Prepared],
    n_ctx: int,
    compute: Compute | None,
    progress: Progress,
) -> list[int]:
    n_seq = min(MAX_SEQ, max(N_SEQ, *(len(task.query.tree.branches) for task in tasks)))
    with SharedSession(model, CELLS_PER_CTX * n_ctx, n_seq=n_seq, compute=compute) as session:
        answers = answer(session, [task.query for task in tasks], progress)
    scores = [task.score(said.log_p) for task, said in zip(tasks, answers, strict=True)]
    return [int(np.argmax(score)) for score in scores]  # the first of equals, as there


def _score(
    path: Path, benchmark: ChoiceKind, file: Path, tasks: Sequence[Prepared], answers: Sequence[int]
) -> ChoiceScore:
    hits = np.array([a in task.right for a, task in zip(answers, tasks, strict=True)])
    chance = len(tasks) / sum(len(task.query.tree.branches) for task in tasks)
    return ChoiceScore(
        path=str(path), benchmark=benchmark, source=str(file), n_task=len(tasks),
        accuracy=share_estimate(hits), chance=chance, answers=tuple(answers),
        is_right=tuple(map(bool, hits)), versions=versions(),
    )  # fmt: skip


def _hellaswag(file: Path, n_task: int | None) -> list[Callable[[Tokenize], Prepared]]:
    tasks = read_hellaswag(file)
    order = draw_uniform(len(tasks), HELLASWAG_TASKS if n_task is None else n_task)
    return [partial(_prepare_choice, tasks[i]) for i in order]


def _multiple_choice(file: Path, n_task: int | None) -> list[Callable[[Tokenize], Prepared]]:
    return [partial(_prepare_choice, task) for task in read_multiple_choice(file, n_task)]


def _winogrande(file: Path, n_task: int | None) -> list[Callable[[Tokenize], Prepared]]:
    tasks = read_winogrande(file)
    if n_task is not None and n_task < len(tasks):
        tasks = [tasks[i] for i in draw_scaled(len(tasks), n_task)]
    return [partial(_prepare_blank, task) for task in tasks]


def _prepare_choice(task: ChoiceTask, tokenize: Tokenize) -> Prepared:
    """Mean log-probability of what the choices do not share."""
    tree = tree_of([tokenize(f"{task.context} {choice}") for choice in task.choices])

    def score(log_p: Float64) -> list[float]:
        return [float(np.mean(part)) for part in by_branch(tree, log_p)]

    return Prepared(ask_branches(tree), score, task.right)


def _prepare_blank(task: Blank, tokenize: Tokenize) -> Prepared:
    """Mean log-probability of what follows the word, without the last token (the full stop).

    Where less than four tokens differ, the word itself counts too. Then llama-perplexity reads the
    second word's first token from the row behind the first sentence, not from the one before the
    word (a FIXME there); that is followed, because its numbers are the ones people compare.
    """
    texts = [task.before + choice + task.after for choice in task.choices]
    tree = tree_of([tokenize(text) for text in texts])
    n_prefix = len(tree.prefix)
    skip = min(map(len, tree.branches)) > MIN_TRAILING
    rows, targets, lengths = [], [], []
    for i, (choice, branch) in enumerate(zip(task.choices, tree.branches, strict=True)):
        known = len(tokenize(task.before + choice)) if skip else n_prefix
        start = known - n_prefix if n_prefix < known < n_prefix + len(branch) else 0
        scored = branch[start : len(branch) - 1] if len(branch) - start > 1 else branch[start:]
        places = [tree.row(i, n_prefix + start + j - 1) for j in range(len(scored))]
        if i == 1 and start == 0:
            places[0] = len(tree.branches[0])
        rows += places
        targets.append(scored)
        lengths.append(len(scored))

    def score(log_p: Float64) -> list[float]:
        return [float(np.mean(part)) for part in np.split(log_p, np.cumsum(lengths)[:-1])]

    query = Query(tree, np.array(rows, np.int64), np.concatenate(targets))
    return Prepared(query, score, frozenset({task.right - 1}))
