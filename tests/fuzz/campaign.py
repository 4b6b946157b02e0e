"""All targets one after the other, each in a child; which is replaced when it dies."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.case import Escape
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import SEEDS, WALL_S, Tally, Task, work

MAX_DEATHS = 30
POLL_S = 0.5


@dataclass(frozen=True)
class Result:
    """A target's campaign."""

    target: str
    tally: Tally = field(default_factory=Tally)
    escapes: list[Escape] = field(default_factory=list)  # one of each kind
    n_escape: int = 0


def run_target(task: Task, out: Path) -> Result:
    """Until its time is over. Reproducers of what escapes are written to `out`."""
    tally, found, n_escape, n_death = Tally(), dict[tuple[str, str, str], Escape](), 0, 0
    start, n_run = time.monotonic(), 0
    next_task: Task | None = task
    while next_task is not None and n_death < MAX_DEATHS:
        current, next_task = next_task, None
        for said in _run_child(current):
            if isinstance(said, Tally):
                tally.passed += said.passed
                tally.refused += said.refused
                n_run += said.n_run
                continue
            n_escape += 1
            if said.key not in found:
                found[said.key] = said
                keep(said, out)
            if said.kind.startswith("dead"):
                n_death += 1
                number = said.seed % SEEDS + 1
                n_run += number - current.first
                left = None if task.n_most is None else task.n_most - (number - task.first)
                next_task = Task(**{**vars(task), "first": number, "n_most": left})
    tally.n_run, tally.time_s = n_run, time.monotonic() - start
    return Result(task.target, tally, list(found.values()), n_escape)


def _run_child(task: Task) -> Iterator[Escape | Tally]:
    """What the child says, and what is to be said of it if it dies."""
    context = multiprocessing.get_context("fork")
    place = context.Array("d", [task.first, time.monotonic()], lock=False)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(task, sender, place))
    child.start()
    sender.close()
    said: Escape | Tally | None = None
    try:
        while not isinstance(said, Tally):
            if receiver.poll(POLL_S):
                said = receiver.recv()
                yield said
            elif time.monotonic() - place[1] > 2 * WALL_S:
                child.kill()
    except EOFError:
        child.join()
        seed = task.seed * SEEDS + int(place[0])
        kind = f"dead: exit code {child.exitcode}"
        yield Escape(task.target, "", kind, "", seed, "the process ended")
    finally:
        child.join()


def keep(escape: Escape, out: Path) -> None:
    """The input, and what is known of it, by target and seed."""
    out.mkdir(parents=True, exist_ok=True)
    data = TARGETS[escape.target]().make(Random(escape.seed))
    (out / f"{escape.target}-{escape.seed}.bin").write_bytes(data)
    about = json.dumps(asdict(escape), indent=1)
    (out / f"{escape.target}-{escape.seed}.json").write_text(about, "utf-8")


def table(results: Sequence[Result]) -> str:
    """Executions for every target, steps that passed and were refused, escapes."""
    head = ("target", "executions", "per s", "passed", "refused", "escapes", "kinds")
    rows = [head, *map(_row, results), _row(_sum(results))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(lines)


def _row(result: Result) -> tuple[str, ...]:
    tally = result.tally
    speed = tally.n_run / tally.time_s if tally.time_s else 0.0
    numbers = (tally.passed.total(), tally.refused.total(), result.n_escape, len(result.escapes))
    return (result.target, str(tally.n_run), f"{speed:.0f}", *map(str, numbers))


def _sum(results: Sequence[Result]) -> Result:
    tallies, whole = [result.tally for result in results], Tally()
    for tally in tallies:
        whole.n_run, whole.time_s = whole.n_run + tally.n_run, whole.time_s + tally.time_s
        whole.passed, whole.refused = whole.passed + tally.passed, whole.refused + tally.refused
    escapes = [escape for result in results for escape in result.escapes]
    return Result("all", whole, escapes, sum(result.n_escape for result in results))
