"""Lines in a log that tell how far a job is: what is ahead of a part, then how much is done.

For a stderr that is a file or a pipe. Knows nothing of bars, nor of where its lines go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ggprune.progress import duration
from ggprune.runtime.program import Aside

FIRST_S = 5.0  # a job that is over by then says nothing
EVERY_S = 30.0  # between two lines
POLL_S = 1.0


class Clock:
    """The time, and a thread that looks at it. It must be possible to send one to a process."""

    def now(self) -> float:
        return time.monotonic()

    def call_often(self, call: Callable[[], object]) -> None:
        """From now on, until the process ends."""

        def run() -> None:
            while True:
                time.sleep(POLL_S)
                call()

        Aside(target=run, daemon=True).start()


class Part:
    """How far one part of a job is, and how fast it has been of late."""

    def __init__(self, label: str, now: float) -> None:
        self.label, self.began, self.seen = label, now, now
        self.ahead, self.doing, self.of = "", "", ""  # in words; what the share is of
        self.share: float | None = None  # that was done when it was last seen
        self.rate: float | None = None  # share of a second
        self.mark = (now, 0.0)  # what the rate is counted from
        self.is_told = self.is_over = False

    def move(self, share: float, now: float) -> None:
        if self.share is not None and share < self.share:  # something else is done now
            self.mark, self.rate = (now, share), None
        since, before = self.mark
        if share > before and now > since:
            self.rate = (share - before) / (now - since)
        self.share, self.seen, self.is_over = share, now, share >= 1

    def told(self, now: float) -> str:
        """What to say at this moment. The rate is that since the last time with something new."""
        said = [self.doing] if self.is_told else [self.ahead, self.doing]
        state = f"{int(100 * (self.share or 0.0))} %{self.of} after {duration(now - self.began)}"
        if self.share is not None and self.rate is not None:
            left = (1 - self.share) / self.rate - (now - self.seen)
            state += f", about {duration(left)} left" if left > 0 else ""
            self.mark = (self.seen, self.share)
        self.is_told = True
        return "; ".join([*filter(None, said), state])


class Log:
    """What is said of the parts of a job, which follow each other, by one process."""

    def __init__(self, write: Callable[[str, str], object], clock: Clock) -> None:
        self.write, self.clock = write, clock
        self.is_quiet, self.last = True, clock.now()  # when the last line was written
        self.part: Part | None = None
        self.lock = threading.Lock()
        clock.call_often(self.look)

    def begin(self, label: str, ahead: str, *, at_once: bool) -> None:
        """A part of that name begins. Told at once, or only when it takes long."""
        with self.lock:
            self.part = Part(label, self.clock.now())
            self.part.ahead = ahead
            if at_once:
                self.part.ahead = ""
                self._write(label, ahead)

    def step(self, label: str, share: float) -> None:
        with self.lock:
            self._part(label).move(share, self.clock.now())
        self.look()

    def say(self, label: str, text: str, share: float | None) -> None:
        with self.lock:
            if share is not None:
                part = self._part(label)
                part.move(share, self.clock.now())
                part.of = " of this"
            if self.part is not None and self.part.label == label:
                self.part.doing, self.part.is_over = text, not text
        self.look()

    def look(self) -> None:
        """Say how far the part is if a line is due."""
        with self.lock:
            part, now = self.part, self.clock.now()
            if part is None:
                return
            if part.is_over:
                if part.is_told:
                    self._write(part.label, f"done after {duration(now - part.began)}")
                self.part = None
                return
            silence = FIRST_S if self.is_quiet else EVERY_S
            if now - self.last >= silence and now - part.began >= FIRST_S:
                self._write(part.label, part.told(now))

    def _part(self, label: str) -> Part:
        if self.part is None or self.part.label != label:
            self.part = Part(label, self.clock.now())
        return self.part

    def _write(self, label: str, text: str) -> None:
        self.is_quiet, self.last = False, self.clock.now()
        self.write(label, text)
