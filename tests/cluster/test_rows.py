"""Rows that others compute: nothing hangs, and nothing is mixed, whoever dies or joins.

The workers here are none: what comes of a task, and when, is drawn. A crew with nothing under way
would wait for ever, which is what fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from ggprune.cluster.crew import Crew
from ggprune.cluster.engine import Parts
from ggprune.cluster.members import CrewRules, Event, Member, Sent
from ggprune.cluster.roll import Listed, Obituary
from ggprune.cluster.rows import SpreadRows
from ggprune.cluster.work import Answer, ChunkAnswer, ChunkTask
from ggprune.errors import DataError, LlamaAbortError, NonFiniteError
from ggprune.metrics.chunks import Chunks
from ggprune.model.cut import Cut
from ggprune.runtime.workers import WorkerInfo
from ggprune.scoring.race import Race, RaceRules, ranked
from ggprune.scoring.rows import BaseRows, Effort, Rows

N_CHUNK, N_LAYER, N_TOKEN = 6, 8, 4
CUTS = [Cut.of((n,)) for n in range(N_LAYER)]
ABORTED = Obituary(address="", exit_code=-6, said="GGML_ASSERT(no)")


def values(number: int, cut: Cut, bits: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What a kind of worker says."""
    layer = cut.layers[0] if cut else -1
    rng = np.random.default_rng([number, layer + 1])
    return rng.random(N_TOKEN) + layer + (100.0 if bits == "b" else 0.0)


def rows_of(number: int, cut: Cut, bits: str) -> Rows:
    kld = values(number, cut, bits)
    return Rows(kld, kld, kld, kld > 1)


def base_of(number: int, bits: str) -> BaseRows:
    nll = values(number, Cut(), bits)
    return BaseRows(nll, nll, nll, nll)


@dataclass
class FakeCrew:
    """As a `Crew`. `fate` says what becomes of a task: None is an answer."""

    fate: Callable[[Member, ChunkTask], str | Exception | None] = lambda *_: None
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    rules: CrewRules = field(default_factory=lambda: CrewRules(wait_s=0.2))
    members: dict[str, Member] = field(default_factory=dict)
    all_infos: list[WorkerInfo] = field(default_factory=list)
    n_made: int = 0
    asked: list[tuple[str, int, tuple[Cut, ...]]] = field(default_factory=list)
    after: Callable[[FakeCrew], object] = lambda _: None  # every event
    n_busy: list[int] = field(default_factory=list)

    def join(self, bits: str = "a", n_slot: int = 1) -> Member:
        address = f"tcp://{self.n_made}"
        self.n_made += 1
        info = WorkerInfo(host="h", device="d", backend="CPU", build="c", bits=bits)
        listed = Listed(address=address, host="h", n_thread=1, memory_limit=0, unseen_s=0.0,
                        contexts=1)  # fmt: skip
        said = Parts({n: n for n in range(N_LAYER)}, frozenset())
        self.members[address] = Member(address, listed, info, said, n_slot)
        self.all_infos.append(info)
        return self.members[address]

    def gather(self) -> Member:
        return next(iter(self.members.values()))

    def infos(self) -> tuple[WorkerInfo, ...]:
        return tuple(self.all_infos)

    def send(self, member: Member, task: ChunkTask, tag: object) -> Sent:
        sent = Sent(f"{len(self.asked)}", member, task, cast(Any, None), tag)
        member.sent[sent.key] = sent
        self.asked.append((member.info.bits, task.number, task.cuts))
        return sent

    def cancel(self, sent: Sent) -> None:
        sent.member.sent.pop(sent.key, None)

    def leave(self, member: Member, words: Obituary | None = None) -> Iterator[Event]:
        self.members.pop(member.address, None)
        for sent in list(member.sent.values()):
            yield Event(sent, last_words=words)

    def events_until(self, is_over: Callable[[], bool]) -> Iterator[Event]:
        n_idle = 0
        while not is_over():
            busy = [member for member in self.members.values() if member.sent]
            self.n_busy.append(len(busy))
            if not busy:
                n_idle += 1
                assert n_idle < 50, "nobody does anything: this would hang"
                if self.rules.wait_s < 1:  # somebody may be waited for
                    import time

                    time.sleep(0.01)
                continue
            n_idle = 0
            member = self.draw.choice(busy)
            sent = next(iter(member.sent.values()))  # in their order
            task = cast(ChunkTask, sent.task)
            became = self.fate(member, task)
            if became == "abort":
                yield from self.leave(member, ABORTED)
            elif became == "leave":
                yield from self.leave(member)
            else:
                del member.sent[sent.key]
                if isinstance(became, Exception):
                    yield Event(sent, error=became)
                else:
                    yield Event(sent, answer=Answer(answer(task, member.info.bits),
                                                    member.info.bits))  # fmt: skip
            self.after(self)


def answer(task: ChunkTask, bits: str) -> ChunkAnswer:
    rows = tuple(rows_of(task.number, cut, bits) for cut in task.cuts)
    base = base_of(task.number, bits) if task.with_base else None
    return ChunkAnswer(rows=rows, base=base, effort=Effort(n_pass=len(rows) + task.with_base))


def spread(crew: FakeCrew) -> SpreadRows:
    chunks = Chunks(np.zeros((N_CHUNK, 8), np.int32))
    return SpreadRows(cast(Crew, crew), chunks)


