"""What only the program knows of its process: whether children may be forks of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass
from functools import cache

# Requests to end, where there are such: SIGHUP is Unix's, SIGBREAK Windows'.
POLITE_KILLS = tuple(
    signal.Signals[name]
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK")
    if name in signal.Signals.__members__
)


class Aside(threading.Thread):
    """A thread that a forked child can do without: it holds nothing that a child waits for."""


@dataclass
class Program:
    """Of this process. A library cannot know what else goes on in it: so it begins with no."""

    may_fork: bool = False

    def allow_forks(self) -> None:
        """Say that nothing runs here that a fork would break; without effect where all break.

        OpenBLAS's threads survive one, the frameworks of a Mac do not.
        """
        self.may_fork = hasattr(os, "fork") and sys.platform != "darwin"

    def forks(self, without: str) -> bool:
        """Whether a child may be a fork now: `without` is a module that must not be loaded."""
        others = [t for t in threading.enumerate() if not isinstance(t, Aside)]
        return self.may_fork and without not in sys.modules and len(others) == 1


program = cache(Program)  # the one of this process
