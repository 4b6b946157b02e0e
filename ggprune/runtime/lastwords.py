"""What a child process tells its parent should it end: its model, and what took too long.

On some files llama.cpp aborts, on others it loops forever, and a call that does not return can only
be ended together with its process. So limits hold in the child processes of `isolated`, which
reads these words in their log; elsewhere there are none.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from weakref import WeakSet

SUBJECT = "ggprune works on "  # begins a line in the log of a child that names a model
TIMED_OUT = 124  # exit code of such a child, as that of timeout(1)
POLL_S = 0.25
# Of a machine that is slow, and busy with other things.
START_S = 30.0
TEXT_BYTES_PER_S = 5_000
MODEL_BYTES_PER_S = 5_000_000
OPERATIONS_PER_S = 1e9
QUANTIZED_BYTES_PER_S = 50_000


def text_limit_s(n_byte: int) -> float:
    """For making tokens of a text: a hundred times what slow tokenizers take."""
    return START_S + n_byte / TEXT_BYTES_PER_S


def model_limit_s(n_byte: int) -> float:
    """For reading a model from a slow network."""
    return 10 * START_S + n_byte / MODEL_BYTES_PER_S


def decode_limit_s(n_byte: int, n_param: int, n_token: int) -> float:
    """For computing a batch: a model that does not fit into the memory is read for each token."""
    operations = 2 * n_param * n_token
    return n_token * model_limit_s(n_byte) + operations / OPERATIONS_PER_S


def quantize_limit_s(n_byte: int) -> float:
    """For one tensor of so many bytes."""
    return 10 * START_S + n_byte / QUANTIZED_BYTES_PER_S


class Limit:
    """The time that a call has got, in a child: should it be over, so is the process.

    Cheap to start and stop: a token of a small model takes a tenth of a millisecond.
    """

    def __init__(self, what: str) -> None:
        """`what` begins what is said in the end."""
        self.what, self.seconds, self.end = what, math.inf, math.inf
        if multiprocessing.parent_process() is not None:
            watch().add(self)

    def start(self, seconds: float) -> None:
        """Also renews it: progress is a sign of life."""
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def stop(self) -> None:
        self.end = math.inf


class Watch:
    """Looks after all limits of this process, from a thread of its own, and ends it with a word."""

    def __init__(self) -> None:
        self._limits, self._lock = WeakSet[Limit](), threading.Lock()
        threading.Thread(target=self._look, daemon=True).start()

    def add(self, limit: Limit) -> None:
        with self._lock:
            self._limits.add(limit)

    def _look(self) -> None:
        while True:
            time.sleep(POLL_S)
            with self._lock:
                late = [limit for limit in self._limits if limit.end < time.monotonic()]
            if late:
                said = f"{late[0].what} is not done after {late[0].seconds:.0f} s"
                os.write(2, f"\n{said}\n".encode("utf-8", "backslashreplace"))
                os._exit(TIMED_OUT)


watch = cache(Watch)  # the one of this process


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[Limit]:
    """A limit for the block."""
    limit = Limit(what)
    limit.start(seconds)
    try:
        yield limit
    finally:
        limit.stop()


def announce(path: Path) -> None:
    """In a child, say which model is worked on: should that end it, the parent knows whose fault
    it is.
    """
    if multiprocessing.parent_process() is not None:
        os.write(2, f"\n{SUBJECT}".encode() + os.fsencode(path) + b"\n")


def last_words(exit_code: int | None, log: Path) -> str:
    """How a process ended, and what it said last, in the file that its stderr went to."""
    end = f"ended with exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            end = f"was ended by {signal.Signals(-exit_code).name}"
    lines = log.read_text("utf-8", "surrogateescape").splitlines() if log.exists() else []
    subjects = {line.removeprefix(SUBJECT): None for line in lines if line.startswith(SUBJECT)}
    lines = [line.strip() for line in lines if line.strip() and not line.startswith(SUBJECT)]
    said = lines[-1] if lines else ""
    if exit_code == TIMED_OUT:
        return said
    of = f"{', '.join(subjects)}: " if subjects else ""
    return f"{of}llama.cpp {end}" + (f": {said}" if said else "")