def race(source: SpreadRows, n_lowest: int | None = None) -> dict[Cut, list[Any]]:
    """Base first, as a ranking asks."""
    found = Race(source, CUTS, RaceRules(n_lowest=n_lowest))
    for number in found.laps():
        assert len(source.base(number).nll) == N_TOKEN
        found.lap(number)
    return found.seen


@pytest.mark.parametrize("seed", range(60))
def test_whoever_dies_or_joins(seed: int) -> None:
    """Races and exhaustive rankings say what the numbers say."""
    draw = random.Random(seed)

    def fate(member: Member, task: ChunkTask) -> str | None:
        return "leave" if draw.random() < 0.15 and crew.n_made < 40 else None

    def after(crew: FakeCrew) -> None:
        if not crew.members or draw.random() < 0.1:
            crew.join(n_slot=draw.choice([1, 1, 2]))

    crew = FakeCrew(fate, draw, after=after)
    for _ in range(draw.randint(1, 4)):
        crew.join()
    source = spread(crew)
    seen = race(source)
    for cut, chunks in seen.items():
        assert len(chunks) == N_CHUNK
        for number, kld in enumerate(chunks):
            assert np.array_equal(kld, values(number, cut, "a"))
    assert ranked(race(source, n_lowest=3))[:3] == CUTS[:3]


@pytest.mark.parametrize("seed", range(40))
def test_no_chunk_of_two_kinds(seed: int) -> None:
    """Also where all of a kind leave before a chunk's base was known."""
    draw = random.Random(seed)

    def fate(member: Member, task: ChunkTask) -> str | None:
        is_other = any(m.info.bits != member.info.bits for m in crew.members.values())
        alone = sum(m.info.bits == member.info.bits for m in crew.members.values()) == 1
        if alone and not is_other:
            return None
        return "leave" if draw.random() < 0.1 else None

    crew = FakeCrew(fate, draw, CrewRules(mixed=True, wait_s=0.2))
    for bits in ("a", "a", "b", "b"):
        crew.join(bits)
    source = spread(crew)
    try:
        seen = race(source)
    except DataError as e:  # a chunk was begun by a kind of which nobody is left
        assert "begun by workers that compute other bits" in str(e)
        return
    for number in range(N_CHUNK):
        bits = "b" if float(source.base(number).nll[0]) > 50 else "a"
        for cut in CUTS:
            assert np.array_equal(seen[cut][number], values(number, cut, bits))


def test_a_model_that_is_not_finite_on_a_chunk_begun_ahead() -> None:
    def fate(member: Member, task: ChunkTask) -> Exception | None:
        return NonFiniteError("not finite") if task.number == 1 else None

    crew = FakeCrew(fate)
    crew.join()
    with pytest.raises(NonFiniteError, match="not finite"):
        race(spread(crew))


def test_a_model_that_aborts_is_tried_twice_not_once_for_each_cut() -> None:
    def fate(member: Member, task: ChunkTask) -> str | None:
        return "abort" if task.number == 1 else None

    crew = FakeCrew(fate, after=lambda crew: crew.members or crew.join())
    crew.join()
    with pytest.raises(LlamaAbortError, match=r"^chunk 1: GGML_ASSERT\(no\)$"):
        race(spread(crew))
    assert crew.n_made <= 4


@pytest.mark.parametrize("n_slot", [1, 2])
def test_the_cut_that_aborts_is_the_one_that_is_named(n_slot: int) -> None:
    def fate(member: Member, task: ChunkTask) -> str | None:
        sent = (cast(ChunkTask, each.task) for each in member.sent.values())
        return "abort" if any(each.number == 2 and CUTS[5] in each.cuts for each in sent) else None

    crew = FakeCrew(fate, after=lambda crew: crew.members or crew.join(n_slot=n_slot))
    crew.join(n_slot=n_slot)
    crew.join(n_slot=n_slot)
    with pytest.raises(LlamaAbortError, match=r"^chunk 2 without layers 5: GGML_ASSERT\(no\)$"):
        race(spread(crew))


def test_workers_that_leave_over_the_same_cut_without_a_word() -> None:
    def fate(member: Member, task: ChunkTask) -> str | None:
        return "leave" if CUTS[3] in task.cuts else None

    crew = FakeCrew(fate, after=lambda crew: crew.members or crew.join())
    crew.join()
    with pytest.raises(LlamaAbortError, match="8 workers ended over it without a word"):
        race(spread(crew))


def test_all_have_work_until_the_end() -> None:
    """Measuring one set on all chunks, chunk by chunk: later ones are begun all the time."""
    crew = FakeCrew()
    for _ in range(3):
        crew.join()
    source = spread(crew)
    for number in range(N_CHUNK):
        source.expect({CUTS[0]: number}, is_sure=True)
        list(source.rows(number, CUTS[:1]))
    assert min(crew.n_busy[:2]) == 3
    assert {number for _, number, _ in crew.asked} == set(range(N_CHUNK))


def test_what_is_asked_for_twice_is_given_twice() -> None:
    crew = FakeCrew()
    crew.join()
    rows = list(spread(crew).rows(0, [CUTS[0], CUTS[0]]))
    assert np.array_equal(rows[0].kld, rows[1].kld)
