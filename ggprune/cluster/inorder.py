"""Independent tasks whose answers are wanted in their order, whoever computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ggprune.cluster.crew import Crew
from ggprune.cluster.members import Event
from ggprune.errors import LlamaAbortError
from ggprune.runtime.workers import WorkerInfo

MAX_LOST = 8  # workers that may leave over the same task without a word


@dataclass
class Trials:
    """What became of the workers that had a piece of work."""

    n_abort: int = 0  # that it ended
    n_lost: int = 0  # that left meanwhile

    def error_of(self, event: Event, what: str, *, is_alone: bool = True) -> Exception | None:
        """Count a worker that is gone; an error once it has been tried on one more, or on many."""
        words = event.last_words
        if words is not None and words.is_abort:
            self.n_abort += 1
            if self.n_abort > 1 and is_alone:
                return LlamaAbortError(f"{what}: {words.said}")
            return None
        self.n_lost += 1
        if self.n_lost < MAX_LOST:
            return None
        return LlamaAbortError(f"{what}: {self.n_lost} workers ended over it without a word")


def in_order(
    crew: Crew, tasks: Sequence[object], told: Callable[[int], str]
) -> Iterator[tuple[object, WorkerInfo]]:
    """Answers, each as soon as it and all before it are known, and who gave it.

    `told` names a task for an error. Raises what computing it raised.
    """
    todo, done = list(range(len(tasks))), dict[int, tuple[object, WorkerInfo]]()
    trials = [Trials() for _ in tasks]

    def give() -> None:
        for depth in range(1, 2 + max((m.n_slot for m in crew.members.values()), default=0)):
            for member in list(crew.members.values()):
                if todo and len(member.sent) < min(depth, member.n_slot + 1):
                    number = todo.pop(0)
                    crew.send(member, tasks[number], number)

    for wanted in range(len(tasks)):
        give()
        for event in crew.events_until(lambda wanted=wanted: wanted in done):  # type: ignore[misc]
            number = event.sent.tag if event.sent is not None else None
            if event.sent is None or not isinstance(number, int):
                pass
            elif event.answer is not None:
                done[number] = (event.answer.value, event.sent.member.info)
            else:
                error = event.error or trials[number].error_of(event, told(number))
                if error is not None:
                    raise error
                todo.insert(0, number)
            give()
        yield done.pop(wanted)
