"""The files of choice tasks that llama-perplexity reads: HellaSwag, Winogrande, multiple choice.

Contents only: text in, questions with their answers out. Nothing is tokenized or scored here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ggprune.errors import DataError
from ggprune.evaluation.draw import draw_scaled
from ggprune.files.reading import read_bytes, read_utf8

HELLASWAG_LINES = 6  # context, number of the right ending, four endings
MAX_ANSWERS = 100
LAST_COMMA = 4


@dataclass(frozen=True)
class ChoiceTask:
    """Continuations of one context; `right` are the indices of those that count as right."""

    context: str
    choices: tuple[str, ...]
    right: frozenset[int]


@dataclass(frozen=True)
class Blank:
    """A sentence with a gap and two words for it."""

    before: str
    after: str
    choices: tuple[str, str]
    right: int


def read_lines(path: Path) -> list[str]:
    """Lines as llama.cpp's -f gives them: a line break at the very end does not count."""
    return read_utf8(path).removesuffix("\n").split("\n")


def read_hellaswag(path: Path) -> list[ChoiceTask]:
    """Six lines a task. Raises DataError if a task is not complete."""
    lines = read_lines(path)
    if len(lines) % HELLASWAG_LINES:
        raise DataError(
            f"{path}: has {len(lines)} lines, HellaSwag has {HELLASWAG_LINES} for every task"
        )
    starts = range(0, len(lines), HELLASWAG_LINES)
    return [_hellaswag_task(path, start, lines[start : start + 6]) for start in starts]


def _hellaswag_task(path: Path, start: int, lines: list[str]) -> ChoiceTask:
    context, right, *endings = lines
    if right.strip() not in ("0", "1", "2", "3"):
        raise DataError(f"{path}: line {start + 2} is {right!r}, expected the right ending, 0 to 3")
    return ChoiceTask(context, tuple(endings), frozenset({int(right)}))


def read_winogrande(path: Path) -> list[Blank]:
    """CSV lines: index, sentence with `_`, choice 1, choice 2, the right one (1 or 2).

    As in llama-perplexity a line without a line break behind it is no task, and -f has taken one
    away from the end: the last task counts only if two line breaks follow it.
    Raises DataError for lines that are none of this, and if there is no task.
    """
    tasks = [_blank(path, i, line) for i, line in enumerate(read_lines(path)[:-1])]
    if not tasks:
        raise DataError(f"{path}: no tasks")
    return tasks


def _blank(path: Path, number: int, line: str) -> Blank:
    commas = _commas(line)
    if len(commas) < LAST_COMMA:
        raise DataError(f"{path}: line {number + 1} has {len(commas)} commas, expected 4")
    cuts = [-1, *commas, len(line)]
    _, sentence, one, two, right = (line[a + 1 : b] for a, b in pairwise(cuts))
    if sentence.startswith('"'):
        sentence = sentence[1:-1]
    before, gap, after = sentence.partition("_")
    if not gap:
        raise DataError(f"{path}: line {number + 1} has no _ in its sentence")
    if right.strip() not in ("1", "2"):
        raise DataError(f"{path}: line {number + 1} ends with {right!r}, expected 1 or 2")
    return Blank(before, after, (one, two), int(right))


def _commas(line: str) -> list[int]:
    """Places of the first four commas outside of quotes."""
    commas: list[int] = []
    is_open = False
    for i, character in enumerate(line):
        if character == '"':
            is_open = not is_open
        elif character == "," and not is_open and len(commas) < LAST_COMMA:
            commas.append(i)
    return commas


def read_multiple_choice(path: Path, n_task: int | None = None) -> list[ChoiceTask]:
    """All tasks, or `n_task` of them as llama-perplexity draws them.

    uint32 count, uint32 offset of every task from the start of the file, then the tasks: question,
    answers of which one is right, answers of which several are (not used, as in llama-perplexity).
    Raises DataError if the file is damaged or a question or answer is empty.
    """
    data = read_bytes(path)
    try:
        (count,) = struct.unpack_from("<I", data)
        offsets = struct.unpack_from(f"<{count}I", data, 4)
        if not count:
            raise DataError(f"{path}: no tasks")
        if n_task is not None and n_task < count:
            return [_task_at(data, offsets[i])[0] for i in draw_scaled(count, n_task)]
        return list(_all_tasks(data, 4 + 4 * count, count))
    except (struct.error, UnicodeDecodeError, ValueError) as e:
        raise DataError(f"{path}: not a file of multiple-choice tasks, or damaged: {e}") from e


def _all_tasks(data: bytes, at: int, count: int) -> Iterator[ChoiceTask]:
    for _ in range(count):
        task, at = _task_at(data, at)
        yield task


def _task_at(data: bytes, at: int) -> tuple[ChoiceTask, int]:
    """A task and where the next one starts. Raises ValueError or struct.error."""
    question, at = _string(data, at)
    answers, labels, at = _answers(data, at)
    _, _, end = _answers(data, at)
    if not question or not answers or not all(answers):
        raise ValueError(f"the task before byte {end} has an empty question or answer")
    right = frozenset(i for i, label in enumerate(labels) if label == 1)
    return ChoiceTask(question, answers, right), end


def _answers(data: bytes, at: int) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    (n,) = struct.unpack_from("<I", data, at)
    if n > MAX_ANSWERS:
        raise ValueError(f"{n} answers at byte {at}, at most {MAX_ANSWERS} are allowed")
    at, answers = at + 4, []
    for _ in range(n):
        text, at = _string(data, at)
        answers.append(text)
    return tuple(answers), struct.unpack_from(f"<{n}i", data, at), at + 4 * n


def _string(data: bytes, at: int) -> tuple[str, int]:
    (n,) = struct.unpack_from("<I", data, at)
    (text,) = struct.unpack_from(f"<{n}s", data, at + 4)
    return text.decode("utf-8"), at + 4 + n
