"""Who is there, as a scheduler knows it; what nannies tell of workers that died."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ggprune.runtime.lastwords import TIMED_OUT

if TYPE_CHECKING:
    from distributed import Client, Scheduler

TIMEOUTS = (TimeoutError, asyncio.TimeoutError)  # two classes in Python 3.10
TOPIC = "ggprune"  # of the scheduler's events
ABORTS = ("SIGABRT", "SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A worker, as the scheduler knows it."""

    address: str
    host: str
    n_thread: int
    memory_limit: int  # bytes; 0: none
    unseen_s: float  # since its last heartbeat
    contexts: int  # that it says it has; 0: it says nothing

    @property
    def unfit(self) -> str | None:
        """What is wrong with its settings."""
        if self.memory_limit:
            return (
                f"a worker with a memory limit of {self.memory_limit} bytes is killed for mapping "
                "the model: dask worker --memory-limit 0, or ggprune worker"
            )
        if self.n_thread != max(1, self.contexts):
            return (
                f"a worker of {self.n_thread} threads computes as many chunks at once: dask worker "
                "--nthreads 1, or ggprune worker"
            )
        return None


def call_roll(client: Client) -> list[Listed]:
    """Raises OSError if the scheduler is gone."""
    return [Listed(**each) for each in client.run_on_scheduler(_roll)]


def _roll(dask_scheduler: Scheduler) -> list[dict[str, object]]:
    return [
        {
            "address": worker.address, "host": _host(worker.name, worker.host),
            "n_thread": worker.nthreads, "memory_limit": worker.memory_limit or 0,
            "unseen_s": max(0.0, time.time() - worker.last_seen),
            "contexts": int(worker.resources.get("ggprune-contexts", 0)),
        }
        for worker in dask_scheduler.workers.values()
    ]  # fmt: skip


def _host(name: object, host: str) -> str:
    """`ggprune worker` names its workers after their machine."""
    told = str(name)
    return told.rsplit("/", 1)[0] if "/" in told and "://" not in told else host


@dataclass(frozen=True, kw_only=True)
class SchedulerState:
    """Settings of a scheduler that somebody started."""

    ttl_s: float | None
    allowed_failures: int


def scheduler_state(client: Client) -> SchedulerState:
    """Raises ImportError if the scheduler does not have ggprune."""
    return SchedulerState(**client.run_on_scheduler(_state))


def _state(dask_scheduler: Scheduler) -> dict[str, object]:
    return {
        "ttl_s": dask_scheduler.worker_ttl,
        "allowed_failures": dask_scheduler.allowed_failures,
    }


@dataclass(frozen=True, kw_only=True)
class Obituary:
    """How a worker's process ended, and what it said last."""

    address: str
    exit_code: int
    said: str

    @classmethod
    def of(cls, event: Mapping[str, object]) -> Obituary:
        return cls(
            address=str(event["address"]), exit_code=cast(int, event["exit_code"]),
            said=str(event["said"]),
        )  # fmt: skip

    @property
    def is_abort(self) -> bool:
        """Did the process end itself, over what it computed?"""
        if os.name == "posix" and self.exit_code < 0:
            aborts = {getattr(signal, name) for name in ABORTS if hasattr(signal, name)}
            return -self.exit_code in aborts
        return self.exit_code == TIMED_OUT
