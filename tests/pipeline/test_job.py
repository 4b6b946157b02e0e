"""One job for all that is written: what is done for it, in which order, and what is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ggprune.files.outputs import PendingFile
from ggprune.model.model import Model
from ggprune.pipeline import job
from ggprune.pipeline.job import Job, planned, write, write_into
from ggprune.progress import Progress
from ggprune.quantize.options import QuantizeOptions
from ggprune.surgery.plan import make_plan
from tests.conftest import TINY


class Diary(Progress):
    """Keeps what it is told, by part."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[int, int]]] = {}
        self.steps: list[tuple[int, int]] = []

    def part(self, label: str) -> Progress:
        diary = Diary()
        self.parts[label] = diary.steps
        return diary

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))


def test_copies_are_counted_in_bytes(tmp_path: Path, tiny: Model) -> None:
    plan, diary = make_plan(tiny, (2,)), Diary()
    write(Job(model=tiny, plan=plan, out=tmp_path / "out.gguf", check_load=False), diary)
    (steps,) = diary.parts.values()
    kept = [t.size_bytes for t in tiny.tensors if t not in tiny.layers[2]]
    assert list(diary.parts) == ["copy"]
    assert [done for done, _ in steps] == [sum(kept[: i + 1]) for i in range(len(kept))]
    assert {total for _, total in steps} == {sum(kept)}


def test_what_is_written_aside_is_not_published(tmp_path: Path, tiny: Model) -> None:
    made = Job(model=tiny, plan=make_plan(tiny, (2, 7)), out=tmp_path / "out.gguf",
               check_load=False)  # fmt: skip
    with PendingFile(made.out) as pending:
        write_into(made, pending)
        aside = pending.path.read_bytes()
    assert list(tmp_path.iterdir()) == []
    write(made)
    assert made.out.read_bytes() == aside


@pytest.mark.parametrize("drop", [None, ()])
def test_a_whole_model_is_quantized_without_a_copy(
    tmp_path: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch, drop: tuple[int, ...] | None
) -> None:
    """An empty plan is no plan: the quantizer reads the source itself."""
    whole = Job(model=tiny, out=tmp_path / "whole.gguf", quantize=QuantizeOptions("Q8_0"),
                check_load=False)  # fmt: skip
    write(whole)
    monkeypatch.delattr(job, "write_proved")
    plan, diary = None if drop is None else make_plan(tiny, drop), Diary()
    again = replace(whole, plan=plan, out=tmp_path / "again.gguf")
    assert replace(planned(whole), paths=()) == replace(planned(again), paths=())
    write(again, diary)
    assert list(diary.parts) == ["quantize to Q8_0"]
    assert again.out.read_bytes() == whole.out.read_bytes()


def test_without_a_plan_the_file_is_copied(tmp_path: Path, tiny: Model) -> None:
    out = tmp_path / "out.gguf"
    assert write(Job(model=tiny, out=out, check_load=False)).size_bytes == TINY.stat().st_size
    assert out.read_bytes() == TINY.read_bytes()
