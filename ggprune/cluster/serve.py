"""The workers of one machine, for a scheduler that somebody started: what `ggprune worker` runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Sequence

import dask
from distributed.security import Security

from ggprune.cluster.address import TLSFiles, is_exposed
from ggprune.cluster.connect import PLAIN, TTL_S, reason_of, security_of
from ggprune.cluster.nanny import WorkerNanny
from ggprune.cluster.plans import WorkerPlan
from ggprune.errors import DataError
from ggprune.progress import Progress, duration

CLOSE_S = 20.0  # for workers to end what they do


def serve(
    address: str, plans: Sequence[WorkerPlan], tls: TLSFiles | None, wait_s: float,
    progress: Progress,
) -> None:  # fmt: skip
    """Until the scheduler goes, or the process is asked to end.

    Raises DataError if no scheduler answers in time.
    """
    settings = {
        "distributed.scheduler.worker-ttl": TTL_S, "distributed.comm.timeouts.connect": wait_s,
        **PLAIN,
    }  # fmt: skip
    if is_exposed(address):
        progress.note(f"{address} is open to others, who can run code as you: use TLS")
    with dask.config.set(settings):
        asyncio.run(_serve(address, plans, security_of(tls), wait_s, progress))


async def _serve(
    address: str, plans: Sequence[WorkerPlan], security: Security | None, wait_s: float,
    progress: Progress,
) -> None:  # fmt: skip
    nannies = [
        WorkerNanny(
            address, plan=plan, name=plan.name, security=security, death_timeout=wait_s,
        )
        for plan in plans
    ]  # fmt: skip
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError):  # Windows; not the main thread
            loop.add_signal_handler(sign, ended.set)
    try:
        await _started(nannies, address, wait_s, ended)
        if not ended.is_set():
            n = len(nannies)
            progress.note(f"{n} worker{'s' * (n > 1)} joined {address}")
            finished = asyncio.gather(*(nanny.finished() for nanny in nannies))
            await _first_of(finished, ended.wait())
    finally:
        closing = asyncio.gather(*(n.close() for n in nannies), return_exceptions=True)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(closing, CLOSE_S)


async def _started(
    nannies: Sequence[WorkerNanny], address: str, wait_s: float, ended: asyncio.Event
) -> None:
    starting: asyncio.Future[list[object]] = asyncio.gather(*nannies)
    try:
        await asyncio.wait_for(_first_of(starting, ended.wait()), wait_s)
        if starting.done():
            starting.result()
    except Exception as e:
        told = f"{address} cannot be joined within {duration(wait_s)} (--wait): {reason_of(e)}"
        raise DataError(told) from e


async def _first_of(*awaitables: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
