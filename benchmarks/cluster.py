"""What workers cost beside one process, and what more of them give, in one run; as ratios.

    python benchmarks/cluster.py [MODEL.gguf] [--rounds 3]

CPU time is that of so many more chunks: what starting and loading takes is left out. All have one
CPU thread each. Needs an idle machine of two cores or more.
"""

from __future__ import annotations

import os
import statistics
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from distributed.comm import tcp

import ggprune
from ggprune.cluster.members import Workforce
from ggprune.cluster.place import Place
from ggprune.metrics.text import CALIBRATION, shipped_text
from ggprune.pipeline.spread import Spread, workforce
from ggprune.report.blocks import markdown_table
from ggprune.runtime.compute import Compute
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.rank import RankOptions
from ggprune.scoring.ranking import Ranking
from ggprune.scoring.rows import Rows
from ggprune.scoring.target import DropRequest, Goal, Target

TINY = Path(__file__).parent.parent / "fixtures" / "tiny.gguf"
FEW, MANY = 4, 28  # chunks
ROW_BYTES = 25  # of a token and a cut: three float64, one bool
FIELDS = ("kld", "nll", "delta_p", "same_top")


@contextmanager
def workers(n: int) -> Iterator[Workforce]:
    with workforce(Spread(workers=n, place=Place(threads=1))) as force:
        assert force is not None
        yield force


def rank(
    path: Path, n_ctx: int, n_chunk: int, force: Workforce | None = None, drop: int | None = None
) -> Ranking:
    measuring = MeasureOptions(n_ctx=n_ctx, n_chunk=n_chunk, compute=Compute(n_threads=1))
    request = DropRequest(Target(Goal.LAYERS, drop)) if drop is not None else None
    options = RankOptions(measuring=measuring, n_decide=drop, request=request)
    return ggprune.rank(ggprune.open_model(path), shipped_text(CALIBRATION), options, client=force)


def cpu_alone(path: Path, n_ctx: int, n_chunk: int) -> float:
    """Of the child process that a ranking is."""
    before = os.times()
    rank(path, n_ctx, n_chunk)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def cpu_of(force: Workforce, path: Path, n_ctx: int, n_chunk: int) -> tuple[float, float]:
    """Of the workers, and of this process, where scheduler and coordinator are."""
    everybody = [psutil.Process(pid) for pid in force.client.run(os.getpid).values()]

    def spent() -> tuple[float, float]:
        times = [process.cpu_times() for process in everybody]
        mine = psutil.Process().cpu_times()
        return sum(t.user + t.system for t in times), mine.user + mine.system

    before = spent()
    rank(path, n_ctx, n_chunk, force)
    after = spent()
    return after[0] - before[0], after[1] - before[1]


def cost(path: Path, n_ctx: int, n_round: int) -> list[str]:
    """One worker beside one process, taking turns."""
    more = MANY - FEW
    alone, worker, here = [], [], []
    with workers(1) as force:
        rank(path, n_ctx, FEW, force)
        for _ in range(n_round):
            alone.append((cpu_alone(path, n_ctx, MANY) - cpu_alone(path, n_ctx, FEW)) / more)
            many, few = cpu_of(force, path, n_ctx, MANY), cpu_of(force, path, n_ctx, FEW)
            worker.append((many[0] - few[0]) / more)
            here.append((many[1] - few[1]) / more)
    one, other, rest = map(statistics.median, (alone, worker, here))
    return [f"one worker, -c {n_ctx}", f"{1000 * one:.0f} ms a chunk", f"{1000 * other:.0f} ms",
            f"{other / one:.3f}x", f"{1000 * rest:.0f} ms here"]  # fmt: skip


def speed(path: Path, n_ctx: int, n_round: int) -> list[str]:
    """Two workers beside one."""
    one: list[float] = []
    two: list[float] = []
    with workers(1) as single, workers(2) as pair:
        for force in (single, pair):
            rank(path, n_ctx, FEW, force)
        for _ in range(n_round):
            for force, times in ((single, one), (pair, two)):
                times.append(_seconds(force, path, n_ctx, MANY) - _seconds(force, path, n_ctx, FEW))
    a, b = statistics.median(one), statistics.median(two)
    what = f"two workers, -c {n_ctx}, {MANY - FEW} chunks"
    return [what, f"{a:.2f} s on one", f"{b:.2f} s", f"{a / b:.2f}x", ""]


def _seconds(force: Workforce, path: Path, n_ctx: int, n_chunk: int) -> float:
    start = time.perf_counter()
    rank(path, n_ctx, n_chunk, force)
    return time.perf_counter() - start


def passes(path: Path, n_ctx: int) -> list[str]:
    """A search for 3 layers."""
    counts = []
    for n in (1, 3):
        with workers(n) as force:
            counts.append(rank(path, n_ctx, 24, force, drop=3).effort.n_pass)
    return [f"search for 3 on three workers, -c {n_ctx}", f"{counts[0]} passes on one",
            f"{counts[1]} passes", f"{counts[1] / counts[0]:.2f}x", ""]  # fmt: skip


def wire(path: Path, n_ctx: int) -> list[str]:
    """All that scheduler and client receive, beside the rows that are asked for."""
    read, received = tcp.read_bytes_rw, [0]

    async def counted(stream: object, n: int) -> object:
        received[0] += n
        return await read(stream, n)

    with workers(2) as force:
        rank(path, n_ctx, FEW, force)
        tcp.read_bytes_rw = counted
        ranking = rank(path, n_ctx, MANY, force)
        tcp.read_bytes_rw = read
    assert set(FIELDS) == set(Rows.__dataclass_fields__)
    n_token = ranking.base_ppl.n
    cuts = sum(score.kld.n for score in ranking.layers) * ROW_BYTES
    whole = n_token * 8 * (1 + 2 * len(ranking.layers))  # nll; influence, magnitude of each layer
    rows = cuts + whole
    return [f"on the wire, -c {n_ctx}", f"{rows / 1e6:.2f} MB of rows",
            f"{received[0] / 1e6:.2f} MB", f"{received[0] / rows:.2f}x", ""]  # fmt: skip


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=TINY)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    path, n = asked.model, asked.rounds
    lines = [cost(path, 64, n), cost(path, 512, n), speed(path, 512, n), passes(path, 128),
             wire(path, 512)]  # fmt: skip
    print(markdown_table(["what", "beside", "measured", "ratio", ""], lines, left=(0, 4)))


if __name__ == "__main__":
    main()
