"""Runs a function in a child process, because llama.cpp aborts the process on some files.

The child's own messages (progress) go to the terminal; what the C++ side prints is kept apart and
shown only if it died. The command line's are forks, which saves starting an interpreter and
importing everything anew; those of other programs are new processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar, cast

from ggprune.errors import LlamaAbortError
from ggprune.files.passing import passing_folder
from ggprune.runtime.lastwords import last_words
from ggprune.runtime.library import BINDINGS
from ggprune.runtime.program import POLITE_KILLS, program

P = ParamSpec("P")
T = TypeVar("T")


def isolated(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a child process; arguments, result and errors are pickled.

    Raises what the function raises, LlamaAbortError if the child was killed or aborted.
    """
    forks = program().forks(without=BINDINGS)
    new = multiprocessing.get_context
    context = new("fork") if forks else new("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with passing_folder() as folder:
        log = folder / "stderr"
        job = pickle.dumps(partial(function, *args, **kwargs))  # a fork gets copies as well
        child = context.Process(target=_serve, args=(sender, log, job))
        try:
            with _without_main(), _undisturbed():
                child.start()
            sender.close()
            ok, value = receiver.recv()
        except EOFError:
            child.join()
            raise LlamaAbortError(last_words(child.exitcode, log)) from None
        except BaseException:  # Ctrl-C: the child may be deep inside a computation
            if child.pid is not None:
                child.kill()
            raise
        finally:
            if child.pid is not None:
                child.join()
    if not ok:
        raise value
    return cast(T, value)


def in_child(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, computed in a child process; also raises LlamaAbortError if that dies."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return isolated(function, *args, **kwargs)

    return call


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the user's script: a new process would otherwise run it once more to import it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No signal while a child is started: a half-told one would end with a traceback.

    The child inherits that Ctrl-C is ignored, which is the parent's to handle; a polite kill is
    dealt with as soon as the child runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt or signal.SIG_DFL)  # None: not set by Python
        signal.signal(signal.SIGTERM, terminate or signal.SIG_DFL)
        if came:
            signal.raise_signal(signal.SIGTERM)


def _serve(sender: Connection, log: Path, job: bytes) -> None:
    """Python's stderr keeps the terminal; file descriptor 2, the C++ side's, goes to `log`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    for sign in POLITE_KILLS:
        if signal.getsignal(sign) != signal.SIG_IGN:  # a job under nohup keeps ignoring it
            signal.signal(sign, signal.SIG_DFL)
    os.environ["GGML_NO_BACKTRACE"] = "1"
    encoding = sys.stderr.encoding
    sys.stderr = os.fdopen(os.dup(2), "w", 1, encoding=encoding, errors="backslashreplace")
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(fd, 2)
    os.close(fd)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer: tuple[bool, object] = (True, pickle.loads(job)())
    except BaseException as e:
        answer = (False, e)
    sender.send(answer)
    sender.close()


def _end_with_parent() -> None:
    """A parent that was killed cannot end us, and nobody would read the result."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
