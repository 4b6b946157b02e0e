"""The files of choice tasks that llama-perplexity reads: HellaSwag, Winogrande, multiple choice.

Text in, questions with their answers out; which ones are drawn, and in which order, is as there: by
std::mt19937 with seed 1 and what libstdc++ makes of it. Nothing is tokenized or scored here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from ggprune.errors import DataError
from ggprune.files.reading import TextErrors, read_bytes, read_lines

HELLASWAG_LINES = 6  # context, number of the right ending, four endings
HELLASWAG_TASKS = 400  # llama-perplexity's default
MAX_ANSWERS = 100


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
    right: frozenset[int]  # the index of the right one


def read_hellaswag(
    path: Path, n_task: int | None = None, errors: TextErrors = TextErrors.STRICT
) -> list[ChoiceTask]:
    """Six lines a task; `n_task` or 400 of them. Raises DataError if a task is not complete."""
    lines, tasks = read_lines(path, errors), []
    if len(lines) % HELLASWAG_LINES:
        raise DataError(
            f"{path}: has {len(lines)} lines, HellaSwag has {HELLASWAG_LINES} for every task"
        )
    for start in range(0, len(lines), HELLASWAG_LINES):
        context, right, *endings = lines[start : start + HELLASWAG_LINES]
        if right.strip() not in ("0", "1", "2", "3"):
            where = f"{path}: line {start + 2}"
            raise DataError(f"{where} is {right!r}, expected the right ending, 0 to 3")
        tasks.append(ChoiceTask(context, tuple(endings), frozenset({int(right)})))
    order = draw_uniform(len(tasks), HELLASWAG_TASKS if n_task is None else n_task)
    return [tasks[i] for i in order]


def read_winogrande(
    path: Path, n_task: int | None = None, errors: TextErrors = TextErrors.STRICT
) -> list[Blank]:
    """CSV lines: index, sentence with `_`, choice 1, choice 2, the right one (1 or 2).

    As in llama-perplexity a line without a line break behind it is no task, and -f has taken one
    away from the end: the last task counts only if two line breaks follow it.
    Raises DataError for lines that are none of this, and if there is no task.
    """
    tasks = [_blank(path, i, line) for i, line in enumerate(read_lines(path, errors)[:-1])]
    if not tasks:
        raise DataError(f"{path}: no tasks")
    if n_task is None or n_task >= len(tasks):
        return tasks
    return [tasks[i] for i in draw_scaled(len(tasks), n_task)]


def _blank(path: Path, number: int, line: str) -> Blank:
    where = f"{path}: line {number + 1}"
    n_quote = accumulate(character == '"' for character in line)
    outside = [i for i, n in enumerate(n_quote) if n % 2 == 0]
    commas = [i for i in outside if line[i] == ","][:4]
    if len(commas) < 4:
        raise DataError(f"{where} has {len(commas)} commas, expected 4")
    cuts = [-1, *commas, len(line)]
    _, sentence, one, two, right = (line[a + 1 : b] for a, b in pairwise(cuts))
    if sentence.startswith('"'):
        sentence = sentence[1:-1]
    before, gap, after = sentence.partition("_")
    if not gap:
        raise DataError(f"{where} has no _ in its sentence")
    if right.strip() not in ("1", "2"):
        raise DataError(f"{where} ends with {right!r}, expected 1 or 2")
    return Blank(before, after, (one, two), frozenset({int(right) - 1}))


def read_multiple_choice(
    path: Path, n_task: int | None = None, errors: TextErrors = TextErrors.STRICT
) -> list[ChoiceTask]:
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
        tasks, at = [], 4 + 4 * count
        for _ in range(count):
            task, at = _task_at(data, at)
            tasks.append(task)
        return tasks
    except (struct.error, UnicodeDecodeError, ValueError) as e:
        raise DataError(f"{path}: not a file of multiple-choice tasks, or damaged: {e}") from e


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


def draw_uniform(n_task: int, n_drawn: int) -> list[int]:
    """Without replacement by std::uniform_int_distribution, as for HellaSwag: Lemire's method, as
    libstdc++ has had it since GCC 11."""
    numbers, left, drawn = _mt19937(), list(range(n_task)), []
    for n in range(n_task, max(n_task - n_drawn, 0), -1):
        product = next(numbers) * n
        while product % 2**32 < 2**32 % n:
            product = next(numbers) * n
        drawn.append(left.pop(product >> 32))
    return drawn


def draw_scaled(n_task: int, n_drawn: int) -> list[int]:
    """By scaling to a float, the last task moving into the gap: Winogrande, multiple choice."""
    numbers, left, drawn = _mt19937(), list(range(n_task)), []
    scale = np.float32(2.0**-32)
    for _ in range(n_drawn):
        place = int(scale * np.float32(next(numbers)) * np.float32(len(left)))
        place = min(place, len(left) - 1)  # the float may have been rounded up
        drawn.append(left[place])
        left[place] = left[-1]
        left.pop()
    return drawn


def _mt19937() -> Iterator[int]:
    state = np.random.RandomState(1)  # the seed there
    while True:
        yield int(state.randint(0, 2**32, dtype=np.uint64))
