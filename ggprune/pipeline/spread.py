"""Measuring on other processes and machines: who they are, and rows that come from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from ggprune.arch.architecture import architecture_of, check_scored
from ggprune.arch.hparams import n_trunk
from ggprune.cluster.address import TLSFiles, check_extra
from ggprune.cluster.crew import Crew
from ggprune.cluster.engine import MeasureSetup, release
from ggprune.cluster.kinds import KindCaches
from ggprune.cluster.members import CrewRules, Workforce
from ggprune.cluster.place import Place
from ggprune.cluster.plans import Machine, WorkerPlan, look, plans_for
from ggprune.cluster.rows import SpreadRows
from ggprune.cluster.work import Setup, files_of
from ggprune.errors import UsageError
from ggprune.metrics.chunks import Chunks, make_chunks, n_scored
from ggprune.metrics.text import Text
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import build_commit
from ggprune.runtime.isolate import isolated
from ggprune.runtime.rpc import traffic
from ggprune.runtime.session import LlamaModel
from ggprune.scoring.cache import ScoreCache
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.remembered import RememberedRows, RowsOpener, cache_of
from ggprune.version import __version__

__all__ = ["CrewRules", "Place", "Spread", "rows_by", "serve", "workforce"]

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where the work is done: by processes of this machine, or by whoever a scheduler has."""

    workers: int | None = None  # with `auto`: as many as fit the machine
    auto: bool = False
    gpus_per_worker: int = 1
    place: Place = field(default_factory=Place)
    scheduler: str | None = None
    tls: TLSFiles | None = None
    rules: CrewRules = field(default_factory=CrewRules)

    @property
    def is_local(self) -> bool:
        return self.auto or self.workers is not None


def check_spread(spread: Spread) -> None:
    """Before any work. Raises UsageError for what does not go together, or is not installed."""
    if spread.is_local and spread.scheduler is not None:
        raise UsageError("--workers or --scheduler, not both")
    if spread.is_local or spread.scheduler is not None:
        check_extra("--scheduler" if spread.scheduler is not None else "--workers")


@contextlib.contextmanager
def workforce(spread: Spread, progress: Progress = SILENT) -> Iterator[Workforce | None]:
    """For the `with` block. None: this process does it alone.

    Raises UsageError as `check_spread`, and for more workers than GPUs; DataError if no scheduler
    answers.
    """
    check_spread(spread)
    if not (spread.is_local or spread.scheduler is not None):
        yield None
        return
    connect = _with_dask().connect
    if spread.scheduler is not None:
        with connect.remote_client(spread.scheduler, spread.tls, progress) as client:
            yield Workforce(client=client, rules=spread.rules)
        return
    machine = isolated(look)
    if spread.auto and _is_one(machine):
        progress.note("--workers auto: no GPU and one NUMA node: one process uses all of it")
        yield None
        return
    n_worker = None if spread.auto else spread.workers
    plans = plans_for(machine, n_worker, spread.gpus_per_worker, spread.place)
    with connect.local_client(plans) as client:
        yield Workforce(client=client, rules=spread.rules, is_local=True)


def serve(
    address: str, plans: Sequence[WorkerPlan], tls: TLSFiles | None, wait_s: float,
    progress: Progress = SILENT,
) -> None:  # fmt: skip
    """As `cluster.serve.serve`: be the workers of this machine."""
    _with_dask().serve.serve(address, plans, tls, wait_s, progress)


def _with_dask() -> ModuleType:
    """The part of the package that loads Dask."""
    from ggprune.cluster import loaded

    return loaded


def in_other_process(function: Callable[[], T]) -> T:
    """Call what loads llama.cpp, and drivers with it, without loading them here."""
    return isolated(function)


def _is_one(machine: Machine) -> bool:
    return not machine.gpus and len(machine.nodes) <= 1


@contextlib.contextmanager
def crew_of(force: Workforce, setup: Setup, progress: Progress) -> Iterator[Crew]:
    """Workers that take part, for the `with` block. Behind it those of this machine give back their
    memory: others of the same job need the GPUs."""
    try:
        with Crew(force.client, setup, force.rules, progress) as crew:
            yield crew
    finally:
        if force.is_local:
            with contextlib.suppress(Exception):  # of workers that are gone
                force.client.run(release)


def workforce_of(client: Client | Workforce | None) -> Workforce | None:
    """Of a client that the user of the library has."""
    if client is None or isinstance(client, Workforce):
        return client
    return Workforce(client=client)


def told_of_servers(model: Model, compute: Compute, n_ctx: int, progress: Progress) -> None:
    """Before work on servers of llama.cpp's RPC: what passes over the network, and the dangers."""
    if not compute.rpc:
        return
    embedding = model.by_name.get("token_embd.weight")
    n_embd, n_vocab = embedding.shape[:2] if embedding is not None else (0, 0)
    bytes_of = traffic(n_ctx, n_scored(n_ctx) + 1, n_trunk(model), n_embd, n_vocab)
    progress.note(
        f"over the network, for {n_ctx} tokens: {bytes_of.told()}; less where the output layer is "
        "on this machine. RPC servers are unprotected, and each serves one client"
    )


def helpers_here(client: Client | Workforce | None) -> Workforce | None:
    """Workers of this machine, who see the files that pass away with a command."""
    force = workforce_of(client)
    return force if force is not None and force.is_local else None


def rows_by(force: Workforce) -> RowsOpener:
    """What opens rows that these workers compute."""
    return partial(_spread_rows, force)


@contextlib.contextmanager
def _spread_rows(
    force: Workforce, model: Model, text: Text, options: MeasureOptions, progress: Progress
) -> Iterator[RememberedRows]:
    check_scored(architecture_of(model))
    chunks, build = isolated(_prepare, model.path, text, options.n_ctx, options.n_chunk)
    compute = replace(options.compute or Compute(), n_threads=None, rpc=())  # of each worker
    setup = MeasureSetup(
        ggprune=__version__, build=build, models=(files_of(model),),
        options=replace(options, compute=compute, cache=None, n_chunk=None, keep_bytes=None),
        sample=chunks[0].tokens.tobytes(),
    )  # fmt: skip
    with crew_of(force, setup, progress) as crew, contextlib.ExitStack() as stack:
        source = SpreadRows(crew, chunks)
        cache = None
        if options.cache is not None:
            opened = partial(_opened, options, model, text, progress)
            cache = stack.enter_context(contextlib.closing(KindCaches(source.by_kind, opened)))
        rows = RememberedRows(source, cache, options.unit)
        source.missing = rows.missing
        yield rows
        effort = source.effort
        progress.note(f"{crew.told()}: {effort.n_pass} passes, {effort.n_wasted} of them in vain")


def _opened(
    options: MeasureOptions, model: Model, text: Text, progress: Progress, bits: str
) -> ScoreCache:
    return cache_of(options, model.fingerprint, text, bits, progress)


def _prepare(path: Path, text: Text, n_ctx: int, n_chunk: int | None) -> tuple[Chunks, str]:
    """The text's tokens, and which llama.cpp this is."""
    with LlamaModel(path, vocab_only=True) as vocabulary:
        return make_chunks(text, vocabulary.tokenize, n_ctx, n_chunk), build_commit()
