"""The documents of one process, in every key but times, effort and workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from ggprune.cluster import engine
from ggprune.cluster.members import Workforce
from ggprune.cluster.place import Place
from ggprune.pipeline.spread import Spread, workforce
from ggprune.scoring.ranking import Ranking
from tests.conftest import CALIBRATION, TINY
from tests.scale import jobs
from tests.scale.site import Listener, numbers_of, site, without_effort


def check_all(
    force: Workforce | None, alone: dict[str, Any], ranked: Ranking, quantized: Path
) -> Ranking:
    ranking = jobs.all_layers(force)
    assert numbers_of(ranking) == alone["rank"]
    assert numbers_of(jobs.race(force)) == alone["race"]
    assert numbers_of(jobs.choose(ranked, force)) == alone["choose"]
    evaluations = jobs.evaluate(quantized, force)
    assert numbers_of(evaluations) == alone["eval"]
    assert sum(worker.n_chunk for worker in evaluations[0].workers) == 18
    return ranking


@pytest.mark.parametrize("n_worker", [1, 2, 3])
def test_processes_of_this_machine(
    n_worker: int, alone: dict[str, Any], ranked: Ranking, quantized: Path
) -> None:
    listener, before = Listener(), len(psutil.Process().children(recursive=True))
    with workforce(Spread(workers=n_worker, place=Place(threads=1)), listener) as force:
        assert force is not None
        assert force.client.scheduler.address.startswith("tls://127.0.0.1:")
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        heard = {c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"}
        assert heard == {"127.0.0.1"}
        ranking = check_all(force, alone, ranked, quantized)
        assert not any(force.client.run(engine.is_loaded).values())  # others may need the memory
        assert ranking.workers is not None
        assert sum(worker.n_pass for worker in ranking.workers) == ranking.effort.n_pass
        assert ranking.effort.n_pass == ranked.effort.n_pass
    assert len(psutil.Process().children(recursive=True)) <= before + 1  # Python's resource tracker


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_workers_that_joined_a_scheduler(
    tls: bool, alone: dict[str, Any], ranked: Ranking, quantized: Path, tmp_path: Path
) -> None:
    listener = Listener()
    with site(tmp_path, 2, tls=tls) as place, place.force(listener) as force:
        check_all(force, alone, ranked, quantized)
        assert not listener.told("the scheduler")  # its settings are as they should be


def test_several_contexts_of_one_model(alone: dict[str, Any], quantized: Path) -> None:
    with workforce(Spread(workers=1, place=Place(threads=1, contexts=2))) as force:
        assert numbers_of(jobs.race(force)) == alone["race"]
        assert numbers_of(jobs.evaluate(quantized, force)) == alone["eval"]


def test_a_client_of_the_users(alone: dict[str, Any]) -> None:
    """Of the library: a plain cluster of Dask's."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
        ) as c,
        Client(c) as client,
    ):
        assert numbers_of(jobs.all_layers(client)) == alone["rank"]


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ggprune", "rank", str(TINY), "-f", str(CALIBRATION), "-c",
               "128", "--chunks", "6", "-t", "1", "--no-cache", "--json"]  # fmt: skip
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    def run(*more: str) -> tuple[Any, str]:
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, check=False, env=env
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    one, _ = run()
    two, told = run("--workers", "2")
    assert without_effort(one) == without_effort(two)
    assert "workers" not in one
    assert {"host", "device", "backend", "build", "bits", "n_pass", "n_chunk", "load_s"} == set(
        two["workers"][0]
    )
    assert "has joined: 1 worker" in told
    assert "leaked" not in told
    auto, told = run("--workers", "auto")
    assert without_effort(auto) == without_effort(one)
    assert "one process uses all of it" in told


def test_begun_alone_and_ended_by_workers(tmp_path: Path, alone: dict[str, Any]) -> None:
    """And the other way round, without a pass that is done twice."""
    with workforce(Spread(workers=3, place=Place(threads=1))) as force:
        jobs.all_layers(None, tmp_path / "a", n_chunk=4)
        ended = jobs.all_layers(force, tmp_path / "a")
        assert numbers_of(ended) == alone["rank"]
        assert (ended.effort.n_pass, ended.effort.n_cached) == (40, 40)
        jobs.all_layers(force, tmp_path / "b", n_chunk=4)
    ended = jobs.all_layers(None, tmp_path / "b")
    assert numbers_of(ended) == alone["rank"]
    assert (ended.effort.n_pass, ended.effort.n_cached) == (40, 40)


def test_a_search_that_is_repeated_computes_nothing(tmp_path: Path, alone: dict[str, Any]) -> None:
    with workforce(Spread(workers=2, place=Place(threads=1))) as force:
        jobs.race(force, tmp_path)
        again = jobs.race(force, tmp_path)
    assert numbers_of(again) == alone["race"]
    assert again.effort.n_pass == 0
    assert numbers_of(jobs.race(None, tmp_path)) == alone["race"]
