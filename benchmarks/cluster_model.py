"""How long ranking and searching take on 1 to 512 workers: a simulation, with the product's own
policy (`cluster.policy.Policy`) and the product's own decisions (`scoring.race.survivors`).

    python benchmarks/cluster_model.py [--workers 1,8,64,512] [--sets-each 4,8,16,32]

No model is computed: layers are drawn, with tokens and chunks that are hard for all of them. By
chunk: a worker has whole chunks. By candidate: all workers share the chunk that is decided next.
"""

from __future__ import annotations

import heapq
from argparse import ArgumentParser
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ggprune.cluster.policy import Open, Policy
from ggprune.metrics.estimates import Float64
from ggprune.progress import duration
from ggprune.report.blocks import markdown_table
from ggprune.scoring.race import ranked, survivors
from ggprune.scoring.search import MAX_EXCHANGES, TOLERANCE

N_CHUNK, N_TOKEN = 128, 64  # tokens that stand for those of a chunk
CONFIDENCE = 0.95
Drop = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, and what its computing takes; seconds."""

    name: str
    n_layer: int
    pass_s: float
    load_s: float  # of its file, at 2 GB/s
    logits_s: float = 0.1  # from logits to numbers, for every pass
    task_s: float = 0.005  # to send one and hear of it
    decision_s: float = 0.010
    n_kept: int = 8  # chunks in the memory of a worker


CASES = (
    Case(name="70B Q4_K_M", n_layer=80, pass_s=1.0, load_s=25.0),
    Case(name="671B MoE", n_layer=61, pass_s=2.5, load_s=207.0),
)


def drawn_losses(n_layer: int, seed: int = 0) -> Float64:
    """(n_layer, N_CHUNK, N_TOKEN): middle layers lose little, the first ones much."""
    draw = np.random.default_rng(seed)
    place = np.abs(np.linspace(-1, 1, n_layer))
    mean = 0.015 * np.exp(2.2 * place**3) * np.exp(0.45 * draw.standard_normal(n_layer))
    mean[:2] += 3
    mean[-1] += 1
    chunk = 0.4 * draw.standard_normal((1, N_CHUNK, 1))
    token = 1.2 * draw.standard_normal((1, N_CHUNK, N_TOKEN))
    own = 0.25 * draw.standard_normal((n_layer, N_CHUNK, 1))
    noise = 0.9 * draw.standard_normal((n_layer, N_CHUNK, N_TOKEN))
    losses: Float64 = np.exp(chunk + token + own + noise)
    scaled: Float64 = losses / losses.mean(axis=(1, 2), keepdims=True) * mean[:, None, None]
    return scaled


@dataclass
class Worker:
    """What it has, and until when it works."""

    held: OrderedDict[int, Drop] = field(default_factory=OrderedDict)  # by chunk: its stream is
    busy_with: int | None = None  # chunk


class Simulation:
    """A clock, workers, and what is known."""

    def __init__(self, case: Case, n_worker: int, policy: Policy) -> None:
        self.case, self.policy = case, policy
        self.losses = drawn_losses(case.n_layer)
        self.workers = [Worker() for _ in range(n_worker)]
        self.now, self.n_pass = 0.0, 0
        self.ends: list[tuple[float, int, int, list[Drop]]] = []  # when, who, chunk, sets
        self.done: set[tuple[int, Drop]] = set()
        self.open: dict[int, dict[Drop, None]] = {}
        self.under_way: set[tuple[int, Drop]] = set()
        self.draw = np.random.default_rng(1)

    def race(
        self, sets: Sequence[Drop], n_lowest: int | None, within: Drop = (), tolerance: float = 0.0
    ) -> list[Drop]:
        """As `scoring.race.Race`: returns the sets in their order."""
        seen: dict[Drop, list[Float64]] = {drop: [] for drop in sets}
        active = list(sets)
        self.done.clear()  # of another race; what is under way is in vain
        self.under_way.clear()
        for number in range(N_CHUNK):
            needed = {(n, d) for d in active for n in range(len(seen[d]), number + 1)}
            first = {drop: len(seen[drop]) for drop in active}
            n_ahead = self._expect(active, first, number, is_sure=n_lowest is None)
            self._run(needed, number, n_ahead, within)
            for n, drop in sorted(needed):
                seen[drop].append(self.losses[list(drop), n].sum(axis=0))
            if n_lowest is not None:
                self.now += self.case.decision_s
                active = survivors(seen, n_lowest, CONFIDENCE, N_CHUNK, tolerance)
            if not active:
                break
        return list(ranked(seen))

    def _expect(
        self, active: Sequence[Drop], first: Mapping[Drop, int], number: int, *, is_sure: bool
    ) -> int:
        """Returns the number of chunks that are begun ahead."""
        n_left = N_CHUNK - 1 - number
        ahead = self.policy.n_ahead_of(len(self.workers), len(active), n_left, is_sure=is_sure)
        self.open = {}
        for n in range(min(first.values()), number + 1 + ahead):
            known = self.done | self.under_way
            wanted = [d for d in active if first[d] <= n and (n, d) not in known]
            if wanted:
                self.open[n] = dict.fromkeys(wanted)
        return ahead

    def _run(self, needed: set[tuple[int, Drop]], number: int, n_ahead: int, within: Drop) -> None:
        """Until all that is needed is done."""
        while not needed <= self.done:
            idle = [i for i, worker in enumerate(self.workers) if worker.busy_with is None]
            for i in idle:
                self._give(i, number, n_ahead, within)
            end, i, chunk, sets = heapq.heappop(self.ends)
            self.now = max(self.now, end)
            self.workers[i].busy_with = None
            self.done.update((chunk, drop) for drop in sets if (chunk, drop) in self.under_way)
            self.under_way.difference_update((chunk, drop) for drop in sets)

    def _give(self, i: int, number: int, n_ahead: int, within: Drop) -> None:
        worker, n_share = self.workers[i], self.policy.n_share(len(self.workers), n_ahead)
        chunks = {
            n: Open(len(self.open[n]), self._n_sharing(n), n <= number)
            for n in sorted(self.open) if self.open[n]
        }  # fmt: skip
        chunk = self.policy.pick(chunks, worker.held, n_share, is_idle=True)
        if chunk is None:
            return
        n_take = self.policy.n_take(len(self.open[chunk]), n_share, len(self.workers))
        sets = list(self.open[chunk])[:n_take]
        for drop in sets:
            del self.open[chunk][drop]
        seconds = self.case.task_s + self._state_s(worker, chunk, within)
        seconds += sum(self._pass_s(drop, within) for drop in sets)
        self.n_pass += len(sets)
        self.under_way.update((chunk, drop) for drop in sets)
        worker.busy_with = chunk
        heapq.heappush(self.ends, (self.now + seconds, i, chunk, sets))

    def _n_sharing(self, chunk: int) -> int:
        return sum(worker.busy_with == chunk for worker in self.workers)

    def _state_s(self, worker: Worker, chunk: int, within: Drop) -> float:
        """To have the chunk's logits and stream, and the stream without `within`."""
        seconds = 0.0
        if chunk not in worker.held:
            seconds += self.case.pass_s + self.case.logits_s
            self.n_pass += 1
            while len(worker.held) >= self.case.n_kept:
                worker.held.popitem(last=False)
            worker.held[chunk] = ()
        if within and worker.held[chunk] != within:
            seconds += self.case.pass_s * (1 - len(within) / self.case.n_layer)
            self.n_pass += 1
            worker.held[chunk] = within
        worker.held.move_to_end(chunk)
        return seconds

    def _pass_s(self, drop: Drop, within: Drop) -> float:
        """What lies behind the first layer that is gone."""
        first = min(n for n in drop if n not in within or drop == within)
        left = self.case.n_layer - first - sum(n >= first for n in drop)
        return self.case.pass_s * left / self.case.n_layer + self.case.logits_s

    def rank(self) -> list[Drop]:
        return self.race([(n,) for n in range(self.case.n_layer)], None)

    def racing(self) -> list[Drop]:
        return self.race([(n,) for n in range(self.case.n_layer)], 8)[:8]

    def search(self, n_drop: int = 8) -> list[Drop]:
        """Greedy, then exchanges."""
        gone: Drop = ()
        layers = range(self.case.n_layer)
        for _ in range(n_drop):
            sets = [tuple(sorted((*gone, n))) for n in layers if n not in gone]
            gone = self.race(sets, 1, gone, TOLERANCE)[0]
        for _ in range(3):
            pairs = [(old, new) for old in gone for new in layers if new not in gone]
            chosen = self.draw.permutation(len(pairs))[:MAX_EXCHANGES]
            swapped = [tuple(sorted({*gone, pairs[i][1]} - {pairs[i][0]})) for i in chosen]
            better = self.race([gone, *swapped], 1, (), TOLERANCE)[0]
            if better == gone:
                break
            gone = better
        return [gone]


