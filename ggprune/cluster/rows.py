"""A row source that has others compute: a race asks as ever, and never learns who answered.

Rows are given out in the order in which they are asked for; meanwhile later chunks are computed for
the same cuts, and what is no longer expected is dropped. So decisions are those of one process,
whatever the number of workers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from ggprune.cluster.crew import Crew
from ggprune.cluster.engine import Parts
from ggprune.cluster.inorder import Trials
from ggprune.cluster.kinds import Kinds
from ggprune.cluster.members import Event, Member, Sent
from ggprune.cluster.policy import Open, Policy
from ggprune.cluster.work import ChunkAnswer, ChunkTask
from ggprune.metrics.chunks import Chunks
from ggprune.model.cut import Cut
from ggprune.runtime.workers import KindInfo, WorkerInfo
from ggprune.scoring.rows import NOTHING, BaseRows, Effort, Rows

N_HELD = 64  # chunks a worker is believed to keep, at most
Missing = Callable[[int, Sequence[Cut]], Sequence[Cut]]  # of cuts, what is not known of a chunk


@dataclass(kw_only=True)
class _Work(Trials):
    """A cut on a chunk that somebody is to compute."""

    within: Cut
    is_suspect: bool = False  # it, or one that it went with, ended a worker or raised an error


class SpreadRows:
    """As `RowSource`, with a crew of workers."""

    def __init__(self, crew: Crew, chunks: Chunks, policy: Policy | None = None) -> None:
        """Raises DataError if there is no worker."""
        self.crew, self.chunks, self.policy = crew, chunks, policy or Policy()
        self.missing: Missing = lambda _, cuts: cuts
        said = crew.gather().said
        assert isinstance(said, Parts)
        self.parts, self.divided = said.parts, said.divided
        self._effort, self._n_wasted = Effort(), 0
        self._asked = 0  # the chunk the race is at
        self._n_ahead = 0
        self._open: dict[int, dict[Cut, _Work]] = {}
        self._sent: dict[tuple[int, Cut], Sent] = {}
        self._rows: dict[tuple[int, Cut], Rows] = {}
        self._bases: dict[int, BaseRows] = {}
        self._errors: dict[tuple[int, Cut], Exception] = {}
        self._expected: dict[Cut, int] = {}
        self._held: dict[str, OrderedDict[int, None]] = {}  # by worker: chunks it has
        self.by_kind = Kinds(crew)
        self._chunks_of: dict[int, set[int]] = {}  # by worker's info

    @property
    def n_chunk(self) -> int:
        return len(self.chunks)

    @property
    def effort(self) -> Effort:
        unasked = sum(cut != NOTHING for _, cut in self._rows)
        return replace(self._effort, n_wasted=self._n_wasted + unasked)

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        return self.crew.infos()

    @property
    def kinds(self) -> tuple[KindInfo, ...]:
        return self.by_kind.infos()

    def expect(
        self, first: Mapping[Cut, int], within: Cut = NOTHING, *, is_sure: bool = False
    ) -> None:
        """Begin what is asked for soon, drop what is not expected any more."""
        self._expected = dict(first)
        self._asked = max(first.values(), default=0)
        self._drop_others()
        n_left = self.n_chunk - 1 - self._asked
        self._n_ahead = self.policy.n_ahead_of(self._n_slot, len(first), n_left, is_sure=is_sure)
        for number in range(min(first.values(), default=0), self._asked + 1 + self._n_ahead):
            cuts = [cut for cut, start in first.items() if start <= number]
            self._want(number, self.missing(number, cuts), within)
        self._dispatch()

    def base(self, number: int) -> BaseRows:
        def is_there() -> bool:
            if number in self._bases:
                return True
            if not (self._open.get(number) or self._is_base_coming(number)):
                self._want(number, [NOTHING], NOTHING)  # else it comes with what is asked for
            return False

        self._wait(is_there, (number, NOTHING))
        return self._bases[number]

    def rows(self, number: int, cuts: Sequence[Cut], within: Cut = NOTHING) -> Iterator[Rows]:
        self._asked = max(self._asked, number)
        self._want(number, cuts, within)
        self._dispatch()
        return (self._taken(number, cut, within) for cut in cuts)

    def _taken(self, number: int, cut: Cut, within: Cut) -> Rows:
        place = (number, cut)
        self._want(number, [cut], within)  # once more, where it was asked for twice
        self._wait(lambda: place in self._rows, place)
        return self._rows.pop(place)

    def _want(self, number: int, cuts: Sequence[Cut], within: Cut) -> None:
        for cut in cuts:
            place = (number, cut)
            known = (self._rows, self._sent, self._errors)
            if not any(place in each for each in known):
                self._open.setdefault(number, {}).setdefault(cut, _Work(within=within))

    def _drop_others(self) -> None:
        """What was begun ahead for cuts that lost meanwhile."""
        for number, works in list(self._open.items()):
            self._open[number] = {c: w for c, w in works.items() if self._is_wanted(number, c)}
            if not self._open[number]:
                del self._open[number]
        for sent in {id(sent): sent for sent in self._sent.values()}.values():
            task = cast(ChunkTask, sent.task)
            cuts = task.cuts or (NOTHING,)
            if not any(self._is_wanted(task.number, cut) for cut in cuts):
                self.crew.cancel(sent)
                for cut in cuts:
                    self._sent.pop((task.number, cut), None)
        for number, cut in [place for place in self._rows if not self._is_wanted(*place)]:
            del self._rows[number, cut]
            self._n_wasted += 1

    def _is_wanted(self, number: int, cut: Cut) -> bool:
        if cut == NOTHING and number not in self._bases:
            return True
        return cut in self._expected and self._expected[cut] <= number

    def _wait(self, is_there: Callable[[], bool], place: tuple[int, Cut]) -> None:
        """Raises what computing it raised."""

        def is_over() -> bool:
            self._check_kind(place[0])
            over = is_there() or place in self._errors
            if not over:
                self._dispatch()
            return over

        for event in self.crew.events_until(is_over):
            if event.sent is not None:
                self._take(event, event.sent)
            self._dispatch()
        if not is_there():
            raise self._errors[place]

    def _check_kind(self, number: int) -> None:
        """Where those that began a chunk are gone before its base was known, others begin anew."""
        before = self.by_kind.of(number)
        begun = number in self._bases or self._is_under_way(number)
        self.by_kind.check(number, is_begun=begun)
        if before is None or self.by_kind.of(number) is not None:
            return
        for place in [place for place in self._rows if place[0] == number]:
            del self._rows[place]
            self._want(number, [place[1]], NOTHING)
            self._n_wasted += 1

    @property
    def _n_slot(self) -> int:
        return sum(member.n_slot for member in self.crew.members.values())

    def _dispatch(self) -> None:
        """Give everybody something to do, and one task more to begin with when that is done."""
        members = list(self.crew.members.values())
        for depth in range(1, 1 + max((m.n_slot for m in members), default=0) + 1):
            for member in members:
                if len(member.sent) < min(depth, member.n_slot + 1):
                    self._give(member, is_idle=not member.sent)

    def _give(self, member: Member, *, is_idle: bool) -> None:
        given = (cast("dict[Cut, _Work]", sent.tag) for sent in member.sent.values())
        if any(work.is_suspect for works in given for work in works.values()):
            return  # it has a suspect, alone
        chunks = {
            n: Open(len(self._open[n]), self._n_sharing(n, member), n <= self._asked)
            for n in sorted(self._open)
            if self._open[n] and self.by_kind.of(n) in (None, member.info.bits)
        }
        n_share = self.policy.n_share(self._n_slot, self._n_ahead)
        held = self._held.setdefault(member.address, OrderedDict())
        number = self.policy.pick(chunks, held, n_share, is_idle=is_idle)
        if number is None:
            return
        works = self._open[number]
        first = next(iter(works))
        suspect = next((cut for cut, work in works.items() if work.is_suspect), None)
        if suspect is not None:  # alone, so that it is known whose fault it is
            if member.sent:
                return
            known = number in self._bases or (number, NOTHING) in self._errors
            if not known and not self._is_base_coming(number):  # perhaps the whole model's
                works.setdefault(NOTHING, _Work(within=NOTHING, is_suspect=True))
                suspect = NOTHING
            cuts, within = [suspect], works[suspect].within
        elif first == NOTHING:
            cuts, within = [first], works[first].within
        else:
            within = works[first].within
            like = [cut for cut, w in works.items() if w.within == within and cut != NOTHING]
            cuts = like[: self.policy.n_take(len(works), n_share, self._n_slot)]
        self._begin(member, number, cuts, within)

    def _begin(self, member: Member, number: int, cuts: Sequence[Cut], within: Cut) -> None:
        taken = {cut: self._open[number].pop(cut) for cut in cuts}
        if not self._open[number]:
            del self._open[number]
        task = ChunkTask(
            number=number, tokens=self.chunks[number].tokens.tobytes(),
            cuts=tuple(cut for cut in cuts if cut != NOTHING), within=within,
            with_base=number not in self._bases and not self._is_base_coming(number),
        )  # fmt: skip
        sent = self.crew.send(member, task, taken)
        self.by_kind.settle(number, member.info.bits)
        held = self._held[member.address]
        held[number] = None
        held.move_to_end(number)
        while len(held) > N_HELD:
            held.popitem(last=False)
        self._sent |= {(number, cut): sent for cut in cuts}

    def _is_under_way(self, number: int) -> bool:
        return any(n == number for n, _ in self._sent)

    def _is_base_coming(self, number: int) -> bool:
        sent = (cast(ChunkTask, each.task) for each in self._sent.values())
        return any(task.number == number and task.with_base for task in sent)

    def _n_sharing(self, number: int, but: Member) -> int:
        return sum(
            any(cast(ChunkTask, s.task).number == number for s in member.sent.values())
            for member in self.crew.members.values()
            if member is not but
        )

    def _take(self, event: Event, sent: Sent) -> None:
        task, works = cast(ChunkTask, sent.task), cast("dict[Cut, _Work]", sent.tag)
        for cut in works:
            self._sent.pop((task.number, cut), None)
        if event.answer is not None and event.answer.bits == self.by_kind.of(task.number):
            self._keep(task, cast(ChunkAnswer, event.answer.value), sent.member.info)
        elif event.error is not None:
            self._failed(task, works, event.error)
        else:
            self._gave_back(task, works, event)

    def _keep(self, task: ChunkTask, answer: ChunkAnswer, info: WorkerInfo) -> None:
        number = task.number
        self._effort.add(answer.effort)
        info.n_pass += answer.effort.n_pass
        self._chunks_of.setdefault(id(info), set()).add(number)
        info.n_chunk = len(self._chunks_of[id(info)])
        if answer.base is not None:
            self._bases.setdefault(number, answer.base)
        for cut, rows in zip(task.cuts, answer.rows, strict=True):
            if self._is_wanted(number, cut) or number <= self._asked:
                self._rows[number, cut] = rows
            else:
                self._n_wasted += 1

    def _failed(self, task: ChunkTask, works: dict[Cut, _Work], error: Exception) -> None:
        """Of several cuts, one is to blame: each is tried alone, and tells when it is asked for."""
        if len(works) == 1:
            self._errors[task.number, next(iter(works))] = error
        else:
            for work in works.values():
                work.is_suspect = True
            self._open.setdefault(task.number, {}).update(works)

    def _gave_back(self, task: ChunkTask, works: dict[Cut, _Work], event: Event) -> None:
        """Its worker is gone, perhaps because of it."""
        for cut, work in works.items():
            what = f"chunk {task.number}" + (f" without layers {cut.brief}" if cut else "")
            error = work.error_of(event, what, is_alone=len(works) == 1)
            work.is_suspect |= work.n_abort > 0
            if error is not None:
                self._errors[task.number, cut] = error
        works = {cut: w for cut, w in works.items() if (task.number, cut) not in self._errors}
        self._open.setdefault(task.number, {}).update(works)
