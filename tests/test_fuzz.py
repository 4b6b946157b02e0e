"""The fuzzer sees what it is there for: an input that breaks a rule is reported with its seed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import pytest

from ggprune.errors import FormatError
from tests.fuzz import campaign, worker
from tests.fuzz.case import Case, EscapeError
from tests.fuzz.printable import MAX_LINE
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Task

SWITCH = 3  # the inputs that break the rule: every one of them whose number this divides


class Faulty:
    """Does as it is told with some of its inputs."""

    fault = ""

    def make(self, rng: Random) -> bytes:
        return bytes([rng.randrange(256)])

    def run(self, data: bytes, case: Case) -> None:
        case.attempt("fine", lambda: data)
        case.attempt("refused", self._refuse)
        if data[0] % SWITCH == 0:
            case.attempt("faulty", lambda: getattr(self, self.fault)(case))

    def _refuse(self) -> None:
        raise FormatError("as it should be")

    def raises(self, _: Case) -> None:
        raise KeyError("x")

    def system(self, case: Case) -> None:
        (case.folder / "none").read_bytes()

    def hangs(self, _: Case) -> None:
        while True:
            pass

    def sleeps(self, _: Case) -> None:
        time.sleep(60)

    def swallows(self, _: Case) -> None:
        assert bytes(2 << 30)

    def leaves(self, case: Case) -> None:
        (case.folder / ".part").touch()

    def dies(self, _: Case) -> None:
        os._exit(7)

    def accepts(self, _: Case) -> None:
        raise EscapeError("NaN is accepted")

    def colours(self, case: Case) -> None:
        case.text("inspect", "\x1b[31mred")

    def talks(self, case: Case) -> None:
        case.text("inspect", "x" * (MAX_LINE + 1))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("raises", "KeyError"), ("system", "FileNotFoundError"), ("hangs", "more than 0.1 s"),
        ("sleeps", "more than 0.1 s"), ("swallows", "more than 1024 MiB"),
        ("leaves", "a file is left"), ("dies", "dead: exit code 7"), ("accepts", "NaN is accepted"),
        ("colours", "a control character in inspect"),
        ("talks", f"a line of more than {MAX_LINE} characters in inspect"),
    ],
)  # fmt: skip
def test_every_kind_of_escape_is_seen(
    fault: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "fault", fault)
    monkeypatch.setattr(worker, "LIMIT_S", 0.1)
    monkeypatch.setattr(worker, "WALL_S", 0.3)
    targets = {"faulty": Faulty}
    for module in (campaign, worker):
        monkeypatch.setattr(module, "TARGETS", targets)
    end = time.monotonic() + 60
    task = Task(target="faulty", first=0, n_most=8, end=end, seed=1)
    result = campaign.run_target(task, tmp_path)
    broken = [
        seed for seed in range(worker.SEEDS, worker.SEEDS + 8)
        if Faulty().make(Random(seed))[0] % SWITCH == 0
    ]  # fmt: skip
    assert 0 < len(broken) < 8
    assert result.tally.n_run == 8
    assert result.n_escape == len(broken)
    (escape,) = result.escapes  # one of the kind
    assert (escape.kind, escape.seed) == (kind, broken[0])
    kept = tmp_path / f"faulty-{broken[0]}.bin"
    assert kept.read_bytes() == Faulty().make(Random(broken[0]))
    assert "faulty" in campaign.table([result])


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_makes_the_same_input_of_the_same_seed(name: str) -> None:
    """A seed is all that a reproducer is."""
    first, second = TARGETS[name](), TARGETS[name]()
    inputs = [first.make(Random(seed)) for seed in range(20)]
    assert inputs == [second.make(Random(seed)) for seed in range(20)]
    assert len(set(inputs)) > 5
