"""What a log is told of jobs that take minutes, by a clock that the tests move."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ggprune.cli.log import EVERY_S, Clock, Log
from ggprune.progress import duration


class Hand(Clock):
    """Time passes when it is told to, second by second, and whoever wants to look does."""

    def __init__(self) -> None:
        self.time, self.calls = 1000.0, list[Callable[[], object]]()

    def now(self) -> float:
        return self.time

    def call_often(self, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.time += 1
            for call in self.calls:
                call()


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def log(clock: Hand, lines: list[str]) -> Log:
    return Log(lambda part, text: lines.append(f"{part}: {text}"), clock)


def test_a_stage_is_announced_and_told_every_half_minute(
    log: Log, clock: Hand, lines: list[str]
) -> None:
    log.begin("rank", "9 layers on 10 chunks", at_once=True)
    for n in range(10):
        clock.wait(8)
        log.step("rank", (n + 1) / 10)
    assert lines == [
        "rank: 9 layers on 10 chunks",
        "rank: 30 % after 30 s, about 50 s left",  # 3 steps after 24 s, 7 of 8 s each, 6 s gone
        "rank: 70 % after 1 min, about 20 s left",
        "rank: done after 1 min 20 s",
    ]


def test_a_short_job_says_nothing_but_what_is_announced(
    log: Log, clock: Hand, lines: list[str]
) -> None:
    log.begin("rank", "9 layers", at_once=True)
    log.begin("evaluate", "2 models", at_once=False)
    for n in range(4):
        clock.wait(1)
        log.step("evaluate", (n + 1) / 4)
    log.step("copy", 0.5)
    log.step("copy", 1)
    clock.wait(100)
    assert lines == ["rank: 9 layers"]


def test_a_longer_job_begins_to_speak_with_what_is_ahead(
    log: Log, clock: Hand, lines: list[str]
) -> None:
    log.begin("evaluate", "2 models on 64 chunks", at_once=False)
    clock.wait(4)
    log.step("evaluate", 0.1)
    assert lines == []
    clock.wait(31)
    assert lines == ["evaluate: 2 models on 64 chunks; 10 % after 5 s, about 35 s left",
                     "evaluate: 10 % after 35 s, about 5 s left"]  # fmt: skip


def test_a_step_that_takes_minutes_is_no_silence(log: Log, clock: Hand, lines: list[str]) -> None:
    log.begin("evaluate", "1 model", at_once=True)
    clock.wait(61)
    assert lines[1:] == ["evaluate: 0 % after 30 s", "evaluate: 0 % after 1 min"]
    log.step("evaluate", 0.5)
    clock.wait(29)
    assert lines[3:] == ["evaluate: 50 % after 1 min 30 s, about 32 s left"]


def test_the_time_left_is_by_the_speed_of_late(log: Log, clock: Hand, lines: list[str]) -> None:
    """Half of it comes from a cache at once."""
    log.step("rank", 0.5)
    for n in range(70):
        clock.wait(1)
        log.step("rank", 0.5 + n / 400)
    assert lines[-1] == "rank: 65 % after 1 min 5 s, about 2 min 16 s left"


def test_what_is_tried_has_shares_of_its_own_and_one_clock(
    log: Log, clock: Hand, lines: list[str]
) -> None:
    """Races of twelve seconds each: a line every half minute all the same."""
    log.begin("choose", "3 layers", at_once=True)
    for race in range(6):
        for chunk in range(4):
            log.say("choose", f"race {race}, chunk {chunk + 1} of 4", chunk / 4)
            clock.wait(3)
    log.say("choose", "", None)
    assert lines == [
        "choose: 3 layers",
        "choose: race 2, chunk 2 of 4; 25 % of this after 30 s, about 6 s left",
        "choose: race 4, chunk 4 of 4; 75 % of this after 1 min",
        "choose: done after 1 min 12 s",
    ]


def test_what_is_said_of_a_part_stands_in_its_lines(
    log: Log, clock: Hand, lines: list[str]
) -> None:
    log.step("train", 0.25)
    log.say("train", "loss 3.5", None)
    clock.wait(6)
    assert lines == ["train: loss 3.5; 25 % after 5 s"]
    log.step("train", 1)
    log.say("train", "loss 2.5", None)
    clock.wait(100)
    assert lines[1:] == ["train: done after 6 s"]


def test_parts_behind_a_long_one_are_not_told_for_that(
    log: Log, clock: Hand, lines: list[str]
) -> None:
    log.step("read", 0.5)
    clock.wait(100)
    log.step("read", 1)
    lines.clear()
    clock.wait(2 * int(EVERY_S))
    log.step("copy", 0.5)
    clock.wait(4)
    assert lines == []
    clock.wait(1)
    assert lines == ["copy: 50 % after 5 s"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3599.6, "1 h"),
        (7500, "2 h 5 min"),
    ],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
