"""Progress on stderr, also from the child processes that do the heavy work."""

from __future__ import annotations

import sys
import threading
from functools import cached_property

from tqdm import tqdm

from ggprune.cli.log import Clock, Log
from ggprune.cli.messages import say_note, say_progress
from ggprune.files.printable import printable
from ggprune.progress import Progress

BYTES = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
TOKENS = {"unit": "token", "unit_scale": True}
READ = "read"  # for the fingerprint
# Of all other parts: steps.
UNITS = {READ: BYTES, "copy": BYTES, "generate": BYTES, "self-text": TOKENS, "evaluate": TOKENS}


class TerminalProgress(Progress):
    """On a terminal a bar for each part of a job, from its first step to its last, and a line for
    what is said; in a log now and then a line.

    A copy in another process has its own bars, and its own log.
    """

    def __init__(
        self,
        label: str = "",
        *,
        at_once: bool = False,
        clock: Clock | None = None,
        root: TerminalProgress | None = None,
    ) -> None:
        """at_once: parts are announced when they begin. Parts share the log of their `root`."""
        self.label, self.at_once, self.clock = label, at_once, clock or Clock()
        self.root = root or self
        self.bar: tqdm | None = None

    def __reduce__(self) -> tuple[object, tuple[str, bool, Clock]]:
        return _sent, (self.label, self.at_once, self.clock)

    def part(self, label: str) -> TerminalProgress:
        return TerminalProgress(label, at_once=self.at_once, clock=self.clock, root=self.root)

    def begin(self, ahead: str, *, of_parts: bool = False) -> None:
        if not sys.stderr.isatty() and not of_parts:
            self.root.log.begin(self.label, ahead, at_once=self.at_once)
        elif self.at_once:  # nobody need look how far it is
            say_progress(self.label, ahead)

    def step(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            self.root.log.step(self.label, done / total if total else 1.0)
            return
        if self.bar is None:
            tqdm.set_lock(threading.RLock())  # its default lock is for several processes
            tqdm.monitor_interval = 0  # no thread of its own: it does not survive a fork
            units = UNITS.get(self.label, {"unit": "step"})
            self.bar = tqdm(total=total, desc=self.label, file=sys.stderr, leave=False, **units)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.close()

    def note(self, text: str) -> None:
        say_note(text)

    def say(self, text: str, share: float | None = None) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{printable(text)}", end="", file=sys.stderr, flush=True)
        else:
            self.root.log.say(self.label, text, share)

    @cached_property
    def log(self) -> Log:
        return Log(say_progress, self.clock)


def _sent(label: str, at_once: bool, clock: Clock) -> TerminalProgress:
    """What arrives in another process."""
    return TerminalProgress(label, at_once=at_once, clock=clock)
