"""A cluster on this machine, or a scheduler that somebody started: both are a client of Dask's."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import dask
from distributed import Client, Scheduler, SpecCluster
from distributed.security import Security

from ggprune.cluster.address import TLSFiles, address_of, is_exposed
from ggprune.cluster.nanny import WorkerNanny
from ggprune.cluster.plans import WorkerPlan
from ggprune.cluster.roll import TIMEOUTS, scheduler_state
from ggprune.errors import DataError
from ggprune.progress import SILENT, Progress, duration

CONNECT_S = 30.0
TTL_S = 60  # of workers that we start: a machine that hangs is noticed
# Without a profiler, which interrupts what computes a hundred times a second, and without pages: no
# HTTP server can be switched off, but here nobody can reach it, and there is nothing to see.
PLAIN: dict[str, Any] = {
    "distributed.worker.profile.enabled": False,
    **{f"distributed.{role}.http.routes": [] for role in ("scheduler", "worker")},
}
NO_DASHBOARD: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
# Of a scheduler that somebody else started.
DEFAULT_TTL_S, DEFAULT_FAILURES = 300, 3


def security_of(tls: TLSFiles | None) -> Security | None:
    """Raises DataError for a file that cannot be used."""
    if tls is None:
        return None
    for path in (tls.ca, tls.cert, tls.key):
        try:
            path.read_bytes()
        except OSError as e:
            raise DataError(f"{path}: {e.strerror}") from e
    names = {f"tls_{role}_{kind}": str(path) for role in ("client", "worker", "scheduler")
             for kind, path in (("cert", tls.cert), ("key", tls.key))}  # fmt: skip
    return Security(require_encryption=True, tls_ca_file=str(tls.ca), **names)


@contextlib.contextmanager
def local_client(plans: Sequence[WorkerPlan]) -> Iterator[Client]:
    """A cluster of processes on this machine for the `with` block.

    Other users of the machine must not run code as us: there is a key, of which nobody else knows.
    Raises DataError if they cannot be started.
    """
    security = Security.temporary()
    options = {"security": security, "host": "127.0.0.1", "protocol": "tls"}
    quiet: dict[str, Any] = {"silence_logs": logging.CRITICAL}
    settings = {
        "distributed.scheduler.worker-ttl": TTL_S, "distributed.scheduler.allowed-failures": 1000,
        "distributed.comm.timeouts.connect": CONNECT_S,
        "distributed.deploy.lost-worker-timeout": "7 days",  # nannies start others themselves
        **PLAIN,
    }  # fmt: skip
    with dask.config.set(settings), _quiet_logs(), contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(SpecCluster(
                scheduler={"cls": Scheduler, "options": {**options, **NO_DASHBOARD}},
                workers={
                    plan.name: {"cls": WorkerNanny, "options": {**options, **quiet, "plan": plan}}
                    for plan in plans
                },
                security=security, **quiet,
            ))  # fmt: skip
            client = stack.enter_context(Client(cluster, security=security, set_as_default=False))
        except (RuntimeError, OSError, *TIMEOUTS) as e:
            told = f"{len(plans)} workers could not be started: {reason_of(e)}"
            raise DataError(told) from e
        yield client


@contextlib.contextmanager
def remote_client(
    where: str, tls: TLSFiles | None, progress: Progress = SILENT
) -> Iterator[Client]:
    """A scheduler by its address, or by the file that `dask scheduler --scheduler-file` wrote.

    Raises DataError if nobody answers, or it has no ggprune.
    """
    at = address_of(where)
    security = security_of(tls)
    with _quiet_logs():
        try:
            client = Client(
                at, security=security, timeout=CONNECT_S, set_as_default=False,
                name="ggprune",
            )  # fmt: skip
        except (OSError, *TIMEOUTS, ValueError, TypeError) as e:
            raise DataError(_unreachable(at, tls, e)) from e
        with client:
            _check_scheduler(client, at, progress)
            yield client


def _unreachable(at: str, tls: TLSFiles | None, error: Exception) -> str:
    if at.startswith("tls://") and tls is None:
        return f"{at}: speaks TLS: --tls-ca-file, --tls-cert and --tls-key are needed"
    return f"no scheduler answers at {at} within {duration(CONNECT_S)}: {reason_of(error)}"


def reason_of(error: BaseException) -> str:
    """What an error began with, in a line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    said = str(error).strip().split("\n")[0]
    return said or type(error).__name__


def _check_scheduler(client: Client, at: str, progress: Progress) -> None:
    try:
        state = scheduler_state(client)
    except Exception as e:
        raise DataError(
            f"the scheduler at {at} has no ggprune that can be used: pip install 'ggprune[scale]' "
            f"where it runs ({type(e).__name__})"
        ) from e
    if is_exposed(at):
        progress.note(f"{at} is open to others, who can run code as you: use TLS (docs/scale.md)")
    if state.ttl_s is None or state.ttl_s >= DEFAULT_TTL_S:
        progress.note(
            f"the scheduler at {at} keeps a machine that hangs for 5 minutes: "
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=60s"
        )
    if state.allowed_failures <= DEFAULT_FAILURES:
        progress.note(
            f"the scheduler at {at} gives up what {state.allowed_failures + 1} workers died of: "
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=1000"
        )


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """What Dask logs is told in other words, or is of no interest."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    levels = {name: logging.getLogger(name).level for name in [*names, "asyncio"]}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
