"""Has every system call of publishing fail, or kill the process, one run for each: make faults.

    python -m tests.faults [--job NAME]... [--from CALL|all] [--step N]

For every job: the calls below the folder of outputs are counted, from the first fsync on (`--from`
names another one, `all` counts from the start). Then the job runs once for every N-th of them and
every fault. Afterwards the outputs must be the old ones or the new ones, all of them, or be refused
by name; after an error nothing hidden may be left; and the next run must work and leave nothing.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ggprune.errors import GGPruneError
from tests.faults.jobs import JOBS, Group, Job, identity, refused

SHIM = Path(__file__).parent / "shim.c"
FAULTS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "SIGKILL": 0}
KILL = "SIGKILL"


@dataclass(frozen=True)
class Bench:
    """Where jobs run: the shim, a folder for outputs, one for what passes, one for the cache."""

    shim: Path
    root: Path
    begin: str | None

    @property
    def out(self) -> Path:
        return self.root / "watched" / "out"

    def run(
        self, job: Job, at: int | None = None, fault: int = 0, *, layer: int = 2
    ) -> tuple[int, str]:
        """Exit code and stderr; without `at` the shim only counts."""
        (self.root / "state").write_bytes(bytes(16))
        environment = {
            **os.environ, "TMPDIR": str(self.root / "watched" / "tmp"), "NO_COLOR": "1",
            "XDG_CACHE_HOME": str(self.root / "cache"), "LD_PRELOAD": str(self.shim),
            "FAULT_FOLDER": str(self.root / "watched"), "FAULT_STATE": str(self.root / "state"),
            "FAULT_AT": str(at or 0), "FAULT_ERRNO": str(fault),
        }  # fmt: skip
        if self.begin is not None:
            environment["FAULT_FROM"] = self.begin
        command = [sys.executable, "-m", "ggprune", *job.arguments(self.out, layer)]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        return done.returncode, done.stderr.decode("utf-8", "replace")

    @property
    def n_call(self) -> int:
        n, _ = struct.unpack("<2Q", (self.root / "state").read_bytes())
        return int(n)

    def clear(self, old: Mapping[str, bytes]) -> None:
        """Nothing but outputs of an earlier run, some other content."""
        shutil.rmtree(self.root / "watched", ignore_errors=True)
        self.out.mkdir(parents=True)
        (self.root / "watched" / "tmp").mkdir()
        for name, data in old.items():
            (self.out / name).write_bytes(data)

    def left(self, job: Job) -> list[str]:
        """What is there besides outputs."""
        paths = (self.root / "watched").rglob("*")
        files = [path for path in paths if not path.is_dir() or path.name.startswith(".")]
        return sorted(p.name for p in files if p.parent != self.out or p.name not in job.outputs)


def judged(
    bench: Bench, job: Job, new: Mapping[str, object], old: Mapping[str, bytes]
) -> list[str]:
    """Of each group of outputs `old`, `new`, `absent`, `refused`, or `apart`: old and new ones."""
    return [_of_group(bench, group, new, old) for group in job.groups]


def _of_group(
    bench: Bench, group: Group, new: Mapping[str, object], old: Mapping[str, bytes]
) -> str:
    states = {_of_output(bench.out / name, new[name], old.get(name)) for name in group.names}
    if len(states) == 1 or not states <= {"old", "new", "absent"}:
        return ", ".join(sorted(states))
    return "refused" if group.are_shards and refused(bench.out, group.names) else "apart"


def _of_output(path: Path, new: object, old: bytes | None) -> str:
    if not path.exists():
        return "absent"
    try:
        if identity(path) == new:  # what does not differ counts as new
            return "new"
    except (GGPruneError, ValueError) as e:
        return f"{path.name} is broken: {e}"
    return "old" if path.read_bytes() == old else f"{path.name} is wrong"


def campaign(bench: Bench, name: str, step: int) -> list[str]:
    """All faults of a job; prints a line, returns what is wrong."""
    job = JOBS[name]
    old = {output: path.read_bytes() for output, path in _made(bench, job, 5).items()}
    new = {output: identity(path) for output, path in _made(bench, job, 2).items()}
    n_call, tally, wrong = 0, Counter[str](), list[str]()
    for before in ({}, old):
        bench.clear(before)
        bench.run(job)
        n_call = bench.n_call
        for at in range(1, n_call + 1, step):
            for fault in FAULTS:
                outcome, faults = _one(bench, job, at, fault, before, new)
                tally[f"{'killed' if fault == KILL else 'error'}: {'/'.join(outcome)}"] += 1
                where = f"{name}, call {at} of {n_call}, {fault}, {'old' if before else 'no'} files"
                wrong += [f"{where}: {what}" for what in faults]
    print(f"{name}: {n_call} calls, {sum(tally.values())} runs:", dict(sorted(tally.items())))
    return wrong


def _made(bench: Bench, job: Job, layer: int) -> dict[str, Path]:
    bench.clear({})
    code, said = bench.run(job, layer=layer)
    assert code == 0, said
    return {output: bench.out / output for output in job.outputs}


def _one(
    bench: Bench, job: Job, at: int, fault: str,
    before: Mapping[str, bytes], new: Mapping[str, object],
) -> tuple[list[str], list[str]]:  # fmt: skip
    """One run with a fault and one without: what is there behind the first, and what is wrong."""
    bench.clear(before)
    code, said = bench.run(job, at, FAULTS[fault])
    outcome, left = judged(bench, job, new, before), bench.left(job)
    fine = {"new", "old" if before else "absent"}
    if fault == KILL:
        fine.add("refused" if any(group.are_shards for group in job.groups) else "apart")
    faults = [state for state in outcome if state not in fine]
    if "Traceback" in said:
        faults.append("a traceback: " + said[-300:])
    if fault != KILL and code != 0 and left:
        faults.append(f"left: {left}")
    if code == 0 and set(outcome) != {"new"}:
        faults.append("exit code 0")
    code, said = bench.run(job)
    again, left = judged(bench, job, new, before), bench.left(job)
    if code != 0 or set(again) != {"new"} or left:
        faults.append(f"next run: {code} {again} {left} {said[-200:]}")
    return outcome, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", action="append", choices=list(JOBS))
    parser.add_argument("--from", dest="begin", default="fsync")
    parser.add_argument("--step", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        shim = Path(folder) / "shim.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", SHIM, "-o", shim, "-ldl"], check=True)
        bench = Bench(shim, Path(folder), None if asked.begin == "all" else asked.begin)
        wrong = [what for name in asked.job or JOBS for what in campaign(bench, name, asked.step)]
    print("\n".join(wrong) or "no fault was found")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
