"""Bars and the status line on a terminal, lines in a log."""

from __future__ import annotations

import io
import pickle
import sys

import pytest

from ggprune.cli.log import Clock
from ggprune.cli.progress import TerminalProgress
from ggprune.runtime.isolate import isolated
from tests.cli.test_log import Hand


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO) -> io.StringIO:
    monkeypatch.setattr(sys, "stderr", stderr)
    return stderr


def test_a_bar_appears_at_its_first_step_and_goes_at_its_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = shown(monkeypatch, Terminal())
    progress = TerminalProgress()
    rank, copy = progress.part("rank"), progress.part("copy")
    assert terminal.getvalue() == ""
    rank.step(1, 4)
    assert "rank:   0%|          | 0/4" in terminal.getvalue()
    rank.step(4, 4)
    assert terminal.getvalue().endswith(" \r")
    copy.step(1, 4 << 20)
    assert "0.00/4.00M" in terminal.getvalue()
    copy.step(4 << 20, 4 << 20)
    assert terminal.getvalue().endswith(" \r")


def test_what_is_said_takes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = shown(monkeypatch, Terminal())
    progress = TerminalProgress()
    progress.say("layers 1 and 2")
    progress.say("")
    assert terminal.getvalue() == "\r\033[Klayers 1 and 2\r\033[K"


def test_a_stage_is_announced_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = shown(monkeypatch, Terminal())
    TerminalProgress("evaluate").begin("2 models")
    assert terminal.getvalue() == ""
    TerminalProgress(at_once=True).part("rank").begin("9 layers")
    assert terminal.getvalue() == "ggprune: rank: 9 layers\n"


def test_a_log_gets_lines_and_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, clock = shown(monkeypatch, io.StringIO()), Hand()
    progress = TerminalProgress(clock=clock)
    progress.say("trying")
    rank = progress.part("rank")
    rank.begin("9 layers")
    rank.step(1, 4)
    assert stderr.getvalue() == ""
    clock.wait(6)
    assert stderr.getvalue() == "ggprune: rank: 9 layers; 25 % after 5 s\n"
    copy = progress.part("copy")
    copy.step(1, 2)
    clock.wait(28)
    assert stderr.getvalue().count("\n") == 1
    clock.wait(1)
    assert stderr.getvalue().endswith("\nggprune: copy: 50 % after 29 s\n")


def test_a_stage_of_other_parts_is_a_line_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, clock = shown(monkeypatch, io.StringIO()), Hand()
    progress = TerminalProgress(at_once=True, clock=clock)
    progress.part("write").begin("out.gguf", of_parts=True)
    clock.wait(100)
    assert stderr.getvalue() == "ggprune: write: out.gguf\n"
    progress.part("copy").step(1, 2)
    clock.wait(5)
    assert stderr.getvalue().splitlines()[1:] == ["ggprune: copy: 50 % after 5 s"]


def test_a_log_that_nobody_reads_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    shown(monkeypatch, Gone())
    TerminalProgress("rank", at_once=True, clock=Hand()).begin("9 layers")


class Fast(Clock):
    """A minute passes with every look, in any process."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        self.time += 60
        return self.time


def count(progress: TerminalProgress) -> None:
    progress.begin("3 steps")
    for n in range(3):
        progress.step(n + 1, 3)


def test_a_child_process_has_a_clock_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    isolated(count, TerminalProgress(at_once=True, clock=Fast()).part("count"))
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "ggprune: count: 3 steps"
    assert said[1].startswith("ggprune: count: 33 % after ")
    assert said[-1].startswith("ggprune: count: done after ")


def test_it_can_be_sent_before_and_after_it_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, Terminal())
    part = TerminalProgress(at_once=True).part("rank")
    for _ in range(2):
        sent = pickle.loads(pickle.dumps(part))
        assert (sent.label, sent.at_once, sent.bar) == ("rank", True, None)
        part.step(1, 2)
    part.step(2, 2)