JOBS: dict[str, Callable[[Simulation], list[Drop]]] = {
    "rank --exhaustive": Simulation.rank,
    "rank, racing for 8": Simulation.racing,
    "search for 8": Simulation.search,
}


def policies(n_worker: int) -> dict[str, Policy]:
    return {
        "by chunk": Policy(n_ahead=max(n_worker - 1, 0), group=10**6),
        "by candidate": Policy(n_ahead=0, group=10**6),
        "as delivered": Policy(),
    }


def table(case: Case, counts: Sequence[int]) -> str:
    lines = []
    for job, run in JOBS.items():
        alone = None
        for n_worker in counts:
            found: dict[str, Simulation] = {}
            results = []
            for name, policy in policies(n_worker).items():
                found[name] = Simulation(case, n_worker, policy)
                results.append(run(found[name]))
            assert all(result == results[0] for result in results)
            delivered = found["as delivered"]
            alone = alone or delivered.now
            lines.append([
                job, str(n_worker), *(duration(s.now + case.load_s) for s in found.values()),
                f"{100 * alone / n_worker / delivered.now:.0f} %",
                f"{found['by chunk'].now / delivered.now:.2f}x",
                f"{found['by candidate'].now / delivered.now:.2f}x",
                " / ".join(str(s.n_pass) for s in found.values()),
            ])  # fmt: skip
            print(".", end="", flush=True)
    print()
    headers = ["job", "workers", "by chunk", "by candidate", "as delivered", "efficiency",
               "against by chunk", "against by candidate", "passes"]  # fmt: skip
    return markdown_table(headers, lines, left=(0,))


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,8,64,512")
    parser.add_argument("--sets-each", default="", help="only a search, with these policies")
    asked = parser.parse_args()
    counts = [int(n) for n in asked.workers.split(",")]
    for case in CASES:
        print(f"\n{case.name}: {case.n_layer} layers, {case.pass_s:g} s a pass; times with loading")
        if not asked.sets_each:
            print(table(case, counts))
            continue
        for each in asked.sets_each.split(","):
            for n_worker in counts:
                found = Simulation(case, n_worker, Policy(sets_each=int(each)))
                found.search()
                print(f"{n_worker} workers, {each} sets each: {duration(found.now)}, "
                      f"{found.n_pass} passes")  # fmt: skip


if __name__ == "__main__":
    main()
