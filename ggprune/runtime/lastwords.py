"""What a child process tells its parent should it end: its model, and what took too long.

On some files llama.cpp aborts, on others it loops forever, and a call that does not return can only
be ended together with its process. So limits hold in the child processes of `isolated`, which
reads these words in their log; elsewhere there are none.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path

SUBJECT = "ggprune works on "  # begins a line in the log of a child that names a model
TIMED_OUT = 124  # exit code of such a child, as that of timeout(1)
# Of a machine that is slow, and busy with other things.
START_S = 30.0
TEXT_BYTES_PER_S = 5_000
MODEL_BYTES_PER_S = 5_000_000


def text_limit_s(n_byte: int) -> float:
    """For making tokens of a text: a hundred times what slow tokenizers take."""
    return START_S + n_byte / TEXT_BYTES_PER_S


def model_limit_s(n_byte: int) -> float:
    """For reading a model from a slow network."""
    return 10 * START_S + n_byte / MODEL_BYTES_PER_S


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """End this process, if it is a child, should the block take longer. `what` is said to."""
    if multiprocessing.parent_process() is None:
        yield
        return
    timer = threading.Timer(seconds, _end, (f"{what} is not done after {seconds:.0f} s",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(message: str) -> None:
    os.write(2, f"\n{message}\n".encode("utf-8", "backslashreplace"))
    os._exit(TIMED_OUT)


def announce(path: Path) -> None:
    """In a child, say which model is worked on: should that end it, the parent knows whose fault
    it is.
    """
    if multiprocessing.parent_process() is not None:
        os.write(2, f"\n{SUBJECT}{path}\n".encode("utf-8", "surrogateescape"))
