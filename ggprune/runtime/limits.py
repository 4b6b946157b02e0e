"""Time limits for calls into llama.cpp that may never return: on some files it loops forever.

Such a call can only be ended together with its process. So a limit holds in the child processes of
`isolated`, whose parent then says what took too long; elsewhere there is none.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator

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
