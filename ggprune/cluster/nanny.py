"""Starts worker processes with settings that fit, and keeps the last words of those that die.

Dask's own would kill a process for the model that it maps, slow its memory down, and give BLAS one
thread; and nobody would hear why llama.cpp ended it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from dataclasses import replace

import dask
from distributed import Nanny, Worker

from ggprune.cluster.place import this_place
from ggprune.cluster.plans import WorkerPlan
from ggprune.cluster.roll import TOPIC
from ggprune.files.passing import passing_folder
from ggprune.runtime.lastwords import last_words

BLAS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PRELOAD = "ggprune.cluster.nanny"


class WorkerNanny(Nanny):  # type: ignore[misc]
    """Of one worker process; starts another one should it die."""

    def __init__(self, *args: object, plan: WorkerPlan, **options: object) -> None:
        self._passing = contextlib.ExitStack()
        self._log = self._passing.enter_context(passing_folder()) / "stderr"
        place = replace(plan.place, log=str(self._log))
        environ = {**plan.environ, **place.environ(), "GGML_NO_BACKTRACE": "1"}
        preload = [PRELOAD, *dask.config.get("distributed.worker.preload")]
        super().__init__(
            *args, nthreads=place.contexts, memory_limit=0, env=environ,
            resources={"ggprune-contexts": place.contexts}, preload=preload, dashboard=False,
            dashboard_address="127.0.0.1:0",
            **options,
        )  # fmt: skip
        # Set in this process before it starts the other: nothing that slows memory down; and the
        # same number of BLAS's threads for any number of workers, since bits of products depend on
        # it.
        seed = "PYTHONHASHSEED"  # must be the same everywhere
        self.pre_spawn_env: dict[str, str] = {
            seed: vars(self)["pre_spawn_env"].get(seed, "6640"),
            **dict.fromkeys(BLAS, str(os.cpu_count() or 1)),
        }

    async def _on_worker_exit(self, exitcode: int) -> None:
        """Say what the process said last, before the scheduler knows that it is gone."""
        if self.worker_address and exitcode != 0:
            said = last_words(exitcode, self._log)
            event = {"address": self.worker_address, "exit_code": exitcode, "said": said}
            with contextlib.suppress(Exception):  # a scheduler that is gone
                await self.scheduler.log_event(topic=TOPIC, msg=event)
        await super()._on_worker_exit(exitcode)

    async def close(self, *args: object, **options: object) -> object:
        done = await super().close(*args, **options)
        self._passing.close()
        return done


def dask_setup(worker: Worker) -> None:
    """Called by Dask in a worker process: what llama.cpp writes goes to the nanny's file."""
    place = this_place()
    if place.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place.cpus)
    if not place.log:
        return
    terminal = os.fdopen(os.dup(2), "w", 1, encoding="utf-8", errors="backslashreplace")
    for logger in (logging.getLogger(), logging.getLogger("distributed")):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(terminal)
    sys.stderr = terminal
    fd = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(fd, 2)
    os.close(fd)
