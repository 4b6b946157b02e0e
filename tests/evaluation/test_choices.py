from __future__ import annotations

import random
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError
from ggprune.evaluation.choices import ChoiceKind, read_questions, score_choices, wilson
from ggprune.evaluation.task_files import (
    draw_scaled,
    draw_uniform,
    read_hellaswag,
    read_multiple_choice,
    read_winogrande,
)
from ggprune.files.reading import TextErrors
from ggprune.runtime.compute import Compute
from tests.conftest import FIXTURES, TINY

TASKS = FIXTURES / "tasks"
FILES = {
    ChoiceKind.HELLASWAG: TASKS / "hellaswag.txt",
    ChoiceKind.WINOGRANDE: TASKS / "winogrande.csv",
    ChoiceKind.MULTIPLE_CHOICE: TASKS / "multiple-choice.bin",
}
ONE = Compute(n_threads=1)
# What llama-perplexity prints for fixtures/tiny.gguf: (tasks asked for, %)
LLAMA_PERPLEXITY = [
    (ChoiceKind.HELLASWAG, None, 45.0),
    (ChoiceKind.HELLASWAG, 37, 40.54054054),
    (ChoiceKind.WINOGRANDE, None, 45.8333),
    (ChoiceKind.WINOGRANDE, 50, 40.0),
    (ChoiceKind.MULTIPLE_CHOICE, None, 52.5),
    (ChoiceKind.MULTIPLE_CHOICE, 41, 53.65853659),
]


@pytest.mark.parametrize(("benchmark", "n_task", "right"), LLAMA_PERPLEXITY)
def test_accuracies_are_llama_perplexitys(
    benchmark: ChoiceKind, n_task: int | None, right: float
) -> None:
    questions = read_questions(benchmark, FILES[benchmark], n_task)
    (score,) = score_choices([TINY], questions, compute=ONE)
    one_task = 1 / score.accuracy.n  # another processor may break a tie the other way
    assert score.accuracy.value == pytest.approx(right / 100, abs=1.01 * one_task)
    assert len(score.answers) == score.accuracy.n == sum(1 for _ in score.is_right)


def test_the_files_are_what_their_maker_makes() -> None:
    make = runpy.run_path(str(TASKS / "make.py"))
    rng = [random.Random(make["SEED"] + i) for i in range(3)]
    assert make["hellaswag"](rng[0], 100).encode() == FILES[ChoiceKind.HELLASWAG].read_bytes()
    assert make["winogrande"](rng[1], 120).encode() == FILES[ChoiceKind.WINOGRANDE].read_bytes()
    assert make["multiple_choice"](rng[2], 120) == FILES[ChoiceKind.MULTIPLE_CHOICE].read_bytes()


def test_wilson_interval_as_printed() -> None:
    assert wilson(0.45, 100) == pytest.approx((0.356145, 0.547554), abs=1e-6)
    assert wilson(15 / 37, 37) == pytest.approx((0.263465, 0.565140), abs=1e-6)


def test_tasks_are_drawn_as_there() -> None:
    """The first numbers of std::mt19937 with seed 1 are 1791095845 and 4282876139."""
    assert draw_uniform(100, 1) == [1791095845 * 100 >> 32]
    assert draw_scaled(100, 2) == [41, int(4282876139 / 2**32 * 99)]
    assert sorted(draw_uniform(50, 400)) == list(range(50))
    assert sorted(draw_scaled(50, 50)) == list(range(50))


def test_the_answers_are_those_of_each_sequence_alone() -> None:
    """Together in a context with shared prefixes, or one task at a time: the same."""
    kind = ChoiceKind.MULTIPLE_CHOICE
    questions = read_questions(kind, FILES[kind], 20)
    (together,) = score_choices([TINY], questions, compute=ONE)
    (apart,) = score_choices([TINY], questions, n_ctx=16, compute=ONE)
    assert np.mean(np.array(together.answers) == np.array(apart.answers)) >= 0.95


def test_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tasks"
    cases = [
        (read_hellaswag, b"one\ntwo\n", "6 for every task"),
        (read_hellaswag, b"ctx\n7\na\nb\nc\nd\n", "line 2 is '7'"),
        (read_winogrande, b"0,Ann saw _,a,b,1\n", "no tasks"),
        (read_winogrande, b"0,Ann saw _,a\n\n", "has 2 commas"),
        (read_winogrande, b"0,Ann saw it,a,b,1\n\n", "no _"),
        (read_winogrande, b"0,Ann saw _,a,b,3\n\n", "expected 1 or 2"),
        (read_multiple_choice, b"", "not a file of multiple-choice tasks"),
        (read_multiple_choice, struct.pack("<3I", 1, 8, 1 << 30), "not a file of multiple-choice"),
        (read_multiple_choice, struct.pack("<I", 0), "no tasks"),
        (read_multiple_choice, TINY.read_bytes()[:4096], "not a file of multiple-choice"),
    ]
    for read, content, message in cases:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read(path)


def test_a_quoted_sentence_may_have_commas(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text('0,"Ann, who saw _, left.",Ben,Max,2\n\n')
    (task,) = read_winogrande(path)
    assert (task.before, task.after) == ("Ann, who saw ", ", left.")
    assert (task.choices, task.right) == (("Ben", "Max"), frozenset({1}))


def test_a_task_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tasks.txt"
    path.write_text("\n".join(["word " * 200, "0", "a", "b", "c", "d"]))
    with pytest.raises(DataError, match="use a larger -c"):
        score_choices([TINY], read_questions(ChoiceKind.HELLASWAG, path), n_ctx=32)


def test_lines_that_end_as_on_windows_are_the_same_tasks(tmp_path: Path) -> None:
    for kind in (ChoiceKind.HELLASWAG, ChoiceKind.WINOGRANDE):
        path, content = tmp_path / "tasks", FILES[kind].read_bytes()
        assert b"\r" not in content
        path.write_bytes(content.replace(b"\n", b"\r\n"))
        assert read_questions(kind, path).tasks == read_questions(kind, FILES[kind]).tasks


def test_bytes_that_are_no_utf_8_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "tasks"
    path.write_bytes(b"caf\xe9\n0\na\nb\nc\nd\n")
    with pytest.raises(DataError, match=r"byte 3 is 0xe9 \(line 1\); --errors replace"):
        read_hellaswag(path)
    (task,) = read_hellaswag(path, errors=TextErrors.REPLACE)
    assert task.context == "caf\ufffd"
