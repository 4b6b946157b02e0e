"""Whoever dies, hangs, leaves or joins changes nothing but time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ggprune.cluster import crew
from ggprune.errors import GGPruneError, LlamaAbortError
from ggprune.progress import Progress
from tests.conftest import CALIBRATION, TINY
from tests.scale import jobs
from tests.scale.site import (
    SLOW,
    Listener,
    Site,
    family_of,
    is_running,
    kill,
    numbers_of,
    preloading,
    site,
    wait_for,
    worker_process,
)


class Halfway(Listener):
    """Does something once, when so many workers have joined, and some of the ranking is done."""

    def __init__(self, do: Callable[[], object], n_worker: int) -> None:
        super().__init__()
        self.do, self.is_done = do, False
        self.joined = "has joined: " + f"{n_worker} worker" + "s" * (n_worker > 1)

    def part(self, label: str) -> Progress:
        return self if label != "read" else Listener()

    def step(self, done: int, total: int) -> None:
        if not self.is_done and done > 9 and self.told(self.joined):
            self.is_done = True
            self.do()


def check(place: Site, alone: dict[str, Any], do: Callable[[], object]) -> Halfway:
    """All layers, while something happens."""
    listener = Halfway(do, len(place.workers))
    with place.force(listener) as force:
        assert numbers_of(jobs.all_layers(force, progress=listener)) == alone["rank"]
    assert listener.is_done
    return listener


def test_a_worker_is_killed(tmp_path: Path, alone: dict[str, Any]) -> None:
    with site(tmp_path, 2, environ=SLOW) as place:
        victim = worker_process(place.workers[0])
        told = check(place, alone, lambda: kill(victim))
        assert told.told("is gone: 1 worker")
        assert place.workers[0].poll() is None  # its nanny has started another one
        worker_process(place.workers[0])


def test_a_worker_and_its_nanny_are_killed(tmp_path: Path, alone: dict[str, Any]) -> None:
    with site(tmp_path, 2, environ=SLOW) as place:
        everybody = family_of(place.workers[0].pid)
        check(place, alone, lambda: kill(*everybody))


def test_a_machine_hangs(
    tmp_path: Path, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crew.STALE_S < 60  # what the documentation promises
    monkeypatch.setattr(crew, "STALE_S", 3.0)
    with site(tmp_path, 2, environ=SLOW) as place:
        victim = worker_process(place.workers[0])
        told = check(place, alone, victim.suspend)
        assert told.told("is gone: 1 worker")


def test_a_worker_joins(tmp_path: Path, alone: dict[str, Any]) -> None:
    with site(tmp_path, 1, environ=SLOW) as place:
        joined: list[object] = []

        def join() -> None:
            joined.append(place.start_worker())
            time.sleep(3)

        told = check(place, alone, join)
        assert told.told("has joined: 2 workers")


def test_all_leave_and_one_comes(tmp_path: Path, alone: dict[str, Any]) -> None:
    with site(tmp_path, 2, environ=SLOW) as place:

        def leave() -> None:
            for worker in place.workers:
                worker.terminate()
            threading.Timer(2.0, place.start_worker).start()

        told = check(place, alone, leave)
        assert told.told("is gone: 0 workers")
        assert [worker.wait(30) for worker in place.workers[:2]] == [0, 0]  # they ended cleanly


def test_the_scheduler_dies_and_the_command_is_run_again(
    tmp_path: Path, alone: dict[str, Any]
) -> None:
    with site(tmp_path, 2, environ=SLOW) as place:
        assert place.scheduler is not None
        everybody = family_of(place.scheduler.pid)
        listener = Halfway(lambda: kill(*everybody), 2)
        cache = tmp_path / "kept"
        with (
            pytest.raises(GGPruneError, match="the scheduler is gone"),
            place.force(listener) as force,
        ):
            jobs.all_layers(force, cache, progress=listener)
        place.scheduler.wait()
        for worker in place.workers:
            worker.wait(60)  # nobody is left running
        place.start_scheduler()
        place.start_worker()
        with place.force(Listener()) as force:
            ended = jobs.all_layers(force, cache)
        assert numbers_of(ended) == alone["rank"]
        assert ended.effort.n_cached > 0
        assert ended.effort.n_cached + ended.effort.n_pass <= 80 + 8


def test_random_kills_and_joins(tmp_path: Path, alone: dict[str, Any]) -> None:
    """During a search. `python -m tests.scale.kills` has two hundred of them."""
    kills_and_joins(tmp_path, alone["race"], n_event=int(os.environ.get("N_KILL", "8")))


def kills_and_joins(folder: Path, expected: Any, n_event: int, seed: int = 1) -> int:
    """Returns how many searches that took."""
    draw, n_search = random.Random(seed), 0
    with site(folder, 2) as place:
        left, over = [n_event], threading.Event()

        def meddle() -> None:
            while left[0] > 0 and not over.is_set():
                time.sleep(draw.uniform(0.1, 0.6))
                alive = [worker for worker in place.workers if worker.poll() is None]
                if len(alive) < 2 or draw.random() < 0.3:
                    place.start_worker()
                elif draw.random() < 0.5:
                    kill(*family_of(draw.choice(alive).pid))
                else:
                    kill(*family_of(draw.choice(alive).pid)[:-1])
                left[0] -= 1

        thread = threading.Thread(target=meddle)
        thread.start()
        try:
            while left[0] > 0 or not n_search:
                with place.force(Listener()) as force:
                    assert numbers_of(jobs.race(force)) == expected
                n_search += 1
        finally:
            over.set()
            thread.join()
        started = [process for worker in place.workers for process in family_of(worker.pid)]
    wait_for(lambda: not any(map(is_running, started)), "end")
    return n_search


def test_llama_cpp_aborts(tmp_path: Path) -> None:
    """The cut is tried on one more worker, and then told with llama.cpp's own reason."""
    with site(tmp_path) as place:
        for _ in range(2):
            place.start_worker(**preloading("aborting"))
        with (
            pytest.raises(LlamaAbortError, match=r"chunk 2 without layers 5: .*GGML_ASSERT\(no\)"),
            place.force(Listener()) as force,
        ):
            jobs.all_layers(force)


