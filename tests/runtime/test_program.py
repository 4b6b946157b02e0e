"""Children of a program that may be forked: in a process of its own, since this one has threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ggprune.errors import LlamaAbortError, LlamaError
from ggprune.runtime.isolate import isolated
from ggprune.runtime.library import llama
from ggprune.runtime.program import Aside, program
from tests.conftest import TINY
from tests.runtime.test_isolate import abort_with_a_message, fail, take_long

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="no program is forked here"
)
seen: list[str] = []


def what_was_seen() -> list[str]:
    """What the parent has put there: nothing in an interpreter that was started anew."""
    return seen


class Sent:
    """Knows how often it was sent to another process."""

    def __init__(self, was_sent: int = 0) -> None:
        self.was_sent = was_sent

    def __reduce__(self) -> tuple[type[Sent], tuple[int]]:
        return Sent, (self.was_sent + 1,)


def change(given: Sent) -> int:
    return given.was_sent


def how_kills_are_taken() -> list[bool]:
    default = [signal.getsignal(s) == signal.SIG_DFL for s in (signal.SIGTERM, signal.SIGHUP)]
    return [*default, signal.getsignal(signal.SIGINT) == signal.SIG_IGN]


def run(function: str) -> None:
    """One of the functions below, in a program of its own."""
    script = f"import tests.runtime.test_program as t; t.{function}()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def child_forks() -> None:
    seen.append("parent")
    assert isolated(what_was_seen) == [], "a library may not fork"
    program().allow_forks()
    assert isolated(what_was_seen) == ["parent"]


def child_is_new() -> None:
    seen.append("parent")
    program().allow_forks()
    thread = threading.Thread(target=time.sleep, args=(30,), daemon=True)
    thread.start()
    assert isolated(what_was_seen) == [], "a thread does not survive a fork"


def child_forks_beside_a_clock() -> None:
    seen.append("parent")
    program().allow_forks()
    Aside(target=time.sleep, args=(30,), daemon=True).start()
    assert isolated(what_was_seen) == ["parent"]


def arguments_are_copies() -> None:
    program().allow_forks()
    given = Sent()
    isolated(change, given)
    assert given.was_sent == 0
    assert isolated(change, given) == 1, "as in a new process"


def child_is_new_behind_llama() -> None:
    seen.append("parent")
    program().allow_forks()
    llama()
    assert isolated(what_was_seen) == [], "llama.cpp's library does not survive a fork"


def child_is_like_a_new_one() -> None:
    program().allow_forks()
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)  # as the command line does
    assert isolated(how_kills_are_taken) == [True, True, True]
    with pytest.raises(LlamaError, match="a reason"):
        isolated(fail)
    with pytest.raises(LlamaAbortError, match=r"SIGABRT: GGML_ASSERT\(n > 0\) failed"):
        isolated(abort_with_a_message)
    with pytest.raises(LlamaAbortError, match="sleeping is not done after 0 s"):
        isolated(take_long, TINY)


@pytest.mark.parametrize(
    "function",
    [
        "child_forks",
        "child_forks_beside_a_clock",
        "arguments_are_copies",
        "child_is_new",
        "child_is_new_behind_llama",
        "child_is_like_a_new_one",
    ],
)
def test_a_child_is_a_fork_only_where_that_is_safe(function: str) -> None:
    run(function)


def test_the_command_line_forks() -> None:
    """One interpreter is started, and no second one: by what the kernel says of its children."""
    script = (
        "import sys, multiprocessing.popen_spawn_posix as spawn\n"
        "def refused(*_): raise AssertionError('a new interpreter')\n"
        "spawn.Popen._launch = refused\n"
        "from ggprune.cli import main\n"
        "main()\n"
    )
    asked = [sys.executable, "-c", script, "eval", str(TINY), "-c", "64", "--chunks", "1"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Final estimate: PPL" in done.stdout
