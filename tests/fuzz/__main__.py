"""python -m tests.fuzz [--seconds 60] [--seed 1] [--target T]... [--runs N] [--out DIR]

Exit code 1 where anything escapes. --replay T:SEED runs one input again, with its traceback.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.fuzz.campaign import Result, run_target, table
from tests.fuzz.case import Case
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Task

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, help="inputs of each target, whatever the time")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--out", type=Path, default=ROOT / ".fuzz", help="for what escapes")
    parser.add_argument("--replay", metavar="TARGET:SEED")
    asked = parser.parse_args()
    if asked.replay is not None:
        return replay(*asked.replay.split(":"))
    results = []
    names = asked.target or list(TARGETS)
    for name in names:
        share = asked.seconds / len(names) if asked.runs is None else 10.0**9
        task = Task(
            target=name, first=0, n_most=asked.runs, end=time.monotonic() + share, seed=asked.seed
        )  # fmt: skip
        results.append(run_target(task, asked.out))
        report(results[-1])
    print(table(results))
    return 1 if any(result.n_escape for result in results) else 0


def report(result: Result) -> None:
    for escape in result.escapes:
        print(
            f"{escape.target}:{escape.seed} {escape.step}: {escape.kind} {escape.where} "
            f"{escape.detail[:200]!a}", flush=True,
        )  # fmt: skip


def replay(name: str, seed: str) -> int:
    """Raises what escapes."""
    target = TARGETS[name]()
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder), Random(int(seed)))
        target.run(target.make(Random(int(seed))), case)
        case.check_left()
    print(f"passed: {dict(case.n_passed)}, refused: {dict(case.n_refused)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
