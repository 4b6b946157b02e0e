"""Bars and the status line on stderr."""

from __future__ import annotations

import io
import pickle
import sys

import pytest

from ggprune.cli.progress import TerminalProgress


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


def test_nothing_appears_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = shown(monkeypatch, io.StringIO())
    progress = TerminalProgress()
    progress.say("trying")
    progress.part("rank").step(1, 2)
    assert stderr.getvalue() == ""


def test_it_can_be_sent_before_and_after_it_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, Terminal())
    part = TerminalProgress().part("rank")
    for _ in range(2):
        sent = pickle.loads(pickle.dumps(part))
        assert (sent.label, sent.bar) == ("rank", None)
        part.step(1, 2)
    part.step(2, 2)
