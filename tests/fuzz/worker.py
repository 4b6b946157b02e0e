"""The child that runs a target's inputs one after the other, within limits of time and memory."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType

from tests.fuzz.case import Case, Escape, EscapeError, Target, TooLongError, place_of
from tests.fuzz.targets import TARGETS

LIMIT_S = 5.0  # of processor time
WALL_S = 30.0  # where others use the processor as well
LIMIT_BYTES = 1 << 30  # beside what the interpreter and the target hold
SEEDS = 10**9  # inputs of a campaign; the n-th has the seed campaign * SEEDS + n
RAM = Path("/dev/shm")


@dataclass
class Tally:
    """What became of a target's inputs."""

    n_run: int = 0
    time_s: float = 0.0
    passed: Counter[str] = field(default_factory=Counter)  # by step
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Task:
    """What a worker is to do."""

    target: str
    first: int  # number of the first input
    n_most: int | None
    end: float  # time.monotonic()
    seed: int


def work(task: Task, sender: Connection, place: MutableSequence[float]) -> None:
    """Sends an Escape for every input that escapes, a Tally at the end.

    `place` tells the parent which input it is and since when.
    """
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=RAM if RAM.is_dir() else None))
    os.environ["XDG_CACHE_HOME"] = os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    tally, start = Tally(), time.monotonic()
    try:
        target = TARGETS[task.target]()
        set_limits()
        number = task.first
        while time.monotonic() < task.end and (task.n_most is None or tally.n_run < task.n_most):
            place[0], place[1] = number, time.monotonic()
            escape = execute(target, task, task.seed * SEEDS + number, folder / "case", tally)
            if escape is not None:
                sender.send(escape)
            tally.n_run, number = tally.n_run + 1, number + 1
        tally.time_s = time.monotonic() - start
        sender.send(tally)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def set_limits() -> None:
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, used + LIMIT_BYTES))
    for sign in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(sign, _too_long)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


def execute(target: Target, task: Task, seed: int, folder: Path, tally: Tally) -> Escape | None:
    """One input, made by its seed: what escaped, if anything did."""
    folder.mkdir()
    case = Case(folder, Random(seed))
    data = target.make(Random(seed))
    found: tuple[str, BaseException] | None = None
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        target.run(data, case)
        case.check_left()
    except TooLongError as e:
        found = f"more than {LIMIT_S:g} s", e
    except MemoryError as e:
        found = f"more than {LIMIT_BYTES >> 20} MiB", e
    except EscapeError as e:
        found = e.kind, e
    except Exception as e:
        found = type(e).__name__, e
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        shutil.rmtree(folder)
    tally.passed += case.n_passed
    tally.refused += case.n_refused
    if found is None:
        return None
    kind, error = found
    return Escape(task.target, case.step, kind, place_of(error), seed, str(error)[:300])
