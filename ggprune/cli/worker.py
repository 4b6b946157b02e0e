"""`ggprune worker`: measure for others, on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ggprune.cli.options import RpcServers, Threads, rpc_servers
from ggprune.cli.progress import TerminalProgress
from ggprune.cli.spreading import (
    TLS,
    Contexts,
    GpusPerWorker,
    Keep,
    Wait,
    seconds_of,
    size_of,
)
from ggprune.cluster.address import address_of, check_extra
from ggprune.cluster.place import Place, parse_path_map
from ggprune.cluster.plans import chosen_gpus, look, plans_for
from ggprune.errors import UsageError
from ggprune.pipeline.spread import in_other_process, serve

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which scheduler, and what of this machine is used."""

    # fmt: off
    scheduler_file: Annotated[Path | None, Option(
        "--scheduler-file", help="The file that dask scheduler --scheduler-file wrote.")] = None
    gpus: Annotated[str, Option(
        "--gpus", metavar="0,1|all", help="GPUs to use, by llama.cpp's numbers.")] = ALL
    gpus_per_worker: GpusPerWorker = 1
    contexts: Contexts = 1
    threads: Threads = None
    keep: Keep = None
    path_map: Annotated[list[str] | None, Option(
        "--path-map", metavar="OLD=NEW",
        help="How paths of models begin where the command is run, and here. Repeatable.")] = None
    rpc: RpcServers = None
    tls: TLS
    wait: Wait = "1m"
    # fmt: on


def command(
    options: Options,
    address: Annotated[str | None, Argument(
        metavar="ADDRESS", help="The scheduler: tcp://host:port or tls://host:port.")] = None,
) -> None:  # fmt: skip
    """Join a scheduler of Dask's, and measure for whoever runs a command with --scheduler.

    One process for each GPU, or group of --gpus-per-worker; without a GPU one for each NUMA node.
    Ends when the scheduler does, and cleanly when it is asked to (SIGTERM). The model must be
    readable here, under the same path or with --path-map. Needs: pip install 'ggprune[scale]'

    Example: ggprune worker --scheduler-file scheduler.json
    """
    check_extra("ggprune worker")
    if (address is None) == (options.scheduler_file is None):
        raise UsageError("give the scheduler's ADDRESS, or --scheduler-file FILE")
    at = address_of(address or str(options.scheduler_file))
    place = Place(
        threads=options.threads, contexts=options.contexts,
        keep_bytes=size_of(options.keep, "--keep"),
        path_map=parse_path_map(options.path_map or []), rpc=rpc_servers(options.rpc),
    )  # fmt: skip
    machine = chosen_gpus(in_other_process(look), _numbers(options.gpus))
    plans = plans_for(machine, None, options.gpus_per_worker, place)
    wait_s = seconds_of(options.wait, "--wait")
    serve(at, plans, options.tls.files(), wait_s, TerminalProgress())


def _numbers(text: str) -> tuple[int, ...] | None:
    """None: all."""
    if text == ALL:
        return None
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        raise UsageError(f"--gpus {text}: write numbers like 0,1, or {ALL}")
    return tuple(dict.fromkeys(map(int, text.split(","))))
