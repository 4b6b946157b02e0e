"""Progress on stderr, also from the child processes that do the heavy work."""

from __future__ import annotations

import sys
import threading

from tqdm import tqdm

from ggprune.cli.messages import say_note
from ggprune.files.printable import printable
from ggprune.progress import Progress

BYTES = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
TOKENS = {"unit": "token", "unit_scale": True}
READ = "read"  # for the fingerprint
# Of all other parts: steps.
UNITS = {READ: BYTES, "copy": BYTES, "generate": BYTES, "self-text": TOKENS}


class TerminalProgress(Progress):
    """A bar for each part of a job, from its first step to its last, and a line for what is said.

    Nothing of it appears where stderr is no terminal. A copy in another process has its own bar.
    """

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.bar: tqdm | None = None

    def __reduce__(self) -> tuple[type[TerminalProgress], tuple[str]]:
        return TerminalProgress, (self.label,)

    def part(self, label: str) -> TerminalProgress:
        return TerminalProgress(label)

    def step(self, done: int, total: int) -> None:
        if self.bar is None:
            tqdm.set_lock(threading.RLock())  # its default lock is for several processes
            units = UNITS.get(self.label, {"unit": "step"})
            self.bar = tqdm(
                total=total, desc=self.label, file=sys.stderr, disable=None, leave=False, **units
            )
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.close()

    def note(self, text: str) -> None:
        say_note(text)

    def say(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{printable(text)}", end="", file=sys.stderr, flush=True)