def test_a_command_is_killed(tmp_path: Path) -> None:
    """Its workers end, and what they had measured is there."""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ggprune", "rank", str(TINY), "-f", str(CALIBRATION), "-c",
               "128", "--chunks", "60", "--exhaustive", "--workers", "2", "-t", "1"]  # fmt: skip
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("ggprune/scores-*.sqlite")), "entry")
    wait_for(lambda: _n_entry(tmp_path / "ggprune") > 20, "entries")
    family = family_of(process.pid)
    kill(psutil.Process(process.pid))
    process.wait()
    wait_for(lambda: not any(map(is_running, family)), "end")


def _n_entry(folder: Path) -> int:
    import sqlite3

    n = 0
    for file in folder.glob("scores-*.sqlite"):
        try:
            with sqlite3.connect(file, timeout=5) as connection:
                n += int(connection.execute("SELECT count(*) FROM entry").fetchone()[0])
        except sqlite3.OperationalError:
            pass
    return n


# A shell has its background jobs ignore Ctrl-C, and so would the tests there.
HEARING = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from ggprune.cli import main\n"
    "if __name__ == '__main__':\n"
    "    main()\n"
)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_command_is_interrupted(sign: signal.Signals, tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", HEARING, "rank", str(TINY), "-f", str(CALIBRATION), "-c",
               "128", "--chunks", "60", "--exhaustive", "--workers", "2", "-t", "1"]  # fmt: skip
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: _n_entry(tmp_path / "ggprune") > 20, "entries")
    family = family_of(process.pid)
    process.send_signal(sign)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1] == "ggprune: error: interrupted; no partial file is left"
    assert "Traceback" not in told
    wait_for(lambda: not any(map(is_running, family)), "end")
