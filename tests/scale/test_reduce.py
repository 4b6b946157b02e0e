"""Sums whose bits do not depend on who adds them, and which stay where they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from distributed.comm import tcp

from ggprune.cluster.crew import Crew
from ggprune.cluster.engine import MeasureEngine, MeasureSetup
from ggprune.cluster.members import Workforce
from ggprune.cluster.place import Place
from ggprune.cluster.reduce import groups_of, in_tree, reduce, sum_chunks
from ggprune.cluster.work import files_of
from ggprune.metrics.chunks import Chunks, make_chunks
from ggprune.model.model import open_model
from ggprune.pipeline.spread import Spread, workforce
from ggprune.progress import SILENT
from ggprune.runtime.devices import build_commit
from ggprune.runtime.session import LlamaModel
from ggprune.version import __version__
from tests.conftest import TINY
from tests.scale import jobs
from tests.scale.site import kill, site, wait_for, worker_process
from tests.scale.summands import digest, fail, moments

N_CHUNK, N_GROUP = 24, 8


@pytest.fixture(scope="module")
def chunks() -> Chunks:
    with LlamaModel(TINY, vocab_only=True) as vocabulary:
        return make_chunks(jobs.text(), vocabulary.tokenize, 128, N_CHUNK)


@pytest.fixture(scope="module")
def setup(chunks: Chunks) -> MeasureSetup:
    return MeasureSetup(
        ggprune=__version__, build=build_commit(), models=(files_of(open_model(TINY)),),
        options=jobs.MEASURING, sample=chunks[0].tokens.tobytes(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(chunks: Chunks, setup: MeasureSetup) -> str:
    """Of one process, which adds up the same tree."""
    with closing(MeasureEngine(open_model(TINY), setup, Place(threads=1))) as mine:
        sums = [sum_chunks(mine, moments, group) for group in groups_of(chunks, N_GROUP)]
    return digest(in_tree(sums, lambda a, b: a + b))


@contextmanager
def crew_of(force: Workforce | None, setup: MeasureSetup) -> Iterator[Crew]:
    assert force is not None
    with Crew(force.client, setup, force.rules) as crew:
        yield crew


@pytest.mark.parametrize("n_worker", [1, 2, 3])
def test_the_same_bits(n_worker: int, chunks: Chunks, setup: MeasureSetup, expected: str) -> None:
    with (
        workforce(Spread(workers=n_worker, place=Place(threads=1))) as force,
        crew_of(force, setup) as crew,
    ):
        wait_for_all(crew, n_worker)
        assert reduce(crew, groups_of(chunks, N_GROUP), moments, digest) == expected


def wait_for_all(crew: Crew, n_worker: int) -> None:
    for _ in crew.events_until(lambda: len(crew.members) == n_worker):
        pass


def test_one_is_killed(chunks: Chunks, setup: MeasureSetup, expected: str, tmp_path: Path) -> None:
    with site(tmp_path, 2) as place, place.force(SILENT) as force:
        wait_for(lambda: len(force.client.nthreads()) == 2, "two workers")
        with crew_of(force, setup) as crew:
            wait_for_all(crew, 2)
            victim = worker_process(place.workers[0])
            threading.Timer(0.4, kill, [victim]).start()
            assert reduce(crew, groups_of(chunks, N_GROUP), moments, digest) == expected


def test_no_matrix_comes_here(
    chunks: Chunks, setup: MeasureSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that this process receives, with the scheduler in it, is less than one of them."""
    read, received = tcp.read_bytes_rw, [0]

    async def counted(stream: object, n: int) -> object:
        received[0] += n
        return await read(stream, n)

    with (
        workforce(Spread(workers=2, place=Place(threads=1))) as force,
        crew_of(force, setup) as crew,
    ):
        wait_for_all(crew, 2)
        monkeypatch.setattr(tcp, "read_bytes_rw", counted)
        assert len(reduce(crew, groups_of(chunks, N_GROUP), moments, digest)) == 64
    width = open_model(TINY).by_name["token_embd.weight"].shape[0]
    assert 1000 < received[0] < 8 * width**2


def test_what_cannot_be_finished(chunks: Chunks, setup: MeasureSetup) -> None:
    with (
        workforce(Spread(workers=1, place=Place(threads=1))) as force,
        crew_of(force, setup) as crew,
        pytest.raises(ValueError, match="rows cannot be solved"),
    ):
        reduce(crew, groups_of(chunks, 4), moments, fail)


def test_groups_are_the_chunks_own_matter(chunks: Chunks) -> None:
    groups = groups_of(chunks, 5)
    assert [len(group.numbers) for group in groups] == [5, 5, 5, 5, 4]
    assert [n for group in groups for n in group.numbers] == list(range(N_CHUNK))
    assert len(groups_of(chunks, 64)) == N_CHUNK
    assert in_tree([1, 2, 4, 8, 16], lambda a, b: (a, b)) == (((1, 2), (4, 8)), 16)  # type: ignore[arg-type,return-value,comparison-overlap]
