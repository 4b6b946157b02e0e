"""Progress on stderr, also from the child processes that do the heavy work."""

from __future__ import annotations

import sys
import threading
from typing import Any

from ggprune.progress import Progress

BYTE_STEPS = ("copy", "generate")


class Terminal(Progress):
    """Bars for the parts of a job, and one line that says what is being tried."""

    def part(self, label: str) -> Progress:
        return Bar(label)

    def say(self, text: str) -> None:
        StatusLine()(text)


class Bar(Progress):
    """A progress bar that appears at its first step and closes at its last one.

    Until then it is a plain value, so that it can be sent to a child process.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: Any = None

    def step(self, done: int, total: int) -> None:
        if self.bar is None:
            self.bar = self._start(total)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.close()

    __call__ = step

    def _start(self, total: int) -> Any:
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())  # its default lock is for several processes
        units: dict[str, Any] = {"unit": "step"}
        if self.label in BYTE_STEPS:
            units = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
        return tqdm(
            total=total, desc=self.label, file=sys.stderr, disable=None, leave=False, **units
        )


class RankProgress(Progress):
    """A bar for the steps, a line for what is said."""

    def __init__(self) -> None:
        self.bar, self.line = Bar("rank"), StatusLine()

    def step(self, done: int, total: int) -> None:
        self.bar(done, total)

    def say(self, text: str) -> None:
        self.line(text)


class StatusLine:
    """Says on one line of the terminal what is being tried; nothing where stderr is a file."""

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
